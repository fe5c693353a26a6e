//! Which of several ways is taken. Pure: what was measured and the time go in, an order comes out.

use std::cmp::Reverse;
use std::time::Duration;

use datamesh_core::ports::{Instant, Way, WayStatus};

/// How many times slower the cheaper way must be before the dearer one is taken: cheap means less work for the machine,
/// which is worth some time.
const FAR_SLOWER: u32 = 8;

/// Below this a way is fast, whatever the others are.
const FAST: Duration = Duration::from_millis(1);

/// Measurements are kept for one to two of these.
const EPOCH: Duration = Duration::from_secs(30);

/// How long a way is passed over after it failed once; each further failure doubles it.
const FIRST_PASS: Duration = Duration::from_secs(1);
const LAST_PASS: Duration = Duration::from_secs(30);

/// What was measured on a way to a peer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    answered: u64,
    failed: u64,
    bytes: u64,
    failures_in_a_row: u32,
    /// Since when, and until when it is passed over.
    passed_over_until: Option<Instant>,
    epoch: Option<Instant>,
    now: Best,
    before: Best,
}

/// The best of an epoch: what the way can do, without the time that the peer took for its answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Best {
    latency: Option<Duration>,
    bytes_per_second: Option<u64>,
}

/// A way as it is seen now.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) way: Way,
    pub(super) connected: bool,
    pub(super) measured: &'a Measured,
}

impl Measured {
    /// Notes an answer.
    pub(super) fn answered(&mut self, bytes: usize, small: bool, begun: Instant, now: Instant) {
        self.answered = self.answered.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        (self.failures_in_a_row, self.passed_over_until) = (0, None);
        if self.epoch.is_none_or(|epoch| now.saturating_since(epoch) >= EPOCH) {
            self.before = std::mem::take(&mut self.now);
            self.epoch = Some(now);
        }
        let took = now.saturating_since(begun);
        if small {
            self.now.latency = Some(self.now.latency.map_or(took, |best| best.min(took)));
        } else {
            let rate = bytes as u128 * 1_000_000 / took.as_micros().max(1);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            self.now.bytes_per_second = self.now.bytes_per_second.max(Some(rate));
        }
    }

    /// Notes that the way broke or led nowhere.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed = self.failed.saturating_add(1);
        let doubled = FIRST_PASS.saturating_mul(1 << self.failures_in_a_row.min(8)).min(LAST_PASS);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.passed_over_until = Some(now + doubled);
    }

    /// Whether it failed so lately that others are taken.
    pub(super) fn is_passed_over(&self, now: Instant) -> bool {
        self.passed_over_until.is_some_and(|until| now < until)
    }

    fn latency(&self) -> Option<Duration> {
        [self.now.latency, self.before.latency].into_iter().flatten().min()
    }

    fn bytes_per_second(&self) -> Option<u64> {
        self.now.bytes_per_second.max(self.before.bytes_per_second)
    }

    /// Whether it takes far longer than another, or carries far less.
    fn is_far_slower_than(&self, other: &Self) -> bool {
        let longer = match (self.latency(), other.latency()) {
            (Some(own), Some(other)) => own > FAST && own > other.saturating_mul(FAR_SLOWER),
            _ => false,
        };
        let less = match (self.bytes_per_second(), other.bytes_per_second()) {
            (Some(own), Some(other)) => own.saturating_mul(u64::from(FAR_SLOWER)) < other,
            _ => false,
        };
        longer || less
    }

    pub(super) fn status(&self, way: Way, connected: bool, chosen: bool) -> WayStatus {
        WayStatus {
            way,
            connected,
            chosen,
            answered: self.answered,
            failed: self.failed,
            bytes: self.bytes,
            latency: self.latency(),
            bytes_per_second: self.bytes_per_second(),
        }
    }
}

