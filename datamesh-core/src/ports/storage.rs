//! Data at rest on one node.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::Result;
use crate::id::ShardId;

/// A named table of records.
///
/// A closed set: a store may keep each as a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Table {
    /// What the node knows of itself: counters, the mesh it belongs to.
    Node,
    /// Signed records of the mesh's members, by node id.
    Members,
    /// Manifests, by object id.
    Manifests,
    /// Layouts and what this node holds of them, by extent id.
    Extents,
    /// Which extents use a shard: shard id, then extent id.
    ShardUses,
    /// What was removed, by object or extent id.
    Tombstones,
    /// Applied operations, by operation id.
    Operations,
    /// Work to be done later: repairs, removals to spread.
    Work,
    /// Which objects name an extent: extent id, then object id.
    ExtentUses,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 9] = [
        Self::Node,
        Self::Members,
        Self::Manifests,
        Self::Extents,
        Self::ShardUses,
        Self::Tombstones,
        Self::Operations,
        Self::Work,
        Self::ExtentUses,
    ];

    /// The name under which a store keeps it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Members => "members",
            Self::Manifests => "manifests",
            Self::Extents => "extents",
            Self::ShardUses => "shard_uses",
            Self::Tombstones => "tombstones",
            Self::Operations => "operations",
            Self::Work => "work",
            Self::ExtentUses => "extent_uses",
        }
    }
}

/// The longest key of a record, in bytes.
pub const MAX_KEY_LEN: usize = 256;

/// The longest value of a record, in bytes: a manifest of 1 MiB and its surroundings.
pub const MAX_VALUE_LEN: usize = (1 << 20) + (64 << 10);

/// The longest blob, in bytes: a 4 MiB segment that has one data shard, and its tag and padding.
pub const MAX_BLOB_LEN: usize = (4 << 20) + (64 << 10);

/// One change of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchStep {
    /// Writes a record, over the one that has this key.
    Put {
        /// The table.
        table: Table,
        /// The key, at most [`MAX_KEY_LEN`] bytes.
        key: Bytes,
        /// The value, at most [`MAX_VALUE_LEN`] bytes.
        value: Bytes,
    },
    /// Removes a record; nothing happens where there is none.
    Delete {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
    },
    /// Removes a blob; nothing happens where there is none.
    DeleteBlob {
        /// The blob.
        id: ShardId,
    },
}

/// Changes that happen together or not at all, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    steps: Vec<BatchStep>,
}

impl Batch {
    /// No change yet. Committing an empty batch still makes durable what was written before.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record.
    #[must_use]
    pub fn put(mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.steps.push(BatchStep::Put { table, key: key.into(), value: value.into() });
        self
    }

    /// Removes a record.
    #[must_use]
    pub fn delete(mut self, table: Table, key: impl Into<Bytes>) -> Self {
        self.steps.push(BatchStep::Delete { table, key: key.into() });
        self
    }

    /// Removes a blob.
    #[must_use]
    pub fn delete_blob(mut self, id: ShardId) -> Self {
        self.steps.push(BatchStep::DeleteBlob { id });
        self
    }

    /// The changes, in order.
    pub fn steps(&self) -> &[BatchStep] {
        &self.steps
    }

    /// The changes, in order.
    pub fn into_steps(self) -> Vec<BatchStep> {
        self.steps
    }
}

/// How much a store holds and may hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capacity {
    /// What the store's blobs and records take.
    pub used: u64,
    /// What it could still take before it refuses writes.
    pub available: u64,
}

impl Capacity {
    /// Used and available bytes.
    pub const fn new(used: u64, available: u64) -> Self {
        Self { used, available }
    }
}

/// A page of records, in ascending order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// Keys and values.
    pub records: Vec<(Bytes, Bytes)>,
    /// Whether there are more behind the last key.
    pub more: bool,
}

/// A page of blobs, in ascending order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobPage {
    /// Names and lengths in bytes.
    pub blobs: Vec<(ShardId, u64)>,
    /// Whether there are more behind the last name.
    pub more: bool,
}

