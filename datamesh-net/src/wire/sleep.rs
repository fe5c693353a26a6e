//! Whether the machine slept.
//!
//! Timers stand still while a machine sleeps, so connections look fresh when it wakes, though their peers gave them
//! up long ago. The wall clock cannot tell: it is set by hand and over the network.

use std::time::Duration;

/// A sleep after which peers have given up the connections: two of their pings in a row went unanswered meanwhile.
const LONG: Duration = Duration::from_secs(30);

/// Notes how long the machine has slept.
#[derive(Debug)]
pub(crate) struct Sleep {
    asleep: Duration,
}

impl Sleep {
    pub(crate) fn begin() -> Self {
        Self { asleep: asleep_in_all() }
    }

    /// Whether the machine slept long since the last look, given how long it has been asleep in all.
    pub(crate) fn was_long(&mut self, asleep: Duration) -> bool {
        let slept = asleep.saturating_sub(self.asleep);
        if slept < LONG {
            // Short sleeps add up; at worst peers are dialled anew once more than they need be.
            return false;
        }
        self.asleep = asleep;
        true
    }
}

/// How long the machine has been asleep since it was started; nothing where the system does not tell.
pub(crate) fn asleep_in_all() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::time::{ClockId, clock_gettime};
        let now = |clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
        };
        // The one clock goes on in sleep, the other does not.
        let awake = now(ClockId::Monotonic);
        now(ClockId::Boottime).saturating_sub(awake)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_sleep_counts_and_it_counts_once() {
        let mut sleep = Sleep { asleep: Duration::from_secs(100) };
        let looks =
            [(100, false), (129, false), (130, true), (130, false), (159, false), (3760, true), (0, false)];
        for (seconds, long) in looks {
            assert_eq!(sleep.was_long(Duration::from_secs(seconds)), long, "{seconds}");
        }
        let mut now = Sleep::begin();
        assert!(!now.was_long(asleep_in_all()));
    }
}
