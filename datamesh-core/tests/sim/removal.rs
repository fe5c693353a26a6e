//! What was removed stays away, what nobody names goes, and nothing else does.

use std::time::Duration;

use bytes::Bytes;
use datamesh_core::ports::Table;
use datamesh_core::sim::{SimBuilder, SimMesh};
use datamesh_core::{Capability, CareOptions, ErrorKind, Result, Source};
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use crate::parts::builder;
use crate::story::{must, tell};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn mesh(seed: u64) -> SimBuilder {
    let care = CareOptions::default().with_tombstone_age(2 * HOUR).with_orphan_age(3 * HOUR);
    builder(seed).nodes(6).segment_bytes(16 << 10).care(care)
}

async fn put_some(sim: &SimMesh, count: usize) -> Result<Vec<Capability>> {
    let mut capabilities = Vec::new();
    for number in 0..count {
        let data = vec![number as u8; 100_000];
        capabilities.push(sim.mesh(number % sim.len())?.put(data).await?.capability);
    }
    Ok(capabilities)
}

/// What nodes that are up or down have on their disks of objects.
fn left(sim: &SimMesh) -> String {
    let of = |table| (0..sim.len()).map(|node| sim.records(node, table)).collect::<Vec<_>>();
    let (manifests, extents) = (of(Table::Manifests), of(Table::Extents));
    let none = manifests.iter().chain(&extents).all(|count| *count == 0);
    if none { String::new() } else { format!("manifests {manifests:?}, extents {extents:?}") }
}

fn tombstones(sim: &SimMesh) -> Vec<usize> {
    (0..sim.len()).map(|node| sim.records(node, Table::Tombstones)).collect()
}

/// What was removed goes soon from who has it still, and stays away; at last nobody remembers it.
async fn nothing_comes_back(sim: &SimMesh) -> Result<()> {
    sim.sleep(30 * MINUTE).await;
    must(left(sim).is_empty(), format!("what was removed came back: {}", left(sim)))?;
    sim.sleep(12 * HOUR).await;
    must(left(sim).is_empty(), format!("what was removed came back later: {}", left(sim)))?;
    let tombstones = tombstones(sim);
    must(tombstones.iter().all(|count| *count == 0), format!("tombstones stay for ever: {tombstones:?}"))
}

/// One holder is away for a day while objects are removed, and comes back with all of them; another was wiped
/// meanwhile.
pub(crate) fn who_was_away_learns_of_removals(seed: u64) -> Option<String> {
    tell(mesh(seed), |sim| async move {
        let objects = put_some(&sim, 8).await?;
        sim.crash(5);
        sim.sleep(MINUTE).await;
        for object in &objects {
            sim.mesh(1)?.remove(object).await?;
        }
        sim.sleep(12 * HOUR).await;
        sim.wipe(4);
        sim.restart(4).await?;
        sim.sleep(12 * HOUR).await;
        must(sim.records(5, Table::Manifests) > 0, "there was nothing to learn")?;
        sim.restart(5).await?;
        nothing_comes_back(&sim).await
    })
}

/// A node leaves politely, with all that it had still on its disk, and is opened again a day after that was removed.
pub(crate) fn who_had_left_learns_of_removals(seed: u64) -> Option<String> {
    tell(mesh(seed).nodes(9), |sim| async move {
        let objects = put_some(&sim, 9).await?;
        sim.sleep(10 * MINUTE).await;
        sim.mesh(5)?.drain().deadline(HOUR).await?;
        sim.stop(5).await?;
        must(sim.records(5, Table::Manifests) > 0, "there was nothing to learn")?;
        for object in &objects {
            sim.mesh(1)?.remove(object).await?;
        }
        sim.sleep(24 * HOUR).await;
        sim.restart(5).await?;
        nothing_comes_back(&sim).await
    })
}

/// Leaves extents without a manifest: the node that puts them dies at a random moment.
async fn die_putting(sim: &SimMesh, seed: u64) -> Result<()> {
    let mesh = sim.mesh(0)?;
    let putting = sim.on(0, async move { mesh.put(vec![3; 4 << 20]).await });
    let dying = async {
        while sim.records(1, Table::Extents) < 4 + (seed % 3) as usize {
            sim.sleep(Duration::from_millis(1)).await;
        }
        sim.crash(0);
    };
    let (put, ()) = futures::join!(putting, dying);
    must(put.is_none_or(|put| put.is_err()), "the put was done before its node died")
}

/// Extents without a manifest go after their time, and not while somebody is silent who may have it; what has a
/// manifest stays.
pub(crate) fn extents_without_a_manifest_go(seed: u64) -> Option<String> {
    tell(mesh(seed), |sim| async move {
        let kept = put_some(&sim, 3).await?;
        let extents = |sim: &SimMesh| (1..6).map(|node| sim.records(node, Table::Extents)).sum::<usize>();
        let before = extents(&sim);
        die_putting(&sim, seed).await?;
        let with_orphans = extents(&sim);
        must(with_orphans > before, "no extent was left without a manifest")?;
        sim.sleep(8 * HOUR).await;
        must(extents(&sim) >= with_orphans, "extents were collected while a member was silent")?;
        sim.restart(0).await?;
        sim.sleep(90 * MINUTE).await;
        must(extents(&sim) >= with_orphans, "extents were collected too soon")?;
        sim.sleep(5 * HOUR).await;
        for node in 0..6 {
            let (extents, work) = (sim.records(node, Table::Extents), sim.records(node, Table::Work));
            must(extents <= 3, format!("node {node} has {extents} extents of 3 and {work} notes"))?;
        }
        for object in &kept {
            let health = sim.mesh(2)?.health(object).await?;
            must(health.margin == Some(2), "an object lost extents to the collection")?;
        }
        Ok(())
    })
}

