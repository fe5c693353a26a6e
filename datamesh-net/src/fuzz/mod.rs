//! Entry functions of the fuzz targets: each takes any bytes and must return.
//!
//! Besides not panicking, each checks what was read, what memory it took, or who was let in.

mod altered;
mod frames;

pub use frames::frames;

pub(crate) use altered::{Pipe, changes, lock, pipe};

#[cfg(feature = "libp2p")]
pub use crate::libp2p::fuzz::network_proof;
#[cfg(all(feature = "local", unix))]
pub use crate::local::fuzz::local_proof;
