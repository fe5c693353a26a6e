//! What a node says of itself, signed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::format::SignedCertificate;
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::id::NodeId;
use crate::ports::{Address, CryptoSuite, Identity, SIGNATURE_LEN, Signature};

/// The most addresses of a node record.
pub const MAX_ADDRESSES: usize = 16;

/// The longest name of a zone, in bytes.
pub const MAX_ZONE_LEN: usize = 64;

/// The longest signed record, in bytes: 16 addresses of 256 bytes, and what stands around them.
pub const MAX_RECORD_LEN: usize = 5 << 10;

const LABEL: &[u8] = b"datamesh/v1/node-record";

const WHAT: &str = "a node record";

/// A failure domain that a node declares: a rack, a room, a data centre. Copies share the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

impl Zone {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Zone {
    /// The zone of a node that declares none: `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Zone {
    type Err = Error;

    /// Takes 1 to 64 bytes of text without control characters.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > MAX_ZONE_LEN || text.chars().any(char::is_control) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("a zone is 1 to {MAX_ZONE_LEN} bytes of printable text, got {} bytes", text.len()),
            ));
        }
        Ok(Self(text.into()))
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Where it can be reached, best first; at most 16.
    pub addresses: Vec<Address>,
    /// Its failure domain.
    pub zone: Zone,
    /// The bytes that it offers; 0 for a client.
    pub capacity: u64,
    /// Grows with every change, so that the newest record wins.
    pub sequence: u64,
    /// What an admission key says of it; needed where the mesh has admission keys. Its zone and capacity overrule
    /// those above.
    pub certificate: Option<SignedCertificate>,
}

impl NodeRecord {
    /// Signs the record.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the identity is another node's,
    /// [`ErrorKind::LimitExceeded`] for more than 16 addresses.
    pub fn sign(self, identity: &dyn Identity) -> Result<SignedRecord> {
        if identity.node_id() != self.node {
            return Err(Error::new(ErrorKind::InvalidInput, "a node signs only its own record"));
        }
        if self.addresses.len() > MAX_ADDRESSES {
            let text = format!("a node has at most {MAX_ADDRESSES} addresses, got {}", self.addresses.len());
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        let bytes = self.encode();
        let signature = identity.sign(&signed_message(&bytes));
        Ok(SignedRecord::new(self, &bytes, &signature))
    }

    /// The zone that counts.
    pub fn zone_granted(&self) -> &Zone {
        let granted =
            self.certificate.as_ref().and_then(|certificate| certificate.certificate().zone.as_ref());
        granted.unwrap_or(&self.zone)
    }

    /// The capacity that counts: what the node offers, and no more than it was granted.
    pub fn capacity_granted(&self) -> u64 {
        let granted = self.certificate.as_ref().map(|certificate| certificate.certificate().capacity);
        granted.map_or(self.capacity, |granted| granted.min(self.capacity))
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(256);
        writer.bytes(1, self.node.as_bytes());
        writer.field(2, |encoder| write_addresses(encoder, &self.addresses));
        writer.text(3, self.zone.as_str());
        writer.uint(4, self.capacity);
        writer.uint(5, self.sequence);
        if let Some(certificate) = &self.certificate {
            writer.bytes(6, &certificate.encode());
        }
        writer.finish()
    }

    fn decode(bytes: &[u8], suite: &dyn CryptoSuite) -> Result<Self> {
        let mut reader = Reader::open(bytes, MAX_RECORD_LEN, WHAT, ErrorKind::Corrupt, Unknown::Refuse)?;
        let record = Self {
            node: NodeId::from_bytes(reader.array(1, "node id")?),
            addresses: read_addresses(&mut reader, 2, MAX_ADDRESSES)?,
            zone: {
                let text = reader.text(3, "zone")?;
                text.parse().map_err(|error: Error| reader.malformed(&error.to_string()))?
            },
            capacity: reader.uint(4, "capacity")?,
            sequence: reader.uint(5, "sequence")?,
            certificate: if reader.has(6)? {
                Some(SignedCertificate::decode(reader.bytes(6, "certificate")?, suite)?)
            } else {
                None
            },
        };
        reader.finish()?;
        Ok(record)
    }
}

/// A node record with the signature of its node, which was checked when it was made or read.
///
/// A clone is the same record: members pass records on far more often than they read one.
#[derive(Clone)]
pub struct SignedRecord(Arc<Signed>);

struct Signed {
    record: NodeRecord,
    encoded: Bytes,
    hash: [u8; 32],
}

impl SignedRecord {
    fn new(record: NodeRecord, signed: &[u8], signature: &Signature) -> Self {
        let mut writer = Writer::with_capacity(signed.len() + SIGNATURE_LEN + 16);
        writer.bytes(1, signed);
        writer.bytes(2, signature);
        let encoded = Bytes::from(writer.finish());
        let hash = Self::hash_of(&encoded);
        Self(Arc::new(Signed { record, encoded, hash }))
    }

    /// What the node says.
    pub fn record(&self) -> &NodeRecord {
        &self.0.record
    }

    /// The encoded form, over the very bytes that were signed.
    pub fn encode(&self) -> Bytes {
        self.0.encoded.clone()
    }

    /// The BLAKE3 hash of the encoded form.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.0.hash
    }

    /// The hash that the record with this encoded form has.
    pub(crate) fn hash_of(encoded: &[u8]) -> [u8; 32] {
        *blake3::hash(encoded).as_bytes()
    }

    /// Reads the encoded form and checks the signature.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] for a bad signature, [`ErrorKind::Corrupt`] for malformed bytes,
    /// [`ErrorKind::Unsupported`] for an unknown version or field.
    pub fn decode(bytes: &[u8], suite: &dyn CryptoSuite) -> Result<Self> {
        const SIGNED: &str = "a signed node record";
        let mut reader = Reader::open(bytes, MAX_RECORD_LEN, SIGNED, ErrorKind::Corrupt, Unknown::Refuse)?;
        let signed = reader.bytes(1, "record")?;
        let signature: Signature = reader.array(2, "signature")?;
        reader.finish()?;
        let record = NodeRecord::decode(signed, suite)?;
        if !suite.verify(&record.node, &signed_message(signed), &signature) {
            return Err(Error::new(ErrorKind::AccessDenied, "a node record has a bad signature")
                .with_node(record.node));
        }
        Ok(Self::new(record, signed, &signature))
    }
}

impl PartialEq for SignedRecord {
    fn eq(&self, other: &Self) -> bool {
        self.0.encoded == other.0.encoded
    }
}

impl Eq for SignedRecord {}

impl fmt::Debug for SignedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({:?})", self.0.record)
    }
}

/// Writes a list of addresses.
pub(super) fn write_addresses(
    encoder: &mut minicbor::Encoder<&mut Vec<u8>>,
    addresses: &[Address],
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.array(addresses.len() as u64)?;
    for address in addresses {
        encoder.str(address.as_str())?;
    }
    Ok(())
}

/// Reads a list of at most `max` addresses.
pub(super) fn read_addresses(reader: &mut Reader<'_>, key: u64, max: usize) -> Result<Vec<Address>> {
    let texts = reader.list(key, "addresses", max, |decoder| decoder.str())?;
    texts
        .into_iter()
        .map(|text| text.parse().map_err(|error: Error| reader.malformed(&error.to_string())))
        .collect()
}

fn signed_message(bytes: &[u8]) -> Vec<u8> {
    [LABEL, bytes].concat()
}
