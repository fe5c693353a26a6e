//! A node that runs until it is told to stop.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use datamesh::net::libp2p::Discovery;
use datamesh::{Builder, Error, ErrorKind, Event, Events, Mesh, NodeState};
use futures::channel::mpsc;
use futures::future::{self, Either};
use futures::{FutureExt, StreamExt};
use serde_json::json;

use crate::Result;
use crate::output::{Output, say};
use crate::place;

/// How a node finds others and is found, beside tickets and what members tell.
#[derive(Args)]
pub(crate) struct Found {
    /// Find members on the local network by multicast, and be found there
    #[cfg(feature = "mdns")]
    #[arg(long)]
    local_network: bool,

    /// Look up where members have moved, in a table that members keep together
    #[cfg(feature = "kad")]
    #[arg(long)]
    kademlia: bool,

    /// Reach others through NATs, and be reached: members say where they see this node, and relay
    #[cfg(feature = "nat")]
    #[arg(long)]
    nat: bool,
}

impl Found {
    pub(crate) fn discovery(&self, bootstrap: bool) -> Discovery {
        let discovery = Discovery::new();
        let discovery = if bootstrap { discovery.bootstrap() } else { discovery };
        #[cfg(feature = "mdns")]
        let discovery = if self.local_network { discovery.local_network() } else { discovery };
        #[cfg(feature = "kad")]
        let discovery = if self.kademlia { discovery.kademlia() } else { discovery };
        #[cfg(feature = "nat")]
        let discovery = if self.nat { discovery.nat() } else { discovery };
        discovery
    }
}

pub(crate) async fn run(directory: &Path, builder: Builder, output: Output) -> Result<()> {
    let (mut tell_to_stop, mut stop) = mpsc::channel(1);
    let is_told = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if is_told.swap(true, Ordering::Relaxed) {
            // Told once more while it shuts down: it does not want to wait.
            std::process::exit(130);
        }
        // It is the only message.
        let _ = tell_to_stop.try_send(());
    })?;
    let mesh = builder.open().await?;
    let mut events = mesh.events();
    introduce(&mesh, directory, output);
    let failure = until_stopped(&mesh, &mut stop, &mut events, directory, output).await;
    place::remove_ticket(directory);
    output.result(&json!({ "event": "stopping" }), || say!("stopping"));
    let ended = mesh.shutdown().await;
    if let Some(failure) = failure {
        // It says why the node ends; that its store did not close well follows from it.
        return Err(failure.into());
    }
    ended?;
    output.result(&json!({ "event": "stopped" }), || say!("stopped"));
    Ok(())
}

/// Tells what happens until the node is told to stop, or its store takes no more writes: that is given back.
async fn until_stopped(
    mesh: &Mesh,
    stop: &mut mpsc::Receiver<()>,
    events: &mut Events,
    directory: &Path,
    output: Output,
) -> Option<Error> {
    loop {
        // It is told once: perhaps before anybody listened, or among so many events that it was missed.
        if mesh.metrics().store_failures > 0 {
            return Some(store_failed(&why_it_failed(events), output));
        }
        let event = match future::select(stop.next(), events.next()).await {
            Either::Left(_) | Either::Right((None, _)) => return None,
            Either::Right((Some(event), _)) => event,
        };
        match &event {
            Event::StoreFailed(why) => return Some(store_failed(why, output)),
            // What others should dial may have changed.
            Event::Listening(_) | Event::KeyChanged { .. } => keep_ticket(mesh, directory, output),
            _ => {}
        }
        tell(mesh, &event, output);
    }
}

/// Why the store takes no more writes, where that is among the events that wait.
fn why_it_failed(events: &mut Events) -> String {
    while let Some(Some(event)) = events.next().now_or_never() {
        if let Event::StoreFailed(why) = event {
            return why;
        }
    }
    "the store takes no more writes since an earlier failure of the disk".to_owned()
}

/// The node ends, so that whoever started it starts it again: its store is then opened anew, and looked through.
fn store_failed(why: &str, output: Output) -> Error {
    output.result(&json!({ "event": "failed", "subject": "store", "remark": why }), || {
        say!("failed  store, {why}")
    });
    let text = format!("look at this node's disk, then run the node again: {why}");
    Error::new(ErrorKind::Poisoned, text)
}

/// Keeps the ticket for others on this machine. Where that fails the node serves all the same.
fn keep_ticket(mesh: &Mesh, directory: &Path, output: Output) {
    let write = || place::write_ticket(directory, mesh.ticket()?.to_text().as_str());
    if let Err(error) = write() {
        output.failed(&*error);
    }
}

fn introduce(mesh: &Mesh, directory: &Path, output: Output) {
    keep_ticket(mesh, directory, output);
    let addresses: Vec<String> = mesh.addresses().iter().map(ToString::to_string).collect();
    let value = json!({ "event": "running", "node": mesh.node_id().to_string(), "addresses": addresses });
    output.result(&value, || {
        say!("node    {}", mesh.node_id());
        say!("data    {}", directory.display());
        for address in &addresses {
            say!("listens {address}");
        }
        say!("`node ticket {}` prints the ticket for others. Ctrl-C stops the node.", directory.display());
    });
}

fn tell(mesh: &Mesh, event: &Event, output: Output) {
    let (name, subject, remark) = match event {
        Event::NodeUp(node) => ("up", node.fmt_short(), String::new()),
        Event::NodeDown(node) => ("down", node.fmt_short(), String::new()),
        Event::Member(node) => ("member", node.fmt_short(), String::new()),
        Event::CorruptShard(shard) => ("damaged", shard.fmt_short(), "a shard on this disk".into()),
        Event::UnreadableShard(shard) => {
            ("unreadable", shard.fmt_short(), "this disk does not give it; it is tried again".into())
        }
        Event::ShardSetAside(shard) => {
            ("set aside", shard.fmt_short(), "given up; it comes back from the others".into())
        }
        Event::NodeState { node, state: NodeState::Gone } => {
            ("gone", node.fmt_short(), "the others make anew what it held".into())
        }
        Event::Distrusted(node) => ("distrusted", node.fmt_short(), "its proof was wrong".into()),
        Event::CareRound(round) => {
            let text = format!("{} of {}, {} bytes brought home", round.done, round.total, round.bytes_done);
            ("care", text, String::new())
        }
        Event::KeyChanged { generation } => {
            ("key", generation.to_string(), "the mesh key has changed; the ticket is a new one".into())
        }
        Event::Forgotten(node) => ("forgotten", node.fmt_short(), "it is gone for good".into()),
        Event::Expelled(node) => ("expelled", node.fmt_short(), "it is admitted no more".into()),
        Event::Refused(text) => ("refused", text.clone(), String::new()),
        _ => return,
    };
    let nodes = mesh.nodes();
    let connected = nodes.iter().filter(|node| node.connected).count();
    let remark = match event {
        Event::NodeUp(_) | Event::NodeDown(_) | Event::Member(_) => {
            format!("{connected} of {} members connected", nodes.len())
        }
        _ => remark,
    };
    let value = json!({
        "event": name,
        "subject": subject,
        "remark": remark,
        "connected": connected,
        "members": nodes.len(),
    });
    output.result(&value, || {
        let remark = if remark.is_empty() { remark } else { format!(", {remark}") };
        say!("{name:<7} {subject}{remark}");
    });
}
