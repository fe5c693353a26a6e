//! Parts of a node that go wrong when a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use datamesh::ports::*;
use datamesh::runtime::NativeRuntime;
use datamesh::store::MemoryStore;
use datamesh::{Error, ErrorKind, Result, ShardId};

/// A store in memory that outlives its node, and whose disk is full at times.
#[derive(Debug, Clone)]
pub(crate) struct Lasting {
    store: Arc<MemoryStore>,
    is_full: Arc<AtomicBool>,
}

impl Lasting {
    pub(crate) fn new() -> Self {
        Self { store: Arc::new(MemoryStore::new()), is_full: Arc::default() }
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}

impl Storage for Lasting {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        Storage::write_blob(&*self.store, id, bytes).await
    }
    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        Storage::read_blob(&*self.store, id).await
    }
    async fn blob_lengths(&self, ids: Vec<ShardId>) -> Result<Vec<Option<u64>>> {
        Storage::blob_lengths(&*self.store, ids).await
    }
    async fn scan_blobs(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        Storage::scan_blobs(&*self.store, after, limit).await
    }
    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        Storage::read_record(&*self.store, table, key).await
    }
    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        Storage::scan_records(&*self.store, table, prefix, after, limit).await
    }
    async fn commit(&self, batch: Batch) -> Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::StorageFull, "the disk is full; the test says so"));
        }
        Storage::commit(&*self.store, batch).await
    }
    async fn capacity(&self) -> Result<Capacity> {
        Storage::capacity(&*self.store).await
    }
    async fn compact(&self) -> Result<()> {
        Storage::compact(&*self.store).await
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A runtime whose wall clock is off.
#[derive(Debug)]
pub(crate) struct Shifted {
    runtime: Arc<dyn Runtime>,
    milliseconds: AtomicI64,
}

impl Shifted {
    pub(crate) fn by(milliseconds: i64) -> Arc<Self> {
        let runtime = NativeRuntime::shared().unwrap();
        Arc::new(Self { runtime, milliseconds: AtomicI64::new(milliseconds) })
    }

    pub(crate) fn set(&self, milliseconds: i64) {
        self.milliseconds.store(milliseconds, Ordering::Relaxed);
    }
}

impl Runtime for Shifted {
    fn spawn(&self, task: Task) -> Result<()> {
        self.runtime.spawn(task)
    }
    fn spawn_blocking(&self, job: Job) -> Result<()> {
        self.runtime.spawn_blocking(job)
    }
    fn sleep_until(&self, deadline: Instant) -> Task {
        self.runtime.sleep_until(deadline)
    }
    fn now(&self) -> Instant {
        self.runtime.now()
    }
    fn wall_time(&self) -> Timestamp {
        let by = self.milliseconds.load(Ordering::Relaxed);
        Timestamp(self.runtime.wall_time().0.saturating_add_signed(by))
    }
    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        self.runtime.fill_random(bytes)
    }
    fn parallelism(&self) -> usize {
        self.runtime.parallelism()
    }
}
