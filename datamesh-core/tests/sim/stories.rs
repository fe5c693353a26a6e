//! Stories of meshes that look after themselves, each with what must hold in it. They are told by the tests of care,
//! and with planted bugs.

use std::time::Duration;

use datamesh_core::sim::{SimBuilder, SimMesh};
use datamesh_core::{Capability, CareOptions, Error, ErrorKind, Health, Metrics, NodeId, NodeState, Result};

use crate::parts::builder;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// What must hold in a story and did not.
fn broken(text: String) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

macro_rules! must {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(broken(format!($($text)*)));
        }
    };
}

/// Tells a story on the mesh of this builder; an error says what did not hold.
pub(crate) fn tell<F: Future<Output = Result<()>>>(
    builder: SimBuilder,
    story: impl FnOnce(SimMesh) -> F,
) -> std::result::Result<(), String> {
    let sim = builder.segment_bytes(16 << 10).open().map_err(|failure| failure.to_string())?;
    let told = sim.run(story(sim.clone())).map_err(|failure| failure.to_string())?;
    told.map_err(|error| error.to_string())
}

fn content(number: usize) -> Vec<u8> {
    (0..70_000 + 1_000 * number as u32).map(|byte| (byte as usize * (number + 1)) as u8).collect()
}

/// Puts objects from all nodes in turn.
pub(crate) async fn put_some(sim: &SimMesh, count: usize) -> Result<Vec<Capability>> {
    let mut capabilities = Vec::new();
    for number in 0..count {
        let receipt = sim.mesh(number % sim.len())?.put(content(number)).await?;
        capabilities.push(receipt.capability);
    }
    Ok(capabilities)
}

pub(crate) async fn healths(sim: &SimMesh, asker: usize, all: &[Capability]) -> Result<Vec<Health>> {
    let mut healths = Vec::new();
    for capability in all {
        healths.push(sim.mesh(asker)?.health(capability).await?);
    }
    Ok(healths)
}

/// Waits until every object has this margin, and says how long that took.
pub(crate) async fn until_margin(
    sim: &SimMesh,
    asker: usize,
    all: &[Capability],
    margin: usize,
    limit: Duration,
) -> Result<Duration> {
    let began = sim.now();
    loop {
        let seen: Vec<_> = healths(sim, asker, all).await?.iter().map(|health| health.margin).collect();
        if seen.iter().all(|seen| *seen >= Some(margin)) {
            return Ok(sim.now() - began);
        }
        must!(sim.now() - began <= limit, "margins after {} s: {seen:?}", limit.as_secs());
        sim.sleep(Duration::from_secs(5)).await;
    }
}

/// Reads everything and compares it.
pub(crate) async fn check_contents(sim: &SimMesh, reader: usize, all: &[Capability]) -> Result<()> {
    for (number, capability) in all.iter().enumerate() {
        let read = sim.mesh(reader)?.get(capability).await?;
        must!(read == content(number), "object {number} has other bytes");
    }
    Ok(())
}

/// The sum of a metric over all nodes that are up.
pub(crate) fn sum(sim: &SimMesh, of: impl Fn(&Metrics) -> u64) -> u64 {
    (0..sim.len()).filter_map(|node| sim.mesh(node).ok()).map(|mesh| of(&mesh.metrics())).sum()
}

/// How many shards a node holds of these objects.
fn shards_of(healths: &[Health], node: NodeId) -> u64 {
    let extents = healths.iter().flat_map(|health| &health.extents);
    let held = extents.flat_map(|extent| extent.holders.iter().map(move |holder| (extent.segments, holder)));
    held.filter(|(_, (holder, _))| *holder == node)
        .map(|(segments, (_, held))| (segments * held.len()) as u64)
        .sum()
}

/// How often shards are with nodes that are not to hold them, and how often one that is to hold a shard lacks it.
async fn out_of_place(sim: &SimMesh, asker: usize, all: &[Capability]) -> Result<(usize, usize)> {
    let (mut strange, mut lacking) = (0, 0);
    for capability in all {
        for place in sim.mesh(asker)?.explain(capability).await?.shards {
            let home = place.computed.into_iter().collect::<Vec<_>>();
            strange += place.holders.iter().filter(|holder| !home.contains(holder)).count();
            lacking += home.iter().filter(|home| !place.holders.contains(home)).count();
        }
    }
    Ok((strange, lacking))
}

