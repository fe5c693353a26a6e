//! A member that opens streams without end: it costs no more than its limits, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod early;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datamesh_core::KeyRing;
use datamesh_core::format::MeshKey;
use datamesh_core::ports::{Message, Transport as _};
use futures::future::{join_all, poll_fn};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures::stream::{self, FuturesUnordered, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxer;
use libp2p::core::transport::{DialOpts, PortUse, Transport as _};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, noise, tcp};

use super::buffered::Buffered;
use super::counted::Counted;
use super::gate::Gate;
use super::muxer::{Muxer, Yamux};
use super::proof::{self, Keys, Own, Role, noise_prologue};
use super::{Libp2pConfig, Libp2pTransport, Limits};

/// A stream of a member.
type Stream = Counted<yamux::Stream>;

const MESH: [u8; 32] = [7; 32];
const LIMIT: Duration = Duration::from_secs(20);

/// Streams that the member opens, how many of them it holds at a time, and after how many it waits for the node: Yamux
/// lets it have 128.
const FLOOD: usize = 10_000;
const HELD: usize = 72;
const BATCH: usize = 16;

/// What the flood may cost: 64 MiB.
const MOST: u64 = 64 << 20;

/// Says that the process is there for this test alone, so that its memory is nobody else's.
const ALONE: &str = "DATAMESH_FLOOD_ALONE";

/// The beginning of a request of 4 MiB, of which no more comes.
const BEGUN: [u8; 20] = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 7, 7, 7, 7, 7, 7, 7, 7];

/// Memory that is resident, in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn config(secret: u8) -> Libp2pConfig {
    Libp2pConfig::new([secret; 32], MESH)
}

/// A member's own end of a connection, with nothing between it and the streams.
struct Member<C>(RefCell<Muxer<C>>);

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> Member<C> {
    /// Moves what the streams say and are told, and says back what comes on others, as is the answer to pings.
    async fn drive(&self) {
        let mut answers = FuturesUnordered::new();
        loop {
            let next = poll_fn(|context| Pin::new(&mut *self.0.borrow_mut()).poll_inbound(context));
            tokio::select! {
                stream = next => {
                    let (from, mut to) = AsyncReadExt::split(stream.expect("the connection ends"));
                    answers.push(async move { futures::io::copy(from, &mut to).await });
                }
                Some(_) = answers.next() => {}
            }
        }
    }

    /// Opens a stream and asks for a protocol on it, whatever the answer.
    async fn open(&self, protocol: &str) -> Stream {
        let opened = poll_fn(|context| Pin::new(&mut *self.0.borrow_mut()).poll_outbound(context)).await;
        let mut stream = opened.unwrap();
        let length = u8::try_from(protocol.len() + 1).unwrap();
        let asked = [b"\x13/multistream/1.0.0\n".as_slice(), &[length], protocol.as_bytes(), b"\n"].concat();
        stream.write_all(&asked).await.unwrap();
        stream
    }
}

/// What the other end says of a protocol that it takes.
async fn hear_taken(stream: &mut Stream, protocol: &str) -> std::io::Result<()> {
    let mut heard = vec![0; 20 + 1 + protocol.len() + 1];
    stream.read_exact(&mut heard).await
}

/// Sends a friend's shard there and back.
async fn echo(friend: &Libp2pTransport, ours: &Libp2pTransport) {
    let message = Message { head: Bytes::from_static(b"hello"), body: Bytes::from(vec![9; 300_000]) };
    let answer = async {
        let inbound = ours.accept().await.unwrap();
        assert_eq!(inbound.from, friend.local_node(), "no request of the flood is whole");
        inbound.reply.send(inbound.message);
    };
    let call = friend.call(ours.local_node(), message.clone(), LIMIT);
    assert!(futures::join!(call, answer).0.unwrap() == message);
}

/// Opens streams without end; a friend is served meanwhile.
async fn flood<C>(member: &Member<C>, friend: &Libp2pTransport, ours: &Libp2pTransport)
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (before, mut peak) = (resident(), 0);
    let mut held = VecDeque::new();
    for number in 1..=FLOOD {
        let mut stream = member.open("/datamesh/1").await;
        stream.write_all(&BEGUN).await.unwrap();
        if number % BATCH == 0 {
            // Taken or reset: all before it has come.
            let _ = hear_taken(&mut stream, "/datamesh/1").await;
        }
        held.push_back(stream);
        if held.len() > HELD {
            held.pop_front();
        }
        if number % 1000 == 0 {
            echo(friend, ours).await;
            peak = resident().max(peak);
        }
    }
    let grown = peak.saturating_sub(before);
    assert!(grown <= MOST, "{grown} bytes");
    // Of those that are open, all but the limit are reset.
    let most = Limits::default().streams_per_connection;
    let mut ends: FuturesUnordered<_> = held
        .into_iter()
        .map(|mut stream| async move {
            // However it ends.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .collect();
    while ends.len() > most {
        ends.next().await.unwrap();
    }
}

/// Who stands at the two ends of a member's connection.
struct Ends {
    own: Own,
    remote: PeerId,
}

/// The member with these keys dials a node, and has proved nothing yet.
async fn dial(
    keys: &Keypair,
    ours: &Libp2pTransport,
) -> (Member<impl AsyncRead + AsyncWrite + Unpin + 'static>, Ends) {
    let mesh = MeshKey::from_bytes(MESH);
    let private = noise::Config::new(keys).unwrap().with_prologue(noise_prologue(&mesh.network_name()));
    let mut transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(Buffered { private, plain: None })
        .multiplex(Yamux::of(&Limits::default()));
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let address = ours.listen_addresses().remove(0);
    let dial = transport.dial(address.as_str().parse::<Multiaddr>().unwrap(), options).unwrap();
    let (remote, muxer) = dial.await.unwrap();
    let own = Own { peer: keys.public().to_peer_id(), keys: Arc::new(Keys::Mesh(KeyRing::of(mesh))) };
    (Member(RefCell::new(muxer)), Ends { own, remote })
}

async fn prove<C: AsyncRead + AsyncWrite + Unpin + 'static>(member: &Member<C>, ends: &Ends) {
    let mut stream = member.open(proof::PROTOCOL).await;
    hear_taken(&mut stream, proof::PROTOCOL).await.unwrap();
    proof::exchange(stream, Role::Dialler, &ends.own, ends.remote, &Gate::default()).await.unwrap();
}

