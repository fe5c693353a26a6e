//! What is decided for extents and manifests.

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

/// In a mesh with more nodes than are near in the ranking: holders are drawn for each shard, wherever they rank.
#[test]
fn silence_is_waited_for_wherever_a_holder_ranks() {
    let all = members(60);
    let ranking = rank(&KEY, &all);
    let homes = ranking.assign(CODE).unwrap();
    let far: BTreeSet<NodeId> = ranking.nodes().skip(reach(CODE)).collect();
    assert!(homes.holders().iter().any(|home| far.contains(home)), "or this shows nothing");
    for silent in homes.holders() {
        let mut answers = at_home(&all);
        answers.insert(*silent, None);
        for local in homes.holders().iter().filter(|node| *node != silent) {
            let waiting = plan(&all, &answers, *local);
            assert!(waiting.is_open && waiting.lost.is_empty() && !waiting.is_due);
        }
        // One that has come since is to have the shard, and the one that had it is silent.
        let before: Vec<Member> = all.iter().filter(|member| member.node != *silent).cloned().collect();
        let earlier = rank(&KEY, &before).assign(CODE).unwrap();
        let mut answers = at_home(&before);
        answers.insert(*silent, Some(Possession::Absent));
        for old in earlier.holders().iter().filter(|old| !homes.holders().contains(old)) {
            answers.insert(*old, None);
            let waiting = plan(&all, &answers, *silent);
            assert!(waiting.is_open && waiting.lost.is_empty(), "{old:?} had it");
        }
    }
    // Silence of one that has nothing to do with it is no reason to wait.
    let near = near(&ranking, &homes, CODE);
    let other = ranking.nodes().find(|node| !near.contains(node)).unwrap();
    let mut answers = at_home(&all);
    answers.extend([(homes.holders()[0], Some(Possession::Absent)), (other, None)]);
    assert_eq!(plan(&all, &answers, homes.holders()[1]).lost.len(), 1);
}

#[test]
fn who_is_silent_counts_as_one_who_may_bring_it() {
    let all = members(9);
    let (victim, silent) = (first_holder(&all), rank(&KEY, &all).nodes().nth(8).unwrap());
    let mut answers = at_home(&all);
    answers.insert(victim, Some(Possession::Absent));
    answers.insert(silent, Some(Possession::Held(vec![0, 1, 2, 3, 4, 5])));
    let local = holders(&all)[1];
    let claimed = plan(&all, &answers, local).claimed;
    assert!(!claimed.is_empty() && claimed.iter().all(|(_, home)| *home == victim));
    answers.insert(silent, None);
    let open = plan(&all, &answers, local);
    assert!(open.is_open && open.lost.is_empty());
    assert_eq!(open.claimed, claimed, "its silence changes nothing");
    answers.insert(victim, None);
    assert_eq!(plan(&all, &answers, local).claimed, [], "its home may have it");
}

#[test]
fn silence_costs_no_rebuild_that_would_not_be_due() {
    let code = Redundancy::new(10, 4).unwrap();
    let all = members(20);
    let homes = rank(&KEY, &all).assign(code).unwrap();
    let mut answers: Answers = all.iter().map(|member| (member.node, Some(Possession::Absent))).collect();
    answers.extend(homes.by_node().into_iter().map(|(node, held)| (node, Some(Possession::Held(held)))));
    let silent = all.iter().map(|m| m.node).find(|node| !homes.holders().contains(node)).unwrap();
    answers.insert(silent, None);
    let local = homes.holders()[9];
    for lost in 1..=3 {
        answers.insert(homes.holders()[lost - 1], Some(Possession::Absent));
        let plan = plan_of(code, &view(&all), &answers, local).unwrap();
        let seats: Vec<Seat> = (0u8..).zip(homes.holders().iter().copied()).take(lost).collect();
        assert_eq!((plan.is_open, plan.lost), (true, vec![]), "{lost} lost");
        assert_eq!(plan.claimed, if lost < 2 { vec![] } else { seats }, "{lost} lost");
    }
    // What somebody says to have is to come home, however much may still be lost.
    answers.insert(homes.holders()[1], Some(Possession::Held(vec![1])));
    answers.insert(homes.holders()[2], Some(Possession::Held(vec![2])));
    answers.insert(silent, Some(Possession::Held(vec![0])));
    let plan = plan_of(code, &view(&all), &answers, local).unwrap();
    assert_eq!(plan.claimed, [(0, homes.holders()[0])]);
}

