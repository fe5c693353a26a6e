//! What nodes tell each other of what they hold, in batches.

use minicbor::Encoder;
use minicbor::data::Type;

use crate::error::Result;
use crate::format::cbor::Reader;
use crate::format::message::{MAX_INDEXES, Written, check_indexes};

/// The most extents, and the most objects, that one survey asks about. Their answers, of up to 256 indexes each, take
/// half of a head.
pub const MAX_SURVEYED: usize = 1024;

/// What a node says that it has of an extent or of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Possession {
    /// It has nothing of it.
    Absent,
    /// It was told to remove it, and will not take it again.
    Removed,
    /// It has it: of an extent, every segment's shard with these indexes, ascending; of a manifest, all, with none
    /// named.
    Held(Vec<u8>),
}

impl Possession {
    /// The same without indexes that no shard of a stripe of so many has.
    #[must_use]
    pub fn of_total(self, total: usize) -> Self {
        match self {
            Self::Held(mut indexes) => {
                indexes.retain(|index| usize::from(*index) < total);
                Self::Held(indexes)
            }
            other => other,
        }
    }

    /// The indexes that are held of an extent.
    pub fn indexes(&self) -> &[u8] {
        match self {
            Self::Held(indexes) => indexes,
            Self::Absent | Self::Removed => &[],
        }
    }
}

pub(super) fn write_possessions(encoder: &mut Encoder<&mut Vec<u8>>, all: &[Possession]) -> Written {
    encoder.array(all.len() as u64)?;
    for possession in all {
        match possession {
            Possession::Held(indexes) => encoder.bytes(indexes)?,
            Possession::Absent => encoder.null()?,
            Possession::Removed => encoder.bool(false)?,
        };
    }
    Ok(())
}

pub(super) fn read_possessions(reader: &mut Reader<'_>) -> Result<Vec<Possession>> {
    let read = reader.list(2, "possessions", 2 * MAX_SURVEYED, |decoder| match decoder.datatype()? {
        Type::Null => decoder.null().map(|()| None),
        Type::Bool => decoder.bool().map(|_| Some(None)),
        _ => decoder.bytes().map(|bytes| Some(Some(bytes))),
    })?;
    let check = |possession: Option<Option<&[u8]>>| match possession {
        None => Ok(Possession::Absent),
        Some(None) => Ok(Possession::Removed),
        Some(Some(indexes)) => check_indexes(reader, indexes).map(Possession::Held),
    };
    read.into_iter().map(check).collect()
}

pub(super) fn write_index_lists(encoder: &mut Encoder<&mut Vec<u8>>, all: &[Vec<u8>]) -> Written {
    encoder.array(all.len() as u64)?;
    for indexes in all {
        encoder.bytes(indexes)?;
    }
    Ok(())
}

pub(super) fn read_index_lists(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>> {
    let read = reader.list(3, "indexes", MAX_SURVEYED, |decoder| decoder.bytes())?;
    if read.iter().any(|indexes| indexes.len() > MAX_INDEXES) {
        return Err(reader.malformed("a list of indexes is too long"));
    }
    read.into_iter().map(|indexes| check_indexes(reader, indexes)).collect()
}
