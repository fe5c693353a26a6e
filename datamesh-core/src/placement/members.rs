//! The members of a mesh, as one node knows them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::format::{SignedRecord, Zone};
use crate::id::NodeId;
use crate::planted::{Bug, is_active};

/// The most members that a node keeps. At about 2 KiB for a record with its addresses that is 8 MiB, and
/// ranking that many takes about a millisecond.
pub const MAX_MEMBERS: usize = 4096;

/// What placement needs to know of a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The failure domain that it declares, or was granted.
    pub zone: Zone,
    /// The bytes that it offers; 0 for a client, which never holds anything.
    pub capacity: u64,
}

impl From<&SignedRecord> for Member {
    fn from(signed: &SignedRecord) -> Self {
        let record = signed.record();
        Self { node: record.node, zone: record.zone_granted().clone(), capacity: record.capacity_granted() }
    }
}

/// What merging a record did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// A node that was not known before.
    Added,
    /// A newer record of a known node.
    Updated,
    /// It was known already, or something newer is.
    Unchanged,
    /// [`MAX_MEMBERS`] are known, and this is not one of them.
    Full,
    /// The mesh has admission keys, and none of them admits this node now.
    Refused,
    /// The node was forgotten, and nothing newer of it is known.
    Forgotten,
}

/// The signed records of the members: a join that gives the same table whatever the order, grouping and
/// repetition of the records that came in, as long as there is room for all.
#[derive(Debug, Clone, Default)]
pub struct MemberTable {
    records: BTreeMap<NodeId, SignedRecord>,
    /// The hashes of the records' encoded forms.
    known: BTreeSet<[u8; 32]>,
    /// What those were last known by who were forgotten: only something newer makes them members again.
    forgotten: BTreeMap<NodeId, SignedRecord>,
}

impl MemberTable {
    /// A table that knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a record in, whose signature was verified when it was decoded.
    ///
    /// The higher sequence wins. Of two different records with one sequence, which only a faulty node
    /// signs, the one with the smaller BLAKE3 hash wins, so that all members agree.
    pub fn merge(&mut self, record: SignedRecord) -> Merge {
        let full = self.records.len() >= MAX_MEMBERS;
        let (node, hash) = (record.record().node, *record.hash());
        if self.forgotten.get(&node).is_some_and(|old| !supersedes(&record, old)) {
            return Merge::Forgotten;
        }
        match self.records.entry(node) {
            Entry::Vacant(_) if full => Merge::Full,
            Entry::Vacant(vacant) => {
                vacant.insert(record);
                self.known.insert(hash);
                self.forgotten.remove(&node);
                Merge::Added
            }
            Entry::Occupied(mut known) if supersedes(&record, known.get()) => {
                let old = known.insert(record);
                self.known.remove(old.hash());
                self.known.insert(hash);
                Merge::Updated
            }
            Entry::Occupied(_) => Merge::Unchanged,
        }
    }

    /// Whether this very record is here, so that its signature need not be checked again.
    ///
    /// Members tell each other the same records again and again; checking a signature takes a hundred times as long
    /// as this.
    pub fn knows(&self, encoded: &[u8]) -> bool {
        self.known.contains(&SignedRecord::hash_of(encoded))
    }

    /// Forgets a node; returns what was known of it.
    pub fn remove(&mut self, node: &NodeId) -> Option<SignedRecord> {
        let removed = self.records.remove(node)?;
        self.known.remove(removed.hash());
        Some(removed)
    }

    /// Forgets a node until something newer is known than this record of it, and what was known here: gives the newest
    /// of these. [`MAX_MEMBERS`] are remembered as forgotten, those of the highest sequences.
    pub fn forget(&mut self, record: SignedRecord) -> SignedRecord {
        let node = record.record().node;
        let others = [self.remove(&node), self.forgotten.remove(&node)];
        let newer =
            |one: SignedRecord, other: SignedRecord| if supersedes(&other, &one) { other } else { one };
        let newest = others.into_iter().flatten().fold(record, newer);
        self.forgotten.insert(node, newest.clone());
        if self.forgotten.len() > MAX_MEMBERS {
            let oldest =
                self.forgotten.values().map(SignedRecord::record).min_by_key(|record| record.sequence);
            if let Some(oldest) = oldest.map(|record| record.node) {
                self.forgotten.remove(&oldest);
            }
        }
        newest
    }

    /// What a node was last known by that was forgotten.
    pub fn forgotten(&self, node: &NodeId) -> Option<&SignedRecord> {
        self.forgotten.get(node)
    }

    /// What a node says of itself.
    pub fn record(&self, node: &NodeId) -> Option<&SignedRecord> {
        self.records.get(node)
    }

