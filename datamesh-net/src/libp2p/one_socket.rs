//! One UDP socket for all QUIC connections of a node.
//!
//! Dials ask for a port of their own, since two nodes that dial each other from the ports on which they listen could
//! meet half-way in TCP, and both would be the client. In QUIC they cannot: connections have names of their own. There
//! a port of its own is a socket, a task and a buffer of 3 MB for each connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::core::{Endpoint, Transport};

/// A transport that dials from the socket on which it listens, or from one for all dials where it does not listen.
pub(super) struct OneSocket<T>(pub(super) T);

impl<T: Transport + Unpin> Transport for OneSocket<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        // A hole is punched by a dial in the role of the listener, which looks after its port itself.
        let port_use = match options.role {
            Endpoint::Dialer => PortUse::Reuse,
            Endpoint::Listener => options.port_use,
        };
        self.0.dial(address, DialOpts { port_use, ..options })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}
