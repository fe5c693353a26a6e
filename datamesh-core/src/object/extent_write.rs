//! One extent of a put: its shards are staged with their holders, and then its layout is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, TryStreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layout, PlacementKey, RemovalHash, Reply, Request};
use crate::id::{ExtentId, NodeId, OperationId, ShardId};
use crate::object::budget::Share;
use crate::object::gather::{gather, retry_limit};
use crate::object::segment::{Coder, Stripe};
use crate::object::{Engine, READ_LIMIT, STORE_LIMIT};
use crate::observe::{Event, count};
use crate::peers::unexpected;
use crate::placement::{Assignment, Member, margin, rank};
use crate::planted::{Bug, is_active};

/// A holder, and the shard indexes that it acknowledged.
type Holding = (NodeId, Vec<u8>);

/// How often one extent may be mended before the put gives up, beyond once for each member.
const SPARE_ROUNDS: usize = 4;

/// How many segments are mended at a time.
const MEND_WINDOW: usize = 4;

/// An extent on its way to its holders.
#[derive(Debug)]
pub(super) struct ExtentWriter {
    engine: Arc<Engine>,
    coder: Coder,
    operation: OperationId,
    placement: PlacementKey,
    removal: RemovalHash,
    members: Vec<Member>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failed: BTreeSet<NodeId>,
    assignment: Assignment,
    segments: BTreeMap<usize, Staged>,
    committed: BTreeMap<NodeId, BTreeSet<u8>>,
    /// Who was asked to keep which shard, whatever the answer was.
    asked: BTreeSet<(NodeId, ShardId)>,
    /// Who was asked to commit.
    asked_to_commit: BTreeSet<NodeId>,
    /// Who said at a commit that it lacks what it had taken.
    lost: BTreeSet<NodeId>,
    /// Whether everybody who failed did so for want of space.
    all_full: bool,
    /// How long the slowest round of staging took in which somebody answered.
    took: Option<Duration>,
}

/// What a clean-up has to take back of one extent.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// Shards, by who was asked to keep them, and whether that node is known to have them.
    pub(super) shards: Vec<(NodeId, ShardId, bool)>,
    /// The extent and who was asked to commit it.
    pub(super) committed: Option<(ExtentId, Vec<NodeId>)>,
}

/// What was staged of one segment.
#[derive(Debug)]
struct Staged {
    ids: Vec<ShardId>,
    shard_len: usize,
    /// Who has each shard.
    holders: Vec<Option<NodeId>>,
}

/// An extent that its holders have acknowledged.
#[derive(Debug, Clone)]
pub(super) struct WrittenExtent {
    pub(super) id: ExtentId,
    pub(super) layout: Layout,
    pub(super) holders: Vec<(NodeId, Vec<u8>)>,
    pub(super) margin: usize,
}

