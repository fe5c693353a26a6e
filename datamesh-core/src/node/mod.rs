//! What a node does when another asks: stage, commit, read, describe, remove.
//!
//! A [`Node`] answers requests of peers and, by the same call, those of its own process. Nothing is
//! acknowledged before the storage's `commit` returned, and everything that came from outside is checked
//! before it is written.

mod commit;
mod names;
mod prove;
mod read;
mod release;
mod remove;
mod scrub;
mod sight;
mod staging;
mod survey;
mod sweep;
#[cfg(test)]
mod tests;
mod tombstones;
mod written;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{MAX_REFUSAL_TEXT_LEN, Refusal, RemovalHash, Reply, Request, Tombstone};
use crate::gate::{Gate, Pass};
use crate::id::{ExtentId, NodeId, ShardId};
use crate::ports::{DynStorage, Runtime, Table};

use release::Promises;
use sight::Sight;
use staging::Staging;

pub(crate) use scrub::Checked;
pub use sweep::STAGED_LIFETIME;
pub(crate) use written::Written;

/// The most shards that may be staged and not committed: 65,536 entries of about 120 bytes take 11 MiB with the slack of
/// the map, and 8 MiB more where several nodes have staged all of them.
pub const MAX_STAGED_SHARDS: usize = 1 << 16;

/// Locks that keep two commits of one extent apart; more of them let more extents pass at a time.
const EXTENT_LOCKS: usize = 16;

/// What happens on a node unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A shard in this node's own store failed its check; it was not given out.
    CorruptShard {
        /// The shard.
        shard: ShardId,
    },
    /// The disk did not give a shard that somebody asked for.
    UnreadableShard {
        /// The shard.
        shard: ShardId,
    },
    /// A shard that failed its check or could not be read was given up, and counts as missing from now on.
    SetAside {
        /// The shard.
        shard: ShardId,
    },
}

/// Takes events; it is called on the task that met them and must not block.
pub type EventSink = Arc<dyn Fn(NodeEvent) + Send + Sync>;

/// How a [`Node`] works.
#[derive(Clone)]
#[non_exhaustive]
pub struct NodeOptions {
    /// The most bytes that may be staged and not committed; 1 GiB by default.
    pub staged_bytes: u64,
    /// Where events go; nowhere by default.
    pub events: Option<EventSink>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { staged_bytes: 1 << 30, events: None }
    }
}

impl NodeOptions {
    /// Sets the most bytes that may be staged and not committed.
    #[must_use]
    pub fn with_staged_bytes(mut self, bytes: u64) -> Self {
        self.staged_bytes = bytes;
        self
    }

    /// Sets where events go.
    #[must_use]
    pub fn with_events(mut self, sink: EventSink) -> Self {
        self.events = Some(sink);
        self
    }
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeOptions {{ staged_bytes: {}, events: {} }}", self.staged_bytes, self.events.is_some())
    }
}

/// A reply with its body.
type Answer = (Reply, Bytes);

/// One node's service over its store.
///
/// Staging and committing share a lock that removing and sweeping take alone: a shard that a commit found
/// is still there when the commit is done.
pub struct Node {
    storage: Arc<dyn DynStorage>,
    runtime: Arc<dyn Runtime>,
    options: NodeOptions,
    staging: Mutex<Staging>,
    gate: Gate,
    extents: [Gate; EXTENT_LOCKS],
    promises: Mutex<Promises>,
    written: written::Log,
    /// Shards that were set aside since this node was opened.
    set_asides: AtomicU64,
    sight: Mutex<Sight>,
    /// Holds a token when a shard could not be read.
    doubts: (Sender<()>, Receiver<()>),
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("storage", &self.storage).field("options", &self.options).finish()
    }
}

impl Node {
    /// A node over this store.
    ///
    /// Shards that were staged before the store was last closed are orphans now: run
    /// [`sweep_orphans`](Self::sweep_orphans) in the background.
    ///
    /// # Errors
    /// Those of [`Storage::capacity`](crate::ports::Storage::capacity), when the store cannot be used.
    pub async fn open(
        storage: Arc<dyn DynStorage>,
        runtime: Arc<dyn Runtime>,
        options: NodeOptions,
    ) -> Result<Arc<Self>> {
        storage.capacity().await?;
        let staging = Mutex::new(Staging::new(MAX_STAGED_SHARDS, options.staged_bytes));
        let extents = std::array::from_fn(|_| Gate::default());
        let gate = Gate::default();
        let promises = Mutex::new(Promises::new(&*storage, runtime.now()).await);
        let written = written::Log::default();
        let set_asides = AtomicU64::default();
        let (sight, doubts) = (Mutex::default(), async_channel::bounded(1));
        Ok(Arc::new(Self {
            storage,
            runtime,
            options,
            staging,
            gate,
            extents,
            promises,
            written,
            set_asides,
            sight,
            doubts,
        }))
    }

    /// What was written here since this was last asked.
    pub(crate) fn take_written(&self) -> Written {
        self.written.take()
    }

    /// Waits until something is written.
    pub(crate) async fn is_written(&self) {
        // It is closed with this node, and not before.
        let _ = self.written.news().recv().await;
    }

