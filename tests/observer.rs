//! What somebody sees who watches the wire between two nodes, and what not.
#![cfg(feature = "libp2p")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use common::{PATIENCE, noise, run};
use datamesh::{Builder, Mesh, Ticket, TransportPreference};

/// Nobody writes these by chance, nor does a cipher.
const PLAINTEXT: &[u8] = b"canary-in-plaintext-5b1c";
const NAME: &str = "canary-in-a-name-8d22";
const VALUE: &str = "canary-in-a-value-c70e";
const ZONES: [&str; 2] = ["canary-in-a-zone-19f4", "canary-in-a-zone-7ae0"];

/// What is said over TCP before all is encrypted: libp2p's own name, and that of the handshake.
const OPENING: &[u8] = b"\x13/multistream/1.0.0\n\x0f/noise/private\n";

/// Random bytes do not have so many letters, digits and signs in a row.
const LEGIBLE: usize = 32;

/// The bytes of each direction of each connection, or of all packets of a direction.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

impl Wire {
    /// A place for the bytes of another direction.
    fn direction(&self) -> usize {
        let mut all = self.0.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    }

    fn saw(&self, direction: usize, bytes: &[u8]) {
        self.0.lock().unwrap()[direction].extend_from_slice(bytes);
    }

    fn all(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }
}

