//! Nodes that talk libp2p on 127.0.0.1: the conformance suite, strangers, peers that vanish.
#![cfg(feature = "libp2p")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

#[cfg(feature = "quic")]
use std::collections::BTreeSet;
use std::io::Write;
#[cfg(feature = "quic")]
use std::net::UdpSocket;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

#[cfg(feature = "quic")]
use common::nodes::QUIC;
use common::nodes::libp2p::{config, node, port};
use common::nodes::{
    CLOSING, LIMIT, TCP, answer_one, echo, event, has_ip6, introduce, limits, route, told_until_closed,
    vanishes_and_returns,
};
use common::{TestRuntime, run};
use datamesh_core::ErrorKind;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Message, PeerRoute, Transport, TransportEvent};
use datamesh_core::testing::transport;
use datamesh_net::libp2p::Libp2pTransport;

/// So many nodes of one mesh that all know each other.
async fn mesh(count: usize, listen: &str) -> Vec<Libp2pTransport> {
    let mut nodes = Vec::new();
    for n in 0..count {
        nodes.push(node(n as u8 + 1, 7, listen).await);
    }
    introduce(nodes)
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

#[test]
fn who_is_revoked_gets_no_connection_over_tcp() {
    run(transport::check_refusal(TestRuntime::shared(), transport::PATIENCE, |count| mesh(count, TCP)));
}

#[cfg(feature = "quic")]
#[test]
fn who_is_revoked_gets_no_connection_over_quic() {
    run(transport::check_refusal(TestRuntime::shared(), transport::PATIENCE, |count| mesh(count, QUIC)));
}

async fn many_dials_at_once(listen: &str) {
    let limits = limits(|limits| limits.pending_connections = 2);
    let caller = Libp2pTransport::open(config(1, 7, "").limits(limits)).await.unwrap();
    let others = futures::future::join_all((2..14).map(|secret| node(secret, 7, listen))).await;
    transport::check_dials(TestRuntime::shared(), caller, others).await;
}

#[test]
fn calls_wait_for_a_place_among_the_dials_over_tcp() {
    run(many_dials_at_once(TCP));
}

#[cfg(feature = "quic")]
#[test]
fn calls_wait_for_a_place_among_the_dials_over_quic() {
    run(many_dials_at_once(QUIC));
}

/// Two that never finish their handshake have all the places: a call to a third peer waits, inside its own deadline.
#[test]
fn a_call_waits_for_a_place_no_longer_than_its_deadline() {
    run(async {
        let limits = limits(|limits| limits.pending_connections = 2);
        let ours = Libp2pTransport::open(config(1, 7, "").limits(limits)).await.unwrap();
        let theirs = node(2, 7, TCP).await;
        let silent = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let dial = |silent: &TcpListener| {
            let address = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
            ours.connect(address.parse().unwrap(), LIMIT)
        };
        let calls = async {
            let mut held = silent.each_ref().map(|silent| Some(silent.accept().unwrap()));
            ours.set_peers(vec![route(&theirs)]);
            let call = |limit| ours.call(theirs.local_node(), Message::default(), limit);
            let late = call(Duration::from_millis(200)).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::TimedOut, "{late:?}");
            assert!(late.to_string().contains("did not get out"), "{late}");
            let connected =
                ours.connect(theirs.listen_addresses().remove(0), Duration::from_millis(200)).await;
            assert_eq!(connected.unwrap_err().kind(), ErrorKind::TimedOut);
            let freed = async {
                held[0] = None;
                answer_one(&theirs).await;
            };
            let (answer, ()) = futures::join!(call(LIMIT), freed);
            answer.unwrap();
            held[1] = None;
        };
        let (first, second, ()) = futures::join!(dial(&silent[0]), dial(&silent[1]), calls);
        assert!(first.is_err() && second.is_err());
    });
}

