//! The runtime that owns its threads.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use async_channel::{Receiver, Sender};
use async_executor::Executor;
use datamesh_core::ports::{Instant, Job, Runtime, Task, Timestamp};
use datamesh_core::{Error, Result};
use futures::FutureExt;

use super::timers::Timers;
use super::{MAX_QUEUED_JOBS, default_parallelism, fill_random, lock, run, too_many_jobs, wall_time};

/// A runtime with threads of its own: some that drive futures, some that run jobs.
///
/// There are as many of each as the machine has cores, 2 at least and 8 at most, named
/// `datamesh-exec-0` and `datamesh-cpu-0` and so on, and one for timers. Dropping the runtime ends them without
/// waiting for them: jobs that were accepted still run, futures that are not done are dropped. It may be dropped on
/// one of its own threads.
pub struct NativeRuntime {
    shared: Arc<Shared>,
    start: std::time::Instant,
    parallelism: usize,
    /// Dropped with the runtime, which tells the threads that drive futures to end.
    _stop: Sender<()>,
}

/// What the threads need; they hold no [`NativeRuntime`], so that it can go.
struct Shared {
    executor: Executor<'static>,
    timers: Arc<Timers>,
    jobs: Mutex<Jobs>,
    /// A job came, or the runtime went.
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

/// The instance that everybody in the process shares while anybody holds it.
static SHARED: Mutex<Weak<NativeRuntime>> = Mutex::new(Weak::new());

impl NativeRuntime {
    /// The process's own runtime: started when nobody holds it, ended when nobody holds it any more.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system gives no thread.
    pub fn shared() -> Result<Arc<dyn Runtime>> {
        let mut shared = lock(&SHARED);
        if let Some(runtime) = shared.upgrade() {
            return Ok(runtime);
        }
        let runtime = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&runtime);
        Ok(runtime)
    }

    /// A runtime apart from all others.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system gives no thread.
    pub fn start() -> Result<Self> {
        let (stop, stopped) = async_channel::bounded(1);
        // Made before the threads: when one cannot be had, dropping this ends the others.
        let runtime = Self {
            shared: Arc::new(Shared {
                executor: Executor::new(),
                timers: Arc::default(),
                jobs: Mutex::default(),
                changed: Condvar::new(),
            }),
            start: std::time::Instant::now(),
            parallelism: default_parallelism(),
            _stop: stop,
        };
        for index in 0..runtime.parallelism {
            let (shared, stopped) = (runtime.shared.clone(), stopped.clone());
            spawn_thread(format!("datamesh-exec-{index}"), move || shared.drive_futures(&stopped))?;
            let shared = runtime.shared.clone();
            spawn_thread(format!("datamesh-cpu-{index}"), move || shared.run_jobs())?;
        }
        let timers = Arc::clone(&runtime.shared.timers);
        spawn_thread("datamesh-timers".to_owned(), move || timers.run())?;
        Ok(runtime)
    }
}

impl Drop for NativeRuntime {
    fn drop(&mut self) {
        lock(&self.shared.jobs).closed = true;
        self.shared.changed.notify_all();
        self.shared.timers.close();
    }
}

impl fmt::Debug for NativeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeRuntime").field("parallelism", &self.parallelism).finish_non_exhaustive()
    }
}

impl Runtime for NativeRuntime {
    fn spawn(&self, task: Task) -> Result<()> {
        let task = AssertUnwindSafe(task).catch_unwind().map(drop);
        self.shared.executor.spawn(task).detach();
        Ok(())
    }

