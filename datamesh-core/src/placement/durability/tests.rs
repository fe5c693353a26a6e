//! The published table, counting by hand, and models of no mesh.

use super::*;
use proptest::prelude::*;

fn model(k: u8, m: u8, nodes: u64) -> DurabilityModel {
    DurabilityModel::new(Redundancy::new(k, m).unwrap(), nodes)
}

/// Nines without the cap.
fn nines(k: u8, m: u8, rate: f64, hours: u64) -> f64 {
    let repair = Duration::from_secs(hours * 3600);
    let model = model(k, m, 1000).with_annual_failure_rate(rate).with_repair(repair);
    -durability(&model).unwrap().annual_loss.log10()
}

const CASES: [(f64, u64); 5] = [(0.0138, 24), (0.0138, 156), (0.25, 6), (0.25, 24), (0.25, 720)];

#[test]
fn the_table_to_one_decimal() {
    let table = [
        (1, 2, [10.2, 8.6, 7.5, 6.3, 3.4]),
        (4, 2, [8.9, 7.3, 6.2, 5.0, 2.1]),
        (6, 3, [12.4, 10.0, 9.0, 7.2, 2.8]),
        (10, 4, [15.5, 12.3, 11.4, 9.0, 3.2]),
        (17, 3, [10.8, 8.4, 7.4, 5.6, 1.4]),
    ];
    for (k, m, row) in table {
        for ((rate, hours), expected) in CASES.into_iter().zip(row) {
            let found = nines(k, m, rate, hours);
            assert!((found - expected).abs() <= 0.0501, "{k}+{m} at {rate}, {hours} h: {found}, {expected}");
        }
    }
}

#[test]
fn the_table_of_wide_codes() {
    for ((rate, hours), expected) in CASES.into_iter().zip([32.0, 26.0, 25.0, 20.0, 8.7]) {
        let found = nines(8, 8, rate, hours);
        assert!((found - expected).abs() <= 0.5, "8+8 at {rate}, {hours} h: {found}, {expected}");
    }
    for (k, m, last) in [(20, 40, 49.0), (29, 51, 61.0)] {
        let found: Vec<f64> = CASES.iter().map(|(rate, hours)| nines(k, m, *rate, *hours)).collect();
        println!("{k}+{m}: {found:?}");
        assert!(found[..4].iter().all(|nines| *nines > 100.0), "{k}+{m}: {found:?}");
        assert!((found[4] - last).abs() <= 0.5, "{k}+{m}: {}", found[4]);
    }
}

#[test]
fn hostile_nodes_of_few() {
    let cases = [
        (4, 2, 10, 3, 0.167),
        (4, 2, 9, 3, 0.238),
        (4, 2, 12, 4, 0.273),
        (4, 2, 6, 2, 0.0),
        (4, 2, 9, 2, 0.0),
        (4, 2, 6, 3, 1.0),
        // Three nodes hold two each: one of them may withhold, two not.
        (4, 2, 3, 1, 0.0),
        (4, 2, 3, 2, 1.0),
        // Four nodes hold 2, 2, 1, 1: two of them that hold three or four together are five pairs of six.
        (4, 2, 4, 2, 5.0 / 6.0),
    ];
    for (k, m, nodes, hostile, expected) in cases {
        let found = durability(&model(k, m, nodes).with_hostile(hostile)).unwrap().p_byzantine;
        assert!((found - expected).abs() < 0.0006, "{k}+{m}, {hostile} of {nodes}: {found}, {expected}");
    }
}

#[test]
fn hostile_nodes_of_very_many() {
    for (k, m, expected) in [(4, 2, 0.32), (10, 4, 0.52), (4, 4, 0.088)] {
        let third = model(k, m, 3_000_000).with_hostile(1_000_000);
        let found = durability(&third).unwrap().p_byzantine;
        assert!((found - expected).abs() < 0.005, "{k}+{m}: {found}, {expected}");
    }
    let reached = |m, share: f64| {
        let hostile = (share * 1e9) as u64;
        durability(&model(10, m, 1_000_000_000).with_hostile(hostile)).unwrap().p_byzantine < 1.01e-9
    };
    for (share, m) in [(1.0 / 3.0, 33), (0.1, 14), (0.03, 8), (0.01, 6)] {
        assert!(reached(m, share) && !reached(m - 1, share), "10+{m} at {share}");
    }
}

#[test]
fn the_byzantine_preset_keeps_its_promise_where_the_standard_does_not() {
    for (nodes, standard) in [(9, 5.0 / 21.0), (10, 1.0 / 6.0)] {
        let preset = Redundancy::byzantine(nodes).unwrap();
        let withheld = DurabilityModel::new(preset, nodes as u64).with_hostile(3);
        assert_eq!(durability(&withheld).unwrap().p_byzantine, 0.0);
        // Three were silent when it was put, and three of those that acknowledged give nothing.
        assert_eq!(preset.total() - 3 - 3, preset.data());
        let found = durability(&model(4, 2, nodes as u64).with_hostile(3)).unwrap().p_byzantine;
        assert!((found - standard).abs() < 1e-12, "{found} of 4+2 on {nodes}");
    }
}