/// A node's disk gives no shard any more, and its index names them all the same: it counts as gone long before its scrub
/// could tell, nothing of it is deleted, and it counts again when its disk reads.
pub(crate) fn blind_disk(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(9), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(3 * MINUTE).await;
        let (blind, held) = (sim.node_id(4)?, sim.shards(4));
        sim.blind_disk(4, true);
        // Somebody reads.
        check_contents(&sim, 0, &all).await?;
        sim.sleep(6 * MINUTE).await;
        let seen = healths(&sim, 0, &all).await?;
        must!(seen.iter().any(|health| health.margin < Some(2)), "what the disk does not give still counts");
        // Somebody writes: where nothing happens it is noticed at the next look at everything, within the hour.
        put_some(&sim, 6).await?;
        until_margin(&sim, 0, &all, 2, 24 * MINUTE).await?;
        must!(shards_of(&healths(&sim, 0, &all).await?, blind) == 0, "node 4 says that it holds something");
        must!(sim.shards(4) >= held, "{} shards of {held} are left", sim.shards(4));
        sim.blind_disk(4, false);
        sim.sleep(MINUTE).await;
        must!(
            shards_of(&healths(&sim, 0, &all).await?, blind) > 0,
            "nobody noticed that the disk reads again"
        );
        sim.sleep(80 * MINUTE).await;
        let states = sim.mesh(0)?.nodes();
        let state = states.iter().find(|status| status.record.node == blind).map(|status| status.state);
        must!(state == Some(NodeState::Up), "node 4 is {state:?} and reads");
        until_margin(&sim, 0, &all, 2, Duration::ZERO).await?;
        check_contents(&sim, 4, &all).await
    })
}

/// A node is lost for good while two others each lack one shard, of different stripes: every stripe has k shards, and
/// hardly anybody a whole index. Another was lost before, so that the others' shards are not those of their ranks.
pub(crate) fn scattered_losses(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(8), |sim| async move {
        let all = put_some(&sim, 1).await?;
        let holders = async |asker: usize| -> Result<Vec<usize>> {
            let mut held = healths(&sim, asker, &all).await?.remove(0).extents.remove(0).holders;
            held.sort_by_key(|(_, indexes)| indexes.clone());
            Ok(held.iter().filter_map(|(node, _)| sim.number_of(node)).collect())
        };
        let by_index = holders(0).await?;
        let asker = by_index[5];
        sim.crash(by_index[0]);
        sim.sleep(11 * MINUTE).await;
        until_margin(&sim, asker, &all, 2, 20 * MINUTE).await?;
        let mut others = holders(asker).await?;
        others.retain(|node| *node != asker);
        sim.crash(others[0]);
        for (node, segment) in [(others[1], 1), (others[2], 3)] {
            must!(sim.lose_segment(node, segment) == 1, "node {node} has no shard of segment {segment}");
        }
        check_contents(&sim, asker, &all).await?;
        until_margin(&sim, asker, &all, 2, 40 * MINUTE).await?;
        check_contents(&sim, asker, &all).await
    })
}

/// One segment is lost on so many disks that of some objects nothing of it can be made anew, and a node is lost for good:
/// what is tried in vain, again and again, is tried seldom and leaves nothing on those who were to take it.
pub(crate) fn beyond_repair(seed: u64) -> std::result::Result<(), String> {
    const HOURS: u64 = 4;
    tell(builder(seed).nodes(9), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(3 * MINUTE).await;
        for node in 1..5 {
            must!(sim.lose_segment(node, 2) > 0, "node {node} has no shard of segment 2");
        }
        sim.crash(0);
        sim.sleep(30 * MINUTE).await;
        let margins: Vec<_> = healths(&sim, 8, &all).await?.iter().map(|health| health.margin).collect();
        must!(margins.contains(&None), "margins of {margins:?}");
        let before = sum(&sim, |metrics| metrics.shards_rebuilt);
        sim.sleep(HOURS as u32 * 60 * MINUTE).await;
        let made = sum(&sim, |metrics| metrics.shards_rebuilt).saturating_sub(before);
        // Tried every minute it is thousands in an hour.
        must!(made > 0 && made <= HOURS * 500, "{made} shards were made in vain in {HOURS} hours");
        let mut seen = Vec::new();
        for _ in 0..20 {
            sim.sleep(Duration::from_secs(7)).await;
            seen.push((1..9).map(|node| sim.staged(node)).sum::<usize>());
        }
        must!(seen.contains(&0), "shards that wait for their commit: {seen:?}");
        Ok(())
    })
}

