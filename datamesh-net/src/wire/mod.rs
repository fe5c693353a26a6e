//! What the transports that move bytes between processes have in common: frames on streams, a pool of streams for each
//! peer, calls and their answers, and the limits of all that.
//!
//! A transport adds how a peer is reached and proved: it fills a [`session::Session`] with streams, and answers
//! [`Command`]s on a thread of its own.

#[cfg(test)]
#[cfg(all(feature = "local", unix))]
mod bounds;
mod budget;
pub(crate) mod buffers;
pub(crate) mod call;
pub(crate) mod frame;
pub(crate) mod keys;
pub(crate) mod limits;
mod paced;
pub(crate) mod peers;
#[cfg(test)]
mod queues;
pub(crate) mod serve;
pub(crate) mod session;
#[cfg(feature = "libp2p")]
pub(crate) mod sleep;
#[cfg(feature = "libp2p")]
pub(crate) mod watched;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{Address, Inbound, Message, PeerRoute, TransportEvent};
use datamesh_core::{Error, ErrorKind, Result};
use futures::channel::oneshot;
use futures::future::{self, Either};
use futures::io::{AsyncRead, AsyncWrite};
use tokio::{runtime, task};

use call::closed;
use peers::{Peer, Shared, lock};

/// Peers that are kept connected, as the port says.
const MAX_PEERS: usize = 4096;

/// Nodes that get no connection, as the port says.
const MAX_REFUSED: usize = 4096;

/// Commands that wait for the transport's thread; then whoever asks waits.
const COMMANDS: usize = 256;

/// For so long the end of a transport waits for lookups that are under way.
const LAST_LOOKUPS: Duration = Duration::from_millis(500);

/// Both ways of a byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A stream for requests, whatever carries it.
pub(crate) type Stream = Box<dyn Duplex>;

/// Hears what became of a dial.
pub(crate) type Dialled = oneshot::Sender<Result<NodeId>>;

/// What a transport's thread is asked for; `A` is a parsed address.
pub(crate) enum Command<A> {
    /// Dial a known peer, or join the dial under way.
    Dial(NodeId, Dialled),
    /// Dial an address.
    Connect(A, Dialled),
}

pub(crate) type Commands<A> = async_channel::Sender<Command<A>>;

/// Both ends of the way to a transport's thread.
pub(crate) fn commands<A>() -> (Commands<A>, async_channel::Receiver<Command<A>>) {
    async_channel::bounded(COMMANDS)
}

/// What a transport's thread hands out when it has started.
pub(crate) type Started<A> = (Arc<Shared>, Commands<A>);