/// A member is gone, and somebody else answers at its address: who asks often does not dial as often.
#[test]
fn a_peer_that_cannot_be_reached_is_not_dialled_for_each_call() {
    run(async {
        let (ours, gone) = (node(1, 7, TCP).await, node(2, 7, TCP).await);
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", other.local_addr().unwrap().port());
        ours.set_peers(vec![PeerRoute {
            node: gone.local_node(),
            addresses: vec![address.parse().unwrap()],
        }]);
        let mut dials = 0;
        for _ in 0..50 {
            let call = ours.call(gone.local_node(), Message::default(), LIMIT);
            let answers = async {
                // Hangs up on whoever comes.
                loop {
                    dials += usize::from(other.accept().is_ok());
                    tokio::task::yield_now().await;
                }
            };
            let (call, answers) = (std::pin::pin!(call), std::pin::pin!(answers));
            let futures::future::Either::Left((answer, _)) = futures::future::select(call, answers).await;
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert!((1..=8).contains(&dials), "{dials} dials for 50 calls");
    });
}

/// Another node listens where a peer was before, and answers sooner: the call that dials gets to the peer all the same.
async fn a_peer_is_reached_past_another_at_its_old_address(listen: &str) {
    let (ours, peer) = (node(1, 7, listen).await, node(2, 7, listen).await);
    let others = futures::future::join_all((3..7).map(|secret| node(secret, 7, listen))).await;
    let mut addresses: Vec<Address> = others.iter().flat_map(Transport::listen_addresses).collect();
    addresses.extend(peer.listen_addresses());
    ours.set_peers(vec![PeerRoute { node: peer.local_node(), addresses }]);
    echo(&ours, &peer).await;
}

#[test]
fn a_peer_is_reached_past_another_at_its_old_address_over_tcp() {
    run(a_peer_is_reached_past_another_at_its_old_address(TCP));
}

#[cfg(feature = "quic")]
#[test]
fn a_peer_is_reached_past_another_at_its_old_address_over_quic() {
    run(a_peer_is_reached_past_another_at_its_old_address(QUIC));
}

/// A node with another mesh key gets nothing through and is told of, and so do we.
fn another_mesh_key_is_refused(listen: &str) {
    run(async {
        let (ours, theirs) = (node(1, 7, listen).await, node(2, 8, "").await);
        let address = ours.listen_addresses().remove(0);
        let error = theirs.connect(address, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error:?}");
        assert!(error.to_string().contains("another mesh key"), "{error}");
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

/// Begins the handshake as a node does, and hangs up: it says nothing of its mesh key, so that is not told.
#[test]
fn who_hangs_up_in_the_handshake_is_unavailable() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
        let proxy = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"\x13/multistream/1.0.0\n\x0f/noise/private\n").unwrap();
            // What names the protocols, and the first message of the handshake.
            std::io::Read::read_exact(&mut socket, &mut [0; 20 + 16 + 2 + 32]).unwrap();
        });
        let ours = node(1, 7, "").await;
        let error = ours.connect(address.parse().unwrap(), LIMIT).await.unwrap_err();
        proxy.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("hung up in the handshake"), "{error}");
    });
}

