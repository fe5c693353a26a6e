//! Who says to hold what it has lost is found by what it cannot prove.

use std::collections::BTreeMap;
use std::time::Duration;

use datamesh_core::Result;
use datamesh_core::sim::{Role, SimMesh};

use crate::parts::builder;
use crate::story::{must, tell};

const HOUR: Duration = Duration::from_secs(3600);

/// The node that claims and forgets.
const LIAR: usize = 2;

/// How many nodes distrust each, of those that anybody does.
fn distrusted(sim: &SimMesh) -> Result<BTreeMap<usize, usize>> {
    let mut by = BTreeMap::new();
    for node in (0..sim.len()).filter(|node| *node != LIAR) {
        for status in sim.mesh(node)?.nodes().iter().filter(|status| !status.trusted) {
            *by.entry(sim.number_of(&status.record.node).unwrap_or(usize::MAX)).or_default() += 1;
        }
    }
    Ok(by)
}

/// A node loses one shard in so many, says nothing, and is to be found within so many hours; nobody else may be.
fn lose_one_in(seed: u64, part: usize, hours: u32) -> Option<String> {
    tell(builder(seed).nodes(6).segment_bytes(4 << 10), |sim| async move {
        for number in 0..16_usize {
            sim.mesh(number % 6)?.put(vec![number as u8; 200_000]).await?;
        }
        let held = sim.shards(LIAR);
        sim.forge(LIAR, held / part);
        must(sim.rotten_shards(LIAR) >= held / part / 2, "nothing was lost")?;
        for hour in 0..hours {
            sim.sleep(HOUR).await;
            let by = distrusted(&sim)?;
            must(by.keys().all(|node| *node == LIAR), format!("honest nodes are distrusted: {by:?}"))?;
            if !by.is_empty() {
                println!("seed {seed}: one in {part} of {held} shards was missed after {} hours", hour + 1);
                return Ok(());
            }
        }
        must(false, format!("one in {part} of {held} shards is lost and nobody noticed in {hours} hours"))
    })
}

pub(crate) fn a_tenth_is_missed_within_a_day(seed: u64) -> Option<String> {
    lose_one_in(seed, 10, 24)
}

pub(crate) fn one_percent_is_missed_within_two_days(seed: u64) -> Option<String> {
    lose_one_in(seed, 100, 48)
}

/// Who claims what is not its own to have is asked to prove it as well.
pub(crate) fn a_bystander_that_claims_is_challenged(seed: u64) -> Option<String> {
    tell(builder(seed).nodes(9).segment_bytes(4 << 10), |sim| async move {
        sim.mesh(0)?.put(vec![7; 20_000]).await?;
        let Some(bystander) = (0..9).find(|node| sim.shards(*node) == 0) else {
            return must(false, "all nine nodes hold some of one extent");
        };
        sim.role(bystander, Some(Role::ClaimAll));
        sim.sleep(24 * HOUR).await;
        let (mut silent, mut others) = (0, 0);
        for node in (0..9).filter(|node| *node != bystander) {
            for status in sim.mesh(node)?.nodes() {
                let is_it = sim.number_of(&status.record.node) == Some(bystander);
                *if is_it { &mut silent } else { &mut others } += status.audits.silent;
            }
        }
        println!("seed {seed}: {silent} claims were not proved");
        must(
            silent > 0 && others == 0,
            format!("{silent} claims of a bystander were not proved, {others} of others"),
        )
    })
}
