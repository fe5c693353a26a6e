//! Bytes of messages that may be under way, with a part that is kept for small ones.
//!
//! Whoever promises large messages and is slow to send them, or asks for large ones and is slow to read them, may take
//! all that there is for large ones. What is small then still passes: pings, records, and all else that keeps a mesh
//! together.

use std::io;
use std::pin::pin;

use futures::future::{self, Either};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::limits::LONGEST;

/// The longest message that passes while large ones wait: 64 KiB.
pub(crate) const SMALL: usize = 64 << 10;

/// What of the bytes of all peers is kept for small messages: one part in so many, so that by default each of 256 peers
/// has one of the longest under way.
const PART: usize = 16;

/// Room for messages, of one peer or of all.
pub(crate) struct Budget {
    /// For messages of any length, which are let in in the order in which they came.
    any: Semaphore,
    /// For small ones that find no room there.
    small: Semaphore,
}

/// Room that was taken, with the peer and with the node.
pub(crate) type Taken<'a> = [SemaphorePermit<'a>; 2];

impl Budget {
    /// For one peer: what is kept is one small message.
    pub(crate) fn of_peer(bytes: usize) -> Self {
        Self::keeping(SMALL, bytes)
    }

    /// For all peers. What is left has room for the longest message there is, as [`Limits`](super::limits::Limits) that
    /// are made whole see to.
    pub(crate) fn of_all(bytes: usize) -> Self {
        let most = bytes.saturating_sub(LONGEST);
        Self::keeping((bytes / PART).min(most).max(SMALL), bytes)
    }

    fn keeping(small: usize, bytes: usize) -> Self {
        let permits = |bytes: usize| Semaphore::new(bytes.min(Semaphore::MAX_PERMITS));
        Self { any: permits(bytes.saturating_sub(small)), small: permits(small) }
    }
}

/// Waits for room for so many bytes, with the peer and then with the node: nobody who has the node's waits for a peer's,
/// so that no two wait for each other.
pub(crate) async fn take([peer, node]: [&Budget; 2], bytes: usize) -> io::Result<Taken<'_>> {
    let any = acquire([&peer.any, &node.any], bytes);
    if bytes > SMALL {
        return any.await;
    }
    let (any, kept) = (pin!(any), pin!(acquire([&peer.small, &node.small], bytes)));
    future::select(any, kept).await.factor_first().0
}

/// Waits until no message waits for room, or for all that is kept for the peer's small ones, which is then taken.
pub(crate) async fn turn([peer, node]: [&Budget; 2]) -> io::Result<Option<Taken<'_>>> {
    let (any, kept) =
        (pin!(acquire([&peer.any, &node.any], 1)), pin!(acquire([&peer.small, &node.small], SMALL)));
    match future::select(any, kept).await {
        Either::Left((any, _)) => any.map(|_| None),
        Either::Right((kept, _)) => kept.map(Some),
    }
}

async fn acquire([peer, node]: [&Semaphore; 2], bytes: usize) -> io::Result<Taken<'_>> {
    let bytes = u32::try_from(bytes).map_err(io::Error::other)?;
    let first = peer.acquire_many(bytes).await.map_err(io::Error::other)?;
    let second = node.acquire_many(bytes).await.map_err(io::Error::other)?;
    Ok([first, second])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is for messages of any length, and for small ones that find no room there.
    fn figures(budget: &Budget) -> [usize; 2] {
        [budget.any.available_permits(), budget.small.available_permits()]
    }

    /// Room for the longest message, with what is kept for small ones beside it.
    const LEAST: usize = LONGEST + SMALL;

    #[test]
    fn what_is_kept_for_small_messages_of_all_peers() {
        // From here on a sixteenth leaves room for the longest message.
        let even = LONGEST + LONGEST / (PART - 1);
        let table = [
            (0, [0, SMALL]),
            // A sixteenth of it is one small message.
            (PART * SMALL, [(PART - 1) * SMALL, SMALL]),
            (LEAST - 1, [LONGEST - 1, SMALL]),
            (LEAST, [LONGEST, SMALL]),
            (LEAST + 1, [LONGEST, SMALL + 1]),
            (even - 1, [LONGEST, even - 1 - LONGEST]),
            (even, [LONGEST, even / PART]),
            (even + 1, [LONGEST + 1, even / PART]),
            (256 << 20, [240 << 20, 16 << 20]),
            (usize::MAX, [Semaphore::MAX_PERMITS, usize::MAX / PART]),
        ];
        for (bytes, expected) in table {
            assert_eq!(figures(&Budget::of_all(bytes)), expected, "{bytes}");
        }
    }

    #[test]
    fn what_is_kept_for_small_messages_of_one_peer() {
        let table = [
            (0, [0, SMALL]),
            (LEAST - 1, [LONGEST - 1, SMALL]),
            (LEAST, [LONGEST, SMALL]),
            (16 << 20, [(16 << 20) - SMALL, SMALL]),
            (usize::MAX, [Semaphore::MAX_PERMITS, SMALL]),
        ];
        for (bytes, expected) in table {
            assert_eq!(figures(&Budget::of_peer(bytes)), expected, "{bytes}");
        }
    }
}
