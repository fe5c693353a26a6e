//! One request value for each verb: options first, then `.await`.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use tracing::Instrument;

use crate::care::{RepairReport, repair_object};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Capability;
use crate::id::OperationId;
use crate::mesh::Mesh;
use crate::object::{
    Engine, Explanation, Health, ObjectReader, ObjectStream, OpenObject, Progress, ProgressFn, PutOptions,
    Receipt, Removal, Source, Stat, explain, health, put, remove,
};
use crate::peers::closed;
use crate::ports::Redundancy;

/// Runs a request under its deadline and its span; refuses at once when the mesh is shut down.
pub(super) async fn run<T>(
    mesh: Mesh,
    operation: &'static str,
    deadline: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    if mesh.core().tasks.is_stopped() {
        return Err(closed().with_operation(operation));
    }
    let span = tracing::debug_span!("datamesh", operation, node = %mesh.node_id().fmt_short());
    let work = work.instrument(span);
    let result = match deadline {
        None => work.await,
        Some(limit) => mesh.core().engine.runtime.timeout(limit, work).await.and_then(|result| result),
    };
    result.map_err(|error| {
        let error = mesh.core().engine.peers.explain(error);
        if error.operation().is_some() { error } else { error.with_operation(operation) }
    })
}

macro_rules! simple_request {
    ($(#[$doc:meta])* $name:ident => $output:ty, $operation:literal, $run:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "a request does nothing until it is awaited"]
        pub struct $name {
            mesh: Mesh,
            capability: Capability,
            deadline: Option<Duration>,
        }

        impl $name {
            pub(super) fn new(mesh: Mesh, capability: Capability) -> Self {
                Self { mesh, capability, deadline: None }
            }

            /// Gives up with `TimedOut` after this time. Without it, each step has a limit of its own.
            pub fn deadline(mut self, limit: Duration) -> Self {
                self.deadline = Some(limit);
                self
            }
        }

        impl IntoFuture for $name {
            type Output = Result<$output>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                let engine = self.mesh.engine();
                let work = $run(engine, self.capability);
                Box::pin(run(self.mesh, $operation, self.deadline, work))
            }
        }
    };
}

simple_request! {
    /// Reads what an object's manifest tells; see [`Mesh::stat`].
    ///
    /// # Errors
    /// `AccessDenied` for a verify capability or one that does not open the object; `NotFound`; `Unavailable`.
    ///
    /// # Cancel safety
    /// Safe to drop.
    StatRequest => Stat, "stat", stat
}

simple_request! {
    /// Removes an object; see [`Mesh::remove`].
    ///
    /// # Errors
    /// `AccessDenied` without the own capability; `NotFound`; `Unavailable` when its manifest cannot be had.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the object partly removed; remove it again.
    Remove => Removal, "remove", remove
}

simple_request! {
    /// Asks how well an object is kept; see [`Mesh::health`].
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when its manifest or a layout cannot be had.
    ///
    /// # Cancel safety
    /// Safe to drop.
    HealthCheck => Health, "health", health
}

simple_request! {
    /// Says where an object is and why; see [`Mesh::explain`].
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when its manifest or a layout cannot be had.
    ///
    /// # Cancel safety
    /// Safe to drop.
    Explain => Explanation, "explain", explain
}

/// Rebuilds what is missing of an object; see [`Mesh::repair`].
///
/// # Errors
/// `NotFound`; `Unavailable` when its manifest, a layout or k shards of a segment cannot be had; `Unsupported` for
/// a code that this mesh has not. Holders that take nothing are no error: the report says what margin was reached.
///
/// # Cancel safety
/// Safe to drop: what reached its holder stays, and the rest can be repaired again.
#[must_use = "a request does nothing until it is awaited"]
pub struct Repair {
    mesh: Mesh,
    capability: Capability,
    bytes_per_second: Option<u64>,
    progress: Option<ProgressFn>,
    deadline: Option<Duration>,
}

impl fmt::Debug for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repair({:?})", self.capability)
    }
}

impl Repair {
    pub(super) fn new(mesh: Mesh, capability: Capability) -> Self {
        Self { mesh, capability, bytes_per_second: None, progress: None, deadline: None }
    }

