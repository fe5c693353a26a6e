//! Compaction of the disk store: beside writes, over blobs that cannot be read, over files that stay.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(feature = "disk")]

mod hooked;

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use datamesh_core::ErrorKind;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::disk::files::{Files, OsFiles};
use datamesh_store::{DiskOptions, DiskStore};
use futures::channel::mpsc::UnboundedReceiver;
use futures::executor::block_on;
use futures::future::{Either, select};
use futures::{FutureExt, StreamExt};
use hooked::{Call, Hooked};
use redb::backends::FileBackend;
use tempfile::TempDir;

/// The store in this directory, with volumes as small as they may be.
fn open(directory: &Path, hook: impl Fn(&Call<'_>) -> io::Result<()> + Send + Sync + 'static) -> DiskStore {
    let files = Hooked { inner: OsFiles::open(directory.join("volumes")).unwrap(), hook: Arc::new(hook) };
    let records = directory.join("records.redb");
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(records);
    let mut options = DiskOptions::default();
    (options.volume_bytes, options.reserve_per_mille) = (64 << 10, 0);
    DiskStore::open_with(Arc::new(files), FileBackend::new(file.unwrap()).unwrap(), options).unwrap()
}

fn usual(_: &Call<'_>) -> io::Result<()> {
    Ok(())
}

fn volumes(directory: &Path) -> Vec<String> {
    let names = OsFiles::open(directory.join("volumes")).unwrap().list().unwrap();
    let mut names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

/// A hundred bytes: a volume holds 409 of them.
fn blob(number: u32) -> (ShardId, Bytes) {
    let bytes: Vec<u8> = number.to_le_bytes().repeat(25);
    (ShardId::of(&bytes), bytes.into())
}

/// More than a slice looks at, however few of them are left.
const BLOBS: u32 = 3000;

fn is_kept(number: u32) -> bool {
    number.is_multiple_of(3)
}

async fn write(store: &DiskStore, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let (id, bytes) = blob(number);
        store.write_blob(id, bytes).await.unwrap();
    }
    store.commit(Batch::new()).await.unwrap();
}

async fn remove(store: &DiskStore, numbers: impl IntoIterator<Item = u32>) {
    let batch = numbers.into_iter().fold(Batch::new(), |batch, number| batch.delete_blob(blob(number).0));
    store.commit(batch).await.unwrap();
}

/// Fills eight volumes, of which a third is alive then.
async fn fill_sparsely(store: &DiskStore) {
    write(store, 0..BLOBS).await;
    remove(store, (0..BLOBS).filter(|number| !is_kept(*number))).await;
}

async fn check_kept(store: &DiskStore) {
    for number in 0..BLOBS {
        let (id, bytes) = blob(number);
        let found = store.read_blob(id).await.unwrap();
        assert!(found == is_kept(number).then_some(bytes), "blob {number}");
    }
}

/// Lets appends wait while it is closed.
struct Gate {
    closed: Arc<AtomicBool>,
    arrivals: UnboundedReceiver<()>,
    permit: mpsc::Sender<()>,
}

impl Gate {
    fn new() -> (Self, impl Fn(&Call<'_>) -> io::Result<()> + Send + Sync + 'static) {
        let (arrived, arrivals) = futures::channel::mpsc::unbounded();
        let (permit, permits) = mpsc::channel();
        let (closed, permits) = (Arc::new(AtomicBool::new(false)), Mutex::new(permits));
        let gate = Self { closed: Arc::clone(&closed), arrivals, permit };
        let hook = move |call: &Call<'_>| {
            if matches!(call, Call::Append) && closed.load(Ordering::Relaxed) {
                let _ = arrived.unbounded_send(());
                // Without a gate there is nothing to wait for.
                let _ = permits.lock().unwrap().recv();
            }
            Ok(())
        };
        (gate, hook)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

#[test]
fn writes_go_on_beside_a_compaction() {
    let directory = TempDir::new().unwrap();
    let (mut gate, hook) = Gate::new();
    let store = open(directory.path(), hook);
    block_on(async {
        fill_sparsely(&store).await;
        gate.close();
        let mut compaction = pin!(store.compact().fuse());
        assert!(compaction.as_mut().now_or_never().is_none());
        // The compaction stands still in its first slice when the write comes.
        gate.arrivals.next().await.unwrap();
        let (id, bytes) = blob(BLOBS + 1);
        store.write_blob(id, bytes.clone()).await.unwrap();
        let mut commit = pin!(store.commit(Batch::new().put(Table::Work, "key", "value")));
        assert!(commit.as_mut().now_or_never().is_none());
        let mut again = pin!(store.compact());
        assert!(again.as_mut().now_or_never().is_none());
        let mut copies = 0;
        // An append that waits keeps the compaction from its end; the next slice begins with one.
        loop {
            gate.permit.send(()).unwrap();
            copies += 1;
            match select(gate.arrivals.next(), compaction.as_mut()).await {
                Either::Left(_) => {}
                Either::Right(_) => panic!("the compaction was answered before the write"),
            }
            if let Some(outcome) = commit.as_mut().now_or_never() {
                break outcome.unwrap();
            }
        }
        assert!(copies < BLOBS / 3, "the write was answered after {copies} copies");
        assert!(compaction.as_mut().now_or_never().is_none());
        assert!(store.read_blob(id).await.unwrap() == Some(bytes));
        drop(gate);
        compaction.await.unwrap();
        again.await.unwrap();
        check_kept(&store).await;
        // A thousand blobs and one fill less than three volumes.
        assert!(volumes(directory.path()).len() <= 4, "{:?}", volumes(directory.path()));
        store.close().await.unwrap();
    });
}

#[test]
fn closing_drops_what_is_left_of_a_compaction() {
    let directory = TempDir::new().unwrap();
    let (mut gate, hook) = Gate::new();
    let store = open(directory.path(), hook);
    block_on(async {
        fill_sparsely(&store).await;
        gate.close();
        let mut compaction = pin!(store.compact());
        assert!(compaction.as_mut().now_or_never().is_none());
        gate.arrivals.next().await.unwrap();
        let mut again = pin!(store.compact());
        assert!(again.as_mut().now_or_never().is_none());
        let mut close = pin!(store.close());
        assert!(close.as_mut().now_or_never().is_none());
        drop(gate);
        close.await.unwrap();
        assert_eq!(compaction.await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(again.await.unwrap_err().kind(), ErrorKind::Closed);
    });
    let store = open(directory.path(), usual);
    block_on(async {
        check_kept(&store).await;
        store.compact().await.unwrap();
        check_kept(&store).await;
        store.close().await.unwrap();
    });
    assert!(volumes(directory.path()).len() <= 4, "{:?}", volumes(directory.path()));
}

#[test]
fn a_blob_that_cannot_be_read_stays_where_it_is() {
    const FIRST: &str = "00000001.vol";
    // The first blob lies behind the header of the volume and its own.
    const OFFSET: u64 = 64 + 56;
    let directory = TempDir::new().unwrap();
    let (all, one) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let failing = (Arc::clone(&all), Arc::clone(&one));
    let store = open(directory.path(), move |call| match call {
        Call::Read { name, offset } if *name == FIRST => {
            let (all, one) = (failing.0.load(Ordering::Relaxed), failing.1.load(Ordering::Relaxed));
            if all || (one && *offset == OFFSET) { Err(io::Error::other("injected")) } else { Ok(()) }
        }
        _ => Ok(()),
    });
    block_on(async {
        fill_sparsely(&store).await;
        one.store(true, Ordering::Relaxed);
        store.compact().await.unwrap();
        write(&store, [BLOBS + 1]).await;
        // The rest of the volume has left it, and the volumes behind it are gone.
        all.store(true, Ordering::Relaxed);
        assert_eq!(store.read_blob(blob(0).0).await.unwrap_err().kind(), ErrorKind::Io);
        for number in (1..BLOBS).filter(|number| is_kept(*number)) {
            let (id, bytes) = blob(number);
            assert!(store.read_blob(id).await.unwrap() == Some(bytes), "blob {number}");
        }
        let left = volumes(directory.path());
        assert!(left.len() <= 5 && left[0] == FIRST, "{left:?}");
        // When it can be read again it leaves, too.
        for failing in [all, one] {
            failing.store(false, Ordering::Relaxed);
        }
        store.compact().await.unwrap();
        check_kept(&store).await;
        assert_ne!(volumes(directory.path())[0], FIRST);
        store.close().await.unwrap();
    });
}

#[test]
fn a_file_that_could_not_be_removed_is_in_nobodys_way() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path(), |call| match call {
        Call::Remove(name) => Err(io::Error::other(format!("{name} is held"))),
        _ => Ok(()),
    });
    block_on(async {
        for round in 0..3 {
            write(&store, round * 10..round * 10 + 10).await;
            remove(&store, round * 10..round * 10 + 10).await;
            store.compact().await.unwrap();
        }
        write(&store, 100..110).await;
        store.close().await.unwrap();
    });
    assert_eq!(volumes(directory.path()).len(), 4);
    let store = open(directory.path(), usual);
    assert_eq!(volumes(directory.path()), ["00000004.vol"]);
    block_on(async {
        assert!(store.read_blob(blob(105).0).await.unwrap().is_some());
        write(&store, [1]).await;
        store.close().await.unwrap();
    });
}

#[test]
fn a_volume_that_is_mostly_alive_is_written_on() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path(), usual);
    block_on(async {
        for round in 0..10 {
            write(&store, round * 10..round * 10 + 10).await;
            remove(&store, [round * 10]).await;
            store.compact().await.unwrap();
        }
        assert_eq!(volumes(directory.path()), ["00000001.vol"]);
        store.close().await.unwrap();
    });
}
