//! What may be lost together: nodes, whole zones, and both.

use std::collections::BTreeMap;

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::Member;
use crate::placement::margin::{Indexes, MAX_STEPS, may_break, union};
use crate::ports::Redundancy;

/// What any loss may take so that something can still be read: f nodes and, at the same time, z whole zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneMargins {
    /// For each number of zones, from none on, the nodes besides; never empty.
    beside: Vec<usize>,
}

impl ZoneMargins {
    /// What shards that are held so survive; `None` where fewer than k distinct indexes are there already.
    ///
    /// Exact by counting where no index is held twice, and otherwise by a search, which may stop early with what is
    /// certain but perhaps too little, as [`margin`](crate::placement::margin) does. Holders that are not among
    /// `members` stand for one zone together, the cautious reading.
    pub fn of_shards(holdings: &[(NodeId, Vec<u8>)], members: &[Member], k: usize) -> Option<Self> {
        let zones = by_zone(holdings, members);
        let every: Vec<Indexes> = zones.iter().flatten().copied().collect();
        let distinct = union(&every).len();
        let spare = distinct.checked_sub(k)?;
        let counted = counted(&zones, spare);
        let beside = match every.iter().map(Indexes::len).sum::<usize>() == distinct {
            true => counted,
            false => searched(&zones, k, &counted),
        };
        Self::new(beside)
    }

    /// What copies on these nodes survive, one of which is enough; `None` where there are none.
    pub fn of_copies(holders: &[NodeId], members: &[Member]) -> Option<Self> {
        let held: Vec<_> = holders.iter().map(|node| (*node, vec![0])).collect();
        let mut sizes: Vec<usize> = by_zone(&held, members).iter().map(Vec::len).collect();
        sizes.sort_unstable();
        // Without the largest zones the others are left, and one copy of theirs must be.
        let mut left = 0;
        let mut beside: Vec<usize> = sizes
            .into_iter()
            .map(|size| {
                left += size;
                left - 1
            })
            .collect();
        beside.reverse();
        Self::new(beside)
    }

    /// What an object survives: each of its extents, whose holders are given with the indexes that they hold, and its
    /// manifest. At most m nodes, however many hold copies; `None` where it cannot be read already.
    pub fn of_object<'a>(
        extents: impl IntoIterator<Item = &'a [(NodeId, Vec<u8>)]>,
        manifest_holders: &[NodeId],
        members: &[Member],
        redundancy: Redundancy,
    ) -> Option<Self> {
        let mut least = Self::of_copies(manifest_holders, members)?;
        for holdings in extents {
            least = least.and(&Self::of_shards(holdings, members, redundancy.data())?);
        }
        least.beside.iter_mut().for_each(|nodes| *nodes = (*nodes).min(redundancy.parity()));
        Some(least)
    }

    /// Any so many nodes may be lost: the margin.
    pub fn nodes(&self) -> usize {
        self.nodes_beside(0).unwrap_or(0)
    }

    /// Any so many whole zones may be lost.
    pub fn zones(&self) -> usize {
        self.beside.len().saturating_sub(1)
    }

    /// Any so many nodes may be lost besides any so many zones; `None` where the zones alone are too many.
    pub fn nodes_beside(&self, zones: usize) -> Option<usize> {
        self.beside.get(zones).copied()
    }

    /// What two things survive that are both needed.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { beside: self.beside.iter().zip(&other.beside).map(|(a, b)| *a.min(b)).collect() }
    }

    fn new(beside: Vec<usize>) -> Option<Self> {
        (!beside.is_empty()).then_some(Self { beside })
    }
}

/// The holders that hold something, by zone, and in each zone those with the most first.
fn by_zone(holdings: &[(NodeId, Vec<u8>)], members: &[Member]) -> Vec<Vec<Indexes>> {
    let zones: BTreeMap<NodeId, &Zone> = members.iter().map(|member| (member.node, &member.zone)).collect();
    let mut grouped: BTreeMap<Option<&Zone>, BTreeMap<NodeId, Indexes>> = BTreeMap::new();
    for (node, indexes) in holdings.iter().filter(|(_, indexes)| !indexes.is_empty()) {
        let held = grouped.entry(zones.get(node).copied()).or_default().entry(*node).or_default();
        indexes.iter().for_each(|index| held.insert(*index));
    }
    let fullest_first = |holders: BTreeMap<NodeId, Indexes>| {
        let mut holders: Vec<_> = holders.into_values().collect();
        holders.sort_by_key(|held| std::cmp::Reverse(held.len()));
        holders
    };
    grouped.into_values().map(fullest_first).collect()
}

/// The nodes besides each number of zones if every index of a lost holder were lost: exact without duplicates, certain
/// with them. Empty where no loss at all may be told certain.
fn counted(zones: &[Vec<Indexes>], spare: usize) -> Vec<usize> {
    let losses = most_lost(zones, spare + 1);
    let survived = |lost: &Vec<usize>| lost.iter().take_while(|lost| **lost <= spare).count().checked_sub(1);
    losses.iter().map_while(survived).collect()
}

