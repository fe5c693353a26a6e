//! Everything to its place: shards and manifests go where the ranking of the members wants them, by copy, and what is
//! then held twice is given up later.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::care::Care;
use crate::care::plan::{ExtentPlan, ManifestPlan};
use crate::care::repair::Moved;
use crate::care::rounds::{Deeds, REFUSED};
use crate::care::survey::Entry;
use crate::error::Result;
use crate::format::{Layout, Possession, Reply, Request};
use crate::id::{ExtentId, NodeId, ObjectId, ShardId};
use crate::object::ASK_LIMIT;
use crate::observe::count;
use crate::planted::{Bug, is_active};
use crate::ports::Instant;

impl Care {
    /// Copies what belongs elsewhere, or gives up what is there already.
    pub(super) async fn settle_extent(&self, entry: &Entry<ExtentId>, plan: &ExtentPlan) -> Deeds {
        let mut deeds = Deeds::default();
        if !plan.moves.is_empty() {
            deeds.add(self.copy_home(entry, plan).await);
        }
        if !plan.surplus.is_empty() {
            deeds.add(self.give_up_surplus(entry, plan).await);
        }
        deeds
    }

    /// Gives up what is held twice, once all has settled, and not soon again where that failed.
    async fn give_up_surplus(&self, entry: &Entry<ExtentId>, plan: &ExtentPlan) -> Deeds {
        if let Some(until) = self.kept_until(entry.id) {
            return Deeds::later(until);
        }
        let at = self.roster().quiet_since(&entry.key, entry.redundancy) + self.options.grace;
        let deeds = self.when_settled(at, self.give_up(entry.id, plan)).await;
        if deeds.settled_at.is_none() {
            self.note_kept(entry.id, deeds.failed);
        }
        deeds
    }

    /// Does something when the time has come, and says when that is otherwise.
    async fn when_settled(&self, at: Instant, work: impl Future<Output = Result<bool>>) -> Deeds {
        if self.engine.runtime.now() < at && !is_active(Bug::PingPong) {
            return Deeds { settled_at: Some(at), ..Deeds::default() };
        }
        match work.await {
            Ok(acted) => Deeds { acted, failed: !acted, settled_at: None },
            Err(error) => {
                tracing::debug!(%error, "something could not be moved");
                Deeds { failed: true, ..Deeds::default() }
            }
        }
    }

    /// Copies shards to the nodes that are to hold them, when the members have been the same for a while.
    async fn copy_home(&self, entry: &Entry<ExtentId>, plan: &ExtentPlan) -> Deeds {
        let at = self.roster().quiet_since(&entry.key, entry.redundancy) + self.options.settle;
        let refusing = self.refusing();
        let moves = plan.with_room(&plan.moves, &refusing);
        let again = self.engine.runtime.now() + REFUSED;
        if moves.is_empty() {
            return Deeds::later(again);
        }
        let is_short = moves.len() < plan.moves.len();
        let work = async {
            let (mut left, mut is_all) = (moves, true);
            // Who has no room is found by asking, and each time it is one more.
            for _ in 0..=plan.answering.len() {
                let moved = self.fill(entry.id, &plan.holders, &left).await?.unwrap_or_default();
                count(&self.engine.counters.shards_moved, moved.shards);
                count(&self.engine.counters.bytes_moved, moved.written);
                left.retain(|seat| !moved.seats.contains(seat));
                let refusing = self.refusing();
                let refused: Vec<_> =
                    left.iter().copied().filter(|(_, node)| refusing.contains(node)).collect();
                let others = plan.with_room(&refused, &refusing);
                if others.is_empty() {
                    break;
                }
                is_all &= others.len() == refused.len();
                left.retain(|seat| !refused.contains(seat));
                left.extend(others);
            }
            if is_active(Bug::DeleteBeforeVerify) {
                let indexes: Vec<u8> = plan.moves.iter().map(|(index, _)| *index).collect();
                if let Some(leaving) = self.node.leave(*entry.id.as_bytes(), &indexes) {
                    self.node.release_extent(entry.id, &indexes, &leaving).await?;
                }
            }
            Ok(is_all && left.is_empty())
        };
        let mut deeds = self.when_settled(at, work).await;
        if is_short {
            deeds.add(Deeds::later(again));
        }
        deeds
    }

    /// Brings home what others say they have and have not brought: made anew from the other shards, for who says so may
    /// not have it, and from them where the others are too few. Where the home takes nothing it goes elsewhere, but for
    /// what two say to have.
    pub(super) async fn bring_overdue(&self, entry: &Entry<ExtentId>, plan: &ExtentPlan) -> Deeds {
        let at = self.roster().quiet_since(&entry.key, entry.redundancy) + self.options.settle;
        let refusing = self.refusing();
        let (alone, backed) = plan.claimed_alone();
        let backed: Vec<_> = backed.into_iter().filter(|(_, node)| !refusing.contains(node)).collect();
        if alone.is_empty() && backed.is_empty() {
            return Deeds::default();
        }
        let work = async {
            let holders = plan.without(&plan.claimed, entry.redundancy);
            let Some(mending) = self.mending(entry.id, &holders, refusing).await? else { return Ok(false) };
            // What only one says to have is as good as lost where its home has no room.
            let both = [mending.fill_somewhere(plan, alone).await, mending.fill(&backed).await];
            let (moved, outcome) = together(both);
            self.note_moved(&moved);
            count(&self.engine.counters.shards_moved, moved.shards);
            count(&self.engine.counters.bytes_moved, moved.written);
            outcome
        };
        // It is not this node's to do: where it cannot, it does not look again soon.
        Deeds { failed: false, ..self.when_settled(at, work).await }
    }

