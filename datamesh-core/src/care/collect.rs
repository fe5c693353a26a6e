//! Extents whose manifest never came are given up, when every member that can hold data has said for long that it has
//! no manifest that names them.

use std::sync::Arc;

use bytes::Bytes;

use crate::care::spread::HOUR;
use crate::care::{Care, CareOptions};
use crate::error::Result;
use crate::format::{MAX_REMOVALS, Reply, Request, UnnamedFor};
use crate::id::{ExtentId, NodeId};
use crate::object::ASK_LIMIT;
use crate::object::gather::gather;
use crate::observe::{Event, count};
use crate::planted::{Bug, is_active};

/// Whether a manifest names an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// A member has one.
    Named,
    /// Every member said that it has none.
    Unnamed,
    /// Somebody who may have one did not answer.
    Unknown,
}

impl Naming {
    /// What one more answer makes of it; `None` stands for silence.
    fn and(self, answer: Option<bool>) -> Self {
        match (self, answer) {
            (Self::Named, _) | (_, Some(true)) => Self::Named,
            (naming, Some(false)) => naming,
            (naming, None) if is_active(Bug::UnreachableIsAbsent) => naming,
            (_, None) => Self::Unknown,
        }
    }
}

/// All who may have a manifest, as this node knows them; `None` where it is none of them itself: one that is admitted no
/// more knows nobody to ask.
fn all_of(members: impl Iterator<Item = NodeId>, local: NodeId) -> Option<Vec<NodeId>> {
    let all: Vec<NodeId> = members.collect();
    all.contains(&local).then_some(all)
}

/// Whether an extent has waited long enough: the hour of the first look at it is not counted, for it may have come just
/// before that.
fn is_old(age: UnnamedFor, options: &CareOptions) -> bool {
    age.hours > options.orphan_hours()
}

impl Care {
    /// Collects for ever, once an hour.
    pub(crate) async fn collect(self: Arc<Self>) {
        while let Err(error) = self.node.index_manifests().await {
            tracing::warn!(%error, "the manifests could not be looked through");
            self.engine.runtime.sleep(HOUR).await;
        }
        loop {
            self.engine.runtime.sleep(HOUR).await;
            if let Err(error) = self.collect_once().await {
                tracing::warn!(%error, "extents without a manifest could not be looked at");
            }
        }
    }

    /// Looks at all extents of which no manifest is known yet.
    async fn collect_once(&self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.node.unnamed(after, MAX_REMOVALS).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(()) };
            let namings = self.ask_names(page.iter().map(|(extent, _)| *extent).collect()).await;
            let mut ages = Vec::with_capacity(page.len());
            for ((extent, age), naming) in page.into_iter().zip(namings) {
                match naming {
                    Naming::Named => ages.push((extent, None)),
                    Naming::Unknown => {}
                    Naming::Unnamed => {
                        ages.push((extent, Some(UnnamedFor { hours: age.hours.saturating_add(1) })));
                    }
                }
            }
            self.node.note_names(&ages).await?;
            let old = ages.iter().filter(|(_, age)| age.is_some_and(|age| is_old(age, &self.options)));
            for (extent, _) in old {
                if self.node.collect_extent(*extent).await? {
                    count(&self.engine.counters.extents_collected, 1);
                    self.engine.events.emit(Event::ExtentCollected(*extent));
                }
            }
            after = Some(last);
        }
    }

    /// Asks every member that may hold data, this node as well. Where a manifest may be does not follow from an extent,
    /// which knows nothing of its object, so nobody is left out, whether or not it is here.
    async fn ask_names(&self, extents: Vec<ExtentId>) -> Vec<Naming> {
        let peers = &self.engine.peers;
        let members = peers.storage_members().into_iter().map(|member| member.node);
        let Some(nodes) = all_of(members.chain(peers.leaving_members()), peers.local()) else {
            return vec![Naming::Unknown; extents.len()];
        };
        let call = |node| {
            let request = Request::Named { extents: extents.clone() };
            (node, self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT))
        };
        let calls = nodes.into_iter().map(call).collect();
        let mut namings = vec![Naming::Unnamed; extents.len()];
        for (_, answer) in gather(&*self.engine.runtime, calls, 0).await {
            let said = match answer {
                Ok((Reply::Named { named }, _)) if named.len() == extents.len() => Some(named),
                _ => None,
            };
            for (number, naming) in namings.iter_mut().enumerate() {
                *naming = naming.and(said.as_ref().and_then(|named| named.get(number).copied()));
            }
        }
        namings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_proof() {
        let all =
            |answers: &[Option<bool>]| answers.iter().fold(Naming::Unnamed, |naming, said| naming.and(*said));
        assert_eq!(all(&[Some(false), Some(false)]), Naming::Unnamed);
        assert_eq!(all(&[Some(false), None]), Naming::Unknown);
        assert_eq!(all(&[None, Some(false)]), Naming::Unknown);
        assert_eq!(all(&[None, Some(true)]), Naming::Named);
        assert_eq!(all(&[Some(true), None, Some(false)]), Naming::Named);
    }

    #[test]
    fn an_extent_waits_for_its_whole_age() {
        for hours in 1..5 {
            let age = HOUR * hours;
            let options = CareOptions::default().with_orphan_age(age);
            // An extent that came just before a look has waited for one hour less than it was looked at.
            let waited =
                (1..).find(|hours| is_old(UnnamedFor { hours: *hours }, &options)).map(|hours| hours - 1);
            let waited = HOUR * u32::try_from(waited.unwrap()).unwrap();
            assert_eq!(waited, age);
            assert!(options.put_limit() < waited);
        }
    }

    #[test]
    fn who_is_no_member_knows_nobody_to_ask() {
        let [local, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        assert_eq!(all_of([local, other].into_iter(), local), Some(vec![local, other]));
        assert_eq!(all_of([other].into_iter(), local), None, "its certificate may have ended");
        assert_eq!(all_of([].into_iter(), local), None);
    }
}
