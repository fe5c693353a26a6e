//! What the transport knows of its peers, shared by its own thread and the callers.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Inbound, MAX_BODY_LEN, MAX_HEAD_LEN, PeerRoute, TransportEvent};
use libp2p::PeerId;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::buffers::Buffers;
use super::config::Limits;
use super::proof::ProofKey;
use super::session::Session;

/// Requests that wait for `accept`; then the peers wait. A few for each of many peers.
const INBOUND_QUEUE: usize = 256;

/// Events that wait for `next_event`, as the port says.
const EVENT_QUEUE: usize = 1024;

/// Both ends of a bounded channel.
type Queue<T> = (async_channel::Sender<T>, async_channel::Receiver<T>);

/// Everything that the tasks of a transport share.
pub(super) struct Shared {
    pub(super) local: NodeId,
    pub(super) local_peer: PeerId,
    pub(super) key: ProofKey,
    pub(super) limits: Limits,
    pub(super) buffers: Buffers,
    pub(super) inbound: Queue<Inbound>,
    pub(super) events: Queue<TransportEvent>,
    pub(super) listening: Mutex<Vec<Address>>,
    pub(super) closed: AtomicBool,
    pub(super) runtime: Handle,
    pub(super) bytes: Budgets,
    /// Tells the transport's thread that the routes were replaced or that it shall end.
    pub(super) wake: Queue<()>,
    routes: Mutex<Routes>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
}

/// The peers that the mesh wants connected.
#[derive(Default)]
struct Routes {
    known: BTreeSet<NodeId>,
    /// The newest routes, until the transport's thread takes them.
    fresh: Option<Vec<PeerRoute>>,
}

impl Shared {
    pub(super) fn new(
        local: NodeId,
        local_peer: PeerId,
        key: ProofKey,
        mut limits: Limits,
        runtime: Handle,
    ) -> Self {
        // The longest message must pass, or it would wait for ever.
        let longest = MAX_HEAD_LEN + MAX_BODY_LEN;
        limits.bytes_per_peer = limits.bytes_per_peer.max(longest);
        limits.bytes_in_total = limits.bytes_in_total.max(longest);
        Self {
            local,
            local_peer,
            key,
            buffers: Buffers::default(),
            inbound: async_channel::bounded(INBOUND_QUEUE),
            events: async_channel::bounded(EVENT_QUEUE),
            listening: Mutex::default(),
            closed: AtomicBool::new(false),
            runtime,
            bytes: Budgets::new(limits.bytes_in_total),
            limits,
            wake: async_channel::bounded(1),
            routes: Mutex::default(),
            peers: RwLock::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells the mesh; a full queue drops its oldest event.
    pub(super) fn tell(&self, event: TransportEvent) {
        // A closed queue has no reader.
        let _ = self.events.0.force_send(event);
    }

    /// Replaces the known peers; the transport's thread takes the routes when it wakes.
    pub(super) fn set_routes(&self, routes: Vec<PeerRoute>) {
        if self.is_closed() {
            return;
        }
        let mut current = lock(&self.routes);
        let known: BTreeSet<_> = routes.iter().map(|route| route.node).collect();
        for node in &known {
            self.peer_or_new(*node).set_known(true);
        }
        for node in current.known.difference(&known) {
            self.peer_or_new(*node).set_known(false);
            self.forget_if_idle(node);
        }
        *current = Routes { known, fresh: Some(routes) };
        drop(current);
        self.wake_up();
    }

    pub(super) fn take_fresh_routes(&self) -> Option<Vec<PeerRoute>> {
        lock(&self.routes).fresh.take()
    }

    /// Asks the transport's thread to look; a full queue says that it will anyway.
    pub(super) fn wake_up(&self) {
        let _ = self.wake.0.try_send(());
    }

    /// A peer that is known or connected.
    pub(super) fn peer(&self, node: &NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// The record of a peer, made if there is none.
    pub(super) fn peer_or_new(&self, node: NodeId) -> Arc<Peer> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.entry(node).or_insert_with(|| Arc::new(Peer::new(node, &self.limits))).clone()
    }

    /// Forgets a peer that is neither known nor connected, now that something changed.
    pub(super) fn forget_if_idle(&self, node: &NodeId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.get(node).is_some_and(|peer| !peer.is_known() && peer.session().is_none()) {
            peers.remove(node);
        }
    }

    pub(super) fn connected(&self) -> Vec<NodeId> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|peer| peer.session().is_some()).map(|peer| peer.node).collect()
    }

    /// Ends every session and queue, so that nobody waits for what will not come.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let peers = std::mem::take(&mut *self.peers.write().unwrap_or_else(PoisonError::into_inner));
        for peer in peers.into_values() {
            if let Some(session) = peer.end_session() {
                session.close();
            }
        }
        lock(&self.listening).clear();
        self.inbound.1.close();
        while self.inbound.1.try_recv().is_ok() {}
        self.events.1.close();
        while self.events.1.try_recv().is_ok() {}
    }
}

/// Bytes of messages that may be under way.
pub(super) struct Budgets {
    pub(super) requests_sent: Semaphore,
    pub(super) requests_received: Semaphore,
    pub(super) replies_received: Semaphore,
}

impl Budgets {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self {
            requests_sent: Semaphore::new(bytes),
            requests_received: Semaphore::new(bytes),
            replies_received: Semaphore::new(bytes),
        }
    }
}

/// One peer.
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) bytes: Budgets,
    /// Calls that are let in.
    pub(super) calls: async_lock::Semaphore,
    known: AtomicBool,
    session: Mutex<Option<Arc<Session>>>,
}

impl Peer {
    fn new(node: NodeId, limits: &Limits) -> Self {
        Self {
            node,
            bytes: Budgets::new(limits.bytes_per_peer),
            calls: async_lock::Semaphore::new(limits.calls_per_peer),
            known: AtomicBool::new(false),
            session: Mutex::default(),
        }
    }

    /// Whether an address of the peer is known.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub(super) fn set_known(&self, known: bool) {
        self.known.store(known, Ordering::Release);
    }

    /// The session while the peer is connected.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        lock(&self.session).clone()
    }

    /// The session, begun if there is none; and whether it was begun.
    pub(super) fn session_or_new(&self, new: impl FnOnce() -> Session) -> (Arc<Session>, bool) {
        let mut session = lock(&self.session);
        let is_new = session.is_none();
        (session.get_or_insert_with(|| Arc::new(new())).clone(), is_new)
    }

    pub(super) fn end_session(&self) -> Option<Arc<Session>> {
        lock(&self.session).take()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
