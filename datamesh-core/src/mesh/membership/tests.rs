use std::collections::BTreeSet;

use super::*;
use crate::placement::{MAX_MEMBERS, MemberTable, Signer};

/// Draws after which every member of the fullest table has been told: each tells one in 32 of them.
const DRAWS: u64 = 600;

fn hash(number: u64) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn record(node: NodeId) -> SignedRecord {
    let (addresses, zone) = (Vec::new(), Zone::default());
    let record = NodeRecord { node, addresses, zone, capacity: 1, sequence: 1, certificate: None };
    record.sign(&Signer(node)).unwrap()
}

/// What one node knows: a table, and who it is.
struct Known {
    table: MemberTable,
    local: NodeId,
    own: Option<SignedRecord>,
}

impl Known {
    /// A member of so many, the one in the middle by name.
    fn member_of(count: usize) -> Self {
        let mut known = Self::client_of(count);
        known.local = known.nodes()[count / 2];
        known.own = known.table.record(&known.local).cloned();
        known
    }

    /// A client that knows so many; it has no record.
    fn client_of(count: usize) -> Self {
        let mut table = MemberTable::new();
        for number in 0..count as u64 {
            assert_eq!(table.merge(record(NodeId::from_bytes(hash(number)))), Merge::Added);
        }
        Self { table, local: NodeId::from_bytes([0x55; 32]), own: None }
    }

    /// Who is known, by name.
    fn nodes(&self) -> Vec<NodeId> {
        self.table.records().map(|record| record.record().node).collect()
    }

    /// The page from a place on, by the table as [`Peers`](crate::peers::Peers) has it.
    fn page(&self, most: usize, random: impl FnOnce() -> [u8; 32]) -> Vec<NodeId> {
        let others = self.table.len() - usize::from(self.own.is_some());
        let run = |start, count| self.table.others_from(self.local, start).take(count).cloned().collect();
        let page = page(self.own.clone(), others, most, random, run);
        page.iter().map(|record| record.record().node).collect()
    }
}

#[test]
fn a_message_that_holds_all_members_tells_each_once() {
    for count in [1, 2, 127, 128] {
        for known in [Known::member_of(count), Known::client_of(count)] {
            for most in [RECORDS_OF_GREETING, RECORDS_OF_MESSAGE] {
                let mut page = known.page(most, || panic!("nothing is left to chance"));
                assert!(known.own.is_none() || page[0] == known.local, "its own comes first");
                page.sort_unstable();
                assert_eq!(page, known.nodes(), "{count} members, most {most}");
            }
        }
    }
}

#[test]
fn of_more_members_each_is_told_in_time() {
    for count in [129, 300, MAX_MEMBERS] {
        for known in [Known::member_of(count), Known::client_of(count)] {
            for most in [RECORDS_OF_GREETING, RECORDS_OF_MESSAGE] {
                let draws = if most == RECORDS_OF_MESSAGE { DRAWS } else { 4 * DRAWS };
                let mut told = BTreeSet::new();
                for draw in 0..draws {
                    let page = known.page(most, || hash(1 << 32 | draw));
                    assert_eq!(page.len(), most, "{count} members");
                    assert_eq!(page.iter().collect::<BTreeSet<_>>().len(), most, "one is told twice");
                    assert!(known.own.is_none() || page[0] == known.local, "its own comes first");
                    told.extend(page);
                }
                assert_eq!(
                    told.into_iter().collect::<Vec<_>>(),
                    known.nodes(),
                    "{count} members, most {most}"
                );
            }
        }
    }
}

#[test]
fn a_page_goes_on_from_the_first_after_the_last() {
    let known = Known::member_of(300);
    let others: Vec<NodeId> = known.nodes().into_iter().filter(|node| *node != known.local).collect();
    for (at, start) in others.iter().enumerate() {
        let page = known.page(RECORDS_OF_MESSAGE, || *start.as_bytes());
        let expected = others.iter().cycle().skip(at).take(RECORDS_OF_MESSAGE - 1);
        assert!(page[1..].iter().eq(expected), "from the one at {at}");
    }
    // From its own place on, and from beyond the last name.
    let next = others.iter().position(|node| *node > known.local).unwrap();
    let own_place = known.page(RECORDS_OF_MESSAGE, || *known.local.as_bytes());
    assert_eq!((own_place[0], own_place[1]), (known.local, others[next]));
    assert_eq!(known.page(RECORDS_OF_MESSAGE, || [0xff; 32])[1], others[0]);
}
