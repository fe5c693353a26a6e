//! Yamux with frames that suit shards, and a bound on what a connection buffers.
//!
//! libp2p's own wiring of Yamux sends 16 KiB at a time, which costs a cipher message, a system call and a wake-up
//! each, and lets a peer fill windows of 1 GiB.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready as ready_or_return};
use std::time::Duration;

use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite};
use futures_timer::Delay;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

use super::counted::{Counted, Living};
use super::trickle::Trickle;
use crate::wire::limits::Limits;

/// The most that one frame carries: with its header it fits one Noise message of 63 KiB.
const FRAME_LEN: usize = 62 << 10;

/// Streams of a connection beyond those of requests: proofs, pings, and what finds and reaches members. For as many as
/// were ever open at a time QUIC keeps buffers.
pub(super) const OTHER_STREAMS: u32 = 32;

/// What Yamux lets a peer send ahead on a stream, at least; a shard with its head just exceeds it.
const FIRST_WINDOW: usize = 256 << 10;

/// The most streams, whatever the limits say: they may fill 1 GiB.
const MOST_STREAMS: usize = 4096;

/// Of so many peers each may have its windows grown to its part of the bytes in total.
const FAST_PEERS: usize = 16;

/// Streams that a peer opened and the swarm has not taken yet, for it is negotiating about so many others: each may hold a
/// window. More are reset.
const MAX_WAITING: usize = 16;

/// Places that no stream of this node takes, for Yamux ends the connection where it opens one too many: the streams of a
/// peer come without being asked for, and one that has ended here is still counted until the connection is driven.
const KEPT_FREE: usize = 16;

/// How long a connection that is closed may take to write what it had still to say. To a peer that reads no more, or is
/// gone, it never ends; dropping the connection then closes its socket all the same.
const FAREWELL: Duration = Duration::from_secs(1);

/// The upgrade of a proved connection to many streams.
///
/// What a peer may send ahead, and nobody has read, is the window of its connection. Each stream has 256 KiB of it from
/// the beginning, as the protocol wants it, and those in use share what it may grow by: as much as may be under way with
/// one peer, or a sixteenth of what may be under way with all, from 1 to 32 MiB. By default 128 streams (64 of the peer's
/// requests, 32 of this node's, 32 others) have 32 MiB, and 16 MiB more are for those in use: 48 MiB for a connection, and
/// 192 MiB for the four that a peer may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yamux {
    /// Streams on a connection, both ways together.
    streams: usize,
    /// What their windows may grow to together.
    window: usize,
}

impl Yamux {
    pub(super) fn of(limits: &Limits) -> Self {
        let requests = limits.streams_per_connection.saturating_add(limits.streams_per_peer);
        let streams = requests.saturating_add(OTHER_STREAMS as usize).min(MOST_STREAMS);
        let growth = limits.bytes_per_peer.min(limits.bytes_in_total / FAST_PEERS).clamp(1 << 20, 32 << 20);
        Self { streams, window: streams.saturating_mul(FIRST_WINDOW).saturating_add(growth) }
    }

    #[cfg(test)]
    pub(super) fn window(&self) -> usize {
        self.window
    }

