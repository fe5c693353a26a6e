//! Both stores against a map, and the fuzz entry points on a few inputs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::MemoryStore;
use futures::executor::block_on;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Blob(u8),
    DeleteBlob(u8),
    Commit,
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8_u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        (0..8_u8).prop_map(Step::Delete),
        (0..8_u8).prop_map(Step::Blob),
        (0..8_u8).prop_map(Step::DeleteBlob),
        Just(Step::Commit),
        Just(Step::Compact),
    ];
    prop::collection::vec(step, 1..40)
}

fn blob(seed: u8) -> (ShardId, Bytes) {
    let bytes = vec![seed; 20_000];
    (ShardId::of(&bytes), bytes.into())
}

async fn run<S: Storage>(store: &S, steps: &[Step]) {
    let (mut records, mut blobs) = (BTreeMap::new(), BTreeMap::new());
    let mut batch = Batch::new();
    let mut waiting: Vec<Step> = Vec::new();
    for step in steps {
        match step {
            Step::Put(key, value) => batch = batch.put(Table::Work, vec![*key], vec![*value]),
            Step::Delete(key) => batch = batch.delete(Table::Work, vec![*key]),
            Step::DeleteBlob(seed) => batch = batch.delete_blob(blob(*seed).0),
            Step::Blob(seed) => {
                let (id, bytes) = blob(*seed);
                store.write_blob(id, bytes.clone()).await.unwrap();
                blobs.insert(id, bytes);
            }
            Step::Compact => store.compact().await.unwrap(),
            Step::Commit => {
                store.commit(std::mem::take(&mut batch)).await.unwrap();
                for done in waiting.drain(..) {
                    match done {
                        Step::Put(key, value) => drop(records.insert(key, value)),
                        Step::Delete(key) => drop(records.remove(&key)),
                        Step::DeleteBlob(seed) => drop(blobs.remove(&blob(seed).0)),
                        _ => {}
                    }
                }
            }
        }
        if matches!(step, Step::Put(..) | Step::Delete(_) | Step::DeleteBlob(_)) {
            waiting.push(step.clone());
        }
    }
    let page = store.scan_records(Table::Work, Bytes::new(), None, 100).await.unwrap();
    let found: Vec<(u8, u8)> = page.records.iter().map(|(key, value)| (key[0], value[0])).collect();
    assert_eq!(found, records.into_iter().collect::<Vec<_>>());
    let page = store.scan_blobs(None, 100).await.unwrap();
    let expected: Vec<(ShardId, u64)> = blobs.iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
    assert_eq!(page.blobs, expected);
    for (id, bytes) in blobs {
        assert!(store.read_blob(id).await.unwrap() == Some(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_store_is_a_map(steps in steps()) {
        block_on(run(&MemoryStore::new(), &steps));
    }

    #[cfg(feature = "disk")]
    #[test]
    fn disk_store_is_a_map(steps in steps()) {
        let directory = tempfile::TempDir::new().unwrap();
        let mut options = datamesh_store::DiskOptions::default();
        options.volume_bytes = 64 << 10;
        let store = datamesh_store::DiskStore::open(directory.path(), options).unwrap();
        block_on(run(&store, &steps));
        block_on(store.close()).unwrap();
    }

    #[cfg(feature = "testing")]
    #[test]
    fn fuzz_entry_points_take_anything(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        datamesh_store::fuzz::fuzz_erasure_decode(&data);
        #[cfg(feature = "disk")]
        datamesh_store::fuzz::fuzz_store_file(&data);
    }
}
