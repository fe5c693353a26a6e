//! The engine of `datamesh`: ports, formats, placement, the data path and the handle.
//!
//! Programs depend on the `datamesh` package, which wires the defaults. An adapter (a transport, a storage
//! of your own) depends on this crate alone and runs the conformance suites in `testing`.
#![forbid(unsafe_code)]

mod admission;
mod care;
pub mod error;
pub mod format;
mod gate;
pub mod id;
mod mesh;
pub mod node;
mod object;
mod observe;
mod peers;
pub mod placement;
#[doc(hidden)]
pub mod planted;
pub mod ports;
mod ring;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "testing")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the suites are no part of the engine: they start threads and block them, as an application does"
)]
pub mod testing;

pub use admission::Admission;
pub use care::{Audit, Audits, CareOptions, CareProgress, CareStatus, Margins, NodeState, RepairReport};
pub use error::{Error, ErrorKind, Result};
pub use format::{
    Access, AdmissionKey, Capability, MeshKey, MeshKeys, NodeRecord, SignedCertificate, SignedEpoch, Ticket,
    Zone,
};
pub use id::{ExtentId, NodeId, ObjectId, OperationId, ShardId};
pub use mesh::{
    Bandwidth, Drain, Explain, Get, GetToPath, HealthCheck, Limits, Mesh, MeshBuilder, OpenReader,
    OpenStream, Put, Remove, Repair, StatRequest,
};
pub use object::{
    Explanation, ExtentHealth, Health, ObjectReader, ObjectStream, PlaceReason, Progress, Receipt, Removal,
    ShardPlace, Source, Stat,
};
pub use observe::{Event, Events, Metrics};
pub use peers::NodeStatus;
pub use placement::{Plan, ZoneMargins};
pub use ports::{Address, Redundancy};
pub use ring::KeyRing;
