//! The records file: records, the index of blobs, and what is known of volumes.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::planted::{Bug, is_active};
use datamesh_core::ports::{RecordPage, Table};
use datamesh_core::{Error, ErrorKind, Result};
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    BackendError, Builder, Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata,
    StorageBackend, TableDefinition, TableError, WriteTransaction,
};

use super::files;
use super::volume::{self, CHECK_LEN, Location, Row, STORE_VERSION, VolumeRow};
use crate::limits::PAGE_BYTES;

pub(crate) type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(crate) const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
pub(crate) const BLOBS: TableDefinition<'static, &'static [u8; 32], &'static Row> =
    TableDefinition::new("blobs");
pub(crate) const VOLUMES: TableDefinition<'static, u32, &'static Row> = TableDefinition::new("volumes");

const VERSION_KEY: &str = "version";
const STORE_ID_KEY: &str = "store";

/// The redb table that keeps a table of records.
pub(crate) fn rows(table: Table) -> Rows {
    TableDefinition::new(match table {
        Table::Node => "records_node",
        Table::Members => "records_members",
        Table::Manifests => "records_manifests",
        Table::Extents => "records_extents",
        Table::ShardUses => "records_shard_uses",
        Table::Tombstones => "records_tombstones",
        Table::Operations => "records_operations",
        Table::Work => "records_work",
        Table::ExtentUses => "records_extent_uses",
        other => other.name(),
    })
}

/// Opens the records file and returns it with the store's id and what it knows of volumes.
pub(crate) fn open(
    backend: TrackedBackend,
    cache_bytes: usize,
    check_bytes: u64,
) -> Result<(Database, [u8; 16], BTreeMap<u32, VolumeRow>)> {
    let length = backend.length().load(Ordering::Relaxed);
    if (1..=check_bytes).contains(&length) {
        look_through(&backend, length, cache_bytes)?;
    }
    let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(backend);
    let database = database.map_err(|error| failed("the records file could not be opened", error))?;
    let store = identify(&database)?;
    let volumes = read_volumes(&database)?;
    Ok((database, store, volumes))
}

/// Checks the version and reads the store's id, or writes both into a new store.
///
/// Of a store that is there this writes nothing: where a page is damaged a write may end the process, for redb panics
/// of it and may panic once more while it unwinds.
fn identify(database: &Database) -> Result<[u8; 16]> {
    match read_store_id(&begin_read(database)?)? {
        Some(store) => Ok(store),
        None => make(database),
    }
}

/// The id of a store of this version; none of one that is new.
fn read_store_id(transaction: &ReadTransaction) -> Result<Option<[u8; 16]>> {
    let meta = match transaction.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        opened => opened.map_err(broken)?,
    };
    let Some(version) = meta.get(VERSION_KEY).map_err(broken)? else { return Ok(None) };
    if version.value() != STORE_VERSION.to_le_bytes() {
        return Err(unknown_version(version.value()));
    }
    let store = meta.get(STORE_ID_KEY).map_err(broken)?;
    let row: Option<Row> = store.and_then(|store| store.value().try_into().ok());
    let store = row.and_then(|row| volume::opened("meta", STORE_ID_KEY.as_bytes(), &row));
    store.map(Some).ok_or_else(|| corrupt("the store's id is damaged"))
}

/// Gives a new store its version, an id, and its tables.
fn make(database: &Database) -> Result<[u8; 16]> {
    let mut store = [0; 16];
    getrandom::fill(&mut store)
        .map_err(|error| Error::io("the system gave no randomness", io::Error::other(error.to_string())))?;
    let transaction = begin_write(database)?;
    {
        let mut meta = transaction.open_table(META).map_err(broken)?;
        meta.insert(VERSION_KEY, &STORE_VERSION.to_le_bytes()[..]).map_err(broken)?;
        let row = volume::sealed("meta", STORE_ID_KEY.as_bytes(), store);
        meta.insert(STORE_ID_KEY, &row[..]).map_err(broken)?;
    }
    for table in Table::ALL {
        transaction.open_table(rows(table)).map_err(broken)?;
    }
    transaction.open_table(BLOBS).map_err(broken)?;
    transaction.open_table(VOLUMES).map_err(broken)?;
    transaction.commit().map_err(broken)?;
    Ok(store)
}

