//! Who is gone for good is forgotten when somebody says so, and nobody else.

use std::time::Duration;

use datamesh_core::sim::SimMesh;
use datamesh_core::{Capability, ErrorKind, Result};

use crate::parts::builder;
use crate::story::{must, tell};

const MINUTE: Duration = Duration::from_secs(60);

/// A capability of an object that is nowhere in the mesh.
fn of_another_mesh(seed: u64) -> Capability {
    let other = builder(seed ^ 0xff00).nodes(3).open().unwrap();
    let put = other.clone();
    other.run(async move { put.mesh(0).unwrap().put(vec![1; 100]).await.unwrap().capability }).unwrap()
}

/// Which of the nodes that run know this one, which does not.
fn knowing(sim: &SimMesh, node: usize) -> Result<Vec<usize>> {
    let id = sim.node_id(node)?;
    let mut knowing = Vec::new();
    for at in (0..sim.len()).filter(|at| *at != node) {
        if sim.mesh(at)?.nodes().iter().any(|status| status.record.node == id) {
            knowing.push(at);
        }
    }
    Ok(knowing)
}

async fn get_fails(sim: &SimMesh, absent: &Capability, kind: ErrorKind) -> Result<()> {
    for at in 0..sim.len() - 1 {
        let error = sim.mesh(at)?.get(absent).deadline(MINUTE).await.err();
        let found = error.as_ref().map(datamesh_core::Error::kind);
        must(found == Some(kind), format!("on node {at}, a get of nothing gave {error:?}"))?;
    }
    Ok(())
}

/// The last node never comes back, and is forgotten; then it comes back all the same, with what it had.
pub(crate) fn who_is_gone_for_good_is_forgotten(seed: u64) -> Option<String> {
    let absent = of_another_mesh(seed);
    tell(builder(seed).nodes(8).segment_bytes(16 << 10), move |sim| async move {
        let last = sim.len() - 1;
        let (data, gone) = (vec![7; 200_000], sim.node_id(last)?);
        let capability = sim.mesh(0)?.put(data.clone()).await?.capability;
        let refused = sim.mesh(1)?.forget(gone).await.err();
        must(
            refused.as_ref().map(datamesh_core::Error::kind) == Some(ErrorKind::Busy),
            format!("a node that is up was to be forgotten: {refused:?}"),
        )?;
        sim.crash(last);
        sim.sleep(MINUTE).await;
        must(sim.mesh(1)?.forget(gone).await.is_err(), "a node that is down was forgotten")?;
        sim.sleep(20 * MINUTE).await;
        get_fails(&sim, &absent, ErrorKind::Unavailable).await?;
        // One has just been started, and has seen nobody go.
        sim.crash(2);
        sim.restart(2).await?;
        sim.mesh(1)?.forget(gone).await?;
        sim.mesh(1)?.forget(gone).await?;
        sim.sleep(20 * MINUTE).await;
        must(knowing(&sim, last)?.is_empty(), format!("nodes {:?} know it still", knowing(&sim, last)?))?;
        get_fails(&sim, &absent, ErrorKind::NotFound).await?;
        // It is forgotten also by those who start anew, and whatever they tell each other.
        for node in 0..4 {
            sim.crash(node);
            sim.restart(node).await?;
        }
        sim.sleep(5 * MINUTE).await;
        must(knowing(&sim, last)?.is_empty(), format!("nodes {:?} know it again", knowing(&sim, last)?))?;
        sim.restart(last).await?;
        sim.sleep(MINUTE).await;
        must(knowing(&sim, last)?.len() == last, "who came back is no member again")?;
        must(sim.mesh(last)?.nodes().len() == sim.len(), "who came back does not know all")?;
        sim.sleep(10 * MINUTE).await;
        let health = sim.mesh(3)?.health(&capability).await?;
        must(health.margin == Some(2), format!("the margin is {:?}", health.margin))?;
        must(sim.mesh(last)?.get(&capability).await? == data, "other bytes came back")
    })
}
