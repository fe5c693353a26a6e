//! Several ways to the same peers: for each peer the cheapest that reaches it.
//!
//! [`Ways`] is a transport over transports. It prefers the same process to the same machine, and that to the network,
//! as [`Transport::way`] tells; among those of one kind the faster. A way that breaks is passed over for a while, one
//! that is far slower than a dearer one gives way to it. What breaks before it was handled goes by the next way; what
//! may have been handled fails, as the port says.

mod choice;
mod presence;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datamesh_core::id::NodeId;
use datamesh_core::ports::{
    Address, DynTransport, Inbound, Message, PeerRoute, Reach, Runtime, Transport, TransportEvent, Way,
    WayStatus,
};
use datamesh_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::{self, BoxFuture};

use choice::{Measured, Seen, order, try_second};
use presence::Presence;

/// Of so many small requests to a peer one goes by its second-best way, so that the two can be compared.
const TRY_EVERY: u64 = 64;

/// Messages up to this size measure how long a way takes, longer ones how much it carries.
const SMALL: usize = 16 << 10;

/// Peers that are kept connected, as the port says; and some that only dialled this node.
const MAX_MEASURED: usize = 8192;

/// A transport that takes for each peer the cheapest of several.
pub struct Ways {
    local: NodeId,
    /// The cheapest first.
    ways: Vec<Arc<dyn DynTransport>>,
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
    /// Which way is asked first for what comes in, so that none waits for another.
    turn: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What was measured on each way to each peer.
    peers: BTreeMap<NodeId, Peer>,
    presence: Presence,
    /// What was told last, as far as nobody has taken it: two events at most.
    told: VecDeque<TransportEvent>,
    /// All peers together, by way.
    totals: Vec<Measured>,
}

struct Peer {
    ways: Vec<Measured>,
    /// Small requests so far.
    small: u64,
}

impl Ways {
    /// One transport of these; the order counts among those of the same kind.
    ///
    /// # Errors
    /// `InvalidInput` when there is none, or when they speak for different nodes.
    pub fn new(mut ways: Vec<Arc<dyn DynTransport>>, runtime: Arc<dyn Runtime>) -> Result<Self> {
        ways.sort_by_key(|way| (**way).way());
        let invalid = |message: &str| Error::new(ErrorKind::InvalidInput, message);
        let first = ways.first().ok_or_else(|| invalid("there is no transport to choose from"))?;
        let local = (**first).local_node();
        if ways.iter().any(|way| (**way).local_node() != local) {
            return Err(invalid("the transports speak for different nodes"));
        }
        let state = State { totals: vec![Measured::default(); ways.len()], ..State::default() };
        let (turn, closed) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(Self { local, ways, runtime, state: Mutex::new(state), turn, closed })
    }

