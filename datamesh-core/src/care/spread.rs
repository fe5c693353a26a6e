//! Removals are told to all who may have been away, and forgotten when all know of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future;
use futures::stream::{self, StreamExt};

use crate::care::Care;
use crate::error::Result;
use crate::format::{RemovalsOf, Removed, Reply, Request};
use crate::id::NodeId;
use crate::object::ASK_LIMIT;
use crate::observe::count;
use crate::peers::unexpected;
use crate::planted::{Bug, is_active};
use crate::ports::Instant;

/// How often it is looked whether somebody is to be told something, on average.
const LOOK: Duration = Duration::from_secs(60);

/// When it is looked again, on average, where somebody was not told everything yet: a store that is new is told of all
/// removals, the latest last, and until then takes back what is removed.
const LOOK_SOON: Duration = Duration::from_secs(5);

/// How often a node is asked for the name of its store though there is nothing to tell: one that was wiped has
/// forgotten what it was told.
const GREET: Duration = Duration::from_secs(3600);

/// The hour in which ages are counted, so that neither a restart nor a clock that jumps makes anything older.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// For so many hours removals are remembered for a node that is no member any more, and may be one again.
const LEFT_FOR: usize = 30 * 24;

/// Nodes that are told at a time.
const AT_ONCE: usize = 8;

/// Nodes that are told something in one look, and those that are being told then. Every node knows of every removal,
/// so where each told all others a mesh of a thousand would send a million messages for one. Half of them are those
/// next to this node's own name, so that who was away is told at once by the many before it; the other half goes
/// round, so that everybody is told by everybody.
const TOLD_OF_A_LOOK: usize = 64;

/// Removals of one message, which are 32 KiB.
pub(crate) const PAGE: usize = 512;

/// Messages to one node in one look: half a megabyte, beside which other work goes on.
pub(crate) const PAGES_OF_A_LOOK: usize = 16;

/// When each node last said the name of its store.
type Greeted = Mutex<BTreeMap<NodeId, Instant>>;

impl Care {
    /// Tells others of removals for ever, and forgets those that all know.
    pub(crate) async fn spread_removals(self: Arc<Self>) {
        let greeted = Greeted::default();
        let mut hour = self.engine.runtime.now() + HOUR;
        let mut pause = LOOK;
        for look in 0.. {
            self.engine.runtime.sleep_about(pause).await;
            pause = match self.spread_once(look, &greeted).await {
                Ok(true) => LOOK,
                Ok(false) => LOOK_SOON,
                Err(error) => {
                    tracing::warn!(%error, "the removals could not be read");
                    LOOK
                }
            };
            let now = self.engine.runtime.now();
            if now >= hour || is_active(Bug::DropTombstoneSoon) {
                hour = now + HOUR;
                if let Err(error) = self.forget_removals().await {
                    tracing::warn!(%error, "old removals could not be forgotten");
                }
            }
        }
    }

    /// Tells others of removals. False where somebody that answers was told a part only.
    async fn spread_once(&self, look: usize, greeted: &Greeted) -> Result<bool> {
        let told = self.node.told_nodes().await?;
        let mut others = self.others();
        let new: Vec<NodeId> = others.iter().copied().filter(|node| !told.contains_key(node)).collect();
        self.node.keep_account_of(&new).await?;
        if self.node.removals_from(0, 1).await?.is_empty() {
            return Ok(true);
        }
        let next = self.node.next_removal().await?;
        // One that leaves still has what it had; a client never had anything, and was never seen to offer anything.
        let mut leaving = self.engine.peers.leaving_holders();
        leaving.retain(|node| told.contains_key(node) || self.roster().has_seen(node));
        others.extend(leaving);
        let others = turn(self.engine.peers.local(), others, look);
        // Whoever was away is greeted anew: it may have lost its disk.
        lock(greeted).retain(|node, _| self.engine.peers.is_connected(node));
        let live = others.into_iter().filter(|node| self.engine.peers.is_live(node));
        let (asked, is_more) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (asked, is_more) = (&asked, &is_more);
        stream::iter(live)
            .take_while(|_| future::ready(asked.load(Ordering::Relaxed) < TOLD_OF_A_LOOK))
            .for_each_concurrent(AT_ONCE, |node| async move {
                match self.tell_removals(node, next, greeted, asked).await {
                    Ok(true) => {}
                    Ok(false) => is_more.store(true, Ordering::Relaxed),
                    Err(error) => {
                        tracing::debug!(%error, node = %node.fmt_short(), "not told of removals");
                    }
                }
            })
            .await;
        Ok(!is_more.load(Ordering::Relaxed))
    }

    /// The other members that can hold data.
    fn others(&self) -> Vec<NodeId> {
        let local = self.engine.peers.local();
        let members = self.engine.peers.storage_members().into_iter().map(|member| member.node);
        members.filter(|node| *node != local).collect()
    }

