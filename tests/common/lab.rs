//! Six nodes whose transports and stores can be told to misbehave, and a client that holds nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use datamesh::format::{Reply, Request};
use datamesh::net::memory::MemoryTransport;
use datamesh::ports::{
    Address, Batch, BlobPage, Capacity, Inbound, Message, PeerRoute, RecordPage, ReplySender, Storage, Table,
    Transport, TransportEvent,
};
use datamesh::runtime::NativeRuntime;
use datamesh::store::MemoryStore;
use datamesh::{
    Builder, Error, ErrorKind, Limits, MemoryNetwork, Mesh, MeshKey, NodeId, NodeIdentity, Result, ShardId,
};

use super::PATIENCE;

/// How a node's transport misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    Honest,
    /// Answers with one bit turned.
    FlipsBits,
    /// Answers with the last byte cut off.
    Truncates,
    /// Answers with the bytes that it gave to an earlier question.
    Swaps,
    /// Answers with another shard that it holds.
    OtherShard,
    /// Takes requests and never answers.
    Silent,
    /// Answers long after everybody else.
    Late,
    /// Says yes to all that it should keep, and keeps nothing.
    AcknowledgesAndDrops,
    /// Goes away when it is asked to commit.
    DiesAtCommit,
}

/// How a node's store misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Disk {
    #[default]
    Honest,
    /// Reads blobs with one bit turned, and does not notice.
    FlipsBits,
    /// Notices that every blob is corrupt.
    Corrupt,
    /// Takes blobs and forgets them.
    DropsBlobs,
    /// Never comes back from a read of a blob.
    HangsOnReads,
    /// Never comes back from a write of a blob.
    HangsOnWrites,
    /// Has no room for blobs.
    Full,
    /// Has no room for records either.
    TakesNothing,
    /// Takes no more writes, because an earlier one failed.
    Failed,
}

/// A late answer comes after this: far more than a hedge or a straggler's grace, and less than a test's limit.
const LATE: Duration = Duration::from_secs(20);

/// What a test tells a node's transport, and what it learns from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dial(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    fault: Fault,
    unanswered: Vec<ReplySender>,
    staged: BTreeSet<ShardId>,
    last_body: Option<Bytes>,
    frames: Option<Vec<Message>>,
    distorted: usize,
}

