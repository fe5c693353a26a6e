//! The scrub: a node reads all that it holds again and again, and sets aside what is not what its name says.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use bytes::Bytes;
use futures::future::{self, Either};

use crate::care::Care;
use crate::care::unreadable::{TRY_AGAIN, Unreadable, Verdict};
use crate::error::Result;
use crate::format::{Reply, Request, ScrubCursor, ScrubStage};
use crate::id::{ExtentId, ID_LEN, ObjectId, ShardId};
use crate::node::{Checked, Node};
use crate::object::{ASK_LIMIT, Engine};
use crate::observe::{Event, count};
use crate::ports::{Instant, Table};

/// Within this time everything is read once, where nothing else is set.
pub(crate) const DEFAULT_PERIOD: Duration = Duration::from_secs(14 * 24 * 3600);

/// The shortest period that may be set.
pub(crate) const LEAST_PERIOD: Duration = Duration::from_secs(10);

/// The longest pause between two looks: a store that holds little is read more often than it must be, so that a node
/// that is restarted every day comes through all the same.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How many looks are made in a period at least.
const LEAST_LOOKS: u32 = 24;

/// How long the scrub waits after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// How often its place is kept; a crash costs what was read since.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// What a shard that cannot be read is taken for.
const UNREADABLE_BYTES: u64 = 256 << 10;

/// Names of shards that are fetched at a time.
const SHARD_PAGE: usize = 256;

/// Records that are looked at in one go; a page is 4 MiB at most.
const RECORD_PAGE: usize = 16;

/// The scrub of one node.
pub(crate) struct Scrub {
    engine: Arc<Engine>,
    node: Arc<Node>,
    period: Duration,
    /// Shards that failed their check, or were not read, when somebody asked for them.
    suspects: Receiver<ShardId>,
    unreadable: Unreadable,
    cursor: ScrubCursor,
    /// The next shards to look at.
    page: VecDeque<ShardId>,
}

impl Scrub {
    pub(crate) fn new(care: &Care, suspects: Receiver<ShardId>) -> Self {
        let (engine, node) = (Arc::clone(&care.engine), Arc::clone(&care.node));
        let period = care.options.scrub_period;
        let unreadable = Unreadable::new(TRY_AGAIN.min(period / LEAST_LOOKS));
        let (cursor, page) = (ScrubCursor::default(), VecDeque::new());
        Self { engine, node, period, suspects, unreadable, cursor, page }
    }

    /// Scrubs for ever, from where an earlier process stopped.
    pub(crate) async fn run(mut self) {
        self.cursor = self.node.scrub_cursor().await.unwrap_or_default();
        let mut kept = self.engine.runtime.now();
        loop {
            let pause = match self.look().await {
                Ok(bytes) => self.pause_after(bytes).await,
                Err(error) => {
                    tracing::warn!(%error, "the scrub could not read the store");
                    AFTER_FAILURE
                }
            };
            self.rest(self.engine.runtime.now() + pause).await;
            if self.engine.runtime.now() - kept >= KEEP_EVERY {
                kept = self.engine.runtime.now();
                self.keep_place().await;
            }
        }
    }

    async fn keep_place(&self) {
        if let Err(error) = self.node.keep_scrub_cursor(&self.cursor).await {
            tracing::debug!(%error, "the scrub's place was not kept");
        }
    }

    /// Looks at the next shard or the next records. Gives the bytes that were read, or none at the end of a round.
    async fn look(&mut self) -> Result<Option<u64>> {
        match self.cursor.stage {
            ScrubStage::Shards => self.look_at_shard().await,
            ScrubStage::Layouts => self.look_at_records(Table::Extents, Some(ScrubStage::Manifests)).await,
            ScrubStage::Manifests => self.look_at_records(Table::Manifests, None).await,
        }
    }

