//! The keys of the mesh on a node: kept, changed, and told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyName, MeshKey, MeshKeys, Refusal, Reply, Request};
use crate::id::NodeId;
use crate::mesh::{Core, Mesh};
use crate::object::ASK_LIMIT;
use crate::observe::Event;
use crate::peers::{closed, unexpected};
use crate::ports::{Batch, DynStorage, Table, Timestamp};
use crate::ring::KeyRing;

/// Under this name a node keeps the keys of its mesh, where they do not follow from the first key.
const KEYS: &[u8] = b"mesh keys";

/// The shortest overlap: those who are connected hear of the new key in it.
const LEAST_OVERLAP: Duration = Duration::from_secs(1);

/// The longest overlap: in it a change keeps nobody out who has the old key.
const MOST_OVERLAP: Duration = Duration::from_secs(366 * 24 * 3600);

impl Mesh {
    /// Changes the key of the mesh: makes a new one, keeps it, takes it into use, and tells the members, who tell
    /// others.
    ///
    /// For the time of `overlap`, 1 s to 366 days, the old key is accepted as well, so nothing is interrupted: nodes
    /// prove the new key on the connections that they have, and one that was away learns it when it comes back. After
    /// that the old key opens nothing, also where a clock goes back, and connections that were proved with nothing else
    /// are closed. So choose an overlap longer than nodes are away and than clocks differ; one that comes later needs a
    /// new ticket, with which it keeps its data. Tickets and invitations that were made before end with the overlap.
    ///
    /// Keys before the old one are accepted for as long as they were to be, but no longer than that one: up to seven
    /// earlier keys in all. So a change with a short overlap ends all of them early, if one has leaked.
    ///
    /// It does not undo what the old key was used for: data that somebody could read stay readable to them, and in a
    /// mesh without admission keys whoever has the old key can connect until the overlap ends, and is told the new one.
    /// In a mesh with admission keys the new key is told to nodes only whose certificate counts now, and only they can
    /// change it; so revoke first, then change the key. Clients there need a new ticket.
    ///
    /// Of two changes at once one counts in the end, for all; a ticket of the other ends with the overlap.
    ///
    /// Returns the last moment at which the old key is accepted, by the clock of each node.
    ///
    /// # Errors
    /// `InvalidInput` for a mesh that has no mesh key, another overlap, or a clock that is behind those of the members
    /// by more than half of it; `AccessDenied` for a node that is not admitted; `Busy` where seven earlier keys are
    /// accepted still and the overlap is longer than a minute; `Unavailable` while no other member is connected; the
    /// store's own. Nothing is changed then.
    ///
    /// `OutcomeUnknown` where the key was changed on this node and no member has answered that it knows the new one.
    /// This node goes on telling it. Should the overlap pass before a member hears of it, this node is alone with its
    /// key, and rejoins with a new ticket of the others, whose key is taken in place of what it keeps.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the change.
    pub async fn rotate_key(&self, overlap: Duration) -> Result<Timestamp> {
        let core = Arc::clone(self.core());
        let (done, result) = oneshot::channel();
        let work = async move { drop(done.send(core.rotate_key(overlap).await)) };
        self.core().tasks.start_to_end(work)?;
        let result = result.await.unwrap_or_else(|_| Err(closed()));
        result.map_err(|error| error.with_operation("rotate key"))
    }
}

impl KeyRing {
    /// What a node keeps of its mesh's keys: nothing before they were changed, or it joined.
    ///
    /// # Errors
    /// The store's own; `Corrupt` or `Unsupported` for what is kept there.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn kept(storage: &dyn DynStorage) -> Result<Option<MeshKeys>> {
        let kept = storage.read_record(Table::Node, Bytes::from_static(KEYS)).await?;
        kept.map(|bytes| MeshKeys::decode(&bytes)).transpose()
    }

    /// Keeps the keys, unless they are there already, or are the first of a mesh.
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Cancel safety
    /// Safe to drop: they are then kept, or not.
    pub async fn keep(&self, storage: &dyn DynStorage) -> Result<()> {
        let (keys, kept) = (self.keys(), Self::kept(storage).await?);
        let is_needed = kept.as_ref() != Some(&keys) && !(kept.is_none() && keys.are_first());
        if is_needed { keep(storage, &keys).await } else { Ok(()) }
    }
}

async fn keep(storage: &dyn DynStorage, keys: &MeshKeys) -> Result<()> {
    storage.commit(Batch::new().put(Table::Node, KEYS, keys.encode())).await
}

impl Core {
    /// Reads what was kept, and keeps what was told now.
    pub(super) async fn load_keys(&self) -> Result<()> {
        let (Some(ring), storage) = (&self.keys, &**self.node.storage()) else { return Ok(()) };
        if let Some(kept) = KeyRing::kept(storage).await? {
            if kept.network != ring.network() {
                let text =
                    "what is stored belongs to another mesh; use another store, or the key of that mesh";
                return Err(Error::new(ErrorKind::AccessDenied, text));
            }
            ring.replace(kept);
        }
        ring.latest(self.engine.runtime.wall_time());
        ring.keep(storage).await
    }

