//! Meshes that admit who holds data by certificate.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::lab::{Dial, Disk, Fault, FaultyStore, FaultyTransport};
use common::{PATIENCE, clock_off_by, noise, run, until_alone, within};
use datamesh::format::{Epochs, KeyName, Refusal, Reply, Request};
use datamesh::ports::{Identity, Message, Timestamp, Transport};
use datamesh::runtime::NativeRuntime;
use datamesh::{
    Admission, Builder, ErrorKind, Event, MemoryNetwork, Mesh, MeshKey, MeshKeys, NodeId, NodeIdentity,
    SignedCertificate, SignedEpoch, Ticket,
};
use futures::{StreamExt, future};

const CAPACITY: u64 = 1 << 40;

fn authority(number: u8) -> Admission {
    Admission::new(Arc::new(NodeIdentity::from_secret([number; 32])), None)
}

fn identity(number: usize) -> NodeIdentity {
    NodeIdentity::from_secret([number as u8 + 100; 32])
}

fn in_an_hour() -> Timestamp {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(3600);
    Timestamp(now.as_millis() as u64)
}

fn certificate(admission: &Admission, node: NodeId, zone: &str) -> SignedCertificate {
    admission.issue(node, Some(zone.parse().unwrap()), CAPACITY / 2, in_an_hour())
}

fn node(network: &MemoryNetwork, number: usize) -> Builder {
    datamesh::builder().network(network).identity(identity(number)).capacity(CAPACITY).zone("liar")
}

/// Nodes that are admitted, each in a zone of its own.
async fn admitted(network: &MemoryNetwork, admission: &Admission, count: usize) -> Vec<Mesh> {
    let mut nodes: Vec<Mesh> = Vec::new();
    for number in 0..count {
        let own = certificate(admission, identity(number).node_id(), &format!("zone-{number}"));
        let mut builder = node(network, number).certificate(own);
        builder = match nodes.first() {
            Some(first) => builder.join(first.ticket().unwrap()),
            None => builder.admission([admission.key()]),
        };
        nodes.push(builder.open().await.unwrap());
    }
    for node in &nodes {
        node.wait_for_nodes(count, PATIENCE).await.unwrap();
    }
    nodes
}

fn members(mesh: &Mesh) -> Vec<NodeId> {
    mesh.nodes().into_iter().map(|node| node.record.node).collect()
}

#[test]
fn a_ticket_alone_does_not_make_a_holder() {
    run(async {
        let (network, admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 3).await;
        let ticket = nodes[0].ticket().unwrap();
        assert_eq!(ticket.admission, [admission.key()]);
        assert_eq!(ticket.to_text().parse::<Ticket>().unwrap(), ticket);

        let none = node(&network, 10).join(ticket.clone()).open().await.unwrap_err();
        assert_eq!((none.kind(), none.node()), (ErrorKind::AccessDenied, Some(identity(10).node_id())));
        let strangers = [20, 21, 22].map(|number| (number, identity(number).node_id()));
        for (number, own) in strangers {
            let wrong = match number {
                20 => certificate(&authority(2), own, "zone-0"),
                21 => certificate(&admission, identity(0).node_id(), "zone-0"),
                _ => admission.issue(own, None, 1, Timestamp(1)),
            };
            let open = node(&network, number).join(ticket.clone()).certificate(wrong).open();
            let error = open.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        }

        // One that does not ask itself whether it is admitted is not asked either.
        let mut careless = Ticket::new(ticket.mesh_key().unwrap().clone(), ticket.addresses.clone());
        careless.admission = vec![authority(2).key()];
        let forged = certificate(&authority(2), identity(11).node_id(), "zone-9");
        let stranger = node(&network, 11).join(careless).certificate(forged).open().await.unwrap();
        let receipt = nodes[1].put(noise(300_000, 1)).await.unwrap();
        assert!(!receipt.holders.contains_key(&stranger.node_id()));
        for node in &nodes {
            assert_eq!(members(node).len(), 3, "a stranger is no member");
        }
        stranger.shutdown().await.unwrap();

        // A client needs no certificate: the mesh key says who may ask.
        let client = datamesh::builder().network(&network).capacity(0).join(ticket).open().await.unwrap();
        assert_eq!(client.get(&receipt.capability).await.unwrap(), noise(300_000, 1));
        client.shutdown().await.unwrap();
    });
}

