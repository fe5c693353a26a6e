//! What each way between two nodes costs, side by side: messages with a shard there and back, small ones, and what raw
//! bytes do over the same kind of socket.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use datamesh::net::libp2p::{Libp2pConfig, Libp2pTransport};
use datamesh::net::memory::MemoryNetwork;
use datamesh::ports::{DynTransport, Identity, Message, PeerRoute, Runtime, Transport};
use datamesh::runtime::NativeRuntime;
use datamesh::{NodeIdentity, Result};
use futures::StreamExt;

use crate::measure::cpu_time;

const LIMIT: Duration = Duration::from_secs(60);

/// A shard of a usual segment.
const BODY: usize = 256 << 10;

/// Requests under way, as many as a put has.
const UNDER_WAY: usize = 8;

/// Small messages in a row.
const SMALL: usize = 4000;

/// One way.
#[derive(Debug)]
pub(crate) struct Way {
    name: &'static str,
    put: Rate,
    get: Rate,
    small: Duration,
    /// Raw bytes over the same kind of socket, where there is one.
    ceiling: Option<Rate>,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    mb_per_s: f64,
    cpu_s_per_gb: f64,
}

impl Way {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "way": self.name,
            "put_mb_per_s": self.put.mb_per_s,
            "put_cpu_s_per_gb": self.put.cpu_s_per_gb,
            "get_mb_per_s": self.get.mb_per_s,
            "get_cpu_s_per_gb": self.get.cpu_s_per_gb,
            "small_us": self.small.as_secs_f64() * 1e6,
            "ceiling_mb_per_s": self.ceiling.map(|rate| rate.mb_per_s),
            "ceiling_cpu_s_per_gb": self.ceiling.map(|rate| rate.cpu_s_per_gb),
        })
    }

    pub(crate) fn print_table(ways: &[Self]) {
        println!(
            "{:<14} {:>9} {:>9} {:>9} {:>9} {:>12} {:>13} {:>9}",
            "way", "put MB/s", "CPU s/GB", "get MB/s", "CPU s/GB", "4 KiB in us", "ceiling MB/s", "CPU s/GB"
        );
        for way in ways {
            let ceiling = way.ceiling.map_or((String::from("-"), String::from("-")), |rate| {
                (format!("{:.0}", rate.mb_per_s), format!("{:.2}", rate.cpu_s_per_gb))
            });
            println!(
                "{:<14} {:>9.0} {:>9.2} {:>9.0} {:>9.2} {:>12.1} {:>13} {:>9}",
                way.name,
                way.put.mb_per_s,
                way.put.cpu_s_per_gb,
                way.get.mb_per_s,
                way.get.cpu_s_per_gb,
                way.small.as_secs_f64() * 1e6,
                ceiling.0,
                ceiling.1,
            );
        }
    }
}

/// Measures every way, each direction for so long.
pub(crate) async fn all(time: Duration) -> Result<Vec<Way>, Box<dyn Error>> {
    let runtime: Arc<dyn Runtime> = NativeRuntime::shared()?;
    let identities = [1, 2].map(|n| NodeIdentity::from_secret([n; 32]));
    let mut ways = Vec::new();
    let network = MemoryNetwork::new();
    let mut pair: Vec<Arc<dyn DynTransport>> = Vec::new();
    for identity in &identities {
        pair.push(Arc::new(network.join(identity.node_id(), Arc::clone(&runtime))?));
    }
    ways.push(measure("in-process", &runtime, pair, None, time).await?);
    #[cfg(unix)]
    {
        use datamesh::net::local::{LocalConfig, LocalTransport};
        let home = tempfile::tempdir()?;
        let mut pair: Vec<Arc<dyn DynTransport>> = Vec::new();
        for identity in identities {
            let config = LocalConfig::new(Arc::new(identity), Arc::new(datamesh::ChaChaSuite), [7; 32])
                .directory(home.path().join("sockets"));
            pair.push(Arc::new(LocalTransport::open(config).await?));
        }
        let (writer, reader) = std::os::unix::net::UnixStream::pair()?;
        let ceiling = raw(writer, reader, time)?;
        ways.push(measure("local socket", &runtime, pair, Some(ceiling), time).await?);
    }
    for (name, listen) in
        [("libp2p-tcp", "/ip4/127.0.0.1/tcp/0"), ("libp2p-quic", "/ip4/127.0.0.1/udp/0/quic-v1")]
    {
        let mut pair: Vec<Arc<dyn DynTransport>> = Vec::new();
        for secret in [1, 2] {
            let config = Libp2pConfig::new([secret; 32], [7; 32]).listen(vec![listen.parse()?]);
            pair.push(Arc::new(Libp2pTransport::open(config).await?));
        }
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let writer = TcpStream::connect(listener.local_addr()?)?;
        let ceiling =
            if name == "libp2p-tcp" { Some(raw(writer, listener.accept()?.0, time)?) } else { None };
        ways.push(measure(name, &runtime, pair, ceiling, time).await?);
    }
    Ok(ways)
}

