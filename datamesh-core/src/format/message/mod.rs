//! Heads of the messages that nodes exchange; bodies are raw bytes beside them.

use bytes::Bytes;
use minicbor::Encoder;

use crate::error::Result;
use crate::format::cbor::{Reader, Writer};
use crate::format::record::MAX_RECORD_LEN;

mod removals;
mod reply;
mod request;
mod survey;

pub use removals::{MAX_REMOVALS, Removed};
pub use reply::{Refusal, Reply};
pub use request::Request;
pub use survey::{MAX_SURVEYED, Possession};

/// The most node records of one message; a mesh of more exchanges them in pages. All of them must
/// still fit a head of 1 MiB.
pub const MAX_RECORDS_OF_MESSAGE: usize = 256;

/// The most shards or extents that one message takes back or removes.
pub const MAX_IDS_OF_MESSAGE: usize = 4096;

/// The most extents that one message asks about, since each answer lists up to 256 indexes.
pub const MAX_EXTENTS_DESCRIBED: usize = 256;

/// The longest text of a refusal, in bytes; longer texts are cut when they are sent.
pub const MAX_REFUSAL_TEXT_LEN: usize = 256;

/// The most shards that a stripe can have, and so the most indexes that one holder keeps of it.
const MAX_INDEXES: usize = 256;

/// The key of the number that says which request or reply it is.
pub(super) const KIND_KEY: u64 = 1;

/// What writing a list gives; writing to a vector cannot fail.
pub(super) type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

pub(super) fn open(code: u16) -> Writer {
    let mut writer = Writer::with_capacity(128);
    writer.uint(KIND_KEY, u64::from(code));
    writer
}

pub(super) fn write_records(encoder: &mut Encoder<&mut Vec<u8>>, records: &[Bytes]) -> Written {
    encoder.array(records.len() as u64)?;
    for record in records {
        encoder.bytes(record)?;
    }
    Ok(())
}

pub(super) fn read_records(reader: &mut Reader<'_>) -> Result<Vec<Bytes>> {
    let records = reader.list(2, "records", MAX_RECORDS_OF_MESSAGE, |decoder| decoder.bytes())?;
    if let Some(long) = records.iter().find(|record| record.len() > MAX_RECORD_LEN) {
        let text = format!("a record is at most {MAX_RECORD_LEN} bytes, got {}", long.len());
        return Err(reader.malformed(&text));
    }
    Ok(records.into_iter().map(Bytes::copy_from_slice).collect())
}

pub(super) fn check_indexes(reader: &Reader<'_>, indexes: &[u8]) -> Result<Vec<u8>> {
    if indexes.len() > MAX_INDEXES || !indexes.is_sorted_by(|a, b| a < b) {
        return Err(reader.malformed("shard indexes are not in ascending order"));
    }
    Ok(indexes.to_vec())
}
