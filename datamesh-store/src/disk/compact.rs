//! Giving space back.

use std::collections::BTreeSet;

use datamesh_core::id::ShardId;
use datamesh_core::{ErrorKind, Result};

use super::index::{self, broken};
use super::reader;
use super::volume::{FILE_HEADER_LEN, Location};
use super::writer::{Group, Writer};

/// Blobs looked at in one step of a compaction.
const STEP_BLOBS: usize = 256;

/// Bytes copied before the index is switched to the copies.
const STEP_BYTES: u64 = 64 << 20;

impl Writer {
    /// Copies what is left of volumes that are less than half alive, removes them, and lets the records
    /// file shrink.
    pub(crate) fn compact(&mut self) -> Result<()> {
        self.seal_current();
        let sparse = self.sparse_volumes();
        let mut after = None;
        while !sparse.is_empty() {
            let page = self.page(after.as_ref())?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            self.move_out(&sparse, &page)?;
        }
        // A transaction of its own takes out the volumes that are empty now.
        let mut group = Group::default();
        group.begin(&self.shared)?;
        self.finish(group)?;
        self.shrink_records()
    }

    /// Volumes less than half alive, as long as there is room for what is left of them.
    fn sparse_volumes(&self) -> BTreeSet<u32> {
        let mut room = self.shared.files.space().map_or(u64::MAX, |space| space.free);
        let mut sparse = BTreeSet::new();
        for (volume, row) in &self.volumes {
            let filled = row.length.saturating_sub(FILE_HEADER_LEN);
            if row.live > 0 && row.live < filled / 2 && row.live < room {
                room -= row.live;
                sparse.insert(*volume);
            }
        }
        sparse
    }

    fn page(&self, after: Option<&ShardId>) -> Result<Vec<(ShardId, Location)>> {
        let guard = self.shared.database();
        index::blobs_after(&index::begin_read(guard.get()?)?, after, STEP_BLOBS)
    }

    fn move_out(&mut self, sparse: &BTreeSet<u32>, page: &[(ShardId, Location)]) -> Result<()> {
        let (mut moves, mut bytes) = (Vec::new(), 0);
        for (id, from) in page.iter().filter(|(_, at)| sparse.contains(&at.volume)) {
            let copied = reader::read_location(&self.shared, id, *from);
            let payload = match copied {
                // What is damaged stays where it is, so that reading it keeps saying so.
                Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                other => other?,
            };
            let to = self.append(id, &payload)?;
            self.shared.space.added(to.entry_len());
            bytes += to.entry_len();
            moves.push((*id, *from, to));
            if bytes >= STEP_BYTES {
                self.switch(std::mem::take(&mut moves))?;
                bytes = 0;
            }
        }
        if moves.is_empty() { Ok(()) } else { self.switch(moves) }
    }

    fn switch(&mut self, moves: Vec<(ShardId, Location, Location)>) -> Result<()> {
        let mut group = Group::default();
        self.move_blobs(&mut group, moves)?;
        self.finish(group)
    }

    fn shrink_records(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.rows_removed) {
            return Ok(());
        }
        self.shared.exclusively(|database| match database {
            Some(database) => database.compact().map(drop).map_err(broken),
            None => Ok(()),
        })
    }
}
