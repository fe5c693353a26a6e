//! What a script has written: one state for each commit, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Table};

/// Blobs have numbers below this.
pub(crate) const NUMBERS: u32 = 1024;

/// The number of the blob that tells whether a recovered store still works; no script uses it.
pub(crate) const PROBE: u32 = NUMBERS - 1;

/// The record that every commit writes: the number of the commit.
pub(crate) const STEP_KEY: &[u8] = b"step";

/// Lengths around sectors and pages, a few that end a volume, one longer than a volume.
const LENGTHS: [usize; 16] =
    [1, 64, 511, 512, 513, 1000, 0, 4096, 4097, 8192, 3000, 20_000, 700, 30_000, 5000, 2000];

static BLOBS: LazyLock<Vec<(ShardId, Bytes)>> = LazyLock::new(|| (0..NUMBERS).map(make_blob).collect());

fn make_blob(number: u32) -> (ShardId, Bytes) {
    let usual = LENGTHS[number as usize % LENGTHS.len()];
    let length = if number % 64 == 37 { 100_000 } else { usual + number as usize / 16 };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    (ShardId::of(&bytes), bytes.into())
}

/// The blob of a number.
pub(crate) fn blob(number: u32) -> (ShardId, Bytes) {
    BLOBS[number as usize].clone()
}

pub(crate) fn key(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// The record of table `extents` that goes with every third number: from a few bytes to more than a page.
fn extent(number: u32) -> Option<Bytes> {
    number.is_multiple_of(3).then(|| vec![number as u8; 10 + number as usize * 97 % 6000].into())
}

/// What is durable once a commit is.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Numbers that have records and a blob.
    pub(crate) live: BTreeSet<u32>,
    /// Numbers whose blob is there.
    pub(crate) blobs: BTreeSet<u32>,
    /// Blobs written since, which a crash may leave or take.
    pub(crate) loose: BTreeSet<u32>,
}

/// The states that a script has gone through; the first is the empty store.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) states: Vec<State>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { states: vec![State::default()] }
    }

    /// The state of the last commit.
    pub(crate) fn last(&self) -> &State {
        self.states.last().expect("there is a first state")
    }

    /// Notes that a blob is about to be written.
    pub(crate) fn write(&mut self, number: u32) {
        let state = self.states.last_mut().expect("there is a first state");
        if !state.blobs.contains(&number) {
            state.loose.insert(number);
        }
    }

    /// Notes that blobs which no commit covered went with the store that was closed.
    pub(crate) fn forget_loose(&mut self) {
        self.states.last_mut().expect("there is a first state").loose.clear();
    }

    /// Begins a commit that adds and removes numbers, whose blobs are written already.
    pub(crate) fn commit(&mut self, added: &[u32], removed: &[u32]) -> (usize, Batch) {
        let mut state = self.last().clone();
        state.blobs.append(&mut state.loose);
        state.live.extend(added);
        state.live.retain(|number| !removed.contains(number));
        state.blobs.retain(|number| !removed.contains(number));
        self.states.push(state);
        let index = self.states.len() - 1;
        let mut batch = Batch::new().put(Table::Node, STEP_KEY, (index as u64).to_le_bytes().to_vec());
        for number in added {
            batch = batch.put(Table::Work, key(*number), blob(*number).0.as_bytes().to_vec());
            if let Some(value) = extent(*number) {
                batch = batch.put(Table::Extents, key(*number), value);
            }
        }
        for number in removed {
            batch = batch.delete(Table::Work, key(*number)).delete(Table::Extents, key(*number));
            batch = batch.delete_blob(blob(*number).0);
        }
        (index, batch)
    }
}

impl State {
    /// The records of a table, but for the number of the commit.
    pub(crate) fn records(&self, table: Table) -> BTreeMap<Bytes, Bytes> {
        let live = self.live.iter().copied();
        let row = |number| match table {
            Table::Work => Some((key(number), Bytes::copy_from_slice(blob(number).0.as_bytes()))),
            Table::Extents => extent(number).map(|value| (key(number), value)),
            _ => None,
        };
        live.filter_map(row).collect()
    }
}
