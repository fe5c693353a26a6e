//! Links outlive a change of the mesh key: whoever dialled one dials another with the new key, which takes its place;
//! what was not proved with a key that is accepted is closed when the old one ends.

use std::collections::{BTreeMap, BTreeSet};

use datamesh_core::KeyRing;
use datamesh_core::id::NodeId;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::driver::{Driver, Held};
use crate::wire::backoff;
use crate::wire::keys::{KeyName, accepted_names};

/// What waits for a peer to learn the new key, and what is to end with the old one.
pub(super) struct Renewals {
    ring: KeyRing,
    /// Hears of each change of the keys.
    pub(super) changes: async_channel::Receiver<()>,
    /// How often each peer was asked for a link with the new key, and when it is asked again.
    asked: BTreeMap<NodeId, (u32, Instant)>,
    /// When that is for the first of them.
    pub(super) next: Option<Instant>,
    /// The connections for requests that are served, of whom, and with which key each was proved.
    served: Vec<(NodeId, KeyName, AbortHandle)>,
}

impl Renewals {
    pub(super) fn of(ring: KeyRing) -> Self {
        let changes = ring.changes();
        Self { ring, changes, asked: BTreeMap::new(), next: None, served: Vec::new() }
    }

    pub(super) fn is_current(&self, key: &KeyName) -> bool {
        self.ring.current().network_name() == *key
    }

    /// Has a connection end with the key that it was proved with.
    pub(super) fn end_with(&mut self, node: NodeId, key: KeyName, task: AbortHandle) {
        self.served.push((node, key, task));
    }

    /// Ends what is served and may not go on.
    pub(super) fn end_served(&mut self, may_go_on: impl Fn(&NodeId, &KeyName) -> bool) {
        self.served.retain(|(node, key, task)| {
            let goes_on = may_go_on(node, key);
            if !goes_on {
                task.abort();
            }
            goes_on && !task.is_finished()
        });
    }

    /// Whom to ask now, of those whose links were proved with another key than the newest.
    fn due(&mut self, lagging: &BTreeSet<NodeId>, now: Instant) -> Vec<NodeId> {
        self.asked.retain(|node, _| lagging.contains(node));
        let mut due = Vec::new();
        for node in lagging {
            let (tried, again) = self.asked.entry(*node).or_insert((0, now));
            if *again <= now {
                *tried = tried.saturating_add(1);
                *again = now + backoff(*tried);
                due.push(*node);
            }
        }
        self.next = self.asked.values().map(|(_, again)| *again).min();
        due
    }
}

impl Driver {
    /// Closes what was proved with a key that has ended, and has the rest proved with the newest one.
    pub(super) fn look_at_keys(&mut self) {
        let accepted = accepted_names(&self.renewals.ring);
        self.renewals.end_served(|_, key| accepted.contains(key));
        let ended = self.links.iter().filter(|(_, held)| !accepted.contains(&held.key));
        let ended: Vec<(NodeId, u64)> = ended.map(|(link, held)| (held.node, *link)).collect();
        for (node, link) in ended {
            tracing::info!(%node, "a link is closed: its peer has not proved the new mesh key");
            self.on_gone(node, link);
        }
        let lags = self.links.values().filter(|held| !held.is_inbound && accepted.first() != Some(&held.key));
        let lagging = lags.map(|held| held.node).collect();
        for node in self.renewals.due(&lagging, Instant::now()) {
            self.dial(node);
        }
    }

    /// Whether a link says no more than those that are there: its peer was asked for one with the new key and does
    /// not have it yet.
    pub(super) fn is_spare(&self, node: NodeId, key: &KeyName) -> bool {
        let is_same = |held: &Held| held.node == node && !held.is_inbound && held.key == *key;
        !self.renewals.is_current(key) && self.links.values().any(is_same)
    }

    /// The links of a peer that this one, with the newest key, takes the place of.
    pub(super) fn outdated(&self, node: NodeId, key: &KeyName) -> Vec<u64> {
        if !self.renewals.is_current(key) {
            return Vec::new();
        }
        let others = self.links.iter().filter(|(_, held)| held.node == node && held.key != *key);
        others.map(|(link, _)| *link).collect()
    }
}