    /// Tells one node of removals. False where it is on the way to be told them all.
    async fn tell_removals(
        &self,
        node: NodeId,
        next: u64,
        greeted: &Greeted,
        asked: &AtomicUsize,
    ) -> Result<bool> {
        let mut told = self.node.told(node).await?;
        let now = self.engine.runtime.now();
        let is_greeted = lock(greeted).get(&node).is_some_and(|at| now - *at < GREET);
        if told.next >= next && is_greeted {
            return Ok(true);
        }
        asked.fetch_add(1, Ordering::Relaxed);
        for _ in 0..PAGES_OF_A_LOOK {
            let page = self.node.removals_from(told.next, PAGE).await?;
            let place = page.last().map_or(next.max(told.next), |(number, _)| number + 1);
            let amount = page.len() as u64;
            let removals: Vec<Removed> = page.into_iter().map(|(_, removed)| removed).collect();
            let request = Request::Removals { removals };
            let store = match self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await? {
                (Reply::Noted { store }, _) => store,
                (other, _) => return Err(unexpected(&other, node)),
            };
            count(&self.engine.counters.removals_told, amount);
            // Another store than before knows nothing of what the earlier one was told.
            let known = if store == told.store { place } else { 0 };
            let is_news = RemovalsOf { store, next: known } != told;
            told = RemovalsOf { store, next: known };
            if is_news {
                self.node.keep_told(node, told).await?;
            }
            if told.next >= next {
                lock(greeted).insert(node, now);
                return Ok(true);
            }
        }
        // Who names another store with each answer is told nothing, and there is no hurry to go on with that.
        Ok(told.next == 0)
    }

    /// Forgets what every member that can hold data was told, and what is old enough. Members that are silent count,
    /// and for some time those that have left or are admitted no more: they may come back with what was removed.
    async fn forget_removals(&self) -> Result<()> {
        let hours = self.options.tombstone_hours();
        let [mut below, long_ago] = self.node.note_hour([hours, hours.max(LEFT_FOR)]).await?;
        let told = self.node.told_nodes().await?;
        let members: BTreeSet<NodeId> = self.others().into_iter().collect();
        for node in &members {
            below = below.min(told.get(node).map_or(0, |told| told.next));
        }
        let local = self.engine.peers.local();
        let may_return =
            |node: &NodeId| *node != local && !members.contains(node) && !self.engine.peers.is_revoked(node);
        let mut over = Vec::new();
        for (node, told) in told.iter().filter(|(node, _)| may_return(node)) {
            below = below.min(told.next.max(long_ago));
            // It is waited for no longer.
            over.extend((told.next < long_ago).then_some(*node));
        }
        self.node.close_accounts_of(&over).await?;
        if is_active(Bug::DropTombstoneSoon) {
            below = u64::MAX;
        }
        let dropped = self.node.drop_tombstones(below).await?;
        count(&self.engine.counters.tombstones_dropped, dropped as u64);
        Ok(())
    }
}

/// The others in the order in which they are told in this look: those next to this node's own name, then the rest from
/// where the last look ended.
fn turn(local: NodeId, mut others: Vec<NodeId>, look: usize) -> Vec<NodeId> {
    let half = TOLD_OF_A_LOOK / 2;
    others.sort_unstable();
    let own = others.partition_point(|node| *node < local);
    others.rotate_left(own);
    let far = others.split_off(half.min(others.len()));
    let start = look.wrapping_mul(half).checked_rem(far.len()).unwrap_or(0);
    others.extend(far.iter().cycle().skip(start).take(far.len()));
    others
}

fn lock(greeted: &Greeted) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Instant>> {
    greeted.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn the_near_are_first_and_everybody_has_a_turn() {
        let local = node(100);
        let others: Vec<NodeId> = (0..=250).filter(|number| *number != 100).map(node).collect();
        let near: Vec<NodeId> = (101..133).map(node).collect();
        let mut told = BTreeSet::new();
        for look in 0..others.len() / 32 + 1 {
            let order = turn(local, others.clone(), look);
            assert!(order.starts_with(&near), "look {look}");
            assert_eq!(order.iter().collect::<BTreeSet<_>>(), others.iter().collect(), "look {look}");
            assert_eq!(order.len(), others.len());
            told.extend(order.into_iter().take(TOLD_OF_A_LOOK));
        }
        assert_eq!(told.len(), others.len());
    }

    #[test]
    fn a_small_mesh_is_told_whole() {
        assert_eq!(turn(node(1), Vec::new(), 7), []);
        for look in 0..5 {
            let order = turn(node(2), vec![node(1), node(3)], look);
            assert_eq!(order, [node(3), node(1)]);
        }
    }
}
