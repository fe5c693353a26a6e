//! A store that keeps everything in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, ready};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, BatchStep, BlobPage, Capacity, RecordPage, Storage, Table};
use datamesh_core::{Error, ErrorKind, Result};

use crate::limits::{self, PAGE_BYTES};

/// A [`Storage`] in memory, for tests, caches and nodes that need not outlive their process.
///
/// It keeps the `Bytes` it is given, or a copy where they are shared and may be a part of something larger, which
/// would stay in memory with them. It never waits, owns no thread, and gives the same
/// answers for the same calls. [`reopened`](Self::reopened) gives what a crash would have left, so that
/// a simulated node can be restarted.
///
/// ```
/// use datamesh_core::{id::ShardId, ports::Storage};
/// use datamesh_store::MemoryStore;
///
/// # futures::executor::block_on(async {
/// let store = MemoryStore::new();
/// let id = ShardId::of(b"shard");
/// store.write_blob(id, "shard".into()).await?;
/// assert_eq!(store.read_blob(id).await?.as_deref(), Some(&b"shard"[..]));
/// # Ok::<(), datamesh_core::Error>(()) }).unwrap();
/// ```
pub struct MemoryStore {
    capacity_bytes: u64,
    state: Mutex<State>,
}

type Records = BTreeMap<(Table, Bytes), Bytes>;

#[derive(Default, Clone)]
struct State {
    blobs: BTreeMap<ShardId, Bytes>,
    /// Blobs that no commit has made durable yet.
    uncommitted: BTreeSet<ShardId>,
    records: Records,
    used: u64,
    closed: bool,
}

impl MemoryStore {
    /// An empty store without a limit.
    pub fn new() -> Self {
        Self::with_capacity_bytes(u64::MAX)
    }

    /// An empty store that refuses writes once blobs, keys and values would take more than this.
    pub fn with_capacity_bytes(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, state: Mutex::default() }
    }

    /// What a crash would leave of this store, as a new one: all that was committed, and no blob that
    /// was written since. This one is closed.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let mut old = self.lock();
        old.closed = true;
        let mut state = State { closed: false, ..old.clone() };
        drop(old);
        for id in std::mem::take(&mut state.uncommitted) {
            state.remove_blob(&id);
        }
        Self { capacity_bytes: self.capacity_bytes, state: Mutex::new(state) }
    }

    /// Replaces the bytes of a blob, as a decaying medium would; `false` where there is none.
    #[cfg(feature = "testing")]
    pub fn damage_blob(&self, id: ShardId, bytes: Bytes) -> bool {
        self.lock().blobs.get_mut(&id).map(|blob| *blob = bytes).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.closed { Err(limits::closed()) } else { Ok(state) }
    }

    fn check_room(&self, state: &State, needed: u64) -> Result<()> {
        let available = self.capacity_bytes.saturating_sub(state.used);
        let why = "it is at its capacity; remove objects, or raise it";
        if needed <= available { Ok(()) } else { Err(limits::full(needed, available, why)) }
    }

    fn write(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        let mut state = self.open_state()?;
        limits::check_blob(&bytes)?;
        if state.blobs.contains_key(&id) {
            return Ok(());
        }
        self.check_room(&state, bytes.len() as u64)?;
        state.used += bytes.len() as u64;
        let bytes = if bytes.is_unique() { bytes } else { Bytes::copy_from_slice(&bytes) };
        state.blobs.insert(id, bytes);
        state.uncommitted.insert(id);
        Ok(())
    }

    fn read(&self, id: ShardId) -> Result<Option<Bytes>> {
        // The lock is let go before hashing, so that readers do not wait for each other.
        let found = self.open_state()?.blobs.get(&id).cloned();
        found.map(|bytes| verified(id, bytes)).transpose()
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let mut state = self.open_state()?;
        limits::check_steps(batch.steps())?;
        let added = limits::added_bytes(batch.steps());
        if added > 0 {
            self.check_room(&state, added)?;
        }
        for step in batch.into_steps() {
            state.apply(step);
        }
        state.uncommitted.clear();
        Ok(())
    }

    fn blob_page(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        let state = self.open_state()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state.blobs.range((start, Bound::Unbounded));
        let blobs = rest.by_ref().take(limit).map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
        Ok(BlobPage { blobs, more: rest.next().is_some() })
    }

    fn record_page(
        &self,
        table: Table,
        prefix: &Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        let state = self.open_state()?;
        let start = match after {
            Some(after) if after >= *prefix => Bound::Excluded((table, after)),
            _ => Bound::Included((table, prefix.clone())),
        };
        let found = state.records.range((start, Bound::Unbounded));
        let found = found.take_while(|((at, key), _)| *at == table && key.starts_with(prefix));
        let mut page = RecordPage::default();
        let mut bytes = 0;
        for ((_, key), value) in found {
            bytes += value.len();
            if page.records.len() >= limit || (bytes > PAGE_BYTES && !page.records.is_empty()) {
                page.more = true;
                break;
            }
            page.records.push((key.clone(), value.clone()));
        }
        Ok(page)
    }
}

