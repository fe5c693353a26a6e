//! The cipher and the signature check of suite 1.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce as CipherNonce, Tag};
use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Nonce, Signature, SuiteId};
use datamesh_core::{Error, ErrorKind, Result};
use ed25519_dalek::VerifyingKey;

/// Suite 1: ChaCha20-Poly1305 (RFC 8439) in place, Ed25519 (RFC 8032) checked strictly.
///
/// It has no state: every call takes its key and wipes its own copy of it. A failed
/// [`open`](CryptoSuite::open) leaves the buffer as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChaChaSuite;

impl CryptoSuite for ChaChaSuite {
    fn id(&self) -> SuiteId {
        SuiteId::CHACHA20_POLY1305
    }

    fn seal(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; 16]> {
        let length = buffer.len();
        cipher(key)
            .encrypt_inout_detached(&CipherNonce::from(*nonce), associated_data, buffer.into())
            .map(Into::into)
            .map_err(|_| too_long(length))
    }

    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<()> {
        cipher(key)
            .decrypt_inout_detached(
                &CipherNonce::from(*nonce),
                associated_data,
                buffer.into(),
                &Tag::from(*tag),
            )
            .map_err(|_| not_authentic())
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        VerifyingKey::from_bytes(node.as_bytes())
            .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

/// A cipher under this key; it wipes the key when it is dropped.
fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(<&Key>::from(key))
}

fn too_long(length: usize) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("the cipher cannot take {length} bytes at once; use smaller segments"),
    )
}

/// One error for every cause, so that nobody learns which part of the input was wrong.
fn not_authentic() -> Error {
    Error::new(ErrorKind::Corrupt, "sealed bytes failed their check; fetch another copy")
}
