//! What a round found: what is to be done, the most urgent first, and what is to be looked at again before the next
//! round over everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::care::plan::{ExtentPlan, ManifestPlan};
use crate::care::status::Margins;
use crate::care::survey::Entry;
use crate::id::{ExtentId, ObjectId};
use crate::node::Written;

/// Findings that one round remembers, the most urgent ones; the rest are found again. At 120 bytes each, 2 MiB.
pub(super) const MAX_FINDINGS: usize = 1 << 14;

/// What is to be done with an extent, by urgency: the fewer may still be lost, the sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Short(usize),
    /// It is lost but for what can be had in single segments: it is tried after all that can be repaired for certain, and
    /// not soon again, so that it keeps nothing waiting for long.
    Hopeless,
    Away,
    /// Others were to see to it, and have not.
    Overdue,
}

impl Urgency {
    fn of(plan: &ExtentPlan) -> Option<Self> {
        if plan.is_due && !plan.lost.is_empty() {
            return Some(if plan.is_repairable { Self::Short(plan.spare) } else { Self::Hopeless });
        }
        let away = (!plan.moves.is_empty() || !plan.surplus.is_empty()).then_some(Self::Away);
        away.or_else(|| (!plan.claimed.is_empty()).then_some(Self::Overdue))
    }
}

/// The place of an extent in the order of work: what is this node's own before what is others', and that backwards, so
/// that they meet in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    urgency: Urgency,
    is_others: bool,
    order: [u8; 32],
}

impl Place {
    fn new(urgency: Urgency, is_others: bool, id: ExtentId) -> Self {
        let order = id.as_bytes().map(|byte| if is_others { !byte } else { byte });
        Self { urgency, is_others, order }
    }
}

/// How well extents and manifests are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) margins: Margins,
    /// Extents and manifests that this node has something of.
    pub(super) held: u64,
    /// Those of them of which not everything is where it should be, or, of a node that leaves, as safe without it.
    pub(super) away: u64,
}

impl Tally {
    fn note_extent(&mut self, plan: &ExtentPlan) {
        if plan.turn == Some(0) {
            self.margins.note(plan.margin, plan.expected, plan.is_open);
        }
        self.held += 1;
        self.away += u64::from(!plan.is_brought);
    }

    fn note_manifest(&mut self, plan: &ManifestPlan) {
        if plan.turn == Some(0) {
            self.margins.manifests += 1;
            self.margins.manifests_short += u64::from(!plan.is_home);
        }
        self.held += 1;
        self.away += u64::from(!plan.is_brought);
    }

    fn and(&self, other: &Self) -> Self {
        let margins = self.margins.and(&other.margins);
        Self { margins, held: self.held + other.held, away: self.away + other.away }
    }
}

/// What the next round looks at: what was not as it should be, and what was written since. All else was well when it
/// was last looked at, and there was no reason since to doubt it.
#[derive(Debug, Clone, Default)]
pub(super) struct Agenda {
    pub(super) extents: BTreeSet<ExtentId>,
    pub(super) objects: BTreeSet<ObjectId>,
    /// Whether more is to be looked at than is noted here, so that the next round has to be one over everything.
    pub(super) is_more: bool,
    /// How well all that is not noted here is kept.
    rest: Tally,
}

impl Agenda {
    pub(super) fn add(&mut self, written: Written) {
        self.is_more |= written.is_more;
        written.extents.into_iter().for_each(|id| self.note_extent(id));
        written.objects.into_iter().for_each(|id| self.note_object(id));
    }

    fn note_extent(&mut self, id: ExtentId) {
        if self.extents.len() < MAX_FINDINGS || self.extents.contains(&id) {
            self.extents.insert(id);
        } else {
            self.is_more = true;
        }
    }

    fn note_object(&mut self, id: ObjectId) {
        if self.objects.len() < MAX_FINDINGS || self.objects.contains(&id) {
            self.objects.insert(id);
        } else {
            self.is_more = true;
        }
    }
}

/// What a round found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) extents: BTreeMap<Place, Entry<ExtentId>>,
    pub(super) manifests: BTreeMap<ObjectId, Entry<ObjectId>>,
    pub(super) bytes: u64,
    /// Whether silence leaves something open, or others are to act.
    pub(super) is_waiting: bool,
    pub(super) agenda: Agenda,
    /// How well what is on the agenda is kept.
    open: Tally,
}