fn unknown_version(version: &[u8]) -> Error {
    let number = version
        .try_into()
        .map_or_else(|_| format!("{version:?}"), |bytes| u32::from_le_bytes(bytes).to_string());
    Error::new(
        ErrorKind::Unsupported,
        format!("the store has version {number}, this build reads {STORE_VERSION}; use a newer build"),
    )
}

fn read_volumes(database: &Database) -> Result<BTreeMap<u32, VolumeRow>> {
    let transaction = begin_read(database)?;
    let table = transaction.open_table(VOLUMES).map_err(broken)?;
    let mut volumes = BTreeMap::new();
    for entry in table.range::<u32>(..).map_err(broken)? {
        let (volume, row) = entry.map_err(broken)?;
        let volume = volume.value();
        let row = VolumeRow::decode(volume, row.value());
        volumes.insert(volume, row.ok_or_else(|| corrupt("a volume's row is damaged"))?);
    }
    Ok(volumes)
}

/// Looks through a records file that is not open: every page that leads to a row, against redb's checksums.
///
/// redb itself looks at them only after a crash, and a page that is old or in the wrong place could hide rows. The
/// check repairs what it can, by going back to an older commit, so it is given a copy in memory.
fn look_through(backend: &dyn StorageBackend, length: u64, cache_bytes: usize) -> Result<()> {
    let cannot = |error| Error::io("the records file could not be read", error);
    let copy = InMemoryBackend::new();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    backend.read(0, &mut bytes).map_err(cannot)?;
    copy.set_len(length).and_then(|()| copy.write(0, &bytes)).map_err(cannot)?;
    drop(bytes);
    let opened = Builder::new().set_cache_size(cache_bytes).create_with_backend(copy);
    let checked = opened.and_then(|mut database| database.check_integrity());
    match checked {
        Ok(true) => Ok(()),
        Ok(false) => Err(corrupt("the records file has pages that do not fit together")),
        Err(error) => Err(match error.into() {
            // A copy in memory fails only where the file leads out of itself.
            redb::Error::Io(cause) => corrupt("the records file leads out of itself").with_source(cause),
            other => failed("the records file could not be looked through", other),
        }),
    }
}

/// A write transaction that survives a crash without a walk over the file at the next open.
pub(crate) fn begin_write(database: &Database) -> Result<WriteTransaction> {
    let mut transaction = database.begin_write().map_err(broken)?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(crate) fn begin_read(database: &Database) -> Result<ReadTransaction> {
    database.begin_read().map_err(broken)
}

pub(crate) fn decode_location(id: &ShardId, row: &Row) -> Result<Location> {
    Location::decode(id, row).ok_or_else(|| corrupt("a blob's index row is damaged").with_subject(id))
}

/// Where a committed blob lies.
pub(crate) fn find_blob(transaction: &ReadTransaction, id: &ShardId) -> Result<Option<Location>> {
    let table = transaction.open_table(BLOBS).map_err(broken)?;
    let row = table.get(id.as_bytes()).map_err(broken)?;
    row.map(|row| decode_location(id, row.value())).transpose()
}

/// Up to `limit` committed blobs behind `after`.
pub(crate) fn blobs_after(
    transaction: &ReadTransaction,
    after: Option<&ShardId>,
    limit: usize,
) -> Result<Vec<(ShardId, Location)>> {
    let table = transaction.open_table(BLOBS).map_err(broken)?;
    let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
    let mut found = Vec::new();
    for entry in table.range::<&[u8; 32]>((start, Bound::Unbounded)).map_err(broken)?.take(limit) {
        let (id, row) = entry.map_err(broken)?;
        let id = ShardId::from_bytes(*id.value());
        found.push((id, decode_location(&id, row.value())?));
    }
    Ok(found)
}

/// The rows of all tables.
pub(crate) fn count_rows(transaction: &ReadTransaction) -> Result<u64> {
    let mut count = transaction.open_table(META).map_err(broken)?.len().map_err(broken)?;
    count += transaction.open_table(BLOBS).map_err(broken)?.len().map_err(broken)?;
    count += transaction.open_table(VOLUMES).map_err(broken)?.len().map_err(broken)?;
    for table in Table::ALL {
        count += transaction.open_table(rows(table)).map_err(broken)?.len().map_err(broken)?;
    }
    Ok(count)
}

pub(crate) fn find_record(transaction: &ReadTransaction, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
    let opened = transaction.open_table(rows(table)).map_err(broken)?;
    let row = opened.get(key).map_err(broken)?;
    row.map(|row| open_record(table, key, row.value()).map(Bytes::copy_from_slice)).transpose()
}

/// A record's value with its check, as it is kept.
pub(crate) fn sealed_record(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &volume::check(table.name(), key, value)].concat()
}

