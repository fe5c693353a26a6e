//! What is to be done for one extent or manifest, decided from who is a member, how each is, and what each says it
//! holds.
//!
//! Pure: two holders that see the same decide the same. The first-ranked holder that answers acts, the others wait and
//! look again. Only who is gone or has answered that it holds nothing counts as lost; silence is no proof.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Possession;
use crate::id::NodeId;
use crate::placement::{Assignment, Member, Ranking, margin, rank, zone_margin};
use crate::planted::{Bug, is_active};
use crate::ports::Redundancy;

/// What each node that was asked said; `None` where it did not answer.
pub(super) type Answers = BTreeMap<NodeId, Option<Possession>>;

/// How far down the ranking a silent member may be the one that has a manifest, and what went elsewhere because those
/// who should have it took nothing.
pub(super) const fn reach(redundancy: Redundancy) -> usize {
    2 * redundancy.total() + 8
}

/// The members that may have what is missing of an extent: those who are to have it, those who would be if these were
/// not there, and were if these have come since, and the first ones of the ranking.
pub(super) fn near(ranking: &Ranking<'_>, homes: &Assignment, redundancy: Redundancy) -> BTreeSet<NodeId> {
    let first: BTreeSet<NodeId> = homes.holders().iter().copied().collect();
    let next = ranking.replacement(redundancy, homes, &first);
    let next = next.iter().flat_map(|next| next.holders().iter().copied());
    ranking.nodes().take(reach(redundancy)).chain(next).chain(first.iter().copied()).collect()
}

/// Who may hold data, and who may have some.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// The members that are to hold data: those that offer capacity and are not gone.
    pub(super) members: Vec<Member>,
    /// Members that offer none any more, because they are leaving, and still have what they had; by node id.
    pub(super) leaving: Vec<NodeId>,
    /// Members that lately took nothing, having no room.
    pub(super) refusing: BTreeSet<NodeId>,
}

impl View {
    /// Everybody who may have something, and so is asked.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|member| member.node).chain(self.leaving.iter().copied())
    }

    /// Whether a node is one of them. One that is not, because it is admitted no more, may be alone in that or one of
    /// many: it gives nothing up on what it sees of the others.
    fn has(&self, node: NodeId) -> bool {
        self.nodes().any(|other| other == node)
    }
}

/// A shard index, and the node that is to hold it.
pub(super) type Seat = (u8, NodeId);

/// What is to be done for one extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentPlan {
    /// How many more holders may be lost, by what was answered; `None` when fewer than k indexes are there.
    pub(super) margin: Option<usize>,
    /// The margin that the members can give.
    pub(super) expected: usize,
    /// How many indexes may still be lost so that k remain, not counting those that silence leaves open.
    pub(super) spare: usize,
    /// How many holders that answer come before this node in the ranking; `None` when it holds nothing.
    pub(super) turn: Option<usize>,
    /// Indexes that nobody has, and where they are rebuilt. Empty while a silent member may have them.
    pub(super) lost: Vec<Seat>,
    /// Whether enough is lost that it is time to rebuild.
    pub(super) is_due: bool,
    /// Whether k indexes are there, so that the others can be made anew.
    pub(super) is_repairable: bool,
    /// Whether somebody's silence leaves open how well the extent is kept.
    pub(super) is_open: bool,
    /// Indexes that this node is to copy to those who are to hold them: none while something is due to be rebuilt, for a
    /// move would change where that is done, but for a node that is leaving.
    pub(super) moves: Vec<Seat>,
    /// Indexes that others are to copy to those who are to hold them, and have said that they lack them: the others say
    /// that they have them, or are silent, and that is all that is known of it; where they are silent only as much as would
    /// be due if it were lost. None where `moves` are none, nor for a node that is leaving.
    pub(super) claimed: Vec<Seat>,
    /// Whether every index is with the node that is to hold it.
    pub(super) is_home: bool,
    /// Whether this node is leaving.
    pub(super) is_leaving: bool,
    /// Whether everything is at home, or, of a node that is leaving, whether that makes nothing worse: what it holds is at
    /// home, or with others where the home has no room, and those who stay survive the loss of as many nodes and zones.
    pub(super) is_brought: bool,
    /// Of the moves the indexes that may go elsewhere where a home takes nothing.
    pub(super) may_stray: Vec<u8>,
    /// Indexes that this node may give up: everything is where it should be, in `homes`.
    pub(super) surplus: Vec<u8>,
    /// Who is to hold each index.
    pub(super) homes: Vec<Seat>,
    /// The members that answered, by rank, with the numbers of their zones.
    pub(super) answering: Vec<(NodeId, usize)>,
    /// Who holds what.
    pub(super) holders: Vec<(NodeId, Vec<u8>)>,
}

