//! A clock that goes wrong when a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::Result;
use crate::ports::{Instant, Job, Runtime, Task, Timestamp};

/// A runtime whose wall clock is off; everything else is that of another one.
#[derive(Debug)]
pub struct ShiftedClock {
    runtime: Arc<dyn Runtime>,
    milliseconds: AtomicI64,
}

impl ShiftedClock {
    /// A runtime whose wall clock is ahead of another's by so many milliseconds, or behind it.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, milliseconds: i64) -> Self {
        Self { runtime, milliseconds: AtomicI64::new(milliseconds) }
    }

    /// Sets the clock anew, counted from the other's.
    pub fn set(&self, milliseconds: i64) {
        self.milliseconds.store(milliseconds, Ordering::Relaxed);
    }
}

impl Runtime for ShiftedClock {
    fn spawn(&self, task: Task) -> Result<()> {
        self.runtime.spawn(task)
    }

    fn spawn_blocking(&self, job: Job) -> Result<()> {
        self.runtime.spawn_blocking(job)
    }

    fn sleep_until(&self, deadline: Instant) -> Task {
        self.runtime.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn wall_time(&self) -> Timestamp {
        let by = self.milliseconds.load(Ordering::Relaxed);
        Timestamp(self.runtime.wall_time().0.saturating_add_signed(by))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        self.runtime.fill_random(bytes)
    }

    fn parallelism(&self) -> usize {
        self.runtime.parallelism()
    }
}
