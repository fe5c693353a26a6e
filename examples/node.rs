//! One node of a mesh as a program of its own, and a client for it.
//!
//!     node --data DIR [--listen ADDR] [--join TICKET]     runs a node until Ctrl-C
//!     node --join TICKET put FILE                         stores a file, prints its capability
//!     node --join TICKET get CAPABILITY OUT               writes it to OUT
//!     node --join TICKET stat|health|remove CAPABILITY
//!
//! Everybody on a machine can read the arguments of its processes. So the ticket may come from the environment
//! (`DATAMESH_TICKET`), and `-` in place of a capability reads it from the standard input.
#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use datamesh::{Capability, Event, Explanation, Mesh, NodeState, Progress, Ticket};
use futures::StreamExt;
use futures::channel::mpsc;
use futures::executor::block_on;
use futures::future::{self, Either};
use indicatif::{ProgressBar, ProgressStyle};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Prints a line. Nobody may be there any more to read it, which does not stop a node.
macro_rules! say {
    ($($line:tt)*) => {{
        let _ = writeln!(io::stdout(), $($line)*);
    }};
}

/// How long a client tries before it gives a small request up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `--help` says of secrets.
const SECRETS: &str = "Tickets and capabilities are secrets, and every user of a machine can read the arguments \
of its programs. Give the ticket in DATAMESH_TICKET, and - for CAPABILITY to read it from the standard input.";

/// A node of a mesh, or a short-lived client of one.
#[derive(Parser)]
#[command(subcommand_negates_reqs = true, after_help = SECRETS)]
struct Arguments {
    /// Directory for shards, identity and mesh key; made where there is none
    #[arg(long, value_name = "DIR", required = true)]
    data: Option<PathBuf>,

    /// Address to listen on, /ip4/0.0.0.0/udp/4001/quic-v1 for instance; may be given again
    #[arg(long, value_name = "ADDR", default_value = "/ip4/0.0.0.0/tcp/0")]
    listen: Vec<String>,

    /// Failure domain of the node: a rack, a room, a data centre
    #[arg(long)]
    zone: Option<String>,

