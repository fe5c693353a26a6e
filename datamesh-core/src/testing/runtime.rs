//! The conformance suite of the runtime port.
//!
//! For runtimes that live in real time. Every check begins its message with the clause of the contract of
//! [`Runtime`] that it is about, and waits at most [`LIMIT`] for what has to happen.
#![expect(clippy::unwrap_used, reason = "a failed check is a panic here")]

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};
use std::time::Duration;

use crate::error::ErrorKind;
use crate::ports::{Instant, Runtime};

/// What has not happened by then never will: a hundred times what a loaded machine takes.
pub const LIMIT: Duration = Duration::from_secs(4);

/// Checks a runtime against the numbered clauses of its contract.
///
/// # Panics
/// With the number of the clause that was broken.
pub fn runtime(runtime: &Arc<dyn Runtime>) {
    tasks_are_driven(runtime);
    jobs_are_run_apart(runtime);
    panics_are_survived(runtime);
    time_goes_forward(runtime);
    sleeps_last(runtime);
    dropped_sleeps_are_cancelled(runtime);
    randomness_is_fresh(runtime);
}

/// Checks what is left of a runtime whose threads are gone: errors, and no panic.
///
/// # Panics
/// With the number of the clause that was broken.
pub fn runtime_that_is_gone(runtime: &Arc<dyn Runtime>) {
    for result in [runtime.spawn(Box::pin(async {})), runtime.spawn_blocking(Box::new(|| ()))] {
        let error = result.expect_err("clause 3: a runtime that is gone accepts work");
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::Closed | ErrorKind::Busy),
            "clause 3: gone, but the error is {kind:?}"
        );
    }
    let deadline = runtime.now() + Duration::from_millis(1);
    wait(runtime.sleep_until(deadline), "clause 4: no sleep ends once the runtime is gone");
}

fn tasks_are_driven(runtime: &Arc<dyn Runtime>) {
    const TASKS: usize = 500;
    let (done, ended) = mpsc::channel();
    let started = Arc::new(AtomicUsize::new(0));
    let (open, gate) = async_channel::bounded::<()>(1);
    for _ in 0..TASKS {
        let (done, gate, started) = (done.clone(), gate.clone(), started.clone());
        let task = async move {
            YieldTimes(3).await;
            // All wait at the gate together, so no task may hold a thread to itself.
            if started.fetch_add(1, Ordering::SeqCst) + 1 == TASKS {
                done.send(()).unwrap();
            }
            let _ = gate.recv().await;
            done.send(()).unwrap();
        };
        runtime.spawn(Box::pin(task)).expect("clause 1: spawn failed");
    }
    ended.recv_timeout(LIMIT).expect("clause 1: tasks wait for each other's threads, or are lost");
    drop((open, done));
    all_came(&ended, TASKS, "clause 1: tasks were not driven to their end");
    spawn_inside_a_task(runtime);
}

fn spawn_inside_a_task(runtime: &Arc<dyn Runtime>) {
    let (done, ended) = mpsc::channel();
    let inner = runtime.clone();
    let task = async move {
        let (tell, told) = async_channel::bounded(1);
        let told_by = async move { tell.send(()).await.unwrap() };
        inner.spawn(Box::pin(told_by)).expect("clause 1: spawn inside a task failed");
        told.recv().await.unwrap();
        done.send(()).unwrap();
    };
    runtime.spawn(Box::pin(task)).expect("clause 1: spawn failed");
    all_came(&ended, 1, "clause 1: a task spawned by a task was lost");
}

