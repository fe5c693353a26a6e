//! Deadlines of calls, watched by one task for many: a call that is answered in time costs no timer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_channel::{Receiver, Sender};
use datamesh_core::Result;
use datamesh_core::ports::{Instant, Runtime};
use futures::future::{self, Either};

/// The deadlines of one transport.
pub(super) struct Deadlines {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
    /// Nothing is ever sent: the channel is closed when the transport is, and with it each task ends.
    closing: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
    /// When a task will look. A new one begins only for a deadline before all of these, so that there are
    /// few: about one for each order of magnitude among the limits of the calls.
    watched: BTreeSet<Instant>,
}

impl Deadlines {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { runtime, state: Mutex::default(), closing: async_channel::bounded(1) })
    }

    /// Ends every task that watches, also those that are begun later. Whoever waits is told nothing.
    pub(super) fn close(&self) {
        self.closing.0.close();
    }

    /// A future that resolves at `at`.
    ///
    /// # Errors
    /// As [`Runtime::spawn`].
    pub(super) fn until(self: &Arc<Self>, at: Instant) -> Result<Expiry> {
        let mut state = self.lock();
        state.next = state.next.wrapping_add(1);
        let key = (at, state.next);
        // Nobody is to be woken before the first poll, but a look in between must see that somebody waits.
        state.waiting.insert(key, Waker::noop().clone());
        let is_watched = state.watched.first().is_some_and(|first| *first <= at);
        if !is_watched {
            state.watched.insert(at);
        }
        drop(state);
        // Before what may fail, so that nobody is left waiting then.
        let expiry = Expiry { deadlines: self.clone(), key };
        if !is_watched {
            self.watch(at)?;
        }
        Ok(expiry)
    }

    fn watch(self: &Arc<Self>, first: Instant) -> Result<()> {
        let (runtime, deadlines) = (self.runtime.clone(), Arc::downgrade(self));
        let closing = self.closing.1.clone();
        let task = async move {
            let mut next = Some(first);
            while let Some(at) = next {
                let closing = std::pin::pin!(closing.recv());
                if let Either::Right(_) = future::select(runtime.sleep_until(at), closing).await {
                    return;
                }
                next = deadlines.upgrade().and_then(|deadlines| deadlines.look(at));
            }
        };
        let spawned = self.runtime.spawn(Box::pin(task));
        if spawned.is_err() {
            self.lock().watched.remove(&first);
        }
        spawned
    }

    /// Wakes who is due; when to look again, if no other task does.
    fn look(&self, watched: Instant) -> Option<Instant> {
        let now = self.runtime.now();
        let mut state = self.lock();
        state.watched.remove(&watched);
        while let Some(entry) = state.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            entry.remove().wake();
        }
        let (next, _) = *state.waiting.first_key_value()?.0;
        let is_watched = state.watched.first().is_some_and(|first| *first <= next);
        (!is_watched && state.watched.insert(next)).then_some(next)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when its time has come.
pub(super) struct Expiry {
    deadlines: Arc<Deadlines>,
    key: (Instant, u64),
}

impl Future for Expiry {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The waker is left first: a look between the two would wake nobody.
        self.deadlines.lock().waiting.insert(self.key, cx.waker().clone());
        if self.deadlines.runtime.now() >= self.key.0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        self.deadlines.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use datamesh_core::ports::{Job, Task, Timestamp};
    use datamesh_core::{Error, ErrorKind};

    use super::*;

    /// A runtime whose clock is set by hand, and whose tasks run when they are told to.
    #[derive(Default)]
    struct Manual {
        clock: Arc<Mutex<Instant>>,
        tasks: Mutex<Vec<Task>>,
        gone: AtomicBool,
    }

    impl Manual {
        /// Sets the clock and polls every task once.
        fn run_at(&self, now: Instant) {
            *self.clock.lock().unwrap() = now;
            let mut cx = Context::from_waker(Waker::noop());
            self.tasks.lock().unwrap().retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        }
    }

    impl fmt::Debug for Manual {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Manual")
        }
    }

    impl Runtime for Manual {
        fn spawn(&self, task: Task) -> Result<()> {
            if self.gone.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Closed, "the runtime is gone"));
            }
            self.tasks.lock().unwrap().push(task);
            Ok(())
        }

        fn spawn_blocking(&self, _: Job) -> Result<()> {
            Ok(())
        }

        fn sleep_until(&self, deadline: Instant) -> Task {
            let clock = Arc::clone(&self.clock);
            let is_due = move || *clock.lock().unwrap() >= deadline;
            Box::pin(std::future::poll_fn(move |_| if is_due() { Poll::Ready(()) } else { Poll::Pending }))
        }

        fn now(&self) -> Instant {
            *self.clock.lock().unwrap()
        }

        fn wall_time(&self) -> Timestamp {
            Timestamp(0)
        }

        fn fill_random(&self, _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn parallelism(&self) -> usize {
            1
        }
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_start(std::time::Duration::from_secs(seconds))
    }

    /// Polls a deadline that is not due; what is woken when it is.
    fn wait(expiry: &mut Expiry) -> Arc<Woken> {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        assert!(Pin::new(expiry).poll(&mut Context::from_waker(&waker)).is_pending());
        woken
    }

    /// The task that watches looks after a deadline was asked for and before it is polled.
    #[test]
    fn a_deadline_is_watched_before_it_is_polled() {
        let runtime = Arc::new(Manual::default());
        let deadlines = Deadlines::new(runtime.clone());
        let mut first = deadlines.until(at(10)).unwrap();
        let first_woken = wait(&mut first);
        let mut second = deadlines.until(at(20)).unwrap();
        runtime.run_at(at(10));
        assert!(first_woken.0.load(Ordering::SeqCst));
        drop(first);
        let woken = wait(&mut second);
        runtime.run_at(at(19));
        assert!(!woken.0.load(Ordering::SeqCst));
        runtime.run_at(at(20));
        assert!(woken.0.load(Ordering::SeqCst), "nobody watched it");
        drop(second);
        // One that is due before its first poll says so at once.
        let mut late = deadlines.until(at(30)).unwrap();
        runtime.run_at(at(30));
        assert!(Pin::new(&mut late).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        drop(late);
        assert!(deadlines.lock().waiting.is_empty());
    }

    #[test]
    fn no_task_is_left_of_a_transport_that_was_closed() {
        let runtime = Arc::new(Manual::default());
        let deadlines = Deadlines::new(runtime.clone());
        let early = deadlines.until(at(10)).unwrap();
        runtime.run_at(at(1));
        assert_eq!(runtime.tasks.lock().unwrap().len(), 1);
        deadlines.close();
        // One that was asked for just before.
        let late = deadlines.until(at(5)).unwrap();
        runtime.run_at(at(2));
        assert!(runtime.tasks.lock().unwrap().is_empty(), "a task outlives the transport");
        drop((early, late));
    }

    #[test]
    fn a_deadline_that_nobody_can_watch_leaves_nothing() {
        let runtime = Arc::new(Manual::default());
        let deadlines = Deadlines::new(runtime.clone());
        runtime.gone.store(true, Ordering::SeqCst);
        assert_eq!(deadlines.until(at(10)).err().unwrap().kind(), ErrorKind::Closed);
        let state = deadlines.lock();
        assert!(state.waiting.is_empty() && state.watched.is_empty());
    }
}
