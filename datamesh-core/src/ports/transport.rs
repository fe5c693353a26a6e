//! Messages between nodes.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result};
use crate::id::NodeId;

/// The longest head of a message, in bytes.
pub const MAX_HEAD_LEN: usize = 1 << 20;

/// The longest body of a message, in bytes: a 4 MiB shard with its tag and padding.
pub const MAX_BODY_LEN: usize = (4 << 20) + (64 << 10);

/// The longest address, in bytes of text.
pub const MAX_ADDRESS_LEN: usize = 256;

/// Where a node can be reached, in the text form of the transport that made it (a multiaddr for libp2p,
/// for instance `/ip4/192.0.2.1/tcp/4001`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

impl Address {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Takes 1 to 256 bytes of printable ASCII without spaces.
    fn from_str(text: &str) -> Result<Self> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if text.is_empty() || text.len() > MAX_ADDRESS_LEN || !printable {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "an address is 1 to {MAX_ADDRESS_LEN} printable characters, got {} bytes",
                    text.len()
                ),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What is carried from one node to another; the transport looks into neither part.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// A small encoded head, at most [`MAX_HEAD_LEN`] bytes.
    pub head: Bytes,
    /// The payload, at most [`MAX_BODY_LEN`] bytes, often empty.
    pub body: Bytes,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message(head {} bytes, body {} bytes)", self.head.len(), self.body.len())
    }
}

/// A request from another node, with the way to answer it.
#[derive(Debug)]
pub struct Inbound {
    /// Who asks; proved by the transport.
    pub from: NodeId,
    /// What is asked.
    pub message: Message,
    /// The way to answer.
    pub reply: ReplySender,
}

/// Answers one inbound request. Dropping it unanswered makes the caller's request fail at once.
#[derive(Debug)]
pub struct ReplySender(oneshot::Sender<Message>);

impl ReplySender {
    /// A sender and the future that resolves to what it sent, or to an error when it was dropped.
    pub fn pair() -> (Self, oneshot::Receiver<Message>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. Nothing happens when the caller is gone.
    pub fn send(self, message: Message) {
        let _ = self.0.send(message);
    }

    /// Whether the caller is gone, so that no answer is needed.
    pub fn is_canceled(&self) -> bool {
        self.0.is_canceled()
    }
}

/// A peer, and where the mesh believes that it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRoute {
    /// The peer.
    pub node: NodeId,
    /// Its addresses, best first; at most 16 are used.
    pub addresses: Vec<Address>,
}

/// By what kind of way a peer is reached, the cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Inside the process: nothing is copied.
    SameProcess,
    /// Between processes of one machine: nothing is encrypted on the way.
    SameMachine,
    /// Over a network.
    Network,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameProcess => "same process",
            Self::SameMachine => "same machine",
            Self::Network => "network",
        })
    }
}

/// By what kind of connection a peer is reached over a network, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// Directly, over TCP.
    Tcp,
    /// Directly, over QUIC.
    Quic,
    /// By way of another member, which relays.
    Relay,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "direct, TCP",
            Self::Quic => "direct, QUIC",
            Self::Relay => "relayed",
        })
    }
}

/// How a peer is reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reached {
    /// By what kind of way requests go to it.
    pub way: Way,
    /// By what kind of connection, where that is over a network and the transport has more than one.
    pub reach: Option<Reach>,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reach {
            Some(reach) => fmt::Display::fmt(&reach, f),
            None => fmt::Display::fmt(&self.way, f),
        }
    }
}

/// One of the ways to a peer, and what was measured on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayStatus {
    /// The kind.
    pub way: Way,
    /// Whether the peer is connected this way.
    pub connected: bool,
    /// Whether requests go this way now.
    pub chosen: bool,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that failed because the way broke, or led nowhere.
    pub failed: u64,
    /// Bytes of the messages that were answered and of their answers.
    pub bytes: u64,
    /// The shortest time lately between a small request and its answer.
    pub latency: Option<Duration>,
    /// The most bytes that a message lately carried in a second.
    pub bytes_per_second: Option<u64>,
}

