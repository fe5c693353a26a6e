//! How nodes are found and reached beside the addresses that they were given.
#![cfg(feature = "libp2p")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

#[cfg(feature = "kad")]
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
#[cfg(any(feature = "kad", feature = "nat"))]
use std::net::{Shutdown, TcpListener, TcpStream};

#[cfg(feature = "quic")]
use common::nodes::QUIC;
#[cfg(any(feature = "kad", feature = "nat"))]
use common::nodes::event;
use common::nodes::{LIMIT, TCP, echo, has_ip6, say};
use common::run;
#[cfg(any(feature = "kad", feature = "nat"))]
use datamesh_core::ports::TransportEvent;
use datamesh_core::ports::{Address, PeerRoute, Reach, Transport};
use datamesh_core::{ErrorKind, Result};
use datamesh_net::libp2p::{Discovery, Libp2pConfig, Libp2pTransport};

async fn node(secret: u8, mesh: u8, listen: &[&str], discovery: Discovery) -> Libp2pTransport {
    open(secret, mesh, listen, discovery).await.unwrap()
}

async fn open(secret: u8, mesh: u8, listen: &[&str], discovery: Discovery) -> Result<Libp2pTransport> {
    let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
    let config = Libp2pConfig::new([secret; 32], [mesh; 32]).listen(listen).discovery(discovery);
    Libp2pTransport::open(config).await
}

/// A node with NAT traversal that listens at three ports of 127.0.0.2. Nobody listens at the last of them on 127.0.0.1,
/// and these at the others.
#[cfg(feature = "nat")]
async fn beside(secret: u8, mesh: u8) -> (Libp2pTransport, [TcpListener; 2], [u16; 3]) {
    loop {
        let all = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = all.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let listen = ports.map(|port| format!("/ip4/127.0.0.2/tcp/{port}"));
        let [forwarded, foreign, _] = all;
        match open(secret, mesh, &listen.each_ref().map(String::as_str), Discovery::new().nat()).await {
            Ok(node) => return (node, [forwarded, foreign], ports),
            // Another program has the port on all addresses, or on this one.
            Err(error) => assert!(format!("{error:?}").contains("in use"), "{error:?}"),
        }
    }
}

/// A node that is dialled by a name, and again where only its name is known, however it is reached.
async fn looks_up(name: &str, listen: &str) {
    let (ours, theirs) =
        (node(1, 7, &[], Discovery::new()).await, node(2, 7, &[listen], Discovery::new()).await);
    let listening = theirs.listen_addresses().remove(0);
    let behind = listening.as_str().splitn(4, '/').nth(3).unwrap();
    let address: Address = format!("/{name}/{behind}").parse().unwrap();
    assert_eq!(ours.connect(address.clone(), LIMIT).await.unwrap(), theirs.local_node(), "{address}");
    echo(&ours, &theirs).await;
    let third = node(3, 7, &[], Discovery::new()).await;
    third.set_peers(vec![PeerRoute { node: theirs.local_node(), addresses: vec![address] }]);
    echo(&third, &theirs).await;
    assert_eq!(third.reach(theirs.local_node()), ours.reach(theirs.local_node()));
    let nowhere: Address = format!("/dns4/nowhere.invalid/{behind}").parse().unwrap();
    let error = ours.connect(nowhere, LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[test]
fn names_are_looked_up() {
    run(looks_up("dns4/localhost", TCP));
}

#[cfg(feature = "quic")]
#[test]
fn names_are_looked_up_over_quic() {
    run(looks_up("dns4/localhost", QUIC));
}

/// A name that stands for `::1`, where the machine has any.
fn ip6_name() -> Option<&'static str> {
    let is_one = |name: &&str| {
        let found = (*name, 0).to_socket_addrs();
        found.is_ok_and(|mut found| {
            found.any(|address| address.ip() == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))
        })
    };
    let found = ["localhost", "ip6-localhost", "localhost6"].into_iter().find(is_one).filter(|_| has_ip6());
    if found.is_none() {
        say("skipped: no name on this machine stands for ::1");
    }
    found
}

#[test]
fn names_with_ipv6_are_looked_up() {
    let Some(name) = ip6_name() else { return };
    run(looks_up(&format!("dns6/{name}"), "/ip6/::1/tcp/0"));
}

