//! Who is there: what the silence of each peer means, told by how fast it answers otherwise.
//!
//! Silence counts from the moment when something was asked and no answer came; a peer of whom nobody wants anything is
//! not suspected. How long an answer may take is learned for each peer, after N. Hayashibara and others, "The phi
//! accrual failure detector" (SRDS 2004): phi is how unlikely so late an answer would be, as a power of ten. Only
//! after a grace time does a peer that is down count as gone, so that a restart moves nothing.
//!
//! Told the time, it has no clock of its own; the wall clock has no part in it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;
use crate::planted::{Bug, is_active};
use crate::ports::Instant;

/// How often the detector looks, by its owner's timer.
pub(crate) const TICK: Duration = Duration::from_secs(5);

/// A gap between two looks that is longer than this was a pause of this node itself, in which it could hear nobody.
const LONGEST_TICK: Duration = Duration::from_secs(30);

/// A connected peer that was not heard for so long is asked whether it is there.
const ASK_AFTER: Duration = Duration::from_secs(10);

/// One that is not connected is asked less often: the transport dials it in any case.
const ASK_UNCONNECTED_AFTER: Duration = Duration::from_secs(60);

/// How many are asked in one look, so that the asking costs the same in a mesh of thousands.
const ASKED_AT_ONCE: usize = 16;

/// How long a connected peer that failed to answer is passed over.
const AVOIDED_FOR: Duration = Duration::from_secs(5);

/// How long a peer that is not connected is passed over, unless it connects before.
const UNCONNECTED_FOR: Duration = Duration::from_secs(60);

/// Phi, in thousandths, from which a peer is suspect: an answer so late comes once in 10^8 times.
const SUSPECT_PHI: u64 = 8_000;

/// Phi, in thousandths, from which it is down.
const DOWN_PHI: u64 = 16_000;

/// A silence so long is an absence: what was asked meanwhile says nothing of a peer that is there again.
const ABSENCE: Duration = Duration::from_secs(30);

/// Refusals to say what is held that lie further apart are not one refusal.
const MUTE_GAP: Duration = Duration::from_secs(300);

/// What is believed of the answers of a peer that was never heard.
const FIRST_MEAN: Duration = Duration::from_secs(1);

/// Answers are not believed to vary less, whatever was seen: a pause of the other process or a packet that is sent
/// again takes as long.
const LEAST_DEVIATION: Duration = Duration::from_millis(500);

/// What is known of a peer's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NodeState {
    /// It answers.
    Up,
    /// An answer is late, or failed.
    Suspect,
    /// It does not answer. What it holds is still its own: it may be restarting.
    Down,
    /// It has not answered for the whole grace time: others take over what it held.
    Gone,
}

/// What is known of one peer.
#[derive(Debug)]
struct Watch {
    /// The mean of how long answers take, and how far they are from it.
    mean: Duration,
    deviation: Duration,
    heard: Option<Instant>,
    /// Since when an answer is owed.
    waiting: Option<Instant>,
    /// When a call last failed; forgotten when one succeeds.
    failed: Option<Instant>,
    asked: Option<Instant>,
    /// When it first and last did not say what it holds, whatever else it answered, since it last did.
    mute: Option<(Instant, Instant)>,
    /// The state that was told last.
    told: NodeState,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            mean: FIRST_MEAN,
            deviation: LEAST_DEVIATION,
            heard: None,
            waiting: None,
            failed: None,
            asked: None,
            mute: None,
            told: NodeState::Up,
        }
    }
}

/// See the module. Peers are bounded by the member table, whose limit is `MAX_MEMBERS`.
#[derive(Debug)]
pub(crate) struct Detector {
    peers: BTreeMap<NodeId, Watch>,
    grace: Duration,
    ticked: Instant,
}

impl Detector {
    /// A detector that calls a peer gone after so long a silence.
    pub(crate) fn new(grace: Duration, now: Instant) -> Self {
        Self { peers: BTreeMap::new(), grace, ticked: now }
    }

    /// The peer gave a sign of life.
    pub(crate) fn heard(&mut self, node: NodeId, now: Instant) {
        let watch = self.peers.entry(node).or_default();
        if watch.is_absent(now) {
            watch.mute = None;
        }
        (watch.heard, watch.waiting, watch.failed) = (Some(now), None, None);
    }

