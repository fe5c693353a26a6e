//! Through NATs: members tell a node where they see it, relay for it, and help it to a direct connection.
//!
//! A node whose own addresses lead no further than its local network asks up to [`RELAYS`] members with public
//! addresses to relay for it, and tells others their addresses as its own. Over a relayed connection both ends then
//! dial each other at the same moment, which opens most NATs; what goes between them moves to the direct connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, StreamProtocol, autonat, dcutr, identify, relay};

use super::discovery::End;
use super::driver::Driver;
use super::gate::{Admits, Gated, Gates};
use super::names;
use super::scope::{Scope, is_relayed, scope};

/// Members that relay for this node at the same time: the second is there when the first goes.
const RELAYS: usize = 2;

/// Members that offer to relay and that are remembered.
const MAX_OFFERS: usize = 32;

/// The protocol of those that relay.
const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");

/// Members that this node relays for.
const MAX_RESERVATIONS: usize = 128;

/// Relayed connections at the same time, and with one member.
const MAX_CIRCUITS: usize = 256;
const MAX_CIRCUITS_PER_PEER: usize = 32;

/// How long a relayed connection lasts at most: those that need it longer make another.
const CIRCUIT_LIMIT: Duration = Duration::from_secs(12 * 3600);

/// What a relayed connection carries at most: a day at 1.5 MB/s. libp2p's own limit is less than a shard.
const CIRCUIT_BYTES: u64 = 128 << 30;

/// The behaviours, where they are wanted.
pub(super) struct NatParts {
    pub(super) transport: Option<relay::client::Transport>,
    pub(super) relay: Option<Gated<relay::Behaviour>>,
    pub(super) relayed: Option<Gated<relay::client::Behaviour>>,
    pub(super) punch: Option<Gated<dcutr::Behaviour>>,
    pub(super) look: Option<Gated<autonat::v2::client::Behaviour>>,
    pub(super) look_for_others: Option<Gated<autonat::v2::server::Behaviour>>,
}

pub(super) fn parts(local: PeerId, gates: &Arc<Gates>, wanted: bool) -> NatParts {
    if !wanted {
        return NatParts {
            transport: None,
            relay: None,
            relayed: None,
            punch: None,
            look: None,
            look_for_others: None,
        };
    }
    let (transport, client) = relay::client::new(local);
    let mut server = relay::Behaviour::new(local, limits());
    server.set_status(Some(relay::Status::Disable));
    NatParts {
        transport: Some(transport),
        relay: Some(Gated::new(server, gates, Admits::Members).without_addresses()),
        relayed: Some(Gated::new(client, gates, Admits::Members)),
        punch: Some(Gated::new(dcutr::Behaviour::new(local), gates, Admits::Members)),
        look: Some(Gated::new(autonat::v2::client::Behaviour::default(), gates, Admits::Members)),
        look_for_others: Some(Gated::new(autonat::v2::server::Behaviour::default(), gates, Admits::Members)),
    }
}

/// What a relay carries. It serves members only, so that its limits are those of a mesh and not of the public network.
fn limits() -> relay::Config {
    relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_circuits: MAX_CIRCUITS,
        // One more than so many is what libp2p refuses.
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER - 1,
        max_circuit_duration: CIRCUIT_LIMIT,
        max_circuit_bytes: CIRCUIT_BYTES,
        // Many members may be behind one address, and come back together.
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
}

/// Who relays for this node, and who would.
#[derive(Default)]
pub(super) struct Relays {
    offers: BTreeMap<PeerId, Multiaddr>,
    taken: HashMap<ListenerId, PeerId>,
}

impl Relays {
    /// Remembers where a member offers to relay; returns whether there is room for it.
    fn note_offer(&mut self, peer: PeerId, address: &Multiaddr) -> bool {
        let is_taken = self.offers.contains_key(&peer) || self.offers.len() < MAX_OFFERS;
        if is_taken {
            self.offers.insert(peer, address.clone());
        }
        is_taken
    }
}

impl Driver {
    /// Notes that a member offers to relay, and under which of its addresses this node reached it.
    pub(super) fn note_relay(&mut self, peer: PeerId, info: &identify::Info, seen_at: &End) {
        if !info.protocols.contains(&HOP) {
            self.relays.offers.remove(&peer);
            return;
        }
        let said = info.listen_addrs.iter().find(|address| {
            names::is_dialable(address) && !is_relayed(address) && scope(address) == Scope::World
        });
        let address = said.or(Some(&seen_at.address).filter(|_| !seen_at.relayed));
        if let Some(address) = address.filter(|address| scope(address) == Scope::World)
            && self.relays.note_offer(peer, address)
        {
            self.look_for_relays();
        }
    }

