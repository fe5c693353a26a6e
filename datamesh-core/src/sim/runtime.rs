//! The runtime of one incarnation of a node: virtual time with a drift, a wall clock that can jump.

use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::Result;
use crate::ports::{Instant, Job, Runtime, Task, Timestamp};
use crate::sim::draws::Draws;
use crate::sim::world::{EventKey, ScopeId, World, lock, nanos};

/// The wall-clock time at which every simulation begins: the first of January 2026, in milliseconds.
pub(crate) const BEGIN: u64 = 1_767_225_600_000;

/// A million, of which drift is counted in parts.
const MILLION: u128 = 1_000_000;

/// The clock of a node, which outlives its incarnations.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// How much faster than the world it goes, in parts per million.
    pub(crate) drift_ppm: AtomicI64,
    /// What its wall clock shows beyond the right time, in milliseconds.
    pub(crate) offset_ms: AtomicI64,
}

impl Clock {
    fn rate(&self) -> u128 {
        let drift = self.drift_ppm.load(Ordering::Relaxed).clamp(-500_000, 500_000);
        MILLION.saturating_add_signed(i128::from(drift))
    }

    /// How much of the node's time passes in so much of the world's.
    fn local(&self, world: u64) -> u64 {
        u64::try_from(u128::from(world) * self.rate() / MILLION).unwrap_or(u64::MAX)
    }

    /// How much of the world's time has to pass for so much of the node's.
    fn world(&self, local: u64) -> u64 {
        u64::try_from((u128::from(local) * MILLION).div_ceil(self.rate())).unwrap_or(u64::MAX)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimRuntime {
    world: Arc<World>,
    scope: ScopeId,
    node: usize,
    clock: Arc<Clock>,
    draws: Mutex<Draws>,
}

impl SimRuntime {
    pub(crate) fn new(world: &Arc<World>, scope: ScopeId, node: usize, clock: &Arc<Clock>) -> Arc<Self> {
        let purpose = format!("node {node}, {scope:?}");
        Arc::new(Self {
            world: Arc::clone(world),
            scope,
            node,
            clock: Arc::clone(clock),
            draws: Mutex::new(Draws::new(world.seed(), &purpose)),
        })
    }
}

impl Runtime for SimRuntime {
    fn spawn(&self, task: Task) -> Result<()> {
        self.world.spawn(self.scope, task)
    }

    fn spawn_blocking(&self, job: Job) -> Result<()> {
        self.world.spawn_job(self.scope, job)
    }

    fn sleep_until(&self, deadline: Instant) -> Task {
        let until = self.clock.world(nanos(deadline.since_start()));
        Box::pin(Sleep { world: Arc::clone(&self.world), scope: self.scope, until, timer: None })
    }

    fn now(&self) -> Instant {
        Instant::from_start(Duration::from_nanos(self.clock.local(self.world.now())))
    }

    fn wall_time(&self) -> Timestamp {
        let offset = self.clock.offset_ms.load(Ordering::Relaxed);
        let passed = self.clock.local(self.world.now()) / 1_000_000;
        Timestamp(BEGIN.saturating_add(passed).saturating_add_signed(offset))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        lock(&self.draws).fill(bytes);
        self.world.note(self.node, "random", [bytes.len() as u64, 0], &[]);
        Ok(())
    }

    fn parallelism(&self) -> usize {
        2
    }
}

/// A timer of a node. Once its incarnation has ended it is over, so that nobody waits for it in vain.
struct Sleep {
    world: Arc<World>,
    scope: ScopeId,
    until: u64,
    timer: Option<EventKey>,
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(key) = self.timer.take() {
            self.world.forget(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.forget();
        if self.world.now() >= self.until || !self.world.is_open(self.scope) {
            return Poll::Ready(());
        }
        self.timer = Some(self.world.wake_at(self.until, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "testing")]
    fn a_runtime_that_is_gone_says_so() {
        let world = World::new(1, false, None);
        let scope = world.open_scope(0);
        let runtime: Arc<dyn Runtime> = SimRuntime::new(&world, scope, 0, &Arc::default());
        world.close_scope(scope);
        crate::testing::runtime::runtime_that_is_gone(&runtime);
    }

    #[test]
    fn a_drifting_clock_never_wakes_early() {
        for drift in [-200, -1, 0, 1, 200, 100_000] {
            let clock = Clock::default();
            clock.drift_ppm.store(drift, Ordering::Relaxed);
            for local in [0, 1, 999, 1_000_000, 3_600_000_000_000] {
                assert!(clock.local(clock.world(local)) >= local, "{drift} {local}");
            }
        }
    }
}
