//! The conformance suite must fail what breaks the contract: transports that are wrong on purpose.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_lock::Mutex;
use bytes::Bytes;
use common::nodes::introduce;
use common::{TestRuntime, run};
use datamesh_core::id::NodeId;
use datamesh_core::ports::{
    Address, Inbound, MAX_BODY_LEN, Message, PeerRoute, ReplySender, Runtime, Transport, TransportEvent,
};
use datamesh_core::testing::transport;
use datamesh_core::{Error, ErrorKind, Result};
use datamesh_net::memory::{MemoryNetwork, MemoryTransport};

/// What a wrong transport does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    WrongSender,
    DeliversTwice,
    ForgetsTheLimit,
    HidesDroppedReplies,
    StrangersTimeOut,
    OneAtATime,
    LeaksCancelledCalls,
    CutsBodies,
    DropsWhenBusy,
    CallsItself,
    NeverDisconnects,
    GoesOnAfterClose,
    FailsInACrowd,
    ForgetsWhatItSent,
    RefusesNobody,
}

#[derive(Debug)]
struct Wrong {
    fault: Fault,
    inner: MemoryTransport,
    turn: Mutex<()>,
    slots: async_lock::Semaphore,
}

impl Transport for Wrong {
    fn local_node(&self) -> NodeId {
        self.inner.local_node()
    }

    async fn call(&self, node: NodeId, mut request: Message, mut limit: Duration) -> Result<Message> {
        let _turn = match self.fault {
            Fault::OneAtATime => Some(self.turn.lock().await),
            Fault::FailsInACrowd => match self.turn.try_lock() {
                None => return Err(Error::new(ErrorKind::Unavailable, "too many dials are under way")),
                turn => turn,
            },
            _ => None,
        };
        match self.fault {
            Fault::ForgetsTheLimit => limit = Duration::from_secs(10),
            Fault::CutsBodies => request.body.truncate(MAX_BODY_LEN - 1),
            Fault::CallsItself if node == self.local_node() => return Ok(request),
            Fault::DeliversTwice => {
                let _ = self.inner.call(node, request.clone(), limit).await;
            }
            Fault::LeaksCancelledCalls => {
                let slot = self.slots.acquire().await;
                slot.forget();
                let result = self.inner.call(node, request, limit).await;
                self.slots.add_permits(1);
                return result;
            }
            _ => {}
        }
        let result = self.inner.call(node, request, limit).await;
        match result.as_ref().map_err(Error::kind) {
            Err(ErrorKind::OutcomeUnknown) if self.fault == Fault::HidesDroppedReplies => {
                std::future::pending().await
            }
            Err(ErrorKind::OutcomeUnknown)
                if self.fault == Fault::ForgetsWhatItSent && self.listen_addresses().is_empty() =>
            {
                Err(Error::new(ErrorKind::Closed, "closed"))
            }
            Err(ErrorKind::Unavailable) if self.fault == Fault::StrangersTimeOut => {
                Err(Error::new(ErrorKind::TimedOut, "nobody there"))
            }
            _ => result,
        }
    }

    async fn accept(&self) -> Option<Inbound> {
        let mut inbound = self.inner.accept().await?;
        match self.fault {
            Fault::WrongSender => inbound.from = self.local_node(),
            Fault::DropsWhenBusy => {
                // A transport that keeps one request and loses the rest, as an acceptor that is busy would.
                while let Some(Some(next)) = futures::FutureExt::now_or_never(self.inner.accept()) {
                    drop(inbound);
                    inbound = next;
                }
            }
            _ => {}
        }
        Some(inbound)
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        loop {
            let event = self.inner.next_event().await?;
            let hidden =
                matches!(event, TransportEvent::Disconnected(_)) && self.fault == Fault::NeverDisconnects;
            if !hidden {
                return Some(event);
            }
        }
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.inner.connect(address, limit).await
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        self.inner.set_peers(peers);
    }

    fn refuse(&self, nodes: Vec<NodeId>) {
        if self.fault != Fault::RefusesNobody {
            self.inner.refuse(nodes);
        }
    }

