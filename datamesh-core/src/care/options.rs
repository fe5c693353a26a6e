//! How a node cares for what it keeps.

use std::time::Duration;

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
}

impl Default for CareOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(600),
            bytes_per_second: None,
            survey_interval: Duration::from_secs(3600),
            settle: Duration::from_secs(120),
            paused: false,
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
}
