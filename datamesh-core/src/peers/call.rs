//! One call at a time: the cheapest way, the measure of the time that it takes, and what a refusal means.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Refusal, Reply, Request};
use crate::id::NodeId;
use crate::peers::Peers;
use crate::placement::CallClass;
use crate::ports::{Instant, Message};

/// Messages of fewer bytes say more of the latency of a link than of what it carries.
const LEAST_MEASURED: usize = 16 << 10;

/// With each measurement this part of the earlier best is forgotten.
const GOODPUT_FADE: u64 = 64;

impl Peers {
    /// Records a wrong answer: bytes that are not what their name says.
    pub(crate) fn answered_wrongly(&self, node: NodeId) {
        if let Some(timing) = self.state().timing_of(node) {
            timing.record_failure();
        }
    }

    /// Records that a node was given up while it still owed an answer; it counts as down for a while.
    pub(crate) fn given_up(&self, node: NodeId) {
        let now = self.runtime.now();
        let mut state = self.state();
        let Some(timing) = state.timing_of(node) else { return };
        timing.record_failure();
        state.detector.failed(node, now);
    }

    /// Asks a node and waits for its answer, for at most `limit`; the local node is asked directly.
    ///
    /// # Errors
    /// As [`Transport::call`](crate::ports::Transport::call); `Protocol` for an answer that cannot be read.
    pub(crate) async fn call(
        &self,
        node: NodeId,
        request: Request,
        body: Bytes,
        limit: Duration,
    ) -> Result<(Reply, Bytes)> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        if node == self.local {
            return self.runtime.timeout(limit, self.node.handle(node, request, body)).await;
        }
        let class = class_of(&request, &body);
        let (started, sent) = (self.runtime.now(), body.len());
        let mut overtaken = Overtaken { peers: self, node, class, started, answered: false };
        let answer = self.carry(node, Message { head: request.encode(), body }, limit).await;
        overtaken.answered = true;
        let answer = answer.and_then(|message| Ok((Reply::decode(&message.head)?, message.body)));
        if let Ok((_, body)) = &answer {
            self.note_carried(sent.saturating_add(body.len()), started);
        }
        self.note(node, class, started, answer.as_ref().err());
        answer.map_err(|error| error.with_node(node))
    }

    /// Sends by the cheapest transport that is connected, or by each in turn until one reaches the node.
    async fn carry(&self, node: NodeId, message: Message, limit: Duration) -> Result<Message> {
        let route = self.state().routes.get(&node).and_then(|routes| routes.first().copied());
        if let Some(transport) = route.and_then(|index| self.transports.get(index)) {
            return transport.call(node, message, limit).await;
        }
        let mut failed = Error::new(ErrorKind::Unavailable, "no transport reaches this node");
        for transport in &self.transports {
            match transport.call(node, message.clone(), limit).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => failed = error,
                answer => return answer,
            }
        }
        Err(failed)
    }

    /// Measures a link by what it carried.
    fn note_carried(&self, bytes: usize, started: Instant) {
        if bytes < LEAST_MEASURED {
            return;
        }
        let micros = (self.runtime.now() - started).as_micros().max(1);
        let rate = (bytes as u128).saturating_mul(1_000_000) / micros;
        let mut state = self.state();
        let faded = state.goodput - state.goodput / GOODPUT_FADE;
        state.goodput = faded.max(u64::try_from(rate).unwrap_or(u64::MAX));
    }

    /// The bytes that the fastest link has lately carried in a second; 0 where nothing was measured.
    pub(crate) fn goodput(&self) -> u64 {
        self.state().goodput
    }

    fn note(&self, node: NodeId, class: CallClass, started: Instant, error: Option<&Error>) {
        let now = self.runtime.now();
        let mut state = self.state();
        let Some(timing) = state.timing_of(node) else { return };
        match error {
            None => {
                timing.record_success(class, now - started);
                match class {
                    CallClass::Small => state.detector.answered(node, now, now - started),
                    CallClass::Bulk => state.detector.heard(node, now),
                    CallClass::Store => {
                        state.stored.insert(node, now);
                        state.detector.heard(node, now);
                    }
                }
            }
            Some(error) => {
                timing.record_failure();
                if matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::OutcomeUnknown
                ) {
                    state.detector.failed(node, now);
                }
            }
        }
    }
}

/// What a call's time tells of the answers to come. Whoever takes data in waits for its disk, or for other puts: that
/// says nothing of how fast it gives data out.
fn class_of(request: &Request, body: &Bytes) -> CallClass {
    match request {
        Request::ReadShard { .. } => CallClass::Bulk,
        _ if body.is_empty() => CallClass::Small,
        _ => CallClass::Store,
    }
}

/// A call whose answer nobody waits for any more took at least so long.
struct Overtaken<'a> {
    peers: &'a Peers,
    node: NodeId,
    class: CallClass,
    started: Instant,
    answered: bool,
}

impl Drop for Overtaken<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let now = self.peers.runtime.now();
        let mut state = self.peers.state();
        let Some(timing) = state.timing_of(self.node) else { return };
        timing.record_unanswered(self.class, now - self.started);
        if self.class == CallClass::Store {
            state.stored.insert(self.node, now);
        }
    }
}

/// The error of everything that is asked of a mesh after its end.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the mesh was shut down; open it again")
}

/// The error that a refusal stands for.
pub(crate) fn refused(refusal: Refusal, text: &str, node: NodeId) -> Error {
    let kind = match refusal {
        Refusal::Denied => ErrorKind::AccessDenied,
        Refusal::Full => ErrorKind::StorageFull,
        Refusal::Poisoned => ErrorKind::Poisoned,
        Refusal::Busy => ErrorKind::Busy,
        Refusal::Corrupt => ErrorKind::Corrupt,
        Refusal::Unsupported => ErrorKind::Unsupported,
        Refusal::Invalid => ErrorKind::Protocol,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the node refused: {text}")).with_node(node)
}

/// The error for an answer that does not fit the question.
pub(crate) fn unexpected(reply: &Reply, node: NodeId) -> Error {
    match reply {
        Reply::Failed { refusal, text } => refused(*refusal, text, node),
        other => {
            Error::new(ErrorKind::Protocol, format!("the node answered {} to that request", other.name()))
                .with_node(node)
        }
    }
}
