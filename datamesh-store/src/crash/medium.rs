//! The medium: what the store does to it is applied, recorded and, on demand, failed.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::StorageBackend;

use super::adapters::{MediumFiles, Records};
use super::disk::{Disk, Image};
use super::replay::{Event, Keep, Recording};
use crate::disk::files::Files;

/// What a store asks of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// A volume file is created.
    Create,
    /// A volume file is opened.
    Open,
    /// A volume file is removed.
    Remove,
    /// The volume files are listed.
    List,
    /// The free space is asked.
    Space,
    /// The directory of volumes is synced.
    SyncDirectory,
    /// Bytes are appended to a volume file.
    Append,
    /// A volume file is read.
    Read,
    /// A volume file is cut.
    Cut,
    /// A volume file is synced.
    SyncFile,
    /// The length of the records file is asked.
    RecordsLength,
    /// The records file is read.
    RecordsRead,
    /// The records file is written.
    RecordsWrite,
    /// The records file gets another length.
    RecordsResize,
    /// The records file is synced.
    RecordsSync,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It does nothing and returns this error. A sync that fails also forgets what it should have made durable, as
    /// operating systems do: it can be read until the power goes, and no later sync writes it.
    Error(io::ErrorKind),
    /// A read ends early; a write puts down half and returns an error; anything else just fails.
    Partial,
}

#[derive(Debug)]
struct State {
    disk: Disk,
    start: Image,
    events: Vec<Event>,
    calls: u64,
    fail_call: Option<(u64, Failure)>,
    fail_deed: Option<(Deed, io::ErrorKind)>,
    met: Option<Deed>,
    size: u64,
    held: bool,
    arrived: bool,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

/// A medium for a disk store; a clone is the same medium.
///
/// Nothing of it is ever truly durable or lost: it works like a file system whose cache is never cut off, and
/// [`recording`](Self::recording) tells afterwards what any power cut would have left.
#[derive(Debug, Clone)]
pub struct Medium(Arc<Inner>);

impl Medium {
    /// An empty medium of this size in bytes.
    pub fn new(size: u64) -> Self {
        Self::with_image(Image::empty(), size)
    }

