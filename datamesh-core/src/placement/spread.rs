//! How the shards of an extent spread over nodes and zones, whatever the ranking says.

use crate::ports::Redundancy;

/// Shards spread over nodes as evenly as can be: `each` on every node, and one more on `more` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    pub(super) each: u64,
    pub(super) more: u64,
    data: u64,
    total: u64,
}

impl Spread {
    /// The shards of an extent on this many nodes, at least one.
    pub(super) fn new(redundancy: Redundancy, nodes: u64) -> Self {
        let total = redundancy.total() as u64;
        let nodes = nodes.max(1);
        Self { each: total / nodes, more: total % nodes, data: redundancy.data() as u64, total }
    }

    /// How many nodes hold something.
    pub(super) fn holders(&self) -> usize {
        let all = self.total.checked_sub(self.more).and_then(|even| even.checked_div(self.each));
        usize::try_from(all.unwrap_or(self.more)).unwrap_or(usize::MAX)
    }

    /// How many nodes any loss may take so that k shards remain.
    pub(super) fn margin(&self) -> usize {
        let spare = self.total - self.data;
        // The fullest go first.
        let full = (spare / (self.each + 1)).min(self.more);
        let rest = (spare - full * (self.each + 1)).checked_div(self.each).filter(|_| full == self.more);
        usize::try_from(full + rest.unwrap_or(0)).unwrap_or(usize::MAX)
    }
}

/// The most shards of an extent that each of these zones, given by the number of their nodes, can come to hold.
///
/// The caps of [`Ranking::assign`](crate::placement::Ranking::assign): ceil(n / nodes) on a node, and in a zone
/// ceil(n / zones) or the least more that makes room for all.
pub(super) fn most_in_each_zone(redundancy: Redundancy, zones: &[u64]) -> Vec<u64> {
    let total = redundancy.total() as u64;
    let nodes: u64 = zones.iter().sum();
    let peopled = zones.iter().filter(|nodes| **nodes > 0).count() as u64;
    let Some(node_cap) = (nodes > 0).then(|| total.div_ceil(nodes)) else { return vec![0; zones.len()] };
    let room = |cap: u64| zones.iter().map(move |nodes| nodes.saturating_mul(node_cap).min(cap));
    let cap = (total.div_ceil(peopled.max(1))..total).find(|cap| room(*cap).sum::<u64>() >= total);
    room(cap.unwrap_or(total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{key, members};
    use crate::placement::{Member, rank};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn spreads_of_the_standard_code() {
        let margins = [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (9, 2)];
        for (nodes, margin) in margins {
            let spread = Spread::new(Redundancy::STANDARD, nodes);
            assert_eq!((spread.margin(), spread.holders()), (margin, nodes.min(6) as usize), "{nodes} nodes");
        }
    }

    /// Members in zones of these sizes.
    fn zoned(sizes: &[u64]) -> Vec<Member> {
        let mut all = members(sizes.iter().sum::<u64>() as usize, 1);
        let zones = sizes.iter().enumerate().flat_map(|(zone, size)| (0..*size).map(move |_| zone));
        for (member, zone) in all.iter_mut().zip(zones) {
            member.zone = format!("z{zone}").parse().unwrap();
        }
        all
    }

    proptest! {
        #[test]
        fn margins_are_those_of_assignments(nodes in 1usize..14, k in 1u8..12, m in 0u8..12, seed: u64) {
            let redundancy = Redundancy::new(k, m).unwrap();
            let all = members(nodes, 1);
            let spread = Spread::new(redundancy, nodes as u64);
            let assignment = rank(&key(seed), &all).assign(redundancy).unwrap();
            let holders: BTreeSet<_> = assignment.holders().iter().collect();
            prop_assert_eq!(Some(spread.margin()), assignment.margin(redundancy));
            prop_assert_eq!(spread.holders(), holders.len());
        }

        #[test]
        fn no_zone_takes_more_than_its_most(
            sizes in proptest::collection::vec(1u64..5, 1..5), k in 1u8..8, m in 0u8..6, seed: u64
        ) {
            let redundancy = Redundancy::new(k, m).unwrap();
            let all = zoned(&sizes);
            let most = most_in_each_zone(redundancy, &sizes);
            for i in 0..20 {
                let assignment = rank(&key(seed.wrapping_add(i)), &all).assign(redundancy).unwrap();
                for (zone, most) in most.iter().enumerate() {
                    let name = format!("z{zone}");
                    let inside = |n: &&_| all.iter().any(|m| m.node == **n && m.zone.to_string() == name);
                    let held = assignment.holders().iter().filter(inside).count() as u64;
                    prop_assert!(held <= *most, "{held} in zone {zone} of {sizes:?}, {most} at most");
                }
            }
        }
    }

    #[test]
    fn the_most_of_a_zone_is_reached() {
        for sizes in [vec![5, 1, 1], vec![2, 2, 2], vec![4, 4], vec![3, 1], vec![6]] {
            let all = zoned(&sizes);
            let mut seen = vec![0; sizes.len()];
            for i in 0..300 {
                let assignment = rank(&key(i), &all).assign(Redundancy::STANDARD).unwrap();
                for (zone, seen) in seen.iter_mut().enumerate() {
                    let name = format!("z{zone}");
                    let inside = |n: &&_| all.iter().any(|m| m.node == **n && m.zone.to_string() == name);
                    *seen = assignment.holders().iter().filter(inside).count().max(*seen);
                }
            }
            let most = most_in_each_zone(Redundancy::STANDARD, &sizes);
            assert_eq!(seen.iter().map(|seen| *seen as u64).collect::<Vec<_>>(), most, "{sizes:?}");
        }
    }
}
