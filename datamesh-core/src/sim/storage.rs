//! The store of one incarnation of a node, over its disk.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardId;
use crate::ports::{
    Batch, BatchStep, BlobPage, Capacity, MAX_BLOB_LEN, MAX_KEY_LEN, MAX_VALUE_LEN, RecordPage, Storage,
    Table,
};
use crate::sim::draws::Draws;
use crate::sim::medium::Medium;
use crate::sim::world::{World, lock};

/// The values of one page of records, as the port says.
const PAGE_BYTES: usize = 4 << 20;

/// How long a disk takes, at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disk {
    /// Reading or writing one blob. 50 to 400 us by default.
    pub blob: (Duration, Duration),
    /// Reading records. 10 to 60 us by default.
    pub record: (Duration, Duration),
    /// A commit with its sync. 200 us to 4 ms by default.
    pub commit: (Duration, Duration),
    /// The bytes that it takes in all. 1 GiB by default.
    pub capacity: u64,
}

impl Default for Disk {
    fn default() -> Self {
        let micros = |least, most| (Duration::from_micros(least), Duration::from_micros(most));
        Self { blob: micros(50, 400), record: micros(10, 60), commit: micros(200, 4000), capacity: 1 << 30 }
    }
}

impl Disk {
    /// A disk that takes no time.
    pub const INSTANT: Self = Self {
        blob: (Duration::ZERO, Duration::ZERO),
        record: (Duration::ZERO, Duration::ZERO),
        commit: (Duration::ZERO, Duration::ZERO),
        capacity: 1 << 30,
    };

    /// Sets the bytes that it takes in all.
    #[must_use]
    pub fn with_capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }
}

/// See the module.
pub(super) struct SimStorage {
    world: Arc<World>,
    node: usize,
    disk: Disk,
    medium: Arc<Mutex<Medium>>,
    draws: Mutex<Draws>,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Poisoned,
    Closed,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStorage(node {}, {:?})", self.node, *lock(&self.state))
    }
}

impl SimStorage {
    pub(super) fn open(
        world: &Arc<World>,
        node: usize,
        incarnation: u64,
        disk: Disk,
        medium: &Arc<Mutex<Medium>>,
    ) -> Self {
        let purpose = format!("disk of node {node}, incarnation {incarnation}");
        lock(medium).failing = false;
        Self {
            world: Arc::clone(world),
            node,
            disk,
            medium: Arc::clone(medium),
            draws: Mutex::new(Draws::new(world.seed(), &purpose)),
            state: Mutex::new(State::Open),
        }
    }

    /// Ends this store as a crash does: whoever still has it can do nothing with it.
    pub(super) fn abandon(&self) {
        *lock(&self.state) = State::Closed;
    }

    async fn pause(&self, (least, most): (Duration, Duration)) {
        if most.is_zero() {
            return;
        }
        let slowness = self.medium().slowness;
        let time = lock(&self.draws).time(least, most) * slowness;
        self.world.sleep(time).await;
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        lock(&self.medium)
    }

    fn check_open(&self) -> Result<()> {
        if *lock(&self.state) == State::Closed { Err(closed()) } else { Ok(()) }
    }

    /// Whether the store takes writes; a medium that fails poisons it.
    fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        let mut state = lock(&self.state);
        if *state == State::Poisoned {
            let text = "an earlier write failed; reopen the store";
            return Err(Error::new(ErrorKind::Poisoned, text));
        }
        if self.medium().failing {
            *state = State::Poisoned;
            return Err(Error::new(ErrorKind::Io, "the simulated disk failed to write"));
        }
        Ok(())
    }

    fn note(&self, kind: &'static str, numbers: [u64; 2], bytes: &[u8]) {
        self.world.note(self.node, kind, numbers, bytes);
    }

    fn check_room(&self, needed: u64) -> Result<()> {
        let available = self.medium().available();
        if needed <= available {
            return Ok(());
        }
        let text = format!("{needed} bytes do not fit in the {available} that are free; remove something");
        Err(Error::new(ErrorKind::StorageFull, text))
    }
}

