//! The limits of links: what a member that makes more of them than it needs gets.

use std::path::Path;
use std::time::Duration;

use datamesh_core::KeyRing;
use datamesh_core::format::MeshKey;
use datamesh_core::ports::Transport;
use futures::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::directory::name_of;
use super::proof::{Own, Purpose};
use super::socket::Socket;
use super::{Limits, LocalConfig, LocalTransport};

#[path = "../../tests/common/keys.rs"]
mod keys;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A link of the member with this secret, made by hand.
async fn link(home: &Path, secret: u8, to: &LocalTransport) -> Socket {
    let own = Own::new(
        keys::Keys::shared(secret),
        keys::Suite::shared(),
        KeyRing::of(MeshKey::from_bytes([7; 32])),
    );
    let socket = UnixStream::connect(home.join("d").join(name_of(to.local_node()))).await.unwrap();
    let mut socket = Socket::new(socket);
    own.dial(&mut socket, Purpose::Link, to.local_node()).await.unwrap();
    socket
}

/// Whether the other end closes a link within this time.
async fn is_closed(link: &mut Socket, within: Duration) -> bool {
    matches!(timeout(within, link.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}

/// Three links are kept, and a fourth when one of them is gone.
fn three_are_kept(change: impl Fn(&mut Limits), member: impl Fn(u8) -> u8) {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut limits = Limits::default();
        change(&mut limits);
        let config = LocalConfig::new(keys::Keys::shared(1), keys::Suite::shared(), [7; 32]).limits(limits);
        let ours = LocalTransport::open(config.directory(home.path().join("d"))).await.unwrap();
        let mut links = Vec::new();
        for number in 0..3 {
            links.push(link(home.path(), member(number), &ours).await);
        }
        let mut more = link(home.path(), member(3), &ours).await;
        assert!(is_closed(&mut more, LONG).await, "one over the limit");
        for link in &mut links {
            assert!(!is_closed(link, SHORT).await, "up to the limit");
        }
        links.pop();
        let again = async { while is_closed(&mut link(home.path(), member(3), &ours).await, SHORT).await {} };
        timeout(LONG, again).await.unwrap();
        ours.close().await;
    });
}

#[test]
fn links_of_one_peer() {
    three_are_kept(|limits| limits.connections_per_peer = 3, |_| 2);
}

#[test]
fn links_of_all_peers() {
    three_are_kept(|limits| limits.inbound_connections = 3, |number| 2 + number);
}

/// A limit of none is kept, too, and nobody counts as connected.
#[test]
fn no_links_at_all() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let limits = Limits { connections_per_peer: 0, ..Limits::default() };
        let config = LocalConfig::new(keys::Keys::shared(1), keys::Suite::shared(), [7; 32]).limits(limits);
        let ours = LocalTransport::open(config.directory(home.path().join("d"))).await.unwrap();
        let mut refused = link(home.path(), 2, &ours).await;
        assert!(is_closed(&mut refused, LONG).await);
        assert!(ours.connected().is_empty());
    });
}
