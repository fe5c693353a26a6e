//! Where the bytes of a put come from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::io::{AsyncRead, AsyncReadExt};
use futures::stream::{BoxStream, Stream, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::object::buffer::{Buffer, BufferPool};
use crate::ports::{Files, InputFile, Runtime};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a put stores: bytes, a reader, a stream of bytes, or a file.
///
/// Made from `&str`, `String`, `&[u8]`, `Vec<u8>`, [`Bytes`], [`Path`] and [`PathBuf`] by `into()`, and by
/// [`reader`](Self::reader) and [`stream`](Self::stream).
pub struct Source(Kind);

enum Kind {
    Bytes(Bytes),
    Reader(Pin<Box<dyn AsyncRead + Send>>, Option<u64>),
    Stream(BoxStream<'static, Result<Bytes, BoxError>>),
    Path(PathBuf),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Bytes(bytes) => write!(f, "Source({} bytes)", bytes.len()),
            Kind::Reader(..) => f.write_str("Source(reader)"),
            Kind::Stream(_) => f.write_str("Source(stream)"),
            Kind::Path(path) => write!(f, "Source({})", path.display()),
        }
    }
}

impl Source {
    /// Everything that a reader gives until its end. Its error comes back as the source of the put's error.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self(Kind::Reader(Box::pin(reader), None))
    }

    /// A reader that must give exactly `len` bytes; anything else is
    /// [`SourceChanged`](ErrorKind::SourceChanged). The length lets progress have a total.
    pub fn sized_reader(reader: impl AsyncRead + Send + 'static, len: u64) -> Self {
        Self(Kind::Reader(Box::pin(reader), Some(len)))
    }

    /// Everything that a stream gives until its end. Its error comes back as the source of the put's error.
    pub fn stream<E: Into<BoxError>>(stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Self {
        Self(Kind::Stream(stream.map(|item| item.map_err(Into::into)).boxed()))
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Bytes::copy_from_slice(text.as_bytes()).into()
    }
}

impl From<&[u8]> for Source {
    fn from(bytes: &[u8]) -> Self {
        Bytes::copy_from_slice(bytes).into()
    }
}

impl<const N: usize> From<&[u8; N]> for Source {
    fn from(bytes: &[u8; N]) -> Self {
        Bytes::copy_from_slice(bytes).into()
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self(Kind::Path(path))
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        path.to_path_buf().into()
    }
}

/// An opened source, read a segment at a time.
pub(crate) struct Input {
    kind: Opened,
    len: Option<u64>,
    read: u64,
    /// A byte that was read to see whether there is one.
    peeked: Option<u8>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} of {:?} bytes)", self.read, self.len)
    }
}

enum Opened {
    Bytes(Bytes),
    Reader(Pin<Box<dyn AsyncRead + Send>>),
    Stream {
        stream: BoxStream<'static, Result<Bytes, BoxError>>,
        rest: Bytes,
        ended: bool,
    },
    /// The file travels to the pool and back with each read.
    File(Option<Box<dyn InputFile>>),
}

impl Input {
    /// Opens a source; a file is opened on the pool.
    pub(crate) async fn open(
        source: Source,
        runtime: &dyn Runtime,
        files: Option<&Arc<dyn Files>>,
    ) -> Result<Self> {
        let (kind, len) = match source.0 {
            Kind::Bytes(bytes) => {
                let len = bytes.len() as u64;
                (Opened::Bytes(bytes), Some(len))
            }
            Kind::Reader(reader, len) => (Opened::Reader(reader), len),
            Kind::Stream(stream) => (Opened::Stream { stream, rest: Bytes::new(), ended: false }, None),
            Kind::Path(path) => {
                let files = Arc::clone(files.ok_or_else(no_files)?);
                let file = runtime.compute(move || files.open(&path)).await??;
                let len = file.len();
                (Opened::File(Some(file)), Some(len))
            }
        };
        Ok(Self { kind, len, read: 0, peeked: None })
    }

    /// How many bytes there are in all, where that is known ahead.
    pub(crate) fn len(&self) -> Option<u64> {
        self.len
    }

