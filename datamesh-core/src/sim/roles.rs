//! Hostile nodes: what each says and does instead of what it should.
//!
//! A role stands between a node and the network: what comes for the node, what it answers and what it asks are the
//! role's to change, and the engine behind it is the one that ships. So a hostile node knows all that its node knows,
//! keeps its connections, and takes part in gossip and care.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::format::{
    Extents, Layout, Manifest, Possession, ProofNonce, Refusal, RemovalSecret, Removed, Reply, Request,
    StoredExtent, StoredManifest, prove,
};
use crate::id::{ExtentId, ObjectId, OperationId, ShardId};
use crate::ports::{Message, Table};
use crate::sim::draws::Draws;
use crate::sim::medium::Medium;
use crate::sim::world::lock;

/// How long a slow node takes for each answer, which is less than any answer is waited for.
const SLOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// How many of the requests that a framer sends are followed by a forged one, in a thousand.
const FORGED_PER_MILLE: u64 = 300;

/// The indexes of one past the last that a liar claims: more than any stripe here has.
const CLAIMED: u8 = 64;

/// What a hostile node does; see [`SimMesh::role`](crate::sim::SimMesh::role).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// One bit of whatever it gives out is turned.
    BitFlip,
    /// Whatever it gives out is cut short.
    Truncate,
    /// It gives another shard of the same length than was asked for, another manifest, another layout, another proof.
    Swap,
    /// It acknowledges what it is to keep, and keeps nothing of it.
    AckAndDrop,
    /// It says what it said first, whatever has changed: of members, of what it holds, and of removals, which it notes
    /// and does not carry out.
    Stale,
    /// It takes requests and never answers.
    Silent,
    /// It answers late: after one to eight seconds.
    Slow,
    /// It acknowledges what it is to keep, says to hold it and all that it ever had, and has nothing.
    ClaimAndForget,
    /// It says to hold every shard of every extent, and promises to keep them.
    ClaimAll,
    /// As the last, but it says it to each node every second time only, and is silent in between and when a shard is to
    /// be read. Not among [`ALL`](Self::ALL).
    ClaimByTurns,
    /// It says that everything was removed, and refuses to remove what is to be.
    Deny,
    /// It answers rightly, and works against others: sends them forged removals, records and shards, has them forget
    /// and look again, all in the hope that they do or say something wrong.
    Frame,
    /// It withholds one object, together with others that do so, and does everything else rightly.
    Withhold(ObjectId),
    /// It alters one object, together with others that do so, and does everything else rightly.
    Spoil(ObjectId),
}

impl Role {
    /// Every role that is played against all objects alike, each way to lie once.
    pub const ALL: [Self; 11] = [
        Self::BitFlip,
        Self::Truncate,
        Self::Swap,
        Self::AckAndDrop,
        Self::Stale,
        Self::Silent,
        Self::Slow,
        Self::ClaimAndForget,
        Self::ClaimAll,
        Self::Deny,
        Self::Frame,
    ];

    /// Its name, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BitFlip => "bit flip",
            Self::Truncate => "truncate",
            Self::Swap => "swap",
            Self::AckAndDrop => "ack and drop",
            Self::Stale => "stale",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::ClaimAndForget => "claim and forget",
            Self::ClaimAll => "claim all",
            Self::ClaimByTurns => "claim by turns",
            Self::Deny => "deny",
            Self::Frame => "frame",
            Self::Withhold(_) => "withhold",
            Self::Spoil(_) => "spoil",
        }
    }

    /// Whether something is missing from its node's disk when it ends, though its node has acknowledged it.
    pub(super) const fn loses(self) -> bool {
        matches!(self, Self::AckAndDrop | Self::ClaimAndForget | Self::ClaimAll | Self::ClaimByTurns)
    }

    /// Whether everything that it did wrong is mended once its node is honest again: a node that noted removals and
    /// did not carry them out is not told again.
    pub(super) const fn ends(self) -> bool {
        !matches!(self, Self::Stale)
    }
}

/// What belongs to one object.
#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    object: Option<ObjectId>,
    extents: BTreeSet<ExtentId>,
    shards: BTreeSet<ShardId>,
}