    pub(super) fn forget_relay(&mut self, peer: &PeerId) {
        self.relays.offers.remove(peer);
    }

    /// Asks members to relay where this node's own addresses lead no further than its network, and gives relays up
    /// where they do.
    pub(super) fn look_for_relays(&mut self) {
        let own = self.own_addresses();
        let widest = own.iter().filter(|address| !is_relayed(address)).map(scope).max();
        if widest != Some(Scope::Network) {
            for listener in self.relays.taken.drain().map(|(listener, _)| listener).collect::<Vec<_>>() {
                self.swarm.remove_listener(listener);
            }
            return;
        }
        let taken: Vec<PeerId> = self.relays.taken.values().copied().collect();
        let free = self.relays.offers.iter().filter(|(peer, _)| !taken.contains(peer));
        let missing = RELAYS.saturating_sub(taken.len());
        let wanted: Vec<_> = free.take(missing).map(|(peer, address)| (*peer, address.clone())).collect();
        for (peer, address) in wanted {
            let circuit = address.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
            match self.swarm.listen_on(circuit) {
                Ok(listener) => drop(self.relays.taken.insert(listener, peer)),
                Err(error) => tracing::debug!(%peer, %error, "a member cannot be asked to relay"),
            }
        }
    }

    /// Notes that a listener is gone, which may have been at a relay; the next look finds another.
    pub(super) fn on_relay_lost(&mut self, listener: ListenerId) {
        if let Some(peer) = self.relays.taken.remove(&listener) {
            tracing::debug!(%peer, "a member relays for this node no more");
            self.relays.offers.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use futures::future::poll_fn;
    use futures::stream::{Stream as _, StreamExt as _};
    use libp2p::core::Transport as _;
    use libp2p::core::transport::MemoryTransport;
    use libp2p::core::upgrade::Version;
    use libp2p::identity::Keypair;
    use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
    use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
    use libp2p::{Swarm, noise};

    use super::super::muxer::Yamux;
    use super::*;
    use crate::wire::limits::Limits;

    /// So much time is more than any of this takes.
    const LIMIT: Duration = Duration::from_secs(60);

    fn swarm<B: NetworkBehaviour>(
        behaviour: impl FnOnce(PeerId) -> (Option<relay::client::Transport>, B),
    ) -> Swarm<B> {
        let keys = Keypair::generate_ed25519();
        let peer = keys.public().to_peer_id();
        let (relayed, behaviour) = behaviour(peer);
        let (noise, yamux) = (noise::Config::new(&keys).unwrap(), Yamux::of(&Limits::default()));
        let sockets = MemoryTransport::default();
        let transport = match relayed {
            Some(relayed) => {
                let sockets = relayed.or_transport(sockets);
                sockets.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux).boxed()
            }
            None => sockets.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux).boxed(),
        };
        let config = Config::with_tokio_executor().with_idle_connection_timeout(LIMIT);
        Swarm::new(transport, behaviour, peer, config)
    }

    /// A relay with our limits, what it said of those who asked, and the members that do.
    struct Around {
        relay: Swarm<relay::Behaviour>,
        address: Multiaddr,
        members: Vec<Swarm<relay::client::Behaviour>>,
        reserved: usize,
        connected: usize,
        refused: usize,
    }

    impl Around {
        async fn new(members: usize) -> Self {
            let mut relay = swarm(|peer| {
                let mut relay = relay::Behaviour::new(peer, limits());
                relay.set_status(Some(relay::Status::Enable));
                (None, relay)
            });
            relay.listen_on("/memory/0".parse().unwrap()).unwrap();
            let address = loop {
                if let SwarmEvent::NewListenAddr { address, .. } = relay.select_next_some().await {
                    break address;
                }
            };
            relay.add_external_address(address.clone());
            let address = address.with(Protocol::P2p(*relay.local_peer_id())).with(Protocol::P2pCircuit);
            let member = || {
                swarm(|peer| {
                    let (transport, behaviour) = relay::client::new(peer);
                    (Some(transport), behaviour)
                })
            };
            let members = std::iter::repeat_with(member).take(members).collect();
            Self { relay, address, members, reserved: 0, connected: 0, refused: 0 }
        }

