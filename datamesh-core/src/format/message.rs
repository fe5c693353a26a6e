//! Heads of the messages that nodes exchange; bodies are raw bytes beside them.

use bytes::Bytes;
use minicbor::Encoder;

use crate::error::{ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::keys::RemovalSecret;
use crate::format::layout::MAX_SHARDS_OF_LAYOUT;
use crate::format::record::MAX_RECORD_LEN;
use crate::id::{ExtentId, ObjectId, OperationId, ShardId};
use crate::ports::MAX_HEAD_LEN;

/// The most node records of one message; a mesh of more exchanges them in pages. All of them must
/// still fit a head of 1 MiB.
pub const MAX_RECORDS_OF_MESSAGE: usize = 256;

/// The most shards or extents that one message takes back or removes.
pub const MAX_IDS_OF_MESSAGE: usize = 4096;

/// The most extents that one message asks about, since each answer lists up to 256 indexes.
pub const MAX_EXTENTS_DESCRIBED: usize = 256;

/// The longest text of a refusal, in bytes; longer texts are cut when they are sent.
pub const MAX_REFUSAL_TEXT_LEN: usize = 256;

/// The most shards that a stripe can have, and so the most indexes that one holder keeps of it.
const MAX_INDEXES: usize = 256;

const KIND_KEY: u64 = 1;

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Are you there?
    Ping,
    /// Here are members that I know; which do you know?
    Members {
        /// Encoded signed records, at most 256.
        records: Vec<Bytes>,
    },
    /// Keep this shard for a commit to come. Body: the shard.
    Stage {
        /// The name of the body.
        shard: ShardId,
    },
    /// Forget staged shards: the put was given up.
    Unstage {
        /// The shards, at most 4096.
        shards: Vec<ShardId>,
    },
    /// Make an extent and the staged shards that you hold of it durable. Body: the layout.
    Commit {
        /// The operation; a repeated one is answered as the first was.
        operation: OperationId,
        /// The shards that this holder keeps of each stripe, in ascending order.
        indexes: Vec<u8>,
    },
    /// Make a manifest durable. Body: the manifest.
    PutManifest {
        /// The operation; a repeated one is answered as the first was.
        operation: OperationId,
    },
    /// Send a shard.
    ReadShard {
        /// The shard.
        shard: ShardId,
    },
    /// Send a layout.
    ReadLayout {
        /// Its extent.
        extent: ExtentId,
    },
    /// Send a manifest.
    ReadManifest {
        /// Its object.
        object: ObjectId,
    },
    /// Say what you hold of these extents.
    Describe {
        /// The extents, at most 256.
        extents: Vec<ExtentId>,
    },
    /// Remove a manifest.
    RemoveObject {
        /// The object.
        object: ObjectId,
        /// Proves the right to remove it.
        secret: RemovalSecret,
    },
    /// Remove extents and their shards.
    RemoveExtents {
        /// The extents, at most 4096.
        extents: Vec<ExtentId>,
        /// Proves the right to remove them.
        secret: RemovalSecret,
    },
    /// A reader got wrong bytes: verify this shard soon.
    Recheck {
        /// The shard.
        shard: ShardId,
    },
}

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
    /// A reason of a newer node, by number.
    Unknown(u16),
}

impl Refusal {
    const KNOWN: [Self; 7] = [
        Self::Denied,
        Self::Full,
        Self::Busy,
        Self::Corrupt,
        Self::Unsupported,
        Self::Invalid,
        Self::Internal,
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
            Self::Unknown(code) => code,
        }
    }

    fn from_code(code: u16) -> Self {
        Self::KNOWN.into_iter().find(|known| known.code() == code).unwrap_or(Self::Unknown(code))
    }
}

impl Request {
    /// The encoded head. The receiver refuses one whose counts are over their limits.
    pub fn encode(&self) -> Bytes {
        let mut writer = open(self.code());
        match self {
            Self::Ping => {}
            Self::Members { records } => writer.field(2, |encoder| write_records(encoder, records)),
            Self::Stage { shard } | Self::ReadShard { shard } | Self::Recheck { shard } => {
                writer.bytes(2, shard.as_bytes());
            }
            Self::Unstage { shards } => writer.names(2, shards.iter().map(ShardId::as_bytes)),
            Self::Commit { operation, indexes } => {
                writer.bytes(2, operation.as_bytes());
                writer.bytes(3, indexes);
            }
            Self::PutManifest { operation } => writer.bytes(2, operation.as_bytes()),
            Self::ReadLayout { extent } => writer.bytes(2, extent.as_bytes()),
            Self::ReadManifest { object } => writer.bytes(2, object.as_bytes()),
            Self::Describe { extents } => writer.names(2, extents.iter().map(ExtentId::as_bytes)),
            Self::RemoveObject { object, secret } => {
                writer.bytes(2, object.as_bytes());
                writer.bytes(3, secret.as_bytes());
            }
            Self::RemoveExtents { extents, secret } => {
                writer.names(2, extents.iter().map(ExtentId::as_bytes));
                writer.bytes(3, secret.as_bytes());
            }
        }
        writer.finish().into()
    }

    /// Reads an encoded head. Fields that this build does not know are skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for malformed bytes, [`ErrorKind::Unsupported`] for an unknown version or
    /// request.
    pub fn decode(head: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(head, MAX_HEAD_LEN, "a request", ErrorKind::Protocol, Unknown::Skip)?;
        let code: u16 = reader.uint(KIND_KEY, "request")?;
        let request = Self::fields(code, &mut reader)?;
        reader.finish()?;
        Ok(request)
    }

