//! The runtime on a lent Tokio.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use ::tokio::runtime::Handle;
use ::tokio::task::{JoinHandle, unconstrained};
use ::tokio::time::{self, Sleep};
use async_io::Timer;
use datamesh_core::ports::{Instant, Job, Runtime, Task, Timestamp};
use datamesh_core::{Error, ErrorKind, Result};
use futures::FutureExt;

use super::{MAX_QUEUED_JOBS, default_parallelism, fill_random, lock, run, too_many_jobs, wall_time};

/// A runtime on a Tokio runtime that the program lends.
///
/// Tasks, jobs and timers run there; its time is Tokio's, so a paused clock pauses it. At most
/// [`parallelism`](Runtime::parallelism) of Tokio's blocking threads are used at a time. The Tokio runtime
/// must have its timer enabled and must outlive the mesh. On a current-thread runtime tasks and timers
/// move only while somebody blocks on that runtime.
pub struct TokioRuntime {
    handle: Handle,
    start: time::Instant,
    jobs: Arc<Jobs>,
}

impl TokioRuntime {
    /// On the Tokio runtime that this code runs in.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] outside Tokio; as [`new`](Self::new).
    pub fn current() -> Result<Self> {
        let handle = Handle::try_current().map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "no Tokio runtime here; call this inside one or lend its handle",
            )
            .with_source(error)
        })?;
        Self::new(handle)
    }

    /// On the Tokio runtime of this handle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when its timer is not enabled.
    pub fn new(handle: Handle) -> Result<Self> {
        let start = now(&handle);
        // Tokio has no question for it but to try, and answers no with a panic.
        if sleep(&handle, start).is_none() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the Tokio runtime has no timer; build it with enable_time or enable_all",
            ));
        }
        Ok(Self { handle, start, jobs: Arc::new(Jobs::new()) })
    }
}

impl fmt::Debug for TokioRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioRuntime").field("parallelism", &self.parallelism()).finish_non_exhaustive()
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, task: Task) -> Result<()> {
        refused(self.handle.spawn(task))
    }

    fn spawn_blocking(&self, job: Job) -> Result<()> {
        if !self.jobs.push(job)? {
            return Ok(());
        }
        let runner = Runner { jobs: self.jobs.clone(), begun: false };
        // Where the system has no thread to give, Tokio panics.
        catch_unwind(AssertUnwindSafe(|| self.handle.spawn_blocking(move || runner.run())))
            .map_err(|_| Error::new(ErrorKind::Busy, "the system gives Tokio no thread; retry later"))
            .and_then(refused)
    }

    fn sleep_until(&self, deadline: Instant) -> Task {
        if self.now() >= deadline {
            return Box::pin(std::future::ready(()));
        }
        let Some(when) = self.start.checked_add(deadline.since_start()) else {
            return Box::pin(std::future::pending());
        };
        let handle = self.handle.clone();
        let timer =
            sleep(&handle, when).map_or_else(|| Alarm::own(when), |sleep| Alarm::Lent(handle, sleep, when));
        Box::pin(timer)
    }

    fn now(&self) -> Instant {
        Instant::from_start(now(&self.handle).saturating_duration_since(self.start))
    }

    fn wall_time(&self) -> Timestamp {
        wall_time()
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        fill_random(bytes)
    }

    fn parallelism(&self) -> usize {
        self.jobs.parallelism
    }
}

/// Tokio's time, which may be paused, can only be read inside Tokio.
fn now(handle: &Handle) -> time::Instant {
    let _inside = handle.enter();
    time::Instant::now()
}

/// Tokio's timer, or nothing where it has none.
fn sleep(handle: &Handle, when: time::Instant) -> Option<Pin<Box<Sleep>>> {
    let _inside = handle.enter();
    catch_unwind(|| Box::pin(time::sleep_until(when))).ok()
}

/// Turns what Tokio drops unseen once it is shut down into an error.
fn refused(task: JoinHandle<()>) -> Result<()> {
    match unconstrained(task).now_or_never() {
        Some(Err(error)) if error.is_cancelled() => {
            Err(Error::new(ErrorKind::Closed, "the Tokio runtime is shut down; close the mesh before it"))
        }
        _ => Ok(()),
    }
}

/// A timer that still goes off when the Tokio runtime is gone.
enum Alarm {
    Lent(Handle, Pin<Box<Sleep>>, time::Instant),
    Own(Timer),
}

impl Alarm {
    fn own(when: time::Instant) -> Self {
        Self::Own(Timer::at(when.into_std()))
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Lent(handle, sleep, when) = &mut *self {
            let when = *when;
            let inside = handle.enter();
            // Tokio panics where its runtime was shut down under a timer.
            let polled = catch_unwind(AssertUnwindSafe(|| sleep.as_mut().poll(context)));
            drop(inside);
            if let Ok(done) = polled {
                return done;
            }
            *self = Self::own(when);
        }
        if let Self::Own(timer) = &mut *self {
            ready!(timer.poll_unpin(context));
        }
        Poll::Ready(())
    }
}

/// Jobs, and how many of Tokio's blocking threads run them.
struct Jobs {
    queue: Mutex<Queue>,
    parallelism: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    runners: usize,
}

impl Jobs {
    fn new() -> Self {
        Self { queue: Mutex::default(), parallelism: default_parallelism() }
    }

    /// Queues a job, and says whether a thread has to be asked for.
    fn push(&self, job: Job) -> Result<bool> {
        let mut queue = lock(&self.queue);
        if queue.waiting.len() >= MAX_QUEUED_JOBS {
            return Err(too_many_jobs());
        }
        queue.waiting.push_back(job);
        let more = queue.runners < self.parallelism;
        queue.runners += usize::from(more);
        Ok(more)
    }

    /// The next job; the runner that finds none is no longer counted, under the same lock.
    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        let job = queue.waiting.pop_front();
        queue.runners -= usize::from(job.is_none());
        job
    }

    /// A thread that was asked for never came; where it was the last, nobody runs what waits.
    fn give_up(&self) -> VecDeque<Job> {
        let mut queue = lock(&self.queue);
        queue.runners -= 1;
        if queue.runners > 0 { VecDeque::new() } else { std::mem::take(&mut queue.waiting) }
    }
}

/// A claim to one blocking thread.
struct Runner {
    jobs: Arc<Jobs>,
    begun: bool,
}

impl Runner {
    fn run(mut self) {
        self.begun = true;
        while let Some(job) = self.jobs.next() {
            run(job);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.begun {
            // The jobs go after the lock, for their captures may queue jobs when they are dropped.
            drop(self.jobs.give_up());
        }
    }
}
