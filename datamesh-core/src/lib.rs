//! The engine of `datamesh`: ports, formats, placement, the data path and the handle.
//!
//! Programs depend on the `datamesh` package, which wires the defaults. An adapter (a transport, a storage
//! of your own) depends on this crate alone and runs the conformance suites in `testing`.
#![forbid(unsafe_code)]

pub mod error;
pub mod format;
pub mod id;
pub mod node;
pub mod placement;
pub mod ports;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Error, ErrorKind, Result};
