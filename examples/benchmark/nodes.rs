//! The nodes and their client.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use datamesh::{MemoryNetwork, Mesh, Ticket};
use tempfile::TempDir;

/// How long nodes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What carries the shards, and where they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Calls inside the process, stores in memory.
    InProcess,
    /// libp2p over TCP on loopback, stores on disk.
    Libp2p,
    /// libp2p over QUIC on loopback, stores on disk.
    Quic,
}

impl Network {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Libp2p => "libp2p-tcp",
            Self::Quic => "libp2p-quic",
        }
    }

    pub(crate) fn store(self) -> &'static str {
        if self == Self::InProcess { "memory" } else { "disk" }
    }

    fn listen(self) -> &'static str {
        if self == Self::Quic { "/ip4/127.0.0.1/udp/0/quic-v1" } else { "/ip4/127.0.0.1/tcp/0" }
    }

    /// Whether the memory stores can take objects of this size; says so where they cannot.
    pub(crate) fn has_memory_for(self, size: u64) -> bool {
        if self != Self::InProcess {
            return true;
        }
        // The old object and the new one, each with its parity.
        let needed = size.saturating_mul(4);
        let available = crate::measure::available_memory().unwrap_or(8 << 30);
        if needed > available {
            eprintln!(
                "in-process with memory stores is left out: {size} bytes need {needed} bytes of memory"
            );
        }
        needed <= available
    }
}

/// Some nodes that hold data, and a client that holds none.
pub(crate) struct Cluster {
    pub(crate) client: Mesh,
    nodes: Vec<Mesh>,
    /// Removed with the value.
    _directory: Option<TempDir>,
}

impl Cluster {
    pub(crate) async fn open(
        network: Network,
        count: usize,
        parent: Option<&Path>,
    ) -> Result<Self, Box<dyn Error>> {
        let memory = MemoryNetwork::new();
        let directory = match (network, parent) {
            (Network::InProcess, _) => None,
            (_, Some(parent)) => Some(tempfile::tempdir_in(parent)?),
            (_, None) => Some(tempfile::tempdir()?),
        };
        let start = |ticket: Option<Ticket>| {
            let builder = datamesh::builder();
            let builder = match &directory {
                None => builder.network(&memory),
                Some(_) => builder.listen(network.listen()),
            };
            match ticket {
                Some(ticket) => builder.join(ticket),
                None => builder,
            }
        };
        let mut nodes: Vec<Mesh> = Vec::new();
        for number in 0..count {
            let ticket = nodes.first().map(Mesh::ticket).transpose()?;
            let mut builder = start(ticket).capacity(1 << 40);
            if let Some(directory) = &directory {
                builder = builder.path(directory.path().join(format!("node-{number}")));
            }
            nodes.push(builder.open().await?);
        }
        let ticket = nodes.first().map(Mesh::ticket).transpose()?;
        let client = start(ticket).capacity(0).open().await?;
        for mesh in nodes.iter() {
            mesh.wait_for_nodes(count, PATIENCE).await?;
        }
        // The client holds nothing, so it is not counted among those that do.
        client.wait_for_nodes(count, PATIENCE).await?;
        Ok(Self { client, nodes, _directory: directory })
    }

    /// Stops the last nodes, and waits until the client knows.
    pub(crate) async fn stop(&mut self, count: usize) -> Result<(), Box<dyn Error>> {
        let left = self.nodes.len().saturating_sub(count);
        for node in self.nodes.drain(left..) {
            node.shutdown().await?;
        }
        let started = Instant::now();
        while self.client.nodes().iter().filter(|node| node.connected).count() > left {
            if started.elapsed() > PATIENCE {
                return Err("the client did not notice that nodes stopped".into());
            }
            // Nothing else waits on this thread.
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) async fn close(self) -> Result<(), Box<dyn Error>> {
        self.client.shutdown().await?;
        for node in self.nodes {
            node.shutdown().await?;
        }
        Ok(())
    }
}
