//! The disk store on media that fail, lose power, fill up or refuse.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]
#![cfg(all(feature = "disk", feature = "testing"))]

mod crash;
mod damage;
mod failing;
#[path = "../harness/mod.rs"]
mod harness;
mod io_error;
mod naming;
mod space;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_core::{ErrorKind, Result};
use datamesh_store::DiskStore;

/// Eight KiB that differ from number to number.
fn blob(number: u32) -> (ShardId, Bytes) {
    let bytes: Vec<u8> =
        (0..2048_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ number).to_le_bytes()).collect();
    (ShardId::of(&bytes), bytes.into())
}

fn key(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Writes a blob and commits a record that names it.
async fn put(store: &DiskStore, number: u32) -> Result<()> {
    let (id, bytes) = blob(number);
    store.write_blob(id, bytes).await?;
    store.commit(Batch::new().put(Table::Work, key(number), id.as_bytes().to_vec())).await
}

async fn remove(store: &DiskStore, number: u32) -> Result<()> {
    store.commit(Batch::new().delete(Table::Work, key(number)).delete_blob(blob(number).0)).await
}

/// Whether both record and blob are there; a record without its blob fails the test, and so does a damaged blob.
async fn holds(store: &DiskStore, number: u32) -> bool {
    let (id, bytes) = blob(number);
    let record = store.read_record(Table::Work, key(number)).await.unwrap();
    let found = store.read_blob(id).await.unwrap();
    assert!(found.is_none() || found == Some(bytes), "blob {number} is another one");
    assert!(record.is_none() || found.is_some(), "record {number} names a blob that is gone");
    record.is_some()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}
