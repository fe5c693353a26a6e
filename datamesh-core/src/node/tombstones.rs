//! What was removed: numbered in the order in which this node learned of it, so that each other node can be told all
//! that it does not know yet, and forgotten when all know.

use bytes::Bytes;

use super::{Node, id_key};
use crate::error::Result;
use crate::format::{FORMAT_VERSION, Hours, RemovalSecret, RemovalsOf, Removed, StoreName, Tombstone, Work};
use crate::id::{ID_LEN, NodeId};
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, Table};

/// Tombstones that are dropped in one commit.
const DROPPED_AT_ONCE: usize = 256;

impl Node {
    /// Adds that these were removed, with the numbers that follow. The caller holds the gate alone.
    pub(super) async fn with_tombstones(
        &self,
        mut batch: Batch,
        ids: &[[u8; ID_LEN]],
        secret: &RemovalSecret,
    ) -> Result<Batch> {
        if is_active(Bug::ForgetTombstone) {
            return Ok(batch);
        }
        let tombstone = Tombstone {
            removed_at: self.runtime.wall_time(),
            removal: secret.hash(),
            secret: Some(secret.clone()),
        };
        let mut place = self.own_removals().await?;
        for id in ids {
            batch = batch.put(Table::Tombstones, id_key(id), tombstone.encode()).put(
                Table::Work,
                Work::Removal(place.next).key(),
                removal_value(id),
            );
            place.next = place.next.saturating_add(1);
        }
        Ok(batch.put(Table::Work, Work::Store.key(), place.encode()))
    }

    /// The name of this store, which is made where there is none yet, and the number of its next removal.
    async fn own_removals(&self) -> Result<RemovalsOf> {
        match self.storage.read_record(Table::Work, Work::Store.key()).await? {
            Some(value) => RemovalsOf::decode(&value),
            None => Ok(RemovalsOf { store: self.runtime.random()?, next: 0 }),
        }
    }

    /// The number of the next removal.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn next_removal(&self) -> Result<u64> {
        Ok(self.own_removals().await?.next)
    }

    /// The name of this store, which a wiped one does not keep.
    pub(super) async fn store_name(&self) -> Result<StoreName> {
        let place = self.own_removals().await?;
        if self.storage.read_record(Table::Work, Work::Store.key()).await?.is_some() {
            return Ok(place.store);
        }
        let _alone = self.gate.alone().await;
        let place = self.own_removals().await?;
        self.storage.commit(Batch::new().put(Table::Work, Work::Store.key(), place.encode())).await?;
        Ok(place.store)
    }

    /// Removals from this number on, as far as they are still remembered, and each with its number.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn removals_from(&self, number: u64, limit: usize) -> Result<Vec<(u64, Removed)>> {
        let after = number.checked_sub(1).map(|number| Work::Removal(number).key());
        let page = self.storage.scan_records(Table::Work, Work::EVERY_REMOVAL, after, limit).await?;
        let mut removals = Vec::with_capacity(page.records.len());
        for (key, value) in &page.records {
            let (Some(Work::Removal(number)), Some(id)) = (Work::from_key(key), removal_id(value)) else {
                continue;
            };
            if let Some(secret) = self.tombstone(&id).await?.and_then(|tombstone| tombstone.secret) {
                removals.push((number, Removed { id, secret }));
            }
        }
        Ok(removals)
    }

    /// How many removals a node was told, and the name of the store that it told.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn told(&self, node: NodeId) -> Result<RemovalsOf> {
        let value = self.storage.read_record(Table::Work, Work::Told(node).key()).await?;
        Ok(value.and_then(|value| RemovalsOf::decode(&value).ok()).unwrap_or_default())
    }

    /// Keeps how many removals a node was told.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn keep_told(&self, node: NodeId, told: RemovalsOf) -> Result<()> {
        self.storage.commit(Batch::new().put(Table::Work, Work::Told(node).key(), told.encode())).await
    }

    /// Notes that one more hour of this node's own time is over. Says the number of the first removal that is younger
    /// than so many hours.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn note_hour(&self, hours: usize) -> Result<u64> {
        let value = self.storage.read_record(Table::Work, Work::Hours.key()).await?;
        let mut kept = value.and_then(|value| Hours::decode(&value).ok()).unwrap_or_default();
        kept.0.push(self.next_removal().await?);
        let over = kept.0.len().saturating_sub(hours);
        let old = kept.0.drain(..over).next_back().unwrap_or(0);
        self.storage.commit(Batch::new().put(Table::Work, Work::Hours.key(), kept.encode())).await?;
        Ok(old)
    }

    /// Forgets the removals with numbers below this; says how many there were.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn drop_tombstones(&self, below: u64) -> Result<usize> {
        let mut dropped: usize = 0;
        loop {
            let _alone = self.gate.alone().await;
            let page =
                self.storage.scan_records(Table::Work, Work::EVERY_REMOVAL, None, DROPPED_AT_ONCE).await?;
            let mut batch = Batch::new();
            for (key, value) in page.records {
                let old = matches!(Work::from_key(&key), Some(Work::Removal(number)) if number < below);
                if !old {
                    break;
                }
                if let Some(id) = removal_id(&value) {
                    batch = batch.delete(Table::Tombstones, id_key(&id));
                }
                batch = batch.delete(Table::Work, key);
                dropped = dropped.saturating_add(1);
            }
            if batch.steps().is_empty() {
                return Ok(dropped);
            }
            self.storage.commit(batch).await?;
        }
    }
}

fn removal_value(id: &[u8; ID_LEN]) -> Bytes {
    [&[FORMAT_VERSION], &id[..]].concat().into()
}

fn removal_id(value: &[u8]) -> Option<[u8; ID_LEN]> {
    match value.split_first() {
        Some((&FORMAT_VERSION, id)) => id.try_into().ok(),
        _ => None,
    }
}