    /// A medium of this size in bytes that holds an image, all of it durable.
    pub fn with_image(image: Image, size: u64) -> Self {
        let state = State {
            disk: image.0.clone(),
            start: image,
            events: Vec::new(),
            calls: 0,
            fail_call: None,
            fail_deed: None,
            met: None,
            size,
            held: false,
            arrived: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// The volume files, for [`DiskStore::open_with`](crate::DiskStore::open_with).
    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(MediumFiles(self.clone()))
    }

    /// The records file, for [`DiskStore::open_with`](crate::DiskStore::open_with).
    pub fn records(&self) -> impl StorageBackend {
        Records(self.clone())
    }

    /// Everything that happened so far.
    pub fn recording(&self) -> Recording {
        let state = self.state();
        Recording { start: state.start.clone(), events: state.events.clone() }
    }

    /// The medium that the next process finds if the power goes now.
    pub fn after_power_cut(&self, keep: Keep) -> Self {
        let recording = self.recording();
        let mut replay = recording.replay();
        while replay.advance().is_some() {}
        Self::with_image(replay.image(keep), self.size())
    }

    /// What the medium holds now, synced or not.
    pub fn image(&self) -> Image {
        Image(self.state().disk.clone())
    }

    /// Puts a mark into the recording, to tell what the user of the store knew at a moment.
    pub fn mark(&self, mark: u64) {
        self.state().events.push(Event::Mark(mark));
    }

    /// How many calls the store has made so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Lets the call with this number fail, once; the first has the number 0.
    pub fn fail_call(&self, call: u64, failure: Failure) {
        self.state().fail_call = Some((call, failure));
    }

    /// The call that failed since [`fail_call`](Self::fail_call), if it was met.
    pub fn failed(&self) -> Option<Deed> {
        self.state().met
    }

    /// Lets every deed of one kind fail; `None` mends the medium.
    pub fn fail_deed(&self, failing: Option<(Deed, io::ErrorKind)>) {
        self.state().fail_deed = failing;
    }

    /// Holds up whoever changes the medium next, until the guard is dropped.
    pub fn hold(&self) -> Hold<'_> {
        let mut state = self.state();
        (state.held, state.arrived) = (true, false);
        Hold(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and fails it where the test wants that.
    fn begin(&self, deed: Deed) -> (MutexGuard<'_, State>, Option<Failure>) {
        let mut state = self.state();
        if deed.changes() && state.held {
            state.arrived = true;
            let waited = self.0.changed.wait_while(state, |state| state.held);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let failure = state.next_failure(deed);
        (state, failure)
    }

    /// A call that only looks.
    pub(super) fn look<T>(&self, deed: Deed, look: impl FnOnce(&Disk) -> io::Result<T>) -> io::Result<T> {
        let (state, failure) = self.begin(deed);
        failure.map_or_else(|| look(&state.disk), |failure| Err(failure.error(deed)))
    }

    /// A call that changes files, names or what is durable; `event` sees the disk before the change.
    pub(super) fn change(
        &self,
        deed: Deed,
        event: impl FnOnce(&Disk) -> io::Result<Event>,
    ) -> io::Result<()> {
        let (mut state, failure) = self.begin(deed);
        let event = event(&state.disk)?;
        let (event, outcome) = match failure {
            None => {
                state.check_room(&event)?;
                (Some(event), Ok(()))
            }
            Some(failure) => (event.failing(failure), Err(failure.error(deed))),
        };
        if let Some(event) = event {
            event.apply(&mut state.disk);
            state.events.push(event);
        }
        outcome
    }

    /// The inode of the next file that is created.
    pub(super) fn next_inode(disk: &Disk) -> usize {
        disk.inodes.len()
    }

    pub(super) fn size(&self) -> u64 {
        self.state().size
    }
}

impl State {
    fn next_failure(&mut self, deed: Deed) -> Option<Failure> {
        let call = self.calls;
        self.calls += 1;
        if let Some((at, failure)) = self.fail_call
            && at == call
        {
            self.met = Some(deed);
            return Some(failure);
        }
        self.fail_deed.filter(|(failing, _)| *failing == deed).map(|(_, kind)| Failure::Error(kind))
    }

    fn check_room(&self, event: &Event) -> io::Result<()> {
        let more = event.growth(&self.disk);
        if more > 0 && self.disk.used() + more > self.size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Deed {
    /// Whether it changes files, names or what is durable of them; nothing may be written once such a deed failed.
    pub fn changes(self) -> bool {
        use Deed::*;
        matches!(
            self,
            Create
                | Remove
                | SyncDirectory
                | Append
                | Cut
                | SyncFile
                | RecordsWrite
                | RecordsResize
                | RecordsSync
        )
    }
}

impl Failure {
    fn error(self, deed: Deed) -> io::Error {
        match self {
            Self::Error(kind) => io::Error::new(kind, format!("{deed:?} was made to fail")),
            Self::Partial if matches!(deed, Deed::Read | Deed::RecordsRead) => {
                io::ErrorKind::UnexpectedEof.into()
            }
            Self::Partial => io::Error::other(format!("{deed:?} was made to fail half-way")),
        }
    }
}

/// Holds up changes of a [`Medium`] while it lives.
#[derive(Debug)]
#[must_use = "the medium goes on when this is dropped"]
pub struct Hold<'a>(&'a Medium);

impl Hold<'_> {
    /// Whether somebody waits to change the medium.
    pub fn has_arrived(&self) -> bool {
        self.0.state().arrived
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.state().held = false;
        self.0.0.changed.notify_all();
    }
}

/// Copies parts of a write into one.
pub(super) fn joined(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}