#[test]
fn what_is_printed_is_capped_and_says_what_it_assumes() {
    let safe = durability(&model(8, 8, 100).with_hostile(3)).unwrap();
    assert_eq!(safe.nines_capped, MAX_NINES);
    let text = safe.to_string();
    assert!(text.contains("11 nines or more") && !text.contains("20."), "{text}");
    assert!(text.contains("25 % of them in a year") && text.contains("within 24 hours"), "{text}");
    assert!(text.contains("mistakes of programs and people"), "{text}");
    let text = durability(&model(4, 2, 9).with_hostile(3)).unwrap().to_string();
    assert!(text.contains("5.0 nines") && text.contains("23.810 % of objects"), "{text}");
}

#[test]
fn zones_that_hold_more_than_m_are_named() {
    let zone = |name: &str| name.parse::<Zone>().unwrap();
    let survives = |zones: Vec<(Zone, u64)>, nodes| {
        let report = durability(&model(4, 2, nodes).with_zones(zones)).unwrap();
        report.survives_zone_loss.into_iter().map(|(_, survives)| survives).collect::<Vec<_>>()
    };
    let three = ["a", "b", "c"].map(|name| (zone(name), 2)).to_vec();
    assert_eq!(survives(three, 6), [true, true, true]);
    assert_eq!(survives(vec![(zone("a"), 4), (zone("b"), 4)], 8), [false, false]);
    // Two zones of one node each leave four shards to the third.
    assert_eq!(survives(vec![(zone("a"), 5), (zone("b"), 1), (zone("c"), 1)], 7), [false, true, true]);
}

#[test]
fn models_of_no_mesh_are_refused() {
    let good = || model(4, 2, 9);
    let wrong = [
        model(4, 2, 0),
        model(4, 2, u64::MAX),
        good().with_annual_failure_rate(0.0),
        good().with_annual_failure_rate(1.0),
        good().with_annual_failure_rate(f64::NAN),
        good().with_repair(Duration::ZERO),
        good().with_hostile(10),
        good().with_zones([(Zone::default(), 8)]),
        good().with_zones([(Zone::default(), 10), (Zone::default(), u64::MAX)]),
    ];
    for model in wrong {
        assert_eq!(durability(&model).unwrap_err().kind(), ErrorKind::InvalidInput, "{model:?}");
    }
    assert!(durability(&good()).is_ok());
}

proptest! {
    #[test]
    fn more_parity_and_quicker_repair_help_and_failures_hurt(
        k in 1u8..20, m in 0u8..20, rate in 0.001f64..0.9, hours in 1u64..1000
    ) {
        let here = nines(k, m, rate, hours);
        prop_assert!(nines(k, m + 1, rate, hours) >= here);
        prop_assert!(nines(k, m, rate, hours * 2) <= here);
        prop_assert!(nines(k, m, (rate * 1.1).min(0.99), hours) <= here);
    }

    #[test]
    fn the_widest_codes_stay_numbers(
        k in 1u8..=128, m in 0u8..=128, nodes in 1u64..MAX_NODES, rate in 1e-12f64..0.999, hostile: u64,
        seconds in 1u64..=1 << 40
    ) {
        let model = model(k, m, nodes)
            .with_annual_failure_rate(rate)
            .with_repair(Duration::from_secs(seconds))
            .with_hostile(hostile % (nodes + 1));
        let report = durability(&model).unwrap();
        prop_assert!(report.mttdl_years > 0.0);
        prop_assert!((0.0..=1.0).contains(&report.annual_loss), "{}", report.annual_loss);
        prop_assert!((0.0..=MAX_NINES).contains(&report.nines_capped));
        prop_assert!((0.0..=1.0).contains(&report.p_byzantine));
    }

    #[test]
    fn hostile_draws_agree_with_counting(
        k in 1u8..6, m in 0u8..5, nodes in 1usize..=12, hostile in 0usize..=12
    ) {
        let hostile = hostile.min(nodes);
        let shards = usize::from(k + m);
        let held = |node: usize| shards / nodes + usize::from(node < shards % nodes);
        let (mut unreadable, mut all) = (0u32, 0u32);
        for drawn in (0u32..1 << nodes).filter(|drawn| drawn.count_ones() as usize == hostile) {
            all += 1;
            let lost: usize = (0..nodes).filter(|node| drawn & (1 << node) != 0).map(held).sum();
            unreadable += u32::from(lost > usize::from(m));
        }
        let found = durability(&model(k, m, nodes as u64).with_hostile(hostile as u64)).unwrap().p_byzantine;
        let expected = f64::from(unreadable) / f64::from(all);
        prop_assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }
}
