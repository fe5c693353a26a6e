//! The conformance suite of the erasure port.

use std::ops::Range;

use crate::error::{ErrorKind, Result};
use crate::ports::{ErasureCode, MAX_SHARDS_OF_A_KIND, Redundancy};

/// Loss patterns tried for a redundancy that has too many to try all.
const SAMPLED_PATTERNS: u64 = 12;

/// Checks every numbered clause of [`ErasureCode`]'s contract, for each redundancy of the suite's list that
/// the code supports.
///
/// Every loss pattern is tried for k + m up to 8, and samples from there to 128+128.
///
/// # Panics
/// With the number of the clause that the code breaks.
pub fn erasure_code(code: &dyn ErasureCode) {
    let alignment = code.alignment();
    assert!(alignment > 0 && 64 % alignment == 0, "alignment {alignment} does not divide 64");
    code.warm_up();
    let mut supported = 0;
    for redundancy in redundancies().filter(|redundancy| code.supports(*redundancy)) {
        supported += 1;
        clause_1_systematic_and_deterministic(code, redundancy);
        clause_2_any_k_restore(code, redundancy);
        clause_4_no_parity(code, redundancy);
        clause_5_wrong_arguments(code, redundancy);
    }
    assert!(supported > 0, "the code supports no redundancy of the suite's list");
    for redundancy in [Redundancy::NONE, Redundancy::STANDARD, Redundancy::WIDE] {
        if code.supports(redundancy) {
            clause_3_columns(code, redundancy);
        }
    }
    if code.supports(Redundancy::STANDARD) {
        clause_6_threads(code, Redundancy::STANDARD);
    }
}

fn clause_1_systematic_and_deterministic(code: &dyn ErasureCode, redundancy: Redundancy) {
    let stripe = Stripe::new(code, redundancy, code.alignment() * 3);
    let again = Stripe::new(code, redundancy, code.alignment() * 3);
    assert_eq!(stripe.shards, again.shards, "clause 1: {redundancy} gave other parity for the same data");
    // Parity may not depend on what the caller's buffers held before.
    let mut parity = vec![vec![0xa5; stripe.length]; redundancy.parity()];
    must(1, encode(code, redundancy, stripe.data(), &mut parity));
    assert_eq!(parity, stripe.parity(), "clause 1: {redundancy} parity depends on what its buffers held");
}

fn clause_2_any_k_restore(code: &dyn ErasureCode, redundancy: Redundancy) {
    let stripe = Stripe::new(code, redundancy, code.alignment() * 2);
    for lost in patterns(redundancy) {
        stripe.check_restored(2, code, &lost);
    }
}

fn clause_3_columns(code: &dyn ErasureCode, redundancy: Redundancy) {
    let unit = code.alignment();
    let stripe = Stripe::new(code, redundancy, (300 << 10) + unit);
    for width in [unit, 3 * unit, 64 << 10] {
        for (index, range) in pieces(stripe.length.min(width * 9), width).enumerate() {
            let cut = stripe.column(range);
            let mut parity = vec![vec![0; cut.length]; redundancy.parity()];
            must(3, encode(code, redundancy, cut.data(), &mut parity));
            assert_eq!(
                parity,
                cut.parity(),
                "clause 3: {redundancy} parity of column {index} of {width} bytes"
            );
            let lost: Vec<usize> = (0..redundancy.parity()).collect();
            cut.check_restored(3, code, &lost);
        }
    }
    let lost: Vec<usize> = (0..redundancy.parity()).collect();
    stripe.check_restored(3, code, &lost);
}

fn clause_4_no_parity(code: &dyn ErasureCode, redundancy: Redundancy) {
    let none = must(4, Redundancy::new(u8::try_from(redundancy.data()).unwrap_or(1), 0));
    assert!(code.supports(none), "clause 4: {none} is not supported");
    let stripe = Stripe::new(code, none, code.alignment());
    stripe.check_restored(4, code, &[]);
}