/// Where a node keeps its data: *blobs*, large, immutable and named by their BLAKE3 hash, and *records*,
/// small ordered key-value pairs in named tables.
///
/// # Contract
/// 1. `write_blob` makes the blob readable at once and promises nothing more. Writing a name that is
///    there MUST succeed and change nothing.
/// 2. `commit` MUST be atomic and durable: after it returned `Ok`, all its steps and **every blob
///    whose `write_blob` had returned before `commit` was called** survive a crash. After an error or
///    a crash before its return, either all steps happened or none.
/// 3. A reader MUST see the effect of a commit once it returned, and never half of one.
/// 4. `read_blob` MUST verify what it read against the name: for altered bytes it returns
///    [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), never the bytes. `Ok(None)` means that the
///    store knows it does not hold the blob; an I/O failure MUST be an error instead.
/// 5. Scans MUST be in ascending byte order of keys and MUST NOT miss a key that is present
///    throughout; pages are bounded by `limit` and by 4 MiB of values.
/// 6. After a failed write, sync or commit of the underlying medium, or a corrupt page, the store MUST
///    refuse every further write with [`ErrorKind::Poisoned`](crate::ErrorKind::Poisoned) until it is
///    reopened. A refusal because of a limit or of a full disk noticed *before* writing is not such a failure.
/// 7. It MUST refuse blob writes and record puts with
///    [`ErrorKind::StorageFull`](crate::ErrorKind::StorageFull) while no more than its reserve is
///    free; deletions MUST still work then.
/// 8. Names longer than [`MAX_KEY_LEN`], values over [`MAX_VALUE_LEN`] and blobs over [`MAX_BLOB_LEN`] MUST be
///    refused with [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded) and nothing written.
/// 9. All methods MUST be callable concurrently. Dropping a future MUST leave the store consistent: the
///    operation then happened or did not.
/// 10. After `close` returned, every method MUST return
///     [`ErrorKind::Closed`](crate::ErrorKind::Closed), no thread of the store runs and its files can be
///     opened again. `close` twice is fine.
///
/// The conformance suite is `datamesh_core::testing::storage` (feature `testing`).
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Writes a blob, without a promise that it survives until the next commit.
    ///
    /// The caller has verified that `bytes` hash to `id`.
    ///
    /// # Errors
    /// `StorageFull`, `LimitExceeded`, `Poisoned`, `Io`, `Closed`.
    fn write_blob(&self, id: ShardId, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Reads a blob whole; `None` where it is not held.
    ///
    /// # Errors
    /// `Corrupt` when the bytes fail their check, `Io`, `Closed`.
    fn read_blob(&self, id: ShardId) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// The lengths of blobs, `None` where one is not held, in the order asked; the data is not read.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    fn blob_lengths(&self, ids: Vec<ShardId>) -> impl Future<Output = Result<Vec<Option<u64>>>> + Send;

    /// A page of blobs whose names come after `after`, in ascending order.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    fn scan_blobs(
        &self,
        after: Option<ShardId>,
        limit: usize,
    ) -> impl Future<Output = Result<BlobPage>> + Send;

    /// Reads a record.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `Closed`.
    fn read_record(&self, table: Table, key: Bytes) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// A page of the records whose keys begin with `prefix` and come after `after`.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `Closed`.
    fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> impl Future<Output = Result<RecordPage>> + Send;

    /// Applies all steps atomically, and makes them and every blob written before durable.
    ///
    /// # Errors
    /// `StorageFull`, `LimitExceeded`, `Poisoned`, `Io`, `Closed`. After `Io` the outcome is unknown.
    fn commit(&self, batch: Batch) -> impl Future<Output = Result<()>> + Send;

    /// What the store holds and may hold.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    fn capacity(&self) -> impl Future<Output = Result<Capacity>> + Send;

    /// Gives the space of removed blobs and records back, as far as that is worth the work.
    ///
    /// # Errors
    /// `Poisoned`, `Io`, `Closed`.
    fn compact(&self) -> impl Future<Output = Result<()>> + Send;

    /// Finishes what was begun and lets go of files and threads.
    ///
    /// # Errors
    /// `Io` when the last sync failed; the store is closed even then.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}

macro_rules! twin {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $output:ty;)*) => {
        /// The boxed twin of [`Storage`], derived for every implementer; not for implementing.
        pub trait DynStorage: fmt::Debug + Send + Sync + 'static {
            $(
                #[doc = concat!("See [`Storage::", stringify!($name), "`].")]
                fn $name(&self, $($arg: $type),*) -> BoxFuture<'_, $output>;
            )*
        }

        impl<S: Storage> DynStorage for S {
            $(fn $name(&self, $($arg: $type),*) -> BoxFuture<'_, $output> {
                Box::pin(Storage::$name(self, $($arg),*))
            })*
        }

        impl Storage for Arc<dyn DynStorage> {
            $(fn $name(&self, $($arg: $type),*) -> impl Future<Output = $output> + Send {
                (**self).$name($($arg),*)
            })*
        }
    };
}

twin! {
    fn write_blob(id: ShardId, bytes: Bytes) -> Result<()>;
    fn read_blob(id: ShardId) -> Result<Option<Bytes>>;
    fn blob_lengths(ids: Vec<ShardId>) -> Result<Vec<Option<u64>>>;
    fn scan_blobs(after: Option<ShardId>, limit: usize) -> Result<BlobPage>;
    fn read_record(table: Table, key: Bytes) -> Result<Option<Bytes>>;
    fn scan_records(table: Table, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<RecordPage>;
    fn commit(batch: Batch) -> Result<()>;
    fn capacity() -> Result<Capacity>;
    fn compact() -> Result<()>;
    fn close() -> Result<()>;
}
