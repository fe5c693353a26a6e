//! Protocols for members only: behind a gate that opens when the peer has proved the mesh key.
//!
//! libp2p's behaviours talk to whoever connects. Behind a gate a connection's handler offers no protocol, opens no
//! stream and says nothing, until the proof is done; so a stranger cannot even learn that the protocol is there.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use either::Either;
use futures::future;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::behaviour::{ExternalAddrConfirmed, ExternalAddrExpired};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, ListenUpgradeError, SendWrapper};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::allowance::Allowance;

/// Addresses that peers claim to have seen this node at, and that are looked into; the rest is ignored.
const MAX_CANDIDATES: usize = 64;

/// How far the proof on one connection is.
///
/// An end must not open a stream before the other one takes it, or it is told that there is no such protocol. So each
/// end first takes streams, then says that it does, and opens streams when it has heard so.
#[derive(Debug, Default)]
pub(super) struct Gate {
    takes: AtomicBool,
    opens: AtomicBool,
    /// What is lifted by the proof.
    allowance: OnceLock<Arc<Allowance>>,
}

impl Gate {
    /// Until the proof no more is read of the connection than it is allowed.
    pub(super) fn allow(&self, allowance: Option<Arc<Allowance>>) {
        // Told once, before the connection is made.
        allowance.into_iter().for_each(|allowance| drop(self.allowance.set(allowance)));
    }

    /// The peer has proved the mesh key: its streams are taken from now on.
    pub(super) fn take(&self) {
        self.takes.store(true, Ordering::Release);
        self.allowance.get().into_iter().for_each(|allowance| allowance.lift());
    }

    /// The peer takes streams too.
    pub(super) fn open(&self) {
        self.opens.store(true, Ordering::Release);
    }

    /// Whether the peer has proved the mesh key.
    pub(super) fn has_proved(&self) -> bool {
        self.takes.load(Ordering::Acquire)
    }

    pub(super) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire)
    }
}

/// Which connections have proved the mesh key.
#[derive(Default)]
pub(super) struct Gates(Mutex<HashMap<ConnectionId, Arc<Gate>>>);

impl Gates {
    fn known(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Gate>>> {
        // Every change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a connection's proof, noted when it is not known yet.
    pub(super) fn of(&self, connection: ConnectionId) -> Arc<Gate> {
        self.known().entry(connection).or_default().clone()
    }

    /// Forgets a connection, which is closed or was never made.
    pub(super) fn forget(&self, connection: ConnectionId) {
        self.known().remove(&connection);
    }
}

/// Whom a behaviour is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admits {
    /// Peers that have proved the mesh key.
    Members,
    /// Peers that have not; they are answered and never asked.
    Strangers,
    /// Nobody.
    Nobody,
}

/// A behaviour that some peers only take part in.
pub(super) struct Gated<B> {
    pub(super) inner: B,
    gates: Arc<Gates>,
    admits: Admits,
    /// Whether the behaviour hears of this node's own addresses.
    hears_addresses: bool,
    candidates: BTreeSet<Vec<u8>>,
}

impl<B> Gated<B> {
    pub(super) fn new(inner: B, gates: &Arc<Gates>, admits: Admits) -> Self {
        let gates = Arc::clone(gates);
        Self { inner, gates, admits, hears_addresses: true, candidates: BTreeSet::new() }
    }

    /// The behaviour hears nothing of addresses that are confirmed: what it tells of them is up to the driver.
    pub(super) fn without_addresses(mut self) -> Self {
        self.hears_addresses = false;
        self
    }

    fn wrap<H>(&self, connection: ConnectionId, inner: H) -> GatedHandler<H> {
        GatedHandler { inner, gate: self.gates.of(connection), admits: self.admits }
    }

    /// Looks into addresses anew that peers claim to have seen.
    #[cfg(feature = "nat")]
    pub(super) fn forget_candidates(&mut self) {
        self.candidates.clear();
    }

