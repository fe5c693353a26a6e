//! Entry functions of the fuzz targets: each takes any bytes and must return.
//!
//! Besides not panicking, each checks that what was decoded encodes to something that decodes to the same.

use crate::format::{Capability, Header, Layout, Manifest, Reply, Request, Ticket};

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
