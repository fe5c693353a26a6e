//! The same verbs for programs without async code.
//!
//! Each request has the options of its async twin; [`wait`](Wait::wait) runs it to its end on the calling thread.
//!
//! ```
//! use datamesh::blocking::Wait;
//!
//! # fn main() -> datamesh::Result<()> {
//! let mesh = datamesh::blocking::memory()?;
//! let receipt = mesh.put("hello").media_type("text/plain").wait()?;
//! assert_eq!(mesh.get(&receipt.capability).range(1..3).wait()?, "el");
//! datamesh::blocking::shutdown(&mesh)
//! # }
//! ```
//!
//! Waiting inside async code would hold its executor up; await the requests there.

use std::future::IntoFuture;
use std::io::{self, Read, Seek, SeekFrom};

use datamesh_core::{Mesh, ObjectReader, Result, Source};
use futures::executor::block_on;
use futures::io::{AsyncReadExt, AsyncSeekExt};

use crate::Builder;

/// Runs a request to its end on the calling thread.
pub trait Wait: IntoFuture + Sized {
    /// Waits for the request.
    fn wait(self) -> Self::Output {
        block_on(self.into_future())
    }
}

impl<R: IntoFuture> Wait for R {}

/// Opens what a builder describes; see [`Builder::open`].
///
/// # Errors
/// Those of [`Builder::open`].
pub fn open_builder(builder: Builder) -> Result<Mesh> {
    block_on(builder.open())
}

/// Opens a node that keeps its data in a directory; see [`open`](crate::open).
///
/// # Errors
/// Those of [`Builder::open`].
#[cfg(feature = "disk")]
pub fn open(path: impl Into<std::path::PathBuf>) -> Result<Mesh> {
    block_on(crate::open(path))
}

/// Opens a node in a directory and joins the mesh of a ticket; see [`join`](crate::join).
///
/// # Errors
/// Those of [`Builder::open`].
#[cfg(all(feature = "disk", feature = "libp2p"))]
pub fn join(path: impl Into<std::path::PathBuf>, ticket: datamesh_core::Ticket) -> Result<Mesh> {
    block_on(crate::join(path, ticket))
}

/// Opens a mesh of one node in memory; see [`memory`](crate::memory).
///
/// # Errors
/// Those of [`memory`](crate::memory).
pub fn memory() -> Result<Mesh> {
    block_on(crate::memory())
}

/// Shuts a mesh down and waits for it; see [`Mesh::shutdown`].
///
/// # Errors
/// Those of [`Mesh::shutdown`].
pub fn shutdown(mesh: &Mesh) -> Result<()> {
    block_on(mesh.shutdown())
}

/// Everything that a blocking reader gives until its end, for `put`.
///
/// The reader is read on the thread that waits for the put.
pub fn source(reader: impl Read + Send + Unpin + 'static) -> Source {
    Source::reader(futures::io::AllowStdIo::new(reader))
}

/// An [`ObjectReader`] with the standard library's `Read` and `Seek`.
#[derive(Debug)]
pub struct BlockingReader(ObjectReader);

impl From<ObjectReader> for BlockingReader {
    fn from(reader: ObjectReader) -> Self {
        Self(reader)
    }
}

impl Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        block_on(self.0.read(buffer))
    }
}

impl Seek for BlockingReader {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        block_on(self.0.seek(position))
    }
}
