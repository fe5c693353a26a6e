//! Shards that were staged and wait for their commit.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{NodeId, ShardId};
use crate::ports::Instant;

/// One staged shard.
#[derive(Debug, Clone, Copy)]
struct Staged {
    /// Who staged it; `None` when several did, so that none of them can take it from the others.
    from: Option<NodeId>,
    at: Instant,
    len: u64,
}

/// The staged shards, bounded by count and bytes.
#[derive(Debug)]
pub(super) struct Staging {
    shards: BTreeMap<ShardId, Staged>,
    bytes: u64,
    max_shards: usize,
    max_bytes: u64,
}

impl Staging {
    pub(super) fn new(max_shards: usize, max_bytes: u64) -> Self {
        Self { shards: BTreeMap::new(), bytes: 0, max_shards, max_bytes }
    }

    /// Notes a shard, before it is written. Returns whether it is new here.
    pub(super) fn insert(&mut self, shard: ShardId, from: NodeId, at: Instant, len: u64) -> Result<bool> {
        if let Some(staged) = self.shards.get_mut(&shard) {
            staged.at = at;
            staged.from = staged.from.filter(|first| *first == from);
            return Ok(false);
        }
        let bytes = self.bytes.saturating_add(len);
        if self.shards.len() >= self.max_shards || bytes > self.max_bytes {
            let (shards, bytes) = self.totals();
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{shards} shards of {bytes} bytes wait for their commit here; try again later"),
            ));
        }
        self.bytes = bytes;
        self.shards.insert(shard, Staged { from: Some(from), at, len });
        Ok(true)
    }

    pub(super) fn remove(&mut self, shard: &ShardId) {
        if let Some(staged) = self.shards.remove(shard) {
            self.bytes = self.bytes.saturating_sub(staged.len);
        }
    }

    pub(super) fn contains(&self, shard: &ShardId) -> bool {
        self.shards.contains_key(shard)
    }

    /// Whether this node, and no other, staged the shard.
    pub(super) fn is_from(&self, shard: &ShardId, from: NodeId) -> bool {
        self.shards.get(shard).is_some_and(|staged| staged.from == Some(from))
    }

    /// Up to `limit` shards that were staged `age` ago or longer.
    pub(super) fn older_than(&self, now: Instant, age: Duration, limit: usize) -> Vec<ShardId> {
        let old = self.shards.iter().filter(|(_, staged)| now.saturating_since(staged.at) >= age);
        old.map(|(shard, _)| *shard).take(limit).collect()
    }

    /// Shards and their bytes.
    pub(super) fn totals(&self) -> (usize, u64) {
        (self.shards.len(), self.bytes)
    }
}