impl Target {
    /// What the disks of a mesh tell of an object.
    pub(super) fn find(object: ObjectId, media: &[Arc<Mutex<Medium>>]) -> Self {
        let mut target = Self { object: Some(object), ..Self::default() };
        let mut layouts = Vec::new();
        let key = (Table::Manifests, Bytes::copy_from_slice(object.as_bytes()));
        for medium in media {
            let value = lock(medium).records().get(&key).cloned();
            let manifest = value.and_then(|value| StoredManifest::decode(&value).ok());
            match manifest.and_then(|stored| Manifest::decode(&stored.manifest).ok()) {
                Some(manifest) => match &manifest.public().extents {
                    Extents::Inline => {}
                    Extents::Single(layout) => layouts.push(layout.clone()),
                    Extents::Many(extents) => target.extents.extend(extents),
                },
                None => continue,
            }
        }
        for medium in media {
            let stored = layouts_of(&lock(medium));
            layouts.extend(
                stored.into_iter().filter(|(id, _)| target.extents.contains(id)).map(|(_, layout)| layout),
            );
        }
        for layout in layouts {
            target.extents.insert(ExtentId::of(&layout.encode()));
            target.shards.extend(layout.shards.iter().copied());
        }
        target
    }

    fn is_meant(&self, request: &Request) -> bool {
        match request {
            Request::ReadShard { shard } | Request::Prove { shard, .. } => self.shards.contains(shard),
            Request::ReadLayout { extent } => self.extents.contains(extent),
            Request::ReadManifest { object } => self.object == Some(*object),
            _ => false,
        }
    }
}

/// What becomes of a request that comes for a hostile node.
#[derive(Debug)]
pub(super) enum Heard {
    /// Its node gets this, mostly just what came.
    Pass(Message),
    /// The role answers.
    Answer(Message),
    /// Nobody does.
    Never,
}

/// One hostile node.
#[derive(Debug)]
pub(super) struct Actor {
    role: Role,
    medium: Arc<Mutex<Medium>>,
    target: Target,
    draws: Draws,
    /// What it has acknowledged, and does not have.
    extents: BTreeMap<ExtentId, BTreeSet<u8>>,
    objects: BTreeSet<ObjectId>,
    /// What it said first: of each extent, object and shard, and of the members.
    said: BTreeMap<[u8; 32], Possession>,
    named: BTreeMap<ExtentId, bool>,
    proofs: BTreeMap<ShardId, Bytes>,
    members: Option<Reply>,
    /// Who was told last what it holds, and who was not.
    told: BTreeMap<usize, bool>,
}

impl Actor {
    pub(super) fn new(role: Role, medium: Arc<Mutex<Medium>>, target: Target, draws: Draws) -> Self {
        if role == Role::ClaimAndForget {
            lock(&medium).forget_blobs();
        }
        Self {
            role,
            medium,
            target,
            draws,
            extents: BTreeMap::new(),
            objects: BTreeSet::new(),
            said: BTreeMap::new(),
            named: BTreeMap::new(),
            proofs: BTreeMap::new(),
            members: None,
            told: BTreeMap::new(),
        }
    }

    /// How much later than its node it answers.
    pub(super) fn delay(&mut self) -> Duration {
        if self.role == Role::Slow { self.draws.time(SLOW.0, SLOW.1) } else { Duration::ZERO }
    }

