//! A mesh of simulated nodes: one call builds it, and every misfortune is a method.

mod faults;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::care::CareOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{NodeRecord, Zone};
use crate::id::NodeId;
use crate::mesh::{Limits, Mesh};
use crate::ports::{
    CryptoSuite, DynStorage, DynTransport, ErasureCode, Identity, Redundancy, Runtime, Table,
};
use crate::sim::draws::Draws;
use crate::sim::failure::Failure;
use crate::sim::link::Link;
use crate::sim::medium::Medium;
use crate::sim::network::{Gossip, Net, Network};
use crate::sim::progress::{Progress, Watcher};
use crate::sim::runtime::{BEGIN, Clock, SimRuntime};
use crate::sim::storage::{Disk, SimStorage};
use crate::sim::transport::{SimTransport, address_of};
use crate::sim::watch::WatchedSuite;
use crate::sim::world::{OUTSIDE, ScopeId, Stopped, World, lock};

/// The most addresses that a new node is given to join by.
const BOOTSTRAP_ADDRESSES: usize = 3;

/// The virtual time after which a run that is not done counts as hanging: more than any of its steps takes.
const RUN_LIMIT: Duration = Duration::from_secs(400 * 24 * 3600);

/// Makes the identity that belongs to a secret key.
pub type MakeIdentity = Arc<dyn Fn([u8; 32]) -> Arc<dyn Identity> + Send + Sync>;

/// The parts of a node that compute; they are the real ones, and shared by all nodes.
#[derive(Clone)]
pub struct Parts {
    /// The erasure code.
    pub code: Arc<dyn ErasureCode>,
    /// The crypto suite.
    pub suite: Arc<dyn CryptoSuite>,
    /// What makes identities.
    pub identity: MakeIdentity,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("code", &self.code).field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Settings of a simulated mesh; the same settings and seed give the same run.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is opened"]
pub struct SimBuilder {
    seed: u64,
    parts: Parts,
    nodes: usize,
    zones: usize,
    redundancy: Redundancy,
    segment_bytes: u32,
    limits: Limits,
    care: CareOptions,
    link: Link,
    disk: Disk,
    trace: bool,
    acquainted: bool,
    acquaintances: usize,
    watcher: Option<Watcher>,
}

impl SimBuilder {
    /// A mesh of six nodes in one zone, with the defaults of [`Link`] and [`Disk`].
    pub fn new(seed: u64, parts: Parts) -> Self {
        Self {
            seed,
            parts,
            nodes: 6,
            zones: 1,
            redundancy: Redundancy::STANDARD,
            segment_bytes: crate::format::DEFAULT_SEGMENT_LEN,
            limits: Limits::default(),
            care: CareOptions::default(),
            link: Link::default(),
            disk: Disk::default(),
            trace: false,
            acquainted: false,
            acquaintances: usize::MAX,
            watcher: None,
        }
    }

    /// How many nodes there are at the beginning. Six by default.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Over how many zones the nodes are spread, in turn. One by default.
    pub fn zones(mut self, zones: usize) -> Self {
        self.zones = zones.max(1);
        self
    }

    /// The redundancy of puts that name none. 4+2 by default.
    pub fn redundancy(mut self, redundancy: Redundancy) -> Self {
        self.redundancy = redundancy;
        self
    }

    /// The length of a segment in bytes. 1 MiB by default.
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Bounds on what each node takes for itself.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How each node cares for what it keeps.
    pub fn care(mut self, options: CareOptions) -> Self {
        self.care = options;
        self
    }

    /// How links carry, where nothing else is said.
    pub fn link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// How disks work.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// Keeps the last lines of the trace as text. Off by default, for it takes time.
    pub fn trace(mut self, keep: bool) -> Self {
        self.trace = keep;
        self
    }

    /// Lets all nodes know each other from the start, as if they had met long ago: quick for hundreds of nodes.
    pub fn acquainted(mut self, known: bool) -> Self {
        self.acquainted = known;
        self
    }

