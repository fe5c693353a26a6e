//! How many shards move when a node comes or goes, and how evenly they lie.

use super::*;

/// The parts of all shards whose holder is another one when one node goes, and comes again, so that bytes must travel:
/// with what is held kept where it can be, and by the numbering alone.
fn moved(all: &[Member], redundancy: Redundancy, keys: u64) -> [f64; 3] {
    let mut moves = [0; 3];
    for i in 0..keys {
        // Another node each time, so that no zone and no capacity is favoured.
        let gone = i as usize % all.len();
        let fewer: Vec<_> =
            all.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, m)| m.clone()).collect();
        let with = rank(&key(i), all).assign(redundancy).unwrap();
        let without = rank(&key(i), &fewer).assign(redundancy).unwrap();
        let kept = |then: &Assignment, now: &Assignment| now.keeping(&then.by_node()).changes(then).len();
        let alone = without.changes(&with).len();
        assert_eq!(alone, with.changes(&without).len(), "coming moves what going moves");
        let counts = [kept(&with, &without), kept(&without, &with), alone];
        moves.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
    }
    moves.map(|moves| moves as f64 / (keys * redundancy.total() as u64) as f64)
}

#[test]
fn a_node_that_comes_or_goes_moves_little() {
    let standard = Redundancy::STANDARD;
    let wide = Redundancy::new(10, 4).unwrap();
    for (redundancy, nodes, zones, keys, most_alone) in [
        // By the numbering alone one that moves often makes another move where there are hardly more nodes than shards.
        (standard, 7, 1, 3000, 1.55),
        (standard, 9, 1, 3000, 1.35),
        (standard, 12, 1, 6000, 1.2),
        (standard, 20, 1, 3000, 1.2),
        (standard, 40, 1, 3000, 1.2),
        (standard, 9, 3, 6000, 1.2),
        (standard, 12, 3, 6000, 1.2),
        (standard, 12, 4, 6000, 1.2),
        (standard, 12, 6, 6000, 1.2),
        (standard, 60, 3, 3000, 1.2),
        (standard, 60, 5, 3000, 1.2),
        (standard, 60, 6, 3000, 1.2),
        (standard, 60, 12, 3000, 1.2),
        (wide, 15, 1, 1000, 1.85),
        (wide, 20, 4, 1000, 1.35),
    ] {
        let parts = moved(&members(nodes, zones), redundancy, keys).map(|part| part * nodes as f64);
        let [goes, comes, alone] = parts;
        println!(
            "{redundancy}, {nodes} nodes in {zones} zones: {goes:.3}/N of the shards move for one that goes, {comes:.3}/N for one that comes ({alone:.3}/N by the numbering alone)"
        );
        assert!(
            goes <= 1.1 && comes <= 1.1 && alone <= most_alone,
            "{redundancy}, {nodes} in {zones}: {parts:?}"
        );
    }
}

#[test]
fn a_zone_that_comes_or_goes_moves_more() {
    // Three zones of three nodes, and a fourth one of one node, which takes a shard of every extent but few.
    let three = in_zones(&[0, 1, 2, 0, 1, 2, 0, 1, 2]);
    let four = in_zones(&[0, 1, 2, 0, 1, 2, 0, 1, 2, 3]);
    let ten = in_zones(&(0..40).map(|node| node % 10).collect::<Vec<_>>());
    // One node less makes the weight of its zone half.
    let fewer = in_zones(&(0..39).map(|node| node % 10).collect::<Vec<_>>());
    for (what, less, more, most) in
        [("a zone", &three, &four, [0.2, 0.3]), ("a zone's weight", &fewer, &ten, [0.08, 0.1])]
    {
        let mut moves = [0, 0];
        for i in 0..2000 {
            let [less, more] =
                [less, more].map(|all| rank(&key(i), all).assign(Redundancy::STANDARD).unwrap());
            moves[0] += more.keeping(&less.by_node()).changes(&less).len();
            moves[1] += more.changes(&less).len();
        }
        let [kept, alone] = moves.map(|moves| f64::from(u32::try_from(moves).unwrap()) / 12_000.0);
        println!("{what} that comes moves {kept:.3} of the shards ({alone:.3} by the numbering alone)");
        assert!(kept <= most[0] && alone <= most[1], "{what} that comes moves {kept:.3}, {alone:.3}");
    }
}

