//! The limits of connections, handshakes and streams: each is met exactly, stayed below by one, and exceeded by one.
//!
//! Those of messages, of bytes and of times are tested with the code that serves them (`src/wire/bounds.rs`).
#![cfg(all(feature = "local", feature = "libp2p", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::nodes::{LIMIT, Limits, TCP, event, libp2p, limits, local, route};
use common::{TestRuntime, run};
use datamesh_core::ports::{Message, Transport, TransportEvent};
use datamesh_net::libp2p::Libp2pTransport;
use datamesh_net::local::LocalTransport;
use futures::StreamExt;
use futures::channel::oneshot;
use futures::stream::FuturesUnordered;

/// What each limit is in these tests.
const MOST: usize = 3;

/// Time enough for what must not happen.
const SHORT: Duration = Duration::from_millis(100);

async fn over_tcp(secret: u8, change: impl FnOnce(&mut Limits)) -> Libp2pTransport {
    let config = libp2p::config(secret, 7, TCP).limits(limits(change));
    Libp2pTransport::open(config).await.unwrap()
}

async fn on_this_machine(
    home: &tempfile::TempDir,
    secret: u8,
    change: impl FnOnce(&mut Limits),
) -> LocalTransport {
    let config = local::config(home.path(), secret, 7).limits(limits(change));
    LocalTransport::open(config).await.unwrap()
}

/// Whoever comes when all places are taken is sent away, and comes in when one is free.
async fn inbound_connections<T: Transport>(ours: T, friends: Vec<T>) {
    let address = ours.listen_addresses().remove(0);
    let last = &friends[MOST];
    for friend in &friends[..MOST] {
        assert_eq!(friend.connect(address.clone(), LIMIT).await.unwrap(), ours.local_node());
        let id = friend.local_node();
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
    }
    // It hears so at once, or when the connection that it has made is closed.
    if last.connect(address.clone(), LIMIT).await.is_ok() {
        event(last, |event| *event == TransportEvent::Disconnected(ours.local_node())).await;
    }
    assert!(!ours.is_connected(last.local_node()));
    assert_eq!(ours.connected().len(), MOST);
    friends[0].close().await;
    let (gone, come) = (friends[0].local_node(), last.local_node());
    event(&ours, |event| *event == TransportEvent::Disconnected(gone)).await;
    last.set_peers(vec![route(&ours)]);
    event(&ours, |event| *event == TransportEvent::Connected(come)).await;
}

#[test]
fn inbound_connections_over_tcp() {
    run(async {
        let ours = over_tcp(1, |limits| limits.inbound_connections = MOST as u32).await;
        let friends = futures::future::join_all((2..6).map(|secret| over_tcp(secret, |_| {})));
        inbound_connections(ours, friends.await).await;
    });
}

#[test]
fn inbound_connections_on_this_machine() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let ours = on_this_machine(&home, 1, |limits| limits.inbound_connections = MOST as u32).await;
        let friends = futures::future::join_all((2..6).map(|secret| on_this_machine(&home, secret, |_| {})));
        inbound_connections(ours, friends.await).await;
    });
}

/// Those that say nothing take a place each while their handshake lasts; a friend takes one for a moment. In the end all
/// places are taken.
async fn fill_handshakes<T: Transport, S: Read>(
    ours: &T,
    friends: &[T],
    half_open: impl Fn() -> S,
) -> Vec<S> {
    let address = ours.listen_addresses().remove(0);
    let come_in = async |friend: &T| {
        let mut tries = 0..5;
        // Who opens a transport looks whether anybody listens, which takes a place for a moment.
        while let Err(error) = friend.connect(address.clone(), LIMIT).await {
            tries.next().unwrap_or_else(|| panic!("one under the limit: {error}"));
        }
        // Its place is free when both ends have done with the handshake.
        let id = friend.local_node();
        event(ours, |event| *event == TransportEvent::Connected(id)).await;
    };
    come_in(&friends[0]).await;
    let mut held = Vec::new();
    for friend in &friends[1..3] {
        held.push(half_open());
        // The friend is one of those in their handshake: one under the limit, and the last that is let in.
        come_in(friend).await;
    }
    held.push(half_open());
    held
}

/// Three handshakes at the same time, of which each may take long.
fn three(limits: &mut Limits) {
    (limits.pending_connections, limits.handshake) = (MOST as u32, LIMIT);
}

