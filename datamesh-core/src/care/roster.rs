//! Who is a member, and since when unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::NodeId;
use crate::placement::{Member, rank};
use crate::ports::{Instant, Redundancy};

/// So long after a member has left it is of interest that it did.
const LEFT_FOR: Duration = Duration::from_secs(24 * 3600);

/// What each member was when it was last looked at, and since when. Bounded by the member table,
/// with who was in it within a day.
#[derive(Debug)]
pub(super) struct Roster {
    began: Instant,
    seen: BTreeMap<NodeId, Seen>,
    /// What was taken in last, all and present: mostly it is the same again.
    last: (Vec<Member>, Vec<Member>),
}

#[derive(Debug)]
struct Seen {
    member: Member,
    is_present: bool,
    since: Instant,
}

impl Roster {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, seen: BTreeMap::new(), last: Default::default() }
    }

    /// Takes the members that hold data, and which of them are not gone; says whether anything changed.
    pub(super) fn observe(&mut self, all: &[Member], present: &[Member], now: Instant) -> bool {
        if self.last.0 == all && self.last.1 == present {
            return false;
        }
        self.last = (all.to_vec(), present.to_vec());
        let nodes = |members: &[Member]| members.iter().map(|member| member.node).collect::<BTreeSet<_>>();
        let (known, there) = (nodes(all), nodes(present));
        let mut changed = false;
        for member in all {
            let is_present = there.contains(&member.node);
            let seen = self.seen.get(&member.node);
            if seen.is_some_and(|seen| seen.member == *member && seen.is_present == is_present) {
                continue;
            }
            changed = true;
            self.seen.insert(member.node, Seen { member: member.clone(), is_present, since: now });
        }
        // Who offers nothing any more is not among them.
        for seen in self.seen.values_mut().filter(|seen| seen.is_present) {
            if !known.contains(&seen.member.node) {
                (seen.is_present, seen.since, changed) = (false, now, true);
            }
        }
        self.seen.retain(|node, seen| known.contains(node) || now - seen.since < LEFT_FOR);
        changed
    }

    /// Whether a node was seen to hold data, within the last day if it does not now.
    pub(super) fn has_seen(&self, node: &NodeId) -> bool {
        self.seen.contains_key(node)
    }

    /// Since when a member is what it is; from the beginning of this process for those that were there before.
    pub(super) fn since(&self, node: &NodeId) -> Instant {
        self.seen.get(node).map_or(self.began, |seen| seen.since)
    }

    /// Since when nothing has changed among those who may hold what has this key: the first ones of the ranking, the
    /// gone among them.
    pub(super) fn quiet_since(&self, key: &[u8; 32], redundancy: Redundancy) -> Instant {
        let members: Vec<Member> = self.seen.values().map(|seen| seen.member.clone()).collect();
        let ranking = rank(key, &members);
        let first = ranking.nodes().take(2 * redundancy.total());
        first.map(|node| self.since(&node)).max().unwrap_or(self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn member(number: u8, capacity: u64) -> Member {
        Member { node: NodeId::from_bytes([number; 32]), zone: Default::default(), capacity }
    }

    #[test]
    fn what_changes_is_new_and_what_stays_is_old() {
        let mut roster = Roster::new(at(0));
        let [a, b] = [member(1, 8), member(2, 8)];
        assert!(roster.observe(&[a.clone(), b.clone()], &[a.clone(), b.clone()], at(1)));
        assert!(!roster.observe(&[a.clone(), b.clone()], &[a.clone(), b.clone()], at(50)));
        assert!(roster.observe(&[a.clone(), b.clone()], std::slice::from_ref(&a), at(60)), "b is gone");
        assert_eq!((roster.since(&a.node), roster.since(&b.node)), (at(1), at(60)));
        let key = [3; 32];
        assert_eq!(roster.quiet_since(&key, Redundancy::STANDARD), at(60));
        let bigger = member(1, 16);
        assert!(roster.observe(&[bigger.clone(), b], &[bigger], at(90)));
        assert_eq!(roster.since(&a.node), at(90));
        assert!(roster.observe(&[], &[], at(100)), "a leaves");
        assert!(!roster.observe(&[], &[], at(110)));
        assert_eq!(roster.since(&a.node), at(100));
    }

    #[test]
    fn who_leaves_after_long_is_noticed_and_later_not_remembered() {
        let mut roster = Roster::new(at(0));
        let [a, b] = [member(1, 8), member(2, 8)];
        roster.observe(&[a.clone(), b.clone()], &[a.clone(), b.clone()], at(1));
        assert!(roster.observe(std::slice::from_ref(&b), std::slice::from_ref(&b), at(200_000)), "a leaves");
        assert_eq!((roster.since(&a.node), roster.seen.len()), (at(200_000), 2));
        assert!(roster.has_seen(&a.node), "it is told of removals while it leaves");
        assert!(roster.observe(std::slice::from_ref(&b), &[], at(300_000)), "b is gone");
        assert!(!roster.has_seen(&a.node) && roster.has_seen(&b.node), "a left more than a day ago");
    }
}
