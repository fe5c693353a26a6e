//! Time, tasks, threads and randomness.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::time::Duration;

use futures::future::{self, Either};

use crate::error::{Error, ErrorKind, Result};

/// A boxed future that a [`Runtime`] drives to its end.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// A closure for the [`Runtime`]'s pool of threads that may block or compute.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// A monotonic instant: the time since the runtime's own beginning.
///
/// Instants of two runtimes cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The instant this long after the runtime's beginning.
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The time since the runtime's beginning.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The time since `earlier`, zero if that is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// Wall-clock time in milliseconds since the Unix epoch; it may jump, and peers' may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// What a mesh needs of the program it lives in.
///
/// # Contract
/// 1. `spawn` MUST drive the future to its end unless the runtime is shut down, and MUST NOT block.
/// 2. `spawn_blocking` MUST run every job it accepted, in some order, on a pool with a bound on its
///    threads; it MUST NOT run it on a thread that drives futures, and MUST NOT block the caller.
/// 3. A runtime that is gone or full MUST return an error ([`ErrorKind::Closed`] or
///    [`ErrorKind::Busy`]), never panic. A panic inside a task or job MUST NOT end the runtime.
/// 4. `now` MUST NOT go backwards. `sleep_until` MUST resolve no earlier than its instant, and at
///    once for an instant that has passed; dropping the future MUST cancel the timer.
/// 5. `fill_random` MUST be cryptographically secure outside simulators.
///
/// The conformance suite is `datamesh_core::testing::runtime` (feature `testing`).
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Drives a future to its end.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the runtime is gone.
    fn spawn(&self, task: Task) -> Result<()>;

    /// Runs a closure that blocks or computes, on a bounded pool.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the pool is gone.
    fn spawn_blocking(&self, job: Job) -> Result<()>;

    /// Sleeps until an instant of this runtime.
    fn sleep_until(&self, deadline: Instant) -> Task;

    /// The monotonic time.
    fn now(&self) -> Instant;

    /// The wall-clock time.
    fn wall_time(&self) -> Timestamp;

    /// Fills `bytes` with randomness fit for keys.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the system has none to give.
    fn fill_random(&self, bytes: &mut [u8]) -> Result<()>;

    /// How many CPU jobs run at the same time; the data path keeps about twice as many under way.
    fn parallelism(&self) -> usize;
}

impl dyn Runtime {
    /// Sleeps for a time.
    pub fn sleep(&self, duration: Duration) -> Task {
        self.sleep_until(self.now() + duration)
    }

    /// Sleeps for about as long: at least half of it, at most half as long again, so that what many nodes do again and
    /// again they do not do at the same moment.
    pub fn sleep_about(&self, duration: Duration) -> Task {
        let draw = self.random().map_or(0, u64::from_le_bytes);
        let part = u32::try_from(draw % 5_000).unwrap_or(0);
        self.sleep(duration / 2 + duration / 5_000 * part)
    }

    /// Runs a computation on the pool and waits for what it returns.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the runtime is gone or the computation panicked.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop a computation that has begun; its result is dropped.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = futures::channel::oneshot::channel();
        self.spawn_blocking(Box::new(move || {
            // The receiver is gone when the caller lost interest.
            let _ = done.send(work());
        }))?;
        result
            .await
            .map_err(|_| Error::new(ErrorKind::Closed, "the runtime dropped a computation; reopen the mesh"))
    }

    /// Waits for `work`, for at most `limit`.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when the time is over first; `work` is dropped then.
    pub async fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T> {
        let work = std::pin::pin!(work);
        match future::select(work, self.sleep(limit)).await {
            Either::Left((value, _)) => Ok(value),
            Either::Right(((), _)) => {
                Err(Error::new(ErrorKind::TimedOut, format!("no answer within {} ms", limit.as_millis())))
            }
        }
    }

    /// Sixteen or thirty-two random bytes, or any other number.
    ///
    /// # Errors
    /// As [`fill_random`](Runtime::fill_random).
    pub fn random<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill_random(&mut bytes)?;
        Ok(bytes)
    }
}
