//! Counting again: every file's holders are asked what they have of it, whatever the nodes say of themselves.

use std::collections::BTreeSet;

use datamesh::Mesh;
use futures::stream::{self, StreamExt};

use crate::corpus::Item;

/// Files that are asked about at a time.
const AT_ONCE: usize = 4;

/// How many files have which margin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// Files that cannot be read now.
    pub(crate) lost: usize,
    /// Files of which no more holder may be lost, one more, two more, and so on.
    pub(crate) by_margin: Vec<usize>,
    /// The extents of all files.
    pub(crate) extents: usize,
}

impl Histogram {
    pub(crate) fn new(parity: usize) -> Self {
        Self { lost: 0, by_margin: vec![0; parity + 1], extents: 0 }
    }

    pub(crate) fn files(&self) -> usize {
        self.lost + self.by_margin.iter().sum::<usize>()
    }

    /// Whether every file may lose as many holders as its code has parity.
    pub(crate) fn is_full(&self) -> bool {
        self.by_margin.last() == Some(&self.files())
    }

    /// Each margin with its number of files, the best first.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        let margins = self.by_margin.iter().enumerate().rev();
        let margins = margins.map(|(margin, count)| (format!("margin {margin}"), *count));
        margins.chain([("unreadable".to_owned(), self.lost)])
    }

    pub(crate) fn text(&self) -> String {
        let parts: Vec<String> = self.lines().map(|(name, count)| format!("{name}: {count:>4}")).collect();
        parts.join("  ")
    }

    fn note(&mut self, margin: Option<usize>) {
        match margin.and_then(|margin| self.by_margin.get_mut(margin)) {
            Some(count) => *count += 1,
            None => self.lost += 1,
        }
    }
}

/// Asks about every file.
pub(crate) async fn recount(mesh: &Mesh, items: &[Item], parity: usize) -> Histogram {
    let ask = |item: &Item| {
        let capability = item.capability.clone();
        async move { mesh.health(&capability?).await.ok() }
    };
    let mut answers = stream::iter(items.iter().map(ask)).buffer_unordered(AT_ONCE);
    let (mut histogram, mut extents) = (Histogram::new(parity), BTreeSet::new());
    while let Some(health) = answers.next().await {
        histogram.note(health.as_ref().and_then(|health| health.margin));
        extents.extend(health.into_iter().flat_map(|health| health.extents).map(|extent| extent.id));
    }
    histogram.extents = extents.len();
    histogram
}