    fn spawn_blocking(&self, job: Job) -> Result<()> {
        let mut jobs = lock(&self.shared.jobs);
        if jobs.waiting.len() >= MAX_QUEUED_JOBS {
            return Err(too_many_jobs());
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn sleep_until(&self, deadline: Instant) -> Task {
        if self.now() >= deadline {
            return Box::pin(std::future::ready(()));
        }
        match self.start.checked_add(deadline.since_start()) {
            Some(when) => Box::pin(self.shared.timers.sleep_until(when)),
            // Later than the clock can tell.
            None => Box::pin(std::future::pending()),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_start(self.start.elapsed())
    }

    fn wall_time(&self) -> Timestamp {
        wall_time()
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        fill_random(bytes)
    }

    fn parallelism(&self) -> usize {
        self.parallelism
    }
}

impl Shared {
    /// Drives futures until the runtime is dropped.
    fn drive_futures(&self, stopped: &Receiver<()>) {
        // A future whose destructor panics ends one round of this loop and no more.
        while catch_unwind(AssertUnwindSafe(|| block_on(self.executor.run(stopped.recv())))).is_err() {}
    }

    /// Runs jobs until the runtime is dropped and none is left.
    fn run_jobs(&self) {
        while let Some(job) = self.next_job() {
            run(job);
        }
    }

    fn next_job(&self) -> Option<Job> {
        let idle = |jobs: &mut Jobs| jobs.waiting.is_empty() && !jobs.closed;
        let jobs = self.changed.wait_while(lock(&self.jobs), idle);
        jobs.unwrap_or_else(PoisonError::into_inner).waiting.pop_front()
    }
}

fn spawn_thread(name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map(drop)
        .map_err(|error| Error::io("the system gives no thread; raise its limit of threads", error))
}

/// Polls a future on this thread until it is done, and parks in between.
///
/// Timers are woken by a thread of their own, so a wake-up here is one futex call.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let signal = Arc::new(Signal { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(signal.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        while !signal.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

struct Signal {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn accepted_jobs_run_though_the_runtime_is_dropped() {
        let runtime = NativeRuntime::start().unwrap();
        let (done, jobs) = mpsc::channel();
        for _ in 0..100 {
            let done = done.clone();
            runtime.spawn_blocking(Box::new(move || done.send(()).unwrap())).unwrap();
        }
        drop((runtime, done));
        assert_eq!(jobs.iter().count(), 100);
    }

    #[test]
    fn threads_end_and_futures_are_dropped_with_the_last_handle() {
        let runtime = NativeRuntime::start().unwrap();
        let shared = Arc::downgrade(&runtime.shared);
        let (held, dropped) = mpsc::channel::<()>();
        runtime
            .spawn(Box::pin(async move {
                std::future::pending::<()>().await;
                drop(held);
            }))
            .unwrap();
        drop(runtime);
        assert_eq!(dropped.recv_timeout(LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
        while shared.strong_count() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn the_last_handle_may_go_on_a_thread_of_the_runtime() {
        for blocking in [false, true] {
            let runtime = Arc::new(NativeRuntime::start().unwrap());
            let (shared, lent) = (Arc::downgrade(&runtime.shared), runtime.clone());
            let (go, wait) = async_channel::bounded::<()>(1);
            let (done, end) = mpsc::channel();
            let body = async move {
                let _ = wait.recv().await;
                drop(lent);
                done.send(()).unwrap();
            };
            if blocking {
                runtime.spawn_blocking(Box::new(move || block_on(body))).unwrap();
            } else {
                runtime.spawn(Box::pin(body)).unwrap();
            }
            drop(runtime);
            drop(go);
            end.recv_timeout(LIMIT).unwrap();
            while shared.strong_count() > 0 {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_full_queue_is_busy() {
        let runtime = NativeRuntime::start().unwrap();
        let gate = Arc::new(Mutex::new(()));
        let closed = lock(&gate);
        let job = || -> Job {
            let gate = gate.clone();
            Box::new(move || drop(lock(&gate)))
        };
        let error = (0..).find_map(|_| runtime.spawn_blocking(job()).err()).unwrap();
        assert_eq!(error.kind(), crate::ErrorKind::Busy);
        drop(closed);
    }

    #[test]
    fn everybody_shares_one_while_it_is_held() {
        let one = NativeRuntime::shared().unwrap();
        assert!(Arc::ptr_eq(&one, &NativeRuntime::shared().unwrap()));
    }
}
