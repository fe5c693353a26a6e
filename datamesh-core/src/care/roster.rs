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

    /// Since when nothing has changed among those who are to hold what has this key, as a manifest or an extent: where
    /// all who were seen are there, and where those who are not present are gone.
    pub(super) fn quiet_since(&self, key: &[u8; 32], redundancy: Redundancy) -> Instant {
        let all: Vec<Member> = self.seen.values().map(|seen| seen.member.clone()).collect();
        let present = self.seen.values().filter(|seen| seen.is_present);
        let present: Vec<Member> = present.map(|seen| seen.member.clone()).collect();
        let mut near = Vec::new();
        for members in [all, present] {
            let ranking = rank(key, &members);
            near.extend(ranking.nodes().take(2 * redundancy.total()));
            near.extend(ranking.assign(redundancy).iter().flat_map(|homes| homes.holders().iter().copied()));
        }
        near.iter().map(|node| self.since(node)).max().unwrap_or(self.began)
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
    fn whoever_is_to_hold_a_shard_disturbs_its_quiet() {
        let members: Vec<Member> = (0..60).map(|number| member(number, 8)).collect();
        let (key, code) = ([3; 32], Redundancy::STANDARD);
        let homes = rank(&key, &members).assign(code).unwrap();
        let first: Vec<NodeId> = rank(&key, &members).nodes().take(2 * code.total()).collect();
        let mut roster = Roster::new(at(0));
        roster.observe(&members, &members, at(1));
        for (number, home) in (0..).zip(homes.holders()) {
            // It is gone, and then somebody else is to have its shard, and then it is back.
            let rest: Vec<Member> = members.iter().filter(|member| member.node != *home).cloned().collect();
            for (present, now) in [(&rest, at(10 + 20 * number)), (&members, at(20 + 20 * number))] {
                roster.observe(&members, present, now);
                assert_eq!(roster.quiet_since(&key, code), now, "{home:?}");
            }
        }
        // Whoever is neither: nothing of this depends on it.
        let quiet = roster.quiet_since(&key, code);
        let is_other = |node: &NodeId| !first.contains(node) && !homes.holders().contains(node);
        let other = members.iter().map(|member| member.node).find(is_other).unwrap();
        let rest: Vec<Member> = members.iter().filter(|member| member.node != other).cloned().collect();
        roster.observe(&members, &rest, at(1000));
        assert_eq!(roster.quiet_since(&key, code), quiet);
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
