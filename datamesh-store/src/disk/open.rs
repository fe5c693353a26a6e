//! Opening a disk store: lock, records file, and what a crash left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use datamesh_core::planted::{Bug, is_active};
use datamesh_core::{Error, ErrorKind, Result};
use redb::StorageBackend;

use super::DiskOptions;
use super::files::{self, Files, OsFiles, sync_directory};
use super::index::{self, TrackedBackend};
use super::shared::{Shared, SpaceBudget};
use super::volume::{self, VolumeRow};
use super::writer::Writer;

/// The lock of a directory, held while the value lives.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that was forked a moment ago holds it too until it runs a program.
        let _ = self.0.unlock();
    }
}

/// Locks a directory, made where there is none. One that is made is its owner's alone.
pub(crate) fn lock(directory: &Path) -> Result<Lock> {
    files::make_directory(directory).map_err(|error| Error::io("the directory could not be made", error))?;
    let path = directory.join("datamesh.lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| Error::io("the lock file could not be opened", error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(index::locked()),
        Err(TryLockError::Error(error)) => Err(Error::io("the directory could not be locked", error)),
    }
}

/// The files of a store in this directory, made where there is none.
pub(crate) fn ports(directory: &Path) -> Result<(Arc<dyn Files>, Box<dyn StorageBackend>)> {
    let files = OsFiles::open(directory.join("volumes"))
        .map_err(|error| Error::io("the directory of volumes could not be opened", error))?;
    let records = directory.join("records.redb");
    match std::fs::metadata(&records) {
        // A process may have ended between the renaming and the sync behind it.
        Ok(metadata) if metadata.len() > 0 => sync_names(directory)?,
        Ok(_) => return Err(index::corrupt("the records file is empty")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_records(&files, directory, &records)?,
        Err(error) => return Err(Error::io("the records file could not be inspected", error)),
    }
    Ok((Arc::new(files), index::file_backend(&records)?))
}

/// Makes the records file under another name and gives it its own when it is complete: a records file that
/// cannot be read is then always damage, and never the beginning of a store.
fn make_records(files: &OsFiles, directory: &Path, records: &Path) -> Result<()> {
    let listed = files.list().map_err(|error| Error::io("the volumes could not be listed", error))?;
    if listed.iter().any(|(name, _)| volume::parse_file_name(name).is_some()) {
        return Err(index::corrupt("there are volumes and no records file"));
    }
    let cannot = |error| Error::io("the records file could not be made", error);
    let temporary = directory.join("records.redb.new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    let backend = TrackedBackend::new(index::file_backend(&temporary)?).map_err(cannot)?;
    drop(index::open(backend, 1 << 20, 0)?);
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(cannot)?;
    std::fs::rename(&temporary, records).map_err(cannot)?;
    sync_names(directory)
}

/// Makes durable what the directory holds, and its own name.
fn sync_names(directory: &Path) -> Result<()> {
    if is_active(Bug::ForgetDirectorySync) {
        return Ok(());
    }
    let whole = std::path::absolute(directory);
    let above = whole.as_deref().ok().and_then(Path::parent);
    // The directory above may be closed to this process, whose own it then was not to make.
    let _ = above.map(sync_directory);
    sync_directory(directory).map_err(|error| Error::io("the directory could not be synced", error))
}

/// Opens the records file, sweeps what no commit named, and gives the writer of the store.
pub(crate) fn prepare(
    files: Arc<dyn Files>,
    backend: Box<dyn StorageBackend>,
    options: &DiskOptions,
) -> Result<Writer> {
    let backend =
        TrackedBackend::new(backend).map_err(|error| Error::io("the records file has no length", error))?;
    let (records, failures) = (backend.length(), backend.failures());
    let opened =
        catch_unwind(AssertUnwindSafe(|| index::open(backend, options.cache_bytes, options.check_bytes)));
    let (database, store, volumes) =
        opened.unwrap_or_else(|_| Err(index::corrupt("the records file has pages that cannot be")))?;
    let listed = files.list().map_err(|error| Error::io("the volumes could not be listed", error))?;
    check_there(&listed, &volumes)?;
    sweep(&*files, &listed, &volumes).map_err(|error| Error::io("the volumes could not be swept", error))?;
    let space = files.space().map_err(|error| Error::io("the free space is not known", error))?;
    let held = volumes.values().map(|row| row.length).fold(0, u64::saturating_add);
    let (medium, reserve) = ((space.total, space.free), options.reserve_per_mille);
    let budget = SpaceBudget::new(medium, options.capacity_bytes, reserve, held, records);
    let shared = Arc::new(Shared::new(database, files, budget));
    let short = short_volumes(&listed, &volumes);
    Ok(Writer::new(shared, store, options.volume_bytes, volumes, &short, failures))
}

/// Empties a records medium that a crash left half made, so that it is made anew: for media without names,
/// where a file cannot be made under another one.
///
/// redb writes the magic number last of all when it makes a file, after a sync of the rest; zeros in its place
/// mean that nothing was ever committed. Where there are volumes something was, and the file is damaged.
pub(crate) fn begin_again(files: &dyn Files, records: &dyn StorageBackend) -> Result<()> {
    let begin = || begin_again_where_empty(files, records);
    begin().map_err(|error| Error::io("the records medium could not be begun again", error))
}

fn begin_again_where_empty(files: &dyn Files, records: &dyn StorageBackend) -> io::Result<()> {
    let mut magic = [0; 9];
    let length = records.len()?;
    let known = usize::try_from(length).unwrap_or(usize::MAX).min(magic.len());
    records.read(0, magic.get_mut(..known).unwrap_or_default())?;
    let volumes = files.list()?.iter().any(|(name, _)| volume::parse_file_name(name).is_some());
    if length == 0 || volumes || magic.iter().any(|byte| *byte != 0) {
        return Ok(());
    }
    records.set_len(0)?;
    records.sync_data()
}

/// Refuses a store of whose volumes none is there: what they are on is not mounted then, and what it holds is not to be
/// taken for lost. Where only some are missing, reading each of their blobs says so.
fn check_there(listed: &[(String, u64)], volumes: &BTreeMap<u32, VolumeRow>) -> Result<()> {
    let there: BTreeSet<u32> = listed.iter().filter_map(|(name, _)| volume::parse_file_name(name)).collect();
    let live: BTreeMap<u32, u64> =
        volumes.iter().filter(|(_, row)| row.live > 0).map(|(volume, row)| (*volume, row.live)).collect();
    if live.is_empty() || live.keys().any(|volume| there.contains(volume)) {
        return Ok(());
    }
    let (count, bytes) = (live.len(), live.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes)));
    let text = format!(
        "none of the {count} volumes is there that hold the {bytes} bytes of this store; mount what `volumes` is on and \
         open it again, or, where they are lost for good, move records.redb away: the node then heals as a new node"
    );
    Err(Error::new(ErrorKind::Io, text))
}

/// Volumes that end before the end of what was committed.
fn short_volumes(listed: &[(String, u64)], volumes: &BTreeMap<u32, VolumeRow>) -> BTreeSet<u32> {
    let lengths = listed.iter().filter_map(|(name, length)| Some((volume::parse_file_name(name)?, *length)));
    let is_short =
        |(volume, length): &(u32, u64)| volumes.get(volume).is_some_and(|row| *length < row.length);
    lengths.filter(is_short).map(|(volume, _)| volume).collect()
}

/// Cuts volumes at the end of what was committed, and removes those that no commit named.
fn sweep(files: &dyn Files, listed: &[(String, u64)], volumes: &BTreeMap<u32, VolumeRow>) -> io::Result<()> {
    for (name, length) in listed {
        let Some(volume) = volume::parse_file_name(name) else { continue };
        match volumes.get(&volume) {
            None => files.remove(name)?,
            Some(row) if *length > row.length => files.open(name)?.set_len(row.length)?,
            // Of a volume that is too short reading each of its blobs says so.
            Some(_) => {}
        }
    }
    Ok(())
}
