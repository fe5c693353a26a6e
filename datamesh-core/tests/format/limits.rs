//! Each limit of the formats is met exactly, stayed below by one, and exceeded by one.

use bytes::Bytes;
use datamesh_core::ErrorKind::{self, Corrupt, InvalidInput, LimitExceeded, Protocol};
use datamesh_core::format::*;
use datamesh_core::id::*;
use datamesh_core::ports::*;

use crate::refused::{bytes, edit, field, refused};
use crate::samples::*;
use crate::suite::{Key, SUITE};

/// So many names that differ, in order.
fn names(count: usize) -> Vec<[u8; 32]> {
    let mut names: Vec<_> = (0..count as u64).map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
    names.sort_unstable();
    names
}

/// A header with the most metadata there may be, and so many bytes more.
fn crowded_header(len: u64, more: usize) -> Header {
    let mut header = header(len, None);
    header.metadata = (0..MAX_METADATA_ENTRIES - 1).map(|n| (format!("{n:04}"), "x".repeat(11))).collect();
    let taken = "text/plain".len() + (MAX_METADATA_ENTRIES - 1) * 15 + "rest".len();
    header.metadata.insert("rest".into(), "x".repeat(MAX_METADATA_LEN - taken + more));
    header
}

#[test]
fn extents_of_a_manifest() {
    let extents = |count| Extents::Many(names(count).into_iter().map(ExtentId::from_bytes).collect());
    let len = |count: usize| count as u64 * 64 * u64::from(SEGMENT_LEN);
    for count in [MAX_EXTENTS - 1, MAX_EXTENTS] {
        let header = crowded_header(len(count), 0);
        let (_, encoded) = seal(public(extents(count)), &header);
        assert!(encoded.len() <= MAX_MANIFEST_LEN, "{} bytes", encoded.len());
        let decoded = Manifest::decode(&encoded).unwrap();
        assert_eq!(decoded.public().extents, extents(count));
        assert_eq!(decoded.open(&keys(), &SUITE).unwrap(), header);
    }
    let over = MAX_EXTENTS + 1;
    let sealed = Manifest::seal(public(extents(over)), &header(len(over), None), &keys(), &SUITE);
    refused(sealed, LimitExceeded, "an extent too many");
    // One that fits into the longest manifest nevertheless, since little is sealed in it.
    let good = many_manifest().1;
    let listed = edit(&field(&good, 1), 10, bytes(&names(over).concat()));
    let listed = edit(&good, 1, bytes(&listed));
    assert!(listed.len() < MAX_MANIFEST_LEN, "{} bytes", listed.len());
    refused(Manifest::decode(&listed), Corrupt, "an extent too many");
}

/// No manifest names the extents of so long an object, which is refused as such before that is looked at.
#[test]
fn bytes_of_an_object() {
    let seal = |len| {
        let extents = Extents::Many(vec![ExtentId::from_bytes([1; 32]); 2]);
        Manifest::seal(public(extents), &header(len, None), &keys(), &SUITE)
    };
    for (len, kind) in [
        (MAX_OBJECT_LEN - 1, InvalidInput),
        (MAX_OBJECT_LEN, InvalidInput),
        (MAX_OBJECT_LEN + 1, LimitExceeded),
        (u64::MAX, LimitExceeded),
    ] {
        refused(seal(len), kind, &format!("{len} bytes"));
    }
}

#[test]
fn bytes_of_metadata() {
    let len = 128 * 1024 + 1;
    let seal = |more| {
        let extents = Extents::Many(vec![ExtentId::from_bytes([1; 32]); 3]);
        Manifest::seal(public(extents), &crowded_header(len, more), &keys(), &SUITE)
    };
    seal(0).unwrap();
    refused(seal(1), LimitExceeded, "a byte of metadata too many");
}

#[test]
fn nodes_that_an_epoch_revokes() {
    let epoch = |count| {
        let revoked = names(count).into_iter().map(NodeId::from_bytes).collect();
        Epoch { number: u64::MAX, oldest: u64::MAX, revoked }
    };
    let key = Key::new(8);
    for count in [MAX_REVOKED - 1, MAX_REVOKED] {
        let encoded = epoch(count).sign(&key).unwrap().encode();
        assert!(encoded.len() <= MAX_EPOCH_LEN, "{} bytes", encoded.len());
        assert_eq!(*SignedEpoch::decode(&encoded, &SUITE).unwrap().epoch(), epoch(count));
    }
    refused(epoch(MAX_REVOKED + 1).sign(&key), LimitExceeded, "a node too many");
    // Others may sign it all the same.
    let good = epoch(1).sign(&key).unwrap().encode();
    let content = edit(&field(&good, 1), 3, bytes(&names(MAX_REVOKED + 1).concat()));
    let signature = key.sign(&[b"datamesh/v1/admission-epoch".as_slice(), &content].concat());
    let signed = edit(&edit(&good, 1, bytes(&content)), 3, bytes(&signature));
    assert!(signed.len() <= MAX_EPOCH_LEN, "{} bytes", signed.len());
    refused(SignedEpoch::decode(&signed, &SUITE), Corrupt, "a node too many");
}

/// Whether the limit of each list is met by what `of` makes with so many items.
#[track_caller]
fn list<T: PartialEq + std::fmt::Debug>(
    most: usize,
    of: impl Fn(usize) -> T,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(&[u8]) -> datamesh_core::Result<T>,
) {
    for count in [most - 1, most] {
        let value = of(count);
        // A value of such length is not for reading.
        assert!(decode(&encode(&value)).unwrap() == value, "{count}");
    }
    let encoded = encode(&of(most + 1));
    assert!(encoded.len() <= MAX_HEAD_LEN, "{} bytes", encoded.len());
    refused(decode(&encoded), Protocol, &format!("{} items", most + 1));
}