    fn each(&self) -> impl Iterator<Item = &dyn DynTransport> {
        self.ways.iter().map(|way| &**way)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Closed, "the transport is closed; open it again")),
            false => Ok(()),
        }
    }

    /// The ways to a peer as they are now.
    fn seen<'a>(&self, node: NodeId, measured: &'a [Measured]) -> Vec<Seen<'a>> {
        let ways = self.each().zip(measured);
        ways.map(|(way, measured)| Seen { way: way.way(), connected: way.is_connected(node), measured })
            .collect()
    }

    /// The ways to a peer, the one to take first.
    fn order(&self, node: NodeId, measured: &[Measured]) -> Vec<usize> {
        order(&self.seen(node, measured), self.runtime.now())
    }

    /// The ways for a request, in the order in which they are tried.
    fn plan(&self, node: NodeId, small: bool) -> Vec<usize> {
        let count = self.ways.len();
        let mut state = self.state();
        let is_full = state.peers.len() >= MAX_MEASURED;
        if is_full && !state.peers.contains_key(&node) {
            drop(state);
            return self.order(node, &vec![Measured::default(); count]);
        }
        let peer = state.peers.entry(node).or_insert_with(|| Peer::new(count));
        peer.small = peer.small.wrapping_add(u64::from(small));
        let tries = small && peer.small.is_multiple_of(TRY_EVERY);
        let measured = peer.ways.clone();
        drop(state);
        let (seen, now) = (self.seen(node, &measured), self.runtime.now());
        let mut order = order(&seen, now);
        if tries {
            try_second(&mut order, &seen, now);
        }
        order
    }

    fn note(&self, node: NodeId, way: usize, note: impl Fn(&mut Measured)) {
        let mut state = self.state();
        state.totals.get_mut(way).into_iter().for_each(&note);
        let peer = state.peers.get_mut(&node).and_then(|peer| peer.ways.get_mut(way));
        peer.into_iter().for_each(&note);
    }

    /// Makes a call by one way, and notes what came of it.
    async fn call_by(&self, way: usize, node: NodeId, request: &Message, left: Duration) -> Result<Message> {
        let transport = self.each().nth(way).ok_or_else(|| unreachable_node(node))?;
        let begun = self.runtime.now();
        let answer = transport.call(node, request.clone(), left).await;
        let now = self.runtime.now();
        match &answer {
            Ok(reply) => {
                let bytes = size(request).saturating_add(size(reply));
                self.note(node, way, |measured| measured.answered(bytes, bytes <= SMALL, begun, now));
            }
            Err(error) if breaks(error.kind()) => {
                tracing::debug!(node = %node.fmt_short(), way = %transport.way(), %error, "a way failed");
                self.note(node, way, |measured| measured.failed(now));
            }
            Err(_) => {}
        }
        answer
    }

    /// The first thing that any of the ways yields; `None` when all are closed.
    async fn first<'a, T>(
        &'a self,
        next: impl Fn(usize, &'a dyn DynTransport) -> BoxFuture<'a, Option<T>>,
    ) -> Option<T> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut waiting: Vec<_> = self.each().enumerate().map(|(number, way)| next(number, way)).collect();
        waiting.rotate_left(turn % self.ways.len().max(1));
        while !waiting.is_empty() {
            let (value, _, rest) = future::select_all(waiting).await;
            if value.is_some() {
                return value;
            }
            waiting = rest;
        }
        None
    }

    /// Notes what an event of one way means for all of them.
    fn translate(&self, way: usize, event: TransportEvent) {
        let event = match event {
            TransportEvent::Listening(_) => TransportEvent::Listening(Transport::listen_addresses(self)),
            other => other,
        };
        let is_up_elsewhere = |node| {
            let mut others = self.each().enumerate().filter(|(number, _)| *number != way);
            others.any(|(_, other)| other.is_connected(node))
        };
        let is_up_elsewhere = matches!(&event, TransportEvent::Disconnected(node) if is_up_elsewhere(*node));
        let now = self.runtime.now();
        let mut state = self.state();
        let told = match event {
            TransportEvent::Connected(node) => state.presence.connected(way, node),
            TransportEvent::Disconnected(node) => {
                state.presence.disconnected(way, node, is_up_elsewhere, now)
            }
            other => vec![other],
        };
        state.told.extend(told);
    }
}

impl Transport for Ways {
    fn local_node(&self) -> NodeId {
        self.local
    }

    fn way(&self) -> Way {
        self.each().map(|way| way.way()).max().unwrap_or(Way::Network)
    }

    fn way_of(&self, address: &Address) -> Option<Way> {
        self.each().find_map(|way| way.way_of(address))
    }

    fn ways_to(&self, node: NodeId) -> Vec<WayStatus> {
        let none = || vec![Measured::default(); self.ways.len()];
        let measured = self.state().peers.get(&node).map_or_else(none, |peer| peer.ways.clone());
        let chosen = self.order(node, &measured).first().copied();
        let status = |(number, (way, measured)): (usize, (&dyn DynTransport, &Measured))| {
            let connected = way.is_connected(node);
            measured.status(way.way(), connected, connected && Some(number) == chosen)
        };
        self.each().zip(&measured).enumerate().map(status).collect()
    }

