//! The conformance suite of the transport port.
//!
//! [`check`] runs every clause of the contract of [`Transport`] that can be seen from outside, and panics
//! with `clause N: ...` at the first one that is broken. What it cannot see (how much memory a transport
//! takes, what a stranger learns) is for the tests of each transport.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{self, Either};

use crate::error::{ErrorKind, Result};
use crate::id::NodeId;
use crate::ports::{
    Inbound, MAX_BODY_LEN, MAX_HEAD_LEN, Message, PeerRoute, ReplySender, Runtime, Transport, TransportEvent,
};

/// How long [`check`] waits for what must happen; far more than any transport needs on one machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Requests that are held back at the same time while others must pass: more than a pool of streams,
/// fewer than the requests that any transport allows one peer.
const HELD: usize = 12;

/// Concurrent requests of the flood: more than any queue of a transport holds.
const FLOOD: usize = 400;

/// Runs the suite.
///
/// `open` gives this many transports of one mesh, each of which was told the routes to all the others
/// (`set_peers`); they need not be connected yet. `runtime` runs the suite's own tasks and timers.
///
/// # Panics
/// With the number of the clause when the transport breaks its contract.
pub async fn check<T, F, Fut>(runtime: Arc<dyn Runtime>, open: F)
where
    T: Transport,
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Vec<T>>,
{
    check_within(runtime, PATIENCE, open).await;
}

/// Runs the suite as [`check`] does, and waits at most `patience` for each thing that must happen.
///
/// # Panics
/// With the number of the clause when the transport breaks its contract.
pub async fn check_within<T, F, Fut>(runtime: Arc<dyn Runtime>, patience: Duration, open: F)
where
    T: Transport,
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Vec<T>>,
{
    let bench = Bench { runtime, patience };
    let [a, b, c] = bench.three(open(3).await).await;
    bench.replies_come_from_the_right_peer(&a, &b, &c).await;
    bench.time_is_kept(&a, &b).await;
    bench.a_dropped_reply_fails_the_call(&a, &b).await;
    bench.strangers_are_unavailable(&a).await;
    bench.cancelled_calls_free_what_they_took(&a, &b).await;
    bench.slow_requests_stop_nobody(&a, &b).await;
    bench.sizes_are_limited(&a, &b).await;
    bench.nothing_is_lost_when_accept_is_slow(&a, &b).await;
    bench.the_local_node_is_refused(&a).await;
    bench.addresses_lead_to_nodes(&a, &b).await;
    bench.a_peer_that_left_is_unavailable(&a, &b, c).await;
    bench.closed_means_closed(a, b).await;
}

/// Checks the part of clause 6 that needs a transport with few places: calls to peers that are not connected yet wait
/// for a place among the dials.
///
/// `caller` was opened with a limit of one or two connections that are being made at the same time, where it has such a
/// limit, and is connected to none of `others`; these are a good many more, and of the same mesh.
///
/// # Panics
/// With the number of the clause when the transport breaks its contract.
pub async fn check_dials<T: Transport>(runtime: Arc<dyn Runtime>, caller: T, others: Vec<T>) {
    let bench = Bench { runtime, patience: PATIENCE };
    let caller = bench.serve(caller);
    let others: Vec<_> = others.into_iter().map(|other| bench.serve(other)).collect();
    let route = |other: &Peer<T>| PeerRoute { node: other.id, addresses: other.transport.listen_addresses() };
    caller.transport.set_peers(others.iter().map(route).collect());
    let calls = others.iter().enumerate().map(|(n, other)| bench.call(&caller, other.id, numbered(n as u32)));
    let clause = "clause 6: a call to a peer that is not connected does not wait for a place among the dials";
    for (n, reply) in future::join_all(calls).await.into_iter().enumerate() {
        let reply = expect(clause, reply);
        assert!(reply.head == numbered(n as u32).head, "clause 2: a reply went to another request");
    }
    for peer in others.iter().chain([&caller]) {
        bench.within(bench.patience, "clause 10: a transport hangs at its end", peer.transport.close()).await;
    }
}

/// Checks clause 11, of transports that refuse nodes at all; the arguments are those of [`check_within`].
///
/// # Panics
/// With the number of the clause when the transport breaks its contract.
pub async fn check_refusal<T, F, Fut>(runtime: Arc<dyn Runtime>, patience: Duration, open: F)
where
    T: Transport,
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Vec<T>>,
{
    let bench = Bench { runtime, patience };
    let [a, b, c] = bench.three(open(3).await).await;
    bench.refused_nodes_get_no_connection(&a, &b, &c).await;
    for peer in [a, b, c] {
        bench.within(bench.patience, "clause 10: a transport hangs at its end", peer.transport.close()).await;
    }
}

