//! The network: connections between nodes, and links that delay, lose, hold and cut.
//!
//! It behaves as reliable streams over a bad network do. A packet that is lost comes later, when it is sent again; what
//! a cut link holds back comes when it is whole again, or never, when the connection is given up before. Packets of
//! different requests overtake each other. What came twice was dropped below, as the transport port demands.

mod dials;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Request;
use crate::id::NodeId;
use crate::ports::{Inbound, Message, ReplySender, TransportEvent};
use crate::sim::draws::Draws;
use crate::sim::link::Link;
use crate::sim::roles::{Actor, Heard};
use crate::sim::world::{OUTSIDE, ScopeId, World, lock, nanos};

/// Requests to one peer that are under way at a time; more wait with their sender.
pub(super) const MAX_CALLS_OF_PEER: usize = 64;

/// Events that wait to be taken, as the port says.
const MAX_EVENTS: usize = 1024;

/// After how long a connection over a link that carries nothing is given up.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(15));

/// After how long a lost packet is sent again.
const RESEND: Duration = Duration::from_millis(200);

/// How often one packet is lost at most.
const MAX_LOSSES: u32 = 5;

/// For how long a dial waits for a host that does not answer.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

/// The longest pause between two dials.
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// One direction between two nodes, by their numbers.
type Way = (usize, usize);

#[derive(Default)]
struct LinkState {
    profile: Option<Link>,
    /// Cut: connections over it are given up after a while.
    cut: bool,
    /// Grows with every cut, so that a connection is given up only for a cut that lasted.
    cuts: u64,
    /// Holds everything until it is let go.
    clogged: bool,
    held: Vec<Packet>,
    busy_until: u64,
}

pub(super) struct Endpoint {
    pub(super) id: NodeId,
    pub(super) scope: ScopeId,
    pub(super) routes: BTreeSet<usize>,
    pub(super) inbox: VecDeque<Inbound>,
    pub(super) inbox_wakers: Vec<Waker>,
    pub(super) events: VecDeque<TransportEvent>,
    pub(super) event_wakers: Vec<Waker>,
    /// Whether nothing is told any more, as when the queue of events is full.
    pub(super) is_mute: bool,
    pub(super) permits: BTreeMap<usize, Arc<async_lock::Semaphore>>,
}

struct Call {
    from: usize,
    to: usize,
    /// How long the shard is that it brings.
    staged: usize,
    result: oneshot::Sender<Result<Message>>,
}

struct Packet {
    from: usize,
    /// The incarnation that sent it.
    scope: ScopeId,
    to: usize,
    connection: u64,
    call: u64,
    content: Content,
}

enum Content {
    Request(Message),
    Reply(Result<Message>),
    Cancel,
}

#[derive(Default)]
struct Dial {
    waiting: Vec<oneshot::Sender<bool>>,
    /// Dials that failed in a row.
    failed: u32,
    /// Whether one is under way now.
    running: bool,
}

/// See the module.
pub(super) struct Network {
    state: Mutex<State>,
}

struct State {
    endpoints: BTreeMap<usize, Endpoint>,
    numbers: BTreeMap<NodeId, usize>,
    names: BTreeMap<usize, NodeId>,
    links: BTreeMap<Way, LinkState>,
    normal: Link,
    /// To whom each node is connected, and the number of the connection: each stands in it twice.
    connections: BTreeMap<usize, BTreeMap<usize, u64>>,
    dials: BTreeMap<Way, Dial>,
    calls: BTreeMap<u64, Call>,
    /// The calls of each node: to whom, and which.
    calls_of: BTreeMap<usize, BTreeSet<(usize, u64)>>,
    /// The bytes of shards that each node has under way.
    staged: BTreeMap<usize, usize>,
    /// The ways to answer of requests that are handled now, by the call.
    serving: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
    /// The most bytes of shards that each node had under way.
    peaks: BTreeMap<usize, usize>,
    /// The nodes that are hostile, whatever becomes of their processes.
    actors: BTreeMap<usize, Actor>,
    draws: Draws,
    gossip: Gossip,
}

