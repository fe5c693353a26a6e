//! The handle: what a program does with a mesh.

mod admission;
mod alarm;
mod builder;
mod drain;
mod forget;
mod keys;
mod membership;
mod probe;
mod rate;
mod requests;
mod serve;
mod tasks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures::FutureExt;
use futures::channel::oneshot;

use crate::care::scrub::Scrub;
use crate::care::{Care, CareOptions, CareStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{AdmissionKey, Capability, Entry, SignedCertificate, Ticket, Zone};
use crate::gate::Gate;
use crate::id::{NodeId, ShardId};
use crate::node::{Node, NodeEvent, NodeOptions};
use crate::object::budget::ByteBudget;
use crate::object::buffer::BufferPool;
use crate::object::flow::Flow;
use crate::object::{Engine, Source, segments_of};
use crate::observe::{Counters, Event, EventHub, Events, Metrics, count};
use crate::peers::{NodeStatus, Peers, closed};
use crate::placement::Plan;
use crate::planted::{Bug, is_active};
use crate::ports::{
    Address, Capacity, CryptoSuite, DynStorage, DynTransport, ErasureCode, Files, Identity, Redundancy,
    Runtime,
};
use crate::ring::KeyRing;

pub use builder::{Limits, MeshBuilder};
pub use drain::Drain;
pub use probe::Bandwidth;
pub use requests::{
    Explain, Get, GetToPath, HealthCheck, OpenReader, OpenStream, Put, Remove, Repair, StatRequest,
};

use alarm::Alarmed;
use membership::OwnRecord;
use rate::Rates;
use tasks::Tasks;

/// For how long `shutdown` lets requests of peers finish.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Shards that failed their check and wait to be looked at again; others are left to the scrub.
const MAX_SUSPECTS: usize = 1024;

/// How often the node looks for staged shards that nobody committed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// A node of a mesh, and everything a program does with it.
///
/// A clone is the same mesh: handles are cheap, and may be used from any thread and under any executor. Each verb
/// gives a request value that does nothing until it is awaited; dropping a future is always safe. When the last
/// handle is dropped the mesh is shut down in the background; [`shutdown`](Self::shutdown) waits for that.
#[derive(Clone)]
pub struct Mesh(Arc<Handle>);

/// Signals the end when the last handle goes.
struct Handle(Arc<Core>);

/// What the handles and the background tasks share.
#[derive(Debug)]
pub(crate) struct Core {
    engine: Arc<Engine>,
    node: Arc<Node>,
    identity: Arc<dyn Identity>,
    own: OwnRecord,
    keys: Option<KeyRing>,
    /// Passed by one change of the keys at a time.
    changing_keys: Gate,
    told: forget::Told,
    limits: Limits,
    care: Arc<Care>,
    tasks: Tasks,
    inbound: Arc<async_lock::Semaphore>,
    inbound_now: AtomicUsize,
    rates: Rates,
    /// Passed by one shutdown at a time.
    closing: Gate,
    closed: AtomicBool,
}

/// The checked parts of a mesh.
struct Parts {
    runtime: Arc<dyn Runtime>,
    storage: Arc<dyn DynStorage>,
    code: Arc<dyn ErasureCode>,
    suite: Arc<dyn CryptoSuite>,
    identity: Arc<dyn Identity>,
    files: Option<Arc<dyn Files>>,
    transports: Vec<Arc<dyn DynTransport>>,
    keys: Option<KeyRing>,
    bootstrap: Vec<Address>,
    admission: Vec<AdmissionKey>,
    certificate: Option<SignedCertificate>,
    redundancy: Redundancy,
    segment_len: u32,
    zone: Zone,
    capacity: u64,
    limits: Limits,
    care: CareOptions,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mesh(node {})", self.node_id().fmt_short())
    }
}

