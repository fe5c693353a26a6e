//! Notices when the store takes no more writes, and tells it once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardId;
use crate::observe::{Counters, Event, EventHub, count};
use crate::ports::{Batch, BlobPage, Capacity, DynStorage, RecordPage, Storage, Table};

/// The store of a mesh, watched for its first refusal because of an earlier failure.
#[derive(Debug)]
pub(super) struct Alarmed {
    store: Arc<dyn DynStorage>,
    events: EventHub,
    counters: Arc<Counters>,
    has_failed: AtomicBool,
}

impl Alarmed {
    pub(super) fn new(store: Arc<dyn DynStorage>, events: EventHub, counters: Arc<Counters>) -> Self {
        Self { store, events, counters, has_failed: AtomicBool::new(false) }
    }

    fn look<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| {
            if error.kind() == ErrorKind::Poisoned && !self.has_failed.swap(true, Ordering::Relaxed) {
                self.tell(error);
            }
        })
    }

    fn tell(&self, error: &Error) {
        tracing::error!(%error, "the store takes no more writes; open the mesh anew");
        count(&self.counters.store_failures, 1);
        self.events.emit(Event::StoreFailed(error.to_string()));
    }
}

impl Storage for Alarmed {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        self.look((*self.store).write_blob(id, bytes).await)
    }

    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        self.look((*self.store).read_blob(id).await)
    }

    async fn blob_lengths(&self, ids: Vec<ShardId>) -> Result<Vec<Option<u64>>> {
        self.look((*self.store).blob_lengths(ids).await)
    }

    async fn scan_blobs(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        self.look((*self.store).scan_blobs(after, limit).await)
    }

    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        self.look((*self.store).read_record(table, key).await)
    }

    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.look((*self.store).scan_records(table, prefix, after, limit).await)
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        self.look((*self.store).commit(batch).await)
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.look((*self.store).capacity().await)
    }

    async fn compact(&self) -> Result<()> {
        self.look((*self.store).compact().await)
    }

    async fn close(&self) -> Result<()> {
        // The end of the mesh: there is nothing left to tell.
        (*self.store).close().await
    }
}
