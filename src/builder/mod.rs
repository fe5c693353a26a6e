//! A mesh with the defaults wired.

mod check;
mod keys;
mod transports;

use std::path::PathBuf;
use std::sync::Arc;

use datamesh_core::ports::{DynStorage, DynTransport, Runtime, Storage, Transport};
use datamesh_core::{
    AdmissionKey, CareOptions, Limits, Mesh, MeshBuilder, MeshKey, Redundancy, Result, SignedCertificate,
    Ticket, Zone,
};
use datamesh_crypto::{ChaChaSuite, NodeIdentity};
use datamesh_net::memory::MemoryNetwork;
use datamesh_net::ways::Ways;
use datamesh_store::{MemoryStore, ReedSolomon};
use futures::future::join_all;

use crate::files::OsFiles;
use crate::runtime::NativeRuntime;

use check::Places;

/// Puts a mesh together: every part has a default, and every part can be replaced.
///
/// Without a path nothing is kept on disk; without an address to listen on or a ticket no port is opened. All
/// checks are in [`open`](Self::open), which lists every problem at once.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    /// What is no concern of the defaults.
    engine: MeshBuilder,
    path: Option<PathBuf>,
    listen: Vec<String>,
    announce: Vec<String>,
    ticket: Option<Ticket>,
    rejoins: bool,
    mesh_key: Option<MeshKey>,
    zone: Option<String>,
    runtime: Option<Arc<dyn Runtime>>,
    storage: Option<Arc<dyn DynStorage>>,
    network: Option<MemoryNetwork>,
    transports: Vec<Arc<dyn DynTransport>>,
    identity: Option<Arc<NodeIdentity>>,
    preference: TransportPreference,
    local_directory: Option<PathBuf>,
    #[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
    network_limits: NetworkLimits,
    #[cfg(feature = "libp2p")]
    discovery: datamesh_net::libp2p::Discovery,
}

/// The limits of the transports, where there are any.
#[cfg(feature = "libp2p")]
type NetworkLimits = datamesh_net::libp2p::Limits;
#[cfg(all(feature = "local", not(feature = "libp2p"), unix))]
type NetworkLimits = datamesh_net::local::Limits;

