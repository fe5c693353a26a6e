//! A Unix domain socket as the frames want it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::UnixStream;

/// What is read ahead: the header and the head of a message, and all of a small one, in one system call. Of a large
/// message no more than this is copied twice.
const AHEAD: usize = 4 << 10;

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    ahead: Box<[u8; AHEAD]>,
    /// What of `ahead` was read and not handed out yet.
    from: usize,
    to: usize,
}

impl Socket {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, ahead: Box::new([0; AHEAD]), from: 0, to: 0 }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.from == this.to {
            let direct = out.len() >= AHEAD;
            let mut buffer = ReadBuf::new(if direct { &mut *out } else { this.ahead.as_mut_slice() });
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
            let count = buffer.filled().len();
            if direct {
                return Poll::Ready(Ok(count));
            }
            (this.from, this.to) = (0, count);
        }
        let waiting = this.ahead.get(this.from..this.to).unwrap_or_default();
        let count = waiting.len().min(out.len());
        if let (Some(out), Some(waiting)) = (out.get_mut(..count), waiting.get(..count)) {
            out.copy_from_slice(waiting);
        }
        this.from = this.from.saturating_add(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