    /// Takes a request that comes from another for its node.
    pub(super) fn hear(&mut self, from: usize, message: Message) -> Heard {
        if self.role == Role::Silent {
            return Heard::Never;
        }
        let Ok(request) = Request::decode(&message.head) else { return Heard::Pass(message) };
        let answer = match self.role {
            Role::AckAndDrop => self.acknowledge(&request, &message.body),
            Role::ClaimAndForget => {
                self.acknowledge(&request, &message.body).or_else(|| self.claim(&request, false))
            }
            Role::ClaimAll => self.claim(&request, true),
            Role::ClaimByTurns => {
                if self.is_hushed(from, &request) {
                    return Heard::Never;
                }
                self.claim(&request, true)
            }
            Role::Deny => deny(&request),
            Role::Withhold(_) => self.target.is_meant(&request).then_some(Reply::Absent),
            Role::Stale => match request {
                Request::RemoveObject { .. } | Request::RemoveExtents { .. } => Some(Reply::Done),
                Request::Removals { .. } => {
                    let head = Request::Removals { removals: Vec::new() }.encode();
                    return Heard::Pass(Message { head, body: Bytes::new() });
                }
                _ => None,
            },
            _ => None,
        };
        match answer {
            Some(reply) => Heard::Answer(Message { head: reply.encode(), body: Bytes::new() }),
            None => Heard::Pass(message),
        }
    }

    /// Whether it keeps silent this time.
    fn is_hushed(&mut self, from: usize, request: &Request) -> bool {
        match request {
            Request::Survey { .. } => {
                let told = self.told.entry(from).or_default();
                *told = !*told;
                !*told
            }
            Request::ReadShard { .. } => true,
            _ => false,
        }
    }

    /// Says to keep what it does not keep.
    fn acknowledge(&mut self, request: &Request, body: &Bytes) -> Option<Reply> {
        match request {
            Request::Commit { indexes, .. } => {
                self.extents.entry(ExtentId::of(body)).or_default().extend(indexes);
            }
            Request::PutManifest { .. } => drop(self.objects.insert(ObjectId::of(body))),
            Request::Stage { .. } => {}
            Request::Keep { indexes, objects, .. } => {
                let extents = indexes.iter().cloned().map(Possession::Held);
                let objects = objects.iter().map(|_| Possession::Held(Vec::new()));
                return Some(Reply::Surveyed { possessions: extents.chain(objects).collect() });
            }
            _ => return None,
        }
        Some(Reply::Done)
    }

    /// Says to have what it was given once, or everything, and proves nothing of it.
    fn claim(&self, request: &Request, everything: bool) -> Option<Reply> {
        let indexes = |extent: &ExtentId| if everything { all_indexes() } else { self.indexes_of(extent) };
        let extent = |extent: &ExtentId| match indexes(extent) {
            indexes if indexes.is_empty() => Possession::Absent,
            indexes => Possession::Held(indexes),
        };
        let object = |object: &ObjectId| {
            let has = everything || self.objects.contains(object) || self.has_manifest(object);
            if has { Possession::Held(Vec::new()) } else { Possession::Absent }
        };
        Some(match request {
            Request::Survey { extents, objects } | Request::Keep { extents, objects, .. } => {
                Reply::Surveyed {
                    possessions: extents.iter().map(extent).chain(objects.iter().map(object)).collect(),
                }
            }
            Request::Describe { extents } => Reply::Described {
                held: extents.iter().map(|id| Some(indexes(id)).filter(|held| !held.is_empty())).collect(),
            },
            Request::Recheck { .. } => Reply::Done,
            Request::Prove { .. } => Reply::Absent,
            Request::ReadShard { .. } | Request::ReadLayout { .. } | Request::ReadManifest { .. }
                if !everything =>
            {
                Reply::Absent
            }
            _ => return None,
        })
    }

    fn indexes_of(&self, extent: &ExtentId) -> Vec<u8> {
        let mut indexes = self.extents.get(extent).cloned().unwrap_or_default();
        let key = (Table::Extents, Bytes::copy_from_slice(extent.as_bytes()));
        let stored =
            lock(&self.medium).records().get(&key).and_then(|value| StoredExtent::decode(value).ok());
        indexes.extend(stored.into_iter().flat_map(|stored| stored.indexes));
        indexes.into_iter().collect()
    }

    fn has_manifest(&self, object: &ObjectId) -> bool {
        let key = (Table::Manifests, Bytes::copy_from_slice(object.as_bytes()));
        lock(&self.medium).records().contains_key(&key)
    }

