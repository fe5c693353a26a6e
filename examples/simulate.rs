//! Runs the engine for simulated hours, seed after seed, while nodes crash, links break and disks rot; checks that no
//! acknowledged byte is lost and no wrong byte is read.
//!
//! `cargo run --release --example simulate -- --nodes 9 --hours 24 --seeds 100`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints what it found")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use datamesh::sim::{self, Campaign, Failure, Misfortune, Summary};
use indicatif::{ProgressBar, ProgressStyle};

/// Simulates a mesh under faults, and checks every promise that it makes.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Options {
    /// How many nodes each mesh has; 3 to 9, as the seed says, where this is not given.
    #[arg(long)]
    nodes: Option<usize>,
    /// For how long faults befall each mesh, in simulated hours.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// How many seeds are run.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// The kinds of fault that there may be, with commas between; `none`, or `all`.
    #[arg(long, default_value = "all", value_delimiter = ',')]
    faults: Vec<String>,
    /// How many seeds run at a time; as many as there are cores where this is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Print the last events before a failure.
    #[arg(long)]
    trace: bool,
    /// Print one JSON value instead of text.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    if options.nodes == Some(0) || !(0.0..=1e6).contains(&options.hours) {
        return Err("give at least one node, and 0 to 1000000 hours".into());
    }
    let faults = faults(&options.faults)?;
    let began = Instant::now();
    let (summary, failure) = run(&options, &faults);
    let took = began.elapsed();
    if options.json {
        println!("{}", json(&summary, failure.as_ref(), took));
    } else {
        report(&summary, took);
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => {
            eprintln!("{failure}\nrun it again: {}", again(&options, failure.seed));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The faults that these words name.
fn faults(words: &[String]) -> Result<Vec<Misfortune>, Box<dyn Error>> {
    let mut chosen = Vec::new();
    for word in words {
        match word.as_str() {
            "all" => chosen.extend(Misfortune::ALL),
            "none" => {}
            word => chosen.push(Misfortune::ALL.into_iter().find(|fault| fault.name() == word).ok_or_else(
                || {
                    let known: Vec<&str> = Misfortune::ALL.iter().map(|fault| fault.name()).collect();
                    format!("no fault is called {word:?}; there are: {}", known.join(", "))
                },
            )?),
        }
    }
    Ok(chosen)
}

fn campaign(options: &Options, faults: &[Misfortune], seed: u64) -> Campaign {
    let campaign = sim::campaign(seed)
        .duration(Duration::from_secs_f64(options.hours * 3600.0))
        .misfortunes(faults.iter().copied())
        .trace(options.trace);
    match options.nodes {
        Some(nodes) => campaign.nodes(nodes),
        None => campaign,
    }
}

/// Runs the seeds until one fails; what was done before counts in either case.
fn run(options: &Options, faults: &[Misfortune]) -> (Summary, Option<Failure>) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let bar = ProgressBar::new(options.seeds);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {elapsed}, {eta} left") {
        bar.set_style(style);
    }
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let outcome = Mutex::new((Summary::default(), None::<Failure>));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= options.seeds || failed.load(Ordering::Relaxed) {
                return;
            }
            let run = campaign(options, faults, options.first_seed.saturating_add(index)).run();
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match run {
                Ok(summary) => outcome.0.add(&summary),
                Err(failure) => {
                    failed.store(true, Ordering::Relaxed);
                    outcome.1.get_or_insert(failure);
                }
            }
            bar.inc(1);
        }
    };
    thread::scope(|scope| {
        for _ in 0..options.threads.unwrap_or(cores).max(1) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn report(summary: &Summary, took: Duration) {
    print!("{summary}");
    println!(
        "{:.0} simulated hours in each real second, {:.0} events in each second",
        hours_each_second(summary, took),
        summary.events as f64 / took.as_secs_f64()
    );
}

fn hours_each_second(summary: &Summary, took: Duration) -> f64 {
    summary.simulated.as_secs_f64() / 3600.0 / took.as_secs_f64()
}

fn json(summary: &Summary, failure: Option<&Failure>, took: Duration) -> serde_json::Value {
    serde_json::json!({
        "operations": summary.operations,
        "faults": summary.misfortunes,
        "objects": summary.objects,
        "bytes_put": summary.bytes_put,
        "bytes_lost": summary.bytes_lost,
        "simulated_hours": summary.simulated.as_secs_f64() / 3600.0,
        "seconds": took.as_secs_f64(),
        "simulated_hours_each_second": hours_each_second(summary, took),
        "events": summary.events,
        "trace_hash": summary.trace_hash,
        "failure": failure.map(|failure| serde_json::json!({
            "seed": failure.seed,
            "invariant": failure.invariant,
            "details": failure.details,
        })),
    })
}

/// The command that runs one seed again.
fn again(options: &Options, seed: u64) -> String {
    let nodes = options.nodes.map_or_else(String::new, |nodes| format!(" --nodes {nodes}"));
    format!(
        "cargo run --release --example simulate --{nodes} --hours {} --faults {} --first-seed {seed} --seeds 1 --trace",
        options.hours,
        options.faults.join(",")
    )
}
