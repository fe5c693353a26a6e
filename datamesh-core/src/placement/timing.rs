//! How fast and how reliably one peer answers.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Latencies remembered for each class: enough for a 95th percentile, few enough to follow a change.
const WINDOW: usize = 64;

/// Calls before a peer's own percentile is trusted.
const ENOUGH: usize = 8;

/// Where a hedge begins for a peer that is not known well.
pub const DEFAULT_HEDGE: Duration = Duration::from_millis(250);

/// A hedge begins no earlier, because a local peer's jitter is not worth a second request, and no later,
/// because a reader waits.
pub const HEDGE_RANGE: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(2);

/// What one recent failure adds to a peer's score: more than an ordinary answer takes.
const FAILURE_COST: Duration = Duration::from_secs(1);

/// Recent failures that are counted at most, so that a few successes bring a peer back.
const MAX_PENALTY: u32 = 8;

/// The kind of a call, as latencies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallClass {
    /// A head only, or a few KiB.
    Small,
    /// A shard is given out.
    Bulk,
    /// Something is taken in, and waits for a disk.
    Store,
}

/// What was seen of one peer's answers; told durations, it has no clock of its own.
#[derive(Debug, Clone, Default)]
pub struct PeerTiming {
    small: Recent,
    bulk: Recent,
    store: Recent,
    successes: u64,
    failures: u64,
    penalty: u32,
}

/// What was seen lately of one class.
#[derive(Debug, Clone, Default)]
struct Recent {
    window: VecDeque<Duration>,
    smoothed: Option<Duration>,
}

impl Recent {
    fn record(&mut self, latency: Duration) {
        if self.window.len() >= WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(latency);
        // Weighted as TCP weighs its round trips (RFC 6298): eight answers change it, where a median takes half a
        // window.
        let before = self.smoothed.unwrap_or(latency);
        self.smoothed = Some((before * 7 + latency) / 8);
    }
}

impl PeerTiming {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer came after this long. It halves what recent failures weigh.
    pub fn record_success(&mut self, class: CallClass, latency: Duration) {
        self.recent_mut(class).record(latency);
        self.successes = self.successes.saturating_add(1);
        self.penalty /= 2;
    }

    /// No answer had come after so long, and nobody waits for it any more: it takes at least that long.
    pub fn record_unanswered(&mut self, class: CallClass, waited: Duration) {
        if self.lately(class).is_none_or(|lately| waited > lately) {
            self.recent_mut(class).record(waited);
        }
    }

    /// No answer came, or a wrong one.
    pub fn record_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.penalty = self.penalty.saturating_add(1).min(MAX_PENALTY);
    }

    /// The median of the recent latencies.
    pub fn p50(&self, class: CallClass) -> Option<Duration> {
        self.percentile(class, 50)
    }

    /// The 95th percentile of the recent latencies.
    pub fn p95(&self, class: CallClass) -> Option<Duration> {
        self.percentile(class, 95)
    }

    /// All answers that came.
    pub fn successes(&self) -> u64 {
        self.successes
    }

    /// All calls that failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// How long to wait for this peer before another is asked as well: its own 95th percentile within
    /// [`HEDGE_RANGE`], and [`DEFAULT_HEDGE`] until eight calls of the class were answered.
    pub fn hedge_after(&self, class: CallClass) -> Duration {
        let known = self.p95(class).filter(|_| self.recent(class).window.len() >= ENOUGH);
        known.map_or(DEFAULT_HEDGE, |p95| p95.clamp(*HEDGE_RANGE.start(), *HEDGE_RANGE.end()))
    }

    /// How long answers of this class lately took, smoothed.
    pub fn lately(&self, class: CallClass) -> Option<Duration> {
        self.recent(class).smoothed
    }

    /// How long an answer is likely to take, for choosing whom to ask first: what it lately took, no less than a small
    /// answer takes, and a second more for each recent failure. A peer that was never asked counts as neither fast nor
    /// slow.
    pub fn score(&self, class: CallClass) -> Duration {
        let likely = self.lately(class).max(self.lately(CallClass::Small)).unwrap_or(*HEDGE_RANGE.start());
        likely.saturating_add(FAILURE_COST.saturating_mul(self.penalty))
    }

    fn percentile(&self, class: CallClass, percent: usize) -> Option<Duration> {
        let mut sorted: Vec<_> = self.recent(class).window.iter().copied().collect();
        let rank = sorted.len().saturating_mul(percent).div_ceil(100).checked_sub(1)?;
        let (_, value, _) = sorted.select_nth_unstable(rank);
        Some(*value)
    }

    fn recent(&self, class: CallClass) -> &Recent {
        match class {
            CallClass::Small => &self.small,
            CallClass::Bulk => &self.bulk,
            CallClass::Store => &self.store,
        }
    }

    fn recent_mut(&mut self, class: CallClass) -> &mut Recent {
        match class {
            CallClass::Small => &mut self.small,
            CallClass::Bulk => &mut self.bulk,
            CallClass::Store => &mut self.store,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CallClass::{Bulk, Small};

    fn after(millis: impl IntoIterator<Item = u64>) -> PeerTiming {
        let mut timing = PeerTiming::new();
        millis.into_iter().for_each(|ms| timing.record_success(Bulk, Duration::from_millis(ms)));
        timing
    }

    #[test]
    fn percentiles_are_of_the_last_window() {
        assert_eq!(PeerTiming::new().p50(Bulk), None);
        let timing = after(1..=100);
        assert_eq!(timing.p50(Bulk), Some(Duration::from_millis(68)));
        assert_eq!(timing.p95(Bulk), Some(Duration::from_millis(97)));
        assert_eq!(timing.p95(Small), None);
        assert_eq!((timing.successes(), timing.failures()), (100, 0));
    }

    #[test]
    fn hedges_stay_in_range() {
        for (latency, calls, expected) in [(1, 7, 250), (1, 8, 5), (40, 8, 40), (9_000, 8, 2_000)] {
            let timing = after(std::iter::repeat_n(latency, calls));
            assert_eq!(timing.hedge_after(Bulk), Duration::from_millis(expected));
            assert_eq!(timing.hedge_after(Small), DEFAULT_HEDGE);
        }
    }

    #[test]
    fn a_change_is_seen_after_some_answers() {
        let mut timing = after(std::iter::repeat_n(1, 64));
        (0..8).for_each(|_| timing.record_success(Bulk, Duration::from_millis(100)));
        assert_eq!(timing.p50(Bulk), Some(Duration::from_millis(1)));
        assert!(timing.score(Bulk) > Duration::from_millis(50));
        let mut timing = after(std::iter::repeat_n(1, 64));
        (0..8).for_each(|_| timing.record_success(Small, Duration::from_millis(100)));
        assert!(
            timing.score(Bulk) > Duration::from_millis(50),
            "who answers nothing fast gives no shard fast"
        );
    }

    #[test]
    fn failures_push_back_and_successes_bring_back() {
        let mut timing = after([3]);
        let good = timing.score(Bulk);
        (0..100).for_each(|_| timing.record_failure());
        assert!(timing.score(Bulk) > after([1_999]).score(Bulk));
        (0..4).for_each(|_| timing.record_success(Bulk, Duration::from_millis(3)));
        assert_eq!(timing.score(Bulk), good);
        assert_eq!(timing.failures(), 100);
    }
}