    /// What it makes of its node's answer.
    pub(super) fn say(&mut self, request: &Message, reply: Message) -> Message {
        let Ok(request) = Request::decode(&request.head) else { return reply };
        match self.role {
            Role::BitFlip => self.flip(reply),
            Role::Spoil(_) if self.target.is_meant(&request) => self.flip(reply),
            Role::Truncate => self.cut(reply),
            Role::Swap => self.swap(&request, reply),
            Role::Stale => self.repeat(&request, reply),
            _ => reply,
        }
    }

    fn flip(&mut self, reply: Message) -> Message {
        let mut bytes = BytesMut::from(reply.body.as_ref());
        let position = self.draws.index(bytes.len());
        let bit = self.draws.below(8);
        if let Some(byte) = bytes.get_mut(position) {
            *byte ^= 1 << bit;
        }
        Message { head: reply.head, body: bytes.freeze() }
    }

    fn cut(&mut self, reply: Message) -> Message {
        let len = self.draws.index(reply.body.len());
        Message { head: reply.head, body: reply.body.slice(..len) }
    }

    /// The bytes of something else that its node has, where it has something else.
    fn swap(&mut self, request: &Request, reply: Message) -> Message {
        if reply.body.is_empty() {
            return reply;
        }
        let body = match request {
            Request::ReadShard { shard } => self.other_shard(shard, reply.body.len()),
            Request::Prove { shard, nonce } => self.other_proof(shard, nonce),
            Request::ReadManifest { object } => self.other_manifest(object),
            Request::ReadLayout { extent } => self.other_layout(extent),
            _ => None,
        };
        match body {
            Some(body) => Message { head: reply.head, body },
            None => self.flip(reply),
        }
    }

    fn other_shard(&mut self, shard: &ShardId, len: usize) -> Option<Bytes> {
        let medium = lock(&self.medium);
        let fits = |(id, length): &(ShardId, u64)| id != shard && *length == len as u64;
        let others: Vec<ShardId> = medium.blobs_after(None).filter(fits).map(|(id, _)| id).collect();
        medium.blob(self.draws.pick(&others)?).cloned()
    }

    fn other_proof(&mut self, shard: &ShardId, nonce: &ProofNonce) -> Option<Bytes> {
        let medium = lock(&self.medium);
        let others: Vec<ShardId> =
            medium.blobs_after(None).map(|(id, _)| id).filter(|id| id != shard).collect();
        let other = self.draws.pick(&others)?;
        Some(prove(other, nonce, medium.blob(other)?).into())
    }

    fn other_manifest(&self, object: &ObjectId) -> Option<Bytes> {
        let medium = lock(&self.medium);
        let mut others = medium.table(Table::Manifests).filter(|(key, _)| key.as_ref() != object.as_bytes());
        others.find_map(|(_, value)| Some(StoredManifest::decode(value).ok()?.manifest))
    }

    fn other_layout(&self, extent: &ExtentId) -> Option<Bytes> {
        let layouts = layouts_of(&lock(&self.medium));
        layouts.into_iter().find(|(id, _)| id != extent).map(|(_, layout)| layout.encode())
    }

    /// What it said first.
    fn repeat(&mut self, request: &Request, reply: Message) -> Message {
        let Ok(new) = Reply::decode(&reply.head) else { return reply };
        let again = match (request, new) {
            (Request::Survey { extents, objects }, Reply::Surveyed { possessions }) => {
                let ids =
                    extents.iter().map(ExtentId::as_bytes).chain(objects.iter().map(ObjectId::as_bytes));
                let first = ids.zip(possessions).map(|(id, now)| self.said.entry(*id).or_insert(now).clone());
                Reply::Surveyed { possessions: first.collect() }
            }
            (Request::Named { extents }, Reply::Named { named }) => {
                let first = extents.iter().zip(named).map(|(id, now)| *self.named.entry(*id).or_insert(now));
                Reply::Named { named: first.collect() }
            }
            (Request::Members { .. }, new @ Reply::Members { .. }) => self.members.get_or_insert(new).clone(),
            (Request::Prove { shard, .. }, Reply::Done) => {
                let body = self.proofs.entry(*shard).or_insert(reply.body).clone();
                return Message { head: reply.head, body };
            }
            _ => return reply,
        };
        Message { head: again.encode(), body: reply.body }
    }

