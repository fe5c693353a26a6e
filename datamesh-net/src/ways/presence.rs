//! Whether a peer is there, by what each of the ways tells. Pure: events and the time go in, what they mean for all ways
//! together comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use datamesh_core::id::NodeId;
use datamesh_core::ports::{Instant, TransportEvent};

/// The ways to a process that has ended break within this time of each other: a silent one is noticed by its pings.
const TOGETHER: Duration = Duration::from_secs(60);

/// The peers that were said to be connected, and by which ways.
#[derive(Debug, Default)]
pub(super) struct Presence(BTreeMap<NodeId, Ways>);

#[derive(Debug, Default)]
struct Ways {
    up: BTreeSet<usize>,
    /// When each last broke since the peer was said to be connected.
    broken: BTreeMap<usize, Instant>,
}

impl Presence {
    /// One way has a connection to a peer: what that says.
    pub(super) fn connected(&mut self, way: usize, node: NodeId) -> Vec<TransportEvent> {
        let is_news = !self.0.contains_key(&node);
        self.0.entry(node).or_default().up.insert(way);
        if is_news { vec![TransportEvent::Connected(node)] } else { Vec::new() }
    }

    /// One way has lost a peer: what that says. Another way may be up now of which the event is still to come.
    ///
    /// Where all that were up have broken one after the other, and some are up again, the peer may be another process
    /// now, which knows nothing of what was said before.
    pub(super) fn disconnected(
        &mut self,
        way: usize,
        node: NodeId,
        is_up_elsewhere: bool,
        now: Instant,
    ) -> Vec<TransportEvent> {
        let Some(ways) = self.0.get_mut(&node) else { return Vec::new() };
        if !ways.up.remove(&way) {
            return Vec::new();
        }
        if ways.up.is_empty() && !is_up_elsewhere {
            self.0.remove(&node);
            return vec![TransportEvent::Disconnected(node)];
        }
        ways.broken.retain(|_, at| now.saturating_since(*at) < TOGETHER);
        ways.broken.insert(way, now);
        if ways.up.is_empty() || !ways.up.iter().all(|way| ways.broken.contains_key(way)) {
            return Vec::new();
        }
        ways.broken.clear();
        vec![TransportEvent::Disconnected(node), TransportEvent::Connected(node)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a peer: a way is up (`true`) or broken, after so many seconds; `+` says that the peer is there,
    /// `-` that it is gone.
    fn told(events: &[(u64, usize, bool)]) -> String {
        let (mut presence, node) = (Presence::default(), NodeId::from_bytes([1; 32]));
        let mut told = String::new();
        for (second, way, is_up) in events {
            let now = Instant::from_start(Duration::from_secs(*second));
            let said = match is_up {
                true => presence.connected(*way, node),
                false => presence.disconnected(*way, node, false, now),
            };
            told.extend(said.iter().map(|event| match event {
                TransportEvent::Connected(_) => '+',
                _ => '-',
            }));
            told.push(' ');
        }
        told.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_peer_is_there_as_long_as_any_way_is_up() {
        assert_eq!(told(&[(0, 0, true), (0, 1, true), (1, 0, false), (2, 0, true), (2, 1, true)]), "+");
        assert_eq!(told(&[(0, 0, true), (0, 1, true), (1, 0, false), (2, 1, false)]), "+ -");
        assert_eq!(told(&[(0, 0, true), (1, 0, false), (1, 0, true), (2, 1, false)]), "+ - +");
        // The third way is up all the time.
        let others = [(0, 0, true), (0, 1, true), (0, 2, true), (1, 0, false), (1, 1, false), (2, 0, true)];
        assert_eq!(told(&others), "+");
    }

    #[test]
    fn a_way_that_is_up_counts_before_its_event_came() {
        let (mut presence, node, now) =
            (Presence::default(), NodeId::from_bytes([1; 32]), Instant::from_start(Duration::ZERO));
        assert_eq!(presence.connected(0, node), [TransportEvent::Connected(node)]);
        assert_eq!(presence.disconnected(0, node, true, now), []);
        assert_eq!(presence.connected(1, node), []);
        assert_eq!(presence.disconnected(1, node, false, now), [TransportEvent::Disconnected(node)]);
    }

    #[test]
    fn a_quick_restart_is_told_whatever_the_order() {
        let begin = [(0, 0, true), (0, 1, true)];
        // Each way tells in its order; between them any order may be seen.
        let table = [
            ([(9, 0, false), (9, 1, false), (9, 0, true), (9, 1, true)], "+ - +"),
            ([(9, 0, false), (9, 0, true), (9, 1, false), (9, 1, true)], "+ -+"),
            ([(9, 1, false), (9, 1, true), (9, 0, false), (9, 0, true)], "+ -+"),
            // Two ways that broke at different times were two mishaps.
            ([(9, 0, false), (9, 0, true), (69, 1, false), (69, 1, true)], "+"),
        ];
        for (events, expected) in table {
            assert_eq!(told(&[&begin[..], &events].concat()), expected, "{events:?}");
        }
    }
}
