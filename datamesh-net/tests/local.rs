//! Nodes of one machine over Unix domain sockets: the conformance suite, strangers, processes that vanish.
#![cfg(all(feature = "local", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::nodes::local::{config, node, only_socket};
use common::nodes::{
    CLOSING, LIMIT, echo, event, introduce, limits, route, told_until_closed, vanishes_and_returns,
};
use common::{TestRuntime, run};
use datamesh_core::ErrorKind;
use datamesh_core::ports::{Message, Transport, TransportEvent, Way};
use datamesh_core::testing::transport;
use datamesh_net::local::LocalTransport;

async fn mesh(home: &Path, count: usize) -> Vec<LocalTransport> {
    let mut nodes = Vec::new();
    for n in 0..count {
        nodes.push(node(home, n as u8 + 1, 7).await);
    }
    introduce(nodes)
}

#[test]
fn conformance_over_local_sockets() {
    let home = tempfile::tempdir().unwrap();
    run(transport::check(TestRuntime::shared(), |count| mesh(home.path(), count)));
}

#[test]
fn who_is_revoked_gets_no_connection() {
    let home = tempfile::tempdir().unwrap();
    let open = |count| mesh(home.path(), count);
    run(transport::check_refusal(TestRuntime::shared(), transport::PATIENCE, open));
}

#[test]
fn calls_wait_for_a_place_among_the_dials() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let limits = limits(|limits| limits.pending_connections = 2);
        let caller = LocalTransport::open(config(home.path(), 1, 7).limits(limits)).await.unwrap();
        let mut others = Vec::new();
        for secret in 2..14 {
            others.push(node(home.path(), secret, 7).await);
        }
        transport::check_dials(TestRuntime::shared(), caller, others).await;
    });
}

#[test]
fn another_mesh_key_is_refused() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let (ours, theirs) = (node(home.path(), 1, 7).await, node(home.path(), 2, 8).await);
        assert_eq!(ours.way(), Way::SameMachine);
        let error = theirs.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error:?}");
        event(&ours, |event| matches!(event, TransportEvent::Refused(_))).await;
        theirs.set_peers(vec![route(&ours)]);
        let error = theirs.call(ours.local_node(), Message::default(), LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(ours.connected().is_empty() && theirs.connected().is_empty());
        let friend = node(home.path(), 3, 7).await;
        assert_eq!(
            friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap(),
            ours.local_node()
        );
        echo(&friend, &ours).await;
        echo(&ours, &friend).await;
    });
}

/// A node of the mesh whose socket was taken over by another node of the mesh.
#[test]
fn the_node_at_the_other_end_is_the_one_that_was_meant() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    run(async {
        let (ours, meant) = (node(home.path(), 1, 7).await, node(elsewhere.path(), 2, 7).await);
        let address = meant.listen_addresses().remove(0);
        let place = home.path().join("d").join(only_socket(elsewhere.path()).file_name().unwrap());
        let impostor = tempfile::tempdir().unwrap();
        let _other = node(impostor.path(), 3, 7).await;
        // Its own name stays, or it would listen anew.
        fs::hard_link(only_socket(impostor.path()), place).unwrap();
        let error = ours.connect(address, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error:?}");
    });
}

/// What strangers say, they learn nothing but a nonce, and only those in their handshake have a place.
#[test]
fn strangers_on_the_socket_learn_nothing() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let handshake = Duration::from_millis(300);
        let limits = limits(|limits| (limits.handshake, limits.pending_connections) = (handshake, 8));
        let ours = LocalTransport::open(config(home.path(), 1, 7).limits(limits)).await.unwrap();
        let socket = only_socket(home.path());
        let hello = [[3, 1, 0, 0].as_slice(), &[5; 160]].concat();
        // What each says, whether that may become a greeting yet, and how many bytes it is answered.
        let said = [
            (vec![], true, 0),
            (vec![1], true, 0),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), false, 0),
            (vec![0xff; 5000], false, 0),
            ([[2, 1, 0, 0].as_slice(), &[5; 160]].concat(), false, 0),
            ([[3, 3, 0, 0].as_slice(), &[5; 160]].concat(), false, 0),
            (hello.clone(), false, 33),
            ([hello, vec![0; 5000]].concat(), false, 33),
        ];
        let strangers = said.map(|(bytes, waits, most)| {
            let began = Instant::now();
            let mut socket = UnixStream::connect(&socket).unwrap();
            // It may have hung up already.
            let _ = socket.write_all(&bytes);
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            std::thread::spawn(move || (told_until_closed(socket), most, waits, began.elapsed()))
        });
        for stranger in strangers {
            let (told, most, waits, lasted) = stranger.join().unwrap();
            assert!(told <= most, "{told}");
            assert!(!waits || lasted >= handshake, "it had {lasted:?}");
            assert!(lasted < handshake + CLOSING, "it had {lasted:?}");
        }
        let friend = node(home.path(), 2, 7).await;
        assert_eq!(
            friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap(),
            ours.local_node()
        );
        echo(&friend, &ours).await;
    });
}

