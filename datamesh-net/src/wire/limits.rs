//! The limits of the transports between processes.

use std::time::Duration;

use datamesh_core::ports::{MAX_BODY_LEN, MAX_HEAD_LEN, Message};
use datamesh_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

use super::budget::SMALL;

/// The longest message that anybody sends.
pub(crate) const LONGEST: usize = MAX_HEAD_LEN + MAX_BODY_LEN;

/// What a transport takes from its peers and for them; every limit has a default that fits a mesh of some hundred
/// nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections that others may have opened to this node at the same time: 256.
    pub inbound_connections: u32,
    /// Connections in their handshake at the same time, each way: 64. Incoming ones count until the peer has proved the
    /// mesh key.
    pub pending_connections: u32,
    /// Those of them that come from one address of another machine, or one network of IPv6 (64 bits): 16.
    pub pending_connections_per_address: u32,
    /// Connections with one peer at the same time: 4. Two nodes that dial each other at once need 2.
    pub connections_per_peer: u32,
    /// Streams for requests that a peer may have open on one connection: 64. Twice what a node opens by default, so
    /// that a peer whose resets are still on the way is not refused.
    pub streams_per_connection: usize,
    /// Streams for requests to one peer that stay open: 4. One does not fill a fast link, and each
    /// keeps the window that it has grown.
    pub pooled_streams: usize,
    /// Streams for requests to one peer at most: 32. More than the pool are opened while all of them
    /// wait for slow handlers.
    pub streams_per_peer: usize,
    /// Calls to one peer that may wait for a stream or a reply: 512. Further callers wait to be let in.
    pub calls_per_peer: usize,
    /// Requests of one peer that this node handles at the same time: 32. Further ones wait on their streams.
    pub requests_per_peer: usize,
    /// The longest head of a message, in bytes: 1 MiB, which is also the most.
    pub head_bytes: usize,
    /// The longest body of a message, in bytes: 4 MiB and 64 KiB, which is also the most.
    pub body_bytes: usize,
    /// Bytes of messages under way with one peer, for each of sent requests, received requests, sent replies and
    /// received replies: 16 MiB. At least the longest message and 64 KiB: so much of it is kept for messages of up to
    /// 64 KiB, so that they pass while large ones wait.
    pub bytes_per_peer: usize,
    /// The same for all peers together: 256 MiB, of which a sixteenth is kept for messages of up to 64 KiB.
    pub bytes_in_total: usize,
    /// How long dialling, the handshake and the proof of the mesh key may take, each: 10 s.
    pub handshake: Duration,
    /// The slowest transfer of a message that is waited for, in bytes a second: 16 KiB. With [`grace`](Self::grace)
    /// it bounds how long a peer can hold a stream and its memory with a frame that it does not finish: each step of
    /// 64 KiB, and all together, may take the time of their bytes and the grace. Who sends nothing has 34 s.
    pub least_bytes_per_second: u64,
    /// What the transfer of every message is given on top: 30 s. A peer's request may wait for so long up to three
    /// times: for room among the bytes under way, for its turn while replies wait for theirs, and for room for its own
    /// reply; then its stream is reset. A call of this node waits for room until its deadline.
    pub grace: Duration,
    /// How long a stream may lie idle before this node, as the one who serves it, closes it: 60 s. Whoever opened the
    /// stream closes it after half of that, so that no request meets a stream that is being closed.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inbound_connections: 256,
            pending_connections: 64,
            pending_connections_per_address: 16,
            connections_per_peer: 4,
            streams_per_connection: 64,
            pooled_streams: 4,
            streams_per_peer: 32,
            calls_per_peer: 512,
            requests_per_peer: 32,
            head_bytes: MAX_HEAD_LEN,
            body_bytes: MAX_BODY_LEN,
            bytes_per_peer: 16 << 20,
            bytes_in_total: 256 << 20,
            handshake: Duration::from_secs(10),
            least_bytes_per_second: 16 << 10,
            grace: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The limits as they are kept: none of them stops a message that another one lets pass.
    pub(crate) fn made_whole(mut self) -> Self {
        self.head_bytes = self.head_bytes.min(MAX_HEAD_LEN);
        self.body_bytes = self.body_bytes.min(MAX_BODY_LEN);
        // The longest message must pass, or it would wait for ever. A peer of other limits may send the longest there
        // is.
        let least = LONGEST + SMALL;
        self.bytes_per_peer = self.bytes_per_peer.max(least);
        self.bytes_in_total = self.bytes_in_total.max(least);
        self.requests_per_peer = self.requests_per_peer.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// What a peer may send on a connection of QUIC and nobody has read: peers that have proved nothing do not fill more
    /// than the bytes in total. At least 1 MiB, at most 16.
    #[cfg(feature = "quic")]
    pub(crate) fn window(&self) -> u32 {
        let each =
            self.bytes_in_total / usize::try_from(self.pending_connections.max(1)).unwrap_or(usize::MAX);
        u32::try_from(each.clamp(1 << 20, 16 << 20)).unwrap_or(u32::MAX)
    }

    /// Whether a message may have these lengths.
    pub(crate) fn let_pass(&self, head: usize, body: usize) -> bool {
        head <= self.head_bytes && body <= self.body_bytes
    }

    pub(crate) fn check_size(&self, message: &Message) -> Result<()> {
        let (head, body) = (message.head.len(), message.body.len());
        if self.let_pass(head, body) {
            return Ok(());
        }
        let most = format!("at most {} and {} pass", self.head_bytes, self.body_bytes);
        let message = format!("a request has a head of {head} and a body of {body} bytes; {most}");
        Err(Error::new(ErrorKind::LimitExceeded, message))
    }

    /// How long the transfer of so many bytes may take.
    pub(crate) fn time_for(&self, bytes: usize) -> Duration {
        let slowest = self.least_bytes_per_second.max(1);
        self.grace.saturating_add(Duration::from_secs(bytes as u64 / slowest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of limits in `docs/protocol-transport.md`, in its order.
    #[test]
    fn the_defaults_are_those_of_the_specification() {
        let table = Limits {
            head_bytes: 1 << 20,
            body_bytes: (4 << 20) + (64 << 10),
            inbound_connections: 256,
            pending_connections: 64,
            pending_connections_per_address: 16,
            connections_per_peer: 4,
            handshake: Duration::from_secs(10),
            streams_per_peer: 32,
            pooled_streams: 4,
            streams_per_connection: 64,
            calls_per_peer: 512,
            requests_per_peer: 32,
            idle: Duration::from_secs(60),
            bytes_per_peer: 16 << 20,
            bytes_in_total: 256 << 20,
            grace: Duration::from_secs(30),
            least_bytes_per_second: 16 << 10,
        };
        assert_eq!(Limits::default(), table);
    }
}