impl WayStatus {
    /// A way of which nothing was measured; it is chosen where it is connected.
    pub fn unmeasured(way: Way, connected: bool) -> Self {
        Self {
            way,
            connected,
            chosen: connected,
            answered: 0,
            failed: 0,
            bytes: 0,
            latency: None,
            bytes_per_second: None,
        }
    }
}

/// What a transport tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportEvent {
    /// The first connection to a peer is up.
    Connected(NodeId),
    /// The last connection to a peer is gone.
    Disconnected(NodeId),
    /// The addresses under which this node listens have changed.
    Listening(Vec<Address>),
    /// A stranger without the mesh key was refused.
    Refused(String),
}

/// Carries one request to one node and brings one reply.
///
/// # Contract
/// 1. The sender of an [`Inbound`] MUST be proved (a key exchange, or the same process), and MUST know the
///    mesh key; others get no message through and learn nothing.
/// 2. `call` MUST deliver a request at most once, and resolve with the reply, or with an error no later
///    than `limit` plus one second. [`ErrorKind::Unavailable`]: the peer cannot be reached, and the request was
///    **not** handled; [`ErrorKind::OutcomeUnknown`]: the connection broke or the peer gave up after the request
///    was sent; [`ErrorKind::TimedOut`]: no reply in time, the request may have been handled.
/// 3. Dropping a `call` future MUST cancel it and free what it took; the peer may still have handled it.
/// 4. Requests to one peer MUST run concurrently; a slow one MUST NOT stop the others.
/// 5. Heads over [`MAX_HEAD_LEN`] and bodies over [`MAX_BODY_LEN`] MUST be refused with
///    [`ErrorKind::LimitExceeded`] by the sender, and by the receiver before memory is taken for them.
/// 6. Everything is bounded for each peer: connections, streams, requests and bytes in flight. At a limit the
///    sender waits (inside its deadline); nothing waits in an unbounded queue.
/// 7. `accept` yields inbound requests; they MUST NOT be lost or reordered against their replies when
///    `accept` is slow: the peers wait. It yields `None` after `close`.
/// 8. A call to the local node MUST fail with [`ErrorKind::InvalidInput`]: the mesh answers itself.
/// 9. Known peers are dialled and kept connected with jittered backoff: over a network unasked tries come after
///    0.2 s, doubled to 30 s, and after 5 minutes where another node answers at every address. A call to a known peer
///    that is not connected MUST try at once (or join the try under way), and fail as soon as that try fails; for a
///    pause after a failed try (0.5 s, doubled to 4 s, and 30 s where another node answers at every address) it MAY
///    fail at once with that try's error. An address that was not known to the try ends the wait and the pause.
/// 10. After `close` returned, no thread or task of the transport runs, its ports are free, and every method
///     returns [`ErrorKind::Closed`]. A call that `close` interrupts MUST end with [`ErrorKind::Closed`] only where its
///     request was not handled, and else with [`ErrorKind::OutcomeUnknown`].
/// 11. Nodes that are refused SHOULD get no connection: those that they have are closed, and new ones end as soon as
///     it is known whose they are, before anything else is said on them. Where a transport does nothing, the mesh
///     answers each of their requests with a refusal.
///
/// The conformance suite is `datamesh_core::testing::transport` (feature `testing`).
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The node that this transport speaks for.
    fn local_node(&self) -> NodeId;

    /// By what kind of way its peers are reached; a transport of several ways names its dearest.
    fn way(&self) -> Way {
        Way::Network
    }

    /// By what kind of way an address leads to its node; `None` for one that the transport cannot read.
    fn way_of(&self, _address: &Address) -> Option<Way> {
        Some(self.way())
    }

    /// The ways to a peer, the cheapest first, where it has several; empty where there is nothing to choose from.
    fn ways_to(&self, _node: NodeId) -> Vec<WayStatus> {
        Vec::new()
    }

    /// The same for all peers together.
    fn way_totals(&self) -> Vec<WayStatus> {
        Vec::new()
    }

    /// Sends a request to a peer and waits for its reply, for at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`, `OutcomeUnknown`, `TimedOut`, `LimitExceeded`, `Closed`; see the contract.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; whether the peer handled it is unknown then.
    fn call(
        &self,
        node: NodeId,
        request: Message,
        limit: Duration,
    ) -> impl Future<Output = Result<Message>> + Send;

    /// The next inbound request, or `None` after `close`.
    ///
    /// # Cancel safety
    /// Dropping the future loses no request.
    fn accept(&self) -> impl Future<Output = Option<Inbound>> + Send;

    /// The next event, or `None` after `close`. At most 1024 wait; then the oldest are dropped. What is told of
    /// strangers fills no more than half of that.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    fn next_event(&self) -> impl Future<Output = Option<TransportEvent>> + Send;

    /// Dials an address whose node is not known yet, proves the mesh key both ways, and says who is there.
    ///
    /// # Errors
    /// `Unavailable` when nobody answers, `AccessDenied` when the peer is not of this mesh, `InvalidInput` for an
    /// address this transport cannot read, `TimedOut`, `Closed`.
    fn connect(&self, address: Address, limit: Duration) -> impl Future<Output = Result<NodeId>> + Send;

    /// Replaces the set of peers that the transport keeps connected. At most 4096 are used.
    fn set_peers(&self, peers: Vec<PeerRoute>);

    /// Replaces the set of nodes that get no connection, because they were revoked; known or not. At most 4096 are
    /// used, as many as one epoch revokes. By default nothing happens.
    fn refuse(&self, nodes: Vec<NodeId>) {
        let _ = nodes;
    }

    /// The peers that are connected now.
    fn connected(&self) -> Vec<NodeId>;

    /// Whether a peer is connected now.
    fn is_connected(&self, node: NodeId) -> bool {
        self.connected().contains(&node)
    }

    /// The addresses under which others can reach this node now; empty when it does not listen.
    fn listen_addresses(&self) -> Vec<Address>;

    /// How a connected peer is reached, where the transport has more than one way.
    fn reach(&self, node: NodeId) -> Option<Reach> {
        let _ = node;
        None
    }

    /// Closes all connections and lets go of ports and threads.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The boxed twin of [`Transport`], derived for every implementer; not for implementing.
