//! The reference model: what was put, what became of it, and how well each node was at which time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::format::{Capability, Extents, Manifest, StoredManifest};
use crate::id::{ExtentId, ObjectId};
use crate::object::Receipt;
use crate::ports::{Redundancy, Table};
use crate::sim::mesh::SimMesh;
use crate::sim::world::lock;

/// For how long after its recovery a node may still be behind: dials that began before fail after it, and packets that
/// were lost before are sent again.
const RECOVERY: Duration = Duration::from_secs(10);

/// What an object's user knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its put was acknowledged.
    Stored,
    /// Its removal was begun and may not be complete.
    Removing,
    /// Its removal reached every member.
    Removed,
}

/// One object whose put was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) capability: Capability,
    pub(super) content: Bytes,
    pub(super) margin: usize,
    pub(super) redundancy: Redundancy,
    /// The nodes that acknowledged shards or the manifest.
    pub(super) holders: BTreeSet<usize>,
    pub(super) extents: Vec<ExtentId>,
    pub(super) state: State,
    /// When its put began: damage from then on counts.
    begun: Duration,
    /// When it was acknowledged.
    stored: Duration,
    /// Whether more was lost at some time than its margin allows, so that nothing is promised any more.
    forfeited: bool,
}

/// Something that a node lost or altered for good.
#[derive(Debug)]
struct Damage {
    at: Duration,
    node: usize,
    /// Whether care can find it and make it good: a lost disk, but not decay, which only a scrub finds.
    is_loss: bool,
    /// When all margins were last seen to be full.
    made_good: Option<Duration>,
}

impl Damage {
    fn counts_for(&self, object: &Object) -> bool {
        // What was stored after the last look may have lost something that was not looked at.
        self.at >= object.begun && self.made_good.is_none_or(|at| at < object.stored)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) objects: BTreeMap<ObjectId, Object>,
    /// Puts that may have stored something or not.
    pub(super) unknown_puts: usize,
    damage: Vec<Damage>,
    /// Nodes that are not well now, by how many misfortunes.
    unwell: BTreeMap<usize, usize>,
    /// When each node was last unwell.
    recovered: BTreeMap<usize, Duration>,
    /// When something last went wrong that is no single node's.
    pub(super) blip: Duration,
    /// Nodes that have ever lied.
    pub(super) liars: BTreeSet<usize>,
}

impl Model {
    pub(super) fn damaged(&mut self, node: usize, at: Duration, is_loss: bool) {
        self.damage.push(Damage { at, node, is_loss, made_good: None });
    }

    /// Whether some loss may still have to be made good.
    pub(super) fn has_losses(&self) -> bool {
        self.damage.iter().any(|damage| damage.is_loss && damage.made_good.is_none())
    }

    /// All margins were seen to be full.
    pub(super) fn made_good(&mut self, now: Duration) {
        let nobody = BTreeSet::new();
        let stands = |object: &Object| self.is_promised(object, &nobody);
        let forfeited: Vec<ObjectId> =
            self.objects.iter().filter(|(_, object)| !stands(object)).map(|(id, _)| *id).collect();
        for id in forfeited {
            if let Some(object) = self.objects.get_mut(&id) {
                object.forfeited = true;
            }
        }
        self.damage
            .iter_mut()
            .filter(|damage| damage.is_loss)
            .for_each(|damage| damage.made_good = Some(now));
    }

    pub(super) fn was_ever_damaged(&self, node: usize) -> bool {
        self.damage.iter().any(|damage| damage.node == node)
    }

    /// The nodes whose damage has not been made good.
    pub(super) fn damaged_nodes(&self) -> BTreeSet<usize> {
        let lasting = self.damage.iter().filter(|damage| damage.made_good.is_none());
        lasting.map(|damage| damage.node).collect()
    }

    pub(super) fn unwell(&mut self, node: usize) {
        *self.unwell.entry(node).or_default() += 1;
    }

    pub(super) fn well(&mut self, node: usize, now: Duration) {
        if let Some(count) = self.unwell.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.unwell.remove(&node);
            }
        }
        self.recovered.insert(node, now);
    }

    /// Nodes that are not well now.
    pub(super) fn unwell_now(&self) -> BTreeSet<usize> {
        self.unwell.keys().copied().collect()
    }

    /// Nodes that were not well at some time since then.
    pub(super) fn unwell_since(&self, since: Duration) -> BTreeSet<usize> {
        let late = |at: &Duration| at.saturating_add(RECOVERY) >= since;
        let recovered = self.recovered.iter().filter(|(_, at)| late(at)).map(|(node, _)| *node);
        recovered.chain(self.unwell.keys().copied()).collect()
    }

    /// The nodes that have lost or altered something since an object was put, which was not made good. Shards move, so
    /// any of them may be a holder.
    pub(super) fn damaged_holders(&self, object: &Object) -> BTreeSet<usize> {
        self.damage.iter().filter(|damage| damage.counts_for(object)).map(|damage| damage.node).collect()
    }

    /// Whether the promise of an object's margin still stands when these nodes are lost too.
    pub(super) fn is_promised(&self, object: &Object, also: &BTreeSet<usize>) -> bool {
        let mut lost = self.damaged_holders(object);
        lost.extend(also);
        !object.forfeited && lost.len() <= object.margin
    }

    /// Takes an acknowledged put in.
    pub(super) fn stored(&mut self, sim: &SimMesh, receipt: &Receipt, content: Bytes, begun: Duration) {
        let names = receipt.holders.keys().chain(&receipt.manifest_holders);
        let object = Object {
            capability: receipt.capability.clone(),
            content,
            margin: receipt.margin,
            redundancy: receipt.redundancy,
            holders: names.filter_map(|id| sim.number_of(id)).collect(),
            extents: extents_of(sim, receipt),
            state: State::Stored,
            begun,
            stored: sim.now(),
            forfeited: false,
        };
        self.objects.insert(receipt.object, object);
    }
}

/// The extents that an object's manifest names, read from the disk of one that keeps it.
fn extents_of(sim: &SimMesh, receipt: &Receipt) -> Vec<ExtentId> {
    let key = Bytes::copy_from_slice(receipt.object.as_bytes());
    let read = |id| {
        let medium = sim.medium(sim.number_of(id)?).ok()?;
        let value = lock(&medium).records().get(&(Table::Manifests, key.clone())).cloned()?;
        Manifest::decode(&StoredManifest::decode(&value).ok()?.manifest).ok()
    };
    let manifest = receipt.manifest_holders.iter().find_map(read);
    manifest.map_or(Vec::new(), |manifest| match &manifest.public().extents {
        Extents::Inline => Vec::new(),
        Extents::Single(layout) => vec![ExtentId::of(&layout.encode())],
        Extents::Many(extents) => extents.clone(),
    })
}
