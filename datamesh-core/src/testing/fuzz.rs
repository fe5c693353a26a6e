//! Entry functions of the fuzz targets: each takes any bytes and must return.
//!
//! Besides not panicking, each checks that what was decoded encodes to something that decodes to the same.

use crate::format::{
    AdmissionKeys, Announcement, AnnouncementKey, Capability, Header, Layout, Manifest, MeshKey, MeshKeys,
    Reply, Request, SignedCertificate, SignedEpoch, SignedRecord, Ticket,
};
use crate::id::NodeId;
use crate::ports::{CryptoSuite, Nonce, Signature, SuiteId};
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
