//! One object, ticket, record and message of each kind, made from fixed secrets.

use std::collections::BTreeMap;

use bytes::Bytes;
use datamesh_core::format::*;
use datamesh_core::id::*;
use datamesh_core::ports::*;

use crate::suite::{Key, SUITE};

pub(crate) const SEGMENT_LEN: u32 = 1024;

/// 32 bytes that count up from `first`.
pub(crate) fn counted(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first.wrapping_add(index as u8))
}

pub(crate) fn owner() -> OwnerSecret {
    OwnerSecret::from_bytes(counted(0x00))
}

pub(crate) fn salt() -> Salt {
    Salt::from_bytes(counted(0x40))
}

pub(crate) fn keys() -> ObjectKeys {
    owner().read_key().object_keys()
}

/// The object's plaintext: 1500 bytes that count up.
pub(crate) fn plaintext() -> Vec<u8> {
    (0..1500u32).map(|index| index as u8).collect()
}

/// The sealed segments, tags included.
pub(crate) fn sealed_segments() -> Vec<Vec<u8>> {
    let plain = plaintext();
    let segments: Vec<_> = plain.chunks(SEGMENT_LEN as usize).collect();
    let seal = |(index, segment): (usize, &&[u8])| {
        let mut buffer = segment.to_vec();
        let last = index + 1 == segments.len();
        let tag = keys().seal_segment(&SUITE, &salt(), index as u64, last, &mut buffer).unwrap();
        buffer.extend_from_slice(&tag);
        buffer
    };
    segments.iter().enumerate().map(seal).collect()
}

/// Two data shards of each sealed segment, and no parity: what core alone can make.
pub(crate) fn redundancy() -> Redundancy {
    Redundancy::new(2, 0).unwrap()
}

