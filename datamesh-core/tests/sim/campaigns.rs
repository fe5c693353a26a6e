//! Random work under random misfortunes, for many seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datamesh_core::sim::{Campaign, Failure, Progress, Summary};

use crate::parts::parts;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How often a run tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Tells now and then how far a run of a seed is: those of a thousand nodes take minutes.
#[expect(clippy::print_stderr, reason = "a long test shows that it goes on")]
fn teller(seed: u64) -> impl Fn(Progress) + Send + Sync + 'static {
    let (began, told) = (Instant::now(), Mutex::new(Instant::now()));
    move |progress| {
        let mut told = told.lock().unwrap();
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            let (simulated, took) = (progress.simulated.as_secs_f64(), began.elapsed().as_secs());
            eprintln!("seed {seed}: {simulated:.1} s simulated, {} events, in {took} s", progress.events);
        }
    }
}

/// The campaign of a seed, for twenty virtual minutes or as many as `DATAMESH_MINUTES` says.
fn campaign(seed: u64) -> Campaign {
    let minutes = number("DATAMESH_MINUTES").unwrap_or(20);
    let campaign = Campaign::new(seed, parts()).duration(Duration::from_secs(60 * minutes));
    let campaign = campaign.progress(teller(seed));
    match number("DATAMESH_NODES") {
        Some(nodes) => campaign.nodes(nodes as usize),
        None => campaign,
    }
}

/// Runs these seeds on two threads and joins what they did.
fn run(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> Result<Summary, Failure> + Sync) -> Summary {
    let (next, total) = (AtomicU64::new(seeds.start), Mutex::new(Ok(Summary::default())));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || total.lock().unwrap().is_err() {
                        return;
                    }
                    let run = run(seed);
                    let mut total = total.lock().unwrap();
                    match run {
                        Ok(summary) => drop(total.as_mut().map(|total| total.add(&summary))),
                        Err(failure) => *total = Err(failure),
                    }
                }
            });
        }
    });
    let total: Result<Summary, Failure> = total.into_inner().unwrap();
    total.unwrap_or_else(|failure| panic!("{}", replay_command(&failure)))
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
    let began = Instant::now();
    let summary = run(first..first + seeds, |seed| campaign(seed).run());
    println!("{seeds} seeds in {:.1} s: {summary}", began.elapsed().as_secs_f64());
}

#[test]
fn every_promise_is_kept_by_fifty_nodes() {
    let seeds = number("DATAMESH_LARGE_SEEDS").unwrap_or(1);
    let began = Instant::now();
    let summary = run(0..seeds, |seed| campaign(seed).nodes(50).run());
    println!("{seeds} seeds in {:.1} s: {summary}", began.elapsed().as_secs_f64());
}

/// Runs seeds twice. The hashes are printed, so that those of a debug and of a release build can be compared.
#[test]
fn a_seed_decides_everything() {
    let pairs = number("DATAMESH_PAIRS").unwrap_or(4);
    run(0..pairs, |seed| {
        let (first, second) = (campaign(seed).run()?, campaign(seed).run()?);
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        println!("trace of seed {seed}: {}", first.trace_hash);
        Ok(first)
    });
}

/// Seeds that once broke a promise, and for how many minutes they ran. In the first four a node that had lost its
/// disk signed records that its old ones outranked, so that members never agreed (i5). In 162 a holder that lacked a
/// shard waited its turn to bring it back, and the others, who had last seen that all was well, did not look (i8). In
/// 405 a node called rotten what a crash had left of a write that nobody was told of (i9). In 2862 a node that had
/// lost its disk was opened without an address to join by, took itself for the whole mesh, and called what others
/// held not found (i4). In 55 and 60 a node that had been away, and was asked once before and once after, counted as
/// gone for an hour more (i8). In 72 a node with a full disk did not renew the record that it had forgotten (i5).
const FOUND: [(u64, u64); 10] =
    [(12, 60), (14, 60), (17, 60), (24, 60), (162, 15), (405, 15), (2862, 15), (55, 60), (60, 60), (72, 60)];

#[test]
fn what_was_found_stays_mended() {
    let summary = run(0..FOUND.len() as u64, |at| {
        let (seed, minutes) = FOUND[at as usize];
        campaign(seed).duration(Duration::from_secs(60 * minutes)).run()
    });
    assert!(summary.events > 0);
}

/// Runs one seed again, with the trace where `DATAMESH_TRACE` is set.
#[test]
fn replay() {
    let Some(seed) = number("DATAMESH_SEED") else { return };
    let run = campaign(seed).trace(number("DATAMESH_TRACE").is_some()).run();
    println!("{}", run.unwrap_or_else(|failure| panic!("{}", replay_command(&failure))));
}