#[test]
fn the_certificate_overrules_zone_and_capacity() {
    run(async {
        let (network, admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 3).await;
        for (number, status) in nodes[2].nodes().iter().enumerate() {
            assert_eq!(status.record.zone.as_str(), "liar");
            assert_eq!(status.record.capacity_granted(), CAPACITY / 2, "{number}");
        }
        // All say that they are in one zone; by their certificates any of three may be lost.
        let receipt = nodes[0].put(noise(300_000, 2)).await.unwrap();
        assert_eq!(receipt.zone_margin, 1);
        let moved = certificate(&admission, nodes[0].node_id(), "zone-1");
        nodes[0].set_certificate(moved).await.unwrap();
        let error = nodes[0].set_certificate(certificate(&authority(2), nodes[0].node_id(), "x")).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::AccessDenied);
        assert_eq!(
            nodes[0].nodes().iter().filter(|node| node.record.zone_granted().as_str() == "zone-1").count(),
            2
        );
    });
}

#[test]
fn who_is_revoked_is_refused_and_learns_nothing() {
    run(async {
        let (network, mut admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 4).await;
        let receipt = nodes[0].put(noise(300_000, 3)).await.unwrap();
        let revoked = nodes[3].node_id();
        let mut events: Vec<_> = nodes[..3].iter().map(Mesh::events).collect();

        let foreign = authority(2).revoke(nodes[0].node_id()).unwrap();
        assert_eq!(nodes[1].set_epoch(foreign).await.unwrap_err().kind(), ErrorKind::AccessDenied);
        nodes[1].set_epoch(admission.revoke(revoked).unwrap()).await.unwrap();
        for events in &mut events {
            let is_it = |event: Event| async move { (event == Event::Expelled(revoked)).then_some(()) };
            within(PATIENCE, Box::pin(events.filter_map(is_it)).next()).await.unwrap();
        }
        for node in &nodes[..3] {
            assert_eq!(node.epoch().unwrap().number, 1);
            assert!(!members(node).contains(&revoked));
        }
        // Nobody is connected with it any more, nor answers it, whatever it asks.
        for node in &nodes[..3] {
            let error = nodes[3].ping(node.node_id()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        let secret = nodes[0].put("later").await.unwrap();
        let error = nodes[3].get(&secret.capability).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::NotFound, "silence is not absence");
        // The others have what it held from each other.
        assert_eq!(nodes[2].get(&receipt.capability).await.unwrap(), noise(300_000, 3));
        let again = nodes[0].put(noise(300_000, 4)).await.unwrap();
        assert!(!again.holders.contains_key(&revoked));
    });
}

/// One epoch, as nodes tell each other of it.
fn encoded(epoch: &SignedEpoch) -> Bytes {
    let mut epochs = Epochs::default();
    epochs.take(epoch.clone());
    epochs.encode()
}

/// What a node answers to a request of a node with this name and by no mesh.
async fn ask(
    network: &MemoryNetwork,
    name: NodeId,
    from: &Mesh,
    request: Request,
    body: Bytes,
) -> (Reply, Bytes) {
    let runtime = NativeRuntime::shared().unwrap();
    let transport = network.join(name, runtime).unwrap();
    transport.connect(from.addresses().remove(0), PATIENCE).await.unwrap();
    let head = request.encode();
    let answer = transport.call(from.node_id(), Message { head, body }, PATIENCE).await.unwrap();
    transport.close().await;
    (Reply::decode(&answer.head).unwrap(), answer.body)
}

/// Where the transport refuses nobody, the node itself refuses whatever is asked.
#[test]
fn who_is_revoked_and_connected_is_refused_each_request() {
    run(async {
        let (network, mut admission) = (MemoryNetwork::new(), authority(1));
        let inner = network.join(identity(0).node_id(), NativeRuntime::shared().unwrap()).unwrap();
        let own = certificate(&admission, identity(0).node_id(), "zone-0");
        let builder = datamesh::builder()
            .identity(identity(0))
            .transport(FaultyTransport::new(inner, &Dial::default()));
        let mesh =
            builder.capacity(CAPACITY).certificate(own).admission([admission.key()]).open().await.unwrap();
        let revoked = identity(30).node_id();
        mesh.set_epoch(admission.revoke(revoked).unwrap()).await.unwrap();
        let request = Request::Keys { generation: 0, name: KeyName::from_bytes([0; 32]) };
        let (reply, told) = ask(&network, revoked, &mesh, request, Bytes::new()).await;
        assert!(matches!(reply, Reply::Failed { refusal: Refusal::Denied, .. }), "{reply:?}");
        assert!(told.is_empty());
    });
}

/// Whole nodes over TCP: the connections of who is revoked are closed, and it gets no others, also from one that was
/// started again, until an epoch revokes it no more.
#[cfg(all(feature = "disk", feature = "libp2p"))]
#[test]
fn who_is_revoked_is_cut_off_over_tcp() {
    run(async {
        let mut admission = authority(1);
        let home = tempfile::tempdir().unwrap();
        let open = |number: usize| {
            let builder = datamesh::builder().path(home.path().join(number.to_string()));
            let builder = builder.identity(identity(number)).listen("/ip4/127.0.0.1/tcp/0");
            builder.capacity(CAPACITY).transport_preference(datamesh::TransportPreference::NetworkOnly)
        };
        let admitted = |admission: &Admission, number: usize| {
            certificate(admission, identity(number).node_id(), &format!("zone-{number}"))
        };
        let builder = open(0).certificate(admitted(&admission, 0)).admission([admission.key()]);
        let first = builder.open().await.unwrap();
        let join = |admission: &Admission, number: usize| {
            let builder = open(number).certificate(admitted(admission, number));
            builder.join(first.ticket().unwrap()).open()
        };
        let (other, out) = (join(&admission, 1).await.unwrap(), join(&admission, 2).await.unwrap());
        for node in [&first, &other, &out] {
            node.wait_for_nodes(3, PATIENCE).await.unwrap();
        }
        first.set_epoch(admission.revoke(out.node_id()).unwrap()).await.unwrap();
        until_alone(&out).await;
        first.shutdown().await.unwrap();
        let first = open(0).open().await.unwrap();
        first.wait_for_nodes(2, PATIENCE).await.unwrap();
        out.shutdown().await.unwrap();
        // It has the mesh key and knows where they are; its own name keeps it out.
        for ticket in [first.ticket().unwrap(), other.ticket().unwrap()] {
            let client =
                |number| datamesh::builder().identity(identity(number)).capacity(0).join(ticket.clone());
            let error = client(2).open().await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::AccessDenied), "{error:?}");
            client(30).open().await.unwrap().shutdown().await.unwrap();
        }

        let epoch = admission.retire().unwrap();
        for (node, number) in [(&first, 0), (&other, 1)] {
            node.set_epoch(epoch.clone()).await.unwrap();
            node.set_certificate(admitted(&admission, number)).await.unwrap();
        }
        let back = open(2).certificate(admitted(&admission, 2)).join(first.ticket().unwrap());
        let back = back.open().await.unwrap();
        for node in [&first, &other, &back] {
            node.wait_for_nodes(3, PATIENCE).await.unwrap();
        }
    });
}