    /// Answers one request of a peer that the transport proved, or of this process.
    ///
    /// It never fails: what went wrong is a [`Reply::Failed`]. The caller bounds how many run at a time.
    /// `Request::Members` is the mesh's to answer and is refused here.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the store consistent; what was asked for has happened or has not.
    pub async fn handle(&self, from: NodeId, request: Request, body: Bytes) -> (Reply, Bytes) {
        let name = request.name();
        match self.answer(from, request, body).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(request = name, from = %from.fmt_short(), %error, "refused");
                (refuse(&error), Bytes::new())
            }
        }
    }

    async fn answer(&self, from: NodeId, request: Request, body: Bytes) -> Result<Answer> {
        let reply = match request {
            // As many bytes as came, so that whoever asks can measure the way between.
            Request::Ping => return Ok((Reply::Done, body)),
            Request::Stage { shard } => self.stage(from, shard, body).await?,
            Request::Unstage { shards } => self.unstage(from, shards).await?,
            Request::Commit { indexes, .. } => self.commit_extent(indexes, body).await?,
            Request::PutManifest { .. } => self.put_manifest(body).await?,
            Request::ReadShard { shard } => return self.read_shard(shard).await,
            Request::ReadLayout { extent } => return self.read_layout(extent).await,
            Request::ReadManifest { object } => return self.read_manifest(object).await,
            Request::Describe { extents } => self.describe(extents).await?,
            Request::RemoveObject { object, secret } => self.remove_object(object, &secret).await?,
            Request::RemoveExtents { extents, secret } => self.remove_extents(extents, &secret).await?,
            Request::Recheck { shard } => self.recheck(shard).await?,
            Request::Prove { shard, nonce } => return self.prove(shard, nonce).await,
            Request::Named { extents } => self.named(extents).await?,
            Request::Removals { removals } => self.note_removals(removals).await?,
            Request::Survey { extents, objects } => return self.survey(extents, objects).await,
            Request::Keep { extents, indexes, objects } => {
                return self.keep(from, extents, indexes, objects).await;
            }
            Request::Members { .. }
            | Request::Forget { .. }
            | Request::Epoch { .. }
            | Request::Keys { .. } => {
                return Err(Error::new(ErrorKind::InvalidInput, "members are not kept by a node's store"));
            }
        };
        Ok((reply, Bytes::new()))
    }

    /// The shards that are staged and not committed, and their bytes.
    pub fn staged(&self) -> (usize, u64) {
        self.staging().totals()
    }

    /// The store of this node.
    pub fn storage(&self) -> &Arc<dyn DynStorage> {
        &self.storage
    }

    fn staging(&self) -> std::sync::MutexGuard<'_, Staging> {
        // Each change of the map is whole before anything can panic, so that it stays usable.
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps changes of one extent's record apart.
    async fn lock_extent(&self, extent: ExtentId) -> Option<Pass<'_>> {
        let [first, ..] = extent.as_bytes();
        match self.extents.get(usize::from(*first) % EXTENT_LOCKS) {
            Some(gate) => Some(gate.alone().await),
            None => None,
        }
    }

    fn emit(&self, event: NodeEvent) {
        tracing::warn!(?event, "the store needs care");
        if let Some(sink) = &self.options.events {
            sink(event);
        }
    }

    /// What is left of an object or extent that was removed here.
    async fn tombstone(&self, id: &[u8; 32]) -> Result<Option<Tombstone>> {
        let value = self.storage.read_record(Table::Tombstones, Bytes::copy_from_slice(id)).await?;
        value.map(|value| Tombstone::decode(&value)).transpose()
    }

    /// Whether what has this removal hash was removed here.
    async fn is_removed(&self, id: &[u8; 32], removal: &RemovalHash) -> Result<bool> {
        Ok(self.tombstone(id).await?.is_some_and(|tombstone| tombstone.secret.hash() == *removal))
    }

    /// Whether any extent but `except` uses a shard.
    async fn is_used(&self, shard: &ShardId, except: Option<&ExtentId>) -> Result<bool> {
        let prefix = Bytes::copy_from_slice(shard.as_bytes());
        let page = self.storage.scan_records(Table::ShardUses, prefix, None, 2).await?;
        let own = except.map(|extent| use_key(shard, extent));
        Ok(page.records.iter().any(|(key, _)| Some(key) != own.as_ref()))
    }
}

/// The key of a use: the shard's id, then the extent's.
fn use_key(shard: &ShardId, extent: &ExtentId) -> Bytes {
    [*shard.as_bytes(), *extent.as_bytes()].concat().into()
}

/// The key of an object's or extent's record.
fn id_key(id: &[u8; 32]) -> Bytes {
    Bytes::copy_from_slice(id)
}

/// What a peer is told of an error. Of failures of the store it learns only the kind: their text may name
/// files of this machine.
fn refuse(error: &Error) -> Reply {
    let refusal = match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::LimitExceeded => Refusal::Invalid,
        ErrorKind::AccessDenied => Refusal::Denied,
        ErrorKind::StorageFull => Refusal::Full,
        ErrorKind::Busy => Refusal::Busy,
        ErrorKind::Corrupt => Refusal::Corrupt,
        ErrorKind::Unsupported => Refusal::Unsupported,
        ErrorKind::Poisoned => Refusal::Poisoned,
        _ => Refusal::Internal,
    };
    let mut text = match refusal {
        Refusal::Internal | Refusal::Poisoned => format!("the store of this node failed: {:?}", error.kind()),
        _ => error.to_string(),
    };
    while text.len() > MAX_REFUSAL_TEXT_LEN {
        text.pop();
    }
    Reply::Failed { refusal, text }
}

/// What a peer sent cannot be read: its fault, not corruption of this node's store.
fn sent_badly(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => error,
        _ => Error::new(ErrorKind::InvalidInput, "what was sent cannot be read").with_source(error),
    }
}
