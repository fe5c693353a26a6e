//! The runtimes that a mesh can live in: one that owns its threads, and a lent Tokio.
//!
//! [`NativeRuntime`] is the default and works under any executor with no set-up. [`TokioRuntime`] (feature
//! `tokio`) puts tasks, jobs and timers on a Tokio runtime that the program already has.

mod native;
mod timers;
#[cfg(feature = "tokio")]
mod tokio;

pub use native::NativeRuntime;
#[cfg(feature = "tokio")]
pub use tokio::TokioRuntime;

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use datamesh_core::ports::{Job, Timestamp};
use datamesh_core::{Error, ErrorKind, Result};

/// Jobs that may wait for a thread: the data path keeps a few for each core under way, so a queue of this
/// length means that somebody forgot to wait; each entry is a box, its captures aside.
const MAX_QUEUED_JOBS: usize = 16 * 1024;

/// How many jobs run at the same time: one for each core; two at least, so that a job which waits for the
/// disk leaves room for one that computes; eight at most, because a mesh is a guest in its process.
fn default_parallelism() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get).clamp(2, 8)
}

/// Runs a job; its panic ends the job and not the thread.
fn run(job: Job) {
    // Whoever waits for the job learns of the panic by its dropped channel.
    let _ = catch_unwind(AssertUnwindSafe(job));
}

/// Locks what no panic can leave half-changed: every change under these locks is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wall_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        Error::new(ErrorKind::Io, "the system gives no random bytes; check its random source")
            .with_source(std::io::Error::other(error))
    })
}

fn too_many_jobs() -> Error {
    Error::new(
        ErrorKind::Busy,
        format!("{MAX_QUEUED_JOBS} jobs wait for a thread already; retry when some are done"),
    )
}
