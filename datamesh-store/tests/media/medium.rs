//! A medium in memory that fails on demand, and forgets at a power cut what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use datamesh_store::disk::files::{Files, Space, VolumeFile};
use redb::StorageBackend;

/// What a store does to the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Append,
    Cut,
    Create,
    Remove,
    SyncFile,
    SyncDirectory,
    RecordsWrite,
    RecordsLength,
    RecordsSync,
}

/// How a change that no sync covered fares at a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Only whole sectors at its beginning arrived.
    Torn,
}

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<(String, Option<usize>)>,
    deeds: usize,
    power_ends_at: Option<usize>,
    failing: Option<(Deed, io::ErrorKind)>,
    size: u64,
}

/// The medium; a clone is the same one.
#[derive(Debug, Clone)]
pub(crate) struct Medium(Arc<Mutex<State>>);

/// The records file is the first inode.
const RECORDS: usize = 0;

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(at, written) => {
                let end = at + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(written);
            }
        }
    }

    fn torn(&self) -> Self {
        match self {
            Self::Write(at, written) => {
                // The boundary lies where the medium's sectors do, not where the write began.
                let end = (at + written.len() / 2) / SECTOR * SECTOR;
                Self::Write(*at, written[..end.saturating_sub(*at)].to_vec())
            }
            Self::Length(length) => Self::Length(*length),
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
    }

    fn lose_power(&mut self, fate: &mut impl FnMut() -> Fate) {
        for change in std::mem::take(&mut self.unsynced) {
            match fate() {
                Fate::Lost => {}
                Fate::Kept => change.apply(&mut self.durable),
                Fate::Torn => change.torn().apply(&mut self.durable),
            }
        }
        self.now.clone_from(&self.durable);
    }
}

impl State {
    /// Counts a deed and fails it where the test wants that.
    fn check(&mut self, deed: Deed) -> io::Result<()> {
        self.deeds += 1;
        if self.power_ends_at.is_some_and(|end| self.deeds > end) {
            return Err(io::Error::other("the power is gone"));
        }
        match self.failing {
            Some((failing, kind)) if failing == deed => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let held = self.names.values().chain([&RECORDS]);
        held.map(|inode| self.inodes[*inode].now.len() as u64).sum()
    }

    fn room_for(&self, inode: usize, end: usize) -> io::Result<()> {
        let more = (end as u64).saturating_sub(self.inodes[inode].now.len() as u64);
        if self.used() + more > self.size { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&mut self, deed: Deed, inode: usize, at: usize, bytes: Vec<u8>) -> io::Result<()> {
        self.check(deed)?;
        self.room_for(inode, at + bytes.len())?;
        self.inodes[inode].change(Change::Write(at, bytes));
        Ok(())
    }

    fn set_len(&mut self, deed: Deed, inode: usize, length: usize) -> io::Result<()> {
        self.check(deed)?;
        self.room_for(inode, length)?;
        self.inodes[inode].change(Change::Length(length));
        Ok(())
    }

    fn sync(&mut self, deed: Deed, inode: usize) -> io::Result<()> {
        self.check(deed)?;
        self.inodes[inode].sync();
        Ok(())
    }

    fn read(&self, inode: usize, at: usize, target: &mut [u8]) -> io::Result<()> {
        let source = self.inodes[inode].now.get(at..at + target.len());
        target.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Medium {
    pub(crate) fn new(size: u64) -> Self {
        let state = State { inodes: vec![Inode::default()], size, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn files(&self) -> Arc<dyn Files> {
        Arc::new(MediumFiles(self.clone()))
    }

    pub(crate) fn records(&self) -> impl StorageBackend {
        Records(self.clone())
    }

    /// Every deed of this kind fails from now on; `None` mends the medium.
    pub(crate) fn fail(&self, failing: Option<(Deed, io::ErrorKind)>) {
        self.state().failing = failing;
    }

    /// Deeds after this number fail.
    pub(crate) fn end_power_at(&self, deed: usize) {
        self.state().power_ends_at = Some(deed);
    }

    pub(crate) fn deeds(&self) -> usize {
        self.state().deeds
    }

    /// What the next process finds: all that was synced, and of the rest what fate decides.
    pub(crate) fn lose_power(&self, mut fate: impl FnMut() -> Fate) {
        let mut state = self.state();
        for (name, inode) in std::mem::take(&mut state.unsynced_names) {
            match (fate(), inode) {
                (Fate::Lost, _) => {}
                (_, Some(inode)) => drop(state.durable_names.insert(name, inode)),
                (_, None) => drop(state.durable_names.remove(&name)),
            }
        }
        state.names = state.durable_names.clone();
        state.inodes.iter_mut().for_each(|inode| inode.lose_power(&mut fate));
        state.power_ends_at = None;
        state.deeds = 0;
    }
}

#[derive(Debug)]
struct MediumFiles(Medium);

#[derive(Debug)]
struct MediumFile(Medium, usize);

#[derive(Debug)]
struct Records(Medium);

impl Files for MediumFiles {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let mut state = self.0.state();
        state.check(Deed::Create)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        state.unsynced_names.push((name.to_owned(), Some(inode)));
        Ok(Arc::new(MediumFile(self.0.clone(), inode)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let inode = *self.0.state().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MediumFile(self.0.clone(), inode)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state();
        state.check(Deed::Remove)?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.unsynced_names.push((name.to_owned(), None));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.0.state();
        let length = |inode: &usize| state.inodes[*inode].now.len() as u64;
        Ok(state.names.iter().map(|(name, inode)| (name.clone(), length(inode))).collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.0.state();
        state.check(Deed::SyncDirectory)?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.0.state();
        Ok(Space { free: state.size.saturating_sub(state.used()), total: state.size })
    }
}

impl VolumeFile for MediumFile {
    fn append(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.0.state().write(Deed::Append, self.1, offset as usize, parts.concat())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.state().read(self.1, offset as usize, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.state().sync(Deed::SyncFile, self.1)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.state().set_len(Deed::Cut, self.1, length as usize)
    }
}

impl StorageBackend for Records {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().inodes[RECORDS].now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.state().read(RECORDS, offset as usize, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.state().set_len(Deed::RecordsLength, RECORDS, length as usize)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.state().sync(Deed::RecordsSync, RECORDS)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.state().write(Deed::RecordsWrite, RECORDS, offset as usize, data.to_vec())
    }
}