    /// How many bytes may be moved in a second; by default as many as the links carry.
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }

    /// Calls back after each extent with how many were looked at, of how many. The callback must not block.
    pub fn progress(mut self, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// Gives up with `TimedOut` after this time. Without it, each step has a limit of its own.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }
}

impl IntoFuture for Repair {
    type Output = Result<RepairReport>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let work = repair_object(self.mesh.engine(), self.bytes_per_second, self.capability, self.progress);
        Box::pin(run(self.mesh, "repair", self.deadline, work))
    }
}

async fn stat(engine: Arc<Engine>, capability: Capability) -> Result<Stat> {
    Ok(OpenObject::open(&engine, &capability).await?.stat())
}

/// Stores an object; see [`Mesh::put`].
///
/// # Errors
/// `NotStored` when the margin that was asked for cannot be reached, with how many holders answered;
/// `OutcomeUnknown` when the manifest may have been stored; `SourceFailed` with the source's own error;
/// `SourceChanged`; `Unsupported`; `LimitExceeded` for too much metadata; `TimedOut`.
///
/// # Cancel safety
/// Dropping the future gives the put up; what was staged is taken back in the background. Once the manifest is
/// under way the object may exist, though nobody has its capability.
#[must_use = "a request does nothing until it is awaited"]
pub struct Put {
    mesh: Mesh,
    source: Source,
    options: PutOptions,
    deadline: Option<Duration>,
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Put({:?}, {})", self.source, self.options.redundancy)
    }
}

impl Put {
    pub(super) fn new(mesh: Mesh, source: Source) -> Self {
        let options = PutOptions {
            redundancy: mesh.core().engine.redundancy,
            margin: None,
            media_type: None,
            metadata: Default::default(),
            progress: None,
            operation: None,
        };
        Self { mesh, source, options, deadline: None }
    }

    /// The redundancy of this object; by default the mesh's own.
    pub fn redundancy(mut self, redundancy: Redundancy) -> Self {
        self.options.redundancy = redundancy;
        self
    }

    /// The margin at which the put is acknowledged, at most m; what is missing then is finished in the background.
    /// By default the best that the live members allow.
    pub fn margin(mut self, margin: usize) -> Self {
        self.options.margin = Some(margin);
        self
    }

    /// A media type, kept sealed.
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.options.media_type = Some(media_type.into());
        self
    }

    /// A key and a value of the user's own, kept sealed; with the media type at most 16 KiB in all.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.metadata.insert(key.into(), value.into());
        self
    }

    /// The operation id that holders see; by default a random one.
    pub fn operation(mut self, operation: OperationId) -> Self {
        self.options.operation = Some(operation);
        self
    }

    /// Calls back whenever more is staged. The callback must not block.
    pub fn progress(mut self, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.options.progress = Some(Arc::new(progress));
        self
    }

    /// Gives up with `TimedOut` after this time. Without it, each step has a limit of its own.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }
}

impl IntoFuture for Put {
    type Output = Result<Receipt>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let work = put(self.mesh.engine(), self.source, self.options);
        Box::pin(run(self.mesh, "put", self.deadline, work))
    }
}

/// Reads an object; see [`Mesh::get`]. Awaited, it gives the bytes; [`reader`](Self::reader),
/// [`stream`](Self::stream) and [`to_path`](Self::to_path) give them otherwise, in bounded memory.
///
/// # Errors
/// `AccessDenied` for a verify capability or one that does not open the object; `NotFound` when every member proved
/// that it does not have it; `Unavailable` with have, need and who was missing; `Corrupt` when the right shards are
/// gone; `LimitExceeded` for an object that is too long for one `Bytes`; `InvalidInput` for a range outside it.
///
/// # Cancel safety
/// Safe to drop.
#[must_use = "a request does nothing until it is awaited"]
pub struct Get {
    mesh: Mesh,
    capability: Capability,
    range: (Bound<u64>, Bound<u64>),
    progress: Option<ProgressFn>,
    deadline: Option<Duration>,
}

impl fmt::Debug for Get {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Get({:?}, {:?})", self.capability, self.range)
    }
}

impl Get {
    pub(super) fn new(mesh: Mesh, capability: Capability) -> Self {
        Self { mesh, capability, range: (Bound::Unbounded, Bound::Unbounded), progress: None, deadline: None }
    }