/// A node is lost for good: nothing moves within its grace time, then all that it held is rebuilt, each stripe read
/// once.
pub(crate) fn lost_node(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(9), |sim| async move {
        let all = put_some(&sim, 12).await?;
        let lost = shards_of(&healths(&sim, 0, &all).await?, sim.node_id(4)?);
        sim.crash(4);
        sim.sleep(9 * MINUTE).await;
        let early = sum(&sim, |metrics| metrics.shards_rebuilt);
        must!(early == 0, "{early} shards were rebuilt of a node that may be restarting");
        let took = until_margin(&sim, 0, &all, 2, 4 * MINUTE).await?;
        let read = sum(&sim, |metrics| metrics.repair_bytes_read);
        let written = sum(&sim, |metrics| metrics.repair_bytes_written);
        let times = read as f64 / (4 * written).max(1) as f64;
        println!(
            "seed {seed}: full margin {} s after nine minutes; {times:.2} of the least was read",
            took.as_secs()
        );
        must!(written > 0 && times <= 1.5, "{read} bytes were read to write {written} of 4+2");
        let rebuilt = sum(&sim, |metrics| metrics.shards_rebuilt);
        must!(rebuilt == lost, "{rebuilt} shards were made anew for {lost} that were lost");
        // Two more may be lost now.
        sim.crash(5);
        sim.crash(6);
        check_contents(&sim, 0, &all).await
    })
}

/// Nodes are away for less than the grace time, some at the same time: nothing is rebuilt and nothing moves.
pub(crate) fn restarts(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(9), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(5 * MINUTE).await;
        let before = (sum(&sim, |metrics| metrics.shards_rebuilt), sum(&sim, |metrics| metrics.shards_moved));
        for pair in [[1, 2], [3, 4], [5, 6]] {
            sim.crash(pair[0]);
            sim.sleep(MINUTE).await;
            sim.crash(pair[1]);
            sim.sleep(2 * MINUTE).await;
            // Who comes back gives reason to look, while the other is still silent.
            sim.restart(pair[0]).await?;
            sim.sleep(5 * MINUTE).await;
            sim.restart(pair[1]).await?;
        }
        sim.partition(&[7], &[0, 1, 2, 3, 4, 5, 6, 8]);
        sim.sleep(8 * MINUTE).await;
        sim.heal();
        sim.sleep(5 * MINUTE).await;
        let rebuilt = sum(&sim, |metrics| metrics.shards_rebuilt).saturating_sub(before.0);
        let moved = sum(&sim, |metrics| metrics.shards_moved).saturating_sub(before.1);
        must!((rebuilt, moved) == (0, 0), "{rebuilt} shards were rebuilt and {moved} moved for restarts");
        check_contents(&sim, 8, &all).await
    })
}

/// Nodes join: shards go to their homes, no more than must, readable all the time; in the end nothing is held twice.
pub(crate) fn newcomers(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(8), |sim| async move {
        let all = put_some(&sim, 16).await?;
        sim.sleep(3 * MINUTE).await;
        sim.add().await?;
        let (_, lacking) = out_of_place(&sim, 0, &all).await?;
        for _ in 0..12 {
            sim.sleep(MINUTE / 2).await;
            check_contents(&sim, 8, &all).await?;
        }
        let (_, left) = out_of_place(&sim, 0, &all).await?;
        must!(left == 0, "{left} of {lacking} indexes are not home after six minutes");
        let moved = sum(&sim, |metrics| metrics.shards_moved);
        sim.sleep(20 * MINUTE).await;
        let strange = out_of_place(&sim, 0, &all).await?;
        must!(strange == (0, 0), "{strange:?} indexes are out of place after half an hour");
        let again = sum(&sim, |metrics| metrics.shards_moved);
        must!(again == moved, "{moved} shards were moved, and then {again}");
        println!("seed {seed}: {moved} shards moved for {lacking} indexes of {}", 16 * 6);
        check_contents(&sim, 0, &all).await
    })
}

/// The holders of each index of each extent of each object.
async fn places(sim: &SimMesh, asker: usize, all: &[Capability]) -> Result<Vec<Vec<NodeId>>> {
    let mut places = Vec::new();
    for capability in all {
        places.extend(
            sim.mesh(asker)?.explain(capability).await?.shards.into_iter().map(|place| place.holders),
        );
    }
    Ok(places)
}