    /// Whether an address that a peer claims to have seen is one of the first few.
    fn admits_candidate(&mut self, address: &Multiaddr) -> bool {
        let bytes = address.to_vec();
        self.candidates.contains(&bytes)
            || (self.candidates.len() < MAX_CANDIDATES && self.candidates.insert(bytes))
    }
}

impl<B: NetworkBehaviour> Gated<B> {
    /// Tells the behaviour which addresses of this node others are told, and which no more.
    pub(super) fn tell(&mut self, new: &[Multiaddr], gone: &[Multiaddr]) {
        for addr in gone {
            self.inner.on_swarm_event(FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr }));
        }
        for addr in new {
            self.inner.on_swarm_event(FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr }));
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = GatedHandler<B::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.wrap(connection, inner))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        let inner =
            self.inner.handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(self.wrap(connection, inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let is_own_address =
            matches!(event, FromSwarm::ExternalAddrConfirmed(_) | FromSwarm::ExternalAddrExpired(_));
        if self.hears_addresses || !is_own_address {
            self.inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: <B::ConnectionHandler as ConnectionHandler>::ToBehaviour,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let event = std::task::ready!(self.inner.poll(cx));
            if let ToSwarm::NewExternalAddrCandidate(address) = &event
                && !self.admits_candidate(address)
            {
                continue;
            }
            return Poll::Ready(event);
        }
    }
}

/// The handler of one connection of a [`Gated`] behaviour.
pub(super) struct GatedHandler<H> {
    inner: H,
    gate: Arc<Gate>,
    admits: Admits,
}

impl<H> GatedHandler<H> {
    /// Whether the peer's streams are taken.
    fn takes(&self) -> bool {
        match self.admits {
            Admits::Members => self.gate.has_proved(),
            Admits::Strangers => !self.gate.has_proved(),
            Admits::Nobody => false,
        }
    }

    /// Whether the handler behind the gate goes on.
    fn runs(&self) -> bool {
        self.takes() && (self.admits == Admits::Strangers || self.gate.is_open())
    }
}

/// The protocols of the handler behind the gate, or none.
type Inbound<H> = Either<SendWrapper<<H as ConnectionHandler>::InboundProtocol>, SendWrapper<DeniedUpgrade>>;

impl<H: ConnectionHandler> ConnectionHandler for GatedHandler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Inbound<H>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Inbound<H>, H::InboundOpenInfo> {
        let protocol = self.inner.listen_protocol();
        if self.takes() {
            protocol.map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade)))
        } else {
            protocol.map_upgrade(|_| Either::Right(SendWrapper(DeniedUpgrade)))
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.takes() && self.inner.connection_keep_alive()
    }

    /// Nobody is woken when the gate opens: the handlers of a connection are polled together, and the one that proves
    /// the mesh key says that it did.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<H::OutboundProtocol, H::OutboundOpenInfo, H::ToBehaviour>> {
        if !self.runs() {
            return Poll::Pending;
        }
        loop {
            let event = std::task::ready!(self.inner.poll(cx));
            let asks = matches!(event, ConnectionHandlerEvent::OutboundSubstreamRequest { .. });
            if !(asks && self.admits == Admits::Strangers) {
                return Poll::Ready(event);
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<H::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: H::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Inbound<H>, H::OutboundProtocol, H::InboundOpenInfo, H::OutboundOpenInfo>,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                let future::Either::Left(protocol) = protocol;
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                let Either::Left(error) = error;
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(stream) => {
                ConnectionEvent::FullyNegotiatedOutbound(stream)
            }
            ConnectionEvent::DialUpgradeError(error) => ConnectionEvent::DialUpgradeError(error),
            ConnectionEvent::AddressChange(change) => ConnectionEvent::AddressChange(change),
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            _ => return,
        };
        self.inner.on_connection_event(event);
    }
}
