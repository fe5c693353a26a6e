//! What one node asks of another.

use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::format::ProofNonce;
use crate::format::cbor::{Reader, Unknown};
use crate::format::keys::RemovalSecret;
use crate::format::message::removals::read_removals;
use crate::format::message::survey::{MAX_SURVEYED, read_index_lists, write_index_lists};
use crate::format::message::{
    KIND_KEY, MAX_EXTENTS_DESCRIBED, MAX_IDS_OF_MESSAGE, MAX_REMOVALS, Removed, check_indexes, open,
    read_records, write_records,
};
use crate::format::ticket::KeyName;
use crate::id::{ExtentId, ObjectId, OperationId, ShardId};
use crate::ports::MAX_HEAD_LEN;

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
    /// Say what you have of these, in brief.
    Survey {
        /// Extents, at most 1024.
        extents: Vec<ExtentId>,
        /// Objects whose manifests are meant, at most 1024.
        objects: Vec<ObjectId>,
    },
    /// I am about to give these up, because you have them: keep them.
    Keep {
        /// Extents, at most 1024.
        extents: Vec<ExtentId>,
        /// The shard indexes that are meant of each of them, in ascending order.
        indexes: Vec<Vec<u8>>,
        /// Objects whose manifests are meant, at most 1024.
        objects: Vec<ObjectId>,
    },
    /// Does a manifest that you have name these extents?
    Named {
        /// The extents, at most 1024.
        extents: Vec<ExtentId>,
    },
    /// These were removed, perhaps while you were away.
    Removals {
        /// What was removed, at most 1024.
        removals: Vec<Removed>,
    },
    /// Prove that you hold a shard.
    Prove {
        /// The shard.
        shard: ShardId,
        /// What picks the chunk that is to be shown.
        nonce: ProofNonce,
    },
    /// These are the newest admission epochs that I know; do you know others of that number, or newer ones? Body: the
    /// epochs, or nothing.
    Epoch {
        /// Their number, 0 for none.
        number: u64,
        /// The BLAKE3 hash of their encoded form, zeros for none.
        hash: [u8; 32],
    },
    /// These are the newest mesh keys that I know; do you know newer ones? Body: the keys, or nothing.
    Keys {
        /// How often the key was changed.
        generation: u64,
        /// The public name of the key.
        name: KeyName,
    },
    /// These are gone for good: forget them, unless you know that they are here, or something newer of them.
    Forget {
        /// Their encoded signed records, at most 256.
        records: Vec<Bytes>,
    },
}

impl Request {
    /// The encoded head. The receiver refuses one whose counts are over their limits.
    pub fn encode(&self) -> Bytes {
        let mut writer = open(self.code());
        match self {
            Self::Ping => {}
            Self::Epoch { number, hash } => {
                writer.uint(2, *number);
                writer.bytes(3, hash);
            }
            Self::Keys { generation, name } => {
                writer.uint(2, *generation);
                writer.bytes(3, name.as_bytes());
            }
            Self::Members { records } | Self::Forget { records } => {
                writer.field(2, |encoder| write_records(encoder, records))
            }
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
            Self::Survey { extents, objects } => {
                writer.names(2, extents.iter().map(ExtentId::as_bytes));
                writer.names(3, objects.iter().map(ObjectId::as_bytes));
            }
            Self::Keep { extents, indexes, objects } => {
                writer.names(2, extents.iter().map(ExtentId::as_bytes));
                writer.field(3, |encoder| write_index_lists(encoder, indexes));
                writer.names(4, objects.iter().map(ObjectId::as_bytes));
            }
            Self::Named { extents } => writer.names(2, extents.iter().map(ExtentId::as_bytes)),
            Self::Prove { shard, nonce } => {
                writer.bytes(2, shard.as_bytes());
                writer.bytes(3, nonce);
            }
            Self::Removals { removals } => {
                let all: Vec<_> = removals.iter().map(Removed::to_bytes).collect();
                writer.names(2, all.iter());
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
            Self::Survey { .. } => "survey",
            Self::Keep { .. } => "keep",
            Self::Named { .. } => "named",
            Self::Removals { .. } => "removals",
            Self::Prove { .. } => "prove",
            Self::Epoch { .. } => "epoch",
            Self::Keys { .. } => "keys",
            Self::Forget { .. } => "forget",
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
            Self::Survey { .. } => 14,
            Self::Keep { .. } => 15,
            Self::Named { .. } => 16,
            Self::Removals { .. } => 17,
            Self::Prove { .. } => 18,
            Self::Epoch { .. } => 19,
            Self::Keys { .. } => 20,
            Self::Forget { .. } => 21,
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
            14 => Self::Survey {
                extents: read_extents(reader, MAX_SURVEYED)?,
                objects: reader.names(3, "object ids", MAX_SURVEYED, ObjectId::from_bytes)?,
            },
            15 => read_keep(reader)?,
            16 => Self::Named { extents: read_extents(reader, MAX_REMOVALS)? },
            17 => Self::Removals { removals: read_removals(reader)? },
            18 => Self::Prove {
                shard: ShardId::from_bytes(reader.array(2, "shard id")?),
                nonce: reader.array(3, "nonce")?,
            },
            19 => Self::Epoch { number: reader.uint(2, "number")?, hash: reader.array(3, "hash")? },
            20 => Self::Keys {
                generation: reader.uint(2, "generation")?,
                name: KeyName::from_bytes(reader.array(3, "name")?),
            },
            21 => Self::Forget { records: read_records(reader)? },
            _ => return Err(reader.unsupported(&format!("code {code}"))),
        })
    }
}

fn read_keep(reader: &mut Reader<'_>) -> Result<Request> {
    let extents = read_extents(reader, MAX_SURVEYED)?;
    let indexes = read_index_lists(reader)?;
    if extents.len() != indexes.len() {
        return Err(reader.malformed("there is not one list of indexes for each extent"));
    }
    let objects = reader.names(4, "object ids", MAX_SURVEYED, ObjectId::from_bytes)?;
    Ok(Request::Keep { extents, indexes, objects })
}

fn read_indexes(reader: &mut Reader<'_>) -> Result<Vec<u8>> {
    let indexes = reader.bytes(3, "indexes")?;
    check_indexes(reader, indexes)
}

fn read_operation(reader: &mut Reader<'_>) -> Result<OperationId> {
    Ok(OperationId::from_bytes(reader.array(2, "operation id")?))
}

fn read_extents(reader: &mut Reader<'_>, max: usize) -> Result<Vec<ExtentId>> {
    reader.names(2, "extent ids", max, ExtentId::from_bytes)
}