pub trait DynTransport: fmt::Debug + Send + Sync + 'static {
    /// See [`Transport::local_node`].
    fn local_node(&self) -> NodeId;
    /// See [`Transport::way`].
    fn way(&self) -> Way;
    /// See [`Transport::way_of`].
    fn way_of(&self, address: &Address) -> Option<Way>;
    /// See [`Transport::ways_to`].
    fn ways_to(&self, node: NodeId) -> Vec<WayStatus>;
    /// See [`Transport::way_totals`].
    fn way_totals(&self) -> Vec<WayStatus>;
    /// See [`Transport::call`].
    fn call(&self, node: NodeId, request: Message, limit: Duration) -> BoxFuture<'_, Result<Message>>;
    /// See [`Transport::accept`].
    fn accept(&self) -> BoxFuture<'_, Option<Inbound>>;
    /// See [`Transport::next_event`].
    fn next_event(&self) -> BoxFuture<'_, Option<TransportEvent>>;
    /// See [`Transport::connect`].
    fn connect(&self, address: Address, limit: Duration) -> BoxFuture<'_, Result<NodeId>>;
    /// See [`Transport::set_peers`].
    fn set_peers(&self, peers: Vec<PeerRoute>);
    /// See [`Transport::refuse`].
    fn refuse(&self, nodes: Vec<NodeId>);
    /// See [`Transport::connected`].
    fn connected(&self) -> Vec<NodeId>;
    /// See [`Transport::is_connected`].
    fn is_connected(&self, node: NodeId) -> bool;
    /// See [`Transport::listen_addresses`].
    fn listen_addresses(&self) -> Vec<Address>;
    /// See [`Transport::reach`].
    fn reach(&self, node: NodeId) -> Option<Reach>;
    /// See [`Transport::close`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<T: Transport> DynTransport for T {
    fn local_node(&self) -> NodeId {
        Transport::local_node(self)
    }
    fn way(&self) -> Way {
        Transport::way(self)
    }
    fn way_of(&self, address: &Address) -> Option<Way> {
        Transport::way_of(self, address)
    }
    fn ways_to(&self, node: NodeId) -> Vec<WayStatus> {
        Transport::ways_to(self, node)
    }
    fn way_totals(&self) -> Vec<WayStatus> {
        Transport::way_totals(self)
    }
    fn call(&self, node: NodeId, request: Message, limit: Duration) -> BoxFuture<'_, Result<Message>> {
        Box::pin(Transport::call(self, node, request, limit))
    }
    fn accept(&self) -> BoxFuture<'_, Option<Inbound>> {
        Box::pin(Transport::accept(self))
    }
    fn next_event(&self) -> BoxFuture<'_, Option<TransportEvent>> {
        Box::pin(Transport::next_event(self))
    }
    fn connect(&self, address: Address, limit: Duration) -> BoxFuture<'_, Result<NodeId>> {
        Box::pin(Transport::connect(self, address, limit))
    }
    fn set_peers(&self, peers: Vec<PeerRoute>) {
        Transport::set_peers(self, peers);
    }
    fn refuse(&self, nodes: Vec<NodeId>) {
        Transport::refuse(self, nodes);
    }
    fn connected(&self) -> Vec<NodeId> {
        Transport::connected(self)
    }
    fn is_connected(&self, node: NodeId) -> bool {
        Transport::is_connected(self, node)
    }
    fn listen_addresses(&self) -> Vec<Address> {
        Transport::listen_addresses(self)
    }
    fn reach(&self, node: NodeId) -> Option<Reach> {
        Transport::reach(self, node)
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Transport::close(self))
    }
}

