//! Members learn of each other: how fast, and with how many messages.

use std::time::Duration;

use datamesh_core::sim::SimMesh;
use datamesh_core::{Event, Result};
use futures::{FutureExt, StreamExt};

use crate::parts::builder;
use crate::story::{must, tell};

/// A node compares notes with another each ten seconds.
const ROUND: Duration = Duration::from_secs(10);

/// The longest message with node records: 128 of them, of the size that they have here.
const LONGEST: usize = 64 << 10;

/// How many nodes know that a node is in this zone.
fn informed(sim: &SimMesh, of: usize, zone: &str) -> Result<usize> {
    let wanted = sim.node_id(of)?;
    let mut count = 0;
    for node in 0..sim.len() {
        let nodes = sim.mesh(node)?.nodes();
        count += usize::from(
            nodes.iter().any(|status| status.record.node == wanted && status.record.zone.as_str() == zone),
        );
    }
    Ok(count)
}

/// Whether a node takes another for connected.
fn is_connected(sim: &SimMesh, at: usize, other: usize) -> Result<bool> {
    let id = sim.node_id(other)?;
    let nodes = sim.mesh(at)?.nodes();
    Ok(nodes.iter().any(|status| status.record.node == id && status.connected))
}

/// Nobody hears of a node that goes, and nobody of its return: both are known after the next round all the same, and
/// told once.
#[test]
fn what_no_event_told_is_found_in_the_next_round() {
    let told = tell(builder(3).nodes(4).acquainted(true), |sim| async move {
        must(is_connected(&sim, 0, 3)?, "a node is not connected at first")?;
        let mut events = sim.mesh(0)?.events();
        sim.mute(0, true);
        sim.crash(3);
        sim.sleep(3 * ROUND).await;
        must(!is_connected(&sim, 0, 3)?, "a node that is gone counts as connected")?;
        sim.restart(3).await?;
        sim.sleep(3 * ROUND).await;
        must(is_connected(&sim, 0, 3)?, "a node that is back does not count as connected")?;
        // From now on it hears again, of what is no news.
        sim.mute(0, false);
        sim.sleep(3 * ROUND).await;
        let mut seen = Vec::new();
        while let Some(Some(event)) = events.next().now_or_never() {
            if matches!(event, Event::NodeUp(_) | Event::NodeDown(_)) {
                seen.push(event);
            }
        }
        let gone = sim.node_id(3)?;
        must(seen == [Event::NodeDown(gone), Event::NodeUp(gone)], format!("{seen:?}"))
    });
    assert_eq!(told, None);
}

/// One of so many nodes comes back with a new record: all know it within three rounds, and each has told it to a
/// bounded number of others.
fn a_change_reaches_all(nodes: usize) {
    let told = tell(builder(1).nodes(nodes).acquainted(true), |sim| async move {
        // What the beginning set off has ended.
        sim.sleep(6 * ROUND).await;
        sim.stop(7).await?;
        sim.rezone(7, "elsewhere");
        let (before, began) = (sim.gossip(), sim.now());
        sim.restart(7).await?;
        while informed(&sim, 7, "elsewhere")? < nodes {
            must(sim.now() - began < 3 * ROUND, "not all know of a change after three rounds")?;
            sim.sleep(Duration::from_millis(100)).await;
        }
        let (after, took) = (sim.gossip(), sim.now() - began);
        let messages = (after.messages - before.messages) / nodes as u64;
        let bytes = (after.bytes - before.bytes) / nodes as u64;
        println!(
            "{nodes} nodes know of a change after {took:?}: {messages} messages and {bytes} bytes for each node, the longest of {} bytes",
            after.longest
        );
        // A request and a reply for each that is told, the exchange with who came back, and the rounds meanwhile.
        must(messages <= 2 * 32 + 2 + 8, format!("{messages} messages for each node"))?;
        must(after.longest <= LONGEST, format!("a message of {} bytes", after.longest))
    });
    assert_eq!(told, None);
}

/// Of so many nodes each knows eight others at first: all know all within a few rounds.
fn a_few_acquaintances_are_enough(nodes: usize) {
    let sim = builder(2).nodes(nodes).acquaintances(8).open().unwrap_or_else(|failure| panic!("{failure}"));
    let (gossip, took) = (sim.gossip(), sim.now());
    println!(
        "{nodes} nodes that each knew eight are all connected after {took:?}: {} messages and {} bytes for each node, the longest of {} bytes",
        gossip.messages / nodes as u64,
        gossip.bytes / nodes as u64,
        gossip.longest
    );
    assert!(took <= 6 * ROUND, "{took:?}");
    assert!(gossip.longest <= LONGEST, "a message of {} bytes", gossip.longest);
    sim.end();
}

#[test]
fn gossip_of_a_change() {
    a_change_reaches_all(60);
}

#[test]
fn gossip_of_strangers() {
    a_few_acquaintances_are_enough(60);
}

#[test]
#[ignore = "takes minutes; run it in release"]
fn gossip_of_a_change_among_a_thousand() {
    a_change_reaches_all(1000);
}

#[test]
#[ignore = "takes minutes; run it in release"]
fn gossip_of_strangers_among_a_thousand() {
    a_few_acquaintances_are_enough(1000);
}
