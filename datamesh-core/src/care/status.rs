//! What care tells of itself.

use std::time::Duration;

/// How well the extents and manifests are kept that this node is the first to look after; those of all nodes together
/// are those of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Margins {
    /// Extents of which fewer than k shards could be found.
    pub lost: u64,
    /// How many extents can lose no more holder, one more, two more, and so on.
    pub by_margin: Vec<u64>,
    /// Extents whose margin is less than the members can give.
    pub short: u64,
    /// Extents of which a node that may hold more did not answer; they are counted by what was answered.
    pub open: u64,
    /// Manifests that have fewer holders than they should.
    pub manifests_short: u64,
    /// Manifests in all.
    pub manifests: u64,
}

impl Margins {
    /// All extents.
    pub fn extents(&self) -> u64 {
        self.by_margin.iter().sum::<u64>().saturating_add(self.lost)
    }

    /// Those of two sets of extents and manifests together.
    pub(super) fn and(&self, other: &Self) -> Self {
        let count = |margins: &Self, margin| margins.by_margin.get(margin).copied().unwrap_or(0);
        let most = self.by_margin.len().max(other.by_margin.len());
        Self {
            lost: self.lost + other.lost,
            by_margin: (0..most).map(|margin| count(self, margin) + count(other, margin)).collect(),
            short: self.short + other.short,
            open: self.open + other.open,
            manifests_short: self.manifests_short + other.manifests_short,
            manifests: self.manifests + other.manifests,
        }
    }

    pub(super) fn note(&mut self, margin: Option<usize>, expected: usize, is_open: bool) {
        match margin {
            None => self.lost += 1,
            Some(margin) => {
                if self.by_margin.len() <= margin {
                    self.by_margin.resize(margin + 1, 0);
                }
                if let Some(count) = self.by_margin.get_mut(margin) {
                    *count += 1;
                }
            }
        }
        self.short += u64::from(margin.is_none_or(|margin| margin < expected));
        self.open += u64::from(is_open);
    }
}

/// How far a round of repair and rebalance has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CareProgress {
    /// Extents and manifests that were dealt with.
    pub done: u64,
    /// Extents and manifests with which something is to be done.
    pub total: u64,
    /// Bytes of shards that reached their holders.
    pub bytes_done: u64,
    /// Bytes of shards that are to reach their holders.
    pub bytes_total: u64,
    /// How long the rest will take at the pace of now; `None` when nothing is left.
    pub eta: Option<Duration>,
}

/// What care does on this node, and how well its extents are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CareStatus {
    /// Whether it was paused.
    pub paused: bool,
    /// How many rounds over all extents were finished.
    pub rounds: u64,
    /// The round that is under way, or the last one.
    pub progress: CareProgress,
    /// What the last round found; a repair is done when the next one says so.
    pub margins: Margins,
    /// Extents and manifests that this node has something of.
    pub held: u64,
    /// Those of them of which not everything is with the nodes that are to hold it; of a node that is leaving, those that
    /// would be held less safely without it. Manifests that these say were removed are none of them.
    pub away: u64,
    /// The bytes that may be moved in a second.
    pub bytes_per_second: u64,
}
