//! Bringing the shards of one extent, or a manifest, to nodes that are to hold them and do not. Moves bytes only: what
//! goes where is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, StreamExt};

use crate::care::Audit;
use crate::care::pace::Pace;
use crate::care::plan::{ExtentPlan, Seat};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layout, Possession, Reply, Request};
use crate::id::{ExtentId, NodeId, ObjectId, OperationId, ShardId};
use crate::object::budget::Share;
use crate::object::extent_read::{ExtentReader, Rebuilt};
use crate::object::segment::Coder;
use crate::object::{ASK_LIMIT, Engine, READ_LIMIT, STORE_LIMIT};
use crate::observe::{Event, count};
use crate::peers::unexpected;
use crate::planted::{Bug, is_active};

/// Segments of one extent that are worked on at a time.
const WINDOW: usize = 2;

/// Staged shards that one message takes back.
const UNSTAGED_AT_ONCE: usize = 1024;

/// What was moved for one extent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Shards that holders took.
    pub(super) shards: u64,
    /// Bytes of shards that were read.
    pub(super) read: u64,
    /// Bytes of shards that were written.
    pub(super) written: u64,
    /// The seats whose holders say afterwards that they have them.
    pub(super) seats: Vec<Seat>,
    /// Who did not take what it should, and why.
    pub(super) failed: Vec<(NodeId, ErrorKind)>,
    /// Whether the shards of the extent contradict each other, so that nothing can be made of them.
    pub(super) is_poisoned: bool,
}

/// One extent whose shards are brought to their holders.
pub(super) struct Mending<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) pace: &'a Pace,
    pub(super) share: Share,
    pub(super) id: ExtentId,
    /// The encoded layout, as its holders keep it.
    pub(super) encoded: Bytes,
    pub(super) layout: Layout,
    /// Who holds what.
    pub(super) holders: Vec<(NodeId, Vec<u8>)>,
    /// Who took nothing lately, or not a shard of this: what is lost goes elsewhere.
    pub(super) refusing: Mutex<BTreeSet<NodeId>>,
    /// Who was silent when it was asked for a shard of this, or gave other bytes: it is not asked for a copy again.
    pub(super) failed: Mutex<BTreeSet<NodeId>>,
}

/// What one holder is to get, and what of it it has not.
#[derive(Debug)]
struct Target {
    node: NodeId,
    indexes: Vec<u8>,
    missing: BTreeSet<u16>,
}

