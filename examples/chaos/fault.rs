//! The misfortunes, and which of them a round has.

use std::fmt;

use clap::ValueEnum;

use crate::draws::Draws;

/// What can befall a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// `kill -9`, and started again
    Kill,
    /// Stopped where it is, and told to go on
    Stop,
    /// Nothing passes between it and the others
    Silent,
    /// Its connections break, and none can be made
    Broken,
    /// Everything from and to it is late
    Slow,
    /// Packets are lost, and connections break at random
    Lossy,
    /// Killed, and all on its disk lost
    Wipe,
    /// Started again with another time of day
    Clock,
    /// A tenth node joins, and leaves politely
    Guest,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "killed",
            Self::Stop => "stopped",
            Self::Silent => "cut off in silence",
            Self::Broken => "cut off",
            Self::Slow => "slow",
            Self::Lossy => "lossy",
            Self::Wipe => "wiped",
            Self::Clock => "moved in time",
            Self::Guest => "a guest",
        })
    }
}

impl Kind {
    /// Whether the process of the node lives on.
    fn is_gentle(self) -> bool {
        matches!(self, Self::Stop | Self::Silent | Self::Broken | Self::Slow | Self::Lossy)
    }
}

/// How often each comes, among all.
const WEIGHTS: [(Kind, usize); 9] = [
    (Kind::Kill, 4),
    (Kind::Stop, 3),
    (Kind::Silent, 2),
    (Kind::Broken, 2),
    (Kind::Slow, 2),
    (Kind::Lossy, 2),
    (Kind::Wipe, 2),
    (Kind::Clock, 1),
    (Kind::Guest, 1),
];

/// The kinds that are chosen of all: all of them, where none is named.
pub(crate) fn wanted(names: &[Kind]) -> Vec<Kind> {
    let kinds = WEIGHTS.into_iter().map(|(kind, _)| kind);
    kinds.filter(|kind| names.is_empty() || names.contains(kind)).collect()
}

/// What befalls whom, dealt like cards: first one of each kind, so that a short run has them all, and then packs in
/// which each lies as often as its weight says.
pub(crate) struct Deck {
    draws: Draws,
    /// What may come at all.
    pack: Vec<Kind>,
    /// What has not come yet, and comes before all else that fits.
    unseen: Vec<Kind>,
    cards: Vec<Kind>,
    nodes: usize,
    steady: Vec<usize>,
    most: usize,
}

impl Deck {
    /// Deals among so many nodes, at most `most` of them at a time; the steady ones are never killed.
    pub(crate) fn new(draws: Draws, names: &[Kind], nodes: usize, steady: &[usize], most: usize) -> Self {
        let unseen = wanted(names);
        let weights = WEIGHTS.into_iter().filter(|(kind, _)| unseen.contains(kind));
        let pack = weights.flat_map(|(kind, weight)| vec![kind; weight]).collect();
        Self { draws, pack, unseen, cards: Vec::new(), nodes, steady: steady.to_vec(), most }
    }

    /// What befalls whom in one round. A guest comes alone; it is none of the nodes, but the one after them.
    pub(crate) fn round(&mut self) -> Vec<(usize, Kind)> {
        let all: Vec<usize> = (0..self.nodes).collect();
        let count = self.draws.between(1, self.most as u64);
        let mut befall = Vec::new();
        for victim in self.draws.some(&all, usize::try_from(count).unwrap_or(1)) {
            let (is_steady, is_first) = (self.steady.contains(&victim), befall.is_empty());
            let fits = |kind: &Kind| match kind {
                Kind::Guest => is_first,
                kind => kind.is_gentle() || !is_steady,
            };
            match self.card(fits) {
                Some(Kind::Guest) => return vec![(self.nodes, Kind::Guest)],
                Some(kind) => befall.push((victim, kind)),
                None => {}
            }
        }
        befall
    }

    /// Takes a card that fits. None where no card of a pack does.
    fn card(&mut self, fits: impl Fn(&Kind) -> bool) -> Option<Kind> {
        let is_new = self.unseen.iter().any(&fits);
        if !is_new && !self.cards.iter().any(&fits) {
            // What is left over fits others, and stays in.
            self.cards.extend(self.pack.iter().filter(|kind| fits(kind)));
        }
        let hand = if is_new { &mut self.unseen } else { &mut self.cards };
        let fitting: Vec<usize> =
            hand.iter().enumerate().filter(|(_, kind)| fits(kind)).map(|(at, _)| at).collect();
        Some(hand.swap_remove(self.draws.one(&fitting)?))
    }

    /// Draws for what a misfortune is like in particular.
    pub(crate) fn draws(&mut self) -> &mut Draws {
        &mut self.draws
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::effort::ROUNDS_OF_ALL;

    /// How many rounds it takes until each of these has come.
    fn rounds_of_all(seed: u64, names: &[Kind], most: usize) -> usize {
        let mut deck = Deck::new(Draws::new(seed, "test"), names, 9, &[7, 8], most);
        let mut rounds = 0;
        while !deck.unseen.is_empty() {
            rounds += usize::from(!deck.round().is_empty());
        }
        rounds
    }

    fn deck(seed: u64, wanted: &[Kind]) -> Deck {
        Deck::new(Draws::new(seed, "test"), wanted, 9, &[7, 8], 2)
    }

    #[test]
    fn never_more_than_the_code_bears() {
        let mut deck_of_all = deck(1, &[]);
        for _ in 0..2000 {
            let befall = deck_of_all.round();
            assert!(befall.len() <= 2 && !befall.is_empty());
            assert!(deck_of_all.cards.len() <= 2 * deck_of_all.pack.len(), "the deck grows");
            for (victim, kind) in &befall {
                assert!(*victim < 7 || kind.is_gentle() || *kind == Kind::Guest);
                assert!(*kind != Kind::Guest || befall.len() == 1);
            }
        }
        let mut wipes = deck(1, &[Kind::Wipe]);
        let only = (0..200).flat_map(|_| wipes.round());
        assert!(only.into_iter().all(|(victim, kind)| kind == Kind::Wipe && victim < 7));
    }

    #[test]
    fn a_short_run_has_all_of_them() {
        for seed in 0..200 {
            let mut deck = deck(seed, &[]);
            let seen: BTreeSet<Kind> = (0..12).flat_map(|_| deck.round()).map(|(_, kind)| kind).collect();
            assert_eq!(seen.len(), WEIGHTS.len(), "seed {seed}: {seen:?}");
        }
    }

    #[test]
    fn all_have_come_when_they_are_looked_for() {
        for seed in 0..5_000 {
            for most in [1, 2] {
                let rounds = rounds_of_all(seed, &[], most);
                assert!(rounds <= ROUNDS_OF_ALL, "seed {seed}, {most} at once: {rounds} rounds");
            }
            assert!(rounds_of_all(seed, &[Kind::Wipe, Kind::Stop], 2) <= ROUNDS_OF_ALL);
        }
    }
}