fn clause_5_wrong_arguments(code: &dyn ErasureCode, redundancy: Redundancy) {
    let (k, m, unit) = (redundancy.data(), redundancy.parity(), code.alignment());
    let data = vec![vec![1_u8; unit]; k + 1];
    let (right, wrong) = (data.get(..k).unwrap_or_default(), data.as_slice());
    refused(redundancy, "one data shard too many", encode(code, redundancy, wrong, &mut buffers(m, unit)));
    refused(redundancy, "no data shard", encode(code, redundancy, &[], &mut buffers(m, unit)));
    refused(redundancy, "a buffer too many", encode(code, redundancy, right, &mut buffers(m + 1, unit)));
    if m > 0 {
        refused(redundancy, "no parity buffer", encode(code, redundancy, right, &mut []));
        refused(redundancy, "long buffers", encode(code, redundancy, right, &mut buffers(m, 2 * unit)));
    }
    let mut uneven = right.to_vec();
    if let Some(last) = uneven.last_mut() {
        last.extend(vec![0; unit]);
    }
    if k > 1 {
        refused(redundancy, "unequal shards", encode(code, redundancy, &uneven, &mut buffers(m, unit)));
    }
    if unit > 1 {
        let odd = vec![vec![1_u8; unit + 1]; k];
        refused(redundancy, "a length off", encode(code, redundancy, &odd, &mut buffers(m, unit + 1)));
    }
    wrong_reconstructions(code, redundancy);
}

fn wrong_reconstructions(code: &dyn ErasureCode, redundancy: Redundancy) {
    let stripe = Stripe::new(code, redundancy, code.alignment());
    let unit = stripe.length;
    let reconstruct = |shards: &[Option<&[u8]>], restored: &mut [Vec<u8>]| {
        let mut restored: Vec<&mut [u8]> = restored.iter_mut().map(Vec::as_mut_slice).collect();
        code.reconstruct(redundancy, shards, &mut restored)
    };
    let all = stripe.without(&[]);
    refused(redundancy, "a buffer for nothing", reconstruct(&all, &mut buffers(1, unit)));
    refused(redundancy, "no shards at all", reconstruct(&[], &mut []));
    let too_many: Vec<usize> = (0..=redundancy.parity()).collect();
    let lost = too_many.iter().filter(|index| **index < redundancy.data()).count();
    refused(
        redundancy,
        "fewer than k shards",
        reconstruct(&stripe.without(&too_many), &mut buffers(lost, unit)),
    );
    if redundancy.parity() == 0 {
        return;
    }
    let one_lost = stripe.without(&[0]);
    refused(redundancy, "no buffer", reconstruct(&one_lost, &mut []));
    refused(redundancy, "a long buffer", reconstruct(&one_lost, &mut buffers(1, 2 * unit)));
    let mut short = one_lost.clone();
    if let Some(Some(last)) = short.last_mut() {
        *last = &[];
    }
    refused(redundancy, "a shard of no bytes", reconstruct(&short, &mut buffers(1, unit)));
}

fn clause_6_threads(code: &dyn ErasureCode, redundancy: Redundancy) {
    let stripe = Stripe::new(code, redundancy, code.alignment() * 64);
    let all = [vec![0, 1], vec![2], vec![1, 4], vec![0, 3]];
    std::thread::scope(|scope| {
        for lost in &all {
            scope.spawn(|| {
                let again = Stripe::new(code, redundancy, stripe.length);
                assert_eq!(again.shards, stripe.shards, "clause 6: other parity under concurrent calls");
                stripe.check_restored(6, code, lost);
            });
        }
    });
}

/// A coded stripe of known bytes.
struct Stripe {
    redundancy: Redundancy,
    length: usize,
    /// Data first, then parity.
    shards: Vec<Vec<u8>>,
}

impl Stripe {
    fn new(code: &dyn ErasureCode, redundancy: Redundancy, length: usize) -> Self {
        let mut random = Random(length as u64 + 1);
        let mut shards: Vec<Vec<u8>> = (0..redundancy.data()).map(|_| random.bytes(length)).collect();
        let data = shards.clone();
        let mut parity = buffers(redundancy.parity(), length);
        must(1, encode(code, redundancy, &data, &mut parity));
        assert_eq!(shards, data, "clause 1: {redundancy} changed its data shards");
        shards.append(&mut parity);
        Self { redundancy, length, shards }
    }

