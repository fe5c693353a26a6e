//! The transport's own thread: who listens, who is dialled, and what becomes of it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{PeerRoute, TransportEvent};
use datamesh_core::{Error, ErrorKind, Result};
use futures::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::directory::{Bound, Directory, name_of};
use super::proof::{Failure, Own, Purpose};
use super::renewal::Renewals;
use super::socket::Socket;
use super::{LocalConfig, address_of, node_of};
use crate::wire::keys::{self, KeyName};
use crate::wire::peers::{Shared, lock};
use crate::wire::session::{Link, LinkId, MAILBOX, Session, StreamRequest};
use crate::wire::{Command, Dialled, REVOKED, Started, backoff, commands, copy_of, revoked, serve, unknown};

/// How often the directory is looked at for the sockets of peers that are not connected. Whoever starts looks at
/// once, so that this counts only where a connection broke.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// What the tasks may have told and the thread has not heard yet; then they wait.
const TOLD: usize = 256;

/// The wait after the system gave no more sockets.
const REST: Duration = Duration::from_millis(100);

/// The wait before a listener that has its hands full is dialled again.
const CROWDED: Duration = Duration::from_millis(5);

/// What the tasks tell the thread.
enum Told {
    /// A dial came to its end.
    Dialled(NodeId, Result<(Socket, KeyName)>),
    /// A peer dialled and proved itself.
    Came(NodeId, Purpose, Socket, KeyName),
    /// A link came to its end, or leads to nobody any more.
    Gone(NodeId, u64),
    /// Somebody was turned away.
    Refused(String),
}

/// A peer to keep connected.
#[derive(Debug, Clone, Copy)]
struct Route {
    failures: u32,
    not_before: Instant,
}

/// A link of a peer.
pub(super) struct Held {
    pub(super) node: NodeId,
    /// Whether the peer dialled.
    pub(super) is_inbound: bool,
    /// The mesh key that it was proved with.
    pub(super) key: KeyName,
    task: AbortHandle,
}

/// What the tasks share.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    own: Arc<Own>,
    directory: Directory,
    told: async_channel::Sender<Told>,
    /// Dials under way.
    dialling: Arc<Semaphore>,
}

pub(super) struct Driver {
    context: Context,
    /// Removes the socket when the thread ends; while the listener is there, no other socket can be taken for it.
    bound: Bound,
    listener: UnixListener,
    /// Why the socket could not be made again when that was last tried.
    unheard: Option<ErrorKind>,
    commands: async_channel::Receiver<Command<NodeId>>,
    told: async_channel::Receiver<Told>,
    routes: HashMap<NodeId, Route>,
    dials: HashMap<NodeId, Vec<Dialled>>,
    pub(super) links: HashMap<u64, Held>,
    pub(super) renewals: Renewals,
    next_link: u64,
    /// Places for the handshakes of those who dialled.
    pending: Arc<Semaphore>,
    /// Cloned for each connection that is served, so that they are counted: by peer, and all.
    served: HashMap<NodeId, Arc<()>>,
    all_served: Arc<()>,
}

/// Listens, and says what runs from then on.
pub(super) fn open(
    config: LocalConfig,
    runtime: tokio::runtime::Handle,
) -> Result<(Started<NodeId>, impl Future<Output = ()>)> {
    let node = config.identity.node_id();
    let directory = Directory::open(config.directory)?;
    let (listener, bound) = directory.bind(node)?;
    let listener = watch(listener)?;
    let shared = Arc::new(Shared::new(node, config.limits, runtime));
    let renewals = Renewals::of(config.keys.clone());
    let own = Arc::new(Own::new(config.identity, config.suite, config.keys));
    let (told, hears) = async_channel::bounded(TOLD);
    let (commands, asked) = commands();
    let pending = usize::try_from(shared.limits.pending_connections).unwrap_or(usize::MAX);
    let pending = pending.min(Semaphore::MAX_PERMITS);
    let dialling = Arc::new(Semaphore::new(pending.max(1)));
    let driver = Driver {
        context: Context { shared, own, directory, told, dialling },
        listener,
        bound,
        unheard: None,
        commands: asked,
        told: hears,
        routes: HashMap::new(),
        dials: HashMap::new(),
        links: HashMap::new(),
        renewals,
        next_link: 0,
        pending: Arc::new(Semaphore::new(pending)),
        served: HashMap::new(),
        all_served: Arc::default(),
    };
    driver.say_where(address_of(node)?);
    Ok(((driver.context.shared.clone(), commands), driver.run()))
}