    /// Only these bytes; an end behind the object's is the object's.
    pub fn range(mut self, range: impl RangeBounds<u64>) -> Self {
        self.range = (range.start_bound().cloned(), range.end_bound().cloned());
        self
    }

    /// Calls back whenever more was read. The callback must not block.
    pub fn progress(mut self, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// Gives up with `TimedOut` after this time: for a reader or stream, the time until it is there.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// As a reader that can seek.
    pub fn reader(self) -> OpenReader {
        OpenReader(self)
    }

    /// As a stream of chunks of up to a segment, which are handed out without a copy.
    pub fn stream(self) -> OpenStream {
        OpenStream(self)
    }

    /// As a file, which appears under this path when it is complete and synced. The path must not exist.
    pub fn to_path(self, path: impl Into<PathBuf>) -> GetToPath {
        GetToPath(self, path.into())
    }

    async fn open_stream(&self) -> Result<ObjectStream> {
        let object = OpenObject::open(&self.mesh.core().engine, &self.capability).await?;
        let range = object.resolve(&self.range)?;
        Ok(ObjectStream::new(&object, range, self.progress.clone()))
    }

    async fn bytes(&self) -> Result<Bytes> {
        let mut stream = self.open_stream().await?;
        let limit = self.mesh.core().limits.get_bytes;
        let total = usize::try_from(stream.total()).unwrap_or(usize::MAX);
        if stream.total() > limit {
            let text = format!(
                "{total} bytes are more than the {limit} that get returns at once; read them as a stream"
            );
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        let first = stream.next().await.transpose()?.unwrap_or_default();
        if first.len() == total {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(total);
        whole.extend_from_slice(&first);
        drop(first);
        while let Some(chunk) = stream.next().await.transpose()? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    async fn write_file(&self, path: PathBuf) -> Result<u64> {
        let engine = &self.mesh.core().engine;
        let files = engine.files.clone().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this mesh was built without access to files; use a reader")
        })?;
        let mut stream = self.open_stream().await?;
        let total = stream.total();
        let mut file = engine.runtime.compute(move || files.create(&path)).await??;
        while let Some(chunk) = stream.next().await.transpose()? {
            file = engine
                .runtime
                .compute(move || file.write(&chunk).map(|()| file))
                .await?
                .map_err(|error| Error::io("the output file could not be written", error))?;
        }
        engine.runtime.compute(move || file.finish()).await??;
        Ok(total)
    }
}

impl IntoFuture for Get {
    type Output = Result<Bytes>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (mesh, deadline) = (self.mesh.clone(), self.deadline);
        Box::pin(run(mesh, "get", deadline, async move { self.bytes().await }))
    }
}

/// Opens an object as an [`ObjectReader`]; see [`Get::reader`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct OpenReader(Get);

impl IntoFuture for OpenReader {
    type Output = Result<ObjectReader>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self(get) = self;
        let (mesh, deadline) = (get.mesh.clone(), get.deadline);
        let work = async move {
            let object = OpenObject::open(&get.mesh.core().engine, &get.capability).await?;
            let range = object.resolve(&get.range)?;
            Ok(ObjectReader::new(object, range, get.progress.clone()))
        };
        Box::pin(run(mesh, "get", deadline, work))
    }
}

/// Opens an object as an [`ObjectStream`]; see [`Get::stream`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct OpenStream(Get);

impl IntoFuture for OpenStream {
    type Output = Result<ObjectStream>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self(get) = self;
        let (mesh, deadline) = (get.mesh.clone(), get.deadline);
        Box::pin(run(mesh, "get", deadline, async move { get.open_stream().await }))
    }
}

/// Writes an object to a file and gives its length; see [`Get::to_path`].
///
/// # Errors
/// Those of [`Get`]; `AlreadyExists`, `Io`, `StorageFull`, `AccessDenied` for the file.
///
/// # Cancel safety
/// Dropping the future removes what was written; nothing stands at the path.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct GetToPath(Get, PathBuf);

impl IntoFuture for GetToPath {
    type Output = Result<u64>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self(get, path) = self;
        let (mesh, deadline) = (get.mesh.clone(), get.deadline);
        Box::pin(run(mesh, "get", deadline, async move { get.write_file(path).await }))
    }
}
