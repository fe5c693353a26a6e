//! The transport's own thread: the swarm, the dials and what becomes of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{PeerRoute, TransportEvent};
use datamesh_core::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};

use super::behaviour::{Behaviour, BehaviourEvent, Told};
use super::failure::{deepest, explain, refused, unknown};
use super::handler::FromHandler;
use super::names;
use super::peers::{Shared, lock};
use super::session::{Link, Session};

/// Dials to known peers at the same time; the rest waits its turn.
const DIALS: usize = 48;

/// The first wait before a known peer is dialled again; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The longest wait before a known peer is dialled again.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The age at which a connection is certain to have been seen by both ends.
const SETTLED: Duration = Duration::from_secs(1);

/// How long the end waits for the peers to hear of it.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the transport's thread is asked for.
pub(super) enum Command {
    /// Dial a known peer, or join the dial under way.
    Dial(NodeId, Dialled),
    /// Dial an address.
    Connect(Multiaddr, Option<PeerId>, Dialled),
}

pub(super) type Commands = async_channel::Sender<Command>;

/// Hears what became of a dial.
type Dialled = oneshot::Sender<Result<NodeId>>;

/// A peer to keep connected.
struct Route {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    failures: u32,
    dial: Option<ConnectionId>,
    /// Whether a retry waits for its time.
    retrying: bool,
}