/// A node that has no place for another connection is none of another mesh.
fn a_full_peer_is_unavailable(listen: &str) {
    run(async {
        let limits = limits(|limits| limits.inbound_connections = 1);
        let ours = Libp2pTransport::open(config(1, 7, listen).limits(limits)).await.unwrap();
        let address = ours.listen_addresses().remove(0);
        let (first, second) = (node(2, 7, "").await, node(3, 7, "").await);
        first.connect(address.clone(), LIMIT).await.unwrap();
        for _ in 0..8 {
            let error = second.connect(address.clone(), LIMIT).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
    });
}

#[test]
fn a_full_peer_is_unavailable_over_tcp() {
    a_full_peer_is_unavailable(TCP);
}

#[cfg(feature = "quic")]
#[test]
fn a_full_peer_is_unavailable_over_quic() {
    a_full_peer_is_unavailable(QUIC);
}

/// One fixed port for both families, as firewalls want it.
#[test]
fn a_node_listens_on_ipv4_and_ipv6_at_one_port_in_either_order() {
    if !has_ip6() {
        return;
    }
    run(async {
        for is_ip4_first in [true, false] {
            let free = TcpListener::bind("0.0.0.0:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let mut addresses = [format!("/ip4/0.0.0.0/tcp/{port}"), format!("/ip6/::/tcp/{port}")];
            if !is_ip4_first {
                addresses.reverse();
            }
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let ours = Libp2pTransport::open(config(1, 7, "").listen(addresses)).await.unwrap();
            for host in ["ip4/127.0.0.1", "ip6/::1"] {
                let friend = node(2, 7, "").await;
                let address = format!("/{host}/tcp/{port}").parse().unwrap();
                assert_eq!(friend.connect(address, LIMIT).await.unwrap(), ours.local_node(), "{host}");
                friend.close().await;
            }
            let other = format!("/ip6/::/tcp/{port}").parse().unwrap();
            let refused = Libp2pTransport::open(config(3, 7, "").listen(vec![other])).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Io, "a second node takes the port");
            ours.close().await;
        }
    });
}

#[test]
fn strangers_on_the_socket_cost_nothing() {
    run(async {
        let handshake = Duration::from_millis(300);
        let limits = limits(|limits| limits.handshake = handshake);
        let ours = Libp2pTransport::open(config(1, 7, TCP).limits(limits)).await.unwrap();
        let friend = node(2, 7, "").await;
        let address = ours.listen_addresses().remove(0);
        let port = port(&ours);
        // What each says, and whether that may become a handshake yet.
        let said = [
            (vec![], true),
            (b"\x13/multistream/1.0.0\n".to_vec(), true),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
            (vec![0xff; 1000], false),
            // The largest length prefix of the protocol negotiation, and then one of a frame.
            (vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], false),
            (b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff\xff\xff".to_vec(), false),
            (u32::MAX.to_le_bytes().to_vec(), false),
        ];
        let strangers = said.map(|(bytes, waits)| {
            let began = Instant::now();
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            socket.write_all(&bytes).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            std::thread::spawn(move || (told_until_closed(socket), waits, began.elapsed()))
        });
        assert_eq!(friend.connect(address, LIMIT).await.unwrap(), ours.local_node());
        echo(&friend, &ours).await;
        for stranger in strangers {
            let (told, waits, lasted) = stranger.join().unwrap();
            assert!(told < 1000);
            assert!(!waits || lasted >= handshake, "it had {lasted:?}");
            assert!(lasted < handshake + CLOSING, "it had {lasted:?}");
        }
        for _ in 0..7 {
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
        drop(vanishes_and_returns(&ours, theirs, async || node(2, 7, there[0].as_str()).await).await);
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

/// Whether or not it listens: each socket more is a task and a buffer of 3 MB.
#[cfg(feature = "quic")]
#[test]
fn quic_takes_one_socket_for_all_peers() {
    run(async {
        for listen in ["", QUIC] {
            let ours = node(1, 7, listen).await;
            let mut ports = BTreeSet::new();
            if !listen.is_empty() {
                ports.insert(port(&ours));
            }
            for _ in 0..3 {
                let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
                peer.set_read_timeout(Some(LIMIT)).unwrap();
                let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", peer.local_addr().unwrap().port());
                let mut dial = Box::pin(ours.connect(address.parse().unwrap(), LIMIT));
                assert!(futures::poll!(&mut dial).is_pending());
                ports.insert(peer.recv_from(&mut [0; 2048]).unwrap().1.port());
            }
            assert_eq!(ports.len(), 1, "{ports:?}");
        }
    });
}

/// After a sleep connections that look fresh are dead; known peers are dialled again without being asked.
#[test]
fn after_a_sleep_known_peers_are_dialled_anew() {
    run(async {
        let (ours, theirs) = (node(1, 7, TCP).await, node(2, 7, TCP).await);
        let id = theirs.local_node();
        ours.set_peers(vec![route(&theirs)]);
        echo(&ours, &theirs).await;
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
        ours.machine_woke();
        event(&ours, |event| *event == TransportEvent::Disconnected(id)).await;
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
        echo(&ours, &theirs).await;
        echo(&theirs, &ours).await;
    });
}

/// A call waits for its reply when its own node closes the connection: none will come any more.
fn a_call_ends_with_its_connection(listen: &str) {
    run(async {
        let (ours, theirs) = (node(1, 7, listen).await, node(2, 7, listen).await);
        let id = theirs.local_node();
        ours.set_peers(vec![route(&theirs)]);
        echo(&ours, &theirs).await;
        let began = Instant::now();
        let closing = async {
            let held = theirs.accept().await.unwrap();
            ours.machine_woke();
            held
        };
        let (lost, _held) = futures::join!(ours.call(id, Message::default(), LIMIT), closing);
        let lost = lost.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::OutcomeUnknown, "{lost:?}");
        assert!(began.elapsed() < LIMIT / 2);
        event(&ours, |event| *event == TransportEvent::Disconnected(id)).await;
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
        echo(&ours, &theirs).await;
    });
}

#[test]
fn a_call_ends_with_its_connection_over_tcp() {
    a_call_ends_with_its_connection(TCP);
}

#[cfg(feature = "quic")]
#[test]
fn a_call_ends_with_its_connection_over_quic() {
    a_call_ends_with_its_connection(QUIC);
}

/// The old address takes the dial and says nothing, then hangs up; the new one was told meanwhile.
#[test]
fn an_address_told_during_a_dial_is_dialled_as_soon_as_that_fails() {
    run(async {
        let (ours, theirs, third) = (node(1, 7, "").await, node(2, 7, TCP).await, node(3, 7, TCP).await);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let old = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port()).parse().unwrap();
        ours.set_peers(vec![PeerRoute { node: theirs.local_node(), addresses: vec![old] }]);
        let told = async {
            let held = silent.accept().unwrap();
            ours.set_peers(vec![route(&theirs)]);
            // What was asked of the transport before is done then: the call has joined the dial, the routes are taken.
            ours.connect(third.listen_addresses().remove(0), LIMIT).await.unwrap();
            drop(held);
            answer_one(&theirs).await;
        };
        let (answer, ()) = futures::join!(ours.call(theirs.local_node(), Message::default(), LIMIT), told);
        answer.unwrap();
    });
}

/// A member that is away for long, and returns at another address that others have learned meanwhile.
#[test]
fn a_member_is_found_at_its_new_address() {
    run(async {
        let (ours, theirs) = (node(1, 7, TCP).await, node(2, 7, TCP).await);
        let (id, old) = (theirs.local_node(), route(&theirs));
        ours.set_peers(vec![old.clone()]);
        echo(&ours, &theirs).await;
        theirs.close().await;
        event(&ours, |event| *event == TransportEvent::Disconnected(id)).await;
        // It goes on dialling the old address, which nobody answers.
        assert!(ours.call(id, Message::default(), LIMIT).await.is_err());
        let moved = node(2, 7, TCP).await;
        assert_ne!(moved.listen_addresses(), old.addresses);
        ours.set_peers(vec![route(&moved)]);
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
        echo(&ours, &moved).await;
    });
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

/// Two calls wait for their replies, as many as the smaller limit lets out: the third waits itself.
async fn the_third_call_waits(calls: usize, streams: usize) {
    let limits = limits(|limits| {
        (limits.calls_per_peer, limits.streams_per_peer, limits.pooled_streams) = (calls, streams, streams);
    });
    let ours = Libp2pTransport::open(config(1, 7, "").limits(limits)).await.unwrap();
    let theirs = node(2, 7, TCP).await;
    ours.set_peers(vec![route(&theirs)]);
    let call = |limit| ours.call(theirs.local_node(), Message::default(), limit);
    let overtaken = async {
        let held = [theirs.accept().await.unwrap(), theirs.accept().await.unwrap()];
        let third = call(Duration::from_millis(200));
        let (third, more) = (std::pin::pin!(third), std::pin::pin!(theirs.accept()));
        let futures::future::Either::Left((late, _)) = futures::future::select(third, more).await else {
            panic!("the third got out with {calls} calls and {streams} streams");
        };
        let late = late.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut, "{late:?}");
        assert!(late.to_string().contains("did not get out"), "{late}");
        held.into_iter().for_each(|inbound| inbound.reply.send(inbound.message));
    };
    let (first, second, ()) = futures::join!(call(LIMIT), call(LIMIT), overtaken);
    first.and(second).unwrap();
    echo(&ours, &theirs).await;
}

#[test]
fn calls_beyond_the_limits_wait_inside_their_deadline() {
    run(async {
        the_third_call_waits(2, 3).await;
        the_third_call_waits(3, 2).await;
    });
}

#[test]
fn secrets_are_not_printed() {
    let text = format!("{:?}", config(0xab, 0xcd, TCP));
    assert!(!text.contains("171") && !text.contains("205"), "{text}");
    assert_ne!(NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
}
