//! How the transport's thread begins.

use std::sync::Arc;
use std::time::Duration;

use datamesh_core::{Error, ErrorKind, Result};
use libp2p::core::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Swarm, identify, noise, ping, swarm, tcp};

use super::allowance::Allowing;
use super::behaviour::{Behaviour, Mesh};
use super::buffered::Buffered;
use super::config::Libp2pConfig;
use super::driver::{Driver, Target};
use super::gate::{Admits, Gated, Gates};
use super::handshakes::{Handshakes, Newest};
use super::muxer::Yamux;
use super::names;
#[cfg(feature = "quic")]
use super::one_socket::OneSocket;
use super::places::Places;
use super::proof::{self, Own};
#[cfg(feature = "quic")]
use super::quic;
use super::renewal::Renewals;
use super::resolve::Resolving;
use crate::wire::peers::Shared;
use crate::wire::{Commands, Started, commands};

/// How long after a sign of life a peer is asked for the next, and how long that may take. libp2p passes over the first
/// one that fails, so that a peer whose machine lost power is noticed within twice their sum: half a minute.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the start waits for an interface to listen on, where a port for all of them is bound.
const INTERFACE: Duration = Duration::from_secs(3);

/// Streams of a connection that a peer has opened and not yet said what for: a pool that doubles opens so many at once.
/// Nobody reads them, and each may fill a window.
const MAX_NEGOTIATING: usize = 16;

/// What identify says of every node, to members and strangers alike: nothing that tells one mesh, version or program
/// from another.
const PROTOCOL_VERSION: &str = "p2p/1";
const AGENT_VERSION: &str = "p2p";

/// Listens, and says what runs from then on.
pub(super) async fn open(
    config: Libp2pConfig,
    runtime: tokio::runtime::Handle,
    listen: Vec<Multiaddr>,
) -> Result<(Started<Target>, impl Future<Output = ()>)> {
    let (driver, commands) = driver(config, runtime, listen).await?;
    Ok(((driver.shared.clone(), commands), driver.run()))
}

/// A driver that listens and does not run yet.
pub(super) async fn driver(
    config: Libp2pConfig,
    runtime: tokio::runtime::Handle,
    listen: Vec<Multiaddr>,
) -> Result<(Driver, Commands<Target>)> {
    // The copy is wiped by the function that takes it.
    let keys = Keypair::ed25519_from_bytes(*config.secret_key)
        .map_err(|error| invalid("a secret key is 32 bytes of Ed25519", error))?;
    let peer = keys.public().to_peer_id();
    let node = names::node_of(&peer)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a node's key is an Ed25519 key"))?;
    let own = Own { peer, keys: Arc::clone(&config.keys) };
    let shared = Arc::new(Shared::new(node, config.limits.clone(), runtime));
    let swarm = swarm(keys, &config, &shared, own)?;
    let (commands, asked) = commands();
    let renewals = Renewals::of(config.keys.ring());
    let mut driver = Driver::new(shared, swarm, asked, config.discovery.clone(), renewals);
    #[cfg(feature = "mdns")]
    if config.discovery.local_network {
        // Who has no more than an invitation asks the members that it names.
        let ring = config.keys.ring().cloned();
        driver.neighbours =
            ring.map(|ring| super::multicast::Neighbours::start(ring, &driver.shared.runtime));
    }
    driver.listen(listen, INTERFACE).await?;
    Ok((driver, commands))
}

