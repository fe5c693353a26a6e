//! What a node needs to join a mesh.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::keys::{context, derive, secrets};
use crate::format::record::{read_addresses, write_addresses};
use crate::format::text::{from_text, invalid, to_text, wrong_prefix};
use crate::ports::{Address, MAX_ADDRESS_LEN};

/// The most addresses of a ticket; more are cut off when it is written.
pub const MAX_TICKET_ADDRESSES: usize = 32;

/// The longest encoded ticket, in bytes: its addresses with their lengths, the key and what stands around.
const MAX_TICKET_LEN: usize = MAX_TICKET_ADDRESSES * (MAX_ADDRESS_LEN + 3) + 128;

/// The longest text form: eight characters for five bytes, with room for prefix and checksum.
const MAX_TEXT_LEN: usize = MAX_TICKET_LEN.div_ceil(5) * 8 + 64;

const PREFIX: &str = "dmt1";
const WHAT: &str = "a ticket";

secrets! {
    /// The secret that all nodes of a mesh share, and nobody else knows.
    MeshKey;
}

impl MeshKey {
    /// A public name of the mesh, from which the key cannot be found.
    pub fn network_name(&self) -> [u8; 32] {
        *derive(context::NETWORK_NAME, &[&self.0])
    }
}

/// What a node needs to join a mesh: its key, and where some members can be reached.
///
/// Whoever has it can join. `Debug` shows addresses only.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The mesh key.
    pub mesh_key: MeshKey,
    /// Where members can be reached; at most 32.
    pub addresses: Vec<Address>,
}

impl Ticket {
    /// The text form: `dmt1`, then lower-case base32 of the encoded ticket and a checksum.
    ///
    /// Addresses after the 32nd are left out.
    pub fn to_text(&self) -> Zeroizing<String> {
        let addresses = self.addresses.get(..MAX_TICKET_ADDRESSES).unwrap_or(&self.addresses);
        let mut writer = Writer::with_capacity(MAX_TICKET_LEN);
        writer.bytes(1, self.mesh_key.as_bytes());
        writer.field(2, |encoder| write_addresses(encoder, addresses));
        to_text(PREFIX, &Zeroizing::new(writer.finish()))
    }
}

impl FromStr for Ticket {
    type Err = Error;

    /// Reads the text form.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything that is no ticket, [`ErrorKind::Unsupported`] for a version
    /// that this build does not know.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT_LEN {
            return Err(invalid(WHAT, &format!("it is at most {MAX_TEXT_LEN} characters")));
        }
        if !text.starts_with(PREFIX) {
            return Err(wrong_prefix(WHAT, text, &["dmt"]));
        }
        let bytes = from_text(WHAT, PREFIX, text)?;
        let mut reader = Reader::open(&bytes, MAX_TICKET_LEN, WHAT, ErrorKind::InvalidInput, Unknown::Skip)?;
        let ticket = Self {
            mesh_key: MeshKey(reader.array(1, "mesh key")?),
            addresses: read_addresses(&mut reader, 2, MAX_TICKET_ADDRESSES)?,
        };
        reader.finish()?;
        Ok(ticket)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("mesh_key", &self.mesh_key)
            .field("addresses", &self.addresses)
            .finish()
    }
}
