//! Shards that the disk does not give out: tried again, and given up at last.
//!
//! A sector that is lost for good fails with the same error as a disk, or a network behind it, that comes back in a
//! minute. What is given up is deleted, so that it counts as missing and is rebuilt; so that is not done in haste, and
//! not while nothing can be read.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::ShardId;
use crate::ports::Instant;

/// After so many failures a shard is given up.
const TRIES: u32 = 3;

/// How long after a failure a shard is tried again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(20 * 60);

/// The most shards that are tried again at a time, and that are given up in a round of the scrub. With more of them it
/// is a volume or a disk that is at fault, and not sectors of it: that is for somebody to look at.
const MAX_UNREADABLE: usize = 1024;

/// What a failure to read a shard means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It failed for the first time.
    New,
    /// It is tried again later.
    Again,
    /// It is lost.
    Lost,
}

/// The shards that could not be read, and when to try them again.
#[derive(Debug)]
pub(super) struct Unreadable {
    again_after: Duration,
    shards: BTreeMap<ShardId, Failing>,
    /// When a shard was read last.
    read_at: Option<Instant>,
    given_up: usize,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    tries: u32,
    /// The last one that counts.
    tried_at: Instant,
    due: Instant,
}

impl Unreadable {
    pub(super) fn new(again_after: Duration) -> Self {
        Self { again_after, shards: BTreeMap::new(), read_at: None, given_up: 0 }
    }

    /// Records that the disk gave a shard, whatever it is worth.
    pub(super) fn read(&mut self, shard: &ShardId, now: Instant) {
        self.shards.remove(shard);
        self.read_at = Some(now);
    }

    /// Records that a shard could not be read.
    pub(super) fn failed(&mut self, shard: ShardId, now: Instant) -> Verdict {
        let due = now + self.again_after;
        let Some(failing) = self.shards.get_mut(&shard) else {
            if self.shards.len() >= MAX_UNREADABLE {
                return Verdict::Again;
            }
            self.shards.insert(shard, Failing { tries: 1, tried_at: now, due });
            return Verdict::New;
        };
        if now < failing.due {
            return Verdict::Again;
        }
        failing.due = due;
        // A try counts where others were read since the last one: else it may be the disk as a whole.
        if self.read_at.is_some_and(|at| at > failing.tried_at) {
            failing.tries = failing.tries.saturating_add(1);
            failing.tried_at = now;
        }
        if failing.tries < TRIES || self.given_up >= MAX_UNREADABLE {
            return Verdict::Again;
        }
        self.given_up += 1;
        Verdict::Lost
    }

    /// Whether a shard is tried again in its time.
    pub(super) fn knows(&self, shard: &ShardId) -> bool {
        self.shards.contains_key(shard)
    }

    /// Records that all shards were looked at once.
    pub(super) fn end_round(&mut self) {
        self.given_up = 0;
    }

    /// Records that a shard is not there any more.
    pub(super) fn gone(&mut self, shard: &ShardId) {
        self.shards.remove(shard);
    }

    /// A shard whose time to be tried again has come.
    pub(super) fn due(&self, now: Instant) -> Option<ShardId> {
        self.shards.iter().find(|(_, failing)| now >= failing.due).map(|(shard, _)| *shard)
    }

    /// Records that nothing can be said of a shard now: its next time comes later.
    pub(super) fn put_off(&mut self, shard: &ShardId, now: Instant) {
        if let Some(failing) = self.shards.get_mut(shard) {
            failing.due = now + self.again_after;
        }
    }

    /// When the next one is to be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.shards.values().map(|failing| failing.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Instant {
        Instant::from_start(Duration::from_secs(60 * minutes))
    }

    const A: ShardId = ShardId::from_bytes([1; 32]);
    const B: ShardId = ShardId::from_bytes([2; 32]);

    #[test]
    fn what_fails_again_and_again_is_lost_while_others_are_read() {
        let mut unreadable = Unreadable::new(TRY_AGAIN);
        assert_eq!(unreadable.failed(A, at(0)), Verdict::New);
        assert_eq!((unreadable.due(at(19)), unreadable.next()), (None, Some(at(20))));
        // Many readers at once are one try.
        assert_eq!([1, 2, 3, 4].map(|minute| unreadable.failed(A, at(minute))), [Verdict::Again; 4]);
        unreadable.read(&B, at(10));
        assert_eq!(unreadable.due(at(20)), Some(A));
        assert_eq!(unreadable.failed(A, at(20)), Verdict::Again);
        unreadable.read(&B, at(30));
        assert_eq!(unreadable.failed(A, at(40)), Verdict::Lost);
        unreadable.gone(&A);
        assert_eq!(unreadable.next(), None);
    }

    #[test]
    fn a_disk_that_gives_nothing_loses_nothing() {
        let mut unreadable = Unreadable::new(TRY_AGAIN);
        unreadable.read(&B, at(0));
        for minute in [1, 21, 41, 61, 81] {
            let verdicts = [A, B].map(|shard| unreadable.failed(shard, at(minute)));
            assert!(!verdicts.contains(&Verdict::Lost), "{verdicts:?} after {minute} minutes");
        }
        unreadable.read(&B, at(90));
        assert_eq!(unreadable.failed(B, at(101)), Verdict::New, "it begins anew");
        // What failed while nothing was read counts as one failure.
        assert_eq!(unreadable.failed(A, at(101)), Verdict::Again);
        assert_eq!(unreadable.failed(A, at(121)), Verdict::Again, "nothing was read since");
        unreadable.read(&B, at(130));
        assert_eq!(unreadable.failed(A, at(141)), Verdict::Lost);
    }

    #[test]
    fn a_bounded_number_is_tried_again_and_given_up() {
        let mut unreadable = Unreadable::new(TRY_AGAIN);
        let shard = |number: u64| ShardId::of(&number.to_le_bytes());
        let most = MAX_UNREADABLE as u64;
        assert!((0..most).all(|number| unreadable.failed(shard(number), at(0)) == Verdict::New));
        assert_eq!(unreadable.failed(shard(most), at(0)), Verdict::Again);
        assert!(!unreadable.knows(&shard(most)));
        unreadable.gone(&shard(0));
        assert_eq!(unreadable.failed(shard(most), at(0)), Verdict::New);
        for minute in [10, 30] {
            unreadable.read(&B, at(minute));
            assert_eq!(unreadable.failed(A, at(minute)), Verdict::Again);
            for number in 1..=most {
                let verdict = unreadable.failed(shard(number), at(minute + 10));
                assert_eq!(verdict == Verdict::Lost, minute == 30, "{number}");
            }
        }
        // One more than may be given up in a round.
        unreadable.gone(&shard(1));
        assert_eq!(unreadable.failed(A, at(40)), Verdict::New);
        for minute in [50, 70] {
            unreadable.read(&B, at(minute));
            assert_eq!(unreadable.failed(A, at(minute + 10)), Verdict::Again);
        }
        unreadable.end_round();
        assert_eq!(unreadable.failed(A, at(100)), Verdict::Lost);
    }
}
