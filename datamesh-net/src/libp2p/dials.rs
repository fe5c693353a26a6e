//! Dials: for callers that wait, by address, and to keep known peers connected; and who waits for a place among them.

use std::collections::VecDeque;
use std::time::Instant;

use datamesh_core::id::NodeId;
use datamesh_core::ports::PeerRoute;
use datamesh_core::{Error, ErrorKind, Result};
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::driver::Driver;
use super::failure::explain;
use super::names;
use super::route::Route;
use crate::wire::{Dialled, copy_of, unknown};

/// What may wait for a place among the dials; then no more is taken from those who ask, and they wait. Places become
/// free within the time of a handshake.
const MAX_QUEUED: usize = 256;

/// A dial under way: until its connection has proved the mesh key, or failed.
pub(super) struct Dial {
    /// The known peer, or `None` for a dial by address.
    pub(super) node: Option<NodeId>,
    /// The addresses that were known of that peer when the dial began.
    known: Vec<Multiaddr>,
    begun: Instant,
    pub(super) waiting: Vec<Dialled>,
}

/// What somebody wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A known peer.
    Peer(NodeId),
    /// Whoever is at an address, or nobody but the peer that it names.
    Address(Multiaddr, Option<PeerId>),
    /// A member that was looked up by its name, where it was found.
    #[cfg(feature = "kad")]
    Found(PeerId, Vec<Multiaddr>),
}

/// What waits for a place among the dials, and who waits for it. Each of those waits inside its own deadline.
#[derive(Default)]
pub(super) struct Queue(VecDeque<(Wanted, Vec<Dialled>)>);

