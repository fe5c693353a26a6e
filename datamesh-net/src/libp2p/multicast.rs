//! Members on the same local network find each other by multicast DNS.
//!
//! A node announces on each of its networks on which ports it listens there. Whoever of the mesh hears a newcomer
//! dials it and answers with an announcement of its own. An announcement proves nothing: whoever repeats one is
//! dialled and fails the proof of the mesh key.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use datamesh_core::KeyRing;
use datamesh_core::format::{Announcement, AnnouncementKey, ListensOn};
use datamesh_core::id::NodeId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::dials::Wanted;
use super::driver::Driver;
use super::names;
use super::scope::scope_of_ip;
use crate::wire::keys::now;

/// The group and port of multicast DNS.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// When a node announces itself after its addresses changed, and how often from then on.
const FIRST: [Duration; 3] = [Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(3)];
const LATER: Duration = Duration::from_secs(60);

/// The least time between two answers to newcomers.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long an answer waits, at random, so that not all answer at once.
const ANSWER_DELAY_MS: u64 = 200;

/// Neighbours that are remembered, and announced addresses that wait for the driver; others are heard again.
const MAX_NEIGHBOURS: usize = 256;
const MAX_WAITING: usize = 64;

/// How long an address that was dialled is left alone.
const DIAL_AGAIN: Duration = Duration::from_secs(30);

/// How long the node that was met at an address is taken to be the one there, while it is connected: it may have come
/// here by another connection, which does not tell where it listens.
const MEET_AGAIN: Duration = Duration::from_secs(3600);

/// The longest packet that is looked at; an announcement is shorter.
const MAX_PACKET: usize = 256;

/// The driver's side.
pub(super) struct Neighbours {
    listening: watch::Sender<Vec<Multiaddr>>,
    pub(super) heard: async_channel::Receiver<Multiaddr>,
    /// When each announced address was dialled last.
    dialled: HashMap<Multiaddr, Instant>,
    met: Met,
}

/// Which node was met at an announced address, and when.
#[derive(Default)]
struct Met(HashMap<Multiaddr, (NodeId, Instant)>);

impl Met {
    fn note(&mut self, address: Multiaddr, node: NodeId) {
        self.0.retain(|_, (_, at)| at.elapsed() < MEET_AGAIN);
        if self.0.len() < MAX_NEIGHBOURS || self.0.contains_key(&address) {
            self.0.insert(address, (node, Instant::now()));
        }
    }

    fn at(&self, address: &Multiaddr) -> Option<NodeId> {
        self.0.get(address).filter(|(_, at)| at.elapsed() < MEET_AGAIN).map(|(node, _)| *node)
    }
}

impl Neighbours {
    /// Begins to announce and to listen for announcements.
    pub(super) fn start(ring: KeyRing, runtime: &tokio::runtime::Handle) -> Self {
        let (listening, changes) = watch::channel(Vec::new());
        let (sender, heard) = async_channel::bounded(MAX_WAITING);
        runtime.spawn(run(ring, changes, sender));
        Self { listening, heard, dialled: HashMap::new(), met: Met::default() }
    }

    /// Notes where this node listens now.
    pub(super) fn set_listening(&self, addresses: Vec<Multiaddr>) {
        self.listening.send_if_modified(|known| {
            let is_new = *known != addresses;
            *known = addresses;
            is_new
        });
    }
}

impl Driver {
    /// Notes who answered where a neighbour had announced itself.
    pub(super) fn note_met(&mut self, address: Multiaddr, peer: &PeerId) {
        if let (Some(neighbours), Some(node)) = (&mut self.neighbours, names::node_of(peer))
            && neighbours.dialled.contains_key(&address)
        {
            neighbours.met.note(address, node);
        }
    }

