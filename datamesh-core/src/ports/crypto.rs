//! Authenticated encryption and signatures.

use std::fmt;

use crate::error::Result;
use crate::id::NodeId;

/// The registered number of a crypto suite; it goes into every manifest.
///
/// 1 is ChaCha20-Poly1305 (RFC 8439) with Ed25519 (RFC 8032). Numbers from 0x8000 up are for suites of
/// an application's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SuiteId(pub u16);

impl SuiteId {
    /// ChaCha20-Poly1305 (RFC 8439) with Ed25519 (RFC 8032).
    pub const CHACHA20_POLY1305: Self = Self(1);
}

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// An Ed25519 signature.
pub type Signature = [u8; SIGNATURE_LEN];

/// A 96-bit nonce. The formats make each one at most once for a key.
pub type Nonce = [u8; 12];

/// An authenticated cipher with 256-bit keys, 96-bit nonces and 128-bit tags, and a signature check.
///
/// # Contract
/// 1. `seal` and `open` MUST work in place and be inverse for the same key, nonce and associated data.
/// 2. `open` MUST fail for any change of ciphertext, tag, nonce, key or associated data, with one error
///    ([`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt)) for all causes, and MUST NOT leave plaintext in the
///    buffer then.
/// 3. `verify` MUST be strict: no small-order keys, no malleable signatures, `false` for bad keys.
/// 4. Results MUST be the same on every machine for the same [`id`](Self::id).
/// 5. Calls MUST be possible from many threads at once; copies of keys MUST be wiped.
///
/// The conformance suite is `datamesh_core::testing::crypto` (feature `testing`).
pub trait CryptoSuite: fmt::Debug + Send + Sync + 'static {
    /// The registered number.
    fn id(&self) -> SuiteId;

    /// Encrypts `buffer` in place and returns the tag.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when the cipher cannot take that length.
    fn seal(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; 16]>;

    /// Checks the tag and decrypts `buffer` in place.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for every failed check.
    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<()>;

    /// Whether `signature` over `message` was made by the node's key.
    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool;
}

/// The key pair that a node is named by.
///
/// # Contract
/// 1. `node_id` MUST be the Ed25519 public key of the key that `sign` signs with, always the same.
/// 2. `Debug` MUST NOT print the secret key, and the secret key MUST be wiped on drop.
pub trait Identity: fmt::Debug + Send + Sync + 'static {
    /// The node's name.
    fn node_id(&self) -> NodeId;

    /// Signs a message (Ed25519, RFC 8032).
    fn sign(&self, message: &[u8]) -> Signature;
}
