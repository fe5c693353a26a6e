//! The atlas of misfortunes: what may befall which nodes so that the promise still stands.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ports::Redundancy;
use crate::sim::draws::Draws;
use crate::sim::model::Model;

/// What may happen to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Misfortune {
    /// Its process dies, and comes back after a while.
    Crash,
    /// It is shut down in good order, and comes back.
    Stop,
    /// Its process dies and stays away for so long that others take over what it held; then it comes back with all of
    /// it.
    Away,
    /// It stands still for a while.
    Freeze,
    /// It is cut off from all others.
    Isolate,
    /// Nothing that it sends arrives.
    Mute,
    /// Nothing arrives that is sent to it.
    Deaf,
    /// Its links hold everything for a while.
    Clog,
    /// Its links are slow and lose packets.
    SlowLinks,
    /// Its wall clock jumps by up to an hour.
    ClockJump,
    /// Its disk is slow.
    SlowDisk,
    /// Its disk is full for a while.
    FullDisk,
    /// Its disk fails to write, so that it refuses until it is restarted.
    DiskError,
    /// Bits of some shards on its disk turn.
    BitFlips,
    /// A shard lands where another should be.
    Misdirect,
    /// It loses its whole disk.
    Wipe,
    /// It is hostile for a while, in a [`Role`](crate::sim::Role) that the seed draws.
    Lie,
    /// All its connections break at once.
    Reset,
    /// It comes back with another capacity.
    NewCapacity,
}

impl Misfortune {
    /// Every one.
    pub const ALL: [Self; 19] = [
        Self::Crash,
        Self::Stop,
        Self::Away,
        Self::Freeze,
        Self::Isolate,
        Self::Mute,
        Self::Deaf,
        Self::Clog,
        Self::SlowLinks,
        Self::ClockJump,
        Self::SlowDisk,
        Self::FullDisk,
        Self::DiskError,
        Self::BitFlips,
        Self::Misdirect,
        Self::Wipe,
        Self::Lie,
        Self::Reset,
        Self::NewCapacity,
    ];

    /// Its name, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Stop => "stop",
            Self::Away => "away",
            Self::Freeze => "freeze",
            Self::Isolate => "isolate",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Clog => "clog",
            Self::SlowLinks => "slow links",
            Self::ClockJump => "clock jump",
            Self::SlowDisk => "slow disk",
            Self::FullDisk => "full disk",
            Self::DiskError => "disk error",
            Self::BitFlips => "bit flips",
            Self::Misdirect => "misdirect",
            Self::Wipe => "wipe",
            Self::Lie => "lie",
            Self::Reset => "reset",
            Self::NewCapacity => "new capacity",
        }
    }

    /// Whether what it takes does not come back by itself.
    pub(super) fn is_lasting(self) -> bool {
        matches!(self, Self::BitFlips | Self::Misdirect | Self::Wipe)
    }

    /// Whether the node counts as lost while it lasts.
    pub(super) fn impairs(self) -> bool {
        !matches!(self, Self::ClockJump | Self::BitFlips | Self::Misdirect)
    }
}

/// What one run allows.
#[derive(Debug, Clone)]
pub(super) struct Atlas {
    /// How many nodes may be lost at a time.
    pub(super) margin: usize,
    /// The nodes whose shards may decay.
    pub(super) fragile: BTreeSet<usize>,
    /// Whether more nodes may be lost for a while than the margin allows.
    pub(super) storm: bool,
    kinds: Vec<Misfortune>,
}

impl Atlas {
    /// The atlas of a run, which the seed decides: each run has some kinds of misfortune and not others.
    pub(super) fn draw(
        draws: &mut Draws,
        nodes: usize,
        redundancy: Redundancy,
        wanted: &[Misfortune],
    ) -> Self {
        let margin = margin_of(nodes, redundancy);
        let all: Vec<usize> = (0..nodes).collect();
        let fragile = draws.subset(&all, margin).into_iter().collect();
        let count = wanted.len().div_ceil(2) + draws.index(wanted.len().div_ceil(2) + 1);
        let mut kinds = draws.subset(wanted, count);
        kinds.sort_unstable();
        Self { margin, fragile, storm: draws.chance(250), kinds }
    }

    /// A misfortune and a node that it may befall now.
    pub(super) fn choose(
        &self,
        draws: &mut Draws,
        model: &Model,
        nodes: usize,
    ) -> Option<(Misfortune, usize)> {
        let kind = *draws.pick(&self.kinds)?;
        let unwell = model.unwell_now();
        // Decay stays until a scrub finds it; a lost disk is made good by care, and then others may be lost.
        let candidates: Vec<usize> = if kind.is_lasting() && kind != Misfortune::Wipe {
            self.fragile.iter().copied().filter(|node| !unwell.contains(node)).collect()
        } else {
            (0..nodes).filter(|node| !unwell.contains(node)).collect()
        };
        let node = *draws.pick(&candidates)?;
        let mut lost: BTreeSet<usize> = model.damaged_nodes();
        lost.extend(unwell);
        lost.insert(node);
        let allowed = lost.len() <= self.margin || (self.storm && !kind.is_lasting());
        let harmless = !kind.impairs() && !kind.is_lasting();
        (allowed || harmless).then_some((kind, node))
    }

    /// How long something lasts.
    pub(super) fn duration(draws: &mut Draws) -> Duration {
        match draws.below(3) {
            0 => draws.time(Duration::from_millis(10), Duration::from_secs(2)),
            1 => draws.time(Duration::from_secs(2), Duration::from_secs(20)),
            _ => draws.time(Duration::from_secs(20), Duration::from_secs(120)),
        }
    }
}

/// How many of so many nodes may be lost, by the caps of placement.
fn margin_of(nodes: usize, redundancy: Redundancy) -> usize {
    let on_one = redundancy.total().div_ceil(nodes.max(1)).max(1);
    (redundancy.parity() / on_one).min(nodes.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_that_of_the_caps() {
        let margins = [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (9, 2)];
        for (nodes, margin) in margins {
            assert_eq!(margin_of(nodes, Redundancy::STANDARD), margin, "{nodes} nodes");
        }
    }
}