    fn connected(&self) -> Vec<NodeId> {
        self.inner.connected()
    }

    fn listen_addresses(&self) -> Vec<Address> {
        self.inner.listen_addresses()
    }

    async fn close(&self) {
        let deaf = self.fault == Fault::GoesOnAfterClose && self.local_node().as_bytes()[0] == 1;
        if !deaf {
            self.inner.close().await;
        }
    }
}

fn wrong(fault: Fault, network: &MemoryNetwork, runtime: &Arc<dyn Runtime>, n: usize) -> Wrong {
    let inner = network.join(NodeId::from_bytes([n as u8 + 1; 32]), runtime.clone()).unwrap();
    Wrong { fault, inner, turn: Mutex::new(()), slots: async_lock::Semaphore::new(100) }
}

fn suite(fault: Fault) {
    let runtime = TestRuntime::shared();
    let network = MemoryNetwork::new();
    let open = |count: usize| {
        let nodes = (0..count).map(|n| wrong(fault, &network, &runtime, n)).collect();
        std::future::ready(introduce(nodes))
    };
    run(transport::check_within(runtime.clone(), Duration::from_secs(2), open));
}

macro_rules! faults {
    ($($name:ident: $fault:ident breaks $clause:literal;)*) => {$(
        #[test]
        #[should_panic(expected = $clause)]
        fn $name() {
            suite(Fault::$fault);
        }
    )*};
}

faults! {
    wrong_sender: WrongSender breaks "clause 1";
    delivers_twice: DeliversTwice breaks "clause 2: a request was delivered twice";
    forgets_the_limit: ForgetsTheLimit breaks "clause 2: a call outlived its limit";
    hides_dropped_replies: HidesDroppedReplies breaks "clause 2: a dropped reply did not end the call";
    strangers_time_out: StrangersTimeOut breaks "clause 2: an unknown node";
    leaks_cancelled_calls: LeaksCancelledCalls breaks "clause 3";
    one_at_a_time: OneAtATime breaks "clause";
    cuts_bodies: CutsBodies breaks "clause 5";
    drops_when_busy: DropsWhenBusy breaks "clause";
    calls_itself: CallsItself breaks "clause 8";
    never_disconnects: NeverDisconnects breaks "clause 9";
    goes_on_after_close: GoesOnAfterClose breaks "clause 10";
    forgets_what_it_sent: ForgetsWhatItSent breaks "clause 10: close interrupted";
}

/// Runs the check of many dials at once.
fn crowd(fault: Fault) {
    let (runtime, network) = (TestRuntime::shared(), MemoryNetwork::new());
    let mut nodes: Vec<_> = (0..8).map(|n| wrong(fault, &network, &runtime, n)).collect();
    let caller = nodes.remove(0);
    run(transport::check_dials(runtime.clone(), caller, nodes));
}

#[test]
#[should_panic(expected = "clause 6")]
fn fails_in_a_crowd() {
    crowd(Fault::FailsInACrowd);
}

/// Runs the check of nodes that are refused.
fn refusal(fault: Fault) {
    let (runtime, network) = (TestRuntime::shared(), MemoryNetwork::new());
    let open = |count: usize| {
        let nodes = (0..count).map(|n| wrong(fault, &network, &runtime, n)).collect();
        std::future::ready(introduce(nodes))
    };
    run(transport::check_refusal(runtime.clone(), Duration::from_secs(2), open));
}

#[test]
#[should_panic(expected = "clause 11")]
fn refuses_nobody() {
    refusal(Fault::RefusesNobody);
}

#[test]
fn the_wrapper_itself_is_right() {
    suite(Fault::None);
    crowd(Fault::None);
    refusal(Fault::None);
}

#[test]
fn a_reply_sender_that_is_dropped_is_noticed() {
    let (sender, receiver) = ReplySender::pair();
    drop(sender);
    assert!(run(receiver).is_err());
    assert!(Message::default().body == Bytes::new());
}