/// The value of a record whose check is right.
fn open_record<'a>(table: Table, key: &[u8], row: &'a [u8]) -> Result<&'a [u8]> {
    let opened = row.split_last_chunk::<CHECK_LEN>();
    let whole = opened.filter(|(value, sum)| volume::check(table.name(), key, value) == **sum);
    whole.map(|(value, _)| value).ok_or_else(|| corrupt("a record is damaged"))
}

pub(crate) fn record_page(
    transaction: &ReadTransaction,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<RecordPage> {
    let opened = transaction.open_table(rows(table)).map_err(broken)?;
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let (mut page, mut bytes) = (RecordPage::default(), 0);
    for entry in opened.range::<&[u8]>((start, Bound::Unbounded)).map_err(broken)? {
        let (key, value) = entry.map_err(broken)?;
        let (key, value) = (key.value(), value.value());
        if !key.starts_with(prefix) {
            break;
        }
        let value = open_record(table, key, value)?;
        bytes += value.len();
        if page.records.len() >= limit || (bytes > PAGE_BYTES && !page.records.is_empty()) {
            page.more = true;
            break;
        }
        page.records.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
    }
    Ok(page)
}

/// The error of a transaction, table or row.
pub(crate) fn broken(error: impl Into<redb::Error>) -> Error {
    failed("the records file could not be read or written", error)
}

/// The error for damage that the store itself noticed.
pub(crate) fn corrupt(message: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{message}; restore the node's directory or let it heal as a new node"),
    )
}

fn failed(message: &str, error: impl Into<redb::Error>) -> Error {
    use redb::Error as Redb;
    let error = error.into();
    match error {
        Redb::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => corrupt(message).with_source(cause),
        Redb::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            corrupt(message).with_source(cause)
        }
        Redb::Io(cause) => Error::io(message, cause),
        Redb::DatabaseAlreadyOpen => locked().with_source(error),
        Redb::UpgradeRequired(_) | Redb::Unsupported => {
            Error::new(ErrorKind::Unsupported, message).with_source(error)
        }
        Redb::PreviousIo | Redb::DatabaseClosed => Error::new(ErrorKind::Io, message).with_source(error),
        other => corrupt(message).with_source(other),
    }
}

pub(crate) fn locked() -> Error {
    Error::new(
        ErrorKind::Locked,
        "another process, or another store of this one, has the directory open; close it first",
    )
}

/// Keeps an eye on the length of the records file, for the store's capacity, and on changes that failed, since
/// redb keeps to itself those that it makes while it closes.
#[derive(Debug)]
pub(crate) struct TrackedBackend {
    inner: Box<dyn StorageBackend>,
    length: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
}

impl TrackedBackend {
    pub(crate) fn new(inner: Box<dyn StorageBackend>) -> io::Result<Self> {
        let length = Arc::new(AtomicU64::new(inner.len()?));
        Ok(Self { inner, length, failures: Arc::default() })
    }

    /// How many changes have failed.
    pub(crate) fn failures(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.failures)
    }

    fn count<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if outcome.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    pub(crate) fn length(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.length)
    }
}

/// The records file of the operating system, which only its owner may read: it may hold the mesh key.
pub(crate) fn file_backend(path: &std::path::Path) -> Result<Box<dyn StorageBackend>> {
    let file = files::open_or_create(path);
    let file = file.map_err(|error| Error::io("the records file could not be opened", error))?;
    files::close_to_others(&file).map_err(|error| {
        Error::io("the records file, which may hold the mesh key, could not be closed to others", error)
    })?;
    let backend =
        FileBackend::new(file).map_err(|error| failed("the records file could not be opened", error))?;
    Ok(Box::new(backend))
}

impl Drop for TrackedBackend {
    fn drop(&mut self) {
        // redb does so when it closes, and not where it could not open; see the lock of the directory.
        let _ = self.inner.close();
    }
}

impl StorageBackend for TrackedBackend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.count(self.inner.set_len(len))?;
        self.length.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if is_active(Bug::ForgetRecordsSync) {
            return Ok(());
        }
        self.count(self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.count(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
