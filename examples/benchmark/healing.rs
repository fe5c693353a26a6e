//! Times how long a mesh takes to have everything where it belongs, after a node was lost and after one joined.

use std::error::Error;
use std::time::{Duration, Instant};

use datamesh::runtime::NativeRuntime;
use datamesh::{Capability, CareOptions, Mesh, Source};

use crate::generated::Content;
use crate::nodes::{Cluster, Network};

/// How many nodes there are before one is lost.
pub(crate) const NODES: usize = 8;

/// The most that one object has, so that there are some.
const OBJECT: u64 = 16 << 20;

/// The least, so that it has shards.
const LEAST_OBJECT: u64 = 64 << 10;

/// How many objects there are where there are bytes enough.
const OBJECTS: u64 = 64;

/// A node counts as gone after so long.
const GRACE: Duration = Duration::from_secs(5);

/// How long a node must have been a member before shards are moved to it.
const SETTLE: Duration = Duration::from_secs(2);

/// How often a node looks without a reason.
const SURVEY_INTERVAL: Duration = Duration::from_secs(5);

/// How often the counters are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How long each row may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// One line of the result.
#[derive(Debug)]
pub(crate) struct Healing {
    network: Network,
    op: &'static str,
    nodes: usize,
    /// The bytes that are to come to other nodes.
    bytes: u64,
    /// Bytes that were read from others or brought to them.
    carried: u64,
    /// From the loss, or the joining, to the first extent that is where it should be.
    waited: Duration,
    /// From the first extent that is where it should be to the last.
    took: Duration,
    /// What one node may move in a second.
    budget: u64,
}

impl Healing {
    /// How long copying these bytes would take at the budget of one node.
    fn ceiling(&self) -> f64 {
        self.bytes as f64 / self.budget.max(1) as f64
    }

    fn of_ceiling(&self) -> f64 {
        self.took.as_secs_f64() / self.ceiling().max(1e-9)
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "network": self.network.name(),
            "store": self.network.store(),
            "op": self.op,
            "nodes": self.nodes,
            "bytes": self.bytes,
            "bytes_carried": self.carried,
            "waited_s": self.waited.as_secs_f64(),
            "took_s": self.took.as_secs_f64(),
            "budget_bytes_per_s": self.budget,
            "ceiling_s": self.ceiling(),
            "of_ceiling": self.of_ceiling(),
        })
    }

    pub(crate) fn print_table(rows: &[Self]) {
        println!(
            "{:<12} {:<7} {:<9} {:>5} {:>12} {:>12} {:>9} {:>9} {:>12} {:>9} {:>7}",
            "network",
            "store",
            "op",
            "nodes",
            "bytes",
            "carried",
            "waited s",
            "took s",
            "budget B/s",
            "ceiling s",
            "of it"
        );
        for row in rows {
            println!(
                "{:<12} {:<7} {:<9} {:>5} {:>12} {:>12} {:>9.2} {:>9.2} {:>12} {:>9.2} {:>7.3}",
                row.network.name(),
                row.network.store(),
                row.op,
                row.nodes,
                row.bytes,
                row.carried,
                row.waited.as_secs_f64(),
                row.took.as_secs_f64(),
                row.budget,
                row.ceiling(),
                row.of_ceiling(),
            );
        }
    }
}

/// How the nodes look after what they hold: minutes are seconds here, and the budget is the default's unless it is
/// given.
pub(crate) fn care(budget: Option<u64>) -> CareOptions {
    let care =
        CareOptions::default().with_grace(GRACE).with_settle(SETTLE).with_survey_interval(SURVEY_INTERVAL);
    match budget {
        Some(budget) => care.with_bytes_per_second(budget),
        None => care,
    }
}

/// What is measured over one network.
pub(crate) struct Trial {
    network: Network,
    cluster: Cluster,
    objects: Vec<Capability>,
}

impl Trial {
    /// Opens the nodes, and puts so many bytes.
    pub(crate) async fn open(network: Network, bytes: u64, cluster: Cluster) -> Result<Self, Box<dyn Error>> {
        let (content, mut objects, mut left) = (Content::new(), Vec::new(), bytes);
        let size = (bytes / OBJECTS).clamp(LEAST_OBJECT, OBJECT);
        while left > 0 {
            let reader = Source::sized_reader(content.reader(size), size);
            objects.push(cluster.client.put(reader).await?.capability);
            left = left.saturating_sub(size);
        }
        Ok(Self { network, cluster, objects })
    }

    /// A node is lost; its shards are made anew.
    pub(crate) async fn repair(&mut self) -> Result<Healing, Box<dyn Error>> {
        let lost = self.cluster.nodes.pop().ok_or("there is no node to lose")?;
        let bytes = lost.usage().await?.used;
        lost.shutdown().await?;
        self.time("repair", bytes).await
    }

    /// A node joins, and gets its part.
    pub(crate) async fn rebalance(&mut self) -> Result<Healing, Box<dyn Error>> {
        let used = self.used().await?;
        self.cluster.add().await?;
        self.time("rebalance", used / self.cluster.nodes.len() as u64).await
    }

    pub(crate) async fn close(self) -> Result<(), Box<dyn Error>> {
        self.cluster.close().await
    }

    async fn time(&self, op: &'static str, bytes: u64) -> Result<Healing, Box<dyn Error>> {
        let runtime = NativeRuntime::shared()?;
        let (started, before, rounds) = (Instant::now(), self.carried(), self.rounds());
        let (mut carried, mut first, mut last) = (before, None, Duration::ZERO);
        loop {
            if self.carried() > carried {
                carried = self.carried();
                last = started.elapsed();
                first = first.or(Some(last));
            }
            // The recount comes after the last byte, and has no part in the time.
            if first.is_some() && self.is_done(op, &rounds).await? {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{op} was not done after {PATIENCE:?}").into());
            }
            runtime.sleep(LOOK_EVERY).await;
        }
        let waited = first.unwrap_or(last);
        let budgets = self.cluster.nodes.iter().map(|node| node.care().bytes_per_second);
        Ok(Healing {
            network: self.network,
            op,
            nodes: self.cluster.nodes.len(),
            bytes,
            carried: self.carried().saturating_sub(before),
            waited,
            took: last.saturating_sub(waited),
            budget: budgets.sum::<u64>() / self.cluster.nodes.len() as u64,
        })
    }

    /// Whether a recount finds every margin full, or, after a node joined, the nodes find everything at home.
    async fn is_done(&self, op: &str, rounds: &[u64]) -> Result<bool, Box<dyn Error>> {
        if op == "rebalance" {
            let looked = |(number, node): (usize, &Mesh)| {
                // The round that was under way may have begun before.
                let before = rounds.get(number).copied().unwrap_or(0);
                let care = node.care();
                care.rounds > before + 1 && care.away == 0 && care.margins.open == 0
            };
            return Ok(self.cluster.nodes.iter().enumerate().all(looked));
        }
        for object in &self.objects {
            if !self.cluster.client.health(object).await?.is_full() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn rounds(&self) -> Vec<u64> {
        self.cluster.nodes.iter().map(|node| node.care().rounds).collect()
    }

    fn carried(&self) -> u64 {
        let carried = |node: &Mesh| {
            let metrics = node.metrics();
            metrics.repair_bytes_read + metrics.repair_bytes_written + metrics.bytes_moved
        };
        self.cluster.nodes.iter().map(carried).sum()
    }

    async fn used(&self) -> Result<u64, Box<dyn Error>> {
        let mut used = 0;
        for node in &self.cluster.nodes {
            used += node.usage().await?.used;
        }
        Ok(used)
    }
}
