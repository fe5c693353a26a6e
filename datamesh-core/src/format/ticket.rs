//! What a node needs to join a mesh.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::format::admission::{AdmissionKey, MAX_ADMISSION_KEYS};
use crate::format::cbor::{Reader, Unknown, Writer};
use crate::format::keys::{context, derive, public_values, secrets};
use crate::format::mesh_keys::{MAX_GENERATION, MeshKeys};
use crate::format::record::{read_addresses, write_addresses};
use crate::format::text::{from_text, invalid, to_text, wrong_prefix};
use crate::ports::{Address, MAX_ADDRESS_LEN, Timestamp};

/// The most addresses of a ticket; more are cut off when it is written.
pub const MAX_TICKET_ADDRESSES: usize = 32;

/// The longest encoded ticket, in bytes: its addresses with their lengths, key, network name, generation and what
/// stands around.
const MAX_TICKET_LEN: usize = MAX_TICKET_ADDRESSES * (MAX_ADDRESS_LEN + 3) + MAX_ADMISSION_KEYS * 32 + 192;

/// The longest text form: eight characters for five bytes, with room for prefix and checksum.
const MAX_TEXT_LEN: usize = MAX_TICKET_LEN.div_ceil(5) * 8 + 64;

const PREFIX: &str = "dmt1";
const WHAT: &str = "a ticket";

secrets! {
    /// The secret that all nodes of a mesh share, and nobody else knows.
    MeshKey;
    /// The secret of an invitation: it opens a mesh until a certain moment, and the mesh key cannot be found from it.
    InvitationSecret;
}

public_values! {
    /// The [public name](MeshKey::network_name) of a mesh key. Strangers must not see it, and `Debug` shows only where it
    /// begins.
    KeyName;
}

impl MeshKey {
    /// A public name of the key, from which it cannot be found. That of its first key is the name of the mesh.
    pub fn network_name(&self) -> [u8; 32] {
        *derive(context::NETWORK_NAME, &[&self.0])
    }

    /// The secret of the invitations that end at this moment.
    pub fn invitation(&self, expires: Timestamp) -> InvitationSecret {
        InvitationSecret(*derive(context::INVITATION, &[&self.0, &expires.0.to_le_bytes()]))
    }
}

/// What lets a node into a mesh until a certain moment.
///
/// It does not hold the mesh key. A member hands that over, until then and by its own clock, to who proves to have
/// the secret; so a ticket that has ended is of no use to anybody.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The public name of the mesh.
    pub network: [u8; 32],
    /// What is proved to a member.
    pub secret: InvitationSecret,
    /// The last moment at which it counts.
    pub expires: Timestamp,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation")
            .field("network", &KeyName::from_bytes(self.network))
            .field("secret", &self.secret)
            .field("expires", &self.expires)
            .finish()
    }
}

/// What a ticket opens a mesh with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The mesh key itself, which lets in for as long as it is accepted; those before it are no part of a ticket.
    Key(MeshKeys),
    /// What a member gives the mesh key for, until a certain moment.
    Invitation(Invitation),
}

/// What a node needs to join a mesh: its key or an invitation, and where some members can be reached.
///
/// Whoever has it can join. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What opens the mesh.
    pub entry: Entry,
    /// Where members can be reached; at most 32.
    pub addresses: Vec<Address>,
    /// By whom nodes that hold data must be admitted; nobody where it is empty. At most eight.
    pub admission: Vec<AdmissionKey>,
}

impl Ticket {
    /// A ticket of a mesh that admits whoever has it, with its first key.
    pub fn new(mesh_key: MeshKey, addresses: Vec<Address>) -> Self {
        Self { entry: Entry::Key(MeshKeys::first(mesh_key)), addresses, admission: Vec::new() }
    }

    /// The mesh key, unless the ticket is an invitation.
    pub fn mesh_key(&self) -> Option<&MeshKey> {
        match &self.entry {
            Entry::Key(keys) => Some(&keys.current),
            Entry::Invitation(_) => None,
        }
    }

    /// The public name of the mesh, which stays when its key changes.
    pub fn network(&self) -> &[u8; 32] {
        match &self.entry {
            Entry::Key(keys) => &keys.network,
            Entry::Invitation(invitation) => &invitation.network,
        }
    }

    /// The same ticket as an invitation that ends at a moment, by the clock of the member that is asked, and with the
    /// mesh key that it is made of. Who joined by then stays.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a ticket that is an invitation already.
    pub fn until(self, expires: Timestamp) -> Result<Self> {
        let Some(key) = self.mesh_key() else {
            return Err(invalid(
                "a ticket that can be lent",
                "it is an invitation itself; ask a member for one",
            ));
        };
        let (network, secret) = (*self.network(), key.invitation(expires));
        Ok(Self { entry: Entry::Invitation(Invitation { network, secret, expires }), ..self })
    }

    /// The text form: `dmt1`, then lower-case base32 of the encoded ticket and a checksum.
    ///
    /// Addresses after the 32nd are left out.
    pub fn to_text(&self) -> Zeroizing<String> {
        let addresses = self.addresses.get(..MAX_TICKET_ADDRESSES).unwrap_or(&self.addresses);
        let mut writer = Writer::with_capacity(MAX_TICKET_LEN);
        if let Entry::Key(keys) = &self.entry {
            writer.bytes(1, keys.current.as_bytes());
        }
        writer.field(2, |encoder| write_addresses(encoder, addresses));
        if !self.admission.is_empty() {
            writer.names(3, self.admission.iter().take(MAX_ADMISSION_KEYS).map(AdmissionKey::as_bytes));
        }
        match &self.entry {
            // Of the first key all the rest follows.
            Entry::Key(keys) if keys.are_first() => {}
            Entry::Key(keys) => {
                writer.bytes(4, &keys.network);
                writer.uint(7, keys.generation);
            }
            Entry::Invitation(invitation) => {
                writer.bytes(4, &invitation.network);
                writer.bytes(5, invitation.secret.as_bytes());
                writer.uint(6, invitation.expires.0);
            }
        }
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
        let key = if reader.has(1)? { Some(MeshKey(reader.array(1, "mesh key")?)) } else { None };
        let addresses = read_addresses(&mut reader, 2, MAX_TICKET_ADDRESSES)?;
        let admission = if reader.has(3)? {
            reader.names(3, "admission keys", MAX_ADMISSION_KEYS, AdmissionKey::from_bytes)?
        } else {
            Vec::new()
        };
        let entry = match key {
            Some(key) if reader.has(4)? => {
                let (network, generation) = (reader.array(4, "network")?, reader.uint(7, "generation")?);
                if generation > MAX_GENERATION {
                    return Err(reader.malformed("its generation is higher than any"));
                }
                Entry::Key(MeshKeys::told(network, generation, key))
            }
            Some(key) => Entry::Key(MeshKeys::first(key)),
            None => Entry::Invitation(Invitation {
                network: reader.array(4, "network")?,
                secret: InvitationSecret(reader.array(5, "invitation")?),
                expires: Timestamp(reader.uint(6, "end")?),
            }),
        };
        let ticket = Self { entry, addresses, admission };
        reader.finish()?;
        Ok(ticket)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("entry", &self.entry)
            .field("addresses", &self.addresses)
            .field("admission", &self.admission)
            .finish()
    }
}