impl ExtentPlan {
    /// What an extent is like with which nothing is wrong.
    #[cfg(test)]
    pub(super) fn settled() -> Self {
        Self {
            margin: Some(2),
            expected: 2,
            spare: 2,
            turn: Some(0),
            lost: Vec::new(),
            is_due: false,
            is_repairable: true,
            is_open: false,
            moves: Vec::new(),
            claimed: Vec::new(),
            is_home: true,
            is_leaving: false,
            is_brought: true,
            may_stray: Vec::new(),
            surplus: Vec::new(),
            homes: Vec::new(),
            answering: Vec::new(),
            holders: Vec::new(),
        }
    }

    /// Whether somebody has every index.
    pub(super) fn is_found(&self) -> bool {
        let all: BTreeSet<u8> = self.holders.iter().flat_map(|(_, held)| held.iter().copied()).collect();
        self.homes.iter().all(|(index, _)| all.contains(index))
    }

    /// Who holds what, without what is said of the indexes of these seats, where enough others are left to make them anew:
    /// who says to have them is not asked for them then.
    pub(super) fn without(&self, seats: &[Seat], redundancy: Redundancy) -> Vec<(NodeId, Vec<u8>)> {
        let is_doubted = |index: &u8| seats.iter().any(|(doubted, _)| doubted == index);
        let mut holders = self.holders.clone();
        holders.iter_mut().for_each(|(_, held)| held.retain(|index| !is_doubted(index)));
        let left: BTreeSet<u8> = holders.iter().flat_map(|(_, held)| held.iter().copied()).collect();
        if left.len() < redundancy.data() { self.holders.clone() } else { holders }
    }

    /// Of what is claimed the seats whose indexes no more than one says to have, and the others.
    pub(super) fn claimed_alone(&self) -> (Vec<Seat>, Vec<Seat>) {
        let has = |index: &u8| self.holders.iter().filter(|(_, held)| held.contains(index)).count();
        self.claimed.iter().copied().partition(|(index, _)| has(index) <= 1)
    }

    /// Other places for seats whose nodes take nothing: with whoever answers and has least, in the zone that has least,
    /// and does not say that it has the same.
    pub(super) fn elsewhere(&self, seats: &[Seat], refusing: &BTreeSet<NodeId>) -> Vec<Seat> {
        let held = |node: &NodeId| self.holders.iter().find(|(holder, _)| holder == node);
        let mut places: Vec<Seat> = Vec::with_capacity(seats.len());
        for (index, _) in seats {
            let load = |node: &NodeId| {
                let given = self.lost.iter().chain(&self.moves).chain(&places);
                let taken = given.filter(|(_, other)| other == node && !refusing.contains(other)).count();
                held(node).map_or(0, |(_, indexes)| indexes.len()) + taken
            };
            let in_zone = |zone: usize| {
                let all = self.answering.iter().filter(|(_, other)| *other == zone);
                all.map(|(node, _)| load(node)).sum::<usize>()
            };
            let has = |node: &NodeId| held(node).is_some_and(|(_, indexes)| indexes.contains(index));
            let willing = self.answering.iter().filter(|(node, _)| !refusing.contains(node) && !has(node));
            let best = willing.min_by_key(|(node, zone)| (load(node), in_zone(*zone)));
            places.extend(best.map(|(node, _)| (*index, *node)));
        }
        places
    }

