//! What a transport between the nodes of one machine is opened with.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use datamesh_core::KeyRing;
use datamesh_core::format::MeshKey;
use datamesh_core::ports::{CryptoSuite, Identity};

use super::Limits;

/// What a [`LocalTransport`](super::LocalTransport) is opened with.
#[derive(Clone)]
pub struct LocalConfig {
    pub(super) identity: Arc<dyn Identity>,
    pub(super) suite: Arc<dyn CryptoSuite>,
    pub(super) keys: KeyRing,
    pub(super) directory: Option<PathBuf>,
    pub(super) limits: Limits,
}

impl LocalConfig {
    /// A node with this identity, in the mesh of this key, which is wiped when nobody needs it any more.
    pub fn new(identity: Arc<dyn Identity>, suite: Arc<dyn CryptoSuite>, mesh_key: [u8; 32]) -> Self {
        Self::with_keys(identity, suite, KeyRing::of(MeshKey::from_bytes(mesh_key)))
    }

    /// The same in the mesh of these keys, which the transport follows when they change.
    pub fn with_keys(identity: Arc<dyn Identity>, suite: Arc<dyn CryptoSuite>, keys: KeyRing) -> Self {
        Self { identity, suite, keys, directory: None, limits: Limits::default() }
    }

    /// The directory of the sockets: made, for its owner only, where there is none. Nodes find each other in the same
    /// directory. By default `datamesh` in the user's runtime directory (`XDG_RUNTIME_DIR`), or `datamesh-<user
    /// number>` in the directory for temporary files.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl fmt::Debug for LocalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalConfig")
            .field("node", &self.identity.node_id())
            .field("directory", &self.directory)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
