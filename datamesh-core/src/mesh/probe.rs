//! How a peer answers: round trips, and bytes in a second.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Reply, Request};
use crate::id::NodeId;
use crate::mesh::{Core, Mesh};
use crate::object::ASK_LIMIT;
use crate::peers::unexpected;

/// The bytes of one message that measures: those of a shard of a large segment.
const PROBE_LEN: usize = 256 << 10;

/// Messages that measure and are under way at a time: what a put has under way with one node.
const PROBES_AT_ONCE: usize = 8;

/// How long one message that measures may take: at 16 KiB a second both ways, and some more.
const PROBE_LIMIT: Duration = Duration::from_secs(40);

/// The most bytes that one measurement sends, in each direction: 16 GiB.
const MAX_PROBED: u64 = 16 << 30;

/// What a measurement showed; see [`Mesh::bandwidth`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bandwidth {
    /// The bytes that went out, and as many came back.
    pub bytes: u64,
    /// How long that took.
    pub took: Duration,
}

impl Bandwidth {
    /// Bytes in a second, in each direction.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

impl Mesh {
    /// Asks a node for a sign of life, and says how long it took.
    ///
    /// # Errors
    /// `Unavailable` when it is not reached, `TimedOut` when it does not answer within ten seconds, `Closed`.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn ping(&self, node: NodeId) -> Result<Duration> {
        let core = self.core();
        let pinged = core.echo(node, Bytes::new(), ASK_LIMIT).await;
        pinged.map_err(|error| core.engine.peers.explain(error).with_operation("ping"))
    }

    /// Sends a node so many bytes (at least one message of 256 KiB, at most 16 GiB) and has it send them back, to
    /// learn what the way between carries. Nothing is stored.
    ///
    /// # Errors
    /// As [`ping`](Self::ping); `Unsupported` for a node that sends nothing back.
    ///
    /// # Cancel safety
    /// Safe to drop; what is under way is cancelled.
    pub async fn bandwidth(&self, node: NodeId, bytes: u64) -> Result<Bandwidth> {
        let core = Arc::clone(self.core());
        let measured = core.measure(node, bytes.min(MAX_PROBED)).await;
        measured.map_err(|error| core.engine.peers.explain(error).with_operation("bandwidth"))
    }
}

impl Core {
    /// Sends a body there and back; says how long that took.
    async fn echo(&self, node: NodeId, body: Bytes, limit: Duration) -> Result<Duration> {
        let (runtime, sent) = (&self.engine.runtime, body.len());
        let started = runtime.now();
        match self.engine.peers.call(node, Request::Ping, body, limit).await? {
            (Reply::Done, body) if body.len() == sent => Ok(runtime.now() - started),
            (Reply::Done, body) => {
                let text =
                    format!("the node sent {} of {sent} bytes back; it is too old for this", body.len());
                Err(Error::new(ErrorKind::Unsupported, text).with_node(node))
            }
            (other, _) => Err(unexpected(&other, node)),
        }
    }

    async fn measure(&self, node: NodeId, bytes: u64) -> Result<Bandwidth> {
        let mut probe = vec![0; PROBE_LEN];
        // Noise, so that nothing on the way can make it less.
        self.engine.runtime.fill_random(&mut probe)?;
        let probe = Bytes::from(probe);
        // The first message on a way pays for what others find ready.
        self.echo(node, probe.clone(), PROBE_LIMIT).await?;
        let messages = bytes.div_ceil(PROBE_LEN as u64).max(1);
        let started = self.engine.runtime.now();
        let echoes = stream::iter(0..messages).map(|_| self.echo(node, probe.clone(), PROBE_LIMIT));
        let mut echoes = echoes.buffer_unordered(PROBES_AT_ONCE);
        while let Some(echo) = echoes.next().await {
            echo?;
        }
        let took = self.engine.runtime.now() - started;
        Ok(Bandwidth { bytes: messages.saturating_mul(PROBE_LEN as u64), took })
    }
}
