//! Which node holds which shard of an extent.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::Member;
use crate::placement::margin::margin;
use crate::placement::rank::{LOG_BITS, Ranking, negative_log2, scores};
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
    /// Every pair of a shard index and a member has a weighted draw of its own, as [`rank`](super::rank) draws for
    /// members, and the pairs are walked from the smallest score on: an index goes to the first member that has room
    /// for it. In the first round a node takes one shard, in each further round one more, under two caps: at most
    /// ceil(n / zones) in a zone and at most ceil(n / nodes) on a node. Where both caps leave no room, because a zone
    /// has too few nodes, the zone cap is raised by one until there is; the node cap always holds.
    ///
    /// A node that comes or goes so moves the shards that it wins or held, and seldom another: a numbering by rank
    /// would shift all. Of 4+2 that is 1.0 to 1.2 times its part from twelve nodes of one zone on; where nodes are
    /// hardly more than shards, one that moves makes another move (seven nodes: 1.4), and so it does where every
    /// zone has to take a fixed number of them (3 or 6 zones: 1.5 to 1.8). Walking all pairs by their scores is how
    /// stable pairs are found, after D. Gale and L. Shapley, "College admissions and the stability of marriage"
    /// (1962), where both sides want the same pair first.
    pub fn assign(&self, redundancy: Redundancy) -> Option<Assignment> {
        Filling::new(self, redundancy, &BTreeSet::new(), vec![None; redundancy.total()])?.finish()
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
        let kept = (0..redundancy.total())
            .map(|index| assignment.holder(index).filter(|node| !failed.contains(node)))
            .collect();
        Filling::new(self, redundancy, failed, kept)?.finish()
    }

    /// The margin that the ranked members can give: m where there are n nodes, less where there are fewer.
    ///
    /// `None` where no member can hold data.
    pub fn best_margin(&self, redundancy: Redundancy) -> Option<usize> {
        Some(self.assign(redundancy)?.margin(redundancy)?.min(redundancy.parity()))
    }
}

/// How many more pairs than n are tried for each index before all are: enough that hardly ever an index is left over.
const NEAR: u128 = 16;

/// A candidate and how many shards it has.
struct Place<'a> {
    member: &'a Member,
    zone: usize,
    held: usize,
}

/// A shard index that may go to a place, and the draw that says how soon.
struct Pair {
    log: u64,
    capacity: u64,
    index: usize,
    place: usize,
}

/// The shards of an extent being handed out.
struct Filling<'a> {
    key: [u8; 32],
    places: Vec<Place<'a>>,
    holders: Vec<Option<NodeId>>,
    in_zone: Vec<usize>,
    zone_cap: usize,
    node_cap: usize,
}

impl<'a> Filling<'a> {
    /// The live candidates with what they keep; `None` when there are none.
    fn new(
        ranking: &Ranking<'a>,
        redundancy: Redundancy,
        failed: &BTreeSet<NodeId>,
        kept: Vec<Option<NodeId>>,
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
            let held = counts.get(&member.node).copied().unwrap_or(0);
            in_zone.resize(zones.len(), 0);
            if let Some(shards) = in_zone.get_mut(zone) {
                *shards += held;
            }
            places.push(Place { member, zone, held });
        }
        (!places.is_empty()).then(|| Self {
            key: *ranking.key(),
            zone_cap: redundancy.total().div_ceil(zones.len()),
            node_cap: redundancy.total().div_ceil(places.len()),
            places,
            holders: kept,
            in_zone,
        })
    }

    /// Finds a place for every open index.
    fn finish(mut self) -> Option<Assignment> {
        // The near pairs are those that a walk of all would try first, so that it can go on where this one ends.
        let near = self.pairs(Some(self.holders.len() as u128 + NEAR));
        self.walk(&near, 1);
        if self.is_open() {
            let all = self.pairs(None);
            self.walk_rounds(&all);
        }
        self.holders.into_iter().collect::<Option<_>>().map(|holders| Assignment { holders })
    }

    fn is_open(&self) -> bool {
        self.holders.iter().any(Option::is_none)
    }

    /// Walks until all have a place. A zone cap of all shards makes room for all, as the node caps together do.
    fn walk_rounds(&mut self, pairs: &[Pair]) {
        while self.is_open() && self.zone_cap <= self.holders.len() {
            for round in 1..=self.node_cap {
                self.walk(pairs, round);
            }
            self.zone_cap += 1;
        }
    }

    /// One walk over the pairs that brings nodes to at most `round` shards.
    fn walk(&mut self, pairs: &[Pair], round: usize) {
        for pair in pairs {
            let Some(holder) = self.holders.get_mut(pair.index) else { continue };
            let Some(place) = self.places.get_mut(pair.place) else { continue };
            let Some(in_zone) = self.in_zone.get_mut(place.zone) else { continue };
            if holder.is_none() && place.held < round && *in_zone < self.zone_cap {
                *holder = Some(place.member.node);
                place.held += 1;
                *in_zone += 1;
            }
        }
    }

    /// The pairs of the open indexes, the smallest score first: all of them, or those with scores so small that about
    /// this many of each index are expected.
    fn pairs(&self, expected: Option<u128>) -> Vec<Pair> {
        let weights: u128 = self.places.iter().map(|place| u128::from(place.member.capacity)).sum();
        let mut pairs = Vec::new();
        for (place, candidate) in self.places.iter().enumerate() {
            let capacity = candidate.member.capacity;
            let draws = draws(&self.key, &candidate.member.node, self.holders.len());
            for (index, draw) in draws.into_iter().enumerate() {
                let is_open = self.holders.get(index).is_some_and(Option::is_none);
                if !is_open || expected.is_some_and(|expected| is_far(draw, capacity, weights, expected)) {
                    continue;
                }
                let log = negative_log2(draw);
                if expected.is_none_or(|expected| is_near(log, capacity, weights, expected)) {
                    pairs.push(Pair { log, capacity, index, place });
                }
            }
        }
        let rest = |pair: &Pair| (pair.index, pair.place);
        pairs.sort_unstable_by(|a, b| {
            scores((a.log, a.capacity), (b.log, b.capacity)).then_with(|| rest(a).cmp(&rest(b)))
        });
        pairs
    }
}

/// Whether -log2(u) / capacity, of which so many of all are expected below it, is in any case greater than
/// expected / weights: -log2(u) is no less than 1 - u, which is quicker to compute.
fn is_far(draw: u64, capacity: u64, weights: u128, expected: u128) -> bool {
    // 48 bits times 76, and 64 times 9 with 48 more: neither overflows.
    u128::from(!draw >> 16) * weights > (u128::from(capacity) * expected) << 48
}

/// Whether -log2(u) / capacity is at most expected / weights.
fn is_near(log: u64, capacity: u64, weights: u128, expected: u128) -> bool {
    // 47 bits times 76, and 64 times 9 with 40 more.
    u128::from(log) * weights <= (u128::from(capacity) * expected) << LOG_BITS
}

/// A node's draw for each shard index: the extended BLAKE3 output of its id, keyed with the placement key, from the
/// second block on (the first one ranks).
fn draws(key: &[u8; 32], node: &NodeId, indexes: usize) -> Vec<u64> {
    let mut bytes = vec![0; indexes.saturating_mul(size_of::<u64>())];
    let mut output = blake3::Hasher::new_keyed(key).update(node.as_bytes()).finalize_xof();
    output.set_position(blake3::BLOCK_LEN as u64);
    output.fill(&mut bytes);
    bytes.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests;
