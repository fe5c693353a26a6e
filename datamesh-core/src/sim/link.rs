//! How links carry.

use std::time::Duration;

/// How a link carries packets from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The least time a packet takes. 500 us by default.
    pub latency: Duration,
    /// How much longer it may take; packets overtake each other within that. 500 us by default.
    pub jitter: Duration,
    /// How many packets in a thousand are lost and sent again. None by default.
    pub loss_per_mille: u64,
    /// Bytes that it carries in a second. 125,000,000 by default, a gigabit.
    pub bytes_per_second: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(500),
            jitter: Duration::from_micros(500),
            loss_per_mille: 0,
            bytes_per_second: 125_000_000,
        }
    }
}

impl Link {
    /// Sets the least time that a packet takes.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Sets how much longer a packet may take.
    #[must_use]
    pub fn with_jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets how many packets in a thousand are lost and sent again.
    #[must_use]
    pub fn with_loss_per_mille(mut self, loss: u64) -> Self {
        self.loss_per_mille = loss;
        self
    }

    /// Sets how many bytes it carries in a second.
    #[must_use]
    pub fn with_bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = bytes;
        self
    }
}