/// A dial under way: until its connection has proved the mesh key, or failed.
struct Dial {
    /// The known peer, or `None` for a dial by address.
    node: Option<NodeId>,
    waiting: Vec<Dialled>,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    swarm: Swarm<Behaviour>,
    commands: async_channel::Receiver<Command>,
    routes: HashMap<NodeId, Route>,
    dials: HashMap<ConnectionId, Dial>,
    retries: FuturesUnordered<BoxFuture<'static, NodeId>>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        swarm: Swarm<Behaviour>,
        commands: async_channel::Receiver<Command>,
    ) -> Self {
        let (routes, dials, retries) = Default::default();
        Self { shared, swarm, commands, routes, dials, retries }
    }

    /// Listens on all addresses, and returns when each listener has its port.
    pub(super) async fn listen(&mut self, addresses: Vec<Multiaddr>) -> Result<()> {
        let mut waiting = Vec::new();
        for address in addresses {
            names::probe(&address).map_err(|error| cannot_listen(&address, error))?;
            let listener = self.swarm.listen_on(address.clone());
            let listener = listener.map_err(|error| cannot_listen(&address, std::io::Error::other(error)))?;
            waiting.push(listener);
        }
        while !waiting.is_empty() {
            match self.swarm.select_next_some().await {
                SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                    return Err(Error::io("cannot listen; choose another port or address", error));
                }
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.retain(|listener| *listener != listener_id);
                    self.on_listening(&address, true);
                }
                event => self.on_event(event),
            }
        }
        Ok(())
    }

    /// Runs until the transport is closed.
    pub(super) async fn run(mut self) {
        let (shared, commands) = (self.shared.clone(), self.commands.clone());
        while !shared.is_closed() {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Ok(command) = commands.recv() => self.on_command(command),
                Some(node) = self.retries.next() => self.on_retry(node),
                _ = shared.wake.1.recv() => self.take_routes(),
            }
        }
        commands.close();
        shared.close();
        self.say_goodbye().await;
    }

    /// Closes the connections, so that the peers hear of it at once.
    async fn say_goodbye(mut self) {
        self.dials.clear();
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let gone = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, gone).await;
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Mesh(told)) => self.on_told(told),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) if ping.result.is_err() => {
                self.swarm.close_connection(ping.connection);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.on_closed(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.dial_failed(connection_id, &explain(error));
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                let why = deepest(&error);
                self.shared.tell(TransportEvent::Refused(format!("{send_back_addr}: {why}")));
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address, true),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_listening(&address, false),
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed once"),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "a listener is closed");
            }
            _ => {}
        }
    }

    fn on_listening(&self, address: &Multiaddr, is_new: bool) {
        let Ok(address) = address.to_string().parse() else { return };
        let mut listening = lock(&self.shared.listening);
        listening.retain(|known| *known != address);
        if is_new {
            listening.push(address);
        }
        self.shared.tell(TransportEvent::Listening(listening.clone()));
    }

    fn on_told(&mut self, told: Told) {
        match told.what {
            FromHandler::Proved(mailbox) => {
                self.on_proved(told.node, Link { id: told.connection, mailbox, since: Instant::now() });
            }
            FromHandler::Refused(why) => {
                tracing::debug!(node = %told.node, why, "a peer was refused");
                self.shared.tell(TransportEvent::Refused(format!("node {}: {why}", told.node)));
                self.dial_failed(told.connection, &refused(why).with_node(told.node));
                self.swarm.close_connection(told.connection);
            }
        }
    }

    fn on_proved(&mut self, node: NodeId, link: Link) {
        let connection = link.id;
        let Limits { pooled, most } = self.stream_limits();
        let runtime = self.shared.runtime.clone();
        let peer = self.shared.peer_or_new(node);
        let (session, is_new) = peer.session_or_new(|| Session::new(pooled, most, runtime));
        let dial = self.dials.remove(&connection);
        if dial.as_ref().is_some_and(|dial| dial.node.is_none()) && self.is_spare(node, &session) {
            self.swarm.close_connection(connection);
        } else {
            session.add_link(link);
        }
        if is_new {
            self.shared.tell(TransportEvent::Connected(node));
        }
        let joined = self.routes.get_mut(&node).and_then(|route| {
            route.failures = 0;
            route.dial.take_if(|dial| *dial == connection);
            self.dials.get_mut(route.dial.as_ref()?)
        });
        let joined = joined.map(|dial| std::mem::take(&mut dial.waiting)).unwrap_or_default();
        for waiting in dial.into_iter().flat_map(|dial| dial.waiting).chain(joined) {
            // A caller that is gone needs no answer.
            let _ = waiting.send(Ok(node));
        }
    }

    /// Whether an address led to a node that is connected already.
    ///
    /// Two nodes that dial each other at the same moment must not both take their own dial for the
    /// spare one: then the one of the smaller name does.
    fn is_spare(&self, node: NodeId, session: &Session) -> bool {
        let patience = if self.shared.local < node { Duration::ZERO } else { SETTLED };
        session.has_link_for(patience)
    }

    fn stream_limits(&self) -> Limits {
        let limits = &self.shared.limits;
        Limits { pooled: limits.pooled_streams, most: limits.streams_per_peer }
    }

    fn on_closed(&mut self, peer: &PeerId, connection: ConnectionId) {
        let message = "the peer closed the connection before it proved the mesh key";
        self.dial_failed(connection, &Error::new(ErrorKind::Unavailable, message));
        let Some(node) = names::node_of(peer) else { return };
        if let Some(record) = self.shared.peer(&node)
            && let Some(session) = record.session()
            && session.remove_link(connection) == 0
        {
            record.end_session();
            session.close();
            self.shared.tell(TransportEvent::Disconnected(node));
            self.retry(node);
        }
        self.shared.forget_if_idle(&node);
    }

    fn on_command(&mut self, command: Command) {
        self.take_routes();
        match command {
            Command::Dial(node, waiting) => self.dial_for(node, waiting),
            Command::Connect(address, peer, waiting) => self.connect(address, peer, waiting),
        }
    }

    /// Dials a known peer for a call that waits.
    fn dial_for(&mut self, node: NodeId, waiting: Dialled) {
        let connected = self.shared.peer(&node).is_some_and(|peer| peer.session().is_some());
        let answer = match self.routes.get(&node) {
            _ if connected => Ok(node),
            None => Err(unknown(node)),
            Some(route) => {
                let under_way = route.dial.and_then(|dial| self.dials.get_mut(&dial));
                match under_way {
                    Some(dial) => dial.waiting.push(waiting),
                    None => self.dial(node, vec![waiting]),
                }
                return;
            }
        };
        let _ = waiting.send(answer);
    }

    fn connect(&mut self, address: Multiaddr, peer: Option<PeerId>, waiting: Dialled) {
        if self.swarm.listeners().any(|own| *own == address) {
            let message = "the address leads to the local node";
            let _ = waiting.send(Err(Error::new(ErrorKind::InvalidInput, message)));
            return;
        }
        let node = peer.as_ref().and_then(names::node_of);
        if let Some(node) = node
            && self.shared.peer(&node).is_some_and(|peer| peer.session().is_some())
        {
            let _ = waiting.send(Ok(node));
            return;
        }
        let options = match peer {
            Some(peer) => {
                DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build()
            }
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        self.start(options, Dial { node: None, waiting: vec![waiting] });
    }

    fn dial(&mut self, node: NodeId, waiting: Vec<Dialled>) {
        let Some(route) = self.routes.get_mut(&node) else { return };
        let options = DialOpts::peer_id(route.peer)
            // A reused port could meet the peer's own dial half-way, and both ends would be diallers.
            .condition(PeerCondition::Always)
            .addresses(route.addresses.clone())
            .allocate_new_port()
            .build();
        route.dial = Some(options.connection_id());
        self.start(options, Dial { node: Some(node), waiting });
    }

    fn start(&mut self, options: DialOpts, dial: Dial) {
        let connection = options.connection_id();
        self.dials.insert(connection, dial);
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(connection, &explain(error));
        }
    }

    /// Tells everybody who waits for a dial; a known peer is dialled again later.
    fn dial_failed(&mut self, connection: ConnectionId, error: &Error) {
        let Some(dial) = self.dials.remove(&connection) else { return };
        for waiting in dial.waiting {
            let _ = waiting.send(Err(copy_of(error)));
        }
        if let Some(node) = dial.node
            && let Some(route) = self.routes.get_mut(&node)
        {
            route.dial = None;
            route.failures = route.failures.saturating_add(1);
            self.retry(node);
        }
    }

    /// Dials a known peer again after a while.
    fn retry(&mut self, node: NodeId) {
        let Some(route) = self.routes.get_mut(&node).filter(|route| !route.retrying) else { return };
        route.retrying = true;
        let wait = backoff(route.failures);
        self.retries.push(Box::pin(async move {
            tokio::time::sleep(wait).await;
            node
        }));
    }

    fn on_retry(&mut self, node: NodeId) {
        if let Some(route) = self.routes.get_mut(&node) {
            route.retrying = false;
        }
        self.dial_again(node);
    }

    fn dial_again(&mut self, node: NodeId) {
        let connected = self.shared.peer(&node).is_some_and(|peer| peer.session().is_some());
        match self.routes.get(&node) {
            Some(route) if !connected && route.dial.is_none() => {
                if self.dials.len() < DIALS {
                    self.dial(node, Vec::new());
                } else {
                    self.retry(node);
                }
            }
            _ => {}
        }
    }

    /// Takes the newest routes, if there are any, and dials those that are not connected.
    fn take_routes(&mut self) {
        let Some(fresh) = self.shared.take_fresh_routes() else { return };
        let mut old = std::mem::take(&mut self.routes);
        for route in fresh {
            let Some((node, mut route)) = readable(route) else { continue };
            let before = old.remove(&node);
            let is_new = before.as_ref().is_none_or(|before| before.addresses != route.addresses);
            if let Some(before) = before {
                (route.failures, route.dial, route.retrying) =
                    (before.failures, before.dial, before.retrying);
            }
            self.routes.insert(node, route);
            if is_new {
                self.dial_again(node);
            }
        }
    }
}