fn watch(listener: std::os::unix::net::UnixListener) -> Result<UnixListener> {
    UnixListener::from_std(listener)
        .map_err(|error| Error::io("the system does not watch the socket; close some files", error))
}

impl Driver {
    fn say_where(&self, address: datamesh_core::ports::Address) {
        let shared = &self.context.shared;
        lock(&shared.listening).push(address.clone());
        shared.tell(TransportEvent::Listening(vec![address]));
    }

    /// Runs until the transport is closed.
    async fn run(mut self) {
        let (shared, commands, told) =
            (self.context.shared.clone(), self.commands.clone(), self.told.clone());
        let mut clock = tokio::time::interval(LOOK_AROUND.min(shared.limits.idle / 4 + REST));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changes = self.renewals.changes.clone();
        while !shared.is_closed() {
            let renewal = self.renewals.next;
            tokio::select! {
                (place, accepted) = next(&self.listener, &self.pending) => {
                    self.on_accepted(place, accepted).await;
                }
                Ok(command) = commands.recv() => self.on_command(command),
                Ok(told) = told.recv() => self.on_told(told),
                _ = clock.tick() => self.on_tick(),
                Ok(()) = changes.recv() => self.look_at_keys(),
                () = keys::until(renewal) => self.look_at_keys(),
                _ = shared.wake.1.recv() => {
                    self.take_routes();
                    self.close_refused();
                }
            }
        }
        // The connections end with the tasks, and the peers hear of it at once.
        commands.close();
    }