#[test]
fn what_is_doubted_is_made_from_the_rest_where_that_will_do() {
    let holders: Vec<(NodeId, Vec<u8>)> =
        (0..6).map(|index| (node(index), vec![index])).chain([(node(6), vec![0, 1, 2, 3, 4, 5])]).collect();
    let plan = ExtentPlan { holders: holders.clone(), ..ExtentPlan::settled() };
    let of = |doubted: &[u8]| {
        let seats: Vec<Seat> = doubted.iter().map(|index| (*index, node(9))).collect();
        plan.without(&seats, CODE)
    };
    let rest = of(&[0, 5]);
    assert_eq!((&rest[0].1, &rest[1].1, &rest[6].1), (&vec![], &vec![1], &vec![1, 2, 3, 4]));
    assert_eq!(of(&[0, 1, 2]), holders, "three make nothing of 4+2");
}

#[test]
fn what_one_claims_goes_elsewhere_and_not_to_who_claims_it() {
    let answering: Vec<(NodeId, usize)> = (0..4).map(|number| (node(number), 0)).collect();
    let plan = ExtentPlan {
        claimed: vec![(0, node(3)), (1, node(3)), (2, node(3))],
        // The second claims least, and the first index.
        holders: vec![(node(0), vec![1, 3]), (node(1), vec![0]), (node(2), vec![1, 4])],
        answering,
        ..ExtentPlan::settled()
    };
    let (alone, backed) = plan.claimed_alone();
    assert_eq!((&alone, backed), (&vec![(0, node(3)), (2, node(3))], vec![(1, node(3))]));
    let full = BTreeSet::from([node(3)]);
    assert_eq!(plan.elsewhere(&alone, &full), [(0, node(0)), (2, node(1))]);
}

#[test]
fn half_of_a_wide_margin_is_lost_before_it_is_repaired() {
    let code = Redundancy::new(4, 4).unwrap();
    let members = members(12);
    let homes = rank(&KEY, &members).assign(code).unwrap();
    let mut answers: Answers =
        homes.by_node().into_iter().map(|(node, indexes)| (node, Some(Possession::Held(indexes)))).collect();
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
    assert_eq!(mover.claimed, vec![]);
    let other = plan(&members, &answers, homes.holders()[1]);
    assert_eq!(
        (other.moves, other.claimed),
        (vec![], vec![(0, home)]),
        "only its holder moves it, as it says"
    );
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
    let view = without(&all, leaver);
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
    assert!(!manifest_plan(&members, &answers, leaver).is_brought, "one of them may not know it as removed");
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
    // One home is silent; of what is there the others have all, and too little for a repair.
    for kept in [7, 3] {
        let mut answers: Answers = all.iter().map(|m| (m.node, Some(Possession::Absent))).collect();
        let some = homes.by_node().into_iter().filter(|(_, held)| usize::from(held[0]) < kept);
        answers.extend(some.map(|(node, held)| (node, Some(Possession::Held(held)))));
        answers.insert(homes.holders()[7], None);
        answers.insert(leaver, Some(Possession::Held(vec![0])));
        let plan = plan_of(code, &view, &answers, leaver).unwrap();
        assert!(plan.is_brought && !plan.is_home, "{kept} kept: {plan:?}");
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
    let [seat] = parted.with_room(&parted.moves, &full)[..] else { panic!("{parted:?}") };
    assert_eq!(seat.0, index);
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
    let plan = plan_of(CODE, &without(&members, leaver), &answers, leaver).unwrap();
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

/// Nobody gives anything up where it sees nobody who could hold it, or is no member itself.
#[test]
fn nothing_is_given_up_by_who_is_alone() {
    let answers = Answers::from([(node(1), Some(Possession::Held(vec![0])))]);
    let alone = manifest_plan(&[], &answers, node(1));
    assert!(!alone.is_home && !alone.is_brought && !alone.is_surplus);
    assert_eq!(plan_of(CODE, &view(&[]), &answers, node(1)), None);

    let members = members(9);
    let mut answers = at_home(&members);
    answers.insert(node(99), Some(Possession::Held(vec![0, 1])));
    let manifests = members.iter().map(|member| (member.node, Some(Possession::Held(Vec::new()))));
    let manifests: Answers = manifests.chain([(node(99), Some(Possession::Held(Vec::new())))]).collect();
    let leaving = View { leaving: vec![node(99)], ..view(&members) };
    for (view, may) in [(view(&members), false), (leaving, true)] {
        let plan = plan_of(CODE, &view, &answers, node(99)).unwrap();
        assert_eq!(!plan.surplus.is_empty(), may, "{plan:?}");
        let ranking = rank(&KEY, &view.members);
        let homes = ranking.manifest_holders(CODE);
        let plan = plan_manifest(&ranking, &homes, CODE, &view, &manifests, node(99));
        assert_eq!(plan.is_surplus, may, "{plan:?}");
    }
}
