//! Nodes behind NATs, and neighbours on one network, in network namespaces that the tests make and remove.
//!
//! They need root and, for the NATs, `nft`; where these are missing the tests say so and check nothing.
#![cfg(all(feature = "nat", feature = "kad", feature = "mdns", feature = "quic", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod lab;

use std::time::{Duration, Instant};

use bytes::Bytes;
use datamesh_core::ports::{Address, Message, Reach, Transport, TransportEvent};
use datamesh_net::libp2p::{Discovery, Libp2pConfig, Libp2pTransport};
use futures::executor::block_on;
use lab::{Lab, Process};

const LIMIT: Duration = Duration::from_secs(30);

/// A whole shard of the largest kind, which no public relay would carry.
const SHARD: usize = 4 << 20;

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A node in a namespace: runs when one of the tests below starts this test in a process of its own.
#[test]
fn process() {
    let Some(role) = setting("DATAMESH_LAB_ROLE") else { return };
    let secret = setting("DATAMESH_LAB_SECRET").unwrap().parse().unwrap();
    let mesh = setting("DATAMESH_LAB_MESH").map_or(7, |text| text.parse().unwrap());
    let ip = setting("DATAMESH_LAB_IP").unwrap();
    let discovery = match role.as_str() {
        "neighbour" => Discovery::new().local_network(),
        "relay" => Discovery::new().nat().bootstrap(),
        _ => Discovery::new().nat(),
    };
    let listen = vec![
        format!("/ip4/{ip}/tcp/4001").parse().unwrap(),
        format!("/ip4/{ip}/udp/4001/quic-v1").parse().unwrap(),
    ];
    let config = Libp2pConfig::new([secret; 32], [mesh; 32]).listen(listen).discovery(discovery);
    block_on(async {
        let node = Libp2pTransport::open(config).await.unwrap();
        println!("@open {}", node.local_node());
        match role.as_str() {
            "neighbour" => tell_events(&node).await,
            "relay" => serve(&node).await,
            "behind" => {
                join(&node).await;
                let relayed = until_relayed(&node).await;
                println!("@relayed {relayed}");
                serve(&node).await;
            }
            _ => {
                join(&node).await;
                meet(&node).await;
            }
        }
    });
}

async fn join(node: &Libp2pTransport) {
    let relay: Address = setting("DATAMESH_LAB_RELAY").unwrap().parse().unwrap();
    node.connect(relay, LIMIT).await.unwrap();
    println!("@joined");
}

async fn tell_events(node: &Libp2pTransport) {
    while let Some(event) = node.next_event().await {
        if let TransportEvent::Connected(other) = event {
            println!("@connected {other}");
        }
    }
}

async fn serve(node: &Libp2pTransport) {
    while let Some(inbound) = node.accept().await {
        inbound.reply.send(inbound.message);
    }
}

/// The address at a relay under which others reach this node.
async fn until_relayed(node: &Libp2pTransport) -> Address {
    loop {
        if let Some(TransportEvent::Listening(addresses)) = node.next_event().await
            && let Some(address) = addresses.iter().find(|address| address.as_str().contains("p2p-circuit"))
        {
            // Nothing of the network behind the NAT is told any more.
            assert!(!addresses.iter().any(|address| address.as_str().contains("/192.168.")), "{addresses:?}");
            return address.clone();
        }
    }
}

/// Reaches another node by its relay, sends it a shard, and waits for a direct connection.
async fn meet(node: &Libp2pTransport) {
    let other: Address = setting("DATAMESH_LAB_OTHER").unwrap().parse().unwrap();
    let name = node.connect(other, LIMIT).await.unwrap();
    println!("@met {:?}", node.reach(name));
    let began = Instant::now();
    loop {
        let reach = node.reach(name);
        let shard = Message { head: Bytes::new(), body: Bytes::from(vec![7; SHARD]) };
        let reply = node.call(name, shard.clone(), LIMIT).await.unwrap();
        assert!(reply == shard);
        println!("@sent {reach:?}");
        if matches!(reach, Some(Reach::Tcp | Reach::Quic)) {
            println!("@direct {:?}", began.elapsed());
            return;
        }
        futures_timer::Delay::new(Duration::from_millis(300)).await;
    }
}

fn node(lab: &Lab, place: &str, role: &str, secret: u8, ip: &str, more: &[(&str, &str)]) -> Process {
    let secret = secret.to_string();
    let mut settings =
        vec![("DATAMESH_LAB_ROLE", role), ("DATAMESH_LAB_SECRET", secret.as_str()), ("DATAMESH_LAB_IP", ip)];
    settings.extend(more);
    lab.start(place, "process", &settings)
}

#[test]
fn two_nodes_behind_nats_meet() {
    let Some(lab) = Lab::new(&["public", "gate1", "gate2", "home1", "home2"]) else { return };
    if !lab.has_nft() {
        return lab::say("skipped: there is no nft to make a NAT with");
    }
    lab.network("public", "203.0.113.10/24");
    for (gate, home, number) in [("gate1", "home1", 1), ("gate2", "home2", 2)] {
        lab.plug(gate, "public", &format!("203.0.113.{number}/24"));
        lab.join(gate, &format!("192.168.{number}.1/24"), home, &format!("192.168.{number}.2/24"));
        lab.nat(gate, home, &format!("192.168.{number}.1"));
    }
    let mut relay = node(&lab, "public", "relay", 1, "203.0.113.10", &[]);
    let name = relay.wait_for("@open ");
    println!("a relay is up: {name}");
    let at = ("DATAMESH_LAB_RELAY", "/ip4/203.0.113.10/tcp/4001");
    let mut behind = node(&lab, "home1", "behind", 2, "192.168.1.2", &[at]);
    let address = behind.wait_for("@relayed ");
    let address = format!("{address}{}", lab::peer_suffix(&behind.wait_said("@open ")));
    println!("behind a NAT, reached at {address}");
    let other = ("DATAMESH_LAB_OTHER", address.as_str());
    let mut meets = node(&lab, "home2", "meets", 3, "192.168.2.2", &[at, other]);
    assert_eq!(meets.wait_for("@met "), "Some(Relay)");
    let first = meets.wait_for("@sent ");
    println!("the first shard went {first}, a direct connection stood after {}", meets.wait_for("@direct "));
}

#[test]
fn neighbours_find_each_other() {
    let Some(lab) = Lab::new(&["left", "right"]) else { return };
    lab.join("left", "192.168.7.1/24", "right", "192.168.7.2/24");
    let mut left = node(&lab, "left", "neighbour", 1, "192.168.7.1", &[]);
    let name = left.wait_for("@open ");
    let mut stranger = node(&lab, "right", "neighbour", 3, "192.168.7.2", &[("DATAMESH_LAB_MESH", "8")]);
    let strange = stranger.wait_for("@open ");
    drop(stranger);
    let mut right = node(&lab, "right", "neighbour", 2, "192.168.7.2", &[]);
    let other = right.wait_for("@open ");
    assert_eq!(right.wait_for("@connected "), name);
    let met = left.wait_for("@connected ");
    assert!(met == other && met != strange);
}