#[cfg(feature = "quic")]
#[test]
fn names_with_ipv6_are_looked_up_over_quic() {
    let Some(name) = ip6_name() else { return };
    run(looks_up(&format!("dns6/{name}"), "/ip6/::1/udp/0/quic-v1"));
}

/// A node that listens on both kinds of IP is reached at either.
async fn serves_both_kinds_of_ip(listen: [&str; 2], reach: Reach) {
    let theirs = node(1, 7, &listen, Discovery::new()).await;
    let addresses = theirs.listen_addresses();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for (number, address) in addresses.into_iter().enumerate() {
        let ours = node(number as u8 + 2, 7, &[], Discovery::new()).await;
        assert_eq!(ours.connect(address, LIMIT).await.unwrap(), theirs.local_node());
        assert_eq!(ours.reach(theirs.local_node()), Some(reach));
        echo(&ours, &theirs).await;
    }
}

#[test]
fn both_kinds_of_ip_are_served_at_once() {
    if has_ip6() {
        run(serves_both_kinds_of_ip([TCP, "/ip6/::1/tcp/0"], Reach::Tcp));
    }
}

#[cfg(feature = "quic")]
#[test]
fn both_kinds_of_ip_are_served_at_once_over_quic() {
    if has_ip6() {
        run(serves_both_kinds_of_ip([QUIC, "/ip6/::1/udp/0/quic-v1"], Reach::Quic));
    }
}

#[cfg(feature = "quic")]
#[test]
fn how_a_peer_is_reached_is_told() {
    run(async {
        let theirs = node(1, 7, &[QUIC], Discovery::new()).await;
        let ours = node(2, 7, &[], Discovery::new()).await;
        assert_eq!(ours.reach(theirs.local_node()), None);
        ours.connect(theirs.listen_addresses().remove(0), LIMIT).await.unwrap();
        assert_eq!(ours.reach(theirs.local_node()), Some(Reach::Quic));
    });
}

/// The address of this machine from which it reaches others, if it has one beside loopback. No packet is sent.
fn own_ip() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

/// A node that listens on loopback and on a network tells of the network alone, whichever it began with.
#[test]
fn only_the_widest_addresses_are_told() {
    let Some(ip) = own_ip() else {
        return say("skipped: this machine has no address beside loopback");
    };
    run(async {
        let network = format!("/ip4/{ip}/tcp/0");
        let alone = node(1, 7, &[TCP], Discovery::new()).await;
        assert!(alone.listen_addresses()[0].as_str().starts_with("/ip4/127.0.0.1/"));
        for listen in [[TCP, &network], [&network, TCP]] {
            let ours = node(2, 7, &listen, Discovery::new()).await;
            let told = ours.listen_addresses();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].as_str().starts_with(&format!("/ip4/{ip}/tcp/")), "{told:?}");
        }
    });
}

/// A node behind a proxy on its own machine: nobody is told of the port behind it.
#[test]
fn what_is_announced_takes_the_place_of_what_is_listened_on() {
    run(async {
        let proxy: Address = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let discovery = Discovery::new().announce(vec![proxy.clone()]);
        let ours = node(1, 7, &[TCP], discovery).await;
        assert_eq!(ours.listen_addresses(), [proxy]);
    });
}

#[cfg(feature = "kad")]
#[test]
fn members_are_found_by_their_names() {
    use datamesh_net::libp2p::address_of;
    run(async {
        let all = Discovery::new().kademlia();
        let known = node(1, 7, &[TCP], all.clone().bootstrap()).await;
        let (ours, theirs) = (node(2, 7, &[TCP], all.clone()).await, node(3, 7, &[TCP], all).await);
        for other in [&ours, &theirs] {
            other.connect(known.listen_addresses().remove(0), LIMIT).await.unwrap();
            event(&known, |event| *event == TransportEvent::Connected(other.local_node())).await;
        }
        let name = address_of(&theirs.local_node()).unwrap();
        // What members tell each other of themselves may still be on its way.
        let found = loop {
            match ours.connect(name.clone(), LIMIT).await {
                Ok(found) => break found,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
            }
        };
        assert_eq!(found, theirs.local_node());
        echo(&ours, &theirs).await;
        let nobody = address_of(&node(4, 8, &[], Discovery::new()).await.local_node()).unwrap();
        assert_eq!(ours.connect(nobody, LIMIT).await.unwrap_err().kind(), ErrorKind::Unavailable);
    });
}

