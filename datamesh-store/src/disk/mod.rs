//! The disk store: shards in append-only volumes, records and the index of shards in redb.
//!
//! A directory holds `datamesh.lock`, `records.redb` and `volumes/NNNNNNNN.vol`. A blob is appended to the
//! current volume; a commit syncs the volumes that were written since the last one, and then commits one
//! redb transaction that holds the batch and the places of all blobs written before. All commits that
//! wait share one sync and one transaction. `docs/store-format.md` in the repository specifies every byte and
//! argues why no crash can tear it.

mod compact;
pub mod files;
mod index;
mod open;
mod reader;
mod shared;
mod volume;
mod writer;

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, BlobPage, Capacity, RecordPage, Storage, Table};
use datamesh_core::{Error, ErrorKind, Result};
use futures::channel::oneshot;
use redb::StorageBackend;

use self::files::Files;
#[cfg(feature = "testing")]
pub(crate) use self::index::{BLOBS, VOLUMES};
use self::shared::Shared;
#[cfg(feature = "testing")]
pub(crate) use self::volume::sealed;
use self::writer::Writer;
use crate::limits;

/// Reads that wait for a reading thread; further callers wait for a place.
const MAX_WAITING_READS: usize = 64;

/// Options of [`DiskStore::open`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiskOptions {
    /// The most bytes the store may take, records included. Default: the medium's size.
    pub capacity_bytes: Option<u64>,
    /// Thousandths of the medium, and of the capacity, that stay free for removals and compaction.
    /// Default 50, which is 5 %.
    pub reserve_per_mille: u16,
    /// Memory for pages of the records file. Default 4 MiB: what was read of late; the system caches the file itself.
    pub cache_bytes: usize,
    /// A records file up to this length is looked through whole when it is opened, so that a damaged page cannot hide
    /// records; of a longer one each row is checked when it is read. Default 16 MiB, which takes some tens of
    /// milliseconds.
    pub check_bytes: u64,
    /// The length at which a volume is ended. Default 256 MiB, at most 1 GiB.
    pub volume_bytes: u64,
    /// Threads that read. Default 2, at most 16.
    pub reader_threads: usize,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            capacity_bytes: None,
            reserve_per_mille: 50,
            cache_bytes: 4 << 20,
            check_bytes: 16 << 20,
            volume_bytes: 256 << 20,
            reader_threads: 2,
        }
    }
}

impl DiskOptions {
    fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::new(ErrorKind::InvalidInput, message));
        if self.reserve_per_mille > 500 {
            return wrong("the reserve is more than 500 thousandths; 50 is usual");
        }
        if !(1 << 16..=1 << 30).contains(&self.volume_bytes) {
            return wrong("a volume has 64 KiB to 1 GiB; 256 MiB is usual");
        }
        if !(1..=16).contains(&self.reader_threads) {
            return wrong("reading threads are 1 to 16; 2 are usual");
        }
        Ok(())
    }
}

/// A [`Storage`] in a directory of the file system.
///
/// It owns its threads, one that writes and a few that read, and works under any executor. Dropping it
/// tells the threads to end and does not wait; [`close`](Storage::close) waits.
pub struct DiskStore {
    shared: Arc<Shared>,
    reads: async_channel::Sender<Read>,
    /// Gives an error when the writer has let go of everything; it never gives a value.
    ended: async_channel::Receiver<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
    directory: PathBuf,
}

type Read = Box<dyn FnOnce(&Shared) + Send>;

impl DiskStore {
    /// Opens the store in this directory, or makes a new one there.
    ///
    /// This blocks for as long as the file system takes; async code calls it on a blocking thread
    /// (`Runtime::blocking`, `tokio::task::spawn_blocking`, `smol::unblock`).
    ///
    /// # Errors
    /// `Locked` where another store has the directory open, `AccessDenied`, `Corrupt` where the records file
    /// is damaged, `Unsupported` for another version, `InvalidInput` for the options, `StorageFull`, `Io`, also where
    /// none of the volumes that hold its blobs is there, since what they are on is then not mounted.
    pub fn open(path: impl AsRef<Path>, options: DiskOptions) -> Result<Self> {
        let directory = path.as_ref();
        options.check()?;
        let lock = open::lock(directory)?;
        let (files, backend) = open::ports(directory)?;
        Self::start(
            directory.to_path_buf(),
            open::prepare(files, backend, &options)?,
            &options,
            Box::new(lock),
        )
    }

