//! Entry functions of the fuzz targets: each takes any bytes and must return.
//!
//! Besides not panicking, each checks that what was decoded encodes to something that decodes to the same.

use crate::format::{
    AdmissionKeys, Announcement, AnnouncementKey, Capability, Epochs, Header, Hours, Layout, Manifest,
    MeshKey, MeshKeys, RemovalsOf, Reply, Request, ScrubCursor, SignedCertificate, SignedEpoch, SignedRecord,
    StoredExtent, StoredManifest, Ticket, Tombstone, UnnamedFor, Work, prove, proved,
};
use crate::id::{NodeId, ShardId};
use crate::ports::{CryptoSuite, MAX_BLOB_LEN, Nonce, Signature, SuiteId};
use crate::{Error, ErrorKind, Result};

/// Layouts have one encoding only.
pub fn layout(data: &[u8]) {
    if let Ok(layout) = Layout::decode(data) {
        assert!(layout.encode() == data, "a layout has two encodings");
        let segments = usize::from(layout.segments);
        let last = layout.shard(segments.saturating_sub(1), layout.redundancy.total().saturating_sub(1));
        assert!(last == layout.shards.last().copied(), "the last shard is elsewhere");
    }
}

/// Manifests, and the headers that a malicious writer can put into them.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert!(manifest.sealed_len() <= data.len(), "the sealed part is longer than the manifest");
    }
    // Only the holder of a read key can seal a header, but that may be an enemy too.
    let _ = Header::decode(data);
}

/// Capabilities, as bytes and as text.
pub fn capability(data: &[u8]) {
    if let Ok(capability) = Capability::from_bytes(data) {
        assert!(capability.to_bytes().as_slice() == data, "a capability has two byte forms");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(capability) = text.parse::<Capability>() {
        assert!(capability.to_text().as_str() == text, "a capability has two text forms");
    }
}

/// Tickets, as text.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert!(ticket.to_text().parse().ok() == Some(ticket), "a ticket does not survive its text form");
    }
}

/// Heads of requests and replies.
pub fn message(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert!(Request::decode(&request.encode()).ok() == Some(request), "a request does not survive");
    }
    if let Ok(reply) = Reply::decode(data) {
        assert!(Reply::decode(&reply.encode()).ok() == Some(reply), "a reply does not survive");
    }
}

/// Signed values of members and admission keys. Every signature is taken for a good one, so that what lies behind it
/// is read, too.
pub fn admission(data: &[u8]) {
    if let Ok(certificate) = SignedCertificate::decode(data, &Gullible) {
        assert!(certificate.encode() == data, "a certificate is not kept as it came");
        let text = certificate.to_text();
        assert!(
            SignedCertificate::from_text(&text, &Gullible).ok() == Some(certificate),
            "a text form is lost"
        );
    }
    if let Ok(epoch) = SignedEpoch::decode(data, &Gullible) {
        assert!(epoch.epoch().revoked.is_sorted(), "revoked nodes are out of order");
    }
    if let Ok(epochs) = Epochs::decode(data, &Gullible) {
        assert!(epochs.encode() == data, "epochs are not kept as they came");
        assert!(epochs.together().is_none_or(|epoch| epoch.revoked.is_sorted()), "a union is out of order");
    }
    if let Ok(keys) = AdmissionKeys::decode(data) {
        assert!(AdmissionKeys::decode(&keys.encode()).ok() == Some(keys), "admission keys do not survive");
    }
    if let Ok(record) = SignedRecord::decode(data, &Gullible) {
        assert!(
            record.record().capacity_granted() <= record.record().capacity,
            "more than is offered counts"
        );
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = SignedCertificate::from_text(text, &Gullible);
    }
}

/// Takes every signature for a good one, and opens nothing.
#[derive(Debug)]
struct Gullible;

