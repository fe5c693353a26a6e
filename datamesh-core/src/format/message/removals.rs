//! What nodes tell each other of removals.

use crate::error::Result;
use crate::format::cbor::Reader;
use crate::format::keys::RemovalSecret;
use crate::id::ID_LEN;

/// The most removals that one message tells of, and the most extents that one asks the manifests of.
pub const MAX_REMOVALS: usize = 1024;

/// An object or extent that was removed, and the secret that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The object's or extent's name.
    pub id: [u8; ID_LEN],
    /// The removal secret.
    pub secret: RemovalSecret,
}

impl Removed {
    /// The name, then the secret.
    pub(super) fn to_bytes(&self) -> [u8; 2 * ID_LEN] {
        let mut bytes = [0; 2 * ID_LEN];
        let (id, secret) = bytes.split_at_mut(ID_LEN);
        id.copy_from_slice(&self.id);
        secret.copy_from_slice(self.secret.as_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; 2 * ID_LEN]) -> Self {
        let (mut id, mut secret) = ([0; ID_LEN], [0; ID_LEN]);
        let (first, second) = bytes.split_at(ID_LEN);
        id.copy_from_slice(first);
        secret.copy_from_slice(second);
        Self { id, secret: RemovalSecret::from_bytes(secret) }
    }
}

pub(super) fn read_removals(reader: &mut Reader<'_>) -> Result<Vec<Removed>> {
    reader.names(2, "removals", MAX_REMOVALS, Removed::from_bytes)
}

/// Reads one byte for each extent: 1 where a manifest names it, and 0 where none does.
pub(super) fn read_named(reader: &mut Reader<'_>) -> Result<Vec<bool>> {
    let named = reader.names(2, "answers", MAX_REMOVALS, |[answer]: [u8; 1]| answer)?;
    match named.iter().find(|answer| **answer > 1) {
        Some(other) => Err(reader.malformed(&format!("an answer is 0 or 1, got {other}"))),
        None => Ok(named.into_iter().map(|answer| answer == 1).collect()),
    }
}