    /// Of these moves those whose nodes take something, and others in place of the rest where that may be: who leaves
    /// does not wait for room, and those who stay bring it home later.
    pub(super) fn with_room(&self, moves: &[Seat], refusing: &BTreeSet<NodeId>) -> Vec<Seat> {
        let (mut refused, mut with_room): (Vec<Seat>, Vec<Seat>) =
            moves.iter().copied().partition(|(_, node)| refusing.contains(node));
        refused.retain(|(index, _)| self.may_stray.contains(index));
        let elsewhere = self.elsewhere(&refused, refusing);
        let is_empty = |node: &NodeId| !self.holders.iter().any(|(holder, _)| holder == node);
        // With whoever has some already it is no safer than here.
        with_room.extend(elsewhere.into_iter().filter(|(_, node)| self.is_leaving || is_empty(node)));
        with_room
    }

    /// Whether nothing is worse when this node has left.
    fn is_left_behind(&self, view: &View, homes: &Assignment, redundancy: Redundancy, local: NodeId) -> bool {
        let k = redundancy.data();
        let mut staying = self.holders.clone();
        staying.retain(|(node, _)| !view.leaving.contains(node));
        let has =
            |node: &NodeId, index: &u8| staying.iter().any(|(n, held)| n == node && held.contains(index));
        let mine = self.holders.iter().find(|(node, _)| *node == local).map_or(&[][..], |(_, held)| held);
        let is_kept = |(index, home): &Seat| {
            has(home, index) || view.refusing.contains(home) && self.is_stray(view, local, *index)
        };
        let mut seats = self.homes.iter().filter(|(index, _)| mine.contains(index));
        let nodes = self.margin.min(Some(self.expected));
        let zones =
            zone_margin(&self.holders, &view.members, k).min(zone_margin(&homes.by_node(), &view.members, k));
        seats.all(is_kept) && margin(&staying, k) >= nodes && zone_margin(&staying, &view.members, k) >= zones
    }

    /// Whether others than this node who stay say that they have an index.
    fn is_stray(&self, view: &View, local: NodeId, index: u8) -> bool {
        let stays = |node: &NodeId| *node != local && !view.leaving.contains(node);
        self.holders.iter().any(|(node, held)| stays(node) && held.contains(&index))
    }

    /// Whether every index is where it should be.
    pub(super) fn is_whole(&self) -> bool {
        self.margin.is_some_and(|margin| margin >= self.expected) && self.lost.is_empty() && !self.is_open
    }
}

