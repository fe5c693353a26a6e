//! Giving up what others hold: a node deletes only its own shards, and only on the promise of another to keep them.
//!
//! Two nodes that believe each other to be the right holder must not both delete what they have. So whoever wants to
//! give something up marks it as leaving first, then asks the other to keep it; who is asked promises for a while not
//! to give it up itself, and refuses where it is about to.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::commit::shards_of;
use super::names::without_uses;
use super::survey::check_count;
use super::{Answer, Node, id_key, use_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layout, Manifest, Possession, Reply};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::ports::{Batch, DynStorage, Instant, Table};

/// For how long a promise to keep something holds.
const PROMISE: Duration = Duration::from_secs(3600);

/// For how long after the promise was asked for its receiver may act on it: far less, so that a slow clock or a pause
/// does not matter.
pub(crate) const ACT_WITHIN: Duration = Duration::from_secs(60);

/// Promises that stand at a time: 65,536 take about 5 MiB. Beyond them none is given, and nothing is given up for it.
const MAX_PROMISES: usize = 1 << 16;

/// How often promises that stand no more are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// What a promise is about: an extent or a manifest by its id, and an index (0 for a manifest).
type Thing = ([u8; 32], u8);

/// What this node has promised to keep, and what it is about to give up.
#[derive(Debug, Default)]
pub(super) struct Promises {
    kept: BTreeMap<Thing, Instant>,
    /// When those that stand no more are forgotten next.
    forget_at: Instant,
    leaving: BTreeMap<Thing, usize>,
    /// When the last promise was made, or may have been.
    last: Option<Instant>,
    /// Whether none is made any more, and nothing new is taken.
    is_over: bool,
}

impl Promises {
    /// None yet; but whoever has something may have promised to keep it just before it was opened.
    pub(super) async fn new(storage: &dyn DynStorage, now: Instant) -> Self {
        let mut is_empty = true;
        for table in [Table::Extents, Table::Manifests] {
            let page = storage.scan_records(table, Bytes::new(), None, 1).await;
            is_empty &= page.is_ok_and(|page| page.records.is_empty());
        }
        Self { last: (!is_empty).then_some(now), ..Self::default() }
    }

    fn promise(&mut self, thing: Thing, now: Instant) -> bool {
        self.forget_old(now);
        if self.is_over
            || self.leaving.contains_key(&thing)
            || (self.kept.len() >= MAX_PROMISES && !self.kept.contains_key(&thing))
        {
            return false;
        }
        self.kept.insert(thing, now + PROMISE);
        self.last = Some(now);
        true
    }

    /// Forgets those that stand no more, now and then: a look at all of them takes its time.
    fn forget_old(&mut self, now: Instant) {
        if now >= self.forget_at {
            self.kept.retain(|_, until| *until > now);
            self.forget_at = now + FORGET;
        }
    }

    fn leave(&mut self, thing: Thing, now: Instant) -> bool {
        if self.kept.get(&thing).is_some_and(|until| *until > now) {
            return false;
        }
        *self.leaving.entry(thing).or_default() += 1;
        true
    }

    fn stay(&mut self, thing: &Thing) {
        if let Some(count) = self.leaving.get_mut(thing) {
            *count -= 1;
            if *count == 0 {
                self.leaving.remove(thing);
            }
        }
    }
}

/// Something that this node is about to give up; while it lasts no promise is made to keep it.
#[derive(Debug)]
pub(crate) struct Leaving<'a> {
    node: &'a Node,
    things: Vec<Thing>,
    /// Since when.
    pub(crate) since: Instant,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut promises = self.node.promises();
        self.things.iter().for_each(|thing| promises.stay(thing));
    }
}

impl Node {
    /// Promises to keep what is held of these for a while, and says what that is.
    pub(super) async fn keep(
        &self,
        _: NodeId,
        extents: Vec<ExtentId>,
        indexes: Vec<Vec<u8>>,
        objects: Vec<ObjectId>,
    ) -> Result<Answer> {
        check_count(extents.len().max(objects.len()))?;
        self.check_sees()?;
        let mut possessions = Vec::with_capacity(extents.len().saturating_add(objects.len()));
        for (extent, wanted) in extents.into_iter().zip(indexes) {
            let promised = self.promise(*extent.as_bytes(), &wanted);
            // Only after the promise: what is here then stays.
            possessions.push(match self.possession_of_extent(extent).await? {
                Possession::Held(held) => {
                    Possession::Held(promised.into_iter().filter(|index| held.contains(index)).collect())
                }
                other => other,
            });
        }
        for object in objects {
            let is_promised = !self.promise(*object.as_bytes(), &[0]).is_empty();
            let held = self.possession_of_manifest(object).await?;
            possessions.push(if is_promised { held } else { Possession::Absent });
        }
        Ok((Reply::Surveyed { possessions }, Bytes::new()))
    }

    fn promise(&self, id: [u8; 32], indexes: &[u8]) -> Vec<u8> {
        let now = self.runtime.now();
        let mut promises = self.promises();
        indexes.iter().copied().filter(|index| promises.promise((id, *index), now)).collect()
    }

