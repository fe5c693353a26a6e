//! What rounds remember and decide.

use super::*;

fn id(number: usize) -> ExtentId {
    ExtentId::of(&number.to_le_bytes())
}

fn at(seconds: u64) -> Instant {
    Instant::from_start(Duration::from_secs(seconds))
}

/// An extent of which another says to have what the first node is to hold.
fn claimed() -> ExtentPlan {
    ExtentPlan { claimed: vec![(0, NodeId::from_bytes([1; 32]))], is_home: false, ..ExtentPlan::settled() }
}

#[test]
fn who_is_silent_once_in_a_while_has_no_more_time_for_it() {
    let silent = ExtentPlan { claimed: Vec::new(), ..claimed() };
    let mut since = BTreeMap::new();
    for second in (0..3600).step_by(60) {
        let plan = if second % 120 == 0 { claimed() } else { silent.clone() };
        assert!(!note_claims(&mut since, id(0), &plan, at(second)));
    }
    assert!(!note_claims(&mut since, id(0), &silent, at(3600)), "nothing can be brought now");
    assert!(note_claims(&mut since, id(0), &claimed(), at(3660)));
    let second = ExtentPlan { turn: Some(1), ..claimed() };
    assert!(!note_claims(&mut since, id(0), &second, at(3660)), "another comes before");
    assert!(note_claims(&mut since, id(0), &second, at(7200)));
}

#[test]
fn what_is_at_home_is_waited_for_no_more() {
    let mut since = BTreeMap::new();
    assert!(!note_claims(&mut since, id(0), &claimed(), at(0)));
    assert!(!note_claims(&mut since, id(0), &ExtentPlan::settled(), at(60)));
    assert!(since.is_empty());
    assert!(!note_claims(&mut since, id(0), &claimed(), at(3600)), "it begins anew");
}

#[test]
fn no_more_claims_are_remembered_than_findings() {
    let mut since: BTreeMap<ExtentId, Instant> =
        (0..MAX_FINDINGS).map(|number| (id(number), at(0))).collect();
    assert!(!note_claims(&mut since, id(MAX_FINDINGS), &claimed(), at(3600)));
    assert_eq!(since.len(), MAX_FINDINGS);
    assert!(note_claims(&mut since, id(0), &claimed(), at(3600)));
}

#[test]
fn what_was_tried_in_vain_is_left_for_a_while() {
    let mut left = BTreeMap::new();
    assert_eq!(left_until(&left, id(0), at(0)), None);
    note_tried(&mut left, id(0), true, at(3610));
    assert_eq!(left_until(&left, id(0), at(10)), Some(at(3610)));
    assert_eq!(left_until(&left, id(0), at(3609)), Some(at(3610)));
    assert_eq!(left_until(&left, id(0), at(3610)), None);
    assert_eq!(left_until(&left, id(1), at(10)), None, "another one");
    note_tried(&mut left, id(0), true, at(7600));
    assert_eq!(left_until(&left, id(0), at(4000)), Some(at(7600)), "it begins anew");
    note_tried(&mut left, id(0), false, at(7700));
    assert_eq!(left_until(&left, id(0), at(4100)), None);
    assert!(left.is_empty());
}

#[test]
fn no_more_is_left_than_findings() {
    let mut left: BTreeMap<ExtentId, Instant> = (0..MAX_FINDINGS).map(|number| (id(number), at(1))).collect();
    note_tried(&mut left, id(MAX_FINDINGS), true, at(3600));
    assert_eq!((left.len(), left_until(&left, id(MAX_FINDINGS), at(0))), (MAX_FINDINGS, None));
    note_tried(&mut left, id(0), true, at(3600));
    assert_eq!(left_until(&left, id(0), at(0)), Some(at(3600)), "it is noted already");
    note_tried(&mut left, id(1), false, at(3600));
    note_tried(&mut left, id(MAX_FINDINGS), true, at(3600));
    assert_eq!((left.len(), left_until(&left, id(MAX_FINDINGS), at(0))), (MAX_FINDINGS, Some(at(3600))));
}

#[test]
fn who_takes_nothing_in_time_is_passed_over_as_one_that_is_full() {
    use ErrorKind::*;
    assert!([StorageFull, Poisoned, TimedOut].into_iter().all(is_lasting));
    assert!(![Unavailable, OutcomeUnknown, NotStored, Busy].into_iter().any(is_lasting));
}
