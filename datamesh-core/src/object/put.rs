//! Putting an object.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_lock::{Semaphore, SemaphoreGuardArc};
use bytes::Bytes;
use futures::stream::{self, FuturesUnordered, Stream, StreamExt, TryStreamExt};
use futures::{FutureExt, future, select_biased};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Capability, Extents, Header, MAX_EXTENTS, MAX_INLINE_LEN, MAX_OBJECT_LEN, Manifest, ManifestPublic,
    OwnerSecret, PlacementKey, RemovalSecret, Request, Salt, segments_per_extent,
};
use crate::id::{ExtentId, NodeId, ObjectId, OperationId, ShardId};
use crate::object::budget::{Permit, Share};
use crate::object::buffer::Buffer;
use crate::object::extent_write::{ExtentWriter, WrittenExtent};
use crate::object::manifest::write_manifest;
use crate::object::segment::{Codec, Coder, Place};
use crate::object::source::{Input, Source};
use crate::object::{ASK_LIMIT, Engine, ProgressFn};
use crate::observe::count;
use crate::placement::{ZoneMargins, rank};
use crate::planted::{Bug, is_active};
use crate::ports::{Instant, Redundancy, Timestamp};

/// How many names one clean-up request carries.
const CLEAN_UP_BATCH: usize = 1024;

/// How many extents of one put are under way at a time, from their first segment to their commit: some are committed
/// while later ones are staged.
const MAX_OPEN_EXTENTS: usize = 4;

/// How long a clean-up waits before it repeats itself with holders that had not answered yet: what they were asked to
/// keep may come to them after what they are asked to forget.
const SETTLE: Duration = Duration::from_secs(2);

/// How far a put or get has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of plaintext that are done: staged with their holders, or handed to the reader.
    pub done: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
}

impl Progress {
    pub(crate) fn new(done: u64, total: Option<u64>) -> Self {
        Self { done, total }
    }
}

/// What a put achieved.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Receipt {
    /// The own capability: reads and removes the object. Keep it; nobody can make it again.
    pub capability: Capability,
    /// The object's name.
    pub object: ObjectId,
    /// Its length in bytes.
    pub len: u64,
    /// How many more holders may be lost so that the object can still be read.
    pub margin: usize,
    /// How many whole zones may be lost, and nothing else, so that it can still be read.
    pub zone_margin: usize,
    /// The code that it was stored with.
    pub redundancy: Redundancy,
    /// The nodes that acknowledged, and how many shards each holds. Empty for an object that is kept whole in its
    /// manifest.
    pub holders: BTreeMap<NodeId, usize>,
    /// The nodes that keep the manifest.
    pub manifest_holders: Vec<NodeId>,
}

/// The options of a put.
#[derive(Clone)]
pub(crate) struct PutOptions {
    pub(crate) redundancy: Redundancy,
    pub(crate) margin: Option<usize>,
    pub(crate) media_type: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) progress: Option<ProgressFn>,
    pub(crate) operation: Option<OperationId>,
}

/// Stores a source as a new object.
pub(crate) async fn put(engine: Arc<Engine>, source: Source, options: PutOptions) -> Result<Receipt> {
    let work = async {
        if !engine.code.supports(options.redundancy) {
            let text = format!(
                "erasure code {} cannot do {}; choose another redundancy",
                engine.code.id().0,
                options.redundancy
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        check_header(&options)?;
        let input = Input::open(source, &*engine.runtime, engine.files.as_ref()).await?;
        Put::begin(&engine, options, input.len())?.run(input).await
    };
    work.await.map_err(|error| error.with_operation("put"))
}

/// Refuses what the sealed header could not hold, before anything is read or sent.
fn check_header(options: &PutOptions) -> Result<()> {
    let (media_type, metadata) = (options.media_type.clone(), options.metadata.clone());
    Header { len: 0, media_type, metadata, inline: None }.check_limits()?;
    let most = options.redundancy.parity();
    match options.margin.filter(|margin| *margin > most) {
        None => Ok(()),
        Some(margin) => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{} gives a margin of {most} at most, {margin} was asked for", options.redundancy),
        )),
    }
}

/// One put, and the clean-up of what it staged when it does not end well.
struct Put {
    engine: Arc<Engine>,
    options: PutOptions,
    owner: OwnerSecret,
    codec: Arc<Codec>,
    stages: Arc<Stages>,
    guard: CleanUp,
}

