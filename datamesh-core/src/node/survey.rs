//! Saying what is held, in brief and in batches: what care asks of the other holders.

use super::{Answer, Node, id_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{MAX_SURVEYED, Possession, Reply};
use crate::id::{ExtentId, ObjectId};
use crate::ports::Table;
use bytes::Bytes;

impl Node {
    /// What this node has of each extent, and then of each object's manifest; nothing while its disk gives no shard.
    pub(super) async fn survey(&self, extents: Vec<ExtentId>, objects: Vec<ObjectId>) -> Result<Answer> {
        check_count(extents.len().max(objects.len()))?;
        self.check_sees()?;
        let mut possessions = Vec::with_capacity(extents.len().saturating_add(objects.len()));
        for extent in extents {
            possessions.push(unless_damaged(self.possession_of_extent(extent).await)?);
        }
        for object in objects {
            possessions.push(unless_damaged(self.possession_of_manifest(object).await)?);
        }
        Ok((Reply::Surveyed { possessions }, Bytes::new()))
    }

    /// What this node has of an extent: the indexes of which every segment's shard is in the store.
    pub(crate) async fn possession_of_extent(&self, extent: ExtentId) -> Result<Possession> {
        match self.stored_extent(extent).await? {
            Some(record) => Ok(Possession::Held(self.held_indexes(&record).await?)),
            None => self.absent_possession(extent.as_bytes()).await,
        }
    }

    /// Whether this node has a manifest.
    pub(crate) async fn possession_of_manifest(&self, object: ObjectId) -> Result<Possession> {
        match self.storage.read_record(Table::Manifests, id_key(object.as_bytes())).await? {
            Some(_) => Ok(Possession::Held(Vec::new())),
            None => self.absent_possession(object.as_bytes()).await,
        }
    }

    async fn absent_possession(&self, id: &[u8; 32]) -> Result<Possession> {
        Ok(if self.tombstone(id).await?.is_some() { Possession::Removed } else { Possession::Absent })
    }
}

/// A damaged record counts for nothing, and is no reason to say nothing of the others.
fn unless_damaged(possession: Result<Possession>) -> Result<Possession> {
    match possession {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Possession::Absent),
        possession => possession,
    }
}

pub(super) fn check_count(count: usize) -> Result<()> {
    if count <= MAX_SURVEYED {
        return Ok(());
    }
    let text = format!("at most {MAX_SURVEYED} of a kind are surveyed at a time, got {count}");
    Err(Error::new(ErrorKind::LimitExceeded, text))
}
