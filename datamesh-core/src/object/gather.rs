//! Many calls at a time, where the last few must not hold up the rest.

use std::future::Future;
use std::time::Duration;

use futures::future::{self, Either};
use futures::stream::{FuturesUnordered, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::ports::{Instant, Runtime};

/// The least time that stragglers get after the others answered.
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// The least time for a node that takes over from one that failed.
const LEAST_RETRY: Duration = Duration::from_secs(5);

/// Stragglers get this many times as long as the others took.
const GRACE_FACTOR: u32 = 4;

/// Runs all calls. Once no more than `spare` of them are unanswered, these get four times as long as the others took,
/// at least a second, and are then given up with `TimedOut`.
///
/// Dropping the future cancels what is under way.
pub(crate) async fn gather<K, T, F>(
    runtime: &dyn Runtime,
    calls: Vec<(K, F)>,
    spare: usize,
) -> Vec<(K, Result<T>)>
where
    K: Clone,
    F: Future<Output = Result<T>>,
{
    let started = runtime.now();
    let mut waiting: Vec<Option<K>> = calls.iter().map(|(key, _)| Some(key.clone())).collect();
    let mut running: FuturesUnordered<_> = calls
        .into_iter()
        .enumerate()
        .map(|(number, (key, call))| async move { (number, key, call.await) })
        .collect();
    let mut answers = Vec::with_capacity(waiting.len());
    let mut grace = None;
    while !running.is_empty() {
        if grace.is_none() && !answers.is_empty() && running.len() <= spare {
            grace = Some(runtime.sleep_until(grace_end(started, runtime.now())));
        }
        let next = match &mut grace {
            None => running.next().await,
            Some(timer) => match future::select(running.next(), timer).await {
                Either::Left((next, _)) => next,
                Either::Right(_) => None,
            },
        };
        let Some((number, key, answer)) = next else { break };
        if let Some(slot) = waiting.get_mut(number) {
            *slot = None;
        }
        answers.push((key, answer));
    }
    answers.extend(waiting.into_iter().flatten().map(|key| (key, Err(overtaken()))));
    answers
}

/// How long to wait for calls of which none may be spared, where calls like them `took` so long before.
pub(super) fn retry_limit(took: Option<Duration>, limit: Duration) -> Duration {
    took.map_or(limit, |took| (took * GRACE_FACTOR).clamp(LEAST_RETRY.min(limit), limit))
}

fn grace_end(started: Instant, now: Instant) -> Instant {
    now + ((now - started) * GRACE_FACTOR).max(LEAST_GRACE)
}

fn overtaken() -> Error {
    Error::new(ErrorKind::TimedOut, "the others answered long before")
}
