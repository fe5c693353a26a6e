//! The keys of a mesh: the one that counts, and those before it for as long as they are accepted.

use std::fmt;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::ticket::{KeyName, MeshKey};
use crate::ports::Timestamp;

/// The longest encoded form, in bytes: two values of 32 bytes, the earlier keys, a number and what stands around them.
pub const MAX_MESH_KEYS_LEN: usize = 384;

/// The most earlier keys that are accepted beside the one that counts.
pub const MAX_EARLIER_KEYS: usize = 7;

/// The highest generation. Far more than a mesh counts in its life; whoever says more wants no change to come after.
pub const MAX_GENERATION: u64 = 1 << 63;

/// An earlier key and the last moment at which it is accepted.
const EARLIER_LEN: usize = 32 + 8;

/// By how many changes others may be ahead, so that nobody uses up all of them in fewer than two thousand million.
const MOST_CHANGES_AHEAD: u64 = 1 << 32;

/// The longest time for which an earlier key is accepted, in milliseconds: the longest overlap of a change, 366 days,
/// and a day for clocks that differ.
const LONGEST: u64 = 367 * 24 * 3600 * 1000;

/// With an overlap of at most so many milliseconds a change ends the oldest key at once where there are too many.
const URGENT: u64 = 60_000;

const WHAT: &str = "a record of mesh keys";

/// The keys of a mesh, as its nodes keep them and tell each other.
///
/// Whoever has them can join. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct MeshKeys {
    /// The public name of the mesh: that of its first key, and the same for ever.
    pub network: [u8; 32],
    /// How often the key was changed: 0 for the first.
    pub generation: u64,
    /// The key that counts.
    pub current: MeshKey,
    /// The keys before it that have not ended, the newest first, at most seven; `None` where they are not known,
    /// because a ticket does not tell them. One that has ended is known to have, and is not taken again.
    pub earlier: Option<Vec<EarlierKey>>,
}

/// A mesh key that another one has taken the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierKey {
    /// The key.
    pub key: MeshKey,
    /// The last moment at which it is accepted, by the clock of each node.
    pub until: Timestamp,
}

impl EarlierKey {
    /// The same, accepted no longer than this.
    fn no_longer_than(&self, until: Timestamp) -> Self {
        Self { key: self.key.clone(), until: self.until.min(until) }
    }
}

impl MeshKeys {
    /// The first key of a mesh, which gives it its name.
    pub fn first(key: MeshKey) -> Self {
        Self { network: key.network_name(), generation: 0, current: key, earlier: Some(Vec::new()) }
    }

    /// The key as a newcomer is told it, without those before it.
    pub fn told(network: [u8; 32], generation: u64, current: MeshKey) -> Self {
        Self { network, generation, current, earlier: None }.without_earlier()
    }

