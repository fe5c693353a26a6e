//! Sealing a few bytes, a capability for instance, to a recipient's public key.
//!
//! HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305.
//! Base mode proves nothing about the sender: whoever knows the public key can seal to it. A recipient
//! key that leaks opens everything that was sealed to it before.
//!
//! # The sealed form, version 1
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 1 | version: 1 |
//! | 1 | 1 | HPKE suite: 1 (the three algorithms above) |
//! | 2 | 32 | the encapsulated key: an X25519 public key |
//! | 34 | the rest | ciphertext, 16 bytes longer than what it seals |
//!
//! Bytes 0 and 1 are HPKE's associated data. HPKE's `info` is the 17 bytes `datamesh share v1`
//! followed by the caller's context. The whole is at most 64 KiB.
//!
//! # The text form of a public key
//!
//! `dmx1`, then lower-case RFC 4648 base32 without padding of the 32 bytes of the key and the first
//! four bytes of the BLAKE3 hash of `dmx1` and the key.
//!
//! ```
//! use datamesh_crypto::sharing::{RecipientSecret, open, seal_to};
//!
//! let recipient = RecipientSecret::from_secret([7; 32]);
//! let sealed = seal_to(&recipient.public(), b"a capability", b"secret", [9; 32])?;
//! assert_eq!(open(&recipient, b"a capability", &sealed)?.as_slice(), b"secret");
//! # Ok::<(), datamesh_core::Error>(())
//! ```

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use datamesh_core::{Error, ErrorKind, Result};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use zeroize::{Zeroize, Zeroizing};

use seed::SeedRng;

mod seed;

/// Longest sealed form in bytes: a capability is some hundred bytes, so this is room for many, and small
/// enough to be taken from a stranger.
pub const MAX_SEALED_LEN: usize = 64 * 1024;

/// Longest plaintext that [`seal_to`] takes, in bytes.
pub const MAX_PLAINTEXT_LEN: usize = MAX_SEALED_LEN - OVERHEAD;

const VERSION: u8 = 1;
const SUITE: u8 = 1;
const HEADER: [u8; 2] = [VERSION, SUITE];
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const OVERHEAD: usize = HEADER.len() + KEY_LEN + TAG_LEN;
const INFO: &[u8] = b"datamesh share v1";
const PREFIX: &str = "dmx1";
const CHECKSUM_LEN: usize = 4;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// A recipient's X25519 secret key (RFC 7748); wiped on drop, never printed.
#[derive(Clone)]
pub struct RecipientSecret(Zeroizing<[u8; KEY_LEN]>);

impl RecipientSecret {
    /// The secret key made of these bytes, which must come from a generator fit for keys.
    pub fn from_secret(mut secret: [u8; KEY_LEN]) -> Self {
        let kept = Self(Zeroizing::new(secret));
        secret.zeroize();
        kept
    }

    /// The bytes of the secret key, to keep them in a file; wiped when dropped.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        self.0.clone()
    }

    /// The public key to give to those who seal.
    pub fn public(&self) -> RecipientPublic {
        // Deserialization refuses no 32 bytes; were it to, the zero key that stands for it is refused
        // by whoever seals to it.
        let public = private_key(self).map(|key| X25519HkdfSha256::sk_to_pk(&key).to_bytes().into());
        RecipientPublic(public.unwrap_or_default())
    }
}

impl fmt::Debug for RecipientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecipientSecret(..)")
    }
}

/// A recipient's X25519 public key; its text form begins with `dmx1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecipientPublic([u8; KEY_LEN]);

impl RecipientPublic {
    /// The public key made of these bytes.
    ///
    /// A key of small order is refused by [`seal_to`].
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for RecipientPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.0[..], &checksum(&self.0)].concat();
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

impl fmt::Debug for RecipientPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientPublic({self})")
    }
}

impl FromStr for RecipientPublic {
    type Err = Error;

    /// Reads the text form.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything that `Display` would not print.
    fn from_str(text: &str) -> Result<Self> {
        parse_public(text).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("a recipient key is {PREFIX} and 58 characters of lower-case base32; copy it again"),
            )
        })
    }
}