/// Jobs that all wait at a gate show how many run at once, and whether tasks go on meanwhile.
fn jobs_are_run_apart(runtime: &Arc<dyn Runtime>) {
    let parallelism = runtime.parallelism();
    assert!(parallelism > 0, "clause 2: no job can run");
    let jobs = parallelism * 4 + 32;
    let (gate, (done, ended), (began, begun)) = (Arc::new(Gate::default()), mpsc::channel(), mpsc::channel());
    let (accepted, all_accepted) = mpsc::channel();
    let (submitter, gate_of_jobs) = (runtime.clone(), gate.clone());
    // On a thread of its own, so that a runtime that blocks its caller is found and does not hang the suite.
    thread::spawn(move || {
        for _ in 0..jobs {
            let (gate, done, began) = (gate_of_jobs.clone(), done.clone(), began.clone());
            let job = move || {
                began.send(()).unwrap();
                gate.pass();
                done.send(thread::current().id()).unwrap();
            };
            submitter.spawn_blocking(Box::new(job)).expect("clause 2: spawn_blocking failed");
        }
        accepted.send(()).unwrap();
    });
    if let Err(error) = all_accepted.recv_timeout(LIMIT) {
        gate.open();
        assert_ne!(error, RecvTimeoutError::Disconnected, "clause 3: spawn_blocking panics or refuses a job");
        panic!("clause 2: spawn_blocking blocks its caller");
    }
    let running = (0..parallelism).all(|_| begun.recv_timeout(LIMIT).is_ok());
    let tasks = threads_of_tasks(runtime);
    // That no more jobs begin can only be seen by waiting for them a little.
    let more = begun.recv_timeout(Duration::from_millis(20)).is_ok();
    gate.open();
    assert!(running, "clause 2: fewer than parallelism() = {parallelism} jobs run at the same time");
    assert!(!more, "clause 2: more than parallelism() = {parallelism} jobs run at the same time");
    let tasks = tasks.expect("clause 2: jobs that block keep tasks from being driven");
    let threads = (0..jobs).map(|_| ended.recv_timeout(LIMIT).expect("clause 2: accepted jobs were not run"));
    let threads: HashSet<_> = threads.collect();
    assert!(threads.is_disjoint(&tasks), "clause 2: a job ran on a thread that drives futures");
    job_inside_a_job(runtime);
}

/// The threads that drove some tasks, or nothing if not all ended.
fn threads_of_tasks(runtime: &Arc<dyn Runtime>) -> Option<HashSet<ThreadId>> {
    let (done, ended) = mpsc::channel();
    for _ in 0..32 {
        let done = done.clone();
        let task = async move { done.send(thread::current().id()).unwrap() };
        runtime.spawn(Box::pin(task)).expect("clause 1: spawn failed");
    }
    (0..32).map(|_| ended.recv_timeout(LIMIT).ok()).collect()
}

fn job_inside_a_job(runtime: &Arc<dyn Runtime>) {
    let (done, ended) = mpsc::channel();
    let inner = runtime.clone();
    let job = move || {
        let job = Box::new(move || done.send(()).unwrap());
        inner.spawn_blocking(job).expect("clause 2: spawn_blocking inside a job failed");
    };
    runtime.spawn_blocking(Box::new(job)).expect("clause 2: spawn_blocking failed");
    all_came(&ended, 1, "clause 2: a job queued by a job was lost");
}

/// More panics than there are threads of any kind; then everything still works.
fn panics_are_survived(runtime: &Arc<dyn Runtime>) {
    for _ in 0..runtime.parallelism() * 2 + 8 {
        let task = Box::pin(async { panic!("a panic of the conformance suite, in a task") });
        runtime.spawn(task).expect("clause 3: spawn failed after a panic");
        let job = Box::new(|| panic!("a panic of the conformance suite, in a job"));
        runtime.spawn_blocking(job).expect("clause 3: spawn_blocking failed after a panic");
    }
    threads_of_tasks(runtime).expect("clause 3: panics inside tasks ended the runtime");
    let two = wait(runtime.compute(|| 1 + 1), "clause 3: panics inside jobs ended the pool");
    assert_eq!(two.expect("clause 3: panics inside jobs ended the pool"), 2);
    let panicked = wait(
        runtime.compute(|| panic!("a panic of the conformance suite, in a computation")),
        "clause 3: a computation that panicked never ends",
    );
    let kind = panicked.map(|_: ()| ()).expect_err("clause 3: a panic has a value").kind();
    assert_eq!(kind, ErrorKind::Closed, "clause 3: another kind of error for a panic");
}

fn time_goes_forward(runtime: &Arc<dyn Runtime>) {
    let latest = Mutex::new(runtime.now());
    let forward = || {
        (0..2000).all(|_| {
            let mut latest = latest.lock().unwrap();
            let before = std::mem::replace(&mut *latest, runtime.now());
            *latest >= before
        })
    };
    let forward = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(forward)).collect();
        threads.into_iter().all(|thread| thread.join().unwrap())
    });
    assert!(forward, "clause 4: now goes backwards");
    // 2020-01-01; the clock of a machine may be wrong, but not the unit.
    assert!(runtime.wall_time().0 > 1_577_836_800_000, "wall time is not in milliseconds since 1970");
}