/// Decides for an extent, by the ranking of the view's members and the homes it assigns, which keep what they have of
/// it; `None` where it was removed, or no member can hold it.
pub(super) fn plan_extent(
    ranking: &Ranking<'_>,
    homes: &Assignment,
    redundancy: Redundancy,
    view: &View,
    answers: &Answers,
    local: NodeId,
) -> Option<ExtentPlan> {
    let answering: Vec<Member>;
    let (among, assigned): (Ranking<'_>, Assignment);
    let (ranking, homes) = if is_active(Bug::UnreachableIsAbsent) {
        let answers = |member: &&Member| answers.get(&member.node).is_some_and(Option::is_some);
        answering = view.members.iter().filter(answers).cloned().collect();
        among = rank(ranking.key(), &answering);
        assigned = among.assign(redundancy)?;
        (&among, &assigned)
    } else {
        (ranking, homes)
    };
    let said = |node: &NodeId| answers.get(node).and_then(Option::as_ref);
    let has = |node: &NodeId, index: u8| said(node).is_some_and(|said| said.indexes().contains(&index));
    let in_order: Vec<NodeId> = ranking.nodes().chain(view.leaving.iter().copied()).collect();
    let holders: Vec<NodeId> = in_order
        .iter()
        .copied()
        .filter(|node| said(node).is_some_and(|said| !said.indexes().is_empty()))
        .collect();
    let held: BTreeSet<u8> =
        holders.iter().filter_map(said).flat_map(|said| said.indexes().iter().copied()).collect();
    // Whoever holds the rest is told of the removal, with its proof; until then what can be read is kept up, for
    // anybody may say so.
    if held.len() < redundancy.data() && answers.values().flatten().any(|said| *said == Possession::Removed) {
        return None;
    }
    let is_silent = |node: &NodeId| matches!(answers.get(node), Some(None));
    let may_have_it = |homes: &Assignment| {
        near(ranking, homes, redundancy).iter().any(is_silent) || view.leaving.iter().any(is_silent)
    };
    let given = homes;
    let holdings: Vec<(NodeId, Vec<u8>)> =
        holders.iter().filter_map(|node| Some((*node, said(node)?.indexes().to_vec()))).collect();
    let homes = homes.keeping(&holdings);
    let seats: Vec<Seat> = (0..=u8::MAX).zip(homes.holders().iter().copied()).collect();
    let missing: Vec<Seat> = seats.iter().copied().filter(|(index, _)| !held.contains(index)).collect();

    // Most often nothing is missing, and nobody is silent.
    let is_open = !missing.is_empty() && answers.values().any(Option::is_none) && may_have_it(given);
    let lost: Vec<Seat> = if is_open { Vec::new() } else { seats_for(&missing, ranking, &holders, said) };
    let spare = redundancy.parity().saturating_sub(lost.len());
    let is_due = !lost.is_empty() && is_urgent(redundancy, spare);
    let is_repairable = held.len() >= redundancy.data();
    let is_leaving = view.leaving.contains(&local);
    let may_move = !(is_due && is_repairable) || is_leaving;
    let first_of = |index: u8| holders.iter().find(|node| has(node, index)).copied();
    let lacks = |home: &NodeId, index| takes(said(home)) && !has(home, index);
    // Who leaves relies on nobody but those who are to have it: others may say more than they have.
    let is_mine = |index| if is_leaving { has(&local, index) } else { first_of(index) == Some(local) };
    let strays = seats.iter().copied().filter(|(index, home)| may_move && lacks(home, *index));
    let moves = strays.clone().filter(|(index, home)| *home != local && is_mine(*index));
    // Who says nothing now may be one that has said so before: that it is silent now and then makes no difference. It is
    // not to cost more than if it were gone.
    let would_be_due = is_urgent(redundancy, redundancy.parity().saturating_sub(missing.len()));
    let may_have = |index| first_of(index).map_or(is_open && would_be_due, |node| node != local);
    let claimed = strays.filter(|(index, _)| !is_leaving && may_have(*index));
    let is_home = seats.iter().all(|(index, home)| has(home, *index));
    let may_give_up = is_home && view.has(local);
    let surplus = seats.iter().filter(|(index, home)| may_give_up && *home != local && has(&local, *index));
    let expected = homes.margin(redundancy).unwrap_or(0).min(redundancy.parity());
    let answering: Vec<&Member> =
        ranking.members().iter().copied().filter(|member| takes(said(&member.node))).collect();
    let zone_of = |member: &Member| answering.iter().position(|other| other.zone == member.zone);
    let mut plan = ExtentPlan {
        margin: margin(&holdings, redundancy.data()).map(|margin| margin.min(redundancy.parity())),
        expected,
        spare,
        turn: holders.iter().position(|node| *node == local),
        is_due,
        is_repairable,
        is_open,
        is_home,
        is_leaving,
        is_brought: is_home,
        may_stray: Vec::new(),
        lost,
        moves: moves.collect(),
        claimed: claimed.collect(),
        surplus: surplus.map(|(index, _)| *index).collect(),
        homes: seats.clone(),
        answering: answering.iter().filter_map(|member| Some((member.node, zone_of(member)?))).collect(),
        holders: holdings,
    };
    if is_leaving {
        plan.is_brought = is_home || plan.is_left_behind(view, &homes, redundancy, local);
        let indexes = plan.moves.iter().map(|(index, _)| *index);
        plan.may_stray = indexes.filter(|index| !plan.is_stray(view, local, *index)).collect();
    } else if plan.lost.is_empty() && plan.margin < Some(expected) {
        // Two that went elsewhere met here: all but one go on, to who has none.
        let more = said(&local).map_or(0, |said| said.indexes().len().saturating_sub(1));
        let strays = plan.moves.iter().map(|(index, _)| *index);
        plan.may_stray = strays.filter(|index| !plan.is_stray(view, local, *index)).take(more).collect();
    }
    Some(plan)
}

/// Where what is missing is rebuilt: at home, or, where the home has another shard that belongs elsewhere, with
/// whoever has least, so that the margin is full at once; it goes home later.
fn seats_for<'a>(
    missing: &[Seat],
    ranking: &Ranking<'_>,
    holders: &[NodeId],
    said: impl Fn(&NodeId) -> Option<&'a Possession>,
) -> Vec<Seat> {
    let load = |node: &NodeId| said(node).map_or(0, |said| said.indexes().len());
    let zone = |node: &NodeId| ranking.members().iter().find(|member| member.node == *node).map(|m| &m.zone);
    let mut seats: Vec<Seat> = Vec::with_capacity(missing.len());
    for (index, home) in missing {
        let taken = |node: &NodeId| load(node) + seats.iter().filter(|(_, other)| other == node).count();
        let in_zone = |node: &NodeId| {
            let all = holders.iter().chain(seats.iter().map(|(_, other)| other));
            all.filter(|other| zone(other) == zone(node)).count()
        };
        let willing = ranking.nodes().filter(|node| takes(said(node)));
        let best = if takes(said(home)) && taken(home) == 0 {
            Some(*home)
        } else {
            willing.min_by_key(|node| (taken(node), in_zone(node), node != home))
        };
        seats.extend(best.map(|node| (*index, node)));
    }
    seats
}

