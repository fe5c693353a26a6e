//! What must hold, one function for each promise. An error says what was seen instead.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::format::{Layout, StoredExtent};
use crate::id::{ExtentId, NodeId, ObjectId, ShardId};
use crate::mesh::Mesh;
use crate::placement::{Member, margin, rank};
use crate::ports::Table;
use crate::sim::mesh::SimMesh;
use crate::sim::model::{Model, Object, State};
use crate::sim::world::lock;

/// What is wrong, in words.
pub(super) type Check = Result<(), String>;

/// A read of an object that is stored gives its bytes whenever no more holders are lost than its margin allows.
pub(super) fn i1_acknowledged_reads_back(promised: bool, outcome: &Result<Bytes>) -> Check {
    match outcome {
        Err(error) if promised => Err(format!("a read that was promised failed: {error:?}")),
        _ => Ok(()),
    }
}

/// A read never gives other bytes than those that were put.
pub(super) fn i2_no_wrong_bytes(expected: &[u8], outcome: &Result<Bytes>) -> Check {
    match outcome {
        Ok(bytes) if bytes != expected => {
            Err(format!("{} bytes were read that are not the {} put", bytes.len(), expected.len()))
        }
        _ => Ok(()),
    }
}

/// Nothing is on any disk of an object whose put ended with "not stored".
pub(super) fn i3_not_stored_leaves_nothing(sim: &SimMesh, model: &Model) -> Check {
    let mut strange = BTreeSet::new();
    for node in 0..sim.len() {
        let Ok(medium) = sim.medium(node) else { continue };
        for (key, _) in lock(&medium).table(Table::Manifests) {
            let known = <[u8; 32]>::try_from(key.as_ref()).map(ObjectId::from_bytes);
            if !known.is_ok_and(|id| model.objects.contains_key(&id)) {
                strange.insert(key.clone());
            }
        }
    }
    if strange.len() <= model.unknown_puts {
        return Ok(());
    }
    Err(format!("{} manifests nobody has, of {} unknown puts", strange.len(), model.unknown_puts))
}

/// An object that is stored is never called absent or lost while its margin stands: silence is no proof.
pub(super) fn i4_stored_is_never_called_absent(intact: bool, outcome: &Result<Bytes>) -> Check {
    match outcome {
        Err(error) if intact && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            Err(format!("a stored object was called absent or lost: {error:?}"))
        }
        _ => Ok(()),
    }
}

/// All members know the same records, each the one that its node signed last.
pub(super) fn i5_members_agree(meshes: &[Mesh]) -> Check {
    let newest: BTreeMap<NodeId, u64> = meshes.iter().filter_map(Mesh::own_sequence).collect();
    match meshes.iter().find(|mesh| sequences(mesh) != newest) {
        None => Ok(()),
        Some(behind) => {
            let known = sequences(behind);
            let all: BTreeSet<&NodeId> = known.keys().chain(newest.keys()).collect();
            let differs = |node: &&&NodeId| known.get(node) != newest.get(node);
            let told = |node: &NodeId| (node.fmt_short().to_string(), known.get(node), newest.get(node));
            let different: Vec<_> = all.iter().filter(differs).map(|node| told(node)).collect();
            Err(format!(
                "{behind:?} knows other records than were signed (node, known, signed): {different:?}"
            ))
        }
    }
}

fn sequences(mesh: &Mesh) -> BTreeMap<NodeId, u64> {
    mesh.nodes().into_iter().map(|status| (status.record.node, status.record.sequence)).collect()
}

/// An object whose removal reached everybody is gone for good.
pub(super) fn i6_removed_stays_removed(outcome: &Result<Bytes>) -> Check {
    match outcome {
        Ok(_) => Err("an object that was removed everywhere was read".into()),
        Err(_) => Ok(()),
    }
}

/// What a node's records promise is on its disk.
pub(super) fn i8_promised_shards_are_there(sim: &SimMesh, model: &Model) -> Check {
    for node in (0..sim.len()).filter(|node| !model.was_ever_damaged(*node)) {
        for (extent, record) in stored_extents(sim, node) {
            let Ok(layout) = Layout::decode(&record.layout) else { continue };
            let missing = missing_shards(sim, node, &layout, &record.indexes);
            if missing > 0 {
                return Err(format!(
                    "node {node} lacks {missing} shards of its extent {}",
                    extent.fmt_short()
                ));
            }
        }
    }
    Ok(())
}

