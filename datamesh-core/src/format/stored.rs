//! What a node keeps as records in its own store.

use crate::error::{ErrorKind, Result};
use crate::format::RemovalSecret;
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::ports::{MAX_VALUE_LEN, Timestamp};
use bytes::Bytes;

/// What a record needs beside its bulk, and more.
const OVERHEAD: usize = 320;

/// An extent of which this node holds shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredExtent {
    /// The encoded layout, as it came.
    pub layout: Bytes,
    /// The shard indexes that this node took, ascending.
    pub indexes: Vec<u8>,
    /// When it was first committed here.
    pub committed_at: Timestamp,
}

/// A manifest that this node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The encoded manifest, as it came.
    pub manifest: Bytes,
    /// When it was first committed here.
    pub committed_at: Timestamp,
}

/// What is left of a removed object or extent, so that a late copy of it is refused.
///
/// A manifest or layout with another removal hash than the secret's is not what was removed: so who does not know an
/// object's secret cannot keep it from being stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// When it was removed here.
    pub removed_at: Timestamp,
    /// The secret that it was removed with, with which those are told who were away.
    pub secret: RemovalSecret,
    /// The number of the removal among those of this store.
    pub number: u64,
}

impl StoredExtent {
    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(self.layout.len().saturating_add(OVERHEAD));
        writer.bytes(1, &self.layout);
        writer.bytes(2, &self.indexes);
        writer.uint(3, self.committed_at.0);
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "a stored extent")?;
        let record = Self {
            layout: Bytes::copy_from_slice(reader.bytes(1, "layout")?),
            indexes: reader.bytes(2, "indexes")?.to_vec(),
            committed_at: Timestamp(reader.uint(3, "commit time")?),
        };
        reader.finish()?;
        Ok(record)
    }
}

impl StoredManifest {
    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(self.manifest.len().saturating_add(OVERHEAD));
        writer.bytes(1, &self.manifest);
        writer.uint(2, self.committed_at.0);
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "a stored manifest")?;
        let record = Self {
            manifest: Bytes::copy_from_slice(reader.bytes(1, "manifest")?),
            committed_at: Timestamp(reader.uint(2, "commit time")?),
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Tombstone {
    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(OVERHEAD);
        writer.uint(1, self.removed_at.0);
        writer.bytes(2, self.secret.as_bytes());
        writer.uint(3, self.number);
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "a tombstone")?;
        let removed_at = Timestamp(reader.uint(1, "removal time")?);
        let secret = RemovalSecret::from_bytes(reader.array(2, "removal secret")?);
        let number = reader.uint(3, "removal number")?;
        reader.finish()?;
        Ok(Self { removed_at, secret, number })
    }
}

fn open<'b>(value: &'b [u8], what: &'static str) -> Result<Reader<'b>> {
    Reader::open(value, MAX_VALUE_LEN, what, ErrorKind::Corrupt, Unknown::Refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_pinned() {
        let extent = StoredExtent {
            layout: Bytes::from_static(b"lay"),
            indexes: vec![0, 5],
            committed_at: Timestamp(1_000),
        };
        let manifest = StoredManifest { manifest: Bytes::from_static(b"m"), committed_at: Timestamp(7) };
        let secret = RemovalSecret::from_bytes([7; 32]);
        let tombstone = Tombstone { removed_at: Timestamp(1 << 40), secret, number: 300 };
        assert_eq!(HEXLOWER.encode(&extent.encode()), "a4000101436c6179024200050 31903e8".replace(' ', ""));
        assert_eq!(HEXLOWER.encode(&manifest.encode()), "a3000101416d0207");
        let pinned = format!("a40001011b0000010000000000025820{}0319012c", "07".repeat(32));
        assert_eq!(HEXLOWER.encode(&tombstone.encode()), pinned);
        assert_eq!(StoredExtent::decode(&extent.encode()).ok(), Some(extent));
        assert_eq!(StoredManifest::decode(&manifest.encode()).ok(), Some(manifest));
        let read = Tombstone::decode(&tombstone.encode()).unwrap();
        assert_eq!((read.removed_at, read.number), (tombstone.removed_at, 300));
        assert_eq!(read.secret.as_bytes(), &[7; 32]);
    }

    #[test]
    fn other_versions_and_rubbish_are_refused() {
        assert_eq!(Tombstone::decode(&[0xa2, 0, 2, 1, 1]).unwrap_err().kind(), ErrorKind::Unsupported);
        for bytes in [&[][..], &[1], &[0xa1, 0, 1], &[0xa2, 0, 1, 1, 1, 0], &[0xbb, 255, 255, 255, 255, 255]]
        {
            assert_eq!(Tombstone::decode(bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    proptest! {
        #[test]
        fn decoders_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (StoredExtent::decode(&bytes), StoredManifest::decode(&bytes), Tombstone::decode(&bytes));
        }
    }
}
