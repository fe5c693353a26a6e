//! What a libp2p transport is opened with, and its limits.

use std::fmt;
use std::time::Duration;

use datamesh_core::ports::Address;
use zeroize::Zeroizing;

/// The limits of a [`Libp2pTransport`](super::Libp2pTransport); every one has a default that fits a mesh of some hundred nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections that others may have opened to this node at the same time: 256.
    pub inbound_connections: u32,
    /// Connections in their handshake at the same time, each way: 64.
    pub pending_connections: u32,
    /// Connections with one peer at the same time: 4. Two nodes that dial each other at once need 2.
    pub connections_per_peer: u32,
    /// Streams for requests to one peer that stay open: 4. One does not fill a fast link, and each
    /// keeps the window that it has grown.
    pub pooled_streams: usize,
    /// Streams for requests to one peer at most: 32. More than the pool are opened while all of them
    /// wait for slow handlers.
    pub streams_per_peer: usize,
    /// Calls to one peer that may wait for a stream or a reply: 512. Further callers wait to be let in.
    pub calls_per_peer: usize,
    /// Bytes of messages under way with one peer, for each of sent requests, received requests and
    /// received replies: 16 MiB.
    pub bytes_per_peer: usize,
    /// The same for all peers together: 256 MiB.
    pub bytes_in_total: usize,
    /// How long dialling, the handshake and the proof of the mesh key may take, each: 10 s.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inbound_connections: 256,
            pending_connections: 64,
            connections_per_peer: 4,
            pooled_streams: 4,
            streams_per_peer: 32,
            calls_per_peer: 512,
            bytes_per_peer: 16 << 20,
            bytes_in_total: 256 << 20,
            handshake: Duration::from_secs(10),
        }
    }
}

/// What a [`Libp2pTransport`](super::Libp2pTransport) is opened with.
#[derive(Clone)]
pub struct Libp2pConfig {
    pub(super) secret_key: Zeroizing<[u8; 32]>,
    pub(super) mesh_key: Zeroizing<[u8; 32]>,
    pub(super) listen: Vec<Address>,
    pub(super) limits: Limits,
}

impl Libp2pConfig {
    /// A node with this Ed25519 secret key, in the mesh of this key, that only dials.
    ///
    /// Both keys are wiped when the configuration is dropped.
    pub fn new(secret_key: [u8; 32], mesh_key: [u8; 32]) -> Self {
        Self {
            secret_key: Zeroizing::new(secret_key),
            mesh_key: Zeroizing::new(mesh_key),
            listen: Vec::new(),
            limits: Limits::default(),
        }
    }

    /// Listens on these multiaddrs, `/ip4/127.0.0.1/tcp/0` or `/ip4/0.0.0.0/udp/4001/quic-v1` for instance.
    #[must_use]
    pub fn listen(mut self, addresses: Vec<Address>) -> Self {
        self.listen = addresses;
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl fmt::Debug for Libp2pConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libp2pConfig")
            .field("listen", &self.listen)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
