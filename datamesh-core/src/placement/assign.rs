//! Which node holds which shard of an extent.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::Member;
use crate::placement::margin::margin;
use crate::placement::rank::Ranking;
use crate::ports::Redundancy;

/// The holder of each shard index of an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    holders: Vec<NodeId>,
}

impl Assignment {
    /// The holder of a shard index.
    pub fn holder(&self, index: usize) -> Option<NodeId> {
        self.holders.get(index).copied()
    }

    /// The holder of each shard index, in the order of the indexes.
    pub fn holders(&self) -> &[NodeId] {
        &self.holders
    }

    /// The shard indexes that a node holds, ascending.
    pub fn indexes_of(&self, node: &NodeId) -> Vec<u8> {
        self.indexed().filter(|(_, holder)| holder == node).map(|(index, _)| index).collect()
    }

    /// Each holder with its shard indexes, by node id: what [`margin`] takes.
    pub fn by_node(&self) -> Vec<(NodeId, Vec<u8>)> {
        let mut held: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
        for (index, node) in self.indexed() {
            held.entry(node).or_default().push(index);
        }
        held.into_iter().collect()
    }

    /// The shard indexes whose holder differs from an earlier assignment, with their new holders.
    pub fn changes(&self, earlier: &Self) -> Vec<(u8, NodeId)> {
        self.indexed().filter(|(index, node)| earlier.holder(usize::from(*index)) != Some(*node)).collect()
    }

    /// How many holders may be lost so that k shards remain, when every holder has what it should.
    pub fn margin(&self, redundancy: Redundancy) -> Option<usize> {
        margin(&self.by_node(), redundancy.data())
    }

    fn indexed(&self) -> impl Iterator<Item = (u8, NodeId)> + '_ {
        (0..=u8::MAX).zip(self.holders.iter().copied())
    }
}

impl Ranking<'_> {
    /// Assigns every shard index of an extent; `None` where no member can hold data.
    ///
    /// Shards go down the ranking, one for each node in a round, under two caps: at most ceil(n / zones)
    /// in a zone and at most ceil(n / nodes) on a node. Where both caps leave no room, because a zone has
    /// too few nodes, the zone cap is raised by one until there is; the node cap always holds. Then the
    /// indexes choose among the places so found: the pair with the smallest draw by BLAKE3 first. So a node
    /// that comes or goes moves about one index of another with it, where a numbering by rank would shift all.
    pub fn assign(&self, redundancy: Redundancy) -> Option<Assignment> {
        let open = (0..redundancy.total()).collect();
        Plan::new(self, redundancy, &BTreeSet::new(), &[])?.finish(vec![None; redundancy.total()], open)
    }

    /// The assignment after some holders failed: what the others hold stays, and the shards of the failed
    /// ones go to the live nodes that come next under the caps, which are computed anew over the live.
    ///
    /// `None` where no live member can hold data. `failed` may name nodes that hold nothing.
    pub fn replacement(
        &self,
        redundancy: Redundancy,
        assignment: &Assignment,
        failed: &BTreeSet<NodeId>,
    ) -> Option<Assignment> {
        let kept: Vec<_> = (0..redundancy.total())
            .map(|index| assignment.holder(index).filter(|node| !failed.contains(node)))
            .collect();
        let open = kept.iter().enumerate().filter(|(_, holder)| holder.is_none()).map(|(i, _)| i).collect();
        Plan::new(self, redundancy, failed, &kept)?.finish(kept, open)
    }

    /// The margin that the ranked members can give: m where there are n nodes, less where there are fewer.
    ///
    /// `None` where no member can hold data.
    pub fn best_margin(&self, redundancy: Redundancy) -> Option<usize> {
        Some(self.assign(redundancy)?.margin(redundancy)?.min(redundancy.parity()))
    }
}

/// A candidate and how many shards it has.
struct Place<'a> {
    member: &'a Member,
    zone: usize,
    kept: usize,
    taken: usize,
}

