//! The in-process network: the conformance suite, partitions, and bodies that are never copied.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::nodes::{LIMIT, introduce};
use common::{TestRuntime, run};
use datamesh_core::ErrorKind;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Message, Runtime, Transport, TransportEvent};
use datamesh_core::testing::transport;
use datamesh_net::memory::{MemoryNetwork, MemoryTransport};

fn node(n: usize) -> NodeId {
    NodeId::from_bytes([n as u8 + 1; 32])
}

/// So many nodes of one network that all know each other.
fn mesh(network: &MemoryNetwork, runtime: &Arc<dyn Runtime>, count: usize) -> Vec<MemoryTransport> {
    introduce((0..count).map(|n| network.join(node(n), runtime.clone()).unwrap()).collect())
}

#[test]
fn conformance() {
    let runtime = TestRuntime::shared();
    let network = MemoryNetwork::new();
    let open = |count| std::future::ready(mesh(&network, &runtime, count));
    run(transport::check(runtime.clone(), open));
    run(transport::check_refusal(runtime.clone(), transport::PATIENCE, open));
}

#[test]
fn many_dials_at_once() {
    let (runtime, network) = (TestRuntime::shared(), MemoryNetwork::new());
    let mut nodes: Vec<_> = (0..8).map(|n| network.join(node(n), runtime.clone()).unwrap()).collect();
    let caller = nodes.remove(0);
    run(transport::check_dials(runtime.clone(), caller, nodes));
}

#[test]
fn bodies_are_not_copied() {
    run(async {
        let runtime = TestRuntime::shared();
        let nodes = mesh(&MemoryNetwork::new(), &runtime, 2);
        let body = Bytes::from(vec![1; 4096]);
        let message = Message { head: Bytes::from_static(b"put"), body: body.clone() };
        let server = async {
            let inbound = nodes[1].accept().await.unwrap();
            assert_eq!(inbound.message.body.as_ptr(), body.as_ptr());
            inbound.reply.send(inbound.message);
        };
        let (reply, ()) = futures::join!(nodes[0].call(node(1), message, LIMIT), server);
        assert_eq!(reply.unwrap().body.as_ptr(), body.as_ptr());
    });
}

#[test]
fn a_partition_cuts_and_heals() {
    run(async {
        let runtime = TestRuntime::shared();
        let network = MemoryNetwork::new();
        let nodes = mesh(&network, &runtime, 3);
        let call = || nodes[0].call(node(1), Message::default(), LIMIT);
        let cut = async {
            let held = nodes[1].accept().await.unwrap();
            network.partition(node(1), node(0));
            held
        };
        let (under_way, _held) = futures::join!(call(), cut);
        assert_eq!(under_way.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(call().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(nodes[0].connected(), [node(2)]);
        network.heal(node(0), node(1));
        let serve = async { nodes[1].accept().await.unwrap().reply.send(Message::default()) };
        let (healed, ()) = futures::join!(call(), serve);
        healed.unwrap();
        let mut events = Vec::new();
        while events.iter().filter(|e| **e == TransportEvent::Connected(node(1))).count() < 2 {
            events.push(nodes[0].next_event().await.unwrap());
        }
        assert!(events.contains(&TransportEvent::Disconnected(node(1))));
    });
}

#[test]
fn a_name_is_taken_once_and_freed_on_drop() {
    let (runtime, network) = (TestRuntime::shared(), MemoryNetwork::new());
    let first = network.join(node(0), runtime.clone()).unwrap();
    let second = network.join(node(0), runtime.clone());
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyExists);
    drop(first);
    network.join(node(0), runtime).unwrap();
}

#[test]
fn each_call_keeps_its_own_deadline() {
    run(async {
        let runtime = TestRuntime::shared();
        let nodes = mesh(&MemoryNetwork::new(), &runtime, 2);
        // Longer and shorter ones mixed, so that later deadlines are watched before earlier ones.
        let calls = [300, 100, 200, 50, 250, 150].map(|millis| {
            let (limit, nodes, runtime) = (Duration::from_millis(millis), &nodes, &runtime);
            async move {
                let begin = runtime.now();
                let late = nodes[0].call(node(1), Message::default(), limit).await.unwrap_err();
                assert_eq!(late.kind(), ErrorKind::TimedOut);
                let took = runtime.now() - begin;
                assert!(took >= limit && took < limit + Duration::from_secs(1), "{millis}: {took:?}");
            }
        });
        futures::future::join_all(calls).await;
    });
}