    /// What it sends beside a request of its node.
    pub(super) fn forge(&mut self) -> Option<Message> {
        if self.role != Role::Frame || !self.draws.chance(FORGED_PER_MILLE) {
            return None;
        }
        let medium = Arc::clone(&self.medium);
        let layouts = layouts_of(&lock(&medium));
        let (extent, layout) = self.draws.pick(&layouts)?.clone();
        let shard = *self.draws.pick(&layout.shards)?;
        let objects: Vec<[u8; 32]> = {
            let medium = lock(&medium);
            medium.table(Table::Manifests).filter_map(|(key, _)| key.as_ref().try_into().ok()).collect()
        };
        let object = ObjectId::from_bytes(*self.draws.pick(&objects)?);
        let secret = RemovalSecret::from_bytes(self.random());
        let operation = OperationId::from_bytes(self.random());
        let (request, body) = match self.draws.below(9) {
            0 => (Request::Recheck { shard }, Bytes::new()),
            1 => (Request::Unstage { shards: layout.shards.clone() }, Bytes::new()),
            2 => (Request::RemoveExtents { extents: vec![extent], secret }, Bytes::new()),
            3 => (Request::RemoveObject { object, secret }, Bytes::new()),
            4 => {
                let ids = [*extent.as_bytes(), *object.as_bytes()];
                let removals = ids.into_iter().map(|id| Removed { id, secret: secret.clone() }).collect();
                (Request::Removals { removals }, Bytes::new())
            }
            5 => (Request::Members { records: self.forged_records() }, Bytes::new()),
            6 => (Request::Stage { shard }, self.draws.bytes(64).into()),
            7 => {
                let indexes = vec![(0..=u8::MAX).take(layout.redundancy.total()).collect()];
                (Request::Keep { extents: vec![extent], indexes, objects: vec![object] }, Bytes::new())
            }
            _ => {
                let indexes = (0..=u8::MAX).take(layout.redundancy.total()).collect();
                (Request::Commit { operation, indexes }, layout.encode())
            }
        };
        Some(Message { head: request.encode(), body })
    }

    /// Records of members, each with a bit turned.
    fn forged_records(&mut self) -> Vec<Bytes> {
        let records: Vec<Bytes> =
            lock(&self.medium).table(Table::Members).map(|(_, value)| value.clone()).collect();
        let flipped =
            records.into_iter().take(8).map(|body| self.flip(Message { head: Bytes::new(), body }).body);
        flipped.collect()
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.draws.fill(&mut bytes);
        bytes
    }
}

fn all_indexes() -> Vec<u8> {
    (0..CLAIMED).collect()
}

/// What denies that there is, or ever will be, anything.
fn deny(request: &Request) -> Option<Reply> {
    Some(match request {
        Request::Survey { extents, objects } | Request::Keep { extents, objects, .. } => {
            let count = extents.len().saturating_add(objects.len());
            Reply::Surveyed { possessions: vec![Possession::Removed; count] }
        }
        Request::Describe { extents } => Reply::Described { held: vec![None; extents.len()] },
        Request::Named { extents } => Reply::Named { named: vec![false; extents.len()] },
        Request::ReadShard { .. } | Request::ReadLayout { .. } | Request::ReadManifest { .. } => {
            Reply::Removed
        }
        Request::Recheck { .. } | Request::Prove { .. } => Reply::Absent,
        Request::RemoveObject { .. } | Request::RemoveExtents { .. } => Reply::Failed {
            refusal: Refusal::Denied,
            text: "the removal secret is not that of the object".into(),
        },
        _ => return None,
    })
}

/// The extents whose records are on a disk.
fn layouts_of(medium: &Medium) -> Vec<(ExtentId, Layout)> {
    let read = |(key, value): (&Bytes, &Bytes)| {
        let id = ExtentId::from_bytes(key.as_ref().try_into().ok()?);
        Some((id, Layout::decode(&StoredExtent::decode(value).ok()?.layout).ok()?))
    };
    medium.table(Table::Extents).filter_map(read).collect()
}