/// The ways in the order in which a request tries them: those that are connected and did not fail lately, then those
/// that are connected, then the others; each the cheapest first, unless it is far slower than a dearer one.
pub(super) fn order(ways: &[Seen<'_>], now: Instant) -> Vec<usize> {
    let rank = |number: &usize| {
        let Some(seen) = ways.get(*number) else { return (true, true, 0, Way::Network, Reverse(0)) };
        let passed_over = seen.measured.is_passed_over(now);
        let slower_than =
            |other: &&Seen<'_>| other.connected && seen.measured.is_far_slower_than(other.measured);
        let slow = ways.iter().filter(slower_than).count();
        let rate = Reverse(seen.measured.bytes_per_second().unwrap_or(0));
        (!seen.connected, passed_over, slow, seen.way, rate)
    };
    let mut order: Vec<usize> = (0..ways.len()).collect();
    // Stable: what is alike stays in the order in which it was given.
    order.sort_by_cached_key(rank);
    order
}

/// Puts the second way first, so that it is measured; not one that failed lately, or the request may fail with it.
pub(super) fn try_second(order: &mut [usize], ways: &[Seen<'_>], now: Instant) {
    let second = order.get(1).and_then(|number| ways.get(*number));
    if second.is_some_and(|seen| seen.connected && !seen.measured.is_passed_over(now)) {
        order.swap(0, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn fast(micros: u64) -> Measured {
        let mut measured = Measured::default();
        measured.answered(100, true, at(10), at(10) + Duration::from_micros(micros));
        measured
    }

    fn ordered(ways: [(Way, bool, &Measured); 3]) -> Vec<usize> {
        order(&ways.map(|(way, connected, measured)| Seen { way, connected, measured }), at(11))
    }

    #[test]
    fn the_cheapest_connected_way_comes_first() {
        use Way::{Network, SameMachine, SameProcess};
        let none = Measured::default();
        let all = |a, b, c| ordered([(SameProcess, a, &none), (SameMachine, b, &none), (Network, c, &none)]);
        assert_eq!(all(true, true, true), [0, 1, 2]);
        assert_eq!(all(false, true, true), [1, 2, 0]);
        assert_eq!(all(false, false, true), [2, 0, 1]);
        assert_eq!(all(false, false, false), [0, 1, 2]);
    }

    #[test]
    fn a_way_gives_way_only_to_one_that_is_far_faster() {
        use Way::{Network, SameMachine, SameProcess};
        let none = Measured::default();
        let two = |local: &Measured, network: &Measured| {
            ordered([(SameProcess, false, &none), (SameMachine, true, local), (Network, true, network)])
        };
        assert_eq!(two(&fast(8_000), &fast(1_000)), [1, 2, 0], "eight times is not far");
        assert_eq!(two(&fast(8_001), &fast(1_000)), [2, 1, 0]);
        assert_eq!(two(&fast(1_000), &fast(10)), [1, 2, 0], "a millisecond is fast");
        assert_eq!(two(&fast(80_000), &none), [1, 2, 0], "nothing is known of the other");
        let rate = |micros| {
            let mut measured = Measured::default();
            measured.answered(1_000_000, false, at(10), at(10) + Duration::from_micros(micros));
            measured
        };
        assert_eq!(two(&rate(8_000), &rate(1_000)), [1, 2, 0]);
        assert_eq!(two(&rate(8_100), &rate(1_000)), [2, 1, 0]);
    }

    #[test]
    fn a_way_that_failed_is_passed_over_for_a_while_and_longer_each_time() {
        let mut measured = Measured::default();
        for (time, seconds) in [(100, 1), (200, 2), (300, 4), (400, 8), (500, 16), (600, 30), (700, 30)] {
            measured.failed(at(time));
            let other = Measured::default();
            let first = |now| {
                let local = Seen { way: Way::SameMachine, connected: true, measured: &measured };
                let network = Seen { way: Way::Network, connected: true, measured: &other };
                order(&[local, network], now)
            };
            let just_before =
                Instant::from_start(at(time + seconds).since_start() - Duration::from_millis(1));
            assert_eq!(first(just_before), [1, 0], "{time}");
            assert_eq!(first(at(time + seconds)), [0, 1], "{time}");
        }
        measured.answered(1, true, at(701), at(701));
        assert_eq!(measured.passed_over_until, None);
    }

    #[test]
    fn a_second_way_is_tried_only_when_it_did_not_fail_lately() {
        let (first, mut second) = (fast(10), fast(20));
        let tried = |connected, second: &Measured, now| {
            let ways = [(true, &first), (connected, second)];
            let ways = ways.map(|(connected, measured)| Seen { way: Way::Network, connected, measured });
            let mut order = order(&ways, now);
            try_second(&mut order, &ways, now);
            order
        };
        assert_eq!(tried(true, &second, at(11)), [1, 0]);
        assert_eq!(tried(false, &second, at(11)), [0, 1]);
        second.failed(at(11));
        assert_eq!(tried(true, &second, at(11)), [0, 1]);
        assert_eq!(tried(true, &second, at(12)), [1, 0], "it is no longer passed over");
        let ways = [Seen { way: Way::Network, connected: true, measured: &first }];
        let mut only = vec![0];
        try_second(&mut only, &ways, at(11));
        assert_eq!(only, [0]);
    }

    #[test]
    fn measurements_grow_old() {
        let mut measured = fast(10);
        let later = |measured: &mut Measured, seconds| {
            measured.answered(100, true, at(seconds), at(seconds) + Duration::from_micros(500));
            measured.latency().unwrap().as_micros()
        };
        assert_eq!(later(&mut measured, 20), 10);
        assert_eq!(later(&mut measured, 41), 10);
        assert_eq!(later(&mut measured, 72), 500);
    }
}
