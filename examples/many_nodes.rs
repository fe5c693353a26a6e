//! Many nodes on one machine, from one ticket: how long until all know and reach each other, and whether put and get
//! work from each.
//!
//!     cargo run --release --example many_nodes                            # fifty, within 30 s
//!     cargo run --release --example many_nodes -- --nodes 20 --limit 10 --json
//!
//! Each node has its own transport, TCP on the loopback interface, and a store in memory. Ends with the status 1
//! where it takes longer than the limit, or where a byte that comes back is another.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

#[path = "common/failure.rs"]
mod failure;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use datamesh::{Mesh, Ticket, TransportPreference};
use futures::executor::block_on;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;

/// Nodes that are opened, and requests that are made, at a time.
const AT_ONCE: usize = 8;

/// The bytes of each object: enough for shards of its own.
const LEN: usize = 100_000;

/// Opens many nodes from one ticket, and times it.
#[derive(Debug, Parser)]
#[command(name = "many_nodes")]
struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 50)]
    nodes: usize,

    /// How long they may take until each is connected to all, in seconds
    #[arg(long, default_value_t = 30.0)]
    limit: f64,

    /// Print the figures as one JSON value
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match block_on(run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failure::tell(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let limit = Duration::from_secs_f64(options.limit.clamp(0.1, 3600.0));
    let started = Instant::now();
    let first = open(None).await?;
    let ticket = first.ticket()?;
    let others = stream::iter(1..options.nodes).map(|_| open(Some(ticket.clone())));
    let mut nodes: Vec<Mesh> = others.buffer_unordered(AT_ONCE).try_collect().await?;
    nodes.insert(0, first);
    let opened = started.elapsed();
    for node in &nodes {
        let left = limit.saturating_sub(started.elapsed());
        node.wait_for_nodes(nodes.len(), left).await?;
    }
    let formed = started.elapsed();

    let began = Instant::now();
    let content = |number: usize| vec![u8::try_from(number % 251).unwrap_or(0); LEN];
    let put = |(number, node): (usize, &Mesh)| {
        let put = node.put(content(number));
        async move { Ok::<_, datamesh::Error>((number, put.await?.capability)) }
    };
    let puts: Vec<_> =
        stream::iter(nodes.iter().enumerate().map(put)).buffer_unordered(AT_ONCE).try_collect().await?;
    let put_time = began.elapsed();

    // What each has put is read by the next one.
    let began = Instant::now();
    let gets = puts.iter().map(|(number, capability)| {
        let reader = nodes.get((number + 1) % nodes.len());
        let expected = content(*number);
        async move {
            let bytes = reader.ok_or("there is no such node")?.get(capability).await?;
            if bytes != expected {
                return Err(format!("other bytes came back than node {number} has put").into());
            }
            Ok::<_, Box<dyn Error>>(())
        }
    });
    let gets = stream::iter(gets);
    gets.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let get_time = began.elapsed();
    for node in &nodes {
        node.shutdown().await?;
    }
    tell(options, [opened, formed, put_time, get_time]);
    if formed > limit { Err(format!("it took longer than {} s", options.limit).into()) } else { Ok(()) }
}

async fn open(ticket: Option<Ticket>) -> datamesh::Result<Mesh> {
    let preference = TransportPreference::NetworkOnly;
    let builder = datamesh::builder().listen("/ip4/127.0.0.1/tcp/0").capacity(1 << 40);
    let builder = builder.transport_preference(preference);
    match ticket {
        Some(ticket) => builder.join(ticket).open().await,
        None => builder.open().await,
    }
}

fn tell(options: &Options, times: [Duration; 4]) {
    let [opened, formed, put, get] = times.map(|time| time.as_secs_f64());
    if options.json {
        let value = json!({
            "nodes": options.nodes,
            "opened_seconds": opened,
            "formed_seconds": formed,
            "put_seconds": put,
            "get_seconds": get,
        });
        println!("{value}");
        return;
    }
    let count = options.nodes;
    println!("{count} nodes open after {opened:.1} s, each connected to all after {formed:.1} s");
    println!("one object put by each in {put:.1} s, and read by another in {get:.1} s");
}