impl Mending<'_> {
    /// Fills these seats and asks afterwards whether they are filled.
    ///
    /// Each segment's shards are read once, k of them, or only those that are wanted where somebody has them.
    ///
    /// # Errors
    /// Those of reading when too few shards can be had. Holders that refuse are in the outcome.
    pub(super) async fn fill(&self, seats: &[Seat]) -> Result<Moved> {
        self.layout.check_code(&*self.engine.code)?;
        let mut moved = Moved::default();
        let targets = self.targets(seats, &mut moved).await?;
        let result = self.bring(&targets, &mut moved).await;
        if result.is_err() || moved.is_poisoned {
            self.take_back(&targets);
        }
        result?;
        if !moved.is_poisoned {
            self.commit(&targets, &mut moved).await?;
            self.recount(seats, &mut moved).await;
        }
        Ok(moved)
    }

    /// Fills these seats of what is lost, and others in place of those whose nodes take nothing: it is not to wait
    /// until a disk that is full has room. Whatever was filled is among the seats of the outcome.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(super) async fn fill_somewhere(&self, plan: &ExtentPlan, mut seats: Vec<Seat>) -> Result<Moved> {
        let mut all = Moved::default();
        for is_first in [true, false] {
            let refusing = self.refusing().clone();
            let (refused, mut wanted): (Vec<Seat>, Vec<Seat>) =
                seats.into_iter().partition(|(_, node)| refusing.contains(node));
            wanted.extend(plan.elsewhere(&refused, &refusing));
            let moved = match self.fill(&wanted).await {
                Ok(moved) => moved,
                Err(error) if is_first => return Err(error),
                // What was filled counts all the same.
                Err(_) => break,
            };
            seats = wanted.into_iter().filter(|seat| !moved.seats.contains(seat)).collect();
            self.refusing().extend(moved.failed.iter().map(|(node, _)| *node));
            all.add(moved);
            if seats.is_empty() || all.is_poisoned {
                break;
            }
        }
        Ok(all)
    }

    fn refusing(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks each holder to commit what it is to hold: those who have it all do, the others say what they lack.
    async fn targets(&self, seats: &[Seat], moved: &mut Moved) -> Result<Vec<Target>> {
        let mut by_node: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
        seats.iter().for_each(|(index, node)| by_node.entry(*node).or_default().push(*index));
        let mut targets = Vec::new();
        for (node, mut indexes) in by_node {
            indexes.sort_unstable();
            match self.ask_anew(node, &indexes).await {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => targets.push(Target { node, indexes, missing }),
                Err(error) => moved.failed.push((node, error.kind())),
            }
        }
        Ok(targets)
    }

    /// Asks to commit, and once more where the holder has first to give up shards of the wrong length: it finds them
    /// corrupt when it looks at them.
    async fn ask_anew(&self, node: NodeId, indexes: &[u8]) -> Result<BTreeSet<u16>> {
        match self.ask_to_commit(node, indexes).await {
            Err(error) if error.kind() == ErrorKind::Protocol => {}
            answer => return answer,
        }
        for segment in 0..usize::from(self.layout.segments) {
            for shard in indexes.iter().filter_map(|index| self.layout.shard(segment, usize::from(*index))) {
                let call = self.engine.peers.call(node, Request::Recheck { shard }, Bytes::new(), ASK_LIMIT);
                drop(call.await?);
            }
        }
        self.ask_to_commit(node, indexes).await
    }

    /// The positions that the holder lacks; none when it has committed.
    async fn ask_to_commit(&self, node: NodeId, indexes: &[u8]) -> Result<BTreeSet<u16>> {
        let operation = OperationId::from_bytes(self.engine.runtime.random()?);
        let request = Request::Commit { operation, indexes: indexes.to_vec() };
        match self.engine.peers.call(node, request, self.encoded.clone(), STORE_LIMIT).await? {
            (Reply::Done, _) => Ok(BTreeSet::new()),
            (Reply::Missing { positions }, _)
                if !positions.is_empty() && positions.iter().all(|at| self.is_of(*at, indexes)) =>
            {
                Ok(positions.into_iter().collect())
            }
            (other, _) => Err(unexpected(&other, node)),
        }
    }

    /// Whether a position of the layout is that of a shard with one of these indexes.
    fn is_of(&self, position: u16, indexes: &[u8]) -> bool {
        let (position, total) = (usize::from(position), self.layout.redundancy.total());
        let is_asked = indexes.iter().any(|index| usize::from(*index) == position % total);
        is_asked && position / total < usize::from(self.layout.segments)
    }

    /// Stages everything that is missing, some segments at a time.
    async fn bring(&self, targets: &[Target], moved: &mut Moved) -> Result<()> {
        let total = self.layout.redundancy.total();
        let mut segments: BTreeMap<usize, Vec<Seat>> = BTreeMap::new();
        for target in targets {
            for position in target.missing.iter().map(|position| usize::from(*position)) {
                let Ok(index) = u8::try_from(position % total) else { continue };
                segments.entry(position / total).or_default().push((index, target.node));
            }
        }
        let has_failed = &AtomicBool::new(false);
        let work = segments.into_iter().map(|(segment, seats)| async move {
            if has_failed.load(Ordering::Relaxed) {
                return Ok(Moved::default());
            }
            let brought = self.bring_segment(segment, seats).await;
            has_failed.fetch_or(brought.is_err(), Ordering::Relaxed);
            brought
        });
        // Those that are under way when one fails are waited for: a holder that is told to forget what it is about to
        // be given would keep that.
        let all: Vec<Result<Moved>> = stream::iter(work).buffer_unordered(WINDOW).collect().await;
        for one in all {
            moved.add(one?);
        }
        Ok(())
    }

    async fn bring_segment(&self, segment: usize, mut seats: Vec<Seat>) -> Result<Moved> {
        seats.retain(|(_, node)| !self.refusing().contains(node));
        if seats.is_empty() {
            return Ok(Moved::default());
        }
        let length = self.layout.shard_len_of(segment);
        let _permit = self.share.take(length * self.layout.redundancy.total() * 2).await;
        let wanted: BTreeSet<usize> = seats.iter().map(|(index, _)| usize::from(*index)).collect();
        let mut moved = Moved::default();
        let shards = match self.copies(segment, &wanted, &mut moved).await {
            Some(shards) => shards,
            None => match self.rebuild(segment, wanted, &mut moved).await? {
                Some(shards) => shards,
                None => return Ok(moved),
            },
        };
        let stage = seats.iter().filter_map(|(index, node)| Some((*node, shards.get(&usize::from(*index))?)));
        let bytes = stage.clone().filter(|(node, _)| *node != self.engine.peers.local());
        self.pace.take(bytes.map(|(_, shard)| shard.len() as u64).sum()).await;
        for (node, shard) in stage {
            match self.stage(node, shard).await {
                Ok(()) => {
                    moved.shards += 1;
                    moved.written += shard.len() as u64;
                }
                Err(error) => {
                    self.refusing().insert(node);
                    moved.failed.push((node, error.kind()));
                }
            }
        }
        Ok(moved)
    }

    /// The wanted shards as others hold them, where others hold all of them.
    async fn copies(
        &self,
        segment: usize,
        wanted: &BTreeSet<usize>,
        moved: &mut Moved,
    ) -> Option<BTreeMap<usize, Bytes>> {
        let mut shards = BTreeMap::new();
        for index in wanted {
            let holder = holder_of(&self.holders, &self.failed(), *index)?;
            let id = self.layout.shard(segment, *index)?;
            self.pay_for_reading(1, segment, holder).await;
            let request = Request::ReadShard { shard: id };
            let answer = self.engine.peers.call(holder, request, Bytes::new(), READ_LIMIT).await;
            match answer {
                Ok((Reply::Done, body)) if ShardId::of(&body) == id => {
                    moved.read += body.len() as u64;
                    shards.insert(*index, body);
                }
                answer => {
                    if !may_give_others(&answer) {
                        self.failed().insert(holder);
                    }
                    return None;
                }
            }
        }
        Some(shards)
    }

    async fn pay_for_reading(&self, shards: usize, segment: usize, holder: NodeId) {
        if holder != self.engine.peers.local() {
            self.pace.take((shards * self.layout.shard_len_of(segment)) as u64).await;
        }
    }

    /// The wanted shards, made from k others; `None` where these contradict each other.
    async fn rebuild(
        &self,
        segment: usize,
        wanted: BTreeSet<usize>,
        moved: &mut Moved,
    ) -> Result<Option<BTreeMap<usize, Bytes>>> {
        let local = self.engine.peers.local();
        let own = self.holders.iter().filter(|(node, _)| *node == local).map(|(_, held)| held.len()).sum();
        let data = self.layout.redundancy.data();
        self.pace.take((data.saturating_sub(own) * self.layout.shard_len_of(segment)) as u64).await;
        let coder = Coder {
            code: Arc::clone(&self.engine.code),
            redundancy: self.layout.redundancy,
            buffers: self.engine.buffers.clone(),
        };
        let reader = ExtentReader::knowing(self.engine, self.id, self.layout.clone(), &self.holders);
        let wanted: Vec<usize> = wanted.into_iter().collect();
        match reader.rebuild_segment(&coder, segment, &wanted).await? {
            Rebuilt::Shards { shards, read } => {
                moved.read += read as u64;
                count(&self.engine.counters.shards_rebuilt, shards.len() as u64);
                Ok(Some(shards.into_iter().collect()))
            }
            Rebuilt::Poisoned => {
                self.engine.events.emit(Event::PoisonedExtent(self.id));
                moved.is_poisoned = true;
                Ok(None)
            }
        }
    }

    async fn stage(&self, node: NodeId, shard: &Bytes) -> Result<()> {
        let request = Request::Stage { shard: ShardId::of(shard) };
        match self.engine.peers.call(node, request, shard.clone(), STORE_LIMIT).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other, node)),
        }
    }

    /// Asks everybody who took shards to make them durable.
    async fn commit(&self, targets: &[Target], moved: &mut Moved) -> Result<()> {
        if is_active(Bug::RepairedBeforeCommit) {
            return Ok(());
        }
        for target in targets {
            let committed = match self.ask_to_commit(target.node, &target.indexes).await {
                Ok(missing) if missing.is_empty() => continue,
                Ok(_) => ErrorKind::NotStored,
                Err(error) => error.kind(),
            };
            moved.failed.push((target.node, committed));
            self.take_back(std::slice::from_ref(target));
        }
        Ok(())
    }

    /// Asks the holders anew what they have: nothing counts because it was sent.
    async fn recount(&self, seats: &[Seat], moved: &mut Moved) {
        if is_active(Bug::RepairedBeforeCommit) {
            moved.seats = seats.to_vec();
            return;
        }
        let nodes: BTreeSet<NodeId> = seats.iter().map(|(_, node)| *node).collect();
        for node in nodes {
            let request = Request::Survey { extents: vec![self.id], objects: Vec::new() };
            let answer = self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await;
            let Ok((Reply::Surveyed { possessions }, _)) = answer else { continue };
            let held = possessions.first().map_or(&[][..], Possession::indexes);
            let its = seats.iter().filter(|(_, home)| *home == node);
            let (filled, lacking): (Vec<Seat>, Vec<Seat>) = its.partition(|(index, _)| held.contains(index));
            moved.seats.extend(filled);
            if !lacking.is_empty() && !moved.failed.iter().any(|(failed, _)| *failed == node) {
                // It has just said that it had committed them.
                self.engine.peers.audited(node, Audit::Silent);
            }
        }
    }

    /// Lets holders forget what was staged in vain, in the background.
    fn take_back(&self, targets: &[Target]) {
        for target in targets {
            let ids = target.missing.iter().filter_map(|at| self.layout.shards.get(usize::from(*at)));
            let ids: Vec<ShardId> = ids.copied().collect();
            let (engine, node) = (Arc::clone(self.engine), target.node);
            let work = async move {
                for shards in ids.chunks(UNSTAGED_AT_ONCE) {
                    let request = Request::Unstage { shards: shards.to_vec() };
                    // What a holder is not told it forgets after a day.
                    let _ = engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await;
                }
            };
            let _ = self.engine.runtime.spawn(work.boxed());
        }
    }
}

