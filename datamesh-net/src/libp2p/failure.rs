//! What a dial that failed means, in the words of the mesh.

use std::error::Error as StdError;
use std::{fmt, io};

use datamesh_core::{Error, ErrorKind};
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, TransportError};

use super::names;
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
        return refused("the handshake failed: it has another mesh key, or it is no node".into());
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
    let inner = chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    match inner.map(io::Error::kind).filter(|kind| *kind != io::ErrorKind::Other).last() {
        Some(kind) => format!("{address}: {kind}"),
        None => format!("{address}: {}", deepest(error)),
    }
}

/// Whether a dial failed in the Noise handshake, as it does when the mesh keys differ.
fn is_refusal(error: &DialError) -> bool {
    let DialError::Transport(errors) = error else { return false };
    errors.iter().any(|(_, error)| chain(error).any(|cause| cause.is::<libp2p::noise::Error>()))
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The last cause, which says most.
pub(super) fn deepest(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

pub(super) fn refused(why: String) -> Error {
    Error::new(ErrorKind::AccessDenied, format!("the peer is not of this mesh: {why}"))
}
