//! How many segments are under way: as many as bring more bytes a second, and few more.
//!
//! By Little's law a path is full when what is under way is its goodput times the time that one segment takes when
//! hardly anything else is under way. More than that only waits in queues: memory is held for longer, and calls come
//! near their deadlines. So both are measured, and the window is their product and a half, which leaves room to find
//! that more brings more. After N. Cardwell et al., "BBR: congestion-based congestion control" (ACM Queue 14, 2016).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::object::budget::{ByteBudget, Permit, Share};
use crate::ports::Instant;

/// The most segments that are under way at a time, however much memory there is.
pub(crate) const MAX_WINDOW: usize = 64;

/// Segments under way while the time of one is measured.
const PROBE: usize = 2;

/// How long the time of one segment is believed: paths change.
const BASE_AGE: Duration = Duration::from_secs(10);

/// The shortest time over which goodput is counted.
const EPOCH: Duration = Duration::from_millis(200);

/// Segments that an epoch has at least: of fewer the goodput would be chance.
const EPOCH_SEGMENTS: u32 = 8;

/// Epochs whose best goodput counts.
const EPOCHS: usize = 8;

/// Decides how many segments may be under way. Pure: it is told what ended, and when.
#[derive(Debug)]
struct Window {
    least: usize,
    most: usize,
    now: usize,
    /// The length of a whole segment; shorter ones say nothing of the time that it takes.
    segment_len: u64,
    /// Bytes a second in the last epochs in which the window was full.
    rates: VecDeque<u64>,
    /// The shortest time of a whole segment, and since when it is known.
    base: Option<(Duration, Instant)>,
    is_probing: bool,
    epoch: Option<Epoch>,
}

#[derive(Debug)]
struct Epoch {
    began: Instant,
    bytes: u64,
    segments: u32,
    /// Whether more wanted to be under way than might.
    is_full: bool,
}

impl Window {
    fn new(threads: usize, most: usize, segment_len: u64) -> Self {
        let most = most.clamp(1, MAX_WINDOW);
        let least = (2 * threads + 2).min(most);
        let (rates, segment_len) = (VecDeque::with_capacity(EPOCHS), segment_len.max(1));
        Self { least, most, now: least, segment_len, rates, base: None, is_probing: false, epoch: None }
    }

    /// The best goodput lately, in bytes a second.
    fn goodput(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// Takes in that a segment ended now that took so long, and whether others waited for it.
    fn ended(&mut self, bytes: u64, took: Duration, now: Instant, is_full: bool) {
        if bytes >= self.segment_len && self.base.is_none_or(|(base, _)| took < base) {
            let since = self.base.map_or(now, |(_, since)| since);
            self.base = Some((took, since));
        }
        let Some(epoch) = &mut self.epoch else {
            // Of this one only the end is in the epoch.
            self.epoch = Some(Epoch { began: now, bytes: 0, segments: 0, is_full });
            return;
        };
        epoch.bytes = epoch.bytes.saturating_add(bytes);
        epoch.segments = epoch.segments.saturating_add(1);
        epoch.is_full |= is_full;
        let base = self.base.map_or(Duration::ZERO, |(base, _)| base);
        let length = now - epoch.began;
        let is_over = length >= EPOCH.max(base * 2) && epoch.segments >= EPOCH_SEGMENTS;
        if is_over && let Some(epoch) = self.epoch.take() {
            self.turn(&epoch, length, now);
            self.epoch = Some(Epoch { began: now, bytes: 0, segments: 0, is_full: false });
        }
    }

    fn turn(&mut self, epoch: &Epoch, length: Duration, now: Instant) {
        if self.is_probing {
            self.is_probing = false;
        } else if epoch.is_full {
            // Whoever asks for little says nothing of how much could be had.
            let nanos = length.as_nanos().max(1);
            let rate = u128::from(epoch.bytes) * 1_000_000_000 / nanos;
            if self.rates.len() >= EPOCHS {
                self.rates.pop_front();
            }
            self.rates.push_back(u64::try_from(rate).unwrap_or(u64::MAX));
            if self.base.is_some_and(|(_, since)| now - since > BASE_AGE) {
                (self.base, self.is_probing) = (None, true);
                self.now = PROBE.min(self.most);
                return;
            }
        }
        let (Some((base, _)), true) = (self.base, !self.rates.is_empty()) else { return };
        let bytes = u128::from(self.goodput()) * base.as_nanos() / 1_000_000_000;
        let path = bytes.div_ceil(u128::from(self.segment_len));
        self.now =
            usize::try_from((path * 3).div_ceil(2) + 2).unwrap_or(usize::MAX).clamp(self.least, self.most);
    }
}

/// The segments that are under way in one direction, of all operations of a mesh.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Counts segments where the budget of memory counts bytes, and is as fair.
    places: ByteBudget,
    window: Mutex<Window>,
}