impl Put {
    fn begin(engine: &Arc<Engine>, options: PutOptions, total: Option<u64>) -> Result<Self> {
        let runtime = &*engine.runtime;
        let owner = OwnerSecret::from_bytes(runtime.random()?);
        let redundancy = options.redundancy;
        let codec = Arc::new(Codec {
            coder: Coder { code: Arc::clone(&engine.code), redundancy, buffers: engine.buffers.clone() },
            suite: Arc::clone(&engine.suite),
            keys: owner.read_key().object_keys(),
            salt: Salt::from_bytes(runtime.random()?),
        });
        let operation = match options.operation {
            Some(operation) => operation,
            None => OperationId::from_bytes(runtime.random()?),
        };
        let stages = Arc::new(Stages {
            engine: Arc::clone(engine),
            codec: Arc::clone(&codec),
            operation,
            removal: owner.removal_secret(),
            open: Mutex::default(),
            written: Mutex::default(),
            done: AtomicU64::new(0),
            progress: options.progress.clone(),
            total,
            places: Arc::new(Semaphore::new(MAX_OPEN_EXTENTS)),
            began: (runtime.now(), runtime.wall_time()),
            held: Mutex::default(),
        });
        Ok(Self {
            engine: Arc::clone(engine),
            options,
            owner,
            codec,
            guard: CleanUp { stages: Some(Arc::clone(&stages)) },
            stages,
        })
    }

    async fn run(self, input: Input) -> Result<Receipt> {
        self.check_margin()?;
        let share = self.engine.budget.share();
        let mut reader = SegmentReader {
            engine: Arc::clone(&self.engine),
            codec: Arc::clone(&self.codec),
            stages: Arc::clone(&self.stages),
            input,
            share: share.clone(),
            places: self.engine.puts.share(),
        };
        let first = reader.read(0).await?;
        if first.place.last && first.len <= MAX_INLINE_LEN {
            let inline = Bytes::copy_from_slice(first.buffer.as_ref().get(..first.len).unwrap_or_default());
            drop(first);
            return self.finish(inline.len() as u64, Vec::new(), Some(inline)).await;
        }
        let extents = self.write_segments(first, reader, &share).await?;
        let len = self.stages.done.load(Ordering::Relaxed);
        self.finish(len, extents, None).await
    }

    /// Refuses a margin that the live members cannot give, before anything is sent.
    fn check_margin(&self) -> Result<()> {
        let members = self.engine.peers.live_members();
        let ranking = rank(self.codec.salt.as_bytes(), &members);
        let Some(best) = ranking.best_margin(self.options.redundancy) else {
            return Err(Error::new(
                ErrorKind::NotStored,
                "no live member can hold data; open a node that offers capacity",
            ));
        };
        let Some(asked) = self.options.margin.filter(|asked| *asked > best) else { return Ok(()) };
        let text = format!(
            "{} live nodes give {} a margin of {best} at best, {asked} was asked for; start more nodes or ask for less",
            ranking.len(),
            self.options.redundancy
        );
        Err(Error::new(ErrorKind::NotStored, text).with_counts(best, asked, Vec::new()))
    }

    /// Reads, seals, codes and stages all segments, some of them at a time, and commits each extent when all its
    /// segments are staged.
    ///
    /// Staging always goes on while commits do: what is staged holds memory that a commit may need. The number of
    /// extents is bounded where segments are read.
    async fn write_segments(
        &self,
        first: Segment,
        reader: SegmentReader,
        share: &Share,
    ) -> Result<Vec<WrittenExtent>> {
        let per_extent = segments_per_extent(self.options.redundancy) as u64;
        let segments = stream::once(future::ready(Ok(first))).chain(reader.rest());
        let staged = segments
            .map_ok(|segment| self.stages.stage(segment, per_extent))
            .try_buffer_unordered(self.engine.puts.most());
        let mut staged = pin!(staged.fuse());
        let mut commits = FuturesUnordered::new();
        let mut extents = Extending::default();
        loop {
            select_biased! {
                written = commits.select_next_some() => extents.written(written?),
                step = staged.select_next_some() => {
                    if let Some(extent) = extents.staged(step?) {
                        commits.push(self.stages.commit(extent, share.clone(), self.options.margin));
                    }
                },
                complete => return Ok(extents.into_written()),
            }
        }
    }

