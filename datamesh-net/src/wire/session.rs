//! A connected peer: its connections, and the pool of streams that requests go out on.
//!
//! One request is under way on a stream at a time. The pool is small and its streams live long, because
//! each has grown its window. While all of them wait for the replies of slow handlers it grows, so
//! that a slow request does not stop the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[cfg(feature = "libp2p")]
use datamesh_core::ports::Reach;
use futures::channel::oneshot;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::Stream;
use super::limits::Limits;
use super::peers::lock;
#[cfg(feature = "libp2p")]
use super::watched::Watched;

/// Streams that a connection's handler may be asked for at the same time; more than a pool can want.
pub(crate) const MAILBOX: usize = 256;

/// How long a caller waits for a stream before it looks whether the pool should grow. Replies that need no
/// disk come sooner.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// Asks a connection's handler for a new stream.
pub(crate) type StreamRequest = oneshot::Sender<Stream>;

/// Names a connection of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkId {
    #[cfg(feature = "libp2p")]
    Libp2p(libp2p::swarm::ConnectionId),
    #[cfg(all(feature = "local", unix))]
    Local(u64),
}

#[cfg(feature = "libp2p")]
impl LinkId {
    /// The connection of libp2p that it names, if it does.
    pub(crate) fn libp2p(self) -> Option<libp2p::swarm::ConnectionId> {
        match self {
            Self::Libp2p(connection) => Some(connection),
            #[cfg(all(feature = "local", unix))]
            Self::Local(_) => None,
        }
    }
}

/// One proved connection of a session.
#[derive(Clone)]
pub(crate) struct Link {
    id: LinkId,
    mailbox: async_channel::Sender<StreamRequest>,
    #[cfg(feature = "libp2p")]
    since: Instant,
    /// How the connection was made, where it is one over a network.
    #[cfg(feature = "libp2p")]
    reach: Option<Reach>,
}

impl Link {
    /// A connection that was proved just now.
    pub(crate) fn new(id: LinkId, mailbox: async_channel::Sender<StreamRequest>) -> Self {
        Self {
            id,
            mailbox,
            #[cfg(feature = "libp2p")]
            since: Instant::now(),
            #[cfg(feature = "libp2p")]
            reach: None,
        }
    }

    #[cfg(feature = "libp2p")]
    pub(crate) fn reached(mut self, reach: Reach) -> Self {
        self.reach = Some(reach);
        self
    }

    /// A new stream; `None` when the connection opens none, or is closed.
    async fn open(self) -> Option<Stream> {
        let Self { id, mailbox, .. } = self;
        let (answer, stream) = oneshot::channel();
        mailbox.send(answer).await.ok()?;
        let stream = tokio::select! {
            biased;
            stream = stream => stream.ok()?,
            // A request that lies in a closed mailbox is not dropped as long as anybody could send there, as here.
            () = mailbox.closed() => return None,
        };
        match id {
            #[cfg(feature = "libp2p")]
            LinkId::Libp2p(_) => Some(Box::new(Watched::new(stream, mailbox))),
            // Its streams are connections of their own, which go on where the link is replaced.
            #[cfg(all(feature = "local", unix))]
            LinkId::Local(_) => Some(stream),
        }
    }
}

/// A connected peer.
pub(crate) struct Session {
    pool: Mutex<Pool>,
    /// One permit for each idle stream; waiting callers are served in order.
    idle: Semaphore,
    /// Streams whose request is sent and whose reply has not begun.
    awaiting: AtomicUsize,
    limits: Limits,
    runtime: Handle,
}

#[derive(Default)]
struct Pool {
    links: Vec<Link>,
    idle: Vec<Idle>,
    /// Streams that are idle, in use, or being opened.
    open: usize,
    /// How often the streams were renewed; those from before then are used no more.
    age: u64,
}

/// A stream that waits for a request.
struct Idle {
    stream: Stream,
    since: Instant,
    age: u64,
}

