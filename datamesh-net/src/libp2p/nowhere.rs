//! A driver on a network that tells nothing: what it does then, and what it dials.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use datamesh_core::id::NodeId;
#[cfg(all(feature = "local", unix))]
use datamesh_core::ports::Reach;
use futures::future;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::identity::Keypair;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport};
#[cfg(all(feature = "local", unix))]
use libp2p::{ping, swarm::ConnectionId};

#[cfg(all(feature = "local", unix))]
use super::behaviour::BehaviourEvent;
use super::config::Libp2pConfig;
use super::driver::Driver;
use super::options::Discovery;
use super::proof::Own;
use super::renewal::Renewals;
use super::route::Route;
use super::start::Parts;
use super::{Limits, names};
use crate::wire::commands;
use crate::wire::peers::{Shared, lock};
#[cfg(all(feature = "local", unix))]
use crate::wire::session::{Link, LinkId, Session};

/// Binds every port and says nowhere that it listens; dials go on without end. Notes what is dialled.
#[derive(Clone, Default)]
struct Nowhere(Arc<Mutex<Vec<Multiaddr>>>);

type Never = future::Pending<io::Result<(PeerId, StreamMuxerBox)>>;

impl Transport for Nowhere {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = Never;
    type Dial = Never;

    fn listen_on(&mut self, _: ListenerId, _: Multiaddr) -> Result<(), TransportError<io::Error>> {
        Ok(())
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Never, TransportError<io::Error>> {
        lock(&self.0).push(address);
        Ok(future::pending())
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TransportEvent<Never, io::Error>> {
        Poll::Pending
    }
}

fn with_driver(test: impl AsyncFnOnce(Driver, Nowhere)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let keys = Keypair::ed25519_from_bytes([1; 32]).unwrap();
        let peer = keys.public().to_peer_id();
        let config = Libp2pConfig::new([1; 32], [7; 32]);
        let node = names::node_of(&peer).unwrap();
        let shared = Arc::new(Shared::new(node, Limits::default(), tokio::runtime::Handle::current()));
        let own = Own { peer, keys: Arc::clone(&config.keys) };
        let (nowhere, parts) = (Nowhere::default(), Parts::new(&keys, &config, &shared, own));
        let options = swarm::Config::with_tokio_executor();
        let swarm = Swarm::new(nowhere.clone().boxed(), parts.behaviour, peer, options);
        let driver = Driver::new(shared, swarm, commands().1, Discovery::default(), Renewals::of(None));
        tokio::time::timeout(Duration::from_secs(20), test(driver, nowhere)).await.unwrap();
    });
}

#[test]
fn an_interface_that_is_not_there_is_not_waited_for_without_end() {
    with_driver(async |mut driver, _| {
        let all = ["/ip6/::/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"].map(|text| text.parse().unwrap());
        driver.listen(all.into(), Duration::ZERO).await.unwrap();
        assert!(lock(&driver.shared.listening).is_empty());
    });
}

/// A peer that is connected directly comes by a relay as well: it may have lost the other connection.
#[cfg(all(feature = "local", unix))]
#[test]
fn a_relay_is_left_when_the_direct_connection_is_heard_of() {
    with_driver(async |mut driver, _| {
        let peer = Keypair::ed25519_from_bytes([2; 32]).unwrap().public().to_peer_id();
        let shared = Arc::clone(&driver.shared);
        let record = shared.peer_or_new(names::node_of(&peer).unwrap());
        let session = record.session_or_new(|| Session::new(&shared.limits, shared.runtime.clone())).0;
        let [direct, relayed] = [1, 2].map(ConnectionId::new_unchecked);
        let (mailbox, _requests) = async_channel::bounded(1);
        for (connection, reach) in [(direct, Reach::Tcp), (relayed, Reach::Relay)] {
            session.add_link(Link::new(LinkId::Libp2p(connection), mailbox.clone()).reached(reach));
        }
        let mut links_after = |connection| {
            let ping = ping::Event { peer, connection, result: Ok(Duration::ZERO) };
            driver.on_event(SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)));
            session.link_count()
        };
        assert_eq!(links_after(relayed), 2);
        assert_eq!(links_after(direct), 1);
    });
}

/// The peer was only reached at one of its addresses; then this machine is on another network.
#[test]
fn after_a_move_every_address_of_a_peer_is_dialled() {
    with_driver(async |mut driver, nowhere| {
        let secret = Keypair::ed25519_from_bytes([2; 32]).unwrap();
        let peer = secret.public().to_peer_id();
        let node: NodeId = names::node_of(&peer).unwrap();
        let [home, vpn] =
            ["/ip4/127.0.0.2/tcp/1", "/ip4/127.0.0.3/tcp/1"].map(|text| text.parse::<Multiaddr>().unwrap());
        let mut route = Route::new(peer, vec![home.clone(), vpn.clone()]);
        for _ in 0..100 {
            route.worked(&home, [&vpn]);
        }
        driver.routes.insert(node, route);
        let dialled = || -> Vec<Multiaddr> {
            let dialled = std::mem::take(&mut *lock(&nowhere.0));
            dialled.iter().map(|address| super::route::bare(address, peer)).collect()
        };
        driver.dial_again(node);
        assert_eq!(dialled(), std::slice::from_ref(&home));
        driver.look_at_moves();
        assert_eq!(dialled(), [], "nothing has changed");
        // An address here comes while the dial is under way, and a while later the driver looks.
        let listener_id = ListenerId::next();
        let address: Multiaddr = "/ip4/127.0.0.9/tcp/1".parse().unwrap();
        driver.on_event(SwarmEvent::NewListenAddr { listener_id, address: address.clone() });
        driver.look_at_moves();
        assert_eq!(dialled(), [home.clone(), vpn.clone()]);
        // What was dialled since is not dialled twice.
        driver.look_at_moves();
        assert_eq!(dialled(), []);
        driver.on_event(SwarmEvent::ExpiredListenAddr { listener_id, address });
        driver.look_at_moves();
        assert_eq!(dialled(), [home, vpn]);
    });
}
