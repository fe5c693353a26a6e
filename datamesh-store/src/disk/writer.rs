//! The one thread that changes a disk store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::planted::{Bug, is_active};
use datamesh_core::ports::{BatchStep, Table};
use datamesh_core::{Error, Result};
use redb::{ReadableTable, WriteTransaction};

use super::compact::Compaction;
use super::files::VolumeFile;
use super::index::{self, BLOBS, VOLUMES, broken};
use super::shared::{Reply, Request, Shared};
use super::volume::{self, ENTRY_HEADER_LEN, FILE_HEADER_LEN, Location, VolumeRow};
use crate::limits;

/// Blobs that wait to be committed are known in memory; beyond this many they are indexed early, which
/// only makes durable sooner what nobody was promised.
const MAX_UNINDEXED: usize = 1 << 16;

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: [u8; 16],
    pub(crate) volume_bytes: u64,
    /// What the index knows of every volume.
    pub(crate) volumes: BTreeMap<u32, VolumeRow>,
    /// The volume that is written now.
    current: Option<Current>,
    /// Written blobs that no commit has indexed yet.
    unindexed: BTreeMap<ShardId, (u64, Location)>,
    /// Files with bytes that no sync covered.
    unsynced: BTreeMap<u32, Arc<dyn VolumeFile>>,
    directory_unsynced: bool,
    /// The number of the next volume. It is only counted up: the file of a volume that was removed may still be there.
    next_volume: u32,
    /// Rows removed since the records file last shrank.
    pub(crate) rows_removed: u64,
    /// The compaction under way, of which a slice is done after each look at the queue.
    pub(crate) compaction: Option<Compaction>,
    /// Who asked for a compaction that has not begun.
    pub(crate) compactions_asked: Vec<Reply>,
    /// How many changes of the records file have failed.
    failures: Arc<AtomicU64>,
}

struct Current {
    volume: u32,
    file: Arc<dyn VolumeFile>,
    length: u64,
}

/// One transaction in the making, and who waits for it.
#[derive(Default)]
pub(crate) struct Group {
    transaction: Option<WriteTransaction>,
    replies: Vec<Reply>,
    indexed: Vec<(ShardId, u64)>,
    touched: BTreeSet<u32>,
}

