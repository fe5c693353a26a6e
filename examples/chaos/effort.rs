//! Whether a run has shown anything: a mesh that nobody can use breaks no promise of what it was given.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checker::{Operation, Outcome, Verb};
use crate::fault::Kind;

/// The fewest puts that are acknowledged, and gets that give the right bytes, in a minute. Two busy cores manage more
/// than two hundred puts, and four times as many gets, with any build.
const LEAST_PER_MINUTE: f64 = 5.0;

/// Of so many puts one may fail.
const ONE_MAY_FAIL_OF: usize = 2;

/// The rounds of misfortunes after which each kind has come: with two nodes in trouble at once for all seeds but one in
/// millions, and with one for all but one in some ten thousands. Three minutes have about as many.
pub(crate) const ROUNDS_OF_ALL: usize = 16;

/// What was done in a run, until the last misfortune was over.
#[derive(Debug)]
pub(crate) struct Effort<'a> {
    pub(crate) history: &'a [Operation],
    pub(crate) lasted: Duration,
    /// The misfortunes that may come.
    pub(crate) wanted: &'a [Kind],
    pub(crate) befell: &'a BTreeMap<Kind, usize>,
    /// In how many rounds there were some.
    pub(crate) rounds: usize,
    /// Whether somebody stopped it before its time was over.
    pub(crate) stopped: bool,
}

impl Effort<'_> {
    /// What was too little for the run to show anything, if anything was. Of a run that somebody stopped nothing is
    /// asked: it shows what it shows.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        if self.stopped {
            return Vec::new();
        }
        let puts = self.count(|one| one.verb == Verb::Put);
        let kept = self.count(|one| one.verb == Verb::Put && one.outcome == Outcome::Done);
        let read = self.count(|one| one.verb == Verb::Get && one.outcome == Outcome::Right);
        let mut shortfalls = Vec::new();
        let minutes = self.lasted.as_secs_f64() / 60.0;
        let least = (minutes * LEAST_PER_MINUTE).max(1.0);
        for (count, what) in [(kept, "puts were acknowledged"), (read, "gets gave the right bytes")] {
            if (count as f64) < least.floor() {
                let least = least.floor();
                shortfalls
                    .push(format!("{count} {what} in {minutes:.1} minutes, where {least} are the least"));
            }
        }
        let failed = puts - kept;
        if failed > puts / ONE_MAY_FAIL_OF {
            shortfalls.push(format!("{failed} of {puts} puts failed, more than one in {ONE_MAY_FAIL_OF}"));
        }
        if self.rounds == 0 {
            shortfalls.push("no misfortune befell any node".to_owned());
        }
        if self.rounds >= ROUNDS_OF_ALL {
            let missing = self.wanted.iter().filter(|kind| !self.befell.contains_key(kind));
            let missing = missing.map(|kind| format!("no node was ever {kind} in {} rounds", self.rounds));
            shortfalls.extend(missing);
        }
        shortfalls
    }

    fn count(&self, counts: impl Fn(&Operation) -> bool) -> usize {
        self.history.iter().filter(|one| counts(one)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [Kind; 2] = [Kind::Kill, Kind::Guest];

    fn operations(verb: Verb, outcome: Outcome, count: usize) -> Vec<Operation> {
        let one = Operation { object: 1, verb, began: Duration::ZERO, ended: Duration::ZERO, outcome };
        vec![one; count]
    }

    /// How many shortfalls a run of three minutes has with so many puts that were acknowledged and that failed, so many
    /// gets that were right and wrong, in so many rounds of these misfortunes.
    fn shortfalls(puts: [usize; 2], gets: [usize; 2], rounds: usize, befell: &[Kind]) -> Vec<String> {
        let silent = || Outcome::Unreachable("silence".to_owned());
        let history = [
            operations(Verb::Put, Outcome::Done, puts[0]),
            operations(Verb::Put, silent(), puts[1]),
            operations(Verb::Get, Outcome::Right, gets[0]),
            operations(Verb::Get, silent(), gets[1]),
            operations(Verb::Get, Outcome::NotFound, gets[1]),
            operations(Verb::Remove, Outcome::Done, 1000),
        ]
        .concat();
        let befell = befell.iter().map(|kind| (*kind, 1)).collect();
        let lasted = Duration::from_secs(180);
        let effort =
            Effort { history: &history, lasted, wanted: &WANTED, befell: &befell, rounds, stopped: false };
        effort.shortfalls()
    }

    #[test]
    fn a_run_must_have_done_something() {
        let enough = |puts, gets| shortfalls(puts, gets, 1, &[Kind::Kill]).len();
        assert_eq!(enough([15, 0], [15, 0]), 0);
        assert_eq!(enough([14, 0], [15, 100]), 1, "too few puts");
        assert_eq!(enough([15, 0], [14, 100]), 1, "too few gets");
        assert_eq!(enough([15, 15], [15, 0]), 0, "a half may fail");
        assert_eq!(enough([15, 16], [15, 0]), 1, "more than a half failed");
        assert_eq!(enough([0, 100], [0, 100]), 3, "nothing was ever kept");
        assert_eq!(enough([0, 0], [0, 0]), 2, "nothing was ever asked");
    }

    #[test]
    fn the_shortest_run_must_have_done_something() {
        let befell = BTreeMap::from([(Kind::Kill, 1)]);
        for (count, expected) in [(0, 2), (1, 0)] {
            let puts = operations(Verb::Put, Outcome::Done, count);
            let history = [puts, operations(Verb::Get, Outcome::Right, count)].concat();
            let (lasted, wanted) = (Duration::from_secs(6), &WANTED);
            let (befell, rounds) = (&befell, 1);
            let effort = Effort { history: &history, lasted, wanted, befell, rounds, stopped: false };
            assert_eq!(effort.shortfalls().len(), expected, "{count}");
        }
    }

    #[test]
    fn who_stops_a_run_before_the_first_round_breaks_no_promise() {
        let befell = BTreeMap::new();
        for (stopped, expected) in [(false, 3), (true, 0)] {
            let (history, lasted) = (&[], Duration::from_secs(2));
            let effort = Effort { history, lasted, wanted: &WANTED, befell: &befell, rounds: 0, stopped };
            assert_eq!(effort.shortfalls().len(), expected);
        }
    }

    #[test]
    fn each_misfortune_must_have_come_in_time() {
        let came = |rounds, befell: &[Kind]| shortfalls([99, 0], [99, 0], rounds, befell);
        assert_eq!(came(0, &[]), ["no misfortune befell any node"]);
        assert!(came(ROUNDS_OF_ALL - 1, &[Kind::Kill]).is_empty(), "it may come yet");
        assert!(came(ROUNDS_OF_ALL, &[Kind::Kill, Kind::Guest]).is_empty());
        assert_eq!(came(ROUNDS_OF_ALL, &[Kind::Kill]), ["no node was ever a guest in 16 rounds"]);
    }
}
