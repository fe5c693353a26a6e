//! Reused segment buffers: fresh large allocations cost page faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// How many buffers wait for reuse at most; about as many as segments are under way at a time.
const MAX_IDLE: usize = 16;

/// A pool of byte buffers.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferPool(Arc<Mutex<Idle>>);

/// The buffers that nobody uses.
#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    /// How many of them were not needed at any time since the pool was trimmed.
    spare: usize,
}

impl Idle {
    /// The smallest one that is long enough, else any.
    fn pick(&mut self, len: usize) -> Option<Vec<u8>> {
        let fitting = self.buffers.iter().enumerate().filter(|(_, bytes)| bytes.capacity() >= len);
        let best = fitting.min_by_key(|(_, bytes)| bytes.capacity()).map(|(at, _)| at);
        let picked = match best {
            Some(at) => Some(self.buffers.remove(at)),
            None => self.buffers.pop(),
        };
        self.spare = self.spare.min(self.buffers.len());
        picked
    }
}

impl BufferPool {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the memory back of what was not needed since this was called last. Called now and then, it keeps as many
    /// buffers as are in use at the same time.
    pub(crate) fn trim(&self) {
        let mut idle = self.idle();
        let spare = idle.spare.min(idle.buffers.len());
        let given_up: Vec<Vec<u8>> = idle.buffers.drain(..spare).collect();
        idle.spare = idle.buffers.len();
        drop(idle);
        // Unmapping takes its time, and nobody has to wait for it.
        drop(given_up);
    }

    /// A buffer of `len` bytes whose content is arbitrary.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let idle = self.idle().pick(len);
        let mut bytes = idle.unwrap_or_default();
        // A smaller buffer is replaced rather than grown, since growing would copy what nobody reads.
        if bytes.capacity() < len {
            bytes = vec![0; len];
        } else {
            bytes.resize(len, 0);
        }
        Buffer { bytes, pool: self.clone() }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut idle = self.idle();
        if idle.buffers.len() < MAX_IDLE {
            idle.buffers.push(bytes);
        }
    }
}

/// A buffer that goes back to its pool when the last reference to it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: BufferPool,
}

impl Buffer {
    /// The content.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes the buffer immutable and shared, without a copy.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_goes() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(100);
        buffer.as_mut().fill(1);
        let whole = buffer.freeze();
        let part = whole.slice(10..20);
        drop(whole);
        assert_eq!(pool.idle().buffers.len(), 0);
        drop(part);
        assert_eq!(pool.idle().buffers.len(), 1);
        assert_eq!(pool.take(50).as_ref().len(), 50);
    }

    #[test]
    fn what_was_not_needed_for_a_while_is_given_back() {
        let pool = BufferPool::default();
        let idle = || pool.idle().buffers.iter().map(Vec::capacity).collect::<Vec<_>>();
        drop([pool.take(100), pool.take(200), pool.take(300)]);
        pool.trim();
        assert_eq!(idle(), [100, 200, 300], "they were in use a moment ago");
        // Two at the same time: the third was not needed.
        drop([pool.take(150), pool.take(250)]);
        pool.trim();
        assert_eq!(idle(), [200, 300], "the smallest that fit were taken");
        pool.trim();
        assert_eq!(idle(), [0; 0]);
    }
}
