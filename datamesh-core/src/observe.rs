//! What a mesh tells of itself: events as they happen, and counters.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender, TrySendError};
use futures::Stream;

use crate::care::{CareProgress, Margins, NodeState};
use crate::id::{ExtentId, NodeId, ObjectId, ShardId};
use crate::ports::{Address, WayStatus};

/// Events that wait for a slow subscriber; then it misses some and is told how many.
const MAX_WAITING: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node is connected.
    NodeUp(NodeId),
    /// The last connection to a node is gone.
    NodeDown(NodeId),
    /// A node became a member of the mesh, or its record changed.
    Member(NodeId),
    /// A member is admitted no more: its certificate has ended, or was revoked.
    Expelled(NodeId),
    /// A member that was gone for good was forgotten, by [`Mesh::forget`](crate::Mesh::forget) here or on another node.
    Forgotten(NodeId),
    /// The key of the mesh has changed; the old one is accepted until its overlap ends.
    KeyChanged {
        /// How often it was changed since the mesh began.
        generation: u64,
    },
    /// This node listens on these addresses.
    Listening(Vec<Address>),
    /// A stranger without the mesh key was turned away.
    Refused(String),
    /// A node answered with bytes that are not what their name says.
    WrongShard {
        /// Who answered.
        node: NodeId,
        /// The extent that the shard belongs to.
        extent: ExtentId,
        /// The shard that was asked for.
        shard: ShardId,
    },
    /// A node answered with a manifest that is not what its name says.
    WrongManifest {
        /// Who answered.
        node: NodeId,
        /// The object that was asked for.
        object: ObjectId,
    },
    /// This node's own store holds altered bytes under this name; they were not served.
    CorruptShard(ShardId),
    /// This node's disk did not give out a shard that it holds. It is tried again, and set aside after three failures
    /// between which others were read: after forty minutes at the earliest, where the scrub takes its usual time.
    UnreadableShard(ShardId),
    /// This node gave up a shard that had rotted or could not be read, so that it counts as missing and can come back
    /// from the others.
    ShardSetAside(ShardId),
    /// This node has read all that it holds, and compared it with its names.
    Scrubbed {
        /// The bytes that were right.
        bytes: u64,
        /// How many shards and records were not.
        rotten: u64,
    },
    /// This node's store takes no more writes, because of an earlier failure of the disk, and why. It is told once, at the
    /// first refusal; what is held is still read. Shut the mesh down and open it anew.
    StoreFailed(String),
    /// A node's proof that it holds a shard was of something else.
    WrongProof {
        /// Who answered.
        node: NodeId,
        /// The extent that the shard belongs to.
        extent: ExtentId,
        /// The shard that was to be proved.
        shard: ShardId,
    },
    /// This node does not trust another any more: what that one says to hold counts as lost.
    Distrusted(NodeId),
    /// This node gave up an extent that no manifest names, as every member had said for long.
    ExtentCollected(ExtentId),
    /// A holder failed or lagged during a put, and the next in rank took its shards.
    HolderReplaced {
        /// The holder that failed.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// What a node's silence means has changed.
    NodeState {
        /// The node.
        node: NodeId,
        /// Its state now.
        state: NodeState,
    },
    /// The right shards of an extent contradict each other: its writer made them so. They are left as they are.
    PoisonedExtent(ExtentId),
    /// A round of repair and rebalance on this node moved something.
    CareRound(CareProgress),
    /// The subscriber was slow: this many events are missing here.
    Missed(u64),
}

#[derive(Debug)]
struct Subscriber {
    sender: Sender<Event>,
    missed: u64,
}

/// Hands events to every subscriber; never waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventHub(Arc<Mutex<Vec<Subscriber>>>);

impl EventHub {
    pub(crate) fn emit(&self, event: Event) {
        let mut subscribers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain_mut(|subscriber| subscriber.offer(&event));
    }

