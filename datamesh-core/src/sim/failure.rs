//! A run that broke a promise, as a value.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The first promise that a simulated run broke, and how to see it again.
///
/// `Display` gives the seed, what was broken, and the end of the trace where one was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// The options of the run, as text.
    pub options: String,
    /// The name of the invariant, or `hang` or `panic`.
    pub invariant: &'static str,
    /// What was seen, and what should have been.
    pub details: String,
    /// The virtual time at which it was seen.
    pub at: Duration,
    /// The last lines of the trace; empty unless it was asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let (seed, seconds) = (self.seed, self.at.as_secs_f64());
        write!(f, "seed {seed} broke {} after {seconds:.3} s: {}", self.invariant, self.details)?;
        write!(f, " (options: {}; run it again with this seed and these options)", self.options)
    }
}

impl StdError for Failure {}
