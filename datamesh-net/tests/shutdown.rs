//! What is left of a transport that was closed: nothing. The only test in its process, which it counts the threads
//! and files of.
#![cfg(all(feature = "local", feature = "libp2p", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::nodes::place::Place;
use common::nodes::{LIMIT, echo, introduce, libp2p};
use common::run;
use datamesh_core::ports::{Message, Transport};

/// Rounds that are looked at; what one of them left behind would be there so many times.
const ROUNDS: usize = 3;

/// The threads and the open files of this process.
fn held() -> (usize, usize) {
    let count = |of| fs::read_dir(of).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// Nodes that talk by every way, and are closed with a call under way and a dial that nobody answers.
async fn round(place: &Place) {
    let nodes = place.nodes(3).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        echo(&nodes[from], &nodes[to]).await;
    }
    for secret in [10, 11] {
        // By the network alone, or it would go by the cheapest way.
        let listen =
            if cfg!(feature = "quic") && secret == 10 { common::nodes::QUIC } else { common::nodes::TCP };
        let pair = introduce(vec![
            libp2p::node(secret, 7, listen).await,
            libp2p::node(secret + 10, 7, listen).await,
        ]);
        echo(&pair[0], &pair[1]).await;
        let taken = libp2p::config(secret + 20, 7, pair[0].listen_addresses()[0].as_str());
        if secret == 11 {
            assert!(
                datamesh_net::libp2p::Libp2pTransport::open(taken).await.is_err(),
                "a port is taken once"
            );
        }
        let under_way = pair[0].call(pair[1].local_node(), Message::default(), LIMIT);
        let closing = async {
            let held = pair[1].accept().await.unwrap();
            futures::join!(pair[0].close(), pair[1].close());
            drop(held);
        };
        let (lost, ()) = futures::join!(under_way, closing);
        assert!(lost.is_err());
    }
    futures::future::join_all(nodes.iter().map(Transport::close)).await;
    assert_eq!(fs::read_dir(place.home.path().join("d")).unwrap().count(), 1, "the lock and no socket");
}

#[test]
fn a_closed_transport_leaves_no_thread_and_no_file() {
    run(async {
        let place = Place::new();
        // Timers and the like are there once for the process, and stay.
        round(&place).await;
        let before = held();
        for _ in 0..ROUNDS {
            round(&place).await;
            assert_eq!(held(), before);
        }
        // One that is only dropped ends soon.
        drop(place.nodes(2).await);
        place.until(|| held() == before).await;
    });
}