    /// A new key takes the place of the current one, which is accepted until a moment. Those before that one are
    /// accepted for as long as they were to be, but no longer than it.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where seven earlier keys have not ended and the overlap is longer than a minute; within a
    /// minute the oldest ends at once. [`ErrorKind::LimitExceeded`] where no higher generation can be counted.
    pub fn next(&self, key: MeshKey, until: Timestamp, now: Timestamp) -> Result<Self> {
        if self.generation >= MAX_GENERATION {
            let text = "the key of this mesh cannot be changed any more; begin another mesh";
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        let mut earlier = vec![EarlierKey { key: self.current.clone(), until }];
        let before = self.known().iter().filter(|one| now <= one.until);
        earlier.extend(before.map(|one| one.no_longer_than(until)));
        if earlier.len() > MAX_EARLIER_KEYS && until.0.saturating_sub(now.0) > URGENT {
            let text = format!(
                "{MAX_EARLIER_KEYS} earlier mesh keys are accepted still; try again when one has ended, or with an overlap of \
                 at most {} s, which ends the oldest at once",
                URGENT / 1000
            );
            return Err(Error::new(ErrorKind::Busy, text));
        }
        earlier.truncate(MAX_EARLIER_KEYS);
        let generation = self.generation.saturating_add(1);
        Ok(Self { network: self.network, generation, current: key, earlier: Some(earlier) })
    }

    /// What becomes of these when another node tells its own: `None` where those say nothing new.
    ///
    /// The own key and those before it are accepted for as long as the newest of the others' earlier keys, so that who
    /// has not heard yet is not shut out. One that has ended here stays ended, and none is accepted for longer than a
    /// change can ask for.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a generation that is so far ahead that it was made up.
    pub fn taking(&self, told: &Self, now: Timestamp) -> Result<Option<Self>> {
        if !told.is_newer_than(self) {
            return Ok(None);
        }
        if told.generation.saturating_sub(self.generation) > MOST_CHANGES_AHEAD {
            let (own, theirs) = (self.generation, told.generation);
            let text = format!("a mesh key of generation {theirs} is no successor of generation {own}");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let Some(theirs) = &told.earlier else { return Ok(Some(told.clone())) };
        let own = |key: &MeshKey| self.known().iter().find(|one| one.key == *key);
        let place = theirs.iter().position(|one| one.key == self.current);
        // What is older than the own key counts where it counts for this node, if this node knows what does.
        let is_over = |at: usize, key| {
            self.earlier.is_some() && place.is_some_and(|place| at > place) && own(key).is_none()
        };
        let longest = Timestamp(now.0.saturating_add(LONGEST));
        let mut earlier: Vec<EarlierKey> = Vec::new();
        for (at, one) in theirs.iter().enumerate() {
            if !is_over(at, &one.key) {
                let until = own(&one.key).map_or(longest, |own| own.until.min(longest));
                earlier.push(one.no_longer_than(until));
            }
        }
        if let Some(until) = earlier.first().map(|one| one.until) {
            let current = EarlierKey { key: self.current.clone(), until };
            for one in std::iter::once(&current).chain(self.known()) {
                let is_there = one.key == told.current || earlier.iter().any(|other| other.key == one.key);
                if !is_there {
                    earlier.push(one.no_longer_than(until));
                }
            }
        }
        let mut taken = Self { earlier: Some(earlier), ..told.clone() };
        taken.forget_ended(now);
        taken.earlier.iter_mut().for_each(|earlier| earlier.truncate(MAX_EARLIER_KEYS));
        Ok(Some(taken))
    }

    /// What decides between two: the generation, and of one generation the public name of the key.
    pub fn rank(&self) -> (u64, KeyName) {
        (self.generation, KeyName::from_bytes(self.current.network_name()))
    }

    /// Whether these take the place of others: of a higher rank, or of the same with the keys before it, where those
    /// do not know them. Keys of another mesh never do.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let (own, others) = (self.rank(), other.rank());
        let tells_more = self.earlier.is_some() && other.earlier.is_none();
        self.network == other.network && (own > others || (own == others && tells_more))
    }

    /// The keys that are accepted at a moment, the newest first: at most eight.
    pub fn accepted(&self, now: Timestamp) -> Vec<MeshKey> {
        let earlier = self.known().iter().filter(|one| now <= one.until).map(|one| &one.key);
        std::iter::once(&self.current).chain(earlier).cloned().collect()
    }

    /// Whether a key is one of these.
    pub fn contains(&self, key: &MeshKey) -> bool {
        self.current == *key || self.known().iter().any(|one| one.key == *key)
    }

    /// Forgets the keys that have ended at a moment, for good: a clock that goes back brings none to life again.
    pub fn forget_ended(&mut self, now: Timestamp) {
        self.earlier.iter_mut().for_each(|earlier| earlier.retain(|one| now <= one.until));
    }

    /// The same without the keys before it: what a newcomer needs.
    #[must_use]
    pub fn without_earlier(self) -> Self {
        let earlier = self.are_first().then(Vec::new);
        Self { earlier, ..self }
    }

    /// Whether these are the first key of a mesh, from which all the rest follows.
    pub fn are_first(&self) -> bool {
        self.generation == 0 && self.network == self.current.network_name()
    }

    /// The earlier keys that are known.
    fn known(&self) -> &[EarlierKey] {
        self.earlier.as_deref().unwrap_or_default()
    }

    /// The encoded form, in memory that is wiped when it is given back.
    pub fn encode(&self) -> Bytes {
        // Such a length that nothing moves, and leaves a copy behind.
        let mut writer = Writer::with_capacity(MAX_MESH_KEYS_LEN);
        writer.bytes(1, &self.network);
        writer.uint(2, self.generation);
        writer.bytes(3, self.current.as_bytes());
        if let Some(earlier) = &self.earlier {
            let mut joined = Zeroizing::new(Vec::with_capacity(MAX_EARLIER_KEYS * EARLIER_LEN));
            for one in earlier.iter().take(MAX_EARLIER_KEYS) {
                joined.extend_from_slice(one.key.as_bytes());
                joined.extend_from_slice(&one.until.0.to_le_bytes());
            }
            writer.bytes(4, &joined);
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
        let joined = if reader.has(4)? { Some(reader.bytes(4, "earlier keys")?) } else { None };
        let earlier = match joined.map(<[u8]>::as_chunks::<EARLIER_LEN>) {
            Some((chunks, [])) if chunks.len() <= MAX_EARLIER_KEYS => {
                Some(chunks.iter().map(earlier_key).collect::<Vec<_>>())
            }
            Some(_) => return Err(reader.malformed("the earlier keys are of another length")),
            None => None,
        };
        if generation > MAX_GENERATION {
            return Err(reader.malformed("its generation is higher than any"));
        }
        let keys = Self { network, generation, current, earlier };
        if keys.known().iter().any(|one| one.key == keys.current) {
            return Err(reader.malformed("a key takes its own place"));
        }
        reader.finish()?;
        Ok(keys)
    }
}

impl fmt::Debug for MeshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshKeys")
            .field("network", &KeyName::from_bytes(self.network))
            .field("generation", &self.generation)
            .field("current", &self.current)
            .field("earlier", &self.earlier)
            .finish()
    }
}

