//! How the transport's thread begins and ends.

use std::sync::Arc;
use std::time::Duration;

use datamesh_core::{Error, ErrorKind, Result};
use futures::channel::oneshot;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, connection_limits, noise, ping, tcp};

use super::behaviour::{Behaviour, Mesh};
use super::buffered::Buffered;
use super::config::{Libp2pConfig, Limits};
use super::driver::{Commands, Driver, EndGuard};
use super::muxer::Yamux;
use super::names;
use super::peers::Shared;
use super::proof::{self, ProofKey};

/// Commands that wait for the thread; then whoever asks waits.
const COMMANDS: usize = 256;

/// How often a peer is asked for a sign of life, and how long it may take. A peer whose machine lost power
/// is noticed within their sum.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a QUIC handshake may take: over UDP, silence is the only sign that nobody is there.
#[cfg(feature = "quic")]
const QUIC_HANDSHAKE: Duration = Duration::from_secs(5);

/// A started transport.
pub(super) type Started = (Arc<Shared>, Commands);

/// The thread's whole life.
pub(super) fn thread(config: Libp2pConfig, listen: Vec<Multiaddr>, ready: oneshot::Sender<Result<Started>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever opened the transport may be gone.
            let _ = ready.send(Err(Error::io("the system gives no event queue; close some files", error)));
            return;
        }
    };
    let handle = runtime.handle().clone();
    runtime.block_on(async move {
        match open(config, handle, listen).await {
            Ok((driver, shared, commands)) => {
                let _end = EndGuard(shared.clone());
                if ready.send(Ok((shared, commands))).is_ok() {
                    driver.run().await;
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
}

async fn open(
    config: Libp2pConfig,
    runtime: tokio::runtime::Handle,
    listen: Vec<Multiaddr>,
) -> Result<(Driver, Arc<Shared>, Commands)> {
    // The copy is wiped by the function that takes it.
    let keys = Keypair::ed25519_from_bytes(*config.secret_key)
        .map_err(|error| invalid("a secret key is 32 bytes of Ed25519", error))?;
    let peer = keys.public().to_peer_id();
    let node = names::node_of(&peer)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a node's key is an Ed25519 key"))?;
    let key = ProofKey::derive(&config.mesh_key);
    let shared = Arc::new(Shared::new(node, peer, key, config.limits.clone(), runtime));
    let swarm = swarm(keys, &config, &shared)?;
    let (commands, asked) = async_channel::bounded(COMMANDS);
    let mut driver = Driver::new(shared.clone(), swarm, asked);
    driver.listen(listen).await?;
    Ok((driver, shared, commands))
}

fn swarm(keys: Keypair, config: &Libp2pConfig, shared: &Arc<Shared>) -> Result<Swarm<Behaviour>> {
    let prologue = proof::noise_prologue(&config.mesh_key);
    let security =
        |keys: &Keypair| noise::Config::new(keys).map(|noise| Buffered(noise.with_prologue(prologue)));
    let builder = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), security, || Yamux)
        .map_err(|error| invalid("the node's key does not sign", error))?;
    #[cfg(feature = "quic")]
    let builder = builder.with_quic_config(|mut quic| {
        quic.handshake_timeout = config.limits.handshake.min(QUIC_HANDSHAKE);
        quic
    });
    let swarm = builder
        .with_behaviour(|_| behaviour(&config.limits, shared))
        .map_err(|error| Error::new(ErrorKind::Io, "the network does not start").with_source(error))?
        .with_swarm_config(|swarm| swarm.with_substream_upgrade_protocol_override(Version::V1Lazy))
        .with_connection_timeout(config.limits.handshake)
        .build();
    Ok(swarm)
}

fn behaviour(limits: &Limits, shared: &Arc<Shared>) -> Behaviour {
    let connections = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_connections))
        .with_max_pending_outgoing(Some(limits.pending_connections))
        .with_max_established_incoming(Some(limits.inbound_connections))
        .with_max_established_per_peer(Some(limits.connections_per_peer));
    let pings = ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT);
    Behaviour {
        limits: connection_limits::Behaviour::new(connections),
        ping: ping::Behaviour::new(pings),
        mesh: Mesh::new(shared.clone()),
    }
}

fn invalid(message: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidInput, message).with_source(error)
}
