//! The ports' conformance suites over what this crate offers.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::Storage;
use datamesh_core::testing;
use datamesh_store::{MemoryStore, ReedSolomon};
use futures::executor::block_on;

#[test]
fn reed_solomon() {
    testing::erasure::erasure_code(&ReedSolomon::new());
}

#[test]
fn memory_store() {
    testing::storage::storage(MemoryStore::new, |store| store.reopened());
    testing::storage::full_storage(MemoryStore::with_capacity_bytes);
}

/// What is kept is what is counted as used: not all that a blob was once a part of.
#[test]
fn a_blob_in_memory_does_not_keep_what_it_was_cut_from() {
    struct Larger(Vec<u8>, Arc<AtomicBool>);
    impl AsRef<[u8]> for Larger {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Larger {
        fn drop(&mut self) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    let freed = Arc::new(AtomicBool::new(false));
    let larger = Bytes::from_owner(Larger(vec![7; 6 << 10], Arc::clone(&freed)));
    let (blob, store) = (larger.slice(..1 << 10), MemoryStore::new());
    block_on(store.write_blob(ShardId::of(&blob), blob.clone())).unwrap();
    drop((larger, blob));
    assert!(freed.load(Ordering::Relaxed), "a blob of 1 KiB keeps 6 KiB");
}

#[cfg(feature = "disk")]
mod disk {
    use std::cell::RefCell;
    use std::path::Path;

    use datamesh_core::ports::Storage;
    use datamesh_core::testing;
    use datamesh_store::{DiskOptions, DiskStore};
    use futures::executor::block_on;
    use tempfile::TempDir;

    fn options() -> DiskOptions {
        let mut options = DiskOptions::default();
        options.volume_bytes = 1 << 20;
        options.reserve_per_mille = 0;
        options
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    #[test]
    fn closed_and_opened_again() {
        let directory = RefCell::new(TempDir::new().unwrap());
        let make = || {
            *directory.borrow_mut() = TempDir::new().unwrap();
            DiskStore::open(directory.borrow().path(), options()).unwrap()
        };
        testing::storage::storage(make, |store| {
            block_on(store.close()).unwrap();
            DiskStore::open(directory.borrow().path(), options()).unwrap()
        });
    }

    #[test]
    fn copied_while_it_runs() {
        let directory = RefCell::new(TempDir::new().unwrap());
        let make = || {
            *directory.borrow_mut() = TempDir::new().unwrap();
            DiskStore::open(directory.borrow().path(), options()).unwrap()
        };
        testing::storage::storage(make, |store| {
            let image = TempDir::new().unwrap();
            copy(directory.borrow().path(), image.path());
            drop(store);
            *directory.borrow_mut() = image;
            DiskStore::open(directory.borrow().path(), options()).unwrap()
        });
    }

    #[test]
    fn full() {
        let directory = TempDir::new().unwrap();
        testing::storage::full_storage(|bytes| {
            let mut options = options();
            options.capacity_bytes = Some(bytes);
            DiskStore::open(directory.path(), options).unwrap()
        });
    }
}
