//! What the swarm runs: limits first, then pings and the connections of the mesh, then what members do for each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use datamesh_core::id::NodeId;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
#[cfg(any(feature = "kad", feature = "nat"))]
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, identify, ping};

use super::failure::Revoked;
use super::gate::{Gated, Gates};
use super::handler::{FromHandler, Handler, ToHandler};
use super::names;
use super::places::Places;
use super::proof::{Own, Role};
use crate::wire::peers::Shared;

/// The order matters: what a limit or the mesh denies must not have been noted by anything before it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: Places,
    pub(super) ping: ping::Behaviour,
    pub(super) mesh: Mesh,
    /// What strangers are told of this node, where they are told anything.
    pub(super) greeting: Gated<identify::Behaviour>,
    /// What members tell each other of themselves, for the protocols below.
    pub(super) identify: Gated<identify::Behaviour>,
    #[cfg(feature = "kad")]
    pub(super) kademlia: Toggle<Gated<super::kademlia::Table>>,
    #[cfg(feature = "nat")]
    pub(super) relay: Toggle<Gated<libp2p::relay::Behaviour>>,
    #[cfg(feature = "nat")]
    pub(super) relayed: Toggle<Gated<libp2p::relay::client::Behaviour>>,
    #[cfg(feature = "nat")]
    pub(super) punch: Toggle<Gated<libp2p::dcutr::Behaviour>>,
    #[cfg(feature = "nat")]
    pub(super) look: Toggle<Gated<libp2p::autonat::v2::client::Behaviour>>,
    #[cfg(feature = "nat")]
    pub(super) look_for_others: Toggle<Gated<libp2p::autonat::v2::server::Behaviour>>,
}

/// What a connection of the mesh told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) node: NodeId,
    pub(super) connection: ConnectionId,
    pub(super) what: FromHandler,
}

/// Gives each connection its handler and passes on what it tells.
pub(super) struct Mesh {
    shared: Arc<Shared>,
    own: Arc<Own>,
    gates: Arc<Gates>,
    events: VecDeque<ToSwarm<Told, ToHandler>>,
}

impl Mesh {
    pub(super) fn new(shared: Arc<Shared>, own: Own, gates: Arc<Gates>) -> Self {
        Self { shared, own: Arc::new(own), gates, events: VecDeque::new() }
    }

    /// Has a connection proved with the newest mesh key.
    pub(super) fn renew(&mut self, peer_id: PeerId, connection: ConnectionId) {
        let handler = NotifyHandler::One(connection);
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: ToHandler::Renew });
    }

    /// Denies those who were revoked every connection.
    fn check(&self, node: &NodeId) -> Result<(), ConnectionDenied> {
        if self.shared.is_refused(node) { Err(ConnectionDenied::new(Revoked)) } else { Ok(()) }
    }

    fn handler(
        &self,
        connection: ConnectionId,
        remote: PeerId,
        role: Role,
    ) -> Result<Handler, ConnectionDenied> {
        let node = names::node_of(&remote).ok_or_else(|| ConnectionDenied::new("a node's key is Ed25519"))?;
        self.check(&node)?;
        // A stranger's record is forgotten when its connection ends, and connections are limited.
        let peer = self.shared.peer_or_new(node);
        let gate = self.gates.of(connection);
        Ok(Handler::new(self.shared.clone(), self.own.clone(), remote, peer, role, gate))
    }
}

impl NetworkBehaviour for Mesh {
    type ConnectionHandler = Handler;
    type ToSwarm = Told;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        remote: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        remote.as_ref().and_then(names::node_of).map_or(Ok(()), |node| self.check(&node))?;
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        remote: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(connection, remote, Role::Listener)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        remote: PeerId,
        _: &Multiaddr,
        endpoint: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        // Where both ends dial to get through a NAT, they agree on who listens.
        let role = match endpoint {
            Endpoint::Dialer => Role::Dialler,
            Endpoint::Listener => Role::Listener,
        };
        self.handler(connection, remote, role)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let over = match event {
            FromSwarm::ConnectionClosed(closed) => closed.connection_id,
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            FromSwarm::DialFailure(failure) => failure.connection_id,
            _ => return,
        };
        self.gates.forget(over);
    }

    fn on_connection_handler_event(&mut self, remote: PeerId, connection: ConnectionId, what: FromHandler) {
        if let Some(node) = names::node_of(&remote) {
            self.events.push_back(ToSwarm::GenerateEvent(Told { node, connection, what }));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Told, THandlerInEvent<Self>>> {
        // The swarm polls after each event of a handler and after the driver's own steps, so there is nobody to wake.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
