//! Caps, replacement and pinned holders; what moves is in `movement`.

mod movement;

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
const PINNED: [u8; 6] = [2, 6, 5, 8, 7, 1];

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

    /// Whatever is held by whom: the same nodes hold as many shards each, and no order of the nodes keeps more.
    #[test]
    fn as_much_as_can_be_is_kept(
        nodes in 1usize..7, held in proptest::collection::vec(proptest::collection::btree_set(0u8..8, 0..4), 7), seed: u64
    ) {
        let all = members(nodes, 1);
        let redundancy = Redundancy::new(3, 2).unwrap();
        let assigned = rank(&key(seed), &all).assign(redundancy).unwrap();
        // Of nodes that are no members too, and indexes that there are not.
        let holdings: Vec<(NodeId, Vec<u8>)> =
            (0..7).map(node).zip(held).map(|(node, held)| (node, held.into_iter().collect())).collect();
        let has = |node: &NodeId, index: u8| holdings.iter().any(|(n, held)| n == node && held.contains(&index));
        let kept = |holders: &[NodeId]| (0..).zip(holders).filter(|(index, node)| has(node, *index)).count();
        let keeping = assigned.keeping(&holdings);
        let sorted = |assigned: &Assignment| {
            let mut nodes = assigned.holders().to_vec();
            nodes.sort_unstable();
            nodes
        };
        prop_assert_eq!(sorted(&keeping), sorted(&assigned));
        let all = orders(5);
        let in_order = |order: &Vec<usize>| order.iter().map(|place| assigned.holders()[*place]).collect::<Vec<_>>();
        let most = all.iter().map(|order| kept(&in_order(order))).max().unwrap();
        prop_assert_eq!(kept(keeping.holders()), most);
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

/// All orders of so many numbers.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let insert = |order: Vec<usize>| {
        (0..=order.len()).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(insert).collect()
}

#[test]
fn nothing_that_is_held_moves_for_the_order_alone() {
    // Everybody has the shard of the next one, and two codes have as many indexes as there can be.
    for (nodes, k, m) in [(9, 4, 2), (256, 128, 128), (5, 128, 128)] {
        let all = members(nodes, 1);
        let assigned = rank(&key(5), &all).assign(Redundancy::new(k, m).unwrap()).unwrap();
        let mut turned = assigned.holders().to_vec();
        turned.rotate_left(1);
        let turned = Assignment { holders: turned };
        assert_eq!(assigned.keeping(&turned.by_node()), turned);
        assert_eq!(assigned.keeping(&[]), assigned);
        // Who claims everything has its own place, and what nobody else has.
        let liar = (assigned.holders()[0], (0..=u8::MAX).collect());
        assert_eq!(assigned.keeping(&[liar]).holder(0), assigned.holder(0));
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
