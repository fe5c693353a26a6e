//! The proof that both ends of a connection know the mesh key, or that the dialler has an invitation.
//!
//! The dialler says which keys it has by keyed hashes of its nonce; the listener picks one; then the dialler proves,
//! then the listener. A proof is a keyed BLAKE3 over who proves, both peer ids and all that was said, so that it fits
//! one connection, one direction and one pair of nodes. A stranger that dials learns nothing but a nonce, and one that
//! is dialled nothing but hashes that no other listener knows again. Who has proved an invitation is given the mesh key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datamesh_core::KeyRing;
use datamesh_core::format::{Invitation, MAX_GENERATION, MeshKey, MeshKeys};
use datamesh_core::ports::Timestamp;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use zeroize::Zeroizing;

use super::gate::Gate;
use crate::wire::keys::{KeyName, MAX_KEYS, now};

/// The name of the stream protocol on which the proof is exchanged.
pub(super) const PROTOCOL: &str = "/datamesh/proof/5";

const PROOF_CONTEXT: &str = "datamesh v1 network proof of the mesh key";
const PROLOGUE_CONTEXT: &str = "datamesh v1 network noise prologue";

const NONCE_LEN: usize = 32;

/// The length of what says which key is meant: enough that no two keys share one.
const HINT_LEN: usize = 16;

/// What the dialler says first: a nonce, when its invitation ends, and a hint for each of its keys.
pub(super) const ASKED_LEN: usize = NONCE_LEN + 8 + MAX_KEYS * HINT_LEN;

/// What the listener answers: a nonce, and which key it picked.
pub(super) const PICKED_LEN: usize = NONCE_LEN + 1;

/// What the listener gives for an invitation: the mesh key, and its generation.
pub(super) const GIVEN_LEN: usize = 32 + 8;

/// The listener has none of the keys.
const NONE: u8 = 0xff;

/// What a dialler is told whose keys the listener does not accept.
const ANOTHER_KEY: &str = "it knows another mesh key, or the invitation has ended; if the mesh key was changed while this \
                           node was away, open it with a new ticket, and rejoin where this node alone has a newer key";

/// What each end says last: it serves the other from now on.
const READY: u8 = 1;

/// Why a peer has not proved the mesh key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unproved {
    /// What it showed or said is wrong: it is not of this mesh.
    Wrong(String),
    /// It was lost before that was to be seen.
    Lost(String),
}

impl From<String> for Unproved {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

impl From<&str> for Unproved {
    fn from(text: &str) -> Self {
        Self::Wrong(text.to_owned())
    }
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wrong(text) | Self::Lost(text)) = self;
        f.write_str(text)
    }
}

/// Which end of the connection this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Dialler,
    Listener,
}

/// What a node can prove: the keys of its mesh that are accepted, or an invitation.
pub(super) enum Keys {
    Mesh(KeyRing),
    Invited { invitation: Invitation, learned: Mutex<Option<MeshKeys>> },
}

/// A key that a node can prove, and what follows from it.
struct Candidate {
    proof: ProofKey,
    /// What the listener hands over for an invitation.
    key: MeshKey,
    generation: u64,
}

impl Candidate {
    fn name(&self) -> KeyName {
        self.key.network_name()
    }
}

impl Keys {
    pub(super) fn invited(invitation: Invitation) -> Self {
        // One that ended at the epoch has ended as well a millisecond later.
        let expires = Timestamp(invitation.expires.0.max(1));
        Self::Invited { invitation: Invitation { expires, ..invitation }, learned: Mutex::default() }
    }

    /// The public name of the mesh.
    pub(super) fn network(&self) -> [u8; 32] {
        match self {
            Self::Mesh(ring) => ring.network(),
            Self::Invited { invitation, .. } => invitation.network,
        }
    }

    /// The keys of the mesh, where this node has them and no invitation.
    pub(super) fn ring(&self) -> Option<&KeyRing> {
        match self {
            Self::Mesh(ring) => Some(ring),
            Self::Invited { .. } => None,
        }
    }