/// One node of the suite: a transport, and what its server has seen.
struct Peer<T> {
    transport: Arc<T>,
    id: NodeId,
    seen: Arc<Seen>,
}

/// What a server counts and keeps.
struct Seen {
    echoed: AtomicUsize,
    ids: Mutex<BTreeSet<Vec<u8>>>,
    twice: AtomicUsize,
    wrong_sender: AtomicUsize,
    held: Mutex<Vec<(Message, ReplySender)>>,
    arrivals: (async_channel::Sender<()>, async_channel::Receiver<()>),
    gate: Gate,
}

/// Lets a server stop accepting until it is opened again.
#[derive(Default)]
struct Gate(Mutex<Option<oneshot::Receiver<()>>>);

/// Arrivals that wait to be counted; a test waits for fewer than this.
const ARRIVALS: usize = 1024;

/// The suite at work.
struct Bench {
    runtime: Arc<dyn Runtime>,
    patience: Duration,
}

impl Bench {
    /// How long a call may take that must fail without waiting for its own limit.
    fn prompt(&self) -> Duration {
        self.patience / 2
    }

    /// Serves three transports, and waits until they are connected.
    async fn three<T: Transport>(&self, opened: Vec<T>) -> [Peer<T>; 3] {
        let nodes: Vec<_> = opened.into_iter().map(|transport| self.serve(transport)).collect();
        let nodes: [Peer<T>; 3] =
            nodes.try_into().unwrap_or_else(|_| panic!("the factory did not give three transports"));
        let [a, b, c] = &nodes;
        self.peers_connect(a, b, c).await;
        nodes
    }

    /// Serves a transport: the first byte of a head says what to do.
    fn serve<T: Transport>(&self, transport: T) -> Peer<T> {
        let transport = Arc::new(transport);
        let seen = Arc::new(Seen::new());
        let (server, log, local) = (transport.clone(), seen.clone(), transport.local_node());
        let task = async move {
            loop {
                log.gate.pass().await;
                let Some(inbound) = server.accept().await else { break };
                log.handle(local, inbound);
            }
        };
        self.spawn(task);
        Peer { id: transport.local_node(), transport, seen }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Err(error) = self.runtime.spawn(Box::pin(task)) {
            panic!("the suite's runtime refused a task: {error}");
        }
    }

    /// Waits for `work`, at most `limit`, and breaks the clause when it takes longer.
    async fn within<R>(&self, limit: Duration, clause: &str, work: impl Future<Output = R>) -> R {
        let work = std::pin::pin!(work);
        match future::select(work, self.runtime.sleep(limit)).await {
            Either::Left((value, _)) => value,
            Either::Right(_) => panic!("{clause}: nothing happened for {} s", limit.as_secs()),
        }
    }

    async fn call<T: Transport>(&self, from: &Peer<T>, to: NodeId, request: Message) -> Result<Message> {
        let call = from.transport.call(to, request, self.patience);
        self.within(self.patience + Duration::from_secs(2), "clause 2: a call outlived its limit", call).await
    }

    async fn echo<T: Transport>(&self, from: &Peer<T>, to: NodeId, clause: &str, body: Bytes) {
        let request = message(b"e", body);
        match self.call(from, to, request.clone()).await {
            Ok(reply) => assert!(reply == request, "{clause}: the reply is not what was sent"),
            Err(error) => panic!("{clause}: a good request failed: {error}"),
        }
    }

