//! Yamux with frames that suit shards, and a bound on what a connection buffers.
//!
//! libp2p's own wiring of Yamux sends 16 KiB at a time, which costs a cipher message, a system call and a wake-up
//! each, and lets a peer fill windows of 1 GiB.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready as ready_or_return};
use std::time::Duration;

use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite};
use futures_timer::Delay;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

/// The most that one frame carries: with its header it fits one Noise message of 63 KiB.
const FRAME_LEN: usize = 62 << 10;

/// Streams on a connection, both ways together: those for requests of both ends, and a few for pings and proofs.
const MAX_STREAMS: usize = 256;

/// What the windows of a connection's streams may grow to together: each begins with 256 KiB, which a shard with its
/// head just exceeds, and those in use share as much again.
const MAX_WINDOW: usize = 2 * MAX_STREAMS * (256 << 10);

/// Streams that a peer opened and the swarm has not taken yet, for it is negotiating about so many others: each may hold a
/// window. More are reset.
const MAX_WAITING: usize = 16;

/// How long a connection that is closed may take to write what it had still to say. To a peer that reads no more, or is
/// gone, it never ends; dropping the connection then closes its socket all the same.
const FAREWELL: Duration = Duration::from_secs(1);

/// The upgrade of a proved connection to many streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yamux;

impl Yamux {
    fn start<C: AsyncRead + AsyncWrite + Unpin>(io: C, mode: Mode) -> Muxer<C> {
        let mut config = Config::default();
        config.set_split_send_size(FRAME_LEN);
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_WINDOW));
        let connection = Connection::new(io, config, mode);
        Muxer { connection, waiting: VecDeque::new(), waker: None, farewell: None, patience: FAREWELL }
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
        ready(Ok(Self::start(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::start(io, Mode::Client)))
    }
}

/// One connection's streams.
pub(super) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that came while the connection was driven for another's sake.
    waiting: VecDeque<Stream>,
    waker: Option<Waker>,
    /// Begins with the close.
    farewell: Option<Delay>,
    patience: Duration,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Drives the connection until a stream comes in.
    fn poll_connection(&mut self, context: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(context).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
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
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(context)
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
        let stream = ready_or_return!(self.poll_connection(context))?;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
            self.waker.take().into_iter().for_each(Waker::wake);
        }
        // There may be more to drive, and others get their turn before.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
#[cfg(all(feature = "local", unix))]
mod tests {
    use futures::future::poll_fn;
    use futures::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::local::socket::Socket;

    const DATA: u8 = 0;
    const WINDOW_UPDATE: u8 = 1;
    const SYN: u16 = 1;

    /// A frame's header: version, type, flags, stream, length.
    fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
        let (flags, stream, length) = (flags.to_be_bytes(), stream.to_be_bytes(), length.to_be_bytes());
        [[0, kind].as_slice(), &flags, &stream, &length].concat()
    }

    /// Feeds a connection raw bytes, then nothing; how many streams came, and whether the connection broke before its
    /// end.
    fn feed(bytes: Vec<u8>) -> (usize, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut muxer = Yamux::start(Socket::new(theirs), Mode::Server);
            let mut ours = Socket::new(ours);
            let writing = tokio::spawn(async move {
                // The other end hangs up when it has had enough.
                let whole = ours.write_all(&bytes).await.is_ok();
                let answers = async {
                    while futures::AsyncReadExt::read(&mut ours, &mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
                };
                let _ = tokio::time::timeout(Duration::from_millis(200), answers).await;
                whole
            });
            let mut streams = Vec::new();
            let broke = loop {
                match poll_fn(|context| Pin::new(&mut muxer).poll_inbound(context)).await {
                    Ok(stream) => streams.push(stream),
                    Err(error) => break !matches!(error, ConnectionError::Closed),
                }
            };
            drop(muxer);
            let _ = writing.await;
            (streams.len(), broke)
        })
    }

    /// The frames that made older versions panic, and others that break the protocol.
    #[test]
    fn malformed_frames_end_the_connection_and_nothing_else() {
        let open = frame(WINDOW_UPDATE, SYN, 1, 0);
        let hostile = [
            // A body longer than the first window, on a stream that it opens (CVE-2026-32314).
            [frame(DATA, SYN, 1, 262_145), vec![7; 262_145]].concat(),
            // More credit than fits a counter (CVE-2026-31814).
            [open.clone(), frame(WINDOW_UPDATE, 0, 1, u32::MAX), frame(WINDOW_UPDATE, 0, 1, u32::MAX)]
                .concat(),
            frame(DATA, SYN, 1, u32::MAX),
            // A stream with an even number is not the dialler's to open; one that is opened twice; one with number 0.
            frame(WINDOW_UPDATE, SYN, 2, 0),
            [open.clone(), open.clone()].concat(),
            frame(DATA, SYN, 0, 4),
            // Another version, another type.
            [[9].as_slice(), frame(DATA, SYN, 1, 0).get(1..).unwrap()].concat(),
            frame(7, SYN, 1, 0),
        ];
        for bytes in hostile {
            let (streams, _) = feed(bytes.clone());
            assert!(streams <= 1, "{:?}", &bytes[..12]);
        }
        assert_eq!(feed(open), (1, false));
    }

    #[test]
    fn ten_thousand_streams_are_not_kept() {
        for (opened, kept) in [(MAX_STREAMS - 1, MAX_STREAMS - 1), (MAX_STREAMS, MAX_STREAMS)] {
            let frames = (0..opened as u32).flat_map(|n| frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0)).collect();
            assert_eq!(feed(frames).0, kept);
        }
        for opened in [MAX_STREAMS + 1, 10_000] {
            let frames = (0..opened as u32).flat_map(|n| frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0)).collect();
            assert!(feed(frames).0 <= MAX_STREAMS, "{opened}");
        }
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
        let mut muxer = Yamux::start(Full, Mode::Client);
        muxer.patience = Duration::from_millis(50);
        let mut close = Box::pin(poll_fn(|context| Pin::new(&mut muxer).poll_close(context)));
        futures::executor::block_on(async {
            assert!(futures::poll!(&mut close).is_pending());
            close.await.unwrap();
        });
    }
}
