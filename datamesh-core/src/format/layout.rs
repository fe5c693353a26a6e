//! The public description of an extent.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::keys::{RemovalHash, Salt, context, derive, public_values};
use crate::id::{ID_LEN, ObjectId, ShardId};
use crate::ports::{CodeId, ErasureCode, MAX_BLOB_LEN, Redundancy};

/// The longest encoded layout, in bytes: small enough to send beside every commit.
pub const MAX_LAYOUT_LEN: usize = 64 << 10;

/// The most segments of an extent.
pub const MAX_SEGMENTS_OF_EXTENT: usize = 64;

/// What an encoded layout needs beside its shard ids, in bytes, rounded up.
const LAYOUT_OVERHEAD: usize = 256;

/// The most shards of a layout that stays under [`MAX_LAYOUT_LEN`].
pub(super) const MAX_SHARDS_OF_LAYOUT: usize = (MAX_LAYOUT_LEN - LAYOUT_OVERHEAD) / ID_LEN;

/// Every shard's length is a multiple of this many bytes.
const SHARD_ALIGNMENT: usize = 64;

public_values! {
    /// What holders are ranked by for an extent or a manifest.
    PlacementKey;
}

impl PlacementKey {
    /// The key of an object's extent, counted from 0.
    pub fn of_extent(salt: &Salt, index: u64) -> Self {
        Self(*derive(context::PLACEMENT_KEY, &[salt.as_bytes(), &index.to_be_bytes()]))
    }
}

impl From<ObjectId> for PlacementKey {
    /// A manifest is placed by its own name.
    fn from(object: ObjectId) -> Self {
        Self(*object.as_bytes())
    }
}

/// The public description of an extent; its encoded form is what an `ExtentId` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The erasure code.
    pub code: CodeId,
    /// Data and parity shards of each stripe.
    pub redundancy: Redundancy,
    /// Length of a shard of every segment but the last, in bytes.
    pub shard_len: u32,
    /// Segments of the extent, 1 to 64.
    pub segments: u8,
    /// Length of a shard of the last segment, in bytes; at most `shard_len`.
    pub last_shard_len: u32,
    /// What holders are ranked by.
    pub placement: PlacementKey,
    /// The hash of the secret that removes the extent.
    pub removal: RemovalHash,
    /// The shards, segment by segment, each segment's data shards before its parity shards.
    pub shards: Vec<ShardId>,
}