    /// Fills the first `wanted` bytes of the buffer, fewer only at the end, and says how many.
    ///
    /// # Errors
    /// `SourceFailed` with the source's own error, `SourceChanged` when it is shorter than it said.
    pub(crate) async fn fill(
        &mut self,
        mut buffer: Buffer,
        wanted: usize,
        runtime: &dyn Runtime,
    ) -> Result<(Buffer, usize)> {
        let mut filled = 0;
        if let (Some(first), Some(byte)) = (buffer.as_mut().first_mut(), self.peeked.take()) {
            *first = byte;
            filled = 1;
        }
        while filled < wanted {
            let (back, got) = self.read_some(buffer, filled, wanted, runtime).await?;
            buffer = back;
            if got == 0 {
                break;
            }
            filled += got;
        }
        self.read += filled as u64;
        match self.len {
            Some(len) if filled < wanted && self.read < len => Err(changed(len, &self.read.to_string())),
            _ => Ok((buffer, filled)),
        }
    }

    /// Whether the last [`ended`](Self::ended) found the end.
    pub(crate) fn is_ended(&self) -> bool {
        self.peeked.is_none() && self.len.is_none_or(|len| self.read >= len)
    }

    /// Whether everything was read. Where the length is not known, this reads a byte ahead.
    ///
    /// # Errors
    /// `SourceFailed`; `SourceChanged` when there is more than the source said.
    pub(crate) async fn ended(&mut self, buffers: &BufferPool, runtime: &dyn Runtime) -> Result<bool> {
        if self.len.is_some_and(|len| self.read < len) {
            return Ok(false);
        }
        let (buffer, got) = self.read_some(buffers.take(1), 0, 1, runtime).await?;
        self.peeked = buffer.as_ref().first().copied().filter(|_| got > 0);
        match (self.len, self.peeked) {
            (Some(len), Some(_)) => Err(changed(len, "more")),
            (_, peeked) => Ok(peeked.is_none()),
        }
    }

    async fn read_some(
        &mut self,
        mut buffer: Buffer,
        from: usize,
        to: usize,
        runtime: &dyn Runtime,
    ) -> Result<(Buffer, usize)> {
        let Some(window) = buffer.as_mut().get_mut(from..to) else { return Ok((buffer, 0)) };
        let got = match &mut self.kind {
            Opened::Bytes(bytes) => copy_from(bytes, window),
            Opened::Reader(reader) => reader.read(window).await.map_err(failed)?.min(window.len()),
            Opened::Stream { stream, rest, ended } => {
                while rest.is_empty() && !*ended {
                    match stream.next().await {
                        Some(next) => *rest = next.map_err(failed)?,
                        None => *ended = true,
                    }
                }
                copy_from(rest, window)
            }
            Opened::File(slot) => {
                let mut file =
                    slot.take().ok_or_else(|| failed("the file was lost in an earlier failure"))?;
                let (file, buffer, got) = runtime
                    .compute(move || {
                        let got = buffer
                            .as_mut()
                            .get_mut(from..to)
                            .map_or(Ok(0), |window| read_full(&mut *file, window));
                        (file, buffer, got)
                    })
                    .await?;
                *slot = Some(file);
                return Ok((buffer, got.map_err(failed)?));
            }
        };
        Ok((buffer, got))
    }
}

fn copy_from(bytes: &mut Bytes, window: &mut [u8]) -> usize {
    let count = bytes.len().min(window.len());
    bytes.copy_to_slice(window.split_at_mut(count).0);
    count
}

fn read_full(file: &mut dyn InputFile, mut window: &mut [u8]) -> std::io::Result<usize> {
    let mut total = 0;
    while !window.is_empty() {
        let got = file.read(window)?.min(window.len());
        if got == 0 {
            break;
        }
        total += got;
        window = window.split_at_mut(got).1;
    }
    Ok(total)
}

fn failed(source: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::SourceFailed, "reading what to store failed; its error is the source of this one")
        .with_source(source)
}

fn changed(said: u64, gave: &str) -> Error {
    Error::new(
        ErrorKind::SourceChanged,
        format!("the source said {said} bytes and gave {gave}; put it again when nothing writes to it"),
    )
}

fn no_files() -> Error {
    Error::new(ErrorKind::Unsupported, "this mesh was built without access to files; give bytes or a reader")
}