/// Serves shards and small messages by one transport, and asks by the other.
async fn measure(
    name: &'static str,
    runtime: &Arc<dyn Runtime>,
    pair: Vec<Arc<dyn DynTransport>>,
    ceiling: Option<Rate>,
    time: Duration,
) -> Result<Way, Box<dyn Error>> {
    let [client, server]: [Arc<dyn DynTransport>; 2] = pair.try_into().map_err(|_| "two transports")?;
    let node = Transport::local_node(&server);
    Transport::set_peers(&client, vec![PeerRoute { node, addresses: Transport::listen_addresses(&server) }]);
    let serving = Arc::clone(&server);
    let shard = bytes(BODY);
    let (stored, small) = (shard.clone(), bytes(4 << 10));
    runtime.spawn(Box::pin(async move {
        while let Some(inbound) = Transport::accept(&serving).await {
            let body = match inbound.message.head.first() {
                Some(b'g') => stored.clone(),
                Some(b's') => small.clone(),
                _ => Default::default(),
            };
            inbound.reply.send(Message { head: inbound.message.head, body });
        }
    }))?;
    let ask = |head: &'static [u8], body| {
        let request = Message { head: head.into(), body };
        Transport::call(&client, node, request, LIMIT)
    };
    let mut rates = Vec::new();
    for (head, body) in [(b"put".as_slice(), shard), (b"get".as_slice(), Default::default())] {
        for limit in [time / 4, time] {
            let (begun, cpu) = (Instant::now(), cpu_time());
            let calls = futures::stream::repeat_with(|| ask(head, body.clone()))
                .take_while(|_| futures::future::ready(begun.elapsed() < limit))
                .buffer_unordered(UNDER_WAY);
            let answers: Vec<bool> = calls.map(|answer| answer.is_ok()).collect().await;
            if !answers.iter().all(|good| *good) {
                return Err("a request failed".into());
            }
            rates.push(Rate::of(answers.len() * BODY, begun.elapsed(), cpu_time().saturating_sub(cpu)));
        }
    }
    let begun = Instant::now();
    for _ in 0..SMALL {
        ask(b"small", Default::default()).await?;
    }
    let small = begun.elapsed() / u32::try_from(SMALL)?;
    Transport::close(&client).await;
    Transport::close(&server).await;
    // The first of each two was to warm up.
    let [_, put, _, get] = rates[..] else { return Err("two directions, twice each".into()) };
    Ok(Way { name, put, get, small, ceiling })
}

/// Writes raw bytes at one end of a connection and reads them at the other.
fn raw(
    mut writer: impl Write + Send + 'static,
    mut reader: impl Read,
    time: Duration,
) -> Result<Rate, Box<dyn Error>> {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let writing = thread::spawn(move || {
        let body = vec![7; BODY];
        while begun.elapsed() < time && writer.write_all(&body).is_ok() {}
    });
    let (mut buffer, mut total) = (vec![0; BODY], 0);
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => total += count,
        }
    }
    let _ = writing.join();
    Ok(Rate::of(total, begun.elapsed(), cpu_time().saturating_sub(cpu)))
}

impl Rate {
    fn of(bytes: usize, elapsed: Duration, cpu: Duration) -> Self {
        let gb = bytes as f64 / 1e9;
        Self { mb_per_s: gb * 1e3 / elapsed.as_secs_f64(), cpu_s_per_gb: cpu.as_secs_f64() / gb }
    }
}

fn bytes(count: usize) -> bytes::Bytes {
    vec![7; count].into()
}
