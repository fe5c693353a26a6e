//! Placement while a mesh changes: members come, go and fail, and after each change every promise is looked at anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use datamesh_core::id::NodeId;
use datamesh_core::placement::{Assignment, Member, margin, rank};
use datamesh_core::ports::Redundancy;
use proptest::prelude::*;

/// Placement keys that are followed through all changes.
const KEYS: u8 = 6;

/// Up to this many holders every loss is tried.
const MAX_TRIED: usize = 8;

#[derive(Debug, Clone)]
enum Change {
    Join {
        node: u8,
        zone: u8,
        capacity: u64,
    },
    Leave(u8),
    /// A node fails, its shards go to others, and it comes back.
    Fail(u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => (0..20_u8, 0..4_u8, 0..4_u64).prop_map(|(node, zone, scale)| Change::Join {
            node,
            zone,
            capacity: scale * 1_000_000_007
        }),
        1 => (0..20_u8).prop_map(Change::Leave),
        1 => (0..20_u8).prop_map(Change::Fail),
    ];
    prop::collection::vec(change, 1..30)
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

type Assignments = BTreeMap<u8, Option<Assignment>>;

struct Mesh {
    redundancy: Redundancy,
    members: BTreeMap<u8, Member>,
    assignments: Assignments,
}

impl Mesh {
    fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    /// The members that can hold data.
    fn holders(&self) -> Vec<&Member> {
        self.members.values().filter(|member| member.capacity > 0).collect()
    }

    fn compute(&self) -> Assignments {
        let list = self.list();
        (0..KEYS).map(|key| (key, rank(&[key; 32], &list).assign(self.redundancy))).collect()
    }

    fn apply(&mut self, change: &Change) {
        let before = std::mem::take(&mut self.assignments);
        match change {
            Change::Join { node: number, zone, capacity } => {
                let zone = format!("z{zone}").parse().unwrap();
                let joined = Member { node: node(*number), zone, capacity: *capacity };
                let is_new = self.members.insert(*number, joined).is_none();
                self.assignments = self.compute();
                if is_new {
                    self.check_moves(&before, *number);
                }
            }
            Change::Leave(number) => {
                let was_there = self.members.remove(number).is_some();
                let after = self.compute();
                if was_there {
                    // The same seen backwards: a node that leaves is one that joins, later first.
                    self.assignments = before;
                    self.check_moves(&after, *number);
                }
                self.assignments = after;
            }
            Change::Fail(number) => {
                self.assignments = before;
                self.check_replacement(*number);
            }
        }
        self.check();
    }

    /// `self.assignments` are those with the node, `without` those without it.
    fn check_moves(&self, without: &Assignments, joined: u8) {
        for (key, with) in &self.assignments {
            let (Some(with), Some(Some(without))) = (with, without.get(key)) else { continue };
            let old: BTreeSet<_> = without.holders().iter().collect();
            let new: BTreeSet<_> = with.holders().iter().collect();
            let zones: BTreeSet<_> = self.holders().iter().map(|member| member.zone.clone()).collect();
            // With one shard for each node and one zone no cap changes, and one place at most is won.
            if old.len() == self.redundancy.total() && new.len() == old.len() && zones.len() == 1 {
                let won: Vec<_> = new.difference(&old).collect();
                assert!(
                    won.iter().all(|won| ***won == node(joined)),
                    "{won:?} won a place where {joined} came"
                );
                assert_eq!(won.len(), old.difference(&new).count());
            }
        }
    }

    fn check_replacement(&self, failed: u8) {
        let list = self.list();
        let gone: BTreeSet<_> = [node(failed)].into();
        let live = self.holders().iter().filter(|member| !gone.contains(&member.node)).count();
        for (key, before) in &self.assignments {
            let Some(before) = before else { continue };
            let after = rank(&[*key; 32], &list).replacement(self.redundancy, before, &gone);
            assert_eq!(after.is_some(), live > 0);
            let Some(after) = after else { continue };
            for (index, new) in after.changes(before) {
                assert!(gone.contains(&before.holder(index.into()).unwrap()), "shard {index} moved to {new}");
            }
            assert!(after.indexes_of(&node(failed)).is_empty());
            self.check_node_cap(&after, live);
        }
    }

    fn check_node_cap(&self, assignment: &Assignment, nodes: usize) {
        let cap = self.redundancy.total().div_ceil(nodes);
        for (node, held) in assignment.by_node() {
            assert!(held.len() <= cap, "{node} holds {} of {}", held.len(), self.redundancy.total());
        }
    }

    fn check(&self) {
        let mut backwards = self.list();
        backwards.reverse();
        for (key, assignment) in &self.assignments {
            let again = rank(&[*key; 32], &backwards).assign(self.redundancy);
            assert_eq!(&again, assignment, "the order of the members matters");
            assert_eq!(assignment.is_some(), !self.holders().is_empty());
            let Some(assignment) = assignment else { continue };
            assert_eq!(assignment.holders().len(), self.redundancy.total());
            self.check_node_cap(assignment, self.holders().len());
            self.check_margin(assignment);
        }
    }

    fn check_margin(&self, assignment: &Assignment) {
        let held = assignment.by_node();
        assert!(held.iter().all(|(node, _)| self.holders().iter().any(|member| member.node == *node)));
        if held.len() <= MAX_TRIED {
            assert_eq!(margin(&held, self.redundancy.data()), tried_margin(&held, self.redundancy.data()));
        }
    }
}

/// The margin by trying every loss.
fn tried_margin(held: &[(NodeId, Vec<u8>)], k: usize) -> Option<usize> {
    let survives = |lost: u32| {
        let left = held.iter().enumerate().filter(|(at, _)| lost & (1 << at) == 0);
        left.flat_map(|(_, (_, indexes))| indexes).collect::<BTreeSet<_>>().len() >= k
    };
    let all_of = |count: u32| (0..1_u32 << held.len()).filter(|l| l.count_ones() == count).all(survives);
    (0..=held.len() as u32).take_while(|count| all_of(*count)).last().map(|count| count as usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mesh_that_changes_keeps_its_promises(changes in changes(), k in 1..7_u8, m in 0..4_u8) {
        let redundancy = Redundancy::new(k, m).unwrap();
        let mut mesh = Mesh { redundancy, members: BTreeMap::new(), assignments: Assignments::new() };
        mesh.assignments = mesh.compute();
        for change in &changes {
            mesh.apply(change);
        }
    }
}
