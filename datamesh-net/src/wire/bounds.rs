//! Each limit of the serving end is met exactly, stayed below by one, and exceeded by one.

mod calling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{Inbound, MAX_BODY_LEN, MAX_HEAD_LEN, Message};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::budget::SMALL;
use super::frame::{self, Kind};
use super::limits::{LONGEST, Limits};
use super::paced::STEP;
use super::peers::Shared;
use super::{Stream, serve};
use crate::local::socket::Socket;

/// What must happen, happens long before; what must not, has had its chance.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A node that serves, and whoever asks it.
struct Bench {
    shared: Arc<Shared>,
    peer: NodeId,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let runtime = tokio::runtime::Handle::current();
        let shared = Arc::new(Shared::new(NodeId::from_bytes([1; 32]), limits, runtime));
        Self { shared, peer: NodeId::from_bytes([2; 32]) }
    }

    /// The same node, and another peer that asks it.
    fn other(&self, peer: u8) -> Self {
        Self { shared: self.shared.clone(), peer: NodeId::from_bytes([peer; 32]) }
    }

    /// The asking end of a stream that is served.
    fn stream(&self) -> Stream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = self.shared.peer_or_new(self.peer);
        let served = serve::stream(self.shared.clone(), peer, Box::new(Socket::new(theirs)), Arc::default());
        tokio::spawn(served);
        Box::new(Socket::new(ours))
    }

    /// The next request, which must come.
    async fn next(&self) -> Inbound {
        timeout(LONG, self.shared.inbound.1.recv()).await.expect("nothing comes").unwrap()
    }

    /// Whether no request comes for a while.
    async fn hears_nothing(&self) -> bool {
        timeout(SHORT, self.shared.inbound.1.recv()).await.is_err()
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LONG, work).await.expect("the test hangs") });
}

fn message(head: usize, body: usize) -> Message {
    Message { head: vec![1; head].into(), body: vec![2; body].into() }
}

fn header(head: u32, body: u32) -> Vec<u8> {
    [[1, 1, 0, 0].as_slice(), &head.to_le_bytes(), &body.to_le_bytes()].concat()
}

/// Room for the longest message, with what is kept for small ones beside it.
const LEAST: usize = LONGEST + SMALL;

/// The smallest large message: it takes none of what is kept for small ones.
const LARGE: usize = SMALL + 1;

/// The bytes in total of which so many are for messages of any length: a sixteenth is kept.
fn in_total(bytes: usize) -> usize {
    (bytes..).find(|all| all - all / 16 == bytes).unwrap()
}

/// The header of the longest message, of which nothing comes.
fn promise() -> Vec<u8> {
    header(MAX_HEAD_LEN as u32, MAX_BODY_LEN as u32)
}

