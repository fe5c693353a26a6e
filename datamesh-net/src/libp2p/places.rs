//! How many connections there may be, and who makes room for others.
//!
//! Whoever has proved nothing may hold a place for as long as a handshake may take. So where all of these are taken, a
//! newcomer gets one of those that come from the address that has most of them.
//!
//! libp2p's own limits keep an entry for every peer that was ever connected, so that a stranger who comes with ever new
//! keys fills the memory. These forget a peer with its last connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::AbortHandle;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::gate::{Gate, Gates};
use super::handshakes::{Incoming, Newest};
use crate::wire::limits::Limits;

/// Denies connections over the limits.
pub(super) struct Places {
    limits: Limits,
    gates: Arc<Gates>,
    newest: Newest,
    /// Incoming connections in their handshake, or whose peer has not proved the mesh key yet. Those of which it has are
    /// forgotten when the next one comes.
    unproved: HashMap<ConnectionId, Unproved>,
    pending_outgoing: HashSet<ConnectionId>,
    incoming: HashSet<ConnectionId>,
    /// The connections with each peer, none of which is without any.
    of_peers: HashMap<PeerId, HashSet<ConnectionId>>,
    /// Connections that have made room for others, to be closed.
    given_up: VecDeque<(PeerId, ConnectionId)>,
}

struct Unproved {
    gate: Arc<Gate>,
    from: Option<IpAddr>,
    handshake: Option<AbortHandle>,
    /// Whose it says to be, once the handshake is over.
    peer: Option<PeerId>,
    /// Whether it has made room for another. It is not counted any more, and forgotten when it has come to its end.
    is_given_up: bool,
}

impl Places {
    pub(super) fn new(limits: &Limits, gates: &Arc<Gates>) -> Self {
        Self {
            limits: limits.clone(),
            gates: Arc::clone(gates),
            newest: Newest::default(),
            unproved: HashMap::new(),
            pending_outgoing: HashSet::new(),
            incoming: HashSet::new(),
            of_peers: HashMap::new(),
            given_up: VecDeque::new(),
        }
    }

    /// Where the transport leaves what ends the newest handshake.
    pub(super) fn newest(&self) -> Newest {
        self.newest.clone()
    }

    /// Whether there is room for one more peer that has proved nothing.
    fn check_unproved(&mut self, from: Option<IpAddr>) -> Result<(), ConnectionDenied> {
        self.unproved.retain(|_, unproved| !unproved.gate.has_proved());
        let taken = self.counted(from);
        if from.is_some_and(|ip| !ip.is_loopback()) {
            let most = self.limits.pending_connections_per_address;
            check(taken, most, "incoming connections from one address without a proof")?;
        }
        let all = self.unproved.values().filter(|unproved| !unproved.is_given_up).count();
        let room = check(all, self.limits.pending_connections, "incoming connections without a proof");
        room.or_else(|denied| if self.make_room(taken) { Ok(()) } else { Err(denied) })
    }

    /// The connections of one origin that have proved nothing.
    fn counted(&self, from: Option<IpAddr>) -> usize {
        let is_counted = |unproved: &&Unproved| unproved.from == from && !unproved.is_given_up;
        self.unproved.values().filter(is_counted).count()
    }

    /// Gives up the oldest of those whose origin has most of them, if that has more than the newcomer's would then have
    /// with its own: so nobody is driven out by who has as many.
    fn make_room(&mut self, taken: usize) -> bool {
        let mut of_origins = HashMap::<_, (usize, Option<ConnectionId>)>::new();
        for (connection, unproved) in self.unproved.iter().filter(|(_, unproved)| !unproved.is_given_up) {
            let (count, oldest) = of_origins.entry(unproved.from).or_default();
            *count = count.saturating_add(1);
            *oldest = Some(oldest.map_or(*connection, |oldest| oldest.min(*connection)));
        }
        let most = of_origins.into_values().max_by_key(|(count, _)| *count);
        let Some((_, Some(oldest))) = most.filter(|(count, _)| *count > taken.saturating_add(1)) else {
            return false;
        };
        if let Some(unproved) = self.unproved.get_mut(&oldest) {
            unproved.is_given_up = true;
            unproved.handshake.iter().for_each(AbortHandle::abort);
            self.given_up.extend(unproved.peer.map(|peer| (peer, oldest)));
        }
        true
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        let taken = self.of_peers.get(peer).map_or(0, HashSet::len);
        check(taken, self.limits.connections_per_peer, "connections with one peer")
    }
}