impl Dial {
    pub(crate) fn set(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    /// How many answers were made wrong.
    pub(crate) fn distorted(&self) -> usize {
        self.0.lock().unwrap().distorted
    }

    /// Keeps all frames that pass from now on.
    pub(crate) fn record(&self) {
        self.0.lock().unwrap().frames = Some(Vec::new());
    }

    /// All frames that were recorded.
    pub(crate) fn frames(&self) -> Vec<Message> {
        self.0.lock().unwrap().frames.clone().unwrap_or_default()
    }

    fn note(&self, message: &Message) {
        if let Some(frames) = &mut self.0.lock().unwrap().frames {
            frames.push(message.clone());
        }
    }

    /// What becomes of a request; `None` when the node never sees it.
    fn admit(&self, mut inbound: Inbound) -> Option<Inbound> {
        self.note(&inbound.message);
        let request = Request::decode(&inbound.message.head).unwrap();
        let mut state = self.0.lock().unwrap();
        if let Request::Stage { shard } = request {
            state.staged.insert(shard);
        }
        let keeps =
            matches!(request, Request::Stage { .. } | Request::Commit { .. } | Request::PutManifest { .. });
        let gives = matches!(
            request,
            Request::ReadShard { .. } | Request::ReadManifest { .. } | Request::ReadLayout { .. }
        );
        match state.fault {
            Fault::Silent => {
                state.unanswered.push(inbound.reply);
                return None;
            }
            Fault::AcknowledgesAndDrops if keeps => {
                inbound.reply.send(Message { head: Reply::Done.encode(), body: Bytes::new() });
                return None;
            }
            Fault::OtherShard => {
                if let Request::ReadShard { shard } = request
                    && let Some(other) = state.staged.iter().find(|other| **other != shard).copied()
                {
                    inbound.message.head = Request::ReadShard { shard: other }.encode();
                    state.distorted += 1;
                }
            }
            _ => {}
        }
        let fault = state.fault;
        let recording = state.frames.is_some();
        drop(state);
        if (gives && fault != Fault::Honest) || fault == Fault::Late || recording {
            inbound.reply = self.between(inbound.reply, fault);
        }
        Some(inbound)
    }

    /// Stands between the node's answer and its caller.
    fn between(&self, to: ReplySender, fault: Fault) -> ReplySender {
        let (sender, answer) = ReplySender::pair();
        let dial = self.clone();
        let runtime = NativeRuntime::shared().unwrap();
        let later = Arc::clone(&runtime);
        let pass = async move {
            let Ok(mut answer) = answer.await else { return };
            if fault == Fault::Late {
                later.sleep(LATE).await;
            }
            answer.body = dial.distort(answer.body, fault);
            dial.note(&answer);
            to.send(answer);
        };
        runtime.spawn(Box::pin(pass)).unwrap();
        sender
    }

    fn distort(&self, body: Bytes, fault: Fault) -> Bytes {
        if body.is_empty() {
            return body;
        }
        let mut state = self.0.lock().unwrap();
        let earlier = state.last_body.replace(body.clone());
        let wrong = match fault {
            Fault::FlipsBits => flipped(&body),
            Fault::Truncates => body.slice(..body.len() - 1),
            Fault::Swaps => earlier.filter(|earlier| *earlier != body).unwrap_or_else(|| flipped(&body)),
            _ => return body,
        };
        state.distorted += 1;
        wrong
    }
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut wrong = bytes.to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 0x10;
    wrong.into()
}

/// A place in the in-process network that does what its dial says.
#[derive(Debug)]
pub(crate) struct FaultyTransport {
    inner: MemoryTransport,
    dial: Dial,
}

impl FaultyTransport {
    pub(crate) fn new(inner: MemoryTransport, dial: &Dial) -> Self {
        Self { inner, dial: dial.clone() }
    }
}

impl Transport for FaultyTransport {
    fn local_node(&self) -> NodeId {
        self.inner.local_node()
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.dial.note(&request);
        let answer = self.inner.call(node, request, limit).await;
        if let Ok(answer) = &answer {
            self.dial.note(answer);
        }
        answer
    }

    async fn accept(&self) -> Option<Inbound> {
        loop {
            let inbound = self.inner.accept().await?;
            let dies = self.dial.0.lock().unwrap().fault == Fault::DiesAtCommit;
            if dies && matches!(Request::decode(&inbound.message.head), Ok(Request::Commit { .. })) {
                self.inner.close().await;
                continue;
            }
            if let Some(inbound) = self.dial.admit(inbound) {
                return Some(inbound);
            }
        }
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        self.inner.next_event().await
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.inner.connect(address, limit).await
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        self.inner.set_peers(peers);
    }

    fn connected(&self) -> Vec<NodeId> {
        self.inner.connected()
    }

    fn listen_addresses(&self) -> Vec<Address> {
        self.inner.listen_addresses()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A store that does what it is told, and outlives the mesh that uses it, as a disk does.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<MemoryStore>,
    disk: Arc<Mutex<Disk>>,
    /// Held by a test for as long as no read of a blob may go on.
    reads: Arc<futures::lock::Mutex<()>>,
}

impl FaultyStore {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(MemoryStore::new()), disk: Arc::default(), reads: Arc::default() }
    }

    pub(crate) fn set(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
    }

    /// Reads of blobs wait until what this gives is dropped.
    pub(crate) async fn hold_reads(&self) -> futures::lock::OwnedMutexGuard<()> {
        Arc::clone(&self.reads).lock_owned().await
    }

    fn disk(&self) -> Disk {
        *self.disk.lock().unwrap()
    }

