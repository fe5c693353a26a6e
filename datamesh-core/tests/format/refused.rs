//! Field by field: what each decoder must refuse, and as what.

use datamesh_core::ErrorKind::{
    self, AccessDenied, Corrupt, InvalidInput, LimitExceeded, Protocol, Unsupported,
};
use datamesh_core::Result;
use datamesh_core::format::*;
use datamesh_core::id::*;
use datamesh_core::ports::*;
use minicbor::{Decoder, Encoder};

use crate::samples::*;
use crate::suite::{Key, SUITE};

/// The encoded map with one field's value replaced, added in its place, or left out.
pub(crate) fn edit(map: &[u8], key: u64, value: Option<Vec<u8>>) -> Vec<u8> {
    let mut decoder = Decoder::new(map);
    let count = decoder.map().unwrap().unwrap();
    let mut fields = std::collections::BTreeMap::new();
    for _ in 0..count {
        let key = decoder.u64().unwrap();
        let start = decoder.position();
        decoder.skip().unwrap();
        fields.insert(key, map[start..decoder.position()].to_vec());
    }
    fields.remove(&key);
    fields.extend(value.map(|value| (key, value)));
    raw_map(fields.into_iter().collect())
}

fn raw_map(fields: Vec<(u64, Vec<u8>)>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(fields.len() as u64).unwrap();
    for (key, value) in fields {
        encoder.u64(key).unwrap();
        encoder.writer_mut().extend(value);
    }
    encoder.into_writer()
}

pub(crate) fn field(map: &[u8], key: u64) -> Vec<u8> {
    let mut decoder = Decoder::new(map);
    for _ in 0..decoder.map().unwrap().unwrap() {
        if decoder.u64().unwrap() == key {
            return decoder.bytes().unwrap().to_vec();
        }
        decoder.skip().unwrap();
    }
    panic!("no field {key}");
}

fn uint(value: u64) -> Option<Vec<u8>> {
    Some(minicbor::to_vec(value).unwrap())
}

pub(crate) fn bytes(value: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.bytes(value).unwrap();
    Some(encoder.into_writer())
}

#[track_caller]
pub(crate) fn refused<T>(result: Result<T>, kind: ErrorKind, why: &str) {
    match result {
        Ok(_) => panic!("accepted: {why}"),
        Err(error) => assert_eq!(error.kind(), kind, "{why}: {error}"),
    }
}

#[test]
fn layouts_field_by_field() {
    let good = layout().encode();
    assert_eq!(edit(&good, 99, None), good);
    let cases = [
        (0, uint(2), Unsupported, "version"),
        (0, None, Corrupt, "no version"),
        (1, uint(1 << 16), Corrupt, "code"),
        (2, uint(0), Corrupt, "k = 0"),
        (2, uint(129), Corrupt, "k = 129"),
        (2, uint(3), Corrupt, "too few shard ids"),
        (3, uint(129), Corrupt, "m = 129"),
        (4, uint(0), Corrupt, "shard length 0"),
        (4, uint(575), Corrupt, "shard length off the alignment"),
        (4, uint((4 << 20) + (64 << 10) + 64), Corrupt, "shard length over the limit"),
        (5, uint(0), Corrupt, "no segment"),
        (5, uint(65), Corrupt, "65 segments"),
        (5, uint(3), Corrupt, "segments and shards differ"),
        (6, uint(0), Corrupt, "last shard length 0"),
        (6, uint(640), Corrupt, "last shard length over the others"),
        (7, bytes(&[0; 31]), Corrupt, "placement key"),
        (8, uint(8), Corrupt, "removal hash"),
        (9, bytes(&[0; 127]), Corrupt, "a part of a shard id"),
        (9, bytes(&[0; 96]), Corrupt, "one shard id too few"),
        (9, None, Corrupt, "no shard ids"),
        (10, uint(0), Unsupported, "an unknown field"),
    ];
    for (key, value, kind, why) in cases {
        refused(Layout::decode(&edit(&good, key, value)), kind, why);
    }
}