impl Findings {
    /// Findings of a round over no more than was on an agenda.
    pub(super) fn of_some(agenda: &Agenda) -> Self {
        let agenda = Agenda { rest: agenda.rest.clone(), ..Agenda::default() };
        Self { agenda, ..Self::default() }
    }

    /// How well everything is kept.
    pub(super) fn tally(&self) -> Tally {
        self.agenda.rest.and(&self.open)
    }

    /// Takes in what is to be done for an extent; the put that wrote a young one may still be at work. What it has
    /// claimed is overdue, and what it has lost is to be tried now.
    pub(super) fn take_extent(&mut self, entry: Entry<ExtentId>, plan: &ExtentPlan, is_young: bool) {
        let is_waiting = plan.is_open || plan.is_due || is_young;
        self.is_waiting |= is_waiting;
        let urgency = Urgency::of(plan);
        if !is_waiting && urgency.is_none() && plan.is_home {
            self.agenda.rest.note_extent(plan);
            return;
        }
        self.open.note_extent(plan);
        self.agenda.note_extent(entry.id);
        let Some(urgency) = urgency else { return };
        let is_others = match urgency {
            Urgency::Short(_) | Urgency::Hopeless => plan.turn != Some(0),
            Urgency::Away => false,
            Urgency::Overdue => true,
        };
        let lost = if plan.turn == Some(0) { plan.lost.len() } else { 0 };
        let seats = lost + plan.moves.len() + plan.claimed.len();
        self.bytes = self.bytes.saturating_add(entry.bytes.saturating_mul(seats as u64));
        self.extents.insert(Place::new(urgency, is_others, entry.id), entry);
        if self.extents.len() > MAX_FINDINGS {
            self.extents.pop_last();
        }
    }

    /// Takes in an extent of which nothing can be said: nobody can hold it now, or too little of it is left and somebody
    /// says that it was removed. It is not with others.
    pub(super) fn take_undecided(&mut self, id: ExtentId) {
        self.open.held += 1;
        self.open.away += 1;
        self.agenda.note_extent(id);
    }