/// A swarm, and what else is made of the configuration.
fn swarm(keys: Keypair, config: &Libp2pConfig, shared: &Arc<Shared>, own: Own) -> Result<Swarm<Behaviour>> {
    let security = security(&keys, config)?;
    let local = own.peer;
    #[cfg_attr(not(feature = "nat"), expect(unused_mut, reason = "changed for relays only"))]
    let mut parts = Parts::new(&keys, config, shared, own);
    let newest = parts.behaviour.limits.newest();
    let sockets = sockets(&keys, config, security.clone(), &newest);
    #[cfg(feature = "nat")]
    let transport = match parts.relayed_transport.take() {
        Some(relayed) => {
            let relayed = Allowing::new(relayed, newest.clone());
            let relayed =
                relayed.upgrade(Version::V1Lazy).authenticate(security).multiplex(Yamux::of(&config.limits));
            let relayed = relayed.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
            // Asked first: the others would take the beginning of a relayed address for the whole.
            relayed.or_transport(sockets).map(|either, _| either.into_inner()).boxed()
        }
        None => sockets,
    };
    #[cfg(not(feature = "nat"))]
    let transport = sockets;
    let transport = TransportTimeout::new(transport, config.limits.handshake).boxed();
    let transport = Handshakes::new(transport, newest).boxed();
    let options = swarm::Config::with_tokio_executor()
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING);
    Ok(Swarm::new(transport, parts.behaviour, local, options))
}

type Sockets = Boxed<(PeerId, StreamMuxerBox)>;

/// TCP, and QUIC beside it; both take DNS names.
fn sockets(keys: &Keypair, config: &Libp2pConfig, security: Buffered, newest: &Newest) -> Sockets {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = Allowing::new(tcp, newest.clone())
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(Yamux::of(&config.limits))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    #[cfg(feature = "quic")]
    let sockets = {
        let quic = quic::config(keys, &config.limits);
        let [listens, dials] = [quic.clone(), quic].map(libp2p::quic::tokio::Transport::new);
        let quic = OneSocket::new(listens, dials).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed()
    };
    #[cfg(not(feature = "quic"))]
    let sockets = {
        let _ = (keys, config);
        tcp.boxed()
    };
    Resolving::new(sockets).boxed()
}

fn security(keys: &Keypair, config: &Libp2pConfig) -> Result<Buffered> {
    let noise = || noise::Config::new(keys).map_err(|error| invalid("the node's key does not sign", error));
    let private = noise()?.with_prologue(proof::noise_prologue(&config.keys.network()));
    let plain = if config.discovery.greets { Some(noise()?) } else { None };
    Ok(Buffered { private, plain })
}

/// What the swarm is made of.
pub(super) struct Parts {
    pub(super) behaviour: Behaviour,
    #[cfg(feature = "nat")]
    relayed_transport: Option<libp2p::relay::client::Transport>,
}

impl Parts {
    pub(super) fn new(keys: &Keypair, config: &Libp2pConfig, shared: &Arc<Shared>, own: Own) -> Self {
        let (gates, discovery) = (Arc::<Gates>::default(), &config.discovery);
        #[cfg(feature = "kad")]
        let local = own.peer;
        let greeting = if discovery.greets { Admits::Strangers } else { Admits::Nobody };
        let identify = if discovery.needs_identify() { Admits::Members } else { Admits::Nobody };
        let identity = |admits| {
            let about = identify::Config::new(PROTOCOL_VERSION.into(), keys.public())
                .with_agent_version(AGENT_VERSION.into())
                .with_hide_listen_addrs(true)
                .with_cache_size(0);
            Gated::new(identify::Behaviour::new(about), &gates, admits).without_addresses()
        };
        #[cfg(feature = "nat")]
        let nat = super::nat::parts(own.peer, &gates, discovery.nat);
        let behaviour = Behaviour {
            limits: Places::new(&config.limits, &gates),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT),
            ),
            mesh: Mesh::new(shared.clone(), own, Arc::clone(&gates)),
            greeting: identity(greeting),
            identify: identity(identify),
            #[cfg(feature = "kad")]
            kademlia: discovery
                .kademlia
                .then(|| super::kademlia::table(local, &gates, &config.keys.network()))
                .into(),
            #[cfg(feature = "nat")]
            relay: nat.relay.into(),
            #[cfg(feature = "nat")]
            relayed: nat.relayed.into(),
            #[cfg(feature = "nat")]
            punch: nat.punch.into(),
            #[cfg(feature = "nat")]
            look: nat.look.into(),
            #[cfg(feature = "nat")]
            look_for_others: nat.look_for_others.into(),
        };
        Self {
            behaviour,
            #[cfg(feature = "nat")]
            relayed_transport: nat.transport,
        }
    }
}

fn invalid(message: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidInput, message).with_source(error)
}