/// Whether the serving end closes the stream.
async fn is_closed(stream: &mut Stream) -> bool {
    matches!(timeout(LONG, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}

#[test]
fn lengths_of_messages() {
    block_on(async {
        let bench = Bench::new(|limits| (limits.head_bytes, limits.body_bytes) = (100, 1000));
        for (head, body, passes) in [
            (99, 999, true),
            (100, 1000, true),
            (101, 1000, false),
            (100, 1001, false),
            (0, u32::MAX as usize, false),
            (u32::MAX as usize, 0, false),
        ] {
            let mut stream = bench.stream();
            stream.write_all(&header(head as u32, body as u32)).await.unwrap();
            if passes {
                let Message { head, body } = message(head, body);
                stream.write_all(&[head, body].concat()).await.unwrap();
                let inbound = bench.next().await;
                inbound.reply.send(message(100, 1000));
                assert_eq!(frame::read_header(&mut stream).await.unwrap().unwrap().kind, Kind::Reply);
            } else {
                assert!(is_closed(&mut stream).await, "{head} and {body}");
                assert!(bench.hears_nothing().await);
            }
        }
        assert!(bench.shared.buffers.largest_lease() <= 1100);
        // The same for replies.
        for (head, body, kind) in [
            (99, 999, Kind::Reply),
            (100, 1000, Kind::Reply),
            (101, 0, Kind::TooLarge),
            (0, 1001, Kind::TooLarge),
        ] {
            let mut stream = bench.stream();
            frame::write(&mut stream, Kind::Request, &Message::default()).await.unwrap();
            bench.next().await.reply.send(message(head, body));
            assert_eq!(frame::read_header(&mut stream).await.unwrap().unwrap().kind, kind);
        }
    });
}

#[test]
fn limits_do_not_contradict_each_other() {
    for (bytes, kept) in [(LEAST - 1, LEAST), (LEAST, LEAST), (LEAST + 1, LEAST + 1)] {
        let mut limits = Limits::default();
        (limits.bytes_per_peer, limits.bytes_in_total) = (bytes, bytes);
        (limits.head_bytes, limits.body_bytes) = (bytes, bytes);
        let limits = limits.made_whole();
        assert_eq!((limits.bytes_per_peer, limits.bytes_in_total), (kept, kept));
        assert_eq!((limits.head_bytes, limits.body_bytes), (MAX_HEAD_LEN, MAX_BODY_LEN));
    }
}

#[test]
fn requests_that_are_handled() {
    block_on(async {
        let bench = Bench::new(|limits| limits.requests_per_peer = 3);
        let mut streams: Vec<_> = (0..4).map(|_| bench.stream()).collect();
        for stream in &mut streams {
            frame::write(stream, Kind::Request, &Message::default()).await.unwrap();
        }
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(bench.next().await);
        }
        assert!(bench.hears_nothing().await, "one over the limit waits");
        held.pop().unwrap().reply.send(Message::default());
        held.push(bench.next().await);
        assert!(bench.hears_nothing().await);
        // Whoever loses interest makes room, too.
        streams.clear();
        let mut again = bench.stream();
        frame::write(&mut again, Kind::Request, &Message::default()).await.unwrap();
        bench.next().await.reply.send(Message::default());
        assert!(held.iter().all(|inbound| inbound.reply.is_canceled()));
    });
}

/// Bytes that are promised count, whether or not they come: no memory is taken for what is over the limit.
fn bytes_under_way(change: impl Fn(&mut Limits, usize), peers: [u8; 2]) {
    block_on(async {
        for (room, passes) in [(LARGE - 1, false), (LARGE, true), (LARGE + 1, true)] {
            let bench = Bench::new(|limits| change(limits, LONGEST + room));
            let mut first = bench.stream();
            first.write_all(&promise()).await.unwrap();
            // It is read in order, so the promise is there before the second stream's.
            tokio::time::sleep(SHORT).await;
            let other = bench.other(peers[1]);
            assert_eq!(bench.peer, NodeId::from_bytes([peers[0]; 32]));
            let mut second = other.stream();
            frame::write(&mut second, Kind::Request, &message(40, LARGE - 40)).await.unwrap();
            assert_ne!(bench.hears_nothing().await, passes, "room for {room} of {LARGE} bytes");
            // What is small does not wait behind it.
            let mut small = other.stream();
            frame::write(&mut small, Kind::Request, &message(40, SMALL - 40)).await.unwrap();
            assert_eq!(bench.next().await.message.body.len(), SMALL - 40);
            // The first one breaks its promise: its bytes are free again.
            drop(first);
            if !passes {
                bench.next().await;
            }
        }
    });
}

#[test]
fn bytes_of_one_peer() {
    bytes_under_way(|limits, bytes| limits.bytes_per_peer = bytes + SMALL, [2, 2]);
}

#[test]
fn bytes_of_all_peers() {
    bytes_under_way(|limits, bytes| limits.bytes_in_total = in_total(bytes), [2, 3]);
}

/// Small messages of a peer that find no room beside its large ones share what is kept for them: what is over it waits
/// until one of them is done, and holds up nobody else.
#[test]
fn small_messages_of_one_peer() {
    block_on(async {
        let first = 40 << 10;
        for (second, passes) in [(SMALL - first, true), (SMALL - first + 1, false), (first, false)] {
            let bench = Bench::new(|limits| limits.bytes_per_peer = LEAST);
            let [mut promised, mut waits, mut one, mut two] = [(); 4].map(|()| bench.stream());
            // More than lies between the two ends: once it is written, the promise has its room.
            promised.write_all(&[promise(), vec![7; 40 * STEP]].concat()).await.unwrap();
            for (stream, bytes) in [(&mut waits, LARGE), (&mut one, first)] {
                frame::write(stream, Kind::Request, &message(0, bytes)).await.unwrap();
            }
            let held = bench.next().await;
            assert_eq!(held.message.body.len(), first);
            frame::write(&mut two, Kind::Request, &message(0, second)).await.unwrap();
            assert_ne!(bench.hears_nothing().await, passes, "{second} bytes beside {first}");
            if passes {
                continue;
            }
            let mut other = bench.other(3).stream();
            frame::write(&mut other, Kind::Request, &message(0, SMALL)).await.unwrap();
            assert_eq!(bench.next().await.message.body.len(), SMALL);
            held.reply.send(Message::default());
            assert_eq!(bench.next().await.message.body.len(), second);
        }
    });
}

/// Replies that nobody reads take memory up to the limit: what is over it waits, and meanwhile one at a time is made, which
/// goes out when it is small.
fn replies_that_nobody_reads(change: impl Fn(&mut Limits, usize), other_peer: u8) {
    block_on(async {
        for (room, passes) in [(LARGE - 1, false), (LARGE, true), (LARGE + 1, true)] {
            let bench = Bench::new(|limits| change(limits, LONGEST + room));
            let other = bench.other(other_peer);
            let mut lazy = bench.stream();
            let [mut second, mut third, mut fourth, mut fifth] = [(); 4].map(|()| other.stream());
            frame::write(&mut lazy, Kind::Request, &Message::default()).await.unwrap();
            bench.next().await.reply.send(message(MAX_HEAD_LEN, MAX_BODY_LEN));
            // Its header tells that it has begun; the rest is never read.
            frame::read_header(&mut lazy).await.unwrap().unwrap();
            frame::write(&mut second, Kind::Request, &Message::default()).await.unwrap();
            bench.next().await.reply.send(message(40, LARGE - 40));
            let header = timeout(if passes { LONG } else { SHORT }, frame::read_header(&mut second)).await;
            assert_eq!(header.is_ok(), passes, "room for {room} of {LARGE} bytes");
            if passes {
                continue;
            }
            for stream in [&mut third, &mut fourth] {
                frame::write(stream, Kind::Request, &Message::default()).await.unwrap();
            }
            let held = bench.next().await;
            assert!(bench.hears_nothing().await, "more than one request while a reply waits");
            held.reply.send(message(40, SMALL - 40));
            let header = frame::read_header(&mut third).await.unwrap().unwrap();
            assert_eq!(header.body_len, SMALL - 40);
            frame::read_message(&mut third, &header, &bench.shared.buffers).await.unwrap();
            // A large one waits for the others.
            bench.next().await.reply.send(message(40, LARGE - 40));
            assert!(timeout(SHORT, frame::read_header(&mut fourth)).await.is_err());
            // It does not keep those from passing that are small, and of large ones no more than one waits so.
            for (bytes, kind) in [(SMALL, Kind::Reply), (LARGE, Kind::GaveUp), (SMALL, Kind::Reply)] {
                frame::write(&mut fifth, Kind::Request, &Message::default()).await.unwrap();
                bench.next().await.reply.send(message(40, bytes - 40));
                let header = frame::read_header(&mut fifth).await.unwrap().unwrap();
                assert_eq!(header.kind, kind, "{bytes} bytes");
                frame::read_message(&mut fifth, &header, &bench.shared.buffers).await.unwrap();
            }
            // Whoever hangs up makes room.
            drop(lazy);
            frame::read_header(&mut second).await.unwrap().unwrap();
            drop(second);
            frame::read_header(&mut fourth).await.unwrap().unwrap();
        }
    });
}

#[test]
fn replies_to_one_peer() {
    replies_that_nobody_reads(|limits, bytes| limits.bytes_per_peer = bytes + SMALL, 2);
}

#[test]
fn replies_to_all_peers() {
    replies_that_nobody_reads(|limits, bytes| limits.bytes_in_total = in_total(bytes), 3);
}

#[test]
fn the_slowest_transfer() {
    let mut limits = Limits::default();
    (limits.grace, limits.least_bytes_per_second) = (Duration::from_secs(3), 1000);
    for (bytes, seconds) in
        [(0, 3), (999, 3), (1000, 4), (1001, 4), (usize::MAX, 3 + usize::MAX as u64 / 1000)]
    {
        assert_eq!(limits.time_for(bytes), Duration::from_secs(seconds));
    }
    limits.least_bytes_per_second = 0;
    assert_eq!(limits.time_for(1), Duration::from_secs(4), "no limit is not meant");
}

/// One byte at a time: whoever is slower than allowed is cut off, whoever is as fast is not.
#[test]
fn one_byte_at_a_time() {
    block_on(async {
        let bench = Bench::new(|limits| {
            (limits.grace, limits.least_bytes_per_second) = (Duration::from_millis(800), u64::MAX);
        });
        for (pause, passes) in [(Duration::from_millis(2), true), (Duration::from_millis(150), false)] {
            let mut stream = bench.stream();
            let begun = Instant::now();
            stream.write_all(&header(0, 10)).await.unwrap();
            for _ in 0..10 {
                tokio::time::sleep(pause).await;
                // It may be closed already.
                let _ = stream.write_all(&[7]).await;
            }
            assert_ne!(bench.hears_nothing().await, passes, "after {:?}", begun.elapsed());
        }
        // A header that never ends.
        let mut stream = bench.stream();
        stream.write_all(&[1]).await.unwrap();
        let closed = timeout(LONG, stream.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)));
    });
}