/// A port that leads to a node's, over TCP, and is watched. Its threads end with the test.
fn watched_tcp(to: u16, wire: &Wire) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (port, wire) = (listener.local_addr().unwrap().port(), wire.clone());
    thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let (wire, direction) = (wire.clone(), wire.direction());
                thread::spawn(move || pass_on(from, to, |bytes| wire.saw(direction, bytes)));
            }
        }
    });
    port
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, saw: impl Fn(&[u8])) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        saw(&bytes[..len]);
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    // However it ends, both ways end.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The same for one node that asks over UDP.
fn watched_udp(to: u16, wire: &Wire) -> u16 {
    let [near, far] = [0; 2].map(|_| UdpSocket::bind(("127.0.0.1", 0)).unwrap());
    far.connect(("127.0.0.1", to)).unwrap();
    let port = near.local_addr().unwrap().port();
    let asks: Arc<OnceLock<SocketAddr>> = Arc::default();
    let there = {
        let (near, far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let (asks, wire, direction) = (asks.clone(), wire.clone(), wire.direction());
        move || {
            let mut packet = vec![0; 64 << 10];
            while let Ok((len, from)) = near.recv_from(&mut packet) {
                asks.get_or_init(|| from);
                wire.saw(direction, &packet[..len]);
                // What is not taken is lost, as on any link.
                let _ = far.send(&packet[..len]);
            }
        }
    };
    let (wire, direction) = (wire.clone(), wire.direction());
    let back = move || {
        let mut packet = vec![0; 64 << 10];
        while let (Ok(len), Some(to)) = (far.recv(&mut packet), asks.get()) {
            wire.saw(direction, &packet[..len]);
            let _ = near.send_to(&packet[..len], to);
        }
    };
    thread::spawn(there);
    thread::spawn(back);
    port
}

fn node(zone: &str) -> Builder {
    let preference = TransportPreference::NetworkOnly;
    datamesh::builder().transport_preference(preference).zone(zone).capacity(1 << 40)
}

/// Everything that nobody on the wire may see, and what each is.
fn secrets(meshes: &[Mesh; 2], ticket: &Ticket) -> Vec<(&'static str, Vec<u8>)> {
    let key = ticket.mesh_key().unwrap();
    let name = key.network_name();
    let mut secrets = vec![
        ("the mesh key", key.as_bytes().to_vec()),
        ("the name of the mesh", name.to_vec()),
        ("the name of the mesh", blake3::Hash::from_bytes(name).to_hex().as_bytes().to_vec()),
        ("contents", PLAINTEXT.to_vec()),
        ("metadata", NAME.into()),
        ("metadata", VALUE.into()),
    ];
    secrets.extend(ZONES.map(|zone| ("a zone", zone.into())));
    for mesh in meshes {
        secrets.push(("a node's id", mesh.node_id().as_bytes().to_vec()));
        secrets.push(("a node's id", mesh.node_id().to_string().into()));
    }
    secrets
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Whether somebody could read something there.
fn is_legible(bytes: &[u8]) -> bool {
    let mut runs = bytes.split(|byte| !(b' '..=b'~').contains(byte));
    runs.any(|run| run.len() >= LEGIBLE)
}

/// Two nodes hold an object between them; what passed from the one to the other, each direction for itself.
fn what_passes(listen: &str, watched: fn(u16, &Wire) -> u16) -> Vec<Vec<u8>> {
    run(async {
        let wire = Wire::default();
        let first = node(ZONES[0]).listen(listen).open().await.unwrap();
        let mut ticket = first.ticket().unwrap();
        let address = ticket.addresses.remove(0);
        let port = address.as_str().split('/').nth(4).unwrap();
        let there = address.as_str().replacen(port, &watched(port.parse().unwrap(), &wire).to_string(), 1);
        ticket.addresses = vec![there.parse().unwrap()];
        // It does not listen, so that nobody dials it by another way.
        let second = node(ZONES[1]).join(ticket.clone()).open().await.unwrap();
        let meshes = [first, second];
        for mesh in &meshes {
            mesh.wait_for_nodes(2, PATIENCE).await.unwrap();
        }
        let content: Vec<u8> = PLAINTEXT.iter().copied().cycle().take(300_000).collect();
        let receipt = meshes[1].put(content.clone()).metadata(NAME, VALUE).await.unwrap();
        assert_eq!(receipt.holders.len(), 2);
        assert_eq!(meshes[0].get(&receipt.capability).await.unwrap(), content);
        let mut secrets = secrets(&meshes, &ticket);
        secrets.push(("an object's id", receipt.object.as_bytes().to_vec()));
        secrets.push(("a capability", receipt.capability.to_bytes().to_vec()));
        let seen = wire.all();
        let carried: usize = seen.iter().map(Vec::len).sum();
        assert!(carried > 150_000, "it went by another way: {carried} bytes");
        for (what, secret) in &secrets {
            assert!(!seen.iter().any(|bytes| has(bytes, secret)), "{what} is seen");
        }
        for mesh in &meshes {
            mesh.shutdown().await.unwrap();
        }
        seen
    })
}

#[test]
fn who_watches_tcp_sees_the_name_of_the_handshake_and_no_other() {
    for bytes in what_passes("/ip4/127.0.0.1/tcp/0", watched_tcp) {
        let rest = bytes.strip_prefix(OPENING).expect("something else is said first");
        assert!(!is_legible(rest));
        // Nothing but messages of the handshake and ciphertext, each after its length, the last one maybe cut.
        let mut rest = rest;
        while let Some((len, after)) = rest.split_first_chunk() {
            let len = usize::from(u16::from_be_bytes(*len));
            assert!(len >= 16, "no ciphertext is so short");
            rest = after.get(len..).unwrap_or_default();
        }
    }
}

#[cfg(feature = "quic")]
#[test]
fn who_watches_quic_reads_nothing() {
    for bytes in what_passes("/ip4/127.0.0.1/udp/0/quic-v1", watched_udp) {
        assert!(!is_legible(&bytes));
    }
}

#[test]
fn what_looks_for_secrets_finds_them() {
    let (nothing, seen) =
        (noise(1 << 20, 1), [&noise(99, 2)[..], PLAINTEXT, PLAINTEXT, &noise(99, 3)].concat());
    assert!(has(&seen, PLAINTEXT) && !has(&nothing, PLAINTEXT));
    assert!(is_legible(&seen) && !is_legible(&nothing));
}
