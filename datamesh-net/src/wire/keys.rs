//! Which mesh keys a transport accepts now, and what it calls them.

use std::time::SystemTime;

use datamesh_core::KeyRing;
use datamesh_core::format::{MAX_EARLIER_KEYS, MeshKey};
use datamesh_core::ports::Timestamp;
use tokio::time::Instant;

/// The public name of a mesh key, by which a connection remembers what it was proved with.
pub(crate) type KeyName = [u8; 32];

/// The keys that a proof names: a mesh has several while its key changes.
pub(crate) const MAX_KEYS: usize = MAX_EARLIER_KEYS + 1;

/// Milliseconds since the Unix epoch; 0 on a machine whose clock is before it, where nothing has ended.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The names of the keys that are accepted now, the newest first.
pub(crate) fn accepted_names(ring: &KeyRing) -> Vec<KeyName> {
    ring.accepted(now()).iter().map(MeshKey::network_name).collect()
}

/// Waits until a moment, or for ever where there is none.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => futures::future::pending().await,
    }
}
