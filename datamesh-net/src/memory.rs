//! The network of one process: bodies pass as [`Bytes`](bytes::Bytes), without a copy.
//!
//! A [`MemoryNetwork`] is a hub that nodes join. Two nodes are connected while both have joined, one
//! of them knows the other (`set_peers` or `connect`), and nobody has put a [partition](MemoryNetwork::partition)
//! between them.

mod deadlines;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_lock::{Semaphore, SemaphoreGuardArc};
use datamesh_core::id::NodeId;
use datamesh_core::ports::{
    Address, Inbound, MAX_BODY_LEN, MAX_HEAD_LEN, Message, PeerRoute, ReplySender, Runtime, Transport,
    TransportEvent, Way,
};
use datamesh_core::{Error, ErrorKind, Result};
use futures::future::{self, Either};

use deadlines::Deadlines;

/// Requests that wait for `accept` on one node; then the callers wait. A few for each of many peers.
pub const INBOUND_QUEUE: usize = 256;

/// Requests under way from one node to one peer; then further callers wait.
pub const IN_FLIGHT_PER_PEER: usize = 64;

/// Peers that one node keeps connected, as the port says.
const MAX_PEERS: usize = 4096;

/// Nodes that get no connection, as the port says.
const MAX_REFUSED: usize = 4096;

/// Events that wait for `next_event`, as the port says.
const EVENT_QUEUE: usize = 1024;

/// What the text of an address of this network begins with.
const ADDRESS_PREFIX: &str = "/memory/";

/// A network of nodes in one process. A clone is the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    hub: Arc<Mutex<Hub>>,
}

impl MemoryNetwork {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a node in. It leaves when its transport is closed or dropped.
    ///
    /// # Errors
    /// `AlreadyExists` when a node of this name is in the network.
    pub fn join(&self, node: NodeId, runtime: Arc<dyn Runtime>) -> Result<MemoryTransport> {
        let member = Arc::new(Node::new(node));
        let mut hub = lock(&self.hub);
        if hub.nodes.contains_key(&node) {
            let message = "a node of this name is in the network; close it first";
            return Err(Error::new(ErrorKind::AlreadyExists, message).with_node(node));
        }
        hub.nodes.insert(node, member.clone());
        hub.relink(&member);
        let _ = member.events.0.force_send(TransportEvent::Listening(vec![address_of(node)]));
        let deadlines = Deadlines::new(runtime.clone());
        Ok(MemoryTransport { network: self.clone(), node: member, runtime, deadlines })
    }

    /// Cuts the way between two nodes, now and until [`heal`](Self::heal).
    pub fn partition(&self, a: NodeId, b: NodeId) {
        let mut hub = lock(&self.hub);
        hub.cuts.insert(pair(a, b));
        hub.unlink(a, b);
    }

    /// Opens the way between two nodes again; those that know each other connect at once.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        let mut hub = lock(&self.hub);
        hub.cuts.remove(&pair(a, b));
        if let Some(node) = hub.nodes.get(&a).cloned() {
            hub.relink(&node);
        }
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hub = lock(&self.hub);
        write!(f, "MemoryNetwork({} nodes, {} partitions)", hub.nodes.len(), hub.cuts.len())
    }
}

/// One node's place in a [`MemoryNetwork`].
pub struct MemoryTransport {
    network: MemoryNetwork,
    node: Arc<Node>,
    runtime: Arc<dyn Runtime>,
    deadlines: Arc<Deadlines>,
}

impl Transport for MemoryTransport {
    fn local_node(&self) -> NodeId {
        self.node.id
    }

    fn way(&self) -> Way {
        Way::SameProcess
    }

