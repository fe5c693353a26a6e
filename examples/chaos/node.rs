//! One node, as a process of its own.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use clap::Args;
use datamesh::runtime::NativeRuntime;
use datamesh::store::{DiskOptions, DiskStore};
use datamesh::{Builder, CareOptions, Margins, Mesh, NodeId, TransportPreference};
use datamesh_core::testing::clock::ShiftedClock;
use futures::executor::block_on;
use serde_json::{Value, json};

use crate::{Result, process};

/// After so much silence a node counts as gone.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long a node must have been a member before shards are moved to it.
const SETTLE: Duration = Duration::from_secs(2);

/// How often a node looks at everything without a reason.
const SURVEY_INTERVAL: Duration = Duration::from_secs(5);

/// Within this time a node reads again all that it holds.
const SCRUB_PERIOD: Duration = Duration::from_secs(60);

/// How often it tells how it is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// The cache of its store, a quarter of the usual one: it is full, and memory no longer grows for it, before memory is
/// judged.
const CACHE_BYTES: usize = 1 << 20;

/// How long leaving may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(120);

/// What the process is told about the node.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Told {
    #[arg(long, hide = true)]
    listen: Vec<String>,
    #[arg(long, hide = true)]
    announce: Vec<String>,
    /// Milliseconds by which its wall clock is off.
    #[arg(long, hide = true, default_value_t = 0, allow_negative_numbers = true)]
    clock: i64,
}

/// What a node tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) node: Option<NodeId>,
    pub(crate) ticket: String,
    /// Whether it has left the mesh, with all that it held brought to others.
    pub(crate) left: bool,
    /// The extents that it is the first to look after and that are not as they should be.
    pub(crate) short: u64,
    pub(crate) rebuilt: u64,
    pub(crate) moved: u64,
    pub(crate) distrusted: u64,
}

impl Report {
    fn of(mesh: &Mesh, ticket: &str, left: bool) -> Value {
        let (care, metrics) = (mesh.care(), mesh.metrics());
        let Margins { short, open, manifests_short, .. } = care.margins;
        json!({
            "node": mesh.node_id().to_string(),
            "ticket": ticket,
            "left": left,
            "short": short + open + manifests_short,
            "rebuilt": metrics.repair_bytes_written,
            "moved": metrics.bytes_moved,
            "distrusted": mesh.nodes().iter().filter(|node| !node.trusted).count(),
        })
    }

    /// Reads a line of a node's.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        Some(Self {
            node: Some(value.get("node")?.as_str()?.parse().ok()?),
            ticket: value.get("ticket")?.as_str()?.to_owned(),
            left: value.get("left")?.as_bool()?,
            short: number("short")?,
            rebuilt: number("rebuilt")?,
            moved: number("moved")?,
            distrusted: number("distrusted")?,
        })
    }
}

/// A node or client whose every byte passes the proxies: on one machine there would be a cheaper way beside them.
pub(crate) fn networked() -> Builder {
    datamesh::builder().transport_preference(TransportPreference::NetworkOnly)
}

/// Runs a node. The first line of its input is the ticket of the mesh to join, or empty; at the line `leave` it
/// brings what it holds to the others; when its input ends it closes its mesh and ends, so that it never outlives who
/// started it for long.
pub(crate) fn run(directory: &Path, told: &Told) -> Result<()> {
    let lines = process::lines()?;
    let ticket = lines.recv()?;
    let care = CareOptions::default()
        .with_grace(GRACE)
        .with_settle(SETTLE)
        .with_survey_interval(SURVEY_INTERVAL)
        .with_scrub_period(SCRUB_PERIOD);
    let mut disk = DiskOptions::default();
    disk.cache_bytes = CACHE_BYTES;
    let runtime = ShiftedClock::new(NativeRuntime::shared()?, told.clock);
    let mut builder = networked()
        .path(directory)
        .storage(DiskStore::open(directory, disk)?)
        .runtime(Arc::new(runtime))
        // The same for all: they share one disk, of which each would see what the others leave.
        .capacity(1 << 40)
        .care(care);
    builder = told.listen.iter().fold(builder, |builder, address| builder.listen(address));
    builder = told.announce.iter().fold(builder, |builder, address| builder.announce(address));
    if !ticket.is_empty() {
        builder = builder.join(ticket.parse()?);
    }
    let mesh = block_on(builder.open())?;
    let ticket = mesh.ticket()?.to_text();
    let mut left = false;
    while writeln!(io::stdout(), "{}", Report::of(&mesh, &ticket, left)).is_ok() {
        match lines.recv_timeout(TELL_EVERY) {
            Ok(line) if line == "leave" => {
                block_on(mesh.drain().deadline(LEAVE_LIMIT).into_future())?;
                left = true;
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(block_on(mesh.shutdown())?)
}
