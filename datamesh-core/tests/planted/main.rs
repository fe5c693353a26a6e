//! Planted bugs, and what finds them: the campaigns of the simulator, with no check made for any one of them, and where
//! it takes a hostile writer, a scenario with one.
//!
//! `cargo test -p datamesh-core --features sim,planted --test planted -- --nocapture` prints the table; with
//! `DATAMESH_BUG=LeakPlace` campaigns hunt for that one only.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests fail by panicking, print what they did, and run seeds on threads"
)]

#[path = "../sim/audit.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod audit;
mod hostile;
#[path = "../sim/parts.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod parts;
#[path = "../sim/removal.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod removal;
#[path = "../sim/roles.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod roles;
#[path = "../sim/scrub.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod scrub;
#[path = "../sim/stories.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod stories;
#[path = "../sim/story.rs"]
#[allow(dead_code, reason = "shared with the simulator's other tests")]
mod story;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use datamesh_core::planted::{Bug, plant};
use datamesh_core::sim::{Campaign, Failure, Role, Summary};

/// What campaigns find, each with the seeds within which they must.
const FOUND_BY_CAMPAIGNS: [(Bug, u64); 14] = [
    (Bug::CountDataAcksAsEnough, 200),
    (Bug::SkipShardHash, 200),
    (Bug::TimeoutIsAbsence, 200),
    (Bug::SweepInFlight, 200),
    (Bug::ReuseNonce, 200),
    (Bug::HashOrderPlacement, 200),
    (Bug::IgnoreBudget, 200),
    (Bug::DropCleanUp, 200),
    (Bug::AcceptOlderRecord, 200),
    (Bug::LeakPlace, 200),
    (Bug::WrongSegment, 200),
    (Bug::AcknowledgeOneManifest, 200),
    (Bug::AcknowledgeBeforeCommit, 200),
    (Bug::KeepStaged, 200),
];

/// What campaigns cannot find, because none of their writers is hostile: each with the scenario that must find it with
/// the first seed.
const FOUND_BY_HOSTILE_WRITERS: [(Bug, Scenario); 3] = [
    (Bug::DeleteSharedShard, hostile::shards_of_two_objects),
    (Bug::SkipRebuiltCheck, hostile::two_objects_in_one),
    (Bug::SkipLastFlag, hostile::an_end_too_soon),
];

/// What care does wrong, each with the story that must find it and the seeds within which it must.
const FOUND_BY_CARE: [(Bug, &str, Story, u64); 7] = [
    (Bug::SuspectIsGone, "a lost node", stories::lost_node, 3),
    (Bug::UnreachableIsAbsent, "restarts", stories::restarts, 3),
    (Bug::EveryHolderRepairs, "a slow repair", stories::slow_repair, 3),
    (Bug::RepairedBeforeCommit, "a repair at once", stories::at_once, 3),
    (Bug::DeleteBeforeVerify, "a full newcomer", stories::full_newcomer, 3),
    (Bug::PingPong, "an unsteady node", stories::unsteady_node, 3),
    (Bug::IgnoreRepairBudget, "a slow repair", stories::slow_repair, 3),
];

/// Tells a story with a seed; an error says what did not hold.
type Story = fn(u64) -> Result<(), String>;

/// What takes longer than a campaign, or is not done in one: each with the story that must find it, and the seeds
/// within which it must.
const FOUND_BY_STORIES: [(Bug, Scenario, u64); 7] = [
    (Bug::AcceptAnyProof, audit::a_tenth_is_missed_within_a_day, 1),
    (Bug::ScrubKeepsRotten, scrub::rotten_shards_come_back, 1),
    (Bug::ForgetTombstone, removal::who_was_away_learns_of_removals, 3),
    (Bug::DropTombstoneSoon, removal::who_was_away_learns_of_removals, 3),
    (Bug::UnreachableIsAbsent, removal::extents_without_a_manifest_go, 3),
    (Bug::BelieveDistrusted, swapped_proofs_are_found_out, 3),
    (Bug::BelieveAccusers, roles::framers_achieve_nothing, 3),
];

fn swapped_proofs_are_found_out(seed: u64) -> Option<String> {
    roles::found_out(seed, Role::Swap, 8)
}

/// Plays with a seed, and says what was broken.
type Scenario = fn(u64) -> Option<String>;

fn run(seed: u64) -> Result<Summary, Failure> {
    Campaign::new(seed, parts::parts()).duration(Duration::from_secs(20 * 60)).run()
}

/// What a seed shows: a broken promise, or two runs that are not the same.
fn finding(seed: u64, twice: bool) -> Option<String> {
    match run(seed) {
        Err(failure) => Some(failure.invariant.to_owned()),
        Ok(summary) if twice => match run(seed) {
            Err(failure) => Some(failure.invariant.to_owned()),
            Ok(again) => (summary.trace_hash != again.trace_hash).then(|| "a seed decides everything".into()),
        },
        Ok(_) => None,
    }
}

/// The first of so many seeds that finds what is planted, and by what.
fn first_finding(seeds: u64, twice: bool) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, String)>));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || found.lock().unwrap().is_some() {
                        return;
                    }
                    if let Some(finding) = finding(seed, twice) {
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(other, _)| *other > seed) {
                            *found = Some((seed, finding));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    println!("{:<26} {:<34} seed  of", "bug", "found by");
    let only = std::env::var("DATAMESH_BUG").ok();
    for (bug, seeds) in FOUND_BY_CAMPAIGNS {
        let name = format!("{bug:?}");
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let planted = plant(bug);
        let found = first_finding(seeds, bug == Bug::HashOrderPlacement);
        drop(planted);
        match found {
            Some((seed, by)) => println!("{name:<26} {by:<34} {seed:<5} {seeds}"),
            None => {
                println!("{name:<26} {:<34} -     {seeds}", "NOTHING");
                missed.push(bug);
            }
        }
    }
    assert!(missed.is_empty(), "nothing found {missed:?}");
}

#[test]
fn hostile_writers_find_theirs() {
    for (bug, play) in FOUND_BY_HOSTILE_WRITERS {
        assert_eq!(play(0), None, "nothing is planted");
        let planted = plant(bug);
        let found = play(0);
        drop(planted);
        println!("{:<26} {:<34} 0     1", format!("{bug:?}"), found.as_deref().unwrap_or("NOTHING"));
        assert!(found.is_some(), "nothing found {bug:?}");
    }
}

#[test]
fn stories_of_care_find_theirs() {
    for (bug, name, story, seeds) in FOUND_BY_CARE {
        let planted = plant(bug);
        let found = (0..seeds).find_map(|seed| story(seed).err().map(|text| (seed, text)));
        drop(planted);
        let bug = format!("{bug:?}");
        let (seed, text) = found.unwrap_or_else(|| panic!("{name} did not find {bug} with {seeds} seeds"));
        println!("{bug:<26} {name:<34} {seed:<5} {seeds}  {text}");
    }
}

#[test]
fn stories_find_theirs() {
    for (bug, play, seeds) in FOUND_BY_STORIES {
        let planted = plant(bug);
        let found = (0..seeds).find_map(|seed| play(seed).map(|broken| (seed, broken)));
        drop(planted);
        let name = format!("{bug:?}");
        match found {
            Some((seed, broken)) => println!("{name:<26} {seed:<5} {seeds:<5} {broken}"),
            None => panic!("nothing found {bug:?}"),
        }
    }
}
