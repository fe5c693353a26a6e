//! What rots on the disks is found, and comes back.

use std::time::Duration;

use datamesh_core::CareOptions;
use datamesh_core::sim::SimMesh;

use crate::parts::builder;
use crate::story::{must, tell};

const HOUR: Duration = Duration::from_secs(3600);

/// Shards rot on two nodes, and nobody reads them; one of the two is restarted again and again.
pub(crate) fn rotten_shards_come_back(seed: u64) -> Option<String> {
    come_back(seed, 2 * HOUR, 8, |sim, node| sim.flip_bits(node, 9))
}

/// The same for shards with a lost sector, for which the disk has an error and no bytes: they are given up after an hour
/// of trying, which a restart begins anew in the next round.
pub(crate) fn unreadable_shards_come_back(seed: u64) -> Option<String> {
    come_back(seed, 6 * HOUR, 10, |sim, node| sim.lose_sectors(node, 3))
}

fn come_back(seed: u64, up: Duration, times: usize, damage: fn(&SimMesh, usize)) -> Option<String> {
    let care = CareOptions::default().with_scrub_period(12 * HOUR);
    tell(builder(seed).nodes(6).segment_bytes(16 << 10).care(care), move |sim| async move {
        let data: Vec<u8> = (0..600_000_u32).map(|i| (i / 7) as u8).collect();
        let capability = sim.mesh(0)?.put(data.clone()).await?.capability;
        for node in [1, 2] {
            damage(&sim, node);
            must(sim.rotten_shards(node) > 0, "nothing rotted")?;
        }
        for _ in 0..times {
            sim.sleep(up).await;
            sim.crash(1);
            sim.restart(1).await?;
        }
        for node in 0..6 {
            must(sim.rotten_shards(node) == 0, format!("a scrub left rotten shards on node {node}"))?;
        }
        let metrics = sim.mesh(2)?.metrics();
        must(metrics.shards_set_aside > 0 && metrics.scrub_rounds > 0, "no round of the scrub")?;
        let health = sim.mesh(3)?.health(&capability).await?;
        let holders = health.extents.iter().map(|extent| extent.holders.len()).min();
        must((health.margin, holders) == (Some(2), Some(6)), "what was rotten did not come back")?;
        must(sim.mesh(3)?.get(&capability).await? == data, "other bytes came back")
    })
}