    /// Lets each node know so many others from the start, which are drawn, and no more: the rest they learn of by
    /// gossip.
    pub fn acquaintances(mut self, count: usize) -> Self {
        (self.acquainted, self.acquaintances) = (true, count);
        self
    }

    /// Tells how far the run is, some times in each second of real time: for runs that take minutes. It has no effect
    /// on the run.
    pub fn progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Watcher::new(tell));
        self
    }

    pub(super) fn watcher(mut self, watcher: Option<Watcher>) -> Self {
        self.watcher = watcher;
        self
    }

    /// Opens the mesh and waits until every node is connected to every other.
    ///
    /// # Errors
    /// A [`Failure`] when that does not come about.
    pub fn open(self) -> Result<SimMesh, Failure> {
        let sim = self.build();
        let nodes = sim.0.options.nodes;
        for _ in 0..nodes {
            sim.add_slot();
        }
        if sim.0.options.acquainted {
            sim.introduce();
        }
        let opened = sim.run(async {
            for node in 0..nodes {
                sim.restart(node).await?;
            }
            for node in 0..nodes {
                sim.mesh(node)?.wait_for_nodes(nodes, Duration::from_secs(300)).await?;
            }
            Ok::<(), Error>(())
        })?;
        match opened {
            Ok(()) => Ok(sim),
            Err(error) => Err(sim.failure("open", error.to_string())),
        }
    }

    fn build(self) -> SimMesh {
        let world = World::new(self.seed, self.trace, self.watcher.clone());
        let network = Network::new(self.seed, self.link);
        let suite = Arc::new(WatchedSuite::new(Arc::clone(&self.parts.suite)));
        let shared = Shared {
            net: Net { world, network },
            draws: Mutex::new(Draws::new(self.seed, "misfortunes")),
            options: self,
            suite,
            nodes: Mutex::default(),
        };
        SimMesh(Arc::new(shared))
    }
}

/// A mesh of simulated nodes in virtual time; a clone is the same one.
///
/// Nodes are named by their number, from 0. Everything runs on the thread that calls [`run`](Self::run), in an order
/// that the seed decides.
#[derive(Clone)]
pub struct SimMesh(Arc<Shared>);

struct Shared {
    net: Net,
    options: SimBuilder,
    suite: Arc<WatchedSuite>,
    nodes: Mutex<Vec<Slot>>,
    draws: Mutex<Draws>,
}

/// What stays of a node whatever happens to it, and its present incarnation.
struct Slot {
    identity: Arc<dyn Identity>,
    code: Arc<dyn ErasureCode>,
    clock: Arc<Clock>,
    medium: Arc<Mutex<Medium>>,
    zone: Zone,
    capacity: u64,
    incarnations: u64,
    life: Option<Life>,
}

struct Life {
    scope: ScopeId,
    storage: Arc<SimStorage>,
    mesh: Option<Mesh>,
}

impl Shared {
    fn end(&self) {
        let lives: Vec<Life> = lock(&self.nodes).iter_mut().filter_map(|slot| slot.life.take()).collect();
        self.net.world.end();
        drop(lives);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for SimMesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimMesh(seed {}, {} nodes)", self.seed(), self.len())
    }
}

impl SimMesh {
    /// Settings of a mesh with this seed; see [`SimBuilder::new`].
    pub fn builder(seed: u64, parts: Parts) -> SimBuilder {
        SimBuilder::new(seed, parts)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.options.seed
    }

    /// How many nodes there are, up or down.
    pub fn len(&self) -> usize {
        self.nodes().len()
    }

