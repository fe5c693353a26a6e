//! Key pairs for the tests of transports that prove a node's identity themselves.

use std::sync::Arc;

use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Identity, Nonce, Signature, SuiteId};
use datamesh_core::{Error, ErrorKind, Result};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

/// An Ed25519 key pair.
#[derive(Debug)]
pub(crate) struct Keys(SigningKey);

impl Keys {
    pub(crate) fn shared(secret: u8) -> Arc<dyn Identity> {
        Arc::new(Self(SigningKey::from_bytes(&[secret; 32])))
    }
}

impl Identity for Keys {
    fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).to_bytes()
    }
}

/// Checks signatures, and ciphers nothing.
#[derive(Debug)]
pub(crate) struct Suite;

impl Suite {
    pub(crate) fn shared() -> Arc<dyn CryptoSuite> {
        Arc::new(Self)
    }
}

impl CryptoSuite for Suite {
    fn id(&self) -> SuiteId {
        SuiteId(0x8001)
    }

    fn seal(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8]) -> Result<[u8; 16]> {
        Err(Error::new(ErrorKind::Unsupported, "this suite only checks signatures"))
    }

    fn open(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8], _: &[u8; 16]) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this suite only checks signatures"))
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        let key = VerifyingKey::from_bytes(node.as_bytes());
        key.is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}
