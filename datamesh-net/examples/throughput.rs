//! How fast two nodes exchange messages: over the in-process network, over local sockets, over TCP and over QUIC.
//!
//! `cargo run --release -p datamesh-net --example throughput` prints for each network: MB/s and CPU seconds for
//! a GB of bodies of 256 KiB, there (put) and back (get), and the time of a small request.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an example prints, and has nobody to tell of an error"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::TestRuntime;
use datamesh_core::ports::{Message, PeerRoute, Runtime, Transport};
use datamesh_net::memory::MemoryNetwork;
use futures::StreamExt;
use futures::executor::block_on;

const LIMIT: Duration = Duration::from_secs(60);
const BODY: usize = 256 << 10;
const BODIES: usize = 4000;
const UNDER_WAY: usize = 8;
const SMALL: usize = 5000;

fn main() {
    let runtime = TestRuntime::shared();
    println!(
        "{:8} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "network", "put MB/s", "CPU s/GB", "get MB/s", "CPU s/GB", "4 KiB in us"
    );
    let network = MemoryNetwork::new();
    let join = |n| network.join(datamesh_core::id::NodeId::from_bytes([n; 32]), runtime.clone()).unwrap();
    block_on(measure("memory", &runtime, join(1), join(2)));
    #[cfg(all(feature = "local", unix))]
    local(&runtime);
    #[cfg(feature = "libp2p")]
    libp2p(&runtime, "tcp", common::nodes::TCP);
    #[cfg(feature = "quic")]
    libp2p(&runtime, "quic", common::nodes::QUIC);
}

#[cfg(all(feature = "local", unix))]
fn local(runtime: &Arc<dyn Runtime>) {
    let home = tempfile::tempdir().unwrap();
    let open = |n: u8| block_on(common::nodes::local::node(home.path(), n, 7));
    block_on(measure("local", runtime, open(1), open(2)));
}

#[cfg(feature = "libp2p")]
fn libp2p(runtime: &Arc<dyn Runtime>, name: &str, listen: &str) {
    let open = |n: u8| block_on(common::nodes::libp2p::node(n, 7, listen));
    block_on(measure(name, runtime, open(1), open(2)));
}

async fn measure<T: Transport>(name: &str, runtime: &Arc<dyn Runtime>, client: T, server: T) {
    let node = server.local_node();
    client.set_peers(vec![PeerRoute { node, addresses: server.listen_addresses() }]);
    let server = Arc::new(server);
    let serving = server.clone();
    let shard = Bytes::from(vec![7; BODY]);
    let (stored, small) = (shard.clone(), Bytes::from(vec![7; 4096]));
    runtime
        .spawn(Box::pin(async move {
            while let Some(inbound) = serving.accept().await {
                let body = match inbound.message.head.first() {
                    Some(b'g') => stored.clone(),
                    Some(b's') => small.clone(),
                    _ => Bytes::new(),
                };
                inbound.reply.send(Message { head: inbound.message.head, body });
            }
        }))
        .unwrap();
    let put = Message { head: Bytes::from_static(b"put"), body: shard };
    let get = Message { head: Bytes::from_static(b"get"), body: Bytes::new() };
    let little = Message { head: Bytes::from_static(b"small"), body: Bytes::new() };
    let exchange = |message: &Message| {
        let call = client.call(node, message.clone(), LIMIT);
        async move { drop(call.await.unwrap()) }
    };
    let many = |message: Message, count| {
        let exchange = &exchange;
        async move {
            let (begin, cpu) = (Instant::now(), cpu_seconds());
            futures::stream::iter(0..count)
                .map(|_| exchange(&message))
                .buffer_unordered(UNDER_WAY)
                .count()
                .await;
            let bytes = (count * BODY) as f64;
            (bytes / begin.elapsed().as_secs_f64() / 1e6, (cpu_seconds() - cpu) / (bytes / 1e9))
        }
    };
    many(put.clone(), BODIES / 4).await;
    let (put_speed, put_cpu) = many(put, BODIES).await;
    many(get.clone(), BODIES / 4).await;
    let (get_speed, get_cpu) = many(get, BODIES).await;
    let begin = Instant::now();
    for _ in 0..SMALL {
        exchange(&little).await;
    }
    let small = begin.elapsed().as_secs_f64() * 1e6 / SMALL as f64;
    println!("{name:8} {put_speed:10.0} {put_cpu:10.2} {get_speed:10.0} {get_cpu:10.2} {small:12.1}");
    client.close().await;
    server.close().await;
}

/// CPU time of this process so far; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    let Some((_, fields)) = text.rsplit_once(')') else { return 0.0 };
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