/// Many peers promise all that the node takes in, and send nothing of it.
#[test]
fn promises_of_many_peers_do_not_stop_a_ping() {
    block_on(async {
        let grace = Duration::from_millis(1500);
        let bench = Bench::new(|limits| {
            limits.bytes_in_total = 64 << 20;
            (limits.grace, limits.least_bytes_per_second) = (grace, u64::MAX);
        });
        let begun = Instant::now();
        let mut promises = Vec::new();
        for peer in 10..20 {
            for _ in 0..3 {
                let mut stream = bench.other(peer).stream();
                stream.write_all(&promise()).await.unwrap();
                promises.push(stream);
            }
        }
        tokio::time::sleep(SHORT).await;
        // One of them, and one who has nothing to do with them, have their small messages through at once.
        for peer in [2, 10] {
            let asks = bench.other(peer);
            for (request, reply) in [(100, 100), (SMALL, SMALL), (100, 100)] {
                let mut stream = asks.stream();
                frame::write(&mut stream, Kind::Request, &message(0, request)).await.unwrap();
                bench.next().await.reply.send(message(0, reply));
                assert_eq!(frame::read_header(&mut stream).await.unwrap().unwrap().body_len, reply);
            }
        }
        assert!(begun.elapsed() < grace, "{:?}: nothing is proved", begun.elapsed());
        // A large one waits until the promises are given up.
        let mut large = bench.stream();
        frame::write(&mut large, Kind::Request, &message(0, LARGE)).await.unwrap();
        assert!(bench.hears_nothing().await);
        bench.next().await.reply.send(Message::default());
        assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
        for mut stream in promises {
            assert!(is_closed(&mut stream).await);
        }
    });
}

