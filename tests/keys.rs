//! The key of a mesh changes while everybody serves.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::time::Duration;

use common::lab::FaultyStore;
use common::{PATIENCE, clock_off_by, memory_mesh, memory_mesh_on, run, within};
use datamesh::ports::Storage;
use datamesh::{ErrorKind, Event, Events, KeyRing, MemoryNetwork, Mesh, MeshKey};
use futures::StreamExt;

const HOUR: Duration = Duration::from_secs(3600);

fn key(mesh: &Mesh) -> MeshKey {
    mesh.ticket().unwrap().mesh_key().unwrap().clone()
}

async fn change(events: &mut Events, wanted: u64) {
    let is_it =
        |event| async move { matches!(event, Event::KeyChanged { generation } if generation == wanted) };
    let found = async { while !is_it(events.next().await.unwrap()).await {} };
    within(PATIENCE, found).await;
}

async fn until_all_have_one_key(nodes: &[Mesh]) -> MeshKey {
    let agree = async {
        while nodes.iter().any(|node| key(node) != key(&nodes[0])) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, agree).await.unwrap();
    key(&nodes[0])
}

#[test]
fn a_change_reaches_all_and_the_mesh_keeps_its_name() {
    run(async {
        let nodes = memory_mesh(5).await;
        let mut events: Vec<_> = nodes.iter().map(Mesh::events).collect();
        let first = nodes[0].ticket().unwrap();
        nodes[0].rotate_key(HOUR).await.unwrap();
        for (node, events) in nodes.iter().zip(&mut events) {
            change(events, 1).await;
            assert_eq!((key(node), node.metrics().key_generation), (key(&nodes[0]), 1));
        }
        let ticket = nodes[3].ticket().unwrap();
        assert_ne!(ticket.mesh_key(), first.mesh_key());
        assert_eq!(ticket.network(), first.network());
        assert_eq!(ticket.to_text().parse::<datamesh::Ticket>().unwrap(), ticket);
        assert!(
            !format!("{:?} {:?}", ticket, nodes[0]).contains(&format!("{:?}", key(&nodes[0]).as_bytes()))
        );
        nodes[4].rotate_key(HOUR).await.unwrap();
        for events in &mut events {
            change(events, 2).await;
        }
        for overlap in [Duration::ZERO, Duration::from_millis(999), 367 * 24 * HOUR] {
            let error = nodes[0].rotate_key(overlap).await.unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::InvalidInput, Some("rotate key")));
        }
    });
}

/// Several nodes change the key at the same moment: one change counts in the end, for all.
#[test]
fn changes_at_once_converge() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let nodes = memory_mesh(5).await;
        let before = key(&nodes[0]);
        futures::future::join_all(nodes.iter().map(|node| node.rotate_key(HOUR))).await;
        assert_ne!(until_all_have_one_key(&nodes).await, before);
    });
}

/// What a node has seen end stays ended, also when it is opened again and its clock has gone back.
#[test]
fn a_node_keeps_that_a_key_has_ended() {
    run(async {
        let (network, store) = (MemoryNetwork::new(), FaultyStore::new());
        let nodes = memory_mesh_on(&network, 1).await;
        let identity = || datamesh::NodeIdentity::from_secret([9; 32]);
        let open = || datamesh::builder().network(&network).capacity(1 << 40).identity(identity());
        let ticket = nodes[0].ticket().unwrap();
        let node = open().storage(store.clone()).join(ticket).open().await.unwrap();
        nodes[0].wait_for_nodes(2, PATIENCE).await.unwrap();
        nodes[0].rotate_key(HOUR).await.unwrap();
        assert_eq!(key(&node), key(&nodes[0]));
        node.shutdown().await.unwrap();
        let earlier = async || {
            let kept = KeyRing::kept(&store as &dyn datamesh::ports::DynStorage).await.unwrap().unwrap();
            kept.earlier.unwrap().len()
        };
        assert_eq!(earlier().await, 1);
        for (clock, known) in [(0, 1), (7_200_000, 0), (0, 0)] {
            let runtime = clock_off_by(clock);
            open().storage(store.clone()).runtime(runtime).open().await.unwrap().shutdown().await.unwrap();
            assert_eq!(earlier().await, known, "{clock}");
        }
        Storage::close(&store).await.unwrap();
    });
}

