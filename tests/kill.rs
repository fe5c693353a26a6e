//! A node's process is killed in the middle of puts, again and again: what was acknowledged is still there.
//!
//! `DATAMESH_KILL_ROUNDS` sets how often, 10 times by default.
#![cfg(all(unix, feature = "libp2p", feature = "disk"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{PATIENCE, noise, run_for};
use datamesh::{Capability, Mesh};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};

/// Where the process that is killed keeps its data; set only for that process.
const DIRECTORY: &str = "DATAMESH_KILL_DIRECTORY";

/// What its line of output with the ticket begins with.
const TICKET: &str = "ticket=";

/// Puts under way at a time.
const WINDOW: usize = 4;

/// The process that is killed; run by itself it does nothing.
#[test]
fn node_process() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    futures::executor::block_on(async {
        let builder = datamesh::builder().path(directory).listen("/ip4/127.0.0.1/tcp/0").capacity(1 << 40);
        let mesh = builder.open().await.unwrap();
        println!("\n{TICKET}{}", &*mesh.ticket().unwrap().to_text());
        // Ends with the process that started it.
        let _ = std::io::stdin().read(&mut [0]);
    });
}

struct Node {
    process: Child,
    ticket: String,
}

impl Node {
    fn start(directory: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node_process", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ticket = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix(TICKET)?.to_owned()));
        Self { process, ticket: ticket.expect("the node printed no ticket") }
    }

    async fn client(&self) -> Mesh {
        let ticket = self.ticket.parse().unwrap();
        let client = datamesh::builder().capacity(0).join(ticket).open().await.unwrap();
        client.wait_for_nodes(1, PATIENCE).await.unwrap();
        client
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Objects of several kinds: in the manifest, of one segment, of several.
fn content(number: u64) -> Vec<u8> {
    noise([100, 40_000, 300_000, 2_500_000][number as usize % 4], number)
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let rounds: u64 = std::env::var("DATAMESH_KILL_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    run_for(PATIENCE * (rounds as u32 + 1), async {
        let mut kept: Vec<(u64, Capability)> = Vec::new();
        let mut next = 0;
        for round in 0..rounds {
            let mut node = Node::start(directory.path());
            let client = node.client().await;
            check(&client, &kept).await;
            let mut running = FuturesUnordered::new();
            let goal = kept.len() + 3 + (round as usize * 5) % 7;
            while kept.len() < goal {
                while running.len() < WINDOW {
                    let (number, client) = (next, client.clone());
                    running.push(async move { (number, client.put(content(number)).await) }.boxed_local());
                    next += 1;
                }
                let (number, put) = running.next().await.unwrap();
                kept.push((number, put.unwrap().capability));
            }
            // The others are somewhere between their first byte and their acknowledgement.
            node.kill();
            while let Some((number, put)) = running.next().await {
                kept.extend(put.ok().map(|receipt| (number, receipt.capability)));
            }
            client.shutdown().await.unwrap();
        }
        let node = Node::start(directory.path());
        let client = node.client().await;
        check(&client, &kept).await;
        assert!(kept.len() as u64 >= rounds * 3);
        client.shutdown().await.unwrap();
    });
}

async fn check(client: &Mesh, kept: &[(u64, Capability)]) {
    for (number, capability) in kept {
        let got = client.get(capability).await.unwrap_or_else(|error| panic!("object {number}: {error:?}"));
        assert!(got == content(*number), "object {number} has wrong bytes");
    }
}
