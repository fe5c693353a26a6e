//! What a libp2p transport is opened with.

use std::fmt;
use std::sync::Arc;

use datamesh_core::KeyRing;
use datamesh_core::format::{Invitation, MeshKey};
use datamesh_core::ports::Address;
use zeroize::Zeroizing;

use super::options::Discovery;
use super::proof::Keys;
use crate::wire::limits::Limits;

/// What a [`Libp2pTransport`](super::Libp2pTransport) is opened with.
pub struct Libp2pConfig {
    pub(super) secret_key: Zeroizing<[u8; 32]>,
    pub(super) keys: Arc<Keys>,
    pub(super) listen: Vec<Address>,
    pub(super) limits: Limits,
    pub(super) discovery: Discovery,
}

impl Libp2pConfig {
    /// A node with this Ed25519 secret key, in the mesh of this key, that only dials.
    ///
    /// Both keys are wiped when the configuration is dropped.
    pub fn new(secret_key: [u8; 32], mesh_key: [u8; 32]) -> Self {
        Self::with_keys(secret_key, KeyRing::of(MeshKey::from_bytes(mesh_key)))
    }

    /// The same in the mesh of these keys, which the transport follows when they change.
    pub fn with_keys(secret_key: [u8; 32], keys: KeyRing) -> Self {
        Self::with(secret_key, Keys::Mesh(keys))
    }

    /// A node that has an invitation in place of the mesh key, and only dials: the first member that it reaches gives
    /// it the key, for [`Libp2pTransport::learned_keys`](super::Libp2pTransport::learned_keys).
    pub fn invited(secret_key: [u8; 32], invitation: &Invitation) -> Self {
        Self::with(secret_key, Keys::invited(invitation.clone()))
    }

    fn with(secret_key: [u8; 32], keys: Keys) -> Self {
        Self {
            secret_key: Zeroizing::new(secret_key),
            keys: Arc::new(keys),
            listen: Vec::new(),
            limits: Limits::default(),
            discovery: Discovery::default(),
        }
    }

    /// Listens on these multiaddrs, `/ip4/127.0.0.1/tcp/0` or `/ip4/0.0.0.0/udp/4001/quic-v1` for instance.
    #[must_use]
    pub fn listen(mut self, addresses: Vec<Address>) -> Self {
        self.listen = addresses;
        self
    }

    /// How this node is found and reached beside the addresses that others were given.
    #[must_use]
    pub fn discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl fmt::Debug for Libp2pConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libp2pConfig")
            .field("listen", &self.listen)
            .field("limits", &self.limits)
            .field("discovery", &self.discovery)
            .finish_non_exhaustive()
    }
}
