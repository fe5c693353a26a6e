//! Handshakes of those who dialled, each of which can be given up.
//!
//! libp2p lets nobody end an incoming connection before its handshake is over, and whoever says nothing takes all the
//! time there is.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, Aborted, Map};
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};

/// Ends the handshake that was told of last. The swarm asks its behaviours about it before it hears of the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Newest(Arc<Mutex<Option<AbortHandle>>>);

impl Newest {
    pub(super) fn take(&self) -> Option<AbortHandle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, handle: AbortHandle) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
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
            newest.put(handle);
            Abortable::new(upgrade, registration).map(ended as Ended<T::Output>)
        };
        Pin::new(inner).poll(context).map(|event| event.map_upgrade(upgrade))
    }
}
