//! Where an object's shards are, and why there; and what fails with each node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::care::{Audits, NodeState};
use crate::error::Result;
use crate::format::{Capability, Zone};
use crate::id::NodeId;
use crate::object::Engine;
use crate::object::health::{Health, examine, margin_without};
use crate::placement::{Member, rank};

/// Where an object is, where it should be, and what fails if a node leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// How well it is kept now.
    pub health: Health,
    /// Each shard index of each extent.
    pub shards: Vec<ShardPlace>,
    /// The margin that would be left if this node left; `None` where the object could not be read any more.
    pub without: BTreeMap<NodeId, Option<usize>>,
    /// The margin that would be left if this zone were lost; `None` where the object could not be read any more.
    pub without_zone: BTreeMap<Zone, Option<usize>>,
    /// What this node's audits have shown of each node.
    pub audits: BTreeMap<NodeId, Audits>,
}

/// Where the shards with one index of one extent are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardPlace {
    /// The extent, counted from 0.
    pub extent: usize,
    /// The shard index: data shards first.
    pub index: u8,
    /// Who holds it.
    pub holders: Vec<NodeId>,
    /// Who should, by the ranking of all members: of the nodes that it names for the extent, the one that has the shard
    /// already, or the one that it names for this index.
    pub computed: Option<NodeId>,
    /// Why they are there and not elsewhere.
    pub reason: PlaceReason,
}

/// Why the shards with one index of one extent are where they are; written out by `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PlaceReason {
    /// They are with the node that the ranking names.
    Home,
    /// That node has them, and others that will give theirs up.
    HomeAndElsewhere,
    /// That node does not answer, so another took them, or keeps them until it is sure.
    HomeAway(NodeState),
    /// What that node says to hold is not believed: its proofs were wrong.
    HomeDistrusted,
    /// That node answers and lacks them: it came or changed lately, was slow or full when they were written, and will
    /// be given them.
    OnTheWay,
    /// Nobody who answered has them, and somebody did not answer.
    Unknown,
    /// Nobody has them: they are made anew from k others.
    Lost,
    /// No member can hold data.
    Nowhere,
}

impl PlaceReason {
    /// Decides from who holds them, who should, what is known of that node, and whether all members answered.
    fn of(holders: &[NodeId], home: Option<Home>, all_answered: bool) -> Self {
        let Some(home) = home else { return Self::Nowhere };
        match (holders.contains(&home.node), holders.len()) {
            (true, 1) => Self::Home,
            (true, _) => Self::HomeAndElsewhere,
            _ if !home.is_believed => Self::HomeDistrusted,
            (false, 0) if all_answered => Self::Lost,
            (false, 0) => Self::Unknown,
            (false, _) if home.state != NodeState::Up => Self::HomeAway(home.state),
            (false, _) => Self::OnTheWay,
        }
    }
}

impl fmt::Display for PlaceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Home => "where the ranking puts it",
            Self::HomeAndElsewhere => "where the ranking puts it, and with others that will give theirs up",
            Self::HomeAway(NodeState::Gone) => "its home is gone: it stays here",
            Self::HomeAway(_) => "its home does not answer now; it stays here until that is back or gone",
            Self::HomeDistrusted => "its home's proofs were wrong, so nothing there counts",
            Self::OnTheWay => "its home answers and lacks it: it will be copied there",
            Self::Unknown => "nobody who answered has it; a member that did not may",
            Self::Lost => "nobody has it: it is made anew from the others",
            Self::Nowhere => "no member can hold data",
        })
    }
}

/// The node that should hold something.
struct Home {
    node: NodeId,
    state: NodeState,
    is_believed: bool,
}

/// Says where an object is and why.
pub(crate) async fn explain(engine: Arc<Engine>, capability: Capability) -> Result<Explanation> {
    let (health, manifest) =
        examine(&engine, capability.object()).await.map_err(|error| error.with_operation("explain"))?;
    let members = engine.peers.storage_members();
    let home_of = |node: NodeId| {
        let (state, is_believed) = (engine.peers.node_state(&node), engine.peers.is_believed(&node));
        Home { node, state, is_believed }
    };
    let all_answered = health.unreached.is_empty();
    let mut shards = Vec::new();
    for (number, extent) in health.extents.iter().enumerate() {
        let placement = manifest.placement_of(number as u64);
        let assigned = rank(placement.as_bytes(), &members).assign(health.redundancy);
        let computed = assigned.map(|assigned| assigned.keeping(&extent.holders));
        for index in 0..health.redundancy.total() {
            let Ok(index) = u8::try_from(index) else { break };
            let has = |(_, indexes): &&(NodeId, Vec<u8>)| indexes.contains(&index);
            let holders: Vec<NodeId> = extent.holders.iter().filter(has).map(|(node, _)| *node).collect();
            let computed = computed.as_ref().and_then(|computed| computed.holder(usize::from(index)));
            let reason = PlaceReason::of(&holders, computed.map(home_of), all_answered);
            shards.push(ShardPlace { extent: number, index, holders, computed, reason });
        }
    }
    let alone = |member: &Member| (member.node, margin_without(&health, |node| *node == member.node));
    let without = members.iter().map(alone).collect();
    let zone_of: BTreeMap<_, _> = members.iter().map(|member| (member.node, &member.zone)).collect();
    let zones: BTreeSet<&Zone> = zone_of.values().copied().collect();
    let together = |zone: &Zone| {
        (zone.clone(), margin_without(&health, |node| zone_of.get(node).is_some_and(|of| *of == zone)))
    };
    let without_zone = zones.into_iter().map(together).collect();
    let audits = engine.peers.audits();
    Ok(Explanation { health, shards, without, without_zone, audits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_reason() {
        let [a, b] = [1, 2].map(|number| NodeId::from_bytes([number; 32]));
        let home = |state, is_believed| Some(Home { node: a, state, is_believed });
        let reason = |holders: &[NodeId], home, all| PlaceReason::of(holders, home, all);
        let up = || home(NodeState::Up, true);
        assert_eq!(reason(&[a], up(), true), PlaceReason::Home);
        assert_eq!(reason(&[a, b], up(), true), PlaceReason::HomeAndElsewhere);
        assert_eq!(reason(&[b], up(), true), PlaceReason::OnTheWay);
        let down = PlaceReason::HomeAway(NodeState::Down);
        assert_eq!(reason(&[b], home(NodeState::Down, true), false), down);
        assert_eq!(reason(&[b], home(NodeState::Up, false), true), PlaceReason::HomeDistrusted);
        assert_eq!(reason(&[], up(), true), PlaceReason::Lost);
        assert_eq!(reason(&[], home(NodeState::Down, true), false), PlaceReason::Unknown);
        assert_eq!(reason(&[], None, true), PlaceReason::Nowhere);
        assert_eq!(PlaceReason::Lost.to_string(), "nobody has it: it is made anew from the others");
    }
}
