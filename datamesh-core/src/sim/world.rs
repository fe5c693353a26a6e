//! The world: virtual time, one heap of events, tasks in an order that the seed decides. One thread drives it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::channel::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::ports::{Job, Task};
use crate::sim::draws::Draws;
use crate::sim::progress::{Progress, Watcher};
use crate::sim::trace::{Entry, Trace};

/// The scope of what belongs to no node: the network, and whoever drives the simulation.
pub(crate) const OUTSIDE: ScopeId = ScopeId(0);

/// The task that drives the simulation.
const MAIN: u64 = 0;

/// Steps of one virtual second after which a mesh of few nodes counts as spinning: a hundred times what work takes.
const MAX_STEPS_OF_SECOND: u64 = 300_000;

/// Steps more for each pair of nodes, which all connect to each other at the beginning.
const STEPS_OF_PAIR: u64 = 100;

/// The shortest and longest time that a job takes on the pool.
const JOB_TIMES: (Duration, Duration) = (Duration::from_micros(2), Duration::from_micros(200));

/// One incarnation of one node; 0 is the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ScopeId(u64);

/// Where an event stands in the heap: its time in nanoseconds, and its number.
pub(crate) type EventKey = (u64, u64);

/// Everything that is simulated together.
pub(crate) struct World {
    seed: u64,
    /// Tasks to be polled. Wakers lock nothing else, so they may be called from anywhere.
    ready: Mutex<Vec<u64>>,
    state: Mutex<State>,
    trace: Mutex<Trace>,
    watcher: Option<Watcher>,
}

struct State {
    now: u64,
    next: u64,
    events: BTreeMap<EventKey, Event>,
    tasks: BTreeMap<u64, Slot>,
    scopes: BTreeMap<ScopeId, Scope>,
    schedule: Draws,
    panics: Vec<String>,
}

enum Event {
    Wake(Waker),
    Job(ScopeId, Job),
    Run(Step),
}

/// What an event does with the world.
type Step = Box<dyn FnOnce(&Arc<World>) + Send>;

struct Slot {
    scope: ScopeId,
    /// Out while it is polled.
    future: Option<Task>,
    waker: Arc<TaskWaker>,
}

/// One incarnation of a node, and what waits for it to thaw.
struct Scope {
    node: usize,
    frozen: bool,
    stalled: Vec<u64>,
    stalled_jobs: Vec<Job>,
}

struct TaskWaker {
    world: Weak<World>,
    task: u64,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(world) = self.world.upgrade() else { return };
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&world.ready).push(self.task);
        }
    }
}

