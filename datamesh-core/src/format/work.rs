//! What a node keeps of its own work, so that a restart goes on where it was.

use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::id::{ExtentId, ID_LEN, NodeId};

/// The longest value of a record of work, in bytes.
const MAX_WORK_LEN: usize = 128 << 10;

/// The key of one piece of work: a byte that says of which kind it is, then what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// How far the scrub is.
    Scrub,
    /// This extent lacks a shard that was rotten and is to be brought back.
    Mend(ExtentId),
    /// No manifest is known yet that names this extent.
    Unnamed(ExtentId),
    /// The removal with this number is to be told to all others.
    Removal(u64),
    /// How many removals a node was told.
    Told(NodeId),
    /// Which removals there were at the full hours that this node was up.
    Hours,
    /// The name of this store, and the number of its next removal.
    Store,
    /// This node has sent a wrong proof and is not trusted.
    Distrusted(NodeId),
    /// This node was forgotten.
    Forgotten(NodeId),
    /// Every manifest that is held is entered in the table of extent uses.
    Indexed,
}

impl Work {
    const SCRUB: u8 = 1;
    const MEND: u8 = 2;
    const UNNAMED: u8 = 3;
    const REMOVAL: u8 = 4;
    const TOLD: u8 = 5;
    const HOURS: u8 = 6;
    const STORE: u8 = 7;
    const INDEXED: u8 = 8;
    const DISTRUSTED: u8 = 9;
    const FORGOTTEN: u8 = 10;

    /// What the keys of all extents that are to be mended begin with.
    pub const EVERY_MEND: Bytes = Bytes::from_static(&[Self::MEND]);

    /// What the keys of all extents begin with that no manifest is known to name.
    pub const EVERY_UNNAMED: Bytes = Bytes::from_static(&[Self::UNNAMED]);

    /// What the keys of all nodes begin with that are not trusted.
    pub const EVERY_DISTRUSTED: Bytes = Bytes::from_static(&[Self::DISTRUSTED]);

    /// What the keys of all nodes begin with that were forgotten.
    pub const EVERY_FORGOTTEN: Bytes = Bytes::from_static(&[Self::FORGOTTEN]);

    /// What the keys of all removals begin with; they come in the order of their numbers.
    pub const EVERY_REMOVAL: Bytes = Bytes::from_static(&[Self::REMOVAL]);

    /// What the keys of the accounts of all nodes begin with that are told of removals.
    pub const EVERYBODY_TOLD: Bytes = Bytes::from_static(&[Self::TOLD]);

    /// The record's key.
    pub fn key(&self) -> Bytes {
        match self {
            Self::Scrub => Bytes::from_static(&[Self::SCRUB]),
            Self::Mend(extent) => join(Self::MEND, extent.as_bytes()),
            Self::Unnamed(extent) => join(Self::UNNAMED, extent.as_bytes()),
            Self::Removal(number) => join(Self::REMOVAL, &number.to_be_bytes()),
            Self::Told(node) => join(Self::TOLD, node.as_bytes()),
            Self::Hours => Bytes::from_static(&[Self::HOURS]),
            Self::Store => Bytes::from_static(&[Self::STORE]),
            Self::Indexed => Bytes::from_static(&[Self::INDEXED]),
            Self::Distrusted(node) => join(Self::DISTRUSTED, node.as_bytes()),
            Self::Forgotten(node) => join(Self::FORGOTTEN, node.as_bytes()),
        }
    }

    /// Reads a record's key; `None` for one that this build does not know.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        match *kind {
            Self::SCRUB if rest.is_empty() => Some(Self::Scrub),
            Self::MEND => Some(Self::Mend(ExtentId::from_bytes(rest.try_into().ok()?))),
            Self::UNNAMED => Some(Self::Unnamed(ExtentId::from_bytes(rest.try_into().ok()?))),
            Self::REMOVAL => Some(Self::Removal(u64::from_be_bytes(rest.try_into().ok()?))),
            Self::TOLD => Some(Self::Told(NodeId::from_bytes(rest.try_into().ok()?))),
            Self::HOURS if rest.is_empty() => Some(Self::Hours),
            Self::STORE if rest.is_empty() => Some(Self::Store),
            Self::INDEXED if rest.is_empty() => Some(Self::Indexed),
            Self::DISTRUSTED => Some(Self::Distrusted(NodeId::from_bytes(rest.try_into().ok()?))),
            Self::FORGOTTEN => Some(Self::Forgotten(NodeId::from_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

fn join(kind: u8, rest: &[u8]) -> Bytes {
    [&[kind], rest].concat().into()
}

/// What a scrub walks through, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ScrubStage {
    /// Shards, by their names.
    #[default]
    Shards,
    /// Layouts, by their extents.
    Layouts,
    /// Manifests, by their objects.
    Manifests,
}

/// How far a scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubCursor {
    /// What it walks through.
    pub stage: ScrubStage,
    /// The last name that was looked at; `None` at the beginning of a stage.
    pub after: Option<[u8; ID_LEN]>,
    /// Bytes that were read in this round.
    pub bytes: u64,
    /// What was found rotten in this round.
    pub rotten: u64,
}

impl ScrubCursor {
    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64);
        writer.uint(1, self.stage as u64);
        if let Some(after) = &self.after {
            writer.bytes(2, after);
        }
        writer.uint(3, self.bytes);
        writer.uint(4, self.rotten);
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "a scrub's place")?;
        let stage = match reader.uint(1, "stage")? {
            0u8 => ScrubStage::Shards,
            1 => ScrubStage::Layouts,
            2 => ScrubStage::Manifests,
            other => return Err(reader.malformed(&format!("there is no stage {other}"))),
        };
        let after = if reader.has(2)? { Some(reader.array(2, "name")?) } else { None };
        let cursor =
            Self { stage, after, bytes: reader.uint(3, "bytes")?, rotten: reader.uint(4, "rotten")? };
        reader.finish()?;
        Ok(cursor)
    }
}