impl Mesh {
    /// A builder with no defaults wired, for a mesh of your own parts.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.core().engine)
    }

    /// This node's name.
    pub fn node_id(&self) -> NodeId {
        self.core().engine.peers.local()
    }

    /// Stores bytes, text, a file by its path, or a [`Source`] as a new object.
    ///
    /// Await it for the [`Receipt`](crate::Receipt), which has the own capability.
    pub fn put(&self, source: impl Into<Source>) -> Put {
        Put::new(self.clone(), source.into())
    }

    /// Reads an object, or a range of it, as one `Bytes`, a reader, a stream or a file.
    ///
    /// Needs an own or read capability.
    pub fn get(&self, capability: impl Into<Capability>) -> Get {
        Get::new(self.clone(), capability.into())
    }

    /// Reads what an object's manifest tells: length, media type, metadata. Needs an own or read capability.
    pub fn stat(&self, capability: impl Into<Capability>) -> StatRequest {
        StatRequest::new(self.clone(), capability.into())
    }

    /// Removes an object from every member that can be reached. Needs the own capability.
    pub fn remove(&self, capability: impl Into<Capability>) -> Remove {
        Remove::new(self.clone(), capability.into())
    }

    /// Asks every member what it holds of an object, and computes the margin. Any capability will do.
    pub fn health(&self, capability: impl Into<Capability>) -> HealthCheck {
        HealthCheck::new(self.clone(), capability.into())
    }

    /// Says where every shard of an object is, where it should be, and what fails if a node leaves. Any capability
    /// will do.
    pub fn explain(&self, capability: impl Into<Capability>) -> Explain {
        Explain::new(self.clone(), capability.into())
    }

    /// Where an object of this redundancy would go if it were put now, and what would survive. Nothing is sent.
    ///
    /// Every object has holders of its own, by a random key; this is a draw such as a put makes, over the same live
    /// members and by the same rules.
    ///
    /// # Errors
    /// `Unsupported` for a redundancy that the erasure code cannot do; `NotStored` when no live member can hold data.
    pub fn plan(&self, redundancy: Redundancy) -> Result<Plan> {
        self.core().engine.plan(redundancy).map_err(|error| error.with_operation("plan"))
    }

    /// Rebuilds what is missing of an object at once, wherever nodes answer, and counts again. Any capability will do.
    ///
    /// Care does the same by itself once nodes are gone; this does not wait for that.
    pub fn repair(&self, capability: impl Into<Capability>) -> Repair {
        Repair::new(self.clone(), capability.into())
    }

    /// Leaves the mesh politely: everything that this node holds is brought to others first. Then shut it down.
    ///
    /// Objects stay readable throughout, and nothing new is put here. Opened again, the node is a member as before.
    pub fn drain(&self) -> Drain {
        Drain::new(self.clone())
    }

    /// What care does on this node, and how well the extents are kept that it looks after.
    pub fn care(&self) -> CareStatus {
        self.core().care.status()
    }

    /// Stops repair and rebalance on this node until [`resume_care`](Self::resume_care); what is under way is finished.
    pub fn pause_care(&self) {
        self.core().care.pause();
    }

    /// Lets repair and rebalance on this node go on.
    pub fn resume_care(&self) {
        self.core().care.resume();
    }

    /// Trusts a node again whose proof in an audit was wrong, after its disk or its program was looked at.
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Cancel safety
    /// Safe to drop: the node is then trusted again, or not.
    pub async fn trust(&self, node: NodeId) -> Result<()> {
        self.core().care.trust(node).await.map_err(|error| error.with_operation("trust"))
    }

    /// The members of the mesh, as this node knows them, by node id. Clients are not members.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.core().engine.peers.statuses()
    }

    /// The addresses under which other nodes can reach this one now.
    pub fn addresses(&self) -> Vec<Address> {
        self.core().listen_addresses()
    }

    /// What a new node needs to join: the mesh key as it is now and addresses, this node's own first. Keep it secret.
    /// [`Ticket::until`] makes an invitation of it, which ends.
    ///
    /// # Errors
    /// `InvalidInput` for a mesh that has no mesh key or knows no address that anybody listens on.
    pub fn ticket(&self) -> Result<Ticket> {
        let core = self.core();
        let refuse = |text| Err(Error::new(ErrorKind::InvalidInput, text).with_operation("ticket"));
        let Some(ring) = &core.keys else {
            return refuse("this mesh has no mesh key; give one to its builder");
        };
        let mut addresses = core.listen_addresses();
        let others =
            core.engine.peers.records().into_iter().flat_map(|record| record.record().addresses.clone());
        for address in others {
            if addresses.len() < 8 && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return refuse("nobody listens on this mesh; open it with an address to listen on");
        }
        let entry = Entry::Key(ring.keys().without_earlier());
        Ok(Ticket { entry, addresses, admission: self.admission_keys() })
    }

    /// Waits until this many members that hold data are connected, this node among them.
    ///
    /// # Errors
    /// `TimedOut`, with the number that are connected, after `limit`; `Closed`.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn wait_for_nodes(&self, count: usize, limit: Duration) -> Result<()> {
        let core = self.core();
        let reached = core.until(|core| core.tasks.is_stopped() || core.storage_nodes_connected().0 >= count);
        let waited = core.engine.runtime.timeout(limit, reached).await;
        let waited = if core.tasks.is_stopped() { Err(closed()) } else { waited };
        waited.map_err(|error| {
            let have = core.storage_nodes_connected().0;
            error.with_operation("wait for nodes").with_counts(have, count, Vec::new())
        })
    }

    /// What happens from now on, as a stream that ends with the mesh.
    pub fn events(&self) -> Events {
        self.core().engine.events.subscribe()
    }

    /// Running totals since the mesh was opened.
    pub fn metrics(&self) -> Metrics {
        let core = self.core();
        let budget = &core.engine.budget;
        let mut metrics = core.engine.counters.snapshot();
        metrics.budget_in_use = budget.in_use() as u64;
        metrics.budget_limit = budget.limit() as u64;
        metrics.connected_peers = core.connected().len() as u64;
        metrics.key_generation = core.keys.as_ref().map_or(0, |ring| ring.keys().generation);
        metrics.inbound_now = core.inbound_now.load(Ordering::Relaxed) as u64;
        metrics.margins = core.care.status().margins;
        metrics.ways = core.engine.peers.way_totals();
        let (puts, gets) = (&core.engine.puts, &core.engine.gets);
        (metrics.put_window, metrics.put_goodput) = (puts.window() as u64, puts.goodput());
        (metrics.get_window, metrics.get_goodput) = (gets.window() as u64, gets.goodput());
        metrics
    }

    /// The shards that peers have staged here and not committed, and their bytes.
    #[cfg(feature = "sim")]
    pub(crate) fn staged(&self) -> (usize, u64) {
        self.core().node.staged()
    }

    /// The sequence of the record that this node signed last.
    #[cfg(feature = "sim")]
    pub(crate) fn own_sequence(&self) -> Option<(NodeId, u64)> {
        self.core().own.sequence().map(|sequence| (self.node_id(), sequence))
    }

    /// What this node's store holds and may still take.
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn usage(&self) -> Result<Capacity> {
        self.core().node.storage().capacity().await
    }

    /// Gives the space of removed shards on this node back to the disk now. It happens by itself each hour.
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Cancel safety
    /// Safe to drop; the store goes on or stops between two steps.
    pub async fn compact(&self) -> Result<()> {
        self.core().node.storage().compact().await
    }

    /// Shuts the mesh down: peers' requests are finished, connections closed, the store closed. Returns when nothing
    /// of it runs any more. Other handles then give `Closed`; calling it again does nothing.
    ///
    /// # Errors
    /// The store's own when its last sync failed; the mesh is closed even then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest to the background.
    pub async fn shutdown(&self) -> Result<()> {
        let core = Arc::clone(self.core());
        // At once: whoever drops this future is to find the mesh closed all the same.
        core.stop();
        let (done, result) = oneshot::channel();
        let work = async move { drop(done.send(core.shutdown().await)) };
        // On the runtime, so that it goes on when this future is dropped.
        self.core().engine.runtime.spawn(work.boxed())?;
        match result.await {
            Ok(result) => result,
            Err(_) => self.core().shutdown().await,
        }
    }
}