/// How many streams a session opens.
struct Limits {
    pooled: usize,
    most: usize,
}

/// A route with the addresses that this transport can dial, if any.
fn readable(route: PeerRoute) -> Option<(NodeId, Route)> {
    let peer = names::peer_of(&route.node)?;
    let addresses: Vec<_> =
        route.addresses.iter().take(16).filter_map(|address| Some(names::parse(address).ok()?.0)).collect();
    if addresses.is_empty() {
        return None;
    }
    Some((route.node, Route { peer, addresses, failures: 0, dial: None, retrying: false }))
}

/// The wait before the next dial: doubled with each failure, and then half of it at random.
fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LAST_RETRY);
    let mut random = [0; 1];
    // Without randomness the wait is only less spread.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    doubled / 2 + (doubled / 2).mul_f64(f64::from(random) / 255.0)
}

fn cannot_listen(address: &Multiaddr, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot listen; choose another port or address")
        .with_subject(address)
        .with_source(error)
}

/// The same error for another caller.
fn copy_of(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

/// Ends everything that waits when the thread ends, even by a panic.
pub(super) struct EndGuard(pub(super) Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_limit() {
        for (failures, most) in [(0, 200), (1, 200), (2, 400), (5, 3200), (9, 30_000), (u32::MAX, 30_000)] {
            let wait = backoff(failures);
            let most = Duration::from_millis(most);
            assert!(wait <= most && wait >= most / 2, "{failures}: {wait:?}");
        }
    }
}
