//! The keys of a mesh, shared by a node and its transports while they change.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender, TrySendError};

use crate::format::{MeshKey, MeshKeys};
use crate::ports::Timestamp;

/// The keys of a mesh: a handle that a node and its transports share, so that a new key counts for all of them at once.
///
/// A clone is the same ring.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    network: [u8; 32],
    state: Mutex<State>,
    /// Told of each change; as many as a node has transports.
    watchers: Mutex<Vec<Sender<()>>>,
}

struct State {
    keys: MeshKeys,
    /// The latest moment that was seen.
    latest: Timestamp,
}

impl State {
    /// Goes on to a moment, unless a later one was seen: which one it is now. What has ended is forgotten for good.
    fn go_on(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        self.keys.forget_ended(self.latest);
        self.latest
    }
}

impl KeyRing {
    /// A ring with these keys.
    pub fn new(keys: MeshKeys) -> Self {
        let (network, latest) = (keys.network, Timestamp(0));
        Self(Arc::new(Ring {
            network,
            state: Mutex::new(State { keys, latest }),
            watchers: Mutex::default(),
        }))
    }

    /// A ring with the first key of a mesh.
    pub fn of(key: MeshKey) -> Self {
        Self::new(MeshKeys::first(key))
    }

    /// The public name of the mesh, which never changes.
    pub fn network(&self) -> [u8; 32] {
        self.0.network
    }

    /// The keys as they are now.
    pub fn keys(&self) -> MeshKeys {
        lock(&self.0.state).keys.clone()
    }

    /// The key that counts now.
    pub fn current(&self) -> MeshKey {
        lock(&self.0.state).keys.current.clone()
    }

    /// The keys that are accepted at a moment, the newest first: at most eight. One that has ended once is not accepted
    /// again, also where the clock goes back.
    pub fn accepted(&self, now: Timestamp) -> Vec<MeshKey> {
        let mut state = lock(&self.0.state);
        let now = state.go_on(now);
        state.keys.accepted(now)
    }

    /// The latest moment that the ring has seen: this one, unless the clock has gone back.
    pub fn latest(&self, now: Timestamp) -> Timestamp {
        lock(&self.0.state).go_on(now)
    }

    /// Takes newer keys of the same mesh in; whether they were newer.
    pub fn replace(&self, keys: MeshKeys) -> bool {
        let mut state = lock(&self.0.state);
        if !keys.is_newer_than(&state.keys) {
            return false;
        }
        state.keys = keys;
        drop(state);
        // One word that waits already says the same; whoever is gone is told no more.
        lock(&self.0.watchers)
            .retain(|watcher| !matches!(watcher.try_send(()), Err(TrySendError::Closed(()))));
        true
    }

    /// Hears of each change from now on; of several at least once.
    pub fn changes(&self) -> Receiver<()> {
        let (sender, receiver) = async_channel::bounded(1);
        lock(&self.0.watchers).push(sender);
        receiver
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete in itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing(generation {})", lock(&self.0.state).keys.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MeshKey {
        MeshKey::from_bytes([byte; 32])
    }

    fn next(keys: &MeshKeys, byte: u8) -> MeshKeys {
        keys.next(key(byte), Timestamp(1000), Timestamp(0)).unwrap()
    }

    #[test]
    fn a_ring_goes_forward_only_and_tells_who_watches() {
        let ring = KeyRing::of(key(1));
        let (first, changes) = (ring.keys(), ring.changes());
        let [one, other] = [2, 3].map(|byte| next(&first, byte));
        assert!(ring.replace(one.clone()) && !ring.replace(one.clone()) && !ring.replace(first.clone()));
        assert!(changes.try_recv().is_ok() && changes.try_recv().is_err());
        assert_eq!((ring.current(), ring.network()), (key(2), key(1).network_name()));
        assert!(!ring.replace(next(&MeshKeys::first(key(9)), 8)));

        // Two changes at once, heard of in either order, end the same.
        let reversed = KeyRing::new(first);
        reversed.replace(other.clone());
        reversed.replace(one);
        ring.clone().replace(other);
        assert_eq!(ring.keys(), reversed.keys());
        drop(changes);
        assert!(ring.replace(next(&ring.keys(), 4)));
        assert!(lock(&ring.0.watchers).is_empty(), "whoever is gone is told no more");
    }

    #[test]
    fn a_clock_that_goes_back_brings_no_key_to_life_again() {
        let second = next(&MeshKeys::first(key(1)), 2);
        let ring = KeyRing::new(second.clone());
        assert_eq!(ring.accepted(Timestamp(1000)), [key(2), key(1)]);
        assert_eq!(ring.latest(Timestamp(1001)), Timestamp(1001));
        assert_eq!(ring.accepted(Timestamp(1000)), [key(2)]);
        assert_eq!(ring.latest(Timestamp(0)), Timestamp(1001));
        assert!(!ring.replace(second), "nor does another node that knows the key");
        assert_eq!(ring.keys().earlier, Some(Vec::new()), "this is what is kept");
    }
}
