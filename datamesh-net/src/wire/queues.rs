//! The queues between a transport's thread and its callers: as much as they hold passes, and more waits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::TrySendError;
use datamesh_core::id::NodeId;
use datamesh_core::ports::Message;
use futures::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::frame::HEADER_LEN;
use super::limits::Limits;
use super::peers::Shared;
use super::{Command, commands, serve};

/// What the queues of requests and of commands hold.
const MOST: usize = 256;

const LONG: Duration = Duration::from_secs(20);

/// A stream on which an empty request comes, and then nothing more; counts what is answered.
struct Asks {
    left: &'static [u8],
    answered: Arc<AtomicUsize>,
}

impl AsyncRead for Asks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        match io::Read::read(&mut self.left, out) {
            Ok(0) => Poll::Pending,
            read => Poll::Ready(read),
        }
    }
}

impl AsyncWrite for Asks {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answered.fetch_add(bytes.len(), Ordering::Relaxed);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// So many peers ask, each on a stream of its own; gives the bytes that they are answered.
fn ask(shared: &Arc<Shared>, count: usize) -> Arc<AtomicUsize> {
    let answered = Arc::new(AtomicUsize::new(0));
    for number in 0..count {
        let mut id = [2; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let peer = shared.peer_or_new(NodeId::from_bytes(id));
        let stream = Asks { left: &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], answered: answered.clone() };
        tokio::spawn(serve::stream(shared.clone(), peer, Box::new(stream), Arc::default()));
    }
    answered
}

async fn requests(count: usize) {
    let runtime = tokio::runtime::Handle::current();
    let shared = Arc::new(Shared::new(NodeId::from_bytes([1; 32]), Limits::default(), runtime));
    let answered = ask(&shared, count);
    while shared.inbound.1.len() < count.min(MOST) {
        yield_now().await;
    }
    // Whoever can go on has done so after this.
    for _ in 0..count {
        yield_now().await;
    }
    assert_eq!(shared.inbound.1.len(), count.min(MOST), "of {count}");
    // One over the limit waits, and is not lost.
    for _ in 0..count {
        shared.inbound.1.recv().await.unwrap().reply.send(Message::default());
    }
    while answered.load(Ordering::Relaxed) < count * HEADER_LEN {
        yield_now().await;
    }
}

#[test]
fn requests_that_nobody_accepts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for count in [MOST - 1, MOST, MOST + 1] {
        runtime.block_on(async { timeout(LONG, requests(count)).await.expect("it hangs") });
    }
}

#[test]
fn commands_that_wait() {
    let (commands, waiting) = commands::<()>();
    let command = || {
        let (dialled, _) = futures::channel::oneshot::channel();
        Command::Connect((), dialled)
    };
    for _ in 0..MOST {
        assert!(commands.try_send(command()).is_ok());
    }
    assert!(matches!(commands.try_send(command()), Err(TrySendError::Full(_))), "one over the limit");
    assert!(waiting.try_recv().is_ok() && commands.try_send(command()).is_ok());
}
