//! A mesh with the defaults wired.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datamesh_core::ports::{DynStorage, DynTransport, Identity, Runtime, Storage, Transport};
use datamesh_core::{
    Address, CareOptions, Error, ErrorKind, Limits, Mesh, MeshKey, Redundancy, Result, Ticket, Zone,
};
use datamesh_crypto::{ChaChaSuite, NodeIdentity, SecretKind, open_or_create_secret};
use datamesh_net::memory::MemoryNetwork;
use datamesh_store::{MemoryStore, ReedSolomon};

use crate::files::OsFiles;
use crate::runtime::NativeRuntime;

/// Puts a mesh together: every part has a default, and every part can be replaced.
///
/// Without a path nothing is kept on disk; without an address to listen on or a ticket no port is opened. All
/// checks are in [`open`](Self::open), which lists every problem at once.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    path: Option<PathBuf>,
    listen: Vec<String>,
    ticket: Option<Ticket>,
    mesh_key: Option<MeshKey>,
    redundancy: Redundancy,
    segment_bytes: Option<u32>,
    zone: Option<String>,
    capacity: Option<u64>,
    limits: Limits,
    care: CareOptions,
    runtime: Option<Arc<dyn Runtime>>,
    storage: Option<Arc<dyn DynStorage>>,
    network: Option<MemoryNetwork>,
    transports: Vec<Arc<dyn DynTransport>>,
    identity: Option<Arc<NodeIdentity>>,
    #[cfg(feature = "libp2p")]
    network_limits: datamesh_net::libp2p::Limits,
}

impl Builder {
    /// The directory in which the node keeps its data, identity and mesh key; made where there is none.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Listens for other nodes on a multiaddr, `/ip4/127.0.0.1/tcp/0` or `/ip4/0.0.0.0/udp/4001/quic-v1` for
    /// instance; may be called again for more.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// Joins the mesh of this ticket.
    pub fn join(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// The key of the mesh; by default the ticket's, or the one kept in the directory, or a new one.
    pub fn mesh_key(mut self, key: MeshKey) -> Self {
        self.mesh_key = Some(key);
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

    /// The failure domain of this node: a rack, a room, a data centre.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The capacity that this node offers the mesh, in bytes; 0 makes it a client, which keeps nothing for others.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Bounds on what the mesh takes for itself.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How this node looks after what it holds: repair, rebalance, scrub, audit, and when a silent node counts as gone.
    pub fn care(mut self, care: CareOptions) -> Self {
        self.care = care;
        self
    }

    /// Bounds of the libp2p transport.
    #[cfg(feature = "libp2p")]
    pub fn network_limits(mut self, limits: datamesh_net::libp2p::Limits) -> Self {
        self.network_limits = limits;
        self
    }

    /// The runtime; by default one that owns its threads, shared by all meshes of the process.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// A storage of your own, instead of the disk or memory store.
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// Joins a network inside this process, where bodies are passed without a copy.
    pub fn network(mut self, network: &MemoryNetwork) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Adds a transport of your own; cheaper ones first.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transports.push(Arc::new(transport));
        self
    }

    /// The key pair that names this node; by default the one kept in the directory, or a new one.
    pub fn identity(mut self, identity: NodeIdentity) -> Self {
        self.identity = Some(Arc::new(identity));
        self
    }

    /// Opens the mesh.
    ///
    /// # Errors
    /// `InvalidInput` with every problem of the settings; `Locked` when another process has the directory open;
    /// `Corrupt` or `Unsupported` for what is in it; `AccessDenied` for a directory or ticket that does not let this
    /// node in; `Unavailable` when no address of the ticket answers.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn open(self) -> Result<Mesh> {
        self.open_parts()
            .await
            .map_err(|error| if error.operation().is_some() { error } else { error.with_operation("open") })
    }