    fn way_of(&self, address: &Address) -> Option<Way> {
        node_of(address).map(|_| Way::SameProcess)
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.check_open()?;
        check_size(&request, "a request").map_err(|error| error.with_node(node))?;
        let link = self.link_to(node)?;
        let started = Started::default();
        let work = std::pin::pin!(self.exchange(&link, request, &started));
        let result = match future::select(work, self.deadlines.until(self.runtime.now() + limit)?).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(started.timed_out(limit)),
        };
        result.map_err(|error| error.with_node(node))
    }

    async fn accept(&self) -> Option<Inbound> {
        loop {
            let inbound = self.node.inbound.1.recv().await.ok()?;
            // Whoever is gone needs no answer, and has made room for others.
            if !inbound.reply.is_canceled() {
                return Some(inbound);
            }
        }
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        self.node.events.1.recv().await.ok()
    }

    async fn connect(&self, address: Address, _limit: Duration) -> Result<NodeId> {
        self.check_open()?;
        let node = node_of(&address).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "an address of this network reads /memory/<node id>")
                .with_subject(&address)
        })?;
        if node == self.node.id {
            return Err(Error::new(ErrorKind::InvalidInput, "this address is the local node").with_node(node));
        }
        let mut hub = lock(&self.network.hub);
        match hub.nodes.get(&node).cloned() {
            Some(peer) if self.node.refuses(&peer) => {
                Err(Error::new(ErrorKind::AccessDenied, "the node was revoked").with_node(node))
            }
            Some(peer) if hub.link(&self.node, &peer) => Ok(node),
            _ => Err(unreachable_node(node)),
        }
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        let known = peers
            .into_iter()
            .take(MAX_PEERS)
            .filter(|route| route.addresses.iter().take(16).any(|a| node_of(a) == Some(route.node)))
            .map(|route| route.node)
            .collect();
        *lock(&self.node.known) = known;
        lock(&self.network.hub).relink(&self.node);
    }

    fn refuse(&self, nodes: Vec<NodeId>) {
        let refused: BTreeSet<NodeId> = nodes.into_iter().take(MAX_REFUSED).collect();
        let mut hub = lock(&self.network.hub);
        refused.iter().for_each(|node| hub.unlink(self.node.id, *node));
        *lock(&self.node.refused) = refused;
        hub.relink(&self.node);
    }

    fn connected(&self) -> Vec<NodeId> {
        read(&self.node.links).keys().copied().collect()
    }

    fn is_connected(&self, node: NodeId) -> bool {
        read(&self.node.links).contains_key(&node)
    }

    fn listen_addresses(&self) -> Vec<Address> {
        if self.node.closed.load(Ordering::Acquire) { Vec::new() } else { vec![address_of(self.node.id)] }
    }

    async fn close(&self) {
        self.leave();
    }
}

impl MemoryTransport {
    fn check_open(&self) -> Result<()> {
        if self.node.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    fn link_to(&self, node: NodeId) -> Result<Arc<Link>> {
        if let Some(link) = read(&self.node.links).get(&node) {
            return Ok(link.clone());
        }
        if node == self.node.id {
            let message = "a node does not call itself over the network";
            return Err(Error::new(ErrorKind::InvalidInput, message).with_node(node));
        }
        let known = lock(&self.node.known).contains(&node);
        Err(if known { unreachable_node(node) } else { unknown_node(node) })
    }

    /// Sends over a link and waits for the reply, or until the link is cut.
    async fn exchange(&self, link: &Link, request: Message, started: &Started) -> Result<Message> {
        let cut = std::pin::pin!(link.cut.1.recv());
        let work = std::pin::pin!(self.ask(link, request, started));
        match future::select(work, cut).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(self.broken(started)),
        }
    }

    async fn ask(&self, link: &Link, request: Message, started: &Started) -> Result<Message> {
        let _slot: SemaphoreGuardArc = link.slots.acquire_arc().await;
        let (reply, answer) = ReplySender::pair();
        let inbound = Inbound { from: self.node.id, message: request, reply };
        link.peer.inbound.0.send(inbound).await.map_err(|_| self.broken(started))?;
        started.0.store(true, Ordering::Relaxed);
        let reply = answer.await.map_err(|_| self.broken(started))?;
        check_size(&reply, "the reply")?;
        Ok(reply)
    }

    /// What a broken link means for a request that was or was not handed over.
    fn broken(&self, started: &Started) -> Error {
        let is_closed = self.node.closed.load(Ordering::Acquire);
        let unknown = |text| Error::new(ErrorKind::OutcomeUnknown, text);
        match (started.0.load(Ordering::Relaxed), is_closed) {
            (true, true) => unknown("the transport was closed before the reply came"),
            (true, false) => unknown("the peer went away with the request; ask it again"),
            (false, true) => closed(),
            (false, false) => {
                Error::new(ErrorKind::Unavailable, "the peer went away before it took the request")
            }
        }
    }

    fn leave(&self) {
        if self.node.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // The links are cut with it, so that every call ends.
        lock(&self.network.hub).remove(&self.node);
        self.deadlines.close();
        self.node.inbound.1.close();
        while self.node.inbound.1.try_recv().is_ok() {}
        self.node.events.1.close();
        while self.node.events.1.try_recv().is_ok() {}
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryTransport({}, {} links)", self.node.id.fmt_short(), read(&self.node.links).len())
    }
}

/// Whether a request has reached the peer's queue.
#[derive(Default)]
struct Started(AtomicBool);

impl Started {
    fn timed_out(&self, limit: Duration) -> Error {
        let what = if self.0.load(Ordering::Relaxed) { "no reply" } else { "no room at the peer" };
        Error::new(ErrorKind::TimedOut, format!("{what} within {} ms", limit.as_millis()))
    }
}