#[test]
fn lists_of_requests() {
    let (operation, secret) = (OperationId::from_bytes([4; 16]), owner().removal_secret());
    let shards = |count| names(count).into_iter().map(ShardId::from_bytes).collect::<Vec<_>>();
    let extents = |count| names(count).into_iter().map(ExtentId::from_bytes).collect::<Vec<_>>();
    let objects = |count| names(count).into_iter().map(ObjectId::from_bytes).collect::<Vec<_>>();
    let record = record().encode();
    let list = |most, of: &dyn Fn(usize) -> Request| list(most, of, Request::encode, Request::decode);

    list(MAX_IDS_OF_MESSAGE, &|count| Request::Unstage { shards: shards(count) });
    list(MAX_IDS_OF_MESSAGE, &|count| Request::RemoveExtents {
        extents: extents(count),
        secret: secret.clone(),
    });
    list(MAX_EXTENTS_DESCRIBED, &|count| Request::Describe { extents: extents(count) });
    list(MAX_RECORDS_OF_MESSAGE, &|count| Request::Members { records: vec![record.clone(); count] });
    list(MAX_RECORDS_OF_MESSAGE, &|count| Request::Forget { records: vec![record.clone(); count] });
    list(MAX_RECORD_LEN, &|len| Request::Members { records: vec![vec![7; len].into()] });
    list(MAX_SURVEYED, &|count| Request::Survey { extents: extents(count), objects: objects(1) });
    list(MAX_SURVEYED, &|count| Request::Survey { extents: extents(1), objects: objects(count) });
    list(MAX_SURVEYED, &|count| Request::Keep {
        extents: extents(count),
        indexes: vec![vec![1, 4]; count],
        objects: objects(1),
    });
    list(MAX_SURVEYED, &|count| Request::Keep {
        extents: extents(1),
        indexes: vec![vec![1, 4]],
        objects: objects(count),
    });
    list(MAX_REMOVALS, &|count| Request::Named { extents: extents(count) });
    list(MAX_REMOVALS, &|count| {
        let removed = |id| Removed { id, secret: secret.clone() };
        Request::Removals { removals: names(count).into_iter().map(removed).collect() }
    });
    // There are no more than these.
    let all = Request::Commit { operation, indexes: (0..=u8::MAX).collect() };
    assert_eq!(Request::decode(&all.encode()).unwrap(), all);
}

#[test]
fn lists_of_replies() {
    let record = record().encode();
    let list = |most, of: &dyn Fn(usize) -> Reply| list(most, of, Reply::encode, Reply::decode);
    // As many as a layout of 64 KiB has shards.
    list(2040, &|count| Reply::Missing { positions: (0..count as u16).collect() });
    list(MAX_RECORDS_OF_MESSAGE, &|count| Reply::Members { records: vec![record.clone(); count] });
    list(MAX_EXTENTS_DESCRIBED, &|count| Reply::Described { held: vec![Some(vec![0, 5]); count] });
    list(2 * MAX_SURVEYED, &|count| Reply::Surveyed { possessions: vec![Possession::Absent; count] });
    list(MAX_REMOVALS, &|count| Reply::Named { named: vec![true; count] });
}

#[test]
fn words_of_a_refusal() {
    for len in [MAX_REFUSAL_TEXT_LEN - 1, MAX_REFUSAL_TEXT_LEN, MAX_REFUSAL_TEXT_LEN + 1] {
        let reply = Reply::Failed { refusal: Refusal::Busy, text: "x".repeat(len) };
        let text = "x".repeat(len.min(MAX_REFUSAL_TEXT_LEN));
        let shortened = Reply::Failed { refusal: Refusal::Busy, text };
        assert_eq!(Reply::decode(&reply.encode()).unwrap(), shortened);
    }
    let good = Reply::Failed { refusal: Refusal::Busy, text: "x".to_owned() }.encode();
    let long = minicbor::to_vec("x".repeat(MAX_REFUSAL_TEXT_LEN + 1)).unwrap();
    refused(Reply::decode(&edit(&good, 3, Some(long))), Protocol, "a letter too many");
}

/// Many epochs of one number, each of another key.
#[test]
fn epochs_of_one_number() {
    let of = |seed| Epoch { number: 3, oldest: 1, revoked: Vec::new() }.sign(&Key::new(seed)).unwrap();
    let mut all: Vec<SignedEpoch> = (1..=MAX_EPOCHS as u8 + 1).map(of).collect();
    all.sort_unstable_by_key(SignedEpoch::encode);
    let encode = |epochs: &[SignedEpoch]| {
        let mut encoder = minicbor::Encoder::new(Vec::new());
        encoder.map(2).unwrap().u8(0).unwrap().u8(1).unwrap().u8(1).unwrap();
        encoder.array(epochs.len() as u64).unwrap();
        for epoch in epochs {
            encoder.bytes(&epoch.encode()).unwrap();
        }
        encoder.into_writer()
    };
    for count in [MAX_EPOCHS - 1, MAX_EPOCHS] {
        assert_eq!(Epochs::decode(&encode(&all[..count]), &SUITE).unwrap().signed(), &all[..count]);
    }
    let error: datamesh_core::Error = Epochs::decode(&encode(&all), &SUITE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("at most 8"), "{error}");
}
