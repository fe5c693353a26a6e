//! What the handle, the writer and the readers of a disk store share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{BatchStep, Capacity};
use datamesh_core::{Error, ErrorKind, Result};
use futures::channel::oneshot;
use redb::Database;

use super::files::{Files, VolumeFile};
use super::volume::{self, Location};
use crate::limits;

/// Requests that wait for the writer take at most this many bytes; further callers wait. Enough for the
/// disk to be busy while a group is synced, small beside a mesh's budget.
const QUEUE_BYTES: usize = 16 << 20;

/// What a request costs beside its payload.
const REQUEST_BYTES: usize = 512;

/// Volume files that are kept open for reading. Others are opened again when they are needed.
const MAX_OPEN_VOLUMES: usize = 128;

pub(crate) type Reply = oneshot::Sender<Result<()>>;

/// What a caller asks of the writer.
pub(crate) enum Request {
    Blob { id: ShardId, sequence: u64, bytes: Bytes },
    Commit { steps: Vec<BatchStep>, reply: Reply },
    Compact { reply: Reply },
    Close { reply: Reply },
}

/// A blob that no commit has indexed yet.
pub(crate) struct Pending {
    pub(crate) sequence: u64,
    pub(crate) place: Place,
    /// A queued commit removes it, so that writing its name again is a new blob.
    doomed: bool,
}

#[derive(Clone)]
pub(crate) enum Place {
    Memory(Bytes),
    Volume(Location),
}

impl Place {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Volume(location) => u64::from(location.length),
        }
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Request>,
    queued_bytes: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
    pending: BTreeMap<ShardId, Pending>,
    sequence: u64,
    poison: Option<String>,
    closed: bool,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// `None` once closed. Readers hold the read half while they turn a name into an open file; the
    /// writer passes through the write half before it removes a volume.
    database: RwLock<Option<Database>>,
    handles: Mutex<BTreeMap<u32, Arc<dyn VolumeFile>>>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) space: SpaceBudget,
}