/// Nodes join and leave in a mesh that has hardly more of them than an object has shards: each time only what the one
/// that comes or goes is to hold or held gets another holder, and all can be read whatever the order of the shards.
pub(crate) fn comings_and_goings(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(7), |sim| async move {
        let all = put_some(&sim, 24).await?;
        sim.sleep(3 * MINUTE).await;
        let (mut changed, mut asker) = (0, 6);
        for round in 0..6 {
            let before = places(&sim, asker, &all).await?;
            let leaver = round / 2;
            if round % 2 == 0 {
                asker = sim.add().await?;
            } else {
                sim.mesh(leaver)?.drain().deadline(20 * MINUTE).await?;
                sim.stop(leaver).await?;
            }
            sim.sleep(30 * MINUTE).await;
            let strange = out_of_place(&sim, asker, &all).await?;
            must!(
                strange == (0, 0),
                "round {round}: {strange:?} indexes are out of place after half an hour"
            );
            let after = places(&sim, asker, &all).await?;
            changed += before.iter().zip(&after).filter(|(before, after)| before != after).count();
            check_contents(&sim, asker, &all).await?;
        }
        let decoded = sum(&sim, |metrics| metrics.segments_reconstructed);
        must!(decoded == 0, "{decoded} segments were made from parity while every shard was there");
        // One of eight came or went six times.
        let percent = changed * 100 * 8 / (6 * 24 * 6);
        println!("seed {seed}: {percent} % of 1/N of the indexes got another holder");
        must!(percent <= 120, "{percent} % of 1/N of the indexes got another holder");
        Ok(())
    })
}

/// A node joins whose disk takes nothing: nobody gives anything up for it.
pub(crate) fn full_newcomer(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(8), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(3 * MINUTE).await;
        let newcomer = sim.add().await?;
        sim.sleep(Duration::from_secs(10)).await;
        sim.set_disk_capacity(newcomer, 0);
        for _ in 0..20 {
            sim.sleep(MINUTE).await;
            let margins: Vec<_> = healths(&sim, 0, &all).await?.iter().map(|health| health.margin).collect();
            must!(margins.iter().all(|margin| *margin >= Some(2)), "margins fell to {margins:?}");
        }
        check_contents(&sim, 0, &all).await
    })
}

/// A node leaves while the disks of two others are full: what it held goes to those that have room.
pub(crate) fn leaves_full_disks(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(10), |sim| async move {
        let all = put_some(&sim, 20).await?;
        sim.sleep(3 * MINUTE).await;
        for full in [3, 4] {
            sim.set_disk_capacity(full, 0);
        }
        let begun = sim.now();
        sim.mesh(5)?.drain().deadline(10 * MINUTE).await?;
        println!("seed {seed}: left after {} s", (sim.now() - begun).as_secs());
        sim.stop(5).await?;
        let margins: Vec<_> = healths(&sim, 0, &all).await?.iter().map(|health| health.margin).collect();
        must!(margins.iter().all(|margin| *margin >= Some(2)), "margins fell to {margins:?}");
        sim.sleep(5 * MINUTE).await;
        check_contents(&sim, 0, &all).await
    })
}

/// A node comes back every minute with another capacity: as long as that goes on nothing is moved for it.
pub(crate) fn unsteady_node(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(8), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(3 * MINUTE).await;
        for turn in 0..8u64 {
            sim.offer(3, if turn % 2 == 0 { 1 << 26 } else { 1 << 36 });
            sim.stop(3).await?;
            sim.restart(3).await?;
            sim.sleep(MINUTE).await;
        }
        let moved = sum(&sim, |metrics| metrics.shards_moved);
        must!(moved == 0, "{moved} shards were moved back and forth");
        sim.sleep(6 * MINUTE).await;
        let (_, lacking) = out_of_place(&sim, 0, &all).await?;
        must!(lacking == 0, "{lacking} indexes are not home after it kept still");
        check_contents(&sim, 0, &all).await
    })
}

