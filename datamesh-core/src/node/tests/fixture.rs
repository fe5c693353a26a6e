//! A small store in memory, a runtime whose time tests set, and sample extents.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::poll_fn;

use crate::format::*;
use crate::id::{ObjectId, OperationId};
use crate::node::*;
use crate::ports::*;

/// Blobs and records in maps, whose blob writes and commits can be held up or made to fail.
#[derive(Debug, Default)]
pub(super) struct TestStorage {
    pub(super) blobs: Mutex<BTreeMap<ShardId, Bytes>>,
    pub(super) records: Mutex<BTreeMap<(Table, Bytes), Bytes>>,
    /// Those that no commit has made durable.
    pub(super) unsynced: Mutex<Vec<ShardId>>,
    pub(super) corrupt: Mutex<Vec<ShardId>>,
    pub(super) commits: AtomicUsize,
    pub(super) fail_commit: AtomicBool,
    pub(super) hold_commit: AtomicBool,
    pub(super) hold_write: AtomicBool,
}

pub(super) async fn while_held(flag: &AtomicBool) {
    poll_fn(|_| if flag.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(()) }).await;
}

impl Storage for TestStorage {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        while_held(&self.hold_write).await;
        if self.blobs.lock().unwrap().insert(id, bytes).is_none() {
            self.unsynced.lock().unwrap().push(id);
        }
        Ok(())
    }

    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        if self.corrupt.lock().unwrap().contains(&id) {
            return Err(Error::new(ErrorKind::Corrupt, "bytes fail their check"));
        }
        Ok(self.blobs.lock().unwrap().get(&id).cloned())
    }

    async fn blob_lengths(&self, ids: Vec<ShardId>) -> Result<Vec<Option<u64>>> {
        let blobs = self.blobs.lock().unwrap();
        Ok(ids.iter().map(|id| blobs.get(id).map(|bytes| bytes.len() as u64)).collect())
    }

    async fn scan_blobs(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        let blobs = self.blobs.lock().unwrap();
        let mut rest = blobs.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let page = rest.by_ref().take(limit).map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
        Ok(BlobPage { blobs: page, more: rest.next().is_some() })
    }

    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        Ok(self.records.lock().unwrap().get(&(table, key)).cloned())
    }

    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        let records = self.records.lock().unwrap();
        let mut found = records
            .iter()
            .filter(|((t, key), _)| *t == table && key.starts_with(&prefix) && Some(key) > after.as_ref());
        let page = found.by_ref().take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect();
        Ok(RecordPage { records: page, more: found.next().is_some() })
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        while_held(&self.hold_commit).await;
        if self.fail_commit.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Io, "sync of /secret/path failed"));
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.unsynced.lock().unwrap().clear();
        for step in batch.into_steps() {
            match step {
                BatchStep::Put { table, key, value } => {
                    self.records.lock().unwrap().insert((table, key), value);
                }
                BatchStep::Delete { table, key } => {
                    self.records.lock().unwrap().remove(&(table, key));
                }
                BatchStep::DeleteBlob { id } => {
                    self.blobs.lock().unwrap().remove(&id);
                }
            }
        }
        Ok(())
    }

    async fn capacity(&self) -> Result<Capacity> {
        Ok(Capacity::default())
    }

    async fn compact(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Runs jobs at once and keeps a time that tests set.
#[derive(Debug, Default)]
pub(super) struct TestRuntime {
    pub(super) seconds: AtomicU64,
}

impl Runtime for TestRuntime {
    fn spawn(&self, _task: Task) -> Result<()> {
        Err(Error::new(ErrorKind::Closed, "nothing is spawned here"))
    }
    fn spawn_blocking(&self, job: Job) -> Result<()> {
        job();
        Ok(())
    }
    fn sleep_until(&self, _deadline: Instant) -> Task {
        Box::pin(async {})
    }
    fn now(&self) -> Instant {
        Instant::from_start(Duration::from_secs(self.seconds.load(Ordering::SeqCst)))
    }
    fn wall_time(&self) -> Timestamp {
        Timestamp(self.seconds.load(Ordering::SeqCst) * 1_000)
    }
    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(4);
        Ok(())
    }
    fn parallelism(&self) -> usize {
        1
    }
}

/// Seals nothing: the node does not look inside.
#[derive(Debug)]
pub(super) struct NoCipher;