impl Moved {
    pub(super) fn add(&mut self, other: Self) {
        self.shards += other.shards;
        self.read += other.read;
        self.written += other.written;
        self.seats.extend(other.seats);
        self.failed.extend(other.failed);
        self.is_poisoned |= other.is_poisoned;
    }
}

/// Whom to ask for a copy of the shards with an index: the first that says to have them.
fn holder_of(holders: &[(NodeId, Vec<u8>)], failed: &BTreeSet<NodeId>, index: usize) -> Option<NodeId> {
    let has = |held: &[u8]| held.iter().any(|i| usize::from(*i) == index);
    holders.iter().find(|(node, held)| !failed.contains(node) && has(held)).map(|(node, _)| *node)
}

/// Whether a holder that did not give a shard may give those of other segments: it said so, at once.
fn may_give_others(answer: &Result<(Reply, Bytes)>) -> bool {
    matches!(answer, Ok((Reply::Absent | Reply::Removed | Reply::Failed { .. }, _)))
}

/// Gives a manifest to a node, and asks afterwards whether it has it.
///
/// # Errors
/// The node's own; `NotStored` where it was removed there, or is not there though the node said so.
pub(super) async fn place_manifest(
    engine: &Engine,
    pace: &Pace,
    object: ObjectId,
    manifest: &Bytes,
    node: NodeId,
) -> Result<()> {
    pace.take(manifest.len() as u64).await;
    let operation = OperationId::from_bytes(engine.runtime.random()?);
    let request = Request::PutManifest { operation };
    match engine.peers.call(node, request, manifest.clone(), STORE_LIMIT).await? {
        (Reply::Done, _) => {}
        (Reply::Removed, _) => {
            return Err(Error::new(ErrorKind::NotStored, "the object was removed there").with_subject(object));
        }
        (other, _) => return Err(unexpected(&other, node)),
    }
    let request = Request::Survey { extents: Vec::new(), objects: vec![object] };
    match engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await? {
        (Reply::Surveyed { possessions }, _) if matches!(possessions.first(), Some(Possession::Held(_))) => {
            Ok(())
        }
        (Reply::Surveyed { .. }, _) => {
            engine.peers.audited(node, Audit::Silent);
            let text = "the node said to have taken the manifest, and has it not";
            Err(Error::new(ErrorKind::NotStored, text).with_subject(object))
        }
        (other, _) => Err(unexpected(&other, node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Refusal;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn who_failed_is_asked_for_no_copy() {
        let holders = [(node(1), vec![0, 3]), (node(2), vec![1]), (node(3), vec![3, 1])];
        let of = |failed: &[NodeId], index| holder_of(&holders, &failed.iter().copied().collect(), index);
        assert_eq!([0, 1, 2, 3].map(|index| of(&[], index)), [Some(1), Some(2), None, Some(1)].map(named));
        assert_eq!([0, 1, 3].map(|index| of(&[node(1)], index)), [None, Some(2), Some(3)].map(named));
        assert_eq!(of(&[node(2), node(3)], 1), None);
    }

    fn named(number: Option<u8>) -> Option<NodeId> {
        number.map(node)
    }

    #[test]
    fn who_refuses_one_shard_is_asked_for_others() {
        let refused = |refusal| Ok((Reply::Failed { refusal, text: String::new() }, Bytes::new()));
        for refusal in [Refusal::Corrupt, Refusal::Busy, Refusal::Internal] {
            assert!(may_give_others(&refused(refusal)), "{refusal:?}");
        }
        assert!(may_give_others(&Ok((Reply::Absent, Bytes::new()))));
        assert!(may_give_others(&Ok((Reply::Removed, Bytes::new()))));
        assert!(!may_give_others(&Ok((Reply::Done, Bytes::from_static(b"others")))));
        assert!(!may_give_others(&Err(Error::new(ErrorKind::TimedOut, "it is silent"))));
    }
}
