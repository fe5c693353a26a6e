//! The medium as the two ports of the disk store.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use redb::StorageBackend;

use super::disk::{Pages, RECORDS};
use super::medium::{Deed, Medium, joined};
use super::replay::Event;
use crate::disk::files::{Files, Space, VolumeFile};

#[derive(Debug)]
pub(super) struct MediumFiles(pub(super) Medium);

#[derive(Debug)]
struct MediumFile(Medium, usize);

#[derive(Debug)]
pub(super) struct Records(pub(super) Medium);

/// A number of the ports as a position in memory; one that does not fit lies behind every file.
fn position(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX / 2)
}

fn read(medium: &Medium, deed: Deed, inode: usize, at: u64, target: &mut [u8]) -> io::Result<()> {
    medium.look(deed, |disk| {
        let pages = disk.inodes.get(inode);
        let whole = pages.is_some_and(|pages: &Pages| pages.read(position(at), target));
        if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    })
}

fn write(medium: &Medium, deed: Deed, inode: usize, at: u64, bytes: Bytes) -> io::Result<()> {
    medium.change(deed, |_| Ok(Event::Write { inode, at: position(at), bytes }))
}

fn resize(medium: &Medium, deed: Deed, inode: usize, length: u64) -> io::Result<()> {
    medium.change(deed, |_| Ok(Event::Resize { inode, length: position(length) }))
}

impl Files for MediumFiles {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let mut inode = 0;
        self.0.change(Deed::Create, |disk| {
            if disk.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inode = Medium::next_inode(disk);
            Ok(Event::Create { name: name.to_owned(), inode })
        })?;
        Ok(Arc::new(MediumFile(self.0.clone(), inode)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let find = |disk: &super::disk::Disk| disk.names.get(name).copied();
        let inode =
            self.0.look(Deed::Open, |disk| find(disk).ok_or_else(|| io::ErrorKind::NotFound.into()))?;
        Ok(Arc::new(MediumFile(self.0.clone(), inode)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.change(Deed::Remove, |disk| match disk.names.get(name) {
            Some(_) => Ok(Event::Remove { name: name.to_owned() }),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.look(Deed::List, |disk| {
            let length = |inode: &usize| disk.length(*inode) as u64;
            Ok(disk.names.iter().map(|(name, inode)| (name.clone(), length(inode))).collect())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.change(Deed::SyncDirectory, |_| Ok(Event::SyncNames))
    }

    fn space(&self) -> io::Result<Space> {
        let total = self.0.size();
        self.0.look(Deed::Space, |disk| Ok(Space { free: total.saturating_sub(disk.used()), total }))
    }
}

impl VolumeFile for MediumFile {
    fn append(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        write(&self.0, Deed::Append, self.1, offset, joined(parts))
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        read(&self.0, Deed::Read, self.1, offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.change(Deed::SyncFile, |_| Ok(Event::Sync { inode: self.1 }))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        resize(&self.0, Deed::Cut, self.1, length)
    }
}

impl StorageBackend for Records {
    fn len(&self) -> io::Result<u64> {
        self.0.look(Deed::RecordsLength, |disk| Ok(disk.length(RECORDS) as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read(&self.0, Deed::RecordsRead, RECORDS, offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        resize(&self.0, Deed::RecordsResize, RECORDS, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.change(Deed::RecordsSync, |_| Ok(Event::Sync { inode: RECORDS }))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write(&self.0, Deed::RecordsWrite, RECORDS, offset, Bytes::copy_from_slice(data))
    }
}
