//! A stream that ends with its connection, whoever closes that.
//!
//! Where this node closes a connection itself, Yamux wakes nobody who reads from a stream of it or waits for credit to
//! write: a call would wait for its reply until its time is over, and what is served would hold its request for as long
//! as its handler likes, and its reply for as long as a peer may take to read it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};

use super::Stream;
use super::session::StreamRequest;

/// A stream, and the mailbox of its connection, which is closed as soon as the connection is being closed.
pub(crate) struct Watched {
    stream: Stream,
    mailbox: async_channel::Sender<StreamRequest>,
    /// Polled only while the mailbox is open, since it ends once.
    closed: BoxFuture<'static, ()>,
}

impl Watched {
    pub(crate) fn new(stream: Stream, mailbox: async_channel::Sender<StreamRequest>) -> Self {
        let watched = mailbox.clone();
        Self { stream, mailbox, closed: async move { watched.closed().await }.boxed() }
    }

    /// Waits for the end of the connection.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.mailbox.is_closed() { Poll::Ready(()) } else { self.closed.poll_unpin(context) }
    }
}

fn aborted<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "this node closed the connection")))
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // What had arrived before the end is read.
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() && self.poll_closed(context).is_ready() { aborted() } else { read }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The stream may take bytes that go out no more; what is refused here certainly does not.
        if self.mailbox.is_closed() {
            return aborted();
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_pending() && self.poll_closed(context).is_ready() { aborted() } else { written }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // The stream has taken all that was written, and some of it may go out yet: whoever reads hears of the end.
        if flushed.is_pending() && self.poll_closed(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        flushed
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes so many bytes, and then nothing any more; nothing comes in, and a flush never ends.
    struct Stuck(usize);

    impl AsyncRead for Stuck {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// A stream, and what closes its connection when it is dropped.
    fn watched(room: usize) -> (Watched, async_channel::Receiver<StreamRequest>) {
        let (mailbox, requests) = async_channel::bounded(1);
        (Watched::new(Box::new(Stuck(room)), mailbox), requests)
    }

    #[test]
    fn who_waits_hears_that_the_connection_is_closed() {
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        futures::executor::block_on(async {
            let (mut reads, connection) = watched(0);
            let mut buffer = [0; 1];
            let mut read = reads.read(&mut buffer);
            assert!(futures::poll!(&mut read).is_pending());
            drop(connection);
            assert_eq!(kind(read.await.map(drop)), io::ErrorKind::ConnectionAborted);
            assert_eq!(kind(reads.read(&mut buffer).await.map(drop)), io::ErrorKind::ConnectionAborted);

            // Written in part: it was not sent to its end.
            let (mut writes, connection) = watched(3);
            let mut write = writes.write_all(&[7; 4]);
            assert!(futures::poll!(&mut write).is_pending());
            drop(connection);
            assert_eq!(kind(write.await), io::ErrorKind::ConnectionAborted);

            // Written whole: it may get there, so that it does not count as unsent.
            let (mut flushes, connection) = watched(4);
            flushes.write_all(&[7; 4]).await.unwrap();
            let mut flush = flushes.flush();
            assert!(futures::poll!(&mut flush).is_pending());
            drop(connection);
            flush.await.unwrap();
            assert_eq!(kind(flushes.write_all(&[7]).await), io::ErrorKind::ConnectionAborted);
        });
    }
}
