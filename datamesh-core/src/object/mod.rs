//! The data path: segments in, shards out, and back.

pub(crate) mod budget;
pub(crate) mod buffer;
pub(crate) mod extent_read;
mod extent_write;
pub(crate) mod gather;
pub(crate) mod get;
mod health;
pub(crate) mod manifest;
mod put;
mod reader;
mod remove;
pub(crate) mod segment;
mod source;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::object::budget::ByteBudget;
use crate::object::buffer::BufferPool;
use crate::observe::{Counters, EventHub};
use crate::peers::Peers;
use crate::placement::{Plan, plan};
use crate::planted::{Bug, is_active};
use crate::ports::{CryptoSuite, ErasureCode, Files, Redundancy, Runtime};

pub(crate) use get::OpenObject;
pub use get::Stat;
pub use health::{Explanation, ExtentHealth, Health, ShardPlace};
pub(crate) use health::{explain, health};
pub use put::{Progress, Receipt};
pub(crate) use put::{PutOptions, put};
pub use reader::{ObjectReader, ObjectStream};
pub use remove::Removal;
pub(crate) use remove::remove;
pub use source::Source;

/// A callback that is told of progress.
pub(crate) type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// For how long a holder may take a shard or commit before the call is given up.
pub(crate) const STORE_LIMIT: Duration = Duration::from_secs(60);

/// For how long a holder may take to answer a question that needs no bulk.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(10);

/// For how long a holder may take to bring a shard.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(30);

/// Everything that the data path works with.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) peers: Arc<Peers>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) code: Arc<dyn ErasureCode>,
    pub(crate) suite: Arc<dyn CryptoSuite>,
    pub(crate) files: Option<Arc<dyn Files>>,
    pub(crate) redundancy: Redundancy,
    pub(crate) segment_len: u32,
    /// A put that takes longer is given up: its first extents may have been.
    pub(crate) put_limit: Duration,
    pub(crate) budget: ByteBudget,
    pub(crate) buffers: BufferPool,
    pub(crate) events: EventHub,
    pub(crate) counters: Arc<Counters>,
}

impl Engine {
    /// How many segments of so many bytes one operation keeps under way.
    ///
    /// Enough to keep every CPU thread and every holder busy; no more than a quarter of the budget, so that a few
    /// operations run side by side.
    pub(crate) fn window(&self, segment_bytes: usize) -> usize {
        let limit = if is_active(Bug::IgnoreBudget) { usize::MAX } else { self.budget.limit() };
        let by_budget = limit / 4 / segment_bytes.max(1);
        by_budget.clamp(1, 4 * self.runtime.parallelism().max(1) + 4)
    }

    /// Where an object would go if it were put now: drawn with random keys, over the live members.
    pub(crate) fn plan(&self, redundancy: Redundancy) -> Result<Plan> {
        if !self.code.supports(redundancy) {
            let text = format!("erasure code {} cannot do {redundancy}; choose another", self.code.id().0);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let (mut extent, mut manifest) = ([0; 32], [0; 32]);
        self.runtime.fill_random(&mut extent)?;
        self.runtime.fill_random(&mut manifest)?;
        plan(&extent, &manifest, &self.peers.live_members(), redundancy).ok_or_else(|| {
            let text = "no live member can hold data; start the nodes that offer capacity";
            Error::new(ErrorKind::NotStored, text)
        })
    }
}
