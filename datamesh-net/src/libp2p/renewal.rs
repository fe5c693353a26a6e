//! Connections outlive a change of the mesh key: the dialler proves the new key on them, and those that were not
//! proved anew when the old key ends are closed.

use std::collections::HashMap;

use datamesh_core::KeyRing;
use datamesh_core::id::NodeId;
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::time::Instant;

use super::driver::Driver;
use super::handler::Proof;
use super::names;
use super::proof::Role;
use crate::wire::backoff;
use crate::wire::keys::{KeyName, accepted_names};

/// With which key each connection was proved.
pub(super) struct Renewals {
    ring: Option<KeyRing>,
    /// Hears of each change of the keys.
    pub(super) changes: async_channel::Receiver<()>,
    proved: HashMap<ConnectionId, Proved>,
    /// When a connection is to be proved anew, where one waits for its peer to learn the new key.
    pub(super) next: Option<Instant>,
}

/// A connection that was proved.
struct Proved {
    peer: PeerId,
    proof: Proof,
    tried: u32,
    not_before: Instant,
}

impl Renewals {
    pub(super) fn of(ring: Option<&KeyRing>) -> Self {
        let changes = ring.map_or_else(|| async_channel::bounded(1).1, KeyRing::changes);
        Self { ring: ring.cloned(), changes, proved: HashMap::new(), next: None }
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.proved.remove(&connection);
    }

    fn note(&mut self, connection: ConnectionId, peer: PeerId, proof: Proof) {
        let known = self.proved.get_mut(&connection).filter(|proved| proved.proof.key == proof.key);
        match known {
            Some(proved) => proved.proof = proof,
            // The next change of the key is not held back by how long this one took.
            None => {
                let not_before = Instant::now();
                self.proved.insert(connection, Proved { peer, proof, tried: 0, not_before });
            }
        }
    }

    /// The connections whose key is accepted no more, and those that are to be proved anew now.
    fn due(
        &mut self,
        accepted: &[KeyName],
        now: Instant,
    ) -> (Vec<ConnectionId>, Vec<(PeerId, ConnectionId)>) {
        let ended = self.proved.iter().filter(|(_, proved)| !accepted.contains(&proved.proof.key));
        let ended = ended.map(|(connection, _)| *connection).collect();
        let (mut renewed, mut next) = (Vec::new(), None::<Instant>);
        for (connection, proved) in &mut self.proved {
            if proved.proof.role != Role::Dialler || accepted.first() == Some(&proved.proof.key) {
                continue;
            }
            if proved.not_before <= now {
                proved.tried = proved.tried.saturating_add(1);
                proved.not_before = now + backoff(proved.tried);
                renewed.push((proved.peer, *connection));
            }
            next = Some(next.map_or(proved.not_before, |next| next.min(proved.not_before)));
        }
        self.next = next;
        (ended, renewed)
    }
}

impl Driver {
    /// Notes that a connection was proved, the first time or anew.
    pub(super) fn on_proof(&mut self, node: NodeId, connection: ConnectionId, proof: Proof) {
        let Some(peer) = names::peer_of(&node) else { return };
        self.renewals.note(connection, peer, proof);
        // It may be proved with a key that another one has taken the place of by now.
        self.look_at_keys();
    }

    /// Closes connections whose key has ended, and has others proved with the newest one.
    pub(super) fn look_at_keys(&mut self) {
        let Some(ring) = &self.renewals.ring else { return };
        let accepted = accepted_names(ring);
        let (ended, renewed) = self.renewals.due(&accepted, Instant::now());
        for connection in ended {
            tracing::info!("a connection is closed: its peer has not proved the new mesh key");
            self.swarm.close_connection(connection);
        }
        for (peer, connection) in renewed {
            self.swarm.behaviour_mut().mesh.renew(peer, connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn diallers_prove_anew_and_what_has_ended_is_closed() {
        let [old, new] = [[1; 32], [2; 32]];
        let mut renewals = Renewals::of(None);
        let (peer, begin) = (PeerId::random(), Instant::now());
        let connections = [1, 2, 3].map(ConnectionId::new_unchecked);
        let proofs = [(Role::Dialler, old), (Role::Listener, old), (Role::Dialler, new)];
        for (connection, (role, key)) in connections.into_iter().zip(proofs) {
            renewals.note(connection, peer, Proof { role, key });
        }
        let now = begin + Duration::from_secs(1);
        assert_eq!(renewals.due(&[old], now).0, [connections[2]], "a key that was never accepted");
        assert_eq!(renewals.due(&[new, old], now), (vec![], vec![(peer, connections[0])]));
        let next = renewals.next.unwrap();
        assert!(next > now && renewals.due(&[new, old], now).1.is_empty(), "it waits before it asks again");
        assert_eq!(renewals.due(&[new, old], next).1, [(peer, connections[0])]);

        renewals.note(connections[0], peer, Proof { role: Role::Dialler, key: old });
        assert_eq!(renewals.proved[&connections[0]].tried, 2, "the key that it has is no news");
        renewals.note(connections[0], peer, Proof { role: Role::Dialler, key: new });
        assert_eq!(renewals.proved[&connections[0]].tried, 0);
        assert_eq!(renewals.due(&[new, old], next + Duration::from_secs(60)), (vec![], vec![]));
        assert_eq!(renewals.next, None);
        assert_eq!(renewals.due(&[new], now).0, [connections[1]], "it was not proved anew in time");
    }
}