    /// Stores the manifest; from here on the object exists, or its fate is unknown.
    async fn finish(
        mut self,
        len: u64,
        extents: Vec<WrittenExtent>,
        inline: Option<Bytes>,
    ) -> Result<Receipt> {
        let extents_margin = extents.iter().map(|extent| extent.margin).min();
        let holders = holders_of(&extents);
        let members = self.engine.peers.storage_members();
        let zones_of = |extent: &WrittenExtent| {
            let margins = ZoneMargins::of_shards(&extent.holders, &members, self.options.redundancy.data());
            margins.map_or(0, |margins| margins.zones())
        };
        let zones_of_extents = extents.iter().map(zones_of).min();
        let header = Header {
            len,
            media_type: self.options.media_type.clone(),
            metadata: self.options.metadata.clone(),
            inline,
        };
        self.check_time(!extents.is_empty())?;
        let (object, manifest) = self.seal_manifest(extents, &header)?;
        let redundancy = self.options.redundancy;
        let least = self.options.margin.map_or(1, |margin| margin + 1);
        let operation = self.stages.operation;
        let clean_up = self.guard.disarm();
        let result = write_manifest(
            &self.engine,
            operation,
            object,
            &manifest,
            redundancy,
            least,
            &self.stages.removal,
        )
        .await;
        let manifest_holders = result.inspect_err(|error| {
            if matches!(error.kind(), ErrorKind::NotStored | ErrorKind::StorageFull) {
                drop(CleanUp { stages: clean_up });
            }
        })?;
        let manifest_margin = manifest_holders.len().saturating_sub(1).min(redundancy.parity());
        let zones_of_manifest = ZoneMargins::of_copies(&manifest_holders, &members).map_or(0, |m| m.zones());
        count(&self.engine.counters.puts, 1);
        count(&self.engine.counters.bytes_put, len);
        Ok(Receipt {
            capability: Capability::own(object, self.owner),
            object,
            len,
            margin: extents_margin.map_or(manifest_margin, |margin| margin.min(manifest_margin)),
            zone_margin: zones_of_extents.map_or(zones_of_manifest, |zones| zones.min(zones_of_manifest)),
            redundancy,
            holders,
            manifest_holders,
        })
    }

    /// Refuses to name extents that may have been given up because nobody named them for so long.
    fn check_time(&self, has_extents: bool) -> Result<()> {
        let (runtime, (began, began_by_wall)) = (&self.engine.runtime, self.stages.began);
        // A machine that slept has a clock that went on and one that did not.
        let by_wall = Duration::from_millis(runtime.wall_time().0.saturating_sub(began_by_wall.0));
        let took = (runtime.now() - began).max(by_wall);
        if !has_extents || took <= self.engine.put_limit {
            return Ok(());
        }
        let (took, limit) = (took.as_secs() / 3600, self.engine.put_limit.as_secs() / 3600);
        let text = format!("the put took {took} hours and a put may take {limit}; put it again in parts");
        Err(Error::new(ErrorKind::NotStored, text))
    }

    fn seal_manifest(&self, extents: Vec<WrittenExtent>, header: &Header) -> Result<(ObjectId, Bytes)> {
        let mut extents = extents.into_iter();
        let extents = match (extents.next(), extents.len()) {
            (None, _) => Extents::Inline,
            (Some(only), 0) => Extents::Single(only.layout),
            (Some(first), _) => {
                Extents::Many(std::iter::once(first).chain(extents).map(|extent| extent.id).collect())
            }
        };
        let public = ManifestPublic {
            suite: self.engine.suite.id(),
            code: self.engine.code.id(),
            redundancy: self.options.redundancy,
            segment_len: self.engine.segment_len,
            salt: self.codec.salt,
            commitment: *self.codec.keys.commitment(),
            removal: self.stages.removal.hash(),
            extents,
        };
        Manifest::seal(public, header, &self.codec.keys, &*self.engine.suite)
    }
}

/// How many shards each node holds of these extents, the most of any segment.
fn holders_of(extents: &[WrittenExtent]) -> BTreeMap<NodeId, usize> {
    let mut holders = BTreeMap::new();
    for (node, indexes) in extents.iter().flat_map(|extent| &extent.holders) {
        let most: &mut usize = holders.entry(*node).or_default();
        *most = indexes.len().max(*most);
    }
    holders
}

/// A segment that was read and waits to be sealed.
struct Segment {
    buffer: Buffer,
    len: usize,
    place: Place,
    permit: Permit,
    /// The right to be under way.
    turn: Permit,
}

/// Reads a source segment by segment, each into a buffer that holds all its shards later.
struct SegmentReader {
    engine: Arc<Engine>,
    codec: Arc<Codec>,
    stages: Arc<Stages>,
    input: Input,
    share: Share,
    /// Of the segments under way.
    places: Share,
}