#[test]
fn a_node_whose_clock_is_behind_does_not_change_the_key() {
    run(async {
        let network = MemoryNetwork::new();
        let nodes = memory_mesh_on(&network, 2).await;
        let behind =
            datamesh::builder().network(&network).capacity(1 << 40).runtime(clock_off_by(-3_600_000));
        let behind = behind.join(nodes[0].ticket().unwrap()).open().await.unwrap();
        behind.wait_for_nodes(3, PATIENCE).await.unwrap();
        let error = behind.rotate_key(HOUR).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("clock"), "{error}");
        assert_eq!(behind.metrics().key_generation, 0);
        behind.rotate_key(3 * HOUR).await.unwrap();
    });
}

#[cfg(all(feature = "libp2p", feature = "disk"))]
mod between_processes {
    use std::time::SystemTime;

    use datamesh::ports::Timestamp;
    use datamesh::store::{DiskOptions, DiskStore};
    use datamesh::{Builder, MeshKeys, Ticket, TransportPreference};
    use tempfile::TempDir;

    use super::common::noise;
    use super::*;

    /// Long enough that whoever is connected learns and proves the new key, also on a busy machine.
    const OVERLAP: Duration = Duration::from_secs(4);

    const TCP: &str = "/ip4/127.0.0.1/tcp/0";

    fn now() -> Timestamp {
        Timestamp(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64)
    }

    /// Nodes in one directory, by number, that are reached by one way only.
    struct Place {
        home: TempDir,
        way: TransportPreference,
    }

    impl Place {
        fn new(way: TransportPreference) -> Self {
            Self { home: tempfile::tempdir().unwrap(), way }
        }

        fn builder(&self, number: usize) -> Builder {
            let builder = datamesh::builder()
                .path(self.home.path().join(number.to_string()))
                .local_directory(self.home.path().join("s"))
                .transport_preference(self.way)
                .capacity(1 << 40);
            if self.way == TransportPreference::LocalOnly { builder } else { builder.listen(TCP) }
        }

        async fn join(&self, number: usize, ticket: &Ticket) -> datamesh::Result<Mesh> {
            self.builder(number).join(ticket.clone()).open().await
        }

        async fn nodes(&self, count: usize) -> Vec<Mesh> {
            let mut nodes = vec![self.builder(0).open().await.unwrap()];
            for number in 1..count {
                nodes.push(self.join(number, &nodes[0].ticket().unwrap()).await.unwrap());
            }
            for node in &nodes {
                node.wait_for_nodes(count, PATIENCE).await.unwrap();
            }
            nodes
        }
    }

    async fn shut(nodes: Vec<Mesh>) {
        for node in nodes {
            node.shutdown().await.unwrap();
        }
    }

