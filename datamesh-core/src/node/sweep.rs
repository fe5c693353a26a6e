//! Sweeping: staged shards whose commit never came, and blobs that nothing uses.

use std::time::Duration;

use super::Node;
use crate::error::Result;
use crate::id::ShardId;
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, Instant};

/// How long a staged shard waits for its commit.
pub const STAGED_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Shards looked at while the gate is closed: few enough that a put does not feel it.
const SWEEP_PAGE: usize = 256;

impl Node {
    /// Drops shards that were staged [`STAGED_LIFETIME`] ago or longer; returns how many.
    ///
    /// # Errors
    /// Those of the storage; what was not dropped is dropped by a later call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest for a later call.
    pub async fn sweep(&self, now: Instant) -> Result<usize> {
        let mut dropped = 0usize;
        loop {
            let planted = is_active(Bug::SweepInFlight);
            let _alone = if planted { None } else { Some(self.gate.alone().await) };
            let lifetime = if planted { Duration::ZERO } else { STAGED_LIFETIME };
            let old = self.staging().older_than(now, lifetime, SWEEP_PAGE);
            if old.is_empty() {
                return Ok(dropped);
            }
            dropped = dropped.saturating_add(old.len());
            self.drop_staged(old).await?;
        }
    }

    /// Removes every blob that no extent uses and that is not staged; returns how many.
    ///
    /// Such blobs are left by puts that were interrupted before the store was last closed. Run it once
    /// after opening, in the background: it works in pages and lets requests through between them.
    ///
    /// # Errors
    /// Those of the storage; what was not removed is removed by a later call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest for a later call.
    pub async fn sweep_orphans(&self) -> Result<usize> {
        let (mut removed, mut after) = (0usize, None);
        loop {
            let (count, next) = self.sweep_page(after).await?;
            removed = removed.saturating_add(count);
            if next.is_none() {
                return Ok(removed);
            }
            after = next;
        }
    }

    /// Sweeps the blobs after a name; returns how many went, and where to go on.
    async fn sweep_page(&self, after: Option<ShardId>) -> Result<(usize, Option<ShardId>)> {
        let _alone = if is_active(Bug::SweepInFlight) { None } else { Some(self.gate.alone().await) };
        let page = self.storage.scan_blobs(after, SWEEP_PAGE).await?;
        let mut batch = Batch::new();
        for (shard, _) in &page.blobs {
            let staged = self.staging().contains(shard) && !is_active(Bug::SweepInFlight);
            if !staged && !self.is_used(shard, None).await? {
                batch = batch.delete_blob(*shard);
            }
        }
        let removed = batch.steps().len();
        if removed > 0 {
            self.storage.commit(batch).await?;
        }
        let last = page.blobs.last().map(|(shard, _)| *shard);
        Ok((removed, last.filter(|_| page.more)))
    }
}
