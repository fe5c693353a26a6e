//! The data path: segments in, shards out, and back.

pub(crate) mod budget;
pub(crate) mod buffer;
mod explain;
pub(crate) mod extent_read;
mod extent_write;
pub(crate) mod flow;
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
use crate::object::flow::Flow;
use crate::observe::{Counters, EventHub};
use crate::peers::Peers;
use crate::placement::{Plan, plan};
use crate::planted::{Bug, is_active};
use crate::ports::{CryptoSuite, ErasureCode, Files, Redundancy, Runtime};

pub(crate) use explain::explain;
pub use explain::{Explanation, PlaceReason, ShardPlace};
pub(crate) use get::OpenObject;
pub use get::Stat;
pub(crate) use health::health;
pub use health::{ExtentHealth, Health};
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
    /// The segments that are being put.
    pub(crate) puts: Flow,
    /// The segments that are being got.
    pub(crate) gets: Flow,
    pub(crate) buffers: BufferPool,
    pub(crate) events: EventHub,
    pub(crate) counters: Arc<Counters>,
}

/// How many segments the memory bears at a time: a quarter of the budget, so that puts and gets run side by side, and
/// what readers have taken and not used yet leaves room for both.
pub(crate) fn segments_of(limit: usize, segment_bytes: usize) -> usize {
    let limit = if is_active(Bug::IgnoreBudget) { usize::MAX } else { limit };
    limit / 4 / segment_bytes.max(1)
}

impl Engine {
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