    /// Takes in what is to be done for a manifest.
    pub(super) fn take_manifest(&mut self, entry: Entry<ObjectId>, plan: &ManifestPlan, is_young: bool) {
        let is_mine = plan.turn == Some(0) || plan.is_surplus;
        let is_others = !plan.lacking.is_empty() && !is_mine;
        let is_open = !plan.is_home && plan.lacking.is_empty();
        self.is_waiting |= is_young || is_others || is_open;
        if !is_young && plan.is_home && !plan.is_surplus {
            self.agenda.rest.note_manifest(plan);
            return;
        }
        self.open.note_manifest(plan);
        self.agenda.note_object(entry.id);
        if (plan.is_surplus || !plan.lacking.is_empty()) && self.manifests.len() < MAX_FINDINGS {
            self.manifests.insert(entry.id, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Redundancy;

    fn id(number: usize) -> ExtentId {
        ExtentId::of(&number.to_le_bytes())
    }

    fn entry<I>(id: I) -> Entry<I> {
        Entry { id, key: [0; 32], redundancy: Redundancy::STANDARD, bytes: 10, committed_at: 0 }
    }

    fn short(spare: usize) -> ExtentPlan {
        let lost = vec![(5, crate::id::NodeId::from_bytes([1; 32]))];
        ExtentPlan {
            margin: Some(spare),
            spare,
            lost,
            is_due: true,
            is_home: false,
            is_brought: false,
            ..ExtentPlan::settled()
        }
    }

    #[test]
    fn what_is_well_is_not_looked_at_again_and_still_counts() {
        let mut findings = Findings::default();
        findings.take_extent(entry(id(0)), &ExtentPlan::settled(), false);
        findings.take_extent(entry(id(1)), &short(1), false);
        findings.take_extent(entry(id(2)), &ExtentPlan::settled(), true);
        assert_eq!(findings.agenda.extents, BTreeSet::from([id(1), id(2)]));
        assert!(findings.is_waiting);
        assert_eq!((findings.tally().held, findings.tally().away), (3, 1));
        assert_eq!(findings.tally().margins.by_margin, [0, 1, 2]);

        let mut again = Findings::of_some(&findings.agenda);
        again.take_extent(entry(id(1)), &ExtentPlan::settled(), false);
        again.take_extent(entry(id(2)), &ExtentPlan::settled(), false);
        assert_eq!(again.agenda.extents, BTreeSet::new());
        assert!(!again.is_waiting);
        assert_eq!((again.tally().held, again.tally().away), (3, 0));
        assert_eq!(again.tally().margins.by_margin, [0, 0, 3]);
    }

    #[test]
    fn what_nothing_can_be_said_of_is_not_with_others() {
        let mut findings = Findings::default();
        findings.take_extent(entry(id(0)), &ExtentPlan::settled(), false);
        findings.take_undecided(id(1));
        assert_eq!((findings.tally().held, findings.tally().away), (2, 1));
        assert_eq!(findings.agenda.extents, BTreeSet::from([id(1)]));
    }

    #[test]
    fn the_most_endangered_come_first() {
        let mut findings = Findings::default();
        for (number, spare) in [2, 0, 1].into_iter().enumerate() {
            findings.take_extent(entry(id(number)), &short(spare), false);
        }
        let away = ExtentPlan { surplus: vec![3], ..ExtentPlan::settled() };
        findings.take_extent(entry(id(3)), &away, false);
        let overdue = ExtentPlan { claimed: short(1).lost, is_home: false, ..ExtentPlan::settled() };
        findings.take_extent(entry(id(4)), &overdue, false);
        let hopeless = ExtentPlan { is_repairable: false, margin: None, ..short(0) };
        findings.take_extent(entry(id(5)), &hopeless, false);
        let order: Vec<ExtentId> = findings.extents.values().map(|entry| entry.id).collect();
        assert_eq!(order, [id(1), id(2), id(0), id(5), id(3), id(4)]);
        assert_eq!(findings.bytes, 50, "one shard each of five");
    }

    #[test]
    fn what_was_tried_in_vain_is_looked_at_and_not_worked_on() {
        let mut findings = Findings::default();
        let hopeless = ExtentPlan { is_repairable: false, margin: None, lost: Vec::new(), ..short(0) };
        findings.take_extent(entry(id(0)), &hopeless, false);
        let away = ExtentPlan { moves: short(0).lost, ..hopeless };
        findings.take_extent(entry(id(1)), &away, false);
        assert!(findings.is_waiting);
        assert_eq!(findings.agenda.extents, BTreeSet::from([id(0), id(1)]));
        assert_eq!(findings.extents.values().map(|entry| entry.id).collect::<Vec<_>>(), [id(1)]);
        assert_eq!((findings.bytes, findings.tally().away), (10, 2), "one shard that is moved");
    }

    #[test]
    fn what_cannot_be_repaired_leaves_room_for_what_can() {
        let mut findings = Findings::default();
        let hopeless = ExtentPlan { is_repairable: false, margin: None, ..short(0) };
        for number in 0..MAX_FINDINGS + 10 {
            findings.take_extent(entry(id(number)), &hopeless, false);
        }
        let others: Vec<ExtentId> = (0..3).map(|number| id(MAX_FINDINGS + 10 + number)).collect();
        for other in &others {
            findings.take_extent(entry(*other), &short(1), false);
        }
        assert_eq!(findings.extents.len(), MAX_FINDINGS);
        let first: BTreeSet<ExtentId> = findings.extents.values().take(3).map(|entry| entry.id).collect();
        assert_eq!(first, others.into_iter().collect());
    }

    #[test]
    fn more_than_is_remembered_is_looked_at_with_everything() {
        let mut agenda = Agenda::default();
        let written = |range: std::ops::Range<usize>| Written {
            extents: range.map(id).collect(),
            ..Written::default()
        };
        agenda.add(written(0..MAX_FINDINGS));
        assert!(!agenda.is_more);
        agenda.add(written(0..1));
        assert!(!agenda.is_more, "it was there already");
        agenda.add(written(MAX_FINDINGS..MAX_FINDINGS + 1));
        assert!(agenda.is_more);
        assert_eq!(agenda.extents.len(), MAX_FINDINGS);
    }
}
