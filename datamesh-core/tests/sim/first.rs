//! A mesh is opened, written to, crashed, restarted and read; twice the same.

use std::time::Duration;

use datamesh_core::sim::SimMesh;
use datamesh_core::{ErrorKind, Result};

use crate::parts::builder;

async fn crash_and_restart(sim: &SimMesh) -> Result<()> {
    let data: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let small = sim.mesh(0)?.put("small").await?.capability;
    let large = sim.mesh(1)?.put(data.clone()).await?;
    assert_eq!((large.margin, large.holders.len()), (2, 6));
    sim.crash(0);
    sim.crash(1);
    assert_eq!(sim.mesh(2)?.get(&large.capability).await?, data);
    assert_eq!(sim.mesh(0).map(drop).unwrap_err().kind(), ErrorKind::Closed);
    sim.restart(0).await?;
    sim.restart(1).await?;
    sim.partition(&[0], &[1, 2, 3, 4, 5]);
    let alone = sim.mesh(0)?.get(&large.capability).deadline(Duration::from_secs(120)).await;
    assert_eq!(alone.unwrap_err().kind(), ErrorKind::Unavailable);
    sim.heal();
    sim.mesh(0)?.wait_for_nodes(6, Duration::from_secs(60)).await?;
    assert_eq!(sim.mesh(0)?.get(&large.capability).await?, data);
    assert_eq!(sim.mesh(0)?.get(&small).await?, "small");
    Ok(())
}

fn run(seed: u64) -> String {
    let sim = builder(seed).nodes(6).open().unwrap_or_else(|failure| panic!("{failure}"));
    let done = sim.run(crash_and_restart(&sim)).unwrap_or_else(|failure| panic!("{failure}"));
    done.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
    sim.trace_hash()
}

#[test]
fn objects_survive_crashes_and_partitions() {
    (0..10).for_each(|seed| drop(run(seed)));
}

#[test]
fn a_seed_decides_everything() {
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
