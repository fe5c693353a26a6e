//! Taking data in: stage, commit, manifests.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::names::with_uses;
use super::{Node, id_key, sent_badly, use_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    FORMAT_VERSION, Layout, MAX_LAYOUT_LEN, MAX_MANIFEST_LEN, Manifest, Reply, StoredExtent, StoredManifest,
    UnnamedFor, Work,
};
use crate::id::{ExtentId, NodeId, ObjectId, ShardId};
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, MAX_BLOB_LEN, Table};

/// Bodies over this length are hashed on the pool; below it the hand-over costs more than the hash.
const HASH_INLINE_LEN: usize = 16 << 10;

impl Node {
    /// Takes a shard in, without a promise that it survives.
    pub(super) async fn stage(&self, from: NodeId, shard: ShardId, body: Bytes) -> Result<Reply> {
        if body.is_empty() || body.len() > MAX_BLOB_LEN {
            return Err(invalid(format!("a shard is 1 to {MAX_BLOB_LEN} bytes, got {}", body.len())));
        }
        if self.name_of(&body).await? != shard {
            return Err(invalid("the bytes are not those of the shard named".into()));
        }
        self.make_room(&shard, from, body.len() as u64).await?;
        let _shared = self.gate.together().await;
        self.check_takes(&shard).await?;
        let is_new = self.staging().insert(shard, from, self.runtime.now(), body.len() as u64)?;
        let written = self.storage.write_blob(shard, body).await;
        if written.is_err() && is_new {
            self.staging().remove(&shard);
        }
        written.map(|()| Reply::Done)
    }

    /// Refuses a shard that is new here once this node is to leave the mesh. What has rotted here is brought back all
    /// the same, so that it can be brought to others.
    async fn check_takes(&self, shard: &ShardId) -> Result<()> {
        match self.check_takes_more() {
            Err(leaving) if !self.is_used(shard, None).await? => Err(leaving),
            _ => Ok(()),
        }
    }

    /// Drops what those who have the most have staged, where there is no room for a shard of a peer that has less.
    async fn make_room(&self, shard: &ShardId, from: NodeId, len: u64) -> Result<()> {
        if self.staging().to_evict(shard, from, len).is_empty() {
            return Ok(());
        }
        // No commit may be under way that has seen them here.
        let _alone = self.gate.alone().await;
        self.check_takes(shard).await?;
        let evicted = self.staging().to_evict(shard, from, len);
        self.drop_staged(evicted).await
    }

    async fn name_of(&self, body: &Bytes) -> Result<ShardId> {
        if body.len() <= HASH_INLINE_LEN {
            return Ok(ShardId::of(body));
        }
        let body = body.clone();
        self.runtime.compute(move || ShardId::of(&body)).await
    }

    /// Makes an extent's shards and its record durable, if every shard is there.
    pub(super) async fn commit_extent(&self, indexes: Vec<u8>, body: Bytes) -> Result<Reply> {
        check_len("layout", body.len(), MAX_LAYOUT_LEN)?;
        let layout = Layout::decode(&body).map_err(sent_badly)?;
        let indexes = check_indexes(&indexes, layout.redundancy.total())?;
        let extent = ExtentId::of(&body);

        let _shared = self.gate.together().await;
        let _alone = self.lock_extent(extent).await;
        if self.is_removed(extent.as_bytes(), &layout.removal).await? {
            return Ok(Reply::Removed);
        }
        let earlier = self.stored_extent(extent).await?;
        if !earlier.as_ref().is_some_and(|record| indexes.iter().all(|index| record.indexes.contains(index)))
        {
            self.check_takes_more()?;
        }
        let missing = self.missing_positions(&layout, &indexes).await?;
        if !missing.is_empty() {
            return Ok(Reply::Missing { positions: missing });
        }
        let shards = shards_of(&layout, &indexes);
        let is_new = earlier.is_none();
        let record = self.extent_record(earlier, body, indexes);
        let mut batch = Batch::new().put(Table::Extents, id_key(extent.as_bytes()), record.encode());
        if is_new {
            batch = batch.put(Table::Work, Work::Unnamed(extent).key(), UnnamedFor::default().encode());
        }
        let batch = shards.iter().fold(batch, |batch, shard| {
            batch.put(Table::ShardUses, use_key(shard, &extent), Bytes::from_static(&[FORMAT_VERSION]))
        });
        self.make_durable(batch).await?;
        self.written.note_extent(extent);

        if !is_active(Bug::KeepStaged) {
            let mut staging = self.staging();
            shards.iter().for_each(|shard| staging.remove(shard));
        }
        Ok(Reply::Done)
    }