#[test]
fn layouts_have_one_encoding() {
    let good = layout().encode();
    let long_number = edit(&good, 5, Some(vec![0x18, 2]));
    refused(Layout::decode(&long_number), Corrupt, "a number in more bytes than it needs");
    refused(Layout::decode(&[&good[..], &[0]].concat()), Corrupt, "a byte behind the end");
    let twice = raw_map(vec![(0, vec![1]), (1, vec![1]), (1, vec![1])]);
    refused(Layout::decode(&twice), Corrupt, "a key that comes twice");
    refused(Layout::decode(&raw_map(vec![(1, vec![1]), (0, vec![1])])), Corrupt, "keys out of order");
    refused(Layout::decode(&vec![0; MAX_LAYOUT_LEN + 1]), Corrupt, "over the limit");
    refused(Layout::decode(&[0xbf, 0, 1, 0xff]), Corrupt, "a map of no stated length");
}

#[test]
fn the_longest_layouts_fit() {
    for (data, parity) in [(1, 0), (4, 2), (10, 4), (128, 128), (31, 1), (32, 0)] {
        let redundancy = Redundancy::new(data, parity).unwrap();
        let segments = segments_per_extent(redundancy);
        let mut longest = layout();
        longest.code = CodeId(u16::MAX);
        longest.redundancy = redundancy;
        longest.shard_len = MAX_BLOB_LEN as u32;
        longest.last_shard_len = MAX_BLOB_LEN as u32;
        longest.segments = segments as u8;
        longest.shards = vec![ShardId::from_bytes([1; 32]); segments * redundancy.total()];
        let encoded = longest.encode();
        assert!(encoded.len() <= MAX_LAYOUT_LEN, "{redundancy}: {} bytes", encoded.len());
        assert_eq!(Layout::decode(&encoded).unwrap(), longest);
    }
}

/// The single-extent manifest with one field of its public part changed.
fn with_public(key: u64, value: Option<Vec<u8>>) -> Vec<u8> {
    let good = single_manifest().1;
    edit(&good, 1, bytes(&edit(&field(&good, 1), key, value)))
}

#[test]
fn manifests_field_by_field() {
    let good = single_manifest().1;
    refused(Manifest::decode(&edit(&good, 0, uint(2))), Unsupported, "version");
    refused(Manifest::decode(&edit(&good, 3, uint(0))), Unsupported, "an unknown field");
    refused(Manifest::decode(&edit(&good, 2, None)), Corrupt, "no sealed part");
    refused(Manifest::decode(&edit(&good, 2, bytes(&[0; 15]))), Corrupt, "a sealed part without a tag");
    refused(Manifest::decode(&edit(&good, 2, bytes(&vec![0; 64 << 10]))), Corrupt, "a long sealed part");
    refused(Manifest::decode(&[&good[..], &[0]].concat()), Corrupt, "a byte behind the end");
    refused(Manifest::decode(&vec![0; MAX_MANIFEST_LEN + 1]), Corrupt, "over the limit");
    let mut other = layout();
    other.placement = PlacementKey::of_extent(&salt(), 1);
    let many = |count: usize| bytes(&vec![0; count * 32]);
    let cases = [
        (0, uint(2), Unsupported, "version"),
        (1, uint(1 << 16), Corrupt, "suite"),
        (2, uint(2), Corrupt, "another code than the layout's"),
        (3, uint(0), Corrupt, "k = 0"),
        (4, uint(1), Corrupt, "another redundancy than the layout's"),
        (5, uint(1023), Corrupt, "short segments"),
        (5, uint((4 << 20) + 1), Corrupt, "long segments"),
        (6, bytes(&[0; 33]), Corrupt, "salt"),
        (6, bytes(&[0; 32]), Corrupt, "a salt that is not the placement key's"),
        (7, bytes(&[]), Corrupt, "commitment"),
        (8, bytes(&[0; 32]), Corrupt, "another removal hash than the layout's"),
        (9, bytes(&[]), Corrupt, "layout"),
        (9, bytes(&other.encode()), Corrupt, "the layout of another extent"),
        (10, many(2), Corrupt, "a layout and a list"),
        (11, uint(0), Unsupported, "an unknown field"),
    ];
    for (key, value, kind, why) in cases {
        refused(Manifest::decode(&with_public(key, value)), kind, why);
    }
    let listed = |value| {
        let good = many_manifest().1;
        Manifest::decode(&edit(&good, 1, bytes(&edit(&field(&good, 1), 10, value))))
    };
    assert!(listed(many(3)).is_ok());
    refused(listed(many(1)), Corrupt, "a list of one");
    refused(listed(bytes(&[0; 65])), Corrupt, "a part of an extent id");
}

