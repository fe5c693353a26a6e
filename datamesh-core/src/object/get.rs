//! Getting an object: its manifest is found and opened, then its segments are read.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use async_lock::OnceCell;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Capability, Extents, Header, Layout, Manifest, segments_per_extent};
use crate::id::{ExtentId, ObjectId};
use crate::object::Engine;
use crate::object::budget::{Permit, Share};
use crate::object::buffer::BufferPool;
use crate::object::extent_read::ExtentReader;
use crate::object::manifest::find_manifest;
use crate::object::segment::{Codec, Coder, Place};
use crate::observe::count;
use crate::planted::{Bug, is_active};
use crate::ports::Redundancy;

/// What an object's manifest tells its readers.
///
/// `Debug` shows neither media type nor metadata, which are sealed in the object and have no place in a log.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The object's name.
    pub object: ObjectId,
    /// Its length in bytes.
    pub len: u64,
    /// The media type that was given with the put.
    pub media_type: Option<String>,
    /// The metadata that was given with the put.
    pub metadata: BTreeMap<String, String>,
    /// The code that it is stored with.
    pub redundancy: Redundancy,
    /// How many extents it has; 0 for an object that is kept whole in its manifest.
    pub extents: usize,
}

impl fmt::Debug for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stat")
            .field("object", &self.object)
            .field("len", &self.len)
            .field("metadata_entries", &self.metadata.len())
            .field("redundancy", &self.redundancy)
            .field("extents", &self.extents)
            .finish_non_exhaustive()
    }
}

/// An object whose manifest was found and opened.
#[derive(Debug)]
pub(crate) struct OpenObject {
    engine: Arc<Engine>,
    id: ObjectId,
    manifest: Manifest,
    header: Header,
    codec: Arc<Codec>,
    /// Extents that were needed so far.
    readers: Mutex<BTreeMap<u64, Arc<OnceCell<ExtentReader>>>>,
}

/// A segment's plaintext, and the permit for the memory that it takes.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) bytes: Bytes,
    _permit: Option<Permit>,
}

/// Finds and decodes an object's manifest; needs no key.
pub(crate) async fn open_manifest(engine: &Arc<Engine>, object: ObjectId) -> Result<Manifest> {
    let bytes = find_manifest(engine, object).await?;
    Manifest::decode(&bytes).map_err(|error| error.with_subject(object))
}

