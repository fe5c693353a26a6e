//! How many bytes care moves in a second, so that users of the mesh do not feel it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::peers::Peers;
use crate::planted::{Bug, is_active};
use crate::ports::{Instant, Runtime};

/// Of the fastest link that was measured, this share is for care, in percent.
const SHARE_PERCENT: u64 = 20;

/// The least that care takes where it measures for itself, in bytes a second: an object that is in danger does not wait
/// because nobody has used the mesh yet, and a link that carries less is full all the same.
const LEAST: u64 = 1 << 20;

/// Up to so much is taken at once after a pause.
const BURST: Duration = Duration::from_secs(1);

/// Tokens that come in at a rate, and may be overdrawn by one taking: whoever takes then waits.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When all that was taken will have been earned.
    paid_until: Instant,
}

impl Bucket {
    /// Takes bytes and says until when to wait before they are used.
    fn take(&mut self, bytes: u64, rate: u64, now: Instant) -> Instant {
        let start = self.paid_until.max(Instant::from_start(now.since_start().saturating_sub(BURST)));
        let nanos = u128::from(bytes).saturating_mul(1_000_000_000) / u128::from(rate.max(1));
        self.paid_until = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_until
    }
}

/// See the module. A clone is the same pace.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    runtime: Arc<dyn Runtime>,
    peers: Arc<Peers>,
    /// What the user set; measured where that is nothing.
    fixed: Option<u64>,
    bucket: Arc<Mutex<Bucket>>,
}

impl Pace {
    pub(crate) fn new(runtime: &Arc<dyn Runtime>, peers: &Arc<Peers>, fixed: Option<u64>) -> Self {
        let bucket = Bucket { paid_until: Instant::default() };
        let (runtime, peers) = (Arc::clone(runtime), Arc::clone(peers));
        Self { runtime, peers, fixed, bucket: Arc::new(Mutex::new(bucket)) }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that may be moved in a second.
    pub(crate) fn rate(&self) -> u64 {
        self.fixed.unwrap_or_else(|| (self.peers.goodput() / 100).saturating_mul(SHARE_PERCENT).max(LEAST))
    }

    /// Waits until so many bytes may be moved, behind all that were asked for before.
    ///
    /// Dropping the future leaves them taken.
    pub(crate) async fn take(&self, bytes: u64) {
        if is_active(Bug::IgnoreRepairBudget) {
            return;
        }
        let (rate, now) = (self.rate(), self.runtime.now());
        let until = self.bucket().take(bytes, rate, now);
        if until > now {
            self.runtime.sleep_until(until).await;
        }
    }

    /// How long so many bytes will take.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.rate().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn what_is_taken_is_paid_for_at_the_rate() {
        let mut bucket = Bucket { paid_until: Instant::default() };
        // A second's worth is there after a pause.
        assert_eq!(bucket.take(1000, 1000, at(10_000)), at(10_000));
        assert_eq!(bucket.take(500, 1000, at(10_000)), at(10_500));
        assert_eq!(bucket.take(500, 1000, at(10_000)), at(11_000), "those behind wait longer");
        assert_eq!(bucket.take(1000, 1000, at(60_000)), at(60_000), "no more than a second's worth is saved");
        assert_eq!(bucket.take(1, 1000, at(60_000)), at(60_001));
    }

    #[test]
    fn huge_takings_do_not_overflow() {
        let mut bucket = Bucket { paid_until: at(5) };
        assert!(bucket.take(u64::MAX, 0, at(5)) > at(5));
        assert!(bucket.take(u64::MAX, 1, at(5)) > at(5));
    }
}
