//! Nine nodes, each a process, among which processes are killed, stopped, cut off, slowed, moved in time and wiped,
//! while objects are put, read and removed; and a judge over all that was answered.
//!
//!     cargo run --release --example chaos                          # three minutes
//!     cargo run --release --example chaos -- --minutes 60 --seed 7
//!
//! Never more holders are in trouble at once than the code bears (two, with 4+2), and between two misfortunes the
//! mesh has time to heal. So the promises hold all the time: what was acknowledged can be read, with the right bytes,
//! and is never *not found*; what was removed stays away. Ends with the status 1 where one of them was broken, where
//! a margin did not come back in time, where so little was done that nothing is shown, or where a node's memory or
//! descriptors grow (judged in runs of at least an hour).
//!
//! Half of the nodes are reached over TCP and half over QUIC, all of them through proxies of this program that delay,
//! drop and cut. Two nodes are never killed, so that their memory can be measured. Linux only: who has opened a
//! connection is read from `/proc`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

mod checker;
mod draws;
mod effort;
#[path = "../common/failure.rs"]
mod failure;
mod fault;
mod load;
mod memory;
mod node;
mod owner;
#[path = "../common/process.rs"]
mod process;
mod proxy;
mod run;
#[path = "../common/stop.rs"]
mod stop;
mod summary;
mod swarm;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

pub(crate) type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Kills, stops, cuts off, slows, moves in time and wipes nodes of a mesh, and judges what it answers.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
pub(crate) struct Options {
    /// How long, in minutes
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,

    /// The seed of what is done, to whom and in which order; by default another one each time
    #[arg(long)]
    seed: Option<u64>,

    /// Only these misfortunes, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    faults: Vec<fault::Kind>,

    /// How many nodes may be in trouble at once; with more than two promises are broken, which shows that it is seen
    #[arg(long, default_value_t = run::MOST)]
    at_once: usize,

    /// How long the margin of every object may take to come back, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    heal: u64,

    /// Print the summary as one JSON value, and what happens on the standard error
    #[arg(long)]
    json: bool,

    /// Be one of the nodes, in this directory
    #[arg(long, hide = true, value_name = "DIR")]
    node: Option<PathBuf>,

    #[command(flatten)]
    told: node::Told,
}

impl Options {
    fn duration(&self) -> Duration {
        // Not a number counts as no time.
        let seconds = Duration::try_from_secs_f64(self.minutes * 60.0).unwrap_or_default();
        seconds.clamp(Duration::from_secs(6), Duration::from_secs(30 * 24 * 3600))
    }

    fn heal(&self) -> Duration {
        Duration::from_secs(self.heal.clamp(1, 3600))
    }

    /// The command for a run with this seed that is like this one in all else.
    fn command(&self, seed: u64) -> String {
        let Self { minutes, faults, at_once, heal, .. } = self;
        let mut command = format!(
            "cargo run --release --example chaos -- --minutes {minutes} --seed {seed} --at-once {at_once} --heal {heal}"
        );
        let names: Vec<String> = faults
            .iter()
            .filter_map(clap::ValueEnum::to_possible_value)
            .map(|name| name.get_name().to_owned())
            .collect();
        if !names.is_empty() {
            command.push_str(&format!(" --faults {}", names.join(",")));
        }
        command
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.node {
        Some(directory) => node::run(directory, &options.told).map(|()| true),
        None => run::run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            failure::tell(&*error);
            ExitCode::FAILURE
        }
    }
}
