//! Looking after what this node holds itself: what is rotten is set aside, so that it counts as missing and can come
//! back.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::commit::wanted;
use super::{Node, NodeEvent, id_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{FORMAT_VERSION, Layout, Manifest, ScrubCursor, StoredExtent, StoredManifest, Work};
use crate::id::{ExtentId, ObjectId, ShardId};
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, RecordPage, Table};

/// The most extents that are noted to be mended for one shard. Every object has keys of its own, so that hardly ever
/// two extents share one.
const MAX_USES: usize = 64;

/// What a look at one thing in the store showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    /// It is what its name says, and so many bytes long.
    Right(u64),
    /// It is not there any more.
    Absent,
    /// It is not what its name says.
    Rotten,
    /// The disk did not give it.
    Unreadable,
}

impl Node {
    /// Reads a shard and compares it with its name.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn check_shard(&self, shard: ShardId) -> Result<Checked> {
        match self.read_blob(shard).await {
            Ok(Some(bytes)) => Ok(Checked::Right(bytes.len() as u64)),
            Ok(None) => Ok(Checked::Absent),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Checked::Rotten),
            Err(error) if error.kind() == ErrorKind::Io => Ok(Checked::Unreadable),
            Err(error) => Err(error),
        }
    }

    /// Deletes a shard that is still corrupt when nothing else is under way, for it may have been refilled, and notes
    /// in the same commit that its extents lack it.
    pub(crate) async fn set_aside(&self, shard: ShardId) -> Result<()> {
        let _alone = self.gate.alone().await;
        match self.storage.read_blob(shard).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            checked => return checked.map(drop),
        }
        self.give_up(shard).await
    }

    /// The same for one that the disk does not give. It is not read again, which may take seconds in which nothing else
    /// is done; one that was refilled meanwhile comes back all the same.
    pub(crate) async fn set_aside_unread(&self, shard: ShardId) -> Result<()> {
        let _alone = self.gate.alone().await;
        self.give_up(shard).await
    }

    /// The caller holds the gate alone.
    async fn give_up(&self, shard: ShardId) -> Result<()> {
        if is_active(Bug::ScrubKeepsRotten) {
            return Ok(());
        }
        self.set_asides.fetch_add(1, Ordering::Relaxed);
        let mut batch = Batch::new().delete_blob(shard);
        let extents = self.uses_of(&shard).await?;
        for extent in extents.iter().copied() {
            batch = batch.put(Table::Work, Work::Mend(extent).key(), Bytes::from_static(&[FORMAT_VERSION]));
        }
        self.commit_even_if_full(batch, shard).await?;
        self.staging().remove(&shard);
        if !extents.is_empty() {
            self.emit(NodeEvent::SetAside { shard });
        }
        // Care looks too: this node may not be able to mend it, or its full disk has kept no note.
        extents.into_iter().for_each(|extent| self.written.note_extent(extent));
        Ok(())
    }

    /// A full store takes no note, but deletes all the same.
    async fn commit_even_if_full(&self, batch: Batch, shard: ShardId) -> Result<()> {
        match self.storage.commit(batch).await {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.storage.commit(Batch::new().delete_blob(shard)).await
            }
            committed => committed,
        }
    }

    /// Tells why a shard could not be given out, where that says something of the shard.
    pub(super) async fn tell_unread(&self, shard: ShardId, error: &Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Corrupt => self.tell_corrupt(shard).await,
            ErrorKind::Io => {
                self.emit(NodeEvent::UnreadableShard { shard });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells that a shard has rotted, unless no extent uses it: then a crash has left a part of what nobody was told
    /// of.
    pub(crate) async fn tell_corrupt(&self, shard: ShardId) -> Result<()> {
        if !self.uses_of(&shard).await?.is_empty() {
            self.emit(NodeEvent::CorruptShard { shard });
        }
        Ok(())
    }

    /// The extents that use a shard.
    async fn uses_of(&self, shard: &ShardId) -> Result<Vec<ExtentId>> {
        let prefix = Bytes::copy_from_slice(shard.as_bytes());
        let page = self.storage.scan_records(Table::ShardUses, prefix, None, MAX_USES).await?;
        let extent = |key: &Bytes| key.get(crate::id::ID_LEN..)?.try_into().ok().map(ExtentId::from_bytes);
        Ok(page.records.iter().filter_map(|(key, _)| extent(key)).collect())
    }

    /// Compares a layout that this node keeps with its name.
    pub(crate) fn check_layout(extent: ExtentId, value: &[u8]) -> Checked {
        let right = |record: &StoredExtent| ExtentId::of(&record.layout) == extent;
        checked(StoredExtent::decode(value).is_ok_and(|record| right(&record)), value)
    }

    /// Compares a manifest that this node keeps with its name.
    pub(crate) fn check_manifest(object: ObjectId, value: &[u8]) -> Checked {
        let right = |record: &StoredManifest| ObjectId::of(&record.manifest) == object;
        checked(StoredManifest::decode(value).is_ok_and(|record| right(&record)), value)
    }

    /// Writes a rotten record of an extent anew, with the indexes of which shards are here. The layout is the right
    /// one.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn renew_layout(&self, extent: ExtentId, encoded: Bytes) -> Result<()> {
        let layout = Layout::decode(&encoded)?;
        let _alone = self.gate.alone().await;
        let all = (0..=u8::MAX).take(layout.redundancy.total()).collect();
        let mut record =
            StoredExtent { layout: encoded, indexes: Vec::new(), committed_at: self.runtime.wall_time() };
        for want in wanted(&layout, &all) {
            let uses = self.uses_of(&want.shard).await?;
            if uses.contains(&extent) && !record.indexes.contains(&want.index) {
                record.indexes.push(want.index);
            }
        }
        record.indexes.sort_unstable();
        let batch = Batch::new().put(Table::Extents, id_key(extent.as_bytes()), record.encode()).put(
            Table::Work,
            Work::Mend(extent).key(),
            Bytes::from_static(&[FORMAT_VERSION]),
        );
        self.storage.commit(batch).await
    }

    /// Writes a rotten record of a manifest anew. The manifest is the right one.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn renew_manifest(&self, object: ObjectId, encoded: Bytes) -> Result<()> {
        Manifest::decode(&encoded)?;
        let _alone = self.gate.alone().await;
        let record = StoredManifest { manifest: encoded, committed_at: self.runtime.wall_time() };
        let batch = Batch::new().put(Table::Manifests, id_key(object.as_bytes()), record.encode());
        self.storage.commit(batch).await
    }

    /// Where an earlier scrub stopped; at the beginning where that cannot be told.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn scrub_cursor(&self) -> Result<ScrubCursor> {
        let value = self.storage.read_record(Table::Work, Work::Scrub.key()).await?;
        Ok(value.and_then(|value| ScrubCursor::decode(&value).ok()).unwrap_or_default())
    }

    /// Keeps where the scrub is.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn keep_scrub_cursor(&self, cursor: &ScrubCursor) -> Result<()> {
        self.storage.commit(Batch::new().put(Table::Work, Work::Scrub.key(), cursor.encode())).await
    }

    /// A page of the extents that lack a shard which was set aside.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn to_mend(&self, after: Option<ExtentId>, limit: usize) -> Result<Vec<ExtentId>> {
        let after = after.map(|extent| Work::Mend(extent).key());
        let page: RecordPage = self.storage.scan_records(Table::Work, Work::EVERY_MEND, after, limit).await?;
        let extent = |key: &Bytes| match Work::from_key(key) {
            Some(Work::Mend(extent)) => Some(extent),
            _ => None,
        };
        Ok(page.records.iter().filter_map(|(key, _)| extent(key)).collect())
    }

    /// How many shards were set aside since this node was opened.
    pub(crate) fn set_asides(&self) -> u64 {
        self.set_asides.load(Ordering::Relaxed)
    }

    /// Forgets that an extent was to be mended, unless a shard was set aside since there were so many: it may have
    /// been one of this extent.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn mended(&self, extent: ExtentId, set_asides: u64) -> Result<()> {
        let _shared = self.gate.together().await;
        if self.set_asides() != set_asides {
            return Ok(());
        }
        self.storage.commit(Batch::new().delete(Table::Work, Work::Mend(extent).key())).await
    }
}

fn checked(is_right: bool, value: &[u8]) -> Checked {
    if is_right { Checked::Right(value.len() as u64) } else { Checked::Rotten }
}