/// Whether the thread goes on.
enum Next {
    Go,
    Stop(Reply),
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: [u8; 16],
        volume_bytes: u64,
        volumes: BTreeMap<u32, VolumeRow>,
        short: &BTreeSet<u32>,
        failures: Arc<AtomicU64>,
    ) -> Self {
        let current = last_volume(&shared, &volumes, short, volume_bytes);
        let next_volume = volumes.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        Self {
            shared,
            store,
            volume_bytes,
            volumes,
            current,
            unindexed: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            directory_unsynced: false,
            next_volume,
            rows_removed: 0,
            compaction: None,
            compactions_asked: Vec::new(),
            failures,
        }
    }

    /// Serves requests until the store is closed; then lets go of everything, and says whom to answer and what.
    pub(crate) fn run(mut self, stop_readers: impl FnOnce()) -> (Reply, Result<()>) {
        let closer = loop {
            let requests = self.shared.take_requests(!self.has_compaction());
            match self.serve(requests) {
                Next::Go => self.compact_further(),
                Next::Stop(reply) => break reply,
            }
        };
        // Who waits for a compaction is told that the store is closed.
        (self.compaction, self.compactions_asked) = (None, Vec::new());
        stop_readers();
        let closed = self.let_go();
        (closer, closed)
    }

    /// Closes all files. A poisoned store has said before what failed, so it says nothing now.
    fn let_go(&mut self) -> Result<()> {
        let failures = self.failures.load(Ordering::Relaxed);
        drop(self.shared.exclusively(Option::take));
        self.shared.forget_handles();
        if self.shared.is_poisoned() || self.failures.load(Ordering::Relaxed) == failures {
            return Ok(());
        }
        let error = io::Error::other("a write, sync or change of length failed");
        Err(Error::io("the records file could not be closed well; nothing that was committed is lost", error))
    }

    /// Deals with requests in order; those that wait to be durable share one sync and one transaction.
    fn serve(&mut self, requests: VecDeque<Request>) -> Next {
        let mut group = Group::default();
        let mut next = Next::Go;
        for request in requests {
            match request {
                Request::Blob { id, sequence, bytes } => {
                    let payload = bytes.len();
                    self.guarded(|writer| writer.write_blob(&mut group, id, sequence, bytes));
                    self.shared.release(payload);
                }
                Request::Commit { mut steps, reply } => {
                    let payload = limits::added_bytes(&steps);
                    if is_active(Bug::SplitCommit) && group.transaction.is_none() {
                        let half = steps.drain(..steps.len() / 2).collect();
                        let mut first = Group::default();
                        self.guarded(|writer| writer.apply(&mut first, half));
                        self.guarded(|writer| writer.finish(first));
                    }
                    group.replies.push(reply);
                    self.guarded(|writer| writer.apply(&mut group, steps));
                    self.shared.release(usize::try_from(payload).unwrap_or(usize::MAX));
                }
                Request::Compact { reply } => {
                    self.compactions_asked.push(reply);
                    self.shared.release(0);
                }
                Request::Close { reply } => next = Next::Stop(reply),
            }
        }
        let mut replies = std::mem::take(&mut group.replies);
        if is_active(Bug::AckBeforeSync) {
            answer(std::mem::take(&mut replies), Some(Ok(())));
        }
        let outcome = self.guarded(|writer| writer.finish(group));
        answer(replies, outcome);
        self.look_at_space();
        next
    }

    /// Runs a change unless an earlier one failed; a failure or a panic poisons the store.
    pub(crate) fn guarded<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Option<Result<T>> {
        if self.shared.is_poisoned() {
            return None;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| change(self)))
            .unwrap_or_else(|_| Err(index::corrupt("the records file has pages that cannot be")));
        if let Err(error) = &outcome
            && !is_active(Bug::GoOnAfterFailedSync)
        {
            self.shared.poison(&format!("{error:?}"));
        }
        Some(outcome)
    }

    pub(crate) fn look_at_space(&self) {
        // Where the system does not say, the last answer less what was written since stands.
        if let Ok(space) = self.shared.files.space() {
            self.shared.space.set_free(space.free);
        }
    }

    fn write_blob(&mut self, group: &mut Group, id: ShardId, sequence: u64, bytes: Bytes) -> Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if self.is_indexed(group, &id)? {
            self.shared.space.removed(volume::entry_len(length));
            self.shared.settled([(id, sequence)]);
            return Ok(());
        }
        let location = self.append(&id, &bytes)?;
        if let Some((_, unused)) = self.unindexed.insert(id, (sequence, location)) {
            self.shared.space.removed(unused.entry_len());
        }
        self.shared.placed(&id, sequence, location);
        if self.unindexed.len() >= MAX_UNINDEXED {
            self.index_blobs(group)?;
        }
        Ok(())
    }

    fn is_indexed(&self, group: &Group, id: &ShardId) -> Result<bool> {
        if let Some(transaction) = &group.transaction {
            let table = transaction.open_table(BLOBS).map_err(broken)?;
            return Ok(table.get(id.as_bytes()).map_err(broken)?.is_some());
        }
        let guard = self.shared.database();
        let transaction = index::begin_read(guard.get()?)?;
        Ok(index::find_blob(&transaction, id)?.is_some())
    }

    /// Writes an entry at the end of the current volume.
    pub(crate) fn append(&mut self, id: &ShardId, bytes: &[u8]) -> Result<Location> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let full = |current: &Current| current.length + volume::entry_len(length) > self.volume_bytes;
        if self.current.as_ref().is_some_and(full) {
            self.current = None;
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let created = self.create_volume()?;
                self.current.insert(created)
            }
        };
        let header = volume::entry_header(id, length);
        let written = current.file.append(current.length, &[&header, bytes, volume::padding(length)]);
        written.map_err(|error| Error::io("a volume could not be written", error))?;
        let location = Location { volume: current.volume, offset: current.length + ENTRY_HEADER_LEN, length };
        current.length = location.end();
        self.unsynced.entry(current.volume).or_insert_with(|| Arc::clone(&current.file));
        Ok(location)
    }

    fn create_volume(&mut self) -> Result<Current> {
        let volume = self.next_volume;
        self.next_volume = volume.saturating_add(1);
        let file = self.shared.files.create(&volume::file_name(volume));
        let file = file.map_err(|error| Error::io("a volume could not be created", error))?;
        file.append(0, &[&volume::file_header(volume, &self.store)])
            .map_err(|error| Error::io("a volume could not be written", error))?;
        self.volumes.insert(volume, VolumeRow { length: FILE_HEADER_LEN, live: 0 });
        self.shared.space.added(FILE_HEADER_LEN);
        self.shared.keep_handle(volume, &file);
        self.directory_unsynced = true;
        Ok(Current { volume, file, length: FILE_HEADER_LEN })
    }

    /// Takes the steps of one commit, and all blobs written before it, into the group's transaction.
    fn apply(&mut self, group: &mut Group, steps: Vec<BatchStep>) -> Result<()> {
        if !is_active(Bug::ForgetBlobIndex) {
            self.index_blobs(group)?;
        }
        let mut removed = Vec::new();
        {
            let transaction = group.begin(&self.shared)?;
            let mut tables = BTreeMap::new();
            for table in steps.iter().filter_map(table_of) {
                if let std::collections::btree_map::Entry::Vacant(slot) = tables.entry(table) {
                    slot.insert(transaction.open_table(index::rows(table)).map_err(broken)?);
                }
            }
            let mut blobs = transaction.open_table(BLOBS).map_err(broken)?;
            for step in steps {
                match step {
                    BatchStep::Put { table, key, value } => {
                        if let Some(rows) = tables.get_mut(&table) {
                            let row = index::sealed_record(table, &key, &value);
                            rows.insert(&key[..], &row[..]).map_err(broken)?;
                        }
                    }
                    BatchStep::Delete { table, key } => {
                        if let Some(table) = tables.get_mut(&table)
                            && table.remove(&key[..]).map_err(broken)?.is_some()
                        {
                            self.rows_removed += 1;
                        }
                    }
                    BatchStep::DeleteBlob { id } => {
                        if let Some(row) = blobs.remove(id.as_bytes()).map_err(broken)? {
                            removed.push(index::decode_location(&id, row.value())?);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.rows_removed += removed.len() as u64;
        self.count_removed(group, &removed);
        Ok(())
    }

    /// Takes blobs that were written into the index.
    fn index_blobs(&mut self, group: &mut Group) -> Result<()> {
        let written = std::mem::take(&mut self.unindexed);
        let transaction = group.begin(&self.shared)?;
        let mut blobs = transaction.open_table(BLOBS).map_err(broken)?;
        for (id, (_, location)) in &written {
            blobs.insert(id.as_bytes(), &location.encode(id)).map_err(broken)?;
        }
        drop(blobs);
        for (id, (sequence, location)) in written {
            self.count_added(group, location);
            group.indexed.push((id, sequence));
        }
        Ok(())
    }

    /// Points the index at copies of blobs that are to leave their volume.
    pub(crate) fn move_blobs(
        &mut self,
        group: &mut Group,
        moves: Vec<(ShardId, Location, Location)>,
    ) -> Result<()> {
        let transaction = group.begin(&self.shared)?;
        let mut blobs = transaction.open_table(BLOBS).map_err(broken)?;
        for (id, _, to) in &moves {
            blobs.insert(id.as_bytes(), &to.encode(id)).map_err(broken)?;
        }
        drop(blobs);
        for (_, from, to) in moves {
            self.count_added(group, to);
            self.count_removed(group, &[from]);
        }
        Ok(())
    }

    fn count_added(&mut self, group: &mut Group, location: Location) {
        if let Some(row) = self.volumes.get_mut(&location.volume) {
            row.length = row.length.max(location.end());
            row.live = row.live.saturating_add(location.entry_len());
        }
        group.touched.insert(location.volume);
    }

    fn count_removed(&mut self, group: &mut Group, locations: &[Location]) {
        for location in locations {
            if let Some(row) = self.volumes.get_mut(&location.volume) {
                row.live = row.live.saturating_sub(location.entry_len());
            }
            group.touched.insert(location.volume);
        }
    }

    /// Makes a group durable: volumes first, then the transaction that names what they hold.
    pub(crate) fn finish(&mut self, group: Group) -> Result<()> {
        let Some(transaction) = group.transaction else { return Ok(()) };
        self.sync_volumes()?;
        let dead = self.dead_volumes();
        {
            let mut rows = transaction.open_table(VOLUMES).map_err(broken)?;
            for volume in &group.touched {
                if let Some(row) = self.volumes.get(volume) {
                    rows.insert(volume, &row.encode(*volume)).map_err(broken)?;
                }
            }
            for volume in &dead {
                rows.remove(volume).map_err(broken)?;
            }
        }
        if is_active(Bug::CompactBeforeCommit) {
            self.shared.remove_volumes(&dead);
        }
        transaction.commit().map_err(broken)?;
        self.shared.settled(group.indexed);
        for volume in &dead {
            let length = self.volumes.remove(volume).map_or(0, |row| row.length);
            self.shared.space.removed(length);
        }
        self.shared.remove_volumes(&dead);
        Ok(())
    }

    fn sync_volumes(&mut self) -> Result<()> {
        if is_active(Bug::ForgetVolumeSync) {
            self.unsynced.clear();
        }
        for (_, file) in std::mem::take(&mut self.unsynced) {
            file.sync_data().map_err(|error| Error::io("a volume could not be synced", error))?;
        }
        if std::mem::take(&mut self.directory_unsynced) && !is_active(Bug::ForgetDirectorySync) {
            let synced = self.shared.files.sync_dir();
            synced.map_err(|error| Error::io("the directory of volumes could not be synced", error))?;
        }
        Ok(())
    }

    /// Volumes that nothing names and nothing will.
    pub(crate) fn dead_volumes(&self) -> Vec<u32> {
        let current = self.current_volume();
        let waiting: BTreeSet<u32> = self.unindexed.values().map(|(_, at)| at.volume).collect();
        let dead = |(volume, row): (&u32, &VolumeRow)| {
            let kept = row.live > 0 || Some(*volume) == current || waiting.contains(volume);
            (!kept).then_some(*volume)
        };
        self.volumes.iter().filter_map(dead).collect()
    }

    /// The volume that is written now.
    pub(crate) fn current_volume(&self) -> Option<u32> {
        self.current.as_ref().map(|current| current.volume)
    }

    /// Ends the current volume, so that it can be compacted as well.
    pub(crate) fn seal_current(&mut self) {
        self.current = None;
    }
}

impl Group {
    pub(crate) fn begin(&mut self, shared: &Shared) -> Result<&mut WriteTransaction> {
        match self.transaction {
            Some(ref mut transaction) => Ok(transaction),
            None => {
                let transaction = index::begin_write(shared.database().get()?)?;
                Ok(self.transaction.insert(transaction))
            }
        }
    }
}

/// The last volume, to be written on, so that reopening does not leave a short volume each time.
fn last_volume(
    shared: &Shared,
    volumes: &BTreeMap<u32, VolumeRow>,
    short: &BTreeSet<u32>,
    volume_bytes: u64,
) -> Option<Current> {
    let (volume, row) = volumes.last_key_value()?;
    // Writing behind the end of one that is too short would fill the gap with zeros, which are not what it held.
    if row.length >= volume_bytes || row.length < FILE_HEADER_LEN || short.contains(volume) {
        return None;
    }
    // A volume that cannot be opened is left alone; reading its blobs says what is wrong.
    let file = shared.handle(*volume).ok()?;
    Some(Current { volume: *volume, file, length: row.length })
}

fn table_of(step: &BatchStep) -> Option<Table> {
    match step {
        BatchStep::Put { table, .. } | BatchStep::Delete { table, .. } => Some(*table),
        _ => None,
    }
}

/// Answers all with one outcome. Where there is none the senders are dropped, and the waiting callers find the store
/// poisoned.
pub(crate) fn answer(replies: Vec<Reply>, outcome: Option<Result<()>>) {
    let mut first = None;
    match outcome {
        None => return,
        Some(Ok(())) => {}
        Some(Err(error)) => first = Some(error),
    }
    let text = first.as_ref().map(|error| (error.kind(), error.to_string()));
    for reply in replies {
        let result = match (first.take(), &text) {
            (Some(error), _) => Err(error),
            (None, Some((kind, text))) => Err(Error::new(*kind, text.clone())),
            (None, None) => Ok(()),
        };
        let _ = reply.send(result);
    }
}
