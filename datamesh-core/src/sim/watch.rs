//! A crypto suite that sees when a nonce is used twice, and checks each signature once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::id::NodeId;
use crate::ports::{CryptoSuite, Nonce, Signature, SuiteId};
use crate::sim::world::lock;

/// What was sealed with each key and nonce, as hashes.
type Seen = BTreeMap<([u8; 32], Nonce), [u8; 32]>;

/// A suite, and what was sealed with it.
#[derive(Debug)]
pub(super) struct WatchedSuite {
    inner: Arc<dyn CryptoSuite>,
    seen: Mutex<Seen>,
    /// Signatures that were found right or wrong, by a hash over signer, message and signature. Every node checks every
    /// other's, and all nodes are here.
    verified: Mutex<BTreeMap<[u8; 32], bool>>,
    reused: Mutex<Vec<String>>,
}

impl WatchedSuite {
    pub(super) fn new(inner: Arc<dyn CryptoSuite>) -> Self {
        Self { inner, seen: Mutex::default(), verified: Mutex::default(), reused: Mutex::default() }
    }

    /// Each time that a key and nonce sealed two different messages.
    pub(super) fn reused(&self) -> Vec<String> {
        lock(&self.reused).clone()
    }

    fn watch(&self, key: &[u8; 32], nonce: &Nonce, associated_data: &[u8], plain: &[u8]) {
        let key = *blake3::hash(key).as_bytes();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(associated_data.len() as u64).to_le_bytes());
        hasher.update(associated_data).update(plain);
        let message = *hasher.finalize().as_bytes();
        let before = lock(&self.seen).insert((key, *nonce), message);
        if before.is_some_and(|before| before != message) {
            lock(&self.reused).push(format!("nonce {nonce:02x?} sealed two messages under one key"));
        }
    }
}

impl CryptoSuite for WatchedSuite {
    fn id(&self) -> SuiteId {
        self.inner.id()
    }

    fn seal(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; 16]> {
        self.watch(key, nonce, associated_data, buffer);
        self.inner.seal(key, nonce, associated_data, buffer)
    }

    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        associated_data: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<()> {
        self.inner.open(key, nonce, associated_data, buffer, tag)
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(node.as_bytes()).update(signature).update(message);
        let hash = *hasher.finalize().as_bytes();
        let known = lock(&self.verified).get(&hash).copied();
        known.unwrap_or_else(|| {
            let right = self.inner.verify(node, message, signature);
            lock(&self.verified).insert(hash, right);
            right
        })
    }
}
