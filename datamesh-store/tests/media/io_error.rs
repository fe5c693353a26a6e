//! A medium that fails at every call in turn.

use std::io;

use datamesh_store::crash::Failure;

use super::harness::errors::{ends_writing, fail_at};
use super::harness::script::script;
use super::harness::setting;

const FAILURES: [Failure; 3] =
    [Failure::Error(io::ErrorKind::Other), Failure::Error(io::ErrorKind::StorageFull), Failure::Partial];

#[test]
fn io_error_every_call() {
    let seed = setting("DATAMESH_CRASH_SEED", 1);
    let script = script(seed, setting("DATAMESH_ERROR_STEPS", 26) as usize);
    let (mut runs, mut told) = (0, 0);
    for failure in FAILURES {
        // Every call fails in one way, every third in each of the others, in the large run every one in all.
        let is_first = matches!(failure, Failure::Error(io::ErrorKind::Other));
        let every = if is_first { 1 } else { setting("DATAMESH_ERROR_EVERY", 3) };
        for call in (0..).step_by(every as usize) {
            let met = fail_at(&script, call, failure)
                .unwrap_or_else(|what| panic!("seed {seed}: call {call} fails with {failure:?}: {what}"));
            let Some(deed) = met.deed else { break };
            runs += 1;
            told += u64::from(met.was_told);
            assert!(met.was_told || !ends_writing(deed), "{deed:?}, call {call}: nobody was told");
        }
    }
    println!("{runs} failing calls, {told} told the caller of the operation");
}