    async fn on_accepted(&mut self, place: OwnedSemaphorePermit, accepted: io::Result<UnixStream>) {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection on this machine was not taken");
                return tokio::time::sleep(REST).await;
            }
        };
        // Of another user: dropping the socket is all the answer there is.
        if !is_same_user(&stream) {
            return;
        }
        let context = self.context.clone();
        self.context.shared.runtime.spawn(async move {
            let told = context.answer(stream).await;
            drop(place);
            if let Some(told) = told {
                // The thread is gone, and so is the transport.
                let _ = context.told.send(told).await;
            }
        });
    }

    fn on_command(&mut self, command: Command<NodeId>) {
        self.take_routes();
        match command {
            Command::Dial(node, waiting) | Command::Connect(node, waiting) if self.is_refused(&node) => {
                let _ = waiting.send(Err(revoked(node)));
            }
            Command::Dial(node, waiting) if self.routes.contains_key(&node) => self.dial_for(node, waiting),
            // A caller that is gone needs no answer.
            Command::Dial(node, waiting) => drop(waiting.send(Err(unknown(node)))),
            Command::Connect(node, waiting) if node == self.context.shared.local => {
                let message = "the address leads to the local node";
                let _ = waiting.send(Err(Error::new(ErrorKind::InvalidInput, message)));
            }
            Command::Connect(node, waiting) => self.dial_for(node, waiting),
        }
    }

    fn is_connected(&self, node: &NodeId) -> bool {
        self.context.shared.is_connected(node)
    }

    fn is_refused(&self, node: &NodeId) -> bool {
        self.context.shared.is_refused(node)
    }

    /// Closes what leads to those who were revoked, and what they are served on.
    fn close_refused(&mut self) {
        let shared = Arc::clone(&self.context.shared);
        let refused = self.links.iter().filter(|(_, held)| shared.is_refused(&held.node));
        let refused: Vec<(NodeId, u64)> = refused.map(|(link, held)| (held.node, *link)).collect();
        for (node, link) in refused {
            self.on_gone(node, link);
        }
        self.renewals.end_served(|node, _| !shared.is_refused(node));
    }

    /// Dials a node, or joins the dial under way.
    fn dial_for(&mut self, node: NodeId, waiting: Dialled) {
        if self.is_connected(&node) {
            let _ = waiting.send(Ok(node));
            return;
        }
        self.dial(node);
        self.dials.entry(node).or_default().push(waiting);
    }

    pub(super) fn dial(&mut self, node: NodeId) {
        if self.dials.contains_key(&node) {
            return;
        }
        self.dials.insert(node, Vec::new());
        let context = self.context.clone();
        self.context.shared.runtime.spawn(async move {
            let reached = context.reach(node, Purpose::Link).await;
            let _ = context.told.send(Told::Dialled(node, reached)).await;
        });
    }

    fn on_told(&mut self, told: Told) {
        match told {
            Told::Dialled(node, Ok(_)) if self.is_refused(&node) => {
                self.answer_dials(node, &Err(revoked(node)));
            }
            Told::Came(node, ..) if self.is_refused(&node) => {
                let why = format!("node {node}: {REVOKED}");
                self.context.shared.tell(TransportEvent::Refused(why));
            }
            Told::Dialled(node, Ok((stream, key))) => {
                self.on_link(node, stream, false, key);
                self.answer_dials(node, &Ok(node));
            }
            Told::Dialled(node, Err(error)) => {
                if let Some(route) = self.routes.get_mut(&node) {
                    route.failures = route.failures.saturating_add(1);
                    route.not_before = Instant::now() + backoff(route.failures);
                }
                self.answer_dials(node, &Err(error));
            }
            Told::Came(node, Purpose::Link, stream, key) => self.on_link(node, stream, true, key),
            Told::Came(node, Purpose::Requests, stream, key) => self.serve(node, stream, key),
            Told::Gone(node, link) => self.on_gone(node, link),
            Told::Refused(why) => self.context.shared.tell(TransportEvent::Refused(why)),
        }
    }

    fn answer_dials(&mut self, node: NodeId, outcome: &Result<NodeId>) {
        for waiting in self.dials.remove(&node).unwrap_or_default() {
            let _ = waiting.send(outcome.as_ref().copied().map_err(copy_of));
        }
    }

    /// A proved link: the peer is connected for as long as it is open.
    fn on_link(&mut self, node: NodeId, stream: Socket, is_inbound: bool, key: KeyName) {
        if !is_inbound && self.is_spare(node, &key) {
            return;
        }
        let limits = &self.context.shared.limits;
        let inbound = self.links.values().filter(|held| held.is_inbound).count();
        if is_inbound && inbound >= usize::try_from(limits.inbound_connections).unwrap_or(usize::MAX) {
            return;
        }
        let peer = self.context.shared.peer_or_new(node);
        let links = peer.session().map_or(0, |session| session.link_count());
        if links >= usize::try_from(limits.connections_per_peer).unwrap_or(usize::MAX) {
            drop(peer);
            return self.context.shared.forget_if_idle(&node);
        }
        let runtime = self.context.shared.runtime.clone();
        let (session, is_new) = peer.session_or_new(|| Session::new(limits, runtime));
        let link = self.next_link;
        self.next_link = self.next_link.wrapping_add(1);
        let (mailbox, requests) = async_channel::bounded(MAILBOX);
        session.add_link(Link::new(LinkId::Local(link), mailbox));
        let task = self.context.clone().hold(node, link, stream, requests);
        let task = self.context.shared.runtime.spawn(task).abort_handle();
        let outdated = self.outdated(node, &key);
        self.links.insert(link, Held { node, is_inbound, key, task });
        if !outdated.is_empty() {
            session.renew();
        }
        // Whoever dialled closes the others: the other end has noted this one by then.
        for link in outdated.into_iter().filter(|_| !is_inbound) {
            self.on_gone(node, link);
        }
        if let Some(route) = self.routes.get_mut(&node) {
            route.failures = 0;
        }
        if is_new {
            self.context.shared.tell(TransportEvent::Connected(node));
        }
    }

    pub(super) fn on_gone(&mut self, node: NodeId, link: u64) {
        let Some(held) = self.links.remove(&link) else { return };
        held.task.abort();
        let shared = &self.context.shared;
        if let Some(peer) = shared.peer(&node)
            && let Some(session) = peer.session()
            && session.remove_link(LinkId::Local(link)) == 0
        {
            peer.end_session();
            session.close();
            shared.tell(TransportEvent::Disconnected(node));
            if let Some(route) = self.routes.get_mut(&node) {
                route.not_before = Instant::now() + backoff(route.failures);
            }
        }
        shared.forget_if_idle(&node);
    }

    /// Serves a connection for requests.
    fn serve(&mut self, node: NodeId, stream: Socket, key: KeyName) {
        let limits = &self.context.shared.limits;
        let served = self.served.entry(node).or_default();
        let peers = usize::try_from(limits.inbound_connections).unwrap_or(usize::MAX);
        let most = peers.saturating_mul(limits.pooled_streams.max(1));
        // This node's own hold on each counter makes one.
        if Arc::strong_count(served) > limits.streams_per_connection
            || Arc::strong_count(&self.all_served) > most
        {
            tracing::debug!(%node, "a peer opened too many connections; closed");
            return;
        }
        let (counted, all_counted) = (served.clone(), self.all_served.clone());
        let peer = self.context.shared.peer_or_new(node);
        let shared = self.context.shared.clone();
        let task = self.context.shared.runtime.spawn(async move {
            serve::stream(shared.clone(), peer, Box::new(stream), counted).await;
            drop(all_counted);
            shared.forget_if_idle(&node);
        });
        self.renewals.end_with(node, key, task.abort_handle());
    }

    fn on_tick(&mut self) {
        self.context.shared.close_idle(Instant::now());
        self.served.retain(|_, served| Arc::strong_count(served) > 1);
        self.look_at_keys();
        self.keep_listening();
        self.look_around();
    }

    /// Listens anew when somebody has removed the socket, as those do who clean directories for temporary files, or
    /// its directory, as the system does when the user has logged out.
    fn keep_listening(&mut self) {
        if self.bound.is_there() {
            self.unheard = None;
            return;
        }
        let bound = self.context.directory.bind(self.context.shared.local);
        let watched = |(listener, bound)| Ok((watch(listener)?, bound));
        match bound.and_then(watched) {
            Ok((listener, bound)) => {
                tracing::info!("this node's socket was removed, and is made again");
                (self.listener, self.bound, self.unheard) = (listener, bound, None);
            }
            // It is tried again soon, and each reason is told once.
            Err(error) => {
                if self.unheard.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(%error, "this node's socket was removed, and cannot be made again");
                }
            }
        }
    }

    /// Dials the known peers whose sockets are there.
    fn look_around(&mut self) {
        let now = Instant::now();
        let is_wanted = |(node, route): &(&NodeId, &Route)| {
            route.not_before <= now
                && !self.dials.contains_key(node)
                && !self.is_connected(node)
                && !self.is_refused(node)
        };
        let wanted: Vec<NodeId> = self.routes.iter().filter(is_wanted).map(|(node, _)| *node).collect();
        if wanted.is_empty() {
            return;
        }
        let names = self.context.directory.names();
        for node in wanted.into_iter().filter(|node| names.contains(&name_of(*node))) {
            self.dial(node);
        }
    }

    /// Takes the newest routes, if there are any, and dials those that are on this machine.
    fn take_routes(&mut self) {
        let Some(fresh) = self.context.shared.take_fresh_routes() else { return };
        let old = std::mem::take(&mut self.routes);
        let now = Instant::now();
        for node in fresh.into_iter().filter(says_local).map(|route| route.node) {
            let kept = old.get(&node).copied();
            self.routes.insert(node, kept.unwrap_or(Route { failures: 0, not_before: now }));
        }
        self.look_around();
    }
}

