//! Looking who is there: peers of whom nothing was heard are asked, and changes are told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::care::{Care, NodeState, TICK};
use crate::format::Request;
use crate::id::NodeId;
use crate::observe::Event;

/// How long an answer to the question whether one is there is waited for.
const PING_LIMIT: Duration = Duration::from_secs(10);

impl Care {
    /// Looks again and again.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            self.engine.runtime.sleep(TICK).await;
            let (changes, due) = self.engine.peers.tick();
            for (node, state) in changes {
                self.tell(node, state);
            }
            self.observe_members();
            // They are asked beside each other, and the next look does not wait for the slowest.
            for node in due {
                self.ping(node);
            }
        }
    }

    fn tell(&self, node: NodeId, state: NodeState) {
        self.engine.events.emit(Event::NodeState { node, state });
        // Who is gone has left work, and who comes back may have lost what it held.
        if matches!(state, NodeState::Gone | NodeState::Up) {
            self.wake();
        }
    }

    /// Takes in who is a member now.
    pub(super) fn observe_members(&self) {
        let (all, present) = (self.engine.peers.storage_members(), self.engine.peers.reliable_members());
        let now = self.engine.runtime.now();
        if self.roster().observe(&all, &present, now) {
            self.wake();
        }
    }

    /// Asks a peer whether it is there; what it answers is noted where all answers are.
    fn ping(&self, node: NodeId) {
        let engine = Arc::clone(&self.engine);
        let ask = async move {
            let _ = engine.peers.call(node, Request::Ping, Bytes::new(), PING_LIMIT).await;
        };
        let _ = self.engine.runtime.spawn(Box::pin(ask));
    }
}
