//! One UDP socket for all QUIC connections of a node, or two.
//!
//! Dials ask for a port of their own, since two nodes that dial each other from the ports on which they listen could
//! meet half-way in TCP, and both would be the client. In QUIC they cannot: connections have names of their own. There
//! a port of its own is a socket, a task and a buffer of 3 MB for each connection.
//!
//! A socket that is bound to one address of this node does not reach every peer: nobody outside from loopback, nobody
//! at all from an address that the machine has no more. Where a node listens on such, all its dials share one socket
//! more, which is bound to none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::core::{Endpoint, Transport};
use libp2p::multiaddr::Protocol;

/// A transport that dials from the socket on which it listens, or from one for all dials.
pub(super) struct OneSocket<T> {
    listens: T,
    /// Listens nowhere, so that its dials share a socket.
    dials: T,
    /// The addresses that the listeners are bound to.
    bound: HashMap<ListenerId, IpAddr>,
}

impl<T> OneSocket<T> {
    /// Of two alike.
    pub(super) fn new(listens: T, dials: T) -> Self {
        Self { listens, dials, bound: HashMap::new() }
    }
}

impl<T: Transport + Unpin> Transport for OneSocket<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        let ip = ip_of(&address);
        self.listens.listen_on(id, address)?;
        self.bound.extend(ip.map(|ip| (id, ip)));
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.bound.remove(&id);
        self.listens.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        // A hole is punched by a dial in the role of the listener, which looks after its port itself.
        if options.role == Endpoint::Listener {
            return self.listens.dial(address, options);
        }
        let is_asked = options.port_use == PortUse::Reuse;
        let reaches = ip_of(&address).is_none_or(|ip| reaches(self.bound.values(), ip, is_asked));
        let transport = if reaches { &mut self.listens } else { &mut self.dials };
        transport.dial(address, DialOpts { port_use: PortUse::Reuse, ..options })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let event = Pin::new(&mut self.listens).poll(cx);
        if let Poll::Ready(TransportEvent::ListenerClosed { listener_id, .. }) = &event {
            self.bound.remove(listener_id);
        }
        if event.is_ready() { event } else { Pin::new(&mut self.dials).poll(cx) }
    }
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether each socket that a dial to this address might leave by reaches it. To loopback only those are taken that are
/// there; to others any of the family may be. Where it was asked that a dial leaves by a port that is listened on,
/// since a NAT is on the way, an address of a network will do.
fn reaches<'a>(bound: impl IntoIterator<Item = &'a IpAddr>, target: IpAddr, is_asked: bool) -> bool {
    let mut family = bound.into_iter().filter(|ip| ip.is_ipv4() == target.is_ipv4());
    target.is_loopback() || family.all(|ip| ip.is_unspecified() || is_asked && !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::future::{Ready, ready};

    use super::*;

    #[test]
    fn a_dial_leaves_by_a_socket_that_reaches_the_peer() {
        let (all4, all6, loop4, lan4) = ("0.0.0.0", "::", "127.0.0.1", "192.168.1.5");
        let table: [(&[&str], &str, [bool; 2]); 9] = [
            (&[], "192.0.2.1", [true; 2]),
            (&[all4, all4, all6], "192.0.2.1", [true; 2]),
            (&[loop4], "192.0.2.1", [false; 2]),
            (&[all4, loop4], "192.0.2.1", [false; 2]),
            (&[loop4, lan4], "192.0.2.1", [false; 2]),
            // It may be gone by now; a NAT keeps the way to no other.
            (&[lan4], "192.0.2.1", [false, true]),
            (&[loop4, lan4], "127.0.0.1", [true; 2]),
            (&[loop4, all6], "2001:db8::1", [true; 2]),
            (&[all4, "::1"], "2001:db8::1", [false; 2]),
        ];
        for (bound, target, expected) in table {
            let bound: Vec<IpAddr> = bound.iter().map(|text| text.parse().unwrap()).collect();
            let found = [false, true].map(|is_asked| reaches(&bound, target.parse().unwrap(), is_asked));
            assert_eq!(found, expected, "{bound:?} {target}");
        }
    }

    /// Notes its dials, and by which port they were to go.
    #[derive(Default)]
    struct Noted(Vec<PortUse>);

    impl Transport for Noted {
        type Output = ();
        type Error = io::Error;
        type ListenerUpgrade = Ready<io::Result<()>>;
        type Dial = Ready<io::Result<()>>;

        fn listen_on(&mut self, _: ListenerId, _: Multiaddr) -> Result<(), TransportError<io::Error>> {
            Ok(())
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            true
        }

        fn dial(&mut self, _: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
            self.0.push(options.port_use);
            Ok(ready(Ok(())))
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
            Poll::Pending
        }
    }

    #[test]
    fn dials_share_a_socket_whatever_is_listened_on() {
        let mut sockets = OneSocket::new(Noted::default(), Noted::default());
        let peer: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().unwrap();
        let dial = |sockets: &mut OneSocket<Noted>, role| {
            drop(sockets.dial(peer.clone(), DialOpts { role, port_use: PortUse::New }).unwrap());
            (sockets.listens.0.len(), sockets.dials.0.len())
        };
        assert_eq!(dial(&mut sockets, Endpoint::Dialer), (1, 0));
        let id = ListenerId::next();
        sockets.listen_on(id, "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        assert_eq!(dial(&mut sockets, Endpoint::Dialer), (1, 1));
        assert_eq!(dial(&mut sockets, Endpoint::Listener), (2, 1));
        assert!(sockets.remove_listener(id));
        assert_eq!(dial(&mut sockets, Endpoint::Dialer), (3, 1));
        assert_eq!(sockets.listens.0, [PortUse::Reuse, PortUse::New, PortUse::Reuse]);
        assert_eq!(sockets.dials.0, [PortUse::Reuse]);
    }
}