    /// Opens a store on other media than a directory: for tests that inject faults.
    ///
    /// It blocks, and takes no lock of its own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        files: Arc<dyn Files>,
        records: impl StorageBackend,
        options: DiskOptions,
    ) -> Result<Self> {
        options.check()?;
        open::begin_again(&*files, &records)?;
        let writer = open::prepare(files, Box::new(records), &options)?;
        Self::start(PathBuf::new(), writer, &options, Box::new(()))
    }

    fn start(directory: PathBuf, writer: Writer, options: &DiskOptions, lock: Box<dyn Send>) -> Result<Self> {
        let shared = Arc::clone(&writer.shared);
        let (reads, waiting) = async_channel::bounded(MAX_WAITING_READS);
        let readers = (0..options.reader_threads)
            .map(|_| start_reader(&shared, &waiting))
            .collect::<Result<Vec<_>>>()?;
        let stop_readers = move || {
            waiting.close();
            readers.into_iter().for_each(|reader| drop(reader.join()));
        };
        let (alive, ended) = async_channel::bounded::<()>(1);
        let run = move || {
            let (closer, closed) = writer.run(stop_readers);
            drop(lock);
            let _ = closer.send(closed);
            drop(alive);
        };
        let writer = spawn("datamesh-store-writer", run)?;
        Ok(Self { shared, reads, ended, writer: Mutex::new(Some(writer)), directory })
    }

    /// Runs `read` on a reading thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.check_open()?;
        let (sender, answer) = oneshot::channel();
        let job: Read = Box::new(move |shared| {
            let outcome = catch_unwind(AssertUnwindSafe(|| read(shared)));
            // Only redb panics, and only over damage; a damaged volume is an error that ends no writing.
            let impossible =
                |_| shared.watched(Err(index::corrupt("the records file has pages that cannot be")));
            let _ = sender.send(outcome.unwrap_or_else(impossible));
        });
        self.reads.send(job).await.map_err(|_| limits::closed())?;
        answer.await.unwrap_or_else(|_| Err(limits::closed()))
    }

    /// A read of records or of the index, whose damage ends all writing.
    async fn read_index<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.read(move |shared| {
            // The guard outlives the transaction: redb cannot shrink its file while one is read.
            let guard = shared.database();
            let transaction = index::begin_read(guard.get()?);
            shared.watched(transaction.and_then(|transaction| read(&transaction)))
        })
        .await
    }
}

fn start_reader(shared: &Arc<Shared>, waiting: &async_channel::Receiver<Read>) -> Result<JoinHandle<()>> {
    let (shared, waiting) = (Arc::clone(shared), waiting.clone());
    spawn("datamesh-store-reader", move || {
        while let Ok(read) = waiting.recv_blocking() {
            read(&shared);
        }
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| Error::io("a thread could not be started", error))
}

impl Storage for DiskStore {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        self.shared.check_open()?;
        limits::check_blob(&bytes)?;
        self.shared.queue_blob(id, bytes).await
    }

    fn read_blob(&self, id: ShardId) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        self.read(move |shared| reader::read_blob(shared, &id))
    }

    fn blob_lengths(&self, ids: Vec<ShardId>) -> impl Future<Output = Result<Vec<Option<u64>>>> + Send {
        self.read(move |shared| reader::blob_lengths(shared, &ids))
    }

    fn scan_blobs(
        &self,
        after: Option<ShardId>,
        limit: usize,
    ) -> impl Future<Output = Result<BlobPage>> + Send {
        self.read(move |shared| reader::scan_blobs(shared, after, limit))
    }

    fn read_record(&self, table: Table, key: Bytes) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        self.read_index(move |transaction| index::find_record(transaction, table, &key))
    }

    fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> impl Future<Output = Result<RecordPage>> + Send {
        self.read_index(move |transaction| {
            index::record_page(transaction, table, &prefix, after.as_deref(), limit)
        })
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        self.shared.check_open()?;
        limits::check_steps(batch.steps())?;
        self.shared.commit(batch.into_steps()).await
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.shared.check_open()?;
        Ok(self.shared.space.capacity())
    }

    fn compact(&self) -> impl Future<Output = Result<()>> + Send {
        self.shared.compact()
    }

    async fn close(&self) -> Result<()> {
        let closed = match self.shared.begin_close() {
            Some(outcome) => outcome.await.unwrap_or(Ok(())),
            None => Ok(()),
        };
        // Whoever closes, the directory can be opened again when this returns. What is left of the thread ends at once.
        let _ = self.ended.recv().await;
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        closed
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        drop(self.shared.begin_close());
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore")
            .field("directory", &self.directory)
            .field("capacity", &self.shared.space.capacity())
            .finish_non_exhaustive()
    }
}
