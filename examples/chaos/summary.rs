//! What is printed at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::checker::{Operation, Outcome, Verb, Violation};
use crate::fault::Kind;
use crate::memory::Growth;

/// Violations that are printed; the others are counted.
const SHOWN: usize = 20;

/// All that was seen.
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) lasted: Duration,
    /// The command that does the same again.
    pub(crate) again: String,
    pub(crate) befell: BTreeMap<Kind, usize>,
    pub(crate) healing: Vec<Duration>,
    pub(crate) history: Vec<Operation>,
    pub(crate) violations: Vec<Violation>,
    /// Of the nodes that were never killed.
    pub(crate) growth: Vec<(Growth, usize)>,
    /// Whether the run was long enough for growth to count.
    pub(crate) judged: bool,
    /// Whether somebody stopped it before its time was over: then it was not judged whether enough was done.
    pub(crate) stopped: bool,
    /// Puts that were acknowledged with less than the full margin.
    pub(crate) thin: u64,
    pub(crate) bytes: u64,
    pub(crate) carried: u64,
    pub(crate) lost: u64,
}

/// How one verb fared.
struct Fare {
    done: usize,
    not_done: usize,
    median: Duration,
    slow: Duration,
    slowest: Duration,
}

impl Summary {
    fn fare(&self, verb: Verb) -> Fare {
        let of_verb = || self.history.iter().filter(|operation| operation.verb == verb);
        let is_done = |operation: &&Operation| {
            // A get of what was removed is right to find nothing.
            !matches!(operation.outcome, Outcome::Unreachable(_) | Outcome::Failed(_) | Outcome::Wrong(_))
        };
        let mut times: Vec<Duration> = of_verb()
            .filter(is_done)
            .map(|operation| operation.ended.saturating_sub(operation.began))
            .collect();
        times.sort_unstable();
        let at =
            |part: usize| times.get(times.len() * part / 100).or(times.last()).copied().unwrap_or_default();
        Fare {
            done: times.len(),
            not_done: of_verb().count() - times.len(),
            median: at(50),
            slow: at(99),
            slowest: at(100),
        }
    }

    fn slowest_healing(&self) -> Duration {
        self.healing.iter().max().copied().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        let mut lines = vec![String::new()];
        let befell: Vec<String> = self.befell.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        lines.push(format!(
            "befell    {} in {:.1} minutes; {} of {} chunks and packets lost on purpose",
            befell.join(", "),
            self.lasted.as_secs_f64() / 60.0,
            self.lost,
            self.carried,
        ));
        for (name, verb) in [("put", Verb::Put), ("get", Verb::Get), ("remove", Verb::Remove)] {
            let Fare { done, not_done, median, slow, slowest } = self.fare(verb);
            lines.push(format!(
                "{name:<9} {done} done, {not_done} not; {:.0} ms in the middle, {:.0} ms of 99 in 100, {:.0} ms at most",
                median.as_secs_f64() * 1e3,
                slow.as_secs_f64() * 1e3,
                slowest.as_secs_f64() * 1e3,
            ));
        }
        lines.push(format!(
            "stored    {:.1} MB; {} puts with less than the full margin",
            self.bytes as f64 / 1e6,
            self.thin
        ));
        lines.push(format!(
            "healed    {} times, {:.1} s at most",
            self.healing.len(),
            self.slowest_healing().as_secs_f64()
        ));
        for (growth, node) in &self.growth {
            let judged = if self.judged { "" } else { " (not judged: the run is shorter than an hour)" };
            lines.push(format!(
                "node {}    {:.1} MB at most, {:+.2} MiB an hour; {} descriptors at most, {:+.1} an hour{judged}",
                node + 1,
                growth.most_bytes / 1e6,
                growth.bytes_per_hour / f64::from(1 << 20),
                growth.most_descriptors,
                growth.descriptors_per_hour,
            ));
        }
        for violation in self.violations.iter().take(SHOWN) {
            lines.push(format!("BROKEN    at {:.1} s: {}", violation.at.as_secs_f64(), violation.text));
        }
        let verdict = match self.violations.len() {
            0 if self.stopped => {
                "every promise was kept until it was stopped early (not judged: whether enough was done)"
                    .to_owned()
            }
            0 => "every promise was kept".to_owned(),
            count => format!("{count} promises were broken; again with: {}", self.again),
        };
        lines.push(format!("verdict   {verdict}; seed {}", self.seed));
        lines.join("\n")
    }

    pub(crate) fn json(&self) -> Value {
        let fare = |verb| {
            let Fare { done, not_done, median, slow, slowest } = self.fare(verb);
            json!({
                "done": done,
                "not_done": not_done,
                "p50_ms": median.as_secs_f64() * 1e3,
                "p99_ms": slow.as_secs_f64() * 1e3,
                "max_ms": slowest.as_secs_f64() * 1e3,
            })
        };
        let befell: BTreeMap<String, usize> =
            self.befell.iter().map(|(kind, count)| (kind.to_string(), *count)).collect();
        let growth = self.growth.iter().map(|(growth, node)| {
            json!({
                "node": node + 1,
                "samples": growth.samples,
                "max_bytes": growth.most_bytes,
                "bytes_per_hour": growth.bytes_per_hour,
                "max_descriptors": growth.most_descriptors,
                "descriptors_per_hour": growth.descriptors_per_hour,
            })
        });
        let broken = self
            .violations
            .iter()
            .map(|violation| json!({ "at_seconds": violation.at.as_secs_f64(), "text": violation.text }));
        json!({
            "seed": self.seed,
            "seconds": self.lasted.as_secs_f64(),
            "befell": befell,
            "put": fare(Verb::Put),
            "get": fare(Verb::Get),
            "remove": fare(Verb::Remove),
            "bytes": self.bytes,
            "thin_puts": self.thin,
            "healings": self.healing.len(),
            "slowest_healing_seconds": self.slowest_healing().as_secs_f64(),
            "growth": growth.collect::<Vec<_>>(),
            "growth_judged": self.judged,
            "effort_judged": !self.stopped,
            "violations": broken.collect::<Vec<_>>(),
            "again": self.again,
        })
    }
}
