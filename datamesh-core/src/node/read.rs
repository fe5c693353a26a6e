//! Giving data out: shards, layouts, manifests, and what is held.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::commit::wanted;
use super::{Answer, Node, id_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layout, MAX_EXTENTS_DESCRIBED, Reply, StoredExtent, StoredManifest};
use crate::id::{ExtentId, ObjectId, ShardId};
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, Table};

impl Node {
    /// A shard's bytes; bytes that fail their check are an event and never given out.
    pub(super) async fn read_shard(&self, shard: ShardId) -> Result<Answer> {
        match self.read_blob(shard).await {
            Ok(Some(bytes)) => Ok((Reply::Done, bytes)),
            Ok(None) => Ok((Reply::Absent, Bytes::new())),
            Err(error) => {
                self.tell_unread(shard, &error).await?;
                Err(error)
            }
        }
    }

    /// An extent's layout.
    pub(super) async fn read_layout(&self, extent: ExtentId) -> Result<Answer> {
        match self.stored_extent(extent).await? {
            Some(record) => Ok((Reply::Done, record.layout)),
            None => self.absent_or_removed(extent.as_bytes()).await,
        }
    }

    /// An object's manifest.
    pub(super) async fn read_manifest(&self, object: ObjectId) -> Result<Answer> {
        match self.stored_manifest(object).await? {
            Some(record) => Ok((Reply::Done, record.manifest)),
            None => self.absent_or_removed(object.as_bytes()).await,
        }
    }

    pub(super) async fn absent_or_removed(&self, id: &[u8; 32]) -> Result<Answer> {
        let reply = if self.tombstone(id).await?.is_some() { Reply::Removed } else { Reply::Absent };
        Ok((reply, Bytes::new()))
    }

    /// Which indexes of each extent are held: those of which every segment's shard is in the store.
    pub(super) async fn describe(&self, extents: Vec<ExtentId>) -> Result<Reply> {
        if extents.len() > MAX_EXTENTS_DESCRIBED {
            let asked = extents.len();
            let text =
                format!("at most {MAX_EXTENTS_DESCRIBED} extents are described at a time, got {asked}");
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        self.check_sees()?;
        let mut held = Vec::with_capacity(extents.len());
        for extent in extents {
            held.push(match self.stored_extent(extent).await? {
                Some(record) => Some(self.held_indexes(&record).await?),
                None => None,
            });
        }
        Ok(Reply::Described { held })
    }

    pub(super) async fn held_indexes(&self, record: &StoredExtent) -> Result<Vec<u8>> {
        let layout = Layout::decode(&record.layout)?;
        let mut held: BTreeSet<u8> = record.indexes.iter().copied().collect();
        let wanted = wanted(&layout, &held);
        let lengths = self.storage.blob_lengths(wanted.iter().map(|want| want.shard).collect()).await?;
        for (want, length) in wanted.iter().zip(lengths) {
            if length != Some(want.len) {
                held.remove(&want.index);
            }
        }
        // What was staged in the place of what was set aside is not durable before a commit: only then it counts.
        let staged: BTreeSet<u8> = {
            let staging = self.staging();
            wanted.iter().filter(|want| staging.contains(&want.shard)).map(|want| want.index).collect()
        };
        if !staged.is_empty() && self.storage.commit(Batch::new()).await.is_err() {
            held.retain(|index| !staged.contains(index));
        }
        Ok(held.into_iter().collect())
    }

    /// Verifies this node's own copy of a shard. A corrupt one is given up, so that it counts as missing and
    /// repair can bring it back; the extent's record stays.
    pub(super) async fn recheck(&self, shard: ShardId) -> Result<Reply> {
        if is_active(Bug::BelieveAccusers) {
            self.storage.commit(Batch::new().delete_blob(shard)).await?;
            return Ok(Reply::Absent);
        }
        match self.read_shard(shard).await {
            Ok((reply, _)) => Ok(reply),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.set_aside(shard).await?;
                Ok(Reply::Done)
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of an extent.
    pub(crate) async fn stored_extent(&self, extent: ExtentId) -> Result<Option<StoredExtent>> {
        let value = self.storage.read_record(Table::Extents, id_key(extent.as_bytes())).await?;
        value.map(|value| StoredExtent::decode(&value)).transpose()
    }

    /// A manifest, if it is here.
    pub(crate) async fn stored_manifest(&self, object: ObjectId) -> Result<Option<StoredManifest>> {
        let value = self.storage.read_record(Table::Manifests, id_key(object.as_bytes())).await?;
        value.map(|value| StoredManifest::decode(&value)).transpose()
    }
}