    fn data(&self) -> &[Vec<u8>] {
        self.shards.get(..self.redundancy.data()).unwrap_or_default()
    }

    fn parity(&self) -> &[Vec<u8>] {
        self.shards.get(self.redundancy.data()..).unwrap_or_default()
    }

    fn column(&self, range: Range<usize>) -> Self {
        let cut = |shard: &Vec<u8>| shard.get(range.clone()).unwrap_or_default().to_vec();
        Self {
            redundancy: self.redundancy,
            length: range.len(),
            shards: self.shards.iter().map(cut).collect(),
        }
    }

    fn without(&self, lost: &[usize]) -> Vec<Option<&[u8]>> {
        let keep = |(index, shard): (usize, &'_ Vec<u8>)| !lost.contains(&index) && !shard.is_empty();
        self.shards.iter().enumerate().map(|(i, s)| keep((i, s)).then_some(s.as_slice())).collect()
    }

    fn check_restored(&self, clause: u8, code: &dyn ErasureCode, lost: &[usize]) {
        let k = self.redundancy.data();
        let mut lost = lost.to_vec();
        lost.sort_unstable();
        let missing: Vec<usize> = lost.iter().copied().filter(|index| *index < k).collect();
        let mut restored = vec![vec![0x5a; self.length]; missing.len()];
        let mut targets: Vec<&mut [u8]> = restored.iter_mut().map(Vec::as_mut_slice).collect();
        must(clause, code.reconstruct(self.redundancy, &self.without(&lost), &mut targets));
        for (index, bytes) in missing.iter().zip(&restored) {
            assert!(
                self.shards.get(*index) == Some(bytes),
                "clause {clause}: {} without {lost:?} restored data shard {index} wrongly",
                self.redundancy
            );
        }
    }
}

fn encode(
    code: &dyn ErasureCode,
    redundancy: Redundancy,
    data: &[Vec<u8>],
    parity: &mut [Vec<u8>],
) -> Result<()> {
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    code.encode(redundancy, &data, &mut parity)
}

fn buffers(count: usize, length: usize) -> Vec<Vec<u8>> {
    vec![vec![0; length]; count]
}

fn pieces(length: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(width).map(move |from| from..length.min(from + width))
}

/// The redundancies that are tried: all small ones, the usual ones, and the corners.
fn redundancies() -> impl Iterator<Item = Redundancy> {
    let max = MAX_SHARDS_OF_A_KIND;
    let small = (1..=5).flat_map(|k| (0..=3).map(move |m| (k, m)));
    let large = [(10, 4), (8, 8), (29, 51), (64, 1), (1, 64), (max, 0), (1, max), (max, 1), (max, max)];
    small.chain(large).filter_map(|(k, m)| Redundancy::new(k, m).ok())
}

/// Sets of at most m lost shards: all of them where they are few.
fn patterns(redundancy: Redundancy) -> Vec<Vec<usize>> {
    let (n, m) = (redundancy.total(), redundancy.parity());
    if n <= 8 {
        return (0_u32..1 << n)
            .filter(|set| set.count_ones() as usize <= m)
            .map(|set| (0..n).filter(|index| set >> index & 1 == 1).collect())
            .collect();
    }
    let sampled = (0..SAMPLED_PATTERNS).map(|seed| Random(seed + 1).subset(n, m));
    let corners = [(0..m.min(n)).collect(), (n - m..n).collect(), Vec::new()];
    corners.into_iter().chain(sampled).collect()
}

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64, Steele, Lea and Flood 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    fn subset(&mut self, of: usize, size: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..of).collect();
        (0..size.min(of)).map(|_| left.swap_remove((self.next() % left.len() as u64) as usize)).collect()
    }
}

#[track_caller]
fn must<T>(clause: u8, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("clause {clause}: {error:?}"))
}

#[track_caller]
fn refused(redundancy: Redundancy, what: &str, result: Result<()>) {
    let kind = result.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::InvalidInput), "clause 5: {redundancy} with {what}");
}
