//! The proof that both ends of a connection know the mesh key and are the nodes that they say.
//!
//! First the mesh key is proved both ways, over fresh nonces and with no name of a node said; then each end names
//! itself and signs what was said. While the mesh key changes, the dialler has several: it says which by keyed hashes
//! of its nonce, and the listener picks. Whoever cannot prove the mesh key has seen random bytes, and from a node that
//! dialled it keyed hashes of such bytes.

use std::io;

use datamesh_core::KeyRing;
use datamesh_core::format::MeshKey;
use datamesh_core::id::NodeId;
use datamesh_core::ports::{CryptoSuite, Identity, SIGNATURE_LEN, Signature};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::wire::REVOKED;
use crate::wire::keys::{KeyName, MAX_KEYS, now};

const VERSION: u8 = 3;
const NONCE_LEN: usize = 32;

/// The length of what says which key is meant: enough that no two keys share one.
const HINT_LEN: usize = 16;

/// What the dialler says first: version, purpose, two zero bytes, a nonce, and a hint for each of its keys.
pub(super) const ASKED_LEN: usize = 4 + NONCE_LEN + MAX_KEYS * HINT_LEN;

/// What the listener answers: a nonce, and which key it picked.
pub(super) const PICKED_LEN: usize = NONCE_LEN + 1;

/// The listener has none of the keys.
const NONE: u8 = 0xff;

const KEY_CONTEXT: &str = "datamesh v1 local proof of the mesh key";
const IDENTITY_CONTEXT: &str = "datamesh v1 local proof of identity";

/// What a dialler is told whose keys the listener does not accept.
const ANOTHER_KEY: &str = "it knows another mesh key; if that was changed while this node was away, open it with a new \
                           ticket, and rejoin where this node alone has a newer key";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It says that both ends are there, for as long as it is open.
    Link,
    /// Requests of the end that opened it.
    Requests,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Link => 1,
            Self::Requests => 2,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Link, Self::Requests].into_iter().find(|purpose| purpose.code() == code)
    }
}

/// Which end of the connection shows something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Dialler,
    Listener,
}

/// What this node shows, and what it checks others with.
pub(super) struct Own {
    pub(super) identity: std::sync::Arc<dyn Identity>,
    suite: std::sync::Arc<dyn CryptoSuite>,
    keys: KeyRing,
}

/// The key of the proofs, derived from a mesh key.
struct ProofKey {
    key: Zeroizing<[u8; 32]>,
    of: KeyName,
}

impl ProofKey {
    fn derive(key: &MeshKey) -> Self {
        let proof = Zeroizing::new(blake3::derive_key(KEY_CONTEXT, key.as_bytes()));
        Self { key: proof, of: key.network_name() }
    }

    /// Says which key is meant to whoever has it, and to others nothing: it is another one with each nonce.
    fn hint(&self, purpose: u8, nonce: &[u8]) -> [u8; HINT_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[2, purpose]);
        hasher.update(nonce);
        let mut hint = [0; HINT_LEN];
        hasher.finalize_xof().fill(&mut hint);
        hint
    }
}

