//! A connected peer: its connections, and the pool of streams that requests go out on.
//!
//! One request is under way on a stream at a time. The pool is small and its streams live long, because
//! each has grown its window. While all of them wait for the replies of slow handlers it grows, so
//! that a slow request does not stop the others.

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

/// The age at which a connection is certain to have been seen by both ends, and has shown that it was made to stay:
/// some are made only to look whether a peer is reached at an address.
#[cfg(feature = "libp2p")]
pub(crate) const SETTLED: Duration = Duration::from_secs(1);

/// A connection that was not heard of for so long may be dead: each answers a ping every five seconds.
#[cfg(feature = "libp2p")]
const SILENT: Duration = Duration::from_secs(8);

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
    /// When its other end last answered, or proved itself.
    #[cfg(feature = "libp2p")]
    heard: Instant,
    /// How the connection was made, where it is one over a network.
    #[cfg(feature = "libp2p")]
    reach: Option<Reach>,
}

impl Link {
    /// A connection that was proved just now.
    pub(crate) fn new(id: LinkId, mailbox: async_channel::Sender<StreamRequest>) -> Self {
        #[cfg(feature = "libp2p")]
        let now = Instant::now();
        Self {
            id,
            mailbox,
            #[cfg(feature = "libp2p")]
            since: now,
            #[cfg(feature = "libp2p")]
            heard: now,
            #[cfg(feature = "libp2p")]
            reach: None,
        }
    }

    #[cfg(feature = "libp2p")]
    pub(crate) fn reached(mut self, reach: Reach) -> Self {
        self.reach = Some(reach);
        self
    }

    #[cfg(feature = "libp2p")]
    fn is_relayed(&self) -> bool {
        self.reach == Some(Reach::Relay)
    }

