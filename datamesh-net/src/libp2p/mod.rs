//! Nodes that talk libp2p: TCP with Noise and Yamux, and QUIC (feature `quic`).
//!
//! A [`Libp2pTransport`] lives on a thread of its own, with an executor of its own; its methods work under any
//! executor. The bytes on the wire are described in `docs/protocol.md`.
//!
//! - **Who gets in.** Over TCP the Noise handshake fails without the mesh key; over both TCP and QUIC the
//!   two ends then prove the mesh key to each other before any request is served.
//! - **How requests travel.** On a small pool of long-lived streams for each peer, one request on a stream at a
//!   time; the pool grows while all of its streams wait for slow handlers.
//! - **What is bounded.** See [`Limits`].

mod behaviour;
mod buffered;
mod buffers;
mod call;
mod config;
mod driver;
mod failure;
mod frame;
mod handler;
mod muxer;
mod names;
mod peers;
mod proof;
mod serve;
mod session;
mod start;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{
    Address, Inbound, MAX_BODY_LEN, MAX_HEAD_LEN, Message, PeerRoute, Transport, TransportEvent,
};
use datamesh_core::{Error, ErrorKind, Result};
use futures::channel::oneshot;
use futures::future::{self, Either};
use tokio::task;

pub use config::{Libp2pConfig, Limits};

use call::closed;
use driver::{Command, Commands};
use peers::{Peer, Shared, lock};

/// Peers that are kept connected, as the port says.
const MAX_PEERS: usize = 4096;

/// One node's place among nodes that talk libp2p.
///
/// Dropping it ends its thread soon; [`close`](Transport::close) waits for that.
pub struct Libp2pTransport {
    shared: Arc<Shared>,
    commands: Commands,
    /// Closed when the thread has let go of everything.
    ended: async_channel::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Libp2pTransport {
    /// Starts the thread and listens; returns when all ports are bound.
    ///
    /// # Errors
    /// `InvalidInput` for a key or an address that cannot be read, `Io` or `AccessDenied` when the
    /// system gives no thread, port or randomness.
    ///
    /// # Cancel safety
    /// Dropping the future ends the thread and frees the ports.
    pub async fn open(config: Libp2pConfig) -> Result<Self> {
        let mut listen = Vec::new();
        for address in &config.listen {
            listen.push(names::parse(address)?.0);
        }
        let (ready, started) = oneshot::channel();
        let (end, ended) = async_channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name("datamesh-net".into())
            .spawn(move || {
                start::thread(config, listen, ready);
                drop(end);
            })
            .map_err(|error| Error::io("the system gives no thread; stop something else", error))?;
        let (shared, commands) = started.await.map_err(|_| closed())??;
        Ok(Self { shared, commands, ended, thread: Mutex::new(Some(thread)) })
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// A peer that can be called.
    fn peer(&self, node: NodeId) -> Result<Arc<Peer>> {
        if node == self.shared.local {
            let message = "a node does not call itself over the network";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let peer = self.shared.peer(&node).filter(|peer| peer.is_known() || peer.session().is_some());
        peer.ok_or_else(|| failure::unknown(node))
    }

    /// Runs a task on the transport's thread; dropping the future ends the task.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let result = Owned(self.shared.runtime.spawn(work)).await;
        match result {
            Some(result) if !self.shared.is_closed() || result.is_ok() => result,
            _ => Err(closed()),
        }
    }

    async fn try_call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.check_open()?;
        check_size(&request)?;
        let peer = self.peer(node)?;
        let begin = Instant::now();
        let _admitted = admit(&peer, limit).await?;
        let left = limit.saturating_sub(begin.elapsed());
        let call = call::run(self.shared.clone(), self.commands.clone(), peer.clone(), request, left);
        self.run(call).await
    }
}

impl Transport for Libp2pTransport {
    fn local_node(&self) -> NodeId {
        self.shared.local
    }

    async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        let result = self.try_call(node, request, limit).await;
        result.map_err(|error| error.with_node(node))
    }

    async fn accept(&self) -> Option<Inbound> {
        loop {
            let inbound = self.shared.inbound.1.recv().await.ok()?;
            // Whoever is gone needs no answer, and has made room for others.
            if !inbound.reply.is_canceled() {
                return Some(inbound);
            }
        }
    }

    async fn next_event(&self) -> Option<TransportEvent> {
        self.shared.events.1.recv().await.ok()
    }

    async fn connect(&self, address: Address, limit: Duration) -> Result<NodeId> {
        self.check_open()?;
        let (parsed, peer) = names::parse(&address)?;
        let commands = self.commands.clone();
        let work = async move {
            let (done, connected) = oneshot::channel();
            commands.send(Command::Connect(parsed, peer, done)).await.map_err(|_| closed())?;
            let work = tokio::time::timeout(limit, connected);
            work.await.map_err(|_| call::timed_out(false, limit))?.map_err(|_| closed())?
        };
        self.run(work).await.map_err(|error| error.with_subject(&address))
    }

    fn set_peers(&self, mut peers: Vec<PeerRoute>) {
        peers.retain(|route| route.node != self.shared.local);
        peers.truncate(MAX_PEERS);
        self.shared.set_routes(peers);
    }

    fn connected(&self) -> Vec<NodeId> {
        self.shared.connected()
    }

    fn listen_addresses(&self) -> Vec<Address> {
        lock(&self.shared.listening).clone()
    }

    async fn close(&self) {
        self.signal_end();
        // Nothing is ever sent: the channel closes when the thread ends.
        let _ = self.ended.recv().await;
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // The thread has dropped all it had; a panic in it has been printed.
            let _ = thread.join();
        }
    }
}

impl Libp2pTransport {
    fn signal_end(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake_up();
    }
}

impl Drop for Libp2pTransport {
    fn drop(&mut self) {
        self.signal_end();
    }
}

impl fmt::Debug for Libp2pTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, connected) = (self.shared.local.fmt_short(), self.shared.connected().len());
        write!(f, "Libp2pTransport({node}, {connected} connected)")
    }
}

/// Waits until the peer has room for another call.
async fn admit(peer: &Peer, limit: Duration) -> Result<async_lock::SemaphoreGuard<'_>> {
    if let Some(guard) = peer.calls.try_acquire() {
        return Ok(guard);
    }
    let turn = std::pin::pin!(peer.calls.acquire());
    match future::select(turn, futures_timer::Delay::new(limit)).await {
        Either::Left((guard, _)) => Ok(guard),
        Either::Right(_) => Err(call::timed_out(false, limit)),
    }
}

fn check_size(message: &Message) -> Result<()> {
    let (head, body) = (message.head.len(), message.body.len());
    if head <= MAX_HEAD_LEN && body <= MAX_BODY_LEN {
        return Ok(());
    }
    let most = format!("at most {MAX_HEAD_LEN} and {MAX_BODY_LEN} pass");
    let message = format!("a request has a head of {head} and a body of {body} bytes; {most}");
    Err(Error::new(ErrorKind::LimitExceeded, message))
}

/// A task that ends when nobody waits for it any more. `None` when the executor is gone.
struct Owned<T>(task::JoinHandle<T>);

impl<T> Future for Owned<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