/// What codes the object's segments; needs no key.
pub(super) fn coder_of(engine: &Engine, manifest: &Manifest, buffers: &BufferPool) -> Result<Coder> {
    let public = manifest.public();
    if public.code != engine.code.id() || !engine.code.supports(public.redundancy) {
        let text = format!(
            "the object needs erasure code {} with {}, this mesh has code {}",
            public.code.0,
            public.redundancy,
            engine.code.id().0
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(Coder { code: Arc::clone(&engine.code), redundancy: public.redundancy, buffers: buffers.clone() })
}

impl OpenObject {
    /// Finds the object and opens its header with the capability's read key.
    pub(crate) async fn open(engine: &Arc<Engine>, capability: &Capability) -> Result<Arc<Self>> {
        let read_key = capability.read_key()?;
        let id = capability.object();
        let manifest = open_manifest(engine, id).await?;
        let keys = read_key.object_keys();
        let header = manifest.open(&keys, &*engine.suite).map_err(|error| error.with_subject(id))?;
        let coder = coder_of(engine, &manifest, &engine.buffers)?;
        let codec = Codec { coder, suite: Arc::clone(&engine.suite), keys, salt: manifest.public().salt };
        count(&engine.counters.gets, 1);
        Ok(Arc::new(Self {
            engine: Arc::clone(engine),
            id,
            manifest,
            header,
            codec: Arc::new(codec),
            readers: Mutex::default(),
        }))
    }

    pub(crate) fn len(&self) -> u64 {
        self.header.len
    }

    /// The error of a read, as its user is to see it.
    pub(crate) fn explain(&self, error: Error) -> Error {
        self.engine.peers.explain(error)
    }

    pub(crate) fn stat(&self) -> Stat {
        Stat {
            object: self.id,
            len: self.header.len,
            media_type: self.header.media_type.clone(),
            metadata: self.header.metadata.clone(),
            redundancy: self.manifest.public().redundancy,
            extents: match &self.manifest.public().extents {
                Extents::Inline => 0,
                Extents::Single(_) => 1,
                Extents::Many(extents) => extents.len(),
            },
        }
    }

    /// The bytes of a range that lie within the object.
    ///
    /// # Errors
    /// `InvalidInput` for a range that begins behind the object's end or ends before it begins.
    pub(crate) fn resolve(&self, range: &(Bound<u64>, Bound<u64>)) -> Result<Range<u64>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len(),
        };
        if start > self.len() || end < start {
            let text = format!("range {start}..{end} does not lie in an object of {} bytes", self.len());
            return Err(Error::new(ErrorKind::InvalidInput, text).with_subject(self.id));
        }
        Ok(start..end.min(self.len()))
    }

    /// The plaintext of a range of bytes that [`resolve`](Self::resolve) gave, in order, a segment or less at a time.
    pub(crate) fn read(
        self: &Arc<Self>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Plain>> + Send + use<> {
        let segment_len = u64::from(self.manifest.public().segment_len);
        let inline = self.header.inline.as_ref().map(|bytes| {
            let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
            Ok(Plain { bytes: bytes.slice(from.min(bytes.len())..to.min(bytes.len())), _permit: None })
        });
        let segments = if inline.is_some() || range.is_empty() {
            0..0
        } else {
            range.start / segment_len..range.end.div_ceil(segment_len)
        };
        let window = self.engine.gets.most();
        let (share, places) = (self.engine.budget.share(), self.engine.gets.share());
        let object = Arc::clone(self);
        let rest = stream::iter(segments)
            .map(move |index| {
                let (object, share, places) = (Arc::clone(&object), share.clone(), places.clone());
                let taken = if is_active(Bug::WrongSegment) { index.saturating_sub(1) } else { index };
                let base = index * segment_len;
                let wanted = range.start.saturating_sub(base)..(range.end - base).min(segment_len);
                async move { object.read_segment(taken, wanted, &share, &places).await }
            })
            .buffered(window);
        stream::iter(inline).chain(rest)
    }

    /// The memory that reading a segment takes: its shards, and the plaintext made of them.
    fn segment_bytes(&self, plain_len: u64) -> usize {
        usize::try_from(plain_len).unwrap_or(usize::MAX).saturating_mul(2)
    }

    async fn read_segment(
        &self,
        index: u64,
        wanted: Range<u64>,
        share: &Share,
        places: &Share,
    ) -> Result<Plain> {
        let segment_len = u64::from(self.manifest.public().segment_len);
        let last = (index + 1) * segment_len >= self.len();
        let plain_len = (self.len() - index * segment_len).min(segment_len);
        let turn = places.take(1).await;
        let permit = share.take(self.segment_bytes(plain_len)).await;
        let per_extent = segments_per_extent(self.codec.coder.redundancy) as u64;
        let cell = self.reader(index / per_extent).await?;
        let reader = cell.get().ok_or_else(no_extent)?;
        let within = usize::try_from(index % per_extent).unwrap_or(usize::MAX);
        let plain_len = usize::try_from(plain_len).unwrap_or(usize::MAX);
        let place = Place { index, last };
        let began = self.engine.runtime.now();
        let plain = reader.read_segment(&self.codec, within, place, plain_len).await;
        if plain.is_ok() {
            let now = self.engine.runtime.now();
            self.engine.gets.ended(turn, plain_len as u64, now - began, now);
        }
        let plain = plain.map_err(|error| {
            error.with_subject(format!("object {}, segment {index}", self.id.fmt_short()))
        })?;
        let [from, to] = [wanted.start, wanted.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        let bytes = plain.slice(from.min(plain.len())..to.min(plain.len()));
        count(&self.engine.counters.bytes_got, bytes.len() as u64);
        Ok(Plain { bytes, _permit: Some(permit) })
    }

    /// The reader of an extent, whose layout is looked for once however many segments want it.
    async fn reader(&self, extent: u64) -> Result<Arc<OnceCell<ExtentReader>>> {
        let cell = {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            // Reading goes forward: layouts far behind are not needed again, and a seek finds them anew.
            readers.retain(|other, _| other.abs_diff(extent) <= 2);
            Arc::clone(readers.entry(extent).or_default())
        };
        cell.get_or_try_init(|| open_extent(&self.engine, &self.manifest, extent)).await?;
        Ok(cell)
    }
}

/// Opens one extent of an object; its layout is in the manifest, or with the extent's holders.
pub(crate) async fn open_extent(
    engine: &Arc<Engine>,
    manifest: &Manifest,
    extent: u64,
) -> Result<ExtentReader> {
    let placement = manifest.placement_of(extent);
    match &manifest.public().extents {
        Extents::Single(layout) if extent == 0 => {
            Ok(ExtentReader::new(engine, ExtentId::of(&layout.encode()), layout.clone()))
        }
        Extents::Many(extents) => {
            let position = usize::try_from(extent).unwrap_or(usize::MAX);
            let id = extents.get(position).copied().ok_or_else(no_extent)?;
            let layout =
                ExtentReader::find_layout(engine, id, &placement, manifest.public().redundancy).await?;
            check_layout(manifest, &layout, position + 1 == extents.len())?;
            Ok(ExtentReader::new(engine, id, layout))
        }
        _ => Err(no_extent()),
    }
}

/// Checks a layout that came from elsewhere against the manifest that names it.
fn check_layout(manifest: &Manifest, layout: &Layout, last: bool) -> Result<()> {
    let public = manifest.public();
    let full = usize::from(layout.segments) == segments_per_extent(public.redundancy);
    if layout.code != public.code || layout.redundancy != public.redundancy || !(full || last) {
        let text = "an extent's layout contradicts its manifest; the writer made it wrongly";
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    Ok(())
}

fn no_extent() -> Error {
    Error::new(ErrorKind::Corrupt, "the object's length and its extents do not agree")
}
