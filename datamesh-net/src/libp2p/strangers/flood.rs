//! Strangers come in great number to where anybody can finish the handshake, over QUIC and to who greets them over TCP,
//! and send what nobody reads.
//! `DATAMESH_FLOOD` says how many.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use futures::future::{join_all, poll_fn};
use futures::io::AsyncWriteExt;
use futures::stream;
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxer, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, PortUse};
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::{PeerId, noise, tcp};

use super::super::muxer::Yamux;
use super::*;

/// Those that dial, each of which may have a few connections, and how many they make at a time.
const FACES: usize = 128;
const AT_ONCE: usize = 384;

/// Streams that each opens: as many as wait over TCP until somebody says what they are for, and are kept then.
const STREAMS: usize = 48;

/// How long each holds what it has.
const HELD: Duration = Duration::from_millis(1500);

/// What the flood may cost beside the bytes that may be under way, which QUIC lets strangers have: 64 MiB.
const MOST: u64 = 64 << 20;

/// What a stranger says before the rubbish, so that its stream is taken for one of requests.
const SAID: &[u8] = b"\x13/multistream/1.0.0\n\x0c/datamesh/1\n";

/// Memory that is resident, in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

type Face = Boxed<(PeerId, StreamMuxerBox)>;

fn face(target: &Multiaddr) -> Face {
    let keys = Keypair::generate_ed25519();
    if target.iter().any(|part| part == Protocol::QuicV1) {
        let quic = quic::tokio::Transport::new(quic::Config::new(&keys));
        return quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed();
    }
    tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keys).unwrap())
        .multiplex(Yamux::of(&Limits::default()))
        .boxed()
}

/// Writes until a stream takes no more; how much it took.
async fn fill(stream: &mut SubstreamBox, took: &AtomicU64) {
    let _ = stream.write_all(SAID).await;
    while let Ok(Ok(wrote @ 1..)) =
        tokio::time::timeout(Duration::from_millis(200), stream.write(&[7; 64 << 10])).await
    {
        took.fetch_add(wrote as u64, Ordering::Relaxed);
    }
}

/// Connects, opens streams, and fills them until they take no more; how many bytes they took, or none where it is not
/// let in.
async fn push(face: &tokio::sync::Mutex<Face>, target: Multiaddr) -> Option<u64> {
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let dial = face.lock().await.dial(target, options).ok()?;
    let (_, mut connection) = tokio::time::timeout(HELD, dial).await.ok()?.ok()?;
    let mut streams = Vec::new();
    while streams.len() < STREAMS {
        let opened = poll_fn(|context| Pin::new(&mut connection).poll_outbound(context));
        let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), opened).await else { break };
        streams.push(stream);
    }
    let took = AtomicU64::new(0);
    let filling = join_all(streams.iter_mut().map(|stream| fill(stream, &took)));
    let driving = poll_fn(|context| match Pin::new(&mut connection).poll(context) {
        Poll::Ready(Err(_)) => Poll::Ready(()),
        Poll::Ready(Ok(_)) => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Pending,
    });
    let _ = tokio::time::timeout(HELD, futures::future::join(filling, driving)).await;
    Some(took.into_inner())
}

/// Says to a process of its own whom it is to flood.
const TARGET: &str = "DATAMESH_FLOOD_TARGET";

/// Says to a process of its own that it is to be flooded, so that what other tests take is not counted.
const FLOODED: &str = "DATAMESH_FLOODED";

/// This test once more, in a process of its own.
fn again(test: &str, variable: &str, value: &str) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("libp2p::strangers::flood::{test}"), "--nocapture"])
        .env(variable, value)
        .spawn()
        .unwrap()
}

/// The strangers, in a process of their own, so that what they take is not counted.
async fn flood(target: Multiaddr) {
    let count = std::env::var("DATAMESH_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let faces: Vec<_> = (0..FACES).map(|_| tokio::sync::Mutex::new(face(&target))).collect();
    let (let_in, pushed) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (faces, let_in, pushed) = (&faces, &let_in, &pushed);
    let all = stream::iter(0..count).for_each_concurrent(AT_ONCE, |number: usize| {
        let target = target.clone();
        async move {
            if let Some(took) = push(&faces[number % FACES], target).await {
                let_in.fetch_add(1, Ordering::Relaxed);
                pushed.fetch_add(took, Ordering::Relaxed);
            }
        }
    });
    all.await;
    let (let_in, pushed) = (let_in.load(Ordering::Relaxed), pushed.load(Ordering::Relaxed));
    assert!(let_in >= 48 && pushed > 64 << 20, "no flood: {let_in} were let in, {pushed} bytes");
}

/// Floods a node that listens here, each in a process that runs this test anew, and serves a member all the while; it
/// may take so many bytes of memory more.
fn flooded(test: &str, listen: &str, most: u64) {
    if let Ok(target) = std::env::var(TARGET) {
        return run(async { flood(target.parse().unwrap()).await });
    }
    if std::env::var(FLOODED).is_err() {
        return assert!(again(test, FLOODED, "1").wait().unwrap().success(), "see above");
    }
    run(async {
        let limits = Limits { handshake: Duration::from_secs(2), ..Limits::default() };
        let member = async |secret| limited_on(secret, true, limits.clone(), listen).await;
        let (ours, friend) = (member(1).await, member(2).await);
        friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap();
        let before = resident();
        let mut flood = again(test, TARGET, ours.listen_addresses()[0].as_str());
        let mut peak = 0;
        let ended = loop {
            if let Some(ended) = flood.try_wait().unwrap() {
                break ended;
            }
            peak = resident().max(peak);
            let message = Message { head: Bytes::from_static(b"hello"), body: Bytes::new() };
            let answer = async {
                let inbound = ours.accept().await.unwrap();
                assert_eq!(inbound.from, friend.local_node());
                inbound.reply.send(inbound.message);
            };
            let call = friend.call(ours.local_node(), message, LIMIT);
            futures::join!(call, answer).0.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(ended.success(), "the strangers failed: {ended}");
        let grown = peak.saturating_sub(before);
        assert!(grown <= most, "{grown} bytes, at most {most}");
        assert_eq!(ours.connected(), [friend.local_node()]);
    });
}

#[test]
fn strangers_over_quic_fill_no_more_than_is_theirs() {
    let most = Limits::default().bytes_in_total as u64 + MOST;
    flooded("strangers_over_quic_fill_no_more_than_is_theirs", "/ip4/127.0.0.1/udp/0/quic-v1", most);
}

#[test]
fn strangers_over_tcp_fill_no_more_than_is_theirs() {
    flooded("strangers_over_tcp_fill_no_more_than_is_theirs", "/ip4/127.0.0.1/tcp/0", MOST);
}
