//! Runs the seed corpus of the fuzz targets through the same entry functions, on a stable compiler.
#![cfg(feature = "testing")]

use std::path::Path;

use datamesh_core::testing::fuzz;

/// Runs every seed of a target; fails where there is none, so that a lost folder is noticed.
fn run(target: &str, entry: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let seeds = read_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    assert!(!seeds.is_empty(), "no seeds for {target}");
    seeds.iter().for_each(|seed| entry(seed));
}

fn read_all(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    std::fs::read_dir(folder)?.map(|file| std::fs::read(file?.path())).collect()
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
fn admission() {
    run("admission", fuzz::admission);
}

#[test]
fn message() {
    run("message", fuzz::message);
}

#[test]
fn every_request_and_reply_is_a_seed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hex = |seed: Vec<u8>| seed.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let seeds = read_all(&root.join("fuzz/corpus/message")).unwrap();
    let seeds: Vec<String> = seeds.into_iter().map(hex).collect();
    for file in ["requests.hex", "replies.hex"] {
        let heads = std::fs::read_to_string(root.join("datamesh-core/tests/golden").join(file)).unwrap();
        for line in heads.lines() {
            let (name, head) = line.split_once(' ').unwrap();
            assert!(seeds.iter().any(|seed| seed == head), "{name} of {file}");
        }
    }
}

#[test]
fn announcement() {
    run("announcement", fuzz::announcement);
}

#[test]
fn mesh_keys() {
    run("mesh_keys", fuzz::mesh_keys);
}

#[test]
fn stored() {
    run("stored", fuzz::stored);
}

#[test]
fn shard_proof() {
    run("shard_proof", fuzz::shard_proof);
}

#[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
#[test]
fn frames() {
    run("frames", datamesh_net::fuzz::frames);
}

#[cfg(feature = "libp2p")]
#[test]
fn network_proof() {
    run("network_proof", datamesh_net::fuzz::network_proof);
}

#[cfg(all(feature = "local", unix))]
#[test]
fn local_proof() {
    run("local_proof", datamesh_net::fuzz::local_proof);
}

#[test]
fn erasure_decode() {
    run("erasure_decode", datamesh_store::fuzz::fuzz_erasure_decode);
}

#[cfg(feature = "disk")]
#[test]
fn store_file() {
    run("store_file", datamesh_store::fuzz::fuzz_store_file);
}