    /// Clause 9: known peers are dialled, and both ends hear of it.
    async fn peers_connect<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>, c: &Peer<T>) {
        let clause = "clause 9: known peers are not connected";
        for (peer, others) in [(a, [b, c]), (b, [a, c]), (c, [a, b])] {
            let mut missing: BTreeSet<_> = others.iter().map(|other| other.id).collect();
            while !missing.is_empty() {
                match self.within(self.patience, clause, peer.transport.next_event()).await {
                    Some(TransportEvent::Connected(id)) => missing.remove(&id),
                    Some(_) => false,
                    None => panic!("{clause}: events ended"),
                };
            }
            let connected = peer.transport.connected();
            assert!(others.iter().all(|other| connected.contains(&other.id)), "{clause}");
        }
    }

    /// Clauses 1 and 2: the sender is named rightly, and each request is handled once.
    async fn replies_come_from_the_right_peer<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>, c: &Peer<T>) {
        for (from, to) in [(a, b), (b, a), (a, c), (c, b)] {
            let mut head = b"i".to_vec();
            head.extend_from_slice(from.id.as_bytes());
            let request = Message { head: head.into(), body: Bytes::from_static(b"who am I?") };
            let reply = expect("clause 2: a request failed", self.call(from, to.id, request).await);
            assert!(reply.head == to.id.as_bytes().as_slice(), "clause 1: another node answered");
            assert_eq!(
                to.seen.wrong_sender.load(Ordering::SeqCst),
                0,
                "clause 1: the sender was named wrongly"
            );
        }
        let calls = (0..50u32).map(|n| self.call(a, b.id, numbered(n)));
        for (n, reply) in future::join_all(calls).await.into_iter().enumerate() {
            let reply = expect("clause 2: one of 50 concurrent requests failed", reply);
            assert!(reply.head == numbered(n as u32).head, "clause 2: a reply went to another request");
        }
        assert_eq!(b.seen.twice.load(Ordering::SeqCst), 0, "clause 2: a request was delivered twice");
    }

    /// Clause 11: a node that is refused loses its connections and gets no other, until it is refused no more.
    async fn refused_nodes_get_no_connection<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>, c: &Peer<T>) {
        let arrived = a.seen.next_arrivals(1);
        let call = self.call(b, a.id, message(b"h", Bytes::new()));
        let refusal = async {
            arrived.await;
            a.transport.refuse(vec![b.id]);
        };
        let (lost, ()) = future::join(call, refusal).await;
        expect_kind("clause 11: a request of a refused node goes on", lost, ErrorKind::OutcomeUnknown);
        a.seen.release();
        for (peer, other) in [(a, b), (b, a)] {
            let clause = "clause 11: a connection with a refused node is not closed";
            self.until_event(peer, clause, &TransportEvent::Disconnected(other.id)).await;
        }
        let before = a.seen.echoed.load(Ordering::SeqCst);
        for (peer, other) in [(b, a), (a, b)] {
            let clause = "clause 11: a refused node is called, or calls";
            let call = self.call(peer, other.id, message(b"e", Bytes::new()));
            assert!(self.within(self.prompt(), clause, call).await.is_err(), "{clause}");
            for address in other.transport.listen_addresses() {
                let clause = "clause 11: a refused node is dialled, or dials";
                let connected = peer.transport.connect(address, self.patience);
                // Who is refused may learn it only from the end of the connection.
                if self.within(self.patience, clause, connected).await.is_ok() {
                    assert!(peer.id == b.id, "{clause}");
                    self.until_event(peer, clause, &TransportEvent::Disconnected(other.id)).await;
                }
            }
        }
        let clause = "clause 11: a refused node is heard";
        assert!(!a.transport.is_connected(b.id), "{clause}");
        assert_eq!(a.seen.echoed.load(Ordering::SeqCst), before, "{clause}");
        for (from, to) in [(a, c), (c, a), (b, c), (c, b)] {
            self.echo(from, to.id, "clause 11: others are refused, too", Bytes::new()).await;
        }

        a.transport.refuse(vec![c.id]);
        let clause = "clause 11: the set is not replaced";
        let both = [TransportEvent::Disconnected(c.id), TransportEvent::Connected(b.id)];
        self.until_events(a, clause, &both).await;
        self.echo(a, b.id, clause, Bytes::new()).await;
        self.echo(b, a.id, clause, Bytes::new()).await;
    }

    /// Waits for an event, and passes over others.
    async fn until_event<T: Transport>(&self, peer: &Peer<T>, clause: &str, wanted: &TransportEvent) {
        self.until_events(peer, clause, std::slice::from_ref(wanted)).await;
    }

    /// Waits for events, in any order, and passes over others.
    async fn until_events<T: Transport>(&self, peer: &Peer<T>, clause: &str, wanted: &[TransportEvent]) {
        let seen = async {
            let mut missing = wanted.to_vec();
            while !missing.is_empty() {
                let Some(event) = peer.transport.next_event().await else { return false };
                missing.retain(|other| *other != event);
            }
            true
        };
        assert!(self.within(self.patience, clause, seen).await, "{clause}");
    }

    /// Clause 2: a call ends in time even when nobody answers.
    async fn time_is_kept<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        let limit = Duration::from_millis(200);
        let before = self.runtime.now();
        let call = a.transport.call(b.id, message(b"h", Bytes::new()), limit);
        let result = self.within(self.prompt(), "clause 2: a call outlived its limit", call).await;
        let took = self.runtime.now().saturating_since(before);
        assert!(took <= limit + Duration::from_secs(1), "clause 2: a call outlived its limit: {took:?}");
        assert!(took >= limit / 2, "clause 2: a call ended long before its limit: {took:?}");
        expect_kind("clause 2: nobody answered", result, ErrorKind::TimedOut);
        b.seen.release();
    }

    /// Clause 2: a reply that will never come ends the call at once.
    async fn a_dropped_reply_fails_the_call<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        let call = self.call(a, b.id, message(b"d", Bytes::new()));
        let result = self.within(self.prompt(), "clause 2: a dropped reply did not end the call", call).await;
        expect_kind("clause 2: the peer gave up", result, ErrorKind::OutcomeUnknown);
        self.echo(a, b.id, "clause 2: after a dropped reply", Bytes::from_static(b"next")).await;
    }

    /// Clause 2: a node that nobody knows.
    async fn strangers_are_unavailable<T: Transport>(&self, a: &Peer<T>) {
        let call = self.call(a, NodeId::from_bytes(UNKNOWN), message(b"e", Bytes::new()));
        let result = self.within(self.prompt(), "clause 2: a call to an unknown node hangs", call).await;
        expect_kind("clause 2: an unknown node", result, ErrorKind::Unavailable);
    }

    /// Clause 3: calls that were dropped leave nothing behind.
    async fn cancelled_calls_free_what_they_took<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        for _ in 0..20 {
            let arrived = b.seen.next_arrivals(HELD);
            let mut calls = future::join_all((0..HELD).map(|_| {
                a.transport.call(b.id, message(b"h", Bytes::from(vec![7; 100_000])), self.patience)
            }));
            let clause = "clause 3: requests no longer arrive after calls were dropped";
            let both = future::select(&mut calls, arrived);
            if let Either::Left((results, _)) = self.within(self.patience, clause, both).await {
                panic!("{clause}: {:?}", results.first());
            }
            drop(calls);
            lock(&b.seen.held).clear();
        }
        self.echo(a, b.id, "clause 3: after dropped calls", Bytes::from_static(b"next")).await;
        let never_polled = a.transport.call(b.id, message(b"e", Bytes::new()), self.patience);
        drop(never_polled);
    }

    /// Clause 4: requests that wait for their handler stop no other.
    async fn slow_requests_stop_nobody<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        let clause = "clause 4: slow requests stop the others";
        let arrived = b.seen.next_arrivals(HELD);
        let slow = future::join_all((0..HELD).map(|_| self.call(a, b.id, message(b"h", Bytes::new()))));
        let others = async {
            arrived.await;
            for _ in 0..20 {
                self.echo(a, b.id, clause, Bytes::from(vec![1; 10_000])).await;
                self.echo(b, a.id, clause, Bytes::from(vec![2; 10_000])).await;
            }
            b.seen.release();
        };
        let (replies, ()) = self.within(self.patience, clause, future::join(slow, others)).await;
        for reply in replies {
            expect("clause 4: a slow request failed", reply);
        }
    }

    /// Clause 5: the longest message passes whole, a longer one does not, in both directions.
    async fn sizes_are_limited<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        let body: Bytes = (0..MAX_BODY_LEN).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        let mut head = vec![b'e'; MAX_HEAD_LEN];
        let largest = Message { head: head.clone().into(), body: body.clone() };
        let reply = expect("clause 5: the longest message failed", self.call(a, b.id, largest.clone()).await);
        assert!(reply == largest, "clause 5: the longest message was changed");
        head.push(b'e');
        let longer_head = Message { head: head.into(), body: Bytes::new() };
        let longer_body = Message { head: Bytes::from_static(b"e"), body: vec![0; MAX_BODY_LEN + 1].into() };
        let handled = b.seen.echoed.load(Ordering::SeqCst);
        for request in [longer_head, longer_body] {
            let result = self.call(a, b.id, request).await;
            expect_kind("clause 5: a message over the limit", result, ErrorKind::LimitExceeded);
        }
        assert_eq!(
            b.seen.echoed.load(Ordering::SeqCst),
            handled,
            "clause 5: a message over the limit arrived"
        );
        let reply = self.call(a, b.id, message(b"o", Bytes::new())).await;
        expect_kind("clause 5: a reply over the limit", reply, ErrorKind::LimitExceeded);
        self.echo(a, b.id, "clause 5: after messages over the limit", Bytes::from_static(b"next")).await;
    }

    /// Clauses 6 and 7: a flood meets a server that does not accept, waits, and arrives whole.
    async fn nothing_is_lost_when_accept_is_slow<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        let clause = "clause 7: requests were lost while accept was slow";
        let open = b.seen.gate.shut();
        // A server that is inside `accept` already takes one request of the flood before it reaches the gate.
        let calls = future::join_all((0..FLOOD as u32).map(|n| self.call(a, b.id, numbered(1000 + n))));
        let waited = async {
            self.runtime.sleep(Duration::from_millis(100)).await;
            drop(open);
        };
        let (replies, ()) = self.within(self.patience, clause, future::join(calls, waited)).await;
        for (n, reply) in replies.into_iter().enumerate() {
            let reply = expect(clause, reply);
            assert!(reply.head == numbered(1000 + n as u32).head, "clause 7: replies were mixed up");
        }
        assert_eq!(b.seen.twice.load(Ordering::SeqCst), 0, "clause 2: a request was delivered twice");
    }

    /// Clause 8.
    async fn the_local_node_is_refused<T: Transport>(&self, a: &Peer<T>) {
        let result = self.call(a, a.id, message(b"e", Bytes::new())).await;
        expect_kind("clause 8: a call to the local node", result, ErrorKind::InvalidInput);
    }

    /// `connect` and `listen_addresses` belong together.
    async fn addresses_lead_to_nodes<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>) {
        for address in b.transport.listen_addresses() {
            let connect = a.transport.connect(address.clone(), self.patience);
            let id = expect("clause 9: a listen address does not connect", connect.await);
            assert_eq!(id, b.id, "clause 1: {address} led to another node");
        }
        let nonsense = "no-such-network".parse().unwrap_or_else(|error| panic!("{error}"));
        let result = a.transport.connect(nonsense, self.patience).await;
        expect_kind("connect: an address of no known form", result, ErrorKind::InvalidInput);
    }

    /// Clauses 2 and 9: a known peer that left is reported, and calls to it fail as soon as the dial does.
    async fn a_peer_that_left_is_unavailable<T: Transport>(&self, a: &Peer<T>, b: &Peer<T>, c: Peer<T>) {
        let arrived = c.seen.next_arrivals(1);
        let pending = self.call(a, c.id, message(b"h", Bytes::new()));
        let close = async {
            arrived.await;
            c.transport.close().await;
        };
        let clause = "clause 2: a call to a peer that left hangs";
        let (result, ()) = self.within(self.patience, clause, future::join(pending, close)).await;
        expect_kind("clause 2: the peer left after the request", result, ErrorKind::OutcomeUnknown);
        let gone =
            async { while a.transport.next_event().await != Some(TransportEvent::Disconnected(c.id)) {} };
        self.within(self.patience, "clause 9: nobody said that a peer is gone", gone).await;
        assert!(!a.transport.connected().contains(&c.id), "clause 9: a peer that left counts as connected");
        let call = self.call(a, c.id, message(b"e", Bytes::new()));
        let result =
            self.within(self.prompt(), "clause 9: a call to a known peer that left hangs", call).await;
        expect_kind("clause 9: a known peer that left", result, ErrorKind::Unavailable);
        self.echo(a, b.id, "clause 9: a third node", Bytes::from_static(b"still here")).await;
    }

    /// Clause 10.
    async fn closed_means_closed<T: Transport>(&self, a: Peer<T>, b: Peer<T>) {
        let clause = "clause 10: a closed transport hangs";
        let address = b.transport.listen_addresses().into_iter().next();
        let arrived = b.seen.next_arrivals(1);
        let pending = self.call(&a, b.id, message(b"h", Bytes::new()));
        let close = async {
            arrived.await;
            a.transport.close().await;
        };
        let (result, ()) = self.within(self.patience, clause, future::join(pending, close)).await;
        let interrupted = "clause 10: close interrupted a call whose request had arrived";
        expect_kind(interrupted, result, ErrorKind::OutcomeUnknown);
        let call = self.within(self.patience, clause, self.call(&a, b.id, message(b"e", Bytes::new()))).await;
        expect_kind("clause 10: call", call, ErrorKind::Closed);
        if let Some(address) = address {
            let connect =
                self.within(self.patience, clause, a.transport.connect(address, self.patience)).await;
            expect_kind("clause 10: connect", connect, ErrorKind::Closed);
        }
        let accepted = self.within(self.patience, clause, a.transport.accept()).await;
        assert!(accepted.is_none(), "clause 7: accept yields requests after close");
        let events = async { while a.transport.next_event().await.is_some() {} };
        self.within(self.patience, "clause 10: events go on after close", events).await;
        assert!(a.transport.connected().is_empty(), "clause 10: still connected");
        assert!(a.transport.listen_addresses().is_empty(), "clause 10: still listening");
        self.within(self.patience, clause, a.transport.close()).await;
        self.within(self.patience, clause, b.transport.close()).await;
    }
}