    /// The request's name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Members { .. } => "members",
            Self::Stage { .. } => "stage",
            Self::Unstage { .. } => "unstage",
            Self::Commit { .. } => "commit",
            Self::PutManifest { .. } => "put_manifest",
            Self::ReadShard { .. } => "read_shard",
            Self::ReadLayout { .. } => "read_layout",
            Self::ReadManifest { .. } => "read_manifest",
            Self::Describe { .. } => "describe",
            Self::RemoveObject { .. } => "remove_object",
            Self::RemoveExtents { .. } => "remove_extents",
            Self::Recheck { .. } => "recheck",
        }
    }

    const fn code(&self) -> u16 {
        match self {
            Self::Ping => 1,
            Self::Members { .. } => 2,
            Self::Stage { .. } => 3,
            Self::Unstage { .. } => 4,
            Self::Commit { .. } => 5,
            Self::PutManifest { .. } => 6,
            Self::ReadShard { .. } => 7,
            Self::ReadLayout { .. } => 8,
            Self::ReadManifest { .. } => 9,
            Self::Describe { .. } => 10,
            Self::RemoveObject { .. } => 11,
            Self::RemoveExtents { .. } => 12,
            Self::Recheck { .. } => 13,
        }
    }

    fn fields(code: u16, reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match code {
            1 => Self::Ping,
            2 => Self::Members { records: read_records(reader)? },
            3 => Self::Stage { shard: ShardId::from_bytes(reader.array(2, "shard id")?) },
            4 => Self::Unstage {
                shards: reader.names(2, "shard ids", MAX_IDS_OF_MESSAGE, ShardId::from_bytes)?,
            },
            5 => Self::Commit { operation: read_operation(reader)?, indexes: read_indexes(reader)? },
            6 => Self::PutManifest { operation: read_operation(reader)? },
            7 => Self::ReadShard { shard: ShardId::from_bytes(reader.array(2, "shard id")?) },
            8 => Self::ReadLayout { extent: ExtentId::from_bytes(reader.array(2, "extent id")?) },
            9 => Self::ReadManifest { object: ObjectId::from_bytes(reader.array(2, "object id")?) },
            10 => Self::Describe { extents: read_extents(reader, MAX_EXTENTS_DESCRIBED)? },
            11 => Self::RemoveObject {
                object: ObjectId::from_bytes(reader.array(2, "object id")?),
                secret: RemovalSecret::from_bytes(reader.array(3, "removal secret")?),
            },
            12 => Self::RemoveExtents {
                extents: read_extents(reader, MAX_IDS_OF_MESSAGE)?,
                secret: RemovalSecret::from_bytes(reader.array(3, "removal secret")?),
            },
            13 => Self::Recheck { shard: ShardId::from_bytes(reader.array(2, "shard id")?) },
            _ => return Err(reader.unsupported(&format!("code {code}"))),
        })
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
            _ => return Err(reader.unsupported(&format!("code {code}"))),
        })
    }
}

fn open(code: u16) -> Writer {
    let mut writer = Writer::with_capacity(128);
    writer.uint(KIND_KEY, u64::from(code));
    writer
}

/// As much of a text as fits, in whole characters.
fn shorten(text: &str) -> &str {
    let end = (0..=MAX_REFUSAL_TEXT_LEN).rev().find(|end| text.is_char_boundary(*end));
    if text.len() <= MAX_REFUSAL_TEXT_LEN { text } else { text.get(..end.unwrap_or(0)).unwrap_or_default() }
}

fn write_records(encoder: &mut Encoder<&mut Vec<u8>>, records: &[Bytes]) -> Written {
    encoder.array(records.len() as u64)?;
    for record in records {
        encoder.bytes(record)?;
    }
    Ok(())
}

fn read_records(reader: &mut Reader<'_>) -> Result<Vec<Bytes>> {
    let records = reader.list(2, "records", MAX_RECORDS_OF_MESSAGE, |decoder| decoder.bytes())?;
    if let Some(long) = records.iter().find(|record| record.len() > MAX_RECORD_LEN) {
        let text = format!("a record is at most {MAX_RECORD_LEN} bytes, got {}", long.len());
        return Err(reader.malformed(&text));
    }
    Ok(records.into_iter().map(Bytes::copy_from_slice).collect())
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

fn read_indexes(reader: &mut Reader<'_>) -> Result<Vec<u8>> {
    let indexes = reader.bytes(3, "indexes")?;
    check_indexes(reader, indexes)
}

fn check_indexes(reader: &Reader<'_>, indexes: &[u8]) -> Result<Vec<u8>> {
    if indexes.len() > MAX_INDEXES || !indexes.is_sorted_by(|a, b| a < b) {
        return Err(reader.malformed("shard indexes are not in ascending order"));
    }
    Ok(indexes.to_vec())
}

fn read_operation(reader: &mut Reader<'_>) -> Result<OperationId> {
    Ok(OperationId::from_bytes(reader.array(2, "operation id")?))
}

fn read_extents(reader: &mut Reader<'_>, max: usize) -> Result<Vec<ExtentId>> {
    reader.names(2, "extent ids", max, ExtentId::from_bytes)
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
