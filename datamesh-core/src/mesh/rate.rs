//! How often a peer may ask what is cheap to ask and dear to answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::format::Request;
use crate::id::NodeId;
use crate::ports::Instant;

/// Peers whose tokens are counted at a time: as many as a mesh has members. Whoever has asked nothing for a while is not
/// among them. At about 100 bytes each, 400 KiB.
const MAX_COUNTED: usize = 4096;

/// Signatures that are verified for one token; a record has one, and one more where it has a certificate.
const RECORDS_OF_TOKEN: usize = 32;

/// Removals that are looked up and noted for one token. A node that was away is told 16 messages of 512 at a time, which
/// is less than a burst.
const REMOVALS_OF_TOKEN: usize = 64;

/// How many tokens a request takes: some where it costs its sender nothing and makes this node verify signatures, sync
/// its disk, or read and hash a shard.
pub(super) fn cost_of(request: &Request) -> u32 {
    let more = match request {
        Request::Members { records } | Request::Forget { records } => records.len() / RECORDS_OF_TOKEN,
        Request::Removals { removals } => removals.len() / REMOVALS_OF_TOKEN,
        Request::Epoch { .. } | Request::Keys { .. } | Request::Prove { .. } => 0,
        _ => return 0,
    };
    u32::try_from(more).unwrap_or(u32::MAX).saturating_add(1)
}

/// A token bucket for each peer: so many tokens a second, and so many at once after a pause.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: u32,
    burst: u32,
    /// When each bucket is full again: a request moves it on by the time that its tokens take to come back.
    full_at: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Rates {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, full_at: Mutex::default() }
    }

    /// Takes so many tokens, if the peer has them left; whoever has none taken always may. What costs more than a burst
    /// takes a full bucket.
    pub(super) fn take(&self, node: NodeId, cost: u32, now: Instant) -> bool {
        if cost == 0 {
            return true;
        }
        let token = Duration::from_secs(1) / self.per_second.max(1);
        let cost = token.saturating_mul(cost.min(self.burst.max(1)));
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_COUNTED && !buckets.contains_key(&node) {
            // A full bucket is as good as none.
            buckets.retain(|_, full_at| *full_at > now);
            if buckets.len() >= MAX_COUNTED {
                return false;
            }
        }
        let full_at = buckets.entry(node).or_insert(now);
        let after = (*full_at).max(now) + cost;
        let is_left = after - now <= token.saturating_mul(self.burst);
        if is_left {
            *full_at = after;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::format::{RemovalSecret, Removed};
    use crate::id::ShardId;

    fn node(number: u64) -> NodeId {
        let mut name = [0; 32];
        name[..8].copy_from_slice(&number.to_le_bytes());
        NodeId::from_bytes(name)
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_start(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_burst_and_then_a_rate() {
        let rates = Rates::new(50, 200);
        let taken = |count: usize, now| (0..count).filter(|_| rates.take(node(1), 1, now)).count();
        assert_eq!(taken(199, at(0)), 199, "one under");
        assert_eq!(taken(1, at(0)), 1, "the limit");
        assert_eq!(taken(1, at(0)), 0, "one over");
        assert_eq!(taken(5, at(19)), 0, "a token takes 20 ms");
        assert_eq!(taken(5, at(20)), 1);
        assert_eq!(taken(100, at(1020)), 50, "fifty a second");
        assert_eq!(taken(500, at(60_000)), 200, "no more than a burst is saved up");
        assert!(rates.take(node(2), 1, at(60_000)), "others have their own");
    }

    #[test]
    fn what_makes_more_work_costs_more() {
        let members = |count| Request::Members { records: vec![Bytes::new(); count] };
        assert_eq!([0, 31, 32, 256].map(|count| cost_of(&members(count))), [1, 1, 2, 9]);
        let removed = Removed { id: [0; 32], secret: RemovalSecret::from_bytes([0; 32]) };
        let removals = |count| Request::Removals { removals: vec![removed.clone(); count] };
        assert_eq!([0, 63, 64, 1024].map(|count| cost_of(&removals(count))), [1, 1, 2, 17]);
        assert_eq!(cost_of(&Request::ReadShard { shard: ShardId::from_bytes([0; 32]) }), 0);

        let rates = Rates::new(50, 200);
        assert!(rates.take(node(1), 197, at(0)));
        assert!(!rates.take(node(1), 9, at(0)) && rates.take(node(1), 3, at(0)));
        assert!(rates.take(node(1), 0, at(0)), "what costs nothing");
        assert!(!rates.take(node(1), 9, at(179)) && rates.take(node(1), 9, at(180)));
        assert!(rates.take(node(2), 1000, at(0)), "a full bucket is always enough");
        assert!(!rates.take(node(2), 1, at(0)));
    }

    #[test]
    fn a_node_that_was_away_is_told_what_it_missed_at_once() {
        let removed = Removed { id: [0; 32], secret: RemovalSecret::from_bytes([0; 32]) };
        let page = Request::Removals { removals: vec![removed; crate::care::REMOVALS_OF_MESSAGE] };
        let rates = Rates::new(50, 200);
        let told =
            (0..crate::care::MESSAGES_OF_A_LOOK).filter(|_| rates.take(node(1), cost_of(&page), at(0)));
        assert_eq!(told.count(), crate::care::MESSAGES_OF_A_LOOK);
    }

    #[test]
    fn peers_that_are_counted_are_bounded() {
        let rates = Rates::new(50, 200);
        for number in 0..MAX_COUNTED as u64 {
            assert!(rates.take(node(number), 1, at(0)));
        }
        assert!(!rates.take(node(1 << 40), 1, at(0)));
        assert!(rates.take(node(7), 1, at(0)), "who is counted goes on");
        assert!(rates.take(node(1 << 40), 1, at(1000)), "who asks no more makes room");
        assert_eq!(rates.full_at.lock().unwrap().len(), 1);
    }
}
