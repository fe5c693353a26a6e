//! Who may hold data in a mesh that was begun with `init --admission KEYFILE`, and who may join a mesh: its key.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use datamesh::ports::{Runtime, Timestamp};
use datamesh::runtime::NativeRuntime;
use datamesh::{Admission, ErrorKind, Mesh, NodeId, NodeIdentity, SignedCertificate, Zone};
use serde_json::json;

use crate::Result;
use crate::output::{Output, say};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a node is admitted to.
#[derive(Args)]
pub(crate) struct Grant {
    /// The zone in which it counts, whatever it says; by default what it says
    #[arg(long)]
    zone: Option<Zone>,

    /// The most bytes that it counts for; by default what it says
    #[arg(long, value_name = "BYTES", default_value_t = u64::MAX, hide_default_value = true)]
    capacity: u64,

    /// For how many days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// The admission key of a file, which is made where there is none.
pub(crate) fn open_or_create_key(path: &Path) -> Result<Admission> {
    Ok(Admission::new(Arc::new(open_or_create_identity(path)?), None))
}

pub(crate) fn open_or_create_identity(path: &Path) -> Result<NodeIdentity> {
    let runtime: Arc<dyn Runtime> = NativeRuntime::shared()?;
    Ok(NodeIdentity::open_or_create(path, || runtime.random())?)
}

/// The admission key of a file that is there.
fn open_identity(path: &Path) -> Result<NodeIdentity> {
    if !path.exists() {
        let text =
            format!("{} is no admission key; `node init DIR --admission FILE` makes one", path.display());
        return Err(datamesh::Error::new(ErrorKind::InvalidInput, text).into());
    }
    open_or_create_identity(path)
}

/// Admits a node for a year, as it describes itself.
pub(crate) fn for_a_year(admission: &Admission, node: NodeId) -> Result<SignedCertificate> {
    issue(admission, node, Grant { zone: None, capacity: u64::MAX, days: 365 })
}

fn issue(admission: &Admission, node: NodeId, grant: Grant) -> Result<SignedCertificate> {
    let end = std::time::UNIX_EPOCH.elapsed()? + DAY * grant.days;
    let end = Timestamp(u64::try_from(end.as_millis())?);
    Ok(admission.issue(node, grant.zone, grant.capacity, end))
}

/// Prints the certificate of a node.
pub(crate) fn admit(node: &str, key: &Path, grant: Grant, output: Output) -> Result<()> {
    let admission = Admission::new(Arc::new(open_identity(key)?), None);
    let certificate = issue(&admission, node.parse()?, grant)?;
    output.line("certificate", &certificate.to_text());
    Ok(())
}

/// Revokes nodes with the admission key of a file: nobody of the mesh answers them any more.
pub(crate) async fn revoke(mesh: &Mesh, nodes: &[String], key: &Path, output: Output) -> Result<()> {
    let nodes = nodes.iter().map(|node| node.parse()).collect::<datamesh::Result<Vec<NodeId>>>()?;
    let last = mesh.epoch();
    let mut admission = Admission::new(Arc::new(open_identity(key)?), last.as_ref());
    if !mesh.admission_keys().contains(&admission.key()) {
        let text = format!("{} is not the admission key of this mesh", key.display());
        return Err(datamesh::Error::new(ErrorKind::AccessDenied, text).into());
    }
    let mut epoch = None;
    for node in nodes {
        epoch = Some(admission.revoke(node)?);
    }
    let Some(epoch) = epoch else { return Ok(()) };
    let (number, revoked) = (epoch.epoch().number, epoch.epoch().revoked.len());
    let told = mesh.set_epoch(epoch).await?;
    output.result(&json!({ "epoch": number, "revoked": revoked, "told": told }), || {
        say!(
            "epoch {number}: {revoked} nodes are revoked; {told} members have been told, and tell the others."
        );
        say!("Change the mesh key as well, or they may come back as clients.");
    });
    Ok(())
}

/// Changes the key of the mesh; the old one is accepted for so long.
pub(crate) async fn rotate_key(mesh: &Mesh, overlap: Duration, output: Output) -> Result<()> {
    let until = mesh.rotate_key(overlap).await?;
    let generation = mesh.metrics().key_generation;
    output.result(&json!({ "generation": generation, "old_key_until_ms": until.0 }), || {
        let seconds = overlap.as_secs();
        say!("the mesh has key {generation}; the one before it is accepted for {seconds} s more.");
        say!("Tickets that were given out before end with it: `node ticket` prints a new one.");
    });
    Ok(())
}

/// Tells who joined a mesh that admits by certificate what is still missing.
pub(crate) fn tell(node: NodeId) {
    say!(
        "this mesh asks for a certificate; whoever has its admission key issues one:  node admit {node} --key FILE"
    );
    say!("and this node is run with it once:  node run DIR --certificate CERTIFICATE");
}
