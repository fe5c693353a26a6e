//! Nodes with disk stores that talk libp2p on loopback.
#![cfg(all(feature = "libp2p", feature = "disk"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::net::TcpListener;
use std::path::Path;

use common::{PATIENCE, noise, run};
#[cfg(feature = "quic")]
use datamesh::Capability;
use datamesh::format::{Entry, Invitation};
use datamesh::net::libp2p::Limits;
use datamesh::ports::Timestamp;
#[cfg(feature = "quic")]
use datamesh::ports::{Reach, Reached, Way};
use datamesh::{Builder, ErrorKind, Mesh, MeshKey, Ticket, TransportPreference};
use tempfile::TempDir;

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
#[cfg(feature = "quic")]
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

struct Place {
    directory: TempDir,
    mesh: Mesh,
}

/// A node that is reached over the network only, also by those on its machine.
fn builder(path: &Path, listen: &str) -> Builder {
    let preference = TransportPreference::NetworkOnly;
    datamesh::builder().path(path).listen(listen).transport_preference(preference).capacity(1 << 40)
}

async fn places(count: usize, listen: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for _ in 0..count {
        let directory = tempfile::tempdir().unwrap();
        let mut builder = builder(directory.path(), listen);
        if let Some(first) = places.first() {
            builder = builder.join(first.mesh.ticket().unwrap());
        }
        let mesh = builder.open().await.unwrap();
        places.push(Place { directory, mesh });
    }
    for place in &places {
        place.mesh.wait_for_nodes(count, PATIENCE).await.unwrap();
    }
    places
}

/// Opens a node in the directory that it had, with whatever port is free now.
async fn restart(place: &mut Place, listen: &str) {
    let node = place.mesh.node_id();
    place.mesh = builder(place.directory.path(), listen).open().await.unwrap();
    assert_eq!(place.mesh.node_id(), node);
}

#[test]
fn six_nodes_over_tcp() {
    run(async {
        let mut places = places(6, TCP).await;
        let bytes = noise(5_555_555, 1);
        let receipt = places[0].mesh.put(bytes.clone()).await.unwrap();
        let small = places[3].mesh.put("small").await.unwrap();
        assert_eq!((receipt.margin, receipt.holders.len()), (2, 6));
        for number in [1, 2] {
            places[number].mesh.shutdown().await.unwrap();
        }
        for number in [0, 3, 4, 5] {
            assert_eq!(places[number].mesh.get(&receipt.capability).await.unwrap(), bytes);
            assert_eq!(places[number].mesh.get(&small.capability).await.unwrap(), "small");
        }
        let during = places[4].mesh.put(bytes.clone()).await.unwrap();
        for number in [1, 2] {
            restart(&mut places[number], TCP).await;
        }
        for place in &places {
            place.mesh.wait_for_nodes(6, PATIENCE).await.unwrap();
        }
        // Those that came back hold what they held, so that two others may go.
        for number in [0, 5] {
            places[number].mesh.shutdown().await.unwrap();
        }
        for number in [1, 2, 3, 4] {
            assert_eq!(places[number].mesh.get(&receipt.capability).await.unwrap(), bytes);
        }
        restart(&mut places[5], TCP).await;
        places[5].mesh.wait_for_nodes(5, PATIENCE).await.unwrap();
        assert_eq!(places[5].mesh.get(&during.capability).await.unwrap(), bytes);
        for number in [1, 2, 3, 4, 5] {
            places[number].mesh.shutdown().await.unwrap();
        }
    });
}

#[test]
fn a_client_without_a_store() {
    run(async {
        let places = places(2, TCP).await;
        let ticket = places[0].mesh.ticket().unwrap();
        let text = ticket.to_text().to_string();
        let client = datamesh::builder().capacity(0).join(text.parse().unwrap()).open().await.unwrap();
        client.wait_for_nodes(2, PATIENCE).await.unwrap();
        let bytes = noise(2_222_222, 2);
        let receipt = client.put(bytes.clone()).await.unwrap();
        assert_eq!(client.get(&receipt.capability).await.unwrap(), bytes);
        client.shutdown().await.unwrap();
        assert_eq!(places[1].mesh.get(&receipt.capability).await.unwrap(), bytes);
    });
}

#[test]
fn a_wrong_mesh_key_is_refused() {
    run(async {
        let places = places(1, TCP).await;
        let addresses = places[0].mesh.addresses();
        let wrong = Ticket::new(MeshKey::from_bytes([1; 32]), addresses);
        let error = datamesh::builder().join(wrong).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        assert_eq!(error.operation(), Some("join"));
        assert_eq!(places[0].mesh.nodes().len(), 1);
        places[0].mesh.shutdown().await.unwrap();
    });
}

