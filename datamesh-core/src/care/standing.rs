//! What audits have shown of a node, as far as this one has seen. Pure.
//!
//! A wrong proof is evidence: an honest node never sends one, for its store checks what it reads. Silence is opinion:
//! it may be the network's fault, so it counts little and fades.

use std::time::Duration;

/// What came of one challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Audit {
    /// The proof was right.
    Success,
    /// The proof was of something else.
    Wrong,
    /// The node was connected and did not prove what it had just said to hold.
    Silent,
    /// The node was not connected.
    Offline,
}

/// What audits have shown of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Audits {
    /// Right proofs.
    pub success: u64,
    /// Proofs of something else. One is enough.
    pub wrong: u64,
    /// Challenges that a connected node did not answer, or said to lack what it had just said to hold.
    pub silent: u64,
    /// Challenges that could not be put, because the node was not connected.
    pub offline: u64,
    /// The last one.
    pub last: Option<Audit>,
    /// How much is remembered of right proofs, in thousandths of one.
    good: u64,
    /// How much is remembered of silence, in thousandths of one.
    bad: u64,
}

/// With each new challenge a thousandth of what is remembered fades: beta reputation with forgetting, after A. Jøsang
/// and R. Ismail, "The beta reputation system" (2002).
const FADE: u64 = 1000;

/// What a new node is credited with, so that a few lost answers at the beginning are no reason for anything.
const CREDIT: u64 = 1000 * 1000;

/// Below this share of right answers, in percent, a node gets no new shards from this one.
const LEAST_PERCENT: u64 = 96;

impl Audits {
    /// What is known after one more challenge.
    #[must_use]
    pub(crate) fn and(mut self, audit: Audit) -> Self {
        self.last = Some(audit);
        if self.good == 0 && self.bad == 0 {
            self.good = CREDIT;
        }
        match audit {
            Audit::Success => {
                self.success = self.success.saturating_add(1);
                self.remember(1000, 0);
            }
            Audit::Silent => {
                self.silent = self.silent.saturating_add(1);
                self.remember(0, 1000);
            }
            Audit::Wrong => self.wrong = self.wrong.saturating_add(1),
            Audit::Offline => self.offline = self.offline.saturating_add(1),
        }
        self
    }

    fn remember(&mut self, good: u64, bad: u64) {
        self.good = self.good.saturating_sub(self.good.div_ceil(FADE)).saturating_add(good);
        self.bad = self.bad.saturating_sub(self.bad.div_ceil(FADE)).saturating_add(bad);
    }

    /// Whether a node is silent so often that it gets no new shards from this one until it answers again. What it holds
    /// it keeps.
    pub fn is_poor(&self) -> bool {
        let all = self.good.saturating_add(self.bad);
        self.good.saturating_mul(100) < all.saturating_mul(LEAST_PERCENT)
    }
}

/// Challenges that each node gets in a day, from all others together: 460 in 44 hours, so that 1 % of its shards that
/// are lost are met with 99 %, and four hours of two days are left.
pub(crate) const CHALLENGES_A_DAY: u32 = 251;

/// The pause after a round in which so many holders of one extent were challenged.
///
/// Each node makes as many challenges as it gets, for each extent is looked at by all its holders: so it need not know
/// how many others audit the same nodes.
pub(crate) fn pause_after(challenged: usize) -> Duration {
    let each = Duration::from_secs(24 * 3600) / CHALLENGES_A_DAY;
    each.saturating_mul(u32::try_from(challenged.max(1)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_days_find_one_percent() {
        // Six nodes, each of which challenges the five others of one extent in a round.
        let two_days = Duration::from_secs(48 * 3600);
        let rounds = two_days.as_secs() / pause_after(5).as_secs();
        let challenges = rounds * 5;
        let missed = 0.99_f64.powi(challenges as i32);
        assert!(missed < 0.01, "{challenges} challenges miss 1 % with {missed}");
        // A challenge and its answer, and the question before it, of a shard of 256 KiB.
        let bytes = challenges * (1024 + 8 * 32 + 400);
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }

    #[test]
    fn silence_is_opinion_and_fades() {
        let mut audits = Audits::default();
        assert!(!audits.is_poor());
        let mut silent = 0;
        while !audits.is_poor() {
            audits = audits.and(Audit::Silent);
            silent += 1;
        }
        assert!((35..50).contains(&silent), "{silent} in a row");
        let mut answered = 0;
        while audits.is_poor() {
            audits = audits.and(Audit::Success);
            answered += 1;
        }
        assert!(answered < 50, "{answered} right answers");
        let offline = (0..10_000).fold(Audits::default(), |audits, _| audits.and(Audit::Offline));
        assert!(!offline.is_poor(), "who is away is the detector's to judge");
        assert_eq!((offline.offline, offline.last), (10_000, Some(Audit::Offline)));
        let one_in_fifty = (0..10_000).fold(Audits::default(), |audits, number| {
            audits.and(if number % 50 == 0 { Audit::Silent } else { Audit::Success })
        });
        assert!(!one_in_fifty.is_poor());
    }
}
