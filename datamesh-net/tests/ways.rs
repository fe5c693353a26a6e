//! Several ways to the same peers: the conformance suite over all of them at once, the choice, and what breaks.
#![cfg(all(feature = "local", feature = "libp2p", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::nodes::place::{Any, Place};
use common::nodes::{LIMIT, echo, libp2p, limits, local, route};
use common::{TestRuntime, run};
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Inbound, Message, PeerRoute, Reach, Transport, TransportEvent, Way};
use datamesh_core::testing::transport;
use datamesh_core::{Error, ErrorKind, Result};
use datamesh_net::libp2p::Libp2pTransport;
use datamesh_net::local::LocalTransport;
use datamesh_net::memory::MemoryNetwork;
use datamesh_net::ways::Ways;

fn chosen(from: &Ways, to: &Ways) -> Option<Way> {
    from.ways_to(to.local_node()).into_iter().find(|way| way.chosen).map(|way| way.way)
}

#[test]
fn conformance_over_all_ways_at_once() {
    let place = Place::new();
    run(transport::check(place.runtime.clone(), |count| place.nodes(count)));
}

#[test]
fn who_is_revoked_gets_no_connection_by_any_way() {
    let place = Place::new();
    run(transport::check_refusal(place.runtime.clone(), transport::PATIENCE, |count| place.nodes(count)));
}

#[test]
fn the_cheapest_way_is_taken_and_the_next_when_it_breaks() {
    let place = Place::new();
    run(async {
        let ((ours, _), (theirs, their_local)) = (place.node(1).await, place.node(2).await);
        let (a, b) = (ours.local_node(), theirs.local_node());
        ours.set_peers(vec![route(&theirs)]);
        let all_up = || ours.ways_to(b).iter().all(|way| way.connected);
        place.until(all_up).await;
        assert_eq!((chosen(&ours, &theirs), ours.reach(b)), (Some(Way::SameProcess), None));
        echo(&ours, &theirs).await;
        place.memory.partition(a, b);
        assert_eq!((chosen(&ours, &theirs), ours.reach(b)), (Some(Way::SameMachine), None));
        echo(&ours, &theirs).await;
        their_local.close().await;
        place.until(|| chosen(&ours, &theirs) == Some(Way::Network)).await;
        assert_eq!(ours.reach(b), Some(Reach::Tcp));
        echo(&ours, &theirs).await;
        echo(&theirs, &ours).await;
        place.memory.heal(a, b);
        assert_eq!(chosen(&ours, &theirs), Some(Way::SameProcess));
        echo(&ours, &theirs).await;
        let carried: Vec<_> = ours.way_totals().iter().map(|way| (way.way, way.bytes / 600_010)).collect();
        assert_eq!(carried, [(Way::SameProcess, 2), (Way::SameMachine, 1), (Way::Network, 1)]);
        // For all that came and went, the peer was up all the time.
        let mut events = Vec::new();
        ours.close().await;
        theirs.close().await;
        while let Some(event) = ours.next_event().await {
            events.push(event);
        }
        assert!(!events.contains(&TransportEvent::Disconnected(b)), "{events:?}");
    });
}

/// A way that fails as it is told.
#[derive(Debug)]
struct Fake {
    way: Way,
    fails: Mutex<Option<ErrorKind>>,
    calls: AtomicUsize,
}

