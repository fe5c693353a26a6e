//! Nodes for the tests of the networks, and what these do with them.

use std::io::{Read, Write};
use std::net::TcpListener;
#[cfg(all(feature = "local", unix))]
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
#[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
use datamesh_core::ErrorKind;
use datamesh_core::ports::{Message, PeerRoute, Transport, TransportEvent};
#[cfg(feature = "libp2p")]
use datamesh_net::libp2p::{Libp2pConfig, Libp2pTransport};
#[cfg(all(feature = "local", unix))]
use datamesh_net::local::{LocalConfig, LocalTransport};

/// How long anything may take that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How much longer than its limit a machine may take to close a connection.
pub(crate) const CLOSING: Duration = Duration::from_secs(2);

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

#[cfg(feature = "libp2p")]
pub(crate) mod libp2p {
    use super::*;

    /// A node that listens there, or nowhere.
    pub(crate) fn config(secret: u8, mesh: u8, listen: &str) -> Libp2pConfig {
        let listen = if listen.is_empty() { Vec::new() } else { vec![listen.parse().unwrap()] };
        Libp2pConfig::new([secret; 32], [mesh; 32]).listen(listen)
    }

    pub(crate) async fn node(secret: u8, mesh: u8, listen: &str) -> Libp2pTransport {
        Libp2pTransport::open(config(secret, mesh, listen)).await.unwrap()
    }

    /// The port that a node listens on.
    pub(crate) fn port(node: &Libp2pTransport) -> u16 {
        let address = node.listen_addresses().remove(0);
        address.as_str().split('/').nth(4).unwrap().parse().unwrap()
    }
}

#[cfg(all(feature = "local", unix))]
pub(crate) mod local {
    use super::super::keys::{Keys, Suite};
    use super::*;

    /// A node whose socket lies in the directory `d` there.
    pub(crate) fn config(home: &Path, secret: u8, mesh: u8) -> LocalConfig {
        LocalConfig::new(Keys::shared(secret), Suite::shared(), [mesh; 32]).directory(home.join("d"))
    }

    pub(crate) async fn node(home: &Path, secret: u8, mesh: u8) -> LocalTransport {
        LocalTransport::open(config(home, secret, mesh)).await.unwrap()
    }

    /// The socket of the only node that listens there.
    pub(crate) fn only_socket(home: &Path) -> PathBuf {
        let names = std::fs::read_dir(home.join("d")).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.file_name().unwrap() != "lock").unwrap()
    }
}

/// Says why a test checks nothing on this machine. What is printed is not seen of a test that passes.
pub(crate) fn say(what: &str) {
    writeln!(std::io::stderr().lock(), "{what}").unwrap();
}

/// Whether this machine has IPv6, if only on loopback. Where it has not, it is said.
pub(crate) fn has_ip6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        say("skipped: this machine has no address ::1");
    }
    has
}

/// Limits that differ from the usual ones.
#[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
pub(crate) fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[cfg(feature = "libp2p")]
pub(crate) use datamesh_net::libp2p::Limits;
#[cfg(all(feature = "local", unix, not(feature = "libp2p")))]
pub(crate) use datamesh_net::local::Limits;

pub(crate) fn route<T: Transport>(node: &T) -> PeerRoute {
    PeerRoute { node: node.local_node(), addresses: node.listen_addresses() }
}

/// Tells all nodes where the others are.
pub(crate) fn introduce<T: Transport>(nodes: Vec<T>) -> Vec<T> {
    for node in &nodes {
        let others = nodes.iter().filter(|other| other.local_node() != node.local_node());
        node.set_peers(others.map(route).collect());
    }
    nodes
}

/// Waits for an event that satisfies `wanted`.
pub(crate) async fn event<T: Transport>(
    node: &T,
    wanted: impl Fn(&TransportEvent) -> bool,
) -> TransportEvent {
    loop {
        let event = node.next_event().await.expect("the transport is closed");
        if wanted(&event) {
            return event;
        }
    }
}