    /// Dials a neighbour that is not connected.
    pub(super) fn on_neighbour(&mut self, address: Multiaddr) {
        let is_own = self.swarm.listeners().any(|own| *own == address);
        if is_own || self.addresses.is_connected_to(&address) {
            return;
        }
        let Some(neighbours) = &mut self.neighbours else { return };
        if neighbours.met.at(&address).is_some_and(|node| self.shared.is_connected(&node)) {
            return;
        }
        neighbours.dialled.retain(|_, at| at.elapsed() < DIAL_AGAIN);
        if neighbours.dialled.contains_key(&address) || neighbours.dialled.len() >= MAX_NEIGHBOURS {
            return;
        }
        neighbours.dialled.insert(address.clone(), Instant::now());
        tracing::debug!(%address, "a neighbour announced itself");
        // Nobody waits for it, so it goes only where there is a place for it; the neighbour announces itself again.
        self.ask(Wanted::Address(address, None), Vec::new());
    }
}

/// The ports of each interface that a node listens on.
type Interfaces = BTreeMap<Ipv4Addr, Vec<ListensOn>>;

fn interfaces(addresses: &[Multiaddr]) -> Interfaces {
    let mut interfaces = Interfaces::new();
    for address in addresses {
        let parts: Vec<_> = address.iter().collect();
        let (ip, port) = match parts.as_slice() {
            [Protocol::Ip4(ip), Protocol::Tcp(port)] => (*ip, ListensOn::Tcp(*port)),
            [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1] => (*ip, ListensOn::Quic(*port)),
            _ => continue,
        };
        interfaces.entry(ip).or_default().push(port);
    }
    interfaces
}

/// Announces and listens until the driver is gone.
async fn run(
    ring: KeyRing,
    mut changes: watch::Receiver<Vec<Multiaddr>>,
    heard: async_channel::Sender<Multiaddr>,
) {
    loop {
        let interfaces = interfaces(&changes.borrow_and_update());
        let over = match Ears::open(&interfaces) {
            Ok(ears) => ears.run(&ring, &interfaces, &mut changes, &heard).await,
            Err(error) => {
                tracing::warn!(%error, "members on the local network are not looked for");
                changes.changed().await.is_err()
            }
        };
        if over {
            return;
        }
    }
}

/// A socket that hears all announcements, and one to speak with on each interface.
struct Ears {
    hear: UdpSocket,
    speak: Vec<(Ipv4Addr, UdpSocket)>,
}

impl Ears {
    fn open(interfaces: &Interfaces) -> io::Result<Self> {
        let hear = ear()?;
        let mut speak = Vec::new();
        for ip in interfaces.keys() {
            // An interface may have gone meanwhile; the others are heard all the same.
            let joined = hear.join_multicast_v4(&GROUP, ip).and_then(|()| tokio_socket(mouth(*ip)?));
            match joined {
                Ok(mouth) => speak.push((*ip, mouth)),
                Err(error) => tracing::debug!(%ip, %error, "an interface takes no multicast"),
            }
        }
        Ok(Self { hear: tokio_socket(hear)?, speak })
    }

    /// Runs until the interfaces change; whether the driver is gone.
    async fn run(
        self,
        ring: &KeyRing,
        interfaces: &Interfaces,
        changes: &mut watch::Receiver<Vec<Multiaddr>>,
        heard: &async_channel::Sender<Multiaddr>,
    ) -> bool {
        let mut known = Known::default();
        let mut round = 0;
        let mut next = tokio::time::Instant::now() + wait(round);
        let mut packet = [0; MAX_PACKET + 1];
        loop {
            tokio::select! {
                changed = changes.changed() => return changed.is_err(),
                () = tokio::time::sleep_until(next) => {
                    self.announce(&AnnouncementKey::derive(&ring.current()), interfaces).await;
                    round += 1;
                    next = tokio::time::Instant::now() + wait(round);
                }
                received = self.hear.recv_from(&mut packet) => {
                    let Ok((len, from)) = received else { continue };
                    let from_self = interfaces.keys().any(|ip| from.ip() == IpAddr::V4(*ip));
                    let packet = packet.get(..len).unwrap_or_default();
                    let Some(said) = understand(packet, ring) else { continue };
                    if !is_near(interfaces, from.ip()) || (from_self && Some(&said.ports) == own(interfaces, from)) {
                        continue;
                    }
                    for port in &said.ports {
                        // A full queue: the neighbour is heard again.
                        let _ = heard.try_send(address(from.ip(), *port));
                    }
                    if known.is_new(from, &said) {
                        let soon = tokio::time::Instant::now() + known.answer_in();
                        next = next.min(soon);
                    }
                }
            }
        }
    }

