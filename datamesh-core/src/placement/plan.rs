//! A dry run: where an object would go, and what would survive.

use std::collections::BTreeMap;

use crate::format::Zone;
use crate::id::NodeId;
use crate::placement::{Member, ZoneMargins, rank};
use crate::ports::Redundancy;

/// Where an object would go if it were put now, and what it would survive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The code that it would be stored with.
    pub redundancy: Redundancy,
    /// The holders of its first extent, with their shard indexes. Each extent of a longer object has holders of its
    /// own, by the same rules.
    pub holders: BTreeMap<NodeId, Vec<u8>>,
    /// How many shards of an extent would lie in each zone.
    pub zones: BTreeMap<Zone, usize>,
    /// The nodes that would keep the manifest.
    pub manifest_holders: Vec<NodeId>,
    /// What any loss may take then, nodes and zones.
    pub margins: ZoneMargins,
}

/// Plans an object on these members, of which those that are down should be left out; `None` where none can hold data.
///
/// The keys say where extent and manifest are ranked; of an object that is still to be put both are random.
pub fn plan(
    extent: &[u8; 32],
    manifest: &[u8; 32],
    members: &[Member],
    redundancy: Redundancy,
) -> Option<Plan> {
    let assignment = rank(extent, members).assign(redundancy)?;
    let manifest_holders = rank(manifest, members).manifest_holders(redundancy);
    let by_node = assignment.by_node();
    let margins = ZoneMargins::of_object([&by_node[..]], &manifest_holders, members, redundancy)?;
    let holders: BTreeMap<_, _> = by_node.into_iter().collect();
    let mut zones = BTreeMap::new();
    for member in members {
        let shards = holders.get(&member.node).map_or(0, Vec::len);
        if shards > 0 {
            *zones.entry(member.zone.clone()).or_default() += shards;
        }
    }
    Some(Plan { redundancy, holders, zones, manifest_holders, margins })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::members::tests::{key, members};

    #[test]
    fn what_is_planned_is_what_is_assigned() {
        let mut all = members(9, 3);
        all[4].capacity = 0;
        let plan = plan(&key(1), &key(2), &all, Redundancy::STANDARD).unwrap();
        let assigned = rank(&key(1), &all).assign(Redundancy::STANDARD).unwrap();
        assert!(plan.holders.iter().all(|(node, held)| assigned.indexes_of(node) == *held));
        assert_eq!(plan.zones.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(plan.manifest_holders, rank(&key(2), &all).manifest_holders(Redundancy::STANDARD));
        assert_eq!((plan.margins.nodes(), plan.margins.zones()), (2, 1));
    }

    #[test]
    fn a_mesh_of_clients_has_no_plan() {
        let mut all = members(2, 1);
        all.iter_mut().for_each(|member| member.capacity = 0);
        assert_eq!(plan(&key(1), &key(2), &all, Redundancy::STANDARD), None);
    }
}
