//! Who is there, and how they are reached.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use datamesh::ports::Way;
use datamesh::{Error, ErrorKind, Mesh, NodeId, NodeStatus};
use futures::future;
use serde_json::json;

use crate::Result;
use crate::output::{Output, progress_bar, say, speed};

/// The bytes of one step of a measurement, after which the bar moves.
const STEP: u64 = 8 << 20;

/// Prints the members as this client sees them.
pub(crate) async fn peers(mesh: &Mesh, output: Output) -> Result<()> {
    let members: Vec<NodeId> = mesh.nodes().iter().map(|node| node.record.node).collect();
    let pings = future::join_all(members.iter().map(|node| mesh.ping(*node))).await;
    let pings: BTreeMap<NodeId, Duration> =
        members.into_iter().zip(pings).filter_map(|(node, ping)| Some((node, ping.ok()?))).collect();
    // As they are after the pings, which have made the connections.
    let ping = |node: NodeStatus| (pings.get(&node.record.node).copied(), node);
    let rows: Vec<(Option<Duration>, NodeStatus)> = mesh.nodes().into_iter().map(ping).collect();
    let value = rows.iter().map(|(ping, node)| {
        let record = &node.record;
        json!({
            "node": record.node.to_string(),
            "zone": record.zone.as_str(),
            "capacity": record.capacity,
            "answers": ping.is_some(),
            "way": way(node),
            "ping_ms": ping.map(milliseconds),
            "addresses": record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    output.result(&json!({ "members": value.collect::<Vec<_>>() }), || {
        for (ping, node) in &rows {
            let record = &node.record;
            let ping = ping.map_or("no answer".to_owned(), |took| format!("{:.2} ms", milliseconds(took)));
            let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
            let gigabytes = record.capacity as f64 / 1e9;
            say!(
                "{}  {ping:>10}  {:<12}  {gigabytes:>8.1} GB  zone {}  {}",
                record.node,
                way(node).unwrap_or_else(|| "-".to_owned()),
                record.zone,
                addresses.join(" ")
            );
        }
        let answer = rows.iter().filter(|(ping, _)| ping.is_some()).count();
        say!("{answer} of {} members answer", rows.len());
    });
    Ok(())
}

/// How a member is reached.
fn way(node: &NodeStatus) -> Option<String> {
    match (node.reach, node.way) {
        (Some(reach), Some(Way::Network) | None) => Some(reach.to_string()),
        (_, way) => way.map(|way| way.to_string()),
    }
}

pub(crate) async fn forget(mesh: &Mesh, node: &str, output: Output) -> Result<()> {
    let node = find(mesh, node)?;
    mesh.forget(node).await?;
    output.result(&json!({ "forgotten": node.to_string() }), || {
        say!("{node} is forgotten; should it come back, it is a member again");
    });
    Ok(())
}

pub(crate) async fn ping(mesh: &Mesh, peer: &str, count: u32, output: Output) -> Result<()> {
    let node = find(mesh, peer)?;
    let mut times = Vec::new();
    for _ in 0..count.max(1) {
        let took = milliseconds(mesh.ping(node).await?);
        times.push(took);
        output.remark(&format!("{}: {took:.3} ms", node.fmt_short()));
    }
    times.sort_unstable_by(f64::total_cmp);
    let (least, most) = (times.first().copied().unwrap_or(0.0), times.last().copied().unwrap_or(0.0));
    let median = times.get(times.len() / 2).copied().unwrap_or(0.0);
    let value = json!({
        "node": node.to_string(),
        "least_ms": least,
        "median_ms": median,
        "most_ms": most,
        "count": times.len(),
    });
    output.result(&value, || say!("least {least:.3} ms, median {median:.3} ms, most {most:.3} ms"));
    Ok(())
}

pub(crate) async fn bandwidth(mesh: &Mesh, peer: &str, bytes: u64, output: Output) -> Result<()> {
    let node = find(mesh, peer)?;
    let bar = progress_bar(bytes);
    let (mut moved, mut took) = (0, Duration::ZERO);
    while moved < bytes.max(1) {
        let measured = mesh.bandwidth(node, (bytes - moved).min(STEP)).await?;
        moved += measured.bytes;
        took += measured.took;
        bar.set_position(moved.min(bytes));
    }
    bar.finish_and_clear();
    let rate = moved as f64 / took.as_secs_f64().max(1e-9);
    let value = json!({
        "node": node.to_string(),
        "bytes_each_way": moved,
        "seconds": took.as_secs_f64(),
        "bytes_per_s_each_way": rate,
    });
    output.result(&value, || say!("{} each way, both at once", speed(moved, took)));
    Ok(())
}

/// The member whose id begins so.
fn find(mesh: &Mesh, text: &str) -> Result<NodeId> {
    let nodes = mesh.nodes().into_iter().map(|node| node.record.node);
    let mut found = nodes.filter(|node| node.to_string().starts_with(text));
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node),
        (Some(_), Some(_)) => {
            refuse(ErrorKind::InvalidInput, "more than one member's id begins so; give more of it")
        }
        (None, _) => refuse(ErrorKind::NotFound, "no member's id begins so; `node peers` lists them"),
    }
}

fn refuse<T>(kind: ErrorKind, text: &str) -> Result<T> {
    Err(Error::new(kind, text).into())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
