//! What a node does unasked: it notices who is gone, and brings what is missing back to where it belongs.
//!
//! Each holder walks over its own extents and manifests and asks the other holders what they have ([`survey`]). What
//! is to be done is decided by pure functions ([`plan`]): the first-ranked holder that answers acts, the others look
//! again later. Bytes are moved by [`repair`] and [`settle`] at a bounded [`pace`]. Nothing is remembered that could
//! not be found again: the work is what the records and the answers say, so it goes on after a restart where it was.
//!
//! Nothing is deleted because a node did not answer, and nothing because another should: only what another has promised
//! to keep, after its copy was looked at.

mod audit;
mod collect;
mod detector;
mod findings;
mod mend;
mod object;
mod options;
mod pace;
mod plan;
mod presence;
mod repair;
mod roster;
mod rounds;
pub(crate) mod scrub;
mod settle;
mod sight;
mod spread;
mod standing;
mod status;
mod survey;
mod unreadable;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};

use crate::node::Node;
use crate::object::Engine;
use crate::object::budget::Share;

use pace::Pace;
use roster::Roster;
use rounds::Memory;

pub use detector::NodeState;
pub(crate) use detector::{Detector, TICK};
pub use object::RepairReport;
pub(crate) use object::repair_object;
pub use options::CareOptions;
#[cfg(test)]
pub(crate) use spread::{PAGE as REMOVALS_OF_MESSAGE, PAGES_OF_A_LOOK as MESSAGES_OF_A_LOOK};
pub use standing::{Audit, Audits};
pub use status::{CareProgress, CareStatus, Margins};

/// What a node does unasked; one for each mesh handle.
pub(crate) struct Care {
    engine: Arc<Engine>,
    node: Arc<Node>,
    options: CareOptions,
    pace: Pace,
    share: Share,
    paused: AtomicBool,
    /// Holds a token when there is reason to look.
    wake: (Sender<()>, Receiver<()>),
    status: Mutex<CareStatus>,
    roster: Mutex<Roster>,
    memory: Mutex<Memory>,
}

impl fmt::Debug for Care {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Care").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Care {
    pub(crate) fn new(engine: &Arc<Engine>, node: &Arc<Node>, options: CareOptions) -> Arc<Self> {
        let pace = Pace::new(&engine.runtime, &engine.peers, options.bytes_per_second);
        Arc::new(Self {
            pace,
            share: engine.budget.share(),
            paused: AtomicBool::new(options.paused),
            wake: async_channel::bounded(1),
            status: Mutex::default(),
            roster: Mutex::new(Roster::new(engine.runtime.now())),
            memory: Mutex::default(),
            engine: Arc::clone(engine),
            node: Arc::clone(node),
            options,
        })
    }

    /// Gives reason to look soon: something may be missing.
    pub(crate) fn wake(&self) {
        // A token that is there already says the same.
        let _ = self.wake.0.try_send(());
    }

    /// Stops moving anything until [`resume`](Self::resume); what is under way is finished.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        self.wake();
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// How far care has come, and how well this node's extents are kept.
    pub(crate) fn status(&self) -> CareStatus {
        let mut status = self.lock_status().clone();
        status.paused = self.is_paused();
        let left = status.progress.bytes_total.saturating_sub(status.progress.bytes_done);
        status.progress.eta = (left > 0).then(|| self.pace.time_for(left));
        status.bytes_per_second = self.pace.rate();
        status
    }

    fn lock_status(&self) -> MutexGuard<'_, CareStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
