//! Reed-Solomon over GF(2^16), as reed-solomon-simd computes it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datamesh_core::ports::{CodeId, ErasureCode, Redundancy};
use datamesh_core::{Error, ErrorKind, Result};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Shards are multiples of this; it is the width that the code works on.
const ALIGNMENT: usize = 64;

/// Shards are coded in columns of this many bytes, so that the working space of a usual stripe stays in
/// the second-level cache.
const COLUMN_BYTES: usize = 64 << 10;

/// Columns are longer when shards are restored: each one costs 0.15 ms before its first byte, so that a usual
/// shard, which is a little over 256 KiB, is restored in one.
const RESTORED_COLUMN_BYTES: usize = 512 << 10;

/// Idle encoders, and idle decoders, that are kept for the next call: as many as threads are likely to
/// code at the same time. Others are dropped after use.
const MAX_IDLE: usize = 16;

/// The default [`ErasureCode`]: systematic Reed-Solomon over GF(2^16) (Leopard), code 1.
///
/// It keeps the working space of the last calls for the next ones, at most 16 encoders and 16 decoders, of which each
/// takes 2 MiB for a usual stripe, until [`trim`](ErasureCode::trim) gives back what is not used any more.
///
/// ```
/// use datamesh_core::ports::{ErasureCode, Redundancy};
/// use datamesh_store::ReedSolomon;
///
/// let code = ReedSolomon::new();
/// let redundancy = Redundancy::new(2, 1)?;
/// let (first, second, mut parity) = ([1; 64], [2; 64], [0; 64]);
/// code.encode(redundancy, &[&first, &second], &mut [&mut parity])?;
///
/// let mut restored = [0; 64];
/// code.reconstruct(redundancy, &[None, Some(&second), Some(&parity)], &mut [&mut restored])?;
/// assert_eq!(restored, first);
/// # Ok::<(), datamesh_core::Error>(())
/// ```
#[derive(Default)]
pub struct ReedSolomon {
    encoders: Pool<ReedSolomonEncoder>,
    decoders: Pool<ReedSolomonDecoder>,
}

impl ReedSolomon {
    /// The code, with no working space yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl ErasureCode for ReedSolomon {
    fn id(&self) -> CodeId {
        CodeId::REED_SOLOMON_16
    }

    fn alignment(&self) -> usize {
        ALIGNMENT
    }

    fn supports(&self, redundancy: Redundancy) -> bool {
        redundancy.parity() == 0 || ReedSolomonEncoder::supports(redundancy.data(), redundancy.parity())
    }

    fn warm_up(&self) {
        let data = [0; ALIGNMENT];
        let mut restored = [0; ALIGNMENT];
        let shards = [None, Some(&data[..]), Some(&data), Some(&data), Some(&data), None];
        // The arguments are right, and only the side effect of building tables is wanted.
        let _ = self.encode(
            Redundancy::STANDARD,
            &[&data[..]; 4],
            &mut [&mut [0; ALIGNMENT], &mut [0; ALIGNMENT]],
        );
        let _ = self.reconstruct(Redundancy::STANDARD, &shards, &mut [&mut restored]);
    }

    fn trim(&self) {
        self.encoders.trim();
        self.decoders.trim();
    }

    fn encode(&self, redundancy: Redundancy, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<()> {
        let lengths = data.iter().map(|s| s.len()).chain(parity.iter().map(|s| s.len()));
        check_count("data shards", data.len(), redundancy.data())?;
        check_count("parity shards", parity.len(), redundancy.parity())?;
        let length = common_length(lengths)?;
        if redundancy.parity() == 0 {
            return Ok(());
        }
        for (from, to) in columns(length, COLUMN_BYTES) {
            self.encode_column(redundancy, data, parity, from, to)?;
        }
        Ok(())
    }

    fn reconstruct(
        &self,
        redundancy: Redundancy,
        shards: &[Option<&[u8]>],
        restored: &mut [&mut [u8]],
    ) -> Result<()> {
        check_count("shards", shards.len(), redundancy.total())?;
        let present = shards.iter().flatten().count();
        if present < redundancy.data() {
            return Err(invalid(format!(
                "a stripe of {redundancy} cannot be restored from {present} shards"
            )));
        }
        let missing = shards.iter().take(redundancy.data()).filter(|shard| shard.is_none()).count();
        check_count("buffers for missing data shards", restored.len(), missing)?;
        let lengths = shards.iter().flatten().map(|s| s.len()).chain(restored.iter().map(|s| s.len()));
        let length = common_length(lengths)?;
        if missing == 0 {
            return Ok(());
        }
        for (from, to) in columns(length, RESTORED_COLUMN_BYTES) {
            self.decode_column(redundancy, shards, restored, from, to)?;
        }
        Ok(())
    }
}

impl ReedSolomon {
    fn encode_column(
        &self,
        redundancy: Redundancy,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
        from: usize,
        to: usize,
    ) -> Result<()> {
        let (k, m, length) = (redundancy.data(), redundancy.parity(), to - from);
        let mut encoder = match self.encoders.take() {
            Some(mut encoder) => encoder.reset(k, m, length).map(|()| encoder),
            None => ReedSolomonEncoder::new(k, m, length),
        }
        .map_err(refused)?;
        for shard in data {
            encoder.add_original_shard(cut(shard, from, to)).map_err(refused)?;
        }
        let result = encoder.encode().map_err(refused)?;
        for (target, source) in parity.iter_mut().zip(result.recovery_iter()) {
            fill(target, from, to, source);
        }
        drop(result);
        self.encoders.give_back(encoder);
        Ok(())
    }

