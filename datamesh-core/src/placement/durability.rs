//! How likely it is that an object is lost, by a model that says what it assumes.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Zone;
use crate::placement::spread::{Spread, most_in_each_zone};
use crate::ports::Redundancy;

/// The most nines that are reported. Beyond that the model says nothing about the world: what is lost then is lost to
/// mistakes of programs and people, which it does not know.
pub const MAX_NINES: f64 = 11.0;

/// The hours of a year, as the published tables count them.
const HOURS_OF_A_YEAR: f64 = 8760.0;

/// The most nodes of a model, so that they can be counted exactly in floating point.
const MAX_NODES: u64 = 1 << 40;

/// A mesh as [`durability`] sees it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DurabilityModel {
    /// The code that objects are stored with.
    pub redundancy: Redundancy,
    /// N: how many nodes hold data.
    pub nodes: u64,
    /// The share of the nodes that fail for good within a year, between 0 and 1. 0.25 by default, as peers come and go;
    /// disks in a data centre fail at 0.0138.
    pub annual_failure_rate: f64,
    /// From a loss to the rebuilt shard, finding it out included. 24 hours by default.
    pub repair: Duration,
    /// B: how many of the nodes say that they hold shards, and give none. 0 by default.
    pub hostile: u64,
    /// The zones with the number of their nodes, which make N together; empty, the default, where zones are not asked
    /// about.
    pub zones: Vec<(Zone, u64)>,
}

impl DurabilityModel {
    /// Objects of this redundancy on so many nodes.
    pub const fn new(redundancy: Redundancy, nodes: u64) -> Self {
        Self {
            redundancy,
            nodes,
            annual_failure_rate: 0.25,
            repair: Duration::from_secs(24 * 3600),
            hostile: 0,
            zones: Vec::new(),
        }
    }

    /// Sets the share of the nodes that fail for good within a year, between 0 and 1.
    #[must_use]
    pub const fn with_annual_failure_rate(mut self, rate: f64) -> Self {
        self.annual_failure_rate = rate;
        self
    }

    /// Sets the time from a loss to the rebuilt shard.
    #[must_use]
    pub const fn with_repair(mut self, repair: Duration) -> Self {
        self.repair = repair;
        self
    }

    /// Sets how many nodes withhold what they acknowledged.
    #[must_use]
    pub const fn with_hostile(mut self, nodes: u64) -> Self {
        self.hostile = nodes;
        self
    }

    /// Sets the zones with the number of their nodes.
    #[must_use]
    pub fn with_zones(mut self, zones: impl IntoIterator<Item = (Zone, u64)>) -> Self {
        self.zones = zones.into_iter().collect();
        self
    }

    fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
        let rate = self.annual_failure_rate;
        if self.nodes == 0 || self.nodes > MAX_NODES {
            return refuse(format!("a model has 1 to {MAX_NODES} nodes, got {}", self.nodes));
        }
        if !(rate > 0.0 && rate < 1.0) {
            return refuse(format!("the annual failure rate is between 0 and 1, both left out, got {rate}"));
        }
        if self.repair.is_zero() {
            return refuse("repair takes time; give more than 0 seconds".to_owned());
        }
        if self.hostile > self.nodes {
            return refuse(format!("{} nodes cannot be hostile among {}", self.hostile, self.nodes));
        }
        let zoned = self.zones.iter().try_fold(0u64, |sum, (_, nodes)| sum.checked_add(*nodes));
        if !self.zones.is_empty() && zoned != Some(self.nodes) {
            return refuse(format!("the nodes of the zones make {zoned:?} and not {}", self.nodes));
        }
        Ok(())
    }
}

/// What [`durability`] found; printed, it says what it assumes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DurabilityReport {
    /// What was asked.
    pub model: DurabilityModel,
    /// How many holders of an object any loss may take: m where there are n nodes, less where there are fewer.
    pub margin: usize,
    /// The mean time to the loss of one object, in years; infinite beyond what a floating-point number holds.
    pub mttdl_years: f64,
    /// The chance that one object is lost within a year, by the formula and not rounded up to what is believable.
    pub annual_loss: f64,
    /// The nines of that, [`MAX_NINES`] at most.
    pub nines_capped: f64,
    /// The chance that an object cannot be read while the hostile nodes withhold what they hold.
    pub p_byzantine: f64,
    /// Whether every object can be read when this zone is gone and nothing else is, wherever the ranking puts it.
    pub survives_zone_loss: Vec<(Zone, bool)>,
    /// What the figures rest on, a sentence each.
    pub assumptions: Vec<String>,
}

/// Computes how likely it is that an object is lost or cannot be read.
///
/// The states of the model are the holders lost, each of which fails at the rate lambda = -ln(1 - annual failure rate)
/// and is repaired at mu = 8760 hours / repair time, all at the same time. With h holders and margin f,
/// `T_0 = 1 / (h lambda)`, `T_i = (1 + i mu T_(i-1)) / ((h - i) lambda)`, and the mean time to loss is the sum of T_0
/// to T_f. Where there are n nodes h is n and f is m; where there are fewer, nodes hold several shards each and are
/// lost with all of them. The chance of being unreadable is that of drawing more than m hostile holders, which is
/// hypergeometric, for one extent. Sums of positive terms in logarithms keep all of it exact to rounding.
///
/// The chain is that of W. Burkhard and J. Menon, "Disk array storage system reliability" (FTCS 1993), and older.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a model that describes no mesh.
pub fn durability(model: &DurabilityModel) -> Result<DurabilityReport> {
    model.check()?;
    let spread = Spread::new(model.redundancy, model.nodes);
    let margin = spread.margin();
    let log_mttdl = log_mttdl(model, spread.holders(), margin);
    let (annual_loss, nines) = annual_loss(log_mttdl);
    let survives = |(zone, most): (&Zone, u64)| (zone.clone(), most <= model.redundancy.parity() as u64);
    let sizes: Vec<u64> = model.zones.iter().map(|(_, nodes)| *nodes).collect();
    let most = most_in_each_zone(model.redundancy, &sizes);
    Ok(DurabilityReport {
        model: model.clone(),
        margin,
        mttdl_years: log_mttdl.exp(),
        annual_loss,
        nines_capped: nines.clamp(0.0, MAX_NINES),
        p_byzantine: unreadable(model, &spread),
        survives_zone_loss: model.zones.iter().map(|(zone, _)| zone).zip(most).map(survives).collect(),
        assumptions: assumptions(model, &spread),
    })
}