/// The callers' end of a transport that has a thread of its own.
pub(crate) struct Handle<A> {
    pub(crate) shared: Arc<Shared>,
    commands: Commands<A>,
    /// Closed when the thread has let go of everything.
    ended: async_channel::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<A: Send + 'static> Handle<A> {
    /// Starts a thread with an executor of its own, on which `open` makes all ready and says what runs from then on,
    /// until the transport is closed.
    pub(crate) async fn start<Life: Future<Output = ()>>(
        name: &str,
        open: impl AsyncFnOnce(runtime::Handle) -> Result<(Started<A>, Life)> + Send + 'static,
    ) -> Result<Self> {
        let (ready, started) = oneshot::channel();
        let (end, ended) = async_channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                live(ready, open);
                drop(end);
            })
            .map_err(|error| Error::io("the system gives no thread; stop something else", error))?;
        let thread = Mutex::new(Some(thread));
        match started.await.unwrap_or_else(|_| Err(closed())) {
            Ok((shared, commands)) => Ok(Self { shared, commands, ended, thread }),
            Err(error) => {
                // What it had opened is let go of before anybody tries again.
                until_ended(&ended, &thread).await;
                Err(error)
            }
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.shared.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// A peer that can be called.
    fn peer(&self, node: NodeId) -> Result<Arc<Peer>> {
        if node == self.shared.local {
            let message = "a node does not call itself over the network";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let peer = self.shared.peer(&node).filter(|peer| peer.is_known() || peer.session().is_some());
        peer.ok_or_else(|| unknown(node))
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

    pub(crate) async fn call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        let result = self.try_call(node, request, limit).await;
        result.map_err(|error| error.with_node(node))
    }

    async fn try_call(&self, node: NodeId, request: Message, limit: Duration) -> Result<Message> {
        self.check_open()?;
        self.shared.limits.check_size(&request)?;
        let peer = self.peer(node)?;
        let begin = Instant::now();
        let _admitted = admit(&peer, limit).await?;
        let left = limit.saturating_sub(begin.elapsed());
        let sent = Arc::new(AtomicBool::new(false));
        let (shared, commands) = (self.shared.clone(), self.commands.clone());
        let call = call::run(shared, commands, peer.clone(), request, left, Arc::clone(&sent));
        let result = self.run(call).await;
        let is_interrupted = sent.load(Ordering::Relaxed);
        result.map_err(|error| match error.kind() {
            ErrorKind::Closed if is_interrupted => call::interrupted(),
            _ => error,
        })
    }

    pub(crate) async fn accept(&self) -> Option<Inbound> {
        loop {
            let inbound = self.shared.inbound.1.recv().await.ok()?;
            // Whoever is gone needs no answer, and has made room for others.
            if !inbound.reply.is_canceled() {
                return Some(inbound);
            }
        }
    }

    pub(crate) async fn next_event(&self) -> Option<TransportEvent> {
        self.shared.events.1.recv().await.ok()
    }

    /// Dials an address within a limit.
    pub(crate) async fn connect(&self, address: A, limit: Duration) -> Result<NodeId> {
        let commands = self.commands.clone();
        let work = async move {
            let (done, connected) = oneshot::channel();
            let work = async {
                commands.send(Command::Connect(address, done)).await.map_err(|_| closed())?;
                connected.await.map_err(|_| closed())?
            };
            let answer = tokio::time::timeout(limit, work).await;
            answer.unwrap_or_else(|_| Err(call::timed_out(false, limit)))
        };
        self.run(work).await
    }

    pub(crate) fn set_peers(&self, mut peers: Vec<PeerRoute>) {
        peers.retain(|route| route.node != self.shared.local);
        peers.truncate(MAX_PEERS);
        self.shared.set_routes(peers);
    }

    pub(crate) fn refuse(&self, nodes: Vec<NodeId>) {
        self.shared.refuse(nodes.into_iter().take(MAX_REFUSED).collect());
    }

    pub(crate) fn listen_addresses(&self) -> Vec<Address> {
        lock(&self.shared.listening).clone()
    }

    pub(crate) async fn close(&self) {
        self.signal_end();
        until_ended(&self.ended, &self.thread).await;
    }
}

impl<A> Handle<A> {
    fn signal_end(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake_up();
    }
}

impl<A> Drop for Handle<A> {
    fn drop(&mut self) {
        self.signal_end();
    }
}

/// Waits until a transport's thread is gone.
async fn until_ended(ended: &async_channel::Receiver<()>, thread: &Mutex<Option<JoinHandle<()>>>) {
    // Nothing is ever sent: the channel closes when the thread ends.
    let _ = ended.recv().await;
    let thread = lock(thread).take();
    if let Some(thread) = thread {
        // The thread has dropped all it had; a panic in it has been printed.
        let _ = thread.join();
    }
}

/// The whole life of a transport's thread.
fn live<A, Life: Future<Output = ()>>(
    mut ready: oneshot::Sender<Result<Started<A>>>,
    open: impl AsyncFnOnce(runtime::Handle) -> Result<(Started<A>, Life)>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever opened the transport may be gone.
            let _ = ready.send(Err(Error::io("the system gives no event queue; close some files", error)));
            return;
        }
    };
    runtime.block_on(async {
        let open = std::pin::pin!(open(runtime.handle().clone()));
        let opened = match future::select(open, ready.cancellation()).await {
            Either::Left((opened, _)) => opened,
            // Whoever opened it waits no more: what was opened so far is let go of.
            Either::Right(_) => return,
        };
        match opened {
            Ok((started, life)) => {
                let _end = EndGuard(Arc::clone(&started.0));
                if ready.send(Ok(started)).is_ok() {
                    life.await;
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
    end(runtime);
}

/// Ends all that still runs, but for what the system does not end: the lookup of a name takes a thread until the
/// system's resolver answers, and if that is not soon, the thread ends by itself later.
fn end(runtime: runtime::Runtime) {
    runtime.shutdown_timeout(LAST_LOOKUPS);
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

pub(crate) fn unknown(node: NodeId) -> Error {
    let message = "no address of this node is known; set_peers or connect first";
    Error::new(ErrorKind::Unavailable, message).with_node(node)
}

/// The error for a node that gets no connection.
#[cfg(all(feature = "local", unix))]
pub(crate) fn revoked(node: NodeId) -> Error {
    Error::new(ErrorKind::AccessDenied, REVOKED).with_node(node)
}

/// Why a node gets no connection.
pub(crate) const REVOKED: &str = "the node was revoked";

/// The same error for another caller.
pub(crate) fn copy_of(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
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

/// Ends everything that waits when the thread ends, even by a panic.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The wait before the next dial of a known peer: doubled with each failure, and then half of it at random.
pub(crate) fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LAST_RETRY);
    let mut random = [0; 1];
    // Without randomness the wait is only less spread.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    doubled / 2 + (doubled / 2).mul_f64(f64::from(random) / 255.0)
}

/// The first wait before a known peer is dialled again; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The longest wait before a known peer is dialled again.
const LAST_RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_limit_and_half_of_it_is_random() {
        for (failures, most) in [(0, 200), (1, 200), (2, 400), (5, 3200), (9, 30_000), (u32::MAX, 30_000)] {
            let most = Duration::from_millis(most);
            let waits: BTreeSet<_> = (0..32).map(|_| backoff(failures)).collect();
            let bounds = most / 2..=most;
            assert!(waits.iter().all(|wait| bounds.contains(wait)), "{failures}: {waits:?}");
            // Of 256 waits, 32 draws hit some thirty.
            assert!(waits.len() > 16, "{failures}: {waits:?}");
        }
    }

    /// Says when it is dropped.
    struct Kept(std::sync::mpsc::Sender<()>);

    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }

    #[test]
    fn who_waits_no_more_for_the_start_leaves_nothing_behind() {
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (dropped, is_dropped) = std::sync::mpsc::channel();
        let port = Kept(dropped);
        let starting = Handle::<()>::start("test", async move |_| {
            let _port = port;
            begun.send(()).unwrap();
            future::pending::<Result<(Started<()>, future::Ready<()>)>>().await
        });
        let mut starting = Box::pin(starting);
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        assert!(starting.as_mut().poll(&mut context).is_pending());
        has_begun.recv().unwrap();
        drop(starting);
        is_dropped.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn a_lookup_that_hangs_does_not_keep_the_end() {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (answer, resolver) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || {
            started.send(()).unwrap();
            resolver.recv()
        });
        has_started.recv().unwrap();
        // With the runtime dropped this would never return.
        end(runtime);
        drop(answer);
    }
}
