//! placeholder
pub use datamesh_core::*;
