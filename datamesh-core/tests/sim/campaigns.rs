//! Random work under random misfortunes, for many seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datamesh_core::sim::{Campaign, Failure, Summary};

use crate::parts::parts;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn campaign(seed: u64) -> Campaign {
    let campaign = Campaign::new(seed, parts());
    match number("DATAMESH_NODES") {
        Some(nodes) => campaign.nodes(nodes as usize),
        None => campaign,
    }
}

/// Runs these seeds on two threads and joins what they did.
fn run(seeds: std::ops::Range<u64>, duration: Duration) -> Result<Summary, Failure> {
    let (next, total) = (AtomicU64::new(seeds.start), Mutex::new(Ok(Summary::default())));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || total.lock().unwrap().is_err() {
                        return;
                    }
                    let run = campaign(seed).duration(duration).run();
                    let mut total = total.lock().unwrap();
                    match run {
                        Ok(summary) => drop(total.as_mut().map(|total| total.add(&summary))),
                        Err(failure) => *total = Err(failure),
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}

/// How a failure is shown: with the one command that runs it again.
fn replay_command(failure: &Failure) -> String {
    format!(
        "{failure}\nreplay: DATAMESH_SEED={} cargo test -p datamesh-core --features sim --test sim -- replay --nocapture",
        failure.seed
    )
}

#[test]
fn every_promise_is_kept() {
    let seeds = number("DATAMESH_SEEDS").unwrap_or(12);
    let first = number("DATAMESH_FIRST_SEED").unwrap_or(0);
    let minutes = number("DATAMESH_MINUTES").unwrap_or(20);
    let began = Instant::now();
    let summary = run(first..first + seeds, Duration::from_secs(60 * minutes));
    let summary = summary.unwrap_or_else(|failure| panic!("{}", replay_command(&failure)));
    println!("{seeds} seeds in {:.1} s: {summary}", began.elapsed().as_secs_f64());
}

/// Runs one seed again, with the trace where `DATAMESH_TRACE` is set.
#[test]
fn replay() {
    let Some(seed) = number("DATAMESH_SEED") else { return };
    let minutes = number("DATAMESH_MINUTES").unwrap_or(20);
    let campaign = campaign(seed).duration(Duration::from_secs(60 * minutes));
    let run = campaign.trace(number("DATAMESH_TRACE").is_some()).run();
    println!("{}", run.unwrap_or_else(|failure| panic!("{}", replay_command(&failure))));
}
