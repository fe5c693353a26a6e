//! Whom this node can ask, and how each of them is: members, liveness, timing, what audits have shown.

mod call;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admission::Policy;
use crate::care::{Audit, Audits, Detector, NodeState};
use crate::error::{Error, ErrorKind};
use crate::format::SignedRecord;
use crate::id::NodeId;
use crate::node::Node;
use crate::placement::{CallClass, Member, MemberTable, Merge, PeerTiming, slow_ones, without_slow};
use crate::planted::{Bug, is_active};
use crate::ports::{
    DynTransport, Instant, PeerRoute, Reach, Reached, Redundancy, Runtime, Timestamp, Way, WayStatus,
};

pub(crate) use call::{closed, refused, unexpected};

/// How long a node is left out of writes for having been slow to store, before it is tried again.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// The local node and the peers that it can ask.
#[derive(Debug)]
pub(crate) struct Peers {
    local: NodeId,
    node: Arc<Node>,
    /// Cheapest first.
    transports: Vec<Arc<dyn DynTransport>>,
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
    /// The latest wall time that was seen, in milliseconds.
    latest: AtomicU64,
    closed: AtomicBool,
}

/// Peers are bounded by the member table, whose limit is `MAX_MEMBERS`.
#[derive(Debug)]
struct State {
    table: MemberTable,
    timing: BTreeMap<NodeId, PeerTiming>,
    /// When each last took something in.
    stored: BTreeMap<NodeId, Instant>,
    detector: Detector,
    /// The bytes that the fastest link has lately carried in a second.
    goodput: u64,
    /// How many transports have a connection to each peer, and which is the cheapest.
    routes: BTreeMap<NodeId, Vec<usize>>,
    audits: BTreeMap<NodeId, Audits>,
    policy: Policy,
    /// Who sent a wrong proof: what they say to hold counts for nothing.
    distrusted: BTreeSet<NodeId>,
}

/// What came of it when a node was to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It is forgotten now, by this newest record of it.
    Forgotten(SignedRecord),
    /// It was already.
    Already(SignedRecord),
    /// It is here, or was not long enough ago.
    Present,
    /// Nothing is known of it.
    Unknown,
}

/// What is known of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// What the node says of itself, signed.
    pub record: crate::format::NodeRecord,
    /// Whether it is this node.
    pub local: bool,
    /// Whether it is connected, or is this node.
    pub connected: bool,
    /// By what kind of way requests go to it now; `None` for this node, and for one that is not connected.
    pub way: Option<Way>,
    /// The ways to it, and what was measured on them.
    pub ways: Vec<WayStatus>,
    /// By what kind of connection it is reached, where it is connected over a network.
    pub reach: Option<Reach>,
    /// What its silence means, if it is silent.
    pub state: NodeState,
    /// The median latency of its recent answers without a body.
    pub latency: Option<Duration>,
    /// The 95th percentile of its recent answers with a shard.
    pub bulk_latency_p95: Option<Duration>,
    /// Answers that came.
    pub successes: u64,
    /// Calls that failed, and wrong answers.
    pub failures: u64,
    /// What this node's audits of it have shown.
    pub audits: Audits,
    /// Whether what it says to hold is believed: one wrong proof ends that, and [`Mesh::trust`](crate::Mesh::trust)
    /// begins it anew.
    pub trusted: bool,
}

