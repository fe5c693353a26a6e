//! What strangers with a libp2p of their own get out of a node: nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod flood;
#[cfg(feature = "nat")]
mod relays;

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use datamesh_core::ErrorKind;
use datamesh_core::format::MeshKey;
use datamesh_core::ports::{Message, Transport as _};
use futures::StreamExt;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Transport as _;
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, identify, kad, quic, swarm};

use super::kademlia::protocol;
use super::{Discovery, Libp2pConfig, Libp2pTransport, Limits, address_of, names};

const OURS: [u8; 32] = [7; 32];
const THEIRS: [u8; 32] = [8; 32];
const LIMIT: Duration = Duration::from_secs(20);

/// A member of another mesh, without our proof: it speaks Kademlia and identify to whoever listens.
#[derive(NetworkBehaviour)]
struct Stranger {
    identify: identify::Behaviour,
    table: kad::Behaviour<MemoryStore>,
}

fn stranger(mesh_key: &[u8; 32]) -> Swarm<Stranger> {
    let keys = Keypair::generate_ed25519();
    let peer = keys.public().to_peer_id();
    let transport = quic::tokio::Transport::new(quic::Config::new(&keys))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let config = kad::Config::new(protocol(&MeshKey::from_bytes(*mesh_key).network_name()));
    let mut table = kad::Behaviour::with_config(peer, MemoryStore::new(peer), config);
    table.set_mode(Some(kad::Mode::Server));
    let identify = identify::Behaviour::new(identify::Config::new("x".into(), keys.public()));
    Swarm::new(transport, Stranger { identify, table }, peer, swarm::Config::with_tokio_executor())
}

async fn member(secret: u8, greets: bool) -> Libp2pTransport {
    let limits = Limits { handshake: Duration::from_secs(2), ..Limits::default() };
    limited(secret, greets, limits).await
}

async fn limited(secret: u8, greets: bool, limits: Limits) -> Libp2pTransport {
    limited_on(secret, greets, limits, "/ip4/127.0.0.1/udp/0/quic-v1").await
}

async fn limited_on(secret: u8, greets: bool, limits: Limits, listen: &str) -> Libp2pTransport {
    let discovery = Discovery::new().kademlia().bootstrap();
    let discovery = if greets { discovery.greet_strangers() } else { discovery };
    let listen = vec![listen.parse().unwrap()];
    let config = Libp2pConfig::new([secret; 32], OURS).listen(listen).discovery(discovery).limits(limits);
    Libp2pTransport::open(config).await.unwrap()
}

/// What a stranger learned until it was sent away.
#[derive(Default)]
struct Learned {
    protocols: Vec<String>,
    addresses: Vec<Multiaddr>,
    peers: Vec<libp2p::PeerId>,
}

async fn visit(mut stranger: Swarm<Stranger>, node: &Libp2pTransport) -> Learned {
    let target: Multiaddr = node.listen_addresses()[0].as_str().parse().unwrap();
    let peer = names::peer_of(&node.local_node()).unwrap();
    stranger.behaviour_mut().table.add_address(&peer, target);
    stranger.behaviour_mut().table.get_closest_peers(peer);
    let mut learned = Learned::default();
    let visit = async {
        loop {
            match stranger.select_next_some().await {
                SwarmEvent::Behaviour(StrangerEvent::Identify(identify::Event::Received {
                    info, ..
                })) => {
                    learned.protocols.extend(info.protocols.iter().map(ToString::to_string));
                    learned.addresses.extend(info.listen_addrs);
                }
                SwarmEvent::Behaviour(StrangerEvent::Table(kad::Event::OutboundQueryProgressed {
                    result: kad::QueryResult::GetClosestPeers(Ok(found)),
                    ..
                })) => learned.peers.extend(found.peers.iter().map(|peer| peer.peer_id)),
                SwarmEvent::ConnectionClosed { .. } => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, visit).await.unwrap();
    learned
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn another_meshs_table_is_refused() {
    run(async {
        let (ours, friend) = (member(1, false).await, member(2, false).await);
        friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap();
        // Even one that has got to know the protocol's name gets nothing without the proof.
        for name in [THEIRS, OURS] {
            let stranger = stranger(&name);
            let strange = names::node_of(stranger.local_peer_id()).unwrap();
            let learned = visit(stranger, &ours).await;
            assert!(learned.protocols.is_empty() && learned.addresses.is_empty() && learned.peers.is_empty());
            assert_eq!(ours.connected(), [friend.local_node()]);
            // Nor has anybody learned of the stranger.
            for member in [&ours, &friend] {
                let found = member.connect(address_of(&strange).unwrap(), LIMIT).await;
                assert_eq!(found.unwrap_err().kind(), ErrorKind::Unavailable);
            }
        }
    });
}

#[test]
fn who_is_greeted_learns_no_more_than_a_name() {
    run(async {
        let (ours, friend) = (member(1, true).await, member(2, false).await);
        friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap();
        let learned = visit(stranger(&OURS), &ours).await;
        assert!(learned.addresses.is_empty() && learned.peers.is_empty(), "{:?}", learned.addresses);
        assert!(!learned.protocols.is_empty());
        assert!(!learned.protocols.iter().any(|name| name.contains("kad")), "{:?}", learned.protocols);
    });
}

/// One over the limit of connections with one peer is closed at once; the others have the time of their handshake.
#[test]
fn connections_of_one_peer_are_limited() {
    run(async {
        let limits = Limits { handshake: LIMIT, connections_per_peer: 3, ..Limits::default() };
        let ours = limited(1, false, limits).await;
        let target: Multiaddr = ours.listen_addresses()[0].as_str().parse().unwrap();
        let mut stranger = stranger(&OURS);
        let mut made = Vec::new();
        while made.len() < 4 {
            let dial = DialOpts::unknown_peer_id().address(target.clone()).allocate_new_port().build();
            stranger.dial(dial).unwrap();
            loop {
                match stranger.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                        break made.push(connection_id);
                    }
                    SwarmEvent::ConnectionClosed { .. } => panic!("closed below the limit: {}", made.len()),
                    _ => {}
                }
            }
        }
        let over = loop {
            if let SwarmEvent::ConnectionClosed { connection_id, .. } = stranger.select_next_some().await {
                break connection_id;
            }
        };
        assert_eq!(Some(&over), made.last());
        assert_eq!(stranger.network_info().connection_counters().num_established(), 3);
    });
}