    async fn rotate_key(self: &Arc<Self>, overlap: Duration) -> Result<Timestamp> {
        let refuse = |kind, text: &str| Err(Error::new(kind, text.to_owned()));
        let Some(ring) = &self.keys else {
            return refuse(ErrorKind::InvalidInput, "this mesh has no mesh key that could be changed");
        };
        if !(LEAST_OVERLAP..=MOST_OVERLAP).contains(&overlap) {
            let text = format!("the overlap is 1 s to 366 days, got {} s", overlap.as_secs_f64());
            return refuse(ErrorKind::InvalidInput, &text);
        }
        if !self.engine.peers.is_admitted(&self.engine.peers.local()) {
            let text = "in a mesh with admission keys only a node that is admitted changes the mesh key; ask one of those";
            return refuse(ErrorKind::AccessDenied, text);
        }
        let is_alone = self.engine.peers.other_count() == 0;
        let (members, _) = self.who_may_know();
        if members.is_empty() && !is_alone {
            let text =
                "no other member is connected, and none would learn the new key; try again when one is";
            return refuse(ErrorKind::Unavailable, text);
        }
        let (keys, until) = self.make_key(ring, overlap, &members).await?;
        if self.tell_keys(keys).await == 0 && !is_alone {
            let text = "the mesh key has changed on this node, and no member has answered that it knows the new one; keep \
                        this node running until one is connected, or rejoin with a ticket when the overlap has passed";
            return refuse(ErrorKind::OutcomeUnknown, text);
        }
        Ok(until)
    }

    async fn make_key(
        &self,
        ring: &KeyRing,
        overlap: Duration,
        members: &[NodeId],
    ) -> Result<(MeshKeys, Timestamp)> {
        let _alone = self.changing_keys.alone().await;
        let runtime = &self.engine.runtime;
        let (wall, overlap) = (runtime.wall_time(), u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX));
        let now = ring.latest(wall);
        let records = members.iter().filter_map(|node| self.engine.peers.record(node));
        let sequences = records.map(|record| record.record().sequence).collect();
        is_clock_good(wall, now.max(said_by_most(sequences)), overlap)?;
        let until = Timestamp(now.0.saturating_add(overlap));
        let keys = ring.keys().next(MeshKey::from_bytes(runtime.random()?), until, now)?;
        // Nobody hears of a key that this node could forget.
        keep(&**self.node.storage(), &keys).await?;
        self.use_keys(ring, &keys);
        Ok((keys, until))
    }

    /// Has this node accept no more keys that have ended, and keeps what counts, where that failed before.
    pub(super) async fn keep_keys(&self) -> Result<()> {
        let Some(ring) = self.keys.as_ref().filter(|ring| !ring.keys().are_first()) else { return Ok(()) };
        let _alone = self.changing_keys.alone().await;
        ring.latest(self.engine.runtime.wall_time());
        ring.keep(&**self.node.storage()).await
    }

    /// Takes keys in that another node told, if they are newer.
    async fn take_keys(self: &Arc<Self>, ring: &KeyRing, told: &MeshKeys) -> Result<()> {
        let _alone = self.changing_keys.alone().await;
        let now = ring.latest(self.engine.runtime.wall_time());
        let Some(keys) = ring.keys().taking(told, now)? else { return Ok(()) };
        // They count also where a full disk does not keep them.
        if let Err(error) = keep(&**self.node.storage(), &keys).await {
            tracing::warn!(%error, "the new mesh key could not be kept; after a restart it must be learned again");
        }
        if !self.use_keys(ring, &keys) {
            return Ok(());
        }
        let core = Arc::clone(self);
        self.tasks.start(async move {
            core.tell_keys(keys).await;
        })
    }

    /// Takes keys into use, and says whether the key is another one now.
    fn use_keys(&self, ring: &KeyRing, keys: &MeshKeys) -> bool {
        let is_another = keys.rank() > ring.keys().rank();
        let is_changed = ring.replace(keys.clone()) && is_another;
        if is_changed {
            let generation = keys.generation;
            tracing::info!(generation, "the mesh key has changed");
            self.engine.events.emit(Event::KeyChanged { generation });
        }
        is_changed
    }

    /// The members that are connected and may know the keys, and who else may: clients, where there are no admission
    /// keys.
    fn who_may_know(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let peers = &self.engine.peers;
        let mut nodes = self.connected();
        nodes.retain(|node| peers.is_admitted(node));
        nodes.into_iter().partition(|node| peers.is_member(node))
    }

    /// Tells some of those who may know, who tell others: how many members have answered. Whoever is not reached hears
    /// of it by gossip.
    async fn tell_keys(&self, keys: MeshKeys) -> usize {
        let (generation, name) = keys.rank();
        let tell = |node| {
            let request = Request::Keys { generation, name };
            self.engine.peers.call(node, request, keys.encode(), ASK_LIMIT)
        };
        let tell_some = |nodes| future::join_all(self.some_of(nodes).into_iter().map(tell));
        let (members, others) = self.who_may_know();
        let (answers, _) = future::join(tell_some(members), tell_some(others)).await;
        answers.iter().filter(|answer| matches!(answer, Ok((Reply::Done, _)))).count()
    }

    /// The keys without those that have ended by now.
    fn keys_now(&self, ring: &KeyRing) -> MeshKeys {
        ring.latest(self.engine.runtime.wall_time());
        ring.keys()
    }

    /// Answers another node's: takes its keys in where it sent some, and gives newer ones where there are.
    pub(super) async fn answer_keys(
        self: &Arc<Self>,
        from: NodeId,
        known: (u64, KeyName),
        body: Bytes,
    ) -> (Reply, Bytes) {
        let Some(ring) = &self.keys else { return (Reply::Done, Bytes::new()) };
        let refuse = |refusal, text: String| (Reply::Failed { refusal, text }, Bytes::new());
        if !self.engine.peers.is_admitted(&from) {
            let text = "the mesh key is told to nodes whose certificate counts, and to no others; ask for a new ticket";
            return refuse(Refusal::Denied, text.to_owned());
        }
        if !body.is_empty() {
            let taken = match MeshKeys::decode(&body) {
                Ok(keys) => self.take_keys(ring, &keys).await,
                Err(error) => return refuse(Refusal::Invalid, error.to_string()),
            };
            match taken {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    return refuse(Refusal::Invalid, error.to_string());
                }
                Err(error) => return refuse(Refusal::Internal, error.to_string()),
            }
        }
        let own = self.keys_now(ring);
        (Reply::Done, if own.rank() > known { own.encode() } else { Bytes::new() })
    }

    /// Compares keys with a node: tells it those of this one, and hears newer ones.
    pub(super) async fn exchange_keys(self: &Arc<Self>, node: NodeId) -> Result<()> {
        let Some(ring) = self.keys.as_ref().filter(|_| self.engine.peers.is_admitted(&node)) else {
            return Ok(());
        };
        let keys = self.keys_now(ring);
        let (mut generation, name) = keys.rank();
        if keys.earlier.is_none() {
            // Learned from a ticket: the keys before it are not known, and others may know them.
            generation = generation.saturating_sub(1);
        }
        let request = Request::Keys { generation, name };
        let body = if keys.generation > 0 { keys.encode() } else { Bytes::new() };
        match self.engine.peers.call(node, request, body, ASK_LIMIT).await? {
            (Reply::Done, body) if body.is_empty() => Ok(()),
            (Reply::Done, body) => self.take_keys(ring, &MeshKeys::decode(&body)?).await,
            // A node of an earlier release, and one that this node is no member for.
            (Reply::Failed { refusal: Refusal::Unsupported | Refusal::Denied, .. }, _) => Ok(()),
            (other, _) => Err(unexpected(&other, node)),
        }
    }
}

