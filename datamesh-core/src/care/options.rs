//! How a node cares for what it keeps.

use std::time::Duration;

use crate::care::scrub::{DEFAULT_PERIOD, LEAST_PERIOD};
use crate::care::spread::HOUR;

/// The hours of a year, beyond which a removal that all know is not remembered.
const MAX_HOURS: usize = 24 * 365;

/// How a node cares for what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CareOptions {
    /// How long a node must be silent before it counts as gone and its shards are rebuilt on others. 10 minutes by
    /// default: a restart moves nothing.
    pub grace: Duration,
    /// The bytes that repair and rebalance move in a second, on this node. By default a fifth of what the fastest link
    /// was seen to carry, at least 1 MiB.
    pub bytes_per_second: Option<u64>,
    /// How often all extents are looked at when nothing gives reason to. An hour by default.
    pub survey_interval: Duration,
    /// How long a node must have been a member, unchanged, before shards are moved to it. 2 minutes by default.
    pub settle: Duration,
    /// Whether to begin paused. Not by default.
    pub paused: bool,
    /// Within this time the node reads all that it holds once, and compares it with its names. 14 days by default, at
    /// least ten seconds.
    pub scrub_period: Duration,
    /// How long the memory of a removal is kept at least; it is kept until every member that can hold data was told of
    /// it. A day by default, counted in full hours of the node's own time.
    pub tombstone_age: Duration,
    /// How long an extent waits for a manifest that names it, before it is given up. Seven days by default, counted in
    /// full hours of the node's own time; a put that takes more than half as long is refused at its end. Set it alike
    /// on all nodes.
    pub orphan_age: Duration,
}

impl Default for CareOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(600),
            bytes_per_second: None,
            survey_interval: Duration::from_secs(3600),
            settle: Duration::from_secs(120),
            paused: false,
            scrub_period: DEFAULT_PERIOD,
            tombstone_age: Duration::from_secs(24 * 3600),
            orphan_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl CareOptions {
    /// Sets how long a node must be silent before it counts as gone.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the bytes that repair and rebalance move in a second.
    #[must_use]
    pub fn with_bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }

    /// Sets how often all extents are looked at when nothing gives reason to.
    #[must_use]
    pub fn with_survey_interval(mut self, interval: Duration) -> Self {
        self.survey_interval = interval;
        self
    }

    /// Sets how long a node must have been a member before shards are moved to it.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Begins paused: nothing is repaired or moved before it is resumed.
    #[must_use]
    pub fn with_paused(mut self, paused: bool) -> Self {
        self.paused = paused;
        self
    }

    /// Sets within which time the node reads all that it holds once.
    #[must_use]
    pub fn with_scrub_period(mut self, period: Duration) -> Self {
        self.scrub_period = period;
        self
    }

    /// Sets how long the memory of a removal is kept at least.
    #[must_use]
    pub fn with_tombstone_age(mut self, age: Duration) -> Self {
        self.tombstone_age = age;
        self
    }

    /// Sets how long an extent waits for a manifest that names it.
    #[must_use]
    pub fn with_orphan_age(mut self, age: Duration) -> Self {
        self.orphan_age = age;
        self
    }

    pub(super) fn tombstone_hours(&self) -> usize {
        usize::try_from(hours(self.tombstone_age)).unwrap_or(usize::MAX).min(MAX_HOURS)
    }

    pub(super) fn orphan_hours(&self) -> u64 {
        hours(self.orphan_age)
    }

    /// How long a put may take, so that none of its extents is given up before its manifest comes.
    pub(crate) fn put_limit(&self) -> Duration {
        self.orphan_age / 2
    }

    /// What cannot be meant.
    pub(crate) fn problems(&self) -> Vec<String> {
        let least = [
            (self.scrub_period, LEAST_PERIOD, "a scrub takes"),
            (self.tombstone_age, HOUR, "a removal is remembered for"),
            (self.orphan_age, HOUR, "an extent waits for its manifest for"),
        ];
        let short = least.into_iter().filter(|(asked, least, _)| asked < least);
        let text = |(asked, least, what): (Duration, Duration, &str)| {
            format!("{what} at least {} s, {} s were asked for", least.as_secs(), asked.as_secs_f64())
        };
        short.map(text).collect()
    }
}

/// The full hours of an age, and one more where it has a part of one.
fn hours(age: Duration) -> u64 {
    age.as_secs().div_ceil(HOUR.as_secs())
}
