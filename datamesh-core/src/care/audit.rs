//! The audit: a node asks others to prove that they hold what they say they hold.
//!
//! In each round one extent is drawn from those that this node has a record of, and each of its other holders is asked
//! what it has of it, and then to prove a shard of that. The place is drawn afresh, so that no answer can be prepared.
//! One more member, drawn at random, is asked as well: who claims shards that others are to have is to prove these too.
//! What is learned counts here only: other nodes look for themselves, so nobody can be framed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use crate::care::Care;
use crate::care::standing::{Audit, pause_after};
use crate::error::Result;
use crate::format::{Layout, Possession, Reply, Request, StoredExtent, proved};
use crate::id::{ExtentId, NodeId, ShardId};
use crate::observe::{Event, count};
use crate::placement::rank;
use crate::planted::{Bug, is_active};
use crate::ports::Table;

/// For how long a proof is waited for: far longer than a disk needs, and short for whoever must fetch k shards first.
const PROOF_LIMIT: Duration = Duration::from_secs(10);

/// How often a challenge without an answer is put again before it counts.
const RETRIES: usize = 3;

/// The pause before that.
const RETRY_AFTER: Duration = Duration::from_secs(20);

/// Holders that are challenged at a time.
const AT_ONCE: usize = 8;

/// An extent that was drawn.
struct Drawn {
    id: ExtentId,
    layout: Layout,
}

impl Care {
    /// Takes up whom earlier processes of this node did not trust, before anything is decided.
    pub(crate) async fn recall_distrust(&self) -> Result<()> {
        self.node.distrusted().await?.into_iter().for_each(|node| self.engine.peers.distrust(node));
        Ok(())
    }

    /// Audits for ever, at the pace that [`pause_after`] says.
    pub(crate) async fn audit(self: Arc<Self>) {
        let mut challenged = 1;
        loop {
            self.engine.runtime.sleep(pause_after(challenged)).await;
            challenged = match self.audit_round().await {
                Ok(challenged) => challenged,
                Err(error) => {
                    tracing::warn!(%error, "an audit could not be made");
                    1
                }
            };
        }
    }