    fn decode_column(
        &self,
        redundancy: Redundancy,
        shards: &[Option<&[u8]>],
        restored: &mut [&mut [u8]],
        from: usize,
        to: usize,
    ) -> Result<()> {
        let (k, m, length) = (redundancy.data(), redundancy.parity(), to - from);
        let mut decoder = match self.decoders.take() {
            Some(mut decoder) => decoder.reset(k, m, length).map(|()| decoder),
            None => ReedSolomonDecoder::new(k, m, length),
        }
        .map_err(refused)?;
        for (index, shard) in shards.iter().enumerate() {
            let Some(shard) = shard.map(|shard| cut(shard, from, to)) else { continue };
            match index.checked_sub(k) {
                None => decoder.add_original_shard(index, shard),
                Some(index) => decoder.add_recovery_shard(index, shard),
            }
            .map_err(refused)?;
        }
        let result = decoder.decode().map_err(refused)?;
        for (target, (_, source)) in restored.iter_mut().zip(result.restored_original_iter()) {
            fill(target, from, to, source);
        }
        drop(result);
        self.decoders.give_back(decoder);
        Ok(())
    }
}

impl fmt::Debug for ReedSolomon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReedSolomon").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Working space that waits for the next call.
struct Pool<T>(Mutex<Idle<T>>);

struct Idle<T> {
    /// With the round in which each was used last; the one used last is the last, and taken first.
    items: Vec<(u64, T)>,
    round: u64,
}

impl<T> Pool<T> {
    fn idle(&self) -> MutexGuard<'_, Idle<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<T> {
        self.idle().items.pop().map(|(_, item)| item)
    }

    fn give_back(&self, item: T) {
        let mut idle = self.idle();
        let round = idle.round;
        if idle.items.len() < MAX_IDLE {
            idle.items.push((round, item));
        }
    }

    /// Ends a round, and drops what was not used in it.
    fn trim(&self) {
        let mut idle = self.idle();
        let round = idle.round;
        let used = idle.items.partition_point(|(last, _)| *last < round);
        let unused: Vec<_> = idle.items.drain(..used).collect();
        idle.round = round.wrapping_add(1);
        // What they hold is given back outside of the lock.
        drop(idle);
        drop(unused);
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Idle { items: Vec::new(), round: 0 }))
    }
}

/// The starts and ends of the columns of a shard.
fn columns(length: usize, column: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length).step_by(column).map(move |from| (from, length.min(from + column)))
}

fn cut(shard: &[u8], from: usize, to: usize) -> &[u8] {
    shard.get(from..to).unwrap_or_default()
}

fn fill(target: &mut [u8], from: usize, to: usize, source: &[u8]) {
    if let Some(target) = target.get_mut(from..to).filter(|target| target.len() == source.len()) {
        target.copy_from_slice(source);
    }
}

fn check_count(what: &str, have: usize, need: usize) -> Result<()> {
    if have == need { Ok(()) } else { Err(invalid(format!("{have} {what} given, {need} expected"))) }
}

/// The one length of all shards.
fn common_length(mut lengths: impl Iterator<Item = usize>) -> Result<usize> {
    let first = lengths.next().unwrap_or_default();
    if let Some(other) = lengths.find(|length| *length != first) {
        return Err(invalid(format!("shards of {first} and {other} bytes do not make a stripe")));
    }
    if !first.is_multiple_of(ALIGNMENT) {
        return Err(invalid(format!("a shard of {first} bytes is not a multiple of {ALIGNMENT}")));
    }
    Ok(first)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn refused(source: reed_solomon_simd::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, "the erasure code refused its arguments").with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_burst_took_is_given_back() {
        let pool = Pool::default();
        (0..20).for_each(|number| pool.give_back(number));
        assert_eq!(pool.idle().items.len(), MAX_IDLE, "the others were dropped");
        pool.trim();
        assert_eq!(pool.idle().items.len(), MAX_IDLE, "they were used in this round");
        // Two at a time keep two.
        for _ in 0..20 {
            let both = [pool.take().unwrap(), pool.take().unwrap()];
            both.into_iter().for_each(|item| pool.give_back(item));
        }
        pool.trim();
        assert_eq!(pool.idle().items.len(), 2);
        pool.trim();
        assert_eq!(pool.idle().items.len(), 0, "nothing is used any more");
    }
}