    /// Ticket of the mesh to join; without one a node begins a mesh of its own
    #[arg(long, value_name = "TICKET", env = "DATAMESH_TICKET", hide_env_values = true, global = true)]
    join: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What a client does.
#[derive(Subcommand)]
enum Command {
    /// Store a file and print its own capability, which reads and removes it
    Put {
        /// A regular file
        file: PathBuf,
    },
    /// Write an object to a new file
    Get {
        /// An own or read capability, or -
        capability: String,
        /// Must not exist; appears when it is complete
        out: PathBuf,
    },
    /// Print an object's length, media type and metadata
    Stat {
        /// An own or read capability, or -
        capability: String,
    },
    /// Print who holds what, and how many more holders may be lost
    Health {
        /// Any capability, or -
        capability: String,
    },
    /// Remove an object; needs its own capability
    Remove {
        /// An own capability, or -
        capability: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let ticket = arguments.join.as_deref().map(Ticket::from_str).transpose()?;
    match arguments.command {
        None => serve(arguments.data.unwrap_or_default(), arguments.listen, arguments.zone, ticket).await,
        Some(command) => {
            let ticket = ticket.ok_or("a client needs a mesh: give --join TICKET or set DATAMESH_TICKET")?;
            let mesh = datamesh::builder().capacity(0).join(ticket).open().await?;
            let done = act(&mesh, command).await;
            mesh.shutdown().await?;
            done
        }
    }
}

/// Runs a node until it is told to stop.
async fn serve(
    data: PathBuf,
    listen: Vec<String>,
    zone: Option<String>,
    ticket: Option<Ticket>,
) -> Result<()> {
    let (mut told, mut stop) = mpsc::channel(1);
    ctrlc::set_handler(move || {
        if told.try_send(()).is_err() {
            // Told once more while it shuts down: it does not want to wait.
            std::process::exit(130);
        }
    })?;
    let mut builder = datamesh::builder().path(&data);
    for address in listen {
        builder = builder.listen(address);
    }
    if let Some(zone) = zone {
        builder = builder.zone(zone);
    }
    if let Some(ticket) = ticket {
        builder = builder.join(ticket);
    }
    let mesh = builder.open().await?;
    let mut events = mesh.events();
    introduce(&mesh, &data)?;
    loop {
        match future::select(stop.next(), events.next()).await {
            Either::Left(_) | Either::Right((None, _)) => break,
            Either::Right((Some(event), _)) => tell(&mesh, &event),
        }
    }
    say!("stopping");
    mesh.shutdown().await?;
    say!("stopped");
    Ok(())
}

fn introduce(mesh: &Mesh, data: &Path) -> Result<()> {
    say!("node    {}", mesh.node_id());
    say!("data    {}", data.display());
    for address in mesh.addresses() {
        say!("listens {address}");
    }
    say!("ticket  {}", mesh.ticket()?.to_text().as_str());
    say!("Whoever has the ticket can join. Ctrl-C stops the node.");
    Ok(())
}

fn tell(mesh: &Mesh, event: &Event) {
    let members = || {
        let nodes = mesh.nodes();
        format!("{} of {} members connected", nodes.iter().filter(|node| node.connected).count(), nodes.len())
    };
    match event {
        Event::NodeUp(node) => say!("up      {}, {}", node.fmt_short(), members()),
        Event::NodeDown(node) => say!("down    {}, {}", node.fmt_short(), members()),
        Event::Member(node) => say!("member  {}, {}", node.fmt_short(), members()),
        Event::CorruptShard(shard) => say!("damaged shard {} on this disk", shard.fmt_short()),
        Event::ShardSetAside(shard) => {
            say!("rotten  {}, given up; it comes back from the others", shard.fmt_short())
        }
        Event::NodeState { node, state: NodeState::Gone } => {
            say!("gone    {}, the others make anew what it held", node.fmt_short());
        }
        Event::Distrusted(node) => say!("distrusted {}: its proof was wrong", node.fmt_short()),
        Event::CareRound(round) => {
            say!(
                "care    {} of {} dealt with, {} bytes brought home",
                round.done,
                round.total,
                round.bytes_done
            );
        }
        Event::Refused(text) => say!("refused {text}"),
        _ => {}
    }
}

async fn act(mesh: &Mesh, command: Command) -> Result<()> {
    match command {
        Command::Put { file } => put(mesh, &file).await,
        Command::Get { capability, out } => get(mesh, &read_capability(&capability)?, &out).await,
        Command::Stat { capability } => {
            let stat = mesh.stat(read_capability(&capability)?).deadline(PATIENCE).await?;
            say!("object      {}", stat.object);
            say!("length      {} bytes", stat.len);
            say!("redundancy  {}", stat.redundancy);
            say!("media type  {}", stat.media_type.as_deref().unwrap_or("-"));
            for (key, value) in &stat.metadata {
                say!("{key:<11} {value}");
            }
            Ok(())
        }
        Command::Health { capability } => {
            print_health(&mesh.explain(read_capability(&capability)?).deadline(PATIENCE).await?);
            Ok(())
        }
        Command::Remove { capability } => {
            let removal = mesh.remove(read_capability(&capability)?).deadline(PATIENCE).await?;
            say!("removed from {} nodes", removal.nodes);
            for node in removal.unreached {
                say!("not told: {node}; what it holds stays until it is told");
            }
            Ok(())
        }
    }
}

fn read_capability(argument: &str) -> Result<Capability> {
    if argument != "-" {
        return Ok(argument.parse()?);
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().parse()?)
}

async fn put(mesh: &Mesh, file: &Path) -> Result<()> {
    let len = std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    let bar = progress_bar(len);
    let told = bar.clone();
    let mut put = mesh.put(file).progress(move |Progress { done, .. }| told.set_position(done));
    if let Some(name) = file.file_name() {
        put = put.metadata("name", name.to_string_lossy());
    }
    let began = Instant::now();
    let receipt = put.await?;
    bar.finish_and_clear();
    let holders =
        if receipt.holders.is_empty() { receipt.manifest_holders.len() } else { receipt.holders.len() };
    eprintln!("{}, on {holders} nodes, margin {}", speed(receipt.len, began.elapsed()), receipt.margin);
    eprintln!("its own capability, which reads and removes it:");
    // Without it nobody can read the object, so this must not fail in silence.
    writeln!(io::stdout(), "{}", receipt.capability.to_text().as_str())?;
    Ok(())
}

async fn get(mesh: &Mesh, capability: &Capability, out: &Path) -> Result<()> {
    let bar = progress_bar(mesh.stat(capability).deadline(PATIENCE).await?.len);
    let told = bar.clone();
    let began = Instant::now();
    let get = mesh.get(capability).progress(move |Progress { done, .. }| told.set_position(done));
    let len = get.to_path(out).await?;
    bar.finish_and_clear();
    eprintln!("{}, in {}", speed(len, began.elapsed()), out.display());
    Ok(())
}

fn print_health(explanation: &Explanation) {
    let health = &explanation.health;
    say!("object      {}", health.object);
    say!("redundancy  {}", health.redundancy);
    match health.margin {
        Some(margin) => say!("margin      {margin} of {}", health.expected_margin),
        None => say!("margin      none: it cannot be read now"),
    }
    if let Some(zones) = health.zone_margin {
        say!("zones       any {zones} of them may be lost");
    }
    for (node, without) in &explanation.without {
        let indexes = |extent: &datamesh::ExtentHealth| {
            extent
                .holders
                .iter()
                .find(|(holder, _)| holder == node)
                .map_or(0, |(_, indexes)| indexes.len() * extent.segments)
        };
        let shards: usize = health.extents.iter().map(indexes).sum();
        let manifest = if health.manifest_holders.contains(node) { ", the manifest" } else { "" };
        let left = without
            .map_or("unreadable without it".to_owned(), |margin| format!("margin {margin} without it"));
        let silent = if health.unreached.contains(node) { ", did not answer" } else { "" };
        say!("{}  {shards} shards{manifest}; {left}{silent}", node.fmt_short());
    }
}

fn progress_bar(len: u64) -> ProgressBar {
    let bar = ProgressBar::new(len);
    match ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn speed(bytes: u64, took: Duration) -> String {
    let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
    format!("{megabytes:.1} MB in {seconds:.2} s, {:.0} MB/s", megabytes / seconds.max(1e-9))
}