impl Core {
    async fn open(parts: Parts) -> Result<Mesh> {
        let events = EventHub::default();
        let counters = Arc::new(Counters::default());
        let (rot, rotten) = rot_channels();
        let options = node_options(&parts, &events, &counters, rot);
        let alarmed = Alarmed::new(parts.storage, events.clone(), Arc::clone(&counters));
        let node = Node::open(Arc::new(alarmed), Arc::clone(&parts.runtime), options).await?;
        let peers = Peers::new(
            Arc::clone(&node),
            parts.identity.node_id(),
            parts.transports,
            Arc::clone(&parts.runtime),
            parts.care.grace,
        );
        let code = Arc::clone(&parts.code);
        parts.runtime.compute(move || code.warm_up()).await?;
        let threads = parts.runtime.parallelism().max(1);
        let (plain, memory) = (parts.segment_len as usize, parts.limits.memory_bytes);
        let coded = plain.div_ceil(parts.redundancy.data()) * parts.redundancy.total();
        let flow = |bytes| Flow::new(threads, segments_of(memory, bytes), plain as u64);
        let engine = Engine {
            peers: Arc::new(peers),
            code: parts.code,
            suite: parts.suite,
            files: parts.files,
            redundancy: parts.redundancy,
            segment_len: parts.segment_len,
            put_limit: parts.care.put_limit(),
            budget: ByteBudget::new(memory),
            puts: flow(coded),
            // The shards, and the plaintext made of them.
            gets: flow(2 * plain),
            buffers: BufferPool::default(),
            events,
            counters,
            runtime: Arc::clone(&parts.runtime),
        };
        let engine = Arc::new(engine);
        let core = Arc::new(Self {
            care: Care::new(&engine, &node, parts.care),
            engine,
            node,
            identity: parts.identity,
            own: OwnRecord::new(parts.zone, parts.capacity),
            keys: parts.keys,
            changing_keys: Gate::default(),
            told: forget::Told::default(),
            tasks: Tasks::new(&parts.runtime),
            inbound: Arc::new(async_lock::Semaphore::new(parts.limits.inbound_requests)),
            inbound_now: AtomicUsize::new(0),
            rates: Rates::new(parts.limits.control_per_second, parts.limits.control_burst),
            closing: Gate::default(),
            closed: AtomicBool::new(false),
            limits: parts.limits,
        });
        // From here on, a failure drops the handle, which closes everything.
        let mesh = Mesh(Arc::new(Handle(Arc::clone(&core))));
        core.load_keys().await?;
        core.load_admission(parts.admission, parts.certificate).await?;
        core.begin(&parts.bootstrap, rotten).await?;
        Ok(mesh)
    }

