//! What was removed: numbered in the order in which this node learned of it, so that each other node can be told all
//! that it does not know yet, and forgotten when all know.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Node, id_key};
use crate::error::Result;
use crate::format::{FORMAT_VERSION, Hours, RemovalsOf, Removed, StoreName, Tombstone, Work};
use crate::id::{ID_LEN, NodeId};
use crate::planted::{Bug, is_active};
use crate::ports::{Batch, Table};

/// Nodes whose account is read at a time.
const TOLD_AT_ONCE: usize = 256;

/// Tombstones that are dropped in one commit.
const DROPPED_AT_ONCE: usize = 256;

impl Node {
    /// Adds that these were removed, each of another name, with the numbers that follow. The caller holds the gate alone.
    pub(super) async fn with_tombstones(&self, mut batch: Batch, removals: &[Removed]) -> Result<Batch> {
        if is_active(Bug::ForgetTombstone) {
            return Ok(batch);
        }
        let removed_at = self.runtime.wall_time();
        let mut place = self.own_removals().await?;
        for Removed { id, secret } in removals {
            // Another secret, which was not the right one or is not: the older one is told no more.
            if let Some(older) = self.tombstone(id).await? {
                batch = batch.delete(Table::Work, Work::Removal(older.number).key());
            }
            let tombstone = Tombstone { removed_at, secret: secret.clone(), number: place.next };
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
            if let Some(Tombstone { secret, .. }) = self.tombstone(&id).await? {
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

    /// Begins to keep account of what these nodes are told.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn keep_account_of(&self, nodes: &[NodeId]) -> Result<()> {
        let nothing = RemovalsOf::default().encode();
        let add =
            |batch: Batch, node: &NodeId| batch.put(Table::Work, Work::Told(*node).key(), nothing.clone());
        for nodes in nodes.chunks(TOLD_AT_ONCE) {
            self.storage.commit(nodes.iter().fold(Batch::new(), add)).await?;
        }
        Ok(())
    }

    /// Keeps no account of these nodes any more.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn close_accounts_of(&self, nodes: &[NodeId]) -> Result<()> {
        for nodes in nodes.chunks(TOLD_AT_ONCE) {
            let close = |batch: Batch, node: &NodeId| batch.delete(Table::Work, Work::Told(*node).key());
            self.storage.commit(nodes.iter().fold(Batch::new(), close)).await?;
        }
        Ok(())
    }

    /// Keeps how many removals a node was told.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn keep_told(&self, node: NodeId, told: RemovalsOf) -> Result<()> {
        self.storage.commit(Batch::new().put(Table::Work, Work::Told(node).key(), told.encode())).await
    }

    /// The nodes whose removals are kept account of, which hold data or did, and how far each was told.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn told_nodes(&self) -> Result<BTreeMap<NodeId, RemovalsOf>> {
        let (mut told, mut after) = (BTreeMap::new(), None);
        loop {
            let page =
                self.storage.scan_records(Table::Work, Work::EVERYBODY_TOLD, after, TOLD_AT_ONCE).await?;
            for (key, value) in &page.records {
                if let Some(Work::Told(node)) = Work::from_key(key) {
                    told.insert(node, RemovalsOf::decode(value).unwrap_or_default());
                }
            }
            after = page.records.last().map(|(key, _)| key.clone()).filter(|_| page.more);
            if after.is_none() {
                return Ok(told);
            }
        }
    }

    /// Notes that one more hour of this node's own time is over. Says for each of these numbers of hours, the longest
    /// last, which is the first removal that is younger.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn note_hour<const N: usize>(&self, hours: [usize; N]) -> Result<[u64; N]> {
        let value = self.storage.read_record(Table::Work, Work::Hours.key()).await?;
        let mut kept = value.and_then(|value| Hours::decode(&value).ok()).unwrap_or_default();
        kept.0.push(self.next_removal().await?);
        let before = |hours: usize| kept.0.len().checked_sub(hours.saturating_add(1));
        let old = hours.map(|hours| before(hours).and_then(|at| kept.0.get(at)).copied().unwrap_or(0));
        let over = kept.0.len().saturating_sub(hours.last().map_or(0, |hours| hours.saturating_add(1)));
        kept.0.drain(..over);
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
