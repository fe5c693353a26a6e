//! Meshes for tests.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::time::Duration;

use datamesh::{MemoryNetwork, Mesh};

/// How long anything in a test may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `count` nodes with memory stores on one in-process network, all connected.
pub(crate) async fn memory_mesh(count: usize) -> Vec<Mesh> {
    memory_mesh_on(&MemoryNetwork::new(), count).await
}

/// The same on a given network.
pub(crate) async fn memory_mesh_on(network: &MemoryNetwork, count: usize) -> Vec<Mesh> {
    let mut nodes: Vec<Mesh> = Vec::new();
    for _ in 0..count {
        let mut builder = datamesh::builder().network(network).capacity(1 << 40);
        if let Some(first) = nodes.first() {
            builder = builder.join(first.ticket().unwrap());
        }
        nodes.push(builder.open().await.unwrap());
    }
    for node in &nodes {
        node.wait_for_nodes(count, PATIENCE).await.unwrap();
    }
    nodes
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