/// The most shards that losing z zones and f nodes besides can take, for z and f up to `limit`.
///
/// Zone by zone, each is lost whole, or so many of its fullest nodes are.
fn most_lost(zones: &[Vec<Indexes>], limit: usize) -> Vec<Vec<usize>> {
    let width = zones.iter().map(Vec::len).sum::<usize>().min(limit) + 1;
    let mut most = vec![vec![0; width]; zones.len().min(limit) + 1];
    for zone in zones {
        let whole: usize = zone.iter().map(Indexes::len).sum();
        let before = most.clone();
        for (lost_zones, row) in most.iter_mut().enumerate() {
            let without = lost_zones.checked_sub(1).and_then(|fewer| before.get(fewer));
            let with = before.get(lost_zones);
            for (lost_nodes, cell) in row.iter_mut().enumerate() {
                let at = |row: Option<&Vec<usize>>, at: usize| row.and_then(|row| row.get(at)).copied();
                *cell = at(without, lost_nodes).map_or(0, |taken| taken + whole);
                let mut fullest = 0;
                for taken in 0..=lost_nodes.min(zone.len()) {
                    *cell = (*cell).max(at(with, lost_nodes - taken).unwrap_or(0) + fullest);
                    fullest += zone.get(taken).map_or(0, Indexes::len);
                }
            }
        }
    }
    most
}

/// Raises what is certain until some loss of one more node breaks the object, for each number of zones.
fn searched(zones: &[Vec<Indexes>], k: usize, certain: &[usize]) -> Vec<usize> {
    let mut steps = MAX_STEPS;
    let nodes: usize = zones.iter().map(Vec::len).sum();
    let mut beside = Vec::new();
    for lost_zones in 0..zones.len() {
        // How many nodes are proved to be too few, so that one number stands for none and for zero.
        let mut proved = certain.get(lost_zones).map_or(0, |nodes| nodes + 1);
        while proved <= nodes && !zones_may_break(zones, &mut Vec::new(), (lost_zones, proved), k, &mut steps)
        {
            proved += 1;
        }
        match proved.checked_sub(1) {
            Some(nodes) => beside.push(nodes),
            None => break,
        }
    }
    beside
}