/// Who is there, and who cannot reach whom.
#[derive(Default)]
struct Hub {
    nodes: BTreeMap<NodeId, Arc<Node>>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

/// A node as the others see it.
struct Node {
    id: NodeId,
    inbound: (Sender<Inbound>, Receiver<Inbound>),
    events: (Sender<TransportEvent>, Receiver<TransportEvent>),
    known: Mutex<BTreeSet<NodeId>>,
    refused: Mutex<BTreeSet<NodeId>>,
    links: RwLock<HashMap<NodeId, Arc<Link>>>,
    closed: AtomicBool,
}

/// The way from one node to a peer.
struct Link {
    peer: Arc<Node>,
    slots: Arc<Semaphore>,
    /// Nothing is ever sent: the channel is closed when the link is cut.
    cut: (Sender<()>, Receiver<()>),
}

impl Hub {
    /// Connects a node with every node that it knows or that knows it.
    fn relink(&mut self, node: &Arc<Node>) {
        let known = lock(&node.known).clone();
        let others = self
            .nodes
            .values()
            .filter(|other| known.contains(&other.id) || lock(&other.known).contains(&node.id));
        for other in others.cloned().collect::<Vec<_>>() {
            self.link(node, &other);
        }
    }

    /// Connects two nodes; whether they are connected now.
    fn link(&mut self, a: &Arc<Node>, b: &Arc<Node>) -> bool {
        let both_up = self.nodes.contains_key(&a.id) && self.nodes.contains_key(&b.id);
        if a.id == b.id || !both_up || self.cuts.contains(&pair(a.id, b.id)) {
            return false;
        }
        if a.refuses(b) || b.refuses(a) {
            return false;
        }
        a.add_link(b);
        b.add_link(a);
        true
    }

    fn unlink(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(node) = self.nodes.get(&from) {
                node.remove_link(to);
            }
        }
    }

    fn remove(&mut self, node: &Arc<Node>) {
        let peers: Vec<_> = read(&node.links).keys().copied().collect();
        for peer in peers {
            self.unlink(node.id, peer);
        }
        self.nodes.remove(&node.id);
    }
}

impl Node {
    fn new(id: NodeId) -> Self {
        Self {
            id,
            inbound: async_channel::bounded(INBOUND_QUEUE),
            events: async_channel::bounded(EVENT_QUEUE),
            known: Mutex::default(),
            refused: Mutex::default(),
            links: RwLock::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn refuses(&self, peer: &Self) -> bool {
        lock(&self.refused).contains(&peer.id)
    }

    fn add_link(&self, peer: &Arc<Node>) {
        let mut links = write(&self.links);
        if links.contains_key(&peer.id) {
            return;
        }
        let slots = Arc::new(Semaphore::new(IN_FLIGHT_PER_PEER));
        links.insert(peer.id, Arc::new(Link { peer: peer.clone(), slots, cut: async_channel::bounded(1) }));
        // A full queue drops its oldest event, and a closed one has no reader.
        let _ = self.events.0.force_send(TransportEvent::Connected(peer.id));
    }

    fn remove_link(&self, peer: NodeId) {
        if let Some(link) = write(&self.links).remove(&peer) {
            link.cut.0.close();
            let _ = self.events.0.force_send(TransportEvent::Disconnected(peer));
        }
    }
}

/// The address of a node in this network.
fn address_of(node: NodeId) -> Address {
    // 60 printable characters are always an address; an empty list would hide the node for ever.
    format!("{ADDRESS_PREFIX}{node}").parse().unwrap_or_else(|error| unreachable!("{error:?}"))
}

fn node_of(address: &Address) -> Option<NodeId> {
    address.as_str().strip_prefix(ADDRESS_PREFIX)?.parse().ok()
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    if a < b { (a, b) } else { (b, a) }
}

fn check_size(message: &Message, what: &str) -> Result<()> {
    let (head, body) = (message.head.len(), message.body.len());
    if head <= MAX_HEAD_LEN && body <= MAX_BODY_LEN {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::LimitExceeded,
        format!(
            "{what} has a head of {head} and a body of {body} bytes; at most {MAX_HEAD_LEN} and {MAX_BODY_LEN} pass"
        ),
    ))
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the transport is closed; open it again")
}

fn unknown_node(node: NodeId) -> Error {
    Error::new(ErrorKind::Unavailable, "no address of this node is known; set_peers or connect first")
        .with_node(node)
}

fn unreachable_node(node: NodeId) -> Error {
    Error::new(ErrorKind::Unavailable, "the node is not in the network, or a partition lies between")
        .with_node(node)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