    /// Whether there is no node at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Slot>> {
        lock(&self.0.nodes)
    }

    fn with<R>(&self, node: usize, with: impl FnOnce(&mut Slot) -> R) -> Result<R> {
        self.nodes().get_mut(node).map(with).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("there is no node {node} in this simulation"))
        })
    }

    pub(super) fn world(&self) -> &Arc<World> {
        &self.0.net.world
    }

    pub(super) fn network(&self) -> &Arc<Network> {
        &self.0.net.network
    }

    pub(super) fn suite(&self) -> &WatchedSuite {
        &self.0.suite
    }

    pub(super) fn medium(&self, node: usize) -> Result<Arc<Mutex<Medium>>> {
        self.with(node, |slot| Arc::clone(&slot.medium))
    }

    /// Drives everything until `main` is done, and gives its output.
    ///
    /// # Errors
    /// A [`Failure`] when a task panicked, or when nothing is left that could end `main`.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> Result<T, Failure> {
        self.world().drive(main, RUN_LIMIT).map_err(|stopped| match stopped {
            Stopped::NothingLeft => self.failure("hang", "nothing is left that could go on".into()),
            Stopped::OutOfTime => self.failure("hang", "virtual time is over and the run is not".into()),
            Stopped::Spinning => self.failure("hang", "more happens in a second than any work takes".into()),
            Stopped::Panicked(text) => self.failure("panic", text),
        })
    }

    /// Ends every node and task. The last handle does so too, but tasks that own a handle keep it from being the last.
    pub fn end(&self) {
        self.0.end();
    }

    /// A failure of this run.
    pub(super) fn failure(&self, invariant: &'static str, details: String) -> Failure {
        Failure {
            seed: self.seed(),
            options: format!("{} nodes, {}", self.len(), self.0.options.redundancy),
            invariant,
            details,
            at: self.now(),
            trace: self.world().trace(|trace| trace.lines()),
        }
    }

    /// The virtual time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.world().now())
    }

    /// Waits in virtual time.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn sleep(&self, duration: Duration) {
        self.world().sleep(duration).await;
    }

    /// The handle of a node that is up.
    ///
    /// # Errors
    /// `Closed` when it is down, `InvalidInput` when there is no such node.
    pub fn mesh(&self, node: usize) -> Result<Mesh> {
        let mesh = self.with(node, |slot| slot.life.as_ref().and_then(|life| life.mesh.clone()))?;
        mesh.ok_or_else(|| Error::new(ErrorKind::Closed, format!("node {node} is down; restart it")))
    }

    /// The name of a node, up or down.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such node.
    pub fn node_id(&self, node: usize) -> Result<NodeId> {
        self.with(node, |slot| slot.identity.node_id())
    }

    /// The number of a node with this name.
    pub fn number_of(&self, id: &NodeId) -> Option<usize> {
        self.nodes().iter().position(|slot| slot.identity.node_id() == *id)
    }

    /// Whether a node is up.
    pub fn is_up(&self, node: usize) -> bool {
        self.mesh(node).is_ok()
    }

    /// Runs a future as a task of a node and gives its output, or `None` when the node crashed first.
    ///
    /// Unlike what is awaited elsewhere, it stops with the node when that is frozen.
    pub fn on<F>(&self, node: usize, future: F) -> impl Future<Output = Option<F::Output>> + Send + use<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let scope = self.with(node, |slot| slot.life.as_ref().map(|life| life.scope)).ok().flatten();
        let running = scope.map(|scope| self.world().run_in(scope, future));
        async move { running?.await }
    }

    /// Runs a future beside everything else, as nobody's task.
    pub(super) fn beside<F>(&self, future: F) -> impl Future<Output = Option<F::Output>> + Send + use<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.world().run_in(OUTSIDE, future)
    }

    /// How many events the run has had so far.
    pub fn events(&self) -> u64 {
        self.world().trace(|trace| trace.events())
    }

    /// A hash over everything that has happened so far: equal for equal seeds and settings.
    pub fn trace_hash(&self) -> String {
        self.world().trace(|trace| trace.hash().to_hex().to_string())
    }

    /// The last lines of the trace; empty unless they are kept.
    pub fn trace_lines(&self) -> Vec<String> {
        self.world().trace(|trace| trace.lines())
    }

    fn add_slot(&self) -> usize {
        let options = &self.0.options;
        let mut nodes = self.nodes();
        let number = nodes.len();
        let mut secret = [0; 32];
        Draws::new(options.seed, &format!("identity of node {number}")).fill(&mut secret);
        let zone = format!("zone-{}", number % options.zones).parse().unwrap_or_default();
        nodes.push(Slot {
            identity: (options.parts.identity)(secret),
            code: Arc::clone(&options.parts.code),
            clock: Arc::default(),
            medium: Arc::new(Mutex::new(Medium::new(options.disk.capacity))),
            zone,
            capacity: options.disk.capacity,
            incarnations: 0,
            life: None,
        });
        number
    }

    /// Writes every node's record to every disk.
    fn introduce(&self) {
        let nodes = self.nodes();
        let record = |(number, slot): (usize, &Slot)| {
            let record = NodeRecord {
                node: slot.identity.node_id(),
                addresses: address_of(number).into_iter().collect(),
                zone: slot.zone.clone(),
                capacity: slot.capacity,
                sequence: BEGIN,
                certificate: None,
            };
            record.sign(&*slot.identity).ok().map(|signed| {
                (bytes::Bytes::copy_from_slice(slot.identity.node_id().as_bytes()), signed.encode())
            })
        };
        let records: Vec<_> = nodes.iter().enumerate().filter_map(record).collect();
        for (number, slot) in nodes.iter().enumerate() {
            let mut medium = lock(&slot.medium);
            let known = self.acquaintances_of(number, records.len());
            for (id, record) in known.iter().filter_map(|known| records.get(*known)) {
                medium.put(Table::Members, id.clone(), record.clone());
            }
        }
    }

    /// Whom a node knows from the start, itself among them.
    fn acquaintances_of(&self, node: usize, nodes: usize) -> BTreeSet<usize> {
        let wanted = self.0.options.acquaintances;
        if wanted >= nodes {
            return (0..nodes).collect();
        }
        let mut draws = Draws::new(self.seed(), &format!("acquaintances of node {node}"));
        let mut known = BTreeSet::from([node]);
        while known.len() <= wanted {
            known.insert(draws.below(nodes as u64) as usize);
        }
        known
    }

    /// What members have told each other of members so far, all of them together.
    pub fn gossip(&self) -> Gossip {
        self.network().gossip()
    }

    /// Opens a node that is down, on what its disk has kept.
    ///
    /// # Errors
    /// Those of [`MeshBuilder::open`](crate::MeshBuilder::open); `Closed` when it crashed meanwhile; `AlreadyExists`
    /// when it is up.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the node opening, without a handle; crash it.
    pub async fn restart(&self, node: usize) -> Result<()> {
        let bootstrap = self.bootstrap_of(node)?;
        let scope = self.world().open_scope(node);
        let opening = self.with(node, |slot| self.begin(node, scope, slot))??;
        let opened = self.world().run_in(scope, opening.bootstrap(bootstrap).open()).await;
        let opened =
            opened.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, "it crashed while it opened")));
        match opened {
            Ok(mesh) => self.with(node, |slot| {
                if let Some(life) = slot.life.as_mut().filter(|life| life.scope == scope) {
                    life.mesh = Some(mesh);
                }
            }),
            Err(error) => {
                self.crash_incarnation(node, Some(scope));
                Err(error)
            }
        }
    }

    /// A node that knows others from before finds them; a new one is told some that are up, and where none is, some
    /// that were: so it fails to join, and does not take itself for the whole mesh.
    fn bootstrap_of(&self, node: usize) -> Result<Vec<crate::ports::Address>> {
        let medium = self.medium(node)?;
        if lock(&medium).table(Table::Members).count() > 1 {
            return Ok(Vec::new());
        }
        let others = |known: fn(&Slot) -> bool| {
            let nodes = self.nodes();
            let others = nodes.iter().enumerate().filter(|(other, slot)| *other != node && known(slot));
            others.take(BOOTSTRAP_ADDRESSES).filter_map(|(other, _)| address_of(other)).collect::<Vec<_>>()
        };
        let up = others(|slot| slot.life.as_ref().is_some_and(|life| life.mesh.is_some()));
        Ok(if up.is_empty() { others(|slot| slot.incarnations > 0) } else { up })
    }

    fn begin(&self, node: usize, scope: ScopeId, slot: &mut Slot) -> Result<crate::mesh::MeshBuilder> {
        if slot.life.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("node {node} is up already")));
        }
        let (world, options) = (self.world(), &self.0.options);
        slot.incarnations += 1;
        world.note(node, "start", [slot.incarnations, 0], &[]);
        let runtime: Arc<dyn Runtime> = SimRuntime::new(world, scope, node, &slot.clock);
        let id = slot.identity.node_id();
        let transport: Arc<dyn DynTransport> =
            Arc::new(SimTransport::open(&self.0.net, node, id, scope, Arc::clone(&runtime)));
        let storage = SimStorage::open(world, node, slot.incarnations, options.disk, &slot.medium);
        let storage = Arc::new(storage);
        slot.life = Some(Life { scope, storage: Arc::clone(&storage), mesh: None });
        let storage: Arc<dyn DynStorage> = storage;
        Ok(Mesh::builder()
            .runtime(runtime)
            .transport(transport)
            .storage(storage)
            .erasure_code(Arc::clone(&slot.code))
            .crypto_suite(Arc::<WatchedSuite>::clone(&self.0.suite))
            .identity(Arc::clone(&slot.identity))
            .redundancy(options.redundancy)
            .segment_bytes(options.segment_bytes)
            .limits(options.limits.clone())
            .care(options.care.clone())
            .zone(slot.zone.clone())
            .capacity(slot.capacity))
    }

    /// Adds a node, which joins by those that are up; gives its number.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    ///
    /// # Cancel safety
    /// As [`restart`](Self::restart).
    pub async fn add(&self) -> Result<usize> {
        let node = self.add_slot();
        self.restart(node).await?;
        Ok(node)
    }

    /// Adds a client, which offers no capacity; gives its number.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    ///
    /// # Cancel safety
    /// As [`restart`](Self::restart).
    pub async fn add_client(&self) -> Result<usize> {
        let node = self.add_slot();
        self.offer(node, 0);
        self.restart(node).await?;
        Ok(node)
    }

    /// Shuts a node down in good order.
    ///
    /// # Errors
    /// `Closed` when it is down; those of [`Mesh::shutdown`](crate::Mesh::shutdown).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest to the background.
    pub async fn stop(&self, node: usize) -> Result<()> {
        let mesh = self.mesh(node)?;
        let stopped = self.on(node, async move { mesh.shutdown().await }).await;
        self.crash_incarnation(node, None);
        stopped.unwrap_or(Ok(()))
    }

    /// Kills a node: its tasks are gone, and of what it had not synced some may be. Peers notice at once, or, when
    /// the whole host is gone, after a while; the seed decides.
    pub fn crash(&self, node: usize) {
        self.crash_incarnation(node, None);
    }

    fn crash_incarnation(&self, node: usize, only: Option<ScopeId>) {
        let life = self.with(node, |slot| {
            let matches = |life: &mut Life| only.is_none_or(|scope| scope == life.scope);
            slot.life.take_if(matches).map(|life| (life, Arc::clone(&slot.medium)))
        });
        let Ok(Some((life, medium))) = life else { return };
        let mut draws = lock(&self.0.draws).clone();
        let silent = draws.chance(300);
        self.world().note(node, "crash", [silent.into(), 0], &[]);
        life.storage.abandon();
        self.0.net.close(node, life.scope, silent);
        self.world().close_scope(life.scope);
        lock(&medium).crash(&mut draws);
        *lock(&self.0.draws) = draws;
        drop(life);
    }
}
