//! What whoever dialled may send before it has proved the mesh key.
//!
//! Each stream of a connection over TCP holds what nobody reads, a stranger opens as many as a member, and what it sends
//! byte by byte takes five times its bytes in memory. So little is read of its socket until the proof is done; over QUIC
//! the window of the connection sees to that. A member notices nothing of it: its proof comes before all that it asks
//! for, and takes less than 2 KiB with the handshake.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::future::{MapOk, TryFutureExt};
use futures::io::AsyncRead;
use futures::task::AtomicWaker;
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};

use super::forward::forward_writes;
use super::handshakes::Newest;

/// What is read before the proof: 64 strangers that fill it byte by byte take 80 MiB.
const EARLY_BYTES: usize = 256 << 10;

/// Whether a connection may be read on without end, which its proof decides.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    is_lifted: AtomicBool,
    reader: AtomicWaker,
}

impl Allowance {
    /// The peer has proved the mesh key.
    pub(super) fn lift(&self) {
        self.is_lifted.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn is_lifted(&self) -> bool {
        self.is_lifted.load(Ordering::Acquire)
    }
}

/// A socket of which so much is read until its allowance is lifted.
pub(super) struct Allowed<S> {
    socket: S,
    left: usize,
    /// None once it is lifted.
    allowance: Option<Arc<Allowance>>,
}

impl<S> Allowed<S> {
    fn is_lifted(&mut self, context: &Context<'_>) -> bool {
        let Some(allowance) = &self.allowance else { return true };
        if self.left == 0 {
            allowance.reader.register(context.waker());
        }
        // Looked at after the waker is known: it may be lifted in between.
        let is_lifted = allowance.is_lifted();
        if is_lifted {
            self.allowance = None;
        }
        is_lifted
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Allowed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_lifted(context) {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let most = buffer.len().min(self.left);
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Poll::Pending;
        };
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Poll::Ready(Ok(read)) = polled {
            self.left = self.left.saturating_sub(read);
        }
        polled
    }
}

forward_writes!(Allowed, socket);

/// A transport whose incoming connections have an allowance.
pub(super) struct Allowing<T> {
    inner: T,
    newest: Newest,
}

impl<T> Allowing<T> {
    pub(super) fn new(inner: T, newest: Newest) -> Self {
        Self { inner, newest }
    }
}

/// Gives a socket its allowance.
type Wrap<S> = Box<dyn FnOnce(S) -> Allowed<S> + Send>;

impl<T> Transport for Allowing<T>
where
    T: Transport + Unpin,
    T::Output: 'static,
{
    type Output = Allowed<T::Output>;
    type Error = T::Error;
    type ListenerUpgrade = MapOk<T::ListenerUpgrade, Wrap<T::Output>>;
    type Dial = MapOk<T::Dial, fn(T::Output) -> Allowed<T::Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<T::Error>> {
        let free: fn(T::Output) -> Allowed<T::Output> = |socket| Allowed { socket, left: 0, allowance: None };
        Ok(self.inner.dial(address, options)?.map_ok(free))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, T::Error>> {
        let Self { inner, newest } = &mut *self;
        Pin::new(inner).poll(context).map(|event| {
            event.map_upgrade(|upgrade| {
                let allowance = Arc::new(Allowance::default());
                newest.put_allowance(Arc::clone(&allowance));
                let wrap: Wrap<T::Output> =
                    Box::new(move |socket| Allowed { socket, left: EARLY_BYTES, allowance: Some(allowance) });
                upgrade.map_ok(wrap)
            })
        })
    }
}

#[cfg(test)]
#[cfg(all(feature = "local", unix))]
mod tests {
    use futures::future::poll_fn;
    use futures::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::local::socket::Socket;

    #[test]
    fn so_much_is_read_until_the_allowance_is_lifted() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (sent, read) in [(99, 99), (100, 100), (101, 100)] {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let allowance = Arc::new(Allowance::default());
                let socket = Socket::new(theirs);
                let mut allowed = Allowed { socket, left: 100, allowance: Some(Arc::clone(&allowance)) };
                Socket::new(ours).write_all(&vec![7; sent]).await.unwrap();
                let mut bytes = vec![0; read];
                allowed.read_exact(&mut bytes).await.unwrap();
                let mut rest = [0; 9];
                let more =
                    poll_fn(|context| Poll::Ready(Pin::new(&mut allowed).poll_read(context, &mut rest)));
                let more = more.await;
                // After 99 the other end has hung up, and of 101 one is left.
                assert_eq!(more.is_pending(), read == 100, "{sent}");
                if sent > read {
                    let (waits, lifts) = (allowed.read(&mut rest), async { allowance.lift() });
                    assert_eq!(futures::join!(waits, lifts).0.unwrap(), 1);
                }
            }
        });
    }
}
