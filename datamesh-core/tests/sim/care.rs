//! Nodes are lost, come back and join, and what they held is brought to where it belongs.

use std::time::Duration;

use datamesh_core::sim::SimMesh;
use datamesh_core::{Capability, Error, Health, NodeState, Result};

use crate::parts::builder;

const MINUTE: Duration = Duration::from_secs(60);

/// Runs a story on a mesh of so many nodes.
fn tell<F: Future<Output = Result<()>>>(seed: u64, nodes: usize, story: impl FnOnce(SimMesh) -> F) {
    let sim = builder(seed).nodes(nodes).segment_bytes(16 << 10).open();
    let sim = sim.unwrap_or_else(|failure| panic!("{failure}"));
    let told = sim.run(story(sim.clone())).unwrap_or_else(|failure| panic!("{failure}"));
    told.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
}

fn content(number: usize) -> Vec<u8> {
    (0..70_000 + 1_000 * number as u32).map(|byte| (byte as usize * (number + 1)) as u8).collect()
}

/// Puts objects from all nodes in turn.
async fn put_some(sim: &SimMesh, count: usize) -> Result<Vec<Capability>> {
    let mut capabilities = Vec::new();
    for number in 0..count {
        let receipt = sim.mesh(number % sim.len())?.put(content(number)).await?;
        capabilities.push(receipt.capability);
    }
    Ok(capabilities)
}

async fn healths(sim: &SimMesh, asker: usize, all: &[Capability]) -> Result<Vec<Health>> {
    let mut healths = Vec::new();
    for capability in all {
        healths.push(sim.mesh(asker)?.health(capability).await?);
    }
    Ok(healths)
}

/// Waits until every object has this margin, and says how long that took.
async fn until_margin(
    sim: &SimMesh,
    asker: usize,
    all: &[Capability],
    margin: usize,
    limit: Duration,
) -> Result<Duration> {
    let began = sim.now();
    loop {
        let healths = healths(sim, asker, all).await?;
        if healths.iter().all(|health| health.margin >= Some(margin)) {
            return Ok(sim.now() - began);
        }
        if sim.now() - began > limit {
            let short = healths.iter().filter(|health| health.margin < Some(margin)).count();
            let seen: Vec<_> = healths.iter().map(|health| health.margin).collect();
            return Err(Error::new(
                datamesh_core::ErrorKind::TimedOut,
                format!("{short} of {} objects are short: {seen:?}", all.len()),
            ));
        }
        sim.sleep(Duration::from_secs(5)).await;
    }
}

async fn check_contents(sim: &SimMesh, reader: usize, all: &[Capability]) -> Result<()> {
    for (number, capability) in all.iter().enumerate() {
        assert_eq!(sim.mesh(reader)?.get(capability).await?, content(number));
    }
    Ok(())
}

/// The sum of a metric over all nodes that are up.
fn sum(sim: &SimMesh, of: impl Fn(&datamesh_core::Metrics) -> u64) -> u64 {
    (0..sim.len()).filter_map(|node| sim.mesh(node).ok()).map(|mesh| of(&mesh.metrics())).sum()
}

#[test]
fn what_a_lost_node_held_is_rebuilt_on_others() {
    for seed in 0..3 {
        tell(seed, 9, |sim| async move {
            let all = put_some(&sim, 20).await?;
            sim.crash(4);
            sim.sleep(8 * MINUTE).await;
            assert_eq!(sum(&sim, |metrics| metrics.shards_rebuilt), 0, "it may be restarting");
            let took = until_margin(&sim, 0, &all, 2, 8 * MINUTE).await?;
            println!("seed {seed}: full margin {} s after eight minutes", took.as_secs());
            let gone = sim.node_id(4)?;
            let state =
                sim.mesh(0)?.nodes().into_iter().find(|status| status.record.node == gone).unwrap().state;
            assert_eq!(state, NodeState::Gone);
            // Two more may be lost now.
            sim.crash(5);
            sim.crash(6);
            check_contents(&sim, 0, &all).await
        });
    }
}