    /// Takes nothing new and promises nothing any more, for this node is to leave the mesh: what it has from now on is
    /// all that it will have. What it sees of others before this time may be without what they still give up on an
    /// earlier promise.
    pub(crate) async fn take_no_more(&self) -> Option<Instant> {
        // What was let in before is in the store then.
        let _alone = self.gate.alone().await;
        let mut promises = self.promises();
        promises.is_over = true;
        Some(promises.last? + ACT_WITHIN)
    }

    /// Refuses what is new here.
    ///
    /// # Errors
    /// `Busy` once this node is to leave the mesh.
    pub(super) fn check_takes_more(&self) -> Result<()> {
        if !self.promises().is_over {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            "this node is leaving the mesh and takes nothing new; choose another",
        ))
    }

    /// Marks what is to be given up; `None` where any of it is promised to another.
    pub(crate) fn leave(&self, id: [u8; 32], indexes: &[u8]) -> Option<Leaving<'_>> {
        let now = self.runtime.now();
        let mut leaving = Leaving { node: self, things: Vec::with_capacity(indexes.len()), since: now };
        for index in indexes {
            if !self.promises().leave((id, *index), now) {
                return None;
            }
            leaving.things.push((id, *index));
        }
        Some(leaving)
    }

    /// Gives up shards of an extent that another has promised to keep; says how many bytes became free.
    ///
    /// Nothing happens when the promise is too old.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn release_extent(
        &self,
        extent: ExtentId,
        indexes: &[u8],
        leaving: &Leaving<'_>,
    ) -> Result<u64> {
        let _alone = self.gate.alone().await;
        let Some(mut record) = self.stored_extent(extent).await? else { return Ok(0) };
        if self.runtime.now() - leaving.since > ACT_WITHIN {
            return Ok(0);
        }
        let layout = Layout::decode(&record.layout)?;
        let going = indexes.iter().copied().filter(|index| record.indexes.contains(index)).collect();
        record.indexes.retain(|index| !indexes.contains(index));
        let staying = shards_of(&layout, &record.indexes.iter().copied().collect());
        let key = id_key(extent.as_bytes());
        let mut batch = if record.indexes.is_empty() {
            Batch::new().delete(Table::Extents, key)
        } else {
            Batch::new().put(Table::Extents, key, record.encode())
        };
        let mut going = shards_of(&layout, &going);
        going.retain(|shard| !staying.contains(shard));
        for shard in &going {
            batch = batch.delete(Table::ShardUses, use_key(shard, &extent));
            if !self.staging().contains(shard) && !self.is_used(shard, Some(&extent)).await? {
                batch = batch.delete_blob(*shard);
            }
        }
        self.storage.commit(batch).await?;
        let each = u64::from(layout.shard_len);
        Ok(each.saturating_mul(going.len() as u64))
    }

    /// Gives up a manifest that another has promised to keep.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn release_manifest(&self, object: ObjectId, leaving: &Leaving<'_>) -> Result<()> {
        let _alone = self.gate.alone().await;
        if self.runtime.now() - leaving.since > ACT_WITHIN {
            return Ok(());
        }
        let Some(record) = self.stored_manifest(object).await? else { return Ok(()) };
        let batch = Batch::new().delete(Table::Manifests, id_key(object.as_bytes()));
        let manifest = Manifest::decode(&record.manifest)?;
        self.storage.commit(without_uses(batch, &object, &manifest)).await
    }

    fn promises(&self) -> std::sync::MutexGuard<'_, Promises> {
        // Each change is whole before anything can panic.
        self.promises.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_that_stand_no_more_take_no_memory() {
        let mut promises = Promises::default();
        let thing = |number: usize| (*blake3::hash(&number.to_le_bytes()).as_bytes(), 0);
        // One in each second of five hours.
        let start = Instant::default();
        for second in 0..5 * 3600 {
            let now = start + Duration::from_secs(second as u64);
            assert!(promises.promise(thing(second), now));
            assert!(!promises.leave(thing(second), now), "it was promised just now");
            let most = (PROMISE + FORGET).as_secs() as usize;
            assert!(promises.kept.len() <= most + 1, "{} after {second} s", promises.kept.len());
        }
        let end = start + Duration::from_secs(5 * 3600);
        assert!(!promises.leave(thing(5 * 3600 - 3000), end), "it stands for an hour");
        assert!(promises.leave(thing(5 * 3600 - 3600), end), "its hour is over");
    }

    #[test]
    fn no_more_is_promised_than_can_be_remembered() {
        let mut promises = Promises::default();
        let (now, later) = (Instant::default(), Instant::default() + PROMISE + FORGET);
        let thing = |number: usize| (*blake3::hash(&number.to_le_bytes()).as_bytes(), 0);
        assert!((0..MAX_PROMISES).all(|number| promises.promise(thing(number), now)));
        assert!(!promises.promise(thing(MAX_PROMISES), now), "one too many");
        assert!(promises.promise(thing(0), now), "it was promised already");
        assert!(promises.promise(thing(MAX_PROMISES), later), "the others stand no more");
        assert_eq!(promises.kept.len(), 1);
    }
}
