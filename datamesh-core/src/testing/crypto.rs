//! The conformance suite of the crypto port.
//!
//! Every check begins its message with the clause of the contract of [`CryptoSuite`] or [`Identity`] that
//! it is about. What cannot be seen from outside, the wiping of keys for instance, is not checked.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed check is a panic here")]

use crate::error::ErrorKind;
use crate::id::NodeId;
use crate::ports::{CryptoSuite, Identity, Nonce, SuiteId};

/// Lengths about the edges of a cipher's blocks, an empty buffer and a large one.
const LENGTHS: [usize; 9] = [0, 1, 15, 16, 63, 64, 65, 4096, 65_537];
const KEY: [u8; 32] = [0x42; 32];
const NONCE: Nonce = [0x24; 12];
const DATA: &[u8] = b"associated data";

/// Checks a crypto suite and an identity against the numbered clauses of their contracts.
///
/// # Panics
/// With the number of the clause that was broken.
pub fn crypto_suite(suite: &dyn CryptoSuite, identity: &dyn Identity) {
    round_trips(suite);
    changes_are_refused(suite);
    one_error_for_all_causes(suite);
    published_vector(suite);
    threads_agree(suite);
    identity_is_constant(suite, identity);
    verify_is_strict(suite, identity);
}

/// What a seal of `plaintext` gave, with all that is needed to open it.
#[derive(Clone)]
struct Sealed {
    key: [u8; 32],
    nonce: Nonce,
    data: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: [u8; 16],
}

impl Sealed {
    fn of(suite: &dyn CryptoSuite, plaintext: &[u8]) -> Self {
        let mut ciphertext = plaintext.to_vec();
        let tag = suite.seal(&KEY, &NONCE, DATA, &mut ciphertext).expect("suite clause 1: seal failed");
        Self { key: KEY, nonce: NONCE, data: DATA.to_vec(), ciphertext, tag }
    }

    /// The buffer after an attempt to open, and how the attempt ended.
    fn open(&self, suite: &dyn CryptoSuite) -> (Vec<u8>, crate::Result<()>) {
        let mut buffer = self.ciphertext.clone();
        let result = suite.open(&self.key, &self.nonce, &self.data, &mut buffer, &self.tag);
        (buffer, result)
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect()
}

fn round_trips(suite: &dyn CryptoSuite) {
    for length in LENGTHS {
        let plaintext = pattern(length);
        let sealed = Sealed::of(suite, &plaintext);
        let (opened, result) = sealed.open(suite);
        result.unwrap_or_else(|error| panic!("suite clause 1: {length} bytes do not open: {error}"));
        assert_eq!(opened, plaintext, "suite clause 1: {length} bytes come back changed");
        assert!(length < 16 || sealed.ciphertext != plaintext, "suite clause 1: seal does not encrypt");
        let again = Sealed::of(suite, &plaintext);
        assert!(
            again.ciphertext == sealed.ciphertext && again.tag == sealed.tag,
            "suite clause 4: the same input sealed twice gives different bytes"
        );
    }
}

/// One bit of each byte in turn, and changes of length, in every part that an opener is given.
fn changes_are_refused(suite: &dyn CryptoSuite) {
    let plaintext = pattern(100);
    let sealed = Sealed::of(suite, &plaintext);
    for at in 0..100 {
        refused(suite, &plaintext, &format!("ciphertext byte {at}"), &sealed, |s| s.ciphertext[at] ^= 1);
    }
    for at in 0..16 {
        refused(suite, &plaintext, &format!("tag byte {at}"), &sealed, |s| s.tag[at] ^= 0x80);
    }
    for at in 0..12 {
        refused(suite, &plaintext, &format!("nonce byte {at}"), &sealed, |s| s.nonce[at] ^= 1);
    }
    for at in 0..32 {
        refused(suite, &plaintext, &format!("key byte {at}"), &sealed, |s| s.key[at] ^= 0x80);
    }
    for at in 0..DATA.len() {
        refused(suite, &plaintext, &format!("associated data byte {at}"), &sealed, |s| s.data[at] ^= 1);
    }
    lengths_are_refused(suite, &plaintext, &sealed);
}

fn lengths_are_refused(suite: &dyn CryptoSuite, plaintext: &[u8], sealed: &Sealed) {
    refused(suite, plaintext, "no associated data", sealed, |s| s.data.clear());
    refused(suite, plaintext, "longer associated data", sealed, |s| s.data.push(0));
    refused(suite, plaintext, "a cut ciphertext", sealed, |s| s.ciphertext.truncate(99));
    refused(suite, plaintext, "an empty ciphertext", sealed, |s| s.ciphertext.clear());
    refused(suite, plaintext, "a longer ciphertext", sealed, |s| s.ciphertext.push(0));
    refused(suite, plaintext, "a byte moved from the data to the ciphertext", sealed, |s| {
        let moved = s.data.pop().unwrap();
        s.ciphertext.insert(0, moved);
    });
}

fn refused(
    suite: &dyn CryptoSuite,
    plaintext: &[u8],
    what: &str,
    sealed: &Sealed,
    change: impl FnOnce(&mut Sealed),
) {
    let mut changed = sealed.clone();
    change(&mut changed);
    let (buffer, result) = changed.open(suite);
    let error = result.expect_err(&format!("suite clause 2: opened in spite of a change: {what}"));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "suite clause 2: another kind of error for {what}");
    assert!(!shows(&buffer, plaintext), "suite clause 2: plaintext in the buffer after a failure: {what}");
}