    /// The blobs that it holds.
    pub(crate) async fn blobs(&self) -> Vec<(ShardId, u64)> {
        self.inner.scan_blobs(None, usize::MAX).await.unwrap().blobs
    }
}

impl Storage for FaultyStore {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        match self.disk() {
            Disk::DropsBlobs => Ok(()),
            Disk::HangsOnWrites => futures::future::pending().await,
            Disk::Full | Disk::TakesNothing => Err(no_room()),
            Disk::Failed => Err(failed()),
            _ => self.inner.write_blob(id, bytes).await,
        }
    }

    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        drop(self.reads.lock().await);
        let read = self.inner.read_blob(id).await?;
        match self.disk() {
            Disk::FlipsBits => Ok(read.map(|bytes| flipped(&bytes))),
            Disk::Corrupt if read.is_some() => Err(Error::new(ErrorKind::Corrupt, "altered in this test")),
            Disk::HangsOnReads => futures::future::pending().await,
            _ => Ok(read),
        }
    }

    async fn blob_lengths(&self, ids: Vec<ShardId>) -> Result<Vec<Option<u64>>> {
        self.inner.blob_lengths(ids).await
    }

    async fn scan_blobs(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        self.inner.scan_blobs(after, limit).await
    }

    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        self.inner.read_record(table, key).await
    }

    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.inner.scan_records(table, prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        match self.disk() {
            Disk::TakesNothing => Err(no_room()),
            Disk::Failed => Err(failed()),
            _ => self.inner.commit(batch).await,
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.inner.capacity().await
    }

    async fn compact(&self) -> Result<()> {
        if self.disk() == Disk::Failed {
            return Err(failed());
        }
        self.inner.compact().await
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn failed() -> Error {
    Error::new(ErrorKind::Poisoned, "a sync failed in this test")
}

fn no_room() -> Error {
    Error::new(ErrorKind::StorageFull, "no room in this test")
}

/// One node of a [`Lab`].
pub(crate) struct Site {
    pub(crate) mesh: Mesh,
    pub(crate) id: NodeId,
    pub(crate) dial: Dial,
    pub(crate) store: FaultyStore,
    secret: [u8; 32],
    running: AtomicBool,
}

/// What a lab is opened with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) nodes: usize,
    pub(crate) segment_bytes: u32,
    pub(crate) memory_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { nodes: 6, segment_bytes: 16 << 10, memory_bytes: 64 << 20 }
    }
}

/// Nodes that can be stopped, started and told to misbehave, and a client without a store.
pub(crate) struct Lab {
    pub(crate) network: MemoryNetwork,
    pub(crate) sites: Vec<Site>,
    pub(crate) client: Mesh,
    key: MeshKey,
    settings: Settings,
}

