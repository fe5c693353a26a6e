//! Secrets of an object and what is derived from them: BLAKE3 `derive_key`, one context for each purpose.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{FORMAT_VERSION, TAG_LEN};
use crate::planted::{Bug, is_active};
use crate::ports::{CryptoSuite, Nonce, SuiteId};

/// The contexts of every key derivation. Each appears once, and is never used for anything else.
pub(super) mod context {
    pub(crate) const READ_KEY: &str = "datamesh 2026-11 v1 read key";
    pub(crate) const REMOVAL_SECRET: &str = "datamesh 2026-11 v1 removal secret";
    pub(crate) const REMOVAL_HASH: &str = "datamesh 2026-11 v1 removal hash";
    pub(crate) const SEGMENT_KEY: &str = "datamesh 2026-11 v1 segment key";
    pub(crate) const HEADER_KEY: &str = "datamesh 2026-11 v1 header key";
    pub(crate) const KEY_COMMITMENT: &str = "datamesh 2026-11 v1 key commitment";
    pub(crate) const PLACEMENT_KEY: &str = "datamesh 2026-11 v1 placement key";
    pub(crate) const NETWORK_NAME: &str = "datamesh 2026-11 v1 network name";
    pub(crate) const INVITATION: &str = "datamesh 2026-11 v1 invitation";
    pub(crate) const TEXT_CHECKSUM: &str = "datamesh 2026-11 v1 text checksum";
}

const SEGMENT_LABEL: &[u8] = b"datamesh/v1/segment";
const HEADER_LABEL: &[u8] = b"datamesh/v1/header";

/// The header key seals one header ever, so that its nonce can be fixed.
const HEADER_NONCE: Nonce = [0; 12];

/// BLAKE3 `derive_key` over the parts, one after another.
pub(super) fn derive(context: &str, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    Zeroizing::new(hasher.finalize().into())
}

macro_rules! secrets {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// Wiped on drop, compared in constant time, and never printed.
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The secret made of these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes of the secret.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )*};
}
pub(super) use secrets;

macro_rules! public_values {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The value made of these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes of the value.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let [a, b, c, d, ..] = self.0;
                write!(f, concat!(stringify!($name), "({:02x}{:02x}{:02x}{:02x})"), a, b, c, d)
            }
        }
    )*};
}
pub(super) use public_values;

secrets! {
    /// The fresh secret of an object's owner, from which its other secrets are derived.
    OwnerSecret;
    /// The secret that opens an object.
    ReadKey;
    /// The secret that removes an object; holders know its hash, readers know nothing of it.
    RemovalSecret;
}

public_values! {
    /// The hash of a removal secret, in layouts and manifests.
    RemovalHash;
    /// Binds a manifest to the one read key that opens it.
    KeyCommitment;
    /// Random bytes that make everything derived for an object its own.
    Salt;
}

impl OwnerSecret {
    /// The key that opens the object.
    pub fn read_key(&self) -> ReadKey {
        ReadKey(*derive(context::READ_KEY, &[&self.0]))
    }

    /// The secret that removes the object.
    pub fn removal_secret(&self) -> RemovalSecret {
        RemovalSecret(*derive(context::REMOVAL_SECRET, &[&self.0]))
    }
}

impl RemovalSecret {
    /// What holders compare a removal with.
    pub fn hash(&self) -> RemovalHash {
        RemovalHash(*derive(context::REMOVAL_HASH, &[&self.0]))
    }
}

impl ReadKey {
    /// The keys that seal the object's segments and header.
    pub fn object_keys(&self) -> ObjectKeys {
        ObjectKeys {
            segment: *derive(context::SEGMENT_KEY, &[&self.0]),
            header: *derive(context::HEADER_KEY, &[&self.0]),
            commitment: KeyCommitment(*derive(context::KEY_COMMITMENT, &[&self.0])),
        }
    }
}

/// The keys of one object, derived from its read key. Wiped on drop, and never printed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ObjectKeys {
    segment: [u8; 32],
    header: [u8; 32],
    #[zeroize(skip)]
    commitment: KeyCommitment,
}

impl fmt::Debug for ObjectKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKeys(redacted, {:?})", self.commitment)
    }
}

impl ObjectKeys {
    /// What the manifest's public part says of the read key.
    pub fn commitment(&self) -> &KeyCommitment {
        &self.commitment
    }

    /// Whether these keys belong to a manifest with this commitment, in constant time.
    pub(super) fn opens(&self, commitment: &KeyCommitment) -> bool {
        self.commitment.0.ct_eq(&commitment.0).into()
    }

    /// Encrypts a segment in place and returns its tag.
    ///
    /// `index` counts the object's segments from 0 and `last` says that none follows. Under one key
    /// each index is sealed once.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the suite cannot take that length.
    pub fn seal_segment(
        &self,
        suite: &dyn CryptoSuite,
        salt: &Salt,
        index: u64,
        last: bool,
        buffer: &mut [u8],
    ) -> Result<[u8; TAG_LEN]> {
        let last = last && !is_active(Bug::SkipLastFlag);
        let nonce = segment_nonce(if is_active(Bug::ReuseNonce) { 0 } else { index }, last);
        let associated_data = segment_associated_data(suite.id(), salt, index, last);
        suite.seal(&self.segment, &nonce, &associated_data, buffer)
    }

    /// Checks a segment's tag and decrypts it in place.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the bytes, the index, the last flag, the salt or the key are not those
    /// that it was sealed with.
    pub fn open_segment(
        &self,
        suite: &dyn CryptoSuite,
        salt: &Salt,
        index: u64,
        last: bool,
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<()> {
        let last = last && !is_active(Bug::SkipLastFlag);
        let nonce = segment_nonce(if is_active(Bug::ReuseNonce) { 0 } else { index }, last);
        let associated_data = segment_associated_data(suite.id(), salt, index, last);
        suite.open(&self.segment, &nonce, &associated_data, buffer, tag)
    }

    /// Encrypts a header in place and returns its tag.
    pub(super) fn seal_header(
        &self,
        suite: &dyn CryptoSuite,
        public: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; TAG_LEN]> {
        suite.seal(&self.header, &HEADER_NONCE, &[HEADER_LABEL, public].concat(), buffer)
    }

    /// Checks a sealed header, ciphertext and then tag, and decrypts it.
    pub(super) fn open_header(
        &self,
        suite: &dyn CryptoSuite,
        public: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let (ciphertext, tag) = sealed
            .split_last_chunk::<TAG_LEN>()
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the sealed header is shorter than its tag"))?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        suite.open(&self.header, &HEADER_NONCE, &[HEADER_LABEL, public].concat(), &mut buffer, tag)?;
        Ok(buffer)
    }
}

/// The index in 11 big-endian bytes, then 1 for the last segment and 0 for every other (STREAM).
fn segment_nonce(index: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    let [_, _, _, number @ .., flag] = &mut nonce;
    *number = index.to_be_bytes();
    *flag = u8::from(last);
    nonce
}

fn segment_associated_data(suite: SuiteId, salt: &Salt, index: u64, last: bool) -> Vec<u8> {
    [
        SEGMENT_LABEL,
        &[FORMAT_VERSION],
        &suite.0.to_be_bytes(),
        &salt.0,
        &index.to_be_bytes(),
        &[u8::from(last)],
    ]
    .concat()
}
