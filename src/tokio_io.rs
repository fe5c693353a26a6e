//! Tokio's I/O traits for readers (feature `tokio`).

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

use datamesh_core::{ObjectReader, Source};
use futures::io::{AsyncRead as _, AsyncSeek as _};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

/// An [`ObjectReader`] with Tokio's `AsyncRead` and `AsyncSeek`.
#[derive(Debug)]
pub struct TokioReader {
    reader: ObjectReader,
    seek: Option<SeekFrom>,
}

impl From<ObjectReader> for TokioReader {
    fn from(reader: ObjectReader) -> Self {
        Self { reader, seek: None }
    }
}

impl TokioReader {
    /// The reader inside.
    pub fn into_inner(self) -> ObjectReader {
        self.reader
    }
}

impl AsyncRead for TokioReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let got = Pin::new(&mut self.reader).poll_read(context, buffer.initialize_unfilled());
        got.map_ok(|got| buffer.advance(got))
    }
}

impl AsyncSeek for TokioReader {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        self.seek = Some(position);
        Ok(())
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let target = self.seek.take().unwrap_or(SeekFrom::Current(0));
        Pin::new(&mut self.reader).poll_seek(context, target)
    }
}

/// Everything that a Tokio reader gives until its end, for `put`.
pub fn source(reader: impl AsyncRead + Send + 'static) -> Source {
    Source::reader(FuturesReader(Box::pin(reader)))
}

/// A Tokio reader with the `futures` trait.
struct FuturesReader<R>(Pin<Box<R>>);

impl<R: AsyncRead> futures::io::AsyncRead for FuturesReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        self.0.as_mut().poll_read(context, &mut buffer).map_ok(|()| buffer.filled().len())
    }
}
