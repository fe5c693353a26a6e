//! The conformance suite of the storage port.

mod blobs;
mod concurrency;
mod records;

use std::future::Future;

use bytes::Bytes;
use futures::executor::block_on;

use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardId;
use crate::ports::{Batch, Capacity, Storage, Table};

/// Checks every numbered clause of [`Storage`]'s contract that shows without a fault of the medium.
///
/// `make` gives a new empty store with room for 64 MiB. `reopen` takes a store that has been used, lets it
/// end as it likes (closed, or dropped as in a crash), and gives one that was opened on what it left. The futures are
/// run by `futures::executor::block_on`.
///
/// # Panics
/// With the number of the clause that the store breaks.
pub fn storage<S: Storage>(make: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    blobs::check(&make, &reopen);
    records::check(&make, &reopen);
    concurrency::check(&make, &reopen);
    clause_10_close(&make, &reopen);
}

/// Checks clause 7 on a store that is small enough to fill.
///
/// `make` gives a new empty store that takes at most about as many bytes as it is told.
///
/// # Panics
/// With the number of the clause that the store breaks.
pub fn full_storage<S: Storage>(make: impl Fn(u64) -> S) {
    const ROOM: u64 = 16 << 20;
    let store = make(ROOM);
    block_on(async {
        let kept = fill(&store, ROOM).await;
        let refused = store.commit(put(b"late", vec![7; 1 << 20])).await;
        must_fail(7, ErrorKind::StorageFull, refused);
        let Capacity { used, available, .. } = must(7, store.capacity().await);
        assert!(
            available < 1 << 20,
            "clause 7: {available} bytes available of {ROOM} after {used} were used"
        );
        for id in &kept {
            let found = must(7, store.read_blob(*id).await);
            assert!(found.is_some(), "clause 7: a blob is gone since the store is full");
        }
        let removal = kept.iter().fold(Batch::new(), |batch, id| batch.delete_blob(*id));
        must(7, store.commit(removal.delete(Table::Node, &b"none"[..])).await);
        must(7, store.compact().await);
        let (id, bytes) = blob(1, 1 << 20);
        must(7, store.write_blob(id, bytes).await);
        must(7, store.commit(put(b"late", vec![7; 1 << 20])).await);
        must(10, store.close().await);
    });
}

/// Writes blobs of 256 KiB until the store refuses one, and returns what it took.
async fn fill<S: Storage>(store: &S, room: u64) -> Vec<ShardId> {
    let mut kept = Vec::new();
    for seed in 0..=room / (256 << 10) {
        let (id, bytes) = blob(seed, 256 << 10);
        match store.write_blob(id, bytes).await {
            Ok(()) => kept.push(id),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "clause 7: {error:?}");
                must(7, store.commit(Batch::new()).await);
                assert!(!kept.is_empty(), "clause 7: a store of {room} bytes refused its first blob");
                return kept;
            }
        }
        must(2, store.commit(Batch::new()).await);
    }
    panic!("clause 7: a store for {room} bytes took {} blobs of 256 KiB", kept.len());
}

fn clause_10_close<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let (id, bytes) = blob(1, 100);
    block_on(async {
        must(1, store.write_blob(id, bytes.clone()).await);
        must(2, store.commit(put(b"k", b"v".to_vec())).await);
        must(10, store.close().await);
        must(10, store.close().await);
        closed(store.write_blob(id, bytes.clone())).await;
        closed(store.read_blob(id)).await;
        closed(store.blob_lengths(vec![id])).await;
        closed(store.scan_blobs(None, 1)).await;
        closed(store.read_record(Table::Node, key(b"k"))).await;
        closed(store.scan_records(Table::Node, Bytes::new(), None, 1)).await;
        closed(store.commit(Batch::new())).await;
        closed(store.capacity()).await;
        closed(store.compact()).await;
    });
    let store = reopen(store);
    block_on(async {
        assert_eq!(must(10, store.read_blob(id).await), Some(bytes), "clause 10: blob after close");
        let value = must(10, store.read_record(Table::Node, key(b"k")).await);
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "clause 10: record after close");
        must(10, store.close().await);
    });
}

async fn closed<T>(call: impl Future<Output = Result<T>>) {
    must_fail(10, ErrorKind::Closed, call.await);
}

/// A blob of `length` bytes that `seed` decides.
fn blob(seed: u64, length: usize) -> (ShardId, Bytes) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    (ShardId::of(&bytes), bytes.into())
}

fn key(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A batch that writes one record of table `node`.
fn put(name: &[u8], value: Vec<u8>) -> Batch {
    Batch::new().put(Table::Node, key(name), value)
}

#[track_caller]
fn must<T>(clause: u8, result: Result<T>) -> T {
    result.unwrap_or_else(|error: Error| panic!("clause {clause}: {error:?}"))
}

#[track_caller]
fn must_fail<T>(clause: u8, kind: ErrorKind, result: Result<T>) {
    match result {
        Ok(_) => panic!("clause {clause}: succeeded instead of {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "clause {clause}: {error:?}"),
    }
}