/// Takes the next who dials, as soon as there is a place for its handshake. The system lets the others wait: whoever
/// is turned away takes this node for gone.
async fn next(
    listener: &UnixListener,
    pending: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, io::Result<UnixStream>) {
    let Ok(place) = Arc::clone(pending).acquire_owned().await else { return std::future::pending().await };
    (place, listener.accept().await.map(|(stream, _)| stream))
}

/// Whether a peer says that it listens for those on its own machine, whichever that is.
fn says_local(route: &PeerRoute) -> bool {
    route.addresses.iter().take(16).any(|address| node_of(address) == Some(route.node))
}

impl Context {
    /// Connects to a node of this machine and proves both ends, in time.
    async fn reach(&self, node: NodeId, purpose: Purpose) -> Result<(Socket, KeyName)> {
        let _place = self.dialling.acquire().await.map_err(|_| crate::wire::call::closed())?;
        let work = async {
            let mut stream = Socket::new(self.connect(node).await?);
            let key = self.own.dial(&mut stream, purpose, node).await.map_err(explain)?;
            Ok((stream, key))
        };
        let limit = self.shared.limits.handshake;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let message = format!("the node did not prove itself within {} ms", limit.as_millis());
            Err(Error::new(ErrorKind::Unavailable, message))
        })
    }

    async fn connect(&self, node: NodeId) -> Result<UnixStream> {
        let path = self.directory.path_of(node);
        loop {
            match UnixStream::connect(&path).await {
                Ok(stream) if is_same_user(&stream) => return Ok(stream),
                Ok(_) => return Err(explain(Failure::Refused("it is a process of another user"))),
                // More dial it than it has taken yet.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(CROWDED).await,
                Err(error) => {
                    let message = "the node does not listen on this machine";
                    return Err(Error::new(ErrorKind::Unavailable, message).with_source(error));
                }
            }
        }
    }

    /// Hears out whoever dialled; `None` when it went away.
    async fn answer(&self, stream: UnixStream) -> Option<Told> {
        let who = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or(0);
        let refused = |why: &str| Some(Told::Refused(format!("process {who} of this machine: {why}")));
        let mut stream = Socket::new(stream);
        let answer = self.own.answer(&mut stream, |node| self.shared.is_refused(node));
        match tokio::time::timeout(self.shared.limits.handshake, answer).await {
            Ok(Ok((purpose, node, key))) => Some(Told::Came(node, purpose, stream, key)),
            Ok(Err(Failure::Refused(why))) => refused(why),
            // Those who sweep look whether anybody listens, and say nothing.
            Ok(Err(Failure::Broken(_))) => None,
            Err(_) => refused("it did not prove the mesh key in time"),
        }
    }

    /// Holds a link until it ends, and opens connections for requests meanwhile.
    async fn hold(
        self,
        node: NodeId,
        link: u64,
        mut stream: Socket,
        requests: async_channel::Receiver<StreamRequest>,
    ) {
        let mut unexpected = [0; 1];
        loop {
            tokio::select! {
                // Nothing is ever said on a link: whatever is read ends it.
                _ = stream.read(&mut unexpected) => break,
                request = requests.recv() => match request {
                    Ok(request) => drop(self.shared.runtime.spawn(self.clone().open(node, link, request))),
                    Err(_) => break,
                },
            }
        }
        let _ = self.told.send(Told::Gone(node, link)).await;
    }

    async fn open(self, node: NodeId, link: u64, request: StreamRequest) {
        match self.reach(node, Purpose::Requests).await {
            // A caller that is gone needs no stream.
            Ok((stream, _)) => drop(request.send(Box::new(stream))),
            Err(error) => {
                tracing::debug!(%node, %error, "no connection for requests");
                // A peer that cannot be reached is not connected, whatever the link says.
                drop(request);
                let _ = self.told.send(Told::Gone(node, link)).await;
            }
        }
    }
}

/// Whether the process at the other end runs for the same user.
fn is_same_user(stream: &UnixStream) -> bool {
    let user = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user)
}

fn explain(failure: Failure) -> Error {
    match failure {
        Failure::Refused(why) => {
            Error::new(ErrorKind::AccessDenied, format!("the peer is not of this mesh: {why}"))
        }
        Failure::Broken(kind) => {
            Error::new(ErrorKind::Unavailable, "the node left before it had proved itself")
                .with_source(io::Error::from(kind))
        }
    }
}