impl Layout {
    /// The encoded form; equal layouts have equal bytes.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(LAYOUT_OVERHEAD.saturating_add(self.shards.len() * ID_LEN));
        writer.uint(1, u64::from(self.code.0));
        writer.uint(2, self.redundancy.data() as u64);
        writer.uint(3, self.redundancy.parity() as u64);
        writer.uint(4, u64::from(self.shard_len));
        writer.uint(5, u64::from(self.segments));
        writer.uint(6, u64::from(self.last_shard_len));
        writer.bytes(7, self.placement.as_bytes());
        writer.bytes(8, self.removal.as_bytes());
        writer.names(9, self.shards.iter().map(ShardId::as_bytes));
        writer.finish().into()
    }

    /// Reads the encoded form, and nothing that [`encode`](Self::encode) would write differently: so a
    /// layout has one name.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for malformed bytes and for values that contradict each other,
    /// [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader =
            Reader::open(bytes, MAX_LAYOUT_LEN, "a layout", ErrorKind::Corrupt, Unknown::Refuse)?;
        let layout = Self {
            code: CodeId(reader.uint(1, "code")?),
            redundancy: read_redundancy(&mut reader, 2, 3)?,
            shard_len: reader.uint(4, "shard length")?,
            segments: reader.uint(5, "segment count")?,
            last_shard_len: reader.uint(6, "last shard length")?,
            placement: PlacementKey(reader.array(7, "placement key")?),
            removal: RemovalHash::from_bytes(reader.array(8, "removal hash")?),
            shards: reader.names(9, "shard ids", MAX_SHARDS_OF_LAYOUT, ShardId::from_bytes)?,
        };
        reader.finish()?;
        layout.check()?;
        if layout.encode() != bytes {
            return Err(corrupt("is not in its shortest form".into()));
        }
        Ok(layout)
    }

    /// The shard of a segment of this extent, data shards first; `None` where there is none.
    pub fn shard(&self, segment: usize, index: usize) -> Option<ShardId> {
        let total = self.redundancy.total();
        if index >= total {
            return None;
        }
        self.shards.get(segment.checked_mul(total)?.checked_add(index)?).copied()
    }

    /// The length of each shard of a segment, in bytes.
    pub fn shard_len_of(&self, segment: usize) -> usize {
        let last = segment.saturating_add(1) >= usize::from(self.segments);
        if last { self.last_shard_len as usize } else { self.shard_len as usize }
    }

    /// Checks that a code is the one that the layout names and can do its redundancy.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when it is not, by number.
    pub fn check_code(&self, code: &dyn ErasureCode) -> Result<()> {
        if code.id() != self.code || !code.supports(self.redundancy) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the extent needs erasure code {} at {}, this mesh has code {}",
                    self.code.0,
                    self.redundancy,
                    code.id().0
                ),
            ));
        }
        Ok(())
    }

    /// Checks that the values agree with each other and with the limits.
    pub(super) fn check(&self) -> Result<()> {
        if !(1..=MAX_SEGMENTS_OF_EXTENT).contains(&usize::from(self.segments)) {
            return Err(corrupt(format!(
                "has 1 to {MAX_SEGMENTS_OF_EXTENT} segments, got {}",
                self.segments
            )));
        }
        check_shard_len("shard length", self.shard_len)?;
        check_shard_len("last shard length", self.last_shard_len)?;
        if self.last_shard_len > self.shard_len {
            let (last, other) = (self.last_shard_len, self.shard_len);
            return Err(corrupt(format!(
                "has a last shard length of {last}, over its shard length of {other}"
            )));
        }
        let expected = usize::from(self.segments) * self.redundancy.total();
        if self.shards.len() != expected || expected > MAX_SHARDS_OF_LAYOUT {
            let (count, segments) = (self.shards.len(), self.segments);
            return Err(corrupt(format!(
                "of {segments} segments at {} has {expected} shards, at most {MAX_SHARDS_OF_LAYOUT}, got {count}",
                self.redundancy
            )));
        }
        Ok(())
    }
}

/// How many segments an extent may have, so that its encoded layout stays under [`MAX_LAYOUT_LEN`].
pub fn segments_per_extent(redundancy: Redundancy) -> usize {
    (MAX_SHARDS_OF_LAYOUT / redundancy.total().max(1)).clamp(1, MAX_SEGMENTS_OF_EXTENT)
}

/// The length of each shard of a sealed segment of `sealed_len` bytes, tag included: a k-th of it, rounded
/// up to a multiple of 64.
pub fn shard_len(sealed_len: usize, redundancy: Redundancy) -> usize {
    sealed_len.div_ceil(redundancy.data().max(1)).div_ceil(SHARD_ALIGNMENT).saturating_mul(SHARD_ALIGNMENT)
}

/// Reads k and m.
pub(super) fn read_redundancy(reader: &mut Reader<'_>, data: u64, parity: u64) -> Result<Redundancy> {
    let data = reader.uint(data, "data shards")?;
    let parity = reader.uint(parity, "parity shards")?;
    Redundancy::new(data, parity)
        .map_err(|_| reader.malformed(&format!("redundancy {data}+{parity} is out of range")))
}

fn check_shard_len(name: &str, length: u32) -> Result<()> {
    let bytes = length as usize;
    if bytes == 0 || bytes > MAX_BLOB_LEN || !bytes.is_multiple_of(SHARD_ALIGNMENT) {
        return Err(corrupt(format!(
            "has a {name} of {length}; it is a multiple of {SHARD_ALIGNMENT}, at most {MAX_BLOB_LEN}"
        )));
    }
    Ok(())
}

fn corrupt(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a layout {what}"))
}
