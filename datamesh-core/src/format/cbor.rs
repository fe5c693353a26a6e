//! The subset of CBOR (RFC 8949) that the formats are made of: one map with small unsigned keys in
//! ascending order, version first, and no value that nests deeper than a list.

use minicbor::{Decoder, Encoder, decode};

use crate::error::{Error, ErrorKind, Result};
use crate::format::FORMAT_VERSION;

/// The key of the version in every map.
const VERSION_KEY: u64 = 0;

/// The first byte of a map whose length fits into it.
const SHORT_MAP: u8 = 0xa0;

/// Writes one map. Fields must come in ascending order of their keys.
pub(super) struct Writer {
    buffer: Vec<u8>,
    fields: u8,
}

impl Writer {
    /// A map that holds the version, in a buffer that does not move before it holds `capacity` bytes.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity);
        buffer.push(SHORT_MAP);
        let mut writer = Self { buffer, fields: 0 };
        writer.uint(VERSION_KEY, u64::from(FORMAT_VERSION));
        writer
    }

    /// Writes a number.
    pub(super) fn uint(&mut self, key: u64, value: u64) {
        self.field(key, |encoder| encoder.u64(value).map(drop));
    }

    /// Writes a byte string.
    pub(super) fn bytes(&mut self, key: u64, value: &[u8]) {
        self.field(key, |encoder| encoder.bytes(value).map(drop));
    }

    /// Writes a text.
    pub(super) fn text(&mut self, key: u64, value: &str) {
        self.field(key, |encoder| encoder.str(value).map(drop));
    }

    /// Writes names as one byte string.
    pub(super) fn names<'a, const N: usize>(&mut self, key: u64, names: impl Iterator<Item = &'a [u8; N]>) {
        let mut joined = Vec::with_capacity(names.size_hint().0 * N);
        names.for_each(|name| joined.extend_from_slice(name));
        self.bytes(key, &joined);
    }

    /// Writes whatever `value` writes; it must be exactly one value.
    pub(super) fn field<E>(
        &mut self,
        key: u64,
        value: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> std::result::Result<(), E>,
    ) {
        let mut encoder = Encoder::new(&mut self.buffer);
        // Writing to a vector cannot fail, so there is no error to look at.
        let _ = encoder.u64(key);
        let _ = value(&mut encoder);
        self.fields = self.fields.saturating_add(1);
    }

    /// The finished map.
    pub(super) fn finish(mut self) -> Vec<u8> {
        debug_assert!(self.fields < 24, "a longer map needs a longer first byte");
        if let Some(first) = self.buffer.first_mut() {
            *first = SHORT_MAP | self.fields;
        }
        self.buffer
    }
}

/// What to do with a key that this version does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Refuse it: the value is hashed, signed or sealed, and half understood is not understood.
    Refuse,
    /// Skip it: a newer node may say more in a message than this one understands.
    Skip,
}

/// Reads one map, field by field in ascending order of their keys.
pub(super) struct Reader<'b> {
    decoder: Decoder<'b>,
    what: &'static str,
    kind: ErrorKind,
    unknown: Unknown,
    fields_left: u64,
    key: Option<u64>,
}

impl<'b> Reader<'b> {
    /// Opens a map of at most `max_len` bytes and checks its version.
    pub(super) fn open(
        bytes: &'b [u8],
        max_len: usize,
        what: &'static str,
        kind: ErrorKind,
        unknown: Unknown,
    ) -> Result<Self> {
        if bytes.len() > max_len {
            let text = format!("{what} is at most {max_len} bytes, got {}", bytes.len());
            return Err(Error::new(kind, text));
        }
        let mut reader =
            Self { decoder: Decoder::new(bytes), what, kind, unknown, fields_left: 0, key: None };
        reader.fields_left =
            reader.decoder.map().ok().flatten().ok_or_else(|| reader.malformed("not a map"))?;
        reader.advance()?;
        let version: u64 = reader.uint(VERSION_KEY, "version")?;
        if version != u64::from(FORMAT_VERSION) {
            return Err(reader.unsupported(&format!("version {version}")));
        }
        Ok(reader)
    }

    /// An error of the reader's kind that says what is wrong and where.
    pub(super) fn malformed(&self, why: &str) -> Error {
        let text = format!("{} is malformed near byte {}: {why}", self.what, self.decoder.position());
        Error::new(self.kind, text)
    }

    /// An error for something that a later version may define.
    pub(super) fn unsupported(&self, name: &str) -> Error {
        let text = format!("{} has {name}, which this build does not know; upgrade datamesh", self.what);
        Error::new(ErrorKind::Unsupported, text)
    }

    /// Whether the next field has this key. Unknown fields before it are skipped or refused.
    pub(super) fn has(&mut self, key: u64) -> Result<bool> {
        while self.key.is_some_and(|next| next < key) {
            self.unknown_field()?;
        }
        Ok(self.key == Some(key))
    }

