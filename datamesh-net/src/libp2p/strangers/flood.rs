//! Strangers come over QUIC, where anybody can finish the handshake, in great number, and send what nobody reads.
//! `DATAMESH_FLOOD` says how many.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures::future::poll_fn;
use futures::io::AsyncWriteExt;
use futures::stream;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxer;
use libp2p::core::transport::{DialOpts, PortUse};

use super::*;

/// Those that dial, each of which may have a few connections, and how many they make at a time.
const FACES: usize = 128;
const AT_ONCE: usize = 384;

/// How long each holds what it has.
const HELD: Duration = Duration::from_millis(1500);

/// What the flood may cost beyond the bytes that may be under way: 64 MiB.
const MOST: u64 = 64 << 20;

/// What a stranger says before the rubbish, so that its stream is taken for one of requests.
const SAID: &[u8] = b"\x13/multistream/1.0.0\n\x0c/datamesh/1\n";

/// Memory that is resident, in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Connects, opens streams, and fills them until they take no more; how many bytes they took, or none where it is not
/// let in.
async fn push(face: &tokio::sync::Mutex<quic::tokio::Transport>, target: Multiaddr) -> Option<u64> {
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let dial = face.lock().await.dial(target, options).ok()?;
    let (_, mut connection) = tokio::time::timeout(HELD, dial).await.ok()?.ok()?;
    let mut took = 0;
    let mut streams = Vec::new();
    let filling = async {
        for _ in 0..8 {
            let mut stream =
                poll_fn(|context| Pin::new(&mut connection).poll_outbound(context)).await.ok()?;
            stream.write_all(SAID).await.ok()?;
            while let Ok(Ok(wrote)) =
                tokio::time::timeout(Duration::from_millis(50), stream.write(&[7; 64 << 10])).await
            {
                took += wrote as u64;
            }
            streams.push(stream);
        }
        std::future::pending::<Option<()>>().await
    };
    let _ = tokio::time::timeout(HELD, filling).await;
    Some(took)
}

/// Says to a process of its own whom it is to flood.
const TARGET: &str = "DATAMESH_FLOOD_TARGET";

/// The strangers, in a process of their own, so that what they take is not counted.
async fn flood(target: Multiaddr) {
    let count = std::env::var("DATAMESH_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let face = || quic::tokio::Transport::new(quic::Config::new(&Keypair::generate_ed25519()));
    let faces: Vec<_> = (0..FACES).map(|_| tokio::sync::Mutex::new(face())).collect();
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
    assert!(let_in >= 64 && pushed > 64 << 20, "no flood: {let_in} were let in, {pushed} bytes");
}

#[test]
fn strangers_over_quic_fill_no_more_than_is_theirs() {
    if let Ok(target) = std::env::var(TARGET) {
        return run(async { flood(target.parse().unwrap()).await });
    }
    run(async {
        let (ours, friend) = (member(1, false).await, member(2, false).await);
        friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap();
        let before = resident();
        let mut flood = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "libp2p::strangers::flood::strangers_over_quic_fill_no_more_than_is_theirs"])
            .arg("--nocapture")
            .env(TARGET, ours.listen_addresses()[0].as_str())
            .spawn()
            .unwrap();
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
        let most = Limits::default().bytes_in_total as u64 + MOST;
        assert!(grown <= most, "{grown} bytes, at most {most}");
        assert_eq!(ours.connected(), [friend.local_node()]);
    });
}
