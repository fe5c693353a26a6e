//! The work and the misfortunes of a campaign: clients put, get and remove, while nodes crash, freeze and decay.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{self, Either};

use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::mesh::{Limits, Mesh};
use crate::observe::Event;
use crate::peers::NodeStatus;
use crate::ports::Redundancy;
use crate::sim::atlas::{Atlas, Misfortune};
use crate::sim::campaign::Summary;
use crate::sim::draws::Draws;
use crate::sim::invariants::{self as must, Check};
use crate::sim::link::Link;
use crate::sim::mesh::SimMesh;
use crate::sim::model::{Model, Object, State};
use crate::sim::roles::Role;
use crate::sim::world::lock;

/// Clients that work at the same time.
pub(super) const CLIENTS: usize = 3;

/// What takes longer hangs: every step has a limit of its own, and the longest of them add up to less.
const HANG: Duration = Duration::from_secs(3600);

/// The longest pause between two operations of one client.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest pause between two misfortunes.
const CALM: Duration = Duration::from_secs(60);

/// How long a node is away when it counts as gone meanwhile.
const LONG: (Duration, Duration) = (Duration::from_secs(630), Duration::from_secs(1200));

/// How often a node is opened again before it counts as lost for good.
const RESTARTS: usize = 60;

/// A promise that was broken.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub(super) at: Duration,
    pub(super) invariant: &'static str,
    pub(super) details: String,
}

/// See the module.
pub(super) struct Play {
    pub(super) sim: SimMesh,
    pub(super) redundancy: Redundancy,
    limits: Limits,
    segment_bytes: u32,
    model: Mutex<Model>,
    atlas: Atlas,
    summary: Mutex<Summary>,
    broken: Mutex<Option<Broken>>,
    over: AtomicBool,
}

impl fmt::Debug for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Play({:?})", self.sim)
    }
}