    /// The mesh key that was given for the invitation.
    pub(super) fn learned(&self) -> Option<MeshKeys> {
        match self {
            Self::Mesh(_) => None,
            Self::Invited { learned, .. } => learned.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// What a dialler proves, the newest first, and when it ends; 0 for a mesh key.
    fn shown(&self) -> (Vec<ProofKey>, u64) {
        match self {
            Self::Mesh(ring) => {
                (ring.accepted(now()).iter().map(|key| ProofKey::derive(key.as_bytes())).collect(), 0)
            }
            Self::Invited { invitation, .. } => {
                (vec![ProofKey::derive(invitation.secret.as_bytes())], invitation.expires.0)
            }
        }
    }

    /// What a listener accepts of a dialler with an invitation until then, or of one with a mesh key; the newest first.
    fn wanted(&self, expires: u64, now: Timestamp) -> Result<Vec<Candidate>, String> {
        let ring = self.ring().ok_or("a node with an invitation lets nobody in")?;
        let now = ring.latest(now);
        if expires != 0 && expires < now.0 {
            return Err("its invitation has ended".into());
        }
        let keys = ring.keys();
        let candidate = |(age, key): (u64, MeshKey)| {
            let proof = match expires {
                0 => ProofKey::derive(key.as_bytes()),
                expires => ProofKey::derive(key.invitation(Timestamp(expires)).as_bytes()),
            };
            Candidate { proof, key, generation: keys.generation.saturating_sub(age) }
        };
        Ok((0..).zip(keys.accepted(now)).map(candidate).collect())
    }

    /// Takes the mesh key that was given for the invitation, if that was made from it.
    fn learn(&self, given: &[u8; GIVEN_LEN]) -> Result<(), String> {
        let Self::Invited { invitation, learned } = self else { return Ok(()) };
        let (key, generation) = given.split_first_chunk::<32>().ok_or("too short")?;
        let key = MeshKey::from_bytes(*key);
        // Compared in constant time.
        if key.invitation(invitation.expires) != invitation.secret {
            return Err("it gave a key that the invitation is not of".into());
        }
        let generation = generation.try_into().map_or(0, u64::from_le_bytes);
        if generation > MAX_GENERATION {
            return Err("it gave a mesh key of a generation higher than any".into());
        }
        let keys = MeshKeys::told(invitation.network, generation, key);
        *learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        Ok(())
    }
}

/// The key of the proofs, derived from the mesh key or an invitation.
struct ProofKey {
    key: Zeroizing<[u8; 32]>,
    /// The public name of the secret, which is that of the mesh key where it is no invitation.
    of: KeyName,
}

impl ProofKey {
    fn derive(secret: &[u8; 32]) -> Self {
        let of = MeshKey::from_bytes(*secret).network_name();
        Self { key: Zeroizing::new(blake3::derive_key(PROOF_CONTEXT, secret)), of }
    }

    /// What `prover` shows.
    fn proof(&self, prover: Role, said: &Said) -> blake3::Hash {
        let purpose = match prover {
            Role::Dialler => 0,
            Role::Listener => 1,
        };
        let mut hasher = self.hasher(purpose, said.ends);
        hasher.update(&said.asked);
        hasher.update(&said.picked);
        hasher.finalize()
    }

    /// Says which key is meant to a listener that has it, and nothing to all others: it is another one for each
    /// listener and with each nonce.
    fn hint(&self, ends: Ends, nonce: &[u8; NONCE_LEN]) -> [u8; HINT_LEN] {
        let mut hint = [0; HINT_LEN];
        self.hasher(2, ends).update(nonce).finalize_xof().fill(&mut hint);
        hint
    }

    fn hasher(&self, purpose: u8, ends: Ends) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[purpose]);
        for peer in [ends.dialler, ends.listener] {
            let bytes = peer.to_bytes();
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
        hasher
    }
}

/// The prologue of the Noise handshake: without the mesh's name it fails before anything is said.
pub(super) fn noise_prologue(network: &[u8; 32]) -> Vec<u8> {
    blake3::derive_key(PROLOGUE_CONTEXT, network).to_vec()
}

/// What this node shows of itself.
pub(super) struct Own {
    pub(super) peer: PeerId,
    pub(super) keys: Arc<Keys>,
}

/// Who proves something to whom.
#[derive(Debug, Clone, Copy)]
struct Ends {
    dialler: PeerId,
    listener: PeerId,
}

/// What a proof is about.
struct Said {
    ends: Ends,
    asked: [u8; ASKED_LEN],
    picked: [u8; PICKED_LEN],
}

/// Proves to `remote` what this node can prove and checks its proof: with which key of the mesh. The error says what
/// went wrong.
pub(super) async fn exchange<S>(
    mut stream: S,
    role: Role,
    own: &Own,
    remote: PeerId,
    gate: &Gate,
) -> Result<KeyName, Unproved>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = match role {
        Role::Dialler => dial(&mut stream, own, remote, gate).await?,
        Role::Listener => listen(&mut stream, own, remote, gate).await?,
    };
    meet(&mut stream).await?;
    gate.open();
    // The proof is done; how the stream ends is of no interest.
    let _ = stream.close().await;
    Ok(name)
}