/// What members have told each other of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Gossip {
    /// Requests and replies with node records.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of the longest of them.
    pub longest: usize,
}

impl Gossip {
    /// Counts a message if it is one with node records: the number of the request is 2, that of the reply 3.
    fn count(&mut self, content: &Content) {
        let (head, number) = match content {
            Content::Request(message) => (&message.head, 2),
            Content::Reply(Ok(message)) => (&message.head, 3),
            _ => return,
        };
        // A head is a map that begins with the version, 1, and the number.
        if head.get(1..5) == Some(&[0, 1, 1, number]) {
            self.messages += 1;
            self.bytes += head.len() as u64;
            self.longest = self.longest.max(head.len());
        }
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    pub(super) fn new(seed: u64, normal: Link) -> Arc<Self> {
        let state = State {
            endpoints: BTreeMap::new(),
            numbers: BTreeMap::new(),
            names: BTreeMap::new(),
            links: BTreeMap::new(),
            normal,
            connections: BTreeMap::new(),
            dials: BTreeMap::new(),
            calls: BTreeMap::new(),
            calls_of: BTreeMap::new(),
            staged: BTreeMap::new(),
            serving: BTreeMap::new(),
            next: 0,
            peaks: BTreeMap::new(),
            actors: BTreeMap::new(),
            draws: Draws::new(seed, "network"),
            gossip: Gossip::default(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A node's end of the network, while it is open and belongs to this incarnation.
    pub(super) fn with_endpoint<R>(
        &self,
        node: usize,
        scope: ScopeId,
        with: impl FnOnce(&mut Endpoint) -> R,
    ) -> Option<R> {
        let mut state = self.state();
        state.endpoints.get_mut(&node).filter(|endpoint| endpoint.scope == scope).map(with)
    }

    pub(super) fn open(&self, node: usize, id: NodeId, scope: ScopeId) {
        let endpoint = Endpoint {
            id,
            scope,
            routes: BTreeSet::new(),
            inbox: VecDeque::new(),
            inbox_wakers: Vec::new(),
            events: VecDeque::new(),
            event_wakers: Vec::new(),
            is_mute: false,
            permits: BTreeMap::new(),
        };
        let mut state = self.state();
        state.numbers.insert(id, node);
        state.names.insert(node, id);
        state.endpoints.insert(node, endpoint);
    }

    /// Whether the transport of a node tells anything from now on, until the node is opened anew.
    pub(super) fn set_mute(&self, node: usize, is_mute: bool) {
        let mut state = self.state();
        state.endpoints.get_mut(&node).into_iter().for_each(|endpoint| endpoint.is_mute = is_mute);
    }

    pub(super) fn number_of(&self, id: &NodeId) -> Option<usize> {
        self.state().numbers.get(id).copied()
    }

    pub(super) fn id_of(&self, node: usize) -> Option<NodeId> {
        self.state().endpoints.get(&node).map(|endpoint| endpoint.id)
    }

    pub(super) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.state().connection(a, b).is_some()
    }

    pub(super) fn connected(&self, node: usize) -> Vec<NodeId> {
        let state = self.state();
        // A peer that has crashed in silence is not missed yet, so its name is the one it had.
        state.peers_of(node).filter_map(|(peer, _)| state.id(peer)).collect()
    }

    /// What members have told each other of members so far.
    pub(super) fn gossip(&self) -> Gossip {
        self.state().gossip
    }

    /// Requests that are under way in the whole network, those that are being handled, and packets that are held.
    pub(super) fn in_flight(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.calls.len(), state.serving.len(), state.links.values().map(|link| link.held.len()).sum())
    }

    /// The most bytes of shards that a node had on their way to holders at a time.
    pub(super) fn peak_of(&self, node: usize) -> usize {
        self.state().peaks.get(&node).copied().unwrap_or(0)
    }

    /// Makes a node hostile, or honest again.
    pub(super) fn set_actor(&self, node: usize, actor: Option<Actor>) {
        let mut state = self.state();
        match actor {
            Some(actor) => drop(state.actors.insert(node, actor)),
            None => drop(state.actors.remove(&node)),
        }
    }

    /// Changes how one direction carries; `None` makes it as the others are.
    pub(super) fn set_link(&self, way: Way, profile: Option<Link>) {
        self.state().links.entry(way).or_default().profile = profile;
    }
}

/// The network with the world that it lives in.
#[derive(Debug, Clone)]
pub(super) struct Net {
    pub(super) world: Arc<World>,
    pub(super) network: Arc<Network>,
}

impl Net {
    fn state(&self) -> MutexGuard<'_, State> {
        self.network.state()
    }

    /// Closes a node's end. `silent` is a host that vanished: peers notice later.
    pub(super) fn close(&self, node: usize, scope: ScopeId, silent: bool) {
        let mut state = self.state();
        if state.endpoints.get(&node).is_none_or(|endpoint| endpoint.scope != scope) {
            return;
        }
        let endpoint = state.endpoints.remove(&node);
        let peers: Vec<_> = state.peers_of(node).collect();
        let mut own: Vec<u64> = state.calls_of.get(&node).into_iter().flatten().map(|(_, id)| *id).collect();
        own.sort_unstable();
        let own: Vec<Call> = own.iter().filter_map(|id| state.end_call(*id)).collect();
        let dials: Vec<Way> =
            state.dials.range((node, 0)..=(node, usize::MAX)).map(|(way, _)| *way).collect();
        let dials: Vec<Dial> = dials.iter().filter_map(|way| state.dials.remove(way)).collect();
        drop(state);
        for call in own {
            drop(call.result.send(Err(interrupted())));
        }
        drop(dials);
        if let Some(endpoint) = endpoint {
            endpoint.inbox_wakers.into_iter().chain(endpoint.event_wakers).for_each(Waker::wake);
            drop(endpoint.inbox);
        }
        for (peer, connection) in peers {
            if silent {
                self.give_up_later(node, peer, connection);
            } else {
                let delay = self.state().latency((node, peer));
                self.break_after(delay, node, peer, connection);
            }
        }
    }

    fn give_up_later(&self, a: usize, b: usize, connection: u64) {
        let (least, most) = KEEP_ALIVE;
        let delay = self.state().draws.time(least, most);
        self.break_after(delay, a, b, connection);
    }

    fn break_after(&self, delay: Duration, a: usize, b: usize, connection: u64) {
        let net = self.clone();
        self.world.run_after(delay, move |_| net.break_connection(a, b, Some(connection)));
    }

    /// Ends a connection now, if it is still this one: calls over it end with an unknown outcome.
    pub(super) fn break_connection(&self, a: usize, b: usize, connection: Option<u64>) {
        let mut state = self.state();
        let Some(current) = state.connection(a, b) else { return };
        if connection.is_some_and(|connection| connection != current) {
            return;
        }
        state.disconnect(a, b);
        let mut broken: Vec<u64> = state.calls_between(a, b).chain(state.calls_between(b, a)).collect();
        broken.sort_unstable();
        let calls: Vec<Call> = broken.iter().filter_map(|id| state.end_call(*id)).collect();
        let serving: Vec<_> = broken.iter().filter_map(|id| state.serving.remove(id)).collect();
        let ids = (state.id(a), state.id(b));
        drop(state);
        self.world.note(a, "broken", [b as u64, current], &[]);
        for call in calls {
            drop(call.result.send(Err(cut_off())));
        }
        drop(serving);
        for (at, other) in [(a, ids.1), (b, ids.0)] {
            if let Some(other) = other {
                self.tell(at, TransportEvent::Disconnected(other));
            }
        }
        self.redial(a, b);
        self.redial(b, a);
    }

    fn tell(&self, node: usize, event: TransportEvent) {
        let mut state = self.state();
        let Some(endpoint) = state.endpoints.get_mut(&node).filter(|endpoint| !endpoint.is_mute) else {
            return;
        };
        if endpoint.events.len() >= MAX_EVENTS {
            endpoint.events.pop_front();
        }
        endpoint.events.push_back(event);
        let wakers = std::mem::take(&mut endpoint.event_wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Cuts one direction, or makes it whole: then what it held is carried.
    pub(super) fn set_cut(&self, way: Way, cut: bool) {
        let mut state = self.state();
        let link = state.links.entry(way).or_default();
        if link.cut == cut {
            return;
        }
        link.cut = cut;
        link.cuts += 1;
        let cuts = link.cuts;
        let connection = state.connection(way.0, way.1);
        drop(state);
        match (cut, connection) {
            (true, Some(connection)) => self.give_up_if_still_cut(way, cuts, connection),
            (true, None) => {}
            (false, _) => self.let_go(way),
        }
    }

    fn give_up_if_still_cut(&self, way: Way, cuts: u64, connection: u64) {
        let (least, most) = KEEP_ALIVE;
        let delay = self.state().draws.time(least, most);
        let net = self.clone();
        self.world.run_after(delay, move |_| {
            let still = net.state().links.get(&way).is_some_and(|link| link.cut && link.cuts == cuts);
            if still {
                net.break_connection(way.0, way.1, Some(connection));
            }
        });
    }

    /// Makes one direction hold everything, or lets that go.
    pub(super) fn set_clogged(&self, way: Way, clogged: bool) {
        self.state().links.entry(way).or_default().clogged = clogged;
        if !clogged {
            self.let_go(way);
        }
    }

    /// Makes every direction whole and as the others are.
    pub(super) fn heal(&self) {
        let ways: Vec<Way> = self.state().links.keys().copied().collect();
        for way in ways {
            self.network.set_link(way, None);
            self.set_cut(way, false);
            self.set_clogged(way, false);
        }
    }

    fn let_go(&self, way: Way) {
        let mut state = self.state();
        let Some(link) = state.links.get_mut(&way) else { return };
        if link.cut || link.clogged {
            return;
        }
        let held = std::mem::take(&mut link.held);
        drop(state);
        held.into_iter().for_each(|packet| self.carry(packet));
    }

    /// Sends a packet on its way.
    fn carry(&self, packet: Packet) {
        let mut state = self.state();
        let way = (packet.from, packet.to);
        let Some(len) = state.accept(&packet) else {
            drop(state);
            return drop(packet);
        };
        state.gossip.count(&packet.content);
        let link = state.links.entry(way).or_default();
        if link.cut || link.clogged {
            link.held.push(packet);
            return;
        }
        let arrives = state.arrival(way, len, self.world.now());
        drop(state);
        let net = self.clone();
        self.world.run_at(arrives, move |_| net.arrive(packet));
    }

    fn arrive(&self, packet: Packet) {
        let mut state = self.state();
        let way = (packet.from, packet.to);
        let link = state.links.entry(way).or_default();
        if link.cut || link.clogged {
            link.held.push(packet);
            return;
        }
        let current = state.connection(way.0, way.1);
        if current != Some(packet.connection) || !state.endpoints.contains_key(&packet.to) {
            drop(state);
            return drop(packet);
        }
        drop(state);
        let (kind, head, body) = packet.content.describe();
        self.world.note(packet.to, kind, [packet.from as u64, body as u64], &head);
        match packet.content {
            Content::Request(message) => {
                self.serve(packet.from, packet.to, packet.connection, packet.call, message)
            }
            Content::Reply(result) => {
                let call = self.state().end_call(packet.call);
                if let Some(call) = call {
                    drop(call.result.send(result));
                }
            }
            Content::Cancel => {
                let serving = self.state().serving.remove(&packet.call);
                drop(serving);
            }
        }
    }

    /// Hands a request to its node, and carries the answer back.
    fn serve(&self, from: usize, to: usize, connection: u64, call: u64, message: Message) {
        let (reply, answer) = ReplySender::pair();
        let mut state = self.state();
        let Some(sender) = state.endpoints.get(&from).map(|endpoint| endpoint.id) else { return };
        let (stop, stopped) = oneshot::channel::<()>();
        let asked = message.clone();
        let heard = match state.actors.get_mut(&to) {
            Some(actor) => actor.hear(from, message),
            None => Heard::Pass(message),
        };
        let Some(endpoint) = state.endpoints.get_mut(&to) else { return };
        let scope = endpoint.scope;
        let mut wakers = Vec::new();
        match heard {
            Heard::Pass(message) => {
                endpoint.inbox.push_back(Inbound { from: sender, message, reply });
                wakers = std::mem::take(&mut endpoint.inbox_wakers);
            }
            Heard::Answer(message) => reply.send(message),
            // The caller waits for as long as it wants to.
            Heard::Never => return,
        }
        state.serving.insert(call, stop);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        let net = self.clone();
        let task = async move {
            let answer = match futures::future::select(answer, stopped).await {
                futures::future::Either::Left((answer, _)) => answer,
                // The caller is gone, or the connection: the handler may notice.
                futures::future::Either::Right(_) => return,
            };
            let delay = net.state().actors.get_mut(&to).map_or(Duration::ZERO, Actor::delay);
            if !delay.is_zero() {
                net.world.sleep(delay).await;
            }
            let serving = net.state().serving.remove(&call);
            drop(serving);
            let content = Content::Reply(net.check_reply(to, &asked, answer));
            net.carry(Packet { from: to, scope, to: from, connection, call, content });
        };
        // The outside ends with the world.
        let _ = self.world.spawn(OUTSIDE, Box::pin(task));
    }

    fn check_reply(
        &self,
        node: usize,
        asked: &Message,
        answer: Result<Message, oneshot::Canceled>,
    ) -> Result<Message> {
        let message = answer.map_err(|_| {
            Error::new(ErrorKind::OutcomeUnknown, "the peer gave the request up; it may have been handled")
        })?;
        super::transport::check_sizes(&message)?;
        match self.state().actors.get_mut(&node) {
            Some(actor) => Ok(actor.say(asked, message)),
            None => Ok(message),
        }
    }

    /// Sends a request over the connection that is there now.
    ///
    /// # Errors
    /// `Unavailable` where there is none.
    pub(super) fn send(
        &self,
        from: usize,
        scope: ScopeId,
        to: usize,
        message: Message,
    ) -> Result<(u64, oneshot::Receiver<Result<Message>>)> {
        let forged = self.state().actors.get_mut(&from).and_then(Actor::forge);
        let (result, answer) = oneshot::channel();
        let mut state = self.state();
        let connection = state.connection(from, to).ok_or_else(unreachable)?;
        let call = state.number();
        state.begin_call(call, Call { from, to, staged: staged_bytes(&message), result });
        let forged = forged.map(|message| (state.number(), Content::Request(message)));
        drop(state);
        if let Some((call, content)) = forged {
            // No call waits for what comes of it.
            self.carry(Packet { from, scope, to, connection, call, content });
        }
        self.carry(Packet { from, scope, to, connection, call, content: Content::Request(message) });
        Ok((call, answer))
    }

    /// Forgets a call that nobody waits for, and tells the peer.
    pub(super) fn cancel(&self, call: u64, scope: ScopeId) {
        let mut state = self.state();
        let Some(Call { from, to, .. }) = state.end_call(call) else { return };
        let connection = state.connection(from, to);
        drop(state);
        if let Some(connection) = connection {
            self.carry(Packet { from, scope, to, connection, call, content: Content::Cancel });
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn id(&self, node: usize) -> Option<NodeId> {
        let known = self.endpoints.get(&node).map(|endpoint| endpoint.id);
        known.or_else(|| self.names.get(&node).copied())
    }

    /// Whom a node is connected to, by their numbers.
    fn peers_of(&self, node: usize) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.connections.get(&node).into_iter().flatten().map(|(peer, number)| (*peer, *number))
    }

    fn connection(&self, a: usize, b: usize) -> Option<u64> {
        self.connections.get(&a)?.get(&b).copied()
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(peers) = self.connections.get_mut(&one) {
                peers.remove(&other);
            }
        }
    }

    /// The calls of one node that another is to answer.
    fn calls_between(&self, from: usize, to: usize) -> impl Iterator<Item = u64> + '_ {
        let own = self.calls_of.get(&from).into_iter();
        own.flat_map(move |calls| calls.range((to, 0)..=(to, u64::MAX))).map(|(_, id)| *id)
    }

    fn begin_call(&mut self, id: u64, call: Call) {
        let under_way = self.staged.entry(call.from).or_default();
        *under_way += call.staged;
        let peak = self.peaks.entry(call.from).or_default();
        *peak = (*peak).max(*under_way);
        self.calls_of.entry(call.from).or_default().insert((call.to, id));
        self.calls.insert(id, call);
    }

    fn end_call(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        if let Some(under_way) = self.staged.get_mut(&call.from) {
            *under_way -= call.staged;
        }
        if let Some(calls) = self.calls_of.get_mut(&call.from) {
            calls.remove(&(call.to, id));
        }
        Some(call)
    }

    fn profile(&self, way: Way) -> Link {
        self.links.get(&way).and_then(|link| link.profile).unwrap_or(self.normal)
    }

    fn latency(&mut self, way: Way) -> Duration {
        let profile = self.profile(way);
        self.draws.time(profile.latency, profile.latency.saturating_add(profile.jitter))
    }

    /// The length of a packet that may go: its connection stands, and its sender has not crashed since.
    fn accept(&self, packet: &Packet) -> Option<u64> {
        let same = self.connection(packet.from, packet.to) == Some(packet.connection);
        let alive = self.endpoints.get(&packet.from).is_some_and(|end| end.scope == packet.scope);
        let (_, head, body) = packet.content.describe();
        (same && alive).then_some((head.len() + body) as u64)
    }

    /// When a packet that is sent now arrives.
    fn arrival(&mut self, way: Way, len: u64, now: u64) -> u64 {
        let profile = self.profile(way);
        let mut delay = self.latency(way);
        let mut losses = 0;
        while losses < MAX_LOSSES && self.draws.chance(profile.loss_per_mille) {
            delay += RESEND * 2_u32.pow(losses);
            losses += 1;
        }
        let carried = len.saturating_mul(1_000_000_000) / profile.bytes_per_second.max(1);
        let link = self.links.entry(way).or_default();
        link.busy_until = link.busy_until.max(now).saturating_add(carried);
        link.busy_until.saturating_add(nanos(delay))
    }
}

impl Content {
    /// What a packet is called in the trace, its head, and the length of its body.
    fn describe(&self) -> (&'static str, Bytes, usize) {
        match self {
            Self::Request(message) => ("request", message.head.clone(), message.body.len()),
            Self::Reply(Ok(message)) => ("reply", message.head.clone(), message.body.len()),
            Self::Reply(Err(_)) => ("no reply", Bytes::new(), 0),
            Self::Cancel => ("cancel", Bytes::new(), 0),
        }
    }
}

/// The length of the shard that a request brings, if it brings one.
fn staged_bytes(message: &Message) -> usize {
    let stages =
        !message.body.is_empty() && matches!(Request::decode(&message.head), Ok(Request::Stage { .. }));
    if stages { message.body.len() } else { 0 }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "this end of the simulated network is closed")
}

/// This end was closed when the request was on its way.
pub(super) fn interrupted() -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        "this end of the simulated network was closed before the reply came",
    )
}

pub(super) fn unreachable() -> Error {
    Error::new(ErrorKind::Unavailable, "the peer cannot be reached now")
}

fn cut_off() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "the connection broke before the reply came")
}
