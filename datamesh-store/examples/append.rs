//! Measures the disk store: blobs of 256 KiB with a commit for every 64, and the time to open what a kill left.
//!
//! `cargo run --release -p datamesh-store --example append -- DIRECTORY [MEBIBYTES]`
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement prints, and ends at the first failure"
)]

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::{DiskOptions, DiskStore};
use futures::executor::block_on;

const BLOB: usize = 256 << 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap());
    let mebibytes: usize = arguments.next().map_or(1024, |text| text.parse().unwrap());
    std::fs::create_dir_all(&directory).unwrap();
    let blobs: Vec<(ShardId, Bytes)> = (0..mebibytes * 4).map(blob).collect();
    ceiling(&directory, &blobs);
    let store = DiskStore::open(directory.join("store"), DiskOptions::default()).unwrap();
    report("store", &blobs, || block_on(append(&store, &blobs)));
    report("read", &blobs, || {
        block_on(async {
            for (id, _) in &blobs {
                assert!(store.read_blob(*id).await.unwrap().is_some());
            }
        });
    });
    // Without a close, as after a kill, but for the lock that this process holds.
    let image = directory.join("image");
    std::fs::create_dir_all(image.join("volumes")).unwrap();
    std::fs::copy(directory.join("store/records.redb"), image.join("records.redb")).unwrap();
    for entry in std::fs::read_dir(directory.join("store/volumes")).unwrap() {
        let entry = entry.unwrap();
        std::fs::hard_link(entry.path(), image.join("volumes").join(entry.file_name())).unwrap();
    }
    block_on(store.close()).unwrap();
    let start = Instant::now();
    let store = DiskStore::open(&image, DiskOptions::default()).unwrap();
    println!("open   {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    assert_eq!(block_on(store.blob_lengths(vec![blobs[0].0])).unwrap(), [Some(BLOB as u64)]);
    block_on(store.close()).unwrap();
}

/// Blobs share their bytes but for a number, so that a measurement of gibibytes fits in memory.
fn blob(number: usize) -> (ShardId, Bytes) {
    let mut bytes = vec![0x5a; BLOB];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (ShardId::of(&bytes), bytes.into())
}

async fn append(store: &DiskStore, blobs: &[(ShardId, Bytes)]) {
    for (number, group) in blobs.chunks(64).enumerate() {
        for (id, bytes) in group {
            store.write_blob(*id, bytes.clone()).await.unwrap();
        }
        let record = Batch::new().put(Table::Extents, number.to_be_bytes().to_vec(), vec![0; 1000]);
        store.commit(record).await.unwrap();
    }
}

/// Appending to one file with one `fdatasync` for every 64 blobs.
fn ceiling(directory: &std::path::Path, blobs: &[(ShardId, Bytes)]) {
    let path = directory.join("ceiling");
    let mut file = std::fs::File::create(&path).unwrap();
    report("raw", blobs, || {
        for group in blobs.chunks(64) {
            group.iter().for_each(|(_, bytes)| file.write_all(bytes).unwrap());
            file.sync_data().unwrap();
        }
    });
    std::fs::remove_file(path).unwrap();
}

fn report(name: &str, blobs: &[(ShardId, Bytes)], run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let bytes = (blobs.len() * BLOB) as f64;
    println!("{name:<6} {:>8.1} MB/s", bytes / 1e6 / start.elapsed().as_secs_f64());
}