    async fn open_parts(mut self) -> Result<Mesh> {
        let (listen, zone) = self.check()?;
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => NativeRuntime::shared()?,
        };
        // The store first: it locks the directory.
        let storage = self.open_storage(&runtime).await?;
        let opened = self.open_on(Arc::clone(&storage), runtime, listen, zone).await;
        if opened.is_err() {
            // So that the directory can be opened again at once; what closing says would hide the cause.
            let _ = Storage::close(&storage).await;
        }
        opened
    }

    async fn open_on(
        mut self,
        storage: Arc<dyn DynStorage>,
        runtime: Arc<dyn Runtime>,
        listen: Vec<Address>,
        zone: Zone,
    ) -> Result<Mesh> {
        let identity = self.open_identity(&runtime).await?;
        let mesh_key = self.open_mesh_key(&runtime).await?;
        let mut builder = Mesh::builder()
            .runtime(Arc::clone(&runtime))
            .storage(storage)
            .erasure_code(Arc::new(ReedSolomon::new()))
            .crypto_suite(Arc::new(ChaChaSuite))
            .files(Arc::new(OsFiles))
            .redundancy(self.redundancy)
            .zone(zone)
            .limits(self.limits.clone())
            .care(self.care.clone());
        if let Some(bytes) = self.segment_bytes {
            builder = builder.segment_bytes(bytes);
        }
        if let Some(bytes) = self.capacity {
            builder = builder.capacity(bytes);
        }
        if let Some(network) = &self.network {
            builder = builder.transport(Arc::new(network.join(identity.node_id(), Arc::clone(&runtime))?));
        }
        for transport in std::mem::take(&mut self.transports) {
            builder = builder.transport(transport);
        }
        if !listen.is_empty() || self.ticket.as_ref().is_some_and(is_reached_by_network) {
            builder = self.add_libp2p(builder, &identity, &mesh_key, listen).await?;
        }
        if let Some(ticket) = self.ticket.take() {
            builder = builder.bootstrap(ticket.addresses);
        }
        builder.identity(identity).mesh_key(mesh_key).open().await
    }

    /// Reads what was given as text, and lists all that is wrong with it.
    fn check(&self) -> Result<(Vec<Address>, Zone)> {
        let mut problems = Vec::new();
        let mut listen = Vec::new();
        for text in &self.listen {
            match text.parse::<Address>() {
                Ok(address) => listen.push(address),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let zone = self.zone.as_deref().map_or(Ok(Zone::default()), str::parse);
        let zone = zone.unwrap_or_else(|error: Error| {
            problems.push(error.to_string());
            Zone::default()
        });
        if let (Some(ticket), Some(key)) = (&self.ticket, &self.mesh_key)
            && ticket.mesh_key != *key
        {
            problems.push("the ticket is of another mesh than the mesh key".to_owned());
        }
        if self.ticket.as_ref().is_some_and(|ticket| ticket.addresses.is_empty()) {
            problems.push("the ticket names no address; ask for a new one".to_owned());
        }
        if cfg!(not(feature = "libp2p")) && !listen.is_empty() {
            problems.push("listening needs the feature libp2p".to_owned());
        }
        if cfg!(not(feature = "disk")) && self.path.is_some() && self.storage.is_none() {
            problems.push(
                "keeping data under a path needs the feature disk, or a storage of your own".to_owned(),
            );
        }
        if problems.is_empty() {
            Ok((listen, zone))
        } else {
            Err(Error::new(ErrorKind::InvalidInput, problems.join("; ")))
        }
    }

    async fn open_storage(&mut self, runtime: &Arc<dyn Runtime>) -> Result<Arc<dyn DynStorage>> {
        if let Some(storage) = self.storage.take() {
            return Ok(storage);
        }
        match self.path.clone() {
            #[cfg(feature = "disk")]
            Some(path) => {
                let named = path.display().to_string();
                let open =
                    move || datamesh_store::DiskStore::open(path, datamesh_store::DiskOptions::default());
                let opened = runtime.compute(open).await?;
                let name =
                    |error: Error| if error.subject().is_none() { error.with_subject(named) } else { error };
                Ok(Arc::new(opened.map_err(name)?))
            }
            _ => {
                let _ = runtime;
                Ok(Arc::new(MemoryStore::new()))
            }
        }
    }

    async fn open_identity(&self, runtime: &Arc<dyn Runtime>) -> Result<Arc<NodeIdentity>> {
        if let Some(identity) = &self.identity {
            return Ok(Arc::clone(identity));
        }
        let identity = match self.file("identity.key") {
            None => NodeIdentity::from_secret(runtime.random()?),
            Some(path) => {
                let random = Arc::clone(runtime);
                runtime.compute(move || NodeIdentity::open_or_create(path, || random.random())).await??
            }
        };
        Ok(Arc::new(identity))
    }

    /// The key that was given, the ticket's, the one in the directory, or a new one; kept in the directory.
    async fn open_mesh_key(&self, runtime: &Arc<dyn Runtime>) -> Result<MeshKey> {
        let given =
            self.mesh_key.clone().or_else(|| self.ticket.as_ref().map(|ticket| ticket.mesh_key.clone()));
        let Some(path) = self.file("mesh.key") else {
            return given.map_or_else(|| Ok(MeshKey::from_bytes(runtime.random()?)), Ok);
        };
        let (random, wanted) = (Arc::clone(runtime), given.clone());
        let make = move || wanted.map_or_else(|| random.random(), |key| Ok(*key.as_bytes()));
        let kept = runtime.compute(move || open_or_create_secret(SecretKind::MeshKey, path, make)).await??;
        let kept = MeshKey::from_bytes(*kept);
        if given.is_some_and(|given| given != kept) {
            let text =
                "the directory belongs to another mesh; use another directory, or a ticket of that mesh";
            return Err(Error::new(ErrorKind::AccessDenied, text));
        }
        Ok(kept)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.path.as_deref().map(|path: &Path| path.join(name))
    }

    #[cfg(feature = "libp2p")]
    async fn add_libp2p(
        &self,
        builder: datamesh_core::MeshBuilder,
        identity: &NodeIdentity,
        mesh_key: &MeshKey,
        listen: Vec<Address>,
    ) -> Result<datamesh_core::MeshBuilder> {
        use datamesh_net::libp2p::{Libp2pConfig, Libp2pTransport};
        let config = Libp2pConfig::new(*identity.secret_bytes(), *mesh_key.as_bytes())
            .listen(listen)
            .limits(self.network_limits.clone());
        Ok(builder.transport(Arc::new(Libp2pTransport::open(config).await?)))
    }

    #[cfg(not(feature = "libp2p"))]
    async fn add_libp2p(
        &self,
        builder: datamesh_core::MeshBuilder,
        _: &NodeIdentity,
        _: &MeshKey,
        _: Vec<Address>,
    ) -> Result<datamesh_core::MeshBuilder> {
        // A ticket may still be of use to a network inside the process or a transport of the user's own.
        Ok(builder)
    }
}

/// Whether a ticket names an address that libp2p reaches.
fn is_reached_by_network(ticket: &Ticket) -> bool {
    let is_multiaddr = |text: &str| ["/ip4/", "/ip6/", "/dns"].iter().any(|prefix| text.starts_with(prefix));
    ticket.addresses.iter().any(|address| is_multiaddr(address.as_str()))
}
