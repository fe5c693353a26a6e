//! Reading what a builder was told as text, and finding all that is wrong with it.

use datamesh_core::{Address, Error, ErrorKind, Result, Zone};

use super::transports::has_local;
use super::{Builder, TransportPreference};

/// Where this node listens, and what it tells others.
#[derive(Debug)]
#[cfg_attr(not(feature = "libp2p"), expect(dead_code, reason = "only libp2p is told what to announce"))]
pub(super) struct Places {
    pub(super) listen: Vec<Address>,
    pub(super) announce: Vec<Address>,
}

impl Builder {
    /// Reads what was given as text, and lists all that is wrong with it.
    pub(super) fn check(&self) -> Result<(Places, Zone)> {
        let mut problems = Vec::new();
        let listen = read_addresses(&self.listen, &mut problems);
        let announce = read_addresses(&self.announce, &mut problems);
        let zone = self.zone.as_deref().map_or(Ok(Zone::default()), str::parse);
        let zone = zone.unwrap_or_else(|error: Error| {
            problems.push(error.to_string());
            Zone::default()
        });
        let contradictions = self.contradictions();
        let found = contradictions.into_iter().filter(|(is_so, _)| *is_so);
        problems.extend(found.map(|(_, text)| text.to_owned()));
        if problems.is_empty() {
            Ok((Places { listen, announce }, zone))
        } else {
            Err(Error::new(ErrorKind::InvalidInput, problems.join("; ")))
        }
    }

    /// What may be wrong with settings that are right one by one, and whether it is.
    fn contradictions(&self) -> [(bool, &'static str); 9] {
        let is_local = self.preference == TransportPreference::LocalOnly;
        let is_network = self.preference == TransportPreference::NetworkOnly;
        let listens = !self.listen.is_empty();
        let is_of_another_mesh = match (&self.ticket, &self.mesh_key) {
            (Some(ticket), Some(key)) => {
                *ticket.network() != key.network_name() && ticket.mesh_key() != Some(key)
            }
            _ => false,
        };
        let keeps_on_disk = self.path.is_some() && self.storage.is_none();
        [
            (!self.announce.is_empty() && !listens, "an address is announced, and none is listened on"),
            (is_of_another_mesh, "the ticket is of another mesh than the mesh key"),
            (
                self.ticket.as_ref().is_some_and(|ticket| ticket.addresses.is_empty()),
                "the ticket names no address; ask for a new one",
            ),
            (is_local && listens, "a node that stays on its machine listens on no address"),
            (
                is_local && self.looks_around(),
                "a node that stays on its machine looks for nobody on networks",
            ),
            (is_local && !has_local(), "staying on the machine needs the feature local, and a Unix"),
            (
                is_network && self.network.is_some(),
                "a node that uses the network only joins no network inside the process",
            ),
            (cfg!(not(feature = "libp2p")) && listens, "listening needs the feature libp2p"),
            (
                cfg!(not(feature = "disk")) && keeps_on_disk,
                "keeping data under a path needs the feature disk, or a storage of your own",
            ),
        ]
    }
}

/// Whether libp2p can listen on an address, and others dial it.
#[cfg(feature = "libp2p")]
fn check_address(address: &Address) -> Result<()> {
    datamesh_net::libp2p::check_address(address)
}

#[cfg(not(feature = "libp2p"))]
fn check_address(_: &Address) -> Result<()> {
    Ok(())
}

fn read_addresses(texts: &[String], problems: &mut Vec<String>) -> Vec<Address> {
    let mut addresses = Vec::new();
    for text in texts {
        match text.parse::<Address>().and_then(|address| check_address(&address).map(|()| address)) {
            Ok(address) => addresses.push(address),
            Err(error) => problems.push(error.to_string()),
        }
    }
    addresses
}
