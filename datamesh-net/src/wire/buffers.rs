//! Buffers for received messages, used again once everybody has dropped their bytes.
//!
//! A fresh buffer of a shard's size costs page faults, some tenth of a transfer's time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Buffers smaller than this are left to the allocator, which is fast with them.
const SMALLEST: usize = 32 << 10;

/// Buffers kept for reuse: as many shards as one put or get has under way at a time.
const KEPT: usize = 32;

/// Bytes kept for reuse, so that a burst of large messages does not stay in memory: 4 MiB.
const KEPT_BYTES: usize = 4 << 20;

/// For how long a buffer is kept that nobody uses again.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(20);

/// Buffers to lease. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Those that nobody uses, and since when, in the order in which they came back.
    free: Mutex<Vec<(Instant, Vec<u8>)>>,
    largest: AtomicUsize,
}

impl Buffers {
    /// A buffer for `total` bytes that begins with at most `first_step` bytes.
    pub(crate) fn lease(&self, total: usize, first_step: usize) -> Lease {
        let buffer = self.reuse(total).unwrap_or_else(|| vec![0; total.min(first_step)]);
        self.0.largest.fetch_max(buffer.len(), Ordering::Relaxed);
        Lease { buffer, home: self.clone() }
    }

    /// A kept buffer that holds `total` bytes and wastes at most a quarter.
    fn reuse(&self, total: usize) -> Option<Vec<u8>> {
        if total < SMALLEST {
            return None;
        }
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = total..=total.saturating_add(total / 4);
        let at = free.iter().rposition(|(_, buffer)| fits.contains(&buffer.len()))?;
        Some(free.remove(at).1)
    }

    fn give_back(&self, buffer: Vec<u8>) {
        if buffer.len() < SMALLEST {
            return;
        }
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept: usize = free.iter().map(|(_, buffer)| buffer.len()).sum();
        // The oldest make room: sizes change when the mesh's shards do.
        while !free.is_empty() && (free.len() >= KEPT || kept.saturating_add(buffer.len()) > KEPT_BYTES) {
            kept = kept.saturating_sub(free.remove(0).1.len());
        }
        free.push((Instant::now(), buffer));
    }

    /// Gives the memory back of the buffers that nobody has used for long.
    pub(crate) fn trim(&self, now: Instant) {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= KEPT_FOR;
        let old = free.partition_point(|(since, _)| is_old(since));
        let given_up: Vec<_> = free.drain(..old).collect();
        drop(free);
        // Unmapping takes its time, and nobody has to wait for it.
        drop(given_up);
    }

    /// The lengths of the buffers that nobody uses.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<usize> {
        let free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|(_, buffer)| buffer.len()).collect()
    }

    #[cfg(test)]
    pub(crate) fn largest_lease(&self) -> usize {
        self.0.largest.load(Ordering::Relaxed)
    }
}

/// A buffer on loan.
pub(crate) struct Lease {
    buffer: Vec<u8>,
    home: Buffers,
}

impl Lease {
    /// The buffer, made longer (it doubles, up to `total`) when `filled` bytes have used it up.
    pub(crate) fn grown_to(&mut self, filled: usize, total: usize) -> &mut [u8] {
        if filled >= self.buffer.len() {
            let len = self.buffer.len().saturating_mul(2).clamp(1, total);
            self.buffer.resize(len, 0);
        }
        let len = self.buffer.len().min(total);
        self.buffer.get_mut(..len).unwrap_or_default()
    }

    /// The first `total` bytes; the buffer comes home when the last of them is dropped.
    pub(crate) fn into_bytes(mut self, total: usize) -> Bytes {
        if self.buffer.len() < SMALLEST {
            self.buffer.truncate(total);
            return Bytes::from(std::mem::take(&mut self.buffer));
        }
        Bytes::from_owner(self).slice(..total)
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_home_when_its_bytes_are_dropped() {
        let buffers = Buffers::default();
        let bytes = buffers.lease(100_000, 200_000).into_bytes(100_000);
        let (address, part) = (bytes.as_ptr(), bytes.slice(10..20));
        drop(bytes);
        assert_ne!(buffers.lease(100_000, 200_000).into_bytes(100_000).as_ptr(), address);
        drop(part);
        let again = buffers.lease(90_000, 200_000).into_bytes(90_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 90_000));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Buffers::default();
        let many: Vec<_> = (0..200).map(|_| buffers.lease(1 << 20, 1 << 20).into_bytes(1 << 20)).collect();
        drop(many);
        let kept: usize = buffers.kept().into_iter().sum();
        assert!(kept <= KEPT_BYTES, "{kept}");
    }

    #[test]
    fn what_nobody_uses_is_given_back() {
        let buffers = Buffers::default();
        drop([100_000, 200_000, 300_000].map(|len| buffers.lease(len, len).into_bytes(len)));
        buffers.trim(Instant::now());
        assert_eq!(buffers.kept(), [100_000, 200_000, 300_000], "they were in use a moment ago");
        let between = Instant::now();
        drop(buffers.lease(90_000, 90_000));
        assert_eq!(buffers.kept(), [200_000, 300_000, 100_000], "the one that was used came back last");
        buffers.trim(between + KEPT_FOR);
        assert_eq!(buffers.kept(), [100_000]);
        buffers.trim(Instant::now() + KEPT_FOR);
        assert_eq!(buffers.kept(), [0; 0]);
    }
}
