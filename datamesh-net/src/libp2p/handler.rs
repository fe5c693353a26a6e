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
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{PeerId, Stream, StreamProtocol};

use super::gate::Gate;
use super::proof::{self, Own, Role, Unproved};
use crate::wire::keys::KeyName;
use crate::wire::peers::{Peer, Shared};
use crate::wire::serve;
use crate::wire::session::{MAILBOX, StreamRequest};
use crate::wire::watched::Watched;

const PROOF: StreamProtocol = StreamProtocol::new(proof::PROTOCOL);

/// The name of the stream protocol that carries requests and replies.
const REQUESTS: StreamProtocol = StreamProtocol::new("/datamesh/1");

/// Streams that are kept until their peer has proved the mesh key. Nobody reads them, and each may fill 256 KiB of Yamux.
const MAX_EARLY: usize = 16;

/// How a connection was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) role: Role,
    pub(super) key: KeyName,
}

/// What a connection is asked for.
#[derive(Debug)]
pub(super) enum ToHandler {
    /// To prove the newest mesh key, which has changed since the proof.
    Renew,
}

/// What a connection tells.
pub(super) enum FromHandler {
    /// The peer knows the mesh key; streams can be asked for.
    Proved(async_channel::Sender<StreamRequest>, Proof),
    /// Both have proved a mesh key again, which may be a newer one.
    Renewed(Proof),
    /// The peer does not, and why.
    Refused(Unproved),
}

impl fmt::Debug for FromHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proved(..) => f.write_str("Proved"),
            Self::Renewed(_) => f.write_str("Renewed"),
            Self::Refused(why) => write!(f, "Refused({why})"),
        }
    }
}

/// What an outgoing stream is for.
pub(super) enum Purpose {
    Proof,
    Requests(StreamRequest),
}

/// A proof under way: with which key it ends.
type Proving = BoxFuture<'static, Result<KeyName, Unproved>>;

/// How far the proof is.
enum State {
    /// The dialler has not asked for its stream yet.
    Begin,
    Waiting,
    Running(Proving),
    Proved,
    Refused,
}

pub(super) struct Handler {
    shared: Arc<Shared>,
    own: Arc<Own>,
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
    /// Opens what is for members only, on this connection.
    gate: Arc<Gate>,
    /// Whether a stream is to be asked for on which a proof is given again.
    renews: bool,
    renewal: Option<Proving>,
}

type Event = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, Purpose, FromHandler>;

impl Handler {
    pub(super) fn new(
        shared: Arc<Shared>,
        own: Arc<Own>,
        remote: PeerId,
        peer: Arc<Peer>,
        role: Role,
        gate: Arc<Gate>,
    ) -> Self {
        let deadline = Box::pin(tokio::time::sleep(shared.limits.handshake));
        let (sender, receiver) = async_channel::bounded(MAILBOX);
        let state = if role == Role::Dialler { State::Begin } else { State::Waiting };
        let mailbox = (sender, Box::pin(receiver));
        Self {
            shared,
            own,
            remote,
            peer,
            role,
            state,
            deadline,
            mailbox,
            early: Vec::new(),
            served: Arc::default(),
            gate,
            renews: false,
            renewal: None,
        }
    }

    fn on_inbound(&mut self, protocol: &StreamProtocol, stream: Stream) {
        match (&self.state, *protocol == PROOF) {
            (State::Waiting, true) if self.role == Role::Listener => {
                self.state = State::Running(self.prove(stream));
            }
            (State::Proved, true) if self.role == Role::Listener && self.renewal.is_none() => {
                self.renew(stream);
            }
            (State::Proved, false) => self.serve(stream),
            (State::Begin | State::Waiting | State::Running(_), false)
                if self.early.len() < self.shared.limits.streams_per_connection.min(MAX_EARLY) =>
            {
                self.early.push(stream);
            }
            // A second proof, one stream too many, or a refused peer: dropping the stream resets it.
            _ => {}
        }
    }

    fn prove(&self, stream: Stream) -> Proving {
        let (own, role, remote) = (self.own.clone(), self.role, self.remote);
        let gate = Arc::clone(&self.gate);
        async move { proof::exchange(stream, role, &own, remote, &gate).await }.boxed()
    }