/// Each node says that it reaches all others that hold an object directly, over QUIC.
#[cfg(feature = "quic")]
async fn holders_are_reached_over_quic(places: &[Place], capability: &Capability) {
    let by_quic = Reached { way: Way::Network, reach: Some(Reach::Quic) };
    for place in places {
        let others = places.iter().map(|other| other.mesh.node_id());
        let others = others.filter(|other| *other != place.mesh.node_id());
        let health = place.mesh.health(capability).await.unwrap();
        assert_eq!(health.reached, others.map(|other| (other, by_quic)).collect());
        let explained = place.mesh.explain(capability).await.unwrap();
        assert_eq!(explained.health.reached, health.reached);
        for reached in explained.health.reached.values() {
            assert_eq!(reached.to_string(), "direct, QUIC");
        }
    }
}

#[cfg(feature = "quic")]
#[test]
fn three_nodes_over_quic() {
    run(async {
        let mut places = places(3, QUIC).await;
        let bytes = noise(2_222_222, 3);
        let receipt = places[0].mesh.put(bytes.clone()).await.unwrap();
        assert_eq!(receipt.margin, 1);
        places[1].mesh.shutdown().await.unwrap();
        for number in [0, 2] {
            assert_eq!(places[number].mesh.get(&receipt.capability).await.unwrap(), bytes);
        }
        restart(&mut places[1], QUIC).await;
        places[1].mesh.wait_for_nodes(3, PATIENCE).await.unwrap();
        assert_eq!(places[1].mesh.get(&receipt.capability).await.unwrap(), bytes);
        holders_are_reached_over_quic(&places, &receipt.capability).await;
        for place in &places {
            place.mesh.shutdown().await.unwrap();
        }
    });
}

/// Milliseconds since 1970, so many seconds from now.
fn seconds_from_now(seconds: i64) -> Timestamp {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    Timestamp(now.saturating_add_signed(seconds * 1000))
}

fn invited_nodes_join(listen: &str) {
    run(async {
        let places = places(1, listen).await;
        let directory = tempfile::tempdir().unwrap();
        let ticket = places[0].mesh.ticket().unwrap().until(seconds_from_now(3600)).unwrap();
        assert!(ticket.mesh_key().is_none());
        let open = || datamesh::builder().path(directory.path()).listen(listen).capacity(1 << 40);
        let text = ticket.to_text().to_string();
        let mesh = open().join(text.parse().unwrap()).open().await.unwrap();
        mesh.wait_for_nodes(2, PATIENCE).await.unwrap();
        assert_eq!(mesh.ticket().unwrap().mesh_key(), places[0].mesh.ticket().unwrap().mesh_key());
        mesh.shutdown().await.unwrap();

        // Who has joined stays: neither a ticket nor one that has not ended is needed again.
        let ended = places[0].mesh.ticket().unwrap().until(seconds_from_now(-1)).unwrap();
        for builder in [open(), open().join(ended)] {
            let mesh = builder.open().await.unwrap();
            mesh.wait_for_nodes(2, PATIENCE).await.unwrap();
            mesh.shutdown().await.unwrap();
        }
        places[0].mesh.shutdown().await.unwrap();
    });
}

fn ended_invitations_open_nothing(listen: &str) {
    run(async {
        let places = places(1, listen).await;
        let directory = tempfile::tempdir().unwrap();
        let ended = places[0].mesh.ticket().unwrap().until(seconds_from_now(-1)).unwrap();
        let open = || datamesh::builder().path(directory.path()).listen(listen);
        let error = open().join(ended.clone()).open().await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::AccessDenied, Some("join")), "{error}");
        // Nothing was learned: there is no mesh key in the directory, and no member knows the node.
        assert!(!directory.path().join("mesh.key").exists());
        assert_eq!(places[0].mesh.nodes().len(), 1);

        // To say that it ends later does not help: the secret is of the end that it was made with.
        let Entry::Invitation(invitation) = ended.entry.clone() else { panic!("no invitation") };
        let invitation = Invitation { expires: seconds_from_now(3600), ..invitation };
        let altered = Ticket { entry: Entry::Invitation(invitation), ..ended };
        let error = open().join(altered).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        assert!(!directory.path().join("mesh.key").exists());
        places[0].mesh.shutdown().await.unwrap();
    });
}

#[test]
fn who_is_invited_joins_and_stays() {
    invited_nodes_join(TCP);
}

#[test]
fn an_invitation_that_has_ended_opens_nothing() {
    ended_invitations_open_nothing(TCP);
}

