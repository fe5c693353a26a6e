//! A node's directory: its settings, and the ticket of the node that runs there.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind as Io, Write};
use std::path::Path;
use std::time::Duration;

use datamesh::ports::Identity;
use datamesh::{Error, ErrorKind, Mesh, Ticket};
use serde_json::{Value, json};

use crate::output::{Output, say};
use crate::{Result, admit};

/// The settings, as JSON.
const SETTINGS: &str = "node.json";

/// The ticket, while a node runs.
const TICKET: &str = "ticket";

/// The node's own key, which the library keeps there.
const IDENTITY: &str = "identity.key";

/// Where a node listens that was not told.
const LISTEN: &str = "/ip4/0.0.0.0/tcp/0";

/// How long a node that is run for a moment looks for a member.
const MEET: Duration = Duration::from_secs(30);

/// What a node was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<String>,
    pub(crate) announce: Vec<String>,
    pub(crate) zone: Option<String>,
    pub(crate) capacity: Option<u64>,
}

impl Settings {
    /// These, with what they leave out from others.
    fn or(self, kept: Self) -> Self {
        let first = |now: Vec<String>, kept| if now.is_empty() { kept } else { now };
        Self {
            listen: first(self.listen, kept.listen),
            announce: first(self.announce, kept.announce),
            zone: self.zone.or(kept.zone),
            capacity: self.capacity.or(kept.capacity),
        }
    }

    /// A builder with what was told, listening.
    pub(crate) fn builder(&self, directory: &Path) -> datamesh::Builder {
        let mut builder = self.quiet_builder(directory);
        for address in &self.listen {
            builder = builder.listen(address);
        }
        if self.listen.is_empty() {
            builder = builder.listen(LISTEN);
        }
        for address in &self.announce {
            builder = builder.announce(address);
        }
        builder
    }

    /// The same without a port.
    fn quiet_builder(&self, directory: &Path) -> datamesh::Builder {
        let mut builder = datamesh::builder().path(directory);
        if let Some(zone) = &self.zone {
            builder = builder.zone(zone);
        }
        if let Some(capacity) = self.capacity {
            builder = builder.capacity(capacity);
        }
        builder
    }

    /// Refuses addresses that cannot be meant before anything is made.
    fn check(&self) -> Result<()> {
        for text in self.listen.iter().chain(&self.announce) {
            datamesh::net::libp2p::check_address(&text.parse()?)?;
        }
        Ok(())
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let value = json!({
            "listen": self.listen,
            "announce": self.announce,
            "zone": self.zone,
            "capacity": self.capacity,
        });
        replace(directory, SETTINGS, format!("{value:#}\n").as_bytes(), 0o666)
    }

    fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(SETTINGS);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == Io::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| invalid(&format!("{} is no JSON: {error}", path.display())))?;
        let wrong = |name: &str| invalid(&format!("{}: {name} is of another kind", path.display()));
        let texts = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                list.iter().map(|text| Ok(text.as_str().ok_or_else(|| wrong(name))?.to_owned())).collect()
            }
            Some(_) => Err(wrong(name)),
        };
        let zone = value.get("zone").filter(|zone| !zone.is_null());
        let capacity = value.get("capacity").filter(|capacity| !capacity.is_null());
        Ok(Self {
            listen: texts("listen")?,
            announce: texts("announce")?,
            zone: zone
                .map(|zone| zone.as_str().map(str::to_owned).ok_or_else(|| wrong("zone")))
                .transpose()?,
            capacity: capacity.map(|bytes| bytes.as_u64().ok_or_else(|| wrong("capacity"))).transpose()?,
        })
    }
}