/// A public key that no node of a test has.
const UNKNOWN: [u8; 32] = [
    0x3d, 0x40, 0x17, 0xc3, 0xe8, 0x43, 0x89, 0x5a, 0x92, 0xb7, 0x0a, 0xa7, 0x4d, 0x1b, 0x7e, 0xbc, 0x9c,
    0x98, 0x2c, 0xcf, 0x2e, 0xc4, 0x96, 0x8c, 0xc0, 0xcd, 0x55, 0xf1, 0x2a, 0xf4, 0x66, 0x0c,
];

fn message(head: &'static [u8], body: Bytes) -> Message {
    Message { head: Bytes::from_static(head), body }
}

fn numbered(n: u32) -> Message {
    let head = [b"n".as_slice(), &n.to_le_bytes()].concat();
    Message { head: head.into(), body: Bytes::from(vec![n as u8; 3000]) }
}

fn expect<R>(clause: &str, result: Result<R>) -> R {
    result.unwrap_or_else(|error| panic!("{clause}: {error:?}"))
}

fn expect_kind<R: Debug>(clause: &str, result: Result<R>, kind: ErrorKind) {
    match result {
        Err(error) if error.kind() == kind => {}
        other => panic!("{clause}: expected {kind:?}, got {other:?}"),
    }
}