impl ExtentWriter {
    /// Chooses the holders of a new extent among the live members, slow ones only where they are needed.
    ///
    /// # Errors
    /// `NotStored` where no member can hold data.
    pub(super) fn new(
        engine: &Arc<Engine>,
        coder: &Coder,
        operation: OperationId,
        placement: PlacementKey,
        removal: RemovalHash,
    ) -> Result<Self> {
        let members = engine.peers.prompt_members(placement.as_bytes(), coder.redundancy);
        let assignment = rank(placement.as_bytes(), &members).assign(coder.redundancy).ok_or_else(nobody)?;
        let state = State {
            failed: BTreeSet::new(),
            assignment,
            segments: BTreeMap::new(),
            committed: BTreeMap::new(),
            asked: BTreeSet::new(),
            asked_to_commit: BTreeSet::new(),
            lost: BTreeSet::new(),
            all_full: true,
            took: None,
        };
        Ok(Self {
            engine: Arc::clone(engine),
            coder: coder.clone(),
            operation,
            placement,
            removal,
            members,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The margin that the holders chosen now will give.
    pub(super) fn expected_margin(&self) -> usize {
        let assignment = self.state().assignment.clone();
        assignment.margin(self.coder.redundancy).unwrap_or(0).min(self.coder.redundancy.parity())
    }

    /// Stages all shards of a segment; a holder that fails or lags is replaced by the next in rank.
    pub(super) async fn stage(&self, segment: usize, stripe: Stripe) -> Result<()> {
        let total = stripe.shards.len();
        let staged =
            Staged { ids: stripe.ids.clone(), shard_len: stripe.shard_len, holders: vec![None; total] };
        self.state().segments.insert(segment, staged);
        let shards = stripe.shards.into_iter().enumerate().collect();
        self.stage_shards(segment, shards).await
    }

    /// Stages these shards of a segment with whoever is to hold them.
    async fn stage_shards(&self, segment: usize, mut shards: Vec<(usize, Bytes)>) -> Result<()> {
        while !shards.is_empty() {
            let spare = self.coder.redundancy.parity();
            // So few would be waited for without a grace: nobody else's answer says how long they may take.
            let took = self.state().took.filter(|_| shards.len() <= spare);
            let limit = retry_limit(took, STORE_LIMIT);
            let calls = shards
                .iter()
                .map(|(index, shard)| self.stage_call(segment, *index, shard, limit))
                .collect::<Result<_>>()?;
            let started = self.engine.runtime.now();
            let answers = gather(&*self.engine.runtime, calls, spare).await;
            if answers.iter().any(|(_, answer)| answer.is_ok()) {
                let took = self.engine.runtime.now() - started;
                let mut state = self.state();
                state.took = state.took.max(Some(took));
            }
            for ((index, node), answer) in answers {
                match answer {
                    Ok(()) => {
                        self.mark(segment, index, Some(node));
                        shards.retain(|(other, _)| *other != index);
                    }
                    Err(error) => self.give_up(node, error)?,
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "a key and its call")]
    fn stage_call(
        &self,
        segment: usize,
        index: usize,
        shard: &Bytes,
        limit: Duration,
    ) -> Result<((usize, NodeId), BoxFuture<'_, Result<()>>)> {
        let mut state = self.state();
        let node = state.assignment.holder(index).ok_or_else(nobody)?;
        let id = state.segments.get(&segment).and_then(|staged| staged.ids.get(index)).copied();
        let id = id.ok_or_else(nobody)?;
        state.asked.insert((node, id));
        let call = self.engine.peers.call(node, Request::Stage { shard: id }, shard.clone(), limit);
        let call = call.map(move |answer| match answer? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other, node)),
        });
        Ok(((index, node), call.boxed()))
    }

    fn mark(&self, segment: usize, index: usize, holder: Option<NodeId>) {
        let mut state = self.state();
        let slot = state.segments.get_mut(&segment).and_then(|staged| staged.holders.get_mut(index));
        if let Some(slot) = slot {
            *slot = holder;
        }
    }

    /// Passes a holder's shards on to the next in rank.
    ///
    /// # Errors
    /// `NotStored`, with the holder's own error as its source, where nobody is left; `StorageFull` where all of them
    /// lack space.
    fn give_up(&self, node: NodeId, error: Error) -> Result<()> {
        let mut state = self.state();
        if !state.failed.insert(node) {
            return Ok(());
        }
        state.all_full &= error.kind() == ErrorKind::StorageFull;
        if error.kind() == ErrorKind::TimedOut {
            self.engine.peers.given_up(node);
        }
        count(&self.engine.counters.holders_replaced, 1);
        self.engine.events.emit(Event::HolderReplaced { node, reason: error.to_string() });
        let ranking = rank(self.placement.as_bytes(), &self.members);
        let next =
            ranking.replacement(self.coder.redundancy, &state.assignment, &state.failed).or_else(|| {
                // Slow ones are better than none.
                let live = self.engine.peers.live_members();
                let ranking = rank(self.placement.as_bytes(), &live);
                ranking.replacement(self.coder.redundancy, &state.assignment, &state.failed)
            });
        let missing: Vec<NodeId> = state.failed.iter().copied().collect();
        let kind = if state.all_full { ErrorKind::StorageFull } else { ErrorKind::NotStored };
        state.assignment = next.ok_or_else(|| {
            Error::new(kind, "every holder failed; see that nodes are up and have space, and put again")
                .with_counts(0, self.coder.redundancy.total(), missing)
                .with_source(error)
        })?;
        Ok(())
    }

    /// Commits the layout with every holder, mending what is missing, and says who holds what.
    ///
    /// With `enough` the wait ends when that margin is reached, and the rest is finished in the background.
    pub(super) async fn commit(
        self: &Arc<Self>,
        share: &Share,
        enough: Option<usize>,
    ) -> Result<WrittenExtent> {
        let layout = self.layout()?;
        let encoded = layout.encode();
        let id = ExtentId::of(&encoded);
        let rounds = self.members.len() + SPARE_ROUNDS;
        for round in 0..rounds {
            self.mend(&layout, share).await?;
            self.commit_round(&encoded, &layout).await?;
            let (holders, margin, complete) = self.progress();
            let reached = margin.filter(|margin| complete || enough.is_some_and(|enough| *margin >= enough));
            if let Some(margin) = reached {
                if !complete {
                    self.finish_later(rounds - round, layout.clone(), encoded, share.clone());
                }
                return Ok(WrittenExtent { id, layout, holders, margin });
            }
        }
        let (_, margin, _) = self.progress();
        let failed = self.state().failed.iter().copied().collect();
        Err(Error::new(
            ErrorKind::NotStored,
            "holders kept losing what they had taken; look at their disks and put again",
        )
        .with_counts(margin.unwrap_or(0), self.expected_margin(), failed))
    }

    fn finish_later(self: &Arc<Self>, rounds: usize, layout: Layout, encoded: Bytes, share: Share) {
        let writer = Arc::clone(self);
        let task = async move {
            for _ in 0..rounds {
                let round = async {
                    writer.mend(&layout, &share).await?;
                    writer.commit_round(&encoded, &layout).await
                };
                if round.await.is_err() || writer.progress().2 {
                    return;
                }
            }
        };
        // A runtime that is gone takes the rest of the work with it; the margin that was promised is reached.
        let _ = self.engine.runtime.spawn(task.boxed());
    }

    /// Sends the layout to every holder that has not acknowledged all that it should hold.
    async fn commit_round(&self, encoded: &Bytes, layout: &Layout) -> Result<()> {
        let wanted = self.uncommitted();
        self.state().asked_to_commit.extend(wanted.iter().map(|(node, _)| *node));
        let calls = wanted.into_iter().map(|(node, indexes)| {
            let request = Request::Commit { operation: self.operation, indexes: indexes.clone() };
            let call = self.engine.peers.call(node, request, encoded.clone(), STORE_LIMIT);
            ((node, indexes), call)
        });
        let answers = gather(&*self.engine.runtime, calls.collect(), self.coder.redundancy.parity()).await;
        for ((node, indexes), answer) in answers {
            match answer {
                Ok((Reply::Done, _)) => self.state().committed.entry(node).or_default().extend(indexes),
                Ok((Reply::Missing { positions }, _)) => {
                    self.unmark(layout, node, &positions);
                    // Once may be a restart; a holder that loses what it takes again would do so for ever.
                    if !self.state().lost.insert(node) {
                        self.give_up(node, lost(positions.len()))?;
                    }
                }
                Ok((other, _)) => self.give_up(node, unexpected(&other, node))?,
                Err(error) => self.give_up(node, error)?,
            }
        }
        Ok(())
    }

    /// The holders that have still to acknowledge, with all the indexes that each is to hold.
    fn uncommitted(&self) -> Vec<(NodeId, Vec<u8>)> {
        let state = self.state();
        let done = |node: &NodeId, indexes: &[u8]| {
            state.committed.get(node).is_some_and(|have| indexes.iter().all(|index| have.contains(index)))
        };
        state.assignment.by_node().into_iter().filter(|(node, indexes)| !done(node, indexes)).collect()
    }

    /// Forgets that a holder has shards which it says it has not.
    fn unmark(&self, layout: &Layout, node: NodeId, positions: &[u16]) {
        let total = layout.redundancy.total();
        let mut state = self.state();
        for position in positions.iter().map(|position| usize::from(*position)) {
            let staged = state.segments.get_mut(&(position / total));
            let slot = staged.and_then(|staged| staged.holders.get_mut(position % total));
            if let Some(slot) = slot.filter(|slot| **slot == Some(node)) {
                *slot = None;
            }
        }
    }

    /// Who has acknowledged what, the margin so far (none below k), and whether that is everything.
    fn progress(&self) -> (Vec<Holding>, Option<usize>, bool) {
        let mut complete = self.uncommitted().is_empty();
        let state = self.state();
        let holders: Vec<Holding> = state
            .committed
            .iter()
            .map(|(node, indexes)| (*node, indexes.iter().copied().collect()))
            .collect();
        let redundancy = self.coder.redundancy;
        let mut margin = margin(&holders, redundancy.data()).map(|margin| margin.min(redundancy.parity()));
        if is_active(Bug::CountDataAcksAsEnough) && margin.is_some() {
            (margin, complete) = (Some(redundancy.parity()), true);
        }
        (holders, margin, complete)
    }

    fn layout(&self) -> Result<Layout> {
        let state = self.state();
        let length = |staged: Option<&Staged>| {
            staged.and_then(|staged| u32::try_from(staged.shard_len).ok()).ok_or_else(nobody)
        };
        Ok(Layout {
            code: self.coder.code.id(),
            redundancy: self.coder.redundancy,
            shard_len: length(state.segments.values().next())?,
            segments: u8::try_from(state.segments.len()).map_err(|_| nobody())?,
            last_shard_len: length(state.segments.values().next_back())?,
            placement: self.placement,
            removal: self.removal,
            shards: state.segments.values().flat_map(|staged| staged.ids.iter().copied()).collect(),
        })
    }

    /// Brings shards to holders that are to have them and do not: each is rebuilt from k others.
    async fn mend(&self, layout: &Layout, share: &Share) -> Result<()> {
        let work = self.misplaced();
        stream::iter(work.into_iter().map(Ok))
            .try_for_each_concurrent(MEND_WINDOW, |(segment, wanted)| {
                self.mend_segment(layout, segment, wanted, share)
            })
            .await
    }

    /// The segments with shards that their holder does not have, and the indexes of these.
    fn misplaced(&self) -> Vec<(usize, Vec<usize>)> {
        let state = self.state();
        let missing = |staged: &Staged| -> Vec<usize> {
            let pairs = staged.holders.iter().enumerate();
            pairs
                .filter(|(index, has)| **has != state.assignment.holder(*index))
                .map(|(index, _)| index)
                .collect()
        };
        let segments = state.segments.iter().map(|(segment, staged)| (*segment, missing(staged)));
        segments.filter(|(_, missing)| !missing.is_empty()).collect()
    }

    async fn mend_segment(
        &self,
        layout: &Layout,
        segment: usize,
        wanted: Vec<usize>,
        share: &Share,
    ) -> Result<()> {
        let bytes = layout.shard_len_of(segment) * self.coder.redundancy.total() * 2;
        let _permit = share.take(bytes).await;
        let shards = self.fetch_staged(layout, segment).await?;
        let (coder, layout) = (self.coder.clone(), layout.clone());
        let made =
            self.engine.runtime.compute(move || coder.rebuild(&layout, segment, &shards, &wanted)).await??;
        self.stage_shards(segment, made).await
    }

    /// Reads k staged shards of a segment back.
    async fn fetch_staged(&self, layout: &Layout, segment: usize) -> Result<Vec<Option<Bytes>>> {
        let redundancy = self.coder.redundancy;
        let mut shards: Vec<Option<Bytes>> = vec![None; redundancy.total()];
        loop {
            let have = shards.iter().flatten().count();
            if have >= redundancy.data() {
                return Ok(shards);
            }
            let candidates = self.staged_holders(segment, &shards);
            if candidates.len() + have < redundancy.data() {
                let missing = self.state().failed.iter().copied().collect();
                return Err(Error::new(
                    ErrorKind::NotStored,
                    "too many holders failed during the put; put again",
                )
                .with_counts(candidates.len() + have, redundancy.data(), missing));
            }
            // All of them are asked, so that one that is slow or wrong does not hold up the rest.
            let spare = candidates.len() + have - redundancy.data();
            let calls = candidates.into_iter().map(|(index, node, id)| {
                let call =
                    self.engine.peers.call(node, Request::ReadShard { shard: id }, Bytes::new(), READ_LIMIT);
                ((index, node), call)
            });
            let mut failed = Vec::new();
            for ((index, node), answer) in gather(&*self.engine.runtime, calls.collect(), spare).await {
                match answer {
                    Ok((Reply::Done, body)) if layout.shard(segment, index) == Some(ShardId::of(&body)) => {
                        if let Some(slot) = shards.get_mut(index) {
                            *slot = Some(body);
                        }
                    }
                    Ok((Reply::Done, _)) => {
                        failed.push((node, self.wrong_shard(layout, segment, index, node)))
                    }
                    Ok((Reply::Absent, _)) => self.mark(segment, index, None),
                    Ok((other, _)) => failed.push((node, unexpected(&other, node))),
                    Err(error) => failed.push((node, error)),
                }
            }
            // Whoever lags while others gave enough is still good for keeping what it has.
            if shards.iter().flatten().count() < redundancy.data() {
                failed.into_iter().try_for_each(|(node, error)| self.give_up(node, error))?;
            }
        }
    }

    /// Tells of a holder that answered with other bytes than it was asked for.
    fn wrong_shard(&self, layout: &Layout, segment: usize, index: usize, node: NodeId) -> Error {
        count(&self.engine.counters.wrong_answers, 1);
        self.engine.peers.answered_wrongly(node);
        if let Some(shard) = layout.shard(segment, index) {
            let extent = ExtentId::of(&layout.encode());
            self.engine.events.emit(Event::WrongShard { node, extent, shard });
        }
        Error::new(ErrorKind::Corrupt, "the holder answered with other bytes than it had taken")
    }

    fn staged_holders(&self, segment: usize, have: &[Option<Bytes>]) -> Vec<(usize, NodeId, ShardId)> {
        let state = self.state();
        let Some(staged) = state.segments.get(&segment) else { return Vec::new() };
        let each = staged.holders.iter().zip(&staged.ids).zip(have).enumerate();
        let usable = each.filter_map(|(index, ((holder, id), have))| {
            let node = holder.filter(|node| have.is_none() && !state.failed.contains(node))?;
            Some((index, node, *id))
        });
        usable.collect()
    }

    /// Everything that holders may have of the extent, for the clean-up of a put that was given up.
    pub(super) fn leftovers(&self) -> Leftovers {
        let layout = if self.state().asked_to_commit.is_empty() { None } else { self.layout().ok() };
        let state = self.state();
        let each = state.segments.values().flat_map(|staged| staged.holders.iter().zip(&staged.ids));
        let known: BTreeSet<(NodeId, ShardId)> =
            each.filter_map(|(holder, id)| Some(((*holder)?, *id))).collect();
        let shards = state.asked.iter().map(|pair| (pair.0, pair.1, known.contains(pair))).collect();
        let nodes = state.asked_to_commit.iter().copied().collect();
        Leftovers { shards, committed: layout.map(|layout| (ExtentId::of(&layout.encode()), nodes)) }
    }
}

fn lost(count: usize) -> Error {
    Error::new(ErrorKind::NotStored, format!("the holder lost {count} shards that it had taken, twice"))
}

fn nobody() -> Error {
    Error::new(ErrorKind::NotStored, "no member of the mesh can hold data; open a node that offers capacity")
}
