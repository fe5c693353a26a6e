//! Randomness that a seed decides: one generator for each purpose, so that a draw more in one place changes no other.

use std::time::Duration;

use blake3::OutputReader;

/// A stream of draws, named by a seed and a purpose.
#[derive(Debug, Clone)]
pub(crate) struct Draws(OutputReader);

impl Draws {
    /// The stream of this purpose.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("datamesh/v1/simulator-draws");
        hasher.update(&seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// Fills the bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `end`; 0 where `end` is 0. The bias of at most `end` in 2^64 does not matter here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let product = u128::from(self.next_u64()) * u128::from(end);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// An index into something with `len` entries.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let index = self.index(all.len());
        all.get(index)
    }

    /// Up to `count` of these, in no order.
    pub(crate) fn subset<T: Clone>(&mut self, all: &[T], count: usize) -> Vec<T> {
        let mut left = all.to_vec();
        let mut chosen = Vec::new();
        while chosen.len() < count && !left.is_empty() {
            let index = self.index(left.len());
            chosen.push(left.swap_remove(index));
        }
        chosen
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A time from `least` to just below `most`.
    pub(crate) fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        least.saturating_add(Duration::from_nanos(self.below(span)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_decided_by_seed_and_purpose() {
        let draw = |seed, purpose| Draws::new(seed, purpose).next_u64();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut draws = Draws::new(1, "ranges");
        let mut seen = [0; 5];
        for _ in 0..500 {
            seen[draws.index(5)] += 1;
            let (least, most) = (Duration::from_millis(3), Duration::from_millis(4));
            let time = draws.time(least, most);
            assert!(time >= least && time < most);
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(draws.below(0), 0);
        assert_eq!(draws.subset(&[1, 2], 9).len(), 2);
    }
}