/// Places being handed out down the ranking.
struct Plan<'a> {
    key: [u8; 32],
    places: Vec<Place<'a>>,
    in_zone: Vec<usize>,
    zone_cap: usize,
    node_cap: usize,
    total: usize,
}

impl<'a> Plan<'a> {
    /// The live candidates with what they keep; `None` when there are none.
    fn new(
        ranking: &Ranking<'a>,
        redundancy: Redundancy,
        failed: &BTreeSet<NodeId>,
        kept: &[Option<NodeId>],
    ) -> Option<Self> {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for node in kept.iter().flatten() {
            *counts.entry(*node).or_default() += 1;
        }
        let mut zones: BTreeMap<&Zone, usize> = BTreeMap::new();
        let mut in_zone = Vec::new();
        let mut places = Vec::new();
        for member in ranking.members().iter().filter(|member| !failed.contains(&member.node)) {
            let next = zones.len();
            let zone = *zones.entry(&member.zone).or_insert(next);
            let kept = counts.get(&member.node).copied().unwrap_or(0);
            in_zone.resize(zones.len(), 0);
            if let Some(shards) = in_zone.get_mut(zone) {
                *shards += kept;
            }
            places.push(Place { member, zone, kept, taken: 0 });
        }
        (!places.is_empty()).then(|| Self {
            key: *ranking.key(),
            zone_cap: redundancy.total().div_ceil(zones.len()),
            node_cap: redundancy.total().div_ceil(places.len()),
            total: redundancy.total(),
            places,
            in_zone,
        })
    }

    /// Finds a place for every open index and says which goes where.
    fn finish(mut self, mut holders: Vec<Option<NodeId>>, open: Vec<usize>) -> Option<Assignment> {
        self.take(open.len());
        for (index, node) in self.choose(open) {
            if let Some(holder) = holders.get_mut(index) {
                *holder = Some(node);
            }
        }
        holders.into_iter().collect::<Option<_>>().map(|holders| Assignment { holders })
    }

    /// Takes this many places under the caps. A zone cap of all shards makes room for all, as the node caps
    /// together do.
    fn take(&mut self, mut wanted: usize) {
        while wanted > 0 && self.zone_cap <= self.total {
            for round in 1..=self.node_cap {
                wanted = self.take_round(round, wanted);
            }
            self.zone_cap += 1;
        }
    }

    /// One walk down the ranking that brings nodes to at most `round` shards; returns what is still wanted.
    fn take_round(&mut self, round: usize, mut wanted: usize) -> usize {
        for place in &mut self.places {
            let Some(in_zone) = self.in_zone.get_mut(place.zone) else { continue };
            if wanted > 0 && place.kept + place.taken < round && *in_zone < self.zone_cap {
                place.taken += 1;
                *in_zone += 1;
                wanted -= 1;
            }
        }
        wanted
    }

    /// Gives the open indexes to the places taken, the pair with the smallest draw first.
    fn choose(&self, open: Vec<usize>) -> Vec<(usize, NodeId)> {
        let takers: Vec<_> = self.places.iter().filter(|place| place.taken > 0).collect();
        let mut pairs = Vec::with_capacity(open.len().saturating_mul(takers.len()));
        for (taker, place) in takers.iter().enumerate() {
            let draws = draws(&self.key, &place.member.node, self.total);
            pairs.extend(open.iter().filter_map(|index| Some((*draws.get(*index)?, *index, taker))));
        }
        pairs.sort_unstable();
        let mut room: Vec<_> = takers.iter().map(|place| place.taken).collect();
        let mut open: BTreeSet<_> = open.into_iter().collect();
        let mut chosen = Vec::with_capacity(open.len());
        for (_, index, taker) in pairs {
            let (Some(room), Some(place)) = (room.get_mut(taker), takers.get(taker)) else { continue };
            if *room > 0 && open.remove(&index) {
                *room -= 1;
                chosen.push((index, place.member.node));
            }
        }
        chosen
    }
}