    /// Every record, by node id.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &SignedRecord> {
        self.records.values()
    }

    /// The records of all but one node, by node id from `start` on, and then those before it.
    pub fn others_from(&self, but: NodeId, start: NodeId) -> impl Iterator<Item = &SignedRecord> {
        let rest = self.records.range(start..);
        let all = rest.chain(self.records.range(..start));
        all.filter(move |(node, _)| **node != but).map(|(_, record)| record)
    }

    /// The members for [`rank`](crate::placement::rank), clients among them, by node id.
    pub fn members(&self) -> Vec<Member> {
        self.records.values().map(Member::from).collect()
    }

    /// How many members are known.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Whether `new` takes the place of `known`, a record of the same node.
fn supersedes(new: &SignedRecord, known: &SignedRecord) -> bool {
    let (newer, older) = (new.record().sequence, known.record().sequence);
    if is_active(Bug::AcceptOlderRecord) {
        return newer != older;
    }
    newer > older || (newer == older && new.hash() < known.hash())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::NodeRecord;
    use crate::ports::{Identity, Signature};
    use proptest::prelude::*;

    pub(crate) fn node(number: usize) -> NodeId {
        let mut bytes = *blake3::hash(&number.to_le_bytes()).as_bytes();
        bytes[0] = number as u8;
        NodeId::from_bytes(bytes)
    }

    pub(crate) fn key(number: u64) -> [u8; 32] {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    /// Members of equal capacity, spread over zones in turn.
    pub(crate) fn members(number: usize, zones: usize) -> Vec<Member> {
        let zone = |i: usize| format!("zone-{}", i % zones).parse().unwrap();
        (0..number).map(|i| Member { node: node(i), zone: zone(i), capacity: 1 << 40 }).collect()
    }

    /// Signs with what is no signature.
    #[derive(Debug)]
    pub(crate) struct Signer(pub(crate) NodeId);

    impl Identity for Signer {
        fn node_id(&self) -> NodeId {
            self.0
        }
        fn sign(&self, _message: &[u8]) -> Signature {
            [7; 64]
        }
    }

    fn record(number: usize, sequence: u64, capacity: u64) -> SignedRecord {
        let node = node(number);
        let (addresses, zone) = (Vec::new(), Zone::default());
        let record = NodeRecord { node, addresses, zone, capacity, sequence, certificate: None };
        record.sign(&Signer(node)).unwrap()
    }

    #[test]
    fn the_newer_record_wins() {
        let mut table = MemberTable::new();
        assert_eq!(table.merge(record(1, 5, 10)), Merge::Added);
        assert_eq!(table.merge(record(1, 5, 10)), Merge::Unchanged);
        assert_eq!(table.merge(record(1, 4, 99)), Merge::Unchanged);
        assert_eq!(table.merge(record(1, 6, 20)), Merge::Updated);
        assert_eq!(table.members()[0].capacity, 20);
        assert!(table.remove(&node(1)).is_some());
        assert!(table.is_empty());
    }

    #[test]
    fn who_was_forgotten_comes_back_with_something_newer() {
        let mut table = MemberTable::new();
        table.merge(record(1, 5, 10));
        assert_eq!(table.forget(record(1, 4, 10)), record(1, 5, 10), "what is known here is newer");
        assert!(table.is_empty() && table.forgotten(&node(1)).is_some());
        assert_eq!([4, 5].map(|sequence| table.merge(record(1, sequence, 10))), [Merge::Forgotten; 2]);
        assert_eq!(table.forget(record(1, 3, 10)), record(1, 5, 10), "what was forgotten is newer");
        assert_eq!(table.forget(record(1, 6, 10)), record(1, 6, 10));
        assert_eq!(table.merge(record(1, 6, 10)), Merge::Forgotten);
        assert_eq!(table.merge(record(1, 7, 10)), Merge::Added);
        assert!(table.forgotten(&node(1)).is_none() && table.len() == 1);
    }

    #[test]
    fn a_bounded_number_is_remembered_as_forgotten() {
        let mut table = MemberTable::new();
        for number in 0..=MAX_MEMBERS {
            table.forget(record(number, 1 + number as u64, 1));
        }
        let is_forgotten = |number| table.forgotten(&node(number)).is_some();
        assert!(!is_forgotten(0) && is_forgotten(1) && is_forgotten(MAX_MEMBERS));
    }

    #[test]
    fn a_full_table_takes_updates_only() {
        let mut table = MemberTable::new();
        for i in 0..MAX_MEMBERS {
            table.merge(record(i, 1, 1));
        }
        assert_eq!(table.len(), MAX_MEMBERS);
        assert_eq!(table.merge(record(MAX_MEMBERS, 1, 1)), Merge::Full);
        assert_eq!(table.merge(record(0, 2, 1)), Merge::Updated);
        assert_eq!(table.len(), MAX_MEMBERS);
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_table(
            said in proptest::collection::vec((0usize..5, 0u64..3, 0u64..3), 1..30)
        ) {
            let mut forward = MemberTable::new();
            let mut backward = MemberTable::new();
            said.iter().for_each(|(n, s, c)| { forward.merge(record(*n, *s, *c)); });
            said.iter().rev().for_each(|(n, s, c)| { backward.merge(record(*n, *s, *c)); });
            prop_assert_eq!(forward.members(), backward.members());
        }
    }
}