pub(crate) fn shards() -> Vec<Vec<u8>> {
    let cut = |mut sealed: Vec<u8>| {
        let length = shard_len(sealed.len(), redundancy());
        sealed.resize(length * 2, 0);
        sealed.chunks(length).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    sealed_segments().into_iter().flat_map(cut).collect()
}

pub(crate) fn layout() -> Layout {
    Layout {
        code: CodeId::REED_SOLOMON_16,
        redundancy: redundancy(),
        shard_len: 576,
        segments: 2,
        last_shard_len: 256,
        placement: PlacementKey::of_extent(&salt(), 0),
        removal: owner().removal_secret().hash(),
        shards: shards().iter().map(|shard| ShardId::of(shard)).collect(),
    }
}

pub(crate) fn public(extents: Extents) -> ManifestPublic {
    ManifestPublic {
        suite: SuiteId::CHACHA20_POLY1305,
        code: CodeId::REED_SOLOMON_16,
        redundancy: redundancy(),
        segment_len: SEGMENT_LEN,
        salt: salt(),
        commitment: *keys().commitment(),
        removal: owner().removal_secret().hash(),
        extents,
    }
}

pub(crate) fn header(len: u64, inline: Option<&[u8]>) -> Header {
    Header {
        len,
        media_type: Some("text/plain".into()),
        metadata: BTreeMap::from([("author".into(), "someone".into()), ("title".into(), "a title".into())]),
        inline: inline.map(Bytes::copy_from_slice),
    }
}

pub(crate) fn seal(public: ManifestPublic, header: &Header) -> (ObjectId, Bytes) {
    Manifest::seal(public, header, &keys(), &SUITE).unwrap()
}

pub(crate) fn inline_manifest() -> (ObjectId, Bytes) {
    seal(public(Extents::Inline), &header(11, Some(b"hello, mesh")))
}

pub(crate) fn single_manifest() -> (ObjectId, Bytes) {
    seal(public(Extents::Single(layout())), &header(1500, None))
}

/// Three extents: 129 segments, the last one of a single byte.
pub(crate) fn many_manifest() -> (ObjectId, Bytes) {
    let extents = [1, 2, 3].map(|byte| ExtentId::from_bytes([byte; 32])).to_vec();
    seal(public(Extents::Many(extents)), &header(128 * 1024 + 1, None))
}

pub(crate) fn ticket() -> Ticket {
    Ticket {
        entry: Entry::Key(MeshKeys::first(MeshKey::from_bytes(counted(0x80)))),
        addresses: ["/ip4/192.0.2.1/tcp/4001", "/dns/node.example/tcp/4001"]
            .map(|a| a.parse().unwrap())
            .to_vec(),
        admission: Vec::new(),
    }
}

/// The keys of the ticket's mesh after two changes.
pub(crate) fn mesh_keys() -> MeshKeys {
    let [first, second, third] = [0x80, 0xa0, 0xc0].map(|byte| MeshKey::from_bytes(counted(byte)));
    let [now, until, later] = [0, 1_800_000_000_000, 1_800_000_600_000].map(Timestamp);
    MeshKeys::first(first).next(second, until, now).unwrap().next(third, later, now).unwrap()
}

pub(crate) fn record() -> SignedRecord {
    let key = Key::new(7);
    NodeRecord {
        node: key.node_id(),
        addresses: ticket().addresses,
        zone: "rack-1".parse().unwrap(),
        capacity: 1 << 40,
        sequence: 42,
        certificate: None,
    }
    .sign(&key)
    .unwrap()
}

pub(crate) fn certificate() -> SignedCertificate {
    let (zone, not_after) = (Some("rack-2".parse().unwrap()), Timestamp(1_800_000_000_000));
    Certificate { node: Key::new(7).node_id(), zone, capacity: 1 << 30, not_after, epoch: 2 }
        .sign(&Key::new(8))
}

pub(crate) fn epoch() -> SignedEpoch {
    let revoked = [9, 3, 9].map(|byte| NodeId::from_bytes([byte; 32])).to_vec();
    Epoch { number: 3, oldest: 1, revoked }.sign(&Key::new(8)).unwrap()
}

/// Two of one number, of two keys.
pub(crate) fn epochs() -> Epochs {
    let mut epochs = Epochs::default();
    let other = Epoch { number: 3, oldest: 2, revoked: vec![NodeId::from_bytes([5; 32])] };
    assert!(epochs.take(epoch()) && epochs.take(other.sign(&Key::new(7)).unwrap()));
    epochs
}

pub(crate) fn requests() -> Vec<Request> {
    let shard = ShardId::from_bytes([1; 32]);
    let extent = ExtentId::from_bytes([2; 32]);
    let object = ObjectId::from_bytes([3; 32]);
    let operation = OperationId::from_bytes([4; 16]);
    let secret = RemovalSecret::from_bytes([5; 32]);
    vec![
        Request::Ping,
        Request::Members { records: vec![record().encode()] },
        Request::Stage { shard },
        Request::Unstage { shards: vec![shard, shard] },
        Request::Commit { operation, indexes: vec![0, 3, 255] },
        Request::PutManifest { operation },
        Request::ReadShard { shard },
        Request::ReadLayout { extent },
        Request::ReadManifest { object },
        Request::Describe { extents: vec![extent] },
        Request::RemoveObject { object, secret: secret.clone() },
        Request::RemoveExtents { extents: vec![extent], secret: secret.clone() },
        Request::Recheck { shard },
        Request::Survey { extents: vec![extent, extent], objects: vec![object] },
        Request::Keep { extents: vec![extent], indexes: vec![vec![1, 4]], objects: vec![object] },
        Request::Named { extents: vec![extent, extent] },
        Request::Removals { removals: vec![Removed { id: [6; 32], secret }] },
        Request::Prove { shard, nonce: [7; 16] },
        Request::Epoch { number: 3, hash: counted(0xc0) },
        Request::Keys { generation: 2, name: KeyName::from_bytes(counted(0xe0)) },
        Request::Forget { records: vec![b"a record".as_slice().into()] },
    ]
}

pub(crate) fn replies() -> Vec<Reply> {
    vec![
        Reply::Done,
        Reply::Missing { positions: vec![0, 7, 2039] },
        Reply::Members { records: vec![] },
        Reply::Described { held: vec![None, Some(vec![]), Some(vec![0, 5])] },
        Reply::Absent,
        Reply::Removed,
        Reply::Failed { refusal: Refusal::Full, text: "95 % of the volume is taken".into() },
        Reply::Failed { refusal: Refusal::Poisoned, text: "an earlier write failed".into() },
        Reply::Failed { refusal: Refusal::Unknown(900), text: String::new() },
        Reply::Surveyed {
            possessions: vec![
                Possession::Absent,
                Possession::Held(vec![0, 5]),
                Possession::Removed,
                Possession::Held(vec![]),
            ],
        },
        Reply::Named { named: vec![true, false] },
        Reply::Noted { store: [7; 16] },
    ]
}