/// Lookups of as many names as may be looked up at a time wait for a member that says nothing; one more is refused at
/// once, and finds a place when they have ended.
#[cfg(feature = "kad")]
#[test]
fn names_are_looked_up_so_many_at_a_time() {
    use datamesh_net::libp2p::address_of;
    use futures::FutureExt;
    use futures::future::join_all;
    const MOST: usize = 32;
    let id_of = |secret| {
        let key = ed25519_dalek::SigningKey::from_bytes(&[secret; 32]);
        datamesh_core::id::NodeId::from_bytes(key.verifying_key().to_bytes())
    };
    run(async {
        let all = Discovery::new().kademlia();
        let (ours, theirs) = (node(1, 7, &[], all.clone()).await, node(2, 7, &[TCP], all.clone()).await);
        let third = node(3, 7, &[TCP], all).await;
        third.connect(theirs.listen_addresses().remove(0), LIMIT).await.unwrap();
        let (front, line) = Line::to(theirs.listen_addresses().remove(0));
        ours.connect(front, LIMIT).await.unwrap();
        // Then the table knows the member that is asked.
        while ours.connect(address_of(&third.local_node()).unwrap(), LIMIT).await.is_err() {}
        let names: Vec<Address> = (10..).take(MOST + 1).map(|n| address_of(&id_of(n)).unwrap()).collect();
        line.hold(true);
        let mut under_way = join_all(names[..MOST].iter().map(|name| ours.connect(name.clone(), LIMIT)));
        assert!((&mut under_way).now_or_never().is_none());
        let refused = ours.connect(names[MOST].clone(), LIMIT).await.unwrap_err();
        assert!(refused.to_string().contains("too many"), "{refused}");
        assert!((&mut under_way).now_or_never().is_none(), "none of them was refused");
        // Who asks for one of them waits with those who asked before.
        let mut again = Box::pin(ours.connect(names[0].clone(), LIMIT));
        assert!((&mut again).now_or_never().is_none());
        line.hold(false);
        for ended in
            under_way.await.into_iter().chain([again.await, ours.connect(names[MOST].clone(), LIMIT).await])
        {
            let error = ended.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("no member that answers"), "{error}");
        }
    });
}

/// A line to a node, which takes what comes and passes it on when nobody holds it.
#[cfg(feature = "kad")]
#[derive(Clone, Default)]
struct Line(std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>);

#[cfg(feature = "kad")]
impl Line {
    /// A line for one connection, and where it begins.
    fn to(address: Address) -> (Address, Self) {
        let port: u16 = address.as_str().split('/').nth(4).unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
        let line = Self::default();
        let pumps = line.clone();
        std::thread::spawn(move || {
            let (outside, _) = listener.accept().unwrap();
            let inside = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (back, back_from, back_to) =
                (pumps.clone(), inside.try_clone().unwrap(), outside.try_clone().unwrap());
            std::thread::spawn(move || back.pump(back_from, back_to));
            pumps.pump(outside, inside);
        });
        (front.parse().unwrap(), line)
    }

    fn hold(&self, is_held: bool) {
        *self.0.0.lock().unwrap() = is_held;
        self.0.1.notify_all();
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |is_held| *is_held).unwrap());
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // However it ends, both ways end.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// Who is revoked is cut off, gets no connection again, and hears of nobody: neither from members' table of addresses
/// nor from what they say of themselves.
#[cfg(feature = "kad")]
#[test]
fn who_is_revoked_finds_nobody() {
    use datamesh_net::libp2p::address_of;
    run(async {
        let all = Discovery::new().kademlia();
        let known = node(1, 7, &[TCP], all.clone().bootstrap()).await;
        let ours = node(2, 7, &[TCP], all.clone()).await;
        let theirs = node(3, 7, &[TCP], all.clone()).await;
        let revoked = theirs.local_node();
        for other in [&ours, &theirs] {
            other.connect(known.listen_addresses().remove(0), LIMIT).await.unwrap();
            event(&known, |event| *event == TransportEvent::Connected(other.local_node())).await;
        }
        let find = async |from: &Libp2pTransport, who: &Libp2pTransport| {
            from.connect(address_of(&who.local_node()).unwrap(), LIMIT).await
        };
        // Until then it is a member as any other.
        while find(&ours, &theirs).await.is_err() {}
        echo(&ours, &theirs).await;
        for node in [&known, &ours] {
            node.refuse(vec![revoked]);
            event(node, |event| *event == TransportEvent::Disconnected(revoked)).await;
            event(&theirs, |event| *event == TransportEvent::Disconnected(node.local_node())).await;
        }
        let late = node(4, 7, &[TCP], all).await;
        late.connect(known.listen_addresses().remove(0), LIMIT).await.unwrap();
        while find(&ours, &late).await.is_err() {}

        for node in [&known, &ours] {
            assert!(theirs.connect(node.listen_addresses().remove(0), LIMIT).await.is_err());
            let error = node.connect(theirs.listen_addresses().remove(0), LIMIT).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error:?}");
            assert!(find(node, &theirs).await.is_err());
        }
        assert!(find(&theirs, &late).await.is_err(), "it has learned of a member");
        assert!(theirs.connected().is_empty(), "{:?}", theirs.connected());
        // Members tell nobody any more where it is.
        assert!(find(&late, &theirs).await.is_err(), "it is found");
    });
}