/// Whether a home can be given what it lacks: it answered. One that was rightly told to remove it refuses.
fn takes(said: Option<&Possession>) -> bool {
    said.is_some()
}

/// Codes of little parity are repaired at the first loss, others when half of it is gone: a lost shard costs the
/// reading of k others, however many are lost, and one that is away often comes back.
fn is_urgent(redundancy: Redundancy, spare: usize) -> bool {
    redundancy.parity() <= 2 || spare <= redundancy.parity().div_ceil(2)
}

/// What is to be done for one manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestPlan {
    /// How many more holders may be lost.
    pub(super) margin: usize,
    /// How many holders that answer come before this node in the ranking; `None` when it holds nothing.
    pub(super) turn: Option<usize>,
    /// Who is to have it and has said that it has not.
    pub(super) lacking: Vec<NodeId>,
    /// Members that have it and are not to.
    pub(super) strays: usize,
    /// Who has answered that it has not got it and is not to have it either, in the order in which they would be.
    pub(super) next: Vec<NodeId>,
    /// Whether all who are to have it say that they do.
    pub(super) is_home: bool,
    /// Whether this node may leave as far as this goes: all who are to have it do, or say that it was removed, or, if it is
    /// leaving, as many of those who stay have it: others give it to more than they are to while one has no room. One of
    /// them is honest, where no more are hostile than the code bears.
    pub(super) is_brought: bool,
    /// Whether this node may give it up: all who are to have it, do.
    pub(super) is_surplus: bool,
    /// Who is to have it.
    pub(super) homes: Vec<NodeId>,
}

/// Decides for a manifest, by the ranking of the view's members and the homes it gives.
pub(super) fn plan_manifest(
    ranking: &Ranking<'_>,
    homes: &[NodeId],
    redundancy: Redundancy,
    view: &View,
    answers: &Answers,
    local: NodeId,
) -> ManifestPlan {
    let said = |node: &NodeId| answers.get(node).and_then(Option::as_ref);
    let has = |node: &NodeId| matches!(said(node), Some(Possession::Held(_)));
    let holders: Vec<NodeId> = ranking.nodes().chain(view.leaving.iter().copied()).filter(has).collect();
    let lacking = |node: &&NodeId| takes(said(node)) && !has(node);
    // Where nobody can hold it, it is nowhere.
    let is_anywhere = !homes.is_empty();
    let is_home = is_anywhere && homes.iter().all(has);
    let was_removed = |node: &NodeId| matches!(said(node), Some(Possession::Removed));
    let others = ranking.manifest_order().into_iter().filter(|node| !homes.contains(node));
    let (strays, next): (Vec<NodeId>, Vec<NodeId>) =
        others.filter(|node| takes(said(node)) && !was_removed(node)).partition(has);
    ManifestPlan {
        margin: holders.len().saturating_sub(1).min(redundancy.parity()),
        turn: holders.iter().position(|node| *node == local),
        lacking: homes.iter().filter(lacking).copied().collect(),
        strays: strays.len(),
        next,
        is_home,
        is_brought: is_anywhere
            && (homes.iter().all(|node| has(node) || was_removed(node))
                || view.leaving.contains(&local)
                    && homes.iter().filter(|node| has(node)).count() + strays.len() >= homes.len()),
        is_surplus: is_home && view.has(local) && has(&local) && !homes.contains(&local),
        homes: homes.to_vec(),
    }
}

#[cfg(test)]
mod tests;