/// How much a node wants each shard index, less is more: the extended BLAKE3 output of its id, keyed with
/// the placement key, from the second block on (the first one ranks).
fn draws(key: &[u8; 32], node: &NodeId, indexes: usize) -> Vec<u64> {
    let mut bytes = vec![0; indexes.saturating_mul(size_of::<u64>())];
    let mut output = blake3::Hasher::new_keyed(key).update(node.as_bytes()).finalize_xof();
    output.set_position(blake3::BLOCK_LEN as u64);
    output.fill(&mut bytes);
    bytes.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{key, members, node};
    use crate::placement::rank;
    use proptest::prelude::*;

    fn zones_of(all: &[Member], assignment: &Assignment) -> BTreeMap<Zone, usize> {
        let mut counts = BTreeMap::new();
        for holder in assignment.holders() {
            let member = all.iter().find(|m| m.node == *holder).unwrap();
            *counts.entry(member.zone.clone()).or_default() += 1;
        }
        counts
    }

    /// Members in zones as drawn.
    fn in_zones(zones: &[usize]) -> Vec<Member> {
        let mut all = members(zones.len(), 1);
        for (member, zone) in all.iter_mut().zip(zones) {
            member.zone = format!("z{zone}").parse().unwrap();
        }
        all
    }

    /// The least that the fullest zone must take, given the node cap.
    fn least_zone_cap(zones: &[usize], n: usize) -> usize {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        zones.iter().for_each(|z| *sizes.entry(*z).or_default() += 1);
        let node_cap = n.div_ceil(zones.len());
        let fits = |cap: &usize| sizes.values().map(|s| (s * node_cap).min(*cap)).sum::<usize>() >= n;
        (n.div_ceil(sizes.len())..=n).find(fits).unwrap()
    }

    fn check_caps(all: &[Member], zones: &[usize], assignment: &Assignment, n: usize) {
        assert_eq!(assignment.holders().len(), n);
        let most = assignment.by_node().iter().map(|(_, held)| held.len()).max().unwrap();
        assert!(most <= n.div_ceil(all.len()), "{most} shards on a node of {}", all.len());
        let most = *zones_of(all, assignment).values().max().unwrap();
        assert!(most <= least_zone_cap(zones, n), "{most} shards in a zone: {zones:?}");
    }

    #[test]
    fn no_member_no_assignment() {
        assert!(rank(&key(1), &[]).assign(Redundancy::STANDARD).is_none());
        assert!(rank(&key(1), &[]).best_margin(Redundancy::STANDARD).is_none());
    }

    #[test]
    fn best_margins_of_small_meshes() {
        for (nodes, expected) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (9, 2)] {
            let all = members(nodes, 1);
            let best = rank(&key(7), &all).best_margin(Redundancy::STANDARD);
            assert_eq!(best, Some(expected), "{nodes} nodes");
        }
    }

    #[test]
    fn every_zone_takes_its_part() {
        let all = members(12, 3);
        for i in 0..200 {
            let assignment = rank(&key(i), &all).assign(Redundancy::STANDARD).unwrap();
            assert!(zones_of(&all, &assignment).values().all(|count| *count == 2));
        }
    }

    /// Pinned: a change here moves shards of every mesh.
    #[test]
    fn assignment_is_pinned() {
        let all = members(9, 2);
        let assignment = rank(&key(1), &all).assign(Redundancy::STANDARD).unwrap();
        let holders: Vec<u8> = assignment.holders().iter().map(|n| n.as_bytes()[0]).collect();
        assert_eq!(holders, PINNED);
    }
    const PINNED: [u8; 6] = [7, 4, 1, 0, 2, 3];

    /// Moves for each shard when one of N nodes goes: holders as a set, and indexes.
    fn moved(number: usize) -> (f64, f64) {
        const KEYS: u64 = 1_500;
        let all = members(number, 1);
        let fewer = &all[1..];
        let (mut sets, mut indexes) = (0, 0);
        for i in 0..KEYS {
            let before = rank(&key(i), &all).assign(Redundancy::STANDARD).unwrap();
            let after = rank(&key(i), fewer).assign(Redundancy::STANDARD).unwrap();
            let old: BTreeSet<_> = before.holders().iter().collect();
            sets += after.holders().iter().filter(|n| !old.contains(n)).count();
            indexes += after.changes(&before).len();
        }
        let shards = (KEYS * 6) as f64;
        (sets as f64 / shards, indexes as f64 / shards)
    }

    #[test]
    fn a_node_that_comes_or_goes_moves_little() {
        for number in [10, 20, 40] {
            let (sets, indexes) = moved(number);
            let part = 1.0 / number as f64;
            println!(
                "{number} nodes: {:.3}/N of the holders, {:.3}/N of the indexes",
                sets / part,
                indexes / part
            );
            assert!(sets <= 1.2 * part, "{sets} of the holders of {number}");
            assert!(indexes <= 2.4 * part, "{indexes} of the indexes of {number}");
        }
    }

    proptest! {
        #[test]
        fn caps_always_hold(
            zones in proptest::collection::vec(0usize..5, 1..14), k in 1u8..12, m in 0u8..8, seed: u64
        ) {
            let all = in_zones(&zones);
            let redundancy = Redundancy::new(k, m).unwrap();
            let ranking = rank(&key(seed), &all);
            let assignment = ranking.assign(redundancy).unwrap();
            check_caps(&all, &zones, &assignment, redundancy.total());
            prop_assert_eq!(ranking.assign(redundancy), Some(assignment));
        }

        #[test]
        fn replacement_keeps_caps_and_the_live(
            zones in proptest::collection::vec(0usize..4, 2..12), lost in proptest::collection::btree_set(0usize..12, 0..5),
            k in 1u8..8, m in 0u8..5, seed: u64
        ) {
            let all = in_zones(&zones);
            let redundancy = Redundancy::new(k, m).unwrap();
            let failed: BTreeSet<_> = lost.iter().map(|i| node(*i)).collect();
            let ranking = rank(&key(seed), &all);
            let before = ranking.assign(redundancy).unwrap();
            let after = ranking.replacement(redundancy, &before, &failed);
            let live: Vec<_> = all.iter().filter(|m| !failed.contains(&m.node)).collect();
            prop_assert_eq!(after.is_some(), !live.is_empty());
            let Some(after) = after else { return Ok(()) };
            for (index, old) in before.holders().iter().enumerate() {
                let new = after.holder(index).unwrap();
                prop_assert!(!failed.contains(&new));
                prop_assert!(failed.contains(old) || *old == new);
            }
            let most = after.by_node().iter().map(|(_, held)| held.len()).max().unwrap();
            prop_assert!(most <= redundancy.total().div_ceil(live.len()));
        }

        #[test]
        fn replacement_keeps_the_zone_cap_where_zones_are_wide(lost in 0usize..24, seed: u64) {
            let all = members(24, 4);
            let ranking = rank(&key(seed), &all);
            let before = ranking.assign(Redundancy::STANDARD).unwrap();
            let after = ranking.replacement(Redundancy::STANDARD, &before, &[node(lost)].into()).unwrap();
            prop_assert!(zones_of(&all, &after).values().all(|count| *count <= 2));
        }
    }

    #[test]
    fn the_widest_code_is_assigned_whole() {
        let all = members(5, 2);
        let wide = Redundancy::new(128, 128).unwrap();
        let assignment = rank(&key(3), &all).assign(wide).unwrap();
        assert_eq!(assignment.holders().len(), 256);
        assert_eq!(assignment.indexes_of(&node(0)).len() / 10, 5);
    }
}