/// By which ways a node may reach others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportPreference {
    /// For each peer the cheapest that reaches it: inside the process, then on the machine, then over the network.
    #[default]
    Automatic,
    /// Nothing leaves the machine: no port is opened, and peers are those of this machine.
    LocalOnly,
    /// Peers on the same machine are reached over the network, too.
    NetworkOnly,
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

    /// Tells other nodes this multiaddr instead of those that this node listens on: behind a forwarded port, or in a
    /// container; may be called again for more.
    pub fn announce(mut self, address: impl Into<String>) -> Self {
        self.announce.push(address.into());
        self
    }

    /// Joins the mesh of this ticket.
    pub fn join(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// Joins its mesh again by this ticket, whose key takes the place of those that are kept, also of newer ones.
    ///
    /// For a node that alone has a newer key: it changed the key, and the overlap passed before another heard of it
    /// ([`Mesh::rotate_key`] told `OutcomeUnknown`). The node keeps its name and what it has. Give it a new ticket, once:
    /// by an old one, whose key has ended, it would meet those whom the change was to keep out.
    pub fn rejoin(mut self, ticket: Ticket) -> Self {
        self.rejoins = true;
        self.join(ticket)
    }

    /// The first key of the mesh; by default the ticket's, or the one kept in the directory, or a new one. A later
    /// one that is kept there counts in its place.
    pub fn mesh_key(mut self, key: MeshKey) -> Self {
        self.mesh_key = Some(key);
        self
    }

    /// By whom nodes that hold data must be admitted: at most eight keys, the same on all nodes. By default the
    /// ticket's, and those kept in the directory; where there are none, whoever has the ticket may hold data.
    pub fn admission(mut self, keys: impl IntoIterator<Item = AdmissionKey>) -> Self {
        self.engine = self.engine.admission(keys);
        self
    }

    /// What admits this node, from [`Admission::issue`](crate::Admission::issue). It is kept in the directory.
    pub fn certificate(mut self, certificate: SignedCertificate) -> Self {
        self.engine = self.engine.certificate(certificate);
        self
    }

    /// The redundancy of puts that name none. 4+2 by default.
    pub fn redundancy(mut self, redundancy: Redundancy) -> Self {
        self.engine = self.engine.redundancy(redundancy);
        self
    }

    /// The length of a segment, in bytes. 1 MiB by default, 1 KiB to 4 MiB.
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.engine = self.engine.segment_bytes(bytes);
        self
    }

    /// The failure domain of this node: a rack, a room, a data centre.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The capacity that this node offers the mesh, in bytes; 0 makes it a client, which keeps nothing for others. One that
    /// has offered some before, and is opened with 0, is leaving: what it has is brought to others while it is open.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.engine = self.engine.capacity(bytes);
        self
    }

    /// Bounds on what the mesh takes for itself.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.engine = self.engine.limits(limits);
        self
    }

    /// How this node looks after what it holds: repair, rebalance, scrub, audit, and when a silent node counts as gone.
    pub fn care(mut self, care: CareOptions) -> Self {
        self.engine = self.engine.care(care);
        self
    }

    /// Bounds of the transports that reach other processes, for each of them.
    #[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
    pub fn network_limits(mut self, limits: NetworkLimits) -> Self {
        self.network_limits = limits;
        self
    }

    /// By which ways this node may reach others; by default the cheapest for each.
    ///
    /// A node that listens, or joins with a ticket, is also reached by the processes of the same user on its machine,
    /// over sockets in a directory that only that user may enter (feature `local`, on Unix).
    pub fn transport_preference(mut self, preference: TransportPreference) -> Self {
        self.preference = preference;
        self
    }

    /// The directory of the sockets for processes of this machine; nodes find each other in the same one. By default
    /// the user's, and a node goes without where that one cannot be used.
    pub fn local_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.local_directory = Some(directory.into());
        self
    }

    /// How this node finds others and is found beside tickets and gossip, and how it is reached through NATs.
    #[cfg(feature = "libp2p")]
    pub fn discovery(mut self, discovery: datamesh_net::libp2p::Discovery) -> Self {
        self.discovery = discovery;
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
        let (places, zone) = self.check()?;
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => NativeRuntime::shared()?,
        };
        // The store first: it locks the directory.
        let storage = self.open_storage(&runtime).await?;
        let mut transports = Vec::new();
        let opened = self.open_on(Arc::clone(&storage), runtime, places, zone, &mut transports).await;
        if opened.is_err() {
            // So that the directory, the socket and the ports can be opened again at once; what closing says would
            // hide the cause.
            join_all(transports.iter().map(|transport| (**transport).close())).await;
            let _ = Storage::close(&storage).await;
        }
        opened
    }

    /// Opens all but the storage; `transports` are those that were opened, also when the rest fails.
    async fn open_on(
        mut self,
        storage: Arc<dyn DynStorage>,
        runtime: Arc<dyn Runtime>,
        places: Places,
        zone: Zone,
        transports: &mut Vec<Arc<dyn DynTransport>>,
    ) -> Result<Mesh> {
        let identity = self.open_identity(&runtime).await?;
        let keys = self.open_keys(&runtime, &identity, &*storage).await?;
        self.open_transports(&runtime, &identity, &keys, places, transports).await?;
        let opened = transports.clone();
        let mut engine = match opened.len() {
            0 | 1 => opened.into_iter().fold(self.engine, MeshBuilder::transport),
            _ => self.engine.transport(Arc::new(Ways::new(opened, Arc::clone(&runtime))?)),
        };
        if let Some(ticket) = self.ticket {
            engine = engine.bootstrap(ticket.addresses).admission(ticket.admission);
        }
        engine
            .runtime(runtime)
            .storage(storage)
            .erasure_code(Arc::new(ReedSolomon::new()))
            .crypto_suite(Arc::new(ChaChaSuite))
            .files(Arc::new(OsFiles))
            .zone(zone)
            .identity(identity)
            .key_ring(keys)
            .open()
            .await
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
                let name = |error: datamesh_core::Error| {
                    if error.subject().is_none() { error.with_subject(named) } else { error }
                };
                Ok(Arc::new(opened.map_err(name)?))
            }
            _ => {
                let _ = runtime;
                Ok(Arc::new(MemoryStore::new()))
            }
        }
    }
}