impl Seen {
    fn new() -> Self {
        Self {
            echoed: AtomicUsize::new(0),
            ids: Mutex::default(),
            twice: AtomicUsize::new(0),
            wrong_sender: AtomicUsize::new(0),
            held: Mutex::default(),
            arrivals: async_channel::bounded(ARRIVALS),
            gate: Gate::default(),
        }
    }

    fn handle(&self, local: NodeId, inbound: Inbound) {
        let Inbound { from, message, reply } = inbound;
        match message.head.split_first() {
            Some((b'i', claimed)) => {
                let wrong = claimed != from.as_bytes();
                self.wrong_sender.fetch_add(usize::from(wrong), Ordering::SeqCst);
                let head = Bytes::copy_from_slice(local.as_bytes());
                reply.send(Message { head, body: Bytes::new() });
            }
            Some((b'n', _)) => {
                let new = lock(&self.ids).insert(message.head.to_vec());
                self.twice.fetch_add(usize::from(!new), Ordering::SeqCst);
                reply.send(message);
            }
            Some((b'h', _)) => {
                lock(&self.held).push((message, reply));
                // Only a test that waits for arrivals reads this; a full channel has told enough.
                let _ = self.arrivals.0.try_send(());
            }
            Some((b'o', _)) => {
                reply.send(Message { head: message.head, body: vec![0; MAX_BODY_LEN + 1].into() })
            }
            Some((b'd', _)) => drop(reply),
            _ => {
                self.echoed.fetch_add(1, Ordering::SeqCst);
                reply.send(message);
            }
        }
    }

    /// Answers everything that was held back.
    fn release(&self) {
        for (message, reply) in lock(&self.held).drain(..) {
            reply.send(message);
        }
    }

    /// Resolves when this many more requests have arrived to be held back.
    fn next_arrivals(&self, count: usize) -> impl Future<Output = ()> + use<> {
        let arrivals = self.arrivals.1.clone();
        while arrivals.try_recv().is_ok() {}
        Box::pin(async move {
            for _ in 0..count {
                // The server holds the other end for as long as the suite runs.
                let _ = arrivals.recv().await;
            }
        })
    }
}

impl Gate {
    /// Shuts the gate until the returned value is dropped.
    fn shut(&self) -> oneshot::Sender<()> {
        let (open, opened) = oneshot::channel();
        *lock(&self.0) = Some(opened);
        open
    }

    async fn pass(&self) {
        let shut = lock(&self.0).take();
        if let Some(opened) = shut {
            // Dropping the sender opens the gate.
            let _ = opened.await;
        }
    }
}

fn lock<R>(mutex: &Mutex<R>) -> MutexGuard<'_, R> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
