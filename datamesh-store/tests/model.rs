//! Both stores against a map, over closing, reopening and power cuts, with shrinking; and the fuzz entry points on a
//! few inputs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(all(feature = "disk", feature = "testing"))]

use std::collections::BTreeMap;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::crash::{Keep, Medium, Moment};
use datamesh_store::{DiskOptions, DiskStore, MemoryStore};
use futures::executor::block_on;
use proptest::prelude::*;

const MEDIUM_BYTES: u64 = 64 << 20;

/// The record that says how many commits there were.
const COUNT_KEY: &[u8] = b"count";

/// What is asked of the store. Steps of a batch are gathered until the next commit.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Blob(u8),
    DeleteBlob(u8),
    Commit,
    Compact,
    Reopen,
    /// Commits, and lets the power go somewhere on the way.
    Cut {
        at: u16,
        keep: Keep,
    },
}

fn keeps() -> impl Strategy<Value = Keep> {
    prop_oneof![
        Just(Keep::None),
        Just(Keep::All),
        Just(Keep::Unextended),
        any::<u64>().prop_map(Keep::Prefix),
        any::<u64>().prop_map(Keep::Subset),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..8_u8, 0..9000_u16).prop_map(|(key, length)| Step::Put(key, length)),
        1 => (0..8_u8).prop_map(Step::Delete),
        2 => (0..8_u8).prop_map(Step::Blob),
        1 => (0..8_u8).prop_map(Step::DeleteBlob),
        3 => Just(Step::Commit),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => (any::<u16>(), keeps()).prop_map(|(at, keep)| Step::Cut { at, keep }),
    ];
    prop::collection::vec(step, 1..40)
}

fn blob(seed: u8) -> (ShardId, Bytes) {
    let bytes = vec![seed; 20_000];
    (ShardId::of(&bytes), bytes.into())
}

/// A store that can be opened again.
trait Subject: Sized {
    type Store: Storage;
    fn store(&self) -> &Self::Store;
    /// Says what the caller knows now.
    fn mark(&self, _: u64) {}
    async fn reopened(self) -> Self;
    /// What a power cut leaves that came between two marks.
    async fn cut(self, at: u16, keep: Keep) -> Self;
}

struct Memory(MemoryStore);

impl Subject for Memory {
    type Store = MemoryStore;

    fn store(&self) -> &MemoryStore {
        &self.0
    }

    async fn reopened(self) -> Self {
        Self(self.0.reopened())
    }

    async fn cut(self, _: u16, _: Keep) -> Self {
        self.reopened().await
    }
}

struct Disk {
    medium: Medium,
    store: DiskStore,
}

impl Disk {
    fn open(medium: Medium) -> Self {
        let mut options = DiskOptions::default();
        (options.volume_bytes, options.cache_bytes) = (64 << 10, 1 << 20);
        let store = DiskStore::open_with(medium.files(), medium.records(), options).unwrap();
        Self { medium, store }
    }
}

impl Subject for Disk {
    type Store = DiskStore;

    fn store(&self) -> &DiskStore {
        &self.store
    }

    fn mark(&self, mark: u64) {
        self.medium.mark(mark);
    }

    async fn reopened(self) -> Self {
        self.store.close().await.unwrap();
        Self::open(self.medium)
    }

    async fn cut(self, at: u16, keep: Keep) -> Self {
        self.store.close().await.unwrap();
        let recording = self.medium.recording();
        let mut replay = recording.replay();
        let moments: Vec<Moment> = std::iter::from_fn(|| replay.advance()).collect();
        // The last commit lies between the last two marks; a power cut may come right before and right behind it, too.
        let begun = moments.iter().rposition(|moment| *moment == Moment::Mark(BEGUN)).unwrap();
        let done = moments.iter().rposition(|moment| *moment == Moment::Mark(DONE)).unwrap();
        let end = begun + usize::from(at) % (done - begun + 1);
        let mut replay = recording.replay();
        for _ in 0..=end {
            replay.advance();
        }
        Self::open(Medium::with_image(replay.image(keep), MEDIUM_BYTES))
    }
}

const BEGUN: u64 = 1;
const DONE: u64 = 2;