fn sleeps_last(runtime: &Arc<dyn Runtime>) {
    for past in [Instant::default(), runtime.now()] {
        let waker = Waker::noop();
        let polled = runtime.sleep_until(past).as_mut().poll(&mut Context::from_waker(waker));
        assert!(polled.is_ready(), "clause 4: a sleep until an instant that has passed is not over at once");
    }
    for micros in [1, 500, 1000, 3000, 10_000] {
        let deadline = runtime.now() + Duration::from_micros(micros);
        // Polled off the runtime, as an application's own executor does it.
        wait(runtime.sleep_until(deadline), "clause 4: a sleep never ends");
        assert!(runtime.now() >= deadline, "clause 4: a sleep of {micros} us ended too early");
        let (done, ended) = mpsc::channel();
        let (deadline, inner) = (runtime.now() + Duration::from_micros(micros), runtime.clone());
        let task = async move {
            inner.sleep_until(deadline).await;
            done.send(inner.now()).unwrap();
        };
        runtime.spawn(Box::pin(task)).expect("clause 1: spawn failed");
        let woke = ended.recv_timeout(LIMIT).expect("clause 4: a sleep in a task never ends");
        assert!(woke >= deadline, "clause 4: a sleep of {micros} us in a task ended too early");
    }
    let never = runtime.sleep_until(Instant::from_start(Duration::MAX));
    let timeout = runtime.timeout(Duration::from_millis(1), never);
    let error =
        wait(timeout, "clause 4: a sleep never ends").expect_err("clause 4: the end of time came early");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

/// A timer that is not cancelled keeps the waker that it was given.
fn dropped_sleeps_are_cancelled(runtime: &Arc<dyn Runtime>) {
    let signal = Arc::new(Signal { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(signal.clone());
    let mut sleep = runtime.sleep(Duration::from_secs(3600));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "clause 4: an hour is over");
    drop((sleep, waker));
    let begin = std::time::Instant::now();
    while Arc::strong_count(&signal) > 1 {
        assert!(begin.elapsed() < LIMIT, "clause 4: a dropped sleep is not cancelled");
        // Some runtimes let go of it when they look at their timers next.
        wait(runtime.sleep(Duration::from_millis(1)), "clause 4: a sleep never ends");
    }
}

fn randomness_is_fresh(runtime: &Arc<dyn Runtime>) {
    runtime.fill_random(&mut []).expect("clause 5: no randomness");
    let drawn: HashSet<[u8; 32]> =
        (0..256).map(|_| runtime.random().expect("clause 5: no randomness")).collect();
    assert_eq!(drawn.len(), 256, "clause 5: the same bytes came twice");
    let many: [u8; 4096] = runtime.random().expect("clause 5: no randomness");
    let ones: u32 = many.iter().map(|byte| byte.count_ones()).sum();
    // Twelve standard deviations about the half of 32,768 bits.
    assert!((15_300..=17_468).contains(&ones), "clause 5: {ones} of 32768 random bits are ones");
}

fn all_came<T>(ended: &Receiver<T>, count: usize, clause: &str) {
    for at in 0..count {
        assert!(ended.recv_timeout(LIMIT).is_ok(), "{clause}: {at} of {count}");
    }
}

/// Drives a future on this thread, which is none of the runtime's.
fn wait<T>(future: impl Future<Output = T>, clause: &str) -> T {
    let signal = Arc::new(Signal { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(signal.clone());
    let mut future = std::pin::pin!(future);
    let begin = std::time::Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !signal.woken.swap(false, Ordering::AcqRel) {
            thread::park_timeout(LIMIT);
            assert!(begin.elapsed() < LIMIT, "{clause}");
        }
    }
}

struct Signal {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Holds jobs back until it is opened.
#[derive(Default)]
struct Gate {
    opened: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.opened.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        drop(self.changed.wait_while(self.opened.lock().unwrap(), |opened| !*opened).unwrap());
    }
}

/// Yields to the executor this many times.
struct YieldTimes(usize);

impl Future for YieldTimes {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
