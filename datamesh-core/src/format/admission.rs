//! Who may hold data: certificates, and the epochs that revoke them, signed by an admission key of the mesh.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Zone;
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::keys::public_values;
use crate::format::text::{from_text, invalid, to_text, wrong_prefix};
use crate::id::NodeId;
use crate::ports::{CryptoSuite, Identity, SIGNATURE_LEN, Signature, Timestamp};

/// The most admission keys of a mesh: one for each operator, and some to replace them.
pub const MAX_ADMISSION_KEYS: usize = 8;

/// The longest signed certificate, in bytes: a zone of 64 bytes, and what stands around it.
pub const MAX_CERTIFICATE_LEN: usize = 512;

/// The most nodes that an epoch revokes: as many as a mesh has members. Certificates that have ended need no revoking.
pub const MAX_REVOKED: usize = 4096;

/// The longest signed epoch, in bytes: its names, and what stands around them.
pub const MAX_EPOCH_LEN: usize = MAX_REVOKED * 32 + 256;

/// What each kind of signature is over begins with its label, so that none can be taken for another.
const CERTIFICATE_LABEL: &[u8] = b"datamesh/v1/certificate";
const EPOCH_LABEL: &[u8] = b"datamesh/v1/admission-epoch";

const CERTIFICATE: &str = "a certificate";
const EPOCH: &str = "an admission epoch";
const SIGNED: &str = "a signed admission value";

/// The text form of a certificate.
const PREFIX: &str = "dmc1";

/// The longest text form: eight characters for five bytes, with room for prefix and checksum.
const MAX_TEXT_LEN: usize = MAX_CERTIFICATE_LEN.div_ceil(5) * 8 + 64;

public_values! {
    /// The Ed25519 public key that certificates of a mesh are signed by. It is no secret.
    AdmissionKey;
}

impl AdmissionKey {
    /// The public key of who signs with this identity.
    pub fn of(identity: &dyn Identity) -> Self {
        Self(*identity.node_id().as_bytes())
    }

    fn verifies(&self, suite: &dyn CryptoSuite, message: &[u8], signature: &Signature) -> bool {
        suite.verify(&NodeId::from_bytes(self.0), message, signature)
    }
}

/// The admission keys of a mesh, as a node keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionKeys(pub Vec<AdmissionKey>);

impl AdmissionKeys {
    /// The encoded form. Keys after the eighth are left out.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(MAX_ADMISSION_KEYS * 32 + 16);
        writer.names(1, self.0.iter().take(MAX_ADMISSION_KEYS).map(AdmissionKey::as_bytes));
        writer.finish().into()
    }

    /// Reads the encoded form.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for malformed bytes, [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (max, what) = (MAX_ADMISSION_KEYS * 32 + 64, "the admission keys");
        let mut reader = Reader::open(bytes, max, what, ErrorKind::Corrupt, Unknown::Refuse)?;
        let keys = reader.names(1, "keys", MAX_ADMISSION_KEYS, AdmissionKey)?;
        reader.finish()?;
        Ok(Self(keys))
    }
}

/// What an admission key says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node that may hold data.
    pub node: NodeId,
    /// Its failure domain, whatever it says itself; its own word counts where this is `None`.
    pub zone: Option<Zone>,
    /// The most bytes that it counts for, whatever it says itself.
    pub capacity: u64,
    /// The last moment at which it counts, by the clock of whoever reads it.
    pub not_after: Timestamp,
    /// The epoch in which it was issued; a later epoch may say that those before it count no more.
    pub epoch: u64,
}