    /// Commits what is about to be acknowledged.
    async fn make_durable(&self, batch: Batch) -> Result<()> {
        if !is_active(Bug::AcknowledgeBeforeCommit) {
            return self.storage.commit(batch).await;
        }
        let storage = std::sync::Arc::clone(&self.storage);
        self.runtime.spawn(Box::pin(async move { drop(storage.commit(batch).await) }))
    }

    /// The new record of an extent; what was held before stays held.
    fn extent_record(
        &self,
        earlier: Option<StoredExtent>,
        layout: Bytes,
        mut indexes: BTreeSet<u8>,
    ) -> StoredExtent {
        let committed_at = earlier.as_ref().map_or(self.runtime.wall_time(), |record| record.committed_at);
        indexes.extend(earlier.into_iter().flat_map(|record| record.indexes));
        StoredExtent { layout, indexes: indexes.into_iter().collect(), committed_at }
    }

    /// The positions, segment * n + index, whose shard is not in the store.
    ///
    /// A shard of another length than the layout says can never fit: the layout is wrong then.
    async fn missing_positions(&self, layout: &Layout, indexes: &BTreeSet<u8>) -> Result<Vec<u16>> {
        let wanted = wanted(layout, indexes);
        let lengths = self.storage.blob_lengths(wanted.iter().map(|want| want.shard).collect()).await?;
        let mut missing = Vec::new();
        for (want, length) in wanted.iter().zip(lengths) {
            match length {
                None => missing.push(want.position),
                Some(length) if length == want.len => {}
                Some(length) => {
                    let said = want.len;
                    return Err(invalid(format!("the layout says {said} bytes of a shard of {length}")));
                }
            }
        }
        Ok(missing)
    }

    /// Keeps a manifest, durably.
    pub(super) async fn put_manifest(&self, body: Bytes) -> Result<Reply> {
        check_len("manifest", body.len(), MAX_MANIFEST_LEN)?;
        let manifest = Manifest::decode(&body).map_err(sent_badly)?;
        let object = ObjectId::of(&body);
        let _shared = self.gate.together().await;
        if self.is_removed(object.as_bytes(), &manifest.public().removal).await? {
            return Ok(Reply::Removed);
        }
        if self.stored_manifest(object).await?.is_none() {
            self.check_takes_more()?;
            let record = StoredManifest { manifest: body, committed_at: self.runtime.wall_time() };
            let batch = Batch::new().put(Table::Manifests, id_key(object.as_bytes()), record.encode());
            self.make_durable(with_uses(batch, &object, &manifest)).await?;
            self.written.note_object(object);
        }
        Ok(Reply::Done)
    }
}

/// A shard that an extent's record promises.
pub(super) struct Wanted {
    pub(super) position: u16,
    pub(super) index: u8,
    pub(super) shard: ShardId,
    pub(super) len: u64,
}

/// Every shard of these indexes, segment by segment.
pub(super) fn wanted(layout: &Layout, indexes: &BTreeSet<u8>) -> Vec<Wanted> {
    let n = layout.redundancy.total();
    let segments = 0..usize::from(layout.segments);
    let pairs = segments.flat_map(|segment| indexes.iter().map(move |index| (segment, *index)));
    pairs
        .filter_map(|(segment, index)| {
            Some(Wanted {
                position: u16::try_from(segment * n + usize::from(index)).ok()?,
                index,
                shard: layout.shard(segment, usize::from(index))?,
                len: layout.shard_len_of(segment) as u64,
            })
        })
        .collect()
}

/// The distinct shards of these indexes.
pub(super) fn shards_of(layout: &Layout, indexes: &BTreeSet<u8>) -> BTreeSet<ShardId> {
    wanted(layout, indexes).into_iter().map(|want| want.shard).collect()
}

fn check_indexes(indexes: &[u8], total: usize) -> Result<BTreeSet<u8>> {
    let distinct: BTreeSet<u8> = indexes.iter().copied().collect();
    let in_range = distinct.last().is_some_and(|last| usize::from(*last) < total);
    if in_range && distinct.len() == indexes.len() {
        return Ok(distinct);
    }
    let count = indexes.len();
    Err(invalid(format!("shard indexes are distinct and below {total}, at least one; got {count}")))
}

fn check_len(what: &str, len: usize, limit: usize) -> Result<()> {
    if len <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, format!("a {what} is at most {limit} bytes, got {len}")))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
