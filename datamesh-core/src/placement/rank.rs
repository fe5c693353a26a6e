//! Ranking of members for a placement key.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::Member;
use crate::planted::{Bug, is_active};
use crate::ports::Redundancy;

/// Fractional bits of the fixed-point logarithm. Forty resolve draws of thousands of members, whose
/// winners differ by about one part in the number of members, and leave room for exact products in `u128`.
pub(super) const LOG_BITS: u32 = 40;

/// The members that can hold data, best first, for one placement key.
#[derive(Debug, Clone)]
pub struct Ranking<'a> {
    key: [u8; 32],
    members: Vec<&'a Member>,
}

/// Ranks the members for a placement key.
///
/// Weighted rendezvous hashing: each member draws u from (0, 1] by BLAKE3 of its id, keyed with the
/// placement key, and scores -log(u) / capacity; the smallest score is first, equal scores go by id. A
/// member is first for a share of all keys that is proportional to its capacity, and when a member comes
/// or goes only keys that it wins or won change. Members without capacity are clients and are left out.
///
/// The logarithm is computed in integers, bit by bit, and scores are compared by cross-multiplication, so
/// that the order is the same on every machine.
///
/// After D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates" (IEEE/ACM
/// Transactions on Networking, 1998), and for the weights C. Schindelhauer and G. Schomaker, "Weighted
/// distributed hash tables" (SPAA 2005).
pub fn rank<'a>(key: &[u8; 32], members: &'a [Member]) -> Ranking<'a> {
    let mut scored: Vec<_> = members
        .iter()
        .filter(|member| member.capacity > 0)
        .map(|member| (negative_log2(draw(key, &member.node)), member))
        .collect();
    scored.sort_by(|a, b| compare(*a, *b));
    scored.dedup_by_key(|(_, member)| member.node);
    if is_active(Bug::HashOrderPlacement) {
        in_hash_order(&mut scored);
    }
    Ranking { key: *key, members: scored.into_iter().map(|(_, member)| member).collect() }
}

/// What a placement would do that went through a hash table: the order differs from run to run.
#[expect(clippy::disallowed_types, reason = "this is the bug that is planted")]
fn in_hash_order<T>(all: &mut [(T, &Member)]) {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    all.sort_by_key(|(_, member)| state.hash_one(member.node));
}

impl<'a> Ranking<'a> {
    /// The ranked members, best first.
    pub fn members(&self) -> &[&'a Member] {
        &self.members
    }

    /// The ranked nodes, best first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|member| member.node)
    }

    /// How many members can hold data.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether no member can hold data.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All ranked nodes in the order in which they come to hold a manifest: the first of each zone, then the second
    /// of each, and so on, within such a round by rank. So the loss of a zone takes no more of them than it must.
    pub fn manifest_order(&self) -> Vec<NodeId> {
        let mut seen: BTreeMap<&Zone, usize> = BTreeMap::new();
        let mut order: Vec<(usize, NodeId)> = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let round = seen.entry(&member.zone).or_default();
            order.push((*round, member.node));
            *round += 1;
        }
        order.sort_by_key(|(round, _)| *round);
        order.into_iter().map(|(_, node)| node).collect()
    }

    /// The holders of a manifest: the m + 1 first nodes of the [manifest order](Self::manifest_order), or all where
    /// there are fewer.
    pub fn manifest_holders(&self, redundancy: Redundancy) -> Vec<NodeId> {
        let mut order = self.manifest_order();
        order.truncate(redundancy.parity().saturating_add(1));
        order
    }

    /// All ranked nodes in the order in which they are asked for an extent: the holders that the ranking assigns,
    /// by shard index, then the others by rank.
    pub fn extent_order(&self, redundancy: Redundancy) -> Vec<NodeId> {
        let assigned = self.assign(redundancy);
        let mut seen = BTreeSet::new();
        let holders = assigned.iter().flat_map(|assigned| assigned.holders().iter().copied());
        holders.chain(self.nodes()).filter(|node| seen.insert(*node)).collect()
    }

    /// The placement key.
    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

