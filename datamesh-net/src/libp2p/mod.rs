//! Nodes that talk libp2p: TCP with Noise and Yamux, and QUIC (feature `quic`).
//!
//! A [`Libp2pTransport`] lives on a thread of its own, with an executor of its own; its methods work under any
//! executor. The bytes on the wire are described in `docs/protocol-transport.md`.
//!
//! - **Who gets in.** Over TCP the Noise handshake fails without the mesh key; over both TCP and QUIC the
//!   two ends then prove the mesh key to each other before any request is served.
//! - **How requests travel.** On a small pool of long-lived streams for each peer, one request on a stream at a
//!   time; the pool grows while all of its streams wait for slow handlers.
//! - **What is bounded.** See [`Limits`].

mod allowance;
mod behaviour;
mod buffered;
mod config;
mod counted;
mod dials;
mod discovery;
mod driver;
mod failure;
#[cfg(test)]
mod floods;
mod forward;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod gate;
mod handler;
mod handshakes;
#[cfg(feature = "kad")]
mod kademlia;
#[cfg(feature = "mdns")]
mod multicast;
mod muxer;
mod names;
#[cfg(feature = "nat")]
mod nat;
#[cfg(test)]
mod nowhere;
#[cfg(feature = "quic")]
mod one_socket;
mod options;
mod places;
mod proof;
#[cfg(feature = "quic")]
mod quic;
mod renewal;
mod resolve;
mod route;
mod scope;
mod start;
#[cfg(all(test, feature = "kad", feature = "quic"))]
mod strangers;
mod trickle;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datamesh_core::Result;
use datamesh_core::format::MeshKeys;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Inbound, Message, PeerRoute, Reach, Transport, TransportEvent, Way};

pub use crate::wire::limits::Limits;
pub use config::Libp2pConfig;
#[cfg(feature = "kad")]
pub use names::address_of;
pub use names::check_address;
pub use options::Discovery;

use proof::Keys;

use crate::wire::Handle;

/// One node's place among nodes that talk libp2p.
///
/// Dropping it ends its thread soon; [`close`](Transport::close) waits for that.
pub struct Libp2pTransport {
    handle: Handle<driver::Target>,
    keys: Arc<Keys>,
}

impl Libp2pTransport {
    /// Starts the thread and listens; returns when all ports are bound. Where there is no interface for an address yet,
    /// which happens to those that stand for all of a family, that takes three seconds, and what comes up later is
    /// listened on then.
    ///
    /// # Errors
    /// `InvalidInput` for a key or an address that cannot be read, `Io` or `AccessDenied` when the
    /// system gives no thread, port or randomness.
    ///
    /// # Cancel safety
    /// Dropping the future ends the thread and frees the ports.
    pub async fn open(config: Libp2pConfig) -> Result<Self> {
        let mut listen = Vec::new();
        for address in &config.listen {
            listen.push(names::parse(address)?.0);
        }
        for address in &config.discovery.announced {
            names::parse(address)?;
        }
        let keys = Arc::clone(&config.keys);
        let open = async move |runtime| start::open(config, runtime, listen).await;
        Ok(Self { handle: Handle::start("datamesh-net", open).await?, keys })
    }

    /// The mesh key that a member gave for the invitation, once one was reached.
    pub fn learned_keys(&self) -> Option<MeshKeys> {
        self.keys.learned()
    }

    /// Says that the machine has slept or moved to another network: connections are given up and known peers dialled
    /// anew, at once.
    ///
    /// No mesh needs this: on Linux the transport notices a sleep of half a minute or more by itself, and elsewhere
    /// its pings find the dead connections within half a minute.
    pub fn machine_woke(&self) {
        self.handle.shared.say_awake();
    }
}

impl Transport for Libp2pTransport {
    fn local_node(&self) -> NodeId {
        self.handle.shared.local
    }

    fn way_of(&self, address: &Address) -> Option<Way> {
        names::parse(address).ok().map(|_| Way::Network)
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.handle.call(node, request, limit).await
    }

    async fn accept(&self) -> Option<Inbound> {
        self.handle.accept().await
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        self.handle.next_event().await
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.handle.check_open()?;
        let connected = self.handle.connect(names::parse(&address)?, limit).await;
        connected.map_err(|error| error.with_subject(&address))
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        self.handle.set_peers(peers);
    }

    fn refuse(&self, nodes: Vec<NodeId>) {
        self.handle.refuse(nodes);
    }

    fn connected(&self) -> Vec<NodeId> {
        self.handle.shared.connected()
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.handle.shared.is_connected(&node)
    }

    fn listen_addresses(&self) -> Vec<Address> {
        self.handle.listen_addresses()
    }

    fn reach(&self, node: NodeId) -> Option<Reach> {
        self.handle.shared.peer(&node)?.session()?.reach()
    }

    async fn close(&self) {
        self.handle.close().await;
    }
}

impl fmt::Debug for Libp2pTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, connected) = (self.handle.shared.local.fmt_short(), self.handle.shared.connected().len());
        write!(f, "Libp2pTransport({node}, {connected} connected)")
    }
}