impl Certificate {
    /// Signs the certificate with an admission key.
    pub fn sign(self, authority: &dyn Identity) -> SignedCertificate {
        let mut writer = Writer::with_capacity(MAX_CERTIFICATE_LEN);
        writer.bytes(1, self.node.as_bytes());
        if let Some(zone) = &self.zone {
            writer.text(2, zone.as_str());
        }
        writer.uint(3, self.capacity);
        writer.uint(4, self.not_after.0);
        writer.uint(5, self.epoch);
        let signed = Signed::make(authority, CERTIFICATE_LABEL, &writer.finish());
        SignedCertificate(Arc::new((self, signed)))
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader =
            Reader::open(bytes, MAX_CERTIFICATE_LEN, CERTIFICATE, ErrorKind::Corrupt, Unknown::Refuse)?;
        let certificate = Self {
            node: NodeId::from_bytes(reader.array(1, "node id")?),
            zone: if reader.has(2)? {
                let text = reader.text(2, "zone")?;
                Some(text.parse().map_err(|error: Error| reader.malformed(&error.to_string()))?)
            } else {
                None
            },
            capacity: reader.uint(3, "capacity")?,
            not_after: Timestamp(reader.uint(4, "end")?),
            epoch: reader.uint(5, "epoch")?,
        };
        reader.finish()?;
        Ok(certificate)
    }
}

/// A certificate with the signature of the admission key that it names, which was checked when it was made or read.
///
/// Whether that key is one of the mesh's is for whoever reads it to ask. It is no secret: it is of use to its node
/// only.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedCertificate(Arc<(Certificate, Signed)>);

impl SignedCertificate {
    /// What it says.
    pub fn certificate(&self) -> &Certificate {
        &self.0.0
    }

    /// Whose signature it has.
    pub fn authority(&self) -> AdmissionKey {
        self.0.1.authority
    }

    /// The encoded form, over the very bytes that were signed.
    pub fn encode(&self) -> Bytes {
        self.0.1.encoded.clone()
    }

    /// Reads the encoded form and checks the signature.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for a bad signature, [`ErrorKind::Corrupt`] for malformed bytes,
    /// [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8], suite: &dyn CryptoSuite) -> Result<Self> {
        let (content, signed) = Signed::read(bytes, MAX_CERTIFICATE_LEN, CERTIFICATE_LABEL, suite)?;
        Ok(Self(Arc::new((Certificate::decode(content)?, signed))))
    }

    /// The text form: `dmc1`, then lower-case base32 of the encoded form and a checksum.
    pub fn to_text(&self) -> String {
        to_text(PREFIX, &self.encode()).to_string()
    }

    /// Reads the text form and checks the signature.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything that is no certificate, and as [`decode`](Self::decode).
    pub fn from_text(text: &str, suite: &dyn CryptoSuite) -> Result<Self> {
        if text.len() > MAX_TEXT_LEN {
            return Err(invalid(CERTIFICATE, &format!("it is at most {MAX_TEXT_LEN} characters")));
        }
        if !text.starts_with(PREFIX) {
            return Err(wrong_prefix(CERTIFICATE, text, &["dmc"]));
        }
        Self::decode(&from_text(CERTIFICATE, PREFIX, text)?, suite)
    }
}

impl fmt::Debug for SignedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({:?})", self.certificate())
    }
}

/// Who is not admitted any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epoch {
    /// Grows with every change; nobody goes back to a lower one.
    pub number: u64,
    /// Certificates that were issued in an earlier epoch than this one do not count.
    pub oldest: u64,
    /// The nodes whose certificates do not count, in ascending order; at most 4096.
    pub revoked: Vec<NodeId>,
}