/// A member's uniform draw for a key.
fn draw(key: &[u8; 32], node: &NodeId) -> u64 {
    let hash = blake3::keyed_hash(key, node.as_bytes());
    hash.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// The order of two members: by -log(u) / capacity, then by id.
fn compare((log_a, a): (u64, &Member), (log_b, b): (u64, &Member)) -> Ordering {
    scores((log_a, a.capacity), (log_b, b.capacity)).then_with(|| a.node.cmp(&b.node))
}

/// The order of two scores, each a logarithm and the capacity that divides it.
pub(super) fn scores((log_a, capacity_a): (u64, u64), (log_b, capacity_b): (u64, u64)) -> Ordering {
    // a / x < b / y exactly when a * y < b * x; 47 bits times 64 bits cannot overflow.
    let left = u128::from(log_a) * u128::from(capacity_b);
    let right = u128::from(log_b) * u128::from(capacity_a);
    left.cmp(&right)
}

/// -log2((draw + 1) / 2^64) with [`LOG_BITS`] fractional bits.
///
/// The whole part is the position of the highest bit; each squaring of the mantissa, a number in [1, 2),
/// then yields one more binary digit of its logarithm.
pub(super) fn negative_log2(draw: u64) -> u64 {
    let number = u128::from(draw) + 1;
    let whole = number.ilog2();
    // The mantissa with 63 fractional bits; for 2^64 itself that is a shift to the right.
    let mut mantissa = ((number << 63) >> whole) as u64;
    let mut log = u64::from(whole);
    for _ in 0..LOG_BITS {
        // In [1, 4) with 126 fractional bits: the highest bit says whether it is 2 or more.
        let square = u128::from(mantissa) * u128::from(mantissa);
        let digit = (square >> 127) as u64;
        mantissa = (square >> (63 + digit)) as u64;
        log = (log << 1) | digit;
    }
    (64 << LOG_BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{key, members, node};
    use proptest::prelude::*;

    #[test]
    fn logarithm_matches_floating_point() {
        for draw in [0, 1, 2, 6, 1 << 20, (1 << 40) + 12_345, u64::MAX / 3, u64::MAX - 1, u64::MAX] {
            let exact = 64.0 - (draw as f64 + 1.0).log2();
            let fixed = negative_log2(draw) as f64 / (1u64 << LOG_BITS) as f64;
            assert!((exact - fixed).abs() < 1e-9, "{draw}: {exact} and {fixed}");
        }
        assert_eq!(negative_log2(0), 64 << LOG_BITS);
        assert_eq!(negative_log2(u64::MAX), 0);
    }

    /// Pinned: a change here moves every shard of every mesh.
    #[test]
    fn order_is_pinned() {
        let mut members = members(8, 1);
        members[3].capacity = 5;
        let order: Vec<u8> = rank(&key(1), &members).nodes().map(|node| node.as_bytes()[0]).collect();
        assert_eq!(order, PINNED);
    }
    const PINNED: [u8; 8] = [0, 2, 1, 7, 4, 5, 6, 3];

    #[test]
    fn clients_and_repeated_members_are_left_out() {
        let mut members = members(4, 1);
        members[2].capacity = 0;
        members.push(members[0].clone());
        let ranking = rank(&key(1), &members);
        assert_eq!(ranking.len(), 3);
        assert!(!ranking.nodes().any(|n| n == node(2)));
    }

    #[test]
    fn manifests_and_extents_are_looked_for_where_they_should_be() {
        let all = members(9, 3);
        for i in 0..100 {
            let key = key(i);
            let ranking = rank(&key, &all);
            let zones = |nodes: &[NodeId]| {
                let zone = |node: &NodeId| all.iter().find(|m| m.node == *node).unwrap().zone.clone();
                nodes.iter().map(zone).collect::<BTreeSet<_>>().len()
            };
            let order = ranking.manifest_order();
            assert!(order.chunks(3).all(|round| zones(round) == 3));
            assert_eq!(order[0], ranking.members()[0].node);
            assert_eq!(ranking.manifest_holders(Redundancy::STANDARD), order[..3]);
            let order = ranking.extent_order(Redundancy::STANDARD);
            assert_eq!(order[..6], *ranking.assign(Redundancy::STANDARD).unwrap().holders());
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 9);
        }
        let one_zone = members(9, 1);
        let ranking = rank(&[1; 32], &one_zone);
        assert!(ranking.manifest_order().into_iter().eq(ranking.nodes()));
    }

    #[test]
    fn first_places_are_uniform() {
        const KEYS: u64 = 100_000;
        const NODES: usize = 5;
        let members = members(NODES, 1);
        let mut wins = [0u64; NODES];
        for i in 0..KEYS {
            let first = rank(&key(i), &members).members()[0].node;
            wins[members.iter().position(|m| m.node == first).unwrap()] += 1;
        }
        let expected = KEYS as f64 / NODES as f64;
        let chi: f64 = wins.iter().map(|w| (*w as f64 - expected).powi(2) / expected).sum();
        // Four degrees of freedom: 18.5 is exceeded once in a thousand times.
        assert!(chi < 18.5, "chi-square {chi}, wins {wins:?}");
    }

    /// A member makes its own id, and may make many and keep the one that does best for the keys that it knows. Keys that
    /// it does not know it hits as often as any other; one that it knows it can aim at.
    #[test]
    fn ground_ids_win_keys_that_are_known_and_no_others() {
        const GROUND: usize = 10_000;
        const UNKNOWN: u64 = 2000;
        let mut all = members(10, 1);
        let ids = || {
            (0..GROUND)
                .map(|i| NodeId::from_bytes(*blake3::hash(&[b'g', i as u8, (i >> 8) as u8]).as_bytes()))
        };
        let known: Vec<_> = (0..20).map(|i| key((1 << 40) + i)).collect();
        let holds = |node: &NodeId, key: &[u8; 32]| {
            let mut all = members(10, 1);
            all[9].node = *node;
            rank(key, &all).assign(Redundancy::STANDARD).unwrap().holders().contains(node)
        };
        // The greater the draw, the better the place.
        let least = |node: &NodeId| known.iter().map(|key| draw(key, node)).min();
        let for_many =
            ids().take(1000).max_by_key(|node| known.iter().filter(|key| holds(node, key)).count()).unwrap();
        let for_all = ids().max_by_key(least).unwrap();
        let for_one = ids().max_by_key(|node| draw(&known[0], node)).unwrap();
        for ground in [for_many, for_all, for_one, ids().min().unwrap(), ids().max().unwrap()] {
            all[9].node = ground;
            let hits = |key: &[u8; 32]| holds(&ground, key);
            let won = (0..UNKNOWN).filter(|i| hits(&key(*i))).count() as f64;
            // Six of ten hold each extent.
            let (chance, sigma) = (0.6 * UNKNOWN as f64, (0.6 * 0.4 * UNKNOWN as f64).sqrt());
            assert!((won - chance).abs() < 3.0 * sigma, "{won} of {UNKNOWN}");
            // Of those that it knows it has what it aimed at.
            let aimed = known.iter().filter(|key| hits(key)).count();
            assert!(ground != for_many || aimed > 16, "{aimed} of {}", known.len());
            assert!(ground != for_one || rank(&known[0], &all).members()[0].node == ground);
        }
    }

    #[test]
    fn first_places_follow_capacity() {
        let mut members = members(4, 1);
        for (i, member) in members.iter_mut().enumerate() {
            member.capacity = (i as u64 + 1) << 40;
        }
        let mut wins = [0u64; 4];
        for i in 0..20_000 {
            let first = rank(&key(i), &members).members()[0].node;
            wins[members.iter().position(|m| m.node == first).unwrap()] += 1;
        }
        for (i, won) in wins.iter().enumerate() {
            let expected = 2_000.0 * (i as f64 + 1.0);
            assert!((*won as f64 - expected).abs() < 5.0 * expected.sqrt(), "{wins:?}");
        }
    }

    proptest! {
        #[test]
        fn order_does_not_depend_on_the_order_of_the_view(
            number in 1usize..20, seed: u64, swaps in proptest::collection::vec((0usize..20, 0usize..20), 0..20)
        ) {
            let sorted = members(number, 3);
            let mut shuffled = sorted.clone();
            for (a, b) in swaps {
                shuffled.swap(a % number, b % number);
            }
            let first: Vec<_> = rank(&key(seed), &sorted).nodes().collect();
            let second: Vec<_> = rank(&key(seed), &shuffled).nodes().collect();
            prop_assert_eq!(first, second);
        }

        #[test]
        fn extreme_capacities_do_not_overflow(capacities in proptest::collection::vec(0u64.., 1..8), seed: u64) {
            let mut all = members(capacities.len(), 1);
            for (member, capacity) in all.iter_mut().zip(&capacities) {
                member.capacity = if *capacity % 3 == 0 { u64::MAX } else { *capacity };
            }
            prop_assert!(rank(&key(seed), &all).len() <= all.len());
        }

        #[test]
        fn removing_a_member_keeps_the_order_of_the_others(number in 2usize..20, gone in 0usize..20, seed: u64) {
            let all = members(number, 1);
            let mut fewer = all.clone();
            let gone = fewer.remove(gone % number).node;
            let before: Vec<_> = rank(&key(seed), &all).nodes().filter(|n| *n != gone).collect();
            let after: Vec<_> = rank(&key(seed), &fewer).nodes().collect();
            prop_assert_eq!(before, after);
        }
    }
}