/// A member that an invitation names first, and that takes the connection and says nothing, holds nobody up.
#[test]
fn a_silent_member_does_not_keep_the_invited_waiting() {
    run(async {
        let places = places(1, TCP).await;
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut ticket = places[0].mesh.ticket().unwrap().until(seconds_from_now(3600)).unwrap();
        let port = silent.local_addr().unwrap().port();
        ticket.addresses.insert(0, format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        let mut limits = Limits::default();
        limits.handshake = 10 * PATIENCE;
        let open = datamesh::builder().capacity(0).network_limits(limits).join(ticket).open();
        let mesh = open.await.unwrap();
        assert_eq!(mesh.ticket().unwrap().mesh_key(), places[0].mesh.ticket().unwrap().mesh_key());
        mesh.shutdown().await.unwrap();
        places[0].mesh.shutdown().await.unwrap();
    });
}

#[cfg(feature = "quic")]
#[test]
fn invitations_over_quic() {
    invited_nodes_join(QUIC);
    ended_invitations_open_nothing(QUIC);
}

#[cfg(all(feature = "kad", feature = "quic"))]
mod table {
    use std::sync::Arc;

    use bytes::Bytes;
    use datamesh::NodeId;
    use datamesh::format::{Reply, Request};
    use datamesh::net::libp2p::{Discovery, Libp2pConfig, Libp2pTransport, address_of};
    use datamesh::ports::{Message, Transport};
    use datamesh::runtime::NativeRuntime;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    async fn transport(secret: u8, listen: &[&str], discovery: Discovery) -> Arc<Libp2pTransport> {
        let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        let config = Libp2pConfig::new([secret; 32], KEY).listen(listen).discovery(discovery);
        Arc::new(Libp2pTransport::open(config).await.unwrap())
    }

    /// Answers whoever joins, and tells nobody of any member: only the members' table says where others are.
    async fn serve(signpost: Arc<Libp2pTransport>) {
        while let Some(inbound) = signpost.accept().await {
            let reply = match Request::decode(&inbound.message.head).unwrap() {
                Request::Members { .. } => Reply::Members { records: Vec::new() },
                _ => Reply::Done,
            };
            inbound.reply.send(Message { head: reply.encode(), body: Bytes::new() });
        }
    }

    /// Waits until the signpost tells where a node is.
    async fn until_told(signpost: &Libp2pTransport, node: NodeId) {
        let asks = transport(8, &[], Discovery::new().kademlia()).await;
        asks.connect(signpost.listen_addresses().remove(0), PATIENCE).await.unwrap();
        while let Err(error) = asks.connect(address_of(&node).unwrap(), PATIENCE).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
        asks.close().await;
    }

    /// Whole nodes of which each knows a signpost alone.
    #[test]
    fn nodes_find_each_other() {
        run(async {
            let signpost = transport(9, &[QUIC], Discovery::new().kademlia().bootstrap()).await;
            let runtime = NativeRuntime::shared().unwrap();
            runtime.spawn(Box::pin(serve(Arc::clone(&signpost)))).unwrap();
            let ticket = Ticket::new(MeshKey::from_bytes(KEY), signpost.listen_addresses());
            let mut places: Vec<Place> = Vec::new();
            for _ in 0..3 {
                let directory = tempfile::tempdir().unwrap();
                let builder = builder(directory.path(), QUIC).discovery(Discovery::new().kademlia());
                let mesh = builder.join(ticket.clone()).open().await.unwrap();
                until_told(&signpost, mesh.node_id()).await;
                places.push(Place { directory, mesh });
            }
            for place in &places {
                place.mesh.wait_for_nodes(3, PATIENCE).await.unwrap();
            }
            let bytes = noise(2_222_222, 4);
            let receipt = places[2].mesh.put(bytes.clone()).await.unwrap();
            assert_eq!((receipt.margin, receipt.holders.len()), (1, 3));
            signpost.close().await;
            for place in &places {
                assert_eq!(place.mesh.get(&receipt.capability).await.unwrap(), bytes);
            }
            holders_are_reached_over_quic(&places, &receipt.capability).await;
            for place in &places {
                place.mesh.shutdown().await.unwrap();
            }
        });
    }

    /// The usual way: the first node is the bootstrap node, and the last one knows its address and no other.
    #[test]
    fn nodes_that_know_a_bootstrap_node() {
        run(async {
            let mut places: Vec<Place> = Vec::new();
            for _ in 0..3 {
                let directory = tempfile::tempdir().unwrap();
                let all = Discovery::new().kademlia();
                let mut builder = builder(directory.path(), QUIC);
                builder = match places.first() {
                    None => builder.discovery(all.bootstrap()),
                    Some(first) => {
                        let key = first.mesh.ticket().unwrap().mesh_key().unwrap().clone();
                        builder.discovery(all).join(Ticket::new(key, first.mesh.addresses()))
                    }
                };
                places.push(Place { mesh: builder.open().await.unwrap(), directory });
            }
            for place in &places {
                place.mesh.wait_for_nodes(3, PATIENCE).await.unwrap();
            }
            let bytes = noise(2_222_222, 5);
            let receipt = places[2].mesh.put(bytes.clone()).await.unwrap();
            // The other two have found each other, and need it no more.
            places[0].mesh.shutdown().await.unwrap();
            assert_eq!(places[1].mesh.get(&receipt.capability).await.unwrap(), bytes);
            restart(&mut places[0], QUIC).await;
            for place in &places {
                place.mesh.wait_for_nodes(3, PATIENCE).await.unwrap();
            }
            holders_are_reached_over_quic(&places, &receipt.capability).await;
            for place in &places {
                place.mesh.shutdown().await.unwrap();
            }
        });
    }
}
