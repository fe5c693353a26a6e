//! How a node cares for what it keeps.

use std::time::Duration;

use crate::care::scrub::{DEFAULT_PERIOD, LEAST_PERIOD};

/// How a node looks after what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CareOptions {
    /// Within this time a node reads all that it holds once, and compares it with its names. 14 days by default, at
    /// least a minute.
    pub scrub_period: Duration,
}

impl Default for CareOptions {
    fn default() -> Self {
        Self { scrub_period: DEFAULT_PERIOD }
    }
}

impl CareOptions {
    /// Sets within which time a node reads all that it holds once.
    #[must_use]
    pub fn with_scrub_period(mut self, period: Duration) -> Self {
        self.scrub_period = period;
        self
    }

    /// What cannot be meant.
    pub(crate) fn problems(&self) -> Option<String> {
        let seconds = self.scrub_period.as_secs_f64();
        (self.scrub_period < LEAST_PERIOD).then(|| {
            format!("a scrub takes at least a minute for all that is held, {seconds} s were asked for")
        })
    }
}
