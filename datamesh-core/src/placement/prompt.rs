//! Who is left out of a write because it is far slower than the others.
//!
//! What a slow node should have held goes to the next in rank, where no margin suffers from that, and is brought home
//! later without anybody waiting for it.

use std::time::Duration;

use crate::id::NodeId;
use crate::placement::{Member, ZoneMargins, rank};
use crate::ports::Redundancy;

/// A node is slow when it takes so many times as long as the median of the others.
const SLOW_FACTOR: u32 = 8;

/// And longer than this: nobody waits long for less.
const SLOW_FROM: Duration = Duration::from_millis(20);

/// Fewer nodes have no median that says anything.
const LEAST_KNOWN: usize = 3;

/// The nodes that are far slower than most, by how long each lately took.
pub(crate) fn slow_ones(took: &[(NodeId, Duration)]) -> Vec<NodeId> {
    if took.len() < LEAST_KNOWN {
        return Vec::new();
    }
    let mut sorted: Vec<Duration> = took.iter().map(|(_, took)| *took).collect();
    sorted.sort_unstable();
    // The lower median: of four of which two are slow, these are the slow ones.
    let median = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    let is_slow = |took: &Duration| *took > (median * SLOW_FACTOR).max(SLOW_FROM);
    took.iter().filter(|(_, took)| is_slow(took)).map(|(node, _)| *node).collect()
}

/// The members without as many of the slow ones as can be spared: no margin of an extent with this key is less for it,
/// neither that of nodes nor that of zones.
pub(crate) fn without_slow(
    key: &[u8; 32],
    members: Vec<Member>,
    slow: &[NodeId],
    redundancy: Redundancy,
) -> Vec<Member> {
    let margins = |members: &[Member]| {
        let holders = rank(key, members).assign(redundancy)?.by_node();
        let margins = ZoneMargins::of_shards(&holders, members, redundancy.data())?;
        Some((margins.nodes().min(redundancy.parity()), margins.zones()))
    };
    if slow.is_empty() {
        return members;
    }
    let mut left = members;
    let mut now = margins(&left);
    for node in slow {
        let fewer: Vec<Member> = left.iter().filter(|member| member.node != *node).cloned().collect();
        if fewer.len() == left.len() {
            continue;
        }
        let then = margins(&fewer);
        if then.is_some_and(|then| now.is_none_or(|now| then.0 >= now.0 && then.1 >= now.1)) {
            (left, now) = (fewer, then);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{key, members, node};

    const CODE: Redundancy = Redundancy::STANDARD;

    fn took(millis: &[u64]) -> Vec<(NodeId, Duration)> {
        millis.iter().enumerate().map(|(i, ms)| (node(i), Duration::from_millis(*ms))).collect()
    }

    #[test]
    fn slow_is_far_slower_than_most() {
        assert_eq!(slow_ones(&took(&[1, 1, 2, 100])), [node(3)]);
        assert_eq!(slow_ones(&took(&[1, 1, 2, 19])), [], "nobody waits long for that");
        assert_eq!(slow_ones(&took(&[100, 90, 300, 110])), [], "a mesh across continents");
        assert_eq!(slow_ones(&took(&[1, 100])), [], "of two either may be the slow one");
        assert_eq!(slow_ones(&took(&[1, 1, 100, 200])), [node(2), node(3)]);
    }

    #[test]
    fn the_slow_are_left_out_where_no_margin_suffers() {
        let all = members(9, 1);
        let slow: Vec<NodeId> = (0..4).map(node).collect();
        for number in 0..20 {
            let left = without_slow(&key(number), all.clone(), &slow, CODE);
            assert_eq!(left.len(), 6, "six are needed for six shards");
            assert!(left.iter().filter(|member| slow.contains(&member.node)).count() == 1);
        }
    }

    #[test]
    fn a_slow_zone_keeps_its_part() {
        let all = members(9, 3);
        let zone = all[0].zone.clone();
        let slow: Vec<NodeId> =
            all.iter().filter(|member| member.zone == zone).map(|member| member.node).collect();
        let margins = |members: &[Member]| {
            let holders = rank(&key(1), members).assign(CODE).unwrap().by_node();
            let margins = ZoneMargins::of_shards(&holders, members, CODE.data()).unwrap();
            (margins.nodes(), margins.zones())
        };
        let left = without_slow(&key(1), all.clone(), &slow, CODE);
        assert_eq!(margins(&left), margins(&all));
        assert!(left.iter().filter(|member| member.zone == zone).count() >= 2, "{left:?}");
    }

    #[test]
    fn who_is_no_member_is_nothing_to_leave_out() {
        let all = members(6, 1);
        assert_eq!(without_slow(&key(1), all.clone(), &[node(77)], CODE), all);
        assert_eq!(without_slow(&key(1), Vec::new(), &[node(0)], CODE), []);
    }
}
