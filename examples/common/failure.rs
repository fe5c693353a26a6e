//! How a program says why it failed.

use std::error::Error;

/// Prints an error and what caused it.
pub(crate) fn tell(error: &(dyn Error + 'static)) {
    eprintln!("error: {error}");
    for cause in causes(error) {
        eprintln!("  because {cause}");
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
