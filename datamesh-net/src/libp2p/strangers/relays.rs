//! Relays are there for members: strangers get no place at one, and are led to nobody.

use datamesh_core::ports::{Address, Reach};
use libp2p::core::upgrade::Version;
use libp2p::{noise, relay};

use super::super::muxer::Yamux;
use super::*;

/// Whoever speaks the protocol of those that are relayed, without our proof.
#[derive(NetworkBehaviour)]
struct Relayed {
    relayed: relay::client::Behaviour,
}

fn relayed_stranger() -> Swarm<Relayed> {
    let keys = Keypair::generate_ed25519();
    let peer = keys.public().to_peer_id();
    let direct = quic::tokio::Transport::new(quic::Config::new(&keys))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let (transport, relayed) = relay::client::new(peer);
    let transport = transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keys).unwrap())
        .multiplex(Yamux::of(&Limits::default()))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .or_transport(direct)
        .map(|either, _| either.into_inner())
        .boxed();
    Swarm::new(transport, Relayed { relayed }, peer, swarm::Config::with_tokio_executor())
}

async fn node(
    secret: u8,
    key: [u8; 32],
    listen: &[&str],
    discovery: Discovery,
) -> datamesh_core::Result<Libp2pTransport> {
    let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
    let limits = Limits { handshake: Duration::from_secs(2), ..Limits::default() };
    let config = Libp2pConfig::new([secret; 32], key).listen(listen).discovery(discovery).limits(limits);
    Libp2pTransport::open(config).await
}

/// A way to a member's name.
fn to(node: &Libp2pTransport) -> String {
    format!("/p2p/{}", names::peer_of(&node.local_node()).unwrap())
}

/// Asks the relay for a place; whether it got one.
async fn gets_place(stranger: &mut Swarm<Relayed>, place: &str) -> bool {
    let asked = stranger.listen_on(place.parse().unwrap()).unwrap();
    loop {
        match stranger.select_next_some().await {
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::Behaviour(_) => return true,
            SwarmEvent::ListenerClosed { listener_id, .. } if listener_id == asked => return false,
            _ => {}
        }
    }
}

/// Dials a member by its relay; whether it answers.
async fn gets_through(stranger: &mut Swarm<Relayed>, address: &str) -> bool {
    let dial = DialOpts::from(address.parse::<Multiaddr>().unwrap());
    let wanted = dial.connection_id();
    stranger.dial(dial).unwrap();
    loop {
        match stranger.select_next_some().await {
            SwarmEvent::ConnectionEstablished { connection_id, .. } if connection_id == wanted => {
                return true;
            }
            SwarmEvent::OutgoingConnectionError { connection_id, .. } if connection_id == wanted => {
                return false;
            }
            SwarmEvent::Behaviour(event) => panic!("{event:?}"),
            _ => {}
        }
    }
}

#[test]
fn relays_serve_members_only() {
    run(async {
        let all = Discovery::new().nat();
        let relay = node(1, OURS, &["/ip4/127.0.0.1/udp/0/quic-v1"], all.clone().bootstrap()).await.unwrap();
        let place = format!("{}{}/p2p-circuit", relay.listen_addresses()[0], to(&relay));
        // The mesh key is all that differs between those that get a place and a way and those that do not.
        let refused = node(2, THEIRS, &[&place], all.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Io, "{refused:?}");
        let behind = node(2, OURS, &[&place], all.clone()).await.unwrap();
        assert_eq!(behind.listen_addresses(), [place.parse::<Address>().unwrap()]);
        let address = format!("{place}{}", to(&behind));
        let foreign = node(3, THEIRS, &[], all.clone()).await.unwrap();
        let refused = foreign.connect(address.parse().unwrap(), LIMIT).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unavailable | ErrorKind::AccessDenied), "{refused:?}");
        let mut stranger = relayed_stranger();
        let tries = async {
            assert!(!gets_place(&mut stranger, &place).await, "a stranger got a place");
            assert!(!gets_through(&mut stranger, &address).await, "a stranger got through");
        };
        tokio::time::timeout(LIMIT, tries).await.unwrap();
        assert_eq!(behind.connected(), [relay.local_node()]);
        let friend = node(3, OURS, &[], all).await.unwrap();
        assert_eq!(friend.connect(address.parse().unwrap(), LIMIT).await.unwrap(), behind.local_node());
        assert_eq!(friend.reach(behind.local_node()), Some(Reach::Relay));
    });
}
