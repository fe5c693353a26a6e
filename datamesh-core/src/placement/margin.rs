//! How many more holders an object can lose.

use std::collections::BTreeMap;

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::Member;

/// Steps of the exact search before it settles for a margin that is proved so far. A million steps take about
/// 16 ms; fourteen holders with any duplicates need at most 2^14.
pub(super) const MAX_STEPS: usize = 1 << 20;

/// The greatest f such that any f of the holders may be lost and k distinct shard indexes remain.
///
/// `None` where fewer than k are there already. A holder may be listed more than once. Where no index
/// is held twice this is exact by counting, and otherwise by a search over the losses; beyond about twenty
/// holders with many duplicates the search may stop early with a margin that is certain but perhaps too small.
pub fn margin<H: Ord + Copy>(holdings: &[(H, Vec<u8>)], k: usize) -> Option<usize> {
    let mut holders: BTreeMap<H, Indexes> = BTreeMap::new();
    for (holder, indexes) in holdings {
        let held = holders.entry(*holder).or_default();
        indexes.iter().for_each(|index| held.insert(*index));
    }
    let mut holders: Vec<_> = holders.into_values().filter(|held| held.len() > 0).collect();
    // Those who hold most first: so a loss that breaks the object is found early.
    holders.sort_by_key(|held| std::cmp::Reverse(held.len()));
    let all = union(&holders);
    if all.len() < k {
        return None;
    }
    let total: usize = holders.iter().map(Indexes::len).sum();
    let certain = margin_by_count(&holders, all.len(), k);
    Some(if total == all.len() { certain } else { search(&holders, k, certain) })
}

/// The greatest f such that any f zones may be lost and k distinct shard indexes remain.
///
/// Holders that are not among `members` stand for one zone together, the cautious reading.
pub fn zone_margin(holdings: &[(NodeId, Vec<u8>)], members: &[Member], k: usize) -> Option<usize> {
    let zones: BTreeMap<NodeId, &Zone> = members.iter().map(|member| (member.node, &member.zone)).collect();
    let by_zone: Vec<(Option<&Zone>, Vec<u8>)> =
        holdings.iter().map(|(node, indexes)| (zones.get(node).copied(), indexes.clone())).collect();
    margin(&by_zone, k)
}

/// The margin if every index of a lost holder were lost: exact without duplicates, certain with them.
fn margin_by_count(holders: &[Indexes], distinct: usize, k: usize) -> usize {
    let mut left = distinct;
    let survives = |held: &&Indexes| {
        left = left.saturating_sub(held.len());
        left >= k
    };
    holders.iter().take_while(survives).count()
}

/// Raises a certain margin until some loss of one more holder breaks the object.
fn search(holders: &[Indexes], k: usize, certain: usize) -> usize {
    let mut steps = MAX_STEPS;
    let mut proved = certain;
    while proved < holders.len() && !may_break(holders, Indexes::default(), proved + 1, k, &mut steps) {
        proved += 1;
    }
    proved
}

/// Whether losing some `losses` of `holders` leaves fewer than k indexes, with those of `kept` kept;
/// `true` as well when the steps are used up.
pub(super) fn may_break(
    holders: &[Indexes],
    kept: Indexes,
    losses: usize,
    k: usize,
    steps: &mut usize,
) -> bool {
    // Once k are kept no further loss can matter.
    if kept.len() >= k {
        return false;
    }
    let Some((first, rest)) = holders.split_first().filter(|_| losses < holders.len()) else {
        return true;
    };
    if losses == 0 {
        return holders.iter().fold(kept, Indexes::with).len() < k;
    }
    *steps = steps.saturating_sub(1);
    *steps == 0
        || may_break(rest, kept, losses - 1, k, steps)
        || may_break(rest, kept.with(first), losses, k, steps)
}

pub(super) fn union(holders: &[Indexes]) -> Indexes {
    holders.iter().fold(Indexes::default(), Indexes::with)
}

/// A set of shard indexes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Indexes([u64; 4]);

impl Indexes {
    pub(super) fn insert(&mut self, index: u8) {
        if let Some(word) = self.0.get_mut(usize::from(index >> 6)) {
            *word |= 1 << (index & 63);
        }
    }

    pub(super) fn contains(&self, index: u8) -> bool {
        self.0.get(usize::from(index >> 6)).is_some_and(|word| word >> (index & 63) & 1 == 1)
    }

    pub(super) fn with(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{members, node};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn brute_force(holdings: &[(usize, Vec<u8>)], k: usize) -> Option<usize> {
        let survives = |lost: u32| {
            let left = holdings.iter().enumerate().filter(|(i, _)| lost & (1 << i) == 0);
            left.flat_map(|(_, (_, held))| held.iter().copied()).collect::<BTreeSet<_>>().len() >= k
        };
        let nodes = holdings.len();
        let all_of =
            |f: usize| (0u32..1 << nodes).filter(move |l| l.count_ones() as usize == f).all(survives);
        (0..=nodes).take_while(|f| all_of(*f)).last()
    }

    #[test]
    fn counted_by_hand() {
        let one_each: Vec<_> = (0..6).map(|i| (i, vec![i as u8])).collect();
        assert_eq!(margin(&one_each, 4), Some(2));
        assert_eq!(margin(&one_each[..4], 4), Some(0));
        assert_eq!(margin(&one_each[..3], 4), None);
        assert_eq!(margin::<usize>(&[], 1), None);
        let two_each = [(0, vec![0, 1]), (1, vec![2, 3]), (2, vec![4, 5])];
        assert_eq!(margin(&two_each, 4), Some(1));
        assert_eq!(margin(&[(0, vec![0]), (0, vec![1])], 1), Some(0), "one holder, listed twice");
        let copies: Vec<_> = (0..5).map(|i| (i, vec![0])).collect();
        assert_eq!(margin(&copies, 1), Some(4));
    }

    #[test]
    fn zones_count_as_one() {
        let all = members(6, 3);
        let held: Vec<_> = (0..6).map(|i| (node(i), vec![i as u8])).collect();
        assert_eq!(margin(&held, 4), Some(2));
        assert_eq!(zone_margin(&held, &all, 4), Some(1));
        assert_eq!(zone_margin(&held, &[], 4), Some(0), "unknown nodes are one zone");
    }

    #[test]
    fn the_hardest_case_ends() {
        let held: Vec<_> = (0..40u8)
            .map(|i| (i, (0..20).map(|j| i.wrapping_mul(7).wrapping_add(j * 5)).collect()))
            .collect();
        let found = margin(&held, 100).unwrap();
        assert!((1..40).contains(&found));
    }

    proptest! {
        #[test]
        fn agrees_with_all_subsets(
            held in proptest::collection::vec(proptest::collection::vec(0u8..10, 0..5), 0..9), k in 1usize..8
        ) {
            let holdings: Vec<_> = held.into_iter().enumerate().collect();
            let exact = brute_force(&holdings, k);
            let nodes = holdings.iter().filter(|(_, held)| !held.is_empty()).count();
            // A node that holds nothing is no holder, so it does not count.
            prop_assert_eq!(margin(&holdings, k), exact.map(|f| f.min(nodes)));
        }
    }
}