fn earlier_key(bytes: &[u8; EARLIER_LEN]) -> EarlierKey {
    let (mut key, mut until) = ([0; 32], [0; 8]);
    let to = key.iter_mut().chain(&mut until);
    to.zip(bytes).for_each(|(to, from)| *to = *from);
    EarlierKey { key: MeshKey::from_bytes(key), until: Timestamp(u64::from_le_bytes(until)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MeshKey {
        MeshKey::from_bytes([byte; 32])
    }

    fn next(keys: &MeshKeys, byte: u8, until: u64) -> MeshKeys {
        keys.next(key(byte), Timestamp(until), Timestamp(0)).unwrap()
    }

    fn taking(keys: &MeshKeys, told: &MeshKeys, now: u64) -> MeshKeys {
        keys.taking(told, Timestamp(now)).unwrap().unwrap()
    }

    #[test]
    fn old_keys_are_accepted_until_their_ends_and_the_name_stays() {
        let first = MeshKeys::first(key(1));
        let second = next(&first, 2, 1000);
        assert_eq!((second.network, second.generation), (key(1).network_name(), 1));
        assert_eq!(first.accepted(Timestamp(u64::MAX)), [key(1)]);
        assert_eq!(second.accepted(Timestamp(1000)), [key(2), key(1)]);
        assert_eq!(second.accepted(Timestamp(1001)), [key(2)]);
        let third = next(&second, 3, 2000);
        assert_eq!(third.accepted(Timestamp(1000)), [key(3), key(2), key(1)], "a change cuts nobody off");
        assert_eq!(third.accepted(Timestamp(1001)), [key(3), key(2)]);
        // A key that has leaked is ended early by a change with a short overlap.
        let urgent = next(&second, 3, 500);
        assert_eq!(urgent.accepted(Timestamp(500)), [key(3), key(2), key(1)]);
        assert_eq!(urgent.accepted(Timestamp(501)), [key(3)]);
        let later = second.next(key(3), Timestamp(3000), Timestamp(1001)).unwrap();
        assert_eq!(later.accepted(Timestamp(0)), [key(3), key(2)], "what has ended is not told any more");
        assert!(first.are_first() && !second.are_first() && !third.without_earlier().are_first());
    }

    #[test]
    fn of_too_many_keys_none_is_dropped_unless_that_is_urgent() {
        let mut keys = MeshKeys::first(key(1));
        for byte in 2..9 {
            keys = next(&keys, byte, 100_000);
        }
        assert_eq!(keys.accepted(Timestamp(0)).len(), 1 + MAX_EARLIER_KEYS);
        let busy = keys.next(key(9), Timestamp(60_001), Timestamp(0)).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
        let urgent = keys.next(key(9), Timestamp(60_000), Timestamp(0)).unwrap();
        assert_eq!((urgent.accepted(Timestamp(0)).len(), urgent.contains(&key(1))), (8, false));
        let ended = keys.next(key(9), Timestamp(300_000), Timestamp(100_001)).unwrap();
        assert_eq!(ended.accepted(Timestamp(0)), [key(9), key(8)]);
        assert_eq!(MeshKeys::decode(&urgent.encode()).unwrap(), urgent, "as many as are encoded");
    }

    #[test]
    fn of_two_keys_all_nodes_take_the_same() {
        let first = MeshKeys::first(key(1));
        let [one, other] = [2, 3].map(|byte| next(&first, byte, 1000));
        assert!(one.is_newer_than(&first) && !first.is_newer_than(&one) && !one.is_newer_than(&one));
        assert_ne!(one.is_newer_than(&other), other.is_newer_than(&one));
        let later = next(&one, 4, 2000);
        assert!(later.is_newer_than(&one) && later.is_newer_than(&other));
        assert!(one.is_newer_than(&one.clone().without_earlier()), "it tells more");
        assert!(!one.clone().without_earlier().is_newer_than(&one));
        let foreign = next(&MeshKeys::first(key(9)), 8, 0);
        assert!(!foreign.is_newer_than(&first), "keys of another mesh");
        assert_eq!(first.taking(&foreign, Timestamp(0)).unwrap(), None);
    }

    #[test]
    fn who_takes_newer_keys_goes_on_accepting_its_own() {
        let first = MeshKeys::first(key(1));
        let [one, other] = [2, 3].map(|byte| next(&first, byte, 1000));
        let (lesser, greater) = if other.is_newer_than(&one) { (one, other) } else { (other, one) };
        // Of two changes at once the one that does not count is accepted as well: some may know no other key.
        let both = taking(&lesser, &greater, 0);
        assert_eq!(both.accepted(Timestamp(0)), [greater.current.clone(), key(1), lesser.current.clone()]);
        assert_eq!(
            both.accepted(Timestamp(1001)),
            MeshKeys::first(greater.current.clone()).accepted(Timestamp(0))
        );
        assert_eq!(greater.taking(&lesser, Timestamp(0)).unwrap(), None);
        // What a node knows and the one that tells does not is accepted no longer than what that one says.
        let told = next(&lesser.clone().without_earlier(), 5, 600);
        let taken = taking(&lesser, &told, 0);
        assert_eq!(taken.accepted(Timestamp(600)), [key(5), lesser.current.clone(), key(1)]);
        assert_eq!(taken.accepted(Timestamp(601)), [key(5)]);
        // A ticket does not tell what came before, and whoever knows it tells that later.
        let plain = greater.clone().without_earlier();
        assert_eq!(taking(&first, &plain, 0), plain);
        assert_eq!(taking(&plain, &greater, 0), greater);
    }

    #[test]
    fn a_key_that_has_ended_here_is_not_taken_again() {
        let first = MeshKeys::first(key(1));
        let second = next(&first, 2, 1000);
        let mut here = second.clone();
        here.forget_ended(Timestamp(1000));
        assert_eq!(here, second);
        here.forget_ended(Timestamp(1001));
        assert_eq!(here.accepted(Timestamp(0)), [key(2)], "also when the clock goes back");
        assert_eq!(here.taking(&second, Timestamp(0)).unwrap(), None);
        assert_eq!(MeshKeys::decode(&here.encode()).unwrap(), here, "that is kept as well");
        // To the node that changes the key again it has not ended yet.
        let third = next(&second, 3, 2000);
        assert_eq!(taking(&here, &third, 0).accepted(Timestamp(0)), [key(3), key(2)]);
        assert_eq!(taking(&second, &third, 1001).accepted(Timestamp(0)), [key(3), key(2)]);
        let late = next(&second, 3, 900);
        assert_eq!(taking(&first, &late, 901).accepted(Timestamp(0)), [key(3)], "all ended on the way");
    }

    #[test]
    fn no_one_key_makes_all_later_ones_impossible() {
        let first = MeshKeys::first(key(1));
        let ahead = |generation| MeshKeys { generation, ..next(&first, 2, 1000) };
        for generation in [MOST_CHANGES_AHEAD + 1, MAX_GENERATION] {
            let error = first.taking(&ahead(generation), Timestamp(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        assert!(MeshKeys::decode(&ahead(MAX_GENERATION + 1).encode()).is_err());
        let far = taking(&first, &ahead(MOST_CHANGES_AHEAD), 0);
        assert_eq!(next(&far, 3, 1000).generation, MOST_CHANGES_AHEAD + 1);
        let last = ahead(MAX_GENERATION).next(key(3), Timestamp(0), Timestamp(0));
        assert_eq!(last.unwrap_err().kind(), ErrorKind::LimitExceeded);
        // An end that no change can ask for.
        let endless = taking(&first, &next(&first, 2, u64::MAX), 5);
        assert_eq!(endless.accepted(Timestamp(5 + LONGEST)), [key(2), key(1)]);
        assert_eq!(endless.accepted(Timestamp(6 + LONGEST)), [key(2)]);
    }

    #[test]
    fn every_cut_and_every_byte_too_many_is_refused() {
        let keys = next(&next(&MeshKeys::first(key(1)), 2, u64::MAX), 3, u64::MAX);
        let keys = MeshKeys { generation: MAX_GENERATION, ..keys };
        let bytes = keys.encode();
        assert_eq!(MeshKeys::decode(&bytes).unwrap(), keys);
        let plain = keys.clone().without_earlier();
        assert_eq!(MeshKeys::decode(&plain.encode()).unwrap(), plain);
        for len in 0..bytes.len() {
            assert!(MeshKeys::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(MeshKeys::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(MeshKeys::decode(&[0xa0; MAX_MESH_KEYS_LEN + 1]).is_err());
        let same = MeshKeys { current: key(1), ..keys.clone() };
        assert!(MeshKeys::decode(&same.encode()).is_err(), "a key takes its own place");
        let mut most = MeshKeys::first(key(1));
        (2..9).for_each(|byte| most = next(&most, byte, u64::MAX));
        let most = MeshKeys { generation: MAX_GENERATION, ..most }.encode();
        assert!(most.len() <= MAX_MESH_KEYS_LEN, "{}", most.len());
        assert!(!format!("{keys:?}").contains("1, 1, 1, 1, 1"));
    }
}
