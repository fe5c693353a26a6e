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
    keys: Mutex<MeshKeys>,
    /// Told of each change; as many as a node has transports.
    watchers: Mutex<Vec<Sender<()>>>,
}

impl KeyRing {
    /// A ring with these keys.
    pub fn new(keys: MeshKeys) -> Self {
        Self(Arc::new(Ring { network: keys.network, keys: Mutex::new(keys), watchers: Mutex::default() }))
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
        lock(&self.0.keys).clone()
    }

    /// The key that counts now.
    pub fn current(&self) -> MeshKey {
        lock(&self.0.keys).current.clone()
    }

    /// The keys that are accepted at a moment, the newest first: one or two.
    pub fn accepted(&self, now: Timestamp) -> Vec<MeshKey> {
        lock(&self.0.keys).accepted(now)
    }

    /// Takes newer keys of the same mesh in; whether they were newer.
    pub fn replace(&self, keys: MeshKeys) -> bool {
        let mut current = lock(&self.0.keys);
        if !keys.is_newer_than(&current) {
            return false;
        }
        *current = keys;
        drop(current);
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
        write!(f, "KeyRing(generation {})", lock(&self.0.keys).generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MeshKey {
        MeshKey::from_bytes([byte; 32])
    }

    #[test]
    fn a_ring_goes_forward_only_and_tells_who_watches() {
        let ring = KeyRing::of(key(1));
        let (first, changes) = (ring.keys(), ring.changes());
        let [one, other] = [2, 3].map(|byte| first.next(key(byte), Timestamp(1000)).unwrap());
        assert!(ring.replace(one.clone()) && !ring.replace(one.clone()) && !ring.replace(first.clone()));
        assert!(changes.try_recv().is_ok() && changes.try_recv().is_err());
        assert_eq!((ring.current(), ring.network()), (key(2), key(1).network_name()));
        assert_eq!(ring.accepted(Timestamp(1000)), [key(2), key(1)]);
        assert_eq!(ring.accepted(Timestamp(1001)), [key(2)]);
        assert!(!ring.replace(MeshKeys::first(key(9)).next(key(8), Timestamp(0)).unwrap()));

        // Two changes at once, heard of in either order, end the same.
        let reversed = KeyRing::new(first);
        reversed.replace(other.clone());
        reversed.replace(one);
        ring.clone().replace(other);
        assert_eq!(ring.keys(), reversed.keys());
        drop(changes);
        assert!(ring.replace(ring.keys().next(key(4), Timestamp(0)).unwrap()));
        assert!(lock(&ring.0.watchers).is_empty(), "whoever is gone is told no more");
    }
}
