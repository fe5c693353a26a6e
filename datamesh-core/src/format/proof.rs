//! Proofs that a shard is held: one chunk of it, which chance picks, and what joins the chunk to the shard's name.
//!
//! A shard's name is the root of a BLAKE3 tree over chunks of 1 KiB, so a chunk and the hashes beside its path up to
//! the root show that it is that part of that shard. Nobody needs the shard to check this.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{CHUNK_LEN, Hasher, OUT_LEN};

use crate::id::ShardId;
use crate::ports::MAX_BLOB_LEN;

/// The random part of a challenge.
pub type ProofNonce = [u8; 16];

/// What the choice of a chunk is derived under.
const CONTEXT: &str = "datamesh v1 2026-11-21 proof of a shard";

/// The chunk that a nonce picks, counted from 0, of a shard of so many bytes.
pub fn picked_chunk(shard: &ShardId, nonce: &ProofNonce, len: usize) -> u64 {
    let mut hasher = Hasher::new_derive_key(CONTEXT);
    hasher.update(nonce).update(shard.as_bytes());
    let drawn = hasher.finalize().as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes);
    // The remainder favours no chunk by more than one part in 2^50.
    drawn % chunks(len)
}

fn chunks(len: usize) -> u64 {
    (len as u64).div_ceil(CHUNK_LEN as u64).max(1)
}

/// A run of a shard's bytes whose hash stands in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
}

impl Run {
    fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        let start = usize::try_from(self.start).ok()?;
        bytes.get(start..)?.get(..usize::try_from(self.len).ok()?)
    }

    fn hash(self, bytes: &[u8]) -> ChainingValue {
        Hasher::new().set_input_offset(self.start).update(bytes).finalize_non_root()
    }
}

/// One step down from the root: the run beside the way, and whether it lies on the left.
#[derive(Debug, Clone, Copy)]
struct Step {
    beside: Run,
    is_left: bool,
}

/// The way from the root to a chunk, and the chunk. A shard of the greatest length has thirteen steps.
fn way(chunk: u64, len: usize) -> (Vec<Step>, Run) {
    let target = chunk.saturating_mul(CHUNK_LEN as u64);
    let mut at = Run { start: 0, len: len as u64 };
    let mut steps = Vec::new();
    while at.len > CHUNK_LEN as u64 {
        let left = left_subtree_len(at.len);
        let (first, second) = (
            Run { start: at.start, len: left },
            Run { start: at.start.saturating_add(left), len: at.len.saturating_sub(left) },
        );
        let is_right = target >= second.start;
        steps.push(Step { beside: if is_right { first } else { second }, is_left: is_right });
        at = if is_right { second } else { first };
    }
    (steps, at)
}

/// The proof of a shard with this content: the picked chunk, then the hashes beside the way to it, from the root down.
pub fn prove(shard: &ShardId, nonce: &ProofNonce, content: &[u8]) -> Vec<u8> {
    let (steps, chunk) = way(picked_chunk(shard, nonce, content.len()), content.len());
    let mut proof = chunk.of(content).unwrap_or_default().to_vec();
    for step in steps {
        proof.extend(step.beside.hash(step.beside.of(content).unwrap_or_default()));
    }
    proof
}

/// The name of the shard that a proof belongs to, if it has the form of one for this challenge: the shard is held when
/// this is its name.
pub fn proved(shard: &ShardId, nonce: &ProofNonce, len: usize, proof: &[u8]) -> Option<ShardId> {
    if len == 0 || len > MAX_BLOB_LEN {
        return None;
    }
    let (steps, run) = way(picked_chunk(shard, nonce, len), len);
    let (chunk, hashes) = proof.split_at_checked(usize::try_from(run.len).ok()?)?;
    let (hashes, rest) = hashes.as_chunks::<OUT_LEN>();
    if hashes.len() != steps.len() || !rest.is_empty() {
        return None;
    }
    if steps.is_empty() {
        return Some(ShardId::of(chunk));
    }
    let mut hash = run.hash(chunk);
    for (number, (step, beside)) in steps.iter().zip(hashes).enumerate().rev() {
        let (left, right) = if step.is_left { (beside, &hash) } else { (&hash, beside) };
        if number == 0 {
            return Some(ShardId::from_bytes(*merge_subtrees_root(left, right, Mode::Hash).as_bytes()));
        }
        hash = merge_subtrees_non_root(left, right, Mode::Hash);
    }
    None
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 % 251) as u8).collect()
    }

    #[test]
    fn lengths_around_every_edge_are_proved() {
        for len in
            [1, 63, 64, 1023, 1024, 1025, 2048, 2049, 3072, 4097, 65_536, 65_600, 1 << 20, MAX_BLOB_LEN]
        {
            let content = content(len);
            let shard = ShardId::of(&content);
            for number in 0..8 {
                let nonce = [number; 16];
                let proof = prove(&shard, &nonce, &content);
                assert_eq!(proved(&shard, &nonce, len, &proof), Some(shard), "{len} bytes");
                assert!(proof.len() <= CHUNK_LEN + 13 * OUT_LEN);
            }
        }
    }

    #[test]
    fn every_chunk_comes_up() {
        let (shard, mut seen) = (ShardId::of(b"?"), [0; 9]);
        for number in 0..9_000_u32 {
            let mut nonce = [0; 16];
            nonce[..4].copy_from_slice(&number.to_le_bytes());
            seen[picked_chunk(&shard, &nonce, 8 * 1024 + 1) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
    }

    /// Pinned: a change here makes nodes of two releases doubt each other.
    #[test]
    fn a_proof_is_pinned() {
        let content = content(5_000);
        let shard = ShardId::of(&content);
        let proof = prove(&shard, &[1; 16], &content);
        let hash = blake3::hash(&proof);
        assert_eq!((picked_chunk(&shard, &[1; 16], 5_000), proof.len()), PINNED);
        assert_eq!(HEXLOWER.encode(hash.as_bytes().first_chunk::<8>().unwrap()), PINNED_HASH);
    }
    const PINNED: (u64, usize) = (3, 1_120);
    const PINNED_HASH: &str = "98e09aa9ff292a7b";

    #[test]
    fn other_lengths_and_nothing_prove_nothing() {
        let content = content(10_000);
        let shard = ShardId::of(&content);
        let proof = prove(&shard, &[3; 16], &content);
        for len in [0, 8_192, 20_000, MAX_BLOB_LEN + 1, usize::MAX] {
            assert_ne!(proved(&shard, &[3; 16], len, &proof), Some(shard), "{len}");
        }
        assert_eq!(proved(&shard, &[3; 16], 10_000, &[]), None);
    }

    proptest! {
        #[test]
        fn an_altered_proof_proves_nothing(len in 1usize..9000, at: prop::sample::Index, bit in 0u8..8, nonce: [u8; 16]) {
            let content = content(len);
            let shard = ShardId::of(&content);
            let mut proof = prove(&shard, &nonce, &content);
            prop_assert_eq!(proved(&shard, &nonce, len, &proof), Some(shard));
            let at = at.index(proof.len());
            proof[at] ^= 1 << bit;
            prop_assert_ne!(proved(&shard, &nonce, len, &proof), Some(shard));
            proof[at] ^= 1 << bit;
            proof.pop();
            prop_assert_ne!(proved(&shard, &nonce, len, &proof), Some(shard));
        }

        #[test]
        fn rubbish_proves_nothing(len: usize, nonce: [u8; 16], proof in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let shard = ShardId::of(b"another");
            prop_assert_ne!(proved(&shard, &nonce, len % (2 * MAX_BLOB_LEN), &proof), Some(shard));
        }
    }
}