/// Whether eight bytes of the plaintext stand where they belong; by chance one in 2^57 does.
fn shows(buffer: &[u8], plaintext: &[u8]) -> bool {
    buffer.chunks_exact(8).zip(plaintext.chunks_exact(8)).any(|(a, b)| a == b)
}

fn one_error_for_all_causes(suite: &dyn CryptoSuite) {
    let sealed = Sealed::of(suite, &pattern(64));
    let changes: [fn(&mut Sealed); 5] = [
        |s| s.key[0] ^= 1,
        |s| s.nonce[0] ^= 1,
        |s| s.tag[0] ^= 1,
        |s| s.ciphertext[0] ^= 1,
        |s| s.data[0] ^= 1,
    ];
    let texts = changes.map(|change| {
        let mut changed = sealed.clone();
        change(&mut changed);
        changed.open(suite).1.expect_err("suite clause 2: opened in spite of a change").to_string()
    });
    assert!(
        texts.iter().all(|text| *text == texts[0]),
        "suite clause 2: errors tell the causes apart: {texts:?}"
    );
}

/// RFC 8439, section 2.8.2, for a suite that says it is number 1.
fn published_vector(suite: &dyn CryptoSuite) {
    if suite.id() != SuiteId::CHACHA20_POLY1305 {
        return;
    }
    let key = std::array::from_fn(|at| 0x80 | at.to_le_bytes()[0]);
    let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
    let data = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
    let mut buffer = *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
for the future, sunscreen would be it.";
    let tag = suite.seal(&key, &nonce, &data, &mut buffer).expect("suite clause 1: seal failed");
    let expected =
        [0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60, 0x06, 0x91];
    assert_eq!(tag, expected, "suite clause 4: not the tag of RFC 8439, section 2.8.2");
    assert_eq!(buffer[..4], [0xd3, 0x1a, 0x8d, 0x34], "suite clause 4: not the ciphertext of RFC 8439");
}

fn threads_agree(suite: &dyn CryptoSuite) {
    let plaintext = pattern(4096);
    let expected = Sealed::of(suite, &plaintext);
    let agrees = || {
        (0..16).all(|_| {
            let sealed = Sealed::of(suite, &plaintext);
            sealed.tag == expected.tag && sealed.open(suite).0 == plaintext
        })
    };
    let agree = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(agrees)).collect();
        threads.into_iter().all(|thread| thread.join().is_ok_and(|agrees| agrees))
    });
    assert!(agree, "suite clause 5: threads disturb each other");
}

fn identity_is_constant(suite: &dyn CryptoSuite, identity: &dyn Identity) {
    let node = identity.node_id();
    for message in [&b""[..], b"m", &pattern(5000)] {
        let signature = identity.sign(message);
        assert_eq!(identity.node_id(), node, "identity clause 1: the node id changes");
        assert!(
            suite.verify(&node, message, &signature),
            "identity clause 1: the key that signs is not the node id's, or verify refuses good signatures"
        );
        assert_eq!(
            identity.sign(message),
            signature,
            "identity clause 1: Ed25519 signatures are deterministic"
        );
    }
}

fn verify_is_strict(suite: &dyn CryptoSuite, identity: &dyn Identity) {
    let (node, signature) = (identity.node_id(), identity.sign(b"message"));
    assert!(!suite.verify(&node, b"another", &signature), "suite clause 3: verifies another message");
    for at in 0..64 {
        let mut changed = signature;
        changed[at] ^= 1;
        assert!(
            !suite.verify(&node, b"message", &changed),
            "suite clause 3: byte {at} of a signature is free"
        );
    }
    for at in 0..32 {
        let mut other = *node.as_bytes();
        other[at] ^= 1;
        assert!(
            !suite.verify(&NodeId::from_bytes(other), b"message", &signature),
            "suite clause 3: verifies with another key"
        );
    }
    assert!(!suite.verify(&node, b"message", &plus_order(signature)), "suite clause 3: S + L is taken for S");
    small_order_keys_are_refused(suite);
}

/// The forgery that needs no secret: a key and an R of small order, and S = 0.
///
/// With the neutral element as the key it holds for every message where the check is not strict.
fn small_order_keys_are_refused(suite: &dyn CryptoSuite) {
    let neutral = std::array::from_fn(|at| u8::from(at == 0));
    let order_two = std::array::from_fn(|at| match at {
        0 => 0xec,
        31 => 0x7f,
        _ => 0xff,
    });
    for key in [neutral, order_two, [0; 32]] {
        for point in [neutral, order_two, [0; 32]] {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&point);
            for message in 0..16_u8 {
                assert!(
                    !suite.verify(&NodeId::from_bytes(key), &[message], &signature),
                    "suite clause 3: a key of small order verifies"
                );
            }
        }
    }
}

/// The same signature with the group's order added to its scalar, which RFC 8032 forbids.
fn plus_order(mut signature: [u8; 64]) -> [u8; 64] {
    let mut order = [0_u8; 32];
    order[..16].copy_from_slice(&[
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    ]);
    order[31] = 0x10;
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    signature
}
