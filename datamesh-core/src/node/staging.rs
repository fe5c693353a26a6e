//! Shards that were staged and wait for their commit.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{NodeId, ShardId};
use crate::ports::Instant;

/// Shards that make room at a time: whoever needs room looks through all that is staged, and not for each shard anew.
const EVICTED_AT_ONCE: usize = 64;

/// Nodes of which it is known that they staged the same shard as another one before them: two may repair one extent,
/// seldom more.
const MAX_OTHERS: usize = 3;

/// One staged shard.
#[derive(Debug, Clone)]
struct Staged {
    /// Who staged it first of those who want it, and whose share it is part of.
    from: NodeId,
    /// Who staged it as well. Bounded by [`MAX_OTHERS`].
    others: Vec<NodeId>,
    /// Whether there were more of them: it stays until it is old, since none may take it from another.
    has_more: bool,
    at: Instant,
    len: u64,
}

/// What one peer has staged.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    shards: usize,
    bytes: u64,
}

/// The staged shards, bounded by count and bytes.
///
/// Room is shared by need: whoever wants little gets it, and where there is none it is taken from the peer that has the
/// most. So nobody keeps the others from staging by what it never commits.
#[derive(Debug)]
pub(super) struct Staging {
    shards: BTreeMap<ShardId, Staged>,
    /// Who has staged something. At most as many as there are shards.
    shares: BTreeMap<NodeId, Share>,
    bytes: u64,
    max_shards: usize,
    max_bytes: u64,
}

impl Staging {
    pub(super) fn new(max_shards: usize, max_bytes: u64) -> Self {
        Self { shards: BTreeMap::new(), shares: BTreeMap::new(), bytes: 0, max_shards, max_bytes }
    }

    /// Notes a shard, before it is written. Returns whether it is new here.
    ///
    /// # Errors
    /// `Busy` where there is no room; [`to_evict`](Self::to_evict) says what may make some.
    pub(super) fn insert(&mut self, shard: ShardId, from: NodeId, at: Instant, len: u64) -> Result<bool> {
        if let Some(staged) = self.shards.get_mut(&shard) {
            staged.at = at;
            if staged.from != from && !staged.others.contains(&from) {
                staged.has_more |= staged.others.len() >= MAX_OTHERS;
                if staged.others.len() < MAX_OTHERS {
                    staged.others.push(from);
                }
            }
            return Ok(false);
        }
        if !self.fits(len) {
            let (shards, bytes) = self.totals();
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{shards} shards of {bytes} bytes wait for their commit here; try again later"),
            ));
        }
        self.bytes = self.bytes.saturating_add(len);
        add_share(&mut self.shares, from, len);
        self.shards.insert(shard, Staged { from, others: Vec::new(), has_more: false, at, len });
        Ok(true)
    }

    fn fits(&self, len: u64) -> bool {
        self.shards.len() < self.max_shards && self.bytes.saturating_add(len) <= self.max_bytes
    }

    /// Shards of the peer that has the most of what is short: so many as make room for this one from `from`, and some
    /// more. Where bytes are short the longest go first, each of which makes a place as well, and else the oldest. None
    /// where there is room, where it is staged already, or where nobody would still have as much as `from` then.
    ///
    /// Whoever staged them is told by its commit that they are missing, and stages them again.
    pub(super) fn to_evict(&self, shard: &ShardId, from: NodeId, len: u64) -> Vec<ShardId> {
        if self.fits(len) || self.shards.contains_key(shard) {
            return Vec::new();
        }
        let short = self.bytes.saturating_add(len).saturating_sub(self.max_bytes);
        let is_by_bytes = short > 0;
        let amount = |share: &Share| if is_by_bytes { share.bytes } else { share.shards as u64 };
        let Some((largest, most)) = self.shares.iter().max_by_key(|(_, share)| amount(share)) else {
            return Vec::new();
        };
        let own = self.shares.get(&from).copied().unwrap_or_default();
        // What may go without the peer having less than who takes its place.
        let may_go =
            amount(most).saturating_sub(amount(&own).saturating_add(if is_by_bytes { len } else { 1 }));
        let needed = short.max(1);
        // Whoever is refused costs no look at all that is staged.
        if may_go < needed {
            return Vec::new();
        }
        let (mut gone, mut evicted) = (0u64, Vec::new());
        for (Reverse(weight), _, shard) in self.in_order(*largest, is_by_bytes) {
            if gone >= needed && evicted.len() >= EVICTED_AT_ONCE {
                break;
            }
            if gone.saturating_add(weight) <= may_go {
                gone = gone.saturating_add(weight);
                evicted.push(shard);
            }
        }
        // Nobody is to lose what makes no room.
        if gone >= needed { evicted } else { Vec::new() }
    }

    /// What a peer has staged, as it is to go, with what each weighs: its bytes, or one.
    fn in_order(&self, node: NodeId, is_by_bytes: bool) -> Vec<(Reverse<u64>, Instant, ShardId)> {
        let its = self.shards.iter().filter(|(_, staged)| staged.from == node);
        let weight = |staged: &Staged| if is_by_bytes { staged.len } else { 1 };
        let mut all: Vec<_> =
            its.map(|(shard, staged)| (Reverse(weight(staged)), staged.at, *shard)).collect();
        all.sort_unstable();
        all
    }

    pub(super) fn remove(&mut self, shard: &ShardId) {
        let Some(staged) = self.shards.remove(shard) else { return };
        self.bytes = self.bytes.saturating_sub(staged.len);
        take_share(&mut self.shares, staged.from, staged.len);
    }

    pub(super) fn contains(&self, shard: &ShardId) -> bool {
        self.shards.contains_key(shard)
    }

    /// Notes that this node wants the shard no more. Returns whether it had staged it and nobody else did, so that it may
    /// go; it is still there then.
    pub(super) fn withdraw(&mut self, shard: &ShardId, from: NodeId) -> bool {
        let Some(staged) = self.shards.get_mut(shard) else { return false };
        if staged.from != from {
            staged.others.retain(|other| *other != from);
            return false;
        }
        if staged.others.is_empty() {
            return !staged.has_more;
        }
        staged.from = staged.others.remove(0);
        let (next, len) = (staged.from, staged.len);
        take_share(&mut self.shares, from, len);
        add_share(&mut self.shares, next, len);
        false
    }

    /// Up to `limit` shards that were staged `age` ago or longer.
    pub(super) fn older_than(&self, now: Instant, age: Duration, limit: usize) -> Vec<ShardId> {
        let old = self.shards.iter().filter(|(_, staged)| now.saturating_since(staged.at) >= age);
        old.map(|(shard, _)| *shard).take(limit).collect()
    }

    /// Shards and their bytes.
    pub(super) fn totals(&self) -> (usize, u64) {
        (self.shards.len(), self.bytes)
    }
}