/// Whether losing some `losses.0` of the zones and then `losses.1` nodes of those that are left and of `kept` leaves
/// fewer than k indexes; `true` as well when the steps are used up.
fn zones_may_break(
    zones: &[Vec<Indexes>],
    kept: &mut Vec<Indexes>,
    losses: (usize, usize),
    k: usize,
    steps: &mut usize,
) -> bool {
    let (lost_zones, lost_nodes) = losses;
    if lost_zones > zones.len() {
        return false;
    }
    *steps = steps.saturating_sub(1);
    let Some((first, rest)) = zones.split_first().filter(|_| lost_zones > 0) else {
        let mut holders: Vec<_> = kept.iter().chain(zones.iter().flatten()).copied().collect();
        *steps = steps.saturating_sub(holders.len());
        holders.sort_by_key(|held| std::cmp::Reverse(held.len()));
        return may_break(&holders, Indexes::default(), lost_nodes, k, steps);
    };
    if *steps == 0 || zones_may_break(rest, kept, (lost_zones - 1, lost_nodes), k, steps) {
        return true;
    }
    let length = kept.len();
    kept.extend(first);
    let breaks = zones_may_break(rest, kept, losses, k, steps);
    kept.truncate(length);
    breaks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{key, members, node};
    use crate::placement::{margin, rank, zone_margin};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Holders with their zones and indexes.
    type Held = Vec<(usize, Vec<u8>)>;

    /// Node `i` holds what the i-th entry says, in the zone that it says.
    fn lay(held: &Held) -> (Vec<(NodeId, Vec<u8>)>, Vec<Member>) {
        let mut all = members(held.len(), 1);
        for (member, (zone, _)) in all.iter_mut().zip(held) {
            member.zone = format!("z{zone}").parse().unwrap();
        }
        (held.iter().enumerate().map(|(i, (_, indexes))| (node(i), indexes.clone())).collect(), all)
    }

    /// Whether every loss of `zones` zones and `nodes` holders leaves k indexes, by trying them all.
    fn survives(held: &Held, k: usize, zones: usize, nodes: usize) -> bool {
        let masks: Vec<(usize, u32)> =
            held.iter().map(|(zone, held)| (*zone, held.iter().fold(0, |mask, i| mask | 1 << i))).collect();
        let named = masks.iter().fold(0u32, |named, (zone, _)| named | 1 << zone);
        let left = |lost_zones: u32, lost_nodes: u32| {
            let is_left = |(i, (zone, _)): &(usize, &(usize, u32))| {
                lost_zones & (1 << zone) == 0 && lost_nodes & (1 << i) == 0
            };
            masks.iter().enumerate().filter(is_left).fold(0, |left, (_, (_, mask))| left | mask).count_ones()
        };
        let of = |all: usize, some| (0u32..1 << all).filter(move |set| set.count_ones() as usize == some);
        of(5, zones)
            .filter(|lost| lost & !named == 0)
            .all(|lost| of(held.len(), nodes).all(|nodes| left(lost, nodes) as usize >= k))
    }

    fn brute_force(held: &Held, k: usize) -> Option<Vec<usize>> {
        let held: Held = held.iter().filter(|(_, indexes)| !indexes.is_empty()).cloned().collect();
        let zones = held.iter().map(|(zone, _)| *zone).collect::<BTreeSet<_>>().len();
        let beside = |zones| (0..=held.len()).take_while(|nodes| survives(&held, k, zones, *nodes)).last();
        let all: Vec<usize> = (0..=zones).map_while(beside).collect();
        (!all.is_empty()).then_some(all)
    }

    #[test]
    fn standard_on_three_zones() {
        let all = members(9, 3);
        for i in 0..50 {
            let assignment = rank(&key(i), &all).assign(Redundancy::STANDARD).unwrap();
            let margins = ZoneMargins::of_shards(&assignment.by_node(), &all, 4).unwrap();
            assert_eq!((margins.nodes(), margins.zones()), (2, 1));
            assert_eq!((margins.nodes_beside(1), margins.nodes_beside(2)), (Some(0), None));
        }
        let wide = Redundancy::new(4, 8).unwrap();
        let assignment = rank(&key(1), &members(12, 2)).assign(wide).unwrap();
        let margins = ZoneMargins::of_shards(&assignment.by_node(), &members(12, 2), 4).unwrap();
        assert_eq!(
            (margins.nodes(), margins.nodes_beside(1)),
            (8, Some(2)),
            "half of the zones, and two more"
        );
    }

    #[test]
    fn copies_and_objects() {
        let all = members(6, 3);
        assert_eq!(ZoneMargins::of_copies(&[], &all), None);
        let spread = ZoneMargins::of_copies(&[node(0), node(1), node(2)], &all).unwrap();
        assert_eq!(spread.beside, [2, 1, 0]);
        let heaped = ZoneMargins::of_copies(&[node(0), node(3), node(1)], &all).unwrap();
        assert_eq!(heaped.beside, [2, 0]);
        let one_each: Vec<_> = (0..6).map(|i| (node(i), vec![i as u8])).collect();
        let object = |manifest: &[NodeId]| {
            ZoneMargins::of_object([&one_each[..]], manifest, &all, Redundancy::STANDARD).map(|m| m.beside)
        };
        assert_eq!(object(&[node(0), node(1), node(2)]), Some(vec![2, 0]));
        assert_eq!(object(&[node(0), node(3)]), Some(vec![1]), "the manifest lies in one zone");
        assert_eq!(object(&[]), None);
        let everywhere: Vec<_> = (0..6).map(|i| (node(i), (0..6).collect())).collect();
        let copies: Vec<_> = (0..6).map(node).collect();
        let margins = ZoneMargins::of_object([&everywhere[..]], &copies, &all, Redundancy::STANDARD).unwrap();
        assert_eq!(margins.beside, [2, 2, 1], "never more nodes than m");
    }

    #[test]
    fn the_hardest_case_ends() {
        let held: Held = (0..60u8)
            .map(|i| (usize::from(i % 20), (0..20).map(|j| i.wrapping_mul(7).wrapping_add(j * 5)).collect()))
            .collect();
        let (holdings, all) = lay(&held);
        let margins = ZoneMargins::of_shards(&holdings, &all, 60).unwrap();
        assert!(margins.nodes() < 60 && margins.zones() < 20);
        let widest: Vec<_> = (0..=255u8).map(|i| (node(usize::from(i)), vec![i])).collect();
        let margins = ZoneMargins::of_shards(&widest, &members(256, 128), 128).unwrap();
        assert_eq!((margins.nodes(), margins.zones(), margins.nodes_beside(64)), (128, 64, Some(0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn agrees_with_all_losses(
            held in proptest::collection::vec((0usize..4, proptest::collection::vec(0u8..8, 0..4)), 0..8),
            k in 1usize..7
        ) {
            let (holdings, all) = lay(&held);
            let margins = ZoneMargins::of_shards(&holdings, &all, k);
            prop_assert_eq!(margins.as_ref().map(|m| m.beside.clone()), brute_force(&held, k));
            prop_assert_eq!(margins.as_ref().map(ZoneMargins::nodes), margin(&holdings, k));
            prop_assert_eq!(margins.as_ref().map(ZoneMargins::zones), zone_margin(&holdings, &all, k));
        }

        #[test]
        fn agrees_without_duplicates(
            held in proptest::collection::vec((0usize..5, 0usize..4), 1..=12), k in 1usize..12
        ) {
            let mut next = 0..;
            let held: Held =
                held.into_iter().map(|(zone, shards)| (zone, next.by_ref().take(shards).collect())).collect();
            let (holdings, all) = lay(&held);
            let margins = ZoneMargins::of_shards(&holdings, &all, k).map(|m| m.beside);
            prop_assert_eq!(margins, brute_force(&held, k));
        }
    }
}