impl Queue {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_QUEUED
    }

    fn add(&mut self, wanted: Wanted, waiting: Vec<Dialled>) {
        match self.0.iter_mut().find(|(other, _)| *other == wanted) {
            Some((_, others)) => others.extend(waiting),
            None => self.0.push_back((wanted, waiting)),
        }
    }

    /// Those who wait for a known peer.
    pub(super) fn take(&mut self, node: &NodeId) -> Vec<Dialled> {
        let place = self.0.iter().position(|(wanted, _)| *wanted == Wanted::Peer(*node));
        place.and_then(|place| self.0.remove(place)).map(|(_, waiting)| waiting).unwrap_or_default()
    }

    /// Forgets what nobody waits for any more.
    fn forget_gone(&mut self) {
        self.0.retain_mut(|(_, waiting)| {
            waiting.retain(|waiting| !waiting.is_canceled());
            !waiting.is_empty()
        });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Driver {
    /// Reaches what somebody waits for: now, or when there is a place for another dial.
    pub(super) fn ask(&mut self, wanted: Wanted, waiting: Vec<Dialled>) {
        if let Some(answer) = self.without_dial(&wanted) {
            tell(waiting, &answer);
        } else if let Some(dial) = self.under_way(&wanted) {
            dial.waiting.extend(waiting);
        } else if self.queue.0.is_empty() && self.has_place() {
            self.reach(wanted, waiting);
        } else {
            self.queue.add(wanted, waiting);
        }
    }

    /// Dials what waits, as far as there are places.
    pub(super) fn dial_queued(&mut self) {
        self.queue.forget_gone();
        while self.has_place()
            && let Some((wanted, waiting)) = self.queue.0.pop_front()
        {
            match self.without_dial(&wanted) {
                Some(answer) => tell(waiting, &answer),
                None => self.reach(wanted, waiting),
            }
        }
    }

    /// What is known without a dial.
    fn without_dial(&self, wanted: &Wanted) -> Option<Result<NodeId>> {
        let node = match wanted {
            Wanted::Peer(node) => Some(*node),
            Wanted::Address(_, peer) => peer.as_ref().and_then(names::node_of),
            #[cfg(feature = "kad")]
            Wanted::Found(peer, _) => names::node_of(peer),
        };
        if let Some(node) = node.filter(|node| self.is_connected(node)) {
            return Some(Ok(node));
        }
        match wanted {
            Wanted::Peer(node) => match self.routes.get(node) {
                Some(route) => route.just_failed().map(|error| Err(copy_of(error))),
                None => Some(Err(unknown(*node))),
            },
            Wanted::Address(address, _) if self.swarm.listeners().any(|own| own == address) => {
                let message = "the address leads to the local node";
                Some(Err(Error::new(ErrorKind::InvalidInput, message)))
            }
            _ => None,
        }
    }

    fn is_connected(&self, node: &NodeId) -> bool {
        self.shared.is_connected(node)
    }

    /// The dial under way to a known peer.
    fn under_way(&mut self, wanted: &Wanted) -> Option<&mut Dial> {
        let Wanted::Peer(node) = wanted else { return None };
        let dial = self.routes.get(node)?.dial?;
        self.dials.get_mut(&dial)
    }

    /// Connections that are being made, whoever asked for them.
    fn pending(&self) -> u32 {
        self.swarm.network_info().connection_counters().num_pending_outgoing()
    }

    /// How many there may be.
    fn places(&self) -> u32 {
        self.shared.limits.pending_connections.max(1)
    }

    fn has_place(&self) -> bool {
        self.pending() < self.places()
    }

    /// Whether a known peer may be dialled that nobody waits for: these leave a quarter of the places to the others,
    /// and let those that wait go first.
    fn has_place_for_known(&self) -> bool {
        let most = self.places() - self.places() / 4;
        let dials = u32::try_from(self.dials.len()).unwrap_or(u32::MAX);
        self.queue.0.is_empty() && dials.max(self.pending()) < most
    }

    /// Dials, whether or not there is a place.
    fn reach(&mut self, wanted: Wanted, waiting: Vec<Dialled>) {
        let options = match wanted {
            Wanted::Peer(node) => return self.dial(node, waiting),
            Wanted::Address(address, Some(peer)) => {
                DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build()
            }
            Wanted::Address(address, None) if self.leaves_by_nat(std::slice::from_ref(&address)) => {
                DialOpts::unknown_peer_id().address(address).build()
            }
            Wanted::Address(address, None) => {
                DialOpts::unknown_peer_id().address(address).allocate_new_port().build()
            }
            #[cfg(feature = "kad")]
            Wanted::Found(peer, addresses) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(addresses)
                .allocate_new_port()
                .build(),
        };
        self.start(options, Dial { node: None, known: Vec::new(), begun: Instant::now(), waiting });
    }

    /// Reaches whoever is at an address; a name without an address is looked up.
    pub(super) fn connect(&mut self, address: Multiaddr, peer: Option<PeerId>, waiting: Dialled) {
        let waiting = vec![waiting];
        #[cfg(feature = "kad")]
        if let (Some(node), true) = (peer.as_ref().and_then(names::node_of), address.is_empty()) {
            return match self.is_connected(&node) {
                true => tell(waiting, &Ok(node)),
                false => self.look_up(node, waiting),
            };
        }
        self.ask(Wanted::Address(address, peer), waiting);
    }

    /// The known peer that a dial is for.
    pub(super) fn route_of(&mut self, connection: ConnectionId) -> Option<&mut Route> {
        let node = self.dials.get(&connection)?.node?;
        self.routes.get_mut(&node)
    }

    fn dial(&mut self, node: NodeId, waiting: Vec<Dialled>) {
        let reuses = self.routes.get(&node).is_some_and(|route| self.leaves_by_nat(&route.addresses));
        let Some(route) = self.routes.get_mut(&node) else { return };
        let options = DialOpts::peer_id(route.peer)
            // A reused port could meet the peer's own dial half-way, and both ends would be diallers.
            .condition(PeerCondition::Always)
            .addresses(route.worth_dialling());
        let options = if reuses { options.build() } else { options.allocate_new_port().build() };
        route.dial = Some(options.connection_id());
        let known = route.addresses.clone();
        self.start(options, Dial { node: Some(node), known, begun: Instant::now(), waiting });
    }

    fn start(&mut self, options: DialOpts, dial: Dial) {
        let connection = options.connection_id();
        self.dials.insert(connection, dial);
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(connection, &explain(error));
        }
    }

    /// Dials what other addresses a peer has, for those who wait for this dial.
    pub(super) fn dial_others(&mut self, connection: ConnectionId) {
        let Some(Dial { node: Some(node), waiting, .. }) = self.dials.remove(&connection) else { return };
        self.dial(node, waiting);
    }

    /// Dials the addresses that were told while a dial to the older ones was under way.
    fn dial_told(&mut self, node: NodeId, mut waiting: Vec<Dialled>) {
        waiting.retain(|waiting| !waiting.is_canceled());
        // Where nobody waits it takes its turn among the known peers.
        if waiting.is_empty() { self.dial_again(node) } else { self.dial(node, waiting) }
    }

    /// Tells everybody who waits for a dial; a known peer is dialled again later.
    pub(super) fn dial_failed(&mut self, connection: ConnectionId, error: &Error) {
        let Some(Dial { node, known, waiting, .. }) = self.dials.remove(&connection) else { return };
        let route = node.and_then(|node| self.routes.get_mut(&node));
        // A peer that was forgotten and told anew meanwhile has another dial, or none.
        let own = route.and_then(|route| route.dial.take_if(|dial| *dial == connection).map(|_| route));
        if let (Some(node), Some(route)) = (node, &own)
            && route.addresses.iter().any(|address| !known.contains(address))
        {
            return self.dial_told(node, waiting);
        }
        tell(waiting, &Err(copy_of(error)));
        if let (Some(node), Some(route)) = (node, own) {
            route.missed(copy_of(error));
            self.retry(node);
            #[cfg(feature = "kad")]
            self.look_for_moved(node);
        }
    }

    /// Dials a known peer again after a while.
    pub(super) fn retry(&mut self, node: NodeId) {
        let Some(wait) = self.routes.get_mut(&node).and_then(Route::retry) else { return };
        self.retries.push(Box::pin(async move {
            tokio::time::sleep(wait).await;
            node
        }));
    }

    pub(super) fn on_retry(&mut self, node: NodeId) {
        if self.routes.get_mut(&node).is_some_and(Route::is_due) {
            self.dial_again(node);
        }
    }

    pub(super) fn dial_again(&mut self, node: NodeId) {
        let is_idle = self.routes.get(&node).is_some_and(|route| route.dial.is_none());
        if !is_idle || self.is_connected(&node) {
            return;
        }
        // A dial to where a member was would be in the way of one to where it is found.
        if self.has_place_for_known() && !self.is_looked_up(&node) {
            self.dial(node, Vec::new());
        } else {
            self.retry(node);
        }
    }

    /// Dials all known peers that are not connected, at every address that they have: at that moment this machine has
    /// moved, and others of them may answer here. A dial from before may have left by a network that is gone.
    pub(super) fn dial_anew(&mut self, moved: Instant) {
        let known: Vec<NodeId> = self.routes.keys().copied().collect();
        for node in known {
            let Some(route) = self.routes.get_mut(&node) else { continue };
            route.begin_anew();
            let before =
                route.dial.take_if(|dial| self.dials.get(dial).is_none_or(|dial| dial.begun < moved));
            let waiting = before.and_then(|dial| self.dials.remove(&dial)).map(|dial| dial.waiting);
            self.dial_again(node);
            if let Some(waiting) = waiting.filter(|waiting| !waiting.is_empty()) {
                self.ask(Wanted::Peer(node), waiting);
            }
        }
    }

    #[cfg(not(feature = "kad"))]
    fn is_looked_up(&self, _: &NodeId) -> bool {
        false
    }

    /// Takes the newest routes, if there are any, and dials those that are not connected.
    pub(super) fn take_routes(&mut self) {
        let Some(fresh) = self.shared.take_fresh_routes() else { return };
        let mut old = std::mem::take(&mut self.routes);
        for route in fresh {
            let Some((node, mut route)) = readable(route) else { continue };
            let before = old.remove(&node);
            let is_new = before.as_ref().is_none_or(|before| before.addresses != route.addresses);
            if let Some(before) = before {
                route.inherit(before);
            }
            self.routes.insert(node, route);
            if is_new {
                self.dial_again(node);
            }
        }
    }
}

