//! What a user needs to act on an object.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::format::keys::{OwnerSecret, ReadKey, RemovalSecret};
use crate::format::text::{from_text, invalid, to_text};
use crate::format::{FORMAT_VERSION, text};
use crate::id::ObjectId;

/// The longest text form of a capability, in characters.
const MAX_TEXT_LEN: usize = 128;

/// What a capability allows; each level allows what the ones before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Check, audit and repair the object without reading it.
    Verify,
    /// Read it.
    Read,
    /// Remove it.
    Own,
}

impl Access {
    const ALL: [Self; 3] = [Self::Verify, Self::Read, Self::Own];

    const fn code(self) -> u8 {
        match self {
            Self::Verify => 1,
            Self::Read => 2,
            Self::Own => 3,
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Verify => "dmv1",
            Self::Read => "dmr1",
            Self::Own => "dmo1",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verify => "verify",
            Self::Read => "read",
            Self::Own => "own",
        })
    }
}

/// What a user needs to act on an object: its name and, but for a verify capability, a secret.
///
/// Each weaker capability is derived from the stronger one, never the reverse. There is no `Display`, so that
/// a secret is never printed by accident: use [`to_text`](Self::to_text). Wiped on drop, and compared in
/// constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Capability {
    object: ObjectId,
    secret: Secret,
}

#[derive(Clone, PartialEq, Eq)]
enum Secret {
    Verify,
    Read(ReadKey),
    Own(OwnerSecret),
}

impl Capability {
    /// The capability of the object's owner.
    pub fn own(object: ObjectId, secret: OwnerSecret) -> Self {
        Self { object, secret: Secret::Own(secret) }
    }

    /// The capability of a reader.
    pub fn read(object: ObjectId, key: ReadKey) -> Self {
        Self { object, secret: Secret::Read(key) }
    }

    /// The capability to check and repair, which has no secret.
    pub fn verify(object: ObjectId) -> Self {
        Self { object, secret: Secret::Verify }
    }

    /// The object.
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// What it allows.
    pub fn access(&self) -> Access {
        match self.secret {
            Secret::Verify => Access::Verify,
            Secret::Read(_) => Access::Read,
            Secret::Own(_) => Access::Own,
        }
    }

    /// The read capability of the same object.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for a verify capability.
    pub fn to_read(&self) -> Result<Self> {
        Ok(Self::read(self.object, self.read_key()?))
    }

    /// The verify capability of the same object.
    pub fn to_verify(&self) -> Self {
        Self::verify(self.object)
    }

    /// The key that opens the object.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for a verify capability.
    pub fn read_key(&self) -> Result<ReadKey> {
        match &self.secret {
            Secret::Own(secret) => Ok(secret.read_key()),
            Secret::Read(key) => Ok(key.clone()),
            Secret::Verify => Err(self.denied("reading", Access::Read)),
        }
    }

    /// The secret that removes the object.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for anything but an own capability.
    pub fn removal_secret(&self) -> Result<RemovalSecret> {
        match &self.secret {
            Secret::Own(secret) => Ok(secret.removal_secret()),
            _ => Err(self.denied("removing", Access::Own)),
        }
    }

    /// The text form: whoever has it can do what the capability allows.
    ///
    /// A prefix that says version and kind (`dmo1`, `dmr1`, `dmv1`), then lower-case base32 of the id, the
    /// secret and a checksum.
    pub fn to_text(&self) -> Zeroizing<String> {
        to_text(self.access().prefix(), &self.payload())
    }

    /// The byte form, for sealing to a recipient: version, kind, id, secret.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let payload = self.payload();
        let mut bytes = Zeroizing::new(Vec::with_capacity(payload.len() + 2));
        bytes.extend_from_slice(&[FORMAT_VERSION, self.access().code()]);
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a wrong length, [`ErrorKind::Unsupported`] for an unknown version or kind.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::new(ErrorKind::Corrupt, "the capability has a wrong length");
        let ([version, code], payload) = bytes.split_first_chunk().ok_or_else(corrupt)?;
        let access = Access::ALL.into_iter().find(|access| access.code() == *code);
        match access {
            Some(access) if *version == FORMAT_VERSION => {
                Self::from_payload(access, payload).ok_or_else(corrupt)
            }
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "a capability of version {version} and kind {code} is not known here; upgrade datamesh"
                ),
            )),
        }
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend_from_slice(self.object.as_bytes());
        match &self.secret {
            Secret::Own(secret) => bytes.extend_from_slice(secret.as_bytes()),
            Secret::Read(key) => bytes.extend_from_slice(key.as_bytes()),
            Secret::Verify => {}
        }
        bytes
    }

    fn from_payload(access: Access, payload: &[u8]) -> Option<Self> {
        let (object, secret) = payload.split_first_chunk()?;
        let object = ObjectId::from_bytes(*object);
        match access {
            Access::Verify => secret.is_empty().then(|| Self::verify(object)),
            Access::Read => Some(Self::read(object, ReadKey::from_bytes(secret.try_into().ok()?))),
            Access::Own => Some(Self::own(object, OwnerSecret::from_bytes(secret.try_into().ok()?))),
        }
    }

    fn denied(&self, verb: &str, need: Access) -> Error {
        let text = format!("{verb} takes at least a capability to {need}, this one is to {}", self.access());
        Error::new(ErrorKind::AccessDenied, text).with_subject(self.object.fmt_short())
    }
}

impl From<&Capability> for Capability {
    fn from(capability: &Capability) -> Self {
        capability.clone()
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capability({}, {})", self.access(), self.object.fmt_short())
    }
}

impl FromStr for Capability {
    type Err = Error;

    /// Reads the text form.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything that [`Capability::to_text`] would not write,
    /// [`ErrorKind::Unsupported`] for a version that this build does not know.
    fn from_str(text: &str) -> Result<Self> {
        const WHAT: &str = "a capability";
        if text.len() > MAX_TEXT_LEN {
            return Err(invalid(WHAT, &format!("it is at most {MAX_TEXT_LEN} characters")));
        }
        let access = Access::ALL.into_iter().find(|access| text.starts_with(access.prefix()));
        let access = access.ok_or_else(|| text::wrong_prefix(WHAT, text, &["dmv", "dmr", "dmo"]))?;
        let payload = from_text(WHAT, access.prefix(), text)?;
        Self::from_payload(access, &payload).ok_or_else(|| invalid(WHAT, "its length is wrong"))
    }
}