fn missing_shards(sim: &SimMesh, node: usize, layout: &Layout, indexes: &[u8]) -> usize {
    let Ok(medium) = sim.medium(node) else { return 0 };
    let medium = lock(&medium);
    let right = |id: ShardId| medium.blob(&id).is_some_and(|bytes| ShardId::of(bytes) == id);
    let each = (0..usize::from(layout.segments))
        .flat_map(|segment| indexes.iter().map(move |index| (segment, usize::from(*index))));
    each.filter_map(|(segment, index)| layout.shard(segment, index)).filter(|id| !right(*id)).count()
}

fn stored_extents(sim: &SimMesh, node: usize) -> Vec<(ExtentId, StoredExtent)> {
    let Ok(medium) = sim.medium(node) else { return Vec::new() };
    let medium = lock(&medium);
    let read = |(key, value): (&Bytes, &Bytes)| {
        let id = <[u8; 32]>::try_from(key.as_ref()).ok()?;
        Some((ExtentId::from_bytes(id), StoredExtent::decode(value).ok()?))
    };
    medium.table(Table::Extents).filter_map(read).collect()
}

/// Nodes, and the indexes of the shards that each has whole.
type Held = Vec<(usize, Vec<u8>)>;

/// Every stored object has on the disks the margin that was acknowledged, less what was damaged since.
pub(super) fn i8_margins_are_as_acknowledged(sim: &SimMesh, model: &Model) -> Check {
    let mut held: BTreeMap<ExtentId, (usize, Held)> = BTreeMap::new();
    for node in 0..sim.len() {
        for (extent, record) in stored_extents(sim, node) {
            let Ok(layout) = Layout::decode(&record.layout) else { continue };
            let whole = |index: &u8| missing_shards(sim, node, &layout, &[*index]) == 0;
            let indexes = record.indexes.iter().copied().filter(whole).collect();
            held.entry(extent).or_insert((layout.redundancy.data(), Vec::new())).1.push((node, indexes));
        }
    }
    let nobody = BTreeSet::new();
    let stands = |object: &Object| object.state == State::Stored && model.is_promised(object, &nobody);
    for (id, object) in model.objects.iter().filter(|(_, object)| stands(object)) {
        let lost = model.damaged_holders(object).len();
        let Some(least) = object.margin.checked_sub(lost) else { continue };
        let manifests = holders_of_manifest(sim, id).len();
        if manifests <= least {
            let (said, name) = (object.margin, id.fmt_short());
            return Err(format!(
                "object {name} was acknowledged with {said}, {lost} lost; {manifests} manifests"
            ));
        }
        for extent in &object.extents {
            let now = held.get(extent).and_then(|(data, holders)| margin(holders, *data));
            if now.is_none_or(|now| now < least) {
                let said = object.margin;
                let name = id.fmt_short();
                return Err(format!(
                    "object {name} was acknowledged with {said}, {lost} lost, and has {now:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Every stored object has on the disks the margin that the members can give. Decay is not counted, for only a scrub
/// finds it.
pub(super) fn i8_margins_are_restored(sim: &SimMesh, model: &Model) -> Check {
    let members = members(sim);
    if members.is_empty() {
        return Err("no node is up to say who is a member".into());
    }
    let mut kept: BTreeMap<ExtentId, (Layout, Held)> = BTreeMap::new();
    for node in 0..sim.len() {
        for (extent, record) in stored_extents(sim, node) {
            let Ok(layout) = Layout::decode(&record.layout) else { continue };
            let there = |index: &u8| absent_shards(sim, node, &layout, *index) == 0;
            let indexes = record.indexes.iter().copied().filter(there).collect();
            kept.entry(extent).or_insert((layout, Vec::new())).1.push((node, indexes));
        }
    }
    let stands =
        |object: &Object| object.state == State::Stored && model.is_promised(object, &BTreeSet::new());
    for (id, object) in model.objects.iter().filter(|(_, object)| stands(object)) {
        let name = id.fmt_short();
        for extent in &object.extents {
            let Some((layout, holders)) = kept.get(extent) else { return Err(format!("{name} is lost")) };
            let best = rank(layout.placement.as_bytes(), &members).best_margin(layout.redundancy);
            let now =
                margin(holders, layout.redundancy.data()).map(|now| now.min(layout.redundancy.parity()));
            if now < best {
                let extent = extent.fmt_short();
                return Err(format!("object {name} has {now:?} of {best:?}: extent {extent} on {holders:?}"));
            }
        }
        let (holders, wanted) = (holders_of_manifest(sim, id), object.redundancy.parity() + 1);
        if holders.len() < wanted.min(members.len()) {
            return Err(format!("object {name} has {wanted} manifests on {holders:?} only"));
        }
    }
    Ok(())
}

/// Which shards of an object's extents are on which node's disk, for a failure's text.
pub(super) fn whereabouts(sim: &SimMesh, object: &Object) -> Vec<(ExtentId, Held)> {
    let on = |extent: &ExtentId| {
        let kept = |node| {
            let (_, record) = stored_extents(sim, node).into_iter().find(|(id, _)| id == extent)?;
            let layout = Layout::decode(&record.layout).ok()?;
            let whole = |index: &u8| missing_shards(sim, node, &layout, &[*index]) == 0;
            Some((node, record.indexes.iter().copied().filter(whole).collect()))
        };
        (*extent, (0..sim.len()).filter_map(kept).collect())
    };
    object.extents.iter().map(on).collect()
}

/// The members that can hold data, as the first node that is up knows them.
fn members(sim: &SimMesh) -> Vec<Member> {
    let records = (0..sim.len()).find_map(|node| sim.mesh(node).ok()).map(|mesh| mesh.nodes());
    let member = |status: crate::peers::NodeStatus| Member {
        node: status.record.node,
        zone: status.record.zone,
        capacity: status.record.capacity,
    };
    let mut members: Vec<Member> = records.into_iter().flatten().map(member).collect();
    members.retain(|member| member.capacity > 0);
    members
}

/// How many segments' shards with this index are not on a node's disk, whole or decayed.
fn absent_shards(sim: &SimMesh, node: usize, layout: &Layout, index: u8) -> usize {
    let Ok(medium) = sim.medium(node) else { return usize::MAX };
    let medium = lock(&medium);
    let ids =
        (0..usize::from(layout.segments)).filter_map(|segment| layout.shard(segment, usize::from(index)));
    ids.filter(|id| medium.blob(id).is_none()).count()
}

fn holders_of_manifest(sim: &SimMesh, object: &ObjectId) -> Vec<usize> {
    let key = (Table::Manifests, Bytes::copy_from_slice(object.as_bytes()));
    let has = |node: &usize| sim.medium(*node).is_ok_and(|medium| lock(&medium).records().contains_key(&key));
    (0..sim.len()).filter(has).collect()
}

/// Nothing stays on the disks of an object whose removal reached everybody.
pub(super) fn i8_removed_leaves_nothing(sim: &SimMesh, model: &Model) -> Check {
    for node in 0..sim.len() {
        let Ok(medium) = sim.medium(node) else { continue };
        let medium = lock(&medium);
        let has = |table, id: &[u8; 32]| medium.records().contains_key(&(table, Bytes::copy_from_slice(id)));
        for (id, object) in model.objects.iter().filter(|(_, object)| object.state == State::Removed) {
            if has(Table::Manifests, id.as_bytes())
                || object.extents.iter().any(|extent| has(Table::Extents, extent.as_bytes()))
            {
                return Err(format!("node {node} still has the removed object {}", id.fmt_short()));
            }
        }
    }
    Ok(())
}

/// Only who lied is accused.
pub(super) fn i9_no_honest_node_is_accused(model: &Model, accused: Option<usize>) -> Check {
    match accused.filter(|node| !model.liars.contains(node)) {
        None => Ok(()),
        Some(node) => Err(format!("node {node} was accused of a wrong answer and has never lied")),
    }
}

/// The bytes of a node's own requests stay in its budget, and one segment more for each operation.
pub(super) fn i10_memory_stays_in_its_bounds(under_way: usize, limit: usize) -> Check {
    if under_way <= limit {
        return Ok(());
    }
    Err(format!("{under_way} bytes are under way where {limit} are allowed"))
}

/// The budget is whole again when nothing is under way.
pub(super) fn i10_budgets_are_whole(mesh: &Mesh) -> Check {
    match mesh.metrics().budget_in_use {
        0 => Ok(()),
        bytes => Err(format!("{bytes} bytes of a budget were not given back")),
    }
}

/// No nonce seals two messages under one key.
pub(super) fn i11_no_nonce_twice(sim: &SimMesh) -> Check {
    match sim.suite().reused().first() {
        None => Ok(()),
        Some(text) => Err(text.clone()),
    }
}

/// An operation whose outcome is promised for one object.
pub(super) fn promised(model: &Model, object: &Object, reader: usize, since: std::time::Duration) -> bool {
    let unwell = model.unwell_since(since);
    object.state == State::Stored
        && model.blip < since
        && !unwell.contains(&reader)
        && model.is_promised(object, &unwell)
}