    /// Proves a mesh key again while the connection goes on.
    fn renew(&mut self, stream: Stream) {
        let (proof, limit) = (self.prove(stream), self.shared.limits.handshake);
        let proof = async move {
            let proved = tokio::time::timeout(limit, proof).await;
            proved.unwrap_or_else(|_| Err(late()))
        };
        self.renewal = Some(proof.boxed());
    }

    fn serve(&mut self, stream: Stream) {
        if Arc::strong_count(&self.served) > self.shared.limits.streams_per_connection {
            tracing::debug!(node = %self.peer.node, "a peer opened too many streams; reset");
            return;
        }
        // Where this node closes the connection, what it serves there ends at once, and what that holds is free.
        let stream = Box::new(Watched::new(Box::new(stream), self.mailbox.0.clone()));
        let task = serve::stream(self.shared.clone(), self.peer.clone(), stream, self.served.clone());
        self.shared.runtime.spawn(task);
    }

    fn refuse(&mut self, why: Unproved) -> Event {
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
                Poll::Ready(Ok(key)) => return Poll::Ready(self.proved(key)),
                Poll::Ready(Err(why)) => return Poll::Ready(self.refuse(why)),
                Poll::Pending => {}
            }
        }
        if self.deadline.poll_unpin(cx).is_ready() {
            return Poll::Ready(self.refuse(late()));
        }
        Poll::Pending
    }

    /// What goes on after the proof: it is given again, and streams are asked for.
    fn poll_proved(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if std::mem::take(&mut self.renews) {
            return Poll::Ready(self.open(PROOF, Purpose::Proof));
        }
        if let Some(Poll::Ready(proved)) = self.renewal.as_mut().map(|renewal| renewal.poll_unpin(cx)) {
            self.renewal = None;
            match proved {
                Ok(key) => {
                    let proof = Proof { role: self.role, key };
                    return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Renewed(proof)));
                }
                // The connection is closed when the key ends that it was proved with before.
                Err(why) => tracing::debug!(node = %self.peer.node, %why, "no key was proved anew"),
            }
        }
        match self.mailbox.1.poll_next_unpin(cx) {
            Poll::Ready(Some(request)) => Poll::Ready(self.open(REQUESTS, Purpose::Requests(request))),
            _ => Poll::Pending,
        }
    }

    fn proved(&mut self, key: KeyName) -> Event {
        self.state = State::Proved;
        for stream in std::mem::take(&mut self.early) {
            self.serve(stream);
        }
        let proof = Proof { role: self.role, key };
        ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Proved(self.mailbox.0.clone(), proof))
    }

    fn open(&self, protocol: StreamProtocol, purpose: Purpose) -> Event {
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), purpose)
            .with_timeout(self.shared.limits.handshake);
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToHandler;
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
            State::Proved => self.poll_proved(cx),
            State::Refused => Poll::Pending,
            _ => self.poll_proof(cx),
        }
    }

    fn on_behaviour_event(&mut self, ToHandler::Renew: ToHandler) {
        let is_proved = matches!(self.state, State::Proved);
        self.renews = is_proved && self.role == Role::Dialler && self.renewal.is_none();
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
                    Purpose::Proof if matches!(self.state, State::Proved) => self.renew(protocol),
                    Purpose::Proof => self.state = State::Running(self.prove(protocol)),
                    // A caller that is gone needs no stream.
                    Purpose::Requests(caller) => drop(caller.send(Box::new(protocol))),
                }
            }
            // Dropping the request tells the session.
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: Purpose::Proof, error })
                if !matches!(self.state, State::Proved) =>
            {
                self.state = State::Running(ready(Err(no_stream(&error))).boxed());
            }
            _ => {}
        }
    }
}

fn late() -> Unproved {
    Unproved::Lost("it did not prove the mesh key in time".into())
}

/// Why there is no stream to prove the mesh key on.
fn no_stream(error: &StreamUpgradeError<Infallible>) -> Unproved {
    match error {
        StreamUpgradeError::NegotiationFailed => {
            Unproved::Wrong("it knows no proof of the mesh key, or that of another version".into())
        }
        error => Unproved::Lost(format!("it broke off the proof of the mesh key: {error}")),
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