    fn start<C: AsyncRead + AsyncWrite + Unpin>(self, io: C, mode: Mode) -> Muxer<C> {
        let mut config = Config::default();
        config.set_split_send_size(FRAME_LEN);
        config.set_max_num_streams(self.streams);
        config.set_max_connection_receive_window(Some(self.window));
        let connection = Connection::new(Trickle::new(io), config, mode);
        Muxer {
            connection,
            living: Arc::default(),
            most: self.streams.saturating_sub(KEPT_FREE).max(1),
            waiting: VecDeque::new(),
            waker: None,
            farewell: None,
            patience: FAREWELL,
        }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(self.start(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(self.start(io, Mode::Client)))
    }
}

/// One connection's streams.
pub(super) struct Muxer<C> {
    connection: Connection<Trickle<C>>,
    living: Arc<Living>,
    /// Streams that there may be when this node opens one more.
    most: usize,
    /// Streams that came while the connection was driven for another's sake.
    waiting: VecDeque<Counted<Stream>>,
    waker: Option<Waker>,
    /// Begins with the close.
    farewell: Option<Delay>,
    patience: Duration,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Drives the connection until a stream comes in.
    fn poll_connection(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Counted<Stream>, ConnectionError>> {
        let next = ready_or_return!(self.connection.poll_next_inbound(context));
        let stream = next.unwrap_or(Err(ConnectionError::Closed))?;
        Poll::Ready(Ok(Counted::new(stream, &self.living)))
    }

    /// Drives the connection, and keeps the stream that comes in, if one does.
    fn drive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let stream = ready_or_return!(self.poll_connection(context))?;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
            self.waker.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = Counted<Stream>;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Counted<Stream>, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.poll_connection(context);
        if polled.is_pending() {
            self.waker = Some(context.waker().clone());
        }
        polled
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Counted<Stream>, ConnectionError>> {
        // One that has ended counts until the connection hears of it.
        if let Poll::Ready(driven) = self.drive(context) {
            driven?;
            context.waker().wake_by_ref();
        }
        ready_or_return!(self.living.poll_fewer(self.most, context));
        let stream = ready_or_return!(self.connection.poll_new_outbound(context))?;
        Poll::Ready(Ok(Counted::new(stream, &self.living)))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let closed = self.connection.poll_close(context);
        if closed.is_ready() {
            return closed;
        }
        let patience = self.patience;
        self.farewell.get_or_insert_with(|| Delay::new(patience)).poll_unpin(context).map(Ok)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        ready_or_return!(self.drive(context))?;
        // There may be more to drive, and others get their turn before.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
#[cfg(all(feature = "local", unix))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::poll_fn;
    use futures::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::local::socket::Socket;

    const DATA: u8 = 0;
    const WINDOW_UPDATE: u8 = 1;
    const GO_AWAY: u8 = 3;
    const SYN: u16 = 1;

    fn yamux() -> Yamux {
        Yamux::of(&Limits::default())
    }

    /// What a connection does about what it was fed.
    #[derive(Debug, PartialEq, Eq)]
    enum Then {
        /// It waits for more.
        GoesOn,
        /// It tells the peer to go away, and why.
        SendsAway(u8),
        /// It ends, with an error.
        Breaks,
    }

    /// A frame's header: version, type, flags, stream, length.
    fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
        let (flags, stream, length) = (flags.to_be_bytes(), stream.to_be_bytes(), length.to_be_bytes());
        [[0, kind].as_slice(), &flags, &stream, &length].concat()
    }

    /// What the other end says to a peer before it hangs up, or falls silent.
    async fn answer_to(peer: &mut Socket) -> Then {
        let answers = async {
            let mut frame = [0; 12];
            while peer.read_exact(&mut frame).await.is_ok() {
                if frame[1] == GO_AWAY {
                    return Then::SendsAway(frame[11]);
                }
            }
            Then::Breaks
        };
        tokio::time::timeout(Duration::from_millis(200), answers).await.unwrap_or(Then::GoesOn)
    }

    /// Feeds a connection raw bytes, then nothing; how many streams came, and what it did.
    fn feed(bytes: Vec<u8>) -> (usize, Then) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut muxer = yamux().start(Socket::new(theirs), Mode::Server);
            let mut ours = Socket::new(ours);
            let peer = tokio::spawn(async move {
                // The other end hangs up when it has had enough.
                let _ = ours.write_all(&bytes).await;
                answer_to(&mut ours).await
            });
            let mut streams = Vec::new();
            let broke = loop {
                match poll_fn(|context| Pin::new(&mut muxer).poll_inbound(context)).await {
                    Ok(stream) => streams.push(stream),
                    Err(error) => break matches!(error, ConnectionError::Decode(_)),
                }
            };
            drop(muxer);
            let then = peer.await.unwrap();
            assert_eq!(broke, then == Then::Breaks, "{then:?}");
            (streams.len(), then)
        })
    }

    /// The frames that made older versions panic, and others that break the protocol. What is no frame ends the
    /// connection; whoever sends a frame that does not fit is told to go.
    #[test]
    fn malformed_frames_end_the_connection_or_have_the_peer_sent_away() {
        let open = frame(WINDOW_UPDATE, SYN, 1, 0);
        let hostile = [
            // A body longer than the first window, on a stream that it opens (CVE-2026-32314).
            ([frame(DATA, SYN, 1, 262_145), vec![7; 262_145]].concat(), 0, Then::SendsAway(1)),
            // More credit than fits a counter (CVE-2026-31814).
            ([open.clone(), frame(WINDOW_UPDATE, 0, 1, u32::MAX)].concat(), 1, Then::SendsAway(1)),
            // A body that no frame may have, and one byte more than the longest.
            (frame(DATA, SYN, 1, u32::MAX), 0, Then::Breaks),
            (frame(DATA, SYN, 1, (1 << 20) + 1), 0, Then::Breaks),
            // A stream with an even number is not the dialler's to open; one that is opened twice; one with number 0.
            (frame(WINDOW_UPDATE, SYN, 2, 0), 0, Then::SendsAway(1)),
            ([open.clone(), open.clone()].concat(), 1, Then::SendsAway(1)),
            ([frame(DATA, SYN, 0, 4), vec![7; 4]].concat(), 0, Then::SendsAway(1)),
            // Another version, another type.
            ([[9].as_slice(), frame(DATA, SYN, 1, 0).get(1..).unwrap()].concat(), 0, Then::Breaks),
            (frame(7, SYN, 1, 0), 0, Then::Breaks),
        ];
        for (bytes, streams, then) in hostile {
            let head = bytes[..12].to_vec();
            assert_eq!(feed(bytes), (streams, then), "{head:?}");
        }
        assert_eq!(feed(open), (1, Then::GoesOn));
    }

    #[test]
    fn ten_thousand_streams_are_not_kept() {
        let most = yamux().streams;
        for (opened, kept) in [(most - 1, most - 1), (most, most)] {
            let frames = (0..opened as u32).flat_map(|n| frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0)).collect();
            assert_eq!(feed(frames).0, kept);
        }
        for opened in [most + 1, 10_000] {
            let frames = (0..opened as u32).flat_map(|n| frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0)).collect();
            assert!(feed(frames).0 <= most, "{opened}");
        }
    }

    /// What `docs/protocol-transport.md` says, and the ends of what limits may say.
    #[test]
    fn streams_and_windows_follow_the_limits() {
        let of = |streams, bytes_per_peer, bytes_in_total| {
            let limits = Limits {
                streams_per_connection: streams,
                bytes_per_peer,
                bytes_in_total,
                ..Limits::default()
            };
            let Yamux { streams, window } = Yamux::of(&limits);
            (streams, window >> 20)
        };
        assert_eq!(of(64, 16 << 20, 256 << 20), (128, 32 + 16));
        assert_eq!(of(64, 8 << 20, 256 << 20), (128, 32 + 8));
        assert_eq!(of(64, 16 << 20, 64 << 20), (128, 32 + 4));
        assert_eq!(of(4, 0, 0), (68, 17 + 1));
        assert_eq!(of(usize::MAX, usize::MAX, usize::MAX), (4096, 1024 + 32));
    }

    #[test]
    fn who_opens_too_many_streams_waits_until_one_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut server = yamux().start(Socket::new(theirs), Mode::Server);
            tokio::spawn(async move {
                let mut streams = Vec::new();
                while let Ok(stream) = poll_fn(|context| Pin::new(&mut server).poll_inbound(context)).await {
                    streams.push(stream);
                }
            });
            let mut client = yamux().start(Socket::new(ours), Mode::Client);
            let mut streams = VecDeque::new();
            // Many times as many as there may be.
            for _ in 0..10 * client.most {
                let mut opened = poll_fn(|context| Pin::new(&mut client).poll_outbound(context));
                if let Poll::Ready(stream) = futures::poll!(&mut opened) {
                    streams.push_back(stream.unwrap());
                    continue;
                }
                let ends = async { drop(streams.pop_front()) };
                let stream = futures::join!(opened, ends).0;
                streams.push_back(stream.unwrap());
                assert!(streams.len() <= yamux().streams - KEPT_FREE);
            }
            assert_eq!(streams.len(), yamux().streams - KEPT_FREE);
        });
    }

    /// Reads so much of each stream that comes, and then no more.
    async fn read_a_little<C: AsyncRead + AsyncWrite + Unpin + 'static>(
        mut muxer: Muxer<C>,
        each: usize,
        read: Arc<AtomicUsize>,
    ) {
        while let Ok(mut stream) = poll_fn(|context| Pin::new(&mut muxer).poll_inbound(context)).await {
            let read = read.clone();
            tokio::spawn(async move {
                let (mut buffer, mut left) = (vec![0; 64 << 10], each);
                while left > 0 {
                    let room = left.min(buffer.len());
                    let count = stream.read(&mut buffer[..room]).await.unwrap();
                    read.fetch_add(count, Ordering::Relaxed);
                    left -= count;
                }
                std::future::pending::<()>().await;
            });
        }
    }

    /// A peer that answers pings late, so that the way to it looks long, and whose streams were in use: its windows grow,
    /// and then nobody reads what it sends.
    #[test]
    fn a_peer_fills_the_window_of_its_connection_and_no_more() {
        let limits = Limits {
            streams_per_connection: 6,
            streams_per_peer: 2,
            bytes_per_peer: 4 << 20,
            ..Limits::default()
        };
        let yamux = Yamux::of(&limits);
        assert_eq!((yamux.streams, yamux.window), (40, (10 + 4) << 20));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (read, late) = (Arc::<AtomicUsize>::default(), Duration::from_millis(500));
            let server = yamux.start(Socket::new(theirs), Mode::Server);
            tokio::spawn(read_a_little(server, 1 << 20, read.clone()));
            let mut client = yamux.start(Socket::new(ours), Mode::Client);
            let mut writing = Vec::new();
            for _ in 0..yamux.streams {
                // Not driven yet, which would answer the first ping.
                let opened = poll_fn(|context| client.connection.poll_new_outbound(context)).await;
                let mut stream = opened.unwrap();
                writing.push(async move {
                    let (chunk, mut written) = (vec![7; 64 << 10], 0);
                    while let Ok(Ok(count)) = tokio::time::timeout(3 * late, stream.write(&chunk)).await {
                        written += count;
                    }
                    (written, stream)
                });
            }
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                poll_fn(|context| Pin::new(&mut client).poll_inbound(context)).await.map(drop)
            });
            let written = futures::future::join_all(writing).await;
            let written: usize = written.iter().map(|(written, _)| written).sum();
            let ahead = written - read.load(Ordering::Relaxed);
            assert!(ahead <= yamux.window, "{ahead} bytes that nobody has read");
            assert!(ahead > yamux.window - (3 << 20), "{ahead} bytes only: nothing is proved");
        });
    }

    /// A peer that reads nothing: every write waits.
    struct Full;

    impl AsyncRead for Full {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<std::io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_close_ends_though_the_peer_reads_nothing() {
        let mut muxer = yamux().start(Full, Mode::Client);
        muxer.patience = Duration::from_millis(50);
        let mut close = Box::pin(poll_fn(|context| Pin::new(&mut muxer).poll_close(context)));
        futures::executor::block_on(async {
            assert!(futures::poll!(&mut close).is_pending());
            close.await.unwrap();
        });
    }
}
