//! How well an object is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::format::{Capability, Extents, Manifest, Reply, Request};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::object::extent_read::ExtentReader;
use crate::object::gather::gather;
use crate::object::get::{open_extent, open_manifest};
use crate::object::{ASK_LIMIT, Engine};
use crate::placement::{ZoneMargins, margin, rank, zone_margin};
use crate::ports::{Reached, Redundancy};

/// How well an object is kept, as its holders say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The object.
    pub object: ObjectId,
    /// The code that it is stored with.
    pub redundancy: Redundancy,
    /// How many more holders may be lost so that the object can still be read; `None` when it cannot be read now.
    pub margin: Option<usize>,
    /// How many whole zones may be lost, and nothing else, so that it can still be read; `None` when it cannot be now.
    pub zone_margin: Option<usize>,
    /// The margin that it should have: m, or less where the mesh has too few nodes.
    pub expected_margin: usize,
    /// The nodes that keep the manifest.
    pub manifest_holders: Vec<NodeId>,
    /// Each extent.
    pub extents: Vec<ExtentHealth>,
    /// Members that did not answer; what they hold is not counted.
    pub unreached: Vec<NodeId>,
    /// How this node reaches each of the others that may hold some of it, now; one that is not connected is left out.
    pub reached: BTreeMap<NodeId, Reached>,
}

impl Health {
    /// Whether the object has the margin that it should have.
    pub fn is_full(&self) -> bool {
        self.margin.is_some_and(|margin| margin >= self.expected_margin)
    }
}

/// How well one extent is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtentHealth {
    /// The extent.
    pub id: ExtentId,
    /// How many segments it has.
    pub segments: usize,
    /// How many more holders may be lost; `None` when fewer than k shards are there.
    pub margin: Option<usize>,
    /// How many whole zones may be lost, and nothing else; `None` when fewer than k shards are there.
    pub zone_margin: Option<usize>,
    /// Which shard indexes each holder has, of every segment.
    pub holders: Vec<(NodeId, Vec<u8>)>,
}

/// Asks every member what it holds of an object.
pub(crate) async fn health(engine: Arc<Engine>, capability: Capability) -> Result<Health> {
    examine(&engine, capability.object())
        .await
        .map(|(health, _)| health)
        .map_err(|error| error.with_operation("health"))
}

/// The health of an object, and its manifest.
pub(super) async fn examine(engine: &Arc<Engine>, object: ObjectId) -> Result<(Health, Manifest)> {
    let manifest = open_manifest(engine, object).await?;
    let (manifest_holders, mut unreached) = manifest_holders(engine, object).await;
    let count = match &manifest.public().extents {
        Extents::Inline => 0,
        Extents::Single(_) => 1,
        Extents::Many(extents) => extents.len() as u64,
    };
    let mut extents = Vec::new();
    for extent in 0..count {
        let reader = open_extent(engine, &manifest, extent).await?;
        extents.push(extent_health(engine, &reader, &mut unreached).await);
    }
    unreached.sort_unstable();
    unreached.dedup();
    let redundancy = manifest.public().redundancy;
    let members = engine.peers.storage_members();
    let expected_margin = rank(object.as_bytes(), &members).best_margin(redundancy).unwrap_or(0);
    let held = extents.iter().map(|extent| extent.holders.as_slice());
    let zone_margin =
        ZoneMargins::of_object(held, &manifest_holders, &members, redundancy).map(|m| m.zones());
    let mut health = Health {
        object,
        redundancy,
        margin: None,
        zone_margin,
        expected_margin,
        manifest_holders,
        extents,
        unreached,
        reached: engine.peers.reached(&engine.peers.possible_holders()),
    };
    health.margin = margin_without(&health, |_| false);
    Ok((health, manifest))
}

async fn extent_health(
    engine: &Arc<Engine>,
    reader: &ExtentReader,
    unreached: &mut Vec<NodeId>,
) -> ExtentHealth {
    let mut holders = Vec::new();
    for (node, answer) in reader.holdings().await {
        match answer {
            // What a node claims whose proofs were wrong is worth nothing.
            Ok(indexes) if indexes.is_empty() || !engine.peers.is_believed(&node) => {}
            Ok(indexes) => holders.push((node, indexes)),
            Err(_) => unreached.push(node),
        }
    }
    holders.sort();
    let layout = reader.layout();
    let members = engine.peers.storage_members();
    ExtentHealth {
        id: reader.id(),
        segments: usize::from(layout.segments),
        margin: margin(&holders, layout.redundancy.data()),
        zone_margin: zone_margin(&holders, &members, layout.redundancy.data()),
        holders,
    }
}

async fn manifest_holders(engine: &Arc<Engine>, object: ObjectId) -> (Vec<NodeId>, Vec<NodeId>) {
    let nodes = engine.peers.possible_holders();
    let spare = nodes.len() / 3;
    let call =
        |node| (node, engine.peers.call(node, Request::ReadManifest { object }, Bytes::new(), ASK_LIMIT));
    let calls = nodes.into_iter().map(call).collect();
    let (mut holders, mut unreached) = (Vec::new(), Vec::new());
    for (node, answer) in gather(&*engine.runtime, calls, spare).await {
        match answer {
            Ok((Reply::Done, manifest)) if ObjectId::of(&manifest) == object => holders.push(node),
            Ok(_) => {}
            Err(_) => unreached.push(node),
        }
    }
    holders.sort_unstable();
    (holders, unreached)
}

/// The margin of manifest and extents together, as if those who are gone held nothing.
pub(super) fn margin_without(health: &Health, is_gone: impl Fn(&NodeId) -> bool) -> Option<usize> {
    let manifests = health.manifest_holders.iter().filter(|node| !is_gone(node)).count();
    let of_extent = |extent: &ExtentHealth| {
        let holders: Vec<_> = extent.holders.iter().filter(|(node, _)| !is_gone(node)).cloned().collect();
        margin(&holders, health.redundancy.data())
    };
    let manifest = manifests.checked_sub(1)?.min(health.redundancy.parity());
    health.extents.iter().map(of_extent).try_fold(manifest, |least, margin| Some(least.min(margin?)))
}