#[test]
fn who_is_not_admitted_neither_learns_a_new_mesh_key_nor_changes_it() {
    run(async {
        let (network, mut admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 4).await;
        let ticket = nodes[0].ticket().unwrap();
        let client = datamesh::builder().network(&network).capacity(0).join(ticket).open().await.unwrap();
        let key = |mesh: &Mesh| mesh.ticket().unwrap().mesh_key().unwrap().clone();
        let (before, revoked) = (key(&nodes[0]), nodes[3].node_id());
        let mut expelled: Vec<_> = nodes[..3].iter().map(Mesh::events).collect();
        let mut changed: Vec<_> = nodes[..3].iter().map(Mesh::events).collect();
        nodes[1].set_epoch(admission.revoke(revoked).unwrap()).await.unwrap();
        for events in &mut expelled {
            let is_it = |event: Event| async move { (event == Event::Expelled(revoked)).then_some(()) };
            within(PATIENCE, Box::pin(events.filter_map(is_it)).next()).await.unwrap();
        }

        let hour = Duration::from_secs(3600);
        assert_eq!(client.rotate_key(hour).await.unwrap_err().kind(), ErrorKind::AccessDenied);
        nodes[0].rotate_key(hour).await.unwrap();
        for events in &mut changed {
            let is_it = |event: Event| async move { matches!(event, Event::KeyChanged { .. }).then_some(()) };
            within(PATIENCE, Box::pin(events.filter_map(is_it)).next()).await.unwrap();
        }
        let new = key(&nodes[0]);
        assert_ne!(new, before);
        assert_eq!(nodes[..3].iter().map(key).collect::<Vec<_>>(), [new.clone(), new.clone(), new.clone()]);
        // It believes that it is admitted, and nobody is connected with it.
        until_alone(&nodes[3]).await;
        let error = nodes[3].rotate_key(hour).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        nodes[3].shutdown().await.unwrap();
        // Neither under its own name, which gets no connection, nor under one that has no certificate is anybody told, or
        // heard.
        let forged = MeshKeys::first(before.clone());
        let forged = forged.next(MeshKey::from_bytes([9; 32]), Timestamp(u64::MAX), Timestamp(0)).unwrap();
        let forged = MeshKeys { generation: 99, ..forged };
        let own = network.join(revoked, NativeRuntime::shared().unwrap()).unwrap();
        let error = own.connect(nodes[1].addresses().remove(0), PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        for body in [Bytes::new(), forged.encode()] {
            let request = Request::Keys { generation: 0, name: KeyName::from_bytes([0; 32]) };
            let (reply, told) = ask(&network, identity(30).node_id(), &nodes[1], request, body).await;
            assert!(matches!(reply, Reply::Failed { refusal: Refusal::Denied, .. }), "{reply:?}");
            assert!(told.is_empty());
        }
        assert_eq!(nodes[..3].iter().map(key).collect::<Vec<_>>(), [new.clone(), new.clone(), new]);
        assert_eq!(key(&client), before, "a client needs a new ticket");
        client.shutdown().await.unwrap();
    });
}

/// The disk is full when the epoch comes, from a person or from another node: it is kept when it comes again.
#[test]
fn an_epoch_that_was_not_kept_is_kept_when_it_comes_again() {
    run(async {
        for is_told in [false, true] {
            let (network, mut admission, store) = (MemoryNetwork::new(), authority(1), FaultyStore::new());
            let own = certificate(&admission, identity(0).node_id(), "zone-0");
            let open = || node(&network, 0).storage(store.clone()).mesh_key(MeshKey::from_bytes([1; 32]));
            let mesh = open().admission([admission.key()]).certificate(own).open().await.unwrap();
            let epoch = admission.revoke(identity(5).node_id()).unwrap();
            for is_full in [true, false] {
                store.set(if is_full { Disk::TakesNothing } else { Disk::Honest });
                let is_kept = if is_told {
                    let (request, body) = (Request::Epoch { number: 0, hash: [0; 32] }, encoded(&epoch));
                    ask(&network, identity(6).node_id(), &mesh, request, body).await.0 == Reply::Done
                } else {
                    mesh.set_epoch(epoch.clone()).await.is_ok()
                };
                assert_eq!((is_kept, mesh.epoch()), (!is_full, Some(epoch.epoch().clone())), "{is_told}");
            }
            mesh.shutdown().await.unwrap();
            assert_eq!(open().open().await.unwrap().epoch(), Some(epoch.epoch().clone()), "{is_told}");
        }
    });
}

/// Waits until all of these go by an epoch that revokes just these.
async fn until_revoked(nodes: &[Mesh], number: u64, mut revoked: Vec<NodeId>) {
    revoked.sort_unstable();
    let runtime = NativeRuntime::shared().unwrap();
    let holds = |node: &Mesh| {
        let epoch = node.epoch().unwrap_or_default();
        epoch.number == number && epoch.revoked == revoked
    };
    while !nodes.iter().all(holds) {
        runtime.sleep(Duration::from_millis(5)).await;
    }
}

/// Two operators sign the same number on the two sides of a cut: both revocations count on all nodes in the end.
#[test]
fn two_epochs_of_one_number_converge_and_both_count() {
    run(async {
        let (network, first) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &first, 4).await;
        let ways = [(0, 2), (0, 3), (1, 2), (1, 3)]
            .map(|(a, b): (usize, usize)| (nodes[a].node_id(), nodes[b].node_id()));
        ways.iter().for_each(|(a, b)| network.partition(*a, *b));
        let [x, y, z] = [50, 51, 52].map(|number| identity(number).node_id());
        for (side, revoked) in [(&nodes[..2], x), (&nodes[2..], y)] {
            let mut admission = authority(1);
            assert_eq!(side[0].set_epoch(admission.revoke(revoked).unwrap()).await.unwrap(), 1);
            until_revoked(side, 1, vec![revoked]).await;
        }
        ways.iter().for_each(|(a, b)| network.heal(*a, *b));
        until_revoked(&nodes, 1, vec![x, y]).await;

        // The next one goes on from both, and takes their place.
        let identity = NodeIdentity::from_secret([1; 32]);
        let mut admission = Admission::new(Arc::new(identity), nodes[3].epoch().as_ref());
        nodes[3].set_epoch(admission.revoke(z).unwrap()).await.unwrap();
        until_revoked(&nodes, 2, vec![x, y, z]).await;
    });
}

