//! Every byte that outlives a process or leaves it: encoding, decoding, limits, versions.
//!
//! Nothing else in the workspace encodes, but for the store's own files. Each value starts with its
//! version; decoders check lengths and counts against limits before they allocate, and never recurse on
//! remote data. The bytes are specified in `docs/format.md` and `docs/protocol.md`.

mod admission;
mod announcement;
mod capability;
mod cbor;
mod epochs;
mod header;
mod keys;
mod layout;
mod manifest;
mod mesh_keys;
mod message;
mod proof;
mod record;
mod stored;
mod text;
mod ticket;
mod work;

pub use admission::{
    AdmissionKey, AdmissionKeys, Certificate, Epoch, MAX_ADMISSION_KEYS, MAX_CERTIFICATE_LEN, MAX_EPOCH_LEN,
    MAX_REVOKED, SignedCertificate, SignedEpoch,
};
pub use announcement::{Announcement, AnnouncementKey, ListensOn, MAX_ANNOUNCED};
pub use capability::{Access, Capability};
pub use epochs::{Epochs, MAX_EPOCHS, MAX_EPOCHS_LEN};
pub use header::{Header, MAX_INLINE_LEN, MAX_METADATA_ENTRIES, MAX_METADATA_LEN};
pub use keys::{KeyCommitment, ObjectKeys, OwnerSecret, ReadKey, RemovalHash, RemovalSecret, Salt};
pub use layout::{
    Layout, MAX_LAYOUT_LEN, MAX_SEGMENTS_OF_EXTENT, PlacementKey, segments_per_extent, shard_len,
};
pub use manifest::{Extents, MAX_EXTENTS, MAX_MANIFEST_LEN, Manifest, ManifestPublic, segment_count};
pub use mesh_keys::{EarlierKey, MAX_EARLIER_KEYS, MAX_GENERATION, MAX_MESH_KEYS_LEN, MeshKeys};
pub use message::{
    MAX_EXTENTS_DESCRIBED, MAX_IDS_OF_MESSAGE, MAX_RECORDS_OF_MESSAGE, MAX_REFUSAL_TEXT_LEN, MAX_REMOVALS,
    MAX_SURVEYED, Possession, Refusal, Removed, Reply, Request,
};
pub use proof::{ProofNonce, picked_chunk, prove, proved};
pub use record::{MAX_ADDRESSES, MAX_RECORD_LEN, MAX_ZONE_LEN, NodeRecord, SignedRecord, Zone};
pub use stored::{StoredExtent, StoredManifest, Tombstone};
pub use ticket::{Entry, Invitation, InvitationSecret, KeyName, MAX_TICKET_ADDRESSES, MeshKey, Ticket};
pub use work::{Hours, RemovalsOf, ScrubCursor, ScrubStage, StoreName, UnnamedFor, Work};

/// The version that every format of this build writes, and the only one that it reads.
pub const FORMAT_VERSION: u8 = 1;

/// Length of an AEAD tag in bytes.
pub const TAG_LEN: usize = 16;

/// The default length of a segment's plaintext, in bytes.
pub const DEFAULT_SEGMENT_LEN: u32 = 1 << 20;

/// The shortest and longest segment that a manifest may name, in bytes of plaintext.
pub const SEGMENT_LEN_RANGE: std::ops::RangeInclusive<u32> = (1 << 10)..=(4 << 20);

/// The longest object, in bytes.
pub const MAX_OBJECT_LEN: u64 = 1 << 48;
