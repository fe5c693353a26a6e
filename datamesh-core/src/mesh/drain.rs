//! Leaving politely.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result};
use crate::mesh::requests::run;
use crate::mesh::{Core, Mesh};
use crate::object::{Progress, ProgressFn};
use crate::peers::closed;

/// How often it is looked how far care has come.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Leaves the mesh politely; see [`Mesh::drain`].
///
/// It is done when those who are to hold what this node held have said in a recount that they do, or, where they have no
/// room, others; and when those who stay survive the loss of as many nodes and zones as they did with it.
///
/// # Errors
/// `Unavailable` when no other member can hold data; `Busy` while care is paused; the store's own; `TimedOut` after the
/// deadline; `Closed` when the mesh is shut down meanwhile. It waits for members that are silent and are to hold something
/// of it, for room where nobody else would hold it as safely, and up to a minute for others to whom this node promised to
/// keep something, so give it a deadline.
///
/// # Cancel safety
/// Dropping the future leaves the node leaving: it takes nothing new, and care goes on bringing its shards to others until
/// it is opened again. Then it is a member as before, unless it is opened with a capacity of 0.
#[must_use = "a request does nothing until it is awaited"]
pub struct Drain {
    mesh: Mesh,
    progress: Option<ProgressFn>,
    deadline: Option<Duration>,
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drain({:?})", self.mesh)
    }
}

impl Drain {
    pub(super) fn new(mesh: Mesh) -> Self {
        Self { mesh, progress: None, deadline: None }
    }

    /// Calls back with how many extents and manifests are with others, of how many. The callback must not block.
    pub fn progress(mut self, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// Gives up with `TimedOut` after this time.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }
}

impl IntoFuture for Drain {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let core = Arc::clone(self.mesh.core());
        let work = async move { core.drain(self.progress).await };
        Box::pin(run(self.mesh, "drain", self.deadline, work))
    }
}

impl Core {
    async fn drain(self: &Arc<Self>, progress: Option<ProgressFn>) -> Result<()> {
        let local = self.engine.peers.local();
        if self.own.is_client() {
            return Ok(());
        }
        if self.engine.peers.present_members().iter().all(|member| member.node == local) {
            let text = "no other member can hold what this node has; let others join first";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        self.announce_leaving().await?;
        if let Some(until) = self.node.take_no_more().await {
            while self.engine.runtime.now() < until {
                self.wait_to_drain().await?;
            }
        }
        // The round that is under way may have begun before.
        let begun = self.care.status().rounds;
        self.care.wake();
        loop {
            let status = self.care.status();
            let is_recounted = status.rounds > begun.saturating_add(1);
            if let Some(progress) = progress.as_ref().filter(|_| is_recounted) {
                progress(Progress::new(status.held.saturating_sub(status.away), Some(status.held)));
            }
            if is_recounted && status.away == 0 {
                return Ok(());
            }
            // Nothing else may give reason for the recount.
            if status.away == 0 {
                self.care.wake();
            }
            self.wait_to_drain().await?;
        }
    }

    /// Waits a moment, unless nothing goes on.
    async fn wait_to_drain(&self) -> Result<()> {
        if self.care.status().paused {
            return Err(Error::new(ErrorKind::Busy, "care is paused on this node; resume it to drain"));
        }
        if self.tasks.is_stopped() {
            return Err(closed());
        }
        self.engine.runtime.sleep(LOOK_AGAIN).await;
        Ok(())
    }
}
