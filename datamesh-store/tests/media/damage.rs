//! Every stored structure under every fault of the medium.

use super::harness::damage::{Fault, Outcome, matrix};
use super::harness::setting;

#[test]
fn single_fault_matrix() {
    let seed = setting("DATAMESH_CRASH_SEED", 1);
    let matrix = matrix(seed, 16 << 20).unwrap_or_else(|(cells, wrong)| {
        panic!("seed {seed}: {} of {cells} faults:\n{}", wrong.len(), wrong.join("\n"))
    });
    for ((structure, fault), outcomes) in &matrix {
        println!("{structure:>20} {fault:?}: {outcomes:?}");
    }
    for fault in [Fault::Zeroed, Fault::FlippedBit, Fault::Garbage, Fault::Truncated, Fault::Misdirected] {
        let outcomes = &matrix[&("shard body", fault)];
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), [&Outcome::Reported], "{fault:?} of a shard's body");
    }
}

/// Says to a process of its own that it is to go through the matrix.
const ALONE: &str = "DATAMESH_DAMAGE_ALONE";

/// What the matrix proves of a records file that is too long to be looked through: rows may be hidden by a damaged
/// page, but none has wrong bytes.
///
/// Of what is damaged redb panics, which a store reports; seldom, by the names in the file, it panics once more while it
/// unwinds, and that ends the process. So it has one of its own, and another try.
#[test]
fn without_the_look_through_rows_hide_and_are_never_wrong() {
    if std::env::var(ALONE).is_err() {
        let alone = || {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "damage::without_the_look_through_rows_hide_and_are_never_wrong"])
                .env(ALONE, "1")
                .status()
                .unwrap()
        };
        let ended = (0..3).map(|_| alone()).find(|ended| ended.code().is_some());
        return assert!(ended.is_some_and(|ended| ended.success()), "{ended:?}");
    }
    let (_, wrong) = matrix(setting("DATAMESH_CRASH_SEED", 1), 0).expect_err("some page hides rows");
    println!("{}", wrong.join("\n"));
    for what in wrong {
        assert!(!what.contains("wrong bytes"), "{what}");
    }
}
