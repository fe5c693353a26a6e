//! What rots on the disks is found, and comes back.

use std::time::Duration;

use datamesh_core::sim::SimMesh;
use datamesh_core::{CareOptions, Result};

use crate::parts::builder;

const HOUR: Duration = Duration::from_secs(3600);

fn open(seed: u64, care: CareOptions) -> SimMesh {
    builder(seed)
        .nodes(6)
        .segment_bytes(16 << 10)
        .care(care)
        .open()
        .unwrap_or_else(|failure| panic!("{failure}"))
}

fn run(seed: u64, sim: &SimMesh, work: impl Future<Output = Result<()>>) {
    let done = sim.run(work).unwrap_or_else(|failure| panic!("{failure}"));
    done.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
}

/// Shards rot on two nodes, and nobody reads them; one of the two is restarted every two hours.
async fn rot(sim: &SimMesh) -> Result<()> {
    let data: Vec<u8> = (0..600_000_u32).map(|i| (i / 7) as u8).collect();
    let capability = sim.mesh(0)?.put(data.clone()).await?.capability;
    for node in [1, 2] {
        sim.flip_bits(node, 9);
        assert!(sim.rotten_shards(node) > 0);
    }
    for _ in 0..8 {
        sim.sleep(2 * HOUR).await;
        sim.crash(1);
        sim.restart(1).await?;
    }
    for node in 0..6 {
        assert_eq!(sim.rotten_shards(node), 0, "node {node}");
    }
    let set_aside = sim.mesh(2)?.metrics();
    assert!(set_aside.shards_set_aside > 0 && set_aside.scrub_rounds > 0);
    let health = sim.mesh(3)?.health(&capability).await?;
    assert_eq!(
        (health.margin, health.extents.iter().map(|extent| extent.holders.len()).min()),
        (Some(2), Some(6))
    );
    assert_eq!(sim.mesh(3)?.get(&capability).await?, data);
    Ok(())
}

#[test]
fn what_rots_is_found_within_a_period() {
    for seed in 0..3 {
        let sim = open(seed, CareOptions::default().with_scrub_period(12 * HOUR));
        run(seed, &sim, rot(&sim));
    }
}
