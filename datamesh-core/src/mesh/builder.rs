//! A mesh is put together from its parts.

use std::sync::Arc;

use crate::care::CareOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    AdmissionKey, DEFAULT_SEGMENT_LEN, MAX_ADMISSION_KEYS, MeshKey, SEGMENT_LEN_RANGE, SignedCertificate,
    Zone,
};
use crate::mesh::{Core, Mesh, Parts};
use crate::ports::{
    Address, CryptoSuite, DynStorage, DynTransport, ErasureCode, Files, Identity, Redundancy, Runtime,
};
use crate::ring::KeyRing;

/// Bounds on what a mesh takes for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Memory of the data path in bytes: segments under way in puts and gets. 64 MiB by default.
    pub memory_bytes: usize,
    /// Requests of peers that are answered at a time; more wait in the transport. 256 by default.
    pub inbound_requests: usize,
    /// Bytes that peers may stage here without committing them. 1 GiB by default.
    pub staged_bytes: u64,
    /// The longest object that `get` returns as one `Bytes`. 1 GiB by default.
    pub get_bytes: u64,
    /// Tokens that a peer gets in a second for what costs it nothing and this node much: records of members, epochs, keys,
    /// proofs and removals. Each such message takes one, and one more for each 32 records or 64 removals; where none are
    /// left it is refused as `Busy`. 50 by default.
    pub control_per_second: u32,
    /// How many tokens a peer has at most, after a pause. 200 by default.
    pub control_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            inbound_requests: 256,
            staged_bytes: 1 << 30,
            get_bytes: 1 << 30,
            control_per_second: 50,
            control_burst: 200,
        }
    }
}

impl Limits {
    /// Sets the memory of the data path, in bytes.
    #[must_use]
    pub fn with_memory_bytes(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Sets how many requests of peers are answered at a time.
    #[must_use]
    pub fn with_inbound_requests(mut self, requests: usize) -> Self {
        self.inbound_requests = requests;
        self
    }

    /// Sets how many bytes peers may stage here without committing them.
    #[must_use]
    pub fn with_staged_bytes(mut self, bytes: u64) -> Self {
        self.staged_bytes = bytes;
        self
    }

    /// Sets how many tokens a peer gets in a second for messages that cost it nothing, and how many it has at most.
    #[must_use]
    pub fn with_control_rate(mut self, per_second: u32, burst: u32) -> Self {
        (self.control_per_second, self.control_burst) = (per_second, burst);
        self
    }

    /// Sets the longest object that `get` returns as one `Bytes`.
    #[must_use]
    pub fn with_get_bytes(mut self, bytes: u64) -> Self {
        self.get_bytes = bytes;
        self
    }
}

/// Why a mesh in which no redundancy can be had is not opened.
const NO_HOLDER: &str = "a capacity of 0 and no transport leave no node to hold a shard; offer capacity, or join a mesh with a ticket";

/// Puts a mesh together from parts of your choice; `datamesh::builder()` has the defaults wired.
///
/// Runtime, storage, erasure code, crypto suite and identity are needed; everything else has a default. All
/// checks are in [`open`](Self::open), which lists every problem at once.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it is opened"]
pub struct MeshBuilder {
    runtime: Option<Arc<dyn Runtime>>,
    storage: Option<Arc<dyn DynStorage>>,
    code: Option<Arc<dyn ErasureCode>>,
    suite: Option<Arc<dyn CryptoSuite>>,
    identity: Option<Arc<dyn Identity>>,
    files: Option<Arc<dyn Files>>,
    transports: Vec<Arc<dyn DynTransport>>,
    keys: Option<KeyRing>,
    bootstrap: Vec<Address>,
    admission: Vec<AdmissionKey>,
    certificate: Option<SignedCertificate>,
    redundancy: Redundancy,
    segment_bytes: Option<u32>,
    zone: Zone,
    capacity: Option<u64>,
    limits: Limits,
    care: CareOptions,
}

impl MeshBuilder {
    /// The runtime. Needed.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Where this node keeps its data. Needed; a client may give an empty memory store.
    pub fn storage(mut self, storage: Arc<dyn DynStorage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// The erasure code. Needed.
    pub fn erasure_code(mut self, code: Arc<dyn ErasureCode>) -> Self {
        self.code = Some(code);
        self
    }

    /// The crypto suite. Needed.
    pub fn crypto_suite(mut self, suite: Arc<dyn CryptoSuite>) -> Self {
        self.suite = Some(suite);
        self
    }

    /// The key pair that names this node. Needed.
    pub fn identity(mut self, identity: Arc<dyn Identity>) -> Self {
        self.identity = Some(identity);
        self
    }

    /// What opens the files that are put from a path and got to one.
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = Some(files);
        self
    }

    /// Adds a way to reach other nodes; the first that reaches a peer is taken, so add the cheapest first.
    pub fn transport(mut self, transport: Arc<dyn DynTransport>) -> Self {
        self.transports.push(transport);
        self
    }

    /// The first key of the mesh, for [`Mesh::ticket`]; the transports have it from elsewhere. Where they are to
    /// follow when it changes, share a [`key_ring`](Self::key_ring) with them.
    pub fn mesh_key(self, key: MeshKey) -> Self {
        self.key_ring(KeyRing::of(key))
    }

    /// The keys of the mesh, which this node and its transports share.
    pub fn key_ring(mut self, keys: KeyRing) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Addresses of members to reach at open; one at least must answer, unless members are known from before.
    pub fn bootstrap(mut self, addresses: impl IntoIterator<Item = Address>) -> Self {
        self.bootstrap.extend(addresses);
        self
    }