    pub(crate) fn subscribe(&self) -> Events {
        let (sender, receiver) = async_channel::bounded(MAX_WAITING);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Subscriber { sender, missed: 0 });
        Events(Box::pin(receiver))
    }

    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Subscriber {
    /// Whether the subscriber is still there.
    fn offer(&mut self, event: &Event) -> bool {
        if self.missed > 0 {
            match self.sender.try_send(Event::Missed(self.missed)) {
                Ok(()) => self.missed = 0,
                Err(TrySendError::Full(_)) => {
                    self.missed += 1;
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.sender.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// A stream of [`Event`]s from the moment of its making; it ends when the mesh is shut down.
#[derive(Debug)]
pub struct Events(Pin<Box<Receiver<Event>>>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(context)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Running totals of one mesh.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// A snapshot of a mesh's running totals since it was opened, and of its memory.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            $($(#[$doc])* pub $name: u64,)*
            /// Bytes that the data path holds now, of its budget.
            pub budget_in_use: u64,
            /// The byte budget of the data path.
            pub budget_limit: u64,
            /// Peers that are connected now.
            pub connected_peers: u64,
            /// How often the key of the mesh was changed, as far as this node knows.
            pub key_generation: u64,
            /// Requests of peers that are being answered now.
            pub inbound_now: u64,
            /// Segments that may be put at a time: as many as lately brought more bytes a second, and few more.
            pub put_window: u64,
            /// Bytes a second that puts lately achieved at best while they filled their window; 0 before.
            pub put_goodput: u64,
            /// Segments that may be got at a time.
            pub get_window: u64,
            /// Bytes a second that gets lately achieved at best while they filled their window; 0 before.
            pub get_goodput: u64,
            /// How well the extents are kept that this node is the first to look after, when it last looked.
            pub margins: Margins,
            /// What each way to peers has carried, all peers together, where a transport chooses between several.
            pub ways: Vec<WayStatus>,
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Metrics {
                Metrics { $($name: self.$name.load(Ordering::Relaxed),)* ..Metrics::default() }
            }
        }
    };
}

counters! {
    /// Objects put.
    puts,
    /// Puts that failed or were dropped.
    puts_failed,
    /// Bytes of plaintext put.
    bytes_put,
    /// Objects opened for reading.
    gets,
    /// Bytes of plaintext read.
    bytes_got,
    /// Segments sealed and coded.
    segments_encoded,
    /// Segments checked and opened.
    segments_decoded,
    /// Segments that needed parity.
    segments_reconstructed,
    /// Second requests for a segment because a holder was slow.
    hedges,
    /// Shards or manifests that were not what their name says.
    wrong_answers,
    /// Holders that were replaced during a put.
    holders_replaced,
    /// Requests of peers that were answered.
    inbound_requests,
    /// Requests that were refused because their peer asks too often.
    requests_refused,
    /// Shards of this node that the scrub looked at.
    shards_scrubbed,
    /// Bytes that the scrub read and found right.
    bytes_scrubbed,
    /// Rounds of the scrub over everything that is held.
    scrub_rounds,
    /// Shards of this node that were rotten and were given up.
    shards_set_aside,
    /// 1 once this node's store takes no more writes, until the mesh is opened anew.
    store_failures,
    /// Challenges of this node that were answered with the right proof.
    audits_success,
    /// Challenges that were answered with a proof of something else.
    audits_wrong,
    /// Challenges that a connected node did not answer.
    audits_silent,
    /// Challenges that could not be put, for the node was not connected.
    audits_offline,
    /// Removals that this node told others.
    removals_told,
    /// Removals that this node forgot, because all know of them.
    tombstones_dropped,
    /// Extents that this node gave up because no manifest names them.
    extents_collected,
    /// Messages in which care asked others what they hold.
    survey_messages,
    /// Extents of which care has rebuilt shards.
    extents_repaired,
    /// Manifests that care has given to nodes that lacked them.
    manifests_repaired,
    /// Shards that care has made anew.
    shards_rebuilt,
    /// Shards that care has copied to where they belong.
    shards_moved,
    /// Bytes of shards that were read to make others anew.
    repair_bytes_read,
    /// Bytes of shards that were made anew and reached their holders.
    repair_bytes_written,
    /// Bytes of shards that care has copied to where they belong.
    bytes_moved,
    /// Bytes of shards that this node gave up because others keep them.
    bytes_released,
}

/// Adds to a running total.
pub(crate) fn count(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on_stream;

    use super::*;

    #[test]
    fn a_slow_subscriber_is_told_what_it_missed() {
        let hub = EventHub::default();
        let events = hub.subscribe();
        let node = NodeId::from_bytes([1; 32]);
        for _ in 0..MAX_WAITING + 5 {
            hub.emit(Event::NodeUp(node));
        }
        let mut events = block_on_stream(events);
        for _ in 0..2 {
            assert_eq!(events.next(), Some(Event::NodeUp(node)));
        }
        hub.emit(Event::NodeDown(node));
        hub.close();
        assert_eq!(events.filter(|event| *event == Event::Missed(5)).count(), 1);
    }
}
