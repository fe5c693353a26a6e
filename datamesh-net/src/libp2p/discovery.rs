//! Which addresses this node has, which of them others are told, and what members say of theirs.

#[cfg(feature = "nat")]
use std::collections::BTreeSet;
use std::collections::HashMap;

use datamesh_core::ports::{Reach, TransportEvent};
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify};

use super::behaviour::BehaviourEvent;
use super::driver::Driver;
use super::options::Discovery;
#[cfg(any(feature = "mdns", feature = "nat"))]
use super::route::bare;
#[cfg(feature = "nat")]
use super::scope::{Scope, scope};
use super::scope::{announced, is_relayed};
use crate::wire::peers::lock;

/// Addresses of networks that this node has left, and that are remembered.
#[cfg(feature = "nat")]
const MAX_FORMER: usize = 256;

/// What the driver knows of addresses.
pub(super) struct Addresses {
    #[cfg(feature = "nat")]
    pub(super) options: Discovery,
    /// The addresses of [`Discovery::announce`].
    named: Vec<Multiaddr>,
    /// Those that others are told now.
    told: Vec<Multiaddr>,
    /// Where the other end of each connection is.
    ends: HashMap<ConnectionId, End>,
    /// Those that a member has met this node at, on a network that it may have left since.
    #[cfg(feature = "nat")]
    former: BTreeSet<Vec<u8>>,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct End {
    #[cfg_attr(
        not(any(feature = "mdns", feature = "nat")),
        expect(
            dead_code,
            reason = "asked for where members look whether they reach, or announce themselves"
        )
    )]
    peer: PeerId,
    pub(super) address: Multiaddr,
    pub(super) relayed: bool,
}

impl Addresses {
    pub(super) fn new(options: Discovery) -> Self {
        let named = options.announced.iter().filter_map(|address| address.as_str().parse().ok()).collect();
        Self {
            #[cfg(feature = "nat")]
            options,
            named,
            told: Vec::new(),
            ends: HashMap::new(),
            #[cfg(feature = "nat")]
            former: BTreeSet::new(),
        }
    }

    fn end(&self, connection: ConnectionId) -> Option<&End> {
        self.ends.get(&connection)
    }

    /// Whether a connection leads to this very address.
    #[cfg(feature = "mdns")]
    pub(super) fn is_connected_to(&self, address: &Multiaddr) -> bool {
        self.ends.values().any(|end| bare(&end.address, end.peer) == *address)
    }

    /// How a connection was made.
    pub(super) fn reach(&self, connection: ConnectionId) -> Reach {
        match self.end(connection) {
            Some(end) if end.relayed => Reach::Relay,
            Some(end) if end.address.iter().any(|part| part == Protocol::QuicV1) => Reach::Quic,
            _ => Reach::Tcp,
        }
    }
}

impl Driver {
    /// Every address under which this node is reached by somebody. Those that it was told to announce take the place of
    /// those that it listens on, where relays are none of them.
    pub(super) fn own_addresses(&self) -> Vec<Multiaddr> {
        let local = *self.swarm.local_peer_id();
        let named = &self.addresses.named;
        let known = self.swarm.listeners().chain(self.swarm.external_addresses());
        let known = known.filter(|address| named.is_empty() || is_relayed(address)).chain(named).cloned();
        let without_name = |mut address: Multiaddr| {
            if address.iter().last() == Some(Protocol::P2p(local)) {
                address.pop();
            }
            address
        };
        known.map(without_name).collect()
    }

    /// Addresses that members on the local network announce; never any where they are not looked for.
    pub(super) fn neighbours(&self) -> async_channel::Receiver<Multiaddr> {
        #[cfg(feature = "mdns")]
        if let Some(neighbours) = &self.neighbours {
            return neighbours.heard.clone();
        }
        async_channel::bounded(1).1
    }

    #[cfg(not(feature = "mdns"))]
    pub(super) fn on_neighbour(&self, _: Multiaddr) {}

    /// Whether a dial to these addresses leaves this node's network: then it is made from the port that this node
    /// listens on, so that a NAT on the way shows and keeps the way to it. A peer in there could not dial at the same
    /// moment.
    pub(super) fn leaves_by_nat(&self, addresses: &[Multiaddr]) -> bool {
        #[cfg(feature = "nat")]
        if self.addresses.options.nat {
            let own = self.swarm.listeners().filter(|own| !is_relayed(own)).map(scope).max();
            let direct = |address: &Multiaddr| !is_relayed(address) && scope(address) == Scope::World;
            return own == Some(Scope::Network) && addresses.iter().all(direct);
        }
        let _ = addresses;
        false
    }

    /// Tells the mesh and the members' protocols which addresses this node has now.
    pub(super) fn tell_addresses(&mut self) {
        #[cfg(feature = "mdns")]
        if let Some(neighbours) = &self.neighbours {
            neighbours.set_listening(self.swarm.listeners().cloned().collect());
        }
        let now = announced(self.own_addresses());
        let gone: Vec<_> = self.addresses.told.iter().filter(|old| !now.contains(old)).cloned().collect();
        let new: Vec<_> =
            now.iter().filter(|address| !self.addresses.told.contains(address)).cloned().collect();
        if gone.is_empty() && new.is_empty() {
            return;
        }
        self.swarm.behaviour_mut().identify.tell(&new, &gone);
        #[cfg(feature = "nat")]
        self.tell_relay(&now, &new, &gone);
        let texts = now.iter().filter_map(|address| address.to_string().parse().ok()).collect::<Vec<_>>();
        self.addresses.told = now;
        lock(&self.shared.listening).clone_from(&texts);
        self.shared.tell(TransportEvent::Listening(texts));
    }