    async fn look_at_shard(&mut self) -> Result<Option<u64>> {
        if self.page.is_empty() {
            let after = self.cursor.after.map(ShardId::from_bytes);
            let page = self.node.storage().scan_blobs(after, SHARD_PAGE).await?;
            self.page = page.blobs.into_iter().map(|(shard, _)| shard).collect();
        }
        let Some(shard) = self.page.pop_front() else {
            self.go_on_with(Some(ScrubStage::Layouts));
            return Ok(Some(0));
        };
        let checked = self.check(shard, false).await;
        // Also after a failure: one shard that cannot be read must not stop the scrub for ever.
        self.cursor.after = Some(*shard.as_bytes());
        let checked = checked?;
        let bytes = self.take_note(checked);
        // A disk that fails is not to do nothing else.
        let bytes = if checked == Checked::Unreadable { UNREADABLE_BYTES } else { bytes };
        count(&self.engine.counters.shards_scrubbed, 1);
        Ok(Some(bytes))
    }

    /// Checks a shard, and sets it aside where it has rotted, or the disk has failed to give it for long.
    async fn check(&mut self, shard: ShardId, is_told: bool) -> Result<Checked> {
        let mut checked = self.node.check_shard(shard).await?;
        let now = self.engine.runtime.now();
        match checked {
            Checked::Right(_) => self.unreadable.read(&shard, now),
            Checked::Absent => self.unreadable.gone(&shard),
            Checked::Rotten => {
                self.unreadable.read(&shard, now);
                if !is_told {
                    self.node.tell_corrupt(shard).await?;
                }
                self.node.set_aside(shard).await?;
            }
            Checked::Unreadable => match self.unreadable.failed(shard, now) {
                Verdict::New => self.engine.events.emit(Event::UnreadableShard(shard)),
                Verdict::Again => {}
                Verdict::Lost => {
                    self.node.set_aside_unread(shard).await?;
                    self.unreadable.gone(&shard);
                    checked = Checked::Rotten;
                }
            },
        }
        Ok(checked)
    }

    async fn look_at_records(&mut self, table: Table, next: Option<ScrubStage>) -> Result<Option<u64>> {
        let after = self.cursor.after.map(|name| Bytes::copy_from_slice(&name));
        let page = self.node.storage().scan_records(table, Bytes::new(), after, RECORD_PAGE).await?;
        let mut bytes: u64 = 0;
        for (key, value) in &page.records {
            let Ok(name) = <[u8; ID_LEN]>::try_from(key.as_ref()) else { continue };
            let checked = self.look_at_record(table, name, value).await;
            self.cursor.after = Some(name);
            bytes = bytes.saturating_add(self.take_note(checked)).saturating_add(value.len() as u64);
        }
        if !page.more {
            let is_end = next.is_none();
            self.go_on_with(next);
            return Ok(if is_end { None } else { Some(bytes) });
        }
        Ok(Some(bytes))
    }

    /// Compares a record with its name; a rotten one is written anew as another node has it.
    async fn look_at_record(&self, table: Table, name: [u8; ID_LEN], value: &[u8]) -> Checked {
        let (extent, object) = (ExtentId::from_bytes(name), ObjectId::from_bytes(name));
        let is_manifest = table == Table::Manifests;
        let checked = match is_manifest {
            true => Node::check_manifest(object, value),
            false => Node::check_layout(extent, value),
        };
        if checked != Checked::Rotten {
            return Checked::Right(0);
        }
        let is_it = |body: &Bytes| match is_manifest {
            true => ObjectId::of(body) == object,
            false => ExtentId::of(body) == extent,
        };
        let request =
            if is_manifest { Request::ReadManifest { object } } else { Request::ReadLayout { extent } };
        let renewed = match self.fetch(request, is_it).await {
            Some(body) if is_manifest => self.node.renew_manifest(object, body).await,
            Some(body) => self.node.renew_layout(extent, body).await,
            None => Ok(()),
        };
        if let Err(error) = renewed {
            tracing::warn!(%error, "a rotten record was not written anew");
        }
        checked
    }