#[derive(Debug, Clone, Default)]
struct Contents {
    commits: u64,
    records: BTreeMap<Bytes, Bytes>,
    blobs: BTreeMap<ShardId, Bytes>,
}

/// The map that a store is compared with.
#[derive(Debug, Clone, Default)]
struct Model {
    durable: Contents,
    loose: BTreeMap<ShardId, Bytes>,
    gathered: Vec<Step>,
}

impl Model {
    /// The batch that was gathered, and what the store holds when it is committed.
    fn next(&mut self) -> (Batch, Contents) {
        let mut after = self.durable.clone();
        after.commits += 1;
        after.blobs.append(&mut self.loose);
        let mut batch = Batch::new().put(Table::Node, COUNT_KEY, after.commits.to_le_bytes().to_vec());
        for step in self.gathered.drain(..) {
            match step {
                Step::Put(name, length) => {
                    let value = Bytes::from(vec![name ^ length as u8; length.into()]);
                    batch = batch.put(Table::Work, vec![name], value.clone());
                    after.records.insert(vec![name].into(), value);
                }
                Step::Delete(name) => {
                    batch = batch.delete(Table::Work, vec![name]);
                    after.records.remove(&[name][..]);
                }
                Step::DeleteBlob(seed) => {
                    batch = batch.delete_blob(blob(seed).0);
                    after.blobs.remove(&blob(seed).0);
                }
                _ => {}
            }
        }
        (batch, after)
    }

    async fn compare(&self, store: &impl Storage) {
        let page = store.scan_records(Table::Work, Bytes::new(), None, 100).await.unwrap();
        assert_eq!(page.records, self.durable.records.clone().into_iter().collect::<Vec<_>>());
        let mut blobs = self.durable.blobs.clone();
        blobs.extend(self.loose.clone());
        let page = store.scan_blobs(None, 100).await.unwrap();
        let expected: Vec<_> = blobs.iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
        assert_eq!(page.blobs, expected);
        for (id, bytes) in blobs {
            assert!(store.read_blob(id).await.unwrap() == Some(bytes));
        }
    }
}

async fn commit(subject: &impl Subject, model: &mut Model) -> Contents {
    let (batch, after) = model.next();
    subject.mark(BEGUN);
    subject.store().commit(batch).await.unwrap();
    subject.mark(DONE);
    std::mem::replace(&mut model.durable, after)
}

async fn commits(store: &impl Storage) -> u64 {
    let value = store.read_record(Table::Node, COUNT_KEY.into()).await.unwrap();
    value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()))
}

async fn run(mut subject: impl Subject, steps: &[Step]) {
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Put(..) | Step::Delete(_) | Step::DeleteBlob(_) => model.gathered.push(step.clone()),
            Step::Blob(seed) => {
                let (id, bytes) = blob(*seed);
                subject.store().write_blob(id, bytes.clone()).await.unwrap();
                if !model.durable.blobs.contains_key(&id) {
                    model.loose.insert(id, bytes);
                }
            }
            Step::Compact => subject.store().compact().await.unwrap(),
            Step::Commit => drop(commit(&subject, &mut model).await),
            Step::Reopen => {
                subject = subject.reopened().await;
                model.loose.clear();
            }
            Step::Cut { at, keep } => {
                let before = commit(&subject, &mut model).await;
                subject = subject.cut(*at, *keep).await;
                if commits(subject.store()).await == before.commits {
                    model.durable = before;
                }
                assert_eq!(commits(subject.store()).await, model.durable.commits);
            }
        }
        if matches!(step, Step::Reopen | Step::Cut { .. } | Step::Compact) {
            model.compare(subject.store()).await;
        }
    }
    model.compare(subject.store()).await;
    subject.store().close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_store_is_a_map(steps in steps()) {
        block_on(run(Memory(MemoryStore::new()), &steps));
    }

    #[test]
    fn disk_store_is_a_map(steps in steps()) {
        block_on(run(Disk::open(Medium::new(MEDIUM_BYTES)), &steps));
    }

    #[test]
    fn fuzz_entry_points_take_anything(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        datamesh_store::fuzz::fuzz_erasure_decode(&data);
        datamesh_store::fuzz::fuzz_store_file(&data);
    }
}
