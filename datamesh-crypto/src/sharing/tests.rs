use hpke::rand_core::TryRng as _;

use super::*;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    bytes(text).try_into().unwrap()
}

fn bytes(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn recipient() -> RecipientSecret {
    RecipientSecret::from_secret([7; 32])
}

/// RFC 9180, appendix A.2.1, sequence number 0.
#[test]
fn rfc_9180_vector() {
    let secret =
        RecipientSecret::from_secret(hex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"));
    let info = bytes("4f6465206f6e2061204772656369616e2055726e");
    let plaintext = bytes("4265617574792069732074727574682c20747275746820626561757479");
    let ephemeral = hex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");

    assert_eq!(
        secret.public().as_bytes(),
        &hex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
    );
    let (encapped, ciphertext) =
        hpke_seal(&secret.public(), &info, b"Count-0", &plaintext, ephemeral).unwrap();
    assert_eq!(encapped, hex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"));
    assert_eq!(
        ciphertext,
        bytes("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28")
    );
    assert_eq!(hpke_open(&secret, &info, b"Count-0", &encapped, &ciphertext).unwrap(), plaintext);
}

#[test]
fn round_trip_at_the_limits() {
    for length in [0, 1, 100, MAX_PLAINTEXT_LEN] {
        let plaintext = vec![3; length];
        let sealed = seal_to(&recipient().public(), b"context", &plaintext, [9; 32]).unwrap();
        assert_eq!(sealed.len(), length + OVERHEAD);
        assert_eq!(*open(&recipient(), b"context", &sealed).unwrap(), plaintext);
    }
    let too_long = seal_to(&recipient().public(), b"", &vec![0; MAX_PLAINTEXT_LEN + 1], [9; 32]);
    assert_eq!(too_long.unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn every_flipped_bit_and_every_cut_is_one_error() {
    let sealed = seal_to(&recipient().public(), b"context", b"capability", [9; 32]).unwrap();
    let one = open(&RecipientSecret::from_secret([8; 32]), b"context", &sealed).unwrap_err();
    assert_eq!(one.kind(), ErrorKind::AccessDenied);

    let flips = (0..sealed.len()).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    let flipped = flips.map(|(at, bit)| {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << bit;
        changed
    });
    let cut = (0..sealed.len()).map(|length| sealed[..length].to_vec());
    let longer = [[&sealed[..], &[0]].concat(), vec![1; MAX_SEALED_LEN + 1]];
    for changed in flipped.chain(cut).chain(longer) {
        // The top bit of an X25519 key is ignored by RFC 7748, but it is bound by the KEM context.
        let error = open(&recipient(), b"context", &changed).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (one.kind(), one.to_string()));
    }
    let elsewhere = open(&recipient(), b"another context", &sealed).unwrap_err();
    assert_eq!(elsewhere.to_string(), one.to_string());
}

#[test]
fn weak_recipient_keys_are_refused() {
    let order_eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let mut one = [0; 32];
    one[0] = 1;
    for weak in [[0; 32], one, hex(order_eight)] {
        let error = seal_to(&RecipientPublic::from_bytes(weak), b"", b"secret", [9; 32]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    // An encapsulated key of small order would make the shared secret known to everybody.
    let mut sealed = seal_to(&recipient().public(), b"", b"secret", [9; 32]).unwrap();
    sealed[2..34].fill(0);
    assert_eq!(open(&recipient(), b"", &sealed).unwrap_err().kind(), ErrorKind::AccessDenied);
}

#[test]
fn another_seed_gives_unrelated_bytes() {
    let [a, b] = [1, 2].map(|seed| seal_to(&recipient().public(), b"", b"same", [seed; 32]).unwrap());
    assert_ne!(a[2..34], b[2..34]);
    assert_ne!(a[34..], b[34..]);
}

#[test]
fn text_form_round_trips_and_refuses_typing_errors() {
    let key = recipient().public();
    let text = key.to_string();
    assert_eq!(text.len(), PREFIX.len() + 58);
    assert_eq!(text.parse::<RecipientPublic>().unwrap(), key);
    let wrong = (0..text.len()).map(|at| {
        let replacement = if text.as_bytes()[at] == b'a' { "b" } else { "a" };
        format!("{}{replacement}{}", &text[..at], &text[at + 1..])
    });
    let others = [String::new(), text.to_uppercase(), format!("{text}a"), text[..61].into(), "é".repeat(31)];
    for wrong in wrong.chain(others) {
        assert_eq!(wrong.parse::<RecipientPublic>().unwrap_err().kind(), ErrorKind::InvalidInput, "{wrong}");
    }
}

#[test]
fn debug_prints_no_secret() {
    assert_eq!(format!("{:?}", recipient()), "RecipientSecret(..)");
}

#[test]
fn the_seed_stream_goes_on_after_the_seed() {
    let mut stream = [0; 96];
    SeedRng::new([5; 32]).try_fill_bytes(&mut stream).unwrap();
    assert_eq!(stream[..32], [5; 32]);
    assert_ne!(stream[32..64], stream[64..]);
    assert_ne!(stream[32..64], [5; 32]);
}