/// The chi-square of counts against what is expected of each.
fn chi_square(counts: &[u64], expected: &[f64]) -> f64 {
    counts.iter().zip(expected).map(|(count, expected)| (*count as f64 - expected).powi(2) / expected).sum()
}

fn load(all: &[Member], redundancy: Redundancy, keys: u64) -> Vec<u64> {
    let mut load = vec![0; all.len()];
    for i in 0..keys {
        for holder in rank(&key(i), all).assign(redundancy).unwrap().holders() {
            load[all.iter().position(|member| member.node == *holder).unwrap()] += 1;
        }
    }
    load
}

#[test]
fn nodes_of_one_size_bear_one_load() {
    for (nodes, zones) in [(10, 1), (12, 3)] {
        let load = load(&members(nodes, zones), Redundancy::STANDARD, 17_000);
        let expected = vec![17_000.0 * 6.0 / nodes as f64; nodes];
        let chi = chi_square(&load, &expected);
        println!("{nodes} nodes in {zones} zones: chi-square {chi:.1} of {load:?}");
        // Eleven degrees of freedom: 24.7 is exceeded once in a hundred times. Shards of one extent lie on different
        // nodes, which only makes the counts more even.
        assert!(chi < 24.7, "chi-square {chi}, {load:?}");
    }
}

#[test]
fn every_index_is_as_likely_on_every_node() {
    let all = members(10, 1);
    let mut counts = vec![0u64; 60];
    for i in 0..17_000 {
        for (index, holder) in
            rank(&key(i), &all).assign(Redundancy::STANDARD).unwrap().holders().iter().enumerate()
        {
            counts[index * 10 + all.iter().position(|member| member.node == *holder).unwrap()] += 1;
        }
    }
    let chi = chi_square(&counts, &[1_700.0; 60]);
    // At most 59 degrees of freedom: 87.2 is exceeded once in a hundred times.
    assert!(chi < 87.2, "chi-square {chi}, {counts:?}");
}

#[test]
fn load_follows_capacity_where_there_are_many_nodes() {
    // All in one zone, and each a zone of its own.
    for zones in [1, 60] {
        let mut all = in_zones(&(0..60).map(|node| node % zones).collect::<Vec<_>>());
        for (i, member) in all.iter_mut().enumerate() {
            member.capacity = (1 + i as u64 % 3) << 40;
        }
        let load = load(&all, Redundancy::STANDARD, 4_000);
        for class in 0..3 {
            let of_class: u64 = load.iter().skip(class).step_by(3).sum();
            let expected = 24_000.0 * (class as f64 + 1.0) / 6.0;
            // No node takes two shards of an extent, so that large ones get a little less than their part.
            let part = of_class as f64 / expected;
            assert!((part - 1.0).abs() < 0.08, "{zones} zones, class {class}: {of_class}, {expected}");
        }
    }
}

#[test]
fn near_pairs_change_nothing() {
    for (nodes, zones, k, m) in
        [(40, 3, 4, 2), (40, 1, 4, 2), (60, 20, 4, 2), (200, 3, 10, 4), (30, 3, 17, 3)]
    {
        let redundancy = Redundancy::new(k, m).unwrap();
        let mut all = members(nodes, zones);
        for (i, member) in all.iter_mut().enumerate() {
            member.capacity = u64::MAX >> (i % 5);
        }
        for i in 0..40 {
            let key = key(i);
            let ranking = rank(&key, &all);
            let none = vec![None; redundancy.total()];
            let mut whole = Filling::new(&ranking, redundancy, &BTreeSet::new(), none).unwrap();
            let zones = whole.choose_zones(true);
            let candidates = whole.nodes(&zones);
            let pairs = whole.pairs_of_nodes(&zones, &candidates, true);
            whole.walk_rounds(&pairs);
            let whole: Vec<_> = whole.holders.into_iter().flatten().collect();
            assert_eq!(ranking.assign(redundancy).unwrap().holders(), whole);
        }
    }
}
