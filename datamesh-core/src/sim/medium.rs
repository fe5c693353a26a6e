//! A node's disk: what is durable, what is not yet, and what went wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::format::{Layout, StoredExtent};
use crate::id::{ID_LEN, ShardId};
use crate::ports::{BatchStep, Table};
use crate::sim::draws::Draws;

/// What a disk keeps; it outlives the incarnations of its node.
#[derive(Debug, Clone)]
pub(super) struct Medium {
    blobs: BTreeMap<ShardId, Bytes>,
    records: BTreeMap<(Table, Bytes), Bytes>,
    used: u64,
    writes: u64,
    /// What no commit has made durable yet, by the number of its write.
    unsynced: BTreeMap<u64, ShardId>,
    /// Blobs whose bytes were altered by a fault.
    damaged: BTreeSet<ShardId>,
    /// Blobs that the disk does not give out, for a sector of theirs is lost.
    unreadable: BTreeSet<ShardId>,
    /// Blobs that are gone and given out as if they were there, with the bytes of another of the same extent.
    forged: BTreeSet<ShardId>,
    /// How many bytes it takes in all.
    pub(super) capacity: u64,
    /// How many times as long as usual everything takes.
    pub(super) slowness: u32,
    /// Whether it gives no blob, as a disk does that is gone beside its index.
    pub(super) blind: bool,
    /// Whether the next write fails, after which the store refuses more.
    pub(super) failing: bool,
}

impl Medium {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            blobs: BTreeMap::new(),
            records: BTreeMap::new(),
            used: 0,
            writes: 0,
            unsynced: BTreeMap::new(),
            damaged: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            forged: BTreeSet::new(),
            capacity,
            slowness: 1,
            blind: false,
            failing: false,
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn available(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    /// How many blobs were written so far.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    pub(super) fn blob(&self, id: &ShardId) -> Option<&Bytes> {
        self.blobs.get(id)
    }

    pub(super) fn blobs_after(&self, after: Option<ShardId>) -> impl Iterator<Item = (ShardId, u64)> {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.blobs.range((start, std::ops::Bound::Unbounded));
        range.map(|(id, bytes)| (*id, bytes.len() as u64))
    }

    pub(super) fn records(&self) -> &BTreeMap<(Table, Bytes), Bytes> {
        &self.records
    }