/// Why a run ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Nothing is left that could wake anybody.
    NothingLeft,
    /// Virtual time is over.
    OutOfTime,
    /// Tasks wake each other again and again, and hardly any time passes.
    Spinning,
    /// A task or job panicked.
    Panicked(String),
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl World {
    /// A world; where there is a watcher it is told how far the world is.
    pub(super) fn new(seed: u64, keep_lines: bool, watcher: Option<Watcher>) -> Arc<Self> {
        let outside =
            Scope { node: usize::MAX, frozen: false, stalled: Vec::new(), stalled_jobs: Vec::new() };
        let state = State {
            now: 0,
            next: 1,
            events: BTreeMap::new(),
            tasks: BTreeMap::new(),
            scopes: BTreeMap::from([(OUTSIDE, outside)]),
            schedule: Draws::new(seed, "schedule"),
            panics: Vec::new(),
        };
        Arc::new(Self {
            seed,
            ready: Mutex::default(),
            state: Mutex::new(state),
            trace: Mutex::new(Trace::new(keep_lines)),
            watcher,
        })
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Nanoseconds since the world began.
    pub(crate) fn now(&self) -> u64 {
        self.state().now
    }

    pub(crate) fn trace<R>(&self, with: impl FnOnce(&Trace) -> R) -> R {
        with(&lock(&self.trace))
    }

    /// Notes that something happened.
    pub(crate) fn note(&self, node: usize, kind: &'static str, numbers: [u64; 2], bytes: &[u8]) {
        let at = self.now();
        lock(&self.trace).note(Entry { at, kind, node: node as u64, numbers, bytes });
    }

    /// A new incarnation of a node.
    pub(crate) fn open_scope(&self, node: usize) -> ScopeId {
        let mut state = self.state();
        let id = ScopeId(state.number());
        let scope = Scope { node, frozen: false, stalled: Vec::new(), stalled_jobs: Vec::new() };
        state.scopes.insert(id, scope);
        id
    }

    /// Ends an incarnation: its tasks and jobs are dropped, and nothing of it runs again.
    pub(crate) fn close_scope(&self, id: ScopeId) {
        let mut state = self.state();
        let scope = state.scopes.remove(&id);
        let dead: Vec<u64> =
            state.tasks.iter().filter(|(_, slot)| slot.scope == id).map(|(task, _)| *task).collect();
        let slots: Vec<Slot> = dead.iter().filter_map(|task| state.tasks.remove(task)).collect();
        let jobs: Vec<EventKey> = state
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Job(of, _) if *of == id))
            .map(|(key, _)| *key)
            .collect();
        let jobs: Vec<Event> = jobs.iter().filter_map(|key| state.events.remove(key)).collect();
        drop(state);
        // What is dropped wakes and calls others, so nothing may be locked here.
        drop((scope, slots, jobs));
    }

    pub(crate) fn is_open(&self, id: ScopeId) -> bool {
        self.state().scopes.contains_key(&id)
    }

    pub(crate) fn is_frozen(&self, id: ScopeId) -> bool {
        self.state().scopes.get(&id).is_some_and(|scope| scope.frozen)
    }

    /// Stops polling an incarnation, or goes on with it.
    pub(crate) fn set_frozen(&self, id: ScopeId, frozen: bool) {
        let mut state = self.state();
        let Some(scope) = state.scopes.get_mut(&id) else { return };
        scope.frozen = frozen;
        if frozen {
            return;
        }
        let (tasks, jobs) = (std::mem::take(&mut scope.stalled), std::mem::take(&mut scope.stalled_jobs));
        for job in jobs {
            let key = (state.now, state.number());
            state.events.insert(key, Event::Job(id, job));
        }
        drop(state);
        lock(&self.ready).extend(tasks);
    }

    /// Adds a task to an incarnation.
    pub(crate) fn spawn(self: &Arc<Self>, scope: ScopeId, future: Task) -> Result<()> {
        let mut state = self.state();
        if !state.scopes.contains_key(&scope) {
            drop(state);
            return Err(gone());
        }
        let task = state.number();
        let waker = Arc::new(TaskWaker { world: Arc::downgrade(self), task, queued: AtomicBool::new(true) });
        state.tasks.insert(task, Slot { scope, future: Some(future), waker });
        drop(state);
        lock(&self.ready).push(task);
        Ok(())
    }

    /// Runs a future as a task of an incarnation and gives its output, or `None` when that incarnation ended first.
    pub(crate) fn run_in<F>(
        self: &Arc<Self>,
        scope: ScopeId,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send + use<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        // An incarnation that is gone drops the sender, which is the answer.
        let _ = self.spawn(scope, Box::pin(async move { drop(done.send(future.await)) }));
        async move { result.await.ok() }
    }

    /// Adds a job, which takes a little time.
    pub(crate) fn spawn_job(&self, scope: ScopeId, job: Job) -> Result<()> {
        let mut state = self.state();
        if !state.scopes.contains_key(&scope) {
            drop(state);
            return Err(gone());
        }
        let (least, most) = JOB_TIMES;
        let takes = nanos(state.schedule.time(least, most));
        let key = (state.now.saturating_add(takes), state.number());
        state.events.insert(key, Event::Job(scope, job));
        Ok(())
    }

    /// Runs something at a time, which is not before now.
    pub(crate) fn run_at(&self, at: u64, run: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let mut state = self.state();
        let key = (at.max(state.now), state.number());
        state.events.insert(key, Event::Run(Box::new(run)));
    }

    /// Runs something after a time.
    pub(crate) fn run_after(&self, delay: Duration, run: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let at = self.now().saturating_add(nanos(delay));
        self.run_at(at, run);
    }

    /// Wakes someone at a time; the key takes it back.
    pub(crate) fn wake_at(&self, at: u64, waker: Waker) -> EventKey {
        let mut state = self.state();
        let key = (at.max(state.now), state.number());
        state.events.insert(key, Event::Wake(waker));
        key
    }

    /// Takes a timer back; true when it had not fired.
    pub(crate) fn forget(&self, key: EventKey) -> bool {
        let event = self.state().events.remove(&key);
        event.is_some()
    }

    /// Waits for a time of the world, which neither freezes nor drifts.
    pub(crate) fn sleep(self: &Arc<Self>, duration: Duration) -> WorldSleep {
        WorldSleep { world: Arc::clone(self), until: self.now().saturating_add(nanos(duration)), timer: None }
    }

    /// Drives everything until `main` is done.
    pub(crate) fn drive<T>(
        self: &Arc<Self>,
        main: impl Future<Output = T>,
        until: Duration,
    ) -> Result<T, Stopped> {
        let mut main = std::pin::pin!(main);
        let waker =
            Arc::new(TaskWaker { world: Arc::downgrade(self), task: MAIN, queued: AtomicBool::new(true) });
        lock(&self.ready).push(MAIN);
        let end = self.now().saturating_add(nanos(until));
        let (mut second, mut steps, mut polls) = (0, 0, 0);
        loop {
            (steps, polls) = (steps + 1, polls + 1);
            if let Some(watcher) = &self.watcher {
                watcher.tell(polls, || self.progress());
            }
            let (now, limit) = self.second_and_limit();
            if now != std::mem::replace(&mut second, now) {
                steps = 0;
            } else if steps > limit {
                return Err(Stopped::Spinning);
            }
            if let Some(task) = self.next_ready() {
                if task != MAIN {
                    self.poll(task);
                    continue;
                }
                self.note(usize::MAX, "poll", [MAIN, 0], &[]);
                waker.queued.store(false, Ordering::Relaxed);
                let main_waker = Waker::from(Arc::clone(&waker));
                if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&main_waker)) {
                    lock(&self.ready).retain(|task| *task != MAIN);
                    return Ok(value);
                }
                continue;
            }
            if let Some(text) = self.state().panics.first().cloned() {
                return Err(Stopped::Panicked(text));
            }
            self.next_event(end)?;
        }
    }

    fn progress(&self) -> Progress {
        let events = self.trace(Trace::events);
        Progress { simulated: Duration::from_nanos(self.now()), events }
    }

    /// The virtual second, and how many steps it may have.
    fn second_and_limit(&self) -> (u64, u64) {
        let state = self.state();
        let nodes = state.scopes.len() as u64;
        (state.now / 1_000_000_000, MAX_STEPS_OF_SECOND + STEPS_OF_PAIR * nodes * nodes)
    }

    /// Takes one of the tasks that are ready, whichever the seed says.
    fn next_ready(&self) -> Option<u64> {
        let mut ready = lock(&self.ready);
        match ready.len() {
            0 => None,
            1 => ready.pop(),
            count => {
                let index = self.state().schedule.index(count);
                Some(ready.swap_remove(index))
            }
        }
    }

    fn poll(self: &Arc<Self>, task: u64) {
        let mut state = self.state();
        let Some(slot) = state.tasks.get(&task) else { return };
        let scope_id = slot.scope;
        let node = match state.scopes.get_mut(&scope_id) {
            Some(scope) if scope.frozen => return scope.stalled.push(task),
            Some(scope) => scope.node,
            None => return,
        };
        let Some(slot) = state.tasks.get_mut(&task) else { return };
        let Some(mut future) = slot.future.take() else { return };
        let task_waker = Arc::clone(&slot.waker);
        drop(state);
        self.note(node, "poll", [task, 0], &[]);
        task_waker.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(task_waker);
        let polled =
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) => {
                let mut state = self.state();
                let future = match state.tasks.get_mut(&task) {
                    Some(slot) => {
                        slot.future = Some(future);
                        None
                    }
                    // Its node crashed while it was polled.
                    None => Some(future),
                };
                drop(state);
                drop(future);
            }
            Ok(Poll::Ready(())) => {
                drop(future);
                let slot = self.state().tasks.remove(&task);
                drop(slot);
            }
            Err(panic) => self.panicked(node, "a task", &*panic),
        }
    }

    fn next_event(self: &Arc<Self>, end: u64) -> Result<(), Stopped> {
        let mut state = self.state();
        let Some(((at, _), event)) = state.events.pop_first() else { return Err(Stopped::NothingLeft) };
        if at > end {
            return Err(Stopped::OutOfTime);
        }
        state.now = at;
        if let Event::Job(id, _) = &event
            && let Some(scope) = state.scopes.get_mut(id)
            && scope.frozen
        {
            if let Event::Job(_, job) = event {
                scope.stalled_jobs.push(job);
            }
            return Ok(());
        }
        drop(state);
        match event {
            Event::Wake(waker) => waker.wake(),
            Event::Run(run) => run(self),
            Event::Job(_, job) => {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                    self.panicked(usize::MAX, "a job", &*panic);
                }
            }
        }
        Ok(())
    }

    fn panicked(&self, node: usize, what: &str, panic: &(dyn std::any::Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        self.state().panics.push(format!("{what} of node {node} panicked: {text}"));
    }

    /// Drops every task and event, which hold the world alive.
    pub(crate) fn end(&self) {
        let scopes: Vec<ScopeId> = self.state().scopes.keys().copied().collect();
        scopes.into_iter().for_each(|scope| self.close_scope(scope));
        let events = std::mem::take(&mut self.state().events);
        drop(events);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// See [`World::sleep`].
#[derive(Debug)]
pub(crate) struct WorldSleep {
    world: Arc<World>,
    until: u64,
    timer: Option<EventKey>,
}

impl Future for WorldSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(key) = self.timer.take() {
            self.world.forget(key);
        }
        if self.world.now() >= self.until {
            return Poll::Ready(());
        }
        self.timer = Some(self.world.wake_at(self.until, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for WorldSleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer.take() {
            self.world.forget(key);
        }
    }
}

/// A duration in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a result of the simulation, and what it left is looked at, not built on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "this incarnation of the node has ended; restart the node")
}
