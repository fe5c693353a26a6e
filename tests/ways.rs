//! Nodes that take the cheapest way to each other, or the one that they are told.
#![cfg(all(feature = "local", feature = "libp2p", feature = "disk", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::time::Duration;

use common::{PATIENCE, noise, run, until_alone};
use datamesh::ports::{
    Identity, Inbound, Message, PeerRoute, Reach, Reached, Timestamp, Transport, TransportEvent, Way,
};
use datamesh::{
    Address, Builder, Error, ErrorKind, Health, MemoryNetwork, Mesh, MeshKey, NodeId, NodeIdentity, Result,
    Ticket, TransportPreference,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;

const TCP: &str = "/ip4/127.0.0.1/tcp/0";

fn builder(home: &TempDir, number: usize) -> Builder {
    let path = home.path().join(number.to_string());
    datamesh::builder().path(path).local_directory(home.path().join("s")).capacity(1 << 40)
}

async fn open(home: &TempDir, count: usize, change: impl Fn(Builder) -> Builder) -> Vec<Mesh> {
    let mut meshes: Vec<Mesh> = Vec::new();
    for number in 0..count {
        let mut builder = change(builder(home, number));
        if let Some(first) = meshes.first() {
            builder = builder.join(first.ticket().unwrap());
        }
        meshes.push(builder.open().await.unwrap());
    }
    for mesh in &meshes {
        mesh.wait_for_nodes(count, PATIENCE).await.unwrap();
    }
    meshes
}

/// By which ways a node reaches the others.
fn ways(mesh: &Mesh) -> Vec<Option<Way>> {
    mesh.nodes().into_iter().filter(|node| !node.local).map(|node| node.way).collect()
}

/// By what kind of connection over a network, where it is one.
fn reaches(mesh: &Mesh) -> Vec<Option<Reach>> {
    mesh.nodes().into_iter().filter(|node| !node.local).map(|node| node.reach).collect()
}

/// How a node says that it reaches the others that hold an object.
fn reached(health: &Health) -> Vec<String> {
    health.reached.values().map(ToString::to_string).collect()
}

async fn until_all_are_reached_by(mesh: &Mesh, way: Way) {
    while !ways(mesh).iter().all(|taken| *taken == Some(way)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn nodes_that_stay_on_their_machine_open_no_port() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let local = |builder: Builder| builder.transport_preference(TransportPreference::LocalOnly);
        let meshes = open(&home, 3, local).await;
        let bytes = noise(2_222_222, 1);
        let receipt = meshes[0].put(bytes.clone()).await.unwrap();
        assert_eq!(receipt.margin, 1);
        assert_eq!(ways(&meshes[1]), [Some(Way::SameMachine); 2]);
        assert_eq!(reaches(&meshes[1]), [None; 2]);
        assert!(meshes[0].addresses().iter().all(|address| address.as_str().starts_with("/local/")));
        let explained = meshes[2].explain(&receipt.capability).await.unwrap();
        assert_eq!(reached(&explained.health), ["same machine"; 2]);
        meshes[1].shutdown().await.unwrap();
        assert_eq!(meshes[2].get(&receipt.capability).await.unwrap(), bytes);
        for mesh in [&meshes[0], &meshes[2]] {
            mesh.shutdown().await.unwrap();
        }
    });
}

#[test]
fn nodes_of_one_machine_find_the_cheap_way_by_themselves() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let meshes = open(&home, 3, |builder| builder.listen(TCP)).await;
        for mesh in &meshes {
            tokio::time::timeout(PATIENCE, until_all_are_reached_by(mesh, Way::SameMachine)).await.unwrap();
        }
        let bytes = noise(2_222_222, 2);
        let capability = meshes[0].put(bytes.clone()).await.unwrap().capability;
        assert_eq!(meshes[1].get(&capability).await.unwrap(), bytes);
        let carried = meshes[0].metrics().ways;
        let of = |way| {
            carried.iter().filter(|carried| carried.way == way).map(|carried| carried.bytes).sum::<u64>()
        };
        assert!(of(Way::SameMachine) > 2_000_000, "{carried:?}");
        // Before the sockets were found, and to compare the two, little went over the network.
        assert!(of(Way::Network) < 500_000, "{carried:?}");
        for mesh in &meshes {
            mesh.shutdown().await.unwrap();
        }
    });
}