#[test]
fn handshakes_over_tcp() {
    run(async {
        let ours = over_tcp(1, three).await;
        let friends = futures::future::join_all((2..6).map(|secret| over_tcp(secret, |_| {}))).await;
        let port = libp2p::port(&ours);
        let half_open = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut held = fill_handshakes(&ours, &friends, half_open).await;
        let late = &friends[3];
        let address = ours.listen_addresses().remove(0);
        assert!(late.connect(address, LIMIT).await.is_err(), "one over the limit");
        // Nobody was sent away for it, and whoever leaves makes room.
        held.remove(0);
        late.set_peers(vec![route(&ours)]);
        let come = late.local_node();
        event(&ours, |event| *event == TransportEvent::Connected(come)).await;
    });
}

/// On one machine nobody is sent away: who finds no place waits for one, and no link is taken for dead meanwhile.
#[test]
fn handshakes_on_this_machine() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let ours = on_this_machine(&home, 1, three).await;
        let socket = local::only_socket(home.path());
        let friends = futures::future::join_all((2..6).map(|secret| on_this_machine(&home, secret, |_| {})));
        let friends = friends.await;
        let half_open = || UnixStream::connect(&socket).unwrap();
        let mut held = fill_handshakes(&ours, &friends, half_open).await;
        let (friend, late) = (&friends[0], &friends[3]);
        // Of the friend's calls each opens a connection, which wait for their turn as the newcomer does.
        let calls = (0..2).map(|_| friend.call(ours.local_node(), Message::default(), LIMIT));
        let asks = async {
            let came = late.connect(ours.listen_addresses().remove(0), LIMIT);
            let all = futures::future::join(futures::future::join_all(calls), came);
            let mut all = std::pin::pin!(all);
            assert!(
                TestRuntime::shared().timeout(SHORT, &mut all).await.is_err(),
                "one over the limit is let in, or turned away"
            );
            held.remove(0);
            let (answers, came) = all.await;
            assert!(answers.into_iter().all(|answer| answer.is_ok()));
            came.unwrap();
        };
        let serves = async {
            for _ in 0..2 {
                let inbound = ours.accept().await.unwrap();
                inbound.reply.send(inbound.message);
            }
        };
        futures::join!(asks, serves);
        // Nobody took another for gone.
        let is_gone = |event: &TransportEvent| matches!(event, TransportEvent::Disconnected(_));
        for node in [&ours, friend, late] {
            let gone = TestRuntime::shared().timeout(SHORT, event(node, is_gone)).await;
            assert!(gone.is_err(), "{gone:?}");
        }
    });
}

/// A friend opens a stream for each of its calls; the one over the limit is reset, and the others go on.
async fn streams<T: Transport>(ours: &T, friend: T, count: usize) {
    friend.set_peers(vec![route(ours)]);
    let calls: FuturesUnordered<_> =
        (0..count).map(|_| friend.call(ours.local_node(), Message::default(), LIMIT)).collect();
    let (reset, told) = oneshot::channel();
    let asks = async {
        let mut calls = calls;
        if count > MOST {
            assert!(calls.next().await.unwrap().is_err(), "one over the limit");
        }
        reset.send(()).unwrap();
        calls.collect::<Vec<_>>().await
    };
    let serves = async {
        let mut held = Vec::new();
        for _ in 0..count.min(MOST) {
            held.push(ours.accept().await.unwrap());
        }
        told.await.unwrap();
        let more = TestRuntime::shared().timeout(SHORT, ours.accept()).await;
        assert!(!matches!(more, Ok(Some(_))), "more than the limit came through");
        held.into_iter().for_each(|inbound| inbound.reply.send(inbound.message));
    };
    let (answers, ()) = futures::join!(asks, serves);
    assert_eq!(answers.into_iter().filter(Result::is_ok).count(), count.min(MOST));
    friend.close().await;
}

fn opens(count: usize) -> impl FnOnce(&mut Limits) {
    move |limits| (limits.pooled_streams, limits.streams_per_peer) = (count, count)
}

#[test]
fn streams_over_tcp() {
    run(async {
        let ours = over_tcp(1, |limits| limits.streams_per_connection = MOST).await;
        for count in [MOST - 1, MOST, MOST + 1] {
            streams(&ours, over_tcp(2, opens(count)).await, count).await;
        }
    });
}

#[test]
fn streams_on_this_machine() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let ours = on_this_machine(&home, 1, |limits| limits.streams_per_connection = MOST).await;
        for count in [MOST - 1, MOST, MOST + 1] {
            streams(&ours, on_this_machine(&home, count as u8, opens(count)).await, count).await;
        }
    });
}
