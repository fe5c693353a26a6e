//! How many connections there may be.
//!
//! libp2p's own limits keep an entry for every peer that was ever connected, so that a stranger who comes with ever new
//! keys fills the memory. These forget a peer with its last connection.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::wire::limits::Limits;

/// Denies connections over the limits.
pub(super) struct Places {
    limits: Limits,
    pending_incoming: HashSet<ConnectionId>,
    pending_outgoing: HashSet<ConnectionId>,
    incoming: HashSet<ConnectionId>,
    /// The connections with each peer, none of which is without any.
    of_peers: HashMap<PeerId, HashSet<ConnectionId>>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            pending_incoming: HashSet::new(),
            pending_outgoing: HashSet::new(),
            incoming: HashSet::new(),
            of_peers: HashMap::new(),
        }
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        let taken = self.of_peers.get(peer).map_or(0, HashSet::len);
        check(taken, self.limits.connections_per_peer, "connections with one peer")
    }
}

fn check(taken: usize, most: u32, what: &str) -> Result<(), ConnectionDenied> {
    if u32::try_from(taken).is_ok_and(|taken| taken < most) {
        return Ok(());
    }
    Err(ConnectionDenied::new(format!("all places are taken: at most {most} {what}")))
}

impl NetworkBehaviour for Places {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let most = self.limits.pending_connections;
        check(self.pending_incoming.len(), most, "incoming connections in their handshake")?;
        self.pending_incoming.insert(connection);
        Ok(())
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        check(self.pending_outgoing.len(), self.limits.pending_connections, "dials at the same time")?;
        self.pending_outgoing.insert(connection);
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        self.pending_incoming.remove(&connection);
        check(self.incoming.len(), self.limits.inbound_connections, "incoming connections")?;
        self.check_peer(&peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        self.pending_outgoing.remove(&connection);
        self.check_peer(&peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            // Counted only now: a behaviour that is asked after this one may have denied it.
            FromSwarm::ConnectionEstablished(made) => {
                if made.endpoint.is_listener() {
                    self.incoming.insert(made.connection_id);
                }
                self.of_peers.entry(made.peer_id).or_default().insert(made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.incoming.remove(&closed.connection_id);
                if let Some(connections) = self.of_peers.get_mut(&closed.peer_id) {
                    connections.remove(&closed.connection_id);
                    if connections.is_empty() {
                        self.of_peers.remove(&closed.peer_id);
                    }
                }
            }
            FromSwarm::DialFailure(failure) => {
                self.pending_outgoing.remove(&failure.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.pending_incoming.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::ConnectedPoint;
    use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure, ListenFailure};
    use libp2p::swarm::{DialError, ListenError};

    use super::*;

    const MOST: usize = 3;

    struct Swarm {
        places: Places,
        address: Multiaddr,
        next: usize,
    }

    impl Swarm {
        fn new() -> Self {
            let most = MOST as u32;
            let limits = Limits {
                pending_connections: most,
                inbound_connections: most,
                connections_per_peer: most - 1,
                ..Limits::default()
            };
            let address = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
            Self { places: Places::new(&limits), address, next: 0 }
        }

        fn endpoint(&self, is_incoming: bool) -> ConnectedPoint {
            let address = self.address.clone();
            if is_incoming {
                ConnectedPoint::Listener { local_addr: address.clone(), send_back_addr: address }
            } else {
                let (role_override, port_use) = (Endpoint::Dialer, PortUse::New);
                ConnectedPoint::Dialer { address, role_override, port_use }
            }
        }

        fn begin(&mut self, is_incoming: bool) -> Result<ConnectionId, ConnectionDenied> {
            self.next += 1;
            let (connection, address) = (ConnectionId::new_unchecked(self.next), &self.address);
            if is_incoming {
                self.places.handle_pending_inbound_connection(connection, address, address)?;
            } else {
                self.places.handle_pending_outbound_connection(connection, None, &[], Endpoint::Dialer)?;
            }
            Ok(connection)
        }

        fn fail(&mut self, connection_id: ConnectionId, is_incoming: bool) {
            let (error, listen_error) = (DialError::Aborted, ListenError::Aborted);
            self.places.on_swarm_event(if is_incoming {
                FromSwarm::ListenFailure(ListenFailure {
                    local_addr: &self.address,
                    send_back_addr: &self.address,
                    error: &listen_error,
                    connection_id,
                    peer_id: None,
                })
            } else {
                FromSwarm::DialFailure(DialFailure { peer_id: None, error: &error, connection_id })
            });
        }

        fn connect(&mut self, peer_id: PeerId, is_incoming: bool) -> Result<ConnectionId, ConnectionDenied> {
            let connection_id = self.begin(is_incoming)?;
            let (places, address) = (&mut self.places, &self.address);
            let made = if is_incoming {
                places.handle_established_inbound_connection(connection_id, peer_id, address, address)
            } else {
                let (role, port) = (Endpoint::Dialer, PortUse::New);
                places.handle_established_outbound_connection(connection_id, peer_id, address, role, port)
            };
            if let Err(denied) = made {
                self.fail(connection_id, is_incoming);
                return Err(denied);
            }
            let (endpoint, failed_addresses, other_established) = (self.endpoint(is_incoming), &[], 0);
            self.places.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint: &endpoint,
                failed_addresses,
                other_established,
            }));
            Ok(connection_id)
        }

        fn close(&mut self, peer_id: PeerId, connection_id: ConnectionId, is_incoming: bool) {
            let endpoint = self.endpoint(is_incoming);
            self.places.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                endpoint: &endpoint,
                cause: None,
                remaining_established: 0,
            }));
        }

        fn is_empty(&self) -> bool {
            let places = &self.places;
            [&places.pending_incoming, &places.pending_outgoing, &places.incoming]
                .into_iter()
                .all(HashSet::is_empty)
                && places.of_peers.is_empty()
        }
    }

    #[test]
    fn nothing_is_left_of_peers_that_came_and_went() {
        let mut swarm = Swarm::new();
        for number in 0..1000 {
            let (peer, is_incoming) = (PeerId::random(), number % 2 == 0);
            let connections = [(); 2].map(|()| swarm.connect(peer, is_incoming).unwrap());
            assert!(swarm.connect(peer, is_incoming).is_err(), "one over the limit");
            for connection in connections {
                swarm.close(peer, connection, is_incoming);
            }
            let broken = swarm.begin(is_incoming).unwrap();
            swarm.fail(broken, is_incoming);
        }
        assert!(swarm.is_empty());
    }

    #[test]
    fn each_limit_is_met_exactly() {
        for is_incoming in [true, false] {
            let mut swarm = Swarm::new();
            let begun: Vec<_> = (0..MOST).map(|_| swarm.begin(is_incoming).unwrap()).collect();
            let denied = swarm.begin(is_incoming).unwrap_err();
            assert!(
                std::error::Error::source(&denied).unwrap().to_string().contains("at most 3"),
                "{denied}"
            );
            // Those of the other direction have their own places.
            assert!(swarm.begin(!is_incoming).is_ok());
            swarm.fail(begun[0], is_incoming);
            assert!(swarm.begin(is_incoming).is_ok());
        }
        let mut swarm = Swarm::new();
        let peers: Vec<_> = (0..MOST).map(|_| PeerId::random()).collect();
        let made: Vec<_> = peers.iter().map(|peer| swarm.connect(*peer, true).unwrap()).collect();
        assert!(swarm.connect(PeerId::random(), true).is_err(), "one over the limit");
        assert!(swarm.connect(PeerId::random(), false).is_ok(), "dials are not counted with them");
        swarm.close(peers[0], made[0], true);
        assert!(swarm.connect(PeerId::random(), true).is_ok());
    }
}
