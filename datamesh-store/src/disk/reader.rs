//! What the reading threads of a disk store do.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::planted::{Bug, is_active};
use datamesh_core::ports::BlobPage;
use datamesh_core::{Error, ErrorKind, Result};

use super::files::VolumeFile;
use super::index;
use super::shared::{Place, Shared};
use super::volume::Location;

/// Blobs in one page of a scan, at most.
const MAX_PAGE_BLOBS: usize = 1 << 16;

pub(crate) fn read_blob(shared: &Shared, id: &ShardId) -> Result<Option<Bytes>> {
    let guard = shared.database();
    let location = match shared.pending(id) {
        Some(Place::Memory(bytes)) => return verified(id, bytes).map(Some),
        Some(Place::Volume(location)) => location,
        None => {
            let transaction = index::begin_read(guard.get()?);
            let found = transaction.and_then(|transaction| index::find_blob(&transaction, id));
            match shared.watched(found)? {
                Some(location) => location,
                None => return Ok(None),
            }
        }
    };
    let handle = shared.handle(location.volume).map_err(|error| unread(id, error))?;
    // With the file open, nothing that is removed from here on can disturb the read.
    drop(guard);
    let mut bytes = vec![0; location.length as usize];
    read_at(shared, id, &*handle, location, &mut bytes)?;
    verified(id, bytes.into()).map(Some)
}

/// Reads a committed blob from where the index says it is.
pub(crate) fn read_location(shared: &Shared, id: &ShardId, location: Location) -> Result<Bytes> {
    let handle = shared.handle(location.volume).map_err(|error| unread(id, error))?;
    let mut bytes = vec![0; location.length as usize];
    read_at(shared, id, &*handle, location, &mut bytes)?;
    verified(id, bytes.into())
}

/// Reads a blob's bytes; a file that fails is opened anew the next time, for it may be the open file that is at fault.
fn read_at(
    shared: &Shared,
    id: &ShardId,
    handle: &dyn VolumeFile,
    location: Location,
    bytes: &mut [u8],
) -> Result<()> {
    handle.read_at(location.offset, bytes).map_err(|error| {
        shared.drop_handle(location.volume);
        unread(id, error)
    })
}

pub(crate) fn blob_lengths(shared: &Shared, ids: &[ShardId]) -> Result<Vec<Option<u64>>> {
    // What waits is asked first: a commit in between moves it into the index, never out of sight.
    let waiting: Vec<Option<u64>> =
        ids.iter().map(|id| shared.pending(id).map(|place| place.len())).collect();
    let guard = shared.database();
    let transaction = shared.watched(index::begin_read(guard.get()?))?;
    let length = |(id, waiting): (&ShardId, Option<u64>)| match waiting {
        Some(length) => Ok(Some(length)),
        None => {
            let found = shared.watched(index::find_blob(&transaction, id))?;
            Ok(found.map(|location| u64::from(location.length)))
        }
    };
    ids.iter().zip(waiting).map(length).collect()
}

pub(crate) fn scan_blobs(shared: &Shared, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
    let limit = limit.min(MAX_PAGE_BLOBS);
    let waiting = shared.pending_after(after.as_ref(), limit + 1);
    let guard = shared.database();
    let indexed = index::begin_read(guard.get()?)
        .and_then(|transaction| index::blobs_after(&transaction, after.as_ref(), limit + 1));
    let indexed = shared.watched(indexed)?;
    let mut all: BTreeMap<ShardId, u64> = waiting.into_iter().collect();
    all.extend(indexed.into_iter().map(|(id, location)| (id, u64::from(location.length))));
    Ok(BlobPage { more: all.len() > limit, blobs: all.into_iter().take(limit).collect() })
}

fn verified(id: &ShardId, bytes: Bytes) -> Result<Bytes> {
    if is_active(Bug::ServeUncheckedBlob) || ShardId::of(&bytes) == *id {
        Ok(bytes)
    } else {
        Err(damaged(id))
    }
}

fn damaged(id: &ShardId) -> Error {
    Error::new(ErrorKind::Corrupt, "the blob's bytes do not match its name; remove it and repair the object")
        .with_subject(id)
}

/// Of a volume that is missing or too short nothing is known, either: what it is on may come back.
fn unread(id: &ShardId, error: io::Error) -> Error {
    Error::io("a volume could not be read; look whether what it is on is there", error).with_subject(id)
}
