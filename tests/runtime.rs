//! The runtimes pass the conformance suite of their port, and wrong ones fail it by clause.
#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "helpers outside test functions fail the test as well")]

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use datamesh::Result;
use datamesh::ports::{Instant, Job, Runtime, Task, Timestamp};
use datamesh::runtime::NativeRuntime;
use datamesh::testing::runtime::runtime as conforms;

#[test]
fn native() {
    conforms(&NativeRuntime::shared().unwrap());
}

/// A way of being wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    WakesEarly,
    LosesJobs,
    BlocksTheCaller,
    RunsJobsAmongTasks,
    OneThreadPerJob,
    LosesTasks,
    PanicsWithoutPool,
    ClockGoesBack,
    NeverCancels,
    RandomIsConstant,
}

#[derive(Debug)]
struct Wrong {
    fault: Fault,
    honest: Arc<dyn Runtime>,
    count: AtomicU64,
}

impl Wrong {
    fn nth(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// A sleep whose waker stays with a task that nobody ends.
    fn sleep_in_a_task(&self, deadline: Instant) -> Task {
        let (honest, over) = (self.honest.clone(), Arc::new(AtomicBool::new(false)));
        let mut begun = false;
        Box::pin(poll_fn(move |context| {
            if over.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut begun, true) {
                let (sleep, waker, over) =
                    (honest.sleep_until(deadline), context.waker().clone(), over.clone());
                let task = async move {
                    sleep.await;
                    over.store(true, Ordering::SeqCst);
                    waker.wake();
                };
                honest.spawn(Box::pin(task)).unwrap();
            }
            Poll::Pending
        }))
    }
}

impl Runtime for Wrong {
    fn spawn(&self, task: Task) -> Result<()> {
        if self.fault == Fault::LosesTasks && self.nth() % 100 == 99 {
            return Ok(());
        }
        self.honest.spawn(task)
    }

    fn spawn_blocking(&self, job: Job) -> Result<()> {
        match self.fault {
            Fault::LosesJobs if self.nth() % 10 == 9 => Ok(()),
            Fault::BlocksTheCaller => {
                job();
                Ok(())
            }
            Fault::RunsJobsAmongTasks => self.honest.spawn(Box::pin(async { job() })),
            Fault::OneThreadPerJob => {
                std::thread::spawn(job);
                Ok(())
            }
            Fault::PanicsWithoutPool => panic!("there is no pool"),
            _ => self.honest.spawn_blocking(job),
        }
    }

    fn sleep_until(&self, deadline: Instant) -> Task {
        match self.fault {
            Fault::WakesEarly => Box::pin(std::future::ready(())),
            Fault::NeverCancels if self.honest.now() < deadline => self.sleep_in_a_task(deadline),
            _ => self.honest.sleep_until(deadline),
        }
    }

    fn now(&self) -> Instant {
        let now = self.honest.now();
        if self.fault == Fault::ClockGoesBack && self.nth() % 1000 == 999 {
            return Instant::from_start(now.since_start() / 2);
        }
        now
    }

    fn wall_time(&self) -> Timestamp {
        self.honest.wall_time()
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        if self.fault == Fault::RandomIsConstant {
            bytes.fill(4);
            return Ok(());
        }
        self.honest.fill_random(bytes)
    }

    fn parallelism(&self) -> usize {
        self.honest.parallelism()
    }
}

/// Checks that the suite says this of a runtime with this fault.
fn fails(fault: Fault, clause: &str) {
    let honest = Arc::new(NativeRuntime::start().unwrap());
    let wrong: Arc<dyn Runtime> = Arc::new(Wrong { fault, honest, count: AtomicU64::new(0) });
    let panic = catch_unwind(AssertUnwindSafe(|| conforms(&wrong))).expect_err("a wrong runtime passes");
    let text = panic.downcast_ref::<String>().cloned();
    let said = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap();
    assert!(said.contains(clause), "{fault:?}: {said}");
}

macro_rules! wrong_runtimes {
    ($($name:ident, $fault:ident, $clause:literal;)*) => {$(
        #[test]
        fn $name() {
            fails(Fault::$fault, $clause);
        }
    )*};
}

wrong_runtimes! {
    one_that_wakes_early_fails, WakesEarly, "clause 4: a sleep of";
    one_that_loses_jobs_fails, LosesJobs, "clause 2: accepted jobs were not run";
    one_that_blocks_the_caller_fails, BlocksTheCaller, "clause 2: spawn_blocking blocks its caller";
    one_that_runs_jobs_among_tasks_fails, RunsJobsAmongTasks, "clause 2: jobs that block keep tasks";
    one_with_a_thread_for_each_job_fails, OneThreadPerJob, "clause 2: more than parallelism()";
    one_that_loses_tasks_fails, LosesTasks, "clause 1";
    one_that_panics_without_a_pool_fails, PanicsWithoutPool, "clause 3: spawn_blocking panics";
    one_whose_clock_goes_back_fails, ClockGoesBack, "clause 4: now goes backwards";
    one_that_never_cancels_fails, NeverCancels, "clause 4: a dropped sleep is not cancelled";
    one_with_constant_randomness_fails, RandomIsConstant, "clause 5: the same bytes came twice";
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use datamesh::ErrorKind;
    use datamesh::runtime::TokioRuntime;
    use datamesh::testing::runtime::runtime_that_is_gone;
    use tokio::runtime::Builder;

    use super::*;

    fn lend(builder: &mut Builder) -> (tokio::runtime::Runtime, Arc<dyn Runtime>) {
        let tokio = builder.enable_time().build().unwrap();
        let lent = TokioRuntime::new(tokio.handle().clone()).unwrap();
        (tokio, Arc::new(lent))
    }

    #[test]
    fn many_threads() {
        let (_tokio, lent) = lend(Builder::new_multi_thread().worker_threads(2));
        conforms(&lent);
    }

    #[test]
    fn current_thread_while_somebody_blocks_on_it() {
        let (tokio, lent) = lend(&mut Builder::new_current_thread());
        let (done, end) = tokio::sync::oneshot::channel();
        let checks = std::thread::spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| conforms(&lent)));
            done.send(()).unwrap();
            result
        });
        tokio.block_on(end).unwrap();
        checks.join().unwrap().unwrap();
    }

    #[test]
    fn inside_and_outside() {
        assert_eq!(TokioRuntime::current().unwrap_err().kind(), ErrorKind::Unavailable);
        let (tokio, _) = lend(&mut Builder::new_current_thread());
        tokio.block_on(async { TokioRuntime::current() }).unwrap();
    }

    #[test]
    fn no_timer_is_an_error() {
        let tokio = Builder::new_current_thread().build().unwrap();
        let error = TokioRuntime::new(tokio.handle().clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn one_that_is_gone() {
        let (tokio, lent) = lend(&mut Builder::new_current_thread());
        let begun = lent.sleep(std::time::Duration::from_millis(5));
        drop(tokio);
        runtime_that_is_gone(&lent);
        NativeRuntime::shared().unwrap().spawn(begun).unwrap();
    }
}
