//! Floods: while they last, memory stays where it was and the peers that are connected are served.
#![cfg(all(feature = "local", feature = "libp2p", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::nodes::{LIMIT, Limits, TCP, echo, limits};
use common::run;
use datamesh_core::ports::Transport;
use datamesh_net::libp2p::Libp2pTransport;
use datamesh_net::local::LocalTransport;

/// Connections that strangers open, and how many of them they hold at a time.
const FLOOD: usize = 10_000;
const HELD: usize = 500;

/// How many of them must come to be for it to be a flood: the system may refuse some itself.
const CONNECTED: usize = 9_000;

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

/// Strangers connect again and again, and say little; a friend is served meanwhile, and a new one lets itself in after.
async fn flood<T: Transport, S: Write>(
    ours: &T,
    friend: &T,
    late: &T,
    connect: impl Fn() -> std::io::Result<S>,
) {
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
        if held.len() > HELD {
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
    drop(held);
    // Whoever hangs up makes room; until then, those in their handshake have all of it.
    let mut answer = late.connect(address.clone(), LIMIT).await;
    for _ in 0..100 {
        if answer.is_ok() {
            break;
        }
        answer = late.connect(address.clone(), LIMIT).await;
    }
    assert_eq!(answer.unwrap(), ours.local_node());
}

fn short() -> Limits {
    limits(|limits| limits.handshake = Duration::from_secs(2))
}

#[test]
fn ten_thousand_half_open_connections_over_tcp() {
    use common::nodes::libp2p::{config, port};
    run(async {
        let open = |secret: u8| Libp2pTransport::open(config(secret, 7, TCP).limits(short()));
        let (ours, friend, late) = (open(1).await.unwrap(), open(2).await.unwrap(), open(3).await.unwrap());
        let port = port(&ours);
        flood(&ours, &friend, &late, || TcpStream::connect(("127.0.0.1", port))).await;
    });
}

#[test]
fn ten_thousand_half_open_connections_on_this_machine() {
    use common::nodes::local::{config, only_socket};
    let home = tempfile::tempdir().unwrap();
    run(async {
        let open = |secret: u8| LocalTransport::open(config(home.path(), secret, 7).limits(short()));
        let ours = open(1).await.unwrap();
        let socket = only_socket(home.path());
        let (friend, late) = (open(2).await.unwrap(), open(3).await.unwrap());
        flood(&ours, &friend, &late, || UnixStream::connect(&socket)).await;
    });
}
