//! Streams that are counted while they live: Yamux ends a connection on which one more is opened than it may have.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;

/// How many streams of a connection live, and who waits for one to end.
#[derive(Debug, Default)]
pub(super) struct Living {
    count: AtomicUsize,
    waiting: AtomicWaker,
}

impl Living {
    /// Whether there are so many, in which case whoever asks is woken when one ends.
    pub(super) fn are(&self, most: usize, context: &Context<'_>) -> bool {
        self.waiting.register(context.waker());
        self.count.load(Ordering::Acquire) >= most
    }
}

/// A stream that is one of those that live.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    living: Arc<Living>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, living: &Arc<Living>) -> Self {
        living.count.fetch_add(1, Ordering::AcqRel);
        Self { stream, living: Arc::clone(living) }
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.living.count.fetch_sub(1, Ordering::AcqRel);
        self.living.waiting.wake();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
