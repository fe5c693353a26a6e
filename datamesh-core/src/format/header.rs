//! The sealed part of a manifest, opened.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use minicbor::Encoder;

use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::{MAX_OBJECT_LEN, TAG_LEN};

/// The longest object that is kept inside its manifest, in bytes.
pub const MAX_INLINE_LEN: usize = 16 << 10;

/// The longest media type, metadata keys and values together, in bytes.
pub const MAX_METADATA_LEN: usize = 16 << 10;

/// The most entries of metadata, so that their lengths take little beside them.
pub const MAX_METADATA_ENTRIES: usize = 1024;

/// What the encoding of a header takes beside its data and texts, in bytes: six for each entry, rounded up.
const HEADER_OVERHEAD: usize = 8 << 10;

const MAX_HEADER_LEN: usize = MAX_INLINE_LEN + MAX_METADATA_LEN + HEADER_OVERHEAD;

/// The longest sealed part of a manifest, in bytes.
pub(super) const MAX_SEALED_LEN: usize = MAX_HEADER_LEN + TAG_LEN;

/// What a reader learns of an object before its bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The object's true length in bytes.
    pub len: u64,
    /// The media type, `text/plain` for instance.
    pub media_type: Option<String>,
    /// The user's own keys and values.
    pub metadata: BTreeMap<String, String>,
    /// The object's bytes, where it is kept inside its manifest.
    pub inline: Option<Bytes>,
}

impl fmt::Debug for Header {
    /// Prints lengths only: the values are the user's plaintext.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Header({} bytes, {} bytes of metadata in {} entries, {} bytes inline)",
            self.len,
            self.texts_len(),
            self.metadata.len(),
            self.inline.as_ref().map_or(0, Bytes::len)
        )
    }
}

impl Header {
    /// The plaintext of the sealed part, with room for the tag, in a buffer that never moved.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(MAX_SEALED_LEN);
        writer.uint(1, self.len);
        if let Some(media_type) = &self.media_type {
            writer.text(2, media_type);
        }
        if !self.metadata.is_empty() {
            writer.field(3, |encoder| write_metadata(encoder, &self.metadata));
        }
        if let Some(inline) = &self.inline {
            writer.bytes(4, inline);
        }
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader =
            Reader::open(bytes, MAX_HEADER_LEN, "a header", ErrorKind::Corrupt, Unknown::Refuse)?;
        let header = Self {
            len: reader.uint(1, "length")?,
            media_type: match reader.has(2)? {
                true => Some(reader.text(2, "media type")?.to_owned()),
                false => None,
            },
            metadata: read_metadata(&mut reader)?,
            inline: match reader.has(4)? {
                true => Some(Bytes::copy_from_slice(reader.bytes(4, "inline data")?)),
                false => None,
            },
        };
        reader.finish()?;
        Ok(header)
    }

    /// Checks the header by itself; the text says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let checks = [
            ("bytes of an object", self.len, MAX_OBJECT_LEN),
            ("bytes of metadata", self.texts_len() as u64, MAX_METADATA_LEN as u64),
            ("entries of metadata", self.metadata.len() as u64, MAX_METADATA_ENTRIES as u64),
            ("bytes inline", self.inline.as_ref().map_or(0, Bytes::len) as u64, MAX_INLINE_LEN as u64),
        ];
        match checks.into_iter().find(|(_, have, most)| have > most) {
            Some((what, have, most)) => Err(format!("{what} are at most {most}, got {have}")),
            None => Ok(()),
        }
    }

    /// Checks the header of a put.
    pub(crate) fn check_limits(&self) -> Result<()> {
        self.check().map_err(|text| Error::new(ErrorKind::LimitExceeded, text))
    }

    fn texts_len(&self) -> usize {
        let metadata: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        metadata + self.media_type.as_ref().map_or(0, String::len)
    }
}

fn write_metadata(
    encoder: &mut Encoder<&mut Vec<u8>>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.map(metadata.len() as u64)?;
    for (key, value) in metadata {
        encoder.str(key)?.str(value)?;
    }
    Ok(())
}

fn read_metadata(reader: &mut Reader<'_>) -> Result<BTreeMap<String, String>> {
    if !reader.has(3)? {
        return Ok(BTreeMap::new());
    }
    let entries = reader.map(3, "metadata", MAX_METADATA_ENTRIES, |decoder| {
        Ok((decoder.str()?.to_owned(), decoder.str()?.to_owned()))
    })?;
    let count = entries.len();
    let metadata: BTreeMap<_, _> = entries.into_iter().collect();
    if metadata.len() != count {
        return Err(reader.malformed("a metadata key comes twice"));
    }
    Ok(metadata)
}
