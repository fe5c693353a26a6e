//! Repair on demand, by the blocking verbs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{PATIENCE, memory_mesh, noise};
use datamesh::blocking::{Wait, shutdown};
use datamesh::{ErrorKind, Mesh, Receipt};

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
