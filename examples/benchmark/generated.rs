//! An object of any length that never stands in memory: noise that differs from segment to segment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::io::AsyncRead;

/// The content changes its place in the noise every so many bytes.
const RUN: u64 = 1 << 20;

/// How far each run begins behind the one before, in the noise.
const SHIFT: u64 = 64;

/// The content of the objects.
#[derive(Debug, Clone)]
pub(crate) struct Content(Arc<[u8]>);

impl Content {
    pub(crate) fn new() -> Self {
        let mut noise = vec![0; 2 * RUN as usize];
        blake3::Hasher::new().update(b"benchmark").finalize_xof().fill(&mut noise);
        Self(noise.into())
    }

    /// The content from this position on, to the end of its run at most.
    fn from(&self, position: u64) -> &[u8] {
        let (run, offset) = (position / RUN, position % RUN);
        let start = (run * SHIFT) % RUN;
        self.0.get((start + offset) as usize..(start + RUN) as usize).unwrap_or_default()
    }

    /// Whether these bytes are the content at this position.
    pub(crate) fn is_at(&self, mut position: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.from(position);
            let (head, rest) = bytes.split_at(expected.len().min(bytes.len()));
            if !expected.starts_with(head) {
                return false;
            }
            position += head.len() as u64;
            bytes = rest;
        }
        true
    }

    /// Copies what is at this position.
    pub(crate) fn copy_to(&self, mut position: u64, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let from = self.from(position);
            let count = from.len().min(bytes.len());
            let (head, rest) = bytes.split_at_mut(count);
            head.copy_from_slice(from.get(..count).unwrap_or_default());
            position += count as u64;
            bytes = rest;
        }
    }

    /// Reads the first `len` bytes.
    pub(crate) fn reader(&self, len: u64) -> Reader {
        Reader { content: self.clone(), position: 0, len }
    }
}

/// Reads generated content.
#[derive(Debug)]
pub(crate) struct Reader {
    content: Content,
    position: u64,
    len: u64,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let left = usize::try_from(self.len - self.position).unwrap_or(usize::MAX);
        let content = self.content.from(self.position);
        let count = content.len().min(buffer.len()).min(left);
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), content.get(..count)) {
            to.copy_from_slice(from);
        }
        self.position += count as u64;
        Poll::Ready(Ok(count))
    }
}
