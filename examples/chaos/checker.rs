//! The judge: what was answered, against what was promised. It sees the history only.

use std::collections::BTreeMap;
use std::time::Duration;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
    Remove,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A put or removal was acknowledged, by or to everybody.
    Done,
    /// A removal was acknowledged, and some node that lives was not told yet.
    DoneInPart,
    /// A get gave the bytes that were put.
    Right,
    /// A get gave other bytes.
    Wrong(String),
    /// The holders proved that it is not there.
    NotFound,
    /// Too few answered, in all the time that was given.
    Unreachable(String),
    /// Something else was wrong.
    Failed(String),
}

/// One thing that was asked, when it began and ended, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) object: u64,
    pub(crate) verb: Verb,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// What is known of one object's life.
#[derive(Debug, Default)]
struct Life {
    put_ended: Option<Duration>,
    /// From here on it may be gone.
    removal_began: Option<Duration>,
    /// From here on it must be gone.
    removal_ended: Option<Duration>,
}

/// Everything in the history that no order of events explains.
///
/// - A get never gives other bytes than were put.
/// - What was acknowledged before a get began, and not asked to be removed before it ended, is read.
/// - What all nodes were told to remove is not read by a get that began later.
///
/// Misfortunes stay within what the code bears, so *unreachable* is no excuse.
pub(crate) fn judge(history: &[Operation]) -> Vec<Violation> {
    let lives = lives(history);
    let gets = history.iter().filter(|operation| operation.verb == Verb::Get);
    gets.filter_map(|get| {
        let text = breach(get, lives.get(&get.object)?)?;
        Some(Violation { at: get.ended, text: format!("object {}: {text}", get.object) })
    })
    .collect()
}

fn lives(history: &[Operation]) -> BTreeMap<u64, Life> {
    let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
    for operation in history {
        let life = lives.entry(operation.object).or_default();
        match (operation.verb, &operation.outcome) {
            (Verb::Put, Outcome::Done) => life.put_ended = Some(operation.ended),
            (Verb::Remove, outcome) => {
                let began = life.removal_began.map_or(operation.began, |began| began.min(operation.began));
                life.removal_began = Some(began);
                if *outcome == Outcome::Done {
                    let ended =
                        life.removal_ended.map_or(operation.ended, |ended| ended.min(operation.ended));
                    life.removal_ended = Some(ended);
                }
            }
            _ => {}
        }
    }
    lives
}

/// What is wrong with a get, if anything.
fn breach(get: &Operation, life: &Life) -> Option<String> {
    let acknowledged = life.put_ended.is_some_and(|ended| ended <= get.began);
    let may_be_gone = life.removal_began.is_some_and(|began| began <= get.ended);
    let must_be_gone = life.removal_ended.is_some_and(|ended| ended <= get.began);
    match &get.outcome {
        Outcome::Wrong(text) => Some(format!("other bytes came back: {text}")),
        Outcome::Right if must_be_gone => Some("it was removed from all nodes, and came back".to_owned()),
        Outcome::NotFound if acknowledged && !may_be_gone => {
            Some("it was acknowledged, and is not found".to_owned())
        }
        Outcome::Unreachable(text) | Outcome::Failed(text) if acknowledged && !may_be_gone => {
            Some(format!("it was acknowledged, and cannot be read: {text}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn operation(verb: Verb, began: u64, ended: u64, outcome: Outcome) -> Operation {
        let (began, ended) = (Duration::from_secs(began), Duration::from_secs(ended));
        Operation { object: 1, verb, began, ended, outcome }
    }

    /// Judges a get between 10 and 20 of an object with this past.
    fn judged(past: &[(Verb, u64, u64, Outcome)], outcome: Outcome) -> bool {
        let mut history: Vec<_> = past.iter().map(|(v, b, e, o)| operation(*v, *b, *e, o.clone())).collect();
        history.push(operation(Verb::Get, 10, 20, outcome));
        judge(&history).is_empty()
    }

    #[test]
    fn each_promise_can_be_broken() {
        let put = (Verb::Put, 0, 5, Outcome::Done);
        let late = (Verb::Put, 0, 15, Outcome::Done);
        let removed = (Verb::Remove, 6, 8, Outcome::Done);
        let in_part = (Verb::Remove, 6, 8, Outcome::DoneInPart);
        let meanwhile = (Verb::Remove, 15, 25, Outcome::Done);
        let failed = (Verb::Remove, 6, 8, Outcome::Failed("busy".to_owned()));
        let silent = || Outcome::Unreachable("silence".to_owned());

        assert!(judged(from_ref(&put), Outcome::Right));
        assert!(!judged(from_ref(&put), Outcome::NotFound));
        assert!(!judged(from_ref(&put), silent()));
        assert!(!judged(from_ref(&put), Outcome::Failed("corrupt".to_owned())));
        assert!(!judged(from_ref(&put), Outcome::Wrong("byte 3".to_owned())));
        // Not acknowledged yet when the get began.
        assert!(judged(from_ref(&late), Outcome::NotFound));
        assert!(!judged(from_ref(&late), Outcome::Wrong("byte 3".to_owned())));

        assert!(judged(&[put.clone(), removed.clone()], Outcome::NotFound));
        assert!(!judged(&[put.clone(), removed], Outcome::Right));
        for unsettled in [in_part, meanwhile, failed] {
            assert!(judged(&[put.clone(), unsettled.clone()], Outcome::Right));
            assert!(judged(&[put.clone(), unsettled.clone()], Outcome::NotFound));
            assert!(judged(&[put.clone(), unsettled], silent()));
        }
    }
}
