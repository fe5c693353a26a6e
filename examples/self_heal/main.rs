//! A mesh that looks after its data: seven processes, each a node with its own disk, of which two are killed, one loses
//! its disk and one finds altered bytes on it, while the margin of every file falls and comes back.
//!
//!     cargo run --release --example self_heal
//!     cargo run --release --example self_heal -- --from DIR --files 1000
//!
//! In a terminal the margins are drawn as bars, otherwise told as lines. Waiting times that are minutes, hours and days
//! by default are seconds here, so that it is over soon. At the end every file is read by a client that had no part in
//! it, and compared. Fails where a byte differs, or where the margin does not come back in time.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

mod corpus;
#[path = "../common/failure.rs"]
mod failure;
mod node;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/stop.rs"]
mod stop;
mod story;
mod swarm;
mod view;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

pub(crate) type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Kills, wipes and corrupts nodes of a mesh, and watches it heal.
#[derive(Debug, Parser)]
#[command(name = "self_heal")]
pub(crate) struct Options {
    /// How many files; with --from, at most so many
    #[arg(long, default_value_t = 300)]
    files: usize,

    /// The mean length of a generated file, in bytes
    #[arg(long, default_value_t = 256 << 10)]
    size: u64,

    /// Take the files of this directory instead, and of those in it
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    /// How many nodes: seven or more
    #[arg(long, default_value_t = 7)]
    nodes: usize,

    /// What each node may move for repair, in bytes a second; by default a fifth of what its fastest link carries
    #[arg(long, value_name = "BYTES")]
    budget: Option<u64>,

    /// How long the margin may take to come back each time, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    deadline: u64,

    /// Print the summary as one JSON value, and what happens on the standard error
    #[arg(long)]
    json: bool,

    /// Be one of the nodes, in this directory
    #[arg(long, hide = true, value_name = "DIR")]
    node: Option<PathBuf>,
}

impl Options {
    fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    fn check(&self) -> Result<()> {
        if self.nodes < 7 {
            return Err(
                "seven nodes at least: two are killed, and the other five carry a code of five".into()
            );
        }
        if self.files == 0 || self.size == 0 {
            return Err("there must be a file, and a byte in it".into());
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.node {
        Some(directory) => node::run(directory, options.budget),
        None => options.check().and_then(|()| story::run(&options)),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    failure::tell(&*error);
    ExitCode::FAILURE
}