impl Peers {
    pub(crate) fn new(
        node: Arc<Node>,
        local: NodeId,
        transports: Vec<Arc<dyn DynTransport>>,
        runtime: Arc<dyn Runtime>,
        grace: Duration,
    ) -> Self {
        let state = State {
            table: MemberTable::new(),
            timing: BTreeMap::new(),
            stored: BTreeMap::new(),
            detector: Detector::new(grace, runtime.now()),
            goodput: 0,
            routes: BTreeMap::new(),
            audits: BTreeMap::new(),
            policy: Policy::default(),
            distrusted: BTreeSet::new(),
        };
        let (latest, closed) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { local, node, transports, runtime, state: Mutex::new(state), latest, closed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest wall time that was seen: a certificate that has ended does not count again when the clock goes back.
    pub(crate) fn wall_time(&self) -> Timestamp {
        let now = self.runtime.wall_time().0;
        Timestamp(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// Ends every later call with `Closed`.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// The error of an operation, which is `Closed` once the mesh was shut down, whatever that made of its calls.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Closed || !self.closed.load(Ordering::Relaxed) {
            return error;
        }
        closed().with_source(error)
    }

    /// This node.
    pub(crate) fn local(&self) -> NodeId {
        self.local
    }

    pub(crate) fn transports(&self) -> &[Arc<dyn DynTransport>] {
        &self.transports
    }

    /// The members, clients among them, by node id.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.state().table.members()
    }

    /// The members that can hold data.
    pub(crate) fn storage_members(&self) -> Vec<Member> {
        let mut members = self.members();
        members.retain(|member| member.capacity > 0);
        members
    }

    /// The members that can hold data, and those that are leaving, which may still hold some: until they have left.
    pub(crate) fn possible_holders(&self) -> Vec<NodeId> {
        let storage = self.storage_members().into_iter().map(|member| member.node);
        storage.chain(self.leaving_holders()).collect()
    }

    /// Those that are leaving and are here: what nobody else has yet may be with them.
    pub(crate) fn leaving_holders(&self) -> Vec<NodeId> {
        let mut leaving = self.leaving_members();
        leaving.retain(|node| self.is_connected(node));
        leaving
    }

    /// The members that can hold data, are not known to be down, and prove what they hold when they are asked.
    pub(crate) fn live_members(&self) -> Vec<Member> {
        let now = self.runtime.now();
        let state = self.state();
        let mut members = state.table.members();
        members.retain(|member| member.capacity > 0 && state.is_live(&member.node, now));
        members.retain(|member| member.node == self.local || state.is_reliable(&member.node));
        members
    }

    /// The live members without those that are far slower than the others, where no margin of what has this key is less
    /// for it.
    pub(crate) fn prompt_members(&self, key: &[u8; 32], redundancy: Redundancy) -> Vec<Member> {
        let members = self.live_members();
        let slow = self.slow_ones(&members);
        without_slow(key, members, &slow, redundancy)
    }

    /// Those of these members that lately answered, or stored, far slower than the others.
    pub(crate) fn slow_ones(&self, members: &[Member]) -> Vec<NodeId> {
        let now = self.runtime.now();
        let state = self.state();
        let lately = |node: &NodeId, class| state.timing.get(node).and_then(|timing| timing.lately(class));
        let is_fresh = |node: &NodeId| state.stored.get(node).is_some_and(|at| now - *at < SLOW_FOR);
        let others = || members.iter().map(|member| member.node).filter(|node| *node != self.local);
        let small = others().filter_map(|node| Some((node, lately(&node, CallClass::Small)?)));
        let store =
            others().filter(is_fresh).filter_map(|node| Some((node, lately(&node, CallClass::Store)?)));
        let mut slow = slow_ones(&small.collect::<Vec<_>>());
        slow.extend(slow_ones(&store.collect::<Vec<_>>()));
        slow
    }

    /// The members that can hold data, are not gone and are believed: what each has is its own, whether or not it
    /// answers.
    pub(crate) fn present_members(&self) -> Vec<Member> {
        let now = self.runtime.now();
        let state = self.state();
        let mut members = state.table.members();
        let is_present = |node: &NodeId| {
            *node == self.local || (!state.detector.is_gone(node, now) && state.is_believed(node))
        };
        members.retain(|member| member.capacity > 0 && is_present(&member.node));
        members
    }

    /// Those of the present members that prove what they say to hold: on these care counts.
    pub(crate) fn reliable_members(&self) -> Vec<Member> {
        let mut members = self.present_members();
        let state = self.state();
        members.retain(|member| member.node == self.local || !state.is_poor(&member.node));
        members
    }

    /// Whether what a node says to hold is believed.
    pub(crate) fn is_believed(&self, node: &NodeId) -> bool {
        self.state().is_believed(node)
    }

    /// What is known of a node's presence.
    pub(crate) fn node_state(&self, node: &NodeId) -> NodeState {
        self.state().state_of(node, self.local, self.runtime.now())
    }

    /// The members that offer no capacity any more and are not gone: they may still have what they had.
    pub(crate) fn leaving_members(&self) -> Vec<NodeId> {
        let now = self.runtime.now();
        let state = self.state();
        let is_leaving = |member: &Member| {
            let is_gone = state.detector.is_gone(&member.node, now);
            member.capacity == 0 && !is_gone && state.is_believed(&member.node)
        };
        state.table.members().into_iter().filter(is_leaving).map(|member| member.node).collect()
    }

    /// Those of the leaving members that prove what they say to hold.
    pub(crate) fn reliable_leavers(&self) -> Vec<NodeId> {
        let mut leaving = self.leaving_members();
        let state = self.state();
        leaving.retain(|node| *node == self.local || !state.is_poor(node));
        leaving
    }

    /// Looks at everybody's silence: says whose state changed, and whom to ask whether it is there.
    pub(crate) fn tick(&self) -> (Vec<(NodeId, NodeState)>, Vec<NodeId>) {
        let now = self.runtime.now();
        let mut state = self.state();
        let others = state.table.records().map(|signed| signed.record().node);
        let others = others.filter(|node| *node != self.local);
        let others: Vec<_> = others.map(|node| (node, state.routes.contains_key(&node))).collect();
        state.detector.tick(&others, now)
    }

    /// Records that a peer was asked what it holds, and whether it said it.
    pub(crate) fn surveyed(&self, node: NodeId, answered: bool) {
        let now = self.runtime.now();
        self.state().detector.surveyed(node, now, answered);
    }

    /// Records a sign of life of a peer: it asked something.
    pub(crate) fn heard(&self, node: NodeId) {
        let now = self.runtime.now();
        let mut state = self.state();
        // Clients come and go; only members are watched.
        if state.table.record(&node).is_some() {
            state.detector.heard(node, now);
        }
    }

    /// Whether a node is not known to be down.
    pub(crate) fn is_live(&self, node: &NodeId) -> bool {
        self.state().is_live(node, self.runtime.now())
    }

    pub(crate) fn is_connected(&self, node: &NodeId) -> bool {
        *node == self.local || self.state().routes.contains_key(node)
    }

    /// Whether this node knows a record of another.
    pub(crate) fn is_member(&self, node: &NodeId) -> bool {
        self.state().table.record(node).is_some()
    }

    /// Records that the transport with this number has a connection to the peer.
    pub(crate) fn connected(&self, transport: usize, node: NodeId) {
        let now = self.runtime.now();
        let mut state = self.state();
        let routes = state.routes.entry(node).or_default();
        if !routes.contains(&transport) {
            routes.push(transport);
            routes.sort_unstable();
        }
        if state.table.record(&node).is_some() {
            state.detector.heard(node, now);
        }
    }

    /// Records that the transport with this number has lost the peer; says whether that is news and no other reaches it.
    pub(crate) fn disconnected(&self, transport: usize, node: NodeId) -> bool {
        let now = self.runtime.now();
        let mut state = self.state();
        let gone = state.routes.get_mut(&node).is_some_and(|routes| {
            routes.retain(|route| *route != transport);
            routes.is_empty()
        });
        if gone {
            state.routes.remove(&node);
            if state.table.record(&node).is_some() {
                state.detector.failed(node, now);
            }
        }
        gone
    }

    /// Whom the transport with this number has a connection to and none is noted here, and whom it has none to and one
    /// is.
    pub(crate) fn misjudged(
        &self,
        transport: usize,
        connected: &BTreeSet<NodeId>,
    ) -> (Vec<NodeId>, Vec<NodeId>) {
        let state = self.state();
        let noted = state.routes.iter().filter(|(_, routes)| routes.contains(&transport));
        let noted: BTreeSet<NodeId> = noted.map(|(node, _)| *node).collect();
        let new = connected.difference(&noted).copied().collect();
        let gone = noted.difference(connected).copied().collect();
        (new, gone)
    }

    /// Takes a member's record in and says what changed.
    pub(crate) fn merge(&self, record: SignedRecord) -> Merge {
        let now = self.wall_time();
        let mut state = self.state();
        if state.policy.admits(record.record(), now) { state.table.merge(record) } else { Merge::Refused }
    }

    /// Looks at who is admitted, and by whom.
    pub(crate) fn policy<T>(&self, look: impl FnOnce(&Policy) -> T) -> T {
        look(&self.state().policy)
    }

    /// The same for a change.
    pub(crate) fn policy_mut<T>(&self, change: impl FnOnce(&mut Policy) -> T) -> T {
        change(&mut self.state().policy)
    }

    /// Forgets the members that are admitted no more, and names them.
    pub(crate) fn expel(&self) -> Vec<NodeId> {
        let now = self.wall_time();
        let mut state = self.state();
        let records = state.table.records().map(SignedRecord::record);
        let expelled: Vec<NodeId> =
            records.filter(|record| !state.policy.admits(record, now)).map(|record| record.node).collect();
        for node in &expelled {
            state.table.remove(node);
            state.forget_measures(node);
        }
        expelled
    }

    /// Forgets a member that is not here. A client that was told by members does not wait until it is gone to the client
    /// itself, which is not there for long enough to see anybody go.
    pub(crate) fn forget(&self, record: SignedRecord, is_sure: bool) -> Farewell {
        let (node, now) = (record.record().node, self.runtime.now());
        let mut state = self.state();
        let is_member = state.table.record(&node).is_some();
        let is_awaited = is_member && !is_sure && !state.detector.is_gone(&node, now);
        if node == self.local || state.routes.contains_key(&node) || is_awaited {
            return Farewell::Present;
        }
        if !is_member {
            return match state.table.forgotten(&node) {
                Some(_) => Farewell::Already(state.table.forget(record)),
                None => Farewell::Unknown,
            };
        }
        let newest = state.table.forget(record);
        state.forget_measures(&node);
        Farewell::Forgotten(newest)
    }

    /// Takes in who was forgotten before this process began.
    pub(crate) fn recall_forgotten(&self, record: SignedRecord) {
        self.state().table.forget(record);
    }

    /// What a node was last known by that was forgotten.
    pub(crate) fn forgotten(&self, node: &NodeId) -> Option<SignedRecord> {
        self.state().table.forgotten(node).cloned()
    }

    /// Whether a node is one of those whose certificate counts now; any node, where the mesh asks for none.
    pub(crate) fn is_admitted(&self, node: &NodeId) -> bool {
        let now = self.wall_time();
        let state = self.state();
        let record = state.table.record(node).map(SignedRecord::record);
        !state.policy.is_on() || record.is_some_and(|record| state.policy.admits(record, now))
    }

    /// Whether a node may not even ask.
    pub(crate) fn is_revoked(&self, node: &NodeId) -> bool {
        self.state().policy.is_revoked(node)
    }

    /// Whether this very record was merged before.
    pub(crate) fn knows(&self, encoded: &[u8]) -> bool {
        self.state().table.knows(encoded)
    }

    /// What a member says of itself.
    pub(crate) fn record(&self, node: &NodeId) -> Option<SignedRecord> {
        self.state().table.record(node).cloned()
    }

    /// So many other members' signed records, by node id from this one on, and from the first one after the last.
    pub(crate) fn others_from(&self, start: NodeId, count: usize) -> Vec<SignedRecord> {
        let state = self.state();
        let count = count.min(state.table.len());
        state.table.others_from(self.local, start).take(count).cloned().collect()
    }

    /// How many members are known beside this node.
    pub(crate) fn other_count(&self) -> usize {
        let state = self.state();
        state.table.len().saturating_sub(usize::from(state.table.record(&self.local).is_some()))
    }

    /// How many members that hold data are connected, this node among them, and whether all are.
    pub(crate) fn storage_connected(&self) -> (usize, bool) {
        let state = self.state();
        let members = || state.table.records().map(SignedRecord::record).filter(|record| record.capacity > 0);
        let is_connected = |node: &NodeId| *node == self.local || state.routes.contains_key(node);
        let connected = members().filter(|record| is_connected(&record.node)).count();
        (connected, connected == members().count())
    }

    /// Every member's signed record.
    pub(crate) fn records(&self) -> Vec<SignedRecord> {
        self.state().table.records().cloned().collect()
    }

    /// Tells the transports whom to keep connected: the members that hold data.
    pub(crate) fn update_routes(&self) {
        let of = |signed: &SignedRecord| {
            let record = signed.record();
            let wanted = record.node != self.local && !record.addresses.is_empty();
            wanted.then(|| PeerRoute { node: record.node, addresses: record.addresses.clone() })
        };
        let peers: Vec<PeerRoute> = self.state().table.records().filter_map(of).collect();
        self.transports.iter().for_each(|transport| transport.set_peers(peers.clone()));
    }

    /// Tells the transports who was revoked and gets no connection any more.
    pub(crate) fn update_refused(&self) {
        let mut revoked = self.policy(|policy| policy.revoked().to_vec());
        revoked.retain(|node| *node != self.local);
        self.transports.iter().for_each(|transport| transport.refuse(revoked.clone()));
    }

    /// What is known of each member.
    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        let now = self.runtime.now();
        // The transports are asked before the lock is taken.
        let records: Vec<SignedRecord> = self.records();
        let ways: Vec<Vec<WayStatus>> =
            records.iter().map(|signed| self.ways_to(signed.record().node)).collect();
        let reaches: Vec<_> = records.iter().map(|signed| self.reach_of(signed.record().node)).collect();
        let state = self.state();
        let of = |((signed, ways), reach): ((&SignedRecord, Vec<WayStatus>), Option<Reach>)| {
            let record = signed.record().clone();
            let timing = state.timing.get(&record.node);
            NodeStatus {
                reach,
                local: record.node == self.local,
                connected: record.node == self.local || state.routes.contains_key(&record.node),
                way: ways.iter().find(|way| way.chosen).map(|way| way.way),
                ways,
                state: state.state_of(&record.node, self.local, now),
                latency: timing.and_then(|timing| timing.p50(CallClass::Small)),
                bulk_latency_p95: timing.and_then(|timing| timing.p95(CallClass::Bulk)),
                successes: timing.map_or(0, PeerTiming::successes),
                failures: timing.map_or(0, PeerTiming::failures),
                audits: state.audits.get(&record.node).copied().unwrap_or_default(),
                trusted: !state.distrusted.contains(&record.node),
                record,
            }
        };
        records.iter().zip(ways).zip(reaches).map(of).collect()
    }