impl SegmentReader {
    async fn read(&mut self, index: u64) -> Result<Segment> {
        let per_extent = segments_per_extent(self.codec.coder.redundancy) as u64;
        if index.is_multiple_of(per_extent) {
            self.stages.open_extent(index / per_extent).await;
        }
        let wanted = self.engine.segment_len as usize;
        let hint = self.input.len().map_or(wanted, |len| {
            let left = len.saturating_sub(index.saturating_mul(wanted as u64));
            usize::try_from(left).unwrap_or(wanted).min(wanted)
        });
        let turn = self.places.take(1).await;
        let permit = self.share.take(self.codec.coder.buffer_len(hint)).await;
        let runtime = &*self.engine.runtime;
        let (buffer, len) = self.input.fill(self.codec.coder.buffer(hint), hint, runtime).await?;
        let last = self.input.ended(&self.engine.buffers, runtime).await?;
        let extent = index / segments_per_extent(self.codec.coder.redundancy) as u64;
        let too_long = index.saturating_mul(wanted as u64).saturating_add(len as u64) > MAX_OBJECT_LEN;
        if too_long || extent >= MAX_EXTENTS as u64 {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!(
                    "an object has at most {MAX_EXTENTS} extents and {MAX_OBJECT_LEN} bytes; split it or use longer segments"
                ),
            ));
        }
        Ok(Segment { buffer, len, place: Place { index, last }, permit, turn })
    }

    /// The segments behind the first, where there are any.
    fn rest(self) -> impl Stream<Item = Result<Segment>> {
        stream::try_unfold((self, 1_u64), |(mut reader, index)| async move {
            if reader.input.is_ended() {
                return Ok(None);
            }
            let segment = reader.read(index).await?;
            Ok(Some((segment, (reader, index + 1))))
        })
    }
}

/// A segment that its holders have taken.
struct StagedSegment {
    extent: u64,
    within: u64,
    ends_extent: bool,
}

/// Which extents are ready to be committed.
#[derive(Default)]
struct Extending {
    staged: BTreeMap<u64, (u64, Option<u64>)>,
    written: BTreeMap<u64, WrittenExtent>,
}

impl Extending {
    /// Counts a staged segment, and names its extent when that is complete.
    fn staged(&mut self, segment: StagedSegment) -> Option<u64> {
        let (count, expected) = self.staged.entry(segment.extent).or_default();
        *count += 1;
        if segment.ends_extent {
            *expected = Some(segment.within + 1);
        }
        (Some(*count) == *expected)
            .then(|| self.staged.remove(&segment.extent))
            .flatten()
            .map(|_| segment.extent)
    }

    fn written(&mut self, (extent, written): (u64, WrittenExtent)) {
        self.written.insert(extent, written);
    }

    fn into_written(self) -> Vec<WrittenExtent> {
        self.written.into_values().collect()
    }
}

/// What the segments of one put share on their way to the holders.
struct Stages {
    engine: Arc<Engine>,
    codec: Arc<Codec>,
    operation: OperationId,
    removal: RemovalSecret,
    open: Mutex<BTreeMap<u64, Arc<ExtentWriter>>>,
    written: Mutex<Vec<(ExtentId, Vec<NodeId>)>>,
    done: AtomicU64,
    progress: Option<ProgressFn>,
    total: Option<u64>,
    /// Bounds the extents that are under way.
    places: Arc<Semaphore>,
    /// By both clocks.
    began: (Instant, Timestamp),
    /// The place of each extent that is under way.
    held: Mutex<BTreeMap<u64, SemaphoreGuardArc>>,
}

/// What a clean-up has to tell one node.
type TakeBack = (NodeId, Request);

impl Stages {
    /// Waits until one more extent may be begun.
    async fn open_extent(&self, extent: u64) {
        let place = self.places.acquire_arc().await;
        lock(&self.held).insert(extent, place);
    }

    async fn stage(&self, segment: Segment, per_extent: u64) -> Result<StagedSegment> {
        let Segment { buffer, len, place, permit, turn } = segment;
        let began = self.engine.runtime.now();
        let (extent, within) = (place.index / per_extent, place.index % per_extent);
        let writer = self.writer(extent)?;
        let codec = Arc::clone(&self.codec);
        let stripe = self.engine.runtime.compute(move || codec.encode(buffer, len, place)).await??;
        count(&self.engine.counters.segments_encoded, 1);
        writer.stage(usize::try_from(within).unwrap_or(usize::MAX), stripe).await?;
        drop(permit);
        let now = self.engine.runtime.now();
        self.engine.puts.ended(turn, len as u64, now - began, now);
        let done = self.done.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        if let Some(progress) = &self.progress {
            progress(Progress::new(done, self.total));
        }
        Ok(StagedSegment { extent, within, ends_extent: place.last || within + 1 == per_extent })
    }

