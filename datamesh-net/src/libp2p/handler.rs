//! One connection: proves the mesh key, then hands out streams.
//!
//! Until the proof is done no request is served and no stream is handed out. The dialler opens the
//! stream for the proof.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use libp2p::core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};
use libp2p::{PeerId, Stream, StreamProtocol};

use super::peers::{Peer, Shared};
use super::proof::{self, Role};
use super::session::{MAILBOX, StreamRequest};
use super::{frame, serve};

/// Streams for requests that a peer may have open on one connection. Twice what a node opens by default, so that a
/// peer whose resets are still on the way is not refused.
const STREAMS_PER_CONNECTION: usize = 64;

const PROOF: StreamProtocol = StreamProtocol::new(proof::PROTOCOL);
const REQUESTS: StreamProtocol = StreamProtocol::new(frame::PROTOCOL);

/// What a connection tells.
pub(super) enum FromHandler {
    /// The peer knows the mesh key; streams can be asked for.
    Proved(async_channel::Sender<StreamRequest>),
    /// The peer does not, and why.
    Refused(String),
}

impl fmt::Debug for FromHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proved(_) => f.write_str("Proved"),
            Self::Refused(why) => write!(f, "Refused({why})"),
        }
    }
}

/// What an outgoing stream is for.
pub(super) enum Purpose {
    Proof,
    Requests(StreamRequest),
}

/// How far the proof is.
enum State {
    /// The dialler has not asked for its stream yet.
    Begin,
    Waiting,
    Running(BoxFuture<'static, Result<(), String>>),
    Proved,
    Refused,
}

pub(super) struct Handler {
    shared: Arc<Shared>,
    remote: PeerId,
    peer: Arc<Peer>,
    role: Role,
    state: State,
    deadline: Pin<Box<tokio::time::Sleep>>,
    mailbox: (async_channel::Sender<StreamRequest>, Pin<Box<async_channel::Receiver<StreamRequest>>>),
    /// Streams that came before this end had finished the proof.
    early: Vec<Stream>,
    /// Cloned for each served stream, so that they are counted.
    served: Arc<()>,
}

type Event = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, Purpose, FromHandler>;

impl Handler {
    pub(super) fn new(shared: Arc<Shared>, remote: PeerId, peer: Arc<Peer>, role: Role) -> Self {
        let deadline = Box::pin(tokio::time::sleep(shared.limits.handshake));
        let (sender, receiver) = async_channel::bounded(MAILBOX);
        let state = if role == Role::Dialler { State::Begin } else { State::Waiting };
        let mailbox = (sender, Box::pin(receiver));
        Self {
            shared,
            remote,
            peer,
            role,
            state,
            deadline,
            mailbox,
            early: Vec::new(),
            served: Arc::default(),
        }
    }

    fn on_inbound(&mut self, protocol: &StreamProtocol, stream: Stream) {
        match (&self.state, *protocol == PROOF) {
            (State::Waiting, true) if self.role == Role::Listener => self.prove(stream),
            (State::Proved, false) => self.serve(stream),
            (State::Begin | State::Waiting | State::Running(_), false)
                if self.early.len() < STREAMS_PER_CONNECTION =>
            {
                self.early.push(stream);
            }
            // A second proof, one stream too many, or a refused peer: dropping the stream resets it.
            _ => {}
        }
    }

    fn prove(&mut self, stream: Stream) {
        let (shared, role, remote) = (self.shared.clone(), self.role, self.remote);
        let proof =
            async move { proof::exchange(stream, role, &shared.key, shared.local_peer, remote).await };
        self.state = State::Running(proof.boxed());
    }

    fn serve(&mut self, stream: Stream) {
        if Arc::strong_count(&self.served) > STREAMS_PER_CONNECTION {
            tracing::debug!(node = %self.peer.node, "a peer opened too many streams; reset");
            return;
        }
        let task = serve::stream(self.shared.clone(), self.peer.clone(), stream, self.served.clone());
        self.shared.runtime.spawn(task);
    }

    fn refuse(&mut self, why: String) -> Event {
        self.state = State::Refused;
        self.early.clear();
        ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Refused(why))
    }

    fn poll_proof(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let State::Begin = self.state {
            self.state = State::Waiting;
            return Poll::Ready(self.open(PROOF, Purpose::Proof));
        }
        if let State::Running(proof) = &mut self.state {
            match proof.poll_unpin(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(self.proved()),
                Poll::Ready(Err(why)) => return Poll::Ready(self.refuse(why)),
                Poll::Pending => {}
            }
        }
        if self.deadline.poll_unpin(cx).is_ready() {
            return Poll::Ready(self.refuse("it did not prove the mesh key in time".into()));
        }
        Poll::Pending
    }

    fn proved(&mut self) -> Event {
        self.state = State::Proved;
        for stream in std::mem::take(&mut self.early) {
            self.serve(stream);
        }
        ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Proved(self.mailbox.0.clone()))
    }

    fn open(&self, protocol: StreamProtocol, purpose: Purpose) -> Event {
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), purpose)
            .with_timeout(self.shared.limits.handshake);
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Protocols;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Protocols> {
        SubstreamProtocol::new(Protocols, ()).with_timeout(self.shared.limits.handshake)
    }

    fn connection_keep_alive(&self) -> bool {
        !matches!(self.state, State::Refused)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.state {
            State::Proved => match self.mailbox.1.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) => Poll::Ready(self.open(REQUESTS, Purpose::Requests(request))),
                _ => Poll::Pending,
            },
            State::Refused => Poll::Pending,
            _ => self.poll_proof(cx),
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Protocols, ReadyUpgrade<StreamProtocol>, (), Purpose>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.on_inbound(&protocol.0, protocol.1);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                match info {
                    Purpose::Proof => self.prove(protocol),
                    // A caller that is gone needs no stream.
                    Purpose::Requests(caller) => drop(caller.send(protocol)),
                }
            }
            // Dropping the request tells the session.
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: Purpose::Proof, error }) => {
                let why = format!("it broke off the proof of the mesh key: {error}");
                self.state = State::Running(ready(Err(why)).boxed());
            }
            _ => {}
        }
    }
}

/// The protocols that this node takes streams for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Protocols;

impl UpgradeInfo for Protocols {
    type Info = StreamProtocol;
    type InfoIter = [StreamProtocol; 2];

    fn protocol_info(&self) -> Self::InfoIter {
        [REQUESTS, PROOF]
    }
}

impl InboundUpgrade<Stream> for Protocols {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}