impl Flow {
    /// A flow of segments of this length, of which the memory bears so many, on so many CPU threads.
    pub(crate) fn new(threads: usize, most: usize, segment_len: u64) -> Self {
        let window = Window::new(threads, most, segment_len);
        Self { places: ByteBudget::new(window.now), window: Mutex::new(window) }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while the lock is held.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation's access: one that has nothing under way gets its first place at once.
    pub(crate) fn share(&self) -> Share {
        self.places.share()
    }

    /// How many segments may be under way now.
    pub(crate) fn window(&self) -> usize {
        self.lock().now
    }

    /// The most segments that may ever be under way.
    pub(crate) fn most(&self) -> usize {
        self.lock().most
    }

    /// The best goodput lately, in bytes a second; 0 while nothing filled the window.
    pub(crate) fn goodput(&self) -> u64 {
        self.lock().goodput()
    }

    /// Takes in that a segment ended well that took so long, and gives its place back.
    pub(crate) fn ended(&self, place: Permit, bytes: u64, took: Duration, now: Instant) {
        let limit = {
            let mut window = self.lock();
            window.ended(bytes, took, now, self.places.is_waited_for());
            window.now
        };
        self.places.set_limit(limit);
        drop(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    /// Plays a path of so many segments a second that takes so long for one, for some seconds; says the window at the
    /// end, and the most segments that were done in one of the last seconds.
    fn play(
        window: &mut Window,
        from: Instant,
        per_second: u64,
        base: Duration,
        seconds: u64,
    ) -> (usize, u64) {
        let gap = Duration::from_nanos(1_000_000_000 / per_second);
        let (end, mut now) = (from + Duration::from_secs(seconds), from);
        // When the path is free again, and when those under way will have ended.
        let (mut free, mut under_way) = (from, VecDeque::new());
        let (mut done, mut ended) = (Vec::new(), 0);
        while now < end {
            while under_way.len() < window.now {
                free = free.max(now) + gap;
                under_way.push_back((now, free.max(now + base)));
            }
            let Some((began, at)) = under_way.pop_front() else { break };
            now = now.max(at);
            ended += 1;
            window.ended(SEGMENT, now - began, now, true);
            done.push(now);
        }
        let last = done.iter().filter(|at| **at + Duration::from_secs(1) > now).count();
        assert!(ended > 0);
        (window.now, last as u64)
    }

    fn start() -> Instant {
        Instant::default()
    }

    #[test]
    fn a_long_path_gets_as_much_under_way_as_it_bears() {
        // 50 segments a second, each of which takes 0.4 s: 20 at a time.
        let mut window = Window::new(2, 40, SEGMENT);
        assert_eq!(window.now, 6);
        let (now, done) = play(&mut window, start(), 50, Duration::from_millis(400), 20);
        assert!((31..=34).contains(&now), "{now}");
        assert!((48..=51).contains(&done), "{done} a second");
    }

    #[test]
    fn a_thin_path_is_not_filled_with_what_only_waits() {
        let mut window = Window::new(1, 40, SEGMENT);
        let (now, done) = play(&mut window, start(), 2, Duration::from_millis(500), 9);
        assert_eq!(now, window.least);
        assert_eq!(done, 2);
    }

    #[test]
    fn the_window_follows_a_path_that_changes() {
        let mut window = Window::new(2, 40, SEGMENT);
        let (before, _) = play(&mut window, start(), 50, Duration::from_millis(400), 8);
        let then = start() + Duration::from_secs(10);
        let (shorter, done) = play(&mut window, then, 50, Duration::from_millis(40), 25);
        assert!(shorter < before / 3, "{before}, {shorter}");
        assert!(done >= 45, "{done} a second");
        let then = then + Duration::from_secs(30);
        let (longer, done) = play(&mut window, then, 50, Duration::from_millis(400), 30);
        assert!(longer > 28, "{shorter}, {longer}");
        assert!(done >= 45, "{done} a second");
    }

    #[test]
    fn whoever_asks_for_little_changes_nothing() {
        let mut window = Window::new(2, 40, SEGMENT);
        for second in 0..100 {
            window.ended(SEGMENT, Duration::from_millis(5), start() + Duration::from_secs(second), false);
        }
        assert_eq!((window.now, window.goodput()), (6, 0));
    }
}