/// Whoever stops is cut off after a step's time and the grace, however much was to come, and whatever it has sent.
#[test]
fn who_sends_no_more_is_cut_off_after_a_step() {
    block_on(async {
        // The whole of the longest message may take five minutes, a step a second.
        let grace = Duration::from_millis(100);
        let bench = Bench::new(|limits| {
            (limits.grace, limits.least_bytes_per_second) = (grace, STEP as u64);
        });
        assert!(bench.shared.limits.time_for(LONGEST) > 4 * LONG);
        for sent in [0, 10, STEP, 40 * STEP] {
            let mut stream = bench.stream();
            stream.write_all(&promise()).await.unwrap();
            stream.write_all(&vec![7; sent]).await.unwrap();
            let stopped = Instant::now();
            assert!(is_closed(&mut stream).await);
            let lasted = stopped.elapsed();
            assert!(lasted >= Duration::from_secs(1) && lasted < LONG / 4, "{lasted:?} after {sent} bytes");
        }
    });
}

/// The grace is given once, and not for each step.
#[test]
fn slow_steps_are_cut_off_when_the_grace_is_used_up() {
    block_on(async {
        let bench = Bench::new(|limits| {
            (limits.grace, limits.least_bytes_per_second) = (Duration::from_millis(400), u64::MAX);
        });
        let mut stream = bench.stream();
        stream.write_all(&promise()).await.unwrap();
        let begun = Instant::now();
        while stream.write_all(&vec![7; STEP]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(begun.elapsed() < LONG / 4, "it goes on for ever");
        }
    });
}

