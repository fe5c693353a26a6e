//! Nodes that are a hundred times slower than the others hold up neither reads nor writes.

use std::time::Duration;

use datamesh_core::sim::{Link, SimMesh};
use datamesh_core::{Capability, Result};

use crate::parts::builder;
use crate::stories::put_some;
use crate::story::{must, tell};

/// Requests that each percentile is taken of.
const REQUESTS: usize = 300;

/// A link a hundred times slower than the others.
fn slow() -> Link {
    let usual = Link::default();
    usual
        .with_latency(usual.latency * 100)
        .with_jitter(usual.jitter * 100)
        .with_bytes_per_second(usual.bytes_per_second / 100)
}

fn slow_down(sim: &SimMesh, nodes: &[usize]) {
    let all: Vec<usize> = (0..sim.len()).collect();
    sim.set_link(nodes, &all, Some(slow()));
    sim.set_link(&all, nodes, Some(slow()));
}

/// The median and the 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn gets(sim: &SimMesh, readers: &[usize], all: &[Capability]) -> Result<(Duration, Duration)> {
    let mut times = Vec::new();
    for number in 0..REQUESTS {
        let reader = sim.mesh(readers[number % readers.len()])?;
        let began = sim.now();
        reader.get(&all[number * 7 % all.len()]).await?;
        times.push(sim.now() - began);
    }
    Ok(percentiles(times))
}

async fn puts(sim: &SimMesh, writers: &[usize]) -> Result<(Duration, Duration)> {
    let mut times = Vec::new();
    for number in 0..REQUESTS {
        let writer = sim.mesh(writers[number % writers.len()])?;
        let content = vec![number as u8; 60_000 + number];
        let began = sim.now();
        let receipt = writer.put(content).await?;
        times.push(sim.now() - began);
        must(receipt.margin == 2, format!("a margin of {}", receipt.margin))?;
    }
    Ok(percentiles(times))
}

/// In the first minutes nodes learn how fast the others are.
const WARM_UP: Duration = Duration::from_secs(180);

#[test]
fn two_slow_nodes_of_ten_hold_up_no_read() {
    for seed in 0..2 {
        let told = tell(builder(seed).nodes(10), |sim| async move {
            let all = put_some(&sim, 40).await?;
            let readers = [0, 1, 2, 3, 4, 5, 6, 7];
            gets(&sim, &readers, &all).await?;
            let usual = gets(&sim, &readers, &all).await?;
            slow_down(&sim, &[8, 9]);
            sim.sleep(WARM_UP).await;
            let seen = gets(&sim, &readers, &all).await?;
            println!(
                "seed {seed}: get p50 {:?} p99 {:?}, with two slow nodes {:?} and {:?}",
                usual.0, usual.1, seen.0, seen.1
            );
            // A reader of an extent whose shards are with its nodes in another order asks these once more.
            must(
                seen.1 <= usual.0.max(usual.1) * 3 / 2,
                format!("p99 of get is {:?} where p50 was {:?} and p99 {:?}", seen.1, usual.0, usual.1),
            )?;
            Ok(())
        });
        assert_eq!(told, None, "seed {seed}");
    }
}

fn no_write_is_held_up(seed: u64, slow_down: impl Fn(&SimMesh)) {
    let told = tell(builder(seed).nodes(10), |sim| async move {
        let writers = [0, 1, 2, 3, 4, 5, 6, 7];
        puts(&sim, &writers).await?;
        let usual = puts(&sim, &writers).await?;
        slow_down(&sim);
        // Each writer learns by itself how slow the node is.
        sim.sleep(WARM_UP).await;
        puts(&sim, &writers).await?;
        let seen = puts(&sim, &writers).await?;
        println!(
            "seed {seed}: put p50 {:?} p99 {:?}, with a slow node {:?} and {:?}",
            usual.0, usual.1, seen.0, seen.1
        );
        must(seen.1 <= usual.0 * 3 / 2, format!("p99 of put is {:?} where p50 was {:?}", seen.1, usual.0))
    });
    assert_eq!(told, None, "seed {seed}");
}

#[test]
fn a_slow_node_of_ten_holds_up_no_write() {
    (0..2).for_each(|seed| no_write_is_held_up(seed, |sim| slow_down(sim, &[9])));
}

#[test]
fn a_slow_disk_of_ten_holds_up_no_write() {
    (0..2).for_each(|seed| no_write_is_held_up(seed, |sim| sim.slow_disk(9, 100)));
}