/// Reads a socket until the other end closes it: how many bytes it said.
pub(crate) fn told_until_closed(mut socket: impl Read) -> usize {
    let mut told = Vec::new();
    if let Err(error) = socket.read_to_end(&mut told) {
        // What this end said was not read to its end.
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    told.len()
}

pub(crate) async fn answer_one<T: Transport>(node: &T) {
    let inbound = node.accept().await.unwrap();
    inbound.reply.send(inbound.message);
}

/// Sends a shard there and back.
pub(crate) async fn echo<T: Transport>(from: &T, to: &T) {
    let message = Message { head: Bytes::from_static(b"hello"), body: Bytes::from(vec![9; 300_000]) };
    let call = from.call(to.local_node(), message.clone(), LIMIT);
    let (reply, ()) = futures::join!(call, answer_one(to));
    assert!(reply.unwrap() == message);
}

/// A peer closes while a call waits for it, which is told so; it cannot be called, and is found when it is back.
#[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
pub(crate) async fn vanishes_and_returns<T: Transport>(
    ours: &T,
    theirs: T,
    back: impl AsyncFnOnce() -> T,
) -> T {
    let id = theirs.local_node();
    ours.set_peers(vec![route(&theirs)]);
    echo(ours, &theirs).await;
    let closing = async {
        let held = theirs.accept().await.unwrap();
        theirs.close().await;
        held
    };
    let (lost, _held) = futures::join!(ours.call(id, Message::default(), LIMIT), closing);
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    drop(theirs);
    event(ours, |event| *event == TransportEvent::Disconnected(id)).await;
    let refused = ours.call(id, Message::default(), LIMIT).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    let again = back().await;
    event(ours, |event| *event == TransportEvent::Connected(id)).await;
    echo(ours, &again).await;
    again
}

/// Nodes that have every way to each other.
#[cfg(all(feature = "local", feature = "libp2p", unix))]
pub(crate) mod place {
    use std::sync::Arc;

    use datamesh_core::ports::Runtime;
    use datamesh_net::memory::MemoryNetwork;
    use datamesh_net::ways::Ways;
    use tempfile::TempDir;

    use super::super::TestRuntime;
    use super::*;

    /// The trait itself is not in scope, because its methods have the names of the port's.
    pub(crate) type Any = dyn datamesh_core::ports::DynTransport;

    /// Where nodes meet.
    pub(crate) struct Place {
        pub(crate) memory: MemoryNetwork,
        pub(crate) home: TempDir,
        pub(crate) runtime: Arc<dyn Runtime>,
    }

    impl Place {
        pub(crate) fn new() -> Self {
            let (memory, home) = (MemoryNetwork::new(), tempfile::tempdir().unwrap());
            Self { memory, home, runtime: TestRuntime::shared() }
        }

        /// A node that has all three ways, and the one that can be closed alone.
        pub(crate) async fn node(&self, secret: u8) -> (Ways, Arc<LocalTransport>) {
            let local = Arc::new(super::local::node(self.home.path(), secret, 7).await);
            let memory = self.memory.join(Transport::local_node(&*local), self.runtime.clone()).unwrap();
            let libp2p = super::libp2p::node(secret, 7, TCP).await;
            let ways: Vec<Arc<Any>> = vec![Arc::new(libp2p), local.clone(), Arc::new(memory)];
            (Ways::new(ways, self.runtime.clone()).unwrap(), local)
        }

        pub(crate) async fn nodes(&self, count: usize) -> Vec<Ways> {
            let mut nodes = Vec::new();
            for secret in 1..=count {
                nodes.push(self.node(secret as u8).await.0);
            }
            introduce(nodes)
        }

        pub(crate) async fn until(&self, holds: impl Fn() -> bool) {
            while !holds() {
                self.runtime.sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
