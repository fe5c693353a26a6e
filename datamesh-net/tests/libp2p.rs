//! Nodes that talk libp2p on 127.0.0.1: the conformance suite, strangers, peers that vanish.
#![cfg(feature = "libp2p")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use common::{TestRuntime, run};
use datamesh_core::ErrorKind;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Message, PeerRoute, Transport, TransportEvent};
use datamesh_core::testing::transport;
use datamesh_net::libp2p::{Libp2pConfig, Libp2pTransport, Limits};

const LIMIT: Duration = Duration::from_secs(20);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
#[cfg(feature = "quic")]
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

fn config(secret: u8, mesh: u8, listen: &str) -> Libp2pConfig {
    let listen = if listen.is_empty() { Vec::new() } else { vec![listen.parse().unwrap()] };
    Libp2pConfig::new([secret; 32], [mesh; 32]).listen(listen)
}

async fn node(secret: u8, mesh: u8, listen: &str) -> Libp2pTransport {
    Libp2pTransport::open(config(secret, mesh, listen)).await.unwrap()
}

fn route(node: &Libp2pTransport) -> PeerRoute {
    PeerRoute { node: node.local_node(), addresses: node.listen_addresses() }
}

/// So many nodes of one mesh that all know each other.
async fn mesh(count: usize, listen: &str) -> Vec<Libp2pTransport> {
    let mut nodes = Vec::new();
    for n in 0..count {
        nodes.push(node(n as u8 + 1, 7, listen).await);
    }
    for node in &nodes {
        let others = nodes.iter().filter(|other| other.local_node() != node.local_node());
        node.set_peers(others.map(route).collect());
    }
    nodes
}

/// Waits for an event that satisfies `wanted`.
async fn event(node: &Libp2pTransport, wanted: impl Fn(&TransportEvent) -> bool) -> TransportEvent {
    loop {
        let event = node.next_event().await.expect("the transport is closed");
        if wanted(&event) {
            return event;
        }
    }
}

async fn answer_one(node: &Libp2pTransport) {
    let inbound = node.accept().await.unwrap();
    inbound.reply.send(inbound.message);
}

async fn echo(from: &Libp2pTransport, to: &Libp2pTransport) {
    let message = Message { head: Bytes::from_static(b"hello"), body: Bytes::from(vec![9; 300_000]) };
    let call = from.call(to.local_node(), message.clone(), LIMIT);
    let (reply, ()) = futures::join!(call, answer_one(to));
    assert!(reply.unwrap() == message);
}

#[test]
fn conformance_over_tcp() {
    run(transport::check(TestRuntime::shared(), |count| mesh(count, TCP)));
}

#[cfg(feature = "quic")]
#[test]
fn conformance_over_quic() {
    run(transport::check(TestRuntime::shared(), |count| mesh(count, QUIC)));
}

/// A node with another mesh key gets nothing through and is told of, and so do we.
fn another_mesh_key_is_refused(listen: &str) {
    run(async {
        let (ours, theirs) = (node(1, 7, listen).await, node(2, 8, "").await);
        let address = ours.listen_addresses().remove(0);
        let error = theirs.connect(address, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error:?}");
        event(&ours, |event| matches!(event, TransportEvent::Refused(_))).await;
        theirs.set_peers(vec![route(&ours)]);
        let error = theirs.call(ours.local_node(), Message::default(), LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(ours.connected().is_empty() && theirs.connected().is_empty());
        let friend = node(3, 7, "").await;
        let address = ours.listen_addresses().remove(0);
        assert_eq!(friend.connect(address, LIMIT).await.unwrap(), ours.local_node());
        echo(&friend, &ours).await;
        echo(&ours, &friend).await;
    });
}

#[test]
fn another_mesh_key_is_refused_over_tcp() {
    another_mesh_key_is_refused(TCP);
}

#[cfg(feature = "quic")]
#[test]
fn another_mesh_key_is_refused_over_quic() {
    another_mesh_key_is_refused(QUIC);
}

#[test]
fn strangers_on_the_socket_cost_nothing() {
    run(async {
        let limits = {
            let mut limits = Limits::default();
            limits.handshake = Duration::from_millis(300);
            limits
        };
        let ours = Libp2pTransport::open(config(1, 7, TCP).limits(limits)).await.unwrap();
        let friend = node(2, 7, "").await;
        let address = ours.listen_addresses().remove(0);
        let port = address.as_str().rsplit('/').next().unwrap().parse().unwrap();
        let sockets: Vec<_> = [
            vec![],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 1000],
            // The largest length prefix of the protocol negotiation, and then one of a frame.
            vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff\xff\xff".to_vec(),
            u32::MAX.to_le_bytes().to_vec(),
        ]
        .into_iter()
        .map(|bytes| {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            socket.write_all(&bytes).unwrap();
            socket
        })
        .collect();
        assert_eq!(friend.connect(address, LIMIT).await.unwrap(), ours.local_node());
        echo(&friend, &ours).await;
        for mut socket in sockets {
            // Each is closed within the handshake's time, whatever it was told before.
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let mut told = Vec::new();
            if let Err(error) = socket.read_to_end(&mut told) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            assert!(told.len() < 1000);
        }
        for _ in 0..6 {
            event(&ours, |event| matches!(event, TransportEvent::Refused(_))).await;
        }
        echo(&ours, &friend).await;
    });
}