    /// The peer answered a small question after so long.
    pub(crate) fn answered(&mut self, node: NodeId, now: Instant, took: Duration) {
        self.heard(node, now);
        let watch = self.peers.entry(node).or_default();
        // Weighted as TCP weighs its round trips (RFC 6298): an eighth and a quarter.
        let off = watch.mean.abs_diff(took);
        watch.deviation = (watch.deviation * 3 + off) / 4;
        watch.mean = (watch.mean * 7 + took) / 8;
    }

    /// A call failed, or the last connection broke.
    pub(crate) fn failed(&mut self, node: NodeId, now: Instant) {
        let watch = self.peers.entry(node).or_default();
        watch.failed = Some(now);
        watch.waiting.get_or_insert(now);
    }

    /// The peer was asked what it holds, and said it or did not. One that never says it, while it answers other
    /// questions, is as good as gone: else it would keep others from taking over for ever.
    pub(crate) fn surveyed(&mut self, node: NodeId, now: Instant, answered: bool) {
        let watch = self.peers.entry(node).or_default();
        let before = watch.mute.filter(|(_, last)| now - *last <= MUTE_GAP);
        let is_mute = !answered && !watch.is_absent(now);
        watch.mute = is_mute.then(|| (before.map_or(now, |(first, _)| first), now));
    }

    /// The peer is no member any more.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.peers.remove(node);
    }

    /// Whether it is worth asking the peer: it has not just failed.
    pub(crate) fn is_live(&self, node: &NodeId, now: Instant, connected: bool) -> bool {
        let avoided = if connected { AVOIDED_FOR } else { UNCONNECTED_FOR };
        let failed = self.peers.get(node).and_then(|watch| watch.failed);
        failed.is_none_or(|since| now - since > avoided)
    }

    /// The state of a peer.
    pub(crate) fn state(&self, node: &NodeId, now: Instant, connected: bool) -> NodeState {
        self.peers.get(node).map_or(NodeState::Up, |watch| watch.state(now, connected, self.grace))
    }

    /// Whether the peer counts as gone.
    pub(crate) fn is_gone(&self, node: &NodeId, now: Instant) -> bool {
        self.state(node, now, false) == NodeState::Gone
    }

    /// Looks at everybody who is a member now: says whose state changed, and whom to ask whether it is there.
    pub(crate) fn tick(
        &mut self,
        members: &[(NodeId, bool)],
        now: Instant,
    ) -> (Vec<(NodeId, NodeState)>, Vec<NodeId>) {
        let gap = now - self.ticked;
        self.ticked = now;
        if gap > LONGEST_TICK {
            self.pass_over(gap.saturating_sub(TICK));
        }
        let (mut changes, mut due) = (Vec::new(), Vec::new());
        for (node, connected) in members {
            let watch = self.peers.entry(*node).or_default();
            if !connected {
                watch.waiting.get_or_insert(now);
            }
            let state = watch.state(now, *connected, self.grace);
            if state != watch.told {
                watch.told = state;
                changes.push((*node, state));
            }
            if let Some(last) = watch.is_due(now, *connected) {
                due.push((last, *node));
            }
        }
        due.sort_unstable();
        due.truncate(ASKED_AT_ONCE);
        let due: Vec<NodeId> = due.into_iter().map(|(_, node)| node).collect();
        for node in &due {
            let watch = self.peers.entry(*node).or_default();
            watch.asked = Some(now);
            watch.waiting.get_or_insert(now);
        }
        (changes, due)
    }

    /// Takes a pause of this node itself out of everybody's silence.
    fn pass_over(&mut self, pause: Duration) {
        for watch in self.peers.values_mut() {
            watch.waiting = watch.waiting.map(|since| since + pause);
            watch.mute = watch.mute.map(|(first, last)| (first + pause, last + pause));
        }
    }
}

impl Watch {
    /// Whether it has not answered anything for longer than a hiccup takes.
    fn is_absent(&self, now: Instant) -> bool {
        self.waiting.is_some_and(|since| now - since >= ABSENCE)
    }

