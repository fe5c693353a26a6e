//! What the transport knows of its peers, shared by its own thread and the callers.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Inbound, PeerRoute, TransportEvent};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::budget::Budget;
use super::buffers::Buffers;
use super::limits::Limits;
use super::session::Session;

/// Requests that wait for `accept`; then the peers wait. A few for each of many peers.
const INBOUND_QUEUE: usize = 256;

/// Events that wait for `next_event`, as the port says.
const EVENT_QUEUE: usize = 1024;

/// Both ends of a bounded channel.
type Queue<T> = (async_channel::Sender<T>, async_channel::Receiver<T>);

/// Everything that the tasks of a transport share.
pub(crate) struct Shared {
    pub(crate) local: NodeId,
    pub(crate) limits: Limits,
    pub(crate) buffers: Buffers,
    pub(crate) inbound: Queue<Inbound>,
    pub(crate) events: Queue<TransportEvent>,
    pub(crate) listening: Mutex<Vec<Address>>,
    pub(crate) closed: AtomicBool,
    /// Whether somebody said that the machine has slept.
    #[cfg(feature = "libp2p")]
    woke: AtomicBool,
    pub(crate) runtime: Handle,
    pub(crate) bytes: Budgets,
    /// Tells the transport's thread that the routes were replaced or that it shall end.
    pub(crate) wake: Queue<()>,
    routes: Mutex<Routes>,
    /// Who gets no connection.
    refused: RwLock<BTreeSet<NodeId>>,
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
    pub(crate) fn new(local: NodeId, limits: Limits, runtime: Handle) -> Self {
        let limits = limits.made_whole();
        Self {
            local,
            buffers: Buffers::default(),
            inbound: async_channel::bounded(INBOUND_QUEUE),
            events: async_channel::bounded(EVENT_QUEUE),
            listening: Mutex::default(),
            closed: AtomicBool::new(false),
            #[cfg(feature = "libp2p")]
            woke: AtomicBool::new(false),
            runtime,
            bytes: Budgets::of(|| Budget::of_all(limits.bytes_in_total)),
            limits,
            wake: async_channel::bounded(1),
            routes: Mutex::default(),
            refused: RwLock::default(),
            peers: RwLock::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells the mesh; a full queue drops its oldest event. Strangers fill no more than half of it, so that a flood
    /// of them hides nothing that is told of members.
    pub(crate) fn tell(&self, event: TransportEvent) {
        let is_of_strangers = matches!(event, TransportEvent::Refused(_));
        if is_of_strangers && self.events.0.len() >= EVENT_QUEUE / 2 {
            return;
        }
        // A closed queue has no reader.
        let _ = self.events.0.force_send(event);
    }

    /// Replaces the known peers; the transport's thread takes the routes when it wakes.
    pub(crate) fn set_routes(&self, routes: Vec<PeerRoute>) {
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

    pub(crate) fn take_fresh_routes(&self) -> Option<Vec<PeerRoute>> {
        lock(&self.routes).fresh.take()
    }

    /// Replaces the set of those who get no connection; the transport's thread closes what they have when it wakes.
    pub(crate) fn refuse(&self, nodes: BTreeSet<NodeId>) {
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = nodes;
        self.wake_up();
    }

    pub(crate) fn is_refused(&self, node: &NodeId) -> bool {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).contains(node)
    }

    /// Who gets no connection.
    #[cfg(feature = "kad")]
    pub(crate) fn refused(&self) -> BTreeSet<NodeId> {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the transport's thread to look; a full queue says that it will anyway.
    pub(crate) fn wake_up(&self) {
        let _ = self.wake.0.try_send(());
    }

    /// Tells the transport's thread that the machine has slept.
    #[cfg(feature = "libp2p")]
    pub(crate) fn say_awake(&self) {
        self.woke.store(true, Ordering::Release);
        self.wake_up();
    }

    /// Whether that was said since the last look.
    #[cfg(feature = "libp2p")]
    pub(crate) fn take_awake(&self) -> bool {
        self.woke.swap(false, Ordering::AcqRel)
    }

    /// A peer that is known or connected.
    pub(crate) fn peer(&self, node: &NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// The record of a peer, made if there is none.
    pub(crate) fn peer_or_new(&self, node: NodeId) -> Arc<Peer> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.entry(node).or_insert_with(|| Arc::new(Peer::new(node, &self.limits))).clone()
    }

    /// Forgets a peer that is neither known nor connected, now that something changed.
    pub(crate) fn forget_if_idle(&self, node: &NodeId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.get_mut(node).is_some_and(is_idle) {
            peers.remove(node);
        }
    }

    pub(crate) fn is_connected(&self, node: &NodeId) -> bool {
        self.peer(node).is_some_and(|peer| peer.session().is_some())
    }

    pub(crate) fn connected(&self) -> Vec<NodeId> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|peer| peer.session().is_some()).map(|peer| peer.node).collect()
    }

    /// Closes the streams to all peers that have been idle for long, forgets the peers whose records were still held when
    /// they went away, and gives back the buffers that nobody uses.
    pub(crate) fn close_idle(&self, now: Instant) {
        self.buffers.trim(now);
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter_map(|peer| peer.session()).for_each(|session| session.close_idle());
        drop(peers);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, peer| !is_idle(peer));
    }

