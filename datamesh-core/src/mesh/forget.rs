//! Members that are gone for good are forgotten, when somebody says so.
//!
//! A node that never comes back stays a member: nobody can know that it does not, so what only it may have is
//! unavailable and never not found, and what was removed is remembered for it. A person who knows says it once, on any
//! node. That spreads by gossip with what the node was last known by. A member to which it is not gone keeps it, and
//! tells it if it is connected; and a node that hears that it was forgotten says something newer, and is a member again.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Refusal, Reply, Request, SignedRecord, Work};
use crate::id::NodeId;
use crate::mesh::membership::RECORDS_OF_MESSAGE;
use crate::mesh::{Core, Mesh};
use crate::object::ASK_LIMIT;
use crate::observe::Event;
use crate::peers::{Farewell, closed, unexpected};
use crate::ports::{Batch, Table};

/// The peers that are being told just now whom this node has forgotten: each of them once at a time.
pub(super) type Told = Mutex<BTreeSet<NodeId>>;

impl Mesh {
    /// Forgets a member that is gone for good, here and on all others: it is no member any more, nobody dials it or
    /// asks it, and what only it had is not found instead of unavailable.
    ///
    /// What it held was made anew when it was gone; [`drain`](Self::drain) is for a node that still runs. One that
    /// comes back all the same is a member again, with what it has, and is told of what was removed in the 30 days
    /// before; what was removed earlier may come back with it.
    ///
    /// Done when this node has forgotten it for good and told some of those that are connected, or, on a client, when
    /// members have. The others hear of it by gossip. Calling it again does no harm.
    ///
    /// # Errors
    /// `Busy` while the node is here, or not silent for long enough to be [`Gone`](crate::NodeState::Gone);
    /// `NotFound` for one that was never a member; `InvalidInput` for this node; on a client `Unavailable` where nobody
    /// is connected, and `AccessDenied` in a mesh with admission keys, which can revoke nodes; the store's own.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop it.
    pub async fn forget(&self, node: NodeId) -> Result<()> {
        let core = Arc::clone(self.core());
        let (done, result) = oneshot::channel();
        let work = async move { drop(done.send(core.forget(node).await)) };
        self.core().tasks.start_to_end(work)?;
        let result = result.await.unwrap_or_else(|_| Err(closed()));
        result.map_err(|error| error.with_operation("forget").with_subject(node))
    }
}

impl Core {
    async fn forget(self: &Arc<Self>, node: NodeId) -> Result<()> {
        let refuse = |kind, text: &str| Err(Error::new(kind, text.to_owned()));
        let peers = &self.engine.peers;
        if node == peers.local() {
            return refuse(ErrorKind::InvalidInput, "this is the node itself; drain it, then shut it down");
        }
        let Some(record) = peers.record(&node).or_else(|| peers.forgotten(&node)) else {
            return refuse(ErrorKind::NotFound, "no member has this id; `nodes` names them");
        };
        if self.own.is_client() {
            return self.ask_to_forget(record).await;
        }
        let records = match peers.forget(record, false) {
            Farewell::Forgotten(record) => {
                let records = [record];
                self.note_forgotten(&records);
                records
            }
            Farewell::Already(record) => [record],
            Farewell::Present | Farewell::Unknown => {
                let state = peers.node_state(&node);
                let text = format!("the node is {state:?} and not gone; drain it, or wait until it is gone");
                return refuse(ErrorKind::Busy, &text);
            }
        };
        // Also again: it may not have been kept, or told.
        self.keep_forgotten(&records).await?;
        self.tell_forgotten(&records, self.some_connected()).await;
        Ok(())
    }

    /// Lets the members forget, since a client does not see anybody go. One that knows better counts for more than the
    /// others.
    async fn ask_to_forget(self: &Arc<Self>, record: SignedRecord) -> Result<()> {
        let nobody = Error::new(ErrorKind::Unavailable, "no member is connected that could forget it");
        let answers = self.tell_forgotten(std::slice::from_ref(&record), self.connected()).await;
        let (mut is_forgotten, mut failed) = (false, nobody);
        for answer in answers {
            match answer {
                Ok(()) => is_forgotten = true,
                Err(error) if error.kind() == ErrorKind::Busy => return Err(error),
                Err(error) => failed = error,
            }
        }
        if !is_forgotten {
            return Err(failed);
        }
        match self.engine.peers.forget(record, true) {
            Farewell::Forgotten(record) => {
                self.note_forgotten(std::slice::from_ref(&record));
                self.keep_forgotten(&[record]).await
            }
            _ => Ok(()),
        }
    }