impl Lab {
    /// Six nodes and a client.
    pub(crate) async fn open() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let network = MemoryNetwork::new();
        let key = MeshKey::from_bytes([0x5a; 32]);
        let mut sites: Vec<Site> = Vec::new();
        for number in 0..settings.nodes {
            let first = sites.first().map(|site| &site.mesh);
            sites.push(open_site(&network, &key, &settings, number, first).await);
        }
        let client = open_client(&network, &settings, &sites[0].mesh, [0xee; 32]).await;
        let lab = Self { network, sites, client, key, settings };
        lab.settled(lab.settings.nodes).await;
        lab
    }

    /// Another client of the same mesh.
    pub(crate) async fn another_client(&self, through: usize) -> Mesh {
        let client = open_client(&self.network, &self.settings, &self.sites[through].mesh, [0xdd; 32]).await;
        client.wait_for_nodes(self.sites.len(), PATIENCE).await.unwrap();
        client
    }

    /// One more node.
    pub(crate) async fn grow(&mut self) {
        let number = self.sites.len();
        let first = Some(&self.sites[0].mesh);
        let site = open_site(&self.network, &self.key, &self.settings, number, first).await;
        self.sites.push(site);
        self.settled(self.sites.len()).await;
    }

    /// Waits until the client and every running node reach this many nodes.
    pub(crate) async fn settled(&self, count: usize) {
        self.client.wait_for_nodes(count, PATIENCE).await.unwrap();
        for site in &self.sites {
            if site.running.load(Ordering::Relaxed) {
                site.mesh.wait_for_nodes(count, PATIENCE).await.unwrap();
            }
        }
    }

    /// Stops a node as its process's orderly end would.
    pub(crate) async fn stop(&self, number: usize) {
        self.sites[number].running.store(false, Ordering::Relaxed);
        self.sites[number].mesh.shutdown().await.unwrap();
    }

    /// Starts a stopped node again, with the store that it had.
    pub(crate) async fn start(&mut self, number: usize) {
        let site = &self.sites[number];
        let mesh = builder(&self.network, &self.settings, &site.secret, &site.dial)
            .mesh_key(self.key.clone())
            .storage(site.store.clone())
            .capacity(1 << 40)
            .open()
            .await
            .unwrap();
        self.sites[number].mesh = mesh;
        self.sites[number].running.store(true, Ordering::Relaxed);
    }

    /// Stops these nodes.
    pub(crate) async fn stop_all(&self, numbers: &[usize]) {
        for number in numbers {
            self.stop(*number).await;
        }
    }

    /// Starts these nodes again and waits for all.
    pub(crate) async fn start_all(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.start(*number).await;
        }
        self.settled(self.sites.len()).await;
    }

    /// The node ids of these nodes.
    pub(crate) fn ids(&self, numbers: &[usize]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| self.sites[*number].id).collect()
    }
}

fn builder(network: &MemoryNetwork, settings: &Settings, secret: &[u8; 32], dial: &Dial) -> Builder {
    let identity = NodeIdentity::from_secret(*secret);
    let runtime = NativeRuntime::shared().unwrap();
    let place = network.join(datamesh::ports::Identity::node_id(&identity), runtime).unwrap();
    datamesh::builder()
        .identity(identity)
        .transport(FaultyTransport::new(place, dial))
        .segment_bytes(settings.segment_bytes)
        .limits(Limits::default().with_memory_bytes(settings.memory_bytes))
}

async fn open_site(
    network: &MemoryNetwork,
    key: &MeshKey,
    settings: &Settings,
    number: usize,
    first: Option<&Mesh>,
) -> Site {
    let secret = [u8::try_from(number + 1).unwrap(); 32];
    let (dial, store) = (Dial::default(), FaultyStore::new());
    let mut builder = builder(network, settings, &secret, &dial)
        .mesh_key(key.clone())
        .storage(store.clone())
        .capacity(1 << 40);
    if let Some(first) = first {
        builder = builder.join(first.ticket().unwrap());
    }
    let mesh = builder.open().await.unwrap();
    Site { id: mesh.node_id(), mesh, dial, store, secret, running: AtomicBool::new(true) }
}

async fn open_client(network: &MemoryNetwork, settings: &Settings, through: &Mesh, secret: [u8; 32]) -> Mesh {
    builder(network, settings, &secret, &Dial::default())
        .capacity(0)
        .join(through.ticket().unwrap())
        .open()
        .await
        .unwrap()
}

/// Every pair of six nodes.
pub(crate) fn pairs() -> Vec<[usize; 2]> {
    (0..6).flat_map(|a| (a + 1..6).map(move |b| [a, b])).collect()
}

/// The shards that a store holds for its only extent, by segment.
pub(crate) async fn blobs_by_segment(store: &FaultyStore) -> Vec<ShardId> {
    let page = store.scan_records(Table::Extents, Bytes::new(), None, 2).await.unwrap();
    let [(_, record)] = &page.records[..] else { panic!("one extent was put") };
    let record = datamesh::format::StoredExtent::decode(record).unwrap();
    let layout = datamesh::format::Layout::decode(&record.layout).unwrap();
    let index = usize::from(record.indexes[0]);
    (0..usize::from(layout.segments)).map(|segment| layout.shard(segment, index).unwrap()).collect()
}