#[test]
fn a_public_part_that_was_changed_does_not_open() {
    let good = many_manifest().1;
    let changed = edit(&good, 1, bytes(&edit(&field(&good, 1), 10, bytes(&[7; 96]))));
    refused(Manifest::decode(&changed).unwrap().open(&keys(), &SUITE), Corrupt, "other extents");
}

#[test]
fn manifests_that_contradict_themselves_are_not_sealed() {
    let seal = |extents: Extents, header: Header| Manifest::seal(public(extents), &header, &keys(), &SUITE);
    let single = || Extents::Single(layout());
    let many = |count| Extents::Many(vec![ExtentId::from_bytes([1; 32]); count]);
    refused(seal(Extents::Inline, header(10, Some(b"eleven byte"))), InvalidInput, "another length inline");
    refused(seal(Extents::Inline, header(0, None)), InvalidInput, "no data");
    refused(seal(single(), header(1500, Some(b"data"))), InvalidInput, "two kinds of data");
    refused(seal(single(), header(0, None)), InvalidInput, "an empty object with an extent");
    refused(seal(single(), header(1024, None)), InvalidInput, "a segment too many");
    refused(seal(single(), header(2049, None)), InvalidInput, "a segment too few");
    refused(seal(single(), header(2048, None)), InvalidInput, "another last shard length");
    refused(seal(many(1), header(1500, None)), InvalidInput, "a list of one");
    refused(seal(many(2), header(64 * 1024, None)), InvalidInput, "an extent too many");
    refused(seal(many(2), header(128 * 1024 + 1, None)), InvalidInput, "an extent too few");
    refused(
        seal(Extents::Inline, header(16 << 10 | 1, Some(&[0; 16 << 10 | 1]))),
        LimitExceeded,
        "long data",
    );
    refused(seal(many(2), header(MAX_OBJECT_LEN + 1, None)), LimitExceeded, "a long object");
    let mut talkative = header(0, Some(b""));
    talkative.metadata.insert("key".into(), "v".repeat(MAX_METADATA_LEN));
    refused(seal(Extents::Inline, talkative), LimitExceeded, "long metadata");
    let mut many_entries = header(0, Some(b""));
    many_entries.metadata = (0..=MAX_METADATA_ENTRIES).map(|n| (n.to_string(), String::new())).collect();
    refused(seal(Extents::Inline, many_entries), LimitExceeded, "many entries");
    let mut other = public(Extents::Inline);
    other.commitment = KeyCommitment::from_bytes([0; 32]);
    refused(Manifest::seal(other, &header(0, Some(b"")), &keys(), &SUITE), InvalidInput, "other keys");
}

#[test]
fn the_longest_manifests_fit() {
    let mut longest = header(MAX_INLINE_LEN as u64, Some(&[0; MAX_INLINE_LEN]));
    longest.metadata = (0..MAX_METADATA_ENTRIES - 1).map(|n| (format!("{n:04}"), "x".repeat(11))).collect();
    longest.metadata.insert("rest".into(), "x".repeat(MAX_METADATA_LEN - 10 - 4 - 1023 * 15));
    let (_, bytes) = seal(public(Extents::Inline), &longest);
    assert_eq!(Manifest::decode(&bytes).unwrap().open(&keys(), &SUITE).unwrap(), longest);
}

#[test]
fn lengths_and_counts() {
    assert_eq!([0, 1, 1024, 1025].map(|len| segment_count(len, 1024)), [0, 1, 1, 2]);
    assert_eq!(segment_count(u64::MAX, 1), u64::MAX);
    let standard = Redundancy::STANDARD;
    assert_eq!([0, 16, 257, (1 << 20) + 16].map(|len| shard_len(len, standard)), [0, 64, 128, 262_208]);
    assert_eq!(segments_per_extent(standard), 64);
    assert_eq!(segments_per_extent(Redundancy::new(128, 128).unwrap()), 7);
    let layout = layout();
    assert_eq!([0, 1].map(|segment| layout.shard_len_of(segment)), [576, 256]);
    assert_eq!(layout.shard(1, 1), layout.shards.last().copied());
    assert_eq!([layout.shard(0, 2), layout.shard(2, 0), layout.shard(usize::MAX, 1)], [None; 3]);
}