/// A route with the addresses that this transport can dial, if any.
fn readable(route: PeerRoute) -> Option<(NodeId, Route)> {
    let peer = names::peer_of(&route.node)?;
    let addresses: Vec<_> =
        route.addresses.iter().take(16).filter_map(|address| Some(names::parse(address).ok()?.0)).collect();
    if addresses.is_empty() {
        return None;
    }
    Some((route.node, Route::new(peer, addresses)))
}

/// Answers all who wait; one that is gone needs no answer.
pub(super) fn tell(waiting: Vec<Dialled>, answer: &Result<NodeId>) {
    for waiting in waiting {
        let _ = waiting.send(answer.as_ref().copied().map_err(copy_of));
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::oneshot;

    use super::*;

    fn peer(number: u8) -> Wanted {
        Wanted::Peer(NodeId::from_bytes([number; 32]))
    }

    #[test]
    fn who_is_gone_is_forgotten_and_who_wants_the_same_waits_together() {
        let mut queue = Queue::default();
        let (one, first) = oneshot::channel();
        let (two, second) = oneshot::channel();
        let (three, third) = oneshot::channel();
        queue.add(peer(1), vec![one]);
        queue.add(peer(2), vec![two]);
        queue.add(peer(1), vec![three]);
        assert_eq!(queue.0.iter().map(|(_, waiting)| waiting.len()).collect::<Vec<_>>(), [2, 1]);
        drop((first, second));
        queue.forget_gone();
        assert_eq!(queue.0.iter().map(|(_, waiting)| waiting.len()).collect::<Vec<_>>(), [1]);
        tell(queue.take(&NodeId::from_bytes([1; 32])), &Err(Error::new(ErrorKind::Unavailable, "no")));
        assert_eq!(futures::executor::block_on(third).unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(queue.0.is_empty() && queue.take(&NodeId::from_bytes([1; 32])).is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut queue = Queue::default();
        let mut callers = Vec::new();
        for number in 0..MAX_QUEUED {
            assert!(!queue.is_full(), "{number}");
            let (waiting, caller) = oneshot::channel();
            callers.push(caller);
            let address = format!("/ip4/192.0.2.1/tcp/{}", number + 1).parse().unwrap();
            queue.add(Wanted::Address(address, None), vec![waiting]);
        }
        assert!(queue.is_full());
        callers.pop();
        queue.forget_gone();
        assert!(!queue.is_full());
    }
}
