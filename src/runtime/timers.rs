//! Sleeping futures, watched by one thread.
//!
//! Nearly every call has a deadline and nearly none reaches it, so setting a timer and dropping it is what must be
//! cheap: an entry in a map, and no wake-up of anybody unless the timer is due before all others.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::lock;

/// The timers of one runtime.
#[derive(Default)]
pub(super) struct Timers {
    state: Mutex<State>,
    /// A timer came that is due before all others, or the last one went after the runtime.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
    /// When the thread looks next; `None` while it waits for a first timer.
    looks_at: Option<Instant>,
    sleepers: usize,
    closed: bool,
}

impl Timers {
    /// A future that resolves at `when`, even if the runtime is dropped before.
    pub(super) fn sleep_until(self: &Arc<Self>, when: Instant) -> Sleep {
        let mut state = lock(&self.state);
        state.next = state.next.wrapping_add(1);
        state.sleepers += 1;
        Sleep { timers: Arc::clone(self), key: (when, state.next) }
    }

    /// Lets the thread end once nobody sleeps any more.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_one();
    }

    /// Wakes sleepers in time, until the timers are closed and nobody sleeps.
    pub(super) fn run(&self) {
        let mut state = lock(&self.state);
        while !(state.closed && state.sleepers == 0) {
            let now = Instant::now();
            let due = state.take_due(now);
            if !due.is_empty() {
                drop(state);
                due.into_iter().for_each(Waker::wake);
                state = lock(&self.state);
                continue;
            }
            let first = state.waiting.first_key_value().map(|((when, _), _)| *when);
            state.looks_at = first;
            state = match first {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(when) => {
                    let wait = self.changed.wait_timeout(state, when.saturating_duration_since(now));
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl State {
    fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            due.push(entry.remove());
        }
        due
    }
}

/// Resolves when its time has come; dropping it cancels the timer.
pub(super) struct Sleep {
    timers: Arc<Timers>,
    key: (Instant, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (when, _) = self.key;
        if Instant::now() >= when {
            return Poll::Ready(());
        }
        let mut state = lock(&self.timers.state);
        let waker = state.waiting.entry(self.key).or_insert_with(|| context.waker().clone());
        if !waker.will_wake(context.waker()) {
            waker.clone_from(context.waker());
        }
        if state.looks_at.is_none_or(|looks_at| when < looks_at) {
            // The thread has nothing to look at before this.
            state.looks_at = Some(when);
            drop(state);
            self.timers.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut state = lock(&self.timers.state);
        // A dropped waker may run other code, which must not meet the lock.
        let waker = state.waiting.remove(&self.key);
        state.sleepers -= 1;
        let last = state.closed && state.sleepers == 0;
        drop(state);
        drop(waker);
        if last {
            self.timers.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use futures::executor::block_on;
    use futures::future::join_all;

    use super::*;

    #[test]
    fn sleepers_wake_in_time_and_in_order_even_after_the_close() {
        let timers = Arc::new(Timers::default());
        let watched = Arc::clone(&timers);
        let thread = thread::spawn(move || watched.run());
        let start = Instant::now();
        let order = Mutex::new(Vec::new());
        let sleep = |after: u64| {
            let sleep = timers.sleep_until(start + Duration::from_millis(after));
            let order = &order;
            async move {
                sleep.await;
                assert!(start.elapsed() >= Duration::from_millis(after));
                lock(order).push(after);
            }
        };
        let sleeps = join_all([30, 10, 20].map(sleep));
        drop(timers.sleep_until(start + Duration::from_secs(600)));
        timers.close();
        block_on(sleeps);
        assert_eq!(order.into_inner().unwrap(), [10, 20, 30]);
        thread.join().unwrap();
    }
}
