//! Whether the disk gives anything: a node that can read no shard is no holder, whatever its index says.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardId;
use crate::ports::Instant;

/// Of so many shards, or of all where there are fewer, none must have been read: a lost sector is not a lost disk.
const ENOUGH: usize = 16;

/// For so long none must have been read: a disk, or a network behind it, may be back in a minute.
const BLIND_AFTER: Duration = Duration::from_secs(5 * 60);

/// What reading has shown since a shard was last read. Pure.
#[derive(Debug)]
pub(super) struct Sight {
    /// Shards that could not be read, at most [`ENOUGH`].
    failed: BTreeSet<ShardId>,
    /// When the first of them failed.
    since: Option<Instant>,
    /// How many of them are enough.
    enough: usize,
}

impl Default for Sight {
    fn default() -> Self {
        Self { failed: BTreeSet::new(), since: None, enough: ENOUGH }
    }
}

impl Sight {
    /// Records that the disk gave a shard, whatever it is worth.
    fn read(&mut self) {
        (self.since, self.enough) = (None, ENOUGH);
        self.failed.clear();
    }

    /// Records that a shard could not be read.
    fn failed(&mut self, shard: ShardId, now: Instant) {
        self.since.get_or_insert(now);
        if self.failed.len() < ENOUGH {
            self.failed.insert(shard);
        }
    }

    /// Records that these are all that there are, where they are few.
    fn these_are_all(&mut self, shards: &[ShardId]) {
        if shards.is_empty() {
            return self.read();
        }
        self.failed.retain(|shard| shards.contains(shard));
        self.enough = shards.len().min(ENOUGH);
    }

    /// Whether nothing was read since a shard failed.
    fn is_doubted(&self) -> bool {
        self.since.is_some()
    }

    fn is_blind(&self, now: Instant) -> bool {
        let is_long = self.since.is_some_and(|since| now - since >= BLIND_AFTER);
        is_long && self.failed.len() >= self.enough
    }
}

impl Node {
    /// Reads a shard, and notes whether the disk gives anything.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn read_blob(&self, shard: ShardId) -> Result<Option<Bytes>> {
        let read = self.storage.read_blob(shard).await;
        match &read {
            Ok(None) => {}
            Ok(Some(_)) => self.sight().read(),
            Err(error) => match error.kind() {
                ErrorKind::Corrupt => self.sight().read(),
                ErrorKind::Io | ErrorKind::AccessDenied | ErrorKind::TimedOut => {
                    self.sight().failed(shard, self.runtime.now());
                    // A token that is there already says the same.
                    let _ = self.doubts.0.try_send(());
                }
                _ => {}
            },
        }
        read
    }

    /// Fails while the disk gives no shard: what the index names then counts for nothing, and others are to take over.
    ///
    /// # Errors
    /// `Io` while it does not.
    pub(super) fn check_sees(&self) -> Result<()> {
        if !self.is_blind() {
            return Ok(());
        }
        let minutes = BLIND_AFTER.as_secs() / 60;
        let text = format!(
            "for {minutes} minutes or more the disk gave no shard; look at it, and at what it is mounted on"
        );
        Err(Error::new(ErrorKind::Io, text))
    }

    /// Whether the disk has given nothing for so long that this node is no holder.
    pub(crate) fn is_blind(&self) -> bool {
        self.sight().is_blind(self.runtime.now())
    }

    /// Waits until a shard could not be read.
    pub(crate) async fn is_doubted(&self) {
        // It is closed with this node, and not before.
        let _ = self.doubts.1.recv().await;
    }

    /// Reads a shard by chance, or all where there are few; says whether the disk gives nothing still.
    ///
    /// # Errors
    /// Those of the storage's index.
    pub(crate) async fn look_anew(&self) -> Result<bool> {
        let all = self.storage.scan_blobs(None, ENOUGH).await?;
        let shards: Vec<ShardId> = if all.more {
            let from = ShardId::from_bytes(self.runtime.random()?);
            // Shards are named by hashes, so the one that follows a random name is as good as any.
            let next = self.storage.scan_blobs(Some(from), 1).await?;
            next.blobs.into_iter().chain(all.blobs).take(1).map(|(shard, _)| shard).collect()
        } else {
            let shards: Vec<ShardId> = all.blobs.into_iter().map(|(shard, _)| shard).collect();
            self.sight().these_are_all(&shards);
            shards
        };
        for shard in shards {
            if !self.sight().is_doubted() {
                break;
            }
            drop(self.read_blob(shard).await);
        }
        Ok(self.sight().is_doubted())
    }

    fn sight(&self) -> std::sync::MutexGuard<'_, Sight> {
        // Each change is whole before anything can panic.
        self.sight.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Instant {
        Instant::from_start(Duration::from_secs(60 * minutes))
    }

    fn shard(number: usize) -> ShardId {
        ShardId::of(&number.to_le_bytes())
    }

    #[test]
    fn a_disk_that_gives_nothing_of_many_for_long_is_blind() {
        let mut sight = Sight::default();
        (0..ENOUGH).for_each(|number| sight.failed(shard(number), at(number as u64 / 8)));
        assert!(sight.is_doubted() && !sight.is_blind(at(4)) && sight.is_blind(at(5)));
        sight.read();
        assert!(!sight.is_doubted() && !sight.is_blind(at(60)), "one that is read ends it");
        sight.failed(shard(0), at(61));
        assert!(!sight.is_blind(at(90)), "it begins anew");
    }

    #[test]
    fn a_few_lost_sectors_do_not_make_it_blind() {
        let mut sight = Sight::default();
        for minute in 0..60 {
            (1..ENOUGH).for_each(|number| sight.failed(shard(number), at(minute)));
        }
        assert!(!sight.is_blind(at(60)));
    }

    #[test]
    fn of_few_shards_all_are_enough() {
        let mut sight = Sight::default();
        (0..3).for_each(|number| sight.failed(shard(number), at(0)));
        sight.these_are_all(&[shard(1), shard(2), shard(3)]);
        assert!(!sight.is_blind(at(9)), "the first is not there any more, and the last was not tried");
        sight.failed(shard(3), at(9));
        assert!(sight.is_blind(at(9)));
        sight.these_are_all(&[]);
        assert!(!sight.is_doubted(), "who has nothing says so");
    }
}