    async fn announce(&self, key: &AnnouncementKey, interfaces: &Interfaces) {
        for (ip, mouth) in &self.speak {
            let Some(ports) = interfaces.get(ip) else { continue };
            let mut nonce = [0; 16];
            if getrandom::fill(&mut nonce).is_err() {
                return;
            }
            let packet = Announcement { ports: ports.clone() }.encode(key, nonce);
            if let Err(error) = mouth.send_to(&packet, (GROUP, PORT)).await {
                tracing::debug!(%ip, %error, "an announcement could not be sent");
            }
        }
    }
}

/// What a packet says to whoever has one of the keys that are accepted now.
fn understand(packet: &[u8], ring: &KeyRing) -> Option<Announcement> {
    let keys = ring.accepted(now());
    keys.iter().find_map(|key| Announcement::decode(packet, &AnnouncementKey::derive(key)))
}

fn own(interfaces: &Interfaces, from: SocketAddr) -> Option<&Vec<ListensOn>> {
    match from.ip() {
        IpAddr::V4(ip) => interfaces.get(&ip),
        IpAddr::V6(_) => None,
    }
}

/// Whether an address can be a neighbour's: it leads no further than those that this node has itself. A packet that
/// somebody far away repeats is sent to this node alone, and would have it dial him.
fn is_near(interfaces: &Interfaces, ip: IpAddr) -> bool {
    interfaces.keys().any(|own| scope_of_ip(IpAddr::V4(*own)) >= scope_of_ip(ip))
}

fn address(ip: IpAddr, port: ListensOn) -> Multiaddr {
    let address = Multiaddr::from(ip);
    match port {
        ListensOn::Quic(port) => address.with(Protocol::Udp(port)).with(Protocol::QuicV1),
        ListensOn::Tcp(port) => address.with(Protocol::Tcp(port)),
        _ => address,
    }
}

/// The wait before an announcement; later ones are spread a little.
fn wait(round: usize) -> Duration {
    FIRST.get(round).copied().unwrap_or(LATER + Duration::from_millis(random_below(5_000)))
}

fn random_below(bound: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness announcements are only less spread.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % bound.max(1)
}

/// Who was heard, so that newcomers are answered.
#[derive(Default)]
struct Known {
    neighbours: HashMap<(IpAddr, Vec<ListensOn>), Instant>,
    answered: Option<Instant>,
}

impl Known {
    fn is_new(&mut self, from: SocketAddr, said: &Announcement) -> bool {
        self.neighbours.retain(|_, at| at.elapsed() < LATER * 3);
        if self.neighbours.len() >= MAX_NEIGHBOURS {
            return false;
        }
        self.neighbours.insert((from.ip(), said.ports.clone()), Instant::now()).is_none()
    }

    fn answer_in(&mut self) -> Duration {
        let since = self.answered.map_or(ANSWER_LIMIT, |at| at.elapsed());
        self.answered = Some(Instant::now());
        ANSWER_LIMIT.saturating_sub(since) + Duration::from_millis(random_below(ANSWER_DELAY_MS))
    }
}

/// A socket that shares the port of multicast DNS with every other program that listens there. What is sent to this
/// machine alone is for those: on Linux it does not come here.
fn ear() -> io::Result<Socket> {
    let ip = if cfg!(target_os = "linux") { GROUP } else { Ipv4Addr::UNSPECIFIED };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    bind(socket, SocketAddrV4::new(ip, PORT))
}

/// A socket to announce with from one address. Nobody reads it, so it has a port of its own: at that of multicast DNS it
/// would swallow what other programs of this machine are answered.
fn mouth(ip: Ipv4Addr) -> io::Result<Socket> {
    let socket = bind(Socket::new(Domain::IPV4, Type::DGRAM, None)?, SocketAddrV4::new(ip, 0))?;
    socket.set_multicast_if_v4(&ip)?;
    socket.set_multicast_loop_v4(true)?;
    Ok(socket)
}

