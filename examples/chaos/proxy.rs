//! The network between the nodes: what reaches a node passes here, and is delayed, dropped or cut by who sent it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use datamesh::runtime::NativeRuntime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Result;
use crate::owner::{self, Protocol};

/// The bytes of a stream that are taken at a time.
const CHUNK: usize = 16 << 10;

/// Chunks or packets that may be on the way at a time; then a stream waits, and packets get lost.
const ON_THE_WAY: usize = 1024;

/// The longest packet.
const PACKET: usize = 64 << 10;

/// After so long without a packet a way of packets is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// How often a cut way is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a link does to what passes, as numbers for the atomics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Way {
    Open = 0,
    /// Nothing passes, and nobody is told.
    Silent = 1,
    /// Connections break at once, and none is made.
    Broken = 2,
}

/// The state of one direction between two nodes.
#[derive(Debug, Default)]
struct Link {
    way: AtomicU8,
    delay_ms: AtomicU32,
    /// Of a thousand packets so many are lost; of a thousand chunks of a stream a tenth of that breaks it.
    loss: AtomicU16,
}

/// All links: from each node, and from the clients (the last row), to each node.
#[derive(Debug)]
pub(crate) struct Links {
    links: Vec<Vec<Link>>,
    processes: Mutex<Vec<(usize, u32)>>,
    draws: AtomicU64,
    /// Chunks and packets that were lost on purpose.
    pub(crate) lost: AtomicU64,
    pub(crate) carried: AtomicU64,
}

impl Links {
    pub(crate) fn new(nodes: usize) -> Arc<Self> {
        let row = |_| (0..nodes).map(|_| Link::default()).collect();
        Arc::new(Self {
            links: (0..=nodes).map(row).collect(),
            processes: Mutex::default(),
            draws: AtomicU64::new(1),
            lost: AtomicU64::new(0),
            carried: AtomicU64::new(0),
        })
    }

    /// Says which process each node is now.
    pub(crate) fn set_processes(&self, processes: Vec<(usize, u32)>) {
        *self.processes.lock().unwrap_or_else(PoisonError::into_inner) = processes;
    }

    /// Who has opened this connection: a node, or else a client.
    fn sender(&self, protocol: Protocol, address: SocketAddr) -> usize {
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        owner::find(protocol, address, &processes).unwrap_or(self.links.len().saturating_sub(1))
    }

    fn link(&self, from: usize, to: usize) -> Option<&Link> {
        self.links.get(from)?.get(to)
    }

    /// Everything between a node and all others, both ways.
    fn around(&self, node: usize) -> impl Iterator<Item = &Link> {
        let from = self.links.get(node).into_iter().flatten();
        from.chain(self.links.iter().filter_map(move |row| row.get(node)))
    }

    /// Opens or cuts all links of a node.
    pub(crate) fn set_way(&self, node: usize, way: Way) {
        self.around(node).for_each(|link| link.way.store(way as u8, Ordering::Relaxed));
    }

    /// Delays and loses on all links of a node.
    pub(crate) fn set_quality(&self, node: usize, delay: Duration, loss: u16) {
        let delay = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        for link in self.around(node) {
            link.delay_ms.store(delay, Ordering::Relaxed);
            link.loss.store(loss, Ordering::Relaxed);
        }
    }

    fn way(&self, from: usize, to: usize) -> Way {
        match self.link(from, to).map_or(0, |link| link.way.load(Ordering::Relaxed)) {
            1 => Way::Silent,
            2 => Way::Broken,
            _ => Way::Open,
        }
    }

    fn due(&self, from: usize, to: usize) -> Instant {
        let delay = self.link(from, to).map_or(0, |link| link.delay_ms.load(Ordering::Relaxed));
        Instant::now() + Duration::from_millis(delay.into())
    }

    /// Whether this chunk or packet is lost, where so many of a thousand times `rarity` are.
    fn is_lost(&self, from: usize, to: usize, rarity: u64) -> bool {
        let loss = self.link(from, to).map_or(0, |link| link.loss.load(Ordering::Relaxed));
        // Splitmix: nothing depends on these draws but which bytes are unlucky.
        let mut draw = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let is_lost = (draw ^ (draw >> 31)) % (1000 * rarity) < u64::from(loss);
        self.lost.fetch_add(is_lost.into(), Ordering::Relaxed);
        self.carried.fetch_add(1, Ordering::Relaxed);
        is_lost
    }
}

/// The ports of a node: where it listens, and where others are told to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) own: u16,
    pub(crate) proxy: u16,
}

/// Below those that systems give to outgoing connections (from 32768 on Linux, from 49152 by RFC 6335): of one of
/// these a connection may take hold while the node that listens there is away.
const PORTS: RangeInclusive<u16> = 10_000..=32_000;

