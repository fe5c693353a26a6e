//! A clock that goes wrong when a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use datamesh::Result;
use datamesh::ports::{Instant, Job, Runtime, Task, Timestamp};
use datamesh::runtime::NativeRuntime;

/// A runtime whose wall clock is off.
#[derive(Debug)]
pub(crate) struct Shifted {
    runtime: Arc<dyn Runtime>,
    milliseconds: AtomicI64,
}

impl Shifted {
    pub(crate) fn by(milliseconds: i64) -> Arc<Self> {
        let runtime = NativeRuntime::shared().unwrap();
        Arc::new(Self { runtime, milliseconds: AtomicI64::new(milliseconds) })
    }

    pub(crate) fn set(&self, milliseconds: i64) {
        self.milliseconds.store(milliseconds, Ordering::Relaxed);
    }
}

impl Runtime for Shifted {
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