impl Epoch {
    /// Signs the epoch with an admission key. The nodes are sorted, and each is named once.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] for more than 4096 nodes.
    pub fn sign(mut self, authority: &dyn Identity) -> Result<SignedEpoch> {
        self.revoked.sort_unstable();
        self.revoked.dedup();
        if self.revoked.len() > MAX_REVOKED {
            let text = format!("an epoch revokes at most {MAX_REVOKED} nodes, got {}", self.revoked.len());
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        let mut writer = Writer::with_capacity(self.revoked.len() * 32 + 64);
        writer.uint(1, self.number);
        writer.uint(2, self.oldest);
        writer.names(3, self.revoked.iter().map(NodeId::as_bytes));
        let signed = Signed::make(authority, EPOCH_LABEL, &writer.finish());
        Ok(SignedEpoch(Arc::new((self, signed))))
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(bytes, MAX_EPOCH_LEN, EPOCH, ErrorKind::Corrupt, Unknown::Refuse)?;
        let epoch = Self {
            number: reader.uint(1, "number")?,
            oldest: reader.uint(2, "oldest certificate")?,
            revoked: reader.names(3, "revoked nodes", MAX_REVOKED, NodeId::from_bytes)?,
        };
        if !epoch.revoked.is_sorted_by(|a, b| a < b) {
            return Err(reader.malformed("revoked nodes are out of order"));
        }
        reader.finish()?;
        Ok(epoch)
    }
}

/// An epoch with the signature of the admission key that it names, which was checked when it was made or read.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedEpoch(Arc<(Epoch, Signed)>);

impl SignedEpoch {
    /// What it says.
    pub fn epoch(&self) -> &Epoch {
        &self.0.0
    }

    /// Whose signature it has.
    pub fn authority(&self) -> AdmissionKey {
        self.0.1.authority
    }

    /// The encoded form, over the very bytes that were signed.
    pub fn encode(&self) -> Bytes {
        self.0.1.encoded.clone()
    }

    /// Reads the encoded form and checks the signature.
    ///
    /// # Errors
    /// As [`SignedCertificate::decode`].
    pub fn decode(bytes: &[u8], suite: &dyn CryptoSuite) -> Result<Self> {
        let (content, signed) = Signed::read(bytes, MAX_EPOCH_LEN, EPOCH_LABEL, suite)?;
        Ok(Self(Arc::new((Epoch::decode(content)?, signed))))
    }
}

impl fmt::Debug for SignedEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed(epoch {}, {} revoked)", self.epoch().number, self.epoch().revoked.len())
    }
}

/// What both have around them.
#[derive(Clone, PartialEq, Eq)]
struct Signed {
    authority: AdmissionKey,
    encoded: Bytes,
}

impl Signed {
    fn make(authority: &dyn Identity, label: &[u8], content: &[u8]) -> Self {
        let signature = authority.sign(&[label, content].concat());
        let authority = AdmissionKey::of(authority);
        let mut writer = Writer::with_capacity(content.len() + SIGNATURE_LEN + 64);
        writer.bytes(1, content);
        writer.bytes(2, authority.as_bytes());
        writer.bytes(3, &signature);
        Self { authority, encoded: writer.finish().into() }
    }

    /// What was signed, once the signature is checked.
    fn read<'b>(
        bytes: &'b [u8],
        max_len: usize,
        label: &[u8],
        suite: &dyn CryptoSuite,
    ) -> Result<(&'b [u8], Self)> {
        let mut reader = Reader::open(bytes, max_len, SIGNED, ErrorKind::Corrupt, Unknown::Refuse)?;
        let content = reader.bytes(1, "content")?;
        let authority = AdmissionKey(reader.array(2, "admission key")?);
        let signature: Signature = reader.array(3, "signature")?;
        reader.finish()?;
        if !authority.verifies(suite, &[label, content].concat(), &signature) {
            let text = "a certificate or epoch has a bad signature; ask who issued it";
            return Err(Error::new(ErrorKind::AccessDenied, text));
        }
        Ok((content, Self { authority, encoded: Bytes::copy_from_slice(bytes) }))
    }
}

impl FromStr for AdmissionKey {
    type Err = Error;

    /// Reads the text form: that of a node id.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else.
    fn from_str(text: &str) -> Result<Self> {
        Ok(Self(*text.parse::<NodeId>()?.as_bytes()))
    }
}

impl fmt::Display for AdmissionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NodeId::from_bytes(self.0).fmt(f)
    }
}
