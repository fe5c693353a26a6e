//! Reused segment buffers: fresh large allocations cost page faults.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// How many buffers wait for reuse at most; about as many as segments are under way at a time.
const MAX_IDLE: usize = 16;

/// A pool of equally useful byte buffers.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferPool(Arc<Mutex<Vec<Vec<u8>>>>);

impl BufferPool {
    /// A buffer of `len` bytes whose content is arbitrary.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
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
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(bytes);
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
        assert_eq!(pool.0.lock().unwrap().len(), 0);
        drop(part);
        assert_eq!(pool.0.lock().unwrap().len(), 1);
        assert_eq!(pool.take(50).as_ref().len(), 50);
    }
}