#[test]
fn nodes_that_use_the_network_only_make_no_socket() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let network =
            |builder: Builder| builder.listen(TCP).transport_preference(TransportPreference::NetworkOnly);
        let meshes = open(&home, 2, network).await;
        assert_eq!(ways(&meshes[0]), [Some(Way::Network)]);
        assert_eq!(reaches(&meshes[0]), [Some(Reach::Tcp)]);
        let capability = meshes[0].put("some bytes").await.unwrap().capability;
        let health = meshes[1].health(&capability).await.unwrap();
        assert_eq!(health.manifest_holders.len(), 2);
        let node = Reached { way: Way::Network, reach: Some(Reach::Tcp) };
        assert_eq!(health.reached, [(meshes[0].node_id(), node)].into());
        assert_eq!(reached(&health), ["direct, TCP"]);
        meshes[0].shutdown().await.unwrap();
        until_alone(&meshes[1]).await;
        let health = meshes[1].health(&capability).await.unwrap();
        assert_eq!((health.reached.len(), health.unreached), (0, vec![meshes[0].node_id()]));
        assert!(!home.path().join("s").exists());
        for mesh in &meshes {
            mesh.shutdown().await.unwrap();
        }
    });
}

#[test]
fn preferences_that_contradict_other_settings_are_problems() {
    run(async {
        let local = datamesh::builder().transport_preference(TransportPreference::LocalOnly).listen(TCP);
        let network = datamesh::builder()
            .transport_preference(TransportPreference::NetworkOnly)
            .network(&MemoryNetwork::new());
        for builder in [local, network] {
            assert_eq!(builder.open().await.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    });
}

/// An invitation is answered over a network only: a node that stays on its machine says so, and leaves nothing behind.
#[test]
fn a_node_that_stays_on_its_machine_redeems_no_invitation() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let meshes = open(&home, 1, |builder| builder.listen(TCP)).await;
        let invitation = meshes[0].ticket().unwrap().until(Timestamp(u64::MAX / 2)).unwrap();
        let guest = builder(&home, 1).join(invitation).transport_preference(TransportPreference::LocalOnly);
        let error = guest.open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert!(error.to_string().contains("over the network"), "{error}");
        // With the key itself it comes in.
        let ticket = meshes[0].ticket().unwrap();
        let member = builder(&home, 1).join(ticket).transport_preference(TransportPreference::LocalOnly);
        let member = member.open().await.unwrap();
        member.wait_for_nodes(2, PATIENCE).await.unwrap();
        for mesh in [&meshes[0], &member] {
            mesh.shutdown().await.unwrap();
        }
    });
}

/// What a ticket names and the preference leaves out is no way in, and the error says what would be.
#[test]
fn tickets_of_nodes_that_are_out_of_reach() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let first = builder(&home, 0).listen(TCP).open().await.unwrap();
        let ticket = first.ticket().unwrap();
        let only = |prefix: &str| {
            let mut ticket = ticket.clone();
            ticket.addresses.retain(|address| address.as_str().starts_with(prefix));
            assert_eq!(ticket.addresses.len(), 1);
            ticket
        };
        let local = builder(&home, 1).transport_preference(TransportPreference::LocalOnly);
        let error = local.join(only("/ip4/")).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert!(error.to_string().contains("reads /local/"), "{error}");
        let network = builder(&home, 2).transport_preference(TransportPreference::NetworkOnly);
        let error = network.listen(TCP).join(only("/local/")).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert!(error.to_string().contains("/local/"), "{error}");
        first.shutdown().await.unwrap();
    });
}

#[test]
fn sockets_where_others_may_enter_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let open = home.path().join("s");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    run(async {
        for (number, preference) in
            [TransportPreference::LocalOnly, TransportPreference::Automatic].into_iter().enumerate()
        {
            let mut builder = builder(&home, number).transport_preference(preference);
            if preference == TransportPreference::Automatic {
                builder = builder.listen(TCP);
            }
            let error = builder.open().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AccessDenied, "{preference:?}: {error:?}");
        }
        // Who makes no socket does not look.
        let network = builder(&home, 2).listen(TCP).transport_preference(TransportPreference::NetworkOnly);
        network.open().await.unwrap().shutdown().await.unwrap();
    });
}

