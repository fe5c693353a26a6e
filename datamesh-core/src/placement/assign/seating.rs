//! Which index each node of an assignment has, by what it has already.

use std::collections::BTreeSet;

use super::Assignment;
use crate::id::NodeId;
use crate::placement::margin::Indexes;

/// Indexes being given to the places of an assignment, so that most of them stay where they are.
pub(super) struct Seating {
    /// What the node of each place has.
    has: Vec<Indexes>,
    /// The index that each place is given.
    given: Vec<Option<u8>>,
}

impl Seating {
    /// Each index that is in its own place has that, and as many others as can have one where they are.
    pub(super) fn new(has: Vec<Indexes>) -> Self {
        let own = |(place, has): (u8, &Indexes)| has.contains(place).then_some(place);
        let given = (0..=u8::MAX).zip(&has).map(own).collect();
        let mut seating = Self { has, given };
        let open: Vec<u8> =
            (0..=u8::MAX).zip(&seating.given).filter(|(_, own)| own.is_none()).map(|(i, _)| i).collect();
        let mut tried = vec![false; seating.has.len()];
        for index in open {
            // What was tried in vain stays so until a place is given to another index.
            if seating.seat(index, &mut tried) {
                tried.fill(false);
            }
        }
        seating
    }

    /// Finds a place for an index, and if need be others for those that are in the way.
    fn seat(&mut self, index: u8, tried: &mut [bool]) -> bool {
        for place in 0..self.has.len() {
            let may = self.has.get(place).is_some_and(|has| has.contains(index));
            let Some(tried_here) = tried.get_mut(place) else { continue };
            if !may || std::mem::replace(tried_here, true) {
                continue;
            }
            let there = self.given.get(place).copied().flatten();
            if there.is_none_or(|other| self.seat(other, tried)) {
                if let Some(given) = self.given.get_mut(place) {
                    *given = Some(index);
                }
                return true;
            }
        }
        false
    }

    /// The holder of each index: of those that have no place yet the own one, if it is free, or the first that is.
    pub(super) fn finish(mut self, nodes: &[NodeId]) -> Assignment {
        let seated: BTreeSet<u8> = self.given.iter().flatten().copied().collect();
        let mut rest: Vec<u8> =
            (0..=u8::MAX).take(nodes.len()).filter(|index| !seated.contains(index)).collect();
        rest.retain(|index| match self.given.get_mut(usize::from(*index)) {
            Some(own @ None) => own.replace(*index).is_some(),
            _ => true,
        });
        let mut rest = rest.into_iter();
        for given in self.given.iter_mut().filter(|given| given.is_none()) {
            *given = rest.next();
        }
        let mut seats: Vec<(u8, NodeId)> =
            self.given.iter().zip(nodes).filter_map(|(index, node)| Some(((*index)?, *node))).collect();
        seats.sort_unstable_by_key(|(index, _)| *index);
        Assignment { holders: seats.into_iter().map(|(_, node)| node).collect() }
    }
}