/// The natural logarithm of the mean time to loss in years.
fn log_mttdl(model: &DurabilityModel, holders: usize, margin: usize) -> f64 {
    let log_lambda = (-(-model.annual_failure_rate).ln_1p()).ln();
    let log_mu = HOURS_OF_A_YEAR.ln() - (model.repair.as_secs_f64() / 3600.0).ln();
    let mut sum = f64::NEG_INFINITY;
    let mut step = f64::NEG_INFINITY;
    for lost in 0..=margin {
        let back = (lost as f64).ln() + log_mu + step;
        step = log_add(0.0, back) - (holders.saturating_sub(lost) as f64).ln() - log_lambda;
        sum = log_add(sum, step);
    }
    sum
}

/// The chance of a loss within a year and its nines, from the logarithm of the mean time to it.
fn annual_loss(log_mttdl: f64) -> (f64, f64) {
    let rate = (-log_mttdl).exp();
    let loss = -(-rate).exp_m1();
    // A rate too small for a number is its own loss.
    let log_loss = if loss > 0.0 { loss.ln() } else { -log_mttdl };
    (loss, -log_loss / std::f64::consts::LN_10)
}

/// The chance that the hostile nodes hold more than m shards of an extent.
///
/// Each node holds `each` shards and `more` of them one more, so that only those count that are drawn among the latter.
fn unreadable(model: &DurabilityModel, spread: &Spread) -> f64 {
    let certain = spread.each.saturating_mul(model.hostile);
    match (model.redundancy.parity() as u64).checked_sub(certain) {
        Some(harmless) => chance_of_more(model.nodes, model.hostile, spread.more, harmless),
        None => 1.0,
    }
}

/// The chance that of `drawn` among `all`, `marked` of which are marked, more than `limit` are.
fn chance_of_more(all: u64, marked: u64, drawn: u64, limit: u64) -> f64 {
    let least = (marked + drawn).saturating_sub(all);
    let most = marked.min(drawn);
    let (mut log_weight, mut above, mut total) = (0.0, f64::NEG_INFINITY, f64::NEG_INFINITY);
    for found in least..=most {
        total = log_add(total, log_weight);
        if found > limit {
            above = log_add(above, log_weight);
        }
        // From the chance of `found` to that of one more; after the last it is zero.
        let ways = ((marked - found) as f64).ln() + ((drawn - found) as f64).ln();
        let others = (all + found + 1).saturating_sub(marked + drawn);
        log_weight += ways - ((found + 1) as f64).ln() - (others as f64).ln();
    }
    (above - total).exp().min(1.0)
}

/// ln(e^a + e^b) without leaving the logarithms.
fn log_add(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if small == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

fn assumptions(model: &DurabilityModel, spread: &Spread) -> Vec<String> {
    let percent = model.annual_failure_rate * 100.0;
    let hours = model.repair.as_secs_f64() / 3600.0;
    let mut list = vec![
        format!(
            "nodes fail independently of each other, {percent} % of them in a year, and take their shards along"
        ),
        format!(
            "a lost shard is noticed and rebuilt within {hours} hours, from the first loss on, all in parallel"
        ),
        format!(
            "the shards of an extent lie on {} of {} nodes, as evenly as can be",
            spread.holders(),
            model.nodes
        ),
        "loss by mistakes of programs and people, fire and theft is not counted".to_owned(),
    ];
    if model.hostile > 0 {
        let text = "hostile nodes are drawn blindly, acknowledge what they are sent and give none of it back";
        list.push(text.to_owned());
    }
    if !model.zones.is_empty() {
        list.push("a zone is lost while every other node is there and holds what it should".to_owned());
    }
    list
}

impl fmt::Display for DurabilityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        writeln!(f, "{} on {} nodes: any {} may be lost", model.redundancy, model.nodes, self.margin)?;
        if self.nines_capped < MAX_NINES {
            writeln!(f, "mean time to the loss of an object: {:.3e} years", self.mttdl_years)?;
            writeln!(f, "loss within a year: {:.3e}, {:.1} nines", self.annual_loss, self.nines_capped)?;
        } else {
            writeln!(f, "loss within a year: below 1e-{MAX_NINES}, {MAX_NINES} nines or more")?;
        }
        if model.hostile > 0 {
            let percent = self.p_byzantine * 100.0;
            writeln!(f, "unreadable while {} nodes withhold: {percent:.3} % of objects", model.hostile)?;
        }
        for (zone, survives) in &self.survives_zone_loss {
            let fate = if *survives { "every object can be read" } else { "some objects cannot be read" };
            writeln!(f, "without zone {zone}: {fate}")?;
        }
        writeln!(f, "assumed:")?;
        self.assumptions.iter().try_for_each(|assumption| writeln!(f, "- {assumption}"))
    }
}

#[cfg(test)]
mod tests;
