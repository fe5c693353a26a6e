//! What a dial that failed means, in the words of the mesh.

use std::error::Error as StdError;
use std::{fmt, io};

use datamesh_core::{Error, ErrorKind};
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, TransportError, noise};

use super::names;
use super::proof::Unproved;
use crate::wire::REVOKED;

/// Of how many addresses an error tells.
const MAX_TRIED: usize = 4;

/// Why a connection with a node is denied that was revoked.
#[derive(Debug)]
pub(super) struct Revoked;

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REVOKED)
    }
}

impl StdError for Revoked {}

/// What a failed dial means to the caller.
pub(super) fn explain(error: DialError) -> Error {
    if is_refusal(&error) {
        return refused("the handshake failed: it has another mesh key, or it is no node");
    }
    match error {
        DialError::Denied { .. } if chain(&error).any(|cause| cause.is::<Revoked>()) => {
            Error::new(ErrorKind::AccessDenied, REVOKED)
        }
        DialError::LocalPeerId { .. } => {
            Error::new(ErrorKind::InvalidInput, "the address leads to the local node")
        }
        DialError::WrongPeerId { obtained, .. } => {
            let node =
                names::node_of(&obtained).map_or_else(|| obtained.to_string(), |node| node.to_string());
            Error::new(ErrorKind::Unavailable, format!("another node answers there: {node}"))
        }
        DialError::Transport(errors) => {
            let tried: Vec<String> = errors.iter().take(MAX_TRIED).map(why_unanswered).collect();
            Error::new(ErrorKind::Unavailable, format!("nobody answers: {}", tried.join("; ")))
        }
        DialError::Aborted => Error::new(ErrorKind::Unavailable, "the dial was given up"),
        error => Error::new(ErrorKind::Unavailable, format!("cannot dial: {}", deepest(&error))),
    }
}

/// One address that was dialled, and what came of it in the system's own words: "connection refused".
fn why_unanswered((address, error): &(Multiaddr, TransportError<io::Error>)) -> String {
    if let Some(kind) = chain(error).find_map(hung_up) {
        return format!(
            "{address}: it hung up in the handshake ({kind}): it is full, or not yet up, so try again"
        );
    }
    let inner = chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    match inner.map(io::Error::kind).filter(|kind| *kind != io::ErrorKind::Other).last() {
        Some(kind) => format!("{address}: {kind}"),
        None => format!("{address}: {}", deepest(error)),
    }
}

/// Whether a dial failed in the Noise handshake, as it does when the mesh keys differ: the dialler cannot read the
/// answer then. Where the connection was lost, the peer has said nothing of its key.
fn is_refusal(error: &DialError) -> bool {
    let DialError::Transport(errors) = error else { return false };
    let refuses = |cause: &(dyn StdError + 'static)| cause.is::<noise::Error>() && hung_up(cause).is_none();
    errors.iter().any(|(_, error)| chain(error).any(refuses))
}

/// How the connection was lost in the Noise handshake, if it was.
fn hung_up(cause: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let Some(noise::Error::Io(error)) = cause.downcast_ref::<noise::Error>() else { return None };
    // What cannot be deciphered is told as data that is not valid; all else is the connection's.
    (error.kind() != io::ErrorKind::InvalidData).then(|| error.kind())
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The last cause, which says most.
pub(super) fn deepest(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

/// What it means to the caller that a peer has not proved the mesh key.
pub(super) fn unproved(why: &Unproved) -> Error {
    match why {
        Unproved::Wrong(text) => refused(text),
        Unproved::Lost(text) => Error::new(
            ErrorKind::Unavailable,
            format!(
                "the peer was lost before it had proved the mesh key: {text}; if it is full or restarts, try again"
            ),
        ),
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::AccessDenied, format!("the peer is not of this mesh: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libp2p wraps the error of a handshake in.
    #[derive(Debug)]
    struct Upgrade(noise::Error);

    impl fmt::Display for Upgrade {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Handshake failed")
        }
    }

    impl StdError for Upgrade {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    /// What the transport gives for one address.
    fn failed(error: noise::Error) -> Error {
        let address = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let error = io::Error::other(Upgrade(error));
        explain(DialError::Transport(vec![(address, TransportError::Other(error))]))
    }

    #[test]
    fn who_hangs_up_in_the_handshake_has_not_another_key() {
        use io::ErrorKind as Io;
        let lost =
            [Io::UnexpectedEof, Io::ConnectionReset, Io::ConnectionAborted, Io::BrokenPipe, Io::TimedOut];
        for kind in lost.into_iter().chain([Io::HostUnreachable, Io::NetworkDown, Io::PermissionDenied]) {
            let error = failed(noise::Error::Io(kind.into()));
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{kind}: {error}");
            assert!(error.to_string().contains(&format!("hung up in the handshake ({kind})")), "{error}");
        }
        // What cannot be deciphered is told as data that is not valid.
        for error in [noise::Error::Io(Io::InvalidData.into()), noise::Error::BadSignature] {
            assert_eq!(failed(error).kind(), ErrorKind::AccessDenied);
        }
    }
}
