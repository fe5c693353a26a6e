//! Power cuts: what was acknowledged is there, what was not is absent or whole.

use std::time::Instant;

use super::harness::crash::{Plan, record, sweep};
use super::harness::script::script;
use super::harness::setting;

/// The usual run takes every point, and one random image of each kind. The large one is
/// `DATAMESH_CRASH_DEPTH=2 DATAMESH_CRASH_IMAGES=20 cargo test --release -p datamesh-store --features testing
/// --test media -- --nocapture crash_every_io`.
#[test]
fn crash_every_io() {
    let began = Instant::now();
    let seed = setting("DATAMESH_CRASH_SEED", 1);
    let steps = setting("DATAMESH_CRASH_STEPS", 200);
    let images = setting("DATAMESH_CRASH_IMAGES", 1);
    let depth = setting("DATAMESH_CRASH_DEPTH", 1);
    // The usual run looks at the recovery of a sample, the large one at one image of each kind at each point.
    let usual = if depth > 1 { 2 * images + 2 } else { 499 };
    let deeper_every = setting("DATAMESH_CRASH_DEEPER_EVERY", usual);
    let only = std::env::var("DATAMESH_CRASH_POINT").ok().map(|point| point.parse().unwrap());
    let (recording, world) = record(&script(seed, steps as usize)).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan { images, deeper_every, only, threads };
    match sweep(&recording, &world, &plan) {
        Ok(report) => println!(
            "{} commits, {} points, {report:?} in {:?}",
            world.states.len() - 1,
            recording.points(),
            began.elapsed()
        ),
        Err(broken) => panic!(
            "{broken}\nagain: DATAMESH_CRASH_SEED={seed} DATAMESH_CRASH_STEPS={steps} DATAMESH_CRASH_IMAGES={images} \
             DATAMESH_CRASH_POINT={} cargo test -p datamesh-store --features testing --test media -- crash_every_io",
            broken.point
        ),
    }
}
