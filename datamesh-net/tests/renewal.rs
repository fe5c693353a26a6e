//! The key of the mesh changes while nodes talk: nothing breaks for those who learn the new one, and the old one ends.
#![cfg(all(feature = "libp2p", feature = "local", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::time::{Duration, SystemTime};

use common::keys::{Keys, Suite};
use common::nodes::{LIMIT, QUIC, TCP, echo, event, route};
use common::run;
use datamesh_core::format::MeshKey;
use datamesh_core::ports::{Timestamp, Transport, TransportEvent};
use datamesh_core::{ErrorKind, KeyRing};
use datamesh_net::libp2p::{Libp2pConfig, Libp2pTransport};
use datamesh_net::local::{LocalConfig, LocalTransport};
use futures::FutureExt;

/// Long enough for a node that was just told to prove the new key before the old one ends, also on a busy machine.
const OVERLAP: u64 = 3000;

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

fn ring() -> KeyRing {
    KeyRing::of(MeshKey::from_bytes([7; 32]))
}

async fn over_network(secret: u8, keys: KeyRing, listen: &str) -> Libp2pTransport {
    let config = Libp2pConfig::with_keys([secret; 32], keys).listen(vec![listen.parse().unwrap()]);
    Libp2pTransport::open(config).await.unwrap()
}

async fn on_machine(home: &Path, secret: u8, keys: KeyRing) -> LocalTransport {
    let config = LocalConfig::with_keys(Keys::shared(secret), Suite::shared(), keys);
    LocalTransport::open(config.directory(home.join("d"))).await.unwrap()
}

/// Two nodes that learn of the change, the first one before the other, and one that does not.
async fn the_key_changes<T: Transport>(nodes: [T; 3], rings: [KeyRing; 3]) {
    let [first, second, third] = &nodes;
    first.set_peers(vec![route(second)]);
    third.set_peers(vec![route(first)]);
    // Each end in its own time.
    event(second, |event| *event == TransportEvent::Connected(first.local_node())).await;
    event(third, |event| *event == TransportEvent::Connected(first.local_node())).await;
    echo(second, first).await;
    echo(third, first).await;

    let until = Timestamp(now() + OVERLAP);
    let keys = rings[0].keys().next(MeshKey::from_bytes([8; 32]), until, Timestamp(0)).unwrap();
    assert!(rings[0].replace(keys.clone()));
    echo(first, second).await;
    assert!(rings[1].replace(keys));
    while now() <= until.0 {
        echo(first, second).await;
        echo(second, first).await;
    }
    // The third one has not learned the new key: its connection ends with the old one, and it gets none again.
    let mut seen = Vec::new();
    while seen.last() != Some(&TransportEvent::Disconnected(third.local_node())) {
        seen.push(first.next_event().await.unwrap());
    }
    event(third, |event| *event == TransportEvent::Disconnected(first.local_node())).await;
    let refused = third.connect(first.listen_addresses().remove(0), LIMIT).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessDenied, "{refused}");
    assert!(refused.to_string().contains("new ticket"), "{refused}");
    assert!(!first.connected().contains(&third.local_node()));
    // Between the two the connection went on, and nobody was told that it ended.
    echo(first, second).await;
    echo(second, first).await;
    while let Some(Some(event)) = second.next_event().now_or_never() {
        seen.push(event);
    }
    let lost = seen.iter().filter(|event| matches!(event, TransportEvent::Disconnected(_)));
    assert_eq!(lost.collect::<Vec<_>>(), [&TransportEvent::Disconnected(third.local_node())]);
    for node in &nodes {
        node.close().await;
    }
}

fn the_key_changes_over_the_network(listen: &str) {
    run(async {
        let rings = [ring(), ring(), ring()];
        let mut nodes = Vec::new();
        for (secret, ring) in (1..).zip(&rings) {
            nodes.push(over_network(secret, ring.clone(), listen).await);
        }
        the_key_changes(nodes.try_into().ok().unwrap(), rings).await;
    });
}

#[test]
fn the_key_changes_over_tcp() {
    the_key_changes_over_the_network(TCP);
}

#[cfg(feature = "quic")]
#[test]
fn the_key_changes_over_quic() {
    the_key_changes_over_the_network(QUIC);
}

#[test]
fn the_key_changes_on_this_machine() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let rings = [ring(), ring(), ring()];
        let mut nodes = Vec::new();
        for (secret, ring) in (1..).zip(&rings) {
            nodes.push(on_machine(home.path(), secret, ring.clone()).await);
        }
        the_key_changes(nodes.try_into().ok().unwrap(), rings).await;
    });
}

/// A node that has only the old key comes while both are accepted, and is served.
#[test]
fn the_old_key_opens_until_it_ends() {
    run(async {
        let until = |until| ring().keys().next(MeshKey::from_bytes([8; 32]), Timestamp(until), Timestamp(0));
        let [keys, ended] = [u64::MAX, now() - 1].map(|moment| until(moment).unwrap());
        let newest = keys.clone().without_earlier();
        let during = over_network(1, KeyRing::new(keys), TCP).await;
        let after = over_network(2, KeyRing::new(ended), TCP).await;
        let [old, new] =
            [over_network(3, ring(), TCP).await, over_network(4, KeyRing::new(newest), TCP).await];
        let to = |node: &Libp2pTransport| node.listen_addresses().remove(0);
        for node in [&old, &new, &after] {
            node.connect(to(&during), LIMIT).await.unwrap();
            echo(node, &during).await;
        }
        new.connect(to(&after), LIMIT).await.unwrap();
        let refused = old.connect(to(&after), Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AccessDenied, "{refused}");
    });
}