/// A member that is told of an epoch answers with what it knows beside it, and whoever has less than it learns it all.
#[test]
fn who_tells_another_epoch_of_the_same_number_is_told_of_both() {
    run(async {
        let (network, admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 1).await;
        let own = authority(1).revoke(identity(50).node_id()).unwrap();
        let other = authority(1).revoke(identity(51).node_id()).unwrap();
        nodes[0].set_epoch(own.clone()).await.unwrap();
        let mut both = Epochs::default();
        assert!(both.take(other.clone()));
        let request = Request::Epoch { number: 1, hash: both.rank().1 };
        assert!(both.take(own));
        for body in [encoded(&other), Bytes::new()] {
            let (reply, told) = ask(&network, identity(6).node_id(), &nodes[0], request.clone(), body).await;
            assert_eq!((reply, told), (Reply::Done, both.encode()));
        }
        let request = Request::Epoch { number: 1, hash: both.rank().1 };
        let (reply, told) = ask(&network, identity(6).node_id(), &nodes[0], request, both.encode()).await;
        assert_eq!((reply, told), (Reply::Done, Bytes::new()));
    });
}

/// A node that has heard of no epoch takes any; the members that it tells know better.
#[test]
fn an_epoch_that_is_stale_to_the_members_is_an_error() {
    run(async {
        let (network, mut admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 3).await;
        let late = nodes[0].node_id();
        nodes[1..].iter().for_each(|node| network.partition(late, node.node_id()));
        let [x, y, z] = [50, 51, 52].map(|number| identity(number).node_id());
        for revoked in [x, y] {
            nodes[1].set_epoch(admission.revoke(revoked).unwrap()).await.unwrap();
        }
        until_revoked(&nodes[1..], 2, vec![x, y]).await;
        nodes[1..].iter().for_each(|node| network.heal(late, node.node_id()));
        let error = nodes[0].set_epoch(authority(1).revoke(z).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("epoch 1 is older than 2"), "{error}");
        let identity = NodeIdentity::from_secret([1; 32]);
        let mut anew = Admission::new(Arc::new(identity), nodes[0].epoch().as_ref());
        assert_eq!(nodes[0].set_epoch(anew.revoke(z).unwrap()).await.unwrap(), 2);
        until_revoked(&nodes, 3, vec![x, y, z]).await;
    });
}

