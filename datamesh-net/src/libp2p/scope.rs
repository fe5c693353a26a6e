//! From where an address can be reached, and which of a node's own addresses others are told.
//!
//! A stranger is whoever is on another network: to him a private address leads elsewhere, and tells how the network
//! here is laid out. What a node says of itself reaches every member, so it names the addresses of the widest scope
//! that it has and no others: public ones and those at a relay, or else private ones, or else loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// From where an address can be reached, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// This machine.
    Machine,
    /// The local network.
    Network,
    /// Everywhere, by way of a relay or directly.
    World,
}

/// The scope of an address; a relayed one has that of its relay.
pub(super) fn scope(address: &Multiaddr) -> Scope {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => scope_of_ip(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => scope_of_ip(IpAddr::V6(ip)),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => scope_of_name(&name),
        _ => Scope::Machine,
    }
}

fn scope_of_name(name: &str) -> Scope {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        Scope::Machine
    } else if name.ends_with(".local") || !name.contains('.') {
        Scope::Network
    } else {
        Scope::World
    }
}

pub(super) fn scope_of_ip(ip: IpAddr) -> Scope {
    match ip.to_canonical() {
        ip if ip.is_loopback() || ip.is_unspecified() => Scope::Machine,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || is_carriers(ip) => Scope::Network,
        IpAddr::V6(ip) if ip.is_unique_local() || is_link_local(ip) => Scope::Network,
        _ => Scope::World,
    }
}

/// Addresses between a carrier's NAT and its customers (RFC 6598).
fn is_carriers(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0xc0 == 64
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80)
}

fn is_self_given(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip4(ip)) if ip.is_link_local())
}

/// Whether an address is of the networks that containers are given: a machine may have many of them, and others reach
/// it by none.
fn is_of_containers(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip4(ip)) if matches!(ip.octets(), [172, 16..32, ..]))
}

pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether an address leads nowhere without the name of an interface, which no address can hold: those that IPv6 makes
/// for each link. Every interface has one, also where it comes and goes with a container.
pub(super) fn lacks_zone(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip6(ip)) if is_link_local(ip))
}

/// Those of a node's own addresses that others are told: all of the widest scope that lead anywhere, direct ones first
/// and last what is likely of containers, and what a machine without a DHCP server gave itself. The mesh takes no more
/// than so many of them, so the same addresses are told in the same order, whichever interface came first.
pub(super) fn announced(own: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let mut own: Vec<_> = own.into_iter().filter(|address| !lacks_zone(address)).collect();
    let widest = own.iter().map(scope).max();
    own.retain(|address| Some(scope(address)) == widest);
    let mut seen = std::collections::BTreeSet::new();
    own.retain(|address| seen.insert(address.to_vec()));
    own.sort_by_cached_key(|address| {
        (is_relayed(address), is_self_given(address), is_of_containers(address), address.to_vec())
    });
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(own: &[&str]) -> Vec<String> {
        announced(own.iter().map(|text| text.parse().unwrap())).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_scope_of_an_address() {
        let table = [
            ("/ip4/127.0.0.1/tcp/1", Scope::Machine),
            ("/ip6/::1/tcp/1", Scope::Machine),
            ("/ip6/::ffff:127.0.0.1/tcp/1", Scope::Machine),
            ("/dns/localhost/tcp/1", Scope::Machine),
            ("/ip4/10.1.2.3/tcp/1", Scope::Network),
            ("/ip4/192.168.1.2/udp/1/quic-v1", Scope::Network),
            ("/ip4/172.31.255.1/tcp/1", Scope::Network),
            ("/ip4/169.254.1.1/tcp/1", Scope::Network),
            ("/ip4/100.64.0.1/tcp/1", Scope::Network),
            ("/ip6/fe80::1/tcp/1", Scope::Network),
            ("/ip6/fd00::1/tcp/1", Scope::Network),
            ("/dns4/printer.local/tcp/1", Scope::Network),
            ("/dns4/nas/tcp/1", Scope::Network),
            ("/ip4/172.32.0.1/tcp/1", Scope::World),
            ("/ip4/100.128.0.1/tcp/1", Scope::World),
            ("/ip4/203.0.113.7/tcp/1", Scope::World),
            ("/ip6/2001:db8::1/tcp/1", Scope::World),
            ("/dns/example.org/tcp/1", Scope::World),
        ];
        for (text, expected) in table {
            assert_eq!(scope(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn strangers_are_not_told_of_the_local_network() {
        let (loopback, local, public) =
            ("/ip4/127.0.0.1/tcp/1", "/ip4/192.168.0.2/tcp/1", "/ip4/203.0.113.7/tcp/1");
        let relay =
            "/ip4/203.0.113.9/tcp/1/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5/p2p-circuit";
        assert_eq!(told(&[loopback, local, relay, public]), [public, relay]);
        assert_eq!(told(&[loopback, local, relay]), [relay]);
        assert_eq!(told(&[loopback, local, local]), [local]);
        assert_eq!(told(&[loopback]), [loopback]);
        assert!(told(&[]).is_empty());
    }

    #[test]
    fn addresses_that_need_a_zone_are_told_to_nobody() {
        let (loopback, local, link) = ("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip6/fe80::1/tcp/1");
        assert_eq!(told(&[link, local, "/ip6/febf::2/udp/1/quic-v1", loopback]), [local]);
        assert_eq!(told(&[link, loopback]), [loopback]);
        assert!(told(&[link]).is_empty());
        assert!(!lacks_zone(&local.parse().unwrap()) && !lacks_zone(&"/ip6/fec0::1/tcp/1".parse().unwrap()));
    }

    #[test]
    fn what_is_told_is_in_one_order_whichever_interface_came_first() {
        let ordered = [
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/192.168.0.2/tcp/1",
            "/ip4/192.168.0.2/udp/1/quic-v1",
            "/ip6/fd00::1/tcp/1",
            "/ip4/172.17.0.1/tcp/1",
            "/ip4/172.31.0.1/tcp/1",
            "/ip4/169.254.3.4/tcp/1",
        ];
        let mut other = ordered;
        other.reverse();
        assert_eq!(
            (told(&ordered), told(&other)),
            (ordered.map(str::to_owned).to_vec(), ordered.map(str::to_owned).to_vec())
        );
    }
}
