//! What a short-lived client does with objects.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use datamesh::{Capability, Explanation, ExtentHealth, Mesh, Progress, Ticket};
use serde_json::json;

use crate::output::{Output, progress_bar, say, speed};
use crate::{Result, read_line};

/// How long a client tries before it gives a small request up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done with an object.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Store a file and print its own capability, which reads and removes it
    Put {
        /// A regular file
        file: PathBuf,
    },
    /// Write an object to a new file
    Get {
        /// An own or read capability, or -
        capability: String,
        /// Must not exist; appears when it is complete
        out: PathBuf,
    },
    /// Print an object's length, media type and metadata
    Stat {
        /// An own or read capability, or -
        capability: String,
    },
    /// Print who holds what and how each is reached, and how many more holders may be lost
    Health {
        /// Any capability, or -
        capability: String,
    },
    /// Remove an object; needs its own capability
    Remove {
        /// An own capability, or -
        capability: String,
    },
}

/// A client that keeps nothing.
pub(crate) async fn open(ticket: Ticket) -> Result<Mesh> {
    Ok(datamesh::builder().capacity(0).join(ticket).open().await?)
}

/// Leaves, whatever came of it.
pub(crate) async fn close(mesh: &Mesh, done: Result<()>) -> Result<()> {
    let closed = mesh.shutdown().await;
    done?;
    Ok(closed?)
}

pub(crate) async fn act(mesh: &Mesh, verb: Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Put { file } => put(mesh, &file, output).await,
        Verb::Get { capability, out } => get(mesh, &read_capability(&capability)?, &out, output).await,
        Verb::Stat { capability } => stat(mesh, &read_capability(&capability)?, output).await,
        Verb::Health { capability } => {
            let health = mesh.explain(read_capability(&capability)?).deadline(PATIENCE).await?;
            print_health(&health, output);
            Ok(())
        }
        Verb::Remove { capability } => remove(mesh, &read_capability(&capability)?, output).await,
    }
}

fn read_capability(argument: &str) -> Result<Capability> {
    if argument == "-" { Ok(read_line()?.parse()?) } else { Ok(argument.parse()?) }
}

async fn put(mesh: &Mesh, file: &Path, output: Output) -> Result<()> {
    let len = std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    let bar = progress_bar(len);
    let told = bar.clone();
    let mut put = mesh.put(file).progress(move |Progress { done, .. }| told.set_position(done));
    if let Some(name) = file.file_name() {
        put = put.metadata("name", name.to_string_lossy());
    }
    let began = Instant::now();
    let receipt = put.await?;
    bar.finish_and_clear();
    let holders =
        if receipt.holders.is_empty() { receipt.manifest_holders.len() } else { receipt.holders.len() };
    let speed = speed(receipt.len, began.elapsed());
    let text = receipt.capability.to_text();
    let value = json!({
        "capability": text.as_str(),
        "bytes": receipt.len,
        "holders": holders,
        "margin": receipt.margin,
        "seconds": began.elapsed().as_secs_f64(),
    });
    // Before what nobody needs: it is lost with this process.
    output.capability(text.as_str(), &value)?;
    output.remark("that is its own capability, which reads and removes it");
    output.remark(&format!("{speed}, on {holders} nodes, margin {}", receipt.margin));
    Ok(())
}

async fn get(mesh: &Mesh, capability: &Capability, out: &Path, output: Output) -> Result<()> {
    let bar = progress_bar(mesh.stat(capability).deadline(PATIENCE).await?.len);
    let told = bar.clone();
    let began = Instant::now();
    let get = mesh.get(capability).progress(move |Progress { done, .. }| told.set_position(done));
    let len = get.to_path(out).await?;
    bar.finish_and_clear();
    output.remark(&format!("{}, in {}", speed(len, began.elapsed()), out.display()));
    if output.json {
        let seconds = began.elapsed().as_secs_f64();
        say!("{}", json!({ "bytes": len, "path": out.display().to_string(), "seconds": seconds }));
    }
    Ok(())
}

async fn stat(mesh: &Mesh, capability: &Capability, output: Output) -> Result<()> {
    let stat = mesh.stat(capability).deadline(PATIENCE).await?;
    let value = json!({
        "object": stat.object.to_string(),
        "length": stat.len,
        "redundancy": stat.redundancy.to_string(),
        "media_type": stat.media_type,
        "metadata": stat.metadata,
    });
    output.result(&value, || {
        say!("object      {}", stat.object);
        say!("length      {} bytes", stat.len);
        say!("redundancy  {}", stat.redundancy);
        say!("media type  {}", stat.media_type.as_deref().unwrap_or("-"));
        for (key, value) in &stat.metadata {
            say!("{key:<11} {value}");
        }
    });
    Ok(())
}

async fn remove(mesh: &Mesh, capability: &Capability, output: Output) -> Result<()> {
    let removal = mesh.remove(capability).deadline(PATIENCE).await?;
    let unreached: Vec<String> = removal.unreached.iter().map(ToString::to_string).collect();
    output.result(&json!({ "nodes": removal.nodes, "unreached": unreached }), || {
        say!("removed from {} nodes", removal.nodes);
        for node in &unreached {
            say!("not told: {node}; what it holds stays until it is told");
        }
    });
    Ok(())
}

fn print_health(explanation: &Explanation, output: Output) {
    let health = &explanation.health;
    let shards = |node| {
        let indexes = |extent: &ExtentHealth| {
            extent
                .holders
                .iter()
                .find(|(holder, _)| holder == node)
                .map_or(0, |(_, indexes)| indexes.len() * extent.segments)
        };
        health.extents.iter().map(indexes).sum::<usize>()
    };
    let value = json!({
        "object": health.object.to_string(),
        "redundancy": health.redundancy.to_string(),
        "margin": health.margin,
        "expected_margin": health.expected_margin,
        "zone_margin": health.zone_margin,
        "holders": explanation.without.iter().map(|(node, without)| json!({
            "node": node.to_string(),
            "shards": shards(node),
            "manifest": health.manifest_holders.contains(node),
            "margin_without": without,
            "silent": health.unreached.contains(node),
            "way": health.reached.get(node).map(ToString::to_string),
        })).collect::<Vec<_>>(),
    });
    output.result(&value, || {
        say!("object      {}", health.object);
        say!("redundancy  {}", health.redundancy);
        match health.margin {
            Some(margin) => say!("margin      {margin} of {}", health.expected_margin),
            None => say!("margin      none: it cannot be read now"),
        }
        if let Some(zones) = health.zone_margin {
            say!("zones       any {zones} of them may be lost");
        }
        for (node, without) in &explanation.without {
            let manifest = if health.manifest_holders.contains(node) { ", the manifest" } else { "" };
            let left = without
                .map_or("unreadable without it".to_owned(), |margin| format!("margin {margin} without it"));
            let silent = if health.unreached.contains(node) { ", did not answer" } else { "" };
            let way = health.reached.get(node).map_or_else(|| "-".to_owned(), ToString::to_string);
            say!("{}  {way:<12}  {} shards{manifest}; {left}{silent}", node.fmt_short(), shards(node));
        }
    });
}
