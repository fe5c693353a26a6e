//! A medium that fails: typed errors, no acknowledgement, no further writes, and nothing acknowledged is lost.

use std::io;

use datamesh_core::ErrorKind;
use datamesh_core::ports::{Batch, Storage, Table};
use futures::executor::block_on;
use redb::{Builder, TableDefinition};

use datamesh_store::crash::{Deed, Keep, Medium};

use super::harness::open;
use super::{blob, holds, kind, put};

/// How many blobs are acknowledged before the medium fails.
const BEFORE: u32 = 3;

/// The failing put's number is high enough to need a new volume, so that creation and the directory's sync are met.
async fn fail_at(deed: Deed, cause: io::ErrorKind, expected: ErrorKind) {
    let medium = Medium::new(64 << 20);
    let store = open(&medium).unwrap();
    for number in 0..BEFORE {
        put(&store, number).await.unwrap();
    }
    medium.fail_deed(Some((deed, cause)));
    let mut number = BEFORE;
    // Volumes hold seven of these blobs; the records file grows now and then.
    let error = loop {
        match put(&store, number).await {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 2000, "{deed:?} was never met");
    };
    // The one who caused it is told the cause; a commit that came later is told of the poison.
    assert!([expected, ErrorKind::Poisoned].contains(&error.kind()), "{deed:?}: {error}");
    medium.fail_deed(None);
    assert_eq!(kind(store.commit(Batch::new()).await), ErrorKind::Poisoned, "{deed:?}");
    assert_eq!(kind(store.write_blob(blob(9999).0, blob(9999).1).await), ErrorKind::Poisoned, "{deed:?}");
    assert_eq!(kind(store.compact().await), ErrorKind::Poisoned, "{deed:?}");
    for acknowledged in 0..number {
        assert!(holds(&store, acknowledged).await, "{deed:?}: {acknowledged} is unreadable");
    }
    store.close().await.unwrap();
    let store = open(&medium.after_power_cut(Keep::None)).unwrap();
    for acknowledged in 0..number {
        assert!(holds(&store, acknowledged).await, "{deed:?}: {acknowledged} was acknowledged");
    }
    holds(&store, number).await;
    put(&store, number + 1).await.unwrap();
    store.close().await.unwrap();
}

#[test]
fn every_failing_deed_ends_writing_and_loses_nothing() {
    let deeds = [
        Deed::Append,
        Deed::SyncFile,
        Deed::Create,
        Deed::SyncDirectory,
        Deed::RecordsWrite,
        Deed::RecordsResize,
        Deed::RecordsSync,
    ];
    for deed in deeds {
        block_on(fail_at(deed, io::ErrorKind::Other, ErrorKind::Io));
    }
}

#[test]
fn a_medium_that_turns_read_only_or_full_says_so() {
    block_on(fail_at(Deed::SyncFile, io::ErrorKind::ReadOnlyFilesystem, ErrorKind::AccessDenied));
    block_on(fail_at(Deed::RecordsWrite, io::ErrorKind::StorageFull, ErrorKind::StorageFull));
}

const BLOBS: TableDefinition<'static, &'static [u8; 32], &'static [u8; 24]> = TableDefinition::new("blobs");

/// A store of two blobs, where the index row of the first cannot be.
fn with_a_damaged_row() -> Medium {
    let medium = Medium::new(64 << 20);
    let store = open(&medium).unwrap();
    block_on(async {
        put(&store, 0).await.unwrap();
        put(&store, 1).await.unwrap();
        store.close().await.unwrap();
    });
    let database = Builder::new().create_with_backend(medium.records()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(BLOBS).unwrap().insert(blob(0).0.as_bytes(), &[0xff; 24]).unwrap();
    transaction.commit().unwrap();
    medium
}

#[test]
fn a_damaged_index_row_ends_writing_whoever_meets_it() {
    type Read = fn(&datamesh_store::DiskStore) -> ErrorKind;
    let reads: [(&str, Read); 3] = [
        ("read_blob", |store| kind(block_on(store.read_blob(blob(0).0)))),
        ("blob_lengths", |store| kind(block_on(store.blob_lengths(vec![blob(1).0, blob(0).0])))),
        ("scan_blobs", |store| kind(block_on(store.scan_blobs(None, 10)))),
    ];
    for (name, read) in reads {
        // The checksums of the records file cover the row as it is: only its own check tells.
        let store = open(&with_a_damaged_row()).unwrap();
        block_on(put(&store, 2)).unwrap();
        assert_eq!(read(&store), ErrorKind::Corrupt, "{name}");
        block_on(async {
            assert_eq!(kind(put(&store, 3).await), ErrorKind::Poisoned, "{name}");
            assert!(holds(&store, 1).await, "{name}: what is whole stays readable");
            store.close().await.unwrap();
        });
    }
}

#[test]
fn a_damaged_blob_ends_nothing() {
    let medium = Medium::new(64 << 20);
    let store = open(&medium).unwrap();
    block_on(async {
        put(&store, 0).await.unwrap();
        store.close().await.unwrap();
        let file = medium.files().open("00000001.vol").unwrap();
        file.append(500, &[b"other bytes"]).unwrap();
        let store = open(&medium).unwrap();
        assert_eq!(kind(store.read_blob(blob(0).0).await), ErrorKind::Corrupt);
        put(&store, 1).await.unwrap();
        assert!(holds(&store, 1).await);
        store.close().await.unwrap();
    });
}

#[test]
fn another_version_is_refused_by_number() {
    let medium = Medium::new(64 << 20);
    let store = open(&medium).unwrap();
    block_on(store.close()).unwrap();
    const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
    let database = Builder::new().create_with_backend(medium.records()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("version", &7_u32.to_le_bytes()[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = open(&medium).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 7"), "{error}");
}

#[test]
fn a_medium_that_refuses_every_write_is_not_opened() {
    let medium = Medium::new(64 << 20);
    for deed in [Deed::RecordsResize, Deed::RecordsWrite] {
        medium.fail_deed(Some((deed, io::ErrorKind::ReadOnlyFilesystem)));
        assert_eq!(kind(open(&medium)), ErrorKind::AccessDenied, "{deed:?}");
    }
    medium.fail_deed(None);
    let store = open(&medium).unwrap();
    block_on(async {
        put(&store, 0).await.unwrap();
        let rows = store.scan_records(Table::Work, "".into(), None, 9).await.unwrap();
        assert_eq!(rows.records.len(), 1);
        store.close().await.unwrap();
    });
}