impl Storage for SimStorage {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        self.check_writable()?;
        check_len("blob", bytes.len(), MAX_BLOB_LEN)?;
        self.pause(self.disk.blob).await;
        self.check_writable()?;
        if self.medium().blob(&id).is_some() {
            return Ok(());
        }
        self.check_room(bytes.len() as u64)?;
        self.note("write blob", [bytes.len() as u64, 0], id.as_bytes());
        self.medium().write(id, bytes);
        Ok(())
    }

    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        self.check_open()?;
        self.pause(self.disk.blob).await;
        self.check_open()?;
        let bytes = self.medium().blob(&id).cloned();
        if bytes.is_some() && self.medium().is_unreadable(&id) {
            return Err(Error::new(ErrorKind::Io, "the simulated disk has lost a sector").with_subject(id));
        }
        let forged = self.medium().is_forged(&id);
        let right = forged || bytes.as_ref().is_none_or(|bytes| ShardId::of(bytes) == id);
        self.note("read blob", [bytes.as_ref().map_or(0, Bytes::len) as u64, right.into()], id.as_bytes());
        if right {
            return Ok(bytes);
        }
        let text = "the blob's bytes do not match its name; remove it and repair the object";
        Err(Error::new(ErrorKind::Corrupt, text).with_subject(id))
    }

    async fn blob_lengths(&self, ids: Vec<ShardId>) -> Result<Vec<Option<u64>>> {
        self.check_open()?;
        self.pause(self.disk.record).await;
        self.check_open()?;
        let medium = self.medium();
        Ok(ids.iter().map(|id| medium.blob(id).map(|bytes| bytes.len() as u64)).collect())
    }

    async fn scan_blobs(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        self.check_open()?;
        self.pause(self.disk.record).await;
        self.check_open()?;
        let medium = self.medium();
        let mut rest = medium.blobs_after(after);
        let blobs = rest.by_ref().take(limit).collect();
        Ok(BlobPage { blobs, more: rest.next().is_some() })
    }

    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        self.check_open()?;
        self.pause(self.disk.record).await;
        self.check_open()?;
        Ok(self.medium().records().get(&(table, key)).cloned())
    }

    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.check_open()?;
        self.pause(self.disk.record).await;
        self.check_open()?;
        Ok(record_page(&self.medium(), table, &prefix, after, limit))
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        self.check_writable()?;
        check_steps(batch.steps())?;
        let (writes, (least, most)) = (self.medium().writes(), self.disk.commit);
        // It takes effect in the middle, so that a crash may come before and after.
        self.pause((least / 2, most / 2)).await;
        self.check_writable()?;
        let added = added_bytes(batch.steps());
        if added > 0 {
            self.check_room(added)?;
        }
        self.note("commit", [batch.steps().len() as u64, added], &[]);
        self.medium().commit(batch.into_steps(), writes);
        self.pause((least / 2, most / 2)).await;
        self.check_open()
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.check_open()?;
        let medium = self.medium();
        Ok(Capacity::new(medium.used(), medium.available()))
    }

    async fn compact(&self) -> Result<()> {
        self.check_writable()
    }

    async fn close(&self) -> Result<()> {
        if self.check_open().is_err() {
            return Ok(());
        }
        let writes = self.medium().writes();
        self.medium().commit(Vec::new(), writes);
        self.abandon();
        Ok(())
    }
}

fn record_page(
    medium: &Medium,
    table: Table,
    prefix: &Bytes,
    after: Option<Bytes>,
    limit: usize,
) -> RecordPage {
    use std::ops::Bound;
    let start = match after {
        Some(after) if after >= *prefix => Bound::Excluded((table, after)),
        _ => Bound::Included((table, prefix.clone())),
    };
    let found = medium.records().range((start, Bound::Unbounded));
    let found = found.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
    let (mut page, mut bytes) = (RecordPage::default(), 0);
    for ((_, key), value) in found {
        bytes += value.len();
        if page.records.len() >= limit || (bytes > PAGE_BYTES && !page.records.is_empty()) {
            page.more = true;
            break;
        }
        page.records.push((key.clone(), value.clone()));
    }
    page
}

fn check_steps(steps: &[BatchStep]) -> Result<()> {
    for step in steps {
        match step {
            BatchStep::Put { key, value, .. } => {
                check_len("key", key.len(), MAX_KEY_LEN)?;
                check_len("value", value.len(), MAX_VALUE_LEN)?;
            }
            BatchStep::Delete { key, .. } => check_len("key", key.len(), MAX_KEY_LEN)?,
            BatchStep::DeleteBlob { .. } => {}
        }
    }
    Ok(())
}

fn added_bytes(steps: &[BatchStep]) -> u64 {
    let of = |step: &BatchStep| match step {
        BatchStep::Put { key, value, .. } => (key.len() + value.len()) as u64,
        _ => 0,
    };
    steps.iter().map(of).sum()
}

fn check_len(what: &str, len: usize, limit: usize) -> Result<()> {
    if len <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, format!("a {what} is at most {limit} bytes, got {len}")))
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the simulated store was closed; restart the node")
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::storage::{full_storage, storage};

    fn make(capacity: u64) -> SimStorage {
        let medium = Arc::new(Mutex::new(Medium::new(capacity)));
        SimStorage::open(&World::new(1, false, None), 0, 1, Disk::INSTANT, &medium)
    }

    fn crashed(store: SimStorage) -> SimStorage {
        store.abandon();
        store.medium().crash(&mut Draws::new(1, "crash"));
        SimStorage::open(&store.world, 0, 2, Disk::INSTANT, &store.medium)
    }

    #[test]
    fn it_keeps_the_contract() {
        storage(|| make(64 << 20), crashed);
        full_storage(make);
    }
}
