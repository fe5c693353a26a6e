//! The mesh's table of addresses: members find each other by name where not everybody knows everybody's addresses.
//!
//! Kademlia, with a protocol name that only who knows the mesh's network name can say, behind the gate for members.
//! It keeps no records and no providers: who holds what is computed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datamesh_core::id::NodeId;
use datamesh_core::{Error, ErrorKind};
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{self, QueryId, QueryResult, StoreInserts};
use libp2p::{Multiaddr, PeerId, StreamProtocol, identify};

use super::dials::{Wanted, tell};
use super::discovery::End;
use super::driver::Driver;
use super::gate::{Admits, Gated, Gates};
use super::names;
use super::scope::{Scope, scope};
use crate::wire::Dialled;

/// What the protocol's name is derived with.
const NAME_CONTEXT: &str = "datamesh v1 network name of the table of addresses";

/// Names that are looked up at the same time; further ones are refused.
const MAX_LOOKUPS: usize = 32;

/// Of these, lookups of members that may have moved; the others are left to those who ask.
const MAX_MOVED: usize = 8;

/// After so many dials in vain, and each time after so many more, a member is looked up.
const OFTEN: u32 = 32;

/// How long a lookup may take: a few hops, some of them to members that are gone.
const LOOKUP_LIMIT: Duration = Duration::from_secs(15);

/// Addresses of one member that are taken from what others say, and that the table keeps of what it said in all its
/// time.
const MAX_TAKEN: usize = 16;
const MAX_KEPT: usize = 4 * MAX_TAKEN;

pub(super) type Table = kad::Behaviour<MemoryStore>;

/// The protocol's name in the mesh of this network name. Only members are told it, inside an encrypted connection.
pub(super) fn protocol(network: &[u8; 32]) -> StreamProtocol {
    let derived = blake3::Hash::from_bytes(blake3::derive_key(NAME_CONTEXT, network)).to_hex();
    StreamProtocol::try_from_owned(format!("/datamesh/kad/1/{}", derived.get(..32).unwrap_or_default()))
        .unwrap_or(StreamProtocol::new("/datamesh/kad/1"))
}

pub(super) fn table(local: PeerId, gates: &Arc<Gates>, network: &[u8; 32]) -> Gated<Table> {
    let mut config = kad::Config::new(protocol(network));
    config
        .set_query_timeout(LOOKUP_LIMIT)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .disjoint_query_paths(true);
    let nothing = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 0,
        max_provided_keys: 0,
    };
    let mut table = kad::Behaviour::with_config(local, MemoryStore::with_config(local, nothing), config);
    table.set_mode(Some(kad::Mode::Server));
    Gated::new(table, gates, Admits::Members)
}

/// Lookups under way, and who waits for them.
#[derive(Default)]
pub(super) struct Lookups(HashMap<QueryId, (NodeId, Vec<Dialled>)>);

impl Driver {
    /// Finds a member by name and dials it.
    pub(super) fn look_up(&mut self, node: NodeId, waiting: Vec<Dialled>) {
        let under_way = self.lookups.0.values_mut().find(|(wanted, _)| *wanted == node);
        if let Some((_, others)) = under_way {
            others.extend(waiting);
            return;
        }
        let peer = names::peer_of(&node);
        let is_full = self.lookups.0.len() >= MAX_LOOKUPS;
        let table = self.swarm.behaviour_mut().kademlia.as_mut();
        let (Some(table), Some(peer), false) = (table, peer, is_full) else {
            return fail(waiting, "members are not looked up by name here, or too many are at once");
        };
        let query = table.inner.get_closest_peers(peer);
        self.lookups.0.insert(query, (node, waiting));
    }