/// Begins a mesh; with a file for its admission key one that admits by certificate, this first node for a year.
pub(crate) async fn init(
    directory: &Path,
    settings: Settings,
    admission: Option<&Path>,
    output: Output,
) -> Result<()> {
    if is_node(directory) {
        let text = format!("{} is a node's directory already; run it", directory.display());
        return Err(Error::new(ErrorKind::AlreadyExists, text).into());
    }
    settings.check()?;
    let mut builder = settings.quiet_builder(directory);
    if let Some(key) = admission {
        let admission = admit::open_or_create_key(key)?;
        fs::create_dir_all(directory)?;
        let own = admit::open_or_create_identity(&directory.join(IDENTITY))?;
        let certificate = admit::for_a_year(&admission, own.node_id())?;
        builder = builder.admission([admission.key()]).certificate(certificate);
    }
    let mesh = builder.open().await?;
    let node = mesh.node_id();
    mesh.shutdown().await?;
    settings.write(directory)?;
    tell(directory, node, false, output);
    Ok(())
}

/// Makes a directory a node of a mesh, whose members it then knows.
pub(crate) async fn join(
    directory: &Path,
    settings: Settings,
    ticket: Ticket,
    rejoin: bool,
    output: Output,
) -> Result<()> {
    settings.check()?;
    // A client until it runs: nobody should wait for a node that is not there yet. One that is a node already offers what
    // it did, for with less it would be leaving.
    let builder = if is_node(directory) {
        Settings::read(directory)?.quiet_builder(directory)
    } else {
        datamesh::builder().path(directory).capacity(0)
    };
    let builder = if rejoin { builder.rejoin(ticket) } else { builder.join(ticket) };
    let mesh = builder.open().await?;
    let (node, is_admitting) = (mesh.node_id(), !mesh.admission_keys().is_empty());
    mesh.shutdown().await?;
    settings.or(Settings::read(directory)?).write(directory)?;
    tell(directory, node, is_admitting, output);
    Ok(())
}

/// Runs the node of a directory for a moment, with another member connected if there is one.
pub(crate) async fn open(directory: &Path) -> Result<Mesh> {
    let mesh = settings(directory, Settings::default())?.builder(directory).open().await?;
    match mesh.wait_for_nodes(mesh.nodes().len().min(2), MEET).await {
        Ok(()) => Ok(mesh),
        Err(error) => {
            mesh.shutdown().await?;
            Err(error.into())
        }
    }
}

fn tell(directory: &Path, node: datamesh::NodeId, needs_certificate: bool, output: Output) {
    let data = directory.display().to_string();
    let value = json!({ "node": node.to_string(), "data": data, "needs_certificate": needs_certificate });
    output.result(&value, || {
        say!("node    {node}");
        say!("data    {data}");
        say!("Run it:  node run {data}");
        if needs_certificate {
            admit::tell(node);
        }
    });
}

/// Whether a directory is a node's: its settings are written last.
fn is_node(directory: &Path) -> bool {
    directory.join(SETTINGS).exists()
}

/// What the node of a directory is to run with: what it is told now, and what it was told before.
pub(crate) fn settings(directory: &Path, now: Settings) -> Result<Settings> {
    if !is_node(directory) {
        let text =
            format!("{} is no node's directory; use `node init` or `node join` first", directory.display());
        return Err(invalid(&text).into());
    }
    Ok(now.or(Settings::read(directory)?))
}

/// Keeps the ticket where those find it who may read the directory, and nobody else.
pub(crate) fn write_ticket(directory: &Path, ticket: &str) -> Result<()> {
    replace(directory, TICKET, ticket.as_bytes(), 0o600)
}

/// Puts a file in the place of another: whoever reads it, also after a power cut, finds the old one or the new one whole.
/// The mode is that of Unix, before the process's mask.
fn replace(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    // Left by one that was killed while it wrote.
    let _ = fs::remove_file(&new);
    let mut file = options.open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fs::rename(new, directory.join(name))?)
}

/// Takes the ticket away when the node ends.
pub(crate) fn remove_ticket(directory: &Path) {
    let _ = fs::remove_file(directory.join(TICKET));
}

/// The ticket of the node that runs in a directory.
pub(crate) fn read_ticket(directory: &Path) -> Result<String> {
    fs::read_to_string(directory.join(TICKET)).map(|text| text.trim().to_owned()).map_err(|error| {
        let text = format!("no node runs in {}; start it with `node run`", directory.display());
        Error::new(ErrorKind::Unavailable, text).with_source(error).into()
    })
}

fn invalid(text: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}
