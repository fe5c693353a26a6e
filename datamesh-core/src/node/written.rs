//! What was lately written here or set aside, for care to look at once: a put may have ended with less than it wanted.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};

use crate::id::{ExtentId, ObjectId};

/// Names that are remembered. Where more is written before care comes to look, it looks at everything. At 32 bytes
/// each, 512 KiB.
const MAX_WRITTEN: usize = 1 << 14;

/// Extents and objects of which something was committed here, or set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) extents: BTreeSet<ExtentId>,
    pub(crate) objects: BTreeSet<ObjectId>,
    /// Whether there was more than is remembered.
    pub(crate) is_more: bool,
}

impl Written {
    fn len(&self) -> usize {
        self.extents.len() + self.objects.len()
    }
}

/// Where commits are noted.
#[derive(Debug)]
pub(super) struct Log {
    written: Mutex<Written>,
    /// Holds a token when there is something.
    news: (Sender<()>, Receiver<()>),
}

impl Default for Log {
    fn default() -> Self {
        Self { written: Mutex::default(), news: async_channel::bounded(1) }
    }
}

impl Log {
    pub(super) fn note_extent(&self, extent: ExtentId) {
        self.note(|written| {
            written.extents.insert(extent);
        });
    }

    pub(super) fn note_object(&self, object: ObjectId) {
        self.note(|written| {
            written.objects.insert(object);
        });
    }

    fn note(&self, add: impl FnOnce(&mut Written)) {
        let mut written = self.lock();
        if written.len() < MAX_WRITTEN {
            add(&mut written);
        } else {
            written.is_more = true;
        }
        drop(written);
        // A token that is there already says the same.
        let _ = self.news.0.try_send(());
    }

    /// What was written since this was last asked.
    pub(super) fn take(&self) -> Written {
        let _ = self.news.1.try_recv();
        std::mem::take(&mut self.lock())
    }

    /// Gives a token when something was written.
    pub(super) fn news(&self) -> &Receiver<()> {
        &self.news.1
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(number: usize) -> ExtentId {
        ExtentId::of(&number.to_le_bytes())
    }

    #[test]
    fn what_was_written_is_told_once() {
        let log = Log::default();
        assert!(log.news().is_empty());
        log.note_extent(extent(1));
        log.note_extent(extent(1));
        log.note_object(ObjectId::of(b"manifest"));
        assert_eq!(log.news().len(), 1);
        let written = log.take();
        assert_eq!((written.extents.len(), written.objects.len(), written.is_more), (1, 1, false));
        assert!(log.news().is_empty());
        assert_eq!(log.take(), Written::default());
    }

    #[test]
    fn more_than_is_remembered_is_said() {
        let log = Log::default();
        for number in 0..=MAX_WRITTEN {
            log.note_extent(extent(number));
        }
        let written = log.take();
        assert_eq!((written.extents.len(), written.is_more), (MAX_WRITTEN, true));
        assert!(!log.take().is_more);
    }
}
