//! Nodes of one machine that talk over Unix domain sockets: the same messages as over a network, with nothing
//! encrypted.
//!
//! Every [`LocalTransport`] listens on a socket in a directory that only its user may enter; the socket's name follows
//! from the node's. Two nodes are on one machine when one finds the other's socket there, and the other proves its
//! identity and the mesh key; nothing that a node says of itself decides it. The bytes on the wire are described
//! in `docs/protocol-transport.md`.
//!
//! - **Who gets in.** Processes of the same user, as the system says, that prove the mesh key and the
//!   secret key of the node that they claim to be, on each connection.
//! - **How requests travel.** As over libp2p, on a small pool of connections for each peer, one request on a
//!   connection at a time.
//! - **What is bounded.** See [`Limits`].

#[cfg(test)]
mod bounds;
mod config;
mod directory;
mod driver;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod proof;
mod renewal;
pub(crate) mod socket;

use std::fmt;
use std::time::Duration;

use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Inbound, Message, PeerRoute, Transport, TransportEvent, Way};
use datamesh_core::{Error, ErrorKind, Result};

pub use crate::wire::limits::Limits;
pub use config::LocalConfig;

use crate::wire::Handle;

/// What the text of an address of this transport begins with.
const ADDRESS_PREFIX: &str = "/local/";

/// One node's place among the nodes of its machine.
///
/// Dropping it ends its thread soon; [`close`](Transport::close) waits for that.
pub struct LocalTransport(Handle<NodeId>);

impl LocalTransport {
    /// Starts the thread and listens.
    ///
    /// # Errors
    /// `AccessDenied` for a directory that others may enter, `InvalidInput` for one whose path is too long for a
    /// socket, `AlreadyExists` when a living process listens for this node, `Io` when the system gives no thread,
    /// directory or socket.
    ///
    /// # Cancel safety
    /// Dropping the future ends the thread and removes the socket.
    pub async fn open(config: LocalConfig) -> Result<Self> {
        let open = async move |runtime| driver::open(config, runtime);
        Ok(Self(Handle::start("datamesh-local", open).await?))
    }
}

impl Transport for LocalTransport {
    fn local_node(&self) -> NodeId {
        self.0.shared.local
    }

    fn way(&self) -> Way {
        Way::SameMachine
    }

    fn way_of(&self, address: &Address) -> Option<Way> {
        node_of(address).map(|_| Way::SameMachine)
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.0.call(node, request, limit).await
    }

    async fn accept(&self) -> Option<Inbound> {
        self.0.accept().await
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        self.0.next_event().await
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.0.check_open()?;
        let node = node_of(&address).ok_or_else(|| {
            let message = "an address on this machine reads /local/<node id>";
            Error::new(ErrorKind::InvalidInput, message).with_subject(&address)
        })?;
        let connected = self.0.connect(node, limit).await;
        connected.map_err(|error| error.with_subject(&address))
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        self.0.set_peers(peers);
    }

    fn refuse(&self, nodes: Vec<NodeId>) {
        self.0.refuse(nodes);
    }

    fn connected(&self) -> Vec<NodeId> {
        self.0.shared.connected()
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.0.shared.is_connected(&node)
    }

    fn listen_addresses(&self) -> Vec<Address> {
        self.0.listen_addresses()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

impl fmt::Debug for LocalTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, connected) = (self.0.shared.local.fmt_short(), self.0.shared.connected().len());
        write!(f, "LocalTransport({node}, {connected} connected)")
    }
}

/// The address of a node on this machine.
fn address_of(node: NodeId) -> Result<Address> {
    format!("{ADDRESS_PREFIX}{node}").parse()
}

fn node_of(address: &Address) -> Option<NodeId> {
    address.as_str().strip_prefix(ADDRESS_PREFIX)?.parse().ok()
}
