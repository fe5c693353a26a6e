//! The processes of the nodes, and what is done to them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datamesh::NodeId;
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::node::Report;
use crate::process::{self, Process};
use crate::proxy::{self, Links, Ports};

/// The place of a node, whether or not its process lives.
struct Place {
    directory: PathBuf,
    ports: Ports,
    /// Milliseconds by which its clock is off.
    clock: i64,
    process: Option<Process<Report>>,
}

impl Place {
    fn arguments(&self, number: usize) -> Vec<OsString> {
        let Ports { own, proxy } = self.ports;
        // One half is reached over TCP, the other over QUIC.
        let announced = if is_tcp(number) {
            format!("/ip4/127.0.0.1/tcp/{proxy}")
        } else {
            format!("/ip4/127.0.0.1/udp/{proxy}/quic-v1")
        };
        let clock = self.clock.to_string();
        let words = [
            ("--listen", format!("/ip4/127.0.0.1/tcp/{own}")),
            ("--listen", format!("/ip4/127.0.0.1/udp/{own}/quic-v1")),
            ("--announce", announced),
            ("--clock", clock),
        ];
        let mut arguments = vec!["--node".into(), self.directory.clone().into()];
        arguments.extend(
            words.into_iter().flat_map(|(name, value)| [OsString::from(name), OsString::from(value)]),
        );
        arguments
    }
}

/// Whether a node is reached over TCP.
pub(crate) fn is_tcp(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// All nodes, and the network between them.
pub(crate) struct Swarm {
    places: Vec<Place>,
    pub(crate) links: Arc<Links>,
}

impl Swarm {
    pub(crate) fn new(root: &Path, count: usize) -> Result<Self> {
        let links = Links::new(count);
        let mut places = Vec::new();
        for (number, pair) in proxy::free_ports(2 * count)?.as_chunks().0.iter().enumerate() {
            let [own, proxy] = *pair;
            let ports = Ports { own, proxy };
            let directory = root.join(format!("node-{}", number + 1));
            places.push(Place { directory, ports, clock: 0, process: None });
        }
        let ports: Vec<Ports> = places.iter().map(|place| place.ports).collect();
        proxy::start(&links, &ports)?;
        Ok(Self { places, links })
    }

    fn place(&mut self, number: usize) -> Result<&mut Place> {
        Ok(self.places.get_mut(number).ok_or("there is no such node")?)
    }

    /// Starts a node. The first begins the mesh, the others join it by the ticket.
    pub(crate) fn start(&mut self, number: usize, ticket: &str) -> Result<()> {
        let place = self.place(number)?;
        let started = Process::start(place.arguments(number), ticket, Report::from_line);
        place.process = Some(started.map_err(|error| format!("node {}: {error}", number + 1))?);
        self.note_processes();
        Ok(())
    }

    /// Kills a node's process. One that is stopped dies, too.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        let mut process = self.place(number)?.process.take().ok_or("that node has no process")?;
        process.kill()?;
        self.note_processes();
        Ok(())
    }

    /// Lets all that live end by themselves, all at once. Says which of them did not, and why.
    pub(crate) fn end(&mut self) -> Vec<String> {
        let nodes = self.places.iter_mut().enumerate();
        process::end_all(nodes.filter_map(|(number, place)| Some((number, place.process.take()?))).collect())
    }

    /// Takes all from the disk of a node that does not run.
    pub(crate) fn wipe(&mut self, number: usize) -> Result<()> {
        Ok(fs::remove_dir_all(&self.place(number)?.directory)?)
    }

    /// Sets by how much a node's clock is off, from its next start on.
    pub(crate) fn shift(&mut self, number: usize, milliseconds: i64) -> Result<()> {
        self.place(number)?.clock = milliseconds;
        Ok(())
    }

    /// Stops a process where it is, or lets it go on.
    pub(crate) fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        let process = self.place(number)?.process.as_ref().ok_or("that node has no process")?;
        let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw).ok_or("a process without an id")?;
        Ok(kill_process(id, signal)?)
    }

    /// Tells a node to leave politely.
    pub(crate) fn tell_to_leave(&mut self, number: usize) -> Result<()> {
        self.place(number)?.process.as_mut().ok_or("that node has no process")?.tell("leave")
    }

    /// What a node that lives said last.
    pub(crate) fn report(&self, number: usize) -> Option<Report> {
        Some(self.places.get(number)?.process.as_ref()?.report())
    }

    /// Those that live, by number.
    pub(crate) fn reports(&self) -> impl Iterator<Item = (usize, Report)> + '_ {
        (0..self.places.len()).filter_map(|number| Some((number, self.report(number)?)))
    }

    /// The ids of those that live.
    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.reports().filter_map(|(_, report)| report.node).collect()
    }

    /// The processes of those that live, by number.
    pub(crate) fn processes(&self) -> Vec<(usize, u32)> {
        let id = |(number, place): (usize, &Place)| Some((number, place.process.as_ref()?.id()));
        self.places.iter().enumerate().filter_map(id).collect()
    }

    fn note_processes(&self) {
        self.links.set_processes(self.processes());
    }
}