    #[cfg(feature = "libp2p")]
    fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= SILENT
    }

    /// Whether requests go by this one rather than by an older one. A peer that has lost a connection makes another,
    /// and this end may hear last that the old one is dead. Two that were made at the same moment are as good as each
    /// other, and no relay takes the place of a direct one that may live.
    #[cfg(feature = "libp2p")]
    fn supersedes(&self, older: &Self, now: Instant) -> bool {
        let is_later = self.since.saturating_duration_since(older.since) >= SETTLED;
        let is_settled = now.saturating_duration_since(self.since) >= SETTLED;
        let is_worse = self.is_relayed() && !older.is_relayed();
        is_later && (older.is_silent(now) || is_settled && !is_worse)
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

/// The connection that requests go by, of several in the order in which they were made.
#[cfg(feature = "libp2p")]
fn best(links: &[Link], now: Instant) -> Option<&Link> {
    links.iter().reduce(|best, next| if next.supersedes(best, now) { next } else { best })
}

/// A connected peer.
pub(crate) struct Session {
    pool: Mutex<Pool>,
    /// One permit for each idle stream; waiting callers are served in order.
    idle: Semaphore,
    limits: Limits,
    runtime: Handle,
}

#[derive(Default)]
struct Pool {
    links: Vec<Link>,
    /// The connection that the streams were opened on, where it is one over a network.
    #[cfg(feature = "libp2p")]
    chosen: Option<LinkId>,
    idle: Vec<Idle>,
    /// Streams of this age that are idle, in use, or being opened.
    open: usize,
    /// Those of them whose request is sent and whose reply has not begun.
    awaiting: usize,
    /// How often the streams were renewed; those from before then are used no more, and not counted.
    age: u64,
}

impl Pool {
    /// The connection to open a stream on.
    fn link(&self) -> Option<&Link> {
        #[cfg(feature = "libp2p")]
        {
            best(&self.links, Instant::now())
        }
        #[cfg(not(feature = "libp2p"))]
        self.links.first()
    }
}

/// A stream that waits for a request.
struct Idle {
    stream: Stream,
    since: Instant,
    age: u64,
}

impl Session {
    pub(crate) fn new(limits: &Limits, runtime: Handle) -> Self {
        Self { pool: Mutex::default(), idle: Semaphore::new(0), limits: limits.clone(), runtime }
    }

    pub(crate) fn add_link(&self, link: Link) {
        lock(&self.pool).links.push(link);
    }

    /// How requests reach the peer: by its best connection.
    #[cfg(feature = "libp2p")]
    pub(crate) fn reach(&self) -> Option<Reach> {
        lock(&self.pool).link()?.reach
    }

    /// Notes that the other end of a connection has answered.
    #[cfg(feature = "libp2p")]
    pub(crate) fn heard(&self, id: LinkId) {
        let mut pool = lock(&self.pool);
        let link = pool.links.iter_mut().find(|link| link.id == id);
        link.into_iter().for_each(|link| link.heard = Instant::now());
    }

    /// Opens no more streams over relays where a direct connection has been heard of since; the connections that are
    /// not needed any more once what goes on over them has ended.
    #[cfg(feature = "libp2p")]
    pub(crate) fn leave_relays(&self) -> Vec<LinkId> {
        let mut pool = lock(&self.pool);
        let direct = pool.links.iter().filter(|link| !link.is_relayed());
        let Some(heard) = direct.map(|link| link.heard).max() else { return Vec::new() };
        let is_left = |link: &Link| link.is_relayed() && link.since <= heard;
        let left: Vec<_> = pool.links.iter().filter(|link| is_left(link)).map(|link| link.id).collect();
        pool.links.retain(|link| !is_left(link));
        if pool.chosen.is_some_and(|chosen| left.contains(&chosen)) {
            self.renew_streams(&mut pool);
        }
        left
    }

    /// Sends no more requests by the streams that there are when another connection has become the best.
    #[cfg(feature = "libp2p")]
    fn follow_best(&self) {
        let mut pool = lock(&self.pool);
        let best = pool.link().filter(|link| link.reach.is_some()).map(|link| link.id);
        let is_left = pool.chosen.is_some() && best.is_some() && best != pool.chosen;
        pool.chosen = best.or(pool.chosen);
        if is_left {
            self.renew_streams(&mut pool);
        }
    }

    /// Sends no more requests by the streams that there are: each is closed at once, or when its request has ended.
    #[cfg(all(feature = "local", unix))]
    pub(crate) fn renew(&self) {
        self.renew_streams(&mut lock(&self.pool));
    }

    /// A stream does not say whose it is, and opening one anew costs little. Those in use end in peace, and nobody waits
    /// for them: where their connection is dead they would keep whoever comes next.
    fn renew_streams(&self, pool: &mut Pool) {
        pool.age = pool.age.wrapping_add(1);
        let closed = std::mem::take(&mut pool.idle).len();
        (pool.open, pool.awaiting) = (0, 0);
        // Whoever holds one of these permits already finds no stream, and waits for the next.
        self.idle.forget_permits(closed);
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

    /// Whether a direct connection has been there for so long, and was heard of lately.
    #[cfg(feature = "libp2p")]
    pub(crate) fn has_link_for(&self, time: Duration) -> bool {
        let now = Instant::now();
        let is_there =
            |link: &Link| !link.is_relayed() && !link.is_silent(now) && link.since.elapsed() >= time;
        lock(&self.pool).links.iter().any(is_there)
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
        #[cfg(feature = "libp2p")]
        self.follow_best();
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
                        // It was idle for too long, or its connection was left, and it is closed.
                        None => turn.set(self.idle.acquire()),
                    }
                }
                Err(_) => {
                    #[cfg(feature = "libp2p")]
                    self.follow_best();
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
        let pool = lock(&self.pool);
        pool.awaiting >= pool.open
    }

    /// Opens streams until there are `wanted`, within the limit.
    fn grow_to(self: &Arc<Self>, wanted: usize) {
        let wanted = wanted.min(self.limits.streams_per_peer.max(self.pooled()));
        let (link, missing, age) = {
            let mut pool = lock(&self.pool);
            let missing = wanted.saturating_sub(pool.open);
            let Some(link) = pool.link().filter(|_| missing > 0).cloned() else { return };
            pool.open = pool.open.saturating_add(missing);
            (link, missing, pool.age)
        };
        for _ in 0..missing {
            self.runtime.spawn(self.clone().open(link.clone(), age));
        }
    }

    async fn open(self: Arc<Self>, link: Link, age: u64) {
        match link.open().await {
            Some(stream) => self.put_back(stream, age),
            None => self.lose_one(age),
        }
    }

    /// Makes a stream idle.
    fn put_back(&self, stream: Stream, age: u64) {
        let mut pool = lock(&self.pool);
        if age != pool.age {
            // Its connection is left, and it is not counted: dropping the stream closes it.
            return;
        }
        if self.idle.is_closed() || pool.idle.len() >= self.pooled() {
            // The pool had grown and needs it no longer.
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

    fn lose_one(&self, age: u64) {
        let mut pool = lock(&self.pool);
        if age == pool.age {
            pool.open = pool.open.saturating_sub(1);
        }
    }

    /// Notes that one more stream waits for a reply, or one fewer.
    fn note_awaiting(&self, age: u64, awaits: bool) {
        let mut pool = lock(&self.pool);
        if age == pool.age {
            let (more, fewer) = (usize::from(awaits), usize::from(!awaits));
            pool.awaiting = pool.awaiting.saturating_add(more).saturating_sub(fewer);
        }
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
        if awaits != self.awaits {
            self.session.note_awaiting(self.age, awaits);
        }
        self.awaits = awaits;
    }

    /// Closes the stream.
    fn discard(mut self) {
        self.stream = None;
        self.session.lose_one(self.age);
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
            self.session.lose_one(self.age);
            // Somebody may be waiting for this stream's successor.
            self.session.grow_to(self.session.pooled());
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "libp2p", feature = "local", unix))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

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

    /// A connection of so many milliseconds ago, last heard of so many ago.
    fn aged(number: u64, reach: Reach, [since, heard]: [u64; 2]) -> (Link, Arc<AtomicU64>) {
        let (mut link, opened) = link(number, reach);
        let now = Instant::now();
        link.since = now.checked_sub(Duration::from_millis(since)).unwrap();
        link.heard = now.checked_sub(Duration::from_millis(heard)).unwrap();
        (link, opened)
    }

    #[test]
    fn requests_go_by_the_newest_connection_that_is_settled() {
        use Reach::{Quic, Relay, Tcp};
        type Aged = (Reach, [u64; 2]);
        let table: [(&[Aged], u64); 10] = [
            (&[(Tcp, [60_000, 20_000])], 0),
            // The older one may be dead, and the newer one is there to stay.
            (&[(Tcp, [60_000, 3000]), (Tcp, [1000, 1000])], 1),
            (&[(Tcp, [60_000, 3000]), (Quic, [9000, 0]), (Tcp, [2000, 0])], 2),
            // Two that were made at the same moment.
            (&[(Tcp, [60_000, 3000]), (Tcp, [59_001, 3000])], 0),
            // Somebody may only look whether this address is reached.
            (&[(Tcp, [60_000, 3000]), (Tcp, [900, 900])], 0),
            (&[(Tcp, [60_000, 8000]), (Tcp, [1, 1])], 1),
            // By a relay only where there is nothing better.
            (&[(Tcp, [60_000, 3000]), (Relay, [2000, 2000])], 0),
            (&[(Tcp, [60_000, 8000]), (Relay, [2000, 2000])], 1),
            (&[(Relay, [60_000, 0]), (Relay, [2000, 0])], 1),
            (&[(Relay, [60_000, 0]), (Quic, [2000, 0])], 1),
        ];
        block_on(async {
            for (links, expected) in table {
                let numbered = (0..).zip(links);
                let links: Vec<_> =
                    numbered.map(|(number, (reach, ages))| aged(number, *reach, *ages).0).collect();
                let chosen = best(&links, Instant::now()).map(|link| link.id);
                assert_eq!(chosen, Some(LinkId::Local(expected)), "{expected} of {}", links.len());
            }
        });
    }

    /// The connection of a peer that came back on another one: nobody here has heard yet that the old one is dead.
    #[test]
    fn no_call_waits_for_a_connection_that_a_newer_one_has_replaced() {
        block_on(async {
            let session = session(|limits| limits.pooled_streams = 2);
            let (dead, on_dead) = aged(1, Reach::Tcp, [60_000, 3000]);
            session.add_link(dead);
            // A call whose request will never be written to its end, and a stream that is idle.
            let (idle, mut stuck) = (session.take().await.unwrap(), session.take().await.unwrap());
            idle.give_back();
            let before = on_dead.load(Ordering::Relaxed);
            let (new, on_new) = aged(2, Reach::Tcp, [1000, 1000]);
            session.add_link(new);
            let first = session.take().await.unwrap();
            let second = session.take().await.unwrap();
            assert_eq!(on_new.load(Ordering::Relaxed), 2);
            // What ends on the old one changes nothing here.
            stuck.set_awaiting(true);
            assert_eq!(lock(&session.pool).awaiting, 0);
            drop(stuck);
            first.give_back();
            second.give_back();
            session.take().await.unwrap().give_back();
            assert_eq!(on_dead.load(Ordering::Relaxed), before);
            let pool = lock(&session.pool);
            assert_eq!((pool.idle.len(), pool.open, pool.awaiting), (2, 2, 0));
        });
    }

    #[test]
    fn a_connection_by_address_is_spare_only_beside_one_that_was_heard_of() {
        block_on(async {
            let session = session(|_| {});
            session.add_link(aged(1, Reach::Tcp, [60_000, 8000]).0);
            session.add_link(aged(2, Reach::Relay, [60_000, 0]).0);
            assert!(!session.has_link_for(Duration::ZERO), "a silent one, and a relay");
            session.heard(LinkId::Local(1));
            assert!(session.has_link_for(SETTLED));
            assert!(!session.has_link_for(Duration::from_secs(61)), "too young");
        });
    }

    /// A peer that has lost its direct connection comes back by a relay.
    #[test]
    fn a_relay_is_kept_beside_a_direct_connection_that_may_be_dead() {
        block_on(async {
            let session = session(|_| {});
            session.add_link(aged(1, Reach::Tcp, [60_000, 3000]).0);
            session.add_link(aged(2, Reach::Relay, [2000, 2000]).0);
            assert!(session.leave_relays().is_empty());
            session.heard(LinkId::Local(1));
            assert_eq!(session.leave_relays(), [LinkId::Local(2)]);
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
