//! The transport of one incarnation of a node.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::NodeId;
use crate::ports::{
    Address, Inbound, MAX_BODY_LEN, MAX_HEAD_LEN, Message, PeerRoute, Runtime, Transport, TransportEvent,
};
use crate::sim::network::{Endpoint, MAX_CALLS_OF_PEER, Net, closed, interrupted, unreachable};
use crate::sim::world::ScopeId;

/// The most routes that are used, as the port says.
const MAX_ROUTES: usize = 4096;

/// The form of an address in the simulated network: this, and a node's number.
const SCHEME: &str = "sim:";

/// The address of a node.
pub(super) fn address_of(node: usize) -> Option<Address> {
    format!("{SCHEME}{node}").parse().ok()
}

fn node_of(address: &Address) -> Option<usize> {
    address.as_str().strip_prefix(SCHEME)?.parse().ok()
}

/// See the module.
#[derive(Debug)]
pub(super) struct SimTransport {
    net: Net,
    node: usize,
    id: NodeId,
    scope: ScopeId,
    runtime: Arc<dyn Runtime>,
}

/// A call that is taken back when nobody waits for it.
struct Pending<'a> {
    transport: &'a SimTransport,
    call: u64,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.transport.net.cancel(self.call, self.transport.scope);
    }
}

impl SimTransport {
    pub(super) fn open(
        net: &Net,
        node: usize,
        id: NodeId,
        scope: ScopeId,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        net.supersede(node);
        net.network.open(node, id, scope);
        Self { net: net.clone(), node, id, scope, runtime }
    }

    fn with<R>(&self, with: impl FnOnce(&mut Endpoint) -> R) -> Option<R> {
        self.net.network.with_endpoint(self.node, self.scope, with)
    }

    fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// The number of a peer that is connected; it is dialled first where it is not.
    async fn reach(&self, peer: usize) -> Result<()> {
        if !self.is_open() {
            return Err(closed());
        }
        if self.net.network.is_connected(self.node, peer) {
            return Ok(());
        }
        match self.net.dial(self.node, peer).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(unreachable()),
            Err(_) => Err(closed()),
        }
    }

    async fn exchange(&self, peer: usize, request: Message) -> Result<Message> {
        self.reach(peer).await?;
        let permits = self.with(|endpoint| {
            let permits = endpoint.permits.entry(peer);
            Arc::clone(permits.or_insert_with(|| Arc::new(async_lock::Semaphore::new(MAX_CALLS_OF_PEER))))
        });
        let _permit = permits.ok_or_else(closed)?.acquire_arc().await;
        if !self.is_open() {
            return Err(closed());
        }
        let (call, answer) = self.net.send(self.node, self.scope, peer, request)?;
        let _pending = Pending { transport: self, call };
        answer.await.unwrap_or_else(|_| Err(interrupted()))
    }

    /// Waits for something at this end; `None` when the end is closed.
    fn wait_for<T, F>(&self, take: F) -> WaitFor<'_, F>
    where
        F: FnMut(&mut Endpoint, &Waker) -> Option<T>,
    {
        WaitFor { transport: self, take }
    }
}

struct WaitFor<'a, F> {
    transport: &'a SimTransport,
    take: F,
}

impl<F> Unpin for WaitFor<'_, F> {}

impl<T, F: FnMut(&mut Endpoint, &Waker) -> Option<T>> Future for WaitFor<'_, F> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        match this.transport.with(|endpoint| (this.take)(endpoint, context.waker())) {
            None => Poll::Ready(None),
            Some(Some(value)) => Poll::Ready(Some(value)),
            Some(None) => Poll::Pending,
        }
    }
}

/// Adds a waker, once.
fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

impl Transport for SimTransport {
    fn local_node(&self) -> NodeId {
        self.id
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        if !self.is_open() {
            return Err(closed());
        }
        if node == self.id {
            return Err(Error::new(ErrorKind::InvalidInput, "a node does not call itself"));
        }
        check_sizes(&request)?;
        let peer = self.net.network.number_of(&node).ok_or_else(unreachable)?;
        let known = self.with(|endpoint| endpoint.routes.contains(&peer)).unwrap_or(false);
        if !known && !self.net.network.is_connected(self.node, peer) {
            return Err(unreachable());
        }
        self.runtime.timeout(limit, self.exchange(peer, request)).await?
    }

