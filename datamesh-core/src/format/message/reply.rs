//! What a node answers.

use bytes::Bytes;
use minicbor::Encoder;

use crate::error::{ErrorKind, Result};
use crate::format::StoreName;
use crate::format::cbor::{Reader, Unknown};
use crate::format::layout::MAX_SHARDS_OF_LAYOUT;
use crate::format::message::removals::read_named;
use crate::format::message::survey::{Possession, read_possessions, write_possessions};
use crate::format::message::{
    KIND_KEY, MAX_EXTENTS_DESCRIBED, MAX_REFUSAL_TEXT_LEN, Written, check_indexes, open, read_records,
    write_records,
};
use crate::ports::MAX_HEAD_LEN;

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// It is done. Body: the bytes, where bytes were asked for.
    Done,
    /// A commit did not happen: these shards have not been staged here.
    Missing {
        /// Positions in the layout: segment * n + index.
        positions: Vec<u16>,
    },
    /// Members that the node knows.
    Members {
        /// Encoded signed records, at most 256.
        records: Vec<Bytes>,
    },
    /// What the node holds, in the order asked.
    Described {
        /// The indexes of which it holds every segment's shard, ascending; `None` where it knows nothing of the extent.
        held: Vec<Option<Vec<u8>>>,
    },
    /// What the node has: of each extent and then of each object, in the order asked.
    Surveyed {
        /// Of each, what it has.
        possessions: Vec<Possession>,
    },
    /// Whether a manifest that this node has names each of the extents, in the order asked.
    Named {
        /// The answers, at most 1024.
        named: Vec<bool>,
    },
    /// The removals are noted, and will hold as long as this store does.
    Noted {
        /// The name of the store.
        store: StoreName,
    },
    /// Proved: this node does not hold it.
    Absent,
    /// It was removed here.
    Removed,
    /// The node did not do it.
    Failed {
        /// Why.
        refusal: Refusal,
        /// One line for people, at most 256 bytes.
        text: String,
    },
}

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The removal secret or the sender is not the right one.
    Denied,
    /// The store is full.
    Full,
    /// Too much to do; try again later.
    Busy,
    /// What is stored there failed its check.
    Corrupt,
    /// The node does not know this request, version or code.
    Unsupported,
    /// The request contradicts itself or its body.
    Invalid,
    /// The node's own fault: its store failed or it is closing.
    Internal,
    /// The store takes no writes until the node is opened anew.
    Poisoned,
    /// A reason of a newer node, by number.
    Unknown(u16),
}

impl Refusal {
    const KNOWN: [Self; 8] = [
        Self::Denied,
        Self::Full,
        Self::Busy,
        Self::Corrupt,
        Self::Unsupported,
        Self::Invalid,
        Self::Internal,
        Self::Poisoned,
    ];

    const fn code(self) -> u16 {
        match self {
            Self::Denied => 1,
            Self::Full => 2,
            Self::Busy => 3,
            Self::Corrupt => 4,
            Self::Unsupported => 5,
            Self::Invalid => 6,
            Self::Internal => 7,
            Self::Poisoned => 8,
            Self::Unknown(code) => code,
        }
    }

    fn from_code(code: u16) -> Self {
        Self::KNOWN.into_iter().find(|known| known.code() == code).unwrap_or(Self::Unknown(code))
    }
}

impl Reply {
    /// The encoded head. The receiver refuses one whose counts are over their limits.
    pub fn encode(&self) -> Bytes {
        let mut writer = open(self.code());
        match self {
            Self::Done | Self::Absent | Self::Removed => {}
            Self::Missing { positions } => {
                let joined: Vec<u8> = positions.iter().flat_map(|position| position.to_be_bytes()).collect();
                writer.bytes(2, &joined);
            }
            Self::Members { records } => writer.field(2, |encoder| write_records(encoder, records)),
            Self::Described { held } => writer.field(2, |encoder| write_held(encoder, held)),
            Self::Surveyed { possessions } => {
                writer.field(2, |encoder| write_possessions(encoder, possessions));
            }
            Self::Named { named } => {
                writer.bytes(2, &named.iter().map(|named| u8::from(*named)).collect::<Vec<_>>());
            }
            Self::Noted { store } => writer.bytes(2, store),
            Self::Failed { refusal, text } => {
                writer.uint(2, u64::from(refusal.code()));
                writer.text(3, shorten(text));
            }
        }
        writer.finish().into()
    }