impl Transport for Arc<dyn DynTransport> {
    fn local_node(&self) -> NodeId {
        (**self).local_node()
    }
    fn way(&self) -> Way {
        (**self).way()
    }
    fn way_of(&self, address: &Address) -> Option<Way> {
        (**self).way_of(address)
    }
    fn ways_to(&self, node: NodeId) -> Vec<WayStatus> {
        (**self).ways_to(node)
    }
    fn way_totals(&self) -> Vec<WayStatus> {
        (**self).way_totals()
    }
    fn call(
        &self,
        node: NodeId,
        request: Message,
        limit: Duration,
    ) -> impl Future<Output = Result<Message>> + Send {
        (**self).call(node, request, limit)
    }
    fn accept(&self) -> impl Future<Output = Option<Inbound>> + Send {
        (**self).accept()
    }
    fn next_event(&self) -> impl Future<Output = Option<TransportEvent>> + Send {
        (**self).next_event()
    }
    fn connect(&self, address: Address, limit: Duration) -> impl Future<Output = Result<NodeId>> + Send {
        (**self).connect(address, limit)
    }
    fn set_peers(&self, peers: Vec<PeerRoute>) {
        (**self).set_peers(peers);
    }
    fn refuse(&self, nodes: Vec<NodeId>) {
        (**self).refuse(nodes);
    }
    fn connected(&self) -> Vec<NodeId> {
        (**self).connected()
    }
    fn is_connected(&self, node: NodeId) -> bool {
        (**self).is_connected(node)
    }
    fn listen_addresses(&self) -> Vec<Address> {
        (**self).listen_addresses()
    }
    fn reach(&self, node: NodeId) -> Option<Reach> {
        (**self).reach(node)
    }
    fn close(&self) -> impl Future<Output = ()> + Send {
        (**self).close()
    }
}