/// For how many full hours of this node's own time an extent was not named by any manifest, as every member said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnnamedFor {
    /// The hours.
    pub hours: u64,
}

impl UnnamedFor {
    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(16);
        writer.uint(1, self.hours);
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "the age of an extent without a name")?;
        let age = Self { hours: reader.uint(1, "hours")? };
        reader.finish()?;
        Ok(age)
    }
}

/// The random name of a store: one that was wiped has another.
pub type StoreName = [u8; 16];

/// How many removals a store was told, or has: those with lower numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemovalsOf {
    /// The store.
    pub store: StoreName,
    /// The number of the next removal.
    pub next: u64,
}

impl RemovalsOf {
    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(40);
        writer.bytes(1, &self.store);
        writer.uint(2, self.next);
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "a place among removals")?;
        let place = Self { store: reader.array(1, "store")?, next: reader.uint(2, "number")? };
        reader.finish()?;
        Ok(place)
    }
}

/// The number of the next removal at each of the last full hours, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hours(pub Vec<u64>);

impl Hours {
    /// The most hours that it looks back: the longest life of a tombstone that may be set is a year.
    pub const MAX: usize = 24 * 366;

    /// The record's value.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(16 + 8 * self.0.len());
        writer.bytes(1, &self.0.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>());
        writer.finish().into()
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for anything that `encode` does not write, [`ErrorKind::Unsupported`] for
    /// another version.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = open(value, "the hours of a node")?;
        let hours = Self(reader.names(1, "numbers", Self::MAX, u64::from_be_bytes)?);
        reader.finish()?;
        Ok(hours)
    }
}

fn open<'b>(value: &'b [u8], what: &'static str) -> Result<Reader<'b>> {
    Reader::open(value, MAX_WORK_LEN, what, ErrorKind::Corrupt, Unknown::Refuse)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_pinned_and_come_back() {
        let extent = ExtentId::from_bytes([7; 32]);
        let node = NodeId::from_bytes([9; 32]);
        for work in [
            Work::Unnamed(extent),
            Work::Removal(1 << 40),
            Work::Told(node),
            Work::Hours,
            Work::Store,
            Work::Indexed,
            Work::Distrusted(node),
        ] {
            assert_eq!(Work::from_key(&work.key()), Some(work));
        }
        assert_eq!(HEXLOWER.encode(&Work::Removal(258).key()), "040000000000000102");
        for (work, bytes) in
            [(Work::Scrub, "01".to_owned()), (Work::Mend(extent), format!("02{}", "07".repeat(32)))]
        {
            assert_eq!(HEXLOWER.encode(&work.key()), bytes);
            assert_eq!(Work::from_key(&work.key()), Some(work));
        }
        assert!(Work::Mend(extent).key().starts_with(&Work::EVERY_MEND));
        for key in [&[][..], &[0], &[1, 1], &[2, 7], &[200]] {
            assert_eq!(Work::from_key(key), None);
        }
    }

    #[test]
    fn a_place_is_pinned_and_comes_back() {
        let cursor =
            ScrubCursor { stage: ScrubStage::Manifests, after: Some([1; 32]), bytes: 1000, rotten: 3 };
        let pinned = format!("a5000101020258 20{}031903e80403", "01".repeat(32)).replace(' ', "");
        assert_eq!(HEXLOWER.encode(&cursor.encode()), pinned);
        assert_eq!(ScrubCursor::decode(&cursor.encode()).ok(), Some(cursor));
        let first = ScrubCursor::default();
        assert_eq!(ScrubCursor::decode(&first.encode()).ok(), Some(first));
        assert_eq!(
            ScrubCursor::decode(&[0xa4, 0, 1, 1, 9, 3, 0, 4, 0]).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn places_and_ages_come_back() {
        let age = UnnamedFor { hours: 167 };
        assert_eq!(HEXLOWER.encode(&age.encode()), "a200010118a7");
        assert_eq!(UnnamedFor::decode(&age.encode()).ok(), Some(age));
        let place = RemovalsOf { store: [3; 16], next: 7 };
        assert_eq!(HEXLOWER.encode(&place.encode()), format!("a300010150{}0207", "03".repeat(16)));
        assert_eq!(RemovalsOf::decode(&place.encode()).ok(), Some(place));
        let hours = Hours(vec![1, 1, 300]);
        assert_eq!(Hours::decode(&hours.encode()).ok(), Some(hours));
        assert_eq!(Hours::decode(&[0xa2, 0, 1, 1, 0x41, 0]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn decoders_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Work::from_key(&bytes), ScrubCursor::decode(&bytes), UnnamedFor::decode(&bytes));
            let _ = (RemovalsOf::decode(&bytes), Hours::decode(&bytes));
        }
    }
}
