//! Background tasks of a mesh: stopped together, and waited for.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use futures::FutureExt;
use futures::future::{self, Either};

use crate::error::Result;
use crate::ports::Runtime;

/// Starts tasks, tells them to stop and knows when none is left.
#[derive(Debug)]
pub(super) struct Tasks {
    runtime: Arc<dyn Runtime>,
    /// Closed when the tasks are to stop.
    stop: (Sender<()>, Receiver<()>),
    /// Each task holds a clone of the sender; the last one to go closes the channel.
    alive: Mutex<Option<Sender<()>>>,
    all_gone: Receiver<()>,
}

impl Tasks {
    pub(super) fn new(runtime: &Arc<dyn Runtime>) -> Self {
        let (alive, all_gone) = async_channel::bounded(1);
        Self {
            runtime: Arc::clone(runtime),
            stop: async_channel::bounded(1),
            alive: Mutex::new(Some(alive)),
            all_gone,
        }
    }

    /// Starts a task that is dropped at its next pause when [`stop`](Self::stop) is called.
    ///
    /// After `stop` nothing is started any more.
    pub(super) fn start(&self, task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let stopped = self.stop.1.clone();
        self.start_to_end(async move {
            let (task, stop) = (std::pin::pin!(task), std::pin::pin!(stopped.recv()));
            match future::select(stop, task).await {
                Either::Left(_) | Either::Right(_) => {}
            }
        })
    }

    /// Starts a task that runs to its own end; [`finished`](Self::finished) waits for it.
    pub(super) fn start_to_end(&self, task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(alive) = alive else { return Ok(()) };
        let task = async move {
            task.await;
            drop(alive);
        };
        self.runtime.spawn(task.boxed())
    }

    /// Tells all tasks to stop.
    pub(super) fn stop(&self) {
        self.stop.0.close();
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits until no task is left; [`stop`](Self::stop) was called before.
    pub(super) async fn finished(&self) {
        // Nothing is ever sent: the channel's end is the message.
        let _ = self.all_gone.recv().await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.0.is_closed()
    }
}