#[test]
fn capabilities() {
    let own = Capability::own(single_manifest().0, owner());
    let text = own.to_text().to_string();
    let parse = |text: &str| text.parse::<Capability>();
    refused(parse(""), InvalidInput, "empty");
    refused(parse(&text.to_uppercase()), InvalidInput, "upper case");
    refused(parse(&text.replace("dmo1", "dmr1")), InvalidInput, "another kind: the checksum covers it");
    refused(parse(&text.replace("dmo1", "dmo2")), Unsupported, "version 2");
    refused(parse(&text.replace("dmo1", "dmx1")), InvalidInput, "kind x");
    refused(parse(&text[..text.len() - 1]), InvalidInput, "cut");
    refused(parse(&format!("{text}a")), InvalidInput, "extended");
    refused(parse(&"dmo1".repeat(1000)), InvalidInput, "long");
    for position in 4..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[position] = if changed[position] == b'a' { b'b' } else { b'a' };
        refused(parse(std::str::from_utf8(&changed).unwrap()), InvalidInput, "a changed character");
    }
    let bytes = own.to_bytes();
    assert_eq!(Capability::from_bytes(&bytes).unwrap(), own);
    refused(Capability::from_bytes(&bytes[..65]), Corrupt, "cut");
    refused(Capability::from_bytes(&[]), Corrupt, "empty");
    refused(Capability::from_bytes(&[&[2], &bytes[1..]].concat()), Unsupported, "version 2");
    refused(Capability::from_bytes(&[&[1, 4], &bytes[2..]].concat()), Unsupported, "kind 4");
    refused(
        Capability::from_bytes(&[&[1, 1], &bytes[2..]].concat()),
        Corrupt,
        "a verify capability with a secret",
    );
}

#[test]
fn tickets_and_records() {
    let text = ticket().to_text().to_string();
    refused(text.replace("dmt1", "dmt2").parse::<Ticket>(), Unsupported, "version 2");
    refused(text[..text.len() - 8].parse::<Ticket>(), InvalidInput, "cut");
    refused("dmt1".repeat(10_000).parse::<Ticket>(), InvalidInput, "long");
    let mut crowded = ticket();
    crowded.addresses = vec![format!("/{}", "a".repeat(255)).parse().unwrap(); 40];
    assert_eq!(crowded.to_text().parse::<Ticket>().unwrap().addresses.len(), MAX_TICKET_ADDRESSES);

    let good = record().encode();
    let decode = |bytes: &[u8]| SignedRecord::decode(bytes, &SUITE);
    let inner = field(&good, 1);
    refused(decode(&edit(&good, 2, bytes(&[0; 64]))), AccessDenied, "signature");
    refused(decode(&edit(&good, 2, bytes(&[0; 63]))), Corrupt, "short signature");
    refused(decode(&edit(&good, 3, uint(0))), Unsupported, "an unknown field");
    refused(decode(&edit(&good, 1, bytes(&edit(&inner, 5, uint(43))))), AccessDenied, "another sequence");
    refused(decode(&edit(&good, 1, bytes(&edit(&inner, 3, bytes(b"zone"))))), Corrupt, "zone");
    refused(decode(&edit(&good, 1, bytes(&edit(&inner, 2, Some(vec![0x91; 18]))))), Corrupt, "17 addresses");
    let mut crowded = record().record().clone();
    crowded.addresses = vec!["/a".parse().unwrap(); 17];
    refused(crowded.clone().sign(&Key::new(7)), LimitExceeded, "17 addresses");
    refused(crowded.sign(&Key::new(8)), InvalidInput, "another node's key");
    crowded_record_fits();
    for zone in ["", "a\nb", &"z".repeat(65)] {
        refused(zone.parse::<Zone>(), InvalidInput, zone);
    }
}

