//! A small runtime of threads for the tests of the networks.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part, and fails by panicking")]

#[cfg(feature = "local")]
pub(crate) mod keys;
pub(crate) mod nodes;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use datamesh_core::ports::{Instant, Job, Runtime, Task, Timestamp};
use datamesh_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::executor::{ThreadPool, block_on};

/// Two threads for futures, one for timers, one for each blocking job.
#[derive(Debug)]
pub(crate) struct TestRuntime {
    pool: ThreadPool,
    start: StdInstant,
    timers: Arc<Timers>,
}

#[derive(Debug, Default)]
struct Timers {
    wakers: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    wakers: BTreeMap<(StdInstant, u64), Waker>,
    closed: bool,
}

impl TestRuntime {
    pub(crate) fn shared() -> Arc<dyn Runtime> {
        let timers = Arc::new(Timers::default());
        let timer_thread = timers.clone();
        std::thread::spawn(move || timer_thread.run());
        let pool = ThreadPool::builder().pool_size(2).create().unwrap();
        Arc::new(Self { pool, start: StdInstant::now(), timers })
    }
}

impl Timers {
    fn run(&self) {
        let mut queue = self.wakers.lock().unwrap();
        while !queue.closed {
            let now = StdInstant::now();
            let Some(first) = queue.wakers.first_entry() else {
                queue = self.changed.wait(queue).unwrap();
                continue;
            };
            let at = first.key().0;
            if at <= now {
                first.remove().wake();
            } else {
                queue = self.changed.wait_timeout(queue, at - now).unwrap().0;
            }
        }
    }
}

impl Drop for TestRuntime {
    fn drop(&mut self) {
        self.timers.wakers.lock().unwrap().closed = true;
        self.timers.changed.notify_all();
    }
}

struct Sleep {
    at: StdInstant,
    key: Option<(StdInstant, u64)>,
    timers: Arc<Timers>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if StdInstant::now() >= self.at {
            return Poll::Ready(());
        }
        let timers = self.timers.clone();
        let mut queue = timers.wakers.lock().unwrap();
        let key = self.key.unwrap_or_else(|| {
            queue.next += 1;
            (self.at, queue.next)
        });
        self.key = Some(key);
        queue.wakers.insert(key, context.waker().clone());
        if queue.wakers.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.timers.changed.notify_all();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.wakers.lock().unwrap().wakers.remove(&key);
        }
    }
}

impl Runtime for TestRuntime {
    fn spawn(&self, task: Task) -> Result<()> {
        self.pool.spawn_ok(std::panic::AssertUnwindSafe(task).catch_unwind().map(drop));
        Ok(())
    }

    fn spawn_blocking(&self, job: Job) -> Result<()> {
        std::thread::spawn(job);
        Ok(())
    }

    fn sleep_until(&self, deadline: Instant) -> Task {
        let at = self.start + deadline.since_start();
        Box::pin(Sleep { at, key: None, timers: self.timers.clone() })
    }

    fn now(&self) -> Instant {
        Instant::from_start(self.start.elapsed())
    }

    fn wall_time(&self) -> Timestamp {
        Timestamp(0)
    }

    fn fill_random(&self, _: &mut [u8]) -> Result<()> {
        Err(Error::new(ErrorKind::Io, "the test runtime has no randomness"))
    }

    fn parallelism(&self) -> usize {
        2
    }
}

/// Runs a test body, and fails it when it takes longer than any test should.
pub(crate) fn run<T>(body: impl Future<Output = T>) -> T {
    let runtime = TestRuntime::shared();
    block_on(runtime.timeout(Duration::from_secs(50), body)).expect("the test hangs")
}