    fn state(&self, now: Instant, connected: bool, grace: Duration) -> NodeState {
        let grace = if is_active(Bug::SuspectIsGone) { Duration::from_secs(8) } else { grace };
        // Nobody asks who is gone: after a while it has another chance.
        let is_mute = |(first, last): (Instant, Instant)| last - first >= grace && now - last < grace * 6;
        if self.mute.is_some_and(is_mute) {
            return NodeState::Gone;
        }
        let Some(since) = self.waiting else { return NodeState::Up };
        let silent = now - since;
        let phi = phi(silent, self.mean, self.deviation);
        if silent >= grace {
            NodeState::Gone
        } else if !connected || phi >= DOWN_PHI {
            NodeState::Down
        } else if phi >= SUSPECT_PHI || self.failed.is_some() {
            NodeState::Suspect
        } else {
            NodeState::Up
        }
    }

    /// When the peer was last heard or asked, where that is too long ago.
    fn is_due(&self, now: Instant, connected: bool) -> Option<Instant> {
        let last = self.heard.max(self.asked).unwrap_or_default();
        let after = if connected { ASK_AFTER } else { ASK_UNCONNECTED_AFTER };
        (self.heard.max(self.asked).is_none() || now - last >= after).then_some(last)
    }
}

/// How unlikely it is that an answer still comes after so long, in thousandths of a power of ten, where answers take
/// `mean` with `deviation`, normally distributed.
///
/// Integers and a table, so that every machine finds the same.
fn phi(silent: Duration, mean: Duration, deviation: Duration) -> u64 {
    /// -1000 log10 of the upper tail of the normal distribution, at 0, 1, 2, ... deviations.
    const TAIL: [u64; 11] = [301, 800, 1_643, 2_870, 4_499, 6_543, 9_006, 11_893, 15_206, 18_948, 23_118];
    let over = silent.saturating_sub(mean).as_micros();
    let deviation = deviation.max(LEAST_DEVIATION).as_micros();
    let milli = over.saturating_mul(1000).checked_div(deviation).unwrap_or(0);
    let whole = usize::try_from(milli / 1000).unwrap_or(usize::MAX);
    let part = u64::try_from(milli % 1000).unwrap_or(0);
    match (TAIL.get(whole), TAIL.get(whole.saturating_add(1))) {
        (Some(low), Some(high)) => low + (high - low) * part / 1000,
        _ => TAIL.last().copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(600);

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    fn node() -> NodeId {
        NodeId::from_bytes([1; 32])
    }

    /// A detector that ticks with this peer until then, and its state each second.
    fn run(detector: &mut Detector, from: u64, to: u64, connected: bool) -> Vec<NodeState> {
        let seconds = from / 1000..to / 1000;
        let step = |second: u64| {
            detector.tick(&[(node(), connected)], at(second * 1000));
            detector.state(&node(), at(second * 1000), connected)
        };
        seconds.map(step).collect()
    }

    #[test]
    fn a_peer_that_answers_is_up_however_idle() {
        let mut detector = Detector::new(GRACE, at(0));
        for second in (0..3_000).step_by(5) {
            let (changes, due) = detector.tick(&[(node(), true)], at(second * 1000));
            assert!(changes.is_empty());
            for node in due {
                detector.answered(node, at(second * 1000 + 3), Duration::from_millis(3));
            }
            assert_eq!(detector.state(&node(), at(second * 1000 + 4), true), NodeState::Up);
        }
    }

    #[test]
    fn silence_grows_from_suspicion_to_absence() {
        let mut detector = Detector::new(GRACE, at(0));
        detector.answered(node(), at(0), Duration::from_millis(2));
        let states = run(&mut detector, 10_000, 700_000, true);
        let first = |state| states.iter().position(|s| *s == state).unwrap() as u64 + 10;
        assert!((12..16).contains(&first(NodeState::Suspect)), "{}", first(NodeState::Suspect));
        assert!((14..20).contains(&first(NodeState::Down)), "{}", first(NodeState::Down));
        assert!((608..615).contains(&first(NodeState::Gone)), "{}", first(NodeState::Gone));
        assert!(states.is_sorted());
        detector.heard(node(), at(701_000));
        assert_eq!(detector.state(&node(), at(701_000), true), NodeState::Up);
    }

    #[test]
    fn a_slow_peer_is_given_the_time_that_it_takes() {
        let mut slow = Detector::new(GRACE, at(0));
        for i in 0..100 {
            slow.answered(node(), at(i), Duration::from_secs(4 + i % 3));
        }
        slow.tick(&[(node(), true)], at(20_000));
        assert_eq!(slow.state(&node(), at(27_000), true), NodeState::Up, "seven seconds are nothing for it");
        let mut quick = Detector::new(GRACE, at(0));
        (0..100).for_each(|i| quick.answered(node(), at(i), Duration::from_millis(2)));
        quick.tick(&[(node(), true)], at(20_000));
        assert_eq!(quick.state(&node(), at(27_000), true), NodeState::Down);
    }

    #[test]
    fn a_pause_of_this_node_is_nobody_elses_silence() {
        let mut detector = Detector::new(GRACE, at(0));
        detector.answered(node(), at(0), Duration::from_millis(2));
        detector.tick(&[(node(), true)], at(15_000));
        let (changes, _) = detector.tick(&[(node(), true)], at(4_000_000));
        assert!(changes.iter().all(|(_, state)| *state < NodeState::Gone), "{changes:?}");
        assert!(!detector.is_gone(&node(), at(4_000_000)));
    }

    #[test]
    fn who_was_never_heard_is_gone_after_the_grace_time_only() {
        let mut detector = Detector::new(GRACE, at(0));
        let states = run(&mut detector, 0, 700_000, false);
        assert_eq!(states[1], NodeState::Down);
        assert_eq!(states[599], NodeState::Down);
        assert_eq!(states[601], NodeState::Gone);
    }

    #[test]
    fn who_does_not_say_what_it_holds_is_gone_in_the_end() {
        let mut detector = Detector::new(GRACE, at(0));
        for second in 0..700 {
            detector.heard(node(), at(second * 1000));
            detector.surveyed(node(), at(second * 1000), false);
        }
        assert!(detector.is_gone(&node(), at(700_000)));
        assert!(!detector.is_gone(&node(), at(5_000_000)), "another chance");
        detector.surveyed(node(), at(700_000), true);
        assert_eq!(detector.state(&node(), at(700_000), true), NodeState::Up);
    }

    #[test]
    fn who_was_away_is_not_taken_for_one_who_keeps_silent() {
        let mut detector = Detector::new(GRACE, at(0));
        // Asked once before it was away, often meanwhile, and once when it was just back.
        detector.failed(node(), at(1_000));
        (1..900).for_each(|second| detector.surveyed(node(), at(second * 1000), false));
        detector.heard(node(), at(901_000));
        detector.surveyed(node(), at(902_000), false);
        assert!(!detector.is_gone(&node(), at(902_000)));
        // Two questions an hour apart that it missed by chance are no silence either.
        detector.heard(node(), at(903_000));
        detector.surveyed(node(), at(4_500_000), false);
        assert!(!detector.is_gone(&node(), at(4_500_000)));
    }

    #[test]
    fn who_failed_is_passed_over_for_a_while() {
        let mut detector = Detector::new(GRACE, at(0));
        detector.failed(node(), at(1000));
        assert!(!detector.is_live(&node(), at(5_000), true));
        assert!(detector.is_live(&node(), at(6_001), true));
        assert!(!detector.is_live(&node(), at(60_000), false));
        detector.heard(node(), at(7_000));
        assert!(detector.is_live(&node(), at(7_000), false));
    }

    #[test]
    fn only_so_many_are_asked_at_once() {
        let mut detector = Detector::new(GRACE, at(0));
        let members: Vec<_> = (0..100u8).map(|i| (NodeId::from_bytes([i; 32]), true)).collect();
        let mut asked = std::collections::BTreeSet::new();
        for tick in 0..7 {
            let (_, due) = detector.tick(&members, at(tick * 100));
            assert!(due.len() <= ASKED_AT_ONCE);
            asked.extend(due);
        }
        assert_eq!(asked.len(), 100, "everybody has his turn");
    }

    #[test]
    fn phi_is_the_tail_of_the_normal_distribution() {
        let phi = |deviations: f64| {
            phi(Duration::from_secs_f64(deviations * 0.5 + 1.0), FIRST_MEAN, Duration::ZERO)
        };
        assert_eq!(phi(0.0), 301, "half of all answers are later than the mean");
        assert_eq!(phi(-1.0), 301);
        assert!((1_290..1_350).contains(&phi(1.6449)), "one in twenty: {}", phi(1.6449));
        assert_eq!(phi(5.0), 6_543);
        assert_eq!(phi(1e9), 23_118);
    }
}
