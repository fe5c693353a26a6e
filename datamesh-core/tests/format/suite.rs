//! The default ciphers, just enough of them to test the formats without the crate that holds them.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Identity, Nonce, Signature, SuiteId};
use datamesh_core::{Error, ErrorKind, Result};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

#[derive(Debug)]
pub(crate) struct Suite(pub(crate) SuiteId);

pub(crate) const SUITE: Suite = Suite(SuiteId::CHACHA20_POLY1305);

impl CryptoSuite for Suite {
    fn id(&self) -> SuiteId {
        self.0
    }

    fn seal(&self, key: &[u8; 32], nonce: &Nonce, aad: &[u8], buffer: &mut [u8]) -> Result<[u8; 16]> {
        let cipher = ChaCha20Poly1305::new(key.into());
        let tag = cipher.encrypt_inout_detached(nonce.into(), aad, buffer.into());
        tag.map(Into::into).map_err(|_| Error::new(ErrorKind::InvalidInput, "too long"))
    }

    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<()> {
        let cipher = ChaCha20Poly1305::new(key.into());
        let opened = cipher.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into());
        opened.map_err(|_| Error::new(ErrorKind::Corrupt, "a tag does not match"))
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(node.as_bytes())
            .is_ok_and(|key| key.verify_strict(message, &signature.into()).is_ok())
    }
}

pub(crate) struct Key(SigningKey);

impl Key {
    pub(crate) fn new(seed: u8) -> Self {
        Self(SigningKey::from_bytes(&[seed; 32]))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

impl Identity for Key {
    fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).to_bytes()
    }
}
