//! Repair on demand, by the blocking verbs, and members that are gone for good.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{PATIENCE, memory_mesh, noise, run, within};
use datamesh::blocking::{Wait, shutdown};
use datamesh::{CareOptions, ErrorKind, Event, MemoryNetwork, Mesh, NodeId, NodeState, Receipt};
use futures::StreamExt;

/// Eight nodes, so that six are left when two are lost, and an object of several segments that node 0 has put.
fn eight_nodes() -> (Vec<Mesh>, Vec<u8>, Receipt) {
    let nodes = memory_mesh(8).wait();
    let bytes = noise((3 << 20) + 77, 8);
    let receipt = nodes[0].put(bytes.clone()).wait().unwrap();
    (nodes, bytes, receipt)
}

/// Stops so many of the holders; the others stay.
fn stop_holders(nodes: Vec<Mesh>, receipt: &Receipt, mut count: usize) -> Vec<Mesh> {
    let mut left = Vec::new();
    for (number, node) in nodes.into_iter().enumerate() {
        let is_holder = receipt.holders.contains_key(&node.node_id());
        if number > 0 && is_holder && count > 0 {
            shutdown(&node).unwrap();
            count -= 1;
        } else {
            left.push(node);
        }
    }
    assert_eq!(count, 0, "too few holders");
    left
}

#[test]
fn a_blocking_repair_brings_the_margin_back() {
    let (nodes, bytes, receipt) = eight_nodes();
    let nodes = stop_holders(nodes, &receipt, 2);
    assert_eq!(nodes[0].health(&receipt.capability).wait().unwrap().margin, Some(0));
    let extents = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&extents);
    // Who repairs needs no more than to name the object.
    let verify = receipt.capability.to_verify();
    let repair =
        nodes[3].repair(verify).progress(move |progress| told.store(progress.done, Ordering::Relaxed));
    let report = repair.deadline(PATIENCE).wait().unwrap();
    assert_eq!((report.before, report.margin, report.expected_margin), (Some(0), Some(2), 2));
    assert!(report.is_full() && report.poisoned.is_empty());
    assert_eq!(report.shards, 2 * 4, "two indexes of four segments");
    assert_eq!(report.unreached.len(), 2);
    assert_eq!(extents.load(Ordering::Relaxed), 1);

    let health = nodes[1].health(&receipt.capability).wait().unwrap();
    assert_eq!(health.margin, Some(2));
    // It may lose two more.
    let nodes = stop_holders(nodes, &receipt, 2);
    assert_eq!(nodes[3].get(&receipt.capability).wait().unwrap(), bytes);
    let again = nodes[0].repair(&receipt.capability).wait().unwrap();
    assert_eq!((again.before, again.margin, again.expected_margin), (Some(0), Some(1), 1));
}

#[test]
fn what_cannot_be_read_cannot_be_repaired() {
    let (nodes, _, receipt) = eight_nodes();
    let nodes = stop_holders(nodes, &receipt, 3);
    let error = nodes[0].repair(&receipt.capability).wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.operation(), Some("repair"));
}

/// Waits until each of these nodes has told this.
async fn told(by: &mut [datamesh::Events], what: &Event) {
    for events in by {
        let is_it = |event: Event| async move { (event == *what).then_some(()) };
        within(PATIENCE, Box::pin(events.filter_map(is_it)).next()).await.unwrap();
    }
}

#[test]
fn a_client_has_a_node_forgotten_that_is_gone() {
    run(async {
        let network = MemoryNetwork::new();
        let care = CareOptions::default().with_grace(Duration::from_secs(1));
        let builder = || datamesh::builder().network(&network).care(care.clone());
        let mut nodes: Vec<Mesh> = vec![builder().capacity(1 << 30).open().await.unwrap()];
        for _ in 0..2 {
            let ticket = nodes[0].ticket().unwrap();
            nodes.push(builder().capacity(1 << 30).join(ticket).open().await.unwrap());
        }
        for node in &nodes {
            node.wait_for_nodes(3, PATIENCE).await.unwrap();
        }
        let client = builder().capacity(0).join(nodes[0].ticket().unwrap()).open().await.unwrap();
        client.wait_for_nodes(3, PATIENCE).await.unwrap();
        let gone = nodes[2].node_id();
        let refused = |node| {
            let client = &client;
            async move { client.forget(node).await.unwrap_err().kind() }
        };
        assert_eq!(refused(gone).await, ErrorKind::Busy, "it is here");
        assert_eq!(refused(NodeId::from_bytes([7; 32])).await, ErrorKind::NotFound);
        let own = nodes[0].forget(nodes[0].node_id()).await.unwrap_err();
        assert_eq!((own.kind(), own.operation()), (ErrorKind::InvalidInput, Some("forget")));

        let mut events: Vec<_> = nodes[..2].iter().map(Mesh::events).collect();
        nodes[2].shutdown().await.unwrap();
        told(&mut events, &Event::NodeState { node: gone, state: NodeState::Gone }).await;
        client.forget(gone).await.unwrap();
        told(&mut events, &Event::Forgotten(gone)).await;
        for node in [&nodes[0], &nodes[1], &client] {
            assert!(node.nodes().iter().all(|status| status.record.node != gone));
            node.forget(gone).await.unwrap();
        }
    });
}