fn add_share(shares: &mut BTreeMap<NodeId, Share>, node: NodeId, len: u64) {
    let share = shares.entry(node).or_default();
    share.shards = share.shards.saturating_add(1);
    share.bytes = share.bytes.saturating_add(len);
}

fn take_share(shares: &mut BTreeMap<NodeId, Share>, node: NodeId, len: u64) {
    let Some(share) = shares.get_mut(&node) else { return };
    share.shards = share.shards.saturating_sub(1);
    share.bytes = share.bytes.saturating_sub(len);
    if share.shards == 0 {
        shares.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn shard(number: usize) -> ShardId {
        ShardId::of(&number.to_le_bytes())
    }

    fn at(second: u64) -> Instant {
        Instant::from_start(Duration::from_secs(second))
    }

    /// Stages what may be staged, as a node does; returns what had to go, and whether it was taken.
    fn stage(staging: &mut Staging, number: usize, from: NodeId, len: u64) -> (Vec<ShardId>, bool) {
        let evicted = staging.to_evict(&shard(number), from, len);
        evicted.iter().for_each(|shard| staging.remove(shard));
        (evicted, staging.insert(shard(number), from, at(number as u64), len).is_ok())
    }

    fn sum(staging: &Staging) -> (usize, u64) {
        let shares = staging.shares.values();
        shares.fold((0, 0), |sum, share| (sum.0 + share.shards, sum.1 + share.bytes))
    }

    #[test]
    fn who_stages_all_it_can_keeps_nobody_from_staging() {
        let (most, greedy, modest) = (1 << 16, peer(1), peer(2));
        let mut staging = Staging::new(most, 1 << 30);
        for number in 0..most {
            assert_eq!(stage(&mut staging, number, greedy, 1), (vec![], true));
        }
        assert_eq!(stage(&mut staging, most, greedy, 1), (vec![], false), "its own makes no room for it");
        let (evicted, is_taken) = stage(&mut staging, most, modest, 1);
        assert!(is_taken);
        let oldest: Vec<ShardId> = (0..EVICTED_AT_ONCE).map(shard).collect();
        assert_eq!(evicted, oldest);
        // Until both have half.
        for number in most + 1..3 * most / 2 {
            assert!(stage(&mut staging, number, modest, 1).1, "{number}");
        }
        assert!(!stage(&mut staging, 2 * most, modest, 1).1);
        assert!(!stage(&mut staging, 2 * most, greedy, 1).1);
        assert!(stage(&mut staging, 2 * most, peer(3), 1).1, "a third one");
        assert_eq!(sum(&staging), staging.totals());
    }

    #[test]
    fn bytes_are_shared_as_well() {
        let mut staging = Staging::new(100, 1000);
        for number in 0..10 {
            assert!(stage(&mut staging, number, peer(1), 100).1);
        }
        assert_eq!(staging.totals(), (10, 1000), "as much as may be");
        assert!(!stage(&mut staging, 10, peer(1), 1).1, "one byte more");
        let (evicted, is_taken) = stage(&mut staging, 10, peer(2), 501);
        assert_eq!((evicted.len(), is_taken), (0, false), "then it would have the most");
        let (evicted, is_taken) = stage(&mut staging, 10, peer(2), 500);
        assert_eq!((evicted, is_taken), ((0..5).map(shard).collect(), true));
        assert_eq!(staging.totals(), (6, 1000));
        assert_eq!(sum(&staging), staging.totals());
    }

    #[test]
    fn who_stages_tiny_ones_first_keeps_nobody_from_staging() {
        let (greedy, modest) = (peer(1), peer(2));
        let mut staging = Staging::new(1000, 10_000);
        for number in 0..EVICTED_AT_ONCE {
            assert!(stage(&mut staging, number, greedy, 1).1);
        }
        for number in 100..109 {
            assert!(stage(&mut staging, number, greedy, 1100).1);
        }
        let (evicted, is_taken) = stage(&mut staging, 200, modest, 1000);
        assert!(is_taken);
        // The longest, the oldest of them first, as long as it still has no less than who takes their place.
        assert_eq!(evicted[..8], (100..108).map(shard).collect::<Vec<_>>());
        assert_eq!(evicted.len(), EVICTED_AT_ONCE);
        assert_eq!(sum(&staging), staging.totals());
        // A longer one than may go is passed over, and those that fit go in its place.
        let mut staging = Staging::new(1000, 1000);
        for (number, len) in [(0, 600), (1, 200), (2, 200)] {
            assert!(stage(&mut staging, number, greedy, len).1);
        }
        assert_eq!(stage(&mut staging, 3, modest, 500), (vec![], false), "only 400 of 500 may go");
        assert_eq!(stage(&mut staging, 3, modest, 400), (vec![shard(0)], true));
        let mut staging = Staging::new(1000, 1000);
        for (number, len) in [(0, 700), (1, 100), (2, 100)] {
            assert!(stage(&mut staging, number, greedy, len).1);
        }
        assert_eq!(stage(&mut staging, 3, modest, 250), (vec![shard(1), shard(2)], true), "650 may go");
    }

    #[test]
    fn one_that_goes_for_its_bytes_makes_a_place_as_well() {
        let mut staging = Staging::new(3, 1000);
        for (number, len) in [(0, 100), (1, 800), (2, 100)] {
            assert!(stage(&mut staging, number, peer(1), len).1);
        }
        assert_eq!(stage(&mut staging, 3, peer(2), 150), (vec![shard(1)], true));
        assert_eq!(staging.totals(), (3, 350));
    }

    #[test]
    fn what_is_staged_already_needs_no_room() {
        let mut staging = Staging::new(100, 1000);
        for number in 0..10 {
            assert!(stage(&mut staging, number, peer(1), 100).1);
        }
        assert_eq!(stage(&mut staging, 3, peer(2), 100), (vec![], true));
        assert_eq!(staging.totals(), (10, 1000));
    }

    #[test]
    fn what_two_have_staged_goes_when_both_want_it_no_more() {
        for (first, second) in [(peer(1), peer(2)), (peer(2), peer(1))] {
            let mut staging = Staging::new(100, 1000);
            assert!(staging.insert(shard(0), peer(1), at(0), 10).unwrap());
            assert!(!staging.insert(shard(0), peer(2), at(1), 10).unwrap());
            assert!(!staging.insert(shard(0), peer(2), at(1), 10).unwrap(), "sent twice");
            assert!(!staging.withdraw(&shard(0), peer(3)), "a third one");
            assert!(!staging.withdraw(&shard(0), first), "the other wants it");
            assert!(!staging.withdraw(&shard(0), first), "asked twice");
            assert_eq!(staging.shares.keys().collect::<Vec<_>>(), [&second]);
            assert!(staging.withdraw(&shard(0), second));
            assert_eq!((sum(&staging), staging.totals()), ((1, 10), (1, 10)));
            staging.remove(&shard(0));
            assert_eq!((sum(&staging), staging.totals()), ((0, 0), (0, 0)));
        }
    }

    #[test]
    fn what_more_have_staged_than_are_known_stays() {
        for is_one_more in [false, true] {
            let mut staging = Staging::new(100, 1000);
            let all = (0..=MAX_OTHERS + usize::from(is_one_more)).map(|number| peer(number as u8));
            all.clone().for_each(|node| drop(staging.insert(shard(0), node, at(0), 10)));
            let may_go: Vec<bool> = all.map(|node| staging.withdraw(&shard(0), node)).collect();
            assert_eq!(may_go.contains(&true), !is_one_more, "{may_go:?}");
            assert_eq!(sum(&staging), (1, 10));
        }
    }
}