    /// The values of a table, with their keys.
    pub(super) fn table(&self, table: Table) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let all = self.records.range((table, Bytes::new())..);
        all.take_while(move |((of, _), _)| *of == table).map(|((_, key), value)| (key, value))
    }

    /// Writes a blob that is not there, which a crash may take until it is committed.
    pub(super) fn write(&mut self, id: ShardId, bytes: Bytes) {
        if self.blobs.contains_key(&id) {
            return;
        }
        self.writes += 1;
        self.used = self.used.saturating_add(bytes.len() as u64);
        self.blobs.insert(id, bytes);
        self.unsynced.insert(self.writes, id);
    }

    /// Applies all steps, and makes every blob durable whose write has a number up to this.
    pub(super) fn commit(&mut self, steps: Vec<BatchStep>, writes: u64) {
        for step in steps {
            match step {
                BatchStep::Put { table, key, value } => self.put(table, key, value),
                BatchStep::Delete { table, key } => self.delete(table, key),
                BatchStep::DeleteBlob { id } => self.delete_blob(&id),
            }
        }
        self.unsynced = self.unsynced.split_off(&writes.saturating_add(1));
    }

    pub(super) fn put(&mut self, table: Table, key: Bytes, value: Bytes) {
        self.delete(table, key.clone());
        self.used = self.used.saturating_add((key.len() + value.len()) as u64);
        self.records.insert((table, key), value);
    }

    fn delete(&mut self, table: Table, key: Bytes) {
        if let Some(((_, key), value)) = self.records.remove_entry(&(table, key)) {
            self.used = self.used.saturating_sub((key.len() + value.len()) as u64);
        }
    }

    fn delete_blob(&mut self, id: &ShardId) {
        self.damaged.remove(id);
        self.forged.remove(id);
        self.unreadable.remove(id);
        if let Some(bytes) = self.blobs.remove(id) {
            self.used = self.used.saturating_sub(bytes.len() as u64);
        }
    }

    /// Loses power: each blob that was not synced vanishes, stays, or stays in part.
    pub(super) fn crash(&mut self, draws: &mut Draws) {
        let unsynced: BTreeSet<ShardId> = std::mem::take(&mut self.unsynced).into_values().collect();
        for id in unsynced {
            match draws.below(10) {
                0..6 => self.delete_blob(&id),
                6..9 => {}
                _ => self.tear(&id, draws),
            }
        }
    }

    /// Leaves only the first part of a blob as it was written; the rest is what stood there before.
    fn tear(&mut self, id: &ShardId, draws: &mut Draws) {
        let Some(blob) = self.blobs.get_mut(id) else { return };
        let mut bytes = BytesMut::from(blob.as_ref());
        let from = draws.index(bytes.len());
        bytes.iter_mut().skip(from).for_each(|byte| *byte = !*byte);
        *blob = bytes.freeze();
        self.damaged.insert(*id);
    }

    /// Turns one bit of each of so many blobs.
    pub(super) fn flip_bits(&mut self, count: usize, draws: &mut Draws) {
        let ids: Vec<ShardId> = self.blobs.keys().copied().collect();
        let chosen = draws.subset(&ids, count);
        for id in &chosen {
            let Some(blob) = self.blobs.get_mut(id) else { continue };
            let mut bytes = BytesMut::from(blob.as_ref());
            let position = draws.index(bytes.len());
            let bit = draws.below(8);
            if let Some(byte) = bytes.get_mut(position) {
                *byte ^= 1 << bit;
            }
            *blob = bytes.freeze();
            self.damaged.insert(*id);
        }
    }

    /// Loses a sector of each of so many blobs.
    pub(super) fn lose_sectors(&mut self, count: usize, draws: &mut Draws) {
        let ids: Vec<ShardId> = self.blobs.keys().copied().collect();
        self.unreadable.extend(draws.subset(&ids, count));
    }

    /// Whether a sector of a blob is lost, or all are.
    pub(super) fn is_unreadable(&self, id: &ShardId) -> bool {
        self.blind || self.unreadable.contains(id)
    }

    /// Loses the blobs of one segment of every extent of which there is a record, as if they had been set aside.
    pub(super) fn lose_segment(&mut self, segment: usize) -> usize {
        let layouts = self.table(Table::Extents).filter_map(|(_, value)| {
            let record = StoredExtent::decode(value).ok()?;
            Some((Layout::decode(&record.layout).ok()?, record.indexes))
        });
        let shards = layouts.flat_map(|(layout, indexes)| {
            let shards = indexes.into_iter().filter_map(move |index| layout.shard(segment, index.into()));
            shards.collect::<Vec<ShardId>>()
        });
        let mut shards: Vec<ShardId> = shards.collect();
        shards.retain(|shard| self.blobs.contains_key(shard));
        shards.iter().for_each(|shard| self.delete_blob(shard));
        shards.len()
    }

    /// Loses so many blobs and says nothing: who asks for one gets the bytes of another one of the same extent.
    pub(super) fn forge(&mut self, count: usize, draws: &mut Draws) {
        let mut by_extent: BTreeMap<Bytes, Vec<ShardId>> = BTreeMap::new();
        for (key, _) in self.table(Table::ShardUses) {
            let (shard, extent) = key.split_at(key.len().min(ID_LEN));
            if let Ok(shard) = shard.try_into().map(ShardId::from_bytes) {
                by_extent.entry(Bytes::copy_from_slice(extent)).or_default().push(shard);
            }
        }
        let pairs =
            by_extent.values().flat_map(|shards| shards.iter().copied().zip(shards.iter().copied().skip(1)));
        let pairs: Vec<(ShardId, ShardId)> = pairs.collect();
        for (lost, other) in draws.subset(&pairs, count) {
            if let Some(bytes) = self.blobs.get(&other).cloned() {
                self.blobs.insert(lost, bytes);
                self.forged.insert(lost);
            }
        }
    }

    /// Loses every blob and keeps the records.
    pub(super) fn forget_blobs(&mut self) {
        let ids: Vec<ShardId> = self.blobs.keys().copied().collect();
        ids.iter().for_each(|id| self.delete_blob(id));
    }

    /// Whether a blob is given out without a look at what it is.
    pub(super) fn is_forged(&self, id: &ShardId) -> bool {
        self.forged.contains(id)
    }

    /// How many blobs are not what their names say, or cannot be read.
    pub(super) fn rotten(&self) -> usize {
        let is_rotten = |id: &ShardId, bytes: &Bytes| self.is_unreadable(id) || ShardId::of(bytes) != *id;
        self.blobs.iter().filter(|(id, bytes)| is_rotten(id, bytes)).count()
    }

    /// Puts the bytes of one blob in the place of another's, where there are two.
    pub(super) fn misdirect(&mut self, draws: &mut Draws) {
        let ids: Vec<ShardId> = self.blobs.keys().copied().collect();
        let [from, to] = *draws.subset(&ids, 2) else { return };
        let bytes = self.blob(&from).cloned().unwrap_or_default();
        let Some(blob) = self.blobs.get_mut(&to) else { return };
        self.used = self.used.saturating_sub(blob.len() as u64).saturating_add(bytes.len() as u64);
        *blob = bytes;
        self.damaged.insert(to);
    }

    /// Loses everything.
    pub(super) fn wipe(&mut self) {
        *self = Self { slowness: self.slowness, ..Self::new(self.capacity) };
    }
}