/// So many ports that are free now, alike for TCP and UDP, and that no outgoing connection is given.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut candidates: Vec<u16> = PORTS.collect();
    let mut ports = Vec::new();
    while ports.len() < count {
        if candidates.is_empty() {
            return Err(format!("fewer than {count} ports are free for both TCP and UDP").into());
        }
        let draw = u64::from_le_bytes(NativeRuntime::shared()?.random()?);
        let port = candidates.swap_remove(usize::try_from(draw % candidates.len() as u64)?);
        let address = (Ipv4Addr::LOCALHOST, port);
        if std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok() {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// Starts the proxies of all nodes, on a thread of their own that ends with the process.
pub(crate) fn start(links: &Arc<Links>, ports: &[Ports]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (links, ports) = (Arc::clone(links), ports.to_vec());
    let bound = runtime.block_on(async {
        let mut bound = Vec::new();
        for (node, port) in ports.iter().enumerate() {
            let address = (Ipv4Addr::LOCALHOST, port.proxy);
            bound.push((node, port.own, TcpListener::bind(address).await?, UdpSocket::bind(address).await?));
        }
        Ok::<_, std::io::Error>(bound)
    })?;
    thread::Builder::new().name("proxies".into()).spawn(move || {
        runtime.block_on(async move {
            let mut tasks = Vec::new();
            for (node, own, tcp, udp) in bound {
                tasks.push(tokio::spawn(streams(Arc::clone(&links), node, own, tcp)));
                tasks.push(tokio::spawn(packets(Arc::clone(&links), node, own, udp)));
            }
            for task in tasks {
                // It runs for ever.
                let _ = task.await;
            }
        });
    })?;
    Ok(())
}

/// Takes connections to a node.
async fn streams(links: Arc<Links>, to: usize, port: u16, listener: TcpListener) {
    loop {
        let Ok((inbound, address)) = listener.accept().await else {
            sleep(LOOK_AGAIN).await;
            continue;
        };
        let links = Arc::clone(&links);
        tokio::spawn(async move {
            let from = links.sender(Protocol::Tcp, address);
            if links.way(from, to) == Way::Broken {
                return;
            }
            let Ok(outbound) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            // What waits for more bytes would only be slower.
            let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
            let ((from_read, from_write), (to_read, to_write)) =
                (inbound.into_split(), outbound.into_split());
            // When one direction ends, so does the connection.
            tokio::select! {
                () = pump(&links, (from, to), (from, to), from_read, to_write) => {}
                () = pump(&links, (to, from), (from, to), to_read, from_write) => {}
            }
        });
    }
}

/// Carries one direction of a connection. The way back to a client has no link of its own: it is as the way there.
async fn pump(
    links: &Links,
    (from, to): (usize, usize),
    opened: (usize, usize),
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
) {
    let (from, to) = if links.link(from, to).is_some() { (from, to) } else { opened };
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY / 16);
    let take = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            // Watched while it waits: a way that breaks breaks quiet connections, too.
            let len = loop {
                if links.way(from, to) == Way::Broken || sender.is_closed() {
                    return;
                }
                match timeout(LOOK_AGAIN * 10, read.read(&mut chunk)).await {
                    Ok(Ok(len)) if len > 0 => break len,
                    Ok(_) => return,
                    Err(_) => {}
                }
            };
            if links.is_lost(from, to, 10) {
                return;
            }
            chunk.truncate(len);
            if sender.send((links.due(from, to), chunk)).await.is_err() {
                return;
            }
        }
    };
    // What was taken before the end is still given.
    let give = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            while links.way(from, to) == Way::Silent {
                sleep(LOOK_AGAIN).await;
            }
            if links.way(from, to) == Way::Broken || write.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

/// Takes packets to a node, and carries back what it answers.
async fn packets(links: Arc<Links>, to: usize, port: u16, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut ways: HashMap<SocketAddr, mpsc::Sender<(Instant, Vec<u8>)>> = HashMap::new();
    let mut senders: HashMap<SocketAddr, usize> = HashMap::new();
    let mut packet = vec![0; PACKET];
    loop {
        // A port that nobody listens on any more is told as an error.
        let Ok((len, address)) = socket.recv_from(&mut packet).await else { continue };
        if ways.get(&address).is_none_or(mpsc::Sender::is_closed) {
            ways.retain(|_, way| !way.is_closed());
            senders.retain(|address, _| ways.contains_key(address));
            let from = links.sender(Protocol::Udp, address);
            let (sender, receiver) = mpsc::channel(ON_THE_WAY);
            let Ok(outward) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            if outward.connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                continue;
            }
            let back = Arc::clone(&socket);
            tokio::spawn(exchange(Arc::clone(&links), (from, to), receiver, outward, back, address));
            ways.insert(address, sender);
            senders.insert(address, from);
        }
        let (Some(way), Some(from)) = (ways.get(&address), senders.get(&address)) else { continue };
        if links.way(*from, to) == Way::Open && !links.is_lost(*from, to, 1) {
            let bytes = packet.get(..len).unwrap_or_default().to_vec();
            // What has no room is lost, as on any link.
            let _ = way.try_send((links.due(*from, to), bytes));
        }
    }
}

/// Carries packets between one sender and a node, until none came for a while.
async fn exchange(
    links: Arc<Links>,
    (from, to): (usize, usize),
    mut packets: mpsc::Receiver<(Instant, Vec<u8>)>,
    outward: UdpSocket,
    back: Arc<UdpSocket>,
    address: SocketAddr,
) {
    let back_link = if links.link(to, from).is_some() { (to, from) } else { (from, to) };
    let (sender, mut answers) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let there = async {
        while let Ok(Some((due, packet))) = timeout(IDLE, packets.recv()).await {
            sleep_until(due).await;
            // A node that is down refuses; whoever sent it finds out by itself.
            let _ = outward.send(&packet).await;
        }
    };
    let take = async {
        let mut packet = vec![0; PACKET];
        loop {
            let Ok(len) = outward.recv(&mut packet).await else {
                sleep(LOOK_AGAIN).await;
                continue;
            };
            let (a, b) = back_link;
            if links.way(a, b) == Way::Open && !links.is_lost(a, b, 1) {
                let bytes = packet.get(..len).unwrap_or_default().to_vec();
                // As above.
                let _ = sender.try_send((links.due(a, b), bytes));
            }
        }
    };
    let give = async {
        while let Some((due, packet)) = answers.recv().await {
            sleep_until(due).await;
            let _ = back.send_to(&packet, address).await;
        }
    };
    tokio::select! {
        () = there => {}
        () = take => {}
        () = give => {}
    }
}