fn bind(socket: Socket, address: SocketAddrV4) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    Ok(socket)
}

fn tokio_socket(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use datamesh_core::format::{MeshKey, MeshKeys};
    use datamesh_core::ports::Timestamp;

    use super::*;

    fn ports(addresses: &[&str]) -> Interfaces {
        interfaces(&addresses.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn announcements_under_both_keys_are_understood_while_both_are_accepted() {
        let [first, second] = [1, 2].map(|byte| MeshKey::from_bytes([byte; 32]));
        let said = Announcement { ports: vec![ListensOn::Tcp(1)] };
        let packet = |key| said.encode(&AnnouncementKey::derive(key), [3; 16]);
        let hears = |ends: u64, key| {
            let keys =
                MeshKeys::first(first.clone()).next(second.clone(), Timestamp(ends), Timestamp(0)).unwrap();
            understand(&packet(key), &KeyRing::new(keys)).is_some()
        };
        assert!(hears(u64::MAX, &first) && hears(u64::MAX, &second) && hears(0, &second));
        assert!(!hears(0, &first) && !hears(u64::MAX, &MeshKey::from_bytes([4; 32])));
    }

    #[test]
    fn only_plain_ip4_listeners_are_announced() {
        let found = ports(&[
            "/ip4/192.168.0.2/tcp/1",
            "/ip4/192.168.0.2/udp/2/quic-v1",
            "/ip4/10.0.0.1/tcp/3",
            "/ip6/fe80::1/tcp/4",
            "/ip4/203.0.113.9/tcp/5/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5/p2p-circuit",
        ]);
        let wanted = [
            ([192, 168, 0, 2].into(), vec![ListensOn::Tcp(1), ListensOn::Quic(2)]),
            ([10, 0, 0, 1].into(), vec![ListensOn::Tcp(3)]),
        ];
        assert_eq!(found, Interfaces::from(wanted));
    }

    /// Another program of this machine asks by multicast DNS, and is answered there alone.
    #[test]
    fn what_other_programs_are_answered_is_left_to_them() {
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        other.set_reuse_address(true).unwrap();
        #[cfg(unix)]
        other.set_reuse_port(true).unwrap();
        // Where somebody else keeps the port for himself, there is nothing to share.
        let Ok(other) = bind(other, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT)) else { return };
        let other: std::net::UdpSocket = other.into();
        let (ear, mouth) = (ear().unwrap(), mouth(Ipv4Addr::LOCALHOST).unwrap());
        assert_ne!(mouth.local_addr().unwrap().as_socket().unwrap().port(), PORT);
        // From many ports: where sockets share one, the system chooses by whom it is from.
        for _ in 0..32 {
            let answers = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            answers.send_to(b"answer", (Ipv4Addr::LOCALHOST, PORT)).unwrap();
        }
        if cfg!(target_os = "linux") {
            // It may be read by yet another program that shares the port, and by nobody of this one.
            for own in [ear, mouth] {
                let own: std::net::UdpSocket = own.into();
                assert!(own.recv_from(&mut [0; 16]).is_err(), "it is swallowed");
            }
        }
        drop(other);
    }

    #[test]
    fn who_is_further_away_than_the_network_is_no_neighbour() {
        let near = |own: &str, from: &str| is_near(&ports(&[own]), from.parse().unwrap());
        assert!(near("/ip4/192.168.0.2/tcp/1", "192.168.0.3"));
        assert!(near("/ip4/192.168.0.2/tcp/1", "127.0.0.1"));
        assert!(!near("/ip4/192.168.0.2/tcp/1", "203.0.113.7"));
        assert!(!near("/ip4/127.0.0.1/tcp/1", "192.168.0.3"));
        // Some local networks have public addresses.
        assert!(near("/ip4/203.0.113.1/tcp/1", "203.0.113.7"));
    }

    #[test]
    fn who_was_met_at_an_address_is_remembered_and_only_so_many() {
        let address = |port: usize| format!("/ip4/192.168.0.2/tcp/{port}").parse::<Multiaddr>().unwrap();
        let [one, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let mut met = Met::default();
        met.note(address(1), one);
        assert_eq!((met.at(&address(1)), met.at(&address(2))), (Some(one), None));
        (2..2 * MAX_NEIGHBOURS).for_each(|port| met.note(address(port), one));
        // Another node has taken its place.
        met.note(address(1), other);
        assert_eq!((met.at(&address(1)), met.0.len()), (Some(other), MAX_NEIGHBOURS));
        let an_hour_ago = Instant::now().checked_sub(MEET_AGAIN);
        if let (Some(then), Some((_, at))) = (an_hour_ago, met.0.get_mut(&address(1))) {
            *at = then;
            assert_eq!(met.at(&address(1)), None);
        }
    }

    /// A neighbour that is connected by another connection, which tells an ephemeral port, is dialled once.
    #[test]
    fn a_connected_neighbour_is_not_dialled_for_each_announcement() {
        use datamesh_core::ports::Transport;

        use crate::libp2p::{Libp2pConfig, Libp2pTransport, start};

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let id = |secret: u8| {
            let keys = libp2p::identity::Keypair::ed25519_from_bytes([secret; 32]).unwrap();
            names::node_of(&keys.public().to_peer_id()).unwrap()
        };
        // The one of the smaller name takes its own dial for the one that is too many, and closes it.
        let (near, far) = if id(1) < id(2) { (1, 2) } else { (2, 1) };
        let config = |secret| Libp2pConfig::new([secret; 32], [7; 32]);
        let anywhere = "/ip4/127.0.0.1/tcp/0";
        let body = async {
            let listen = vec![anywhere.parse().unwrap()];
            let opened = start::driver(config(near), runtime.handle().clone(), listen).await;
            let (mut driver, _commands) = opened.unwrap();
            let ring = KeyRing::of(MeshKey::from_bytes([7; 32]));
            driver.neighbours = Some(Neighbours::start(ring, runtime.handle()));
            let listen = vec![anywhere.parse().unwrap()];
            let neighbour = Libp2pTransport::open(config(far).listen(listen)).await.unwrap();
            let announced: Multiaddr = neighbour.listen_addresses()[0].to_string().parse().unwrap();
            // It dials this node, so that its address is not seen here.
            let own = driver.swarm.listeners().next().unwrap().to_string().parse().unwrap();
            let (connected, ()) = futures::join!(neighbour.connect(own, LATER), async {
                until(&mut driver, |driver| driver.shared.is_connected(&id(far))).await;
            });
            connected.unwrap();
            driver.on_neighbour(announced.clone());
            assert_eq!(driver.dials.len(), 1, "who is there is not known yet");
            until(&mut driver, |driver| driver.dials.is_empty()).await;
            until(&mut driver, |driver| !driver.addresses.is_connected_to(&announced)).await;
            assert!(driver.shared.is_connected(&id(far)), "the first connection stands");
            driver.neighbours.as_mut().unwrap().dialled.clear();
            driver.on_neighbour(announced);
            assert!(driver.dials.is_empty(), "it is dialled again");
        };
        runtime
            .block_on(async { tokio::time::timeout(LATER, body).await })
            .expect("it does not come to that");
    }

    async fn until(driver: &mut Driver, holds: impl Fn(&Driver) -> bool) {
        while !holds(driver) {
            let event = futures::StreamExt::select_next_some(&mut driver.swarm).await;
            driver.on_event(event);
        }
    }

    #[test]
    fn newcomers_are_known_once_and_only_so_many() {
        let mut known = Known::default();
        let from = |n: usize| SocketAddr::from(([10, 0, (n / 256) as u8, n as u8], PORT));
        let said = Announcement { ports: vec![ListensOn::Tcp(1)] };
        assert!(known.is_new(from(0), &said) && !known.is_new(from(0), &said));
        let new = (1..2 * MAX_NEIGHBOURS).filter(|n| known.is_new(from(*n), &said)).count();
        assert_eq!((new, known.neighbours.len()), (MAX_NEIGHBOURS - 1, MAX_NEIGHBOURS));
    }
}