/// A node, and a friend that it serves.
async fn nodes() -> (Libp2pTransport, Libp2pTransport) {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let ours = Libp2pTransport::open(config(1).listen(listen)).await.unwrap();
    let friend = Libp2pTransport::open(config(2)).await.unwrap();
    friend.connect(ours.listen_addresses().remove(0), LIMIT).await.unwrap();
    for _ in 0..20 {
        echo(&friend, &ours).await;
    }
    (ours, friend)
}

/// A connection of the member with these keys, to a node that it proves itself to.
async fn join(
    keys: &Keypair,
    ours: &Libp2pTransport,
) -> Member<impl AsyncRead + AsyncWrite + Unpin + 'static> {
    let (member, ends) = dial(keys, ours).await;
    tokio::select! {
        () = member.drive() => {}
        () = prove(&member, &ends) => {}
    }
    member
}

async fn open_without_end() {
    let (ours, friend) = nodes().await;
    let member = join(&Keypair::generate_ed25519(), &ours).await;
    tokio::select! {
        () = member.drive() => {}
        () = flood(&member, &friend, &ours) => {}
    }
    echo(&friend, &ours).await;
    assert_eq!(ours.connected().len(), 2, "the member has lost no more than streams");
}

/// Goes on with a request that is begun, and ends it never; how many bytes the node takes.
async fn fill(stream: &mut Stream) -> u64 {
    let (chunk, mut took) = ([7; 64 << 10], 0);
    let patience = Duration::from_millis(500);
    while took < 3 << 20
        && let Ok(Ok(count)) = tokio::time::timeout(patience, stream.write(&chunk)).await
    {
        took += count as u64;
    }
    took
}

/// All connections that a peer may have, with as many streams as are served, each with a request that is begun and more
/// than the node takes from one peer: what it may send ahead is in memory, and no more.
async fn fill_windows() {
    let (ours, friend) = nodes().await;
    let limits = Limits::default();
    let (before, keys) = (resident(), Keypair::generate_ed25519());
    let members: Vec<_> =
        stream::iter(0..limits.connections_per_peer).then(|_| join(&keys, &ours)).collect().await;
    let fills = members.iter().map(|member| async {
        let mut streams = Vec::new();
        for _ in 0..limits.streams_per_connection {
            let mut stream = member.open("/datamesh/1").await;
            stream.write_all(&BEGUN).await.unwrap();
            streams.push(stream);
        }
        let took: u64 = join_all(streams.iter_mut().map(fill)).await.into_iter().sum();
        (took, streams)
    });
    let work = async {
        let filled = join_all(fills).await;
        let took: u64 = filled.iter().map(|(took, _)| took).sum();
        let grown = resident().saturating_sub(before);
        echo(&friend, &ours).await;
        assert_eq!(ours.connected().len(), 2);
        (took, grown)
    };
    let drive = join_all(members.iter().map(Member::drive));
    let (took, grown) = tokio::select! {
        _ = drive => panic!("it never ends"),
        filled = work => filled,
    };
    let windows = u64::from(limits.connections_per_peer) * Yamux::of(&limits).window() as u64;
    let read = limits.bytes_per_peer as u64;
    assert!(took > 64 << 20, "no flood: {took} bytes");
    assert!(took <= windows + read, "{took} bytes were taken");
    assert!(grown <= windows + read + MOST, "{grown} bytes in memory for {took}");
}

/// Runs a test in a process of its own.
fn alone<T: Future<Output = ()>>(name: &str, test: impl Fn() -> T) {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async { tokio::time::timeout(6 * LIMIT, test()).await.expect("it hangs") });
    }
    let (_, place) = module_path!().split_once("::").unwrap();
    let name = format!("{place}::{name}");
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = [alone.stdout, alone.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(alone.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn ten_thousand_streams_of_a_member() {
    alone("ten_thousand_streams_of_a_member", open_without_end);
}

#[test]
fn windows_that_a_member_fills() {
    alone("windows_that_a_member_fills", fill_windows);
}
