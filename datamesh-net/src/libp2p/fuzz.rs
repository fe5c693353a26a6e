//! The proof of the mesh key, to a stranger and with somebody in the middle.

use std::sync::Arc;

use datamesh_core::KeyRing;
use datamesh_core::format::{Invitation, MeshKey, MeshKeys};
use datamesh_core::ports::Timestamp;
use futures::executor::block_on;
use futures::future;
use libp2p::PeerId;

use super::gate::Gate;
use super::proof::{ASKED_LEN, GIVEN_LEN, Keys, Own, PICKED_LEN, Role, exchange};
use crate::fuzz::{Pipe, changes, lock, pipe};
use crate::wire::keys::KeyName;

/// What each end says before it knows the other: the dialler steps 1 and 3, the listener steps 2 and 4.
const DIALLER_SAYS: usize = ASKED_LEN + 32;
const LISTENER_SAYS: usize = PICKED_LEN + 32;

/// The proof of the mesh key over a network.
///
/// The first byte says which keys the ends have, and whether the rest is what a stranger says to one of them, or what
/// somebody in the middle does to what two nodes say.
///
/// # Panics
/// Where a stranger is let in or hears more than it must, where two nodes of one mesh do not take each other, or take
/// what was altered on the way.
pub fn network_proof(data: &[u8]) {
    let Some((&who, rest)) = data.split_first() else { return };
    let (dials, listens) = (who & 3, who >> 2 & 3);
    match (who & 0x80, who & 0x40) {
        (0, _) => between(dials, listens, rest),
        (_, 0) => stranger(Role::Listener, listens, rest),
        _ => stranger(Role::Dialler, dials, rest),
    }
}

/// What a stranger says to a node.
fn stranger(role: Role, keys: u8, said: &[u8]) {
    let (own, gate) = (own(1, keys), Gate::default());
    let pipe = Pipe::to_stranger(said);
    let [inbound, outbound] = pipe.ways();
    assert!(block_on(exchange(pipe, role, &own, peer(2), &gate)).is_err(), "a stranger is let in");
    assert!(!gate.is_open() && own.keys.learned().is_none(), "a stranger opens the gate");
    let (hears, is_heard) = (lock(&outbound).sent, lock(&inbound).read);
    let (most, longest) = match role {
        Role::Dialler => (DIALLER_SAYS, LISTENER_SAYS),
        Role::Listener => (PICKED_LEN, DIALLER_SAYS),
    };
    assert!(hears <= most && is_heard <= longest, "{hears} bytes are said for {is_heard}");
}

/// Two nodes, and what is done to what they say.
fn between(dials: u8, listens: u8, rest: &[u8]) {
    let (dialler, listener) = (own(1, dials), own(2, listens));
    let [near, far] = pipe(changes(rest));
    let [back, there] = near.ways();
    let gates = [Gate::default(), Gate::default()];
    let (dialled, answered) = block_on(future::join(
        exchange(near, Role::Dialler, &dialler, listener.peer, &gates[0]),
        exchange(far, Role::Listener, &listener, dialler.peer, &gates[1]),
    ));
    let (dialled, answered) = (dialled.ok(), answered.ok());
    let (there, back) = (lock(&there).first_change, lock(&back).first_change);
    let common = common(dials, listens);
    // Who has an invitation does not know yet which key it was made of.
    let shown = common.map(|common| if dials == INVITED { invited_by() } else { common });
    if there.is_none() && back.is_none() {
        assert!((dialled, answered) == (shown, common), "what nobody altered has another end");
        let learns = dials == INVITED && common.is_some();
        assert!(dialler.keys.learned().is_some() == learns, "a key is learned, or is not");
    }
    let is_open = gates.each_ref().map(Gate::is_open);
    assert!(is_open == [dialled.is_some(), answered.is_some()], "a gate opens for another reason");
    assert!(dialled.is_none() || dialled == shown, "a key is proved that the listener has not");
    assert!(answered.is_none() || answered == common, "a key is proved that the dialler has not");
    if there.is_some_and(|place| place < DIALLER_SAYS) || back.is_some_and(|place| place < LISTENER_SAYS) {
        assert!(dialled.is_none() && answered.is_none(), "what was altered is taken");
    }
    // Only the generation of a key that is given is not told by the key itself.
    let key_ends = LISTENER_SAYS + if dials == INVITED { GIVEN_LEN - 8 } else { 0 };
    assert!(dialled.is_none() || back.is_none_or(|place| place >= key_ends), "another key is taken");
    if let Some(learned) = dialler.keys.learned() {
        assert!(
            (learned.network, learned.current) == (key(1).network_name(), key(1)),
            "another key is learned"
        );
    }
}

/// Whoever has an invitation of the first key.
const INVITED: u8 = 3;

/// When invitations and old keys end.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// What a node has to prove: the first key, that and the one after it, only the one after it, or an invitation.
fn own(number: u8, keys: u8) -> Own {
    let first = MeshKeys::first(key(1));
    let after = |end| first.next(key(2), end, Timestamp(0)).unwrap_or_else(|_| first.clone());
    let keys = match keys {
        0 => Keys::Mesh(KeyRing::new(first)),
        1 => Keys::Mesh(KeyRing::new(after(NEVER))),
        2 => Keys::Mesh(KeyRing::new(after(Timestamp(0)))),
        _ => {
            let secret = key(1).invitation(NEVER);
            Keys::invited(Invitation { network: key(1).network_name(), secret, expires: NEVER })
        }
    };
    Own { peer: peer(number), keys: Arc::new(keys) }
}

/// The key that both are to prove.
fn common(dials: u8, listens: u8) -> Option<KeyName> {
    let number = match (dials, listens) {
        (_, INVITED) | (0 | INVITED, 2) | (2, 0) => return None,
        (1 | 2, 1 | 2) => 2,
        _ => 1,
    };
    Some(key(number).network_name())
}

fn key(byte: u8) -> MeshKey {
    MeshKey::from_bytes([byte; 32])
}

/// The name of what an invitation of the first key proves.
fn invited_by() -> KeyName {
    MeshKey::from_bytes(*key(1).invitation(NEVER).as_bytes()).network_name()
}

fn peer(number: u8) -> PeerId {
    let key = [[0x00, 0x24, 0x08, 0x01, 0x12, 0x20].as_slice(), &[number; 32]].concat();
    PeerId::from_bytes(&key).unwrap_or_else(|_| PeerId::random())
}
