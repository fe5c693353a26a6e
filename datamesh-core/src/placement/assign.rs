//! Which node holds which shard of an extent.

mod seating;

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::Member;
use crate::placement::margin::{Indexes, margin};
use crate::placement::rank::{LOG_BITS, Ranking, negative_log2, scores};
use crate::ports::Redundancy;
use seating::Seating;

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

    /// The same holders with as many shards each, but as few that must move as possible, from what is held already.
    ///
    /// Which of its nodes has which shard of an extent is nothing to the code. So who comes or goes costs the shards that
    /// it wins or held, and no other: by the numbering alone another one would move now and then, and often where there
    /// are hardly more nodes than shards. What stays is a greatest matching of indexes with places (augmenting paths,
    /// C. Berge, "Two theorems in graph theory", 1957), which begins with those that are in their own place; what must
    /// move goes to its own place where that is free. The same holdings give the same on every node.
    #[must_use]
    pub fn keeping(&self, holdings: &[(NodeId, Vec<u8>)]) -> Self {
        let mut held: BTreeMap<NodeId, Indexes> = BTreeMap::new();
        for (node, indexes) in holdings {
            let held = held.entry(*node).or_default();
            indexes.iter().for_each(|index| held.insert(*index));
        }
        let has = self.holders.iter().map(|node| held.get(node).copied().unwrap_or_default()).collect();
        Seating::new(has).finish(&self.holders)
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
    /// First each index is given a zone, then a node of that zone. Every pair of an index and a zone has a draw of its
    /// own, and so has every pair of an index and a node, weighted by its capacity as [`rank`](super::rank) weights its
    /// draws; pairs are walked from the smallest score on, and an index goes to the first that has room. A zone has room
    /// for ceil(n / zones), and a node for ceil(n / nodes); where zones have too few nodes for that, the cap of zones is
    /// raised by one until there is room. In a zone a node takes one shard in the first round, and in each further round
    /// one more.
    ///
    /// A node that comes or goes so changes the holders of the shards that it wins or held, and seldom of another: the
    /// zones of indexes do not depend on it, and a numbering by rank would shift all. What changes but their order need
    /// not move ([`Assignment::keeping`]), and then its part does and hardly more, in zones as well as in one.
    /// Walking all pairs by their scores is how stable pairs are found, after D. Gale and L. Shapley, "College admissions
    /// and the stability of marriage" (1962), where both sides want the same pair first.
    ///
    /// Zones count alike up to n of them, since each takes as much as any other then. More are weighted by their
    /// capacities, those of several nodes by the power of two below, so that hardly ever a node changes the weight of its
    /// zone. Where one does, or is the first of a zone, more is moved: its part and about half as much again.
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

/// How many more pairs than are needed are tried for each index before all are: enough that hardly ever an index is left
/// over.
const NEAR: u128 = 16;

/// A node and how many shards it has.
struct Place<'a> {
    member: &'a Member,
    zone: usize,
    held: usize,
}

/// A zone, what its nodes hold and have room for.
#[derive(Default)]
struct Within {
    nodes: usize,
    held: usize,
    room: usize,
    capacity: u128,
}

/// Who may be given an index: a zone, or a node.
struct Candidate {
    capacity: u64,
    /// For each index.
    draws: Vec<u64>,
    /// The capacity of all that it competes with.
    weights: u128,
    /// How many of the pairs of an index count as near.
    near: u128,
}

/// A shard index that may go to a candidate, and the draw that says how soon.
struct Pair {
    log: u64,
    capacity: u64,
    index: usize,
    candidate: usize,
}

