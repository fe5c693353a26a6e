//! The key pair that a node is named by.

use std::fmt;
use std::path::Path;

use datamesh_core::Result;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Identity, Signature};
use ed25519_dalek::{Signer, SigningKey};
use zeroize::{Zeroize, Zeroizing};

use crate::secret_file::{SecretKind, open_or_create_secret};

const SECRET_LEN: usize = 32;

/// A node's Ed25519 key pair (RFC 8032).
///
/// The secret key is wiped on drop, and `Debug` prints the short node id only.
#[derive(Clone)]
pub struct NodeIdentity {
    key: SigningKey,
}

impl NodeIdentity {
    /// The key pair that this secret key belongs to.
    ///
    /// The bytes must come from a generator fit for keys; every 32 bytes are a valid secret key.
    pub fn from_secret(mut secret: [u8; SECRET_LEN]) -> Self {
        let key = SigningKey::from_bytes(&secret);
        secret.zeroize();
        Self { key }
    }

    /// Opens the identity file, or makes one of the secret key that `seed` returns.
    ///
    /// `seed` is asked only where there is no file. The file is described in `docs/format.md`.
    ///
    /// # Errors
    /// `AccessDenied` when others than its owner may read the file, or this process may not;
    /// `Corrupt` for a wrong magic, length or checksum; `Unsupported` for a
    /// version of a later release; `Io` and the like when the system refuses; what `seed`
    /// returns.
    pub fn open_or_create(
        path: impl AsRef<Path>,
        seed: impl FnOnce() -> Result<[u8; SECRET_LEN]>,
    ) -> Result<Self> {
        open_or_create_secret(SecretKind::Identity, path, seed).map(|secret| Self::from_secret(*secret))
    }

    /// The secret key, for a library that needs it by bytes; wiped when dropped.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; SECRET_LEN]> {
        Zeroizing::new(self.key.to_bytes())
    }
}

impl Identity for NodeIdentity {
    fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({})", self.node_id().fmt_short())
    }
}