    async fn accept(&self) -> Option<Inbound> {
        self.wait_for(|endpoint, waker| {
            let next = endpoint.inbox.pop_front();
            if next.is_none() {
                remember(&mut endpoint.inbox_wakers, waker);
            }
            next
        })
        .await
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        self.wait_for(|endpoint, waker| {
            let next = endpoint.events.pop_front();
            if next.is_none() {
                remember(&mut endpoint.event_wakers, waker);
            }
            next
        })
        .await
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        if !self.is_open() {
            return Err(closed());
        }
        let peer = node_of(&address).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "an address of the simulated network is sim: and a number")
        })?;
        if peer == self.node {
            return Ok(self.id);
        }
        self.runtime.timeout(limit, self.reach(peer)).await??;
        self.net.network.id_of(peer).ok_or_else(unreachable)
    }

    fn set_peers(&self, peers: Vec<PeerRoute>) {
        let numbers = peers.iter().take(MAX_ROUTES).filter_map(|peer| self.net.network.number_of(&peer.node));
        let wanted: std::collections::BTreeSet<usize> =
            numbers.filter(|number| *number != self.node).collect();
        let Some(before) = self.with(|endpoint| std::mem::replace(&mut endpoint.routes, wanted.clone()))
        else {
            return;
        };
        for peer in wanted.difference(&before) {
            self.net.redial(self.node, *peer);
        }
    }

    fn connected(&self) -> Vec<NodeId> {
        if self.is_open() { self.net.network.connected(self.node) } else { Vec::new() }
    }

    fn listen_addresses(&self) -> Vec<Address> {
        if self.is_open() { address_of(self.node).into_iter().collect() } else { Vec::new() }
    }

    async fn close(&self) {
        self.net.close(self.node, self.scope, false);
    }
}

/// Refuses what is longer than the port allows.
pub(super) fn check_sizes(message: &Message) -> Result<()> {
    if message.head.len() <= MAX_HEAD_LEN && message.body.len() <= MAX_BODY_LEN {
        return Ok(());
    }
    let text = format!(
        "a head of {} and a body of {} bytes are over the limits of {MAX_HEAD_LEN} and {MAX_BODY_LEN}",
        message.head.len(),
        message.body.len()
    );
    Err(Error::new(ErrorKind::LimitExceeded, text))
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::sim::link::Link;
    use crate::sim::network::Network;
    use crate::sim::runtime::SimRuntime;
    use crate::sim::world::World;

    fn open(net: &Net, nodes: usize) -> Vec<SimTransport> {
        let id = |node: usize| NodeId::from_bytes(*blake3::hash(&node.to_le_bytes()).as_bytes());
        let transports: Vec<_> = (0..nodes)
            .map(|node| {
                let scope = net.world.open_scope(node);
                let runtime = SimRuntime::new(&net.world, scope, node, &Arc::default());
                SimTransport::open(net, node, id(node), scope, runtime)
            })
            .collect();
        for transport in &transports {
            let others = (0..nodes).filter(|node| *node != transport.node);
            let route =
                |node| PeerRoute { node: id(node), addresses: address_of(node).into_iter().collect() };
            transport.set_peers(others.map(route).collect());
        }
        transports
    }

    #[test]
    fn it_keeps_the_contract_in_virtual_time() {
        for (seed, link) in [
            (1, Link::default()),
            (2, Link::default().with_jitter(Duration::from_millis(50)).with_loss_per_mille(50)),
        ] {
            let world = World::new(seed, false, None);
            let net = Net { world: Arc::clone(&world), network: Network::new(seed, link) };
            let runtime = SimRuntime::new(&world, crate::sim::world::OUTSIDE, usize::MAX, &Arc::default());
            let patience = Duration::from_secs(60);
            let suite = crate::testing::transport::check_within(runtime, patience, |nodes| {
                std::future::ready(open(&net, nodes))
            });
            world.drive(suite, Duration::from_secs(3600)).unwrap_or_else(|stopped| panic!("{stopped:?}"));
            assert_eq!(net.network.in_flight().0, 0, "calls are left");
            world.end();
        }
    }
}