/// Whoever occupies a node's socket and does not know the mesh key sees no name, and nothing twice.
#[test]
fn a_listener_without_the_key_learns_nothing() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    run(async {
        let (ours, meant) = (node(home.path(), 1, 7).await, node(elsewhere.path(), 2, 7).await);
        let place = home.path().join("d").join(only_socket(elsewhere.path()).file_name().unwrap());
        let trap = UnixListener::bind(place).unwrap();
        let heard = std::thread::spawn(move || {
            let (mut socket, _) = trap.accept().unwrap();
            let mut hello = [0; 164];
            socket.read_exact(&mut hello).unwrap();
            socket.write_all(&[[8; 32].as_slice(), &[0]].concat()).unwrap();
            let mut proof = [0; 32];
            socket.read_exact(&mut proof).unwrap();
            // Its own proof, sent back.
            socket.write_all(&proof).unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).unwrap();
            (hello, rest)
        });
        let error = ours.connect(meant.listen_addresses().remove(0), LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error:?}");
        let (hello, rest) = heard.join().unwrap();
        assert!(rest.is_empty(), "it was told {} bytes more", rest.len());
        assert_eq!(hello[..4], [3, 1, 0, 0]);
    });
}

#[test]
fn a_peer_vanishes_and_returns() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let (ours, theirs) = (node(home.path(), 1, 7).await, node(home.path(), 2, 7).await);
        let again = vanishes_and_returns(&ours, theirs, async || node(home.path(), 2, 7).await).await;
        echo(&again, &ours).await;
    });
}

/// A node listens again, and peers find it again, when somebody has removed its socket.
fn is_found_again_after(removal: impl FnOnce(&Path, &Path)) {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let limits = limits(|limits| limits.idle = Duration::from_millis(40));
        let ours = LocalTransport::open(config(home.path(), 1, 7).limits(limits)).await.unwrap();
        let socket = only_socket(home.path());
        removal(home.path(), &socket);
        let runtime = TestRuntime::shared();
        while !socket.exists() {
            runtime.sleep(Duration::from_millis(5)).await;
        }
        let friend = node(home.path(), 2, 7).await;
        friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap();
        echo(&friend, &ours).await;
    });
}

/// Somebody cleans up the directory.
#[test]
fn a_socket_that_was_removed_is_made_again() {
    is_found_again_after(|_, socket| fs::remove_file(socket).unwrap());
}

/// Somebody removes the whole directory, as the system does when the user has logged out.
#[test]
fn a_directory_that_was_removed_is_made_again() {
    is_found_again_after(|home, _| {
        // In one step, or the node may listen again before all is removed.
        fs::rename(home.join("d"), home.join("removed")).unwrap();
        fs::remove_dir_all(home.join("removed")).unwrap();
    });
}

#[test]
fn closing_leaves_no_socket_and_no_thread() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let (ours, theirs) = (node(home.path(), 1, 7).await, node(home.path(), 2, 7).await);
        ours.set_peers(vec![route(&theirs)]);
        echo(&ours, &theirs).await;
        ours.close().await;
        theirs.close().await;
    });
    let left: Vec<_> =
        fs::read_dir(home.path().join("d")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path: &PathBuf| path.file_name().unwrap() == "lock"), "{left:?}");
    assert!(!has_file_in(home.path()), "a descriptor is still open");
}

/// Whether this process has a file or socket under this path open, where the system tells.
fn has_file_in(path: &Path) -> bool {
    let Ok(sockets) = fs::read_to_string("/proc/self/net/unix") else { return false };
    sockets.contains(path.to_str().unwrap())
}

#[test]
fn secrets_are_not_printed() {
    let home = tempfile::tempdir().unwrap();
    let text = format!("{:?}", config(home.path(), 0xab, 0xcd));
    assert!(!text.contains("205, 205") && !text.contains("cdcd"), "{text}");
}