async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    own: &Own,
    remote: PeerId,
    gate: &Gate,
) -> Result<KeyName, Unproved> {
    let ends = Ends { dialler: own.peer, listener: remote };
    let (keys, expires) = own.keys.shown();
    let nonce = nonce()?;
    let hints = keys.iter().take(MAX_KEYS).flat_map(|key| key.hint(ends, &nonce));
    let asked = filled(nonce.into_iter().chain(expires.to_le_bytes()).chain(hints));
    send(stream, &asked).await?;
    let picked: [u8; PICKED_LEN] = receive(stream).await?;
    let place = picked.last().map(|place| usize::from(*place));
    let key = place.and_then(|place| keys.get(place)).ok_or(ANOTHER_KEY)?;
    let said = Said { ends, asked, picked };
    send(stream, key.proof(Role::Dialler, &said).as_bytes()).await?;
    check(stream, key.proof(Role::Listener, &said)).await?;
    gate.take();
    if expires != 0 {
        own.keys.learn(&Zeroizing::new(receive(stream).await?))?;
    }
    Ok(key.of)
}

async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    own: &Own,
    remote: PeerId,
    gate: &Gate,
) -> Result<KeyName, Unproved> {
    let ends = Ends { dialler: remote, listener: own.peer };
    let asked: [u8; ASKED_LEN] = receive(stream).await?;
    let (dialled, rest) = asked.split_first_chunk::<NONCE_LEN>().ok_or("too short")?;
    let (expires, hints) = rest.split_first_chunk::<8>().ok_or("too short")?;
    let expires = u64::from_le_bytes(*expires);
    let (hints, _) = hints.as_chunks::<HINT_LEN>();
    let place = |key: &Candidate| {
        let hint = key.proof.hint(ends, dialled);
        hints.iter().position(|shown| *shown == hint)
    };
    let found = own.keys.wanted(expires, now()).and_then(|keys| pick(keys, place));
    let place = found.as_ref().map_or(NONE, |(place, _)| *place);
    let picked = filled(nonce()?.into_iter().chain([place]));
    send(stream, &picked).await?;
    let candidate = match found {
        Ok((_, candidate)) => candidate,
        Err(why) => {
            // The dialler hangs up when it has read that. Were this end to do it first, it might never read it.
            let _ = receive::<_, 1>(stream).await;
            return Err(why.into());
        }
    };
    let said = Said { ends, asked, picked };
    check(stream, candidate.proof.proof(Role::Dialler, &said)).await?;
    gate.take();
    send(stream, candidate.proof.proof(Role::Listener, &said).as_bytes()).await?;
    if expires != 0 {
        let given = candidate.key.as_bytes().iter().copied().chain(candidate.generation.to_le_bytes());
        send(stream, &Zeroizing::new(filled::<GIVEN_LEN>(given))[..]).await?;
    }
    Ok(candidate.name())
}

/// The newest of the listener's keys that the dialler has as well, and where it said so.
fn pick(
    keys: Vec<Candidate>,
    place: impl Fn(&Candidate) -> Option<usize>,
) -> Result<(u8, Candidate), String> {
    let found = keys.into_iter().find_map(|key| Some((u8::try_from(place(&key)?).ok()?, key)));
    found.ok_or_else(|| "it does not know the mesh key".into())
}

/// These bytes, and then zeros.
fn filled<const N: usize>(bytes: impl IntoIterator<Item = u8>) -> [u8; N] {
    let mut all = [0; N];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    all
}

fn nonce() -> Result<[u8; NONCE_LEN], Unproved> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)
        .map_err(|error| Unproved::Lost(format!("no randomness for a nonce: {error}")))?;
    Ok(nonce)
}