/// A member that was away and is back under another address, which this node has not heard: another member has.
#[cfg(feature = "kad")]
#[test]
fn who_has_moved_is_looked_up_and_reached() {
    run(async {
        let all = Discovery::new().kademlia();
        let known = node(1, 7, &[TCP], all.clone().bootstrap()).await;
        // It does not listen, so that nobody dials it.
        let ours = node(2, 7, &[], all.clone()).await;
        let theirs = node(3, 7, &[TCP], all.clone()).await;
        let (id, old) = (theirs.local_node(), theirs.listen_addresses());
        for other in [&ours, &theirs] {
            other.connect(known.listen_addresses().remove(0), LIMIT).await.unwrap();
            event(&known, |event| *event == TransportEvent::Connected(other.local_node())).await;
        }
        ours.set_peers(vec![PeerRoute { node: id, addresses: old.clone() }]);
        echo(&ours, &theirs).await;
        theirs.close().await;
        event(&ours, |event| *event == TransportEvent::Disconnected(id)).await;
        let moved = node(3, 7, &[TCP], all).await;
        assert_ne!(moved.listen_addresses(), old);
        moved.connect(known.listen_addresses().remove(0), LIMIT).await.unwrap();
        event(&ours, |event| *event == TransportEvent::Connected(id)).await;
        echo(&ours, &moved).await;
    });
}

/// A port that is forwarded to a node, as a router would do it: others are told of it when a member has reached the
/// node there. Of those where somebody else answers, or nobody, they are not.
#[cfg(all(feature = "nat", target_os = "linux"))]
#[test]
fn an_address_counts_when_a_member_has_reached_it() {
    use std::collections::BTreeSet;
    fn pass_on(mut from: TcpStream, mut to: TcpStream) {
        // However it ends, both ways end.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
    run(async {
        // The node listens on 127.0.0.2. Members see it come from 127.0.0.1, so that it may be reached there, too.
        let (ours, [forwarded, foreign], ports) = beside(1, 7).await;
        let theirs = node(2, 7, &[TCP], Discovery::new().nat()).await;
        let router = std::thread::spawn(move || {
            // First somebody else answers, so that all of that is over when the node is reached.
            drop(foreign.accept().unwrap());
            let (outside, _) = forwarded.accept().unwrap();
            let inside = TcpStream::connect(("127.0.0.2", ports[0])).unwrap();
            let (back_from, back_to) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
            let back = std::thread::spawn(move || pass_on(back_from, back_to));
            pass_on(outside, inside);
            back.join().unwrap();
        });
        ours.connect(theirs.listen_addresses().remove(0), LIMIT).await.unwrap();
        let reached: Address = format!("/ip4/127.0.0.1/tcp/{}", ports[0]).parse().unwrap();
        event(&ours, |event| matches!(event, TransportEvent::Listening(told) if told.contains(&reached)))
            .await;
        let listening = ports.map(|port| format!("/ip4/127.0.0.2/tcp/{port}").parse().unwrap());
        let known = listening.into_iter().chain([reached]);
        let told = BTreeSet::from_iter(ours.listen_addresses());
        assert_eq!(told, known.collect());
        // The connection that was made to look is closed, and the other one stays.
        router.join().unwrap();
        echo(&ours, &theirs).await;
    });
}
