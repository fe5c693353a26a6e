//! The proof of the mesh key and of both nodes on one machine, to a stranger and with somebody in the middle.

use std::sync::Arc;

use datamesh_core::format::{MeshKey, MeshKeys};
use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Identity, Nonce, SIGNATURE_LEN, Signature, SuiteId, Timestamp};
use datamesh_core::{Error, ErrorKind, KeyRing, Result};
use futures::executor::block_on;
use futures::future;

use super::proof::{ASKED_LEN, Own, PICKED_LEN, Purpose};
use crate::fuzz::{Pipe, changes, lock, pipe};
use crate::wire::keys::KeyName;

/// What each end says before it names itself.
const DIALLER_SAYS: usize = ASKED_LEN + 32;
const LISTENER_SAYS: usize = PICKED_LEN + 32;

/// A node's name and signature.
const NAMED: usize = 32 + SIGNATURE_LEN;

/// The proof of the mesh key and of both nodes, on one machine.
///
/// The first byte says which keys the ends have, and whether the rest is what a stranger says to one of them, or what
/// somebody in the middle does to what two nodes say.
///
/// # Panics
/// Where a stranger is let in or hears more than it must, where two nodes of one mesh do not take each other, or take
/// what was altered on the way.
pub fn local_proof(data: &[u8]) {
    let Some((&who, rest)) = data.split_first() else { return };
    let (dials, listens) = (who & 3, who >> 2 & 3);
    let purpose = if who & 0x10 == 0 { Purpose::Link } else { Purpose::Requests };
    match (who & 0x80, who & 0x40) {
        (0, _) => between(dials, listens, purpose, rest),
        (_, 0) => stranger_dials(listens, rest),
        _ => stranger_answers(dials, purpose, rest),
    }
}

/// What a stranger says that dials a node.
fn stranger_dials(keys: u8, said: &[u8]) {
    let (own, mut pipe) = (own(1, keys), Pipe::to_stranger(said));
    let [inbound, outbound] = pipe.ways();
    assert!(block_on(own.answer(&mut pipe, |_| false)).is_err(), "a stranger is let in");
    let (hears, is_heard) = (lock(&outbound).sent, lock(&inbound).read);
    assert!(hears <= PICKED_LEN && is_heard <= DIALLER_SAYS, "{hears} bytes are said for {is_heard}");
}

/// What a stranger says that a node has dialled.
fn stranger_answers(keys: u8, purpose: Purpose, said: &[u8]) {
    let (own, mut pipe) = (own(1, keys), Pipe::to_stranger(said));
    let [inbound, outbound] = pipe.ways();
    assert!(block_on(own.dial(&mut pipe, purpose, node(2))).is_err(), "a stranger is taken for a member");
    let (hears, is_heard) = (lock(&outbound).sent, lock(&inbound).read);
    assert!(hears <= DIALLER_SAYS && is_heard <= LISTENER_SAYS, "{hears} bytes are said for {is_heard}");
}

/// Two nodes, and what is done to what they say.
fn between(dials: u8, listens: u8, purpose: Purpose, rest: &[u8]) {
    let (dialler, listener) = (own(1, dials), own(2, listens));
    let [mut near, mut far] = pipe(changes(rest));
    let [back, there] = near.ways();
    // Each end hangs up when it is done.
    let (dialled, answered) =
        block_on(future::join(async move { dialler.dial(&mut near, purpose, node(2)).await }, async move {
            listener.answer(&mut far, |_| false).await
        }));
    let (dialled, answered) = (dialled.ok(), answered.ok());
    let (there, back) = (lock(&there).first_change, lock(&back).first_change);
    let common = common(dials, listens);
    if there.is_none() && back.is_none() {
        assert!(
            dialled == common && answered.is_some() == common.is_some(),
            "what nobody altered has another end"
        );
    }
    assert!(dialled.is_none() || dialled == common, "a key is proved that one of them has not");
    if let Some((purpose_heard, from, key)) = answered {
        assert!((purpose_heard, from, Some(key)) == (purpose, node(1), common), "something else is heard");
    }
    // All that the dialler says comes before the last word of the listener.
    if there.is_some_and(|place| place < DIALLER_SAYS + NAMED)
        || back.is_some_and(|place| place < LISTENER_SAYS)
    {
        assert!(dialled.is_none() && answered.is_none(), "what was altered is taken");
    }
    assert!(dialled.is_none() || back.is_none(), "what was altered is taken by the dialler");
}

/// A node that accepts the first key, that and the one after it, only the one after it, or that of another mesh.
fn own(number: u8, keys: u8) -> Own {
    let first = MeshKeys::first(key(1));
    let after = |end| first.next(key(2), Timestamp(end), Timestamp(0)).unwrap_or_else(|_| first.clone());
    let keys = match keys {
        0 => first,
        1 => after(u64::MAX),
        2 => after(0),
        _ => MeshKeys::first(key(9)),
    };
    Own::new(Arc::new(Signer(node(number))), Arc::new(Hashes), KeyRing::new(keys))
}

/// The key that both are to prove.
fn common(dials: u8, listens: u8) -> Option<KeyName> {
    let number = match (dials, listens) {
        (3, 3) => 9,
        (3, _) | (_, 3) | (0, 2) | (2, 0) => return None,
        (1 | 2, 1 | 2) => 2,
        _ => 1,
    };
    Some(key(number).network_name())
}

fn key(byte: u8) -> MeshKey {
    MeshKey::from_bytes([byte; 32])
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Signs with a hash: enough where nobody forges.
fn signature(node: &NodeId, message: &[u8]) -> Signature {
    let mut signature = [0; SIGNATURE_LEN];
    blake3::Hasher::new_keyed(node.as_bytes()).update(message).finalize_xof().fill(&mut signature);
    signature
}

#[derive(Debug)]
struct Signer(NodeId);

impl Identity for Signer {
    fn node_id(&self) -> NodeId {
        self.0
    }
    fn sign(&self, message: &[u8]) -> Signature {
        signature(&self.0, message)
    }
}

/// Checks those signatures, and ciphers nothing.
#[derive(Debug)]
struct Hashes;

impl CryptoSuite for Hashes {
    fn id(&self) -> SuiteId {
        SuiteId(0xffff)
    }
    fn seal(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8]) -> Result<[u8; 16]> {
        Err(Error::new(ErrorKind::InvalidInput, "this suite seals nothing"))
    }
    fn open(&self, _: &[u8; 32], _: &Nonce, _: &[u8], _: &mut [u8], _: &[u8; 16]) -> Result<()> {
        Err(Error::new(ErrorKind::Corrupt, "this suite opens nothing"))
    }
    fn verify(&self, node: &NodeId, message: &[u8], shown: &Signature) -> bool {
        signature(node, message) == *shown
    }
}
