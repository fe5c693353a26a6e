//! Bringing back what was set aside: shards of this node that had rotted are copied, or made anew from k others.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use futures::future;

use crate::care::Care;
use crate::error::Result;
use crate::id::{ExtentId, NodeId};
use crate::object::extent_read::ExtentReader;
use crate::observe::count;

/// How many extents are read from the list at a time.
const PAGE: usize = 64;

/// When to try again what could not be brought back.
const TRY_AGAIN: Duration = Duration::from_secs(600);

impl Care {
    /// Mends for ever: what an earlier process left first, then whenever something was set aside.
    pub(crate) async fn mend(self: Arc<Self>, set_aside: Receiver<()>) {
        loop {
            if !self.is_paused()
                && let Err(error) = self.mend_all().await
            {
                tracing::warn!(%error, "the list of what is to be mended could not be read");
            }
            let timer = self.engine.runtime.sleep(TRY_AGAIN);
            future::select(pin!(set_aside.recv()), timer).await;
        }
    }

    async fn mend_all(&self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.node.to_mend(after, PAGE).await?;
            let Some(last) = page.last().copied() else { return Ok(()) };
            for extent in page {
                if self.is_paused() {
                    return Ok(());
                }
                let set_asides = self.node.set_asides();
                match self.mend_extent(extent).await {
                    Ok(true) => self.node.mended(extent, set_asides).await?,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, extent = %extent.fmt_short(), "not mended"),
                }
            }
            after = Some(last);
        }
    }

    /// Says whether this node now has all of the extent that its record promises.
    async fn mend_extent(&self, extent: ExtentId) -> Result<bool> {
        let Some(record) = self.node.stored_extent(extent).await? else { return Ok(true) };
        let local = self.engine.peers.local();
        let reader = ExtentReader::stored(&self.engine, extent, &record)?;
        let mut holders: Vec<(NodeId, Vec<u8>)> = Vec::new();
        for (node, answer) in reader.holdings().await {
            holders.extend(answer.ok().map(|held| (node, held)));
        }
        let has = |index: &u8| holders.iter().any(|(node, held)| *node == local && held.contains(index));
        let seats: Vec<_> =
            record.indexes.iter().filter(|index| !has(index)).map(|index| (*index, local)).collect();
        if seats.is_empty() {
            return Ok(true);
        }
        let moved = self.fill(extent, &holders, &seats).await?;
        if let Some(moved) = &moved {
            count(&self.engine.counters.repair_bytes_read, moved.read);
            count(&self.engine.counters.repair_bytes_written, moved.written);
        }
        Ok(moved.is_none_or(|moved| moved.is_poisoned || moved.seats.len() == seats.len()))
    }
}
