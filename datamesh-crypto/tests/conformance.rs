//! The default suite passes the conformance suite of its port, and wrong ones fail it by clause.
#![expect(clippy::unwrap_used, reason = "helpers outside test functions fail the test as well")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Identity, Nonce, Signature, SuiteId};
use datamesh_core::testing::crypto::crypto_suite;
use datamesh_core::{Error, ErrorKind, Result};
use datamesh_crypto::{ChaChaSuite, NodeIdentity};
use ed25519_dalek::{Verifier, VerifyingKey};

fn identity() -> NodeIdentity {
    NodeIdentity::from_secret([3; 32])
}

#[test]
fn the_default_suite_conforms() {
    crypto_suite(&ChaChaSuite, &identity());
}

/// A way of being wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    IgnoresAssociatedData,
    IgnoresLastTagByte,
    LeavesPlaintext,
    TellsCausesApart,
    WrongErrorKind,
    DoesNotEncrypt,
    AnotherCipher,
    NotStrict,
    VerifiesAll,
    VerifiesNothing,
}

#[derive(Debug)]
struct Wrong(Fault);

impl CryptoSuite for Wrong {
    fn id(&self) -> SuiteId {
        SuiteId::CHACHA20_POLY1305
    }

    fn seal(&self, key: &[u8; 32], nonce: &Nonce, data: &[u8], buffer: &mut [u8]) -> Result<[u8; 16]> {
        match self.0 {
            Fault::IgnoresAssociatedData => ChaChaSuite.seal(key, nonce, b"", buffer),
            Fault::DoesNotEncrypt => {
                let mut copy = buffer.to_vec();
                ChaChaSuite.seal(key, nonce, data, &mut copy)
            }
            Fault::AnotherCipher => ChaChaSuite.seal(&key.map(|byte| !byte), nonce, data, buffer),
            _ => ChaChaSuite.seal(key, nonce, data, buffer),
        }
    }

    fn open(
        &self,
        key: &[u8; 32],
        nonce: &Nonce,
        data: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<()> {
        let honest = |buffer: &mut [u8]| ChaChaSuite.open(key, nonce, data, buffer, tag);
        match self.0 {
            Fault::IgnoresAssociatedData => ChaChaSuite.open(key, nonce, b"", buffer, tag),
            Fault::IgnoresLastTagByte => (0..=u8::MAX)
                .try_fold((), |(), last| {
                    let mut guess = *tag;
                    guess[15] = last;
                    // `Err` ends the fold here, so it stands for success.
                    ChaChaSuite.open(key, nonce, data, buffer, &guess).map_or(Ok(()), Err)
                })
                .map_or_else(Ok, |()| honest(buffer)),
            Fault::LeavesPlaintext => {
                let before = buffer.to_vec();
                honest(buffer).inspect_err(|_| {
                    buffer.copy_from_slice(&before);
                    // The key stream of the right key and nonce, without a look at the tag.
                    let _ = ChaChaSuite.seal(key, nonce, data, buffer);
                })
            }
            Fault::TellsCausesApart => honest(buffer).map_err(|error| match data.first() {
                Some(b'a') => error,
                _ => Error::new(ErrorKind::Corrupt, "the associated data is wrong"),
            }),
            Fault::WrongErrorKind => honest(buffer).map_err(|_| Error::new(ErrorKind::Io, "failed")),
            Fault::DoesNotEncrypt => Ok(()),
            Fault::AnotherCipher => ChaChaSuite.open(&key.map(|byte| !byte), nonce, data, buffer, tag),
            _ => honest(buffer),
        }
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        match self.0 {
            Fault::NotStrict => VerifyingKey::from_bytes(node.as_bytes()).is_ok_and(|key| {
                key.verify(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
            }),
            Fault::VerifiesAll => true,
            Fault::VerifiesNothing => false,
            _ => ChaChaSuite.verify(node, message, signature),
        }
    }
}

/// The message that the suite panics with.
fn complaint(suite: &dyn CryptoSuite, identity: &dyn Identity) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| crypto_suite(suite, identity)))
        .expect_err("a wrong implementation passes");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
}

#[test]
fn wrong_suites_fail_by_clause() {
    for (fault, clause) in [
        (Fault::IgnoresAssociatedData, "suite clause 2: opened in spite of a change: associated data"),
        (Fault::IgnoresLastTagByte, "suite clause 2: opened in spite of a change: tag byte 15"),
        (Fault::LeavesPlaintext, "suite clause 2: plaintext in the buffer"),
        (Fault::TellsCausesApart, "suite clause 2: errors tell the causes apart"),
        (Fault::WrongErrorKind, "suite clause 2: another kind of error"),
        (Fault::DoesNotEncrypt, "suite clause 1: seal does not encrypt"),
        (Fault::AnotherCipher, "suite clause 4"),
        (Fault::NotStrict, "suite clause 3: a key of small order verifies"),
        (Fault::VerifiesAll, "suite clause 3: verifies another message"),
        (Fault::VerifiesNothing, "identity clause 1"),
    ] {
        let said = complaint(&Wrong(fault), &identity());
        assert!(said.contains(clause), "{fault:?}: {said}");
    }
}

/// An identity that takes a new name each time it is asked.
#[derive(Debug)]
struct Fickle(AtomicU64);

impl Identity for Fickle {
    fn node_id(&self) -> NodeId {
        let mut secret = [3; 32];
        secret[0] = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        NodeIdentity::from_secret(secret).node_id()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        identity().sign(message)
    }
}

/// An identity that signs with another key than it is named by.
#[derive(Debug)]
struct Impostor;

impl Identity for Impostor {
    fn node_id(&self) -> NodeId {
        NodeIdentity::from_secret([4; 32]).node_id()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        identity().sign(message)
    }
}

#[test]
fn wrong_identities_fail_by_clause() {
    for wrong in [&Fickle(AtomicU64::new(0)) as &dyn Identity, &Impostor] {
        let said = complaint(&ChaChaSuite, wrong);
        assert!(said.contains("identity clause 1"), "{wrong:?}: {said}");
    }
}
