//! One segment of 1 MiB through the pure pipeline, 4+2: sealed, coded and hashed, and back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench stops at the first surprise")]
#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use datamesh::ports::{CryptoSuite, ErasureCode};
use datamesh::store::ReedSolomon;
use datamesh::{ChaChaSuite, Redundancy};

const PLAIN: usize = 1 << 20;
const CODE: Redundancy = Redundancy::STANDARD;
const SHARD: usize = ((PLAIN + 16) / 4).next_multiple_of(64);

fn encode(stripe: &mut [u8], code: &ReedSolomon) -> [u8; 16] {
    let (data, parity) = stripe.split_at_mut(SHARD * CODE.data());
    let tag = ChaChaSuite.seal(&[1; 32], &[2; 12], &[], &mut data[..PLAIN]).unwrap();
    let data: Vec<&[u8]> = data.chunks_exact(SHARD).collect();
    let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(SHARD).collect();
    code.encode(CODE, &data, &mut parity).unwrap();
    stripe.chunks_exact(SHARD).for_each(|shard| {
        black_box(blake3::hash(shard));
    });
    tag
}

fn decode(stripe: &[u8], tag: &[u8; 16], lost: usize, out: &mut [u8], code: &ReedSolomon) {
    let keep = |(index, shard)| (lost..lost + CODE.data()).contains(&index).then_some(shard);
    let shards: Vec<Option<&[u8]>> = stripe.chunks_exact(SHARD).enumerate().map(keep).collect();
    shards.iter().flatten().for_each(|shard| {
        black_box(blake3::hash(shard));
    });
    let mut missing = Vec::new();
    for (slot, shard) in out.chunks_exact_mut(SHARD).zip(&shards) {
        match shard {
            Some(shard) => slot.copy_from_slice(shard),
            None => missing.push(slot),
        }
    }
    code.reconstruct(CODE, &shards, &mut missing).unwrap();
    missing.iter().for_each(|shard| {
        black_box(blake3::hash(shard));
    });
    ChaChaSuite.open(&[1; 32], &[2; 12], &[], &mut out[..PLAIN], tag).unwrap();
}

fn segment(criterion: &mut Criterion) {
    let code = ReedSolomon::new();
    let mut stripe = vec![7; SHARD * CODE.total()];
    let mut out = vec![0; SHARD * CODE.data()];
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(PLAIN as u64)).sample_size(20);
    group.bench_function("seal, code, hash", |bench| bench.iter(|| encode(&mut stripe, &code)));
    let tag = encode(&mut stripe, &code);
    for lost in 0..=CODE.parity() {
        let name = format!("hash, restore {lost}, open");
        group.bench_function(name, |bench| bench.iter(|| decode(&stripe, &tag, lost, &mut out, &code)));
    }
    group.finish();
}

criterion_group!(benches, segment);
criterion_main!(benches);
