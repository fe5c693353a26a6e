//! The processes of the nodes, and what is done to them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::node::Report;
use crate::process::{self, Process};

/// The bytes before the first entry of a volume; `docs/store-format.md` has the rest.
const VOLUME_HEADER: u64 = 64;

/// The bytes before the payload of an entry.
const ENTRY_HEADER: u64 = 56;

/// What all nodes have moved, those that are dead among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) read: u64,
    pub(crate) rebuilt: u64,
    pub(crate) moved: u64,
}

impl Moved {
    fn add(&mut self, report: &Report) {
        self.read += report.read;
        self.rebuilt += report.rebuilt;
        self.moved += report.moved;
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            read: self.read.saturating_sub(before.read),
            rebuilt: self.rebuilt.saturating_sub(before.rebuilt),
            moved: self.moved.saturating_sub(before.moved),
        }
    }
}

/// The place of a node, whether or not its process lives.
struct Place {
    directory: PathBuf,
    process: Option<Process<Report>>,
}

/// All nodes.
pub(crate) struct Swarm {
    places: Vec<Place>,
    budget: Option<u64>,
    /// What processes that are no more had moved.
    past: Moved,
}

impl Swarm {
    pub(crate) fn new(root: &Path, count: usize, budget: Option<u64>) -> Self {
        let place =
            |number: usize| Place { directory: root.join(format!("node-{}", number + 1)), process: None };
        Self { places: (0..count).map(place).collect(), budget, past: Moved::default() }
    }

    /// Starts the node with this number. The first begins the mesh, the others join it.
    pub(crate) fn start(&mut self, number: usize) -> Result<()> {
        let ticket = self.ticket().unwrap_or_default();
        let budget = self.budget;
        let place = self.places.get_mut(number).ok_or("there is no such node")?;
        let mut arguments = vec![OsString::from("--node"), place.directory.clone().into()];
        if let Some(budget) = budget {
            arguments.extend(["--budget".into(), budget.to_string().into()]);
        }
        let started = Process::start(arguments, &ticket, Report::from_line);
        let name = |error| format!("the node in {}: {error}", place.directory.display());
        place.process = Some(started.map_err(name)?);
        Ok(())
    }

    /// The ticket of a node that lives.
    pub(crate) fn ticket(&self) -> Option<String> {
        self.reports().next().map(|(_, report)| report.ticket)
    }

    /// Kills a node's process, by its id, with the signal that no process can refuse.
    pub(crate) fn kill(&mut self, number: usize) -> Result<u32> {
        let place = self.places.get_mut(number).ok_or("there is no such node")?;
        let mut process = place.process.take().ok_or("that node has no process")?;
        self.past.add(&process.report());
        process.kill()
    }

    /// Lets all that live end by themselves.
    pub(crate) fn end(&mut self) -> Result<()> {
        let nodes = self.places.iter_mut().enumerate();
        let nodes = nodes.filter_map(|(number, place)| Some((number, place.process.take()?)));
        let failed = process::end_all(nodes.collect());
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
    }

    /// Removes all that a killed node has on its disk.
    pub(crate) fn wipe(&mut self, number: usize) -> Result<()> {
        let place = self.places.get(number).ok_or("there is no such node")?;
        Ok(fs::remove_dir_all(&place.directory)?)
    }

    /// Changes one byte in each of some shards on a node's disk, behind its back. Says how many.
    pub(crate) fn rot(&self, number: usize, most: usize) -> Result<usize> {
        let place = self.places.get(number).ok_or("there is no such node")?;
        let mut payloads = Vec::new();
        for entry in fs::read_dir(place.directory.join("volumes"))? {
            let path = entry?.path();
            payloads.extend(payloads_of(&path)?.into_iter().map(|at| (path.clone(), at)));
        }
        let step = payloads.len().div_ceil(most.max(1)).max(1);
        let chosen: Vec<_> = payloads.into_iter().step_by(step).collect();
        for (path, at) in &chosen {
            flip(path, *at)?;
        }
        Ok(chosen.len())
    }

    /// Those that live, by number.
    pub(crate) fn reports(&self) -> impl Iterator<Item = (usize, Report)> + '_ {
        let report = |(number, place): (usize, &Place)| Some((number, place.process.as_ref()?.report()));
        self.places.iter().enumerate().filter_map(report)
    }

    pub(crate) fn report(&self, number: usize) -> Option<Report> {
        self.reports().find(|(other, _)| *other == number).map(|(_, report)| report)
    }

    /// What the nodes say, for whoever must find out why something does not heal.
    pub(crate) fn says(&self) -> String {
        let of = |(number, report): (usize, Report)| {
            let Report { rounds, extents, short, scrub_rounds, set_aside, .. } = report;
            format!(
                "node {}: {short} of {extents} short after {rounds} rounds, {set_aside} set aside in {scrub_rounds} passes",
                number + 1
            )
        };
        self.reports().map(of).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn moved(&self) -> Moved {
        let mut moved = self.past;
        self.reports().for_each(|(_, report)| moved.add(&report));
        moved
    }

    /// The bytes that all who live may move in a second.
    pub(crate) fn budget(&self) -> u64 {
        self.reports().map(|(_, report)| report.budget).sum()
    }
}

/// Where in a volume the middle of each shard lies.
fn payloads_of(path: &Path) -> Result<Vec<u64>> {
    let mut volume = BufReader::new(File::open(path)?);
    let (mut payloads, mut at) = (Vec::new(), VOLUME_HEADER);
    loop {
        let mut head = [0; 8];
        volume.seek(SeekFrom::Start(at))?;
        if volume.read_exact(&mut head).is_err() {
            return Ok(payloads);
        }
        let [b'D', b'M', b'S', b'H', length @ ..] = head else { return Ok(payloads) };
        let length = u64::from(u32::from_le_bytes(length));
        payloads.push(at + ENTRY_HEADER + length / 2);
        at += ENTRY_HEADER + length.next_multiple_of(8);
    }
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let mut volume = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    volume.seek(SeekFrom::Start(at))?;
    volume.read_exact(&mut byte)?;
    volume.seek(SeekFrom::Start(at))?;
    volume.write_all(&byte.map(|byte| byte ^ 0x10))?;
    Ok(())
}
