//! Power cuts: what was acknowledged is there, what was not is absent or whole.

use std::collections::BTreeMap;

use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::DiskStore;
use futures::executor::block_on;

use super::medium::{Fate, Medium};
use super::{blob, holds, key, open, put, remove};

/// A generator that a seed determines (xorshift64).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    fn fate(&mut self) -> Fate {
        [Fate::Lost, Fate::Kept, Fate::Torn][self.below(3)]
    }
}

/// What a reader may expect of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Present,
    Absent,
    /// The power went while it was put or removed.
    Either,
}

type Model = BTreeMap<u32, Expected>;

/// One step of a workload; `Err` once the power is gone.
async fn step(store: &DiskStore, model: &mut Model, number: u32, random: &mut Random) -> Result<(), ()> {
    let (touched, after, outcome) = match random.below(8) {
        0 => {
            let old = random.below(number as usize + 1) as u32;
            if model.get(&old) == Some(&Expected::Either) {
                return Ok(());
            }
            (vec![old], Expected::Absent, remove(store, old).await)
        }
        1 => (Vec::new(), Expected::Absent, store.compact().await),
        // Two in one commit are both there or both absent.
        2 => {
            let (first, second) = (1_000_000 + number, 2_000_000 + number);
            let mut batch = Batch::new();
            let mut written = Ok(());
            for number in [first, second] {
                let (id, bytes) = blob(number);
                written = written.and(store.write_blob(id, bytes).await);
                batch = batch.put(Table::Work, key(number), id.as_bytes().to_vec());
            }
            let outcome = match written {
                Ok(()) => store.commit(batch).await,
                failed => failed,
            };
            (vec![first, second], Expected::Present, outcome)
        }
        _ => (vec![number], Expected::Present, put(store, number).await),
    };
    let after = if outcome.is_ok() { after } else { Expected::Either };
    model.extend(touched.into_iter().map(|number| (number, after)));
    outcome.map_err(drop)
}

/// Checks the store against the model, and settles what the model did not know.
async fn check(store: &DiskStore, model: &mut Model, story: &str) {
    for (number, expected) in model.iter_mut() {
        let held = holds(store, *number).await;
        match expected {
            Expected::Present => assert!(held, "{story}: {number} was acknowledged"),
            Expected::Absent => assert!(!held, "{story}: {number} was removed"),
            Expected::Either => *expected = if held { Expected::Present } else { Expected::Absent },
        }
    }
    for (first, held) in model.range(1_000_000..2_000_000) {
        let second = model.get(&(first + 1_000_000));
        let removed_later = [Some(held), second].contains(&Some(&Expected::Absent)) && second != Some(held);
        assert!(!removed_later, "{story}: half of the commit of {first}");
    }
    let page = store.scan_blobs(None, 10_000).await.unwrap();
    for (id, length) in page.blobs {
        let bytes = store.read_blob(id).await.unwrap();
        assert_eq!(bytes.map(|bytes| bytes.len() as u64), Some(length), "{story}: a blob that is listed");
    }
}

/// Runs a workload over several lives of a medium, each of which ends at a random deed.
async fn lives(seed: u64, mut fate: impl FnMut(&mut Random) -> Fate) -> usize {
    let mut random = Random::new(seed);
    let medium = Medium::new(256 << 20);
    let (mut model, mut number, mut cuts) = (Model::new(), 0, 0);
    for life in 0..4 {
        let story = format!("seed {seed}, life {life}");
        let end = medium.deeds() + 1 + random.below(220);
        medium.end_power_at(end);
        // The power may also go while the store opens.
        if let Ok(store) = open(&medium) {
            while step(&store, &mut model, number, &mut random).await.is_ok() {
                number += 1;
            }
            // What was in flight leaves threads behind that must not outlive the cut.
            store.close().await.unwrap();
        }
        medium.lose_power(|| fate(&mut random));
        cuts += 1;
        let store = open(&medium).unwrap_or_else(|error| panic!("{story}: {error:?}"));
        check(&store, &mut model, &story).await;
        store.close().await.unwrap();
    }
    cuts
}

#[test]
fn unsynced_is_lost() {
    for seed in 0..12 {
        block_on(lives(seed, |_| Fate::Lost));
    }
}

#[test]
fn unsynced_is_kept() {
    for seed in 100..106 {
        block_on(lives(seed, |_| Fate::Kept));
    }
}

#[test]
fn unsynced_is_kept_lost_or_torn_at_random() {
    let cuts: usize = (200..224).map(|seed| block_on(lives(seed, Random::fate))).sum();
    println!("{cuts} power cuts");
}
