//! Any value survives its encoding, and no bytes make a decoder panic.

use datamesh_core::format::*;
use datamesh_core::id::*;
use datamesh_core::ports::*;
use proptest::prelude::*;

use crate::samples::*;
use crate::suite::SUITE;

/// Runs every decoder over the bytes; most fail, none may panic.
fn decode_all(bytes: &[u8]) {
    let _ = Layout::decode(bytes);
    let _ = Manifest::decode(bytes).and_then(|manifest| manifest.open(&keys(), &SUITE));
    let _ = Capability::from_bytes(bytes);
    let _ = SignedRecord::decode(bytes, &SUITE);
    let _ = (SignedCertificate::decode(bytes, &SUITE), SignedEpoch::decode(bytes, &SUITE));
    let _ = (Epochs::decode(bytes, &SUITE), AdmissionKeys::decode(bytes));
    let _ = Request::decode(bytes);
    let _ = Reply::decode(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = (text.parse::<Capability>(), text.parse::<Ticket>(), text.parse::<Zone>());
}

/// One encoding of everything.
fn encodings() -> Vec<Vec<u8>> {
    let own = Capability::own(single_manifest().0, owner());
    let mut all = vec![
        layout().encode().to_vec(),
        inline_manifest().1.to_vec(),
        single_manifest().1.to_vec(),
        many_manifest().1.to_vec(),
        own.to_bytes().to_vec(),
        own.to_text().as_bytes().to_vec(),
        ticket().to_text().as_bytes().to_vec(),
        record().encode().to_vec(),
        certificate().encode().to_vec(),
        epoch().encode().to_vec(),
        epochs().encode().to_vec(),
        AdmissionKeys(vec![certificate().authority()]).encode().to_vec(),
    ];
    all.extend(requests().iter().map(|request| request.encode().to_vec()));
    all.extend(replies().iter().map(|reply| reply.encode().to_vec()));
    all
}

/// Whether any decoder takes the bytes.
fn decodes(bytes: &[u8]) -> bool {
    Layout::decode(bytes).is_ok()
        || Manifest::decode(bytes).is_ok()
        || Capability::from_bytes(bytes).is_ok()
        || SignedRecord::decode(bytes, &SUITE).is_ok()
        || SignedCertificate::decode(bytes, &SUITE).is_ok()
        || SignedEpoch::decode(bytes, &SUITE).is_ok()
        || Epochs::decode(bytes, &SUITE).is_ok()
        || AdmissionKeys::decode(bytes).is_ok()
        || Request::decode(bytes).is_ok()
        || Reply::decode(bytes).is_ok()
}

#[test]
fn nothing_decodes_when_cut_short() {
    for encoding in encodings() {
        for length in 0..encoding.len() {
            assert!(!decodes(&encoding[..length]), "cut at {length} of {}", encoding.len());
            decode_all(&encoding[..length]);
        }
    }
}

#[test]
fn a_flipped_byte_never_panics() {
    for encoding in encodings() {
        for position in 0..encoding.len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut changed = encoding.clone();
                changed[position] ^= flip;
                decode_all(&changed);
            }
        }
    }
}

prop_compose! {
    fn any_layout()(
        (data, parity) in (1u8..=128, 0u8..=128),
        code in any::<u16>(),
        cut in any::<prop::sample::Index>(),
        (blocks, fewer) in (1u32..=(MAX_BLOB_LEN as u32 / 64), any::<prop::sample::Index>()),
        names in any::<[[u8; 32]; 2]>(),
        shard in any::<[u8; 32]>(),
    ) -> Layout {
        let redundancy = Redundancy::new(data, parity).unwrap();
        let segments = 1 + cut.index(segments_per_extent(redundancy));
        Layout {
            code: CodeId(code),
            redundancy,
            shard_len: blocks * 64,
            segments: segments as u8,
            last_shard_len: (1 + fewer.index(blocks as usize) as u32) * 64,
            placement: PlacementKey::from_bytes(names[0]),
            removal: RemovalHash::from_bytes(names[1]),
            shards: vec![ShardId::from_bytes(shard); segments * redundancy.total()],
        }
    }
}

fn any_header() -> impl Strategy<Value = Header> {
    let data = prop::collection::vec(any::<u8>(), 0..2000);
    let metadata = prop::collection::btree_map(".{0,20}", ".{0,40}", 0..20);
    (data, prop::option::of(".{0,40}"), metadata).prop_map(|(data, media_type, metadata)| Header {
        len: data.len() as u64,
        media_type,
        metadata,
        inline: Some(data.into()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn layouts_survive(layout in any_layout()) {
        let encoded = layout.encode();
        prop_assert!(encoded.len() <= MAX_LAYOUT_LEN);
        prop_assert_eq!(Layout::decode(&encoded).unwrap(), layout);
    }

    #[test]
    fn headers_survive(header in any_header()) {
        let (_, bytes) = seal(public(Extents::Inline), &header);
        let manifest = Manifest::decode(&bytes).unwrap();
        prop_assert_eq!(manifest.open(&keys(), &SUITE).unwrap(), header);
    }

    #[test]
    fn capabilities_survive(object in any::<[u8; 32]>(), secret in any::<[u8; 32]>()) {
        let own = Capability::own(ObjectId::from_bytes(object), OwnerSecret::from_bytes(secret));
        for capability in [own.to_read().unwrap(), own.to_verify(), own] {
            prop_assert_eq!(capability.to_text().parse::<Capability>().unwrap(), capability.clone());
            prop_assert_eq!(Capability::from_bytes(&capability.to_bytes()).unwrap(), capability);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_all(&bytes);
    }

    #[test]
    fn random_maps_never_panic(kind in 0u8..24, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&[&[0xa3, 0, 1, 1, kind, 2], &bytes[..]].concat());
    }
}