/// The 99th percentile of what puts take, three at a time.
async fn p99_of_puts(sim: &SimMesh) -> Result<Duration> {
    let mut times = Vec::new();
    for number in 0..60_usize {
        let put = |node: usize| async move {
            let began = sim.now();
            sim.mesh(node)?.put(vec![7; 50_000 + number]).await?;
            Ok::<_, datamesh_core::Error>(sim.now() - began)
        };
        for took in join_all([put(number % 6), put((number + 1) % 6), put((number + 2) % 6)]).await {
            times.push(took?);
        }
    }
    times.sort_unstable();
    Ok(times.get(times.len() * 99 / 100).copied().unwrap_or_default())
}

/// Puts take at most twice as long while a node that comes back is told of many removals and carries them out.
pub(crate) fn puts_go_on_while_much_is_removed(seed: u64) -> Option<String> {
    tell(mesh(seed), |sim| async move {
        let objects = put_some(&sim, 300).await?;
        let calm = p99_of_puts(&sim).await?;
        sim.crash(5);
        sim.sleep(MINUTE).await;
        for object in &objects {
            sim.mesh(1)?.remove(object).await?;
        }
        let known = sim.records(5, Table::Tombstones);
        sim.restart(5).await?;
        sim.mesh(1)?.wait_for_nodes(6, MINUTE).await?;
        // Until the next look of those who tell it.
        while sim.records(5, Table::Tombstones) == known {
            sim.sleep(Duration::from_millis(20)).await;
        }
        let busy = p99_of_puts(&sim).await?;
        let removed = sim.records(5, Table::Tombstones) - known;
        println!("seed {seed}: the p99 of a put was {calm:?}, and {busy:?} during {removed} removals");
        must(removed > 100, format!("only {removed} removals went on meanwhile"))?;
        must(busy <= 2 * calm, format!("the p99 of a put was {calm:?} and became {busy:?}"))
    })
}

/// A store that is new is told of more removals than fit one look, and the rest of them soon after the first.
pub(crate) fn a_new_store_learns_of_all_removals_at_once(seed: u64) -> Option<String> {
    tell(mesh(seed).nodes(3), |sim| async move {
        let sim = &sim;
        for _ in 0..560 {
            let put_and_remove = |node: usize| async move {
                let object = sim.mesh(node)?.put(vec![1; 100]).await?.capability;
                sim.mesh(node)?.remove(&object).await.map(drop)
            };
            let done = join_all((0..15).map(|number| put_and_remove(number % 3))).await;
            done.into_iter().collect::<Result<()>>()?;
        }
        sim.wipe(2);
        sim.restart(2).await?;
        let (all, known) = (sim.records(0, Table::Tombstones), || sim.records(2, Table::Tombstones));
        must(all > 8192, format!("{all} removals fit one look"))?;
        while known() == 0 {
            sim.sleep(Duration::from_millis(100)).await;
        }
        let (mut last, mut longest) = ((known(), sim.now()), Duration::ZERO);
        while known() < all && longest < MINUTE {
            sim.sleep(Duration::from_millis(100)).await;
            longest = longest.max(sim.now() - last.1);
            if known() > last.0 {
                last = (known(), sim.now());
            }
        }
        println!("seed {seed}: {longest:?} at most between two of {all} removals");
        must(longest < Duration::from_secs(15), format!("nothing was told for {longest:?}"))
    })
}

/// Removing works where the disks are full, and makes room.
pub(crate) fn removing_makes_room(seed: u64) -> Option<String> {
    tell(mesh(seed), |sim| async move {
        let objects = put_some(&sim, 6).await?;
        (0..6).for_each(|node| sim.set_disk_capacity(node, 1));
        must(sim.mesh(0)?.put(vec![1; 100_000]).await.is_err(), "a full mesh took an object")?;
        for object in &objects {
            let removal = sim.mesh(1)?.remove(object).await?;
            must(removal.unreached.is_empty(), format!("a full node did not remove: {removal:?}"))?;
        }
        must(left(&sim).is_empty(), format!("full nodes kept {}", left(&sim)))
    })
}

/// A put that takes longer than its extents may wait is refused, and leaves nothing.
pub(crate) fn a_put_that_takes_too_long_is_refused(seed: u64) -> Option<String> {
    tell(mesh(seed), |sim| async move {
        let (first, pause) = (Bytes::from(vec![1; 2 << 20]), sim.clone());
        let late = stream::once(async move {
            pause.sleep(2 * HOUR).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"the rest"))
        });
        let slow = stream::iter([Ok(first)]).chain(late);
        let put = sim.mesh(0)?.put(Source::stream(slow)).await;
        let refused = put.is_err_and(|error| error.kind() == ErrorKind::NotStored);
        must(refused, "a put of two hours was taken where extents wait three hours for a name")?;
        sim.sleep(MINUTE).await;
        must(left(&sim).is_empty(), format!("the put left {}", left(&sim)))
    })
}