impl Session {
    pub(crate) fn new(limits: &Limits, runtime: Handle) -> Self {
        Self {
            pool: Mutex::default(),
            idle: Semaphore::new(0),
            awaiting: AtomicUsize::new(0),
            limits: limits.clone(),
            runtime,
        }
    }

    pub(crate) fn add_link(&self, link: Link) {
        lock(&self.pool).links.push(link);
    }

    /// How requests reach the peer: by its best connection.
    #[cfg(feature = "libp2p")]
    pub(crate) fn reach(&self) -> Option<Reach> {
        lock(&self.pool).links.iter().filter_map(|link| link.reach).min()
    }

    /// Opens no more streams over relays, now that there is a direct connection; the connections that are not needed
    /// any more once what goes on over them has ended.
    #[cfg(feature = "libp2p")]
    pub(crate) fn leave_relays(&self) -> Vec<LinkId> {
        let mut pool = lock(&self.pool);
        let is_relayed = |link: &Link| link.reach == Some(Reach::Relay);
        if pool.links.iter().all(is_relayed) {
            return Vec::new();
        }
        let relayed: Vec<_> = pool.links.iter().filter(|link| is_relayed(link)).map(|link| link.id).collect();
        if !relayed.is_empty() {
            pool.links.retain(|link| !is_relayed(link));
            self.renew_streams(&mut pool);
        }
        relayed
    }

    /// Sends no more requests by the streams that there are: each is closed at once, or when its request has ended.
    #[cfg(all(feature = "local", unix))]
    pub(crate) fn renew(&self) {
        self.renew_streams(&mut lock(&self.pool));
    }

    /// A stream does not say whose it is, and opening one anew costs little.
    fn renew_streams(&self, pool: &mut Pool) {
        pool.age = pool.age.wrapping_add(1);
        while !pool.idle.is_empty()
            && let Ok(permit) = self.idle.try_acquire()
        {
            permit.forget();
            pool.idle.pop();
            pool.open = pool.open.saturating_sub(1);
        }
    }

    /// Forgets a connection; how many are left.
    pub(crate) fn remove_link(&self, id: LinkId) -> usize {
        let mut pool = lock(&self.pool);
        pool.links.retain(|link| link.id != id);
        pool.links.len()
    }

    /// How many connections there are.
    #[cfg(all(feature = "local", unix))]
    pub(crate) fn link_count(&self) -> usize {
        lock(&self.pool).links.len()
    }

    /// Whether a connection has been there for so long.
    #[cfg(feature = "libp2p")]
    pub(crate) fn has_link_for(&self, time: Duration) -> bool {
        lock(&self.pool).links.iter().any(|link| link.since.elapsed() >= time)
    }

    /// Ends the session: callers that wait for a stream fail.
    pub(crate) fn close(&self) {
        self.idle.close();
        let mut pool = lock(&self.pool);
        pool.links.clear();
        pool.idle.clear();
    }

    fn pooled(&self) -> usize {
        self.limits.pooled_streams.max(1)
    }

    /// Waits for a stream, in order of arrival; `None` when the session is over.
    pub(crate) async fn take(self: &Arc<Self>) -> Option<Leased> {
        loop {
            let (leased, idle_for) = self.next().await?;
            // The peer may be closing a stream that was idle for long, and then a request would be lost on it.
            if idle_for < self.limits.idle / 2 {
                return Some(leased);
            }
            leased.discard();
        }
    }

