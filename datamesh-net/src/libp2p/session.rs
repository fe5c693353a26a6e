//! A connected peer: its connections, and the pool of streams that requests go out on.
//!
//! One request is under way on a stream at a time. The pool is small and its streams live long, because
//! each has grown its window. While all of them wait for the replies of slow handlers it grows, so
//! that a slow request does not stop the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use libp2p::Stream;
use libp2p::swarm::ConnectionId;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::peers::lock;

/// Streams that a connection's handler may be asked for at the same time; more than a pool can want.
pub(super) const MAILBOX: usize = 256;

/// How long a caller waits for a stream before it looks whether the pool should grow. Replies that need no
/// disk come sooner.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// Asks a connection's handler for a new stream.
pub(super) type StreamRequest = oneshot::Sender<Stream>;

/// One proved connection of a session.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) mailbox: async_channel::Sender<StreamRequest>,
    pub(super) since: Instant,
}

/// A connected peer.
pub(super) struct Session {
    pool: Mutex<Pool>,
    /// One permit for each idle stream; waiting callers are served in order.
    idle: Semaphore,
    /// Streams whose request is sent and whose reply has not begun.
    awaiting: AtomicUsize,
    pooled: usize,
    most: usize,
    runtime: Handle,
}

#[derive(Default)]
struct Pool {
    links: Vec<Link>,
    idle: Vec<Stream>,
    /// Streams that are idle, in use, or being opened.
    open: usize,
}

impl Session {
    pub(super) fn new(pooled: usize, most: usize, runtime: Handle) -> Self {
        Self {
            pool: Mutex::default(),
            idle: Semaphore::new(0),
            awaiting: AtomicUsize::new(0),
            pooled: pooled.max(1),
            most: most.max(pooled).max(1),
            runtime,
        }
    }

    pub(super) fn add_link(&self, link: Link) {
        lock(&self.pool).links.push(link);
    }

    /// Forgets a connection; how many are left.
    pub(super) fn remove_link(&self, id: ConnectionId) -> usize {
        let mut pool = lock(&self.pool);
        pool.links.retain(|link| link.id != id);
        pool.links.len()
    }

    /// Whether a connection has been there for so long.
    pub(super) fn has_link_for(&self, time: Duration) -> bool {
        lock(&self.pool).links.iter().any(|link| link.since.elapsed() >= time)
    }

    /// Ends the session: callers that wait for a stream fail.
    pub(super) fn close(&self) {
        self.idle.close();
        let mut pool = lock(&self.pool);
        pool.links.clear();
        pool.idle.clear();
    }

    /// Waits for a stream, in order of arrival; `None` when the session is over.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Leased> {
        if let Ok(permit) = self.idle.try_acquire() {
            permit.forget();
            return self.pop();
        }
        self.grow_to(self.pooled);
        let mut turn = std::pin::pin!(self.idle.acquire());
        let mut all_were_waiting = false;
        loop {
            match tokio::time::timeout(LOOK_AFTER, &mut turn).await {
                Ok(permit) => {
                    permit.ok()?.forget();
                    return self.pop();
                }
                Err(_) => {
                    self.grow_to(self.pooled);
                    let all_wait = self.all_wait();
                    if all_wait && all_were_waiting {
                        let open = lock(&self.pool).open;
                        self.grow_to(open.saturating_mul(2));
                    }
                    all_were_waiting = all_wait;
                }
            }
        }
    }

    fn pop(self: &Arc<Self>) -> Option<Leased> {
        let stream = lock(&self.pool).idle.pop()?;
        Some(Leased { stream: Some(stream), session: self.clone(), awaits: false })
    }

    fn all_wait(&self) -> bool {
        self.awaiting.load(Ordering::Relaxed) >= lock(&self.pool).open
    }

    /// Opens streams until there are `wanted`, within the limit.
    fn grow_to(self: &Arc<Self>, wanted: usize) {
        let wanted = wanted.min(self.most);
        let links = {
            let mut pool = lock(&self.pool);
            let missing = wanted.saturating_sub(pool.open);
            if missing == 0 || pool.links.is_empty() {
                return;
            }
            pool.open = pool.open.saturating_add(missing);
            pool.links.iter().cycle().take(missing.max(1)).cloned().collect::<Vec<_>>()
        };
        for link in links {
            self.runtime.spawn(self.clone().open(link));
        }
    }

    async fn open(self: Arc<Self>, link: Link) {
        let (answer, stream) = oneshot::channel();
        let asked = link.mailbox.send(answer).await;
        let stream = if asked.is_ok() { stream.await.ok() } else { None };
        match stream {
            Some(stream) => self.put_back(stream),
            None => self.lose_one(),
        }
    }

    /// Makes a stream idle.
    fn put_back(&self, stream: Stream) {
        let mut pool = lock(&self.pool);
        if self.idle.is_closed() || pool.idle.len() >= self.pooled {
            // Grown beyond the pool, and no longer needed: dropping the stream closes it.
            pool.open = pool.open.saturating_sub(1);
            return;
        }
        pool.idle.push(stream);
        drop(pool);
        self.idle.add_permits(1);
    }

    fn lose_one(&self) {
        let mut pool = lock(&self.pool);
        pool.open = pool.open.saturating_sub(1);
    }
}

/// A stream in use. Unless it is [given back](Self::give_back), dropping it resets the stream.
pub(super) struct Leased {
    stream: Option<Stream>,
    session: Arc<Session>,
    awaits: bool,
}

impl Leased {
    pub(super) fn stream(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut()
    }

    /// Notes whether the request is out and the reply has not begun.
    pub(super) fn set_awaiting(&mut self, awaits: bool) {
        if awaits && !self.awaits {
            self.session.awaiting.fetch_add(1, Ordering::Relaxed);
        }
        if !awaits && self.awaits {
            self.session.awaiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.awaits = awaits;
    }

    /// Makes the stream idle again; only after a whole reply.
    pub(super) fn give_back(mut self) {
        self.set_awaiting(false);
        if let Some(stream) = self.stream.take() {
            self.session.put_back(stream);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.set_awaiting(false);
        if self.stream.take().is_some() {
            self.session.lose_one();
            // Somebody may be waiting for this stream's successor.
            self.session.grow_to(self.session.pooled);
        }
    }
}