    /// How the transport that requests to a node go by reaches it.
    fn reach_of(&self, node: NodeId) -> Option<Reach> {
        self.transports.iter().find(|transport| transport.is_connected(node))?.reach(node)
    }

    /// The ways to a node, the one that is taken marked.
    fn ways_to(&self, node: NodeId) -> Vec<WayStatus> {
        if node == self.local {
            return Vec::new();
        }
        let mut ways = Vec::new();
        let mut is_chosen = false;
        for transport in &self.transports {
            let connected = transport.is_connected(node);
            let mut of = transport.ways_to(node);
            if of.is_empty() {
                of.push(WayStatus::unmeasured(transport.way(), connected));
            }
            // The first transport that is connected is asked, whatever the others offer.
            of.iter_mut().for_each(|way| way.chosen &= connected && !is_chosen);
            is_chosen |= connected;
            ways.extend(of);
        }
        ways
    }

    /// How requests go to each of these nodes now; this node, and those that are not connected, are left out.
    pub(crate) fn reached(&self, nodes: &[NodeId]) -> BTreeMap<NodeId, Reached> {
        let reached = |node: &NodeId| {
            let way = self.ways_to(*node).into_iter().find(|way| way.chosen)?.way;
            let reach = if way == Way::Network { self.reach_of(*node) } else { None };
            Some((*node, Reached { way, reach }))
        };
        nodes.iter().filter_map(reached).collect()
    }

