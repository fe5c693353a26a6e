//! placeholder
pub use datamesh_core::*;
pub mod runtime;