    /// What another member answers with the right bytes, if any does.
    async fn fetch(&self, request: Request, is_it: impl Fn(&Bytes) -> bool) -> Option<Bytes> {
        for member in self.engine.peers.live_members() {
            if member.node == self.engine.peers.local() {
                continue;
            }
            let answer = self.engine.peers.call(member.node, request.clone(), Bytes::new(), ASK_LIMIT).await;
            match answer {
                Ok((Reply::Done, body)) if is_it(&body) => return Some(body),
                _ => {}
            }
        }
        None
    }

    fn take_note(&mut self, checked: Checked) -> u64 {
        let bytes = match checked {
            Checked::Right(bytes) => bytes,
            Checked::Absent | Checked::Unreadable => 0,
            Checked::Rotten => {
                self.cursor.rotten = self.cursor.rotten.saturating_add(1);
                0
            }
        };
        self.cursor.bytes = self.cursor.bytes.saturating_add(bytes);
        count(&self.engine.counters.bytes_scrubbed, bytes);
        bytes
    }

    fn go_on_with(&mut self, next: Option<ScrubStage>) {
        match next {
            Some(stage) => self.cursor = ScrubCursor { stage, after: None, ..self.cursor },
            None => {
                self.unreadable.end_round();
                let ScrubCursor { bytes, rotten, .. } = self.cursor;
                count(&self.engine.counters.scrub_rounds, 1);
                self.engine.events.emit(Event::Scrubbed { bytes, rotten });
                self.cursor = ScrubCursor::default();
            }
        }
    }

    /// How long to wait after so many bytes, so that all of what is held takes one period; the longest pause at the
    /// end of a round.
    async fn pause_after(&self, bytes: Option<u64>) -> Duration {
        let longest = LONGEST_PAUSE.min(self.period / LEAST_LOOKS);
        let used = self.node.storage().capacity().await.map_or(0, |capacity| capacity.used);
        bytes.map_or(longest, |bytes| share(self.period, bytes, used).min(longest))
    }

    /// Waits, and meanwhile looks at what failed when somebody asked for it, or at an earlier look.
    async fn rest(&mut self, until: Instant) {
        // One at least, however much else there is to look at; more while there is time. A disk may take seconds to fail.
        self.try_again().await;
        loop {
            let now = self.engine.runtime.now();
            let next = self.unreadable.next().map_or(until, |next| next.min(until));
            let timer = self.engine.runtime.sleep_until(next.max(now));
            match future::select(pin!(self.suspects.recv()), timer).await {
                // Those that cannot be read have a time of their own.
                Either::Left((Ok(shard), _)) if self.unreadable.knows(&shard) => {}
                Either::Left((Ok(shard), _)) => self.recheck(shard).await,
                Either::Left((Err(_), timer)) => timer.await,
                Either::Right(_) if self.engine.runtime.now() >= until => return,
                Either::Right(_) => self.try_again().await,
            }
            if self.engine.runtime.now() >= until {
                return;
            }
        }
    }

    async fn try_again(&mut self) {
        if let Some(shard) = self.unreadable.due(self.engine.runtime.now()) {
            self.recheck(shard).await;
        }
    }

    async fn recheck(&mut self, shard: ShardId) {
        if let Err(error) = self.check(shard, true).await {
            self.unreadable.put_off(&shard, self.engine.runtime.now());
            tracing::warn!(%error, "a shard that had failed was not set aside");
        }
    }
}

/// The part of a period that so many bytes of all take.
fn share(period: Duration, bytes: u64, all: u64) -> Duration {
    let nanos = period.as_nanos().saturating_mul(u128::from(bytes)) / u128::from(all.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_take_one_period() {
        assert_eq!(share(DEFAULT_PERIOD, 1 << 20, 1 << 40), DEFAULT_PERIOD / (1 << 20));
        assert_eq!(share(DEFAULT_PERIOD, 0, 0), Duration::ZERO);
        assert_eq!(share(DEFAULT_PERIOD, u64::MAX, 1), DEFAULT_PERIOD);
    }
}