/// A client does not stay to tell what only it has heard.
#[test]
fn a_client_that_reaches_no_member_does_not_say_that_somebody_is_revoked() {
    run(async {
        let (network, mut admission) = (MemoryNetwork::new(), authority(1));
        let nodes = admitted(&network, &admission, 2).await;
        let client = datamesh::builder().network(&network).capacity(0);
        let client = client.join(nodes[0].ticket().unwrap()).open().await.unwrap();
        client.wait_for_nodes(2, PATIENCE).await.unwrap();
        nodes.iter().for_each(|node| network.partition(client.node_id(), node.node_id()));
        let epoch = admission.revoke(identity(50).node_id()).unwrap();
        let error = client.set_epoch(epoch.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
        nodes.iter().for_each(|node| assert_eq!(node.epoch(), None));
        nodes.iter().for_each(|node| network.heal(client.node_id(), node.node_id()));
        client.wait_for_nodes(2, PATIENCE).await.unwrap();
        assert_eq!(client.set_epoch(epoch.clone()).await.unwrap(), 2);
        nodes.iter().for_each(|node| assert_eq!(node.epoch().as_ref(), Some(epoch.epoch())));
        client.shutdown().await.unwrap();
    });
}

/// Members that take an epoch and say nothing hold nobody up for longer than a question may take.
#[test]
fn an_epoch_is_set_in_time_while_the_members_are_silent() {
    run(async {
        let (network, mut admission, dial) = (MemoryNetwork::new(), authority(1), Dial::default());
        let mut nodes: Vec<Mesh> = Vec::new();
        for number in 0..2 {
            let id = identity(number).node_id();
            let place = network.join(id, NativeRuntime::shared().unwrap()).unwrap();
            let builder = datamesh::builder().identity(identity(number)).capacity(CAPACITY);
            let builder = builder
                .transport(FaultyTransport::new(place, &dial))
                .certificate(certificate(&admission, id, "zone-0"));
            let builder = match nodes.first() {
                None => builder.admission([admission.key()]),
                Some(first) => builder.join(first.ticket().unwrap()),
            };
            nodes.push(builder.open().await.unwrap());
        }
        let client = datamesh::builder().network(&network).capacity(0);
        let client = client.join(nodes[0].ticket().unwrap()).open().await.unwrap();
        for mesh in [&nodes[0], &client] {
            mesh.wait_for_nodes(2, PATIENCE).await.unwrap();
        }
        dial.set(Fault::Silent);
        let epoch = admission.revoke(identity(50).node_id()).unwrap();
        let both = future::join(nodes[0].set_epoch(epoch.clone()), client.set_epoch(epoch.clone()));
        let (node, client) = within(Duration::from_secs(20), both).await;
        assert_eq!(node.unwrap(), 0, "nobody has answered");
        let error = client.unwrap_err();
        let expected = (ErrorKind::OutcomeUnknown, Some("set epoch"));
        assert_eq!((error.kind(), error.operation()), expected, "{error}");
        assert_eq!(nodes[0].epoch().as_ref(), Some(epoch.epoch()));
    });
}

#[test]
fn a_certificate_that_has_ended_does_not_count_again_when_the_clock_goes_back() {
    run(async {
        let (network, admission, clock) = (MemoryNetwork::new(), authority(1), clock_off_by(0));
        let own = certificate(&admission, identity(0).node_id(), "zone-0");
        let mesh = node(&network, 0).runtime(clock.clone()).admission([admission.key()]).certificate(own);
        let mesh = mesh.open().await.unwrap();
        let again = certificate(&admission, identity(0).node_id(), "zone-1");
        clock.set(2 * 3_600_000);
        assert_eq!(mesh.set_certificate(again.clone()).await.unwrap_err().kind(), ErrorKind::AccessDenied);
        clock.set(0);
        assert_eq!(mesh.set_certificate(again).await.unwrap_err().kind(), ErrorKind::AccessDenied);
        mesh.shutdown().await.unwrap();
    });
}

#[cfg(feature = "disk")]
#[test]
fn an_epoch_outlives_a_restart_and_never_goes_back() {
    run(async {
        let (network, mut admission) = (MemoryNetwork::new(), authority(1));
        let directory = tempfile::tempdir().unwrap();
        let own = certificate(&admission, identity(0).node_id(), "zone-0");
        let open = || node(&network, 0).path(directory.path());
        let mesh = open().admission([admission.key()]).certificate(own).open().await.unwrap();
        let first = admission.revoke(identity(5).node_id()).unwrap();
        let second = admission.revoke(identity(6).node_id()).unwrap();
        let newest = Some(second.epoch().clone());
        // The same again does no harm, and who signs what is no news is told so.
        for _ in 0..2 {
            mesh.set_epoch(second.clone()).await.unwrap();
        }
        let error = mesh.set_epoch(first.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("epoch 1 is older than 2"), "{error}");
        assert_eq!(mesh.epoch(), newest);
        mesh.shutdown().await.unwrap();

        // Neither keys nor certificate need be given again, and none can be taken away.
        let mesh = open().open().await.unwrap();
        assert_eq!((mesh.epoch(), mesh.admission_keys()), (newest.clone(), vec![admission.key()]));
        assert_eq!(mesh.set_epoch(first).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(mesh.epoch(), newest);
        mesh.set_epoch(admission.revoke(identity(0).node_id()).unwrap()).await.unwrap();
        mesh.shutdown().await.unwrap();
        assert_eq!(open().open().await.unwrap_err().kind(), ErrorKind::AccessDenied);
        let other = open().admission([authority(2).key()]).open().await.unwrap_err();
        assert_eq!(other.kind(), ErrorKind::AccessDenied, "{other}");
    });
}
