//! Space: it comes back, and a full medium still removes.

use std::path::Path;

use bytes::Bytes;
use datamesh_core::ErrorKind;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::{DiskOptions, DiskStore};
use futures::executor::block_on;
use tempfile::TempDir;

use datamesh_store::crash::Medium;

use super::harness::options;
use super::{holds, kind, put, remove};

fn directory_bytes(path: &Path) -> u64 {
    let sizes = std::fs::read_dir(path).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { directory_bytes(&entry.path()) } else { metadata.len() }
    });
    sizes.sum()
}

fn large_blob(number: u64) -> (ShardId, Bytes) {
    let mut bytes = vec![0x5a; 256 << 10];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (ShardId::of(&bytes), bytes.into())
}

#[test]
fn after_removing_everything_the_directory_is_small() {
    const BLOBS: u64 = 256;
    let directory = TempDir::new().unwrap();
    let mut options = DiskOptions::default();
    options.volume_bytes = 4 << 20;
    options.reserve_per_mille = 0;
    let store = DiskStore::open(directory.path(), options).unwrap();
    block_on(async {
        for group in 0..BLOBS / 16 {
            for number in group * 16..group * 16 + 16 {
                let (id, bytes) = large_blob(number);
                store.write_blob(id, bytes).await.unwrap();
            }
            let record = Batch::new().put(Table::Extents, group.to_be_bytes().to_vec(), vec![7; 4000]);
            store.commit(record).await.unwrap();
        }
        let peak = directory_bytes(directory.path());
        for group in 0..BLOBS / 16 {
            let mut batch = Batch::new().delete(Table::Extents, group.to_be_bytes().to_vec());
            for number in group * 16..group * 16 + 16 {
                batch = batch.delete_blob(large_blob(number).0);
            }
            store.commit(batch).await.unwrap();
        }
        store.compact().await.unwrap();
        let running = directory_bytes(directory.path());
        store.close().await.unwrap();
        let closed = directory_bytes(directory.path());
        println!("peak {peak} bytes, compacted {running}, closed {closed}");
        assert!(running < peak / 100, "{running} of {peak} bytes are left");
        assert!(closed < peak / 100, "{closed} of {peak} bytes are left");
    });
}

#[test]
fn a_full_medium_keeps_its_reserve_and_still_removes() {
    const SIZE: u64 = 32 << 20;
    let medium = Medium::new(SIZE);
    let mut with_reserve = options();
    with_reserve.reserve_per_mille = 50;
    let store = DiskStore::open_with(medium.files(), medium.records(), with_reserve).unwrap();
    block_on(async {
        let mut count = 0;
        let error = loop {
            match put(&store, count).await {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        let text = error.to_string();
        let reserve = format!("a reserve of {} bytes, 5 % of it,", SIZE / 1000 * 50);
        assert!(text.contains(&reserve) && text.contains("make room on the disk"), "{text}");
        let free = medium.files().space().unwrap().free;
        assert!(free >= SIZE / 25, "{free} bytes are free of the {} in reserve", SIZE / 20);
        assert!(count > 1000, "{count} blobs fit");
        assert_eq!(kind(put(&store, count).await), ErrorKind::StorageFull);
        for number in 0..count {
            remove(&store, number).await.unwrap();
        }
        store.compact().await.unwrap();
        assert_eq!(medium.files().list().unwrap(), []);
        put(&store, 0).await.unwrap();
        assert!(holds(&store, 0).await);
        store.close().await.unwrap();
    });
}

#[test]
fn a_store_at_its_capacity_says_so() {
    let medium = Medium::new(64 << 20);
    let mut small = options();
    (small.capacity_bytes, small.reserve_per_mille) = (Some(4 << 20), 25);
    let store = DiskStore::open_with(medium.files(), medium.records(), small).unwrap();
    block_on(async {
        let error = loop {
            let (id, bytes) = large_blob(store.capacity().await.unwrap().used);
            if let Err(error) = store.write_blob(id, bytes).await {
                break error;
            }
        };
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(text.contains("a reserve of 2.5 %") && text.contains("raise the capacity"), "{text}");
        store.close().await.unwrap();
    });
}

#[cfg(unix)]
#[test]
fn a_read_only_directory_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    // A superuser may write everywhere; for him the kernel's own files stand in.
    let refused = if std::fs::write(directory.path().join("probe"), b"").is_ok() {
        Path::new("/proc/datamesh")
    } else {
        directory.path()
    };
    let kind = kind(DiskStore::open(refused, options()));
    assert!([ErrorKind::AccessDenied, ErrorKind::Io].contains(&kind), "{kind:?}");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}