    /// What each way has carried, all peers together, where the transports measure that.
    pub(crate) fn way_totals(&self) -> Vec<WayStatus> {
        self.transports.iter().flat_map(|transport| transport.way_totals()).collect()
    }

    /// Puts this node first, which costs nothing to ask, and last who is known to be down, after who is slow; else the
    /// order stays.
    pub(crate) fn order_by_promise(&self, order: &mut [NodeId], members: &[Member]) {
        let slow = self.slow_ones(members);
        order.sort_by_key(|node| (*node != self.local, !self.is_live(node), slow.contains(node)));
    }

    /// How promising it is to ask this node for a shard; less is better.
    pub(crate) fn score(&self, node: &NodeId) -> Duration {
        let now = self.runtime.now();
        let state = self.state();
        let base = if *node == self.local {
            Duration::ZERO
        } else {
            state.timing.get(node).map_or(Duration::from_millis(1), |timing| timing.score(CallClass::Bulk))
        };
        if state.is_live(node, now) && !state.distrusted.contains(node) {
            base
        } else {
            base + Duration::from_secs(60)
        }
    }

    /// After how long a second node should be asked too.
    pub(crate) fn hedge_after(&self, node: &NodeId, class: CallClass) -> Duration {
        self.state()
            .timing
            .get(node)
            .map_or(crate::placement::DEFAULT_HEDGE, |timing| timing.hedge_after(class))
    }

