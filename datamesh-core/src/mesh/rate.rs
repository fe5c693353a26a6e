//! How often a peer may ask what is cheap to ask and dear to answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::format::Request;
use crate::id::NodeId;
use crate::ports::Instant;

/// Peers whose requests are counted at a time: as many as a mesh has members. Whoever has asked nothing for a while is
/// not among them. At about 100 bytes each, 400 KiB.
const MAX_COUNTED: usize = 4096;

/// Whether a request costs its sender nothing and makes this node verify signatures, sync its disk, or read and hash
/// a shard.
pub(super) fn is_rated(request: &Request) -> bool {
    matches!(
        request,
        Request::Members { .. }
            | Request::Forget { .. }
            | Request::Epoch { .. }
            | Request::Keys { .. }
            | Request::Prove { .. }
    )
}

/// A token bucket for each peer: so many requests a second, and so many at once after a pause.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: u32,
    burst: u32,
    /// When each bucket is full again: a request moves it on by the time that its token takes to come back.
    full_at: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Rates {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, full_at: Mutex::default() }
    }

    /// Takes a token, if the peer has one left.
    pub(super) fn take(&self, node: NodeId, now: Instant) -> bool {
        let token = Duration::from_secs(1) / self.per_second.max(1);
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_COUNTED && !buckets.contains_key(&node) {
            // A full bucket is as good as none.
            buckets.retain(|_, full_at| *full_at > now);
            if buckets.len() >= MAX_COUNTED {
                return false;
            }
        }
        let full_at = buckets.entry(node).or_insert(now);
        let after = (*full_at).max(now) + token;
        let is_left = after - now <= token.saturating_mul(self.burst);
        if is_left {
            *full_at = after;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let taken = |count: usize, now| (0..count).filter(|_| rates.take(node(1), now)).count();
        assert_eq!(taken(199, at(0)), 199, "one under");
        assert_eq!(taken(1, at(0)), 1, "the limit");
        assert_eq!(taken(1, at(0)), 0, "one over");
        assert_eq!(taken(5, at(19)), 0, "a token takes 20 ms");
        assert_eq!(taken(5, at(20)), 1);
        assert_eq!(taken(100, at(1020)), 50, "fifty a second");
        assert_eq!(taken(500, at(60_000)), 200, "no more than a burst is saved up");
        assert!(rates.take(node(2), at(60_000)), "others have their own");
    }

    #[test]
    fn peers_that_are_counted_are_bounded() {
        let rates = Rates::new(50, 200);
        for number in 0..MAX_COUNTED as u64 {
            assert!(rates.take(node(number), at(0)));
        }
        assert!(!rates.take(node(1 << 40), at(0)));
        assert!(rates.take(node(7), at(0)), "who is counted goes on");
        assert!(rates.take(node(1 << 40), at(1000)), "who asks no more makes room");
        assert_eq!(rates.full_at.lock().unwrap().len(), 1);
    }
}