    /// Challenges the other holders of one extent; says how many there were.
    async fn audit_round(&self) -> Result<usize> {
        let Some(drawn) = self.draw_extent().await? else { return Ok(1) };
        let holders = self.other_holders(&drawn.layout);
        let asked = holders.iter().copied().chain(self.draw_bystander(&holders)?);
        let drawn = &drawn;
        stream::iter(asked)
            .for_each_concurrent(AT_ONCE, |node| async move {
                match self.challenge(drawn, node).await {
                    Ok(Some((audit, shard))) => self.note_audit(drawn, node, audit, shard).await,
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, node = %node.fmt_short(), "not audited"),
                }
            })
            .await;
        Ok(holders.len())
    }

    /// A random extent of this node. Extents are named by hashes, so the one that follows a random name is as good as
    /// any.
    async fn draw_extent(&self) -> Result<Option<Drawn>> {
        let from = Bytes::copy_from_slice(&self.engine.runtime.random::<32>()?);
        let storage = self.node.storage();
        let mut page = storage.scan_records(Table::Extents, Bytes::new(), Some(from), 1).await?;
        if page.records.is_empty() {
            page = storage.scan_records(Table::Extents, Bytes::new(), None, 1).await?;
        }
        let Some((key, value)) = page.records.first() else { return Ok(None) };
        let Ok(id) = <[u8; 32]>::try_from(key.as_ref()) else { return Ok(None) };
        let layout = Layout::decode(&StoredExtent::decode(value)?.layout)?;
        Ok(Some(Drawn { id: ExtentId::from_bytes(id), layout }))
    }

    fn other_holders(&self, layout: &Layout) -> Vec<NodeId> {
        let members = self.engine.peers.present_members();
        let assigned = rank(layout.placement.as_bytes(), &members).assign(layout.redundancy);
        let by_node = assigned.map(|assigned| assigned.by_node()).unwrap_or_default();
        let local = self.engine.peers.local();
        let holders = by_node.into_iter().map(|(node, _)| node);
        // What is brought to others may be with whoever leaves alone, so that its word counts as well.
        holders.chain(self.engine.peers.leaving_holders()).filter(|node| *node != local).collect()
    }

    /// A random member of those that are not to hold anything of an extent.
    fn draw_bystander(&self, holders: &[NodeId]) -> Result<Option<NodeId>> {
        let mut others = self.engine.peers.present_members();
        let local = self.engine.peers.local();
        others.retain(|member| member.node != local && !holders.contains(&member.node));
        let drawn = below(self.engine.runtime.random()?, others.len());
        Ok(drawn.and_then(|drawn| others.get(drawn)).map(|member| member.node))
    }

    /// Asks a node what it has of an extent and to prove some of that. `None` where it says that it has nothing: that
    /// is the survey's to deal with.
    async fn challenge(&self, drawn: &Drawn, node: NodeId) -> Result<Option<(Audit, Option<ShardId>)>> {
        let Some(held) = self.claim(drawn, node).await else {
            return Ok(Some((self.silence(node), None)));
        };
        let Some(shard) = self.draw_shard(&drawn.layout, &held)? else { return Ok(None) };
        let nonce = self.engine.runtime.random()?;
        for retry in 0..=RETRIES {
            if retry > 0 {
                self.engine.runtime.sleep(RETRY_AFTER).await;
            }
            let request = Request::Prove { shard: shard.0, nonce };
            match self.engine.peers.call(node, request, Bytes::new(), PROOF_LIMIT).await {
                Ok((Reply::Done, proof)) => {
                    let found = proved(&shard.0, &nonce, shard.1, &proof);
                    let right = found == Some(shard.0) || is_any(found, &drawn.layout);
                    let audit = if right { Audit::Success } else { Audit::Wrong };
                    return Ok(Some((audit, Some(shard.0))));
                }
                // It may have lost the shard since it was asked what it has.
                Ok((Reply::Absent, _)) => break,
                _ => {}
            }
        }
        Ok(Some((self.silence(node), Some(shard.0))))
    }

    /// What a node says that it has of an extent; `None` where it says nothing. Indexes that there are not would give
    /// it nothing to prove.
    async fn claim(&self, drawn: &Drawn, node: NodeId) -> Option<Vec<u8>> {
        let request = Request::Survey { extents: vec![drawn.id], objects: Vec::new() };
        let total = drawn.layout.redundancy.total();
        match self.engine.peers.call(node, request, Bytes::new(), PROOF_LIMIT).await {
            Ok((Reply::Surveyed { possessions }, _)) => {
                let held = possessions.into_iter().next().map(|held: Possession| held.of_total(total));
                Some(held.map_or(Vec::new(), |held| held.indexes().to_vec()))
            }
            _ => None,
        }
    }

    /// A random shard of these indexes, with its length.
    fn draw_shard(&self, layout: &Layout, held: &[u8]) -> Result<Option<(ShardId, usize)>> {
        let (index, segment) = (self.engine.runtime.random()?, self.engine.runtime.random()?);
        let index = below(index, held.len()).and_then(|drawn| held.get(drawn));
        let segment = below(segment, usize::from(layout.segments));
        let (Some(index), Some(segment)) = (index, segment) else { return Ok(None) };
        let shard = layout.shard(segment, usize::from(*index));
        Ok(shard.map(|shard| (shard, layout.shard_len_of(segment))))
    }

    fn silence(&self, node: NodeId) -> Audit {
        if self.engine.peers.is_connected(&node) { Audit::Silent } else { Audit::Offline }
    }

    async fn note_audit(&self, drawn: &Drawn, node: NodeId, audit: Audit, shard: Option<ShardId>) {
        self.engine.peers.audited(node, audit);
        let counters = &self.engine.counters;
        count(
            match audit {
                Audit::Success => &counters.audits_success,
                Audit::Wrong => &counters.audits_wrong,
                Audit::Silent => &counters.audits_silent,
                Audit::Offline => &counters.audits_offline,
            },
            1,
        );
        let (Audit::Wrong, Some(shard)) = (audit, shard) else { return };
        count(&counters.wrong_answers, 1);
        self.engine.events.emit(Event::WrongProof { node, extent: drawn.id, shard });
        if !self.engine.peers.may_distrust() {
            tracing::error!(
                "proofs of more than a third of the members are wrong: look at this node's own memory"
            );
            return;
        }
        self.engine.peers.distrust(node);
        self.engine.events.emit(Event::Distrusted(node));
        if let Err(error) = self.node.keep_distrust(node, true).await {
            tracing::warn!(%error, "whom not to trust was not kept");
        }
        self.wake();
    }

    /// Trusts a node again.
    pub(crate) async fn trust(&self, node: NodeId) -> Result<()> {
        self.node.keep_distrust(node, false).await?;
        self.engine.peers.trust(node);
        self.wake();
        Ok(())
    }
}

/// A random number below `count`; `None` where that is 0.
fn below(draw: [u8; 8], count: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(draw).checked_rem(count as u64)?).ok()
}

/// What a careless auditor would take: a proof of any shard of the extent, which another holder could have answered.
fn is_any(found: Option<ShardId>, layout: &Layout) -> bool {
    is_active(Bug::AcceptAnyProof) && found.is_some_and(|found| layout.shards.contains(&found))
}
