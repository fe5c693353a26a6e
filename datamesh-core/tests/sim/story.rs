//! Stories: what happens to a small mesh, and what must come of it. The same ones are told with bugs planted.

use datamesh_core::sim::{SimBuilder, SimMesh};
use datamesh_core::{Error, ErrorKind, Result};

/// Tells a story, and says what was broken.
pub(crate) fn tell<F: Future<Output = Result<()>>>(
    builder: SimBuilder,
    story: impl FnOnce(SimMesh) -> F,
) -> Option<String> {
    let sim = match builder.open() {
        Ok(sim) => sim,
        Err(failure) => return Some(failure.to_string()),
    };
    match sim.run(story(sim.clone())) {
        Ok(told) => told.err().map(|error| error.to_string()),
        Err(failure) => Some(failure.to_string()),
    }
}

/// What must be so.
pub(crate) fn must(is_so: bool, what: impl Into<String>) -> Result<()> {
    if is_so { Ok(()) } else { Err(Error::new(ErrorKind::Corrupt, what)) }
}