/// The time that most members' records say it was at least: their sequences are wall times in milliseconds, and a few
/// that are far ahead say nothing. 0 where there are none.
fn said_by_most(mut sequences: Vec<u64>) -> Timestamp {
    sequences.sort_unstable();
    let middle = sequences.len().saturating_sub(1) / 2;
    Timestamp(sequences.get(middle).copied().unwrap_or(0))
}

/// Refuses to begin an overlap of so many milliseconds by a clock for whose others half of it is over already.
fn is_clock_good(wall: Timestamp, others: Timestamp, overlap: u64) -> Result<()> {
    let behind = others.0.saturating_sub(wall.0);
    if behind <= overlap / 2 {
        return Ok(());
    }
    let text = format!(
        "the clock of this node is at least {} s behind that of others, more than half the overlap of {} s; set it, or change \
         the key on another node",
        behind / 1000,
        overlap / 1000
    );
    Err(Error::new(ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_begins_no_overlap() {
        assert_eq!(said_by_most(vec![]), Timestamp(0));
        assert_eq!(said_by_most(vec![70]), Timestamp(70));
        assert_eq!(said_by_most(vec![u64::MAX, 70]), Timestamp(70), "one that is far ahead says nothing");
        assert_eq!(said_by_most(vec![u64::MAX, 70, 90, 80, 60]), Timestamp(80));
        let refused = |wall, others, overlap| {
            is_clock_good(Timestamp(wall), Timestamp(others), overlap).map_err(|error| error.kind())
        };
        assert_eq!(refused(50_000, 0, 1000), Ok(()), "who is ahead of records that are old");
        assert_eq!(refused(50_000, 50_500, 1000), Ok(()));
        assert_eq!(refused(50_000, 50_501, 1000), Err(ErrorKind::InvalidInput));
        assert_eq!(refused(0, u64::MAX, 1000), Err(ErrorKind::InvalidInput));
    }
}
