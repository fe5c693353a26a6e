//! A transport of your own: here a decorator that delays each message and counts the bytes of another transport.
//!
//! A transport that reaches other machines implements the same trait and runs the suite
//! `datamesh::testing::transport` (feature `testing`), as this one would.
//!
//!     cargo run --example custom_transport
#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use datamesh::ports::{Identity, Inbound, Message, PeerRoute, Runtime, Transport, TransportEvent};
use datamesh::runtime::NativeRuntime;
use datamesh::{Address, MemoryNetwork, Mesh, NodeId, NodeIdentity, Result};

/// A line with a delay, and a meter on it.
#[derive(Debug)]
struct Line<T>(T, Arc<dyn Runtime>, Arc<AtomicU64>);

impl<T: Transport> Transport for Line<T> {
    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.1.sleep(Duration::from_millis(5)).await;
        let sent = request.body.len();
        let answer = self.0.call(node, request, limit).await?;
        self.2.fetch_add((sent + answer.body.len()) as u64, Relaxed);
        Ok(answer)
    }
    fn local_node(&self) -> NodeId {
        self.0.local_node()
    }
    async fn accept(&self) -> Option<Inbound> {
        self.0.accept().await
    }
    async fn next_event(&self) -> Option<TransportEvent> {
        self.0.next_event().await
    }
    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.0.connect(address, limit).await
    }
    fn set_peers(&self, peers: Vec<PeerRoute>) {
        self.0.set_peers(peers);
    }
    fn refuse(&self, nodes: Vec<NodeId>) {
        self.0.refuse(nodes);
    }
    fn connected(&self) -> Vec<NodeId> {
        self.0.connected()
    }
    fn listen_addresses(&self) -> Vec<Address> {
        self.0.listen_addresses()
    }
    async fn close(&self) {
        self.0.close().await;
    }
}

fn main() -> Result<()> {
    let (network, runtime) = (MemoryNetwork::new(), NativeRuntime::shared()?);
    let meter = Arc::new(AtomicU64::new(0));
    futures::executor::block_on(async {
        let mut nodes: Vec<Mesh> = Vec::new();
        for _ in 0..3 {
            let identity = NodeIdentity::from_secret(runtime.random()?);
            let inner = network.join(identity.node_id(), runtime.clone())?;
            let line = Line(inner, runtime.clone(), meter.clone());
            let mut builder = datamesh::builder().identity(identity).transport(line).capacity(1 << 30);
            if let Some(first) = nodes.first() {
                builder = builder.join(first.ticket()?);
            }
            nodes.push(builder.open().await?);
        }
        let [writer, _, reader] = nodes.as_slice() else { return Ok(()) };
        let receipt = writer.put(vec![7; 1 << 20]).await?;
        println!("put: {} bytes on the line, margin {}", meter.swap(0, Relaxed), receipt.margin);
        assert_eq!(reader.get(&receipt.capability).await?, vec![7; 1 << 20]);
        println!("get: {} bytes on the line", meter.load(Relaxed));
        Ok(())
    })
}