    /// Records what came of a challenge.
    pub(crate) fn audited(&self, node: NodeId, audit: Audit) {
        let mut state = self.state();
        // Only members are audited, so their number bounds this.
        if state.table.record(&node).is_some() {
            let audits = state.audits.entry(node).or_default();
            *audits = audits.and(audit);
        }
    }

    /// What audits have shown of each node.
    pub(crate) fn audits(&self) -> BTreeMap<NodeId, Audits> {
        self.state().audits.clone()
    }

    /// Believes nothing any more that this node says to hold.
    pub(crate) fn distrust(&self, node: NodeId) {
        if node != self.local {
            self.state().distrusted.insert(node);
        }
    }

    /// Believes a node again.
    pub(crate) fn trust(&self, node: NodeId) {
        let mut state = self.state();
        state.distrusted.remove(&node);
        state.audits.remove(&node);
    }

    /// Whether one more node may be distrusted: where more than a third would be, this node is the likelier culprit.
    pub(crate) fn may_distrust(&self) -> bool {
        let members = self.storage_members();
        let state = self.state();
        // Who was forgotten counts no more.
        let distrusted = members.iter().filter(|member| state.distrusted.contains(&member.node)).count();
        distrusted < (members.len() / 3).max(1)
    }
}

impl State {
    /// How fast a member answers. Clients come and go, and nothing is remembered of them.
    fn timing_of(&mut self, node: NodeId) -> Option<&mut PeerTiming> {
        self.table.record(&node)?;
        Some(self.timing.entry(node).or_default())
    }

    /// Forgets how a node answered that is no member any more.
    fn forget_measures(&mut self, node: &NodeId) {
        self.timing.remove(node);
        self.stored.remove(node);
        self.detector.forget(node);
    }

    /// Whether what a node says to hold is believed.
    fn is_believed(&self, node: &NodeId) -> bool {
        !self.distrusted.contains(node) || is_active(Bug::BelieveDistrusted)
    }

    /// Whether a node may get new shards.
    fn is_reliable(&self, node: &NodeId) -> bool {
        !self.distrusted.contains(node) && !self.is_poor(node)
    }

    /// Whether a node lately did not prove what it says to hold.
    fn is_poor(&self, node: &NodeId) -> bool {
        self.audits.get(node).is_some_and(Audits::is_poor)
    }

    fn is_live(&self, node: &NodeId, now: Instant) -> bool {
        self.detector.is_live(node, now, self.routes.contains_key(node))
    }

    fn state_of(&self, node: &NodeId, local: NodeId, now: Instant) -> NodeState {
        if *node == local {
            return NodeState::Up;
        }
        self.detector.state(node, now, self.routes.contains_key(node))
    }
}
