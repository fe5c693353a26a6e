//! One segment: sealed and coded into shards, and back. Computation only; runs on the CPU pool.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layout, ObjectKeys, Salt, TAG_LEN, shard_len};
use crate::id::ShardId;
use crate::object::buffer::{Buffer, BufferPool};
use crate::planted::{Bug, is_active};
use crate::ports::{CryptoSuite, ErasureCode, Redundancy};

/// What coding needs to know of an object: no key, so that whoever has a layout can rebuild shards.
#[derive(Debug, Clone)]
pub(crate) struct Coder {
    pub(crate) code: Arc<dyn ErasureCode>,
    pub(crate) redundancy: Redundancy,
    pub(crate) buffers: BufferPool,
}

/// What sealing and coding need to know of an object.
#[derive(Debug)]
pub(crate) struct Codec {
    pub(crate) coder: Coder,
    pub(crate) suite: Arc<dyn CryptoSuite>,
    pub(crate) keys: ObjectKeys,
    pub(crate) salt: Salt,
}

/// A segment's place in its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number, from 0.
    pub(crate) index: u64,
    /// Whether it is the object's last.
    pub(crate) last: bool,
}

/// The shards of one segment, with their names.
#[derive(Debug)]
pub(crate) struct Stripe {
    pub(crate) shards: Vec<Bytes>,
    pub(crate) ids: Vec<ShardId>,
    pub(crate) shard_len: usize,
}

/// What became of an attempt to decode a segment.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// The plaintext.
    Plain(Bytes),
    /// These shards (by index) are not what the layout names; others are needed.
    Wrong(Vec<usize>),
}

impl Coder {
    /// How many bytes of buffer a segment of so much plaintext takes: all its shards.
    pub(crate) fn buffer_len(&self, plain_len: usize) -> usize {
        shard_len(plain_len + TAG_LEN, self.redundancy) * self.redundancy.total()
    }

    /// A buffer for the plaintext of a segment and all that will be made of it.
    pub(crate) fn buffer(&self, plain_len: usize) -> Buffer {
        self.buffers.take(self.buffer_len(plain_len))
    }

