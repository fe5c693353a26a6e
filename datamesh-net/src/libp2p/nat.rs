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
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
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
    use super::*;

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
