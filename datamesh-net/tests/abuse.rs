//! Floods: while they last, memory stays where it was and the peers that are connected are served.
#![cfg(all(feature = "local", feature = "libp2p", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::nodes::{LIMIT, TCP, echo, limits};
use common::run;
use datamesh_core::ports::Transport;
use datamesh_net::libp2p::Libp2pTransport;
use datamesh_net::local::LocalTransport;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// Connections that strangers open, and how many of them they hold at a time. On one machine those that find no place
/// wait in the listener's backlog, of which a system may take no more than 128.
const FLOOD: usize = 10_000;
const HELD: usize = 500;
const HELD_ON_THIS_MACHINE: usize = 128;

/// The places there are for handshakes.
const PLACES: usize = 64;

/// How many of them must come to be for it to be a flood: the system may refuse some itself.
const CONNECTED: usize = 9_000;

/// Whether the strangers come from another address than the members: elsewhere than on Linux this machine has one only.
const IS_ELSEWHERE: bool = cfg!(target_os = "linux");

/// What a flood may cost: 64 MiB.
const MOST: u64 = 64 << 20;

/// What a stranger says before it falls silent.
const SAID: [&[u8]; 4] =
    [b"", b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff", &[0xff; 64], &[1, 1, 0, 0, 7, 7]];

/// Memory that is resident, in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Strangers connect again and again, and say little; a friend is served meanwhile. They hold what they have in the end.
async fn flood<T: Transport, S: Write>(
    ours: &T,
    friend: &T,
    most: usize,
    connect: impl Fn() -> std::io::Result<S>,
) -> VecDeque<S> {
    let address = ours.listen_addresses().remove(0);
    friend.connect(address.clone(), LIMIT).await.unwrap();
    for _ in 0..20 {
        echo(friend, ours).await;
    }
    let before = resident();
    let (mut held, mut connected, mut peak) = (VecDeque::new(), 0, 0);
    for number in 1..=FLOOD {
        if let Ok(mut socket) = connect() {
            // It may have hung up already.
            let _ = socket.write_all(SAID[number % SAID.len()]);
            held.push_back(socket);
            connected += 1;
        }
        if held.len() > most {
            held.pop_front();
        }
        if number % 1000 == 0 {
            echo(friend, ours).await;
            echo(ours, friend).await;
            peak = resident().max(peak);
        }
    }
    assert!(connected > CONNECTED, "{connected} strangers");
    let grown = peak.saturating_sub(before);
    assert!(grown <= MOST, "{grown} bytes");
    assert_eq!(ours.connected(), [friend.local_node()]);
    held
}

/// A newcomer gets in, with so many tries.
async fn lets_in<T: Transport>(ours: &T, late: &T, tries: usize) {
    let address = ours.listen_addresses().remove(0);
    let mut answer = late.connect(address.clone(), LIMIT).await;
    for _ in 1..tries {
        if answer.is_ok() {
            break;
        }
        answer = late.connect(address.clone(), LIMIT).await;
    }
    assert_eq!(answer.unwrap(), ours.local_node());
}

/// A stranger who comes from another address than all members do, where the system has several.
fn stranger(port: u16) -> std::io::Result<TcpStream> {
    let stranger = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if IS_ELSEWHERE {
        bind(&stranger, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0))?;
    }
    connect(&stranger, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(stranger.into())
}

/// Whether the other end has closed a connection.
fn has_ended(mut stranger: &TcpStream) -> bool {
    stranger.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    loop {
        match stranger.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// Serves a friend until so many of the strangers' connections are open.
async fn until_open<T: Transport>(held: &VecDeque<TcpStream>, count: usize, ours: &T, friend: &T) {
    let open = || held.iter().filter(|stranger| !has_ended(stranger)).count();
    let begun = Instant::now();
    while open() != count {
        assert!(begun.elapsed() < LIMIT / 4, "{} strangers are connected, and not {count}", open());
        echo(friend, ours).await;
    }
}

#[test]
fn ten_thousand_half_open_connections_over_tcp() {
    use common::nodes::libp2p::{config, port};
    run(async {
        // None of the strangers leaves by itself before the newcomer is in.
        let long = limits(|limits| limits.handshake = LIMIT);
        let open = |secret: u8| Libp2pTransport::open(config(secret, 7, TCP).limits(long.clone()));
        let (ours, friend, late) = (open(1).await.unwrap(), open(2).await.unwrap(), open(3).await.unwrap());
        let port = port(&ours);
        let mut held = flood(&ours, &friend, HELD, || stranger(port)).await;
        if IS_ELSEWHERE {
            // They hold all the places that there are, and make room for who comes from elsewhere.
            held.extend((0..HELD).map(|_| stranger(port).unwrap()));
            until_open(&held, PLACES, &ours, &friend).await;
            lets_in(&ours, &late, 1).await;
            // One of them is told to go long before its handshake has to end.
            until_open(&held, PLACES - 1, &ours, &friend).await;
            drop(held);
        } else {
            // Whoever hangs up makes room; until then, those in their handshake have all of it.
            drop(held);
            lets_in(&ours, &late, 100).await;
        }
    });
}

#[test]
fn ten_thousand_half_open_connections_on_this_machine() {
    use common::nodes::local::{config, only_socket};
    let home = tempfile::tempdir().unwrap();
    run(async {
        let short = limits(|limits| limits.handshake = Duration::from_secs(2));
        let open = |secret: u8| LocalTransport::open(config(home.path(), secret, 7).limits(short.clone()));
        let ours = open(1).await.unwrap();
        let socket = only_socket(home.path());
        let (friend, late) = (open(2).await.unwrap(), open(3).await.unwrap());
        let connect = || UnixStream::connect(&socket);
        let held = flood(&ours, &friend, HELD_ON_THIS_MACHINE, connect).await;
        drop(held);
        lets_in(&ours, &late, 100).await;
    });
}