/// Nobody answers: neither on the machine, which is known last, nor on the network.
#[derive(Debug)]
struct Nobody(NodeId, Semaphore);

impl Transport for Nobody {
    fn local_node(&self) -> NodeId {
        self.0
    }

    fn way_of(&self, address: &Address) -> Option<Way> {
        Some(if address.as_str().starts_with("far") { Way::Network } else { Way::SameMachine })
    }

    async fn call(&self, _: NodeId, _: Message, _: Duration) -> Result<Message> {
        Err(Error::new(ErrorKind::Unavailable, "nobody is there"))
    }

    async fn accept(&self) -> Option<Inbound> {
        None
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        None
    }

    async fn connect(&self, address: Address, _: Duration) -> Result<NodeId> {
        match self.way_of(&address) {
            Some(Way::Network) => self.1.add_permits(1),
            _ => self.1.acquire().await.unwrap().forget(),
        }
        Err(Error::new(ErrorKind::Unavailable, "nobody answers"))
    }

    fn set_peers(&self, _: Vec<PeerRoute>) {}

    fn connected(&self) -> Vec<NodeId> {
        Vec::new()
    }

    fn listen_addresses(&self) -> Vec<Address> {
        Vec::new()
    }

    async fn close(&self) {}
}

#[test]
fn whoever_cannot_join_hears_what_the_network_says() {
    let home = tempfile::tempdir().unwrap();
    let ticket = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Ticket::new(MeshKey::from_bytes([7; 32]), addresses)
    };
    run(async {
        for addresses in [["near:1", "far:1"], ["far:1", "near:1"]] {
            let identity = NodeIdentity::from_secret([1; 32]);
            let nobody = Nobody(identity.node_id(), Semaphore::new(0));
            let guest = datamesh::builder().identity(identity).transport(nobody).join(ticket(&addresses));
            let error = guest.open().await.unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, Some("join")));
            assert!(error.to_string().contains("far:1"), "{error}");
        }
        // The transports themselves, for a node that is gone from this machine and from the network.
        let gone = NodeIdentity::from_secret([2; 32]).node_id();
        let addresses = [format!("/local/{gone}"), "/ip4/127.0.0.1/tcp/1".to_owned()];
        let error = builder(&home, 1).join(ticket(&addresses.each_ref().map(String::as_str))).open().await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("/ip4/127.0.0.1/tcp/1"), "{error}");
    });
}

/// Whoever could not open tries again at once: nothing of the first try is in the way.
#[test]
fn what_failed_to_open_can_be_opened_again_at_once() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        // A ticket with an address on which nobody listens: both transports are open when the mesh fails.
        let gone = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let ticket = Ticket::new(MeshKey::from_bytes([7; 32]), vec![gone]);
        for number in 0..5 {
            let error = builder(&home, 1).listen(TCP).join(ticket.clone()).open().await.unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, Some("join")), "{number}");
        }
        // A port that is taken: the socket is there when the network fails.
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let taken = (format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port()), taken);
        for number in 0..5 {
            let error = builder(&home, 1).listen(&taken.0).open().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{number}: {error:?}");
        }
        let mesh = builder(&home, 1).listen(TCP).open().await.unwrap();
        let local = mesh.addresses().iter().any(|address| address.as_str().starts_with("/local/"));
        assert!(local, "{:?}", mesh.addresses());
        mesh.shutdown().await.unwrap();
        // A place in a network inside the process is free again, too.
        let network = MemoryNetwork::new();
        let gone = format!("/memory/{}", NodeIdentity::from_secret([2; 32]).node_id()).parse().unwrap();
        let ticket = Ticket::new(MeshKey::from_bytes([7; 32]), vec![gone]);
        for number in 0..5 {
            let guest = datamesh::builder().identity(NodeIdentity::from_secret([1; 32])).network(&network);
            let error = guest.join(ticket.clone()).open().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{number}: {error:?}");
        }
    });
}
