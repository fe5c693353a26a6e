//! Planted bugs: the harness finds each of them. The table of kills is printed by
//! `cargo test -p datamesh-store --features planted,testing --test planted -- --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

#[path = "harness/mod.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod harness;

use std::io;

use datamesh_core::planted::{Bug, plant};
use datamesh_store::crash::Failure;

use self::harness::crash::{Plan, record, sweep};
use self::harness::damage::matrix;
use self::harness::errors::fail_at;
use self::harness::script::script;

/// Crash images that a bug may survive.
const MAX_IMAGES: u64 = 20_000;

/// Failing calls that a bug may survive.
const MAX_CALLS: u64 = 2000;

const BUGS: [Bug; 9] = [
    Bug::AckBeforeSync,
    Bug::ForgetVolumeSync,
    Bug::ForgetDirectorySync,
    Bug::ForgetRecordsSync,
    Bug::ForgetBlobIndex,
    Bug::SplitCommit,
    Bug::CompactBeforeCommit,
    Bug::GoOnAfterFailedSync,
    Bug::ServeUncheckedBlob,
];

/// A bug that was found.
struct Kill {
    check: &'static str,
    after: String,
    what: String,
}

fn by_crashes(images: &mut u64) -> Option<Kill> {
    for seed in 1.. {
        let kill = |after: u64, what| Kill {
            check: "crash_every_io",
            after: format!("{after} of {MAX_IMAGES} images"),
            what,
        };
        let (recording, world) = match record(&script(seed, 120)) {
            Ok(run) => run,
            // The script itself went wrong: a blob that cannot be read, say.
            Err(what) => return Some(kill(*images, what)),
        };
        match sweep(&recording, &world, &Plan { images: 1, deeper_every: 0, only: None, threads: 1 }) {
            Ok(report) => *images += report.images,
            Err(broken) => return Some(kill(*images + broken.report.images, broken.to_string())),
        }
        if *images > MAX_IMAGES {
            return None;
        }
    }
    None
}

fn by_errors() -> Option<Kill> {
    let script = script(1, 26);
    for call in 0..MAX_CALLS {
        match fail_at(&script, call, Failure::Error(io::ErrorKind::Other)) {
            Ok(met) if met.deed.is_none() => return None,
            Ok(_) => {}
            Err(what) => {
                let after = format!("{} of {MAX_CALLS} calls", call + 1);
                return Some(Kill { check: "io_error_every_call", after, what });
            }
        }
    }
    None
}

fn by_damage() -> Option<Kill> {
    let (cells, wrong) = matrix(1, 16 << 20).err()?;
    let after = format!("{} of {cells} faults", wrong.len());
    Some(Kill { check: "single_fault_matrix", after, what: wrong.into_iter().next().unwrap_or_default() })
}

fn hunt(bug: Bug) -> Option<Kill> {
    let _planted = plant(bug);
    // The check that is made for a bug comes first; the others would take longer.
    match bug {
        Bug::ServeUncheckedBlob => by_damage(),
        Bug::GoOnAfterFailedSync => by_errors(),
        _ => by_crashes(&mut 0),
    }
}

#[test]
fn every_planted_bug_is_found() {
    println!("{:<22} {:<20} {:<24} what it was", "bug", "found by", "after");
    let mut alive = Vec::new();
    for bug in BUGS {
        let name = format!("{bug:?}");
        match hunt(bug) {
            Some(Kill { check, after, what }) => {
                let what: String = what.chars().take(110).collect();
                println!("{name:<22} {check:<20} {after:<24} {what}");
            }
            None => {
                println!("{name:<22} survived");
                alive.push(name);
            }
        }
    }
    assert!(alive.is_empty(), "not found: {alive:?}");
}