    /// Lays the k data shards one after another into `out`, restored where they are missing.
    fn gather(
        &self,
        layout: &Layout,
        segment: usize,
        shards: &[Option<Bytes>],
        out: &mut [u8],
    ) -> Result<()> {
        let length = layout.shard_len_of(segment);
        let mut missing = Vec::new();
        let mut indexes = Vec::new();
        for (index, (slot, shard)) in out.chunks_exact_mut(length).zip(shards).enumerate() {
            match shard {
                Some(shard) => slot.copy_from_slice(shard),
                None => {
                    missing.push(slot);
                    indexes.push(index);
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let present: Vec<Option<&[u8]>> = shards.iter().map(Option::as_deref).collect();
        self.code.reconstruct(self.redundancy, &present, &mut missing)?;
        if is_active(Bug::SkipRebuiltCheck) {
            return Ok(());
        }
        let agree =
            |(index, bytes): (&usize, &&mut [u8])| layout.shard(segment, *index) == Some(ShardId::of(bytes));
        if indexes.iter().zip(&missing).all(agree) { Ok(()) } else { Err(poisoned()) }
    }

    /// Makes the shards with these indexes from k or more others, each checked against its name.
    pub(crate) fn rebuild(
        &self,
        layout: &Layout,
        segment: usize,
        shards: &[Option<Bytes>],
        wanted: &[usize],
    ) -> Result<Vec<(usize, Bytes)>> {
        let length = layout.shard_len_of(segment);
        let mut buffer = self.buffers.take(length * self.redundancy.total());
        let (data, parity) = buffer.as_mut().split_at_mut(length * self.redundancy.data());
        self.gather(layout, segment, shards, data)?;
        let data: Vec<&[u8]> = data.chunks_exact(length).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(length).collect();
        self.code.encode(self.redundancy, &data, &mut parity)?;
        let stripe = cut(buffer.freeze(), length, self.redundancy.total());
        // Copies: one shard that is kept would keep the whole stripe in memory.
        let make = |index: &usize| {
            let made = stripe.ids.get(*index).zip(stripe.shards.get(*index));
            match made {
                Some((id, shard)) if layout.shard(segment, *index) == Some(*id) => {
                    Ok((*index, Bytes::copy_from_slice(shard)))
                }
                _ => Err(poisoned()),
            }
        };
        wanted.iter().map(make).collect()
    }
}

impl Codec {
    /// Seals and codes a segment in the buffer that holds its plaintext.
    ///
    /// The buffer is from [`Coder::buffer`] and `plain_len` is no more than was asked for there.
    pub(crate) fn encode(&self, mut buffer: Buffer, plain_len: usize, place: Place) -> Result<Stripe> {
        let length = shard_len(plain_len + TAG_LEN, self.coder.redundancy);
        let total = length * self.coder.redundancy.total();
        let whole = buffer.as_mut().get_mut(..total).ok_or_else(too_short)?;
        let (data, parity) = whole.split_at_mut(length * self.coder.redundancy.data());
        self.seal(data, plain_len, place)?;
        let data: Vec<&[u8]> = data.chunks_exact(length).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(length).collect();
        self.coder.code.encode(self.coder.redundancy, &data, &mut parity)?;
        Ok(cut(buffer.freeze(), length, self.coder.redundancy.total()))
    }

    fn seal(&self, data: &mut [u8], plain_len: usize, place: Place) -> Result<()> {
        let (plain, rest) = data.split_at_mut_checked(plain_len).ok_or_else(too_short)?;
        let (tag_out, padding) = rest.split_at_mut_checked(TAG_LEN).ok_or_else(too_short)?;
        let tag = self.keys.seal_segment(&*self.suite, &self.salt, place.index, place.last, plain)?;
        tag_out.copy_from_slice(&tag);
        padding.fill(0);
        Ok(())
    }

    /// Checks every shard against its name, restores what is missing and opens the segment.
    ///
    /// `shards` has k + m entries of which k or more are there. What parity restored is hashed again and
    /// compared with the layout, so that all readers agree whatever the writer encoded.
    pub(crate) fn decode(
        &self,
        layout: &Layout,
        segment: usize,
        place: Place,
        plain_len: usize,
        shards: &[Option<Bytes>],
    ) -> Result<Decoded> {
        let wrong = wrong_shards(layout, segment, shards);
        if !wrong.is_empty() {
            return Ok(Decoded::Wrong(wrong));
        }
        let length = layout.shard_len_of(segment);
        let mut buffer = self.coder.buffers.take(length * self.coder.redundancy.data());
        self.coder.gather(layout, segment, shards, buffer.as_mut())?;
        self.open(buffer.as_mut(), plain_len, place)?;
        Ok(Decoded::Plain(buffer.freeze().slice(..plain_len)))
    }

    fn open(&self, data: &mut [u8], plain_len: usize, place: Place) -> Result<()> {
        let (cipher, rest) = data.split_at_mut_checked(plain_len).ok_or_else(too_short)?;
        let (tag, padding) = rest.split_at_checked(TAG_LEN).ok_or_else(too_short)?;
        let tag: &[u8; TAG_LEN] = tag.try_into().map_err(|_| too_short())?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(poisoned());
        }
        self.keys.open_segment(&*self.suite, &self.salt, place.index, place.last, cipher, tag)
    }
}

/// The indexes of the shards that are not what the layout names.
pub(crate) fn wrong_shards(layout: &Layout, segment: usize, shards: &[Option<Bytes>]) -> Vec<usize> {
    if is_active(Bug::SkipShardHash) {
        return Vec::new();
    }
    let length = layout.shard_len_of(segment);
    let is_wrong = |index: usize, shard: &Bytes| {
        shard.len() != length || layout.shard(segment, index) != Some(ShardId::of(shard))
    };
    let present = shards.iter().enumerate().filter_map(|(index, shard)| Some((index, shard.as_ref()?)));
    present.filter(|(index, shard)| is_wrong(*index, shard)).map(|(index, _)| index).collect()
}

fn cut(whole: Bytes, shard_len: usize, total: usize) -> Stripe {
    let shards: Vec<Bytes> = (0..total).map(|i| whole.slice(i * shard_len..(i + 1) * shard_len)).collect();
    let ids = shards.iter().map(|shard| ShardId::of(shard)).collect();
    Stripe { shards, ids, shard_len }
}

fn too_short() -> Error {
    Error::new(ErrorKind::Corrupt, "a segment is shorter than its tag; the layout is damaged")
}

fn poisoned() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the shards of a segment do not belong together; its writer encoded it wrongly, and no reader can open it",
    )
}
