//! A campaign: random work on a mesh that misfortunes befall, and then everything that was promised is checked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::Limits;
use crate::ports::Redundancy;
use crate::sim::atlas::Misfortune;
use crate::sim::draws::Draws;
use crate::sim::failure::Failure;
use crate::sim::mesh::{Parts, SimBuilder, SimMesh};
use crate::sim::play::Play;
use crate::sim::progress::{Progress, Watcher};

/// Segments are short, so that objects of some kilobytes have several.
const SEGMENT_BYTES: u32 = 16 << 10;

/// The settings of one simulated run; what is not set is drawn from the seed.
///
/// ```
/// use std::time::Duration;
/// use datamesh_core::sim::{Campaign, Failure, Parts, Summary};
///
/// fn an_hour(seed: u64, parts: Parts) -> Result<Summary, Failure> {
///     Campaign::new(seed, parts).duration(Duration::from_secs(3600)).run()
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a campaign does nothing until it is run"]
pub struct Campaign {
    seed: u64,
    parts: Parts,
    nodes: Option<usize>,
    duration: Duration,
    misfortunes: Vec<Misfortune>,
    trace: bool,
    watcher: Option<Watcher>,
}

/// What a run that kept every promise did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Operations by what was asked and what became of it.
    pub operations: BTreeMap<String, u64>,
    /// Misfortunes by their name.
    pub misfortunes: BTreeMap<&'static str, u64>,
    /// Objects whose put was acknowledged.
    pub objects: u64,
    /// Bytes of objects that were acknowledged and could not be read at the end: always 0 in a summary.
    pub bytes_lost: u64,
    /// Bytes that were put.
    pub bytes_put: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// Events of the simulator.
    pub events: u64,
    /// A hash over all events: equal for equal seeds and settings.
    pub trace_hash: String,
    /// How many nodes there were at the end.
    pub nodes: usize,
}

impl Summary {
    /// Adds another run's numbers; the trace hashes are joined.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.operations {
            *self.operations.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &other.misfortunes {
            *self.misfortunes.entry(name).or_default() += count;
        }
        self.objects += other.objects;
        self.bytes_lost += other.bytes_lost;
        self.bytes_put += other.bytes_put;
        self.simulated += other.simulated;
        self.events += other.events;
        self.nodes = self.nodes.max(other.nodes);
        let joined = format!("{}{}", self.trace_hash, other.trace_hash);
        self.trace_hash = blake3::hash(joined.as_bytes()).to_hex().to_string();
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        writeln!(f, "{hours:.1} simulated hours, {} events", self.events)?;
        writeln!(f, "{} objects stored, {} bytes lost", self.objects, self.bytes_lost)?;
        for (name, count) in &self.operations {
            writeln!(f, "  {name:<32} {count}")?;
        }
        for (name, count) in &self.misfortunes {
            writeln!(f, "  {name:<32} {count} times")?;
        }
        Ok(())
    }
}

impl Campaign {
    /// A run of one simulated hour over three to nine nodes, with every kind of misfortune.
    pub fn new(seed: u64, parts: Parts) -> Self {
        Self {
            seed,
            parts,
            nodes: None,
            duration: Duration::from_secs(3600),
            misfortunes: Misfortune::ALL.to_vec(),
            trace: false,
            watcher: None,
        }
    }

    /// How many nodes there are. Three to nine by default, as the seed says.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// For how long misfortunes befall the mesh, in virtual time. An hour by default.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Which misfortunes there may be; a run has some of them. All by default.
    pub fn misfortunes(mut self, kinds: impl IntoIterator<Item = Misfortune>) -> Self {
        self.misfortunes = kinds.into_iter().collect();
        self
    }

    /// Keeps the last lines of the trace for a failure.
    pub fn trace(mut self, keep: bool) -> Self {
        self.trace = keep;
        self
    }

    /// Tells how far the run is, some times in each second of real time. It has no effect on the run.
    pub fn progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Watcher::new(tell));
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// A [`Failure`] with the first promise that was broken.
    pub fn run(&self) -> Result<Summary, Failure> {
        let mut draws = Draws::new(self.seed, "campaign");
        let nodes = self.nodes.unwrap_or_else(|| 3 + draws.index(7));
        let redundancy = redundancy_of(&mut draws);
        let limits = Limits::default().with_memory_bytes(128 << 10).with_inbound_requests(16);
        let sim = self.builder(nodes, redundancy, limits.clone(), &mut draws).open()?;
        let _ends = Ends(sim.clone());
        let play = Play::new(&sim, &mut draws, redundancy, limits, SEGMENT_BYTES, &self.misfortunes);
        let duration = self.duration;
        let played = sim.run({
            let play = Arc::clone(&play);
            async move { play.run(draws, duration).await }
        })?;
        let options = format!("{nodes} nodes, {redundancy}, {} s", duration.as_secs());
        match played {
            Ok(()) => Ok(play.summary()),
            Err(broken) => {
                let failure = sim.failure(broken.invariant, broken.details);
                Err(Failure { options, at: broken.at, ..failure })
            }
        }
    }

    fn builder(&self, nodes: usize, redundancy: Redundancy, limits: Limits, draws: &mut Draws) -> SimBuilder {
        let zones = if draws.chance(300) { 3 } else { 1 };
        SimMesh::builder(self.seed, self.parts.clone())
            .nodes(nodes)
            .zones(zones)
            .redundancy(redundancy)
            .segment_bytes(SEGMENT_BYTES)
            .limits(limits)
            .trace(self.trace)
            .watcher(self.watcher.clone())
            .acquainted(nodes > 16)
    }
}

/// Ends the simulation when dropped: clients and listeners own handles of it.
struct Ends(SimMesh);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn redundancy_of(draws: &mut Draws) -> Redundancy {
    let choices = [(4, 2), (4, 2), (4, 2), (2, 2), (3, 3), (1, 2)];
    let chosen = draws.pick(&choices).and_then(|(data, parity)| Redundancy::new(*data, *parity).ok());
    chosen.unwrap_or_default()
}
