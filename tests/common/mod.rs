//! Meshes for tests.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

pub(crate) mod lab;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use datamesh::runtime::NativeRuntime;
use datamesh::{MemoryNetwork, Mesh};
use datamesh_core::testing::clock::ShiftedClock;

/// How long anything in a test may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test's body, which fails when it is still pending after [`PATIENCE`].
pub(crate) fn run<T>(body: impl Future<Output = T>) -> T {
    run_for(PATIENCE, body)
}

/// Runs a test's body, which fails when it is still pending after this time.
pub(crate) fn run_for<T>(limit: Duration, body: impl Future<Output = T>) -> T {
    futures::executor::block_on(within(limit, body))
}

/// The output of a future that must not be pending for longer than this.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let runtime = NativeRuntime::shared().unwrap();
    runtime.timeout(limit, work).await.unwrap_or_else(|_| panic!("hung: still pending after {limit:?}"))
}

/// A runtime whose wall clock is off by so many milliseconds.
pub(crate) fn clock_off_by(milliseconds: i64) -> Arc<ShiftedClock> {
    Arc::new(ShiftedClock::new(NativeRuntime::shared().unwrap(), milliseconds))
}

/// Waits until a node is connected to no other.
pub(crate) async fn until_alone(mesh: &Mesh) {
    let runtime = NativeRuntime::shared().unwrap();
    while mesh.nodes().iter().any(|node| node.connected && !node.local) {
        runtime.sleep(Duration::from_millis(5)).await;
    }
}

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