    async fn begin(self: &Arc<Self>, bootstrap: &[Address], rotten: Rotten) -> Result<()> {
        self.load_members().await?;
        self.care.recall_distrust().await?;
        for number in 0..self.engine.peers.transports().len() {
            self.tasks.start(Arc::clone(self).serve(number))?;
            self.tasks.start(Arc::clone(self).follow(number))?;
        }
        self.engine.peers.update_routes();
        let local = self.engine.peers.local();
        let alone = self.engine.peers.records().iter().all(|record| record.record().node == local);
        if !bootstrap.is_empty() {
            let joined = self.bootstrap(bootstrap).await;
            // Members that are known from before are dialled in any case.
            if alone {
                joined?;
            }
        }
        self.tasks.start(Arc::clone(self).gossip())?;
        self.tasks.start(Arc::clone(&self.care).watch())?;
        if !self.own.is_client() {
            self.tasks.start(Arc::clone(&self.care).run())?;
        }
        self.tasks.start(Arc::clone(&self.care).mend(rotten.set_aside))?;
        self.tasks.start(Arc::clone(&self.care).spread_removals())?;
        self.tasks.start(Arc::clone(&self.care).collect())?;
        self.tasks.start(Arc::clone(&self.care).audit())?;
        self.tasks.start(Arc::clone(&self.care).look_at_disk())?;
        self.tasks.start(Scrub::new(&self.care, rotten.suspects).run())?;
        self.tasks.start(Arc::clone(self).sweep())
    }