    /// Waits for the next stream of the pool, and says for how long it was idle.
    async fn next(self: &Arc<Self>) -> Option<(Leased, Duration)> {
        if let Ok(permit) = self.idle.try_acquire() {
            permit.forget();
            if let Some(leased) = self.pop() {
                return Some(leased);
            }
        }
        let open = lock(&self.pool).open;
        self.grow_to(open.saturating_add(1).min(self.pooled()));
        let mut turn = std::pin::pin!(self.idle.acquire());
        let mut all_were_waiting = false;
        loop {
            match tokio::time::timeout(LOOK_AFTER, &mut turn).await {
                Ok(permit) => {
                    permit.ok()?.forget();
                    match self.pop() {
                        Some(leased) => return Some(leased),
                        // It was idle for too long, and closed.
                        None => turn.set(self.idle.acquire()),
                    }
                }
                Err(_) => {
                    self.grow_to(self.pooled());
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

    fn pop(self: &Arc<Self>) -> Option<(Leased, Duration)> {
        let Idle { stream, since, age } = lock(&self.pool).idle.pop()?;
        let leased = Leased { stream: Some(stream), age, session: self.clone(), awaits: false };
        Some((leased, since.elapsed()))
    }

    fn all_wait(&self) -> bool {
        self.awaiting.load(Ordering::Relaxed) >= lock(&self.pool).open
    }

    /// Opens streams until there are `wanted`, within the limit.
    fn grow_to(self: &Arc<Self>, wanted: usize) {
        let wanted = wanted.min(self.limits.streams_per_peer.max(self.pooled()));
        let (links, age) = {
            let mut pool = lock(&self.pool);
            let missing = wanted.saturating_sub(pool.open);
            if missing == 0 || pool.links.is_empty() {
                return;
            }
            pool.open = pool.open.saturating_add(missing);
            (pool.links.iter().cycle().take(missing).cloned().collect::<Vec<_>>(), pool.age)
        };
        for link in links {
            self.runtime.spawn(self.clone().open(link, age));
        }
    }

    async fn open(self: Arc<Self>, link: Link, age: u64) {
        match link.open().await {
            Some(stream) => self.put_back(stream, age),
            None => self.lose_one(),
        }
    }

    /// Makes a stream idle.
    fn put_back(&self, stream: Stream, age: u64) {
        let mut pool = lock(&self.pool);
        if self.idle.is_closed() || age != pool.age || pool.idle.len() >= self.pooled() {
            // Its connection is left, or the pool had grown and needs it no longer: dropping the stream closes it.
            pool.open = pool.open.saturating_sub(1);
            return;
        }
        pool.idle.push(Idle { stream, since: Instant::now(), age });
        drop(pool);
        self.idle.add_permits(1);
    }

    /// Closes the streams that have been idle for long.
    pub(crate) fn close_idle(&self) {
        let mut pool = lock(&self.pool);
        let before = pool.idle.len();
        pool.idle.retain(|idle| idle.since.elapsed() < self.limits.idle / 2);
        let closed = before.saturating_sub(pool.idle.len());
        pool.open = pool.open.saturating_sub(closed);
        drop(pool);
        // Whoever holds one of these permits already finds no stream, and waits for the next.
        self.idle.forget_permits(closed);
    }

    fn lose_one(&self) {
        let mut pool = lock(&self.pool);
        pool.open = pool.open.saturating_sub(1);
    }
}

/// A stream in use. Unless it is [given back](Self::give_back), dropping it resets the stream.
pub(crate) struct Leased {
    stream: Option<Stream>,
    age: u64,
    session: Arc<Session>,
    awaits: bool,
}

impl Leased {
    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut()
    }

    /// Notes whether the request is out and the reply has not begun.
    pub(crate) fn set_awaiting(&mut self, awaits: bool) {
        if awaits && !self.awaits {
            self.session.awaiting.fetch_add(1, Ordering::Relaxed);
        }
        if !awaits && self.awaits {
            self.session.awaiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.awaits = awaits;
    }

    /// Closes the stream.
    fn discard(mut self) {
        self.stream = None;
        self.session.lose_one();
    }

    /// Makes the stream idle again; only after a whole reply.
    pub(crate) fn give_back(mut self) {
        self.set_awaiting(false);
        if let Some(stream) = self.stream.take() {
            self.session.put_back(stream, self.age);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.set_awaiting(false);
        if self.stream.take().is_some() {
            self.session.lose_one();
            // Somebody may be waiting for this stream's successor.
            self.session.grow_to(self.session.pooled());
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "libp2p", feature = "local", unix))]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::net::UnixStream;

    use super::*;
    use crate::local::socket::Socket;

    /// A connection that opens every stream it is asked for, and counts them.
    fn link(number: u64, reach: Reach) -> (Link, Arc<AtomicU64>) {
        let (mailbox, requests) = async_channel::bounded::<StreamRequest>(MAILBOX);
        let opened = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&opened);
        tokio::spawn(async move {
            let mut others = Vec::new();
            while let Ok(request) = requests.recv().await {
                let (ours, theirs) = UnixStream::pair().unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                others.push(theirs);
                let _ = request.send(Box::new(Socket::new(ours)));
            }
        });
        (Link::new(LinkId::Local(number), mailbox).reached(reach), opened)
    }

    fn session(change: impl FnOnce(&mut Limits)) -> Arc<Session> {
        let mut limits = Limits::default();
        change(&mut limits);
        Arc::new(Session::new(&limits, Handle::current()))
    }

    fn block_on(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await.unwrap() });
    }

    #[test]
    fn no_request_goes_by_a_relay_when_there_is_a_direct_connection() {
        block_on(async {
            let session = session(|limits| limits.pooled_streams = 1);
            let (relayed, by_relay) = link(1, Reach::Relay);
            session.add_link(relayed);
            assert!(session.leave_relays().is_empty(), "there is nothing else");
            let in_use = session.take().await.unwrap();
            let (direct, directly) = link(2, Reach::Tcp);
            session.add_link(direct);
            assert_eq!(session.leave_relays(), [LinkId::Local(1)]);
            // The request that is under way ends in peace, and its stream is used no more.
            in_use.give_back();
            for _ in 0..3 {
                session.take().await.unwrap().give_back();
            }
            let opened = [by_relay, directly].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(opened, [1, 1]);
        });
    }

    /// The connection is closed before its handler has looked into the mailbox.
    #[test]
    fn a_request_left_in_a_closed_mailbox_is_not_waited_for() {
        block_on(async {
            let session = session(|limits| limits.pooled_streams = 2);
            let (mailbox, requests) = async_channel::bounded::<StreamRequest>(MAILBOX);
            session.add_link(Link::new(LinkId::Local(1), mailbox).reached(Reach::Tcp));
            session.grow_to(2);
            while requests.len() < 2 {
                tokio::task::yield_now().await;
            }
            drop(requests);
            session.remove_link(LinkId::Local(1));
            while lock(&session.pool).open > 0 {
                tokio::task::yield_now().await;
            }
            let (link, opened) = link(2, Reach::Tcp);
            session.add_link(link);
            session.take().await.unwrap().give_back();
            assert!(opened.load(Ordering::Relaxed) > 0);
        });
    }

    /// One stream for each call up to the limit; the next call waits until one of them is free.
    #[test]
    fn streams_to_one_peer_are_limited() {
        block_on(async {
            let session = session(|limits| (limits.pooled_streams, limits.streams_per_peer) = (2, 3));
            let (link, opened) = link(1, Reach::Tcp);
            session.add_link(link);
            let mut held = Vec::new();
            for _ in 0..3 {
                let mut leased = session.take().await.unwrap();
                leased.set_awaiting(true);
                held.push(leased);
            }
            let waits = tokio::time::timeout(10 * LOOK_AFTER, session.take()).await;
            assert!(waits.is_err(), "one over the limit waits");
            held.pop().unwrap().give_back();
            held.push(session.take().await.unwrap());
            assert_eq!(opened.load(Ordering::Relaxed), 3);
            // Those beyond the pool are closed when they are idle again.
            held.into_iter().for_each(Leased::give_back);
            let pool = lock(&session.pool);
            assert_eq!((pool.idle.len(), pool.open), (2, 2));
        });
    }
}
