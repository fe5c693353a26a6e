//! Measures puts and gets against what the pure pipeline can do on the same machine in the same run.
//!
//! A client and some nodes, all in this process: over the in-process network with memory stores, and over local
//! sockets and libp2p on loopback with disk stores. `--size 10737418240` shows how much memory a very large object
//! takes.
//!
//! `--ways` sets the ways between two nodes side by side: what messages cost, with no store and no cipher of objects.
//!
//! `--care BYTES` measures instead how long it takes eight nodes that hold so many bytes of objects to make good
//! the loss of one, and to give one that joins its part, beside the time in which one node would copy as much at
//! its budget.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints its figures")]

mod ceiling;
mod generated;
mod healing;
mod measure;
mod nodes;
mod ways;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use datamesh::{CareOptions, Redundancy};
use futures::executor::block_on;

use healing::{Healing, Trial};
use measure::{Plan, Row};
use nodes::{Cluster, Network};
use ways::Way;

/// What is measured unless one size is asked for.
const SIZES: [u64; 3] = [4 << 10, 1 << 20, 256 << 20];

/// Puts and gets, in MB/s and ms, with CPU seconds, peak memory, and the ceiling of the pure pipeline.
#[derive(Debug, Parser)]
#[command(name = "benchmark")]
struct Options {
    /// Print one JSON value instead of a table.
    #[arg(long)]
    json: bool,
    /// Measure this size only, in bytes.
    #[arg(long)]
    size: Option<u64>,
    /// How many nodes hold data.
    #[arg(long, default_value_t = 6)]
    nodes: usize,
    /// Measure this network only; by default in-process, local sockets and libp2p over TCP.
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// For how long each row is measured, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure repair and rebalance only, of objects of so many bytes in all.
    #[arg(long, value_name = "BYTES")]
    care: Option<u64>,
    /// What each node may move then, in bytes a second; by default a fifth of what its fastest link carries.
    #[arg(long, value_name = "BYTES", requires = "care")]
    budget: Option<u64>,
    /// Measure what each way between two nodes costs, with nothing behind it.
    #[arg(long, conflicts_with = "care")]
    ways: bool,
    /// Where the disk stores are made; by default the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if options.nodes == 0 {
        return Err("at least one node must hold data".into());
    }
    if options.ways {
        let ways = block_on(ways::all(Duration::from_secs_f64(options.seconds)))?;
        match options.json {
            true => print_json(ways.iter().map(Way::to_json)),
            false => Way::print_table(&ways),
        }
        return Ok(());
    }
    if let Some(bytes) = options.care {
        let rows = block_on(heal(&options, bytes))?;
        match options.json {
            true => print_json(rows.iter().map(Healing::to_json)),
            false => Healing::print_table(&rows),
        }
        return Ok(());
    }
    let rows = block_on(run(&options))?;
    match options.json {
        true => print_json(rows.iter().map(Row::to_json)),
        false => Row::print_table(&rows),
    }
    Ok(())
}

fn print_json(rows: impl Iterator<Item = serde_json::Value>) {
    println!("{}", serde_json::json!({ "results": rows.collect::<Vec<_>>() }));
}

fn networks(options: &Options) -> Vec<Network> {
    options.network.map_or_else(|| vec![Network::InProcess, Network::Local, Network::Libp2p], |one| vec![one])
}

async fn heal(options: &Options, bytes: u64) -> Result<Vec<Healing>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for network in networks(options).into_iter().filter(|network| network.has_memory_for(bytes)) {
        let care = healing::care(options.budget);
        let cluster = Cluster::open(network, healing::NODES, options.dir.as_deref(), care).await?;
        let mut trial = Trial::open(network, bytes, cluster).await?;
        rows.push(trial.repair().await?);
        rows.push(trial.rebalance().await?);
        trial.close().await?;
    }
    Ok(rows)
}

async fn run(options: &Options) -> Result<Vec<Row>, Box<dyn Error>> {
    let sizes = options.size.map_or_else(|| SIZES.to_vec(), |size| vec![size]);
    let lost = options.nodes.saturating_sub(1).min(Redundancy::STANDARD.parity());
    let mut rows = Vec::new();
    for network in networks(options) {
        let sizes: Vec<u64> = sizes.iter().copied().filter(|size| network.has_memory_for(*size)).collect();
        if sizes.is_empty() {
            continue;
        }
        let mut cluster =
            Cluster::open(network, options.nodes, options.dir.as_deref(), CareOptions::default()).await?;
        let mut plan = Plan::new(network, Duration::from_secs_f64(options.seconds))?;
        for size in &sizes {
            plan.put(&cluster, *size, 0).await?;
            plan.get(&cluster, *size, 0).await?;
        }
        if lost > 0 {
            cluster.stop(lost).await?;
            for size in &sizes {
                plan.get(&cluster, *size, lost).await?;
                plan.put(&cluster, *size, lost).await?;
            }
        }
        rows.append(&mut plan.rows);
        cluster.close().await?;
    }
    Ok(rows)
}