/// Tells the peer that its streams are taken from now on, and waits to hear the same.
async fn meet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), Unproved> {
    send(stream, &[READY]).await?;
    let said: [u8; 1] = receive(stream).await?;
    if said == [READY] { Ok(()) } else { Err("it broke the protocol of the proof".into()) }
}

/// Receives a proof and compares it in constant time.
async fn check<S: AsyncRead + Unpin>(stream: &mut S, expected: blake3::Hash) -> Result<(), Unproved> {
    let shown = blake3::Hash::from_bytes(receive(stream).await?);
    if shown == expected { Ok(()) } else { Err("it does not know the mesh key".into()) }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Unproved> {
    stream.write_all(bytes).await.map_err(broken)?;
    stream.flush().await.map_err(broken)
}

async fn receive<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> Result<[u8; N], Unproved> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(broken)?;
    Ok(bytes)
}

fn broken(error: std::io::Error) -> Unproved {
    Unproved::Lost(format!("it broke off the proof of the mesh key: {error}"))
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::future;

    use super::*;

    /// Both ends over a pipe, with what each can prove: with which key each did.
    fn proved(
        dialler_keys: &Arc<Keys>,
        listener_keys: &Arc<Keys>,
        claimed: Option<PeerId>,
    ) -> [Option<KeyName>; 2] {
        let (to_listener, from_dialler) = pipe();
        let (to_dialler, from_listener) = pipe();
        let (dialler, listener) = (PeerId::random(), PeerId::random());
        let d = Duplex(from_listener, to_listener);
        let l = Duplex(from_dialler, to_dialler);
        let gates = [Gate::default(), Gate::default()];
        let dials = Own { peer: dialler, keys: Arc::clone(dialler_keys) };
        let listens = Own { peer: listener, keys: Arc::clone(listener_keys) };
        let (d, l) = block_on(future::join(
            exchange(d, Role::Dialler, &dials, claimed.unwrap_or(listener), &gates[0]),
            exchange(l, Role::Listener, &listens, dialler, &gates[1]),
        ));
        [d.ok(), l.ok()]
    }

    fn prove(dialler_keys: &Arc<Keys>, listener_keys: &Arc<Keys>, claimed: Option<PeerId>) -> [bool; 2] {
        proved(dialler_keys, listener_keys, claimed).map(|key| key.is_some())
    }

    fn key(byte: u8) -> MeshKey {
        MeshKey::from_bytes([byte; 32])
    }

    fn mesh(byte: u8) -> Arc<Keys> {
        Arc::new(Keys::Mesh(KeyRing::of(key(byte))))
    }

    /// A mesh whose key was changed from one to the next, each accepted for so many milliseconds more.
    fn changed(bytes: &[u8], left: i64) -> Arc<Keys> {
        let until = Timestamp(now().0.saturating_add_signed(left));
        let mut keys = MeshKeys::first(key(bytes[0]));
        for byte in &bytes[1..] {
            keys = keys.next(key(*byte), until, Timestamp(0)).unwrap();
        }
        Arc::new(Keys::Mesh(KeyRing::new(keys)))
    }

    fn invitation(byte: u8, expires: u64) -> Invitation {
        let (network, secret) = (key(byte).network_name(), key(byte).invitation(Timestamp(expires)));
        Invitation { network, secret, expires: Timestamp(expires) }
    }

    fn invited(byte: u8, expires: u64) -> Arc<Keys> {
        Arc::new(Keys::invited(invitation(byte, expires)))
    }

    const HOUR: i64 = 3_600_000;

    #[test]
    fn only_the_same_key_and_the_same_peers_pass() {
        assert_eq!(prove(&mesh(1), &mesh(1), None), [true, true]);
        assert_eq!(prove(&mesh(1), &mesh(2), None), [false, false]);
        assert_eq!(prove(&mesh(1), &mesh(1), Some(PeerId::random())), [false, false]);
    }

    /// Who hangs up in the middle may be of this mesh, and is full or restarts; who shows something else is not.
    #[test]
    fn a_proof_that_is_broken_off_is_not_a_wrong_one() {
        let hears = |said: Vec<u8>| {
            let (mut to_dialler, from_listener) = pipe();
            let (to_listener, _from_dialler) = pipe();
            to_dialler.try_send(said).unwrap();
            drop(to_dialler);
            let own = Own { peer: PeerId::random(), keys: mesh(1) };
            let link = Duplex(from_listener, to_listener);
            block_on(exchange(link, Role::Dialler, &own, PeerId::random(), &Gate::default())).unwrap_err()
        };
        let picked = |place| filled::<PICKED_LEN>([0; NONCE_LEN].into_iter().chain([place])).to_vec();
        let wrong = [picked(0), vec![7; 32]].concat();
        for (said, is_lost) in [
            (vec![1], true),
            (picked(0), true),
            (wrong.clone(), false),
            (picked(NONE), false),
            (picked(5), false),
        ] {
            let why = hears(said.clone());
            assert_eq!(matches!(why, Unproved::Lost(_)), is_lost, "{said:?}: {why:?}");
        }
    }

    #[test]
    fn a_hint_is_known_again_by_nobody_else() {
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let ends = Ends { dialler: a, listener: b };
        let hint = |secret: u8, ends, nonce| ProofKey::derive(&[secret; 32]).hint(ends, &[nonce; NONCE_LEN]);
        assert_eq!(hint(1, ends, 1), hint(1, ends, 1));
        let others = [
            hint(2, ends, 1),
            hint(1, ends, 2),
            hint(1, Ends { listener: c, ..ends }, 1),
            hint(1, Ends { dialler: c, ..ends }, 1),
            hint(1, Ends { dialler: b, listener: a }, 1),
        ];
        assert!(others.iter().all(|other| *other != hint(1, ends, 1)), "{others:?}");
    }

    /// What somebody who was dialled by a member passes on, to learn whether another node is of the same mesh.
    #[test]
    fn what_a_member_said_to_one_is_nothing_to_another() {
        let (dialler, asked_by) = (PeerId::random(), PeerId::random());
        let nonce = nonce().unwrap();
        let ends = Ends { dialler, listener: asked_by };
        let hint = ProofKey::derive(key(1).as_bytes()).hint(ends, &nonce);
        let asked: [u8; ASKED_LEN] = filled(nonce.into_iter().chain([0; 8]).chain(hint));
        let asked = asked.to_vec();
        let picked = |listener, dialler| {
            let (mut to_listener, from_dialler) = pipe();
            let (to_dialler, mut from_listener) = pipe();
            to_listener.try_send(asked.clone()).unwrap();
            // Whoever reads what was picked and hangs up.
            drop(to_listener);
            let own = Own { peer: listener, keys: mesh(1) };
            let link = Duplex(from_dialler, to_dialler);
            block_on(exchange(link, Role::Listener, &own, dialler, &Gate::default())).unwrap_err();
            let answer = block_on(futures::StreamExt::next(&mut from_listener.0)).unwrap();
            *answer.last().unwrap()
        };
        assert_eq!(picked(asked_by, dialler), 0, "it fits the one that it was said to");
        assert_eq!(picked(PeerId::random(), dialler), NONE);
        assert_eq!(picked(asked_by, PeerId::random()), NONE);
    }

    #[test]
    fn while_a_key_changes_the_newest_that_both_accept_is_proved() {
        let [before, during, after] = [mesh(1), changed(&[1, 2], HOUR), changed(&[1, 2], -1)];
        let with = |byte| [Some(key(byte).network_name()); 2];
        assert_eq!(proved(&before, &during, None), with(1));
        assert_eq!(proved(&during, &before, None), with(1));
        assert_eq!(proved(&during, &during, None), with(2));
        assert_eq!(proved(&during, &after, None), with(2));
        assert_eq!(proved(&after, &during, None), with(2));
        assert_eq!([prove(&before, &after, None), prove(&after, &before, None)], [[false; 2]; 2]);
        // One is a change ahead of the other, or as many as there may be.
        let ahead = changed(&[1, 2, 3], HOUR);
        assert_eq!([proved(&ahead, &during, None), proved(&during, &ahead, None)], [with(2), with(2)]);
        let far = changed(&[1, 2, 3, 4, 5, 6, 7, 8], HOUR);
        for ahead in [ahead, far] {
            assert_eq!([proved(&ahead, &before, None), proved(&before, &ahead, None)], [with(1), with(1)]);
        }
    }

    #[test]
    fn an_invitation_is_worth_the_key_that_it_was_made_of() {
        let later = now().0 + HOUR as u64;
        let learned = |keys: &Arc<Keys>| keys.learned().map(|keys| (keys.current, keys.generation));
        let (old, new) = (invited(1, later), invited(2, later));
        let during = changed(&[1, 2], HOUR);
        assert_eq!(prove(&old, &during, None), [true, true]);
        assert_eq!(learned(&old), Some((key(1), 0)));
        assert_eq!(prove(&new, &during, None), [true, true]);
        assert_eq!(learned(&new), Some((key(2), 1)));
        let old = invited(1, later);
        assert_eq!(prove(&old, &changed(&[1, 2], -1), None), [false, false]);
        assert_eq!(old.learned(), None, "it ends with the key");
    }

    #[test]
    fn what_has_ended_opens_nothing_when_the_clock_goes_back() {
        let [keys, later] = [changed(&[1, 2], HOUR), changed(&[1, 2], HOUR)];
        let until = now().0 + HOUR as u64;
        let guest = invited(2, until);
        let after = Timestamp(now().0 + 2 * HOUR as u64);
        assert_eq!(later.ring().unwrap().latest(after), after);
        assert_eq!([prove(&mesh(1), &keys, None), prove(&guest, &keys, None)], [[true; 2]; 2]);
        let guest = invited(2, until);
        assert_eq!([prove(&mesh(1), &later, None), prove(&guest, &later, None)], [[false; 2]; 2]);
        assert_eq!(prove(&mesh(2), &later, None), [true; 2]);
    }

    #[test]
    fn an_invitation_is_worth_the_key_until_it_ends() {
        let later = now().0 + HOUR as u64;
        let guest = invited(1, later);
        assert_eq!(prove(&guest, &mesh(1), None), [true, true]);
        assert_eq!(guest.learned(), Some(MeshKeys::first(key(1))));

        let ended = invited(1, now().0 - 1);
        assert_eq!(prove(&ended, &mesh(1), None), [false, false]);
        // Who has only that secret cannot say that it ends later, either.
        let longer = Invitation { expires: Timestamp(later), ..invitation(1, now().0 - 1) };
        let longer = Arc::new(Keys::invited(longer));
        assert_eq!(prove(&longer, &mesh(1), None), [false, false]);
        let foreign = invited(2, later);
        assert_eq!(prove(&foreign, &mesh(1), None), [false, false]);
        assert_eq!([ended, longer, foreign].map(|keys| keys.learned()), [None, None, None]);
        // Guests do not let guests in, nor take another key than the one that they were invited with.
        assert_eq!(prove(&invited(1, later), &invited(1, later), None), [false, false]);
        assert!(invited(1, later).learn(&[2; GIVEN_LEN]).is_err());
        // Nor one that no change could come after.
        let mut given = [0xff; GIVEN_LEN];
        given[..32].copy_from_slice(&[1; 32]);
        assert!(invited(1, later).learn(&given).is_err());
    }

    /// A pipe of chunks, closed when its writer is dropped.
    type Pipe = (futures::channel::mpsc::Sender<Vec<u8>>, Reader);
    struct Reader(futures::channel::mpsc::Receiver<Vec<u8>>, Vec<u8>);
    struct Duplex(Reader, futures::channel::mpsc::Sender<Vec<u8>>);

    fn pipe() -> Pipe {
        let (sender, receiver) = futures::channel::mpsc::channel(8);
        (sender, Reader(receiver, Vec::new()))
    }

    impl AsyncRead for Duplex {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            let reader = &mut self.0;
            if reader.1.is_empty() {
                match futures::ready!(futures::StreamExt::poll_next_unpin(&mut reader.0, cx)) {
                    Some(chunk) => reader.1 = chunk,
                    None => return std::task::Poll::Ready(Ok(0)),
                }
            }
            let count = buffer.len().min(reader.1.len());
            buffer[..count].copy_from_slice(&reader.1[..count]);
            reader.1.drain(..count);
            std::task::Poll::Ready(Ok(count))
        }
    }

    impl AsyncWrite for Duplex {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            let sent = self.1.try_send(buffer.to_vec());
            std::task::Poll::Ready(sent.map(|()| buffer.len()).map_err(std::io::Error::other))
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_close(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
}
