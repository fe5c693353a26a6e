#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod blocking;
mod builder;
mod files;
pub mod runtime;
pub mod sharing;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "tokio")]
pub mod tokio_io;

pub use builder::{Builder, TransportPreference};
#[cfg(feature = "testing")]
pub use datamesh_core::testing;
pub use datamesh_core::{
    Access, Address, Admission, AdmissionKey, Audit, Audits, Bandwidth, Capability, CareOptions,
    CareProgress, CareStatus, Drain, Error, ErrorKind, Event, Events, Explain, Explanation, ExtentHealth,
    ExtentId, Get, GetToPath, Health, HealthCheck, KeyRing, Limits, Margins, Mesh, MeshBuilder, MeshKey,
    MeshKeys, Metrics, NodeId, NodeRecord, NodeState, NodeStatus, ObjectId, ObjectReader, ObjectStream,
    OpenReader, OpenStream, OperationId, PlaceReason, Plan, Progress, Put, Receipt, Redundancy, Removal,
    Remove, Repair, RepairReport, Result, ShardId, ShardPlace, SignedCertificate, SignedEpoch, Source, Stat,
    StatRequest, Ticket, Zone, ZoneMargins, format, node, placement, ports,
};
pub use datamesh_crypto::{ChaChaSuite, NodeIdentity};
pub use datamesh_net as net;
pub use datamesh_net::memory::MemoryNetwork;
pub use datamesh_store as store;
pub use files::OsFiles;

/// A builder with the defaults wired.
pub fn builder() -> Builder {
    Builder::default()
}

/// Opens a node that keeps its data in a directory: a mesh of one, that listens nowhere.
///
/// The directory is made where there is none, with an identity and a mesh key in it. A node that was a member of a
/// larger mesh opens with [`builder`] and the address to listen on.
///
/// # Errors
/// Those of [`Builder::open`].
///
/// # Cancel safety
/// Dropping the future closes what was opened.
#[cfg(feature = "disk")]
pub async fn open(path: impl Into<std::path::PathBuf>) -> Result<Mesh> {
    builder().path(path).open().await
}

/// Opens a node in a directory and joins the mesh of a ticket, listening on a port of the system's choice on all
/// IPv4 interfaces.
///
/// # Errors
/// Those of [`Builder::open`].
///
/// # Cancel safety
/// Dropping the future closes what was opened.
#[cfg(all(feature = "disk", feature = "libp2p"))]
pub async fn join(path: impl Into<std::path::PathBuf>, ticket: Ticket) -> Result<Mesh> {
    builder().path(path).listen("/ip4/0.0.0.0/tcp/0").join(ticket).open().await
}

/// Opens a mesh of one node in memory: no file, no port. For documentation and tests.
///
/// # Errors
/// `Io` when the system gives no thread or randomness.
///
/// # Cancel safety
/// Safe to drop.
pub async fn memory() -> Result<Mesh> {
    builder().capacity(1 << 30).open().await
}