impl Play {
    pub(super) fn new(
        sim: &SimMesh,
        draws: &mut Draws,
        redundancy: Redundancy,
        limits: Limits,
        segment_bytes: u32,
        misfortunes: &[Misfortune],
    ) -> Arc<Self> {
        Arc::new(Self {
            sim: sim.clone(),
            redundancy,
            limits,
            segment_bytes,
            model: Mutex::default(),
            atlas: Atlas::draw(draws, sim.len(), redundancy, misfortunes),
            summary: Mutex::default(),
            broken: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    pub(super) fn count(&self, what: &str, outcome: &str) {
        *lock(&self.summary).operations.entry(format!("{what}: {outcome}")).or_default() += 1;
    }

    pub(super) fn summary(&self) -> Summary {
        let mut summary = lock(&self.summary).clone();
        summary.objects = self.model().objects.len() as u64;
        summary.simulated = self.sim.now();
        summary.events = self.sim.events();
        summary.trace_hash = self.sim.trace_hash();
        summary.nodes = self.sim.len();
        summary
    }

    /// Notes a broken promise; the first one counts.
    pub(super) fn must(&self, invariant: &'static str, about: &str, check: Check) {
        if let Err(text) = check {
            let (at, details) = (self.sim.now(), format!("{about}: {text}"));
            lock(&self.broken).get_or_insert(Broken { at, invariant, details });
        }
    }

    pub(super) fn result(&self) -> Result<(), Broken> {
        match lock(&self.broken).clone() {
            None => Ok(()),
            Some(broken) => Err(broken),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || lock(&self.broken).is_some()
    }

    /// Plays, heals everything, and checks what has to hold then.
    pub(super) async fn run(self: &Arc<Self>, mut draws: Draws, duration: Duration) -> Result<(), Broken> {
        for node in 0..self.sim.len() {
            self.listen(node);
        }
        let mut work = Vec::new();
        for client in 0..CLIENTS {
            let draws = Draws::new(self.sim.seed(), &format!("client {client}"));
            work.push(self.sim.beside(Arc::clone(self).client(draws)));
        }
        self.misfortunes(&mut draws, duration).await;
        self.over.store(true, Ordering::Relaxed);
        self.result()?;
        self.heal().await;
        self.result()?;
        // Whatever is under way ends by itself now.
        future::join_all(work).await;
        self.result()?;
        self.finale(&mut draws).await;
        self.result()
    }

    /// Does one thing after another.
    async fn client(self: Arc<Self>, mut draws: Draws) {
        while !self.is_over() {
            let pause = draws.time(Duration::ZERO, PAUSE);
            self.sim.sleep(if draws.chance(300) { pause / 100 } else { pause }).await;
            match draws.below(10) {
                0..4 => self.put(&mut draws).await,
                4..9 => self.get(&mut draws).await,
                _ => self.remove(&mut draws).await,
            }
        }
    }

    /// A node that is up, and its handle.
    fn pick_node(&self, draws: &mut Draws) -> Option<(usize, Mesh)> {
        let up: Vec<usize> = (0..self.sim.len()).filter(|node| self.sim.is_up(*node)).collect();
        let node = *draws.pick(&up)?;
        Some((node, self.sim.mesh(node).ok()?))
    }

    fn pick_object(&self, draws: &mut Draws) -> Option<(ObjectId, Object)> {
        let model = self.model();
        let ids: Vec<&ObjectId> = model.objects.keys().collect();
        let id = **draws.pick(&ids)?;
        Some((id, model.objects.get(&id)?.clone()))
    }

    /// Runs an operation on a node; `None` when the node crashed meanwhile.
    pub(super) async fn timed<T: Send + 'static>(
        &self,
        node: usize,
        what: &str,
        limit: Duration,
        operation: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let running = pin!(self.sim.on(node, operation));
        let limit_passed = pin!(self.sim.sleep(limit));
        match future::select(running, limit_passed).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => {
                let text = format!("it has not ended after {} s", limit.as_secs());
                self.must("no_operation_hangs", &format!("{what} on node {node}"), Err(text));
                None
            }
        }
    }

    pub(super) fn content(draws: &mut Draws, segment_bytes: u32) -> Bytes {
        let segment = u64::from(segment_bytes);
        let most = match draws.below(10) {
            0..3 => 2000,
            3..8 => 3 * segment,
            _ => 12 * segment,
        };
        let len = draws.index(usize::try_from(most).unwrap_or(0));
        draws.bytes(len).into()
    }

    pub(super) async fn put(self: &Arc<Self>, draws: &mut Draws) {
        let Some((node, mesh)) = self.pick_node(draws) else { return };
        let content = Self::content(draws, self.segment_bytes);
        let mut request = mesh.put(content.clone());
        let margin = draws.index(self.redundancy.parity() + 1);
        let asked = draws.chance(200).then_some(margin);
        if let Some(margin) = asked {
            request = request.margin(margin);
        }
        let begun = self.sim.now();
        let given_up = draws.chance(150).then(|| draws.time(Duration::ZERO, Duration::from_millis(60)));
        let sim = self.sim.clone();
        let operation = async move {
            let Some(patience) = given_up else { return Some(request.await) };
            match future::select(request.into_future(), pin!(sim.sleep(patience))).await {
                Either::Left((result, _)) => Some(result),
                Either::Right(_) => None,
            }
        };
        let outcome = self.timed(node, "put", HANG, operation).await.flatten();
        match outcome {
            Some(Ok(receipt)) => {
                self.count("put", "stored");
                lock(&self.summary).bytes_put += content.len() as u64;
                let text = format!("margin {} of {asked:?}", receipt.margin);
                let reached = asked.is_none_or(|asked| receipt.margin >= asked);
                self.must("i8_margins_are_as_acknowledged", "put", reached.then_some(()).ok_or(text));
                self.model().stored(&self.sim, &receipt, content, begun);
                if draws.chance(150) {
                    self.remove_object(draws, receipt.object).await;
                }
            }
            Some(Err(error)) => {
                self.count("put", &format!("{:?}", error.kind()));
                if !is_sure(&error) {
                    self.model().unknown_puts += 1;
                }
            }
            None => {
                self.count("put", "given up or crashed");
                self.model().unknown_puts += 1;
            }
        }
    }

    async fn get(self: &Arc<Self>, draws: &mut Draws) {
        let Some((id, _)) = self.pick_object(draws) else { return };
        let Some((node, _)) = self.pick_node(draws) else { return };
        let part = draws.chance(300);
        self.read(draws, node, id, part).await;
    }

    /// Reads an object, or a part of it, and checks what was promised.
    pub(super) async fn read(self: &Arc<Self>, draws: &mut Draws, node: usize, id: ObjectId, part: bool) {
        let Ok(mesh) = self.sim.mesh(node) else { return };
        let Some(before) = self.model().objects.get(&id).cloned() else { return };
        let (begun, len) = (self.sim.now(), before.content.len() as u64);
        let from = if part { draws.below(len + 1) } else { 0 };
        let to = if part { from + draws.below(len - from + 1) } else { len };
        let request = mesh.get(&before.capability).range(from..to);
        let read = async move { request.await };
        let Some(outcome) = self.timed(node, "get", HANG, read).await else { return };
        let kind = outcome.as_ref().map_or_else(|error| format!("{:?}", error.kind()), |_| "read".into());
        self.count("get", &kind);
        self.judge(node, id, begun, &before, from..to, &outcome);
    }

    fn judge(
        &self,
        node: usize,
        id: ObjectId,
        begun: Duration,
        before: &Object,
        range: std::ops::Range<u64>,
        outcome: &Result<Bytes>,
    ) {
        let model = self.model();
        let Some(object) = model.objects.get(&id).cloned() else { return };
        let promised = before.state == State::Stored && must::promised(&model, &object, node, begun);
        let stays = before.state == State::Stored && object.state == State::Stored;
        // Who lies has lost what it holds, as far as its readers can see.
        let intact = stays && model.is_promised(&object, &model.liars);
        let about = match outcome {
            Ok(_) => format!("get of {} on node {node}", id.fmt_short()),
            Err(error) => {
                let missing: Vec<_> =
                    error.missing().iter().filter_map(|id| self.sim.number_of(id)).collect();
                format!(
                    "get of {} on node {node} from {begun:?}, margin {}, holders {:?}, damaged {:?}, unwell {:?}, missing {missing:?}, shards on disks {:?}",
                    id.fmt_short(),
                    object.margin,
                    object.holders,
                    model.damaged_holders(&object),
                    model.unwell_since(begun),
                    must::whereabouts(&self.sim, &object),
                )
            }
        };
        drop(model);
        let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(0));
        let expected = object.content.get(from..to).unwrap_or_default();
        self.must("i2_no_wrong_bytes", &about, must::i2_no_wrong_bytes(expected, outcome));
        self.must("i1_acknowledged_reads_back", &about, must::i1_acknowledged_reads_back(promised, outcome));
        let check = must::i4_stored_is_never_called_absent(intact, outcome);
        self.must("i4_stored_is_never_called_absent", &about, check);
        if before.state == State::Removed {
            self.must("i6_removed_stays_removed", &about, must::i6_removed_stays_removed(outcome));
        }
    }

    async fn remove(self: &Arc<Self>, draws: &mut Draws) {
        if let Some((id, _)) = self.pick_object(draws) {
            self.remove_object(draws, id).await;
        }
    }

    async fn remove_object(self: &Arc<Self>, draws: &mut Draws, id: ObjectId) {
        let Some(object) = self.model().objects.get(&id).cloned() else { return };
        let Some((node, mesh)) = self.pick_node(draws) else { return };
        if let Some(known) = self.model().objects.get_mut(&id)
            && known.state == State::Stored
        {
            known.state = State::Removing;
        }
        let request = mesh.remove(&object.capability);
        let outcome = self.timed(node, "remove", HANG, async move { request.await }).await;
        match outcome {
            Some(Ok(removal)) => {
                self.count("remove", if removal.unreached.is_empty() { "removed" } else { "in part" });
                if removal.unreached.is_empty()
                    && let Some(known) = self.model().objects.get_mut(&id)
                {
                    known.state = State::Removed;
                }
            }
            Some(Err(error)) => self.count("remove", &format!("{:?}", error.kind())),
            None => self.count("remove", "crashed"),
        }
    }

    /// Lets one misfortune after another happen.
    async fn misfortunes(self: &Arc<Self>, draws: &mut Draws, duration: Duration) {
        let end = self.sim.now() + duration;
        let mut running = Vec::new();
        while self.sim.now() < end && lock(&self.broken).is_none() {
            self.sim.sleep(draws.time(Duration::ZERO, CALM)).await;
            self.look_whether_care_keeps_up();
            let chosen = self.atlas.choose(draws, &self.model(), self.sim.len());
            let Some((kind, node)) = chosen else { continue };
            *lock(&self.summary).misfortunes.entry(kind.name()).or_default() += 1;
            let draws = Draws::new(draws.next_u64(), kind.name());
            running.push(self.sim.beside(Arc::clone(self).befall(kind, node, draws)));
        }
        if lock(&self.broken).is_none() {
            future::join_all(running).await;
        }
    }

    /// Once care has made all losses good, others may be lost.
    fn look_whether_care_keeps_up(&self) {
        let mut model = self.model();
        if model.has_losses() && must::i8_margins_are_restored(&self.sim, &model).is_ok() {
            model.made_good(self.sim.now());
            *lock(&self.summary).operations.entry("losses: made good".into()).or_default() += 1;
        }
    }

    async fn befall(self: Arc<Self>, kind: Misfortune, node: usize, mut draws: Draws) {
        let now = self.sim.now();
        if kind.is_lasting() {
            self.model().damaged(node, now, kind == Misfortune::Wipe);
        }
        if kind == Misfortune::Lie {
            self.model().liars.insert(node);
        }
        if kind.impairs() {
            self.model().unwell(node);
        }
        self.act(kind, node, &mut draws).await;
        let now = self.sim.now();
        if kind.impairs() {
            self.model().well(node, now);
        }
    }

    async fn act(self: &Arc<Self>, kind: Misfortune, node: usize, draws: &mut Draws) {
        let sim = &self.sim;
        let all: Vec<usize> = (0..sim.len()).collect();
        let (one, lasts) = ([node], Atlas::duration(draws));
        match kind {
            Misfortune::Crash => {
                sim.crash(node);
                sim.sleep(lasts).await;
            }
            Misfortune::Stop => {
                drop(sim.stop(node).await);
                sim.sleep(lasts).await;
            }
            Misfortune::Away => {
                sim.crash(node);
                sim.sleep(draws.time(LONG.0, LONG.1)).await;
            }
            Misfortune::Freeze => {
                sim.freeze(node);
                sim.sleep(lasts).await;
                sim.thaw(node);
            }
            Misfortune::Isolate => sim.partition(&one, &all),
            Misfortune::Mute => sim.cut(&one, &all),
            Misfortune::Deaf => sim.cut(&all, &one),
            Misfortune::Clog => {
                sim.clog(&one, &all);
                sim.clog(&all, &one);
            }
            Misfortune::SlowLinks => {
                let slow = slow_link(draws);
                sim.set_link(&one, &all, Some(slow));
                sim.set_link(&all, &one, Some(slow));
            }
            Misfortune::ClockJump => {
                let jump = i64::try_from(draws.below(7_200_000)).unwrap_or(0) - 3_600_000;
                sim.clock_jump(node, jump);
            }
            Misfortune::SlowDisk => {
                sim.slow_disk(node, 50);
                sim.sleep(lasts).await;
                sim.slow_disk(node, 1);
            }
            Misfortune::FullDisk => {
                sim.set_disk_capacity(node, 0);
                sim.sleep(lasts).await;
                sim.set_disk_capacity(node, crate::sim::Disk::default().capacity);
            }
            Misfortune::DiskError => {
                sim.fail_disk(node);
                sim.sleep(lasts).await;
                sim.crash(node);
            }
            Misfortune::BitFlips => sim.flip_bits(node, 1 + draws.index(8)),
            Misfortune::Misdirect => sim.misdirect(node),
            Misfortune::Wipe => {
                sim.wipe(node);
                sim.sleep(lasts).await;
            }
            Misfortune::Lie => {
                let roles: Vec<Role> = Role::ALL.into_iter().filter(|role| role.ends()).collect();
                let role = draws.pick(&roles).copied().unwrap_or(Role::BitFlip);
                *lock(&self.summary).operations.entry(format!("lie: {}", role.name())).or_default() += 1;
                sim.role(node, Some(role));
                sim.sleep(lasts).await;
                // It is honest again because another program runs there, which begins anew: who stopped lying without a
                // sign could be found out by no more than the next look at everything.
                sim.crash(node);
                sim.role(node, None);
                if role.loses() {
                    self.model().damaged(node, sim.now(), true);
                }
            }
            Misfortune::Reset => sim.reset(&one, &all),
            Misfortune::NewCapacity => {
                sim.offer(node, 1 << (28 + draws.below(4)));
                drop(sim.stop(node).await);
            }
        }
        if matches!(
            kind,
            Misfortune::Isolate
                | Misfortune::Mute
                | Misfortune::Deaf
                | Misfortune::Clog
                | Misfortune::SlowLinks
        ) {
            sim.sleep(lasts).await;
            sim.mend(&one, &all);
            sim.mend(&all, &one);
            sim.set_link(&one, &all, None);
            sim.set_link(&all, &one, None);
        }
        self.ensure_up(node).await;
    }

    /// Opens a node again until it is up.
    pub(super) async fn ensure_up(self: &Arc<Self>, node: usize) {
        for _ in 0..RESTARTS {
            if self.sim.is_up(node) {
                return;
            }
            match self.sim.restart(node).await {
                Ok(()) => return self.listen(node),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return,
                Err(_) => self.sim.sleep(Duration::from_secs(5)).await,
            }
        }
        let text = "it could not be opened again".to_owned();
        self.must("liveness_nodes_come_back", &format!("node {node}"), Err(text));
    }

    /// Follows what a node tells, and checks whom it accuses.
    fn listen(self: &Arc<Self>, node: usize) {
        let Ok(mesh) = self.sim.mesh(node) else { return };
        let (mut events, play) = (mesh.events(), Arc::clone(self));
        drop(mesh);
        let follow = async move {
            while let Some(event) = events.next().await {
                play.check_event(node, &event);
            }
        };
        drop(self.sim.beside(follow));
    }

    fn check_event(&self, node: usize, event: &Event) {
        let accused = match event {
            Event::WrongShard { node, .. } | Event::WrongManifest { node, .. } => self.sim.number_of(node),
            Event::CorruptShard(_) if !self.model().was_ever_damaged(node) => {
                let text = "it found a shard corrupt that nothing has altered".to_owned();
                return self.must("i9_no_honest_node_is_accused", &format!("node {node}"), Err(text));
            }
            _ => None,
        };
        let check = must::i9_no_honest_node_is_accused(&self.model(), accused);
        self.must("i9_no_honest_node_is_accused", &format!("node {node}"), check);
    }

    /// Ends every misfortune, and waits until all nodes are connected.
    async fn heal(self: &Arc<Self>) {
        self.sim.heal();
        for node in 0..self.sim.len() {
            self.sim.thaw(node);
            self.ensure_up(node).await;
        }
        for node in 0..self.sim.len() {
            let Ok(mesh) = self.sim.mesh(node) else { continue };
            // Who lied is honest again, and its users believe it and count on it.
            let is_doubted = |status: &&NodeStatus| !status.trusted || status.audits.is_poor();
            for status in mesh.nodes().iter().filter(is_doubted) {
                drop(mesh.trust(status.record.node).await);
            }
            let waited = mesh.wait_for_nodes(self.sim.len(), Duration::from_secs(120)).await;
            let check = waited.map_err(|error| format!("{error:?}"));
            self.must("liveness_nodes_reconnect", &format!("node {node}"), check);
        }
    }

    /// How many bytes of shards a node may have on their way to holders.
    pub(super) fn most_under_way(&self) -> usize {
        let plain = usize::try_from(self.segment_bytes).unwrap_or(0) + crate::format::TAG_LEN;
        let stripe = crate::format::shard_len(plain, self.redundancy) * self.redundancy.total();
        self.limits.memory_bytes + 2 * (CLIENTS + 1) * stripe
    }

    pub(super) fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }
}

fn slow_link(draws: &mut Draws) -> Link {
    Link::default()
        .with_latency(draws.time(Duration::from_millis(5), Duration::from_millis(300)))
        .with_jitter(draws.time(Duration::ZERO, Duration::from_millis(300)))
        .with_loss_per_mille(draws.below(300))
        .with_bytes_per_second(20_000 + draws.below(1_000_000))
}

/// Whether a put that ended so has surely stored nothing.
fn is_sure(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotStored | ErrorKind::StorageFull | ErrorKind::InvalidInput | ErrorKind::LimitExceeded
    )
}
