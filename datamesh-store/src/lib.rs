//! Data at rest for `datamesh`: [`ReedSolomon`], [`MemoryStore`] and, with feature `disk`, `DiskStore`.
//!
//! Each of the three implements a port of `datamesh-core` and passes its conformance suite.
#![forbid(unsafe_code)]

#[cfg(all(feature = "disk", feature = "testing"))]
pub mod crash;
#[cfg(feature = "disk")]
pub mod disk;
mod erasure;
#[cfg(feature = "testing")]
pub mod fuzz;
mod limits;
mod memory;

#[cfg(feature = "disk")]
pub use disk::{DiskOptions, DiskStore};
pub use erasure::ReedSolomon;
pub use memory::MemoryStore;