    /// Acts on it that these are forgotten now.
    fn note_forgotten(&self, records: &[SignedRecord]) {
        self.engine.peers.update_routes();
        self.care.wake();
        for node in records.iter().map(|record| record.record().node) {
            tracing::info!(node = %node.fmt_short(), "forgotten: it is gone for good");
            self.engine.events.emit(Event::Forgotten(node));
        }
    }

    async fn keep_forgotten(&self, records: &[SignedRecord]) -> Result<()> {
        let mut batch = Batch::new();
        for record in records {
            let node = record.record().node;
            batch = batch.put(Table::Work, Work::Forgotten(node).key(), record.encode());
            batch = batch.delete(Table::Members, node.as_bytes().to_vec());
        }
        self.node.storage().commit(batch).await
    }

    /// Tells these nodes; each says whether it has forgotten them.
    async fn tell_forgotten(&self, records: &[SignedRecord], nodes: Vec<NodeId>) -> Vec<Result<()>> {
        let encoded: Vec<Bytes> = records.iter().map(SignedRecord::encode).take(RECORDS_OF_MESSAGE).collect();
        let tell = |node| {
            let request = Request::Forget { records: encoded.clone() };
            async move {
                match self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await? {
                    // Who does not know them has nothing to forget.
                    (Reply::Done | Reply::Absent, _) => Ok(()),
                    (other, _) => Err(unexpected(&other, node)),
                }
            }
        };
        future::join_all(nodes.into_iter().map(tell)).await
    }

    /// Tells a node in the background that these were forgotten, unless it is being told something already.
    pub(super) fn start_telling(self: &Arc<Self>, node: NodeId, records: Vec<SignedRecord>) -> Result<()> {
        if records.is_empty() || !self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(node) {
            return Ok(());
        }
        let core = Arc::clone(self);
        self.tasks.start(async move {
            core.tell_forgotten(&records, vec![node]).await;
            core.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        })
    }

    /// Answers another node's: forgets who is gone to this node too, keeps that, and passes it on.
    pub(super) async fn answer_forget(self: &Arc<Self>, from: NodeId, records: &[Bytes]) -> Reply {
        let failed = |refusal, text: &str| Reply::Failed { refusal, text: text.to_owned() };
        if !self.engine.peers.is_admitted(&from) {
            let text =
                "in a mesh with admission keys only a node that is admitted has others forget one; revoke it";
            return failed(Refusal::Denied, text);
        }
        let records: Result<Vec<SignedRecord>> =
            records.iter().map(|bytes| SignedRecord::decode(bytes, &*self.engine.suite)).collect();
        let records = match records {
            Ok(records) => records,
            Err(error) => return failed(Refusal::Invalid, &error.to_string()),
        };
        match self.take_forgotten(records).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!(%error, "who was forgotten could not be kept");
                failed(Refusal::Internal, "who was forgotten could not be kept")
            }
        }
    }

    async fn take_forgotten(self: &Arc<Self>, records: Vec<SignedRecord>) -> Result<Reply> {
        let (mut forgotten, mut present, mut is_known) = (Vec::new(), Vec::new(), false);
        for record in records {
            match self.engine.peers.forget(record.clone(), false) {
                Farewell::Forgotten(newest) => forgotten.push(newest),
                Farewell::Already(_) => is_known = true,
                Farewell::Present => present.push(record),
                Farewell::Unknown => {}
            }
        }
        for record in &present {
            let node = record.record().node;
            if node == self.engine.peers.local() {
                // The next round of gossip says something newer.
                self.own.forgotten.fetch_max(record.record().sequence, Ordering::Relaxed);
            } else if self.engine.peers.is_connected(&node) {
                self.start_telling(node, vec![record.clone()])?;
            }
        }
        is_known |= !forgotten.is_empty();
        if !forgotten.is_empty() {
            self.note_forgotten(&forgotten);
            let kept = self.keep_forgotten(&forgotten).await;
            let core = Arc::clone(self);
            self.tasks.start(async move {
                core.tell_forgotten(&forgotten, core.some_connected()).await;
            })?;
            kept?;
        }
        if !present.is_empty() {
            let text = "a node of these is not gone; wait until it is, or drain it".to_owned();
            return Ok(Reply::Failed { refusal: Refusal::Busy, text });
        }
        Ok(if is_known { Reply::Done } else { Reply::Absent })
    }
}
