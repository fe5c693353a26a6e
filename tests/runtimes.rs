//! The same body under several executors, on a lent Tokio, and through the blocking verbs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use common::{PATIENCE, noise};
use datamesh::blocking::Wait;
use datamesh::{Builder, MemoryNetwork, Mesh, Source};
use futures::StreamExt;
use futures::io::{AsyncReadExt, AsyncSeekExt};
use std::io::{Read, Seek, SeekFrom};

const LEN: usize = 3_333_333;

/// Three nodes, all verbs, and an orderly end.
async fn end_to_end(builder: impl Fn() -> Builder) {
    let network = MemoryNetwork::new();
    let mut nodes: Vec<Mesh> = Vec::new();
    for _ in 0..3 {
        let mut next = builder().network(&network).capacity(1 << 30);
        if let Some(first) = nodes.first() {
            next = next.join(first.ticket().unwrap());
        }
        nodes.push(next.open().await.unwrap());
    }
    for node in &nodes {
        node.wait_for_nodes(3, PATIENCE).await.unwrap();
    }
    let bytes = noise(LEN, 1);
    let source = Source::reader(futures::io::Cursor::new(bytes.clone()));
    let receipt = nodes[0].put(source).media_type("text/plain").metadata("a", "b").await.unwrap();
    assert_eq!(receipt.margin, 1);
    let capability = &receipt.capability;
    assert_eq!(nodes[1].get(capability).await.unwrap(), bytes);
    assert_eq!(
        nodes[2].get(capability).range(1_000_000..2_500_000).await.unwrap(),
        bytes[1_000_000..2_500_000]
    );
    let stat = nodes[1].stat(capability).await.unwrap();
    assert_eq!((stat.len, stat.media_type.as_deref()), (LEN as u64, Some("text/plain")));
    assert_eq!(stat.metadata["a"], "b");
    let mut streamed = Vec::new();
    let mut stream = nodes[2].get(capability).stream().await.unwrap();
    while let Some(chunk) = stream.next().await {
        streamed.extend_from_slice(&chunk.unwrap());
    }
    assert!(streamed == bytes);
    let mut reader = nodes[2].get(capability).reader().await.unwrap();
    let mut tail = Vec::new();
    reader.seek(SeekFrom::End(-77)).await.unwrap();
    reader.read_to_end(&mut tail).await.unwrap();
    assert_eq!(tail, bytes[LEN - 77..]);
    nodes[2].shutdown().await.unwrap();
    assert_eq!(nodes[1].get(capability).await.unwrap(), bytes);
    assert!(nodes[0].health(capability).await.unwrap().margin.is_some());
    nodes[0].remove(capability).await.unwrap();
    assert!(nodes[1].get(capability).await.is_err());
    for node in &nodes {
        node.shutdown().await.unwrap();
    }
}

#[test]
fn under_block_on() {
    futures::executor::block_on(end_to_end(datamesh::builder));
}

#[test]
fn under_smol() {
    smol::block_on(async { smol::spawn(end_to_end(datamesh::builder)).await });
}

#[test]
fn under_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async { tokio::spawn(end_to_end(datamesh::builder)).await.unwrap() });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(end_to_end(datamesh::builder));
}

#[cfg(feature = "tokio")]
mod lent {
    use std::sync::Arc;

    use datamesh::runtime::TokioRuntime;
    use datamesh::tokio_io::{TokioReader, source};
    use tokio::io::{AsyncReadExt, AsyncSeekExt};

    use super::*;

    #[test]
    fn on_a_lent_tokio() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let lent = Arc::new(TokioRuntime::new(runtime.handle().clone()).unwrap());
        let builder = || datamesh::builder().runtime(Arc::clone(&lent) as Arc<_>);
        runtime.block_on(end_to_end(builder));
        // Lent to one executor and awaited under another.
        futures::executor::block_on(end_to_end(builder));
    }

    #[test]
    fn with_tokios_traits() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let lent = Arc::new(TokioRuntime::current().unwrap());
            let mesh = datamesh::builder().runtime(lent).capacity(1 << 30).open().await.unwrap();
            let bytes = noise(LEN, 2);
            let receipt = mesh.put(source(std::io::Cursor::new(bytes.clone()))).await.unwrap();
            let mut reader = TokioReader::from(mesh.get(&receipt.capability).reader().await.unwrap());
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.unwrap();
            assert!(got == bytes);
            assert_eq!(reader.seek(SeekFrom::Start(1_048_570)).await.unwrap(), 1_048_570);
            let mut across = [0; 20];
            reader.read_exact(&mut across).await.unwrap();
            assert_eq!(across, bytes[1_048_570..1_048_590]);
            mesh.shutdown().await.unwrap();
        });
    }
}

#[test]
fn without_async() {
    let mesh = datamesh::blocking::memory().unwrap();
    let bytes = noise(LEN, 3);
    let source = datamesh::blocking::source(std::io::Cursor::new(bytes.clone()));
    let receipt = mesh.put(source).wait().unwrap();
    let reader = mesh.get(&receipt.capability).reader().wait().unwrap();
    let mut reader = datamesh::blocking::BlockingReader::from(reader);
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    reader.seek(SeekFrom::Start(5)).unwrap();
    let mut few = [0; 5];
    reader.read_exact(&mut few).unwrap();
    assert_eq!(few, bytes[5..10]);
    datamesh::blocking::shutdown(&mesh).unwrap();
}