impl CryptoSuite for NoCipher {
    fn id(&self) -> SuiteId {
        SuiteId(0x8000)
    }
    fn seal(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8]) -> Result<[u8; 16]> {
        Ok([0; 16])
    }
    fn open(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8], _: &[u8; 16]) -> Result<()> {
        Ok(())
    }
    fn verify(&self, _: &NodeId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Everything here is ready when polled, or becomes so by what a joined future does.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut context = Context::from_waker(futures::task::noop_waker_ref());
    for _ in 0..10_000 {
        if let Poll::Ready(value) = work.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the future is stuck");
}

pub(super) fn poll_once<T>(work: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    work.poll(&mut Context::from_waker(futures::task::noop_waker_ref()))
}

pub(super) struct Fixture {
    pub(super) node: Arc<Node>,
    pub(super) storage: Arc<TestStorage>,
    pub(super) runtime: Arc<TestRuntime>,
    pub(super) events: Arc<Mutex<Vec<NodeEvent>>>,
}

pub(super) const ALICE: NodeId = NodeId::from_bytes([1; 32]);
pub(super) const BOB: NodeId = NodeId::from_bytes([2; 32]);
pub(super) const SHARD_LEN: usize = 64;

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_staged_bytes(1 << 20)
    }

    pub(super) fn with_staged_bytes(bytes: u64) -> Self {
        let (storage, runtime) = (Arc::new(TestStorage::default()), Arc::new(TestRuntime::default()));
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let options = NodeOptions::default()
            .with_staged_bytes(bytes)
            .with_events(Arc::new(move |event| sink.lock().unwrap().push(event)));
        let shared: Arc<dyn DynStorage> = storage.clone();
        let node = block_on(Node::open(shared, runtime.clone(), options)).unwrap();
        Self { node, storage, runtime, events }
    }

    pub(super) fn ask(&self, request: Request, body: impl Into<Bytes>) -> (Reply, Bytes) {
        block_on(self.node.handle(ALICE, request, body.into()))
    }

    pub(super) fn reply(&self, request: Request, body: impl Into<Bytes>) -> Reply {
        self.ask(request, body).0
    }

    pub(super) fn stage(&self, bytes: &Bytes) -> Reply {
        self.reply(Request::Stage { shard: ShardId::of(bytes) }, bytes.clone())
    }

    pub(super) fn commit(&self, layout: &Layout, indexes: &[u8]) -> Reply {
        self.reply(commit_request(indexes), layout.encode())
    }

    pub(super) fn held(&self, layout: &Layout) -> Option<Vec<u8>> {
        match self.reply(Request::Describe { extents: vec![extent(layout)] }, "") {
            Reply::Described { held } => held.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn has(&self, bytes: &Bytes) -> bool {
        self.storage.blobs.lock().unwrap().contains_key(&ShardId::of(bytes))
    }

    /// Takes what no commit has made durable.
    pub(super) fn lose_power(&self) {
        for id in self.storage.unsynced.lock().unwrap().drain(..) {
            self.storage.blobs.lock().unwrap().remove(&id);
        }
    }

    pub(super) fn records(&self) -> usize {
        self.storage.records.lock().unwrap().len()
    }

    pub(super) fn store(&self, layout: &Layout, shards: &[Bytes]) {
        for shard in shards {
            assert_eq!(self.stage(shard), Reply::Done);
        }
        let all: Vec<u8> = (0..layout.redundancy.total() as u8).collect();
        assert_eq!(self.commit(layout, &all), Reply::Done);
    }
}

pub(super) fn commit_request(indexes: &[u8]) -> Request {
    Request::Commit { operation: OperationId::from_bytes([9; 16]), indexes: indexes.to_vec() }
}

pub(super) fn extent(layout: &Layout) -> ExtentId {
    ExtentId::of(&layout.encode())
}

pub(super) fn secret() -> RemovalSecret {
    RemovalSecret::from_bytes([5; 32])
}

pub(super) fn wrong_secret() -> RemovalSecret {
    RemovalSecret::from_bytes([6; 32])
}

pub(super) fn shard(seed: u8) -> Bytes {
    vec![seed; SHARD_LEN].into()
}

/// An extent of two segments at 2+1 with these shards.
pub(super) fn layout(shards: &[Bytes]) -> Layout {
    Layout {
        code: CodeId::REED_SOLOMON_16,
        redundancy: Redundancy::new(2, 1).unwrap(),
        shard_len: SHARD_LEN as u32,
        segments: 2,
        last_shard_len: SHARD_LEN as u32,
        placement: PlacementKey::from_bytes([3; 32]),
        removal: secret().hash(),
        shards: shards.iter().map(|bytes| ShardId::of(bytes)).collect(),
    }
}

/// Six shards, and the extent made of them.
pub(super) fn sample(seed: u8) -> (Vec<Bytes>, Layout) {
    let shards: Vec<_> = (seed..seed + 6).map(shard).collect();
    let layout = layout(&shards);
    (shards, layout)
}

pub(super) fn manifest() -> (ObjectId, Bytes) {
    let keys = ReadKey::from_bytes([8; 32]).object_keys();
    let public = ManifestPublic {
        suite: NoCipher.id(),
        code: CodeId::REED_SOLOMON_16,
        redundancy: Redundancy::STANDARD,
        segment_len: DEFAULT_SEGMENT_LEN,
        salt: Salt::from_bytes([1; 32]),
        commitment: *keys.commitment(),
        removal: secret().hash(),
        extents: Extents::Inline,
    };
    let header = Header { len: 2, inline: Some(Bytes::from_static(b"hi")), ..Header::default() };
    Manifest::seal(public, &header, &keys, &NoCipher).unwrap()
}

pub(super) fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Failed { refusal, text } => {
            assert!(text.len() <= MAX_REFUSAL_TEXT_LEN && !text.contains("/secret"), "{text}");
            refusal
        }
        other => panic!("{other:?}"),
    }
}
