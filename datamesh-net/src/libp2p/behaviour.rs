//! What the swarm runs: limits first, then pings, then the connections of the mesh.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use datamesh_core::id::NodeId;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm};
use libp2p::{Multiaddr, PeerId, connection_limits, ping};

use super::handler::{FromHandler, Handler};
use super::names;
use super::peers::Shared;
use super::proof::Role;

/// The order matters: what a limit denies must not have been noted by anything before it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) mesh: Mesh,
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
    told: VecDeque<Told>,
}

impl Mesh {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, told: VecDeque::new() }
    }

    fn handler(&self, remote: PeerId, role: Role) -> Result<Handler, ConnectionDenied> {
        let node = names::node_of(&remote).ok_or_else(|| ConnectionDenied::new("a node's key is Ed25519"))?;
        // A stranger's record is forgotten when its connection ends, and connections are limited.
        let peer = self.shared.peer_or_new(node);
        Ok(Handler::new(self.shared.clone(), remote, peer, role))
    }
}

impl NetworkBehaviour for Mesh {
    type ConnectionHandler = Handler;
    type ToSwarm = Told;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        remote: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(remote, Role::Listener)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        remote: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(remote, Role::Dialler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, remote: PeerId, connection: ConnectionId, what: FromHandler) {
        if let Some(node) = names::node_of(&remote) {
            self.told.push_back(Told { node, connection, what });
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Told, THandlerInEvent<Self>>> {
        // The swarm polls after each event of a handler, so there is nobody to wake.
        match self.told.pop_front() {
            Some(told) => Poll::Ready(ToSwarm::GenerateEvent(told)),
            None => Poll::Pending,
        }
    }
}