    /// Removes what no extent uses: once for what an earlier process left, then what was staged too long ago. Gives
    /// back the space of what was removed.
    async fn sweep(self: Arc<Self>) {
        if let Err(error) = self.node.sweep_orphans().await {
            tracing::warn!(%error, "the sweep of unused shards failed");
        }
        loop {
            let interval =
                if is_active(Bug::SweepInFlight) { SWEEP_INTERVAL / 36_000 } else { SWEEP_INTERVAL };
            self.engine.runtime.sleep(interval).await;
            if let Err(error) = self.node.sweep(self.engine.runtime.now()).await {
                tracing::warn!(%error, "the sweep of staged shards failed");
            }
            if let Err(error) = self.node.storage().compact().await {
                tracing::warn!(%error, "the space of removed shards was not given back");
            }
        }
    }

    /// Begins nothing more.
    fn stop(&self) {
        self.tasks.stop();
        self.engine.peers.close();
    }

    async fn shutdown(&self) -> Result<()> {
        self.stop();
        let _alone = self.closing.alone().await;
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let drained = self.engine.runtime.timeout(DRAIN_LIMIT, self.tasks.finished()).await;
        if drained.is_err() {
            tracing::warn!("requests of peers did not finish in time; their connections are closed");
        }
        for transport in self.engine.peers.transports() {
            transport.close().await;
        }
        let result = self.node.storage().close().await;
        self.engine.events.close();
        self.closed.store(true, Ordering::Relaxed);
        result.map_err(|error| error.with_operation("shutdown"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.tasks.is_stopped() {
            return;
        }
        self.0.stop();
        let core = Arc::clone(&self.0);
        let end = async move {
            if let Err(error) = core.shutdown().await {
                tracing::warn!(%error, "the mesh was not shut down cleanly");
            }
        };
        // A runtime that is gone has already dropped what there was to close.
        let _ = self.0.engine.runtime.spawn(end.boxed());
    }
}

/// Where the node tells what has rotted.
struct Rot {
    suspect: Sender<ShardId>,
    set_aside: Sender<()>,
}

/// Where care hears of it.
struct Rotten {
    suspects: Receiver<ShardId>,
    set_aside: Receiver<()>,
}

fn rot_channels() -> (Rot, Rotten) {
    let (suspect, suspects) = async_channel::bounded(MAX_SUSPECTS);
    let (set_aside, was_set_aside) = async_channel::bounded(1);
    (Rot { suspect, set_aside }, Rotten { suspects, set_aside: was_set_aside })
}

fn node_options(parts: &Parts, events: &EventHub, counters: &Arc<Counters>, rot: Rot) -> NodeOptions {
    let (events, counters) = (events.clone(), Arc::clone(counters));
    let sink = move |event: NodeEvent| match event {
        NodeEvent::CorruptShard { shard } => {
            events.emit(Event::CorruptShard(shard));
            // Where many wait already, the scrub will come by.
            let _ = rot.suspect.try_send(shard);
        }
        // The scrub tells of it when it has met it itself.
        NodeEvent::UnreadableShard { shard } => drop(rot.suspect.try_send(shard)),
        NodeEvent::SetAside { shard } => {
            count(&counters.shards_set_aside, 1);
            events.emit(Event::ShardSetAside(shard));
            // A token that is there already says the same.
            let _ = rot.set_aside.try_send(());
        }
    };
    NodeOptions::default().with_staged_bytes(parts.limits.staged_bytes).with_events(Arc::new(sink))
}
