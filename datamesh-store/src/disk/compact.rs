//! Giving space back, in slices between which other requests are served.

use std::collections::BTreeSet;

use datamesh_core::Result;
use datamesh_core::id::ShardId;
use redb::CompactionError;

use super::index::{self, broken};
use super::reader;
use super::shared::Reply;
use super::volume::{FILE_HEADER_LEN, Location, VolumeRow};
use super::writer::{Group, Writer, answer};

/// Blobs looked at in one slice of a compaction.
const SLICE_BLOBS: usize = 256;

/// Bytes copied in one slice; every blob fits. Writes wait for as long as this takes.
const SLICE_BYTES: u64 = 8 << 20;

/// Bytes of the medium that no copy takes, since the index of the copies needs some, and a full medium ends all writing.
const SPARE_BYTES: u64 = 2 << 20;

/// A compaction under way.
pub(crate) struct Compaction {
    /// The volumes to be emptied, as they were found when it began.
    sparse: BTreeSet<u32>,
    /// The last blob of the index that was looked at.
    after: Option<ShardId>,
    replies: Vec<Reply>,
}

impl Writer {
    /// Whether there is something left to do without a further request.
    pub(crate) fn has_compaction(&self) -> bool {
        self.compaction.is_some() || !self.compactions_asked.is_empty()
    }

    /// Does one slice of the compaction under way, or of the next one that was asked for.
    pub(crate) fn compact_further(&mut self) {
        let Some(mut compaction) = self.compaction.take().or_else(|| self.begin_compaction()) else { return };
        match self.guarded(|writer| writer.slice(&mut compaction)) {
            Some(Ok(false)) => self.compaction = Some(compaction),
            outcome => {
                // Whoever waits may want to write at once.
                self.look_at_space();
                answer(compaction.replies, outcome.map(|ended| ended.map(drop)));
            }
        }
    }

    fn begin_compaction(&mut self) -> Option<Compaction> {
        let replies = std::mem::take(&mut self.compactions_asked);
        if replies.is_empty() {
            return None;
        }
        let current = self.current_volume().and_then(|current| self.volumes.get(&current));
        if current.is_some_and(is_sparse) {
            self.seal_current();
        }
        Some(Compaction { sparse: self.sparse_volumes(), after: None, replies })
    }

    /// Volumes with something to copy, as long as there is room for it.
    fn sparse_volumes(&self) -> BTreeSet<u32> {
        let (mut room, current) = (self.room(), self.current_volume());
        let mut sparse = BTreeSet::new();
        for (volume, row) in &self.volumes {
            if row.live > 0 && is_sparse(row) && row.live < room && Some(*volume) != current {
                room -= row.live;
                sparse.insert(*volume);
            }
        }
        sparse
    }

    /// Bytes of the medium that copies may take.
    fn room(&self) -> u64 {
        let kept = SPARE_BYTES.saturating_add(self.shared.queued_bytes());
        self.shared.files.space().map_or(u64::MAX, |space| space.free.saturating_sub(kept))
    }

    /// Looks at the next blobs, and says whether the compaction has ended.
    fn slice(&mut self, compaction: &mut Compaction) -> Result<bool> {
        let page =
            if compaction.sparse.is_empty() { Vec::new() } else { self.page(compaction.after.as_ref())? };
        if page.is_empty() {
            self.end_compaction()?;
            return Ok(true);
        }
        self.move_out(compaction, &page)?;
        Ok(false)
    }

    fn page(&self, after: Option<&ShardId>) -> Result<Vec<(ShardId, Location)>> {
        let guard = self.shared.database();
        index::blobs_after(&index::begin_read(guard.get()?)?, after, SLICE_BLOBS)
    }

    /// Copies the blobs of a page that lie in sparse volumes, as far as a slice goes.
    fn move_out(&mut self, compaction: &mut Compaction, page: &[(ShardId, Location)]) -> Result<()> {
        let (mut moves, mut bytes, room) = (Vec::new(), 0, self.room());
        for (id, from) in page {
            if compaction.sparse.contains(&from.volume) {
                bytes += from.entry_len();
                if bytes > SLICE_BYTES {
                    break;
                }
                if bytes >= room {
                    // Others have filled the medium since. What is left waits for another compaction.
                    compaction.sparse.clear();
                    break;
                }
                // What cannot be read stays where it is, so that reading it keeps saying why.
                if let Ok(payload) = reader::read_location(&self.shared, id, *from) {
                    let to = self.append(id, &payload)?;
                    self.shared.space.taken(to.entry_len());
                    moves.push((*id, *from, to));
                }
            }
            compaction.after = Some(*id);
        }
        if moves.is_empty() { Ok(()) } else { self.switch(moves) }
    }

    fn switch(&mut self, moves: Vec<(ShardId, Location, Location)>) -> Result<()> {
        let mut group = Group::default();
        self.move_blobs(&mut group, moves)?;
        self.finish(group)
    }

    fn end_compaction(&mut self) -> Result<()> {
        if !self.dead_volumes().is_empty() {
            // A transaction of its own takes out the volumes that are empty now.
            let mut group = Group::default();
            group.begin(&self.shared)?;
            self.finish(group)?;
        }
        self.shrink_records()
    }

    /// Lets the records file shrink where most of it may be gone; everything else waits meanwhile.
    fn shrink_records(&mut self) -> Result<()> {
        if self.rows_removed <= self.rows_left()? {
            return Ok(());
        }
        let shrunk = self.shared.exclusively(|database| database.as_mut().map(|database| database.compact()));
        match shrunk {
            // Not now: a transaction that is still read is no damage, and the count stands for the next time.
            Some(Err(CompactionError::TransactionInProgress)) => return Ok(()),
            Some(Err(error)) => return Err(broken(error)),
            Some(Ok(_)) | None => {}
        }
        self.rows_removed = 0;
        Ok(())
    }

    fn rows_left(&self) -> Result<u64> {
        let guard = self.shared.database();
        index::count_rows(&index::begin_read(guard.get()?)?)
    }
}

/// Whether less than half of what a volume was filled with is alive.
fn is_sparse(row: &VolumeRow) -> bool {
    let filled = row.length.saturating_sub(FILE_HEADER_LEN);
    filled > 0 && row.live < filled / 2
}
