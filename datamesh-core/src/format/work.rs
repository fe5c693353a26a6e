//! What a node keeps of its own work, so that a restart goes on where it was.

use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::id::{ExtentId, ID_LEN};

/// The longest value of a record of work, in bytes.
const MAX_WORK_LEN: usize = 1024;

/// The key of one piece of work: a byte that says of which kind it is, then what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// How far the scrub is.
    Scrub,
    /// This extent lacks a shard that was rotten and is to be brought back.
    Mend(ExtentId),
}

impl Work {
    const SCRUB: u8 = 1;
    const MEND: u8 = 2;

    /// What the keys of all extents that are to be mended begin with.
    pub const EVERY_MEND: Bytes = Bytes::from_static(&[Self::MEND]);

    /// The record's key.
    pub fn key(&self) -> Bytes {
        match self {
            Self::Scrub => Bytes::from_static(&[Self::SCRUB]),
            Self::Mend(extent) => join(Self::MEND, extent.as_bytes()),
        }
    }

    /// Reads a record's key; `None` for one that this build does not know.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        match *kind {
            Self::SCRUB if rest.is_empty() => Some(Self::Scrub),
            Self::MEND => Some(Self::Mend(ExtentId::from_bytes(rest.try_into().ok()?))),
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

    proptest! {
        #[test]
        fn decoders_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Work::from_key(&bytes), ScrubCursor::decode(&bytes));
        }
    }
}