/// Why a proof failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The other end went away; it may not have said a thing.
    Broken(io::ErrorKind),
    /// It said something wrong.
    Refused(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

/// What both ends have said when the mesh key is proved.
struct Transcript {
    asked: [u8; ASKED_LEN],
    picked: [u8; PICKED_LEN],
}

impl Own {
    pub(super) fn new(
        identity: std::sync::Arc<dyn Identity>,
        suite: std::sync::Arc<dyn CryptoSuite>,
        keys: KeyRing,
    ) -> Self {
        Self { identity, suite, keys }
    }

    /// The keys that are accepted now, the newest first.
    fn accepted(&self) -> Vec<ProofKey> {
        self.keys.accepted(now()).iter().map(ProofKey::derive).collect()
    }

    /// Proves both to `node` and checks its proofs; with which mesh key.
    pub(super) async fn dial<S>(
        &self,
        stream: &mut S,
        purpose: Purpose,
        node: NodeId,
    ) -> Result<KeyName, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let keys = self.accepted();
        let asked = greeting(purpose, &keys)?;
        send(stream, &asked).await?;
        let picked: [u8; PICKED_LEN] = receive(stream).await?;
        let place = picked.last().map(|place| usize::from(*place));
        let key = place.and_then(|place| keys.get(place)).ok_or(Failure::Refused(ANOTHER_KEY))?;
        let said = Transcript { asked, picked };
        send(stream, said.proof(&key.key, End::Dialler).as_bytes()).await?;
        // Whoever refuses a proof hangs up.
        let refused = |_| Failure::Refused("it refuses this node's proof of the mesh key");
        let shown = receive(stream).await.map_err(refused)?;
        check_key(shown, said.proof(&key.key, End::Listener))?;
        let parties = [self.identity.node_id(), node];
        self.show(stream, &said.claim(&key.key, End::Dialler, parties)).await?;
        // Who does not take this node's word hangs up: the word was for another.
        let refused = |_| Failure::Refused("it is not the node that was meant, or refuses this one");
        let (shown, signature) = receive_identity(stream).await.map_err(refused)?;
        if shown != node {
            return Err(Failure::Refused("another node answers there"));
        }
        self.check(shown, &said.claim(&key.key, End::Listener, parties), &signature)?;
        Ok(key.of)
    }

    /// Checks the proofs of whoever dialled, and proves both to it; with which mesh key.
    pub(super) async fn answer<S>(
        &self,
        stream: &mut S,
        is_refused: impl Fn(&NodeId) -> bool,
    ) -> Result<(Purpose, NodeId, KeyName), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let head @ [version, code, 0, 0] = receive::<_, 4>(stream).await? else {
            return Err(Failure::Refused("it does not greet as a node does"));
        };
        let purpose = Purpose::of(code).filter(|_| version == VERSION);
        let purpose = purpose.ok_or(Failure::Refused("it is of an unknown version"))?;
        let rest: [u8; ASKED_LEN - 4] = receive(stream).await?;
        let asked = filled(head.into_iter().chain(rest));
        let (dialler_nonce, hints) = rest.split_at(NONCE_LEN);
        let (hints, _) = hints.as_chunks::<HINT_LEN>();
        let found = self.accepted().into_iter().find_map(|key| {
            let hint = key.hint(code, dialler_nonce);
            Some((u8::try_from(hints.iter().position(|other| *other == hint)?).ok()?, key))
        });
        let place = found.as_ref().map_or(NONE, |(place, _)| *place);
        let picked = filled(nonce()?.into_iter().chain([place]));
        send(stream, &picked).await?;
        let (_, key) = found.ok_or(Failure::Refused("it does not know the mesh key"))?;
        let said = Transcript { asked, picked };
        check_key(receive(stream).await?, said.proof(&key.key, End::Dialler))?;
        send(stream, said.proof(&key.key, End::Listener).as_bytes()).await?;
        let (node, signature) = receive_identity(stream).await?;
        let parties = [node, self.identity.node_id()];
        self.check(node, &said.claim(&key.key, End::Dialler, parties), &signature)?;
        if node == self.identity.node_id() {
            return Err(Failure::Refused("it is the local node"));
        }
        if is_refused(&node) {
            return Err(Failure::Refused(REVOKED));
        }
        self.show(stream, &said.claim(&key.key, End::Listener, parties)).await?;
        Ok((purpose, node, key.of))
    }

    async fn show<S: AsyncWrite + Unpin>(&self, stream: &mut S, claim: &[u8; 32]) -> Result<(), Failure> {
        let node = self.identity.node_id();
        send(stream, &[node.as_bytes().as_slice(), &self.identity.sign(claim)].concat()).await
    }

    fn check(&self, node: NodeId, claim: &[u8; 32], signature: &Signature) -> Result<(), Failure> {
        match self.suite.verify(&node, claim, signature) {
            true => Ok(()),
            false => Err(Failure::Refused("it is not the node that it says")),
        }
    }
}

impl Transcript {
    fn said(&self, hasher: &mut blake3::Hasher, end: End) {
        hasher.update(&[if end == End::Dialler { 0 } else { 1 }]);
        hasher.update(&self.asked);
        hasher.update(&self.picked);
    }

    /// What shows that an end knows the mesh key.
    fn proof(&self, key: &[u8; 32], end: End) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(key);
        self.said(&mut hasher, end);
        hasher.finalize()
    }

    /// What an end signs: who talks to whom, in which mesh, over which nonces.
    fn claim(&self, key: &[u8; 32], end: End, parties: [NodeId; 2]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(IDENTITY_CONTEXT);
        self.said(&mut hasher, end);
        for node in parties {
            hasher.update(node.as_bytes());
        }
        hasher.update(self.proof(key, end).as_bytes());
        hasher.finalize().into()
    }
}

/// What the dialler says first.
fn greeting(purpose: Purpose, keys: &[ProofKey]) -> Result<[u8; ASKED_LEN], Failure> {
    let (code, nonce) = (purpose.code(), nonce()?);
    let hints = keys.iter().take(MAX_KEYS).flat_map(|key| key.hint(code, &nonce));
    Ok(filled([VERSION, code, 0, 0].into_iter().chain(nonce).chain(hints)))
}

/// These bytes, and then zeros.
fn filled<const N: usize>(bytes: impl IntoIterator<Item = u8>) -> [u8; N] {
    let mut all = [0; N];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    all
}

/// Compares in constant time.
fn check_key(shown: [u8; 32], expected: blake3::Hash) -> Result<(), Failure> {
    if blake3::Hash::from_bytes(shown) == expected {
        Ok(())
    } else {
        Err(Failure::Refused("it does not know the mesh key"))
    }
}

fn nonce() -> Result<[u8; NONCE_LEN], Failure> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)
        .map_err(|_| Failure::Refused("this machine has no randomness for a nonce"))?;
    Ok(nonce)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Failure> {
    Ok(stream.write_all(bytes).await?)
}

async fn receive<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn receive_identity<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(NodeId, Signature), Failure> {
    let node = NodeId::from_bytes(receive(stream).await?);
    let signature: [u8; SIGNATURE_LEN] = receive(stream).await?;
    Ok((node, signature))
}
