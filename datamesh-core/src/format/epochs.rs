//! The epochs by which a node goes, as nodes keep them and tell them to each other.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::admission::{Epoch, MAX_EPOCH_LEN, SignedEpoch};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::message::write_records;
use crate::id::NodeId;
use crate::ports::CryptoSuite;

/// The most epochs of one number that count: one of each admission key, and operators who sign at once are fewer.
pub const MAX_EPOCHS: usize = 8;

/// The longest encoded form, in bytes: eight epochs, and what stands around them.
pub const MAX_EPOCHS_LEN: usize = MAX_EPOCHS * (MAX_EPOCH_LEN + 8) + 16;

const WHAT: &str = "the admission epochs";

/// The epochs of the highest number that was seen, and what they say together: mostly one, and more where operators who
/// did not know of each other signed the same number.
///
/// Of one number the eight with the smallest bytes count, whoever is told of them first, so that all nodes agree. A
/// node is revoked where any of them revokes it, so that no revocation is lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epochs {
    /// All of one number, in ascending order of their bytes.
    signed: Vec<SignedEpoch>,
    together: Epoch,
    encoded: Bytes,
}

impl Epochs {
    /// Takes an epoch that is newer than these, or stands beside them; whether that changed anything.
    pub fn take(&mut self, epoch: SignedEpoch) -> bool {
        if let Some(known) = self.number() {
            if epoch.epoch().number < known || self.contains(&epoch) {
                return false;
            }
            if epoch.epoch().number > known {
                self.signed.clear();
            }
        }
        self.signed.push(epoch.clone());
        self.signed.sort_unstable_by_key(SignedEpoch::encode);
        self.signed.truncate(MAX_EPOCHS);
        self.together = together(&self.signed);
        self.encoded = encode(&self.signed);
        self.contains(&epoch)
    }

    /// Whether this very epoch is one of them.
    pub fn contains(&self, epoch: &SignedEpoch) -> bool {
        self.signed.contains(epoch)
    }

    /// Each of them, as it was signed.
    pub fn signed(&self) -> &[SignedEpoch] {
        &self.signed
    }

    /// What they say together, if there are any: who is revoked by one of them, and the strictest word on certificates.
    pub fn together(&self) -> Option<&Epoch> {
        self.number().map(|_| &self.together)
    }

    /// What tells them from others: their number and the BLAKE3 hash of their encoded form; zeros where there are none.
    pub fn rank(&self) -> (u64, [u8; 32]) {
        self.number().map_or((0, [0; 32]), |number| (number, *blake3::hash(&self.encoded).as_bytes()))
    }

    /// The encoded form; nothing where there are none.
    pub fn encode(&self) -> Bytes {
        self.encoded.clone()
    }

    /// Reads the encoded form and checks the signatures. That the keys are the mesh's is for the reader to check.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for a bad signature, [`ErrorKind::Corrupt`] for malformed bytes,
    /// [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8], suite: &dyn CryptoSuite) -> Result<Self> {
        let mut reader = Reader::open(bytes, MAX_EPOCHS_LEN, WHAT, ErrorKind::Corrupt, Unknown::Refuse)?;
        let items = reader.list(1, "epochs", MAX_EPOCHS, |decoder| decoder.bytes())?;
        let mut epochs = Self::default();
        for item in items {
            epochs.take(SignedEpoch::decode(item, suite)?);
        }
        reader.finish()?;
        if epochs.encoded != bytes {
            let text = format!("{WHAT} are malformed: none, not of one number, or not in ascending order");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        Ok(epochs)
    }

    fn number(&self) -> Option<u64> {
        self.signed.first().map(|signed| signed.epoch().number)
    }
}

fn together(signed: &[SignedEpoch]) -> Epoch {
    let all = || signed.iter().map(SignedEpoch::epoch);
    let mut revoked: Vec<NodeId> = all().flat_map(|epoch| epoch.revoked.iter().copied()).collect();
    revoked.sort_unstable();
    revoked.dedup();
    let number = all().map(|epoch| epoch.number).max().unwrap_or(0);
    Epoch { number, oldest: all().map(|epoch| epoch.oldest).max().unwrap_or(0), revoked }
}

fn encode(signed: &[SignedEpoch]) -> Bytes {
    let items: Vec<Bytes> = signed.iter().map(SignedEpoch::encode).collect();
    let len: usize = items.iter().map(|item| item.len() + 8).sum();
    let mut writer = Writer::with_capacity(len + 16);
    writer.field(1, |encoder| write_records(encoder, &items));
    writer.finish().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Identity, Signature};

    #[derive(Debug)]
    struct Key;

    impl Identity for Key {
        fn node_id(&self) -> NodeId {
            NodeId::from_bytes([1; 32])
        }
        fn sign(&self, _: &[u8]) -> Signature {
            [1; 64]
        }
    }

    fn epoch(number: u64, oldest: u64, revoked: &[u8]) -> SignedEpoch {
        let revoked = revoked.iter().map(|byte| NodeId::from_bytes([*byte; 32])).collect();
        Epoch { number, oldest, revoked }.sign(&Key).unwrap()
    }

    fn of(epochs: &[SignedEpoch]) -> Epochs {
        let mut all = Epochs::default();
        for epoch in epochs {
            all.take(epoch.clone());
        }
        all
    }

    #[test]
    fn those_of_one_number_count_together_until_a_higher_one_comes() {
        let mut epochs = Epochs::default();
        assert_eq!((epochs.together(), epochs.rank(), epochs.encode()), (None, (0, [0; 32]), Bytes::new()));
        let (first, beside, next) = (epoch(5, 0, &[1, 2]), epoch(5, 3, &[2, 3]), epoch(6, 0, &[4]));
        assert!(epochs.take(first.clone()) && !epochs.take(first.clone()));
        let rank = epochs.rank();
        assert!(epochs.take(beside.clone()) && !epochs.take(epoch(4, 0, &[9])));
        assert!(epochs.rank().0 == 5 && epochs.rank() != rank);
        assert_eq!(epochs.together(), Some(epoch(5, 3, &[1, 2, 3]).epoch()));
        assert_eq!(epochs, of(&[beside, first.clone()]), "the order in which they come is nothing");
        assert!(epochs.take(next.clone()) && !epochs.take(first));
        assert_eq!((epochs.together(), epochs.signed()), (Some(next.epoch()), &[next.clone()][..]));
    }

    #[test]
    fn of_too_many_the_same_ones_count_for_all() {
        let many: Vec<_> = (0..=MAX_EPOCHS as u8 + 2).map(|byte| epoch(1, 0, &[byte])).collect();
        let (up, down) = (of(&many), of(&many.iter().rev().cloned().collect::<Vec<_>>()));
        assert_eq!((&up, up.signed().len()), (&down, MAX_EPOCHS));
        // What is left out changes nothing, so nobody tells it on.
        assert!(!up.clone().take(many.into_iter().find(|epoch| !up.contains(epoch)).unwrap()));
    }
}
