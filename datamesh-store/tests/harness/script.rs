//! A scripted run: every kind of operation that changes a disk store, in an order that a seed decides.

use std::collections::BTreeSet;

use datamesh_core::Result;
use datamesh_core::ports::Storage;
use datamesh_store::DiskStore;
use datamesh_store::crash::Medium;
use futures::future::{FutureExt, join_all, ready};

use super::open;
use super::world::{PROBE, World, blob};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes blobs and commits records that name them, and removes others in the same commit.
    Commit {
        added: Vec<u32>,
        removed: Vec<u32>,
    },
    /// Writes a blob that the next commit makes durable.
    Loose(u32),
    /// Commits that wait for each other: the first alone, the others together.
    Burst(Vec<u32>),
    /// Reads a blob.
    Read(u32),
    Compact,
    /// Closes the store and opens it again.
    Reopen,
}

/// A generator that a seed determines (xorshift64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end.max(1)
    }
}

/// The script of a seed. Its first steps, which are the same for every seed, are of every kind.
pub(crate) fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut writer = Writer { random: Random::new(seed), live: BTreeSet::new(), next: 0 };
    let mut script = Vec::new();
    while script.len() < steps {
        let kind = if script.len() < 24 { script.len() } else { writer.random.below(24) };
        script.push(writer.step(kind));
    }
    script
}

struct Writer {
    random: Random,
    live: BTreeSet<u32>,
    next: u32,
}

impl Writer {
    fn step(&mut self, kind: usize) -> Step {
        match kind {
            0..=5 => self.commit(1, 0),
            6 | 7 => self.commit(3, 0),
            8 | 9 => self.commit(1, 2),
            10 => Step::Loose(self.fresh()),
            11 | 12 => self.burst(),
            13 | 14 => self.commit(0, self.live.len() / 2),
            15 => self.commit(0, 0),
            16 => Step::Compact,
            17 => Step::Read(self.any_live().unwrap_or(PROBE)),
            18 => Step::Reopen,
            19 => self.commit(5, 1),
            20 if self.live.len() > 12 => self.commit(0, 12),
            _ => self.commit(2, 1),
        }
    }

    fn fresh(&mut self) -> u32 {
        // The first seventh of the numbers comes again, so that a removed blob is written anew.
        let number = if self.random.below(7) == 0 { self.random.below(60) as u32 } else { self.next };
        self.next = (self.next + 1) % PROBE;
        if self.live.contains(&number) { self.next } else { number }
    }

    fn any_live(&mut self) -> Option<u32> {
        let at = self.random.below(self.live.len());
        self.live.iter().nth(at).copied()
    }

    fn commit(&mut self, add: usize, remove: usize) -> Step {
        let removed: BTreeSet<u32> = (0..remove).filter_map(|_| self.any_live()).collect();
        self.live.retain(|number| !removed.contains(number));
        let added: BTreeSet<u32> = (0..add).map(|_| self.fresh()).collect();
        let added: Vec<u32> = added.difference(&removed).copied().collect();
        self.live.extend(&added);
        Step::Commit { added, removed: removed.into_iter().collect() }
    }

    fn burst(&mut self) -> Step {
        let numbers: BTreeSet<u32> = (0..4).map(|_| self.fresh()).collect();
        self.live.extend(&numbers);
        Step::Burst(numbers.into_iter().collect())
    }
}

/// The mark of a commit that is about to be asked for.
pub(crate) fn begun(index: usize) -> u64 {
    index as u64 * 2
}

/// The mark of a commit that was acknowledged.
pub(crate) fn acknowledged(index: usize) -> u64 {
    index as u64 * 2 + 1
}

/// Runs steps on a store and keeps account of what it was promised.
#[derive(Debug)]
pub(crate) struct Teller {
    pub(crate) medium: Medium,
    pub(crate) store: DiskStore,
    pub(crate) world: World,
    /// The last commit that was acknowledged.
    pub(crate) acknowledged: usize,
}

impl Teller {
    pub(crate) fn new(medium: &Medium) -> Result<Self> {
        Ok(Self { medium: medium.clone(), store: open(medium)?, world: World::new(), acknowledged: 0 })
    }

    pub(crate) async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Commit { added, removed } => self.commit(added, removed).await,
            Step::Loose(number) => self.write(*number).await,
            Step::Burst(numbers) => self.burst(numbers).await,
            Step::Read(number) => self.store.read_blob(blob(*number).0).await.map(drop),
            Step::Compact => self.store.compact().await,
            Step::Reopen => {
                let closed = self.store.close().await;
                self.world.forget_loose();
                self.store = open(&self.medium)?;
                closed
            }
        }
    }

    async fn write(&mut self, number: u32) -> Result<()> {
        self.world.write(number);
        let (id, bytes) = blob(number);
        self.store.write_blob(id, bytes).await
    }

    pub(crate) async fn commit(&mut self, added: &[u32], removed: &[u32]) -> Result<()> {
        for number in added {
            self.write(*number).await?;
        }
        let (index, batch) = self.world.commit(added, removed);
        self.medium.mark(begun(index));
        self.store.commit(batch).await?;
        self.note(index);
        Ok(())
    }

    fn note(&mut self, index: usize) {
        self.medium.mark(acknowledged(index));
        self.acknowledged = index;
    }

    /// The first commit waits at the medium until the others stand in the queue, so that they share a transaction.
    async fn burst(&mut self, numbers: &[u32]) -> Result<()> {
        let hold = self.medium.hold();
        let mut commits = Vec::new();
        for number in numbers {
            self.world.write(*number);
            let (id, bytes) = blob(*number);
            self.store.write_blob(id, bytes).await?;
            let (index, batch) = self.world.commit(&[*number], &[]);
            self.medium.mark(begun(index));
            let mut commit = Box::pin(self.store.commit(batch)).fuse();
            let mut outcome = (&mut commit).now_or_never();
            // A commit that fails early never comes to the medium.
            while commits.is_empty() && outcome.is_none() && !hold.has_arrived() {
                std::thread::yield_now();
                outcome = (&mut commit).now_or_never();
            }
            match outcome {
                Some(outcome) => commits.push(ready(outcome).left_future()),
                None => commits.push(commit.right_future()),
            }
        }
        drop(hold);
        let outcomes = join_all(commits).await;
        let last = self.world.states.len() - 1;
        let first = last + 1 - outcomes.len();
        for (index, outcome) in (first..).zip(outcomes) {
            outcome?;
            self.medium.mark(acknowledged(index));
            self.acknowledged = index;
        }
        Ok(())
    }
}
