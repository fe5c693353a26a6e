//! One node, as a process of its own.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use datamesh::{CareOptions, Margins, Mesh};
use futures::executor::block_on;
use serde_json::{Value, json};

use crate::{Result, process};

/// After so much silence a node counts as gone.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Within this time a node reads again all that it holds.
const SCRUB_PERIOD: Duration = Duration::from_secs(10);

/// How long a node must have been a member before shards are moved to it.
const SETTLE: Duration = Duration::from_secs(2);

/// How often a node looks at everything without a reason.
const SURVEY_INTERVAL: Duration = Duration::from_secs(3);

/// How often it tells how it is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What a node tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) ticket: String,
    /// Rounds over all that it holds.
    pub(crate) rounds: u64,
    /// The extents that it is the first to look after, and those of them that are not as they should be.
    pub(crate) extents: u64,
    pub(crate) short: u64,
    /// Bytes of shards that were read to make others, that were made, and that were copied to where they belong.
    pub(crate) read: u64,
    pub(crate) rebuilt: u64,
    pub(crate) moved: u64,
    pub(crate) set_aside: u64,
    pub(crate) scrub_rounds: u64,
    /// Bytes that it may move in a second.
    pub(crate) budget: u64,
}

impl Report {
    fn of(mesh: &Mesh, ticket: &str) -> Value {
        let (care, metrics) = (mesh.care(), mesh.metrics());
        let Margins { short, open, manifests_short, .. } = care.margins;
        json!({
            "ticket": ticket,
            "rounds": care.rounds,
            "extents": care.margins.extents(),
            "short": short + open + manifests_short,
            "read": metrics.repair_bytes_read,
            "rebuilt": metrics.repair_bytes_written,
            "moved": metrics.bytes_moved,
            "set_aside": metrics.shards_set_aside,
            "scrub_rounds": metrics.scrub_rounds,
            "budget": care.bytes_per_second,
        })
    }

    /// Reads a line of a node's.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        Some(Self {
            ticket: value.get("ticket")?.as_str()?.to_owned(),
            rounds: number("rounds")?,
            extents: number("extents")?,
            short: number("short")?,
            read: number("read")?,
            rebuilt: number("rebuilt")?,
            moved: number("moved")?,
            set_aside: number("set_aside")?,
            scrub_rounds: number("scrub_rounds")?,
            budget: number("budget")?,
        })
    }
}

/// Runs a node. The first line of its input is the ticket of the mesh to join, or empty; when its input ends it
/// closes its mesh and ends, so that it never outlives who started it for long.
pub(crate) fn run(directory: &Path, budget: Option<u64>) -> Result<()> {
    let lines = process::lines()?;
    let ticket = lines.recv()?;
    let mut care = CareOptions::default()
        .with_grace(GRACE)
        .with_scrub_period(SCRUB_PERIOD)
        .with_settle(SETTLE)
        .with_survey_interval(SURVEY_INTERVAL);
    if let Some(bytes) = budget {
        care = care.with_bytes_per_second(bytes);
    }
    let mut builder = datamesh::builder().path(directory).listen("/ip4/127.0.0.1/tcp/0");
    if !ticket.is_empty() {
        builder = builder.join(ticket.parse()?);
    }
    // The same for all: they share one disk, of which each would see what the others leave.
    let mesh = block_on(builder.capacity(1 << 40).care(care).open())?;
    let ticket = mesh.ticket()?.to_text();
    while writeln!(io::stdout(), "{}", Report::of(&mesh, &ticket)).is_ok() {
        // Nothing more is told but the end.
        if lines.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(block_on(mesh.shutdown())?)
}
