//! The proof that both ends of a connection know the mesh key.
//!
//! Both send a nonce; then the dialler proves, then the listener. A proof is a keyed BLAKE3 over who proves, both
//! peer ids and both nonces, so that it fits one connection, one direction and one pair of nodes. A
//! stranger that dials learns nothing but a nonce.

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use zeroize::Zeroizing;

/// The name of the stream protocol on which the proof is exchanged.
pub(super) const PROTOCOL: &str = "/datamesh/proof/1";

const NONCE_LEN: usize = 32;
const PROOF_CONTEXT: &str = "datamesh v1 network proof of the mesh key";
const PROLOGUE_CONTEXT: &str = "datamesh v1 network noise prologue";

/// Which end of the connection this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Dialler,
    Listener,
}

/// The key of the proofs, derived from the mesh key.
pub(super) struct ProofKey(Zeroizing<[u8; 32]>);

impl ProofKey {
    pub(super) fn derive(mesh_key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(blake3::derive_key(PROOF_CONTEXT, mesh_key)))
    }

    /// What `prover` shows.
    fn proof(&self, prover: Role, parties: &Parties) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(match prover {
            Role::Dialler => &[0],
            Role::Listener => &[1],
        });
        for peer in [parties.dialler, parties.listener] {
            let bytes = peer.to_bytes();
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
        hasher.update(&parties.dialler_nonce);
        hasher.update(&parties.listener_nonce);
        hasher.finalize()
    }
}

/// The prologue of the Noise handshake: without the mesh key it fails before anything is said.
pub(super) fn noise_prologue(mesh_key: &[u8; 32]) -> Vec<u8> {
    blake3::derive_key(PROLOGUE_CONTEXT, mesh_key).to_vec()
}

/// What a proof is about.
struct Parties {
    dialler: PeerId,
    listener: PeerId,
    dialler_nonce: [u8; NONCE_LEN],
    listener_nonce: [u8; NONCE_LEN],
}

/// Proves the mesh key to `remote` and checks its proof; the error says what went wrong.
pub(super) async fn exchange<S>(
    mut stream: S,
    role: Role,
    key: &ProofKey,
    local: PeerId,
    remote: PeerId,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| format!("no randomness for a nonce: {error}"))?;
    send(&mut stream, &nonce).await?;
    let other: [u8; NONCE_LEN] = receive(&mut stream).await?;
    let parties = match role {
        Role::Dialler => {
            Parties { dialler: local, listener: remote, dialler_nonce: nonce, listener_nonce: other }
        }
        Role::Listener => {
            Parties { dialler: remote, listener: local, dialler_nonce: other, listener_nonce: nonce }
        }
    };
    if role == Role::Dialler {
        send(&mut stream, key.proof(role, &parties).as_bytes()).await?;
        check(&mut stream, key.proof(Role::Listener, &parties)).await?;
    } else {
        check(&mut stream, key.proof(Role::Dialler, &parties)).await?;
        send(&mut stream, key.proof(role, &parties).as_bytes()).await?;
    }
    // The proof is done; how the stream ends is of no interest.
    let _ = stream.close().await;
    Ok(())
}

/// Receives a proof and compares it in constant time.
async fn check<S: AsyncRead + Unpin>(stream: &mut S, expected: blake3::Hash) -> Result<(), String> {
    let shown = blake3::Hash::from_bytes(receive(stream).await?);
    if shown == expected { Ok(()) } else { Err("it does not know the mesh key".into()) }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8; 32]) -> Result<(), String> {
    stream.write_all(bytes).await.map_err(broken)?;
    stream.flush().await.map_err(broken)
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    stream.read_exact(&mut bytes).await.map_err(broken)?;
    Ok(bytes)
}

fn broken(error: std::io::Error) -> String {
    format!("it broke off the proof of the mesh key: {error}")
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::future;

    use super::*;

    /// Both ends over a pipe, with a mesh key each.
    fn prove(dialler_key: [u8; 32], listener_key: [u8; 32], claimed: Option<PeerId>) -> [bool; 2] {
        let (to_listener, from_dialler) = pipe();
        let (to_dialler, from_listener) = pipe();
        let (dialler, listener) = (PeerId::random(), PeerId::random());
        let (key_d, key_l) = (ProofKey::derive(&dialler_key), ProofKey::derive(&listener_key));
        let d = Duplex(from_listener, to_listener);
        let l = Duplex(from_dialler, to_dialler);
        let (d, l) = block_on(future::join(
            exchange(d, Role::Dialler, &key_d, dialler, claimed.unwrap_or(listener)),
            exchange(l, Role::Listener, &key_l, listener, dialler),
        ));
        [d.is_ok(), l.is_ok()]
    }

    #[test]
    fn only_the_same_key_and_the_same_peers_pass() {
        assert_eq!(prove([1; 32], [1; 32], None), [true, true]);
        assert_eq!(prove([1; 32], [2; 32], None), [false, false]);
        assert_eq!(prove([1; 32], [1; 32], Some(PeerId::random())), [false, false]);
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