    async fn all_serve_while_the_key_changes(way: TransportPreference) {
        let place = Place::new(way);
        let nodes = place.nodes(3).await;
        let old = nodes[0].ticket().unwrap();
        let bytes = noise(300_000, 1);
        let capability = nodes[0].put(bytes.clone()).await.unwrap().capability;
        let mut events: Vec<_> = nodes.iter().map(Mesh::events).collect();
        let until = nodes[1].rotate_key(OVERLAP).await.unwrap();
        for events in &mut events {
            change(events, 1).await;
        }
        let mut last = capability.clone();
        while now() <= Timestamp(until.0 + 500) {
            for node in &nodes {
                assert_eq!(node.get(&capability).await.unwrap(), bytes);
                last = node.put(bytes.clone()).await.unwrap().capability;
            }
        }
        let down = events.iter_mut().flat_map(|events| {
            std::iter::from_fn(|| futures::FutureExt::now_or_never(events.next()).flatten())
                .filter(|event| matches!(event, Event::NodeDown(_)))
        });
        assert_eq!(down.collect::<Vec<_>>(), [], "nobody was away for a moment");

        // An outsider has the old ticket, and a newcomer the new one.
        let refused = place.join(8, &old).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AccessDenied, "{refused}");
        assert!(refused.to_string().contains("new ticket"), "{refused}");
        assert_eq!(nodes[0].nodes().len(), 3);
        let fourth = place.join(3, &nodes[2].ticket().unwrap()).await.unwrap();
        fourth.wait_for_nodes(4, PATIENCE).await.unwrap();
        assert_eq!(fourth.get(&last).await.unwrap(), bytes);
        assert_eq!(key(&fourth), key(&nodes[0]));
        fourth.shutdown().await.unwrap();
        // It is its mesh from now on: without a ticket it knows the key and the name of the mesh.
        let fourth = place.builder(3).open().await.unwrap();
        fourth.wait_for_nodes(4, PATIENCE).await.unwrap();
        assert_eq!(fourth.ticket().unwrap().network(), old.network());
        shut(nodes).await;
        fourth.shutdown().await.unwrap();
    }

    #[test]
    fn all_serve_while_the_key_changes_over_the_network() {
        run(all_serve_while_the_key_changes(TransportPreference::NetworkOnly));
    }

    #[cfg(all(feature = "local", unix))]
    #[test]
    fn all_serve_while_the_key_changes_on_this_machine() {
        run(all_serve_while_the_key_changes(TransportPreference::LocalOnly));
    }

    #[test]
    fn who_was_away_learns_the_key_in_the_overlap() {
        run(async {
            let place = Place::new(TransportPreference::NetworkOnly);
            let mut nodes = place.nodes(3).await;
            let kept = nodes[2].put(noise(300_000, 2)).await.unwrap().capability;
            nodes.remove(2).shutdown().await.unwrap();
            nodes[0].rotate_key(HOUR).await.unwrap();
            nodes[0].rotate_key(HOUR).await.unwrap();
            let new = key(&nodes[0]);

            // It has the oldest key only, and is let in with it.
            let back = place.builder(2).open().await.unwrap();
            let mut events = back.events();
            if key(&back) != new {
                change(&mut events, 2).await;
            }
            assert_eq!(key(&back), new);
            back.wait_for_nodes(3, PATIENCE).await.unwrap();
            assert_eq!(back.get(&kept).await.unwrap(), noise(300_000, 2));
            back.shutdown().await.unwrap();

            // A restart keeps it, also where an old ticket is given again.
            let old = place.builder(2).open().await.unwrap();
            assert_eq!(key(&old), new);
            old.shutdown().await.unwrap();
            shut(nodes).await;
        });
    }

    #[test]
    fn who_was_away_for_longer_needs_a_new_ticket() {
        run(async {
            let place = Place::new(TransportPreference::NetworkOnly);
            let mut nodes = place.nodes(4).await;
            let old = nodes[0].ticket().unwrap();
            let kept = nodes[3].put(noise(300_000, 3)).await.unwrap().capability;
            let (third, fourth) = (nodes[2].node_id(), nodes[3].node_id());
            shut(nodes.split_off(2)).await;
            let until = nodes[0].rotate_key(Duration::from_secs(1)).await.unwrap();
            while now() <= until {
                nodes[1].ping(nodes[0].node_id()).await.ok();
            }
            for node in &nodes {
                node.wait_for_nodes(2, PATIENCE).await.unwrap();
                assert_eq!(key(node), key(&nodes[0]));
            }

            let late = place.builder(2).open().await.unwrap();
            let refused = late.ping(nodes[0].node_id()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
            assert!(refused.to_string().contains("new ticket"), "{refused}");
            late.shutdown().await.unwrap();

            // With a new ticket, or an invitation, each is the node that it was, and has what it had.
            let ticket = nodes[1].ticket().unwrap();
            let late = place.join(2, &ticket).await.unwrap();
            let in_an_hour = Timestamp(now().0 + 3_600_000);
            let later = place.join(3, &ticket.clone().until(in_an_hour).unwrap()).await.unwrap();
            assert_eq!((late.node_id(), later.node_id()), (third, fourth));
            for node in [&late, &later] {
                node.wait_for_nodes(4, PATIENCE).await.unwrap();
                assert_eq!(key(node), key(&nodes[0]));
                assert_eq!(node.get(&kept).await.unwrap(), noise(300_000, 3));
            }
            late.shutdown().await.unwrap();
            // The old ticket, in a script for instance, takes nothing away.
            let late = place.join(2, &old).await.unwrap();
            assert_eq!(key(&late), key(&nodes[0]));
            late.wait_for_nodes(4, PATIENCE).await.unwrap();
            let foreign = Ticket::new(MeshKey::from_bytes([1; 32]), ticket.addresses.clone());
            assert_eq!(place.join(2, &foreign).await.unwrap_err().kind(), ErrorKind::Locked);
            shut(vec![late, later]).await;
            assert_eq!(place.join(2, &foreign).await.unwrap_err().kind(), ErrorKind::AccessDenied);
            shut(nodes).await;
        });
    }

    /// A node that joined after a change has no first key that would name its mesh.
    #[test]
    fn a_node_that_lost_its_store_comes_back_with_its_secrets_and_a_ticket() {
        run(async {
            let place = Place::new(TransportPreference::NetworkOnly);
            let mut nodes = place.nodes(2).await;
            nodes[0].rotate_key(HOUR).await.unwrap();
            nodes.push(place.join(2, &nodes[0].ticket().unwrap()).await.unwrap());
            for lost in [1, 2] {
                let name = nodes[lost].node_id();
                nodes[lost].shutdown().await.unwrap();
                let directory = place.home.path().join(lost.to_string());
                std::fs::remove_dir_all(directory.join("volumes")).unwrap();
                std::fs::remove_file(directory.join("records.redb")).unwrap();
                assert_eq!(directory.join("mesh.key").exists(), lost == 1);
                nodes[lost] = place.join(lost, &nodes[0].ticket().unwrap()).await.unwrap();
                nodes[lost].wait_for_nodes(3, PATIENCE).await.unwrap();
                assert_eq!(nodes[lost].node_id(), name);
            }
            shut(nodes).await;
        });
    }

    /// It changed the key, and nobody heard of that before the old one ended.
    #[test]
    fn a_node_that_alone_has_a_newer_key_rejoins() {
        run(async {
            let place = Place::new(TransportPreference::NetworkOnly);
            let mut nodes = place.nodes(3).await;
            let kept = nodes[2].put(noise(300_000, 4)).await.unwrap().capability;
            let alone = nodes.remove(2);
            alone.shutdown().await.unwrap();
            let ended = Timestamp(now().0 - 1);
            let keys = MeshKeys::first(key(&nodes[0]));
            let keys = keys.next(MeshKey::from_bytes([9; 32]), ended, Timestamp(0)).unwrap();
            let store = DiskStore::open(place.home.path().join("2"), DiskOptions::default()).unwrap();
            KeyRing::new(keys).keep(&store).await.unwrap();
            Storage::close(&store).await.unwrap();
            drop(store);

            let ticket = nodes[0].ticket().unwrap();
            let lost = place.join(2, &ticket).await.unwrap();
            let refused = lost.ping(nodes[0].node_id()).await.unwrap_err();
            assert!(refused.to_string().contains("rejoin"), "{refused}");
            lost.shutdown().await.unwrap();
            let back = place.builder(2).rejoin(ticket).open().await.unwrap();
            back.wait_for_nodes(3, PATIENCE).await.unwrap();
            assert_eq!((back.node_id(), key(&back)), (alone.node_id(), key(&nodes[0])));
            assert_eq!(back.get(&kept).await.unwrap(), noise(300_000, 4));
            back.shutdown().await.unwrap();
            // That is kept.
            let back = place.builder(2).open().await.unwrap();
            back.wait_for_nodes(3, PATIENCE).await.unwrap();
            back.shutdown().await.unwrap();
            shut(nodes).await;
        });
    }

    /// Who changes the key must be heard by a member, or it would leave its mesh.
    #[test]
    fn a_node_that_reaches_nobody_does_not_change_the_key() {
        run(async {
            let place = Place::new(TransportPreference::NetworkOnly);
            let mut nodes = place.nodes(2).await;
            nodes.remove(1).shutdown().await.unwrap();
            let mut events = nodes[0].events();
            let alone = nodes[0].node_id();
            let left = async {
                while nodes[0].nodes().iter().any(|node| node.record.node != alone && node.connected) {
                    events.next().await;
                }
            };
            within(PATIENCE, left).await;
            let before = key(&nodes[0]);
            // A client hears it, but it does not stay.
            let client = place.builder(5).capacity(0).join(nodes[0].ticket().unwrap()).open().await.unwrap();
            assert_eq!(nodes[0].metrics().connected_peers, 1);
            let error = nodes[0].rotate_key(HOUR).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(key(&nodes[0]), before);
            client.shutdown().await.unwrap();
            shut(nodes).await;
        });
    }
}
