//! The byte budget: how much memory the data path of one mesh may hold at a time.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::planted::{Bug, is_active};

/// A first-come, first-served semaphore over bytes, shared by the operations of a mesh.
///
/// A permit is taken before memory is, and given back when it is dropped. An operation that holds nothing gets its
/// first permit at once, even over the limit: a reader that its user has paused keeps what it read, and a put that
/// is fed from that reader must still go on. So the bound is the limit, and one segment for each running operation.
#[derive(Debug, Clone)]
pub(crate) struct ByteBudget(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    in_use: usize,
    next: u64,
    /// Those who wait, first come first; their number is bounded by the windows of the running operations.
    queue: VecDeque<Waiting>,
    /// How many permits each operation holds.
    held: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    share: u64,
    bytes: usize,
    waker: Option<Waker>,
}

impl State {
    fn fits(&self, bytes: usize) -> bool {
        self.in_use.saturating_add(bytes) <= self.limit
    }

    fn may_go(&self, position: usize, waiting: &Waiting) -> bool {
        let holds_nothing = !self.held.contains_key(&waiting.share);
        holds_nothing || (position == 0 && self.fits(waiting.bytes))
    }

    /// Takes the bytes of this waiter when it may go.
    fn try_take(&mut self, ticket: u64) -> bool {
        let Some(position) = self.queue.iter().position(|waiting| waiting.ticket == ticket) else {
            return false;
        };
        if !self.queue.get(position).is_some_and(|waiting| self.may_go(position, waiting)) {
            return false;
        }
        if let Some(Waiting { share, bytes, .. }) = self.queue.remove(position) {
            self.in_use = self.in_use.saturating_add(bytes);
            *self.held.entry(share).or_default() += 1;
        }
        true
    }

    fn give_back(&mut self, share: u64, bytes: usize) {
        self.in_use = self.in_use.saturating_sub(bytes);
        if let Some(count) = self.held.get_mut(&share) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&share);
            }
        }
    }

    /// Those who may go now.
    fn ready(&self) -> Vec<Waker> {
        let ready =
            self.queue.iter().enumerate().filter(|(position, waiting)| self.may_go(*position, waiting));
        ready.filter_map(|(_, waiting)| waiting.waker.clone()).collect()
    }
}

impl ByteBudget {
    /// A budget of so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { limit, in_use: 0, next: 0, queue: VecDeque::new(), held: BTreeMap::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and the counts are right even if something did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole budget in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// The bytes that permits hold now.
    pub(crate) fn in_use(&self) -> usize {
        self.lock().in_use
    }

    /// Changes the whole budget; what is held stays held.
    pub(crate) fn set_limit(&self, limit: usize) {
        if self.limit() != limit {
            self.change(|state| state.limit = limit);
        }
    }

    /// Whether somebody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// The share of one operation.
    pub(crate) fn share(&self) -> Share {
        let mut state = self.lock();
        state.next += 1;
        Share { budget: self.clone(), id: state.next }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let ready = state.ready();
        drop(state);
        ready.into_iter().for_each(Waker::wake);
    }
}

/// One operation's access to the budget.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    budget: ByteBudget,
    id: u64,
}

impl Share {
    /// Waits for so many bytes, behind everybody who asked before.
    ///
    /// Dropping the future gives up the place in the queue.
    pub(crate) fn take(&self, bytes: usize) -> Take {
        let mut state = self.budget.lock();
        state.next += 1;
        let ticket = state.next;
        let bytes = if is_active(Bug::IgnoreBudget) { 0 } else { bytes.min(state.limit) };
        state.queue.push_back(Waiting { ticket, share: self.id, bytes, waker: None });
        Take { share: self.clone(), ticket, bytes, done: false }
    }
}

/// Waits for a [`Permit`].
#[derive(Debug)]
pub(crate) struct Take {
    share: Share,
    ticket: u64,
    bytes: usize,
    done: bool,
}

impl Future for Take {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let ticket = self.ticket;
        let mut state = self.share.budget.lock();
        if !state.try_take(ticket) {
            if let Some(waiting) = state.queue.iter_mut().find(|waiting| waiting.ticket == ticket) {
                waiting.waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        drop(state);
        self.done = true;
        // Whoever is first now may fit as well.
        self.share.budget.change(|_| ());
        Poll::Ready(Permit { share: self.share.clone(), bytes: self.bytes })
    }
}

impl Drop for Take {
    fn drop(&mut self) {
        if !self.done {
            self.share.budget.change(|state| state.queue.retain(|waiting| waiting.ticket != self.ticket));
        }
    }
}

/// The right to hold so many bytes; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    share: Share,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.budget.change(|state| state.give_back(self.share.id, self.bytes));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has a thread to block")]
mod tests {
    use futures::FutureExt;
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn first_come_first_served() {
        let budget = ByteBudget::new(10);
        let share = budget.share();
        let first = block_on(share.take(8));
        let mut large = share.take(6);
        let mut small = share.take(1);
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none(), "a small request does not overtake");
        drop(first);
        let held = block_on(large);
        let also = block_on(small);
        assert_eq!(budget.in_use(), 7);
        drop((held, also));
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn a_dropped_waiter_lets_the_next_through() {
        let budget = ByteBudget::new(10);
        let share = budget.share();
        let held = block_on(share.take(5));
        let mut large = share.take(10);
        assert!((&mut large).now_or_never().is_none());
        let small = share.take(5);
        drop(large);
        let small = block_on(small);
        drop((held, small));
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn an_operation_that_holds_nothing_is_not_stopped_by_a_paused_one() {
        let budget = ByteBudget::new(10);
        let paused = block_on(budget.share().take(10));
        let other = budget.share();
        let first = block_on(other.take(4));
        let mut second = other.take(4);
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(block_on(second));
        drop(paused);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn more_than_the_budget_counts_as_all_of_it() {
        let budget = ByteBudget::new(10);
        let all = block_on(budget.share().take(1000));
        assert_eq!(budget.in_use(), 10);
        drop(all);
    }
}