    /// Relays for others where they can reach this node.
    #[cfg(feature = "nat")]
    fn tell_relay(&mut self, now: &[Multiaddr], new: &[Multiaddr], gone: &[Multiaddr]) {
        let serves = self.addresses.options.bootstrap;
        let Some(relay) = self.swarm.behaviour_mut().relay.as_mut() else { return };
        let direct = |addresses: &[Multiaddr]| -> Vec<Multiaddr> {
            addresses.iter().filter(|address| !is_relayed(address)).cloned().collect()
        };
        relay.tell(&direct(new), &direct(gone));
        let is_public = direct(now).iter().any(|address| scope(address) == Scope::World);
        let status =
            if serves || is_public { libp2p::relay::Status::Enable } else { libp2p::relay::Status::Disable };
        relay.inner.set_status(Some(status));
    }

    pub(super) fn on_established(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        endpoint: &ConnectedPoint,
    ) {
        let end =
            End { peer, address: endpoint.get_remote_address().clone(), relayed: endpoint.is_relayed() };
        #[cfg(feature = "mdns")]
        if endpoint.is_dialer() {
            self.note_met(bare(&end.address, peer), &peer);
        }
        self.addresses.ends.insert(connection, end);
    }

    /// Gives up the connection by which this node looked whether a member is reached at an address, where there is
    /// another direct one: with several addresses they would fill the member's share of connections.
    #[cfg(feature = "nat")]
    fn on_looked(&mut self, member: &PeerId, address: &Multiaddr) {
        let direct = self.addresses.ends.iter().filter(|(_, end)| end.peer == *member && !end.relayed);
        let direct: Vec<_> = direct.collect();
        let made = direct.iter().filter(|(_, end)| bare(&end.address, *member) == *address);
        if let Some(newest) = made.map(|(connection, _)| **connection).max()
            && direct.len() > 1
        {
            self.swarm.close_connection(newest);
        }
    }

    /// Forgets at which addresses members have met this node, where it may be on another network now: those of the same
    /// kind as an own address that is gone, or all. Those at relays are up to the relays.
    #[cfg(feature = "nat")]
    pub(super) fn forget_external(&mut self, gone: Option<&Multiaddr>) {
        if gone.is_some_and(is_relayed) {
            return;
        }
        let is_ip4 = |address: &Multiaddr| matches!(address.iter().next(), Some(Protocol::Ip4(_)));
        let is_left = |address: &&Multiaddr| {
            !is_relayed(address) && gone.is_none_or(|gone| is_ip4(gone) == is_ip4(address))
        };
        let left: Vec<_> = self.swarm.external_addresses().filter(is_left).cloned().collect();
        if self.addresses.former.len() >= MAX_FORMER {
            self.addresses.former.clear();
        }
        for address in left {
            self.swarm.remove_external_address(&address);
            self.addresses.former.insert(address.to_vec());
        }
        // Another network has other addresses, which are looked into in their turn.
        self.swarm.behaviour_mut().identify.forget_candidates();
    }

    #[cfg(not(feature = "nat"))]
    pub(super) fn forget_external(&mut self, _: Option<&Multiaddr>) {}

    /// A member sees this node at an address. Where one has met it there before, it is on that network again, or had
    /// not left it; nobody would be asked to look a second time.
    #[cfg(feature = "nat")]
    fn on_seen_at(&mut self, address: Multiaddr) {
        if self.addresses.former.remove(&address.to_vec()) {
            self.swarm.add_external_address(address);
            self.tell_addresses();
        }
    }

    pub(super) fn forget_end(&mut self, connection: ConnectionId, peer: &PeerId, is_last: bool) {
        self.addresses.ends.remove(&connection);
        #[cfg(feature = "nat")]
        if is_last {
            self.forget_relay(peer);
        }
        let _ = (peer, is_last);
    }

    /// What the protocols of members tell, and what changes this node's addresses.
    pub(super) fn on_discovery(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            })) => self.on_identified(connection_id, peer_id, &info),
            #[cfg(feature = "kad")]
            SwarmEvent::Behaviour(BehaviourEvent::Kademlia(event)) => self.on_table(event),
            #[cfg(feature = "nat")]
            SwarmEvent::Behaviour(BehaviourEvent::Punch(event)) => {
                tracing::debug!(?event, "a direct connection through a NAT was tried");
            }
            #[cfg(feature = "nat")]
            SwarmEvent::Behaviour(BehaviourEvent::Look(event)) => {
                tracing::debug!(?event, "a member looked whether it reaches this node");
            }
            #[cfg(feature = "nat")]
            SwarmEvent::Behaviour(BehaviourEvent::LookForOthers(event)) => {
                tracing::debug!(?event, "this node looked whether it reaches a member");
                self.on_looked(&event.client, &event.tested_addr);
            }
            #[cfg(feature = "nat")]
            SwarmEvent::NewExternalAddrCandidate { address } => self.on_seen_at(address),
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.tell_addresses();
            }
            _ => {}
        }
    }

    fn on_identified(&mut self, connection: ConnectionId, peer: PeerId, info: &identify::Info) {
        let Some(end) = self.addresses.end(connection).cloned() else { return };
        tracing::debug!(%peer, addresses = ?info.listen_addrs, observed = %info.observed_addr, "a member told of itself");
        #[cfg(feature = "kad")]
        self.note_addresses(&peer, info, &end);
        #[cfg(feature = "nat")]
        self.note_relay(peer, info, &end);
        let _ = (peer, info, end);
    }
}