    fn way_totals(&self) -> Vec<WayStatus> {
        let totals = self.state().totals.clone();
        let status = |(way, measured): (&dyn DynTransport, &Measured)| {
            let connected = !way.connected().is_empty();
            measured.status(way.way(), connected, connected)
        };
        self.each().zip(&totals).map(status).collect()
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.check_open()?;
        if node == self.local {
            let message = "a node does not call itself over the network";
            return Err(Error::new(ErrorKind::InvalidInput, message).with_node(node));
        }
        let begun = self.runtime.now();
        let mut failed = None;
        for way in self.plan(node, size(&request) <= SMALL) {
            let left = limit.saturating_sub(self.runtime.now() - begun);
            match self.call_by(way, node, &request, left).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    // What the dearest way says, says most: it tried a network.
                    failed = Some(error);
                }
                // This way alone was closed, and had not sent the request.
                Err(error) if error.kind() == ErrorKind::Closed => {
                    self.check_open()?;
                    let message = "the way to this node was closed";
                    failed =
                        Some(Error::new(ErrorKind::Unavailable, message).with_node(node).with_source(error));
                }
                answer => return answer,
            }
        }
        self.check_open()?;
        Err(failed.unwrap_or_else(|| unreachable_node(node)))
    }

    async fn accept(&self) -> Option<Inbound> {
        self.first(|_, way| way.accept()).await
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        loop {
            let told = self.state().told.pop_front();
            if told.is_some() {
                return told;
            }
            let next = self.first(|way, transport| {
                transport.next_event().map(move |event| event.map(|event| (way, event))).boxed()
            });
            let (way, event) = next.await?;
            self.translate(way, event);
        }
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.check_open()?;
        let begun = self.runtime.now();
        let mut failed: Option<Error> = None;
        for way in self.each() {
            let left = limit.saturating_sub(self.runtime.now() - begun);
            match way.connect(address.clone(), left).await {
                Ok(node) => return Ok(node),
                // A way that cannot read the address says least.
                Err(error) if failed.is_some() && error.kind() == ErrorKind::InvalidInput => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| unreachable_node(self.local)))
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        let known: BTreeSet<NodeId> = peers.iter().map(|route| route.node).collect();
        self.state().peers.retain(|node, _| known.contains(node));
        self.each().for_each(|way| way.set_peers(peers.clone()));
    }

    fn refuse(&self, nodes: Vec<NodeId>) {
        self.each().for_each(|way| way.refuse(nodes.clone()));
    }

    fn connected(&self) -> Vec<NodeId> {
        let all: BTreeSet<NodeId> = self.each().flat_map(|way| way.connected()).collect();
        all.into_iter().collect()
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.each().any(|way| way.is_connected(node))
    }

    fn listen_addresses(&self) -> Vec<Address> {
        self.each().flat_map(|way| way.listen_addresses()).collect()
    }

    fn reach(&self, node: NodeId) -> Option<Reach> {
        let none = || vec![Measured::default(); self.ways.len()];
        let measured = self.state().peers.get(&node).map_or_else(none, |peer| peer.ways.clone());
        let chosen = self.order(node, &measured).first().copied()?;
        self.each().nth(chosen).filter(|way| way.is_connected(node))?.reach(node)
    }

    fn close(&self) -> impl Future<Output = ()> + Send {
        self.closed.store(true, Ordering::Release);
        self.state().told.clear();
        async { drop(future::join_all(self.each().map(|way| way.close())).await) }
    }
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ways).finish()
    }
}

impl Peer {
    fn new(ways: usize) -> Self {
        Self { ways: vec![Measured::default(); ways], small: 0 }
    }
}

/// Whether a failure says that the way is at fault, or may be.
fn breaks(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::OutcomeUnknown | ErrorKind::TimedOut | ErrorKind::Closed
    )
}

fn size(message: &Message) -> usize {
    message.head.len().saturating_add(message.body.len())
}

fn unreachable_node(node: NodeId) -> Error {
    Error::new(ErrorKind::Unavailable, "no way leads to this node").with_node(node)
}