/// The shards of an extent being handed out.
struct Filling<'a> {
    key: [u8; 32],
    places: Vec<Place<'a>>,
    /// By name.
    zones: BTreeMap<&'a Zone, Within>,
    holders: Vec<Option<NodeId>>,
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
        let live: Vec<&Member> =
            ranking.members().iter().copied().filter(|member| !failed.contains(&member.node)).collect();
        let node_cap = redundancy.total().div_ceil(live.len().max(1));
        let held = |member: &Member| counts.get(&member.node).copied().unwrap_or(0);
        let mut zones: BTreeMap<&Zone, Within> = BTreeMap::new();
        for member in &live {
            let zone = zones.entry(&member.zone).or_default();
            zone.nodes += 1;
            zone.held += held(member);
            zone.room += node_cap.saturating_sub(held(member));
            zone.capacity += u128::from(member.capacity);
        }
        let numbers: BTreeMap<&Zone, usize> = zones.keys().copied().zip(0..).collect();
        let place = |member: &&'a Member| {
            Some(Place { member, zone: *numbers.get(&member.zone)?, held: held(member) })
        };
        let places: Vec<Place<'a>> = live.iter().filter_map(place).collect();
        (!places.is_empty()).then(|| Self { key: *ranking.key(), places, zones, holders: kept, node_cap })
    }

    /// Finds a place for every open index.
    fn finish(mut self) -> Option<Assignment> {
        let zones = self.choose_zones(false);
        let candidates = self.nodes(&zones);
        // The near pairs are those that a walk of all would try first, so that it can go on where this one ends.
        let near = self.pairs_of_nodes(&zones, &candidates, false);
        self.walk(&near, 1);
        if self.holders.iter().any(Option::is_none) {
            let all = self.pairs_of_nodes(&zones, &candidates, true);
            self.walk_rounds(&all);
        }
        self.holders.into_iter().collect::<Option<_>>().map(|holders| Assignment { holders })
    }

    fn walk_rounds(&mut self, pairs: &[Pair]) {
        for round in 1..=self.node_cap {
            self.walk(pairs, round);
        }
    }

    /// One walk over the pairs that brings nodes to at most `round` shards.
    fn walk(&mut self, pairs: &[Pair], round: usize) {
        for pair in pairs {
            let Some(holder) = self.holders.get_mut(pair.index) else { continue };
            let Some(place) = self.places.get_mut(pair.candidate) else { continue };
            if holder.is_none() && place.held < round {
                *holder = Some(place.member.node);
                place.held += 1;
            }
        }
    }

    /// The zone of each index; of those that have a holder it says nothing. The near pairs are tried first, unless all
    /// are to be.
    fn choose_zones(&self, mut is_all: bool) -> Vec<usize> {
        let total = self.holders.len();
        if self.zones.len() == 1 {
            return vec![0; total];
        }
        let is_open = |index: usize| self.holders.get(index).is_some_and(Option::is_none);
        let mut chosen: Vec<Option<usize>> = vec![None; total];
        let mut left = (0..total).filter(|index| is_open(*index)).count();
        let mut held: Vec<usize> = self.zones.values().map(|zone| zone.held).collect();
        let most: Vec<usize> = self.zones.values().map(|zone| zone.held + zone.room).collect();
        let mut cap = total.div_ceil(self.zones.len());
        let candidates = self.weighted_zones();
        let mut pairs = pairs(&candidates, |index, _| is_open(index), is_all);
        // Caps of all shards make room for all, as those of the nodes together do.
        while left > 0 && cap <= total {
            for pair in &pairs {
                let Some(chosen) = chosen.get_mut(pair.index) else { continue };
                let Some(held) = held.get_mut(pair.candidate) else { continue };
                let most = most.get(pair.candidate).copied().unwrap_or(0);
                if chosen.is_none() && *held < cap.min(most) {
                    *chosen = Some(pair.candidate);
                    *held += 1;
                    left -= 1;
                }
            }
            if is_all {
                cap += 1;
            } else if left > 0 {
                pairs = self::pairs(&candidates, |index, _| is_open(index), true);
                is_all = true;
            }
        }
        chosen.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// The zones as candidates.
    fn weighted_zones(&self) -> Vec<Candidate> {
        let total = self.holders.len();
        let weight = |zone: &Within| match zone.nodes {
            _ if self.zones.len() <= total => 1,
            1 => u64::try_from(zone.capacity).unwrap_or(u64::MAX),
            _ => 1 << zone.capacity.max(1).ilog2().min(63),
        };
        let weights = self.zones.values().map(|zone| u128::from(weight(zone))).sum();
        let candidate = |(name, zone): (&&Zone, &Within)| Candidate {
            capacity: weight(zone),
            draws: draws(&self.key, &[ZONE, name.as_str().as_bytes()], total),
            weights,
            near: total as u128 + NEAR,
        };
        self.zones.iter().map(candidate).collect()
    }

    /// The nodes as candidates for the indexes of their zones.
    fn nodes(&self, zones: &[usize]) -> Vec<Candidate> {
        let total = self.holders.len();
        let all: Vec<&Within> = self.zones.values().collect();
        let candidate = |place: &Place<'_>| Candidate {
            capacity: place.member.capacity,
            draws: draws(&self.key, &[place.member.node.as_bytes()], total),
            weights: all.get(place.zone).map_or(0, |zone| zone.capacity),
            near: zones.iter().filter(|zone| **zone == place.zone).count() as u128 + NEAR,
        };
        self.places.iter().map(candidate).collect()
    }

    fn pairs_of_nodes(&self, zones: &[usize], candidates: &[Candidate], is_all: bool) -> Vec<Pair> {
        let is_open = |index: usize, place: usize| {
            let is_of_it = zones.get(index).copied() == self.places.get(place).map(|place| place.zone);
            is_of_it && self.holders.get(index).is_some_and(Option::is_none)
        };
        pairs(candidates, is_open, is_all)
    }
}

/// The pairs of open indexes and candidates, the smallest score first: all of them, or those with scores so small that
/// about as many of each index are expected as count as near.
fn pairs(candidates: &[Candidate], is_open: impl Fn(usize, usize) -> bool, is_all: bool) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (number, candidate) in candidates.iter().enumerate() {
        let (capacity, weights, near) = (candidate.capacity, candidate.weights, candidate.near);
        for (index, draw) in candidate.draws.iter().enumerate() {
            if !is_open(index, number) || !is_all && is_far(*draw, capacity, weights, near) {
                continue;
            }
            let log = negative_log2(*draw);
            if is_all || is_near(log, capacity, weights, near) {
                pairs.push(Pair { log, capacity, index, candidate: number });
            }
        }
    }
    let rest = |pair: &Pair| (pair.index, pair.candidate);
    pairs.sort_unstable_by(|a, b| {
        scores((a.log, a.capacity), (b.log, b.capacity)).then_with(|| rest(a).cmp(&rest(b)))
    });
    pairs
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

/// What precedes the name of a zone, so that no zone draws as a node.
const ZONE: &[u8] = b"zone ";

/// The draw of a node or zone for each shard index: the extended BLAKE3 output of its id, keyed with the placement key,
/// from the second block on (the first one ranks).
fn draws(key: &[u8; 32], id: &[&[u8]], indexes: usize) -> Vec<u64> {
    let mut bytes = vec![0; indexes.saturating_mul(size_of::<u64>())];
    let mut hasher = blake3::Hasher::new_keyed(key);
    id.iter().for_each(|part| {
        hasher.update(part);
    });
    let mut output = hasher.finalize_xof();
    output.set_position(blake3::BLOCK_LEN as u64);
    output.fill(&mut bytes);
    bytes.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests;