impl CryptoSuite for Gullible {
    fn id(&self) -> SuiteId {
        SuiteId(0xffff)
    }
    fn seal(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8]) -> Result<[u8; 16]> {
        Err(Error::new(ErrorKind::InvalidInput, "this suite seals nothing"))
    }
    fn open(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8], _: &[u8; 16]) -> Result<()> {
        Err(Error::new(ErrorKind::Corrupt, "this suite opens nothing"))
    }
    fn verify(&self, _: &NodeId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// The keys of a mesh, as a member tells them.
pub fn mesh_keys(data: &[u8]) {
    if let Ok(keys) = MeshKeys::decode(data) {
        assert!(MeshKeys::decode(&keys.encode()).ok() == Some(keys), "mesh keys do not survive");
    }
}

/// Announcements on a local network; what is heard there was sent by anybody.
pub fn announcement(data: &[u8]) {
    let key = AnnouncementKey::derive(&MeshKey::from_bytes([7; 32]));
    if let Some(heard) = Announcement::decode(data, &key) {
        let nonce = Announcement::nonce(data).unwrap_or_default();
        assert!(heard.encode(&key, nonce) == data, "an announcement has two encodings");
    }
}

/// Records of a node's own store: what it holds, what was removed, and its own work.
pub fn stored(data: &[u8]) {
    if let Ok(extent) = StoredExtent::decode(data) {
        assert!(
            extent.layout.len() + extent.indexes.len() < data.len(),
            "an extent is longer than its record"
        );
        assert!(StoredExtent::decode(&extent.encode()).ok() == Some(extent), "an extent does not survive");
    }
    if let Ok(manifest) = StoredManifest::decode(data) {
        assert!(manifest.manifest.len() < data.len(), "a manifest is longer than its record");
        assert!(
            StoredManifest::decode(&manifest.encode()).ok() == Some(manifest),
            "a manifest does not survive"
        );
    }
    if let Ok(tombstone) = Tombstone::decode(data) {
        assert!(
            Tombstone::decode(&tombstone.encode()).ok() == Some(tombstone),
            "a tombstone does not survive"
        );
    }
    if let Some(work) = Work::from_key(data) {
        assert!(work.key() == data, "a piece of work has two keys");
    }
    if let Ok(cursor) = ScrubCursor::decode(data) {
        assert!(
            ScrubCursor::decode(&cursor.encode()).ok() == Some(cursor),
            "a scrub's place does not survive"
        );
    }
    if let Ok(age) = UnnamedFor::decode(data) {
        assert!(UnnamedFor::decode(&age.encode()).ok() == Some(age), "an age does not survive");
    }
    if let Ok(place) = RemovalsOf::decode(data) {
        assert!(RemovalsOf::decode(&place.encode()).ok() == Some(place), "a place does not survive");
    }
    if let Ok(hours) = Hours::decode(data) {
        assert!(Hours::decode(&hours.encode()).ok() == Some(hours), "hours do not survive");
    }
    // No record begins so: more hours than fit into what a fuzzer makes.
    if let [0xff, low, high, ..] = data {
        let count = usize::from(u16::from_le_bytes([*low, *high])) % 0x4000;
        let is_read = Hours::decode(&Hours(vec![7; count]).encode()).is_ok();
        assert!(is_read == (count <= Hours::MAX), "{count} hours");
    }
}

/// Proofs that a shard is held: those of a shard that the data are, and the data as a proof.
///
/// The first bytes are the nonce, the length that the one who asks goes by, and which bit is turned.
pub fn shard_proof(data: &[u8]) {
    let Some((nonce, rest)) = data.split_first_chunk::<16>() else { return };
    let Some((len, rest)) = rest.split_first_chunk::<4>() else { return };
    let Some((turned, content)) = rest.split_first_chunk::<2>() else { return };
    let claimed = u32::from_le_bytes(*len) as usize;
    let other = ShardId::of(nonce);
    if let Some(shown) = proved(&other, nonce, claimed, content) {
        assert!((1..=MAX_BLOB_LEN).contains(&claimed), "a shard of {claimed} bytes is proved");
        assert!(content.len() <= LONGEST_PROOF, "a proof has {} bytes", content.len());
        assert!(shown != other || content == nonce, "what is not a proof proves a shard");
    }
    if content.is_empty() {
        return;
    }
    let shard = ShardId::of(content);
    let mut proof = prove(&shard, nonce, content);
    assert!(proof.len() <= LONGEST_PROOF, "a proof has {} bytes", proof.len());
    assert!(proved(&shard, nonce, content.len(), &proof) == Some(shard), "a proof proves nothing");
    let bit = usize::from(u16::from_le_bytes(*turned));
    if let Some(byte) = proof.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
        assert!(
            proved(&shard, nonce, content.len(), &proof) != Some(shard),
            "an altered proof proves a shard"
        );
    }
    proof.push(0);
    assert!(proved(&shard, nonce, content.len(), &proof).is_none(), "a proof is followed by something");
    proof.truncate(proof.len() - 2);
    assert!(proved(&shard, nonce, content.len(), &proof).is_none(), "a proof that is cut short proves");
}

/// A chunk, and a hash for each step of the way to it.
const LONGEST_PROOF: usize = 1024 + 13 * 32;