impl Fake {
    fn new(way: Way, fails: Option<ErrorKind>) -> Arc<Self> {
        Arc::new(Self { way, fails: Mutex::new(fails), calls: AtomicUsize::new(0) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Transport for Fake {
    fn local_node(&self) -> NodeId {
        NodeId::from_bytes([1; 32])
    }

    fn way(&self) -> Way {
        self.way
    }

    async fn call(&self, _: NodeId, request: Message, _: Duration) -> Result<Message> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match *self.fails.lock().unwrap() {
            None => Ok(request),
            Some(kind) => Err(Error::new(kind, "as it was told")),
        }
    }

    async fn accept(&self) -> Option<Inbound> {
        None
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        None
    }

    async fn connect(&self, _: Address, _: Duration) -> Result<NodeId> {
        Err(Error::new(ErrorKind::InvalidInput, "no such address"))
    }

    fn set_peers(&self, _: Vec<PeerRoute>) {}

    fn connected(&self) -> Vec<NodeId> {
        vec![NodeId::from_bytes([2; 32])]
    }

    fn listen_addresses(&self) -> Vec<Address> {
        Vec::new()
    }

    async fn close(&self) {}
}

/// A request that was not handled goes by the next way; one that may have been does not, or it would be handled twice.
#[test]
fn only_what_was_not_handled_goes_by_another_way() {
    let runtime = TestRuntime::shared();
    let cases = [
        (ErrorKind::Unavailable, true),
        (ErrorKind::OutcomeUnknown, false),
        (ErrorKind::TimedOut, false),
        (ErrorKind::LimitExceeded, false),
        (ErrorKind::Closed, true),
    ];
    for (kind, goes_on) in cases {
        let (broken, whole) = (Fake::new(Way::SameMachine, Some(kind)), Fake::new(Way::Network, None));
        let ways = Ways::new(vec![whole.clone(), broken.clone()], runtime.clone()).unwrap();
        let call = || ways.call(NodeId::from_bytes([2; 32]), Message::default(), LIMIT);
        let answer = run(call());
        assert_eq!((broken.calls(), whole.calls()), (1, usize::from(goes_on)), "{kind:?}");
        assert_eq!(answer.err().map(|error| error.kind()), (!goes_on).then_some(kind));
        // Except for a message that was too long, the way is passed over from now on.
        let at_fault = kind != ErrorKind::LimitExceeded;
        assert_eq!(run(call()).is_ok(), at_fault, "{kind:?}");
        assert_eq!(broken.calls(), if at_fault { 1 } else { 2 }, "{kind:?}");
    }
}

/// The first call after a way was closed goes by the next one; a call that it interrupts may have been handled.
#[test]
fn a_way_that_is_closed_gives_way_at_once() {
    let place = Place::new();
    run(async {
        let ((ours, our_local), (theirs, _)) = (place.node(1).await, place.node(2).await);
        let (a, b) = (ours.local_node(), theirs.local_node());
        ours.set_peers(vec![route(&theirs)]);
        place.until(|| ours.ways_to(b).iter().all(|way| way.connected)).await;
        place.memory.partition(a, b);
        assert_eq!(chosen(&ours, &theirs), Some(Way::SameMachine));
        let closing = async {
            let held = theirs.accept().await.unwrap();
            our_local.close().await;
            held
        };
        let (lost, held) = futures::join!(ours.call(b, Message::default(), LIMIT), closing);
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        drop(held);
        echo(&ours, &theirs).await;
    });
    let runtime = TestRuntime::shared();
    let all_closed =
        [Way::SameMachine, Way::Network].map(|way| Fake::new(way, Some(ErrorKind::Closed)) as Arc<Any>);
    let ways = Ways::new(all_closed.into(), runtime).unwrap();
    let error = run(ways.call(NodeId::from_bytes([2; 32]), Message::default(), LIMIT)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

/// What is said of an address is said by the way that can read it.
#[test]
fn each_address_is_of_the_way_that_reads_it() {
    let place = Place::new();
    run(async {
        let (ours, _) = place.node(1).await;
        let of = |text: &str| ours.way_of(&text.parse().unwrap());
        let own: Vec<_> = ours.listen_addresses().iter().map(|address| ours.way_of(address)).collect();
        assert_eq!(own, [Some(Way::SameProcess), Some(Way::SameMachine), Some(Way::Network)]);
        assert_eq!(of("/dns/example.org/tcp/1"), Some(Way::Network));
        assert_eq!(of("no-such-network"), None);
    });
}

#[test]
fn calls_wait_for_a_place_among_the_dials_of_each_way() {
    let place = Place::new();
    run(async {
        let limits = || limits(|limits| limits.pending_connections = 2);
        let local = local::config(place.home.path(), 1, 7).limits(limits());
        let local: Arc<Any> = Arc::new(LocalTransport::open(local).await.unwrap());
        let libp2p: Arc<Any> =
            Arc::new(Libp2pTransport::open(libp2p::config(1, 7, "").limits(limits())).await.unwrap());
        let caller = Ways::new(vec![local, libp2p], place.runtime.clone()).unwrap();
        let mut others = Vec::new();
        for secret in 2..10 {
            others.push(place.node(secret).await.0);
        }
        transport::check_dials(place.runtime.clone(), caller, others).await;
    });
}

#[test]
fn some_small_requests_measure_the_second_way() {
    let runtime = TestRuntime::shared();
    let (cheap, dear) = (Fake::new(Way::SameMachine, None), Fake::new(Way::Network, None));
    let ways = Ways::new(vec![cheap.clone(), dear.clone()], runtime).unwrap();
    let node = NodeId::from_bytes([2; 32]);
    run(async {
        for _ in 0..640 {
            ways.call(node, Message::default(), LIMIT).await.unwrap();
        }
    });
    assert_eq!((cheap.calls(), dear.calls()), (630, 10));
    assert!(ways.ways_to(node).iter().all(|way| way.latency.is_some()));
}

#[test]
fn ways_are_of_one_node() {
    let runtime = TestRuntime::shared();
    assert_eq!(Ways::new(Vec::new(), runtime.clone()).unwrap_err().kind(), ErrorKind::InvalidInput);
    let network = MemoryNetwork::new();
    let join = |n| network.join(NodeId::from_bytes([n; 32]), runtime.clone()).unwrap();
    let two: Vec<Arc<Any>> = vec![Arc::new(join(1)), Arc::new(join(2))];
    assert_eq!(Ways::new(two, runtime.clone()).unwrap_err().kind(), ErrorKind::InvalidInput);
}
