//! How connections come about: dials, and those that are tried again.

use std::time::Duration;

use futures::channel::oneshot;

use crate::ports::TransportEvent;
use crate::sim::network::{DIAL_LIMIT, MAX_BACKOFF, Net};

impl Net {
    /// Dials a peer, or joins the dial that is under way.
    pub(in crate::sim) fn dial(&self, from: usize, to: usize) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let dial = state.dials.entry((from, to)).or_default();
        dial.waiting.push(sender);
        let start = !std::mem::replace(&mut dial.running, true);
        drop(state);
        if start {
            self.attempt(from, to);
        }
        receiver
    }

    fn attempt(&self, from: usize, to: usize) {
        let mut state = self.state();
        let there = state.latency((from, to));
        let back = state.latency((to, from));
        drop(state);
        let net = self.clone();
        self.world.run_after(there + back, move |_| net.try_connect(from, to));
    }

    fn try_connect(&self, from: usize, to: usize) {
        let state = self.state();
        let Some(caller) = state.endpoints.get(&from) else { return };
        let open = |way| state.links.get(&way).is_none_or(|link| !link.cut && !link.clogged);
        let reachable = open((from, to)) && open((to, from));
        let awake = |scope| !self.world.is_frozen(scope);
        let answers = state.endpoints.get(&to).map(|endpoint| awake(endpoint.scope));
        let caller_awake = awake(caller.scope);
        drop(state);
        match answers {
            Some(true) if reachable && caller_awake => self.connect(from, to),
            // Nobody listens there: refused at once.
            None if reachable => self.dialled(from, to, false),
            _ => {
                let net = self.clone();
                self.world.run_after(DIAL_LIMIT, move |_| net.dialled(from, to, false));
            }
        }
    }

    fn connect(&self, a: usize, b: usize) {
        let mut state = self.state();
        let number = state.number();
        let is_new = state.connection(a, b).is_none();
        if is_new {
            state.connections.entry(a).or_default().insert(b, number);
            state.connections.entry(b).or_default().insert(a, number);
        }
        let (id_a, id_b) = (state.id(a), state.id(b));
        drop(state);
        if is_new {
            self.world.note(a, "connected", [b as u64, number], &[]);
            for (at, other) in [(a, id_b), (b, id_a)] {
                if let Some(other) = other {
                    self.tell(at, TransportEvent::Connected(other));
                }
            }
        }
        self.dialled(a, b, true);
        self.dialled(b, a, true);
    }

    /// Ends a dial; a peer that is wanted is dialled again later.
    fn dialled(&self, from: usize, to: usize, connected: bool) {
        let mut state = self.state();
        let Some(dial) = state.dials.get_mut(&(from, to)) else { return };
        let waiting = std::mem::take(&mut dial.waiting);
        dial.running = false;
        if connected {
            state.dials.remove(&(from, to));
        } else {
            dial.failed = dial.failed.saturating_add(1);
        }
        drop(state);
        for sender in waiting {
            // Whoever waited may have given up.
            let _ = sender.send(connected);
        }
        if !connected {
            self.redial(from, to);
        }
    }

    /// Dials a peer that is wanted and not connected, after a pause that grows with each failure.
    pub(in crate::sim) fn redial(&self, from: usize, to: usize) {
        let mut state = self.state();
        let wanted = state.endpoints.get(&from).is_some_and(|endpoint| endpoint.routes.contains(&to));
        if !wanted || state.connection(from, to).is_some() {
            return;
        }
        let failed = state.dials.entry((from, to)).or_default().failed;
        let longest = (Duration::from_millis(250) * 2_u32.saturating_pow(failed.min(10))).min(MAX_BACKOFF);
        let pause = if failed == 0 { Duration::ZERO } else { state.draws.time(longest / 2, longest) };
        drop(state);
        let net = self.clone();
        self.world.run_after(pause, move |_| drop(net.dial_if_wanted(from, to)));
    }

    fn dial_if_wanted(&self, from: usize, to: usize) -> Option<oneshot::Receiver<bool>> {
        let state = self.state();
        let wanted = state.endpoints.get(&from).is_some_and(|endpoint| endpoint.routes.contains(&to));
        let needless = state.connection(from, to).is_some();
        drop(state);
        (wanted && !needless).then(|| self.dial(from, to))
    }

    /// Forgets connections of a node's earlier incarnation, which a new one takes the place of.
    pub(in crate::sim) fn supersede(&self, node: usize) {
        let peers: Vec<_> = self.state().peers_of(node).collect();
        for (peer, connection) in peers {
            self.break_connection(node, peer, Some(connection));
        }
    }
}