/// Whose connection it is: an IPv4 address, or the 64 bits that an IPv6 network has. None for relays, by which many come,
/// as they do from this machine.
fn origin(address: &Multiaddr) -> Option<IpAddr> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => Some(IpAddr::V4(ip)),
            None if ip.is_loopback() => Some(IpAddr::V6(ip)),
            None => Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))),
        },
        _ => None,
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
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let (from, Incoming { handshake, allowance }) = (origin(remote), self.newest.take());
        self.check_unproved(from)?;
        let (gate, peer, is_given_up) = (self.gates.of(connection), None, false);
        gate.allow(allowance);
        self.unproved.insert(connection, Unproved { gate, from, handshake, peer, is_given_up });
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
        if self.unproved.get(&connection).is_some_and(|unproved| unproved.is_given_up) {
            return Err(ConnectionDenied::new("it had made room for another address when it was made"));
        }
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
                if let Some(unproved) = self.unproved.get_mut(&made.connection_id) {
                    unproved.peer = Some(made.peer_id);
                }
                self.of_peers.entry(made.peer_id).or_default().insert(made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.incoming.remove(&closed.connection_id);
                self.unproved.remove(&closed.connection_id);
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
                self.unproved.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // The swarm polls after it has asked about a newcomer, so there is nobody to wake.
        self.given_up.pop_front().map_or(Poll::Pending, |(peer_id, connection)| {
            let connection = CloseConnection::One(connection);
            Poll::Ready(ToSwarm::CloseConnection { peer_id, connection })
        })
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
        handshakes: HashMap<ConnectionId, AbortHandle>,
    }

    impl Swarm {
        fn new() -> Self {
            let most = MOST as u32;
            let limits = Limits {
                pending_connections: most,
                pending_connections_per_address: most,
                inbound_connections: most,
                connections_per_peer: most - 1,
                ..Limits::default()
            };
            let address = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
            Self {
                places: Places::new(&limits, &Arc::default()),
                address,
                next: 0,
                handshakes: HashMap::new(),
            }
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
            let address = self.address.clone();
            self.begin_from(&address, is_incoming)
        }

        fn begin_from(
            &mut self,
            address: &Multiaddr,
            is_incoming: bool,
        ) -> Result<ConnectionId, ConnectionDenied> {
            self.next += 1;
            let connection = ConnectionId::new_unchecked(self.next);
            if is_incoming {
                let (handle, _) = AbortHandle::new_pair();
                self.handshakes.insert(connection, handle.clone());
                self.places.newest.put_handshake(handle);
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

        /// Connects, and proves the mesh key.
        fn connect(&mut self, peer_id: PeerId, is_incoming: bool) -> Result<ConnectionId, ConnectionDenied> {
            let made = self.meet(peer_id, is_incoming)?;
            self.places.gates.of(made).take();
            Ok(made)
        }

        fn meet(&mut self, peer_id: PeerId, is_incoming: bool) -> Result<ConnectionId, ConnectionDenied> {
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
            [&places.pending_outgoing, &places.incoming].into_iter().all(HashSet::is_empty)
                && places.unproved.is_empty()
                && places.of_peers.is_empty()
                && places.given_up.is_empty()
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

    #[test]
    fn who_has_proved_nothing_keeps_a_place_of_the_handshakes() {
        let mut swarm = Swarm::new();
        let met: Vec<_> = (0..MOST).map(|_| swarm.meet(PeerId::random(), true).unwrap()).collect();
        assert!(swarm.begin(true).is_err(), "their handshakes are over, and nothing is proved");
        swarm.places.gates.of(met[0]).take();
        assert!(swarm.begin(true).is_ok());
        assert!(swarm.begin(true).is_err());
    }

    #[test]
    fn one_address_takes_no_more_than_its_share_of_them() {
        let taken = |addresses: [&str; 2]| {
            let mut swarm = Swarm::new();
            swarm.places.limits.pending_connections = 100;
            let [first, second] = addresses.map(|address| address.parse::<Multiaddr>().unwrap());
            for _ in 0..MOST {
                swarm.begin_from(&first, true).unwrap();
            }
            (swarm.begin_from(&first, true).is_err(), swarm.begin_from(&second, true).is_err())
        };
        for (addresses, is_one) in [
            (["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/2/quic-v1"], true),
            (["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"], false),
            (["/ip4/192.0.2.1/tcp/1", "/ip6/::ffff:192.0.2.1/tcp/1"], true),
            (["/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::ffff:0:0:1/tcp/1"], true),
            (["/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8:0:1::1/tcp/1"], false),
        ] {
            assert_eq!(taken(addresses), (true, is_one), "{addresses:?}");
        }
        for many in ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip4/192.0.2.1/tcp/1/p2p-circuit"] {
            assert_eq!(taken([many, many]), (false, false), "{many}");
        }
    }

    /// What a swarm would close.
    fn closed(swarm: &mut Swarm) -> Option<ConnectionId> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match swarm.places.poll(&mut context) {
            Poll::Ready(ToSwarm::CloseConnection { connection: CloseConnection::One(closed), .. }) => {
                Some(closed)
            }
            _ => None,
        }
    }

    #[test]
    fn who_has_most_of_the_places_makes_room() {
        let mut swarm = Swarm::new();
        let (flood, other) = (swarm.address.clone(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
        let met = swarm.meet(PeerId::random(), true).unwrap();
        let begun = [(); MOST - 1].map(|()| swarm.begin_from(&flood, true).unwrap());
        // The oldest is over its handshake: it is closed.
        assert_eq!(closed(&mut swarm), None);
        let first = swarm.begin_from(&other, true).unwrap();
        assert_eq!(closed(&mut swarm), Some(met));
        assert!(begun.iter().all(|begun| !swarm.handshakes[begun].is_aborted()));
        // Now one of them has two places and the other would have as many.
        assert!(swarm.begin_from(&other, true).is_err());
        assert!(swarm.begin_from(&flood, true).is_err());
        // A third makes the next one give up, which is in its handshake.
        let third = "/ip6/::1/tcp/1".parse().unwrap();
        swarm.begin_from(&third, true).unwrap();
        assert!(swarm.handshakes[&begun[0]].is_aborted() && !swarm.handshakes[&first].is_aborted());
        assert_eq!(closed(&mut swarm), None);
        // Each has one, and nobody makes room.
        assert!(swarm.begin_from(&"/ip4/192.0.2.9/tcp/1".parse().unwrap(), true).is_err());
        assert!(!swarm.handshakes[&begun[1]].is_aborted());
    }

    #[test]
    fn a_handshake_that_was_given_up_makes_no_connection() {
        let mut swarm = Swarm::new();
        let flood = swarm.address.clone();
        let begun = [(); MOST].map(|()| swarm.begin_from(&flood, true).unwrap());
        swarm.begin_from(&"/ip4/192.0.2.2/tcp/1".parse().unwrap(), true).unwrap();
        // It was over at the same moment.
        for (connection, is_let_in) in [(begun[0], false), (begun[1], true)] {
            let peer = PeerId::random();
            let made = swarm.places.handle_established_inbound_connection(connection, peer, &flood, &flood);
            assert_eq!(made.is_ok(), is_let_in);
        }
        // It takes no place, and is forgotten when its end is told.
        swarm.fail(begun[1], true);
        assert!(swarm.begin_from(&flood, true).is_ok());
        assert!(swarm.begin_from(&flood, true).is_err());
        swarm.fail(begun[0], true);
        assert_eq!(swarm.places.unproved.len(), MOST);
    }
}
