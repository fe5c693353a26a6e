//! Published vectors, and inputs that a careless implementation accepts.
#![expect(clippy::unwrap_used, reason = "helpers outside test functions fail the test as well")]

use datamesh_core::ErrorKind;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Identity};
use datamesh_crypto::{ChaChaSuite, NodeIdentity};

fn bytes(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    bytes(text).try_into().unwrap()
}

/// RFC 8439, section 2.8.2.
const SUNSCREEN: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
for the future, sunscreen would be it.";
const SEALED: &str = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
3ff4def08e4b7a9de576d26586cec64b6116";

#[test]
fn rfc_8439_aead() {
    let key: [u8; 32] = std::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap());
    let nonce = hex("070000004041424344454647");
    let data = bytes("50515253c0c1c2c3c4c5c6c7");
    let mut buffer = SUNSCREEN.to_vec();
    let tag = ChaChaSuite.seal(&key, &nonce, &data, &mut buffer).unwrap();
    assert_eq!(buffer, bytes(SEALED));
    assert_eq!(tag, hex("1ae10b594f09e26a7e902ecbd0600691"));
    ChaChaSuite.open(&key, &nonce, &data, &mut buffer, &tag).unwrap();
    assert_eq!(buffer, SUNSCREEN);
}

#[test]
fn every_flipped_byte_fails_and_leaves_the_buffer_alone() {
    let (key, nonce, data) = ([1; 32], [2; 12], [3; 20]);
    let mut sealed = SUNSCREEN.to_vec();
    let tag = ChaChaSuite.seal(&key, &nonce, &data, &mut sealed).unwrap();
    let whole = [&key[..], &nonce, &data, &sealed, &tag].concat();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x80;
        let (key, rest) = changed.split_first_chunk().unwrap();
        let (nonce, rest) = rest.split_first_chunk().unwrap();
        let (data, rest) = rest.split_at(data.len());
        let (ciphertext, tag) = rest.split_last_chunk().unwrap();
        let mut buffer = ciphertext.to_vec();
        let error = ChaChaSuite.open(key, nonce, data, &mut buffer, tag).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
        assert_eq!(buffer, ciphertext, "byte {at}");
    }
}

/// RFC 8032, section 7.1: tests 1, 2 and 3.
#[test]
fn rfc_8032_signatures() {
    for (secret, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
             5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let identity = NodeIdentity::from_secret(hex(secret));
        assert_eq!(identity.node_id(), NodeId::from_bytes(hex(public)));
        assert_eq!(identity.sign(&bytes(message)), hex::<64>(signature));
        assert!(ChaChaSuite.verify(&identity.node_id(), &bytes(message), &hex(signature)));
    }
}

#[test]
fn every_flipped_bit_of_a_signature_or_key_fails() {
    let identity = NodeIdentity::from_secret([4; 32]);
    let (node, signature) = (identity.node_id(), identity.sign(b"message"));
    assert!(!ChaChaSuite.verify(&node, b"massage", &signature));
    for at in 0..64 * 8 {
        let mut changed = signature;
        changed[at / 8] ^= 1 << (at % 8);
        assert!(!ChaChaSuite.verify(&node, b"message", &changed), "signature bit {at}");
    }
    for at in 0..32 * 8 {
        let mut changed = *node.as_bytes();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(!ChaChaSuite.verify(&NodeId::from_bytes(changed), b"message", &signature), "key bit {at}");
    }
}

/// The eight points of small order, and the ways of writing some of them with y >= p or a sign of zero.
const SMALL_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

#[test]
fn small_order_keys_verify_nothing() {
    for key in SMALL_ORDER {
        for point in SMALL_ORDER {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&bytes(point));
            for message in [&b""[..], b"a", b"b", b"c", b"d", b"e", b"f", b"g"] {
                assert!(
                    !ChaChaSuite.verify(&NodeId::from_bytes(hex(key)), message, &signature),
                    "{key} {point}"
                );
            }
        }
    }
}

#[test]
fn a_small_order_point_in_an_honest_signature_fails() {
    let identity = NodeIdentity::from_secret([4; 32]);
    for point in SMALL_ORDER {
        let mut signature = identity.sign(b"message");
        signature[..32].copy_from_slice(&bytes(point));
        assert!(!ChaChaSuite.verify(&identity.node_id(), b"message", &signature));
    }
}

/// The order of the base point, little end first.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

/// Adds the group's order to the scalar of a signature as often as it fits: what RFC 8032 section 8.4 forbids.
#[test]
fn malleable_signatures_fail() {
    let identity = NodeIdentity::from_secret([4; 32]);
    let mut signature = identity.sign(b"message");
    assert!(ChaChaSuite.verify(&identity.node_id(), b"message", &signature));
    for multiple in 1..8 {
        let mut carry = 0;
        for (byte, order) in signature[32..].iter_mut().zip(bytes(ORDER)) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert!(!ChaChaSuite.verify(&identity.node_id(), b"message", &signature), "S + {multiple} L");
    }
}

#[test]
fn names_of_a_wrong_length_are_refused() {
    let text = NodeIdentity::from_secret([4; 32]).node_id().to_string();
    for wrong in [&text[..51], &text[..50], "", &format!("{text}a")] {
        assert_eq!(wrong.parse::<NodeId>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

/// RFC 7748, section 6.1, by the curve that the sharing module builds on.
#[test]
fn rfc_7748_shared_secret() {
    use x25519_dalek::{PublicKey, StaticSecret};
    let alice = StaticSecret::from(hex::<32>(ALICE));
    let bob = StaticSecret::from(hex::<32>(BOB));
    let shared = hex::<32>("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(alice.diffie_hellman(&PublicKey::from(&bob)).to_bytes(), shared);
    assert_eq!(bob.diffie_hellman(&PublicKey::from(&alice)).to_bytes(), shared);
    for (secret, public) in [(ALICE, ALICE_PUBLIC), (BOB, BOB_PUBLIC)] {
        let ours = datamesh_crypto::sharing::RecipientSecret::from_secret(hex(secret)).public();
        assert_eq!(ours.as_bytes(), &hex(public));
    }
}

const ALICE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
const ALICE_PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
const BOB: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
const BOB_PUBLIC: &str = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