/// A peer that is dropped is gone, and back once it listens on the same port again.
fn a_peer_vanishes_and_returns(listen: &str) {
    run(async {
        let (ours, theirs) = (node(1, 7, listen).await, node(2, 7, listen).await);
        let (there, id) = (theirs.listen_addresses(), theirs.local_node());
        ours.set_peers(vec![route(&theirs)]);
        echo(&ours, &theirs).await;
        let closing = async {
            let held = theirs.accept().await.unwrap();
            theirs.close().await;
            held
        };
        let (lost, _held) = futures::join!(ours.call(id, Message::default(), LIMIT), closing);
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        event(&ours, |event| *event == TransportEvent::Disconnected(id)).await;
        let refused = ours.call(id, Message::default(), LIMIT).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
        let again = node(2, 7, there[0].as_str()).await;
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
        echo(&ours, &again).await;
        drop(again);
        event(&ours, |event| *event == TransportEvent::Disconnected(id)).await;
    });
}

#[test]
fn a_peer_vanishes_and_returns_over_tcp() {
    a_peer_vanishes_and_returns(TCP);
}

#[cfg(feature = "quic")]
#[test]
fn a_peer_vanishes_and_returns_over_quic() {
    a_peer_vanishes_and_returns(QUIC);
}

#[test]
fn a_call_dials_a_known_peer_at_once() {
    run(async {
        let (ours, theirs) = (node(1, 7, "").await, node(2, 7, TCP).await);
        assert!(ours.listen_addresses().is_empty());
        let unknown = ours.call(theirs.local_node(), Message::default(), LIMIT).await.unwrap_err();
        assert!(unknown.to_string().contains("no address"), "{unknown}");
        ours.set_peers(vec![route(&theirs)]);
        echo(&ours, &theirs).await;
    });
}

#[test]
fn addresses_lead_to_the_node_they_name() {
    run(async {
        let (ours, theirs) = (node(1, 7, TCP).await, node(2, 7, TCP).await);
        let there = theirs.listen_addresses().remove(0);
        let connect = |text: String| ours.connect(text.parse().unwrap(), LIMIT);
        let own = "/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
        let wrong = connect(format!("{there}{own}")).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unavailable, "{wrong:?}");
        let nobody = connect("/ip4/127.0.0.1/tcp/1".into()).await.unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::Unavailable, "{nobody:?}");
        assert_eq!(connect(there.to_string()).await.unwrap(), theirs.local_node());
        // A second time: the connection that is there stays.
        assert_eq!(connect(there.to_string()).await.unwrap(), theirs.local_node());
        echo(&ours, &theirs).await;
        let here = ours.listen_addresses().remove(0);
        let itself = ours.connect(here, LIMIT).await.unwrap_err();
        assert_eq!(itself.kind(), ErrorKind::InvalidInput, "{itself:?}");
    });
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    run(async {
        let first = node(1, 7, TCP).await;
        let taken: Address = first.listen_addresses().remove(0);
        let second = Libp2pTransport::open(config(2, 7, taken.as_str())).await;
        assert!(matches!(second.unwrap_err().kind(), ErrorKind::Io | ErrorKind::AlreadyExists));
        first.close().await;
        // Closed means that the port is free.
        let third = node(2, 7, taken.as_str()).await;
        assert_eq!(third.listen_addresses(), [taken]);
    });
}

#[test]
fn calls_beyond_the_limits_wait_inside_their_deadline() {
    run(async {
        let limits = {
            let mut limits = Limits::default();
            (limits.calls_per_peer, limits.streams_per_peer, limits.pooled_streams) = (2, 1, 1);
            limits
        };
        let ours = Libp2pTransport::open(config(1, 7, "").limits(limits)).await.unwrap();
        let theirs = node(2, 7, TCP).await;
        ours.set_peers(vec![route(&theirs)]);
        let call = |limit| ours.call(theirs.local_node(), Message::default(), limit);
        let overtaken = async {
            let held = theirs.accept().await.unwrap();
            for limit in [100, 100] {
                // One stream: the second call waits for it. Two calls: the third waits to be let in.
                let late = call(Duration::from_millis(limit)).await.unwrap_err();
                assert_eq!(late.kind(), ErrorKind::TimedOut, "{late:?}");
                assert!(late.to_string().contains("did not get out"), "{late}");
            }
            held.reply.send(held.message);
            answer_one(&theirs).await;
        };
        let second = async { call(LIMIT).await.unwrap() };
        let (first, _, ()) = futures::join!(call(LIMIT), second, overtaken);
        first.unwrap();
        echo(&ours, &theirs).await;
    });
}

#[test]
fn secrets_are_not_printed() {
    let text = format!("{:?}", config(0xab, 0xcd, TCP));
    assert!(!text.contains("171") && !text.contains("205"), "{text}");
    assert_ne!(NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
}