    /// Ends every session and queue, so that nobody waits for what will not come.
    pub(crate) fn close(&self) {
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
pub(crate) struct Budgets {
    pub(crate) requests_sent: Budget,
    pub(crate) requests_received: Budget,
    pub(crate) replies_sent: Budget,
    pub(crate) replies_received: Budget,
}

impl Budgets {
    fn of(new: impl Fn() -> Budget) -> Self {
        Self { requests_sent: new(), requests_received: new(), replies_sent: new(), replies_received: new() }
    }
}

/// One peer.
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) bytes: Budgets,
    /// Calls that are let in.
    pub(crate) calls: async_lock::Semaphore,
    /// Requests of the peer that are handled.
    pub(crate) requests: Semaphore,
    /// A large reply to the peer that waits for room: no more than one.
    pub(crate) waits: Semaphore,
    known: AtomicBool,
    session: Mutex<Option<Arc<Session>>>,
}

impl Peer {
    fn new(node: NodeId, limits: &Limits) -> Self {
        Self {
            node,
            bytes: Budgets::of(|| Budget::of_peer(limits.bytes_per_peer)),
            calls: async_lock::Semaphore::new(limits.calls_per_peer),
            requests: Semaphore::new(limits.requests_per_peer),
            waits: Semaphore::new(1),
            known: AtomicBool::new(false),
            session: Mutex::default(),
        }
    }

    /// Whether an address of the peer is known.
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub(crate) fn set_known(&self, known: bool) {
        self.known.store(known, Ordering::Release);
    }

    /// The session while the peer is connected.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        lock(&self.session).clone()
    }

    /// The session, begun if there is none; and whether it was begun.
    pub(crate) fn session_or_new(&self, new: impl FnOnce() -> Session) -> (Arc<Session>, bool) {
        let mut session = lock(&self.session);
        let is_new = session.is_none();
        (session.get_or_insert_with(|| Arc::new(new())).clone(), is_new)
    }

    pub(crate) fn end_session(&self) -> Option<Arc<Session>> {
        lock(&self.session).take()
    }
}

/// Whether a peer is neither known nor connected, and nobody else holds its record: what goes on with it counts among
/// the limits of the peer, and whoever asked for it may be about to connect.
fn is_idle(peer: &mut Arc<Peer>) -> bool {
    // This sees all that the others did before they let go, which a mere count would not.
    Arc::get_mut(peer).is_some_and(|peer| !peer.is_known() && peer.session().is_none())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::buffers::KEPT_FOR;
    use super::*;

    fn shared() -> (tokio::runtime::Runtime, Shared) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shared = Shared::new(NodeId::from_bytes([1; 32]), Limits::default(), runtime.handle().clone());
        (runtime, shared)
    }

    #[test]
    fn an_idle_transport_keeps_no_buffers() {
        let (_runtime, shared) = shared();
        drop(shared.buffers.lease(1 << 20, 1 << 20));
        let now = Instant::now();
        shared.close_idle(now);
        assert_eq!(shared.buffers.kept(), [1 << 20]);
        shared.close_idle(now + KEPT_FOR);
        assert_eq!(shared.buffers.kept(), [0; 0]);
    }

    #[test]
    fn a_peer_is_forgotten_when_nobody_holds_its_record() {
        let (_runtime, shared) = shared();
        let node = NodeId::from_bytes([2; 32]);
        let is_kept = || shared.peer(&node).is_some();
        // A stream that is still served, and a connection that comes meanwhile.
        let served = shared.peer_or_new(node);
        let taken = served.requests.try_acquire().unwrap();
        shared.forget_if_idle(&node);
        let again = shared.peer_or_new(node);
        assert!(Arc::ptr_eq(&served, &again), "the limits begin anew");
        let (session, is_new) = again.session_or_new(|| Session::new(&shared.limits, shared.runtime.clone()));
        assert!(is_new);
        drop(taken);
        drop((again, served, session));
        shared.forget_if_idle(&node);
        assert!(is_kept() && shared.is_connected(&node));
        // What was held when the peer went away is forgotten later.
        let held = shared.peer_or_new(node);
        held.end_session();
        shared.forget_if_idle(&node);
        shared.close_idle(Instant::now());
        assert!(is_kept());
        drop(held);
        shared.close_idle(Instant::now());
        assert!(!is_kept());
        shared.peer_or_new(node).set_known(true);
        shared.close_idle(Instant::now());
        shared.forget_if_idle(&node);
        assert!(is_kept());
        shared.peer_or_new(node).set_known(false);
        shared.forget_if_idle(&node);
        assert!(!is_kept());
    }

    #[test]
    fn a_flood_of_strangers_hides_no_event_of_members() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let node = NodeId::from_bytes([1; 32]);
        let shared = Shared::new(node, Limits::default(), runtime.handle().clone());
        shared.tell(TransportEvent::Connected(node));
        for number in 0..2 * EVENT_QUEUE {
            shared.tell(TransportEvent::Refused(number.to_string()));
        }
        for _ in 0..EVENT_QUEUE / 2 {
            shared.tell(TransportEvent::Disconnected(node));
        }
        assert_eq!(shared.events.1.try_recv().unwrap(), TransportEvent::Connected(node));
        assert_eq!(shared.events.1.try_recv().unwrap(), TransportEvent::Refused("0".into()));
        // Members' own events push out the oldest, as the port says.
        for _ in 0..EVENT_QUEUE {
            shared.tell(TransportEvent::Disconnected(node));
        }
        assert_eq!(shared.events.1.len(), EVENT_QUEUE);
        assert_eq!(shared.events.1.try_recv().unwrap(), TransportEvent::Disconnected(node));
    }
}
