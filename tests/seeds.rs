//! Runs the seed corpus of the fuzz targets through the same entry functions, on a stable compiler.
#![cfg(feature = "testing")]

use std::path::Path;

use datamesh_core::testing::fuzz;

/// Runs every seed of a target; fails where there is none, so that a lost folder is noticed.
fn run(target: &str, entry: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        entry(&std::fs::read(file.unwrap().path()).unwrap());
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds for {target}");
}

#[test]
fn layout() {
    run("layout", fuzz::layout);
}

#[test]
fn manifest() {
    run("manifest", fuzz::manifest);
}

#[test]
fn capability() {
    run("capability", fuzz::capability);
}

#[test]
fn ticket() {
    run("ticket", fuzz::ticket);
}

#[test]
fn message() {
    run("message", fuzz::message);
}
