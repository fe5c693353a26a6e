//! What both stores refuse before they change anything.

use bytes::Bytes;
use datamesh_core::ports::{BatchStep, MAX_BLOB_LEN, MAX_KEY_LEN, MAX_VALUE_LEN};
use datamesh_core::{Error, ErrorKind, Result};

/// The values in one page of a scan take at most this many bytes together, unless one alone is larger.
pub(crate) const PAGE_BYTES: usize = 4 << 20;

/// Refuses a blob over its limit.
pub(crate) fn check_blob(bytes: &Bytes) -> Result<()> {
    check("a blob", bytes.len(), MAX_BLOB_LEN)
}

/// Refuses a batch that has a key or value over its limit.
pub(crate) fn check_steps(steps: &[BatchStep]) -> Result<()> {
    for step in steps {
        match step {
            BatchStep::Put { key, value, .. } => {
                check("a record's key", key.len(), MAX_KEY_LEN)?;
                check("a record's value", value.len(), MAX_VALUE_LEN)?;
            }
            BatchStep::Delete { key, .. } => check("a record's key", key.len(), MAX_KEY_LEN)?,
            _ => {}
        }
    }
    Ok(())
}

/// The bytes that a batch would add at most: none when it only removes.
pub(crate) fn added_bytes(steps: &[BatchStep]) -> u64 {
    let added = |step: &BatchStep| match step {
        BatchStep::Put { key, value, .. } => (key.len() + value.len()) as u64,
        _ => 0,
    };
    steps.iter().map(added).sum()
}

/// The error of a store that has no room for `needed` more bytes; `why` also says what to do.
pub(crate) fn full(needed: u64, available: u64, why: &str) -> Error {
    let text = format!("the store has room for {available} bytes and {needed} are needed: {why}");
    Error::new(ErrorKind::StorageFull, text)
}

/// The error of every call after `close`.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store is closed; open it again to use it")
}

fn check(what: &str, length: usize, limit: usize) -> Result<()> {
    if length <= limit {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::LimitExceeded,
        format!("{what} has {length} bytes, the limit is {limit}; split it"),
    ))
}
