//! Handshakes of those who dialled, each of which can be given up.
//!
//! libp2p lets nobody end an incoming connection before its handshake is over, and whoever says nothing takes all the
//! time there is.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, Aborted, Map};
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};

use super::allowance::Allowance;

/// What the transports leave of a connection that came in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Ends its handshake.
    pub(super) handshake: Option<AbortHandle>,
    /// Lifted when its peer has proved the mesh key.
    pub(super) allowance: Option<Arc<Allowance>>,
}

/// The connection that was told of last. The swarm asks its behaviours about it before it hears of the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Newest(Arc<Mutex<Incoming>>);

impl Newest {
    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Incoming {
        std::mem::take(&mut *self.incoming())
    }

    pub(super) fn put_handshake(&self, handle: AbortHandle) {
        self.incoming().handshake = Some(handle);
    }

    pub(super) fn put_allowance(&self, allowance: Arc<Allowance>) {
        self.incoming().allowance = Some(allowance);
    }
}

/// A transport whose incoming connections can be given up.
pub(super) struct Handshakes<T> {
    inner: T,
    newest: Newest,
}

impl<T> Handshakes<T> {
    pub(super) fn new(inner: T, newest: Newest) -> Self {
        Self { inner, newest }
    }
}

/// What becomes of a handshake.
type Ended<O> = fn(Result<io::Result<O>, Aborted>) -> io::Result<O>;

fn ended<O>(result: Result<io::Result<O>, Aborted>) -> io::Result<O> {
    result.unwrap_or_else(|Aborted| Err(io::Error::other("another address had fewer of the places")))
}

impl<T: Transport<Error = io::Error> + Unpin> Transport for Handshakes<T> {
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = Map<Abortable<T::ListenerUpgrade>, Ended<T::Output>>;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let Self { inner, newest } = &mut *self;
        let upgrade = |upgrade| {
            let (handle, registration) = AbortHandle::new_pair();
            newest.put_handshake(handle);
            Abortable::new(upgrade, registration).map(ended as Ended<T::Output>)
        };
        Pin::new(inner).poll(context).map(|event| event.map_upgrade(upgrade))
    }
}
