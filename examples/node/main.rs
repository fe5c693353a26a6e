//! A node of a mesh as a program: begin a mesh, join one, run a node, and use it.
//!
//!     node init DIR                              begins a mesh whose first node keeps its data in DIR
//!     node run DIR [--bootstrap]                 runs the node of DIR until Ctrl-C; --help says how it finds others
//!     node ticket DIR                            prints the ticket of the node that runs there
//!     node join DIR --ticket TICKET              makes DIR a node of that mesh; then run it
//!     node admit NODE --key FILE                 prints a certificate, where the mesh was begun with --admission FILE
//!     node revoke NODE... --key FILE             revokes nodes there
//!     node rotate-key [DIR] [--overlap SECONDS]  changes the key of the mesh; the old one is accepted for so long
//!     node forget NODE                           forgets a node that is gone for good
//!     node peers | ping PEER | bandwidth PEER    who is there, and how they are reached
//!     node put FILE | get CAPABILITY OUT         stores a file and prints its capability, and back
//!     node stat | health | remove CAPABILITY
//!
//! What needs a mesh takes the ticket of `--ticket`, of the environment (`DATAMESH_TICKET`), or of the node that runs
//! in `--data DIR`, which keeps its ticket there while it runs. Everybody on a machine can read the arguments of its
//! processes, so `-` in place of a ticket or a capability reads it from the standard input.
//!
//! The exit status is 0 when it is done, 2 for arguments that cannot be meant, 3 when the holders proved that the
//! object is not there, 4 when too few nodes answered and it may be tried again, 5 for a ticket, key or capability
//! that does not allow it, 6 when what would be made is there already or in use, 7 for bytes that failed their check,
//! and 1 for everything else, also for a disk that failed while the node ran: it shuts down, and is to be run again.
#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

mod admit;
mod client;
#[path = "../common/failure.rs"]
mod failure;
mod link;
mod output;
mod place;
mod serve;

use std::error::Error;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use datamesh::ports::Timestamp;
use datamesh::{ChaChaSuite, ErrorKind, SignedCertificate, Ticket};
use futures::executor::block_on;

use client::Verb;
use output::Output;
use place::Settings;

pub(crate) type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// What `--help` says of secrets and of the end.
const NOTES: &str = "Tickets and capabilities are secrets, and every user of a machine can read the arguments of its \
programs. Give the ticket in DATAMESH_TICKET, or - to read it, or a capability, from the standard input.

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 not found, 4 unavailable (try again), 5 access denied, 6 already there \
or in use, 7 corrupt.";

/// The longest life of a ticket that ends: a hundred years.
const MAX_EXPIRY: u64 = 100 * 365 * 24 * 3600;

/// A node of a mesh, or a short-lived client of one.
#[derive(Parser)]
#[command(name = "node", after_help = NOTES)]
struct Arguments {
    /// Print each result as one JSON value
    #[arg(long, global = true)]
    json: bool,

    /// Ticket of the mesh, or - to read it
    #[arg(long, value_name = "TICKET", env = "DATAMESH_TICKET", hide_env_values = true, global = true)]
    ticket: Option<String>,

    /// Directory of a node that runs on this machine, in place of a ticket
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

/// What a node is told once and keeps in its directory.
#[derive(Args)]
struct Told {
    /// Address to listen on, /ip4/0.0.0.0/udp/4001/quic-v1 for instance; may be given again
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,

    /// Address that others are told instead, behind a forwarded port for instance; may be given again
    #[arg(long, value_name = "ADDR")]
    announce: Vec<String>,

    /// Failure domain of the node: a rack, a room, a data centre
    #[arg(long)]
    zone: Option<String>,

