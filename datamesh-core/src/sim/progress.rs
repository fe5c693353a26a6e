//! How far a run is, told while it goes on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How many polls lie between two tellings: some tens of a second.
const TELL_EVERY: u64 = 1 << 16;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The virtual time since the beginning.
    pub simulated: Duration,
    /// Events of the simulator so far.
    pub events: u64,
}

/// Who wants to know.
#[derive(Clone)]
pub(super) struct Watcher(Arc<dyn Fn(Progress) + Send + Sync>);

impl Watcher {
    pub(super) fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells it where this many polls are a round number.
    pub(super) fn tell(&self, polls: u64, progress: impl FnOnce() -> Progress) {
        if polls.is_multiple_of(TELL_EVERY) {
            (self.0)(progress());
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}