    /// Reads an encoded head. Fields that this build does not know are skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for malformed bytes, [`ErrorKind::Unsupported`] for an unknown version or
    /// reply.
    pub fn decode(head: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(head, MAX_HEAD_LEN, "a reply", ErrorKind::Protocol, Unknown::Skip)?;
        let code: u16 = reader.uint(KIND_KEY, "reply")?;
        let reply = Self::fields(code, &mut reader)?;
        reader.finish()?;
        Ok(reply)
    }

    /// The reply's name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Missing { .. } => "missing",
            Self::Members { .. } => "members",
            Self::Described { .. } => "described",
            Self::Absent => "absent",
            Self::Removed => "removed",
            Self::Failed { .. } => "failed",
            Self::Surveyed { .. } => "surveyed",
            Self::Named { .. } => "named",
            Self::Noted { .. } => "noted",
        }
    }

    const fn code(&self) -> u16 {
        match self {
            Self::Done => 1,
            Self::Missing { .. } => 2,
            Self::Members { .. } => 3,
            Self::Described { .. } => 4,
            Self::Absent => 5,
            Self::Removed => 6,
            Self::Failed { .. } => 7,
            Self::Surveyed { .. } => 8,
            Self::Named { .. } => 9,
            Self::Noted { .. } => 10,
        }
    }

    fn fields(code: u16, reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match code {
            1 => Self::Done,
            2 => Self::Missing {
                positions: reader.names(2, "positions", MAX_SHARDS_OF_LAYOUT, u16::from_be_bytes)?,
            },
            3 => Self::Members { records: read_records(reader)? },
            4 => Self::Described { held: read_held(reader)? },
            5 => Self::Absent,
            6 => Self::Removed,
            7 => Self::Failed {
                refusal: Refusal::from_code(reader.uint(2, "refusal")?),
                text: read_refusal_text(reader)?,
            },
            8 => Self::Surveyed { possessions: read_possessions(reader)? },
            9 => Self::Named { named: read_named(reader)? },
            10 => Self::Noted { store: reader.array(2, "store")? },
            _ => return Err(reader.unsupported(&format!("code {code}"))),
        })
    }
}

fn shorten(text: &str) -> &str {
    let end = (0..=MAX_REFUSAL_TEXT_LEN).rev().find(|end| text.is_char_boundary(*end));
    if text.len() <= MAX_REFUSAL_TEXT_LEN { text } else { text.get(..end.unwrap_or(0)).unwrap_or_default() }
}

fn write_held(encoder: &mut Encoder<&mut Vec<u8>>, held: &[Option<Vec<u8>>]) -> Written {
    encoder.array(held.len() as u64)?;
    for indexes in held {
        match indexes {
            Some(indexes) => encoder.bytes(indexes)?,
            None => encoder.null()?,
        };
    }
    Ok(())
}

fn read_held(reader: &mut Reader<'_>) -> Result<Vec<Option<Vec<u8>>>> {
    let held = reader.list(2, "descriptions", MAX_EXTENTS_DESCRIBED, |decoder| {
        decoder.decode::<Option<&minicbor::bytes::ByteSlice>>()
    })?;
    held.into_iter().map(|indexes| indexes.map(|bytes| check_indexes(reader, bytes)).transpose()).collect()
}

fn read_refusal_text(reader: &mut Reader<'_>) -> Result<String> {
    let text = reader.text(3, "text")?;
    if text.len() > MAX_REFUSAL_TEXT_LEN {
        return Err(
            reader.malformed(&format!("text is at most {MAX_REFUSAL_TEXT_LEN} bytes, got {}", text.len()))
        );
    }
    Ok(text.to_owned())
}
