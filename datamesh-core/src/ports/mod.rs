//! The traits that a mesh is built from.
//!
//! I/O ports ([`Transport`], [`Storage`]) have plain `async fn`s for implementers and a boxed twin
//! ([`DynTransport`], [`DynStorage`]) that a blanket implementation derives. CPU ports
//! ([`ErasureCode`], [`CryptoSuite`], [`Identity`]) are synchronous and object-safe and write into
//! the caller's buffers. [`Runtime`] gives time, tasks, threads and randomness; [`Files`] opens the files that
//! a user names.

mod crypto;
mod erasure;
mod files;
mod runtime;
mod storage;
mod transport;

pub use crypto::{CryptoSuite, Identity, Nonce, SIGNATURE_LEN, Signature, SuiteId};
pub use erasure::{CodeId, ErasureCode, MAX_SHARDS_OF_A_KIND, Redundancy};
pub use files::{Files, InputFile, OutputFile};
pub use runtime::{Instant, Job, Runtime, Task, Timestamp};
pub use storage::{
    Batch, BatchStep, BlobPage, Capacity, DynStorage, MAX_BLOB_LEN, MAX_KEY_LEN, MAX_VALUE_LEN, RecordPage,
    Storage, Table,
};
pub use transport::{
    Address, DynTransport, Inbound, MAX_ADDRESS_LEN, MAX_BODY_LEN, MAX_HEAD_LEN, Message, PeerRoute, Reach,
    Reached, ReplySender, Transport, TransportEvent, Way, WayStatus,
};