    /// Gives up shards that others have, after these looked at their copies, and after all who are to hold anything of
    /// the extent promised to keep it: so the margin stays, whatever they themselves think of where shards belong.
    async fn give_up(&self, id: ExtentId, plan: &ExtentPlan) -> Result<bool> {
        let Some(record) = self.node.stored_extent(id).await? else { return Ok(false) };
        let layout = Layout::decode(&record.layout)?;
        for (index, home) in plan.homes.iter().filter(|(index, _)| plan.surplus.contains(index)) {
            if !self.looks_right(*home, &layout, *index).await {
                return Ok(false);
            }
        }
        let Some(leaving) = self.node.leave(*id.as_bytes(), &plan.surplus) else { return Ok(false) };
        let mut by_home: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
        plan.homes.iter().for_each(|(index, home)| by_home.entry(*home).or_default().push(*index));
        for (home, indexes) in by_home {
            let wanted = indexes.len();
            let request = Request::Keep { extents: vec![id], indexes: vec![indexes], objects: Vec::new() };
            let kept = self.ask_to_keep(home, request).await;
            if kept.as_ref().map_or(0, |kept| kept.indexes().len()) < wanted {
                return Ok(false);
            }
        }
        let freed = self.node.release_extent(id, &plan.surplus, &leaving).await?;
        count(&self.engine.counters.bytes_released, freed);
        Ok(freed > 0)
    }

    /// Whether a node finds its copies of the shards with this index in order when it reads them.
    async fn looks_right(&self, home: NodeId, layout: &Layout, index: u8) -> bool {
        for segment in 0..usize::from(layout.segments) {
            let Some(shard) = layout.shard(segment, usize::from(index)) else { return false };
            if !self.rechecks(home, shard).await {
                return false;
            }
        }
        true
    }

    async fn rechecks(&self, home: NodeId, shard: ShardId) -> bool {
        let answer = self.engine.peers.call(home, Request::Recheck { shard }, Bytes::new(), ASK_LIMIT).await;
        matches!(answer, Ok((Reply::Done, _)))
    }

    async fn ask_to_keep(&self, home: NodeId, request: Request) -> Option<Possession> {
        match self.engine.peers.call(home, request, Bytes::new(), ASK_LIMIT).await {
            Ok((Reply::Surveyed { possessions }, _)) => possessions.into_iter().next(),
            _ => None,
        }
    }

    /// Gives up a manifest that all who are to hold it have.
    pub(super) async fn settle_manifest(&self, entry: &Entry<ObjectId>, plan: &ManifestPlan) -> Deeds {
        if !plan.is_surplus {
            return Deeds::default();
        }
        let at = self.roster().quiet_since(&entry.key, entry.redundancy) + self.options.grace;
        let work = async {
            let id = entry.id;
            let Some(leaving) = self.node.leave(*id.as_bytes(), &[0]) else { return Ok(false) };
            for home in &plan.homes {
                let request = Request::Keep { extents: Vec::new(), indexes: Vec::new(), objects: vec![id] };
                if !matches!(self.ask_to_keep(*home, request).await, Some(Possession::Held(_))) {
                    return Ok(false);
                }
            }
            self.node.release_manifest(id, &leaving).await.map(|()| true)
        };
        self.when_settled(at, work).await
    }
}

/// What came of two that were filled one after the other, and whether any of it was brought; the error of one that was
/// not counts only where nothing was.
fn together(both: [Result<Moved>; 2]) -> (Moved, Result<bool>) {
    let (mut all, mut failed) = (Moved::default(), None);
    for one in both {
        match one {
            Ok(moved) => all.add(moved),
            Err(error) => failed = Some(error),
        }
    }
    let is_any = !all.seats.is_empty();
    let outcome = failed.filter(|_| !is_any).map_or(Ok(is_any), Err);
    (all, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn what_one_of_two_brought_counts_where_the_other_fails() {
        let node = NodeId::from_bytes([1; 32]);
        let failed = || Err(Error::new(ErrorKind::Unavailable, "too few shards"));
        let brought = || Ok(Moved { shards: 3, written: 30, seats: vec![(4, node)], ..Moved::default() });
        let refused = || Ok(Moved { failed: vec![(node, ErrorKind::StorageFull)], ..Moved::default() });
        for both in [[failed(), brought()], [brought(), failed()], [brought(), refused()]] {
            let (moved, outcome) = together(both);
            assert_eq!((moved.shards, moved.written, outcome.unwrap()), (3, 30, true));
        }
        for both in [[failed(), refused()], [refused(), failed()]] {
            let (moved, outcome) = together(both);
            assert_eq!(moved.failed, [(node, ErrorKind::StorageFull)]);
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert!(!together([refused(), Ok(Moved::default())]).1.unwrap());
    }
}