        /// How many the relay has answered.
        fn count(&self) -> usize {
            self.reserved + self.connected + self.refused
        }

        fn reserve(&mut self, member: usize) {
            self.members[member].listen_on(self.address.clone()).unwrap();
        }

        /// One at a time: of more than ten on one connection, libp2p drops some without a word.
        async fn connect(&mut self, member: usize, to: usize) {
            let to = *self.members[to].local_peer_id();
            let address = self.address.clone().with(Protocol::P2p(to));
            let dial = DialOpts::peer_id(to).condition(PeerCondition::Always).addresses(vec![address]);
            self.members[member].dial(dial.build()).unwrap();
            self.answered(self.count() + 1).await;
        }

        /// Waits until the relay has answered so many in all.
        async fn answered(&mut self, count: usize) {
            let answered = poll_fn(|context| {
                for member in &mut self.members {
                    while Pin::new(&mut *member).poll_next(context).is_ready() {}
                }
                while let Poll::Ready(Some(event)) = Pin::new(&mut self.relay).poll_next(context) {
                    let SwarmEvent::Behaviour(event) = event else { continue };
                    match event {
                        relay::Event::ReservationReqAccepted { .. } => self.reserved += 1,
                        relay::Event::CircuitReqAccepted { .. } => self.connected += 1,
                        relay::Event::ReservationReqDenied { .. } | relay::Event::CircuitReqDenied { .. } => {
                            self.refused += 1
                        }
                        _ => {}
                    }
                }
                if self.reserved + self.connected + self.refused >= count {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            tokio::time::timeout(LIMIT, answered).await.expect("it hangs")
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn a_relay_has_so_many_places() {
        run(async {
            let mut around = Around::new(MAX_RESERVATIONS + 1).await;
            for member in 0..MAX_RESERVATIONS {
                around.reserve(member);
            }
            around.answered(MAX_RESERVATIONS).await;
            assert_eq!((around.reserved, around.refused), (MAX_RESERVATIONS, 0));
            around.reserve(MAX_RESERVATIONS);
            around.answered(MAX_RESERVATIONS + 1).await;
            assert_eq!((around.reserved, around.refused), (MAX_RESERVATIONS, 1));
        });
    }

    #[test]
    fn so_much_is_relayed_at_a_time() {
        run(async {
            const SOURCES: usize = MAX_CIRCUITS / MAX_CIRCUITS_PER_PEER;
            // Each source dials a member of its own: streams on the way to one are bounded, too.
            let mut around = Around::new(2 * SOURCES + 1).await;
            for source in 0..SOURCES {
                let to = SOURCES + source;
                around.reserve(to);
                around.answered(around.count() + 1).await;
                for _ in 0..MAX_CIRCUITS_PER_PEER {
                    around.connect(source, to).await;
                }
                assert_eq!(
                    (around.connected, around.refused),
                    ((source + 1) * MAX_CIRCUITS_PER_PEER, source)
                );
                around.connect(source, to).await;
                assert_eq!(around.refused, source + 1, "it has as much as a member may");
            }
            assert_eq!(around.connected, MAX_CIRCUITS);
            around.connect(2 * SOURCES, SOURCES).await;
            assert_eq!((around.connected, around.refused), (MAX_CIRCUITS, SOURCES + 1), "all are taken");
        });
    }

    #[test]
    fn so_many_offers_are_remembered() {
        let address = |port: usize| format!("/ip4/203.0.113.1/tcp/{port}").parse().unwrap();
        let (mut relays, peers) = (Relays::default(), [(); MAX_OFFERS + 1].map(|()| PeerId::random()));
        let noted: Vec<bool> =
            (1..).zip(peers).map(|(port, peer)| relays.note_offer(peer, &address(port))).collect();
        assert_eq!(noted.iter().filter(|noted| **noted).count(), MAX_OFFERS);
        assert!(!noted[MAX_OFFERS], "one more");
        assert!(relays.note_offer(peers[0], &address(4001)), "it is known, and has moved");
        assert_eq!(relays.offers[&peers[0]], address(4001));
        relays.offers.remove(&peers[1]);
        assert!(relays.note_offer(peers[MAX_OFFERS], &address(1)), "one has gone");
        assert_eq!(relays.offers.len(), MAX_OFFERS);
    }
}