fn crowded_record_fits() {
    let mut longest = record().record().clone();
    longest.addresses = vec!["a".repeat(256).parse().unwrap(); MAX_ADDRESSES];
    longest.zone = "z".repeat(MAX_ZONE_LEN).parse().unwrap();
    (longest.capacity, longest.sequence) = (u64::MAX, u64::MAX);
    let bytes = longest.sign(&Key::new(7)).unwrap().encode();
    assert!(SignedRecord::decode(&bytes, &SUITE).is_ok(), "{} bytes", bytes.len());
}

#[test]
fn messages() {
    let ping = Request::Ping.encode();
    let request = |key, value| Request::decode(&edit(&ping, key, value));
    refused(request(0, uint(2)), Unsupported, "version");
    refused(request(1, uint(77)), Unsupported, "a request of the future");
    refused(request(1, None), Protocol, "no request");
    refused(request(1, uint(3)), Protocol, "stage without a shard");
    refused(Request::decode(&[&ping[..], &[0]].concat()), Protocol, "a byte behind the end");
    refused(Request::decode(&vec![0; MAX_HEAD_LEN + 1]), Protocol, "over the limit");
    assert_eq!(
        request(9, Some(vec![0x82, 0x81, 0xa0, 0x60])).unwrap(),
        Request::Ping,
        "a field of the future"
    );
    assert_eq!(Reply::decode(&edit(&Reply::Done.encode(), 9, uint(1))).unwrap(), Reply::Done);
    refused(Reply::decode(&edit(&Reply::Done.encode(), 1, uint(77))), Unsupported, "a reply of the future");
    let twice = Request::Commit { operation: OperationId::from_bytes([0; 16]), indexes: vec![1, 1] };
    refused(Request::decode(&twice.encode()), Protocol, "an index that comes twice");
    let long = Reply::Failed { refusal: Refusal::Busy, text: format!("{}\u{20ac}", "x".repeat(254)) };
    let shortened = Reply::Failed { refusal: Refusal::Busy, text: "x".repeat(254) };
    assert_eq!(Reply::decode(&long.encode()).unwrap(), shortened);
}

#[test]
fn certificates_and_epochs() {
    let (certificate, epoch) = (certificate().encode(), epoch().encode());
    let denied = |error: datamesh_core::Error| assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    // A signature over one kind of value is none over another.
    denied(SignedEpoch::decode(&certificate, &SUITE).unwrap_err());
    denied(SignedCertificate::decode(&epoch, &SUITE).unwrap_err());
    for at in 0..certificate.len() {
        let mut altered = certificate.to_vec();
        altered[at] ^= 1;
        assert!(SignedCertificate::decode(&altered, &SUITE).is_err(), "byte {at}");
    }
    let text = self::certificate().to_text();
    assert_eq!(SignedCertificate::from_text(&text, &SUITE).unwrap(), self::certificate());
    assert!(SignedCertificate::from_text(&text.replacen('a', "b", 1), &SUITE).is_err());
}

#[test]
fn epochs_are_of_one_number_and_in_order() {
    let list = |epochs: &[&SignedEpoch]| {
        let mut bytes = vec![0xa2, 0, 1, 1, 0x80 | epochs.len() as u8];
        for epoch in epochs {
            let encoded = epoch.encode();
            assert!(encoded.len() < 256, "a longer one has a longer head");
            bytes.extend([0x58, encoded.len() as u8]);
            bytes.extend_from_slice(&encoded);
        }
        bytes
    };
    let epochs = epochs();
    let [first, second] = epochs.signed() else { panic!("{epochs:?}") };
    assert_eq!(list(&[first, second]), epochs.encode());
    assert!(Epochs::decode(&list(&[first]), &SUITE).is_ok());
    let later = Epoch { number: 4, ..first.epoch().clone() }.sign(&Key::new(8)).unwrap();
    for wrong in [&[] as &[_], &[second, first], &[first, first], &[first, &later], &[first; MAX_EPOCHS + 1]]
    {
        assert_eq!(Epochs::decode(&list(wrong), &SUITE).unwrap_err().kind(), ErrorKind::Corrupt, "{wrong:?}");
    }
    let mut forged = list(&[first, second]);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(Epochs::decode(&forged, &SUITE).unwrap_err().kind(), ErrorKind::AccessDenied);
}
