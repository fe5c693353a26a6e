//! Node ids as peer ids, addresses as multiaddrs.

use std::io;
use std::net::{IpAddr, SocketAddr};

use datamesh_core::id::NodeId;
use datamesh_core::ports::Address;
use datamesh_core::{Error, ErrorKind, Result};
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Socket, Type};

/// What stands before the key in the peer id of an Ed25519 key: an identity multihash of 36 bytes, which
/// are a protobuf of key type 1 and 32 bytes of key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The peer id of a node, or `None` when its name is no Ed25519 public key.
pub(super) fn peer_of(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of a peer id, or `None` when its key is not Ed25519.
pub(super) fn node_of(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(PEER_ID_PREFIX.as_slice())?;
    Some(NodeId::from_bytes(key.try_into().ok()?))
}

/// The address that leads to a member by its name, without saying where it is: it is looked up among the members, where
/// they take part in the mesh's table of addresses. `None` for a name that is no Ed25519 public key.
#[cfg(feature = "kad")]
pub fn address_of(node: &NodeId) -> Option<Address> {
    format!("/p2p/{}", peer_of(node)?).parse().ok()
}

/// Refuses an address of a form that this transport neither dials nor listens on.
///
/// # Errors
/// `InvalidInput`, with what may stand there.
pub fn check_address(address: &Address) -> Result<()> {
    parse(address).map(drop)
}

/// An address of a form that this transport can dial, and the peer it names if any.
pub(super) fn parse(address: &Address) -> Result<(Multiaddr, Option<PeerId>)> {
    let unreadable = |message: &str| Error::new(ErrorKind::InvalidInput, message).with_subject(address);
    let mut parsed: Multiaddr = address.as_str().parse().map_err(|error: libp2p::multiaddr::Error| {
        unreadable("not a multiaddr; write for instance /ip4/192.0.2.1/tcp/4001").with_source(error)
    })?;
    let peer = match parsed.iter().last() {
        Some(Protocol::P2p(peer)) => {
            parsed.pop();
            Some(peer)
        }
        _ => None,
    };
    let is_name = parsed.is_empty() && peer.is_some() && cfg!(feature = "kad");
    if !is_name && !is_dialable(&parsed) {
        let forms = if cfg!(feature = "quic") { "tcp/<port> or udp/<port>/quic-v1" } else { "tcp/<port>" };
        return Err(unreadable(&format!(
            "this transport takes /ip4/<ip>, /ip6/<ip> or /dns/<name>, and then {forms}"
        )));
    }
    Ok((parsed, peer))
}

/// Whether this transport dials addresses of this form; one without anything leads to a member that is looked up by
/// its name.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    let parts: Vec<_> = address.iter().collect();
    let [host, rest @ ..] = parts.as_slice() else { return false };
    let is_host = matches!(
        host,
        Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)
    );
    let rest = match rest {
        [rest @ .., Protocol::P2p(_), Protocol::P2pCircuit] if cfg!(feature = "nat") => rest,
        rest => rest,
    };
    let tcp = matches!(rest, [Protocol::Tcp(_)]);
    let quic = matches!(rest, [Protocol::Udp(_), Protocol::QuicV1]);
    is_host && (tcp || (quic && cfg!(feature = "quic")))
}

/// Whether a TCP port is free: the listener shares its port, so that a second one would take half of the
/// first one's connections instead of failing.
pub(super) fn probe(address: &Multiaddr) -> io::Result<()> {
    let parts: Vec<_> = address.iter().collect();
    let ip: IpAddr = match parts.first() {
        Some(Protocol::Ip4(ip)) => (*ip).into(),
        Some(Protocol::Ip6(ip)) => (*ip).into(),
        _ => return Ok(()),
    };
    match parts.get(1) {
        Some(Protocol::Tcp(port)) if *port != 0 => probe_tcp(SocketAddr::new(ip, *port)),
        _ => Ok(()),
    }
}

/// Listens for a moment as the transport will: with IPv6 for nothing else, or `::` would meet this node's own listener of
/// IPv4 at the same port.
fn probe_tcp(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Elsewhere it would take a port that is in use.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_taken_for_one_family_only() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = |ip: &str| probe(&format!("{ip}/tcp/{port}").parse().unwrap());
        assert_eq!(probe("/ip4/0.0.0.0").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(probe("/ip4/127.0.0.1").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // Where there is no IPv6, that is another error.
        if TcpListener::bind("[::]:0").is_ok() {
            probe("/ip6/::").unwrap();
        }
        drop(listener);
        probe("/ip4/0.0.0.0").unwrap();
    }

    #[test]
    fn node_ids_are_peer_ids() {
        let keys = libp2p::identity::Keypair::generate_ed25519();
        let peer = keys.public().to_peer_id();
        let node = node_of(&peer).unwrap();
        let key = keys.public().try_into_ed25519().unwrap();
        assert_eq!(node.as_bytes(), &key.to_bytes());
        assert_eq!(peer_of(&node), Some(peer));
        assert_eq!(node_of(&PeerId::random()), None);
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_refused() {
        let good = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/dns/example.org/tcp/1", "/dns6/a.b/tcp/1"];
        let bad =
            ["/dnsaddr/example.org/tcp/1", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/70000", "/memory/1", "x"];
        for text in good {
            assert!(parse(&text.parse().unwrap()).is_ok(), "{text}");
        }
        for text in bad {
            let error = parse(&text.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
