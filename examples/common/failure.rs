//! How a program says why it failed.

use std::error::Error;
use std::io::{self, Write};

/// Prints an error and what caused it. Where nobody reads that, the exit status says it still.
pub(crate) fn tell(error: &(dyn Error + 'static)) {
    let mut out = io::stderr();
    let _ = writeln!(out, "error: {error}");
    for cause in causes(error) {
        let _ = writeln!(out, "  because {cause}");
    }
}

/// What caused an error, the nearest first.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes
}