/// A peer that does not read its reply: it is given up, and so is the wait of another for room.
#[test]
fn who_reads_nothing_and_who_waits_for_it_are_given_up() {
    block_on(async {
        let bench = Bench::new(|limits| {
            limits.bytes_per_peer = LEAST;
            (limits.grace, limits.least_bytes_per_second) = (Duration::from_millis(400), STEP as u64);
        });
        let (mut lazy, mut waits) = (bench.stream(), bench.stream());
        frame::write(&mut lazy, Kind::Request, &Message::default()).await.unwrap();
        bench.next().await.reply.send(message(MAX_HEAD_LEN, MAX_BODY_LEN));
        frame::read_header(&mut lazy).await.unwrap().unwrap();
        let begun = Instant::now();
        frame::write(&mut waits, Kind::Request, &Message::default()).await.unwrap();
        bench.next().await.reply.send(message(0, LARGE));
        assert!(is_closed(&mut waits).await, "it waits for room without end");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        // What it held is given back with its end.
        let mut again = bench.stream();
        frame::write(&mut again, Kind::Request, &Message::default()).await.unwrap();
        bench.next().await.reply.send(message(0, SMALL));
        assert_eq!(frame::read_header(&mut again).await.unwrap().unwrap().body_len, SMALL);
        let mut rest = Vec::new();
        tokio::time::sleep(LONG / 10).await;
        let _ = lazy.read_to_end(&mut rest).await;
        assert!(rest.len() < LONGEST, "the reply was not given up");
    });
}

#[test]
fn idle_streams_are_closed_and_busy_ones_are_not() {
    block_on(async {
        let idle = Duration::from_millis(400);
        let bench = Bench::new(|limits| limits.idle = idle);
        let (mut lazy, mut busy) = (bench.stream(), bench.stream());
        let begun = Instant::now();
        frame::write(&mut busy, Kind::Request, &Message::default()).await.unwrap();
        let held = bench.next().await;
        assert_eq!(lazy.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(begun.elapsed() >= idle, "{:?}", begun.elapsed());
        // A handler may take its time.
        held.reply.send(Message { head: Bytes::new(), body: Bytes::from_static(b"late") });
        assert_eq!(frame::read_header(&mut busy).await.unwrap().unwrap().body_len, 4);
    });
}

#[test]
fn replayed_and_reordered_frames_end_their_stream_only() {
    block_on(async {
        let bench = Bench::new(|_| {});
        let mut good = bench.stream();
        // A reply where a request is due; a second request before the reply; a frame cut short and begun anew.
        let frames: [Vec<u8>; 3] = [
            [[1, 2, 0, 0].as_slice(), &[0; 8]].concat(),
            [header(0, 0), header(0, 0)].concat(),
            [header(0, 5), vec![7; 2], header(0, 0), vec![9; 40]].concat(),
        ];
        for bytes in frames {
            let mut stream = bench.stream();
            let _ = stream.write_all(&bytes).await;
            // What came before the nonsense may have been handed over; nobody hears the answer.
            assert!(is_closed(&mut stream).await, "{bytes:?}");
            while let Ok(inbound) = bench.shared.inbound.1.try_recv() {
                assert!(inbound.message.body.len() <= 5);
            }
        }
        frame::write(&mut good, Kind::Request, &message(1, 1)).await.unwrap();
        bench.next().await.reply.send(Message::default());
        assert_eq!(frame::read_header(&mut good).await.unwrap().unwrap().kind, Kind::Reply);
    });
}
