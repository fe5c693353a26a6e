//! A stream on which a transfer must make progress, step by step.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use super::Stream;
use super::limits::Limits;

/// After so many bytes a transfer has made a step: 4 s at the slowest, by default.
pub(crate) const STEP: usize = 64 << 10;

/// Fails a transfer that is slower than allowed: each step has its own time and the grace, and so has all until then
/// together. So whoever stops is cut off soon, however much was still to come.
pub(crate) struct Paced<'a> {
    stream: &'a mut Stream,
    limits: &'a Limits,
    /// The length of the transfer, how far it is, and where its step ends.
    bytes: usize,
    moved: usize,
    step_end: usize,
    begun: Instant,
    time: Pin<Box<Sleep>>,
}

impl<'a> Paced<'a> {
    /// A transfer of so many bytes, which begins now.
    pub(crate) fn new(stream: &'a mut Stream, limits: &'a Limits, bytes: usize) -> Self {
        let step_end = bytes.min(STEP);
        let time = Box::pin(sleep(limits.time_for(step_end)));
        Self { stream, limits, bytes, moved: 0, step_end, begun: Instant::now(), time }
    }

    /// Passes on what a transfer does, unless it waits for too long.
    fn watch<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Ready(Ok(done)) => self.moved = self.moved.saturating_add(bytes(done)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.time.poll_unpin(context).is_ready() => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => {}
        }
        if self.moved >= self.step_end && self.step_end < self.bytes {
            self.begin_step();
        }
        polled
    }

    fn begin_step(&mut self) {
        let end = self.moved.saturating_add(STEP).min(self.bytes);
        let step = self.limits.time_for(end.saturating_sub(self.moved));
        let all = self.limits.time_for(end).saturating_sub(self.begun.elapsed());
        self.step_end = end;
        self.time.set(sleep(step.min(all)));
    }
}

impl AsyncRead for Paced<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut *self.stream).poll_read(context, buffer);
        self.watch(read, |bytes| *bytes, context)
    }
}

impl AsyncWrite for Paced<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write(context, bytes);
        self.watch(written, |bytes| *bytes, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.stream).poll_flush(context);
        self.watch(flushed, |()| 0, context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut *self.stream).poll_close(context);
        self.watch(closed, |()| 0, context)
    }
}