impl State {
    fn apply(&mut self, step: BatchStep) {
        match step {
            BatchStep::Put { table, key, value } => {
                self.remove_record(table, key.clone());
                self.used += (key.len() + value.len()) as u64;
                self.records.insert((table, key), value);
            }
            BatchStep::Delete { table, key } => self.remove_record(table, key),
            BatchStep::DeleteBlob { id } => self.remove_blob(&id),
            _ => {}
        }
    }

    fn remove_record(&mut self, table: Table, key: Bytes) {
        if let Some(((_, key), value)) = self.records.remove_entry(&(table, key)) {
            self.used -= (key.len() + value.len()) as u64;
        }
    }

    fn remove_blob(&mut self, id: &ShardId) {
        if let Some(bytes) = self.blobs.remove(id) {
            self.used -= bytes.len() as u64;
        }
    }
}

/// The bytes, if they are what the name says.
fn verified(id: ShardId, bytes: Bytes) -> Result<Bytes> {
    if ShardId::of(&bytes) == id {
        return Ok(bytes);
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "the blob's bytes do not match its name; remove it and repair the object",
    )
    .with_subject(id))
}

impl Storage for MemoryStore {
    fn write_blob(&self, id: ShardId, bytes: Bytes) -> impl Future<Output = Result<()>> + Send {
        ready(self.write(id, bytes))
    }

    fn read_blob(&self, id: ShardId) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        ready(self.read(id))
    }

    fn blob_lengths(&self, ids: Vec<ShardId>) -> impl Future<Output = Result<Vec<Option<u64>>>> + Send {
        ready(
            self.open_state().map(|state| {
                ids.iter().map(|id| state.blobs.get(id).map(|bytes| bytes.len() as u64)).collect()
            }),
        )
    }

    fn scan_blobs(
        &self,
        after: Option<ShardId>,
        limit: usize,
    ) -> impl Future<Output = Result<BlobPage>> + Send {
        ready(self.blob_page(after, limit))
    }

    fn read_record(&self, table: Table, key: Bytes) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        ready(self.open_state().map(|state| state.records.get(&(table, key)).cloned()))
    }

    fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> impl Future<Output = Result<RecordPage>> + Send {
        ready(self.record_page(table, &prefix, after, limit))
    }

    fn commit(&self, batch: Batch) -> impl Future<Output = Result<()>> + Send {
        ready(self.apply(batch))
    }

    fn capacity(&self) -> impl Future<Output = Result<Capacity>> + Send {
        ready(
            self.open_state()
                .map(|state| Capacity::new(state.used, self.capacity_bytes.saturating_sub(state.used))),
        )
    }

    fn compact(&self) -> impl Future<Output = Result<()>> + Send {
        ready(self.open_state().map(drop))
    }

    fn close(&self) -> impl Future<Output = Result<()>> + Send {
        self.lock().closed = true;
        ready(Ok(()))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("MemoryStore")
            .field("blobs", &state.blobs.len())
            .field("records", &state.records.len())
            .field("used", &state.used)
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}
