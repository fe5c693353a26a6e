//! Objects as readers and streams.

use std::io::{self, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::io::{AsyncRead, AsyncSeek};
use futures::stream::{BoxStream, Stream, StreamExt};

use crate::error::{Error, Result};
use crate::object::get::{OpenObject, Plain};
use crate::object::{Progress, ProgressFn};

/// The bytes of an object or a part of it, in order, as chunks of up to a segment; every one is verified.
///
/// After an error the stream ends.
pub struct ObjectStream {
    object: Arc<OpenObject>,
    plain: BoxStream<'static, Result<Plain>>,
    /// The chunk that was handed out last; its memory counts as held until the next is asked for.
    held: Option<Plain>,
    done: u64,
    total: u64,
    progress: Option<ProgressFn>,
    failed: bool,
}

impl std::fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectStream({} of {} bytes)", self.done, self.total)
    }
}

impl ObjectStream {
    pub(crate) fn new(object: &Arc<OpenObject>, range: Range<u64>, progress: Option<ProgressFn>) -> Self {
        let total = range.end.saturating_sub(range.start);
        let plain = object.read(range).boxed();
        Self { object: Arc::clone(object), plain, held: None, done: 0, total, progress, failed: false }
    }

    /// How many bytes the whole stream gives.
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl Stream for ObjectStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.held = None;
        if self.failed {
            return Poll::Ready(None);
        }
        match ready!(self.plain.poll_next_unpin(context)) {
            Some(Ok(plain)) => {
                let bytes = plain.bytes.clone();
                self.done += bytes.len() as u64;
                self.held = Some(plain);
                if let Some(progress) = &self.progress {
                    progress(Progress::new(self.done, Some(self.total)));
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(error)) => {
                self.failed = true;
                Poll::Ready(Some(Err(self.object.explain(error).with_operation("get"))))
            }
            None => Poll::Ready(None),
        }
    }
}

/// An object as a reader that can seek; every byte is verified before it is given out.
///
/// A seek drops what was read ahead and begins anew at the place; seeking within the chunk at hand is free.
pub struct ObjectReader {
    object: Arc<OpenObject>,
    /// The part of the object that the reader shows.
    range: Range<u64>,
    /// The place in the object of the next byte.
    position: u64,
    stream: Option<ObjectStream>,
    chunk: Bytes,
    progress: Option<ProgressFn>,
}

impl std::fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectReader(at {} of {:?})", self.position, self.range)
    }
}

impl ObjectReader {
    pub(crate) fn new(object: Arc<OpenObject>, range: Range<u64>, progress: Option<ProgressFn>) -> Self {
        Self { position: range.start, object, range, stream: None, chunk: Bytes::new(), progress }
    }

    /// How many bytes the reader shows.
    pub fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Whether it shows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the object's manifest tells.
    pub fn stat(&self) -> super::Stat {
        self.object.stat()
    }

    /// Waits for the chunk at hand not to be empty; `false` at the end.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.chunk.is_empty() {
            if self.position >= self.range.end {
                return Poll::Ready(Ok(false));
            }
            let rest = self.position..self.range.end;
            let stream = self
                .stream
                .get_or_insert_with(|| ObjectStream::new(&self.object, rest, self.progress.clone()));
            match ready!(stream.poll_next_unpin(context)) {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => {
                    self.stream = None;
                    return Poll::Ready(Err(io_error(error)));
                }
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    fn seek_to(&mut self, target: u64) {
        let ahead = target.checked_sub(self.position).and_then(|ahead| usize::try_from(ahead).ok());
        match ahead.filter(|ahead| *ahead <= self.chunk.len()) {
            Some(ahead) => self.chunk.advance(ahead),
            None => {
                self.chunk = Bytes::new();
                self.stream = None;
            }
        }
        self.position = target;
    }
}

impl AsyncRead for ObjectReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() || !ready!(self.poll_chunk(context))? {
            return Poll::Ready(Ok(0));
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(buffer.split_at_mut(count).0);
        self.position += count as u64;
        Poll::Ready(Ok(count))
    }
}

impl AsyncSeek for ObjectReader {
    fn poll_seek(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: SeekFrom) -> Poll<io::Result<u64>> {
        let target = match to {
            SeekFrom::Start(offset) => self.range.start.checked_add(offset),
            SeekFrom::End(offset) => self.range.end.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let target = target.filter(|target| *target >= self.range.start).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a seek before the beginning of the object")
        })?;
        self.seek_to(target);
        Poll::Ready(Ok(target - self.range.start))
    }
}

/// The error as the reader's traits want it; the datamesh error is inside.
fn io_error(error: Error) -> io::Error {
    use crate::error::ErrorKind;
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::AccessDenied => io::ErrorKind::PermissionDenied,
        ErrorKind::TimedOut => io::ErrorKind::TimedOut,
        ErrorKind::Corrupt => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