/// Seals `plaintext` so that only the recipient can open it, and only in the same `context`.
///
/// `context` says what the bytes are for; it is authenticated and not sent. `seed` is 32 fresh bytes of a
/// generator fit for keys, used once: two seals with one seed to one recipient reveal each other.
///
/// # Errors
/// [`ErrorKind::LimitExceeded`] for more than [`MAX_PLAINTEXT_LEN`] bytes of plaintext or of context;
/// [`ErrorKind::InvalidInput`] for a public key of small order.
pub fn seal_to(
    recipient: &RecipientPublic,
    context: &[u8],
    plaintext: &[u8],
    seed: [u8; 32],
) -> Result<Vec<u8>> {
    let longest = plaintext.len().max(context.len());
    if longest > MAX_PLAINTEXT_LEN {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "sealing takes at most {MAX_PLAINTEXT_LEN} bytes, got {longest}; share a capability instead"
            ),
        ));
    }
    let (encapped, ciphertext) = hpke_seal(recipient, &info(context), &HEADER, plaintext, seed)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "this recipient key is weak; ask for a new one"))?;
    Ok([&HEADER[..], &encapped, &ciphertext].concat())
}

/// Opens what [`seal_to`] sealed to this recipient in this `context`.
///
/// # Errors
/// [`ErrorKind::AccessDenied`] with one text for every cause: not for this recipient, another context,
/// changed, cut, too long, or of an unknown version.
pub fn open(recipient: &RecipientSecret, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let opened =
        parts(sealed).filter(|_| context.len() <= MAX_PLAINTEXT_LEN).and_then(|(encapped, ciphertext)| {
            hpke_open(recipient, &info(context), &HEADER, encapped, ciphertext).ok()
        });
    opened.map(Zeroizing::new).ok_or_else(|| {
        Error::new(ErrorKind::AccessDenied, "this key does not open these sealed bytes; ask the sender again")
    })
}

/// The encapsulated key and the ciphertext of a sealed form within its limits.
fn parts(sealed: &[u8]) -> Option<(&[u8; KEY_LEN], &[u8])> {
    if sealed.len() > MAX_SEALED_LEN {
        return None;
    }
    sealed.strip_prefix(&HEADER)?.split_first_chunk()
}

fn info(context: &[u8]) -> Vec<u8> {
    [INFO, context].concat()
}

fn hpke_seal(
    recipient: &RecipientPublic,
    info: &[u8],
    associated_data: &[u8],
    plaintext: &[u8],
    seed: [u8; 32],
) -> Result<([u8; KEY_LEN], Vec<u8>), HpkeError> {
    let recipient = PublicKey::from_bytes(&recipient.0)?;
    let (encapped, ciphertext) =
        hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &recipient,
            info,
            plaintext,
            associated_data,
            &mut SeedRng::new(seed),
        )?;
    Ok((encapped.to_bytes().into(), ciphertext))
}

fn hpke_open(
    recipient: &RecipientSecret,
    info: &[u8],
    associated_data: &[u8],
    encapped: &[u8; KEY_LEN],
    ciphertext: &[u8],
) -> Result<Vec<u8>, HpkeError> {
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private_key(recipient)?,
        &EncappedKey::from_bytes(encapped)?,
        info,
        ciphertext,
        associated_data,
    )
}

fn private_key(secret: &RecipientSecret) -> Result<PrivateKey, HpkeError> {
    PrivateKey::from_bytes(&secret.0[..])
}

fn parse_public(text: &str) -> Option<RecipientPublic> {
    let body = text.strip_prefix(PREFIX)?;
    // The length is checked before anything is allocated, and one key has one text form.
    if body.len() != ((KEY_LEN + CHECKSUM_LEN) * 8).div_ceil(5)
        || body.bytes().any(|b| b.is_ascii_uppercase())
    {
        return None;
    }
    let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).ok()?;
    let (key, sum) = bytes.split_first_chunk()?;
    (sum == checksum(key)).then_some(RecipientPublic(*key))
}

fn checksum(key: &[u8; KEY_LEN]) -> [u8; CHECKSUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(PREFIX.as_bytes()).update(key);
    let mut sum = [0; CHECKSUM_LEN];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests;