/// A lost node is repaired no faster than each node may.
pub(crate) fn slow_repair(seed: u64) -> std::result::Result<(), String> {
    const RATE: u64 = 2_000;
    let care = CareOptions::default().with_bytes_per_second(RATE);
    tell(builder(seed).nodes(7).care(care), |sim| async move {
        let all = put_some(&sim, 12).await?;
        let lost = shards_of(&healths(&sim, 0, &all).await?, sim.node_id(2)?);
        sim.crash(2);
        sim.sleep(10 * MINUTE - Duration::from_secs(5)).await;
        let began = sim.now();
        let mut first = None;
        loop {
            sim.sleep(Duration::from_secs(1)).await;
            let seconds = (sim.now() - began).as_secs();
            for node in (0..7).filter(|node| *node != 2) {
                let metrics = sim.mesh(node)?.metrics();
                let bytes = metrics.repair_bytes_written;
                // A second's worth is saved, and what was taken last may have just been used.
                must!(
                    bytes <= RATE * (seconds + 2) + 16_384,
                    "node {node} wrote {bytes} bytes in {seconds} s"
                );
            }
            if first.is_none() && sum(&sim, |metrics| metrics.shards_rebuilt) > 0 {
                first = Some(sim.now());
            }
            let margins = healths(&sim, 0, &all).await?;
            if margins.iter().all(|health| health.margin >= Some(2)) {
                break;
            }
            must!(seconds < 3600, "not repaired after an hour");
        }
        let rebuilt = sum(&sim, |metrics| metrics.shards_rebuilt);
        // Every survivor takes its part, so it takes no longer than two copies of what was lost at one node's pace.
        let took = (sim.now() - first.unwrap_or(began)).as_secs();
        let copy = lost * 4160 / RATE;
        println!(
            "seed {seed}: {rebuilt} shards made for {lost}, full margin {took} s after the first; {copy} s for one \
             copy at one node's pace"
        );
        must!(took <= 2 * copy + 30, "{took} s for {lost} shards, which copy in {copy} s");
        must!(rebuilt == lost, "{rebuilt} shards were made anew for {lost} that were lost");
        check_contents(&sim, 0, &all).await
    })
}

/// A node is lost while the disks of three others take nothing: what these should have goes elsewhere. Six others are
/// left, so that each index has a node of its own.
pub(crate) fn full_disks(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(10), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(3 * MINUTE).await;
        [1, 2, 3].iter().for_each(|node| sim.set_disk_capacity(*node, 0));
        sim.crash(9);
        sim.sleep(10 * MINUTE).await;
        until_margin(&sim, 0, &all, 2, 5 * MINUTE).await?;
        check_contents(&sim, 0, &all).await
    })
}

/// Two nodes are lost and objects are repaired at once: what the report says is what the holders say.
pub(crate) fn at_once(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(9), |sim| async move {
        let all = put_some(&sim, 4).await?;
        sim.crash(2);
        sim.crash(3);
        for capability in &all {
            // The verify capability will do.
            let report = sim.mesh(0)?.repair(capability.to_verify()).await?;
            let margin = sim.mesh(0)?.health(capability).await?.margin;
            must!(report.margin == margin, "the report says {:?}, and the holders {margin:?}", report.margin);
            must!(report.is_full() && margin == Some(2), "{report:?}");
            let (read, written) = (report.bytes_read, report.bytes_written);
            must!(read <= 4 * written, "{read} bytes were read to write {written} of 4+2");
        }
        check_contents(&sim, 1, &all).await
    })
}

/// A node is opened in another zone: shards move so that zones hold no more than they should.
pub(crate) fn another_zone(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(9).zones(3), |sim| async move {
        let all = put_some(&sim, 12).await?;
        sim.sleep(3 * MINUTE).await;
        sim.rezone(4, "zone-2");
        sim.stop(4).await?;
        sim.restart(4).await?;
        for _ in 0..8 {
            sim.sleep(MINUTE).await;
            check_contents(&sim, 1, &all).await?;
        }
        sim.sleep(20 * MINUTE).await;
        let strange = out_of_place(&sim, 0, &all).await?;
        must!(strange == (0, 0), "{strange:?} indexes are out of place after half an hour");
        check_contents(&sim, 1, &all).await
    })
}

/// Two nodes are lost at once, and when that is made good two more, as often as enough are left.
pub(crate) fn one_loss_after_another(seed: u64) -> std::result::Result<(), String> {
    tell(builder(seed).nodes(12), |sim| async move {
        let all = put_some(&sim, 12).await?;
        for pair in [[11, 10], [9, 8], [7, 6]] {
            pair.iter().for_each(|node| sim.wipe(*node));
            sim.sleep(10 * MINUTE).await;
            until_margin(&sim, 0, &all, 2, 5 * MINUTE).await?;
        }
        // Six are left, and any two of them may still be lost.
        sim.crash(1);
        sim.crash(2);
        check_contents(&sim, 0, &all).await
    })
}