    /// Reads a number that fits `T`.
    pub(super) fn uint<T: TryFrom<u64>>(&mut self, key: u64, name: &str) -> Result<T> {
        let value = self.value(key, name, |decoder| decoder.u64())?;
        T::try_from(value).map_err(|_| self.malformed(&format!("{name} is out of range, got {value}")))
    }

    /// Reads a byte string.
    pub(super) fn bytes(&mut self, key: u64, name: &str) -> Result<&'b [u8]> {
        self.value(key, name, |decoder| decoder.bytes())
    }

    /// Reads a byte string of exactly `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, key: u64, name: &str) -> Result<[u8; N]> {
        let bytes = self.bytes(key, name)?;
        bytes.try_into().map_err(|_| self.malformed(&format!("{name} is {N} bytes, got {}", bytes.len())))
    }

    /// Reads a text.
    pub(super) fn text(&mut self, key: u64, name: &str) -> Result<&'b str> {
        self.value(key, name, |decoder| decoder.str())
    }

    /// Reads at most `max` names of `N` bytes from one byte string.
    pub(super) fn names<const N: usize, T>(
        &mut self,
        key: u64,
        name: &str,
        max: usize,
        make: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let bytes = self.bytes(key, name)?;
        let (names, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(
                self.malformed(&format!("{name} are {N} bytes each, got {} bytes in all", bytes.len()))
            );
        }
        self.check_count(name, names.len() as u64, max)?;
        Ok(names.iter().copied().map(make).collect())
    }

    /// Reads a list of at most `max` values, each of which `item` reads.
    pub(super) fn list<T>(
        &mut self,
        key: u64,
        name: &str,
        max: usize,
        item: impl FnMut(&mut Decoder<'b>) -> Result<T, decode::Error>,
    ) -> Result<Vec<T>> {
        self.require(key, name)?;
        let count = self.decoder.array().ok().flatten();
        let count = count.ok_or_else(|| self.malformed(&format!("{name} is no list")))?;
        self.items(name, count, max, item)
    }

    /// Reads a map of at most `max` entries, each of which `item` reads whole.
    pub(super) fn map<T>(
        &mut self,
        key: u64,
        name: &str,
        max: usize,
        item: impl FnMut(&mut Decoder<'b>) -> Result<T, decode::Error>,
    ) -> Result<Vec<T>> {
        self.require(key, name)?;
        let count = self.decoder.map().ok().flatten();
        let count = count.ok_or_else(|| self.malformed(&format!("{name} is no map")))?;
        self.items(name, count, max, item)
    }

    /// Checks that nothing is left: no known field, and no byte behind the map.
    pub(super) fn finish(mut self) -> Result<()> {
        while self.key.is_some() {
            self.unknown_field()?;
        }
        if self.decoder.position() != self.decoder.input().len() {
            return Err(self.malformed("bytes follow its end"));
        }
        Ok(())
    }

    fn items<T>(
        &mut self,
        name: &str,
        count: u64,
        max: usize,
        mut item: impl FnMut(&mut Decoder<'b>) -> Result<T, decode::Error>,
    ) -> Result<Vec<T>> {
        self.check_count(name, count, max)?;
        let mut items = Vec::new();
        for _ in 0..count {
            let value = item(&mut self.decoder);
            items.push(value.map_err(|error| self.malformed(&format!("{name}: {error}")))?);
        }
        self.advance()?;
        Ok(items)
    }

    fn check_count(&self, name: &str, count: u64, max: usize) -> Result<()> {
        if count > max as u64 {
            return Err(self.malformed(&format!("{name} are at most {max}, got {count}")));
        }
        Ok(())
    }

    fn value<T>(
        &mut self,
        key: u64,
        name: &str,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, decode::Error>,
    ) -> Result<T> {
        self.require(key, name)?;
        let value = read(&mut self.decoder).map_err(|error| self.malformed(&format!("{name}: {error}")))?;
        self.advance()?;
        Ok(value)
    }

    fn require(&mut self, key: u64, name: &str) -> Result<()> {
        if self.has(key)? { Ok(()) } else { Err(self.malformed(&format!("{name} (field {key}) is missing"))) }
    }

    fn unknown_field(&mut self) -> Result<()> {
        let key = self.key.unwrap_or_default();
        if self.unknown == Unknown::Refuse {
            return Err(self.unsupported(&format!("field {key}")));
        }
        self.decoder.skip().map_err(|_| self.malformed("an unknown field is cut short"))?;
        self.advance()
    }

    /// Reads the next key, which must be greater than the last one: so no key comes twice.
    fn advance(&mut self) -> Result<()> {
        let last = self.key.take();
        if self.fields_left == 0 {
            return Ok(());
        }
        self.fields_left -= 1;
        let key = self.decoder.u64().map_err(|_| self.malformed("a key is no number"))?;
        if last.is_some_and(|last| last >= key) {
            return Err(self.malformed(&format!("key {key} is out of order")));
        }
        self.key = Some(key);
        Ok(())
    }
}
