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

/// How far down the ranking a silent member may be the one that holds what is missing: holders were chosen among the
/// first so many when they were written, a few of which may have been down then.
pub(super) const fn reach(redundancy: Redundancy) -> usize {
    2 * redundancy.total() + 8
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
    /// Whether somebody's silence leaves open how well the extent is kept.
    pub(super) is_open: bool,
    /// Indexes that this node is to copy to those who are to hold them: none while something is due to be rebuilt, for a
    /// move would change where that is done, but for a node that is leaving.
    pub(super) moves: Vec<Seat>,
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
    /// Whether somebody has every index.
    pub(super) fn is_found(&self) -> bool {
        let all: BTreeSet<u8> = self.holders.iter().flat_map(|(_, held)| held.iter().copied()).collect();
        self.homes.iter().all(|(index, _)| all.contains(index))
    }

    /// Other places for seats whose nodes take nothing: with whoever answers and has least, in the zone that has least.
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
            let willing = self.answering.iter().filter(|(node, _)| !refusing.contains(node));
            let best = willing.min_by_key(|(node, zone)| (load(node), in_zone(*zone)));
            places.extend(best.map(|(node, _)| (*index, *node)));
        }
        places
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
        let seats = self.homes.iter().filter(|(index, _)| mine.contains(index));
        let nodes = self.margin.min(Some(self.expected));
        let zones =
            zone_margin(&self.holders, &view.members, k).min(zone_margin(&homes.by_node(), &view.members, k));
        seats.clone().all(is_kept)
            && margin(&staying, k) >= nodes
            && zone_margin(&staying, &view.members, k) >= zones
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
    let near = ranking.nodes().take(reach(redundancy)).chain(view.leaving.iter().copied());
    let silent = near.filter_map(|node| answers.get(&node)).any(Option::is_none);
    let holdings: Vec<(NodeId, Vec<u8>)> =
        holders.iter().filter_map(|node| Some((*node, said(node)?.indexes().to_vec()))).collect();
    let homes = homes.keeping(&holdings);
    let seats: Vec<Seat> = (0..=u8::MAX).zip(homes.holders().iter().copied()).collect();
    let missing: Vec<Seat> = seats.iter().copied().filter(|(index, _)| !held.contains(index)).collect();

    let is_open = silent && !missing.is_empty();
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
    let moves = seats
        .iter()
        .copied()
        .filter(|(index, home)| *home != local && is_mine(*index) && lacks(home, *index))
        .filter(|_| may_move);
    let is_home = seats.iter().all(|(index, home)| has(home, *index));
    let surplus = seats.iter().filter(|(index, home)| is_home && *home != local && has(&local, *index));
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
        is_open,
        is_home,
        is_leaving,
        is_brought: is_home,
        may_stray: Vec::new(),
        lost,
        moves: moves.collect(),
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
    let is_home = homes.iter().all(has);
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
        is_brought: homes.iter().all(|node| has(node) || was_removed(node))
            || view.leaving.contains(&local)
                && homes.iter().filter(|node| has(node)).count() + strays.len() >= homes.len(),
        is_surplus: is_home && has(&local) && !homes.contains(&local),
        homes: homes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Zone;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [9; 32];
    const CODE: Redundancy = Redundancy::STANDARD;

    fn members(count: u8) -> Vec<Member> {
        let member = |i| Member { node: node(i), zone: Default::default(), capacity: 1 << 30 };
        (0..count).map(member).collect()
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&[number]).as_bytes())
    }

    /// Everybody holds what the ranking gives it.
    fn at_home(members: &[Member]) -> Answers {
        let homes = rank(&KEY, members).assign(CODE).unwrap();
        let said = |member: &Member| match homes.indexes_of(&member.node) {
            indexes if indexes.is_empty() => Possession::Absent,
            indexes => Possession::Held(indexes),
        };
        members.iter().map(|member| (member.node, Some(said(member)))).collect()
    }

    fn view(members: &[Member]) -> View {
        View { members: members.to_vec(), ..View::default() }
    }

    fn plan_of(redundancy: Redundancy, view: &View, answers: &Answers, local: NodeId) -> Option<ExtentPlan> {
        let ranking = rank(&KEY, &view.members);
        plan_extent(&ranking, &ranking.assign(redundancy)?, redundancy, view, answers, local)
    }

    fn manifest_plan(members: &[Member], answers: &Answers, local: NodeId) -> ManifestPlan {
        let ranking = rank(&KEY, members);
        plan_manifest(&ranking, &ranking.manifest_holders(CODE), CODE, &view(members), answers, local)
    }

    /// Those who hold something, in the order in which they are to repair.
    fn holders(members: &[Member]) -> Vec<NodeId> {
        let ranking = rank(&KEY, members);
        let homes = ranking.assign(CODE).unwrap();
        ranking.nodes().filter(|node| !homes.indexes_of(node).is_empty()).collect()
    }

    fn first_holder(members: &[Member]) -> NodeId {
        holders(members)[0]
    }

    fn plan(members: &[Member], answers: &Answers, local: NodeId) -> ExtentPlan {
        plan_of(CODE, &view(members), answers, local).unwrap()
    }

    #[test]
    fn nothing_is_done_for_what_is_whole() {
        let members = members(9);
        for member in &members {
            let plan = plan(&members, &at_home(&members), member.node);
            assert!(plan.is_whole() && plan.moves.is_empty() && plan.surplus.is_empty());
            assert_eq!((plan.margin, plan.expected, plan.spare), (Some(2), 2, 2));
        }
    }

    #[test]
    fn who_lost_its_disk_is_given_its_shard_back() {
        let members = members(9);
        let mut answers = at_home(&members);
        let victim = first_holder(&members);
        answers.insert(victim, Some(Possession::Absent));
        let lost = rank(&KEY, &members).assign(CODE).unwrap().indexes_of(&victim);
        for (turn, holder) in holders(&members)[1..].iter().enumerate() {
            let plan = plan(&members, &answers, *holder);
            assert_eq!(plan.lost, [(lost[0], victim)]);
            assert!(plan.is_due && !plan.is_whole());
            assert_eq!(plan.turn, Some(turn));
        }
    }

    #[test]
    fn silence_is_waited_for_and_absence_is_not() {
        let all = members(9);
        let victim = first_holder(&all);
        let mut answers = at_home(&all);
        answers.insert(victim, None);
        let local = rank(&KEY, &all).nodes().nth(1).unwrap();
        let waiting = plan(&all, &answers, local);
        assert!(waiting.is_open && waiting.lost.is_empty() && !waiting.is_due);
        // Once it is gone it is no member here, and its shard has another home.
        let rest: Vec<Member> = all.iter().filter(|member| member.node != victim).cloned().collect();
        answers.remove(&victim);
        let acting = plan(&rest, &answers, local);
        assert_eq!((acting.lost.len(), acting.spare, acting.is_due), (1, 1, true));
        assert!(acting.lost.iter().all(|(_, home)| *home != victim));
    }

    #[test]
    fn half_of_a_wide_margin_is_lost_before_it_is_repaired() {
        let code = Redundancy::new(4, 4).unwrap();
        let members = members(12);
        let homes = rank(&KEY, &members).assign(code).unwrap();
        let mut answers: Answers = homes
            .by_node()
            .into_iter()
            .map(|(node, indexes)| (node, Some(Possession::Held(indexes))))
            .collect();
        let local = homes.holders()[7];
        for (lost, due) in [(0, false), (1, false), (2, true), (3, true)] {
            for victim in &homes.holders()[..lost] {
                answers.insert(*victim, Some(Possession::Absent));
            }
            let plan = plan_of(code, &view(&members), &answers, local).unwrap();
            assert_eq!((plan.lost.len(), plan.is_due), (lost, due));
        }
    }

    #[test]
    fn a_shard_goes_home_and_is_given_up_only_when_all_are_home() {
        let members = members(9);
        let homes = rank(&KEY, &members).assign(CODE).unwrap();
        let (home, away) = (homes.holders()[0], rank(&KEY, &members).nodes().nth(8).unwrap());
        let mut answers = at_home(&members);
        answers.insert(home, Some(Possession::Absent));
        answers.insert(away, Some(Possession::Held(vec![0])));
        let mover = plan(&members, &answers, away);
        assert_eq!((mover.moves, mover.surplus, mover.lost), (vec![(0, home)], vec![], vec![]));
        assert!(plan(&members, &answers, homes.holders()[1]).moves.is_empty(), "only its holder moves it");
        answers.insert(home, Some(Possession::Held(vec![0])));
        let done = plan(&members, &answers, away);
        assert_eq!((done.moves, done.surplus), (vec![], vec![0]));
        answers.insert(homes.holders()[1], Some(Possession::Absent));
        assert!(plan(&members, &answers, away).surplus.is_empty(), "another index is not at home");
    }

    #[test]
    fn who_leaves_brings_its_shards_home_and_nobody_rebuilds_them() {
        let all = members(9);
        let leaver = first_holder(&all);
        let answers = at_home(&all);
        let rest = all.iter().filter(|member| member.node != leaver).cloned().collect();
        let view = View { members: rest, leaving: vec![leaver], ..View::default() };
        let its = rank(&KEY, &all).assign(CODE).unwrap().indexes_of(&leaver);
        let mut moved = Vec::new();
        for member in &all {
            let plan = plan_of(CODE, &view, &answers, member.node).unwrap();
            assert!(plan.lost.is_empty() && !plan.is_home);
            moved.extend(plan.moves.into_iter().map(|(index, home)| (index, home, member.node)));
        }
        assert!(moved.iter().all(|(_, home, from)| *home != leaver && *from == leaver));
        assert_eq!(moved.iter().map(|(index, ..)| *index).collect::<Vec<_>>(), its, "and nobody else's");
    }

    #[test]
    fn who_is_to_hold_one_shard_keeps_another() {
        let members = members(9);
        let homes = rank(&KEY, &members).assign(CODE).unwrap();
        let mut answers = at_home(&members);
        let [first, second, third] = [0, 1, 2].map(|index| homes.holders()[index]);
        for (node, index) in [(first, 1), (second, 2), (third, 0)] {
            answers.insert(node, Some(Possession::Held(vec![index])));
        }
        for member in &members {
            let plan = plan(&members, &answers, member.node);
            assert!(plan.is_home && plan.moves.is_empty() && plan.surplus.is_empty(), "{plan:?}");
        }
        // What one of them loses is made there again.
        answers.insert(third, Some(Possession::Absent));
        assert_eq!(plan(&members, &answers, first).lost, [(0, third)]);
        // One that is silent leaves its place open, and nobody moves.
        answers.insert(third, None);
        let silent = plan(&members, &answers, first);
        assert!(silent.is_open && silent.moves.is_empty() && silent.lost.is_empty());
    }

    #[test]
    fn what_was_removed_is_left_alone() {
        let members = members(9);
        let local = first_holder(&members);
        let mut answers: Answers =
            members.iter().map(|member| (member.node, Some(Possession::Removed))).collect();
        answers.insert(local, Some(Possession::Held(vec![0, 1, 2])));
        assert_eq!(plan_of(CODE, &view(&members), &answers, local), None);
    }

    #[test]
    fn who_says_that_it_was_removed_does_not_keep_it_from_repair() {
        let members = members(9);
        let holders = holders(&members);
        // Those who never held it, and one who lost it, say that it was removed.
        let mut answers = at_home(&members);
        answers.values_mut().filter(|said| **said == Some(Possession::Absent)).for_each(|said| {
            *said = Some(Possession::Removed);
        });
        answers.insert(holders[0], Some(Possession::Removed));
        let plan = plan(&members, &answers, holders[1]);
        assert_eq!((plan.lost.len(), plan.is_due, plan.turn), (1, true, Some(0)));
        let answers = members.iter().map(|member| (member.node, Some(Possession::Removed)));
        let answers = answers.chain([(holders[1], Some(Possession::Held(vec![])))]).collect();
        let manifest = manifest_plan(&members, &answers, holders[1]);
        assert!(manifest.lacking.len() >= 2);
    }

    #[test]
    fn manifests_go_to_the_first_ranked() {
        let members = members(9);
        let homes = rank(&KEY, &members).manifest_holders(CODE);
        let mut answers: Answers = members.iter().map(|m| (m.node, Some(Possession::Absent))).collect();
        let away = rank(&KEY, &members).nodes().nth(5).unwrap();
        answers.insert(away, Some(Possession::Held(vec![])));
        let plan = manifest_plan(&members, &answers, away);
        assert_eq!((plan.margin, plan.turn, &plan.lacking, plan.is_surplus), (0, Some(0), &homes, false));
        let rest: Vec<NodeId> = rank(&KEY, &members).manifest_order().split_off(homes.len());
        let without = rest.into_iter().filter(|node| *node != away).collect::<Vec<_>>();
        assert_eq!((plan.strays, plan.next), (1, without));
        answers.extend(homes.iter().map(|home| (*home, Some(Possession::Held(vec![])))));
        let plan = manifest_plan(&members, &answers, away);
        assert_eq!((plan.margin, plan.lacking, plan.is_surplus), (2, vec![], true));
        let plan = manifest_plan(&members, &answers, homes[1]);
        assert!(!plan.is_surplus, "who is to have it keeps it");
    }

    #[test]
    fn a_manifest_whose_home_is_silent_is_not_home() {
        let members = members(9);
        let homes = rank(&KEY, &members).manifest_holders(CODE);
        let mut answers: Answers = members.iter().map(|m| (m.node, Some(Possession::Absent))).collect();
        answers.extend(homes.iter().map(|home| (*home, Some(Possession::Held(vec![])))));
        assert!(manifest_plan(&members, &answers, homes[0]).is_home);
        answers.insert(homes[1], None);
        let plan = manifest_plan(&members, &answers, homes[0]);
        assert!(plan.lacking.is_empty() && !plan.is_home);
    }

    #[test]
    fn who_leaves_does_not_wait_until_it_is_told_of_a_removal() {
        let members = members(9);
        let homes = rank(&KEY, &members).manifest_holders(CODE);
        let leaver = members.iter().map(|m| m.node).find(|node| !homes.contains(node)).unwrap();
        let mut answers: Answers = members.iter().map(|m| (m.node, Some(Possession::Removed))).collect();
        answers.insert(leaver, Some(Possession::Held(vec![])));
        let plan = manifest_plan(&members, &answers, leaver);
        assert!(plan.is_brought && !plan.is_home && !plan.is_surplus);
        answers.insert(homes[2], Some(Possession::Absent));
        assert!(!manifest_plan(&members, &answers, leaver).is_brought, "one of them can take it");
        answers.insert(homes[2], None);
        assert!(
            !manifest_plan(&members, &answers, leaver).is_brought,
            "one of them may not know it as removed"
        );
    }

    #[test]
    fn what_is_lost_is_rebuilt_before_anything_moves() {
        let members = members(9);
        let mut answers = at_home(&members);
        let homes = rank(&KEY, &members).assign(CODE).unwrap();
        let (mover, home) = (homes.holders()[0], homes.holders()[1]);
        // One has the shard of another one too, which that one lacks.
        answers.insert(mover, Some(Possession::Held(vec![0, 1])));
        answers.insert(home, Some(Possession::Absent));
        assert_eq!(plan(&members, &answers, mover).moves, [(1, home)]);
        answers.insert(homes.holders()[2], Some(Possession::Absent));
        assert_eq!(plan(&members, &answers, mover).moves, []);
        // Nothing can be rebuilt where too little is left.
        answers.insert(homes.holders()[3], Some(Possession::Absent));
        answers.insert(homes.holders()[4], Some(Possession::Absent));
        assert_eq!(plan(&members, &answers, mover).moves, [(1, home)]);
    }

    /// A view that one has left, or is leaving.
    fn without(all: &[Member], leaver: NodeId) -> View {
        let members = all.iter().filter(|member| member.node != leaver).cloned().collect();
        View { members, leaving: vec![leaver], ..View::default() }
    }

    #[test]
    fn who_leaves_does_not_wait_for_room_at_home() {
        let all = members(9);
        let leaver = first_holder(&all);
        let mut answers = at_home(&all);
        let mut view = without(&all, leaver);
        let leave = |view: &View, answers: &Answers| plan_of(CODE, view, answers, leaver).unwrap();
        let plan = leave(&view, &answers);
        let [(index, home)] = plan.moves[..] else { panic!("{plan:?}") };
        assert_eq!((plan.is_brought, &plan.may_stray), (false, &vec![index]));
        let stray = plan.elsewhere(&plan.moves, &BTreeSet::from([home]))[0].1;
        let earlier = answers.insert(stray, Some(Possession::Held(vec![index])));
        assert!(stray != home && earlier == Some(Some(Possession::Absent)), "who has none takes it");
        // What anybody else says to have counts only where the home takes nothing.
        let plan = leave(&view, &answers);
        assert_eq!((plan.is_brought, &plan.moves), (false, &vec![(index, home)]));
        view.refusing.insert(home);
        let plan = leave(&view, &answers);
        assert!(plan.is_brought && !plan.is_home && plan.may_stray.is_empty(), "{plan:?}");
        // The other one brings it home when there is room, and is not done before.
        let other = plan_of(CODE, &view, &answers, stray).unwrap();
        assert_eq!((other.moves, other.is_brought, other.may_stray), (vec![(index, home)], false, vec![]));
        // With who has another shard already it is less safe.
        answers.insert(stray, Some(Possession::Absent));
        let (full, its) = answers.iter().find(|(n, said)| **n != leaver && has_some(said)).unwrap();
        let both = its.iter().flat_map(|said| said.indexes().to_vec()).chain([index]).collect();
        answers.insert(*full, Some(Possession::Held(both)));
        assert!(!leave(&view, &answers).is_brought);
    }

    #[test]
    fn who_leaves_does_not_wait_for_what_it_never_had() {
        let all = members(12);
        let code = Redundancy::new(4, 4).unwrap();
        let leaver = first_holder(&all);
        let view = without(&all, leaver);
        let homes = rank(&KEY, &view.members).assign(code).unwrap();
        // One index is lost, which is not repaired yet, and one home is silent.
        for (kept, is_brought) in [(7, true), (3, true)] {
            let mut answers: Answers = all.iter().map(|m| (m.node, Some(Possession::Absent))).collect();
            let some = homes.by_node().into_iter().filter(|(_, held)| usize::from(held[0]) < kept);
            answers.extend(some.map(|(node, held)| (node, Some(Possession::Held(held)))));
            answers.insert(homes.holders()[7], None);
            answers.insert(leaver, Some(Possession::Held(vec![0])));
            let plan = plan_of(code, &view, &answers, leaver).unwrap();
            assert_eq!((plan.is_brought, plan.is_home), (is_brought, false), "{kept} kept: {plan:?}");
            answers.insert(homes.holders()[0], Some(Possession::Absent));
            let plan = plan_of(code, &view, &answers, leaver).unwrap();
            assert_eq!((plan.is_brought, plan.moves), (false, vec![(0, homes.holders()[0])]));
        }
    }

    #[test]
    fn what_went_elsewhere_spares_the_zones() {
        let mut all = members(12);
        for (number, member) in all.iter_mut().enumerate() {
            member.zone = format!("z{}", number % 3).parse().unwrap();
        }
        let zone = |node: &NodeId| all.iter().find(|member| member.node == *node).unwrap().zone.clone();
        let leaver = first_holder(&all);
        let mut answers = at_home(&all);
        let mut view = without(&all, leaver);
        let plan = plan_of(CODE, &view, &answers, leaver).unwrap();
        let [(index, home)] = plan.moves[..] else { panic!("{plan:?}") };
        view.refusing.insert(home);
        let stray = plan.elsewhere(&plan.moves, &view.refusing)[0].1;
        assert_eq!(zone(&stray), zone(&home));
        for (node, is_brought) in [(stray, true), (far(&all, &answers, &zone(&home)), false)] {
            let earlier = answers.insert(node, Some(Possession::Held(vec![index])));
            assert_eq!(plan_of(CODE, &view, &answers, leaver).unwrap().is_brought, is_brought);
            answers.insert(node, earlier.unwrap());
        }
    }

    /// Who has nothing and is in another zone than this.
    fn far(all: &[Member], answers: &Answers, zone: &Zone) -> NodeId {
        let is_far = |member: &&Member| member.zone != *zone && !has_some(&answers[&member.node]);
        all.iter().find(is_far).unwrap().node
    }

    #[test]
    fn two_that_went_elsewhere_and_met_are_parted() {
        let members = members(10);
        let homes = rank(&KEY, &members).assign(CODE).unwrap();
        let mut answers = at_home(&members);
        let full: BTreeSet<NodeId> = [0, 1].map(|index| homes.holders()[index]).into();
        full.iter().for_each(|node| drop(answers.insert(*node, Some(Possession::Absent))));
        let met = *rank(&KEY, &members).members().last().unwrap();
        answers.insert(met.node, Some(Possession::Held(vec![0, 1])));
        let view = View { refusing: full.clone(), ..view(&members) };
        let parted = plan_of(CODE, &view, &answers, met.node).unwrap();
        assert_eq!((parted.margin, parted.moves.len(), parted.may_stray.len()), (Some(1), 2, 1));
        let index = parted.may_stray[0];
        let seat = parted.elsewhere(&[(index, homes.holders()[0])], &full)[0];
        answers.insert(seat.1, Some(Possession::Held(vec![index])));
        for node in [met.node, seat.1] {
            let plan = plan_of(CODE, &view, &answers, node).unwrap();
            assert_eq!((plan.margin, plan.may_stray), (Some(2), vec![]), "and that is all");
        }
    }

    fn has_some(said: &Option<Possession>) -> bool {
        said.as_ref().is_some_and(|said| !said.indexes().is_empty())
    }

    #[test]
    fn a_manifest_that_others_have_keeps_nobody() {
        let all = members(9);
        let homes = rank(&KEY, &all).manifest_holders(CODE);
        let leaver = all.iter().map(|m| m.node).find(|node| !homes.contains(node)).unwrap();
        let view = without(&all, leaver);
        let held = || Some(Possession::Held(vec![]));
        let mut answers: Answers = all.iter().map(|m| (m.node, Some(Possession::Absent))).collect();
        answers.extend([(leaver, held()), (homes[0], held()), (homes[1], held())]);
        let plan = |view: &View, answers: &Answers| {
            let ranking = rank(&KEY, &view.members);
            plan_manifest(&ranking, &ranking.manifest_holders(CODE), CODE, view, answers, leaver)
        };
        let next = plan(&view, &answers).next[0];
        assert!(!plan(&view, &answers).is_brought, "two of three");
        answers.insert(next, held());
        assert!(plan(&view, &answers).is_brought && !plan(&view, &answers).is_home);
    }

    #[test]
    fn who_leaves_does_not_wait_for_a_repair() {
        let members = members(9);
        let mut answers = at_home(&members);
        let (leaver, lost) = (holders(&members)[0], holders(&members)[1]);
        answers.insert(lost, Some(Possession::Absent));
        let staying: Vec<Member> = members.iter().filter(|member| member.node != leaver).cloned().collect();
        let view = View { members: staying, leaving: vec![leaver], ..View::default() };
        let plan = plan_of(CODE, &view, &answers, leaver).unwrap();
        assert!(plan.is_due && plan.moves.len() == 1, "{plan:?}");
    }

    #[test]
    fn what_a_home_does_not_take_goes_to_who_has_least() {
        let members = members(9);
        let mut answers = at_home(&members);
        let victim = first_holder(&members);
        answers.insert(victim, Some(Possession::Absent));
        let plan = plan(&members, &answers, holders(&members)[1]);
        let elsewhere = plan.elsewhere(&plan.lost, &BTreeSet::from([victim]));
        let [(index, node)] = elsewhere[..] else { panic!("{elsewhere:?}") };
        assert_eq!(index, plan.lost[0].0);
        assert!(node != victim && !holders(&members).contains(&node), "one of the three that hold nothing");
        assert_eq!(plan.elsewhere(&plan.lost, &members.iter().map(|m| m.node).collect()), []);
    }

    proptest! {
        /// Whatever is held by whom: what is called lost is held by nobody who answered, and all who see the same
        /// agree.
        #[test]
        fn plans_agree(
            count in 1u8..10,
            held in proptest::collection::vec(proptest::option::of(proptest::collection::btree_set(0u8..6, 0..3)), 10)
        ) {
            let members = members(count);
            let answers: Answers = members.iter().zip(&held).map(|(member, held)| {
                let said = held.as_ref().map(|held| match held.is_empty() {
                    true => Possession::Absent,
                    false => Possession::Held(held.iter().copied().collect()),
                });
                (member.node, said)
            }).collect();
            let all: BTreeSet<u8> = answers.values().flatten().flat_map(|said| said.indexes().to_vec()).collect();
            let silent = answers.values().any(Option::is_none);
            let plans: Vec<_> = members.iter().map(|member| plan(&members, &answers, member.node)).collect();
            for plan in &plans {
                prop_assert_eq!((&plan.lost, plan.margin), (&plans[0].lost, plans[0].margin));
                prop_assert!(plan.lost.iter().all(|(index, _)| !all.contains(index)));
                prop_assert!(!silent || plan.lost.is_empty());
                prop_assert!(silent || plan.lost.len() == 6 - all.len());
            }
            // Each index that is not at home is moved by one node, and nothing moves twice.
            let moves: Vec<Seat> = plans.iter().flat_map(|plan| plan.moves.clone()).collect();
            prop_assert_eq!(moves.iter().collect::<BTreeSet<_>>().len(), moves.len());
        }
    }
}
