//! Streams that are counted while they live: Yamux ends a connection on which one more is opened than it may have.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::io::AsyncRead;
use futures::task::AtomicWaker;

use super::forward::forward_writes;

/// How many streams of a connection live, and who waits for one to end.
#[derive(Debug, Default)]
pub(super) struct Living {
    count: AtomicUsize,
    waiting: AtomicWaker,
}

impl Living {
    /// Waits until fewer than `most` live.
    pub(super) fn poll_fewer(&self, most: usize, context: &Context<'_>) -> Poll<()> {
        self.waiting.register(context.waker());
        if self.count.load(Ordering::Acquire) < most { Poll::Ready(()) } else { Poll::Pending }
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

forward_writes!(Counted, stream);