impl Shared {
    pub(crate) fn new(database: Database, files: Arc<dyn Files>, space: SpaceBudget) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            database: RwLock::new(Some(database)),
            handles: Mutex::default(),
            files,
            space,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails once the store is closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.lock().closed { Err(limits::closed()) } else { Ok(()) }
    }

    /// Queues a blob, or does nothing where it is waiting to be committed already.
    pub(crate) async fn queue_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        let cost = bytes.len() + REQUEST_BYTES;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        loop {
            let turn = {
                let mut state = self.lock();
                state.check_writable()?;
                if state.pending.get(&id).is_some_and(|pending| !pending.doomed) {
                    return Ok(());
                }
                match state.wait_for_room(cost) {
                    Some(turn) => turn,
                    None => {
                        self.space.admit(volume::entry_len(length))?;
                        state.push_blob(id, bytes, cost);
                        self.work.notify_one();
                        return Ok(());
                    }
                }
            };
            // An error means that the sender is gone because the store was closed; the loop finds out.
            let _ = turn.await;
        }
    }

    /// Queues a commit and waits for its outcome.
    pub(crate) async fn commit(&self, steps: Vec<BatchStep>) -> Result<()> {
        let added = limits::added_bytes(&steps);
        let cost = usize::try_from(added).unwrap_or(usize::MAX).saturating_add(REQUEST_BYTES);
        let (reply, outcome) = oneshot::channel();
        loop {
            let turn = {
                let mut state = self.lock();
                state.check_writable()?;
                match state.wait_for_room(cost) {
                    Some(turn) => turn,
                    None => {
                        self.space.check_records(added)?;
                        state.push_commit(steps, reply, cost);
                        self.work.notify_one();
                        break;
                    }
                }
            };
            let _ = turn.await;
        }
        outcome.await.unwrap_or_else(|_| Err(self.gone()))
    }

    pub(crate) async fn compact(&self) -> Result<()> {
        let (reply, outcome) = oneshot::channel();
        {
            let mut state = self.lock();
            state.check_writable()?;
            state.push(Request::Compact { reply }, REQUEST_BYTES);
            self.work.notify_one();
        }
        outcome.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Marks the store closed and tells the writer; `None` where that had happened before.
    pub(crate) fn begin_close(&self) -> Option<oneshot::Receiver<Result<()>>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.closed = true;
        state.waiting.clear();
        let (reply, outcome) = oneshot::channel();
        state.push(Request::Close { reply }, 0);
        self.work.notify_one();
        Some(outcome)
    }

    /// What is said to a caller whose request was dropped unanswered.
    pub(crate) fn gone(&self) -> Error {
        self.lock().poison.as_deref().map_or_else(limits::closed, poisoned)
    }

    /// Refuses writes from now on.
    pub(crate) fn poison(&self, cause: &str) {
        let mut state = self.lock();
        state.poison.get_or_insert_with(|| cause.to_owned());
    }

    /// Passes on what a read of records or of the index gave; damage ends all writing.
    pub(crate) fn watched<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| {
            if error.kind() == ErrorKind::Corrupt {
                self.poison(&format!("{error:?}"));
            }
        })
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.lock().poison.is_some()
    }

    /// Takes all requests; where there are none, waits for some if `wait` says so.
    pub(crate) fn take_requests(&self, wait: bool) -> VecDeque<Request> {
        let mut state = self.lock();
        while wait && state.queue.is_empty() {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.queue)
    }

    /// Lets waiting callers go on after a request of this payload was dealt with.
    pub(crate) fn release(&self, payload: usize) {
        let mut state = self.lock();
        state.queued_bytes = state.queued_bytes.saturating_sub(payload + REQUEST_BYTES);
        // Everyone looks again: a small request may fit where a large one does not.
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(());
        }
    }

    /// The bytes of requests that were admitted and not dealt with yet.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.lock().queued_bytes as u64
    }

    pub(crate) fn pending(&self, id: &ShardId) -> Option<Place> {
        self.lock().pending.get(id).map(|pending| pending.place.clone())
    }

    /// Up to `limit` blobs behind `after` that no commit has indexed yet.
    pub(crate) fn pending_after(&self, after: Option<&ShardId>, limit: usize) -> Vec<(ShardId, u64)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let state = self.lock();
        let found = state.pending.range::<ShardId, _>((start, Unbounded)).take(limit);
        found.map(|(id, pending)| (*id, pending.place.len())).collect()
    }

    /// Says where the writer put a blob, so that its memory can go.
    pub(crate) fn placed(&self, id: &ShardId, sequence: u64, location: Location) {
        if let Some(pending) = self.lock().pending.get_mut(id).filter(|it| it.sequence == sequence) {
            pending.place = Place::Volume(location);
        }
    }

    /// Forgets blobs that the index has now, or that were there before.
    pub(crate) fn settled(&self, blobs: impl IntoIterator<Item = (ShardId, u64)>) {
        let mut state = self.lock();
        for (id, sequence) in blobs {
            if state.pending.get(&id).is_some_and(|pending| pending.sequence == sequence) {
                state.pending.remove(&id);
            }
        }
    }

    /// The records file, kept open while the guard lives.
    pub(crate) fn database(&self) -> DatabaseGuard<'_> {
        DatabaseGuard(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `with` while no reader holds the records file.
    pub(crate) fn exclusively<T>(&self, with: impl FnOnce(&mut Option<Database>) -> T) -> T {
        with(&mut self.database.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// An open file of a volume. Callers hold a [`DatabaseGuard`].
    pub(crate) fn handle(&self, volume: u32) -> std::io::Result<Arc<dyn VolumeFile>> {
        if let Some(handle) = self.handles().get(&volume) {
            return Ok(Arc::clone(handle));
        }
        let handle = self.files.open(&volume::file_name(volume))?;
        self.keep_handle(volume, &handle);
        Ok(handle)
    }

    pub(crate) fn keep_handle(&self, volume: u32, handle: &Arc<dyn VolumeFile>) {
        let mut handles = self.handles();
        if handles.len() >= MAX_OPEN_VOLUMES {
            handles.pop_first();
        }
        handles.insert(volume, Arc::clone(handle));
    }

    /// Has a volume's file opened anew the next time. Readers that have it open keep it.
    pub(crate) fn drop_handle(&self, volume: u32) {
        self.handles().remove(&volume);
    }

    /// Removes volumes that the index no longer names. Readers that have one open keep it.
    pub(crate) fn remove_volumes(&self, volumes: &[u32]) {
        if volumes.is_empty() {
            return;
        }
        self.exclusively(|_| ());
        for volume in volumes {
            self.handles().remove(volume);
            // A file that stays is unknown to the index and goes at the next open.
            let _ = self.files.remove(&volume::file_name(*volume));
        }
    }

    pub(crate) fn forget_handles(&self) {
        self.handles().clear();
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<dyn VolumeFile>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_writable(&self) -> Result<()> {
        if self.closed {
            return Err(limits::closed());
        }
        self.poison.as_deref().map_or(Ok(()), |cause| Err(poisoned(cause)))
    }

    /// A turn to wait for where the queue has no room for `cost` more; one request always fits.
    fn wait_for_room(&mut self, cost: usize) -> Option<oneshot::Receiver<()>> {
        if self.queued_bytes == 0 || self.queued_bytes.saturating_add(cost) <= QUEUE_BYTES {
            return None;
        }
        let (sender, turn) = oneshot::channel();
        self.waiting.retain(|waiting| !waiting.is_canceled());
        self.waiting.push_back(sender);
        Some(turn)
    }

    fn push(&mut self, request: Request, cost: usize) {
        self.queued_bytes = self.queued_bytes.saturating_add(cost);
        self.queue.push_back(request);
    }

    fn push_blob(&mut self, id: ShardId, bytes: Bytes, cost: usize) {
        self.sequence += 1;
        let sequence = self.sequence;
        let place = Place::Memory(bytes.clone());
        self.pending.insert(id, Pending { sequence, place, doomed: false });
        self.push(Request::Blob { id, sequence, bytes }, cost);
    }

    fn push_commit(&mut self, steps: Vec<BatchStep>, reply: Reply, cost: usize) {
        for step in &steps {
            if let BatchStep::DeleteBlob { id } = step
                && let Some(pending) = self.pending.get_mut(id)
            {
                pending.doomed = true;
            }
        }
        self.push(Request::Commit { steps, reply }, cost);
    }
}

/// The records file while nobody compacts or closes it.
pub(crate) struct DatabaseGuard<'a>(RwLockReadGuard<'a, Option<Database>>);

impl DatabaseGuard<'_> {
    pub(crate) fn get(&self) -> Result<&Database> {
        self.0.as_ref().ok_or_else(limits::closed)
    }
}

fn poisoned(cause: &str) -> Error {
    Error::new(
        ErrorKind::Poisoned,
        format!("the store takes no more writes until it is opened again, since {cause}"),
    )
}

/// How much may still be written.
#[derive(Debug)]
pub(crate) struct SpaceBudget {
    /// The store's own limit without its reserve.
    limit: u64,
    /// Bytes of the medium that stay free.
    reserve: u64,
    /// The part of the medium, and of the store's own limit, that this is.
    reserve_per_mille: u16,
    /// Free bytes of the medium at the last look, less what was taken since.
    free: AtomicU64,
    /// Bytes of volumes, with what is on its way into them.
    volumes: AtomicU64,
    /// Bytes of the records file.
    records: Arc<AtomicU64>,
}

impl SpaceBudget {
    /// The budget of a store on a medium of these `(total, free)` bytes, of which `volumes` are its own, with this
    /// limit of its own.
    pub(crate) fn new(
        (total, free): (u64, u64),
        capacity: Option<u64>,
        reserve_per_mille: u16,
        volumes: u64,
        records: Arc<AtomicU64>,
    ) -> Self {
        let share = |bytes: u64| (bytes / 1000).saturating_mul(u64::from(reserve_per_mille));
        Self {
            limit: capacity.map_or(u64::MAX, |limit| limit.saturating_sub(share(limit))),
            reserve: share(total),
            reserve_per_mille,
            free: AtomicU64::new(free),
            volumes: AtomicU64::new(volumes),
            records,
        }
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let volumes = self.volumes.load(Ordering::Relaxed);
        let used = volumes.saturating_add(self.records.load(Ordering::Relaxed));
        let free = self.free.load(Ordering::Relaxed).saturating_sub(self.reserve);
        Capacity::new(used, free.min(self.limit.saturating_sub(used)))
    }

    /// Takes bytes for an entry, or refuses.
    fn admit(&self, bytes: u64) -> Result<()> {
        self.check_records(bytes)?;
        self.taken(bytes);
        Ok(())
    }

    /// Counts bytes that go into a volume, before the next look at the medium sees them.
    pub(crate) fn taken(&self, bytes: u64) {
        self.volumes.fetch_add(bytes, Ordering::Relaxed);
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(free.saturating_sub(bytes)));
    }

    /// Refuses bytes that do not fit; nothing to add always does.
    fn check_records(&self, bytes: u64) -> Result<()> {
        let capacity = self.capacity();
        if bytes == 0 || bytes <= capacity.available { Ok(()) } else { Err(self.full(bytes, capacity)) }
    }

    /// Why there is no room for so many bytes, and what to do.
    fn full(&self, needed: u64, Capacity { used, available, .. }: Capacity) -> Error {
        let free = self.free.load(Ordering::Relaxed);
        let percent = f64::from(self.reserve_per_mille) / 10.0;
        let why = if free.saturating_sub(self.reserve) == available {
            format!(
                "of the disk {free} bytes are free, and a reserve of {} bytes, {percent} % of it, is kept for removals and \
                 compaction; make room on the disk, remove objects, or move the directory to a larger one",
                self.reserve
            )
        } else {
            format!(
                "it takes {used} of at most {} bytes, its capacity without a reserve of {percent} % for removals and \
                 compaction; remove objects, or raise the capacity",
                self.limit
            )
        };
        limits::full(needed, available, &why)
    }

    pub(crate) fn set_free(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
    }

    pub(crate) fn added(&self, bytes: u64) {
        self.volumes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn removed(&self, bytes: u64) {
        let _ = self
            .volumes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(bytes)));
    }
}