    fn writer(&self, extent: u64) -> Result<Arc<ExtentWriter>> {
        let mut open = lock(&self.open);
        if let Some(writer) = open.get(&extent) {
            return Ok(Arc::clone(writer));
        }
        let placement = PlacementKey::of_extent(&self.codec.salt, extent);
        let writer = ExtentWriter::new(
            &self.engine,
            &self.codec.coder,
            self.operation,
            placement,
            self.removal.hash(),
        )?;
        let writer = Arc::new(writer);
        open.insert(extent, Arc::clone(&writer));
        Ok(writer)
    }

    async fn commit(&self, extent: u64, share: Share, margin: Option<usize>) -> Result<(u64, WrittenExtent)> {
        let writer = self.writer(extent)?;
        let written = writer.commit(&share, margin).await?;
        if let Some(margin) = margin.filter(|margin| *margin > written.margin) {
            let text = "the holders that are left do not give the margin; start more nodes or ask for less";
            return Err(Error::new(ErrorKind::NotStored, text).with_counts(
                written.margin,
                margin,
                Vec::new(),
            ));
        }
        lock(&self.written).push((written.id, written.holders.iter().map(|(node, _)| *node).collect()));
        lock(&self.open).remove(&extent);
        lock(&self.held).remove(&extent);
        Ok((extent, written))
    }

    /// What a clean-up has to take back, and what of that holders were asked to keep without an answer so far.
    fn leftovers(&self) -> (Vec<TakeBack>, Vec<TakeBack>) {
        let mut shards: [BTreeMap<NodeId, Vec<ShardId>>; 2] = Default::default();
        let mut extents: [BTreeMap<NodeId, Vec<ExtentId>>; 2] = Default::default();
        let [kept, asked] = &mut shards;
        let [committed, unsure] = &mut extents;
        for left in lock(&self.open).values().map(|writer| writer.leftovers()) {
            for (node, shard, is_kept) in left.shards {
                if is_kept { &mut *kept } else { &mut *asked }.entry(node).or_default().push(shard);
            }
            if let Some((extent, nodes)) = left.committed {
                nodes.into_iter().for_each(|node| unsure.entry(node).or_default().push(extent));
            }
        }
        for (extent, nodes) in lock(&self.written).iter() {
            nodes.iter().for_each(|node| committed.entry(*node).or_default().push(*extent));
        }
        let sure = self.take_back(kept, committed);
        (sure, self.take_back(asked, unsure))
    }

    fn take_back(
        &self,
        shards: &BTreeMap<NodeId, Vec<ShardId>>,
        extents: &BTreeMap<NodeId, Vec<ExtentId>>,
    ) -> Vec<TakeBack> {
        let mut requests = Vec::new();
        for (node, extents) in extents {
            let batch = |part: &[ExtentId]| {
                (*node, Request::RemoveExtents { extents: part.to_vec(), secret: self.removal.clone() })
            };
            requests.extend(extents.chunks(CLEAN_UP_BATCH).map(batch));
        }
        for (node, shards) in shards {
            let batch = |part: &[ShardId]| (*node, Request::Unstage { shards: part.to_vec() });
            requests.extend(shards.chunks(CLEAN_UP_BATCH).map(batch));
        }
        requests
    }

    async fn clean_up(&self) {
        let (sure, unsure) = self.leftovers();
        self.tell(sure.into_iter().chain(unsure.clone()).collect()).await;
        if !unsure.is_empty() {
            self.engine.runtime.sleep(SETTLE).await;
            self.tell(unsure).await;
        }
    }

    async fn tell(&self, requests: Vec<TakeBack>) {
        let calls = requests
            .into_iter()
            .map(|(node, request)| self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT));
        // What a holder does not hear of now, its own sweep removes after a day, or care after seven.
        future::join_all(calls).await;
    }
}

/// Takes back what a put staged when it is dropped before it succeeded.
struct CleanUp {
    stages: Option<Arc<Stages>>,
}

impl CleanUp {
    fn disarm(&mut self) -> Option<Arc<Stages>> {
        self.stages.take()
    }
}

impl Drop for CleanUp {
    fn drop(&mut self) {
        let Some(stages) = self.stages.take() else { return };
        if is_active(Bug::DropCleanUp) {
            return;
        }
        count(&stages.engine.counters.puts_failed, 1);
        let runtime = Arc::clone(&stages.engine.runtime);
        // A runtime that is gone cleans nothing up; the holders' sweeps do.
        let _ = runtime.spawn(async move { stages.clean_up().await }.boxed());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