    /// Bytes that the node offers; by default what the disk has
    #[arg(long, value_name = "BYTES")]
    capacity: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    /// Begin a mesh, whose first node keeps its data in DIR
    Init {
        /// Made where there is none
        directory: PathBuf,
        /// Ask for a certificate of each node that holds data; the key that issues them is made in FILE. Keep it off
        /// the nodes
        #[arg(long, value_name = "FILE")]
        admission: Option<PathBuf>,
        #[command(flatten)]
        told: Told,
    },
    /// Print a certificate for a node, which then may hold data
    Admit {
        /// The whole id, as `join` prints it
        node: String,
        /// The file of `init --admission`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        grant: admit::Grant,
    },
    /// Revoke nodes, so that nobody of the mesh answers them any more
    Revoke {
        /// The whole ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// The file of `init --admission`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Change the key of the mesh, so that tickets that were given out before end
    RotateKey {
        /// The node that changes it, which must not run; needed where nodes are admitted. By default a client of the
        /// ticket does
        directory: Option<PathBuf>,
        /// For so many seconds the old key is accepted as well; a node that is away for longer needs a new ticket
        #[arg(long, value_name = "SECONDS", default_value_t = 24 * 3600)]
        overlap: u64,
    },
    /// Make DIR a node of the mesh of the ticket
    Join {
        /// Made where there is none
        directory: PathBuf,
        /// Take the ticket's key in place of a newer one that no other node knows
        #[arg(long)]
        rejoin: bool,
        #[command(flatten)]
        told: Told,
    },
    /// Run the node of DIR until Ctrl-C or a signal
    ///
    /// It finds members by the ticket that it joined with, and by what members tell each other. --local-network,
    /// --kademlia and --nat find and reach them in other ways, too; a program that was built without the features mdns,
    /// kad and nat does not have these
    Run {
        /// Of `init` or `join`
        directory: PathBuf,
        /// Keep nothing for others: a capacity of 0. The node only tells members of each other, and relays for them with
        /// --nat; it is found by its ticket alone
        #[arg(long)]
        bootstrap: bool,
        #[command(flatten)]
        found: serve::Found,
        /// Of `node admit`; it is kept, so it is needed once
        #[arg(long)]
        certificate: Option<String>,
        #[command(flatten)]
        told: Told,
    },
    /// Print the ticket of the node that runs in DIR
    Ticket {
        /// Of a node that runs
        directory: PathBuf,
        /// After so many seconds nobody can join by it
        #[arg(long, value_name = "SECONDS")]
        expires: Option<u64>,
    },
    /// Forget a node that is gone for good: its disk is lost, or nobody will start it again
    Forget {
        /// A node id, or the beginning of one
        node: String,
    },
    /// Print the members, and how each is reached
    Peers,
    /// Measure the round trip to a member
    Ping {
        /// A node id, or the beginning of one
        peer: String,
        /// How often
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// Measure what the way to a member carries, both ways at once
    Bandwidth {
        /// A node id, or the beginning of one
        peer: String,
        /// Bytes to send in each direction
        #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1..))]
        bytes: u64,
    },
    #[command(flatten)]
    Object(Verb),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output { json: arguments.json };
    match block_on(run(arguments, output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.failed(&*error);
            ExitCode::from(status(&*error))
        }
    }
}

/// The exit status that stands for an error.
fn status(error: &(dyn Error + 'static)) -> u8 {
    let Some(error) = error.downcast_ref::<datamesh::Error>() else { return 1 };
    match error.kind() {
        ErrorKind::InvalidInput => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Unavailable
        | ErrorKind::NotStored
        | ErrorKind::OutcomeUnknown
        | ErrorKind::TimedOut
        | ErrorKind::Busy => 4,
        ErrorKind::AccessDenied => 5,
        ErrorKind::AlreadyExists | ErrorKind::Locked => 6,
        ErrorKind::Corrupt => 7,
        _ => 1,
    }
}

async fn run(arguments: Arguments, output: Output) -> Result<()> {
    let Arguments { ticket, data, command, .. } = arguments;
    match command {
        Command::Init { directory, admission, told } => {
            place::init(&directory, told.into(), admission.as_deref(), output).await
        }
        Command::Admit { node, key, grant } => admit::admit(&node, &key, grant, output),
        Command::Revoke { nodes, key } => {
            let mesh = client::open(find_ticket(ticket, data.as_deref())?).await?;
            client::close(&mesh, admit::revoke(&mesh, &nodes, &key, output).await).await
        }
        Command::RotateKey { directory, overlap } => {
            let mesh = match directory {
                Some(directory) => place::open(&directory).await?,
                None => client::open(find_ticket(ticket, data.as_deref())?).await?,
            };
            let overlap = Duration::from_secs(overlap);
            client::close(&mesh, admit::rotate_key(&mesh, overlap, output).await).await
        }
        Command::Join { directory, rejoin, told } => {
            place::join(&directory, told.into(), find_ticket(ticket, None)?, rejoin, output).await
        }
        Command::Run { directory, bootstrap, found, certificate, told } => {
            let builder = place::settings(&directory, told.into())?.builder(&directory);
            let mut builder = builder.discovery(found.discovery(bootstrap));
            if bootstrap {
                builder = builder.capacity(0);
            }
            if let Some(text) = certificate {
                builder = builder.certificate(SignedCertificate::from_text(&text, &ChaChaSuite)?);
            }
            serve::run(&directory, builder, output).await
        }
        Command::Ticket { directory, expires } => {
            let mut ticket: Ticket = place::read_ticket(&directory)?.parse()?;
            if let Some(seconds) = expires {
                let end = std::time::UNIX_EPOCH.elapsed()? + Duration::from_secs(seconds.min(MAX_EXPIRY));
                ticket = ticket.until(Timestamp(u64::try_from(end.as_millis())?))?;
            }
            output.line("ticket", ticket.to_text().as_str());
            Ok(())
        }
        Command::Forget { node } => {
            let mesh = client::open(find_ticket(ticket, data.as_deref())?).await?;
            client::close(&mesh, link::forget(&mesh, &node, output).await).await
        }
        Command::Peers => {
            let mesh = client::open(find_ticket(ticket, data.as_deref())?).await?;
            client::close(&mesh, link::peers(&mesh, output).await).await
        }
        Command::Ping { peer, count } => {
            let mesh = client::open(find_ticket(ticket, data.as_deref())?).await?;
            client::close(&mesh, link::ping(&mesh, &peer, count, output).await).await
        }
        Command::Bandwidth { peer, bytes } => {
            let mesh = client::open(find_ticket(ticket, data.as_deref())?).await?;
            client::close(&mesh, link::bandwidth(&mesh, &peer, bytes, output).await).await
        }
        Command::Object(verb) => {
            let mesh = client::open(find_ticket(ticket, data.as_deref())?).await?;
            client::close(&mesh, client::act(&mesh, verb, output).await).await
        }
    }
}

/// The ticket that was given, or the one that a running node keeps in its directory: the directory wins, because the
/// ticket may be left over in the environment.
fn find_ticket(given: Option<String>, data: Option<&Path>) -> Result<Ticket> {
    let text = match (data, given) {
        (Some(directory), _) => place::read_ticket(directory)?,
        (None, Some(text)) if text == "-" => read_line()?,
        (None, Some(text)) => text,
        (None, None) => {
            let text = "this needs a mesh: give --ticket TICKET, set DATAMESH_TICKET, or give the --data DIR of a node";
            return Err(datamesh::Error::new(ErrorKind::InvalidInput, text).into());
        }
    };
    Ok(text.parse()?)
}

/// A line of the standard input: a secret that is no argument.
pub(crate) fn read_line() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

impl From<Told> for Settings {
    fn from(Told { listen, announce, zone, capacity }: Told) -> Self {
        Self { listen, announce, zone, capacity }
    }
}
