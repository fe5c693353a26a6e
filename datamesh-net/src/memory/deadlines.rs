//! Deadlines of calls, watched by one task for many: a call that is answered in time costs no timer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use datamesh_core::Result;
use datamesh_core::ports::{Instant, Runtime};

/// The deadlines of one transport.
pub(super) struct Deadlines {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
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
        Arc::new(Self { runtime, state: Mutex::default() })
    }

    /// A future that resolves at `at`.
    ///
    /// # Errors
    /// As [`Runtime::spawn`].
    pub(super) fn until(self: &Arc<Self>, at: Instant) -> Result<Expiry> {
        let mut state = self.lock();
        state.next = state.next.wrapping_add(1);
        let key = (at, state.next);
        let is_watched = state.watched.first().is_some_and(|first| *first <= at);
        if !is_watched {
            state.watched.insert(at);
        }
        drop(state);
        if !is_watched {
            self.watch(at)?;
        }
        Ok(Expiry { deadlines: self.clone(), key, is_waiting: false })
    }

    fn watch(self: &Arc<Self>, first: Instant) -> Result<()> {
        let (runtime, deadlines) = (self.runtime.clone(), Arc::downgrade(self));
        let task = async move {
            let mut next = Some(first);
            while let Some(at) = next {
                runtime.sleep_until(at).await;
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
    is_waiting: bool,
}

impl Future for Expiry {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The waker is left first: a look between the two would find nobody.
        self.deadlines.lock().waiting.insert(self.key, cx.waker().clone());
        self.is_waiting = true;
        if self.deadlines.runtime.now() >= self.key.0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        if self.is_waiting {
            self.deadlines.lock().waiting.remove(&self.key);
        }
    }
}
