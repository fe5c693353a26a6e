//! What the pure pipeline can do with the same bytes: read, seal, code and hash, and back, with nothing around it.

use std::thread;
use std::time::{Duration, Instant};

use datamesh::ports::{CryptoSuite, ErasureCode};
use datamesh::store::ReedSolomon;
use datamesh::{ChaChaSuite, Redundancy, Result};

use crate::generated::Content;

/// The length of a segment.
const SEGMENT: usize = 1 << 20;

/// The length of a seal's tag.
const TAG: usize = 16;

/// How long one sample takes.
const TIME: Duration = Duration::from_millis(100);

/// How long the time between two samples is at least.
const PAUSE: Duration = Duration::from_millis(400);

/// How many segments the threads take in turn, where an object has so many. They do not fit a core's cache, as the
/// segments of a large object do not; with one segment over and over the caches would do the work of the memory.
const SEGMENTS: usize = 24;

const CODE: Redundancy = Redundancy::STANDARD;

/// One direction of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Seal, code, hash all shards.
    Put,
    /// Hash k shards, restore what is missing, open.
    Get {
        /// How many of the six shards of each segment are gone, all pairs in turn.
        lost: usize,
    },
}

/// What the pipeline does with objects of one size, sampled now and then.
#[derive(Debug)]
pub(crate) struct Ceiling {
    direction: Direction,
    plain: usize,
    threads: usize,
    /// How many segments each thread takes in turn.
    segments: usize,
    content: Content,
    rates: Vec<f64>,
    last: Option<Instant>,
}

impl Ceiling {
    pub(crate) fn new(direction: Direction, size: u64, threads: usize, content: &Content) -> Self {
        let plain = usize::try_from(size).unwrap_or(usize::MAX).clamp(1, SEGMENT);
        let segments =
            usize::try_from(size.div_ceil(SEGMENT as u64)).unwrap_or(usize::MAX).clamp(1, SEGMENTS);
        // An object of one segment has no use for a second thread.
        let threads = threads.clamp(1, segments);
        let segments = segments.div_ceil(threads);
        Self { direction, plain, threads, segments, content: content.clone(), rates: Vec::new(), last: None }
    }

    /// Takes a sample, unless the last one is fresh.
    pub(crate) fn sample(&mut self) -> Result<()> {
        if self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return Ok(());
        }
        let rates = thread::scope(|scope| {
            let run = || Pipeline::new(self.plain, self.segments, self.content.clone())?.rate(self.direction);
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(run)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(0.0))).collect::<Result<Vec<f64>>>()
        })?;
        self.rates.push(rates.into_iter().sum());
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Bytes of plaintext in a second.
    pub(crate) fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64
    }
}

/// The buffers of one thread.
struct Pipeline {
    suite: ChaChaSuite,
    code: ReedSolomon,
    content: Content,
    plain: usize,
    shard: usize,
    stripes: Vec<Vec<u8>>,
    out: Vec<u8>,
    tag: [u8; TAG],
}

impl Pipeline {
    fn new(plain: usize, segments: usize, content: Content) -> Result<Self> {
        let shard = (plain + TAG).div_ceil(CODE.data()).next_multiple_of(64);
        let mut pipeline = Self {
            suite: ChaChaSuite,
            code: ReedSolomon::new(),
            content,
            plain,
            shard,
            stripes: vec![vec![7; shard * CODE.total()]; segments],
            out: vec![7; shard * CODE.data()],
            tag: [0; TAG],
        };
        (0..segments).try_for_each(|number| pipeline.put(number))?;
        Ok(pipeline)
    }

    fn rate(&mut self, direction: Direction) -> Result<f64> {
        let started = Instant::now();
        let mut segments = 0;
        while started.elapsed() < TIME {
            match direction {
                Direction::Put => self.put(segments)?,
                Direction::Get { lost } => self.get(lost, segments)?,
            }
            segments += 1;
        }
        Ok((segments * self.plain) as f64 / started.elapsed().as_secs_f64())
    }

    fn put(&mut self, number: usize) -> Result<()> {
        let turn = number % self.stripes.len();
        let Some(stripe) = self.stripes.get_mut(turn) else { return Ok(()) };
        let (data, parity) = stripe.split_at_mut(self.shard * CODE.data());
        let (plain, rest) = data.split_at_mut(self.plain);
        self.content.copy_to(turn as u64 * SEGMENT as u64, plain);
        self.tag = self.suite.seal(&[1; 32], &[2; 12], &[], plain)?;
        if let Some(tag) = rest.first_chunk_mut() {
            *tag = self.tag;
        }
        let data: Vec<&[u8]> = data.chunks_exact(self.shard).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(self.shard).collect();
        self.code.encode(CODE, &data, &mut parity)?;
        stripe.chunks_exact(self.shard).for_each(hash);
        Ok(())
    }

    fn get(&mut self, lost: usize, number: usize) -> Result<()> {
        let gone = |index: usize| (0..lost).any(|which| (number + which * (1 + number / 6 % 5)) % 6 == index);
        let Some(stripe) = self.stripes.get(number % self.stripes.len()) else { return Ok(()) };
        let mut left = CODE.data();
        let mut shards: Vec<Option<&[u8]>> = Vec::new();
        for (index, shard) in stripe.chunks_exact(self.shard).enumerate() {
            let wanted = left > 0 && !gone(index);
            left -= usize::from(wanted);
            shards.push(wanted.then_some(shard));
        }
        shards.iter().flatten().for_each(|shard| hash(shard));
        let mut missing = Vec::new();
        for (slot, shard) in self.out.chunks_exact_mut(self.shard).zip(&shards) {
            match shard {
                // Opening is in place, so the shards are laid out one after another.
                Some(shard) => slot.copy_from_slice(shard),
                None => missing.push(slot),
            }
        }
        if !missing.is_empty() {
            self.code.reconstruct(CODE, &shards, &mut missing)?;
            missing.iter().for_each(|shard| hash(shard));
        }
        let (plain, rest) = self.out.split_at_mut(self.plain);
        let tag = rest.first_chunk().unwrap_or(&self.tag);
        self.suite.open(&[1; 32], &[2; 12], &[], plain, tag)
    }
}

fn hash(shard: &[u8]) {
    std::hint::black_box(blake3::hash(shard));
}