    /// By whom nodes that hold data must be admitted: at most eight keys, the same on all nodes. None by default, and
    /// those that are kept from the last time. [`Admission`](crate::Admission) issues the certificates.
    pub fn admission(mut self, keys: impl IntoIterator<Item = AdmissionKey>) -> Self {
        self.admission.extend(keys);
        self.admission.sort_unstable();
        self.admission.dedup();
        self
    }

    /// What admits this node. It is kept, so it need be given only once.
    pub fn certificate(mut self, certificate: SignedCertificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// The redundancy of puts that name none. 4+2 by default.
    pub fn redundancy(mut self, redundancy: Redundancy) -> Self {
        self.redundancy = redundancy;
        self
    }

    /// The length of a segment, in bytes. 1 MiB by default, 1 KiB to 4 MiB.
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// The failure domain of this node.
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zone = zone;
        self
    }

    /// The capacity that this node offers the mesh, in bytes; 0 makes it a client. One that has offered some before, and
    /// is opened with 0, is leaving: what it has is brought to others while it is open.
    ///
    /// By default what the store holds and may still take, rounded down to a power of two so that it stays the same.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Bounds on what the mesh takes for itself.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How this node cares for what it keeps: repair, rebalance, scrub, and when a silent node counts as gone.
    pub fn care(mut self, options: CareOptions) -> Self {
        self.care = options;
        self
    }

    /// Opens the mesh: reads what is kept, joins the members that are known, begins to answer.
    ///
    /// # Errors
    /// `InvalidInput` with every missing or impossible setting; `Unavailable` or `AccessDenied` when no address to
    /// join by answers; the store's own errors.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn open(self) -> Result<Mesh> {
        let capacity = self.capacity;
        let mut parts = self.check()?;
        parts.capacity = match capacity {
            Some(capacity) => capacity,
            None => default_capacity(&*parts.storage).await?,
        };
        if keeps_nothing(parts.capacity, &parts.transports) {
            return Err(Error::new(ErrorKind::InvalidInput, NO_HOLDER).with_operation("open"));
        }
        Core::open(parts)
            .await
            .map_err(|error| if error.operation().is_some() { error } else { error.with_operation("open") })
    }

    fn check(self) -> Result<Parts> {
        let problems = self.problems();
        let segment_len = self.segment_bytes.unwrap_or(DEFAULT_SEGMENT_LEN);
        match (self.runtime, self.storage, self.code, self.suite, self.identity) {
            (Some(runtime), Some(storage), Some(code), Some(suite), Some(identity))
                if problems.is_empty() =>
            {
                Ok(Parts {
                    runtime,
                    storage,
                    code,
                    suite,
                    identity,
                    files: self.files,
                    transports: self.transports,
                    keys: self.keys,
                    bootstrap: self.bootstrap,
                    admission: self.admission,
                    certificate: self.certificate,
                    redundancy: self.redundancy,
                    segment_len,
                    zone: self.zone,
                    capacity: 0,
                    limits: self.limits,
                    care: self.care,
                })
            }
            _ => Err(Error::new(ErrorKind::InvalidInput, problems.join("; ")).with_operation("open")),
        }
    }

    /// Everything that is wrong with the settings.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |there: bool, what: &str| {
            if !there {
                problems.push(format!("no {what} was given"));
            }
        };
        need(self.runtime.is_some(), "runtime");
        need(self.storage.is_some(), "storage");
        need(self.code.is_some(), "erasure code");
        need(self.suite.is_some(), "crypto suite");
        need(self.identity.is_some(), "identity");
        if let Some(length) = self.segment_bytes.filter(|length| !SEGMENT_LEN_RANGE.contains(length)) {
            let (least, most) = (SEGMENT_LEN_RANGE.start(), SEGMENT_LEN_RANGE.end());
            problems.push(format!("segments are {least} to {most} bytes, {length} was asked for"));
        }
        if let Some(code) = self.code.as_ref().filter(|code| !code.supports(self.redundancy)) {
            let (code, redundancy) = (code.id().0, self.redundancy);
            problems.push(format!("erasure code {code} cannot do {redundancy}; choose another redundancy"));
        }
        if self.capacity.is_some_and(|capacity| keeps_nothing(capacity, &self.transports)) {
            problems.push(NO_HOLDER.to_owned());
        }
        let control = self.limits.control_per_second.min(self.limits.control_burst);
        if self.limits.memory_bytes == 0 || self.limits.inbound_requests == 0 || control == 0 {
            problems.push("a limit of 0 lets nothing through".to_owned());
        }
        if self.admission.len() > MAX_ADMISSION_KEYS {
            let count = self.admission.len();
            problems
                .push(format!("a mesh has at most {MAX_ADMISSION_KEYS} admission keys, {count} were given"));
        }
        problems.extend(self.care.problems());
        let local = self.identity.as_ref().map(|identity| identity.node_id());
        if self.transports.iter().any(|transport| Some(transport.local_node()) != local && local.is_some()) {
            problems.push("a transport speaks for another node than the identity".to_owned());
        }
        problems
    }
}

/// Whether this mesh can never hold anything: its only node is a client that reaches nobody.
fn keeps_nothing(capacity: u64, transports: &[Arc<dyn DynTransport>]) -> bool {
    capacity == 0 && transports.is_empty()
}

async fn default_capacity(storage: &dyn DynStorage) -> Result<u64> {
    let capacity = storage.capacity().await?;
    let total = capacity.used.saturating_add(capacity.available);
    Ok(total.checked_ilog2().map_or(0, |exponent| 1 << exponent))
}
