//! A gate that many pass together or one passes alone, in the order in which they came.
//!
//! Others' locks for asynchronous code read the clock to be fair, which a simulator cannot repeat, or let those who
//! wait wake each other for as long as somebody is inside, which burns a CPU.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    together: usize,
    alone: bool,
    next: u64,
    /// Those who wait, first come first; their number is bounded by that of the callers.
    queue: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    alone: bool,
    waker: Option<Waker>,
}

impl State {
    fn may_pass(&self, position: usize) -> bool {
        let mut before = self.queue.iter().take(position);
        match self.queue.get(position) {
            Some(waiting) if waiting.alone => position == 0 && !self.alone && self.together == 0,
            Some(_) => !self.alone && before.all(|waiting| !waiting.alone),
            None => false,
        }
    }

    fn try_pass(&mut self, ticket: u64) -> bool {
        let Some(position) = self.queue.iter().position(|waiting| waiting.ticket == ticket) else {
            return false;
        };
        if !self.may_pass(position) {
            return false;
        }
        match self.queue.remove(position) {
            Some(waiting) if waiting.alone => self.alone = true,
            Some(_) => self.together += 1,
            None => {}
        }
        true
    }

    /// Those who may pass now.
    fn ready(&mut self) -> Vec<Waker> {
        let ready: Vec<usize> =
            (0..self.queue.len()).take_while(|position| self.may_pass(*position)).collect();
        ready.into_iter().filter_map(|position| self.queue.get_mut(position)?.waker.take()).collect()
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody is inside alone or came before to be.
    pub(crate) fn together(&self) -> Enter<'_> {
        self.enter(false)
    }

    /// Waits until nobody is inside.
    pub(crate) fn alone(&self) -> Enter<'_> {
        self.enter(true)
    }

    fn enter(&self, alone: bool) -> Enter<'_> {
        let mut state = self.lock();
        state.next += 1;
        let ticket = state.next;
        state.queue.push_back(Waiting { ticket, alone, waker: None });
        Enter { gate: self, ticket, alone, done: false }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let ready = state.ready();
        drop(state);
        ready.into_iter().for_each(Waker::wake);
    }
}

/// Waits for a [`Pass`]; dropping it gives up the place in the queue.
#[derive(Debug)]
pub(crate) struct Enter<'a> {
    gate: &'a Gate,
    ticket: u64,
    alone: bool,
    done: bool,
}

impl<'a> Future for Enter<'a> {
    type Output = Pass<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Pass<'a>> {
        let ticket = self.ticket;
        let mut state = self.gate.lock();
        if !state.try_pass(ticket) {
            if let Some(waiting) = state.queue.iter_mut().find(|waiting| waiting.ticket == ticket) {
                waiting.waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        drop(state);
        self.done = true;
        Poll::Ready(Pass { gate: self.gate, alone: self.alone })
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.gate.change(|state| state.queue.retain(|waiting| waiting.ticket != self.ticket));
        }
    }
}

/// The right to be inside; given back on drop.
#[derive(Debug)]
#[must_use = "the gate is open to others again when this is dropped"]
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    alone: bool,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.change(|state| {
            if self.alone {
                state.alone = false;
            } else {
                state.together = state.together.saturating_sub(1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn many_pass_together_and_one_alone() {
        let gate = Gate::default();
        let first = gate.together().now_or_never().unwrap();
        let second = gate.together().now_or_never().unwrap();
        let mut alone = gate.alone();
        assert!((&mut alone).now_or_never().is_none());
        assert!(gate.together().now_or_never().is_none(), "nobody overtakes who waits to be alone");
        drop((first, second));
        let alone = alone.now_or_never().unwrap();
        assert!(gate.together().now_or_never().is_none());
        drop(alone);
        assert!(gate.together().now_or_never().is_some());
    }

    #[test]
    fn who_gives_up_lets_the_next_pass() {
        let gate = Gate::default();
        let inside = gate.together().now_or_never().unwrap();
        let mut alone = gate.alone();
        assert!((&mut alone).now_or_never().is_none());
        let mut third = gate.together();
        assert!((&mut third).now_or_never().is_none());
        drop(alone);
        assert!(third.now_or_never().is_some());
        drop(inside);
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_is_woken_only_to_pass() {
        let gate = Gate::default();
        let counts: Vec<_> = (0..3).map(|_| Arc::new(Count(AtomicUsize::new(0)))).collect();
        let woken = || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<usize>();
        let inside = gate.alone().now_or_never().unwrap();
        let mut waiting: Vec<_> =
            vec![Box::pin(gate.alone()), Box::pin(gate.together()), Box::pin(gate.together())];
        for (enter, count) in waiting.iter_mut().zip(&counts) {
            let waker = Waker::from(Arc::clone(count));
            assert!(enter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(woken(), 0);
        drop(inside);
        assert_eq!(woken(), 1, "the first alone; the two behind it wait");
        drop(waiting.remove(0).now_or_never().unwrap());
        assert_eq!(woken(), 3);
    }
}
