//! The nodes and their client.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use datamesh::{Builder, CareOptions, MemoryNetwork, Mesh, TransportPreference};
use tempfile::TempDir;

/// How long nodes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What carries the shards, and where they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Calls inside the process, stores in memory.
    InProcess,
    /// Unix domain sockets, stores on disk.
    Local,
    /// libp2p over TCP on loopback, stores on disk.
    Libp2p,
    /// libp2p over QUIC on loopback, stores on disk.
    Quic,
}

impl Network {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Local => "local",
            Self::Libp2p => "libp2p-tcp",
            Self::Quic => "libp2p-quic",
        }
    }

    pub(crate) fn store(self) -> &'static str {
        if self == Self::InProcess { "memory" } else { "disk" }
    }

    /// Puts a node where it is reached this way only.
    fn on(self, builder: Builder, memory: &MemoryNetwork) -> Builder {
        let network = builder.transport_preference(TransportPreference::NetworkOnly);
        match self {
            Self::InProcess => network.transport_preference(TransportPreference::Automatic).network(memory),
            Self::Local => network.transport_preference(TransportPreference::LocalOnly),
            Self::Libp2p => network.listen("/ip4/127.0.0.1/tcp/0"),
            Self::Quic => network.listen("/ip4/127.0.0.1/udp/0/quic-v1"),
        }
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
    pub(crate) nodes: Vec<Mesh>,
    network: Network,
    memory: MemoryNetwork,
    care: CareOptions,
    /// How many nodes there ever were.
    opened: usize,
    /// Removed with the value.
    directory: Option<TempDir>,
}

/// A node that is not open yet.
fn node(care: &CareOptions, directory: Option<&TempDir>, number: usize) -> Builder {
    let builder = datamesh::builder().capacity(1 << 40).care(care.clone());
    match directory {
        Some(directory) => builder.path(directory.path().join(format!("node-{number}"))),
        None => builder,
    }
}

impl Cluster {
    pub(crate) async fn open(
        network: Network,
        count: usize,
        parent: Option<&Path>,
        care: CareOptions,
    ) -> Result<Self, Box<dyn Error>> {
        let memory = MemoryNetwork::new();
        let directory = match (network, parent) {
            (Network::InProcess, _) => None,
            (_, Some(parent)) => Some(tempfile::tempdir_in(parent)?),
            (_, None) => Some(tempfile::tempdir()?),
        };
        let on = |builder: Builder| network.on(builder, &memory);
        let first = on(node(&care, directory.as_ref(), 0)).open().await?;
        let client = on(datamesh::builder().capacity(0)).join(first.ticket()?).open().await?;
        let mut cluster = Self { client, nodes: vec![first], network, memory, care, opened: 1, directory };
        for _ in 1..count {
            cluster.add().await?;
        }
        cluster.wait().await?;
        Ok(cluster)
    }

    /// Adds a node, and does not wait until all know it.
    pub(crate) async fn add(&mut self) -> Result<(), Box<dyn Error>> {
        let builder = node(&self.care, self.directory.as_ref(), self.opened);
        let builder = self.network.on(builder, &self.memory);
        let ticket = self.nodes.first().ok_or("no node is left to join")?.ticket()?;
        self.opened += 1;
        self.nodes.push(builder.join(ticket).open().await?);
        Ok(())
    }

    /// Waits until all know each other. The client holds nothing, so it is not counted among those that do.
    async fn wait(&self) -> Result<(), Box<dyn Error>> {
        for mesh in self.nodes.iter().chain([&self.client]) {
            mesh.wait_for_nodes(self.nodes.len(), PATIENCE).await?;
        }
        Ok(())
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