    pub(super) fn on_table(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else { return };
        let QueryResult::GetClosestPeers(result) = result else { return };
        let Some((node, _)) = self.lookups.0.get(&id) else { return };
        let node = *node;
        let peers = match result {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        let wanted = peers.into_iter().find(|peer| names::node_of(&peer.peer_id) == Some(node));
        let addresses: Vec<Multiaddr> = wanted.into_iter().flat_map(|peer| peer.addrs).collect();
        if addresses.is_empty() && !step.last {
            return;
        }
        let Some((_, waiting)) = self.lookups.0.remove(&id) else { return };
        self.found(node, addresses, waiting);
    }

    fn found(&mut self, node: NodeId, mut addresses: Vec<Multiaddr>, waiting: Vec<Dialled>) {
        addresses.retain(names::is_dialable);
        addresses.truncate(MAX_TAKEN);
        let Some(peer) = names::peer_of(&node).filter(|_| !addresses.is_empty()) else {
            return fail(waiting, "no member that answers knows an address of this node");
        };
        tracing::debug!(%node, ?addresses, "a member was found by its name");
        self.ask(Wanted::Found(peer, addresses), waiting);
    }

    /// Looks up a member that cannot be reached under its addresses: it may have others by now, which some member has
    /// heard from it. The lookup itself dials it there.
    pub(super) fn look_for_moved(&mut self, node: NodeId) {
        let unreached = self.routes.get(&node).map_or(0, |route| route.failures);
        let asked_by_nobody = |(_, waiting): &&(NodeId, Vec<Dialled>)| waiting.is_empty();
        let moved = self.lookups.0.values().filter(asked_by_nobody).count();
        if !may_have_moved(unreached) || moved >= MAX_MOVED || self.is_looked_up(&node) {
            return;
        }
        let (Some(table), Some(peer)) = (self.swarm.behaviour_mut().kademlia.as_mut(), names::peer_of(&node))
        else {
            return;
        };
        // The table would first dial the member where it was, and then not again where others say that it is.
        table.inner.remove_peer(&peer);
        self.look_up(node, Vec::new());
    }

    /// Tells nobody any more where those are who were revoked.
    pub(super) fn forget_refused(&mut self) {
        let Some(table) = self.swarm.behaviour_mut().kademlia.as_mut() else { return };
        for peer in self.shared.refused().iter().filter_map(names::peer_of) {
            table.inner.remove_peer(&peer);
        }
    }

    pub(super) fn is_looked_up(&self, node: &NodeId) -> bool {
        self.lookups.0.values().any(|(wanted, _)| wanted == node)
    }

    /// Takes in what a member says of itself: it is asked where others are, and others are told where it is.
    ///
    /// An address that leads less far than the connection on which it was told is no use to anybody else.
    pub(super) fn note_addresses(&mut self, peer: &PeerId, info: &identify::Info, seen_at: &End) {
        let Some(table) = self.swarm.behaviour_mut().kademlia.as_mut() else { return };
        let speaks = |name: &StreamProtocol| info.protocols.contains(name);
        if !table.inner.protocol_names().iter().any(speaks) {
            return;
        }
        let least = if seen_at.relayed { Scope::World } else { scope(&seen_at.address) };
        let reaches = |address: &&Multiaddr| names::is_dialable(address) && scope(address) >= least;
        let said: Vec<_> = info.listen_addrs.iter().filter(reaches).take(MAX_TAKEN).cloned().collect();
        keep_addresses(&mut table.inner, peer, said);
    }
}

/// Adds addresses of a member. The table itself forgets none that was not dialled in vain, so one that says others
/// again and again is entered anew.
fn keep_addresses(table: &mut Table, peer: &PeerId, said: Vec<Multiaddr>) {
    if kept_addresses(table, peer).saturating_add(said.len()) > MAX_KEPT {
        table.remove_peer(peer);
    }
    for address in said {
        table.add_address(peer, address);
    }
}

/// How many addresses of a member the table keeps.
fn kept_addresses(table: &mut Table, peer: &PeerId) -> usize {
    let Some(bucket) = table.kbucket(*peer) else { return 0 };
    let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
    entry.map_or(0, |entry| entry.node.value.len())
}

fn fail(waiting: Vec<Dialled>, why: &str) {
    tell(waiting, &Err(Error::new(ErrorKind::Unavailable, why)));
}

/// Whether a member that could not be reached so often in a row is to be looked up: after 2, 4, 8, 16 and 32 times,
/// which is within some ten minutes, and then each 32nd time, about each twelve. Members that are gone for good are
/// many in an old mesh, and a lookup asks some twenty others.
fn may_have_moved(unreached: u32) -> bool {
    let soon = (2..OFTEN).contains(&unreached) && unreached.is_power_of_two();
    soon || (unreached > 0 && unreached.is_multiple_of(OFTEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mesh_has_a_name_of_its_own() {
        let (one, other) = (protocol(&[1; 32]), protocol(&[2; 32]));
        assert!(one != other && one == protocol(&[1; 32]));
        assert_eq!(one.as_ref().len(), "/datamesh/kad/1/".len() + 32);
    }

    #[test]
    fn who_is_not_reached_is_looked_up_often_at_first() {
        let looked_up: Vec<u32> = (0..=130).filter(|unreached| may_have_moved(*unreached)).collect();
        assert_eq!(looked_up, [2, 4, 8, 16, 32, 64, 96, 128]);
        assert!(!may_have_moved(u32::MAX));
    }

    #[test]
    fn a_member_that_says_other_addresses_each_time_fills_no_table() {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let mut table = table(local, &Arc::default(), &[1; 32]).inner;
        for round in 0..100 {
            let address = |n| format!("/ip4/203.0.113.{n}/tcp/{}", round + 1).parse().unwrap();
            keep_addresses(&mut table, &peer, (0..MAX_TAKEN).map(address).collect());
            let kept = kept_addresses(&mut table, &peer);
            assert!((MAX_TAKEN..=MAX_KEPT).contains(&kept), "{kept} after round {round}");
        }
    }
}
