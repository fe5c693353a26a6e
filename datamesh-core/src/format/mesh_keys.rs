//! The keys of a mesh: the one that counts, and the one before it for as long as it is accepted.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::ticket::MeshKey;
use crate::ports::Timestamp;

/// The longest encoded form, in bytes: three values of 32 bytes, two numbers and what stands around them.
pub const MAX_MESH_KEYS_LEN: usize = 192;

const WHAT: &str = "a record of mesh keys";

/// The keys of a mesh, as its nodes keep them and tell each other.
///
/// Whoever has them can join. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshKeys {
    /// The public name of the mesh: that of its first key, and the same for ever.
    pub network: [u8; 32],
    /// How often the key was changed: 0 for the first.
    pub generation: u64,
    /// The key that counts.
    pub current: MeshKey,
    /// The key before it, where this node knows it.
    pub previous: Option<PreviousKey>,
}

/// A mesh key that another one has taken the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousKey {
    /// The key.
    pub key: MeshKey,
    /// The last moment at which it is accepted, by the clock of each node.
    pub until: Timestamp,
}

impl MeshKeys {
    /// The first key of a mesh, which gives it its name.
    pub fn first(key: MeshKey) -> Self {
        Self { network: key.network_name(), generation: 0, current: key, previous: None }
    }

    /// A new key takes the place of the current one, which is accepted until a moment. A key before that one counts
    /// no more.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] where no higher generation can be counted.
    pub fn next(&self, key: MeshKey, until: Timestamp) -> Result<Self> {
        let generation = self.generation.checked_add(1).ok_or_else(|| {
            let text = "the key of this mesh cannot be changed any more; begin another mesh";
            Error::new(ErrorKind::LimitExceeded, text)
        })?;
        let previous = Some(PreviousKey { key: self.current.clone(), until });
        Ok(Self { network: self.network, generation, current: key, previous })
    }

    /// What decides between two: the generation, and of one generation the public name of the key.
    pub fn rank(&self) -> (u64, [u8; 32]) {
        (self.generation, self.current.network_name())
    }

    /// Whether these take the place of others: of a higher rank, or of the same with the key before it, which those
    /// lack. Keys of another mesh never do.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let (own, others) = (self.rank(), other.rank());
        let tells_more = self.previous.is_some() && other.previous.is_none();
        self.network == other.network && (own > others || (own == others && tells_more))
    }

    /// The keys that are accepted at a moment, the newest first: one or two.
    pub fn accepted(&self, now: Timestamp) -> Vec<MeshKey> {
        let previous = self.previous.as_ref().filter(|previous| now <= previous.until);
        [Some(&self.current), previous.map(|previous| &previous.key)].into_iter().flatten().cloned().collect()
    }

    /// The same without the key before it: what a newcomer needs.
    #[must_use]
    pub fn without_previous(self) -> Self {
        Self { previous: None, ..self }
    }

    /// Whether these are the first key of a mesh, from which all the rest follows.
    pub fn are_first(&self) -> bool {
        *self == Self::first(self.current.clone())
    }

    /// The encoded form, in memory that is wiped when it is given back.
    pub fn encode(&self) -> Bytes {
        // Such a length that nothing moves, and leaves a copy behind.
        let mut writer = Writer::with_capacity(MAX_MESH_KEYS_LEN);
        writer.bytes(1, &self.network);
        writer.uint(2, self.generation);
        writer.bytes(3, self.current.as_bytes());
        if let Some(previous) = &self.previous {
            writer.bytes(4, previous.key.as_bytes());
            writer.uint(5, previous.until.0);
        }
        Bytes::from_owner(Zeroizing::new(writer.finish()))
    }

    /// Reads the encoded form.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for malformed bytes, [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(bytes, MAX_MESH_KEYS_LEN, WHAT, ErrorKind::Corrupt, Unknown::Refuse)?;
        let (network, generation) = (reader.array(1, "network")?, reader.uint(2, "generation")?);
        let current = MeshKey::from_bytes(reader.array(3, "key")?);
        let previous = if reader.has(4)? {
            let key = MeshKey::from_bytes(reader.array(4, "key before it")?);
            Some(PreviousKey { key, until: Timestamp(reader.uint(5, "end")?) })
        } else {
            None
        };
        if previous.as_ref().is_some_and(|previous| previous.key == current) {
            return Err(reader.malformed("a key takes its own place"));
        }
        reader.finish()?;
        Ok(Self { network, generation, current, previous })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MeshKey {
        MeshKey::from_bytes([byte; 32])
    }

    #[test]
    fn the_old_key_is_accepted_until_its_end_and_the_name_stays() {
        let first = MeshKeys::first(key(1));
        let second = first.next(key(2), Timestamp(1000)).unwrap();
        assert_eq!((second.network, second.generation), (key(1).network_name(), 1));
        assert_eq!(first.accepted(Timestamp(u64::MAX)), [key(1)]);
        assert_eq!(second.accepted(Timestamp(1000)), [key(2), key(1)]);
        assert_eq!(second.accepted(Timestamp(1001)), [key(2)]);
        let third = second.next(key(3), Timestamp(2000)).unwrap();
        assert_eq!(third.accepted(Timestamp(0)), [key(3), key(2)], "two at most");
        assert!(first.are_first() && !second.are_first() && !third.without_previous().are_first());
        let last = MeshKeys { generation: u64::MAX, ..first };
        assert_eq!(last.next(key(2), Timestamp(0)).unwrap_err().kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn of_two_keys_all_nodes_take_the_same() {
        let first = MeshKeys::first(key(1));
        let [one, other] = [2, 3].map(|byte| first.next(key(byte), Timestamp(1000)).unwrap());
        assert!(one.is_newer_than(&first) && !first.is_newer_than(&one) && !one.is_newer_than(&one));
        assert_ne!(one.is_newer_than(&other), other.is_newer_than(&one));
        let later = one.next(key(4), Timestamp(2000)).unwrap();
        assert!(later.is_newer_than(&one) && later.is_newer_than(&other));
        assert!(one.is_newer_than(&one.clone().without_previous()), "it tells more");
        assert!(!one.clone().without_previous().is_newer_than(&one));
        let foreign = MeshKeys::first(key(9)).next(key(8), Timestamp(0)).unwrap();
        assert!(!foreign.is_newer_than(&first), "keys of another mesh");
    }

    #[test]
    fn every_cut_and_every_byte_too_many_is_refused() {
        let keys = MeshKeys::first(key(1)).next(key(2), Timestamp(u64::MAX)).unwrap();
        let keys = MeshKeys { generation: u64::MAX, ..keys };
        let bytes = keys.encode();
        assert_eq!(MeshKeys::decode(&bytes).unwrap(), keys);
        let plain = keys.clone().without_previous();
        assert_eq!(MeshKeys::decode(&plain.encode()).unwrap(), plain);
        for len in 0..bytes.len() {
            assert!(MeshKeys::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(MeshKeys::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(MeshKeys::decode(&[0xa0; MAX_MESH_KEYS_LEN + 1]).is_err());
        let same = MeshKeys { current: key(1), ..keys.clone() };
        assert!(MeshKeys::decode(&same.encode()).is_err(), "a key takes its own place");
        assert!(!format!("{keys:?}").contains("1, 1, 1, 1, 1"));
    }
}
