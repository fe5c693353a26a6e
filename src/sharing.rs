//! Handing a capability to somebody: sealed to their X25519 public key by HPKE (RFC 9180, base mode).
//!
//! Base mode tells the recipient nothing of who sealed: say who you are by other means, or sign what you send. Whoever
//! has the recipient's secret key later can open what was sealed earlier.

pub use datamesh_crypto::sharing::{RecipientPublic, RecipientSecret};

use datamesh_core::{Capability, Result};

use crate::runtime::NativeRuntime;

/// What the sealed bytes are bound to.
const CONTEXT: &[u8] = b"datamesh/v1/capability";

/// A new key pair, from the system's randomness.
///
/// # Errors
/// `Io` when the system gives none.
pub fn new_recipient() -> Result<RecipientSecret> {
    Ok(RecipientSecret::from_secret(random()?))
}

/// Seals a capability so that only the recipient can open it.
///
/// Derive the weaker one first where that is enough: `seal(&capability.to_read()?, &recipient)`.
///
/// # Errors
/// `InvalidInput` for a public key of small order; `Io` when the system gives no randomness.
pub fn seal(capability: &Capability, recipient: &RecipientPublic) -> Result<Vec<u8>> {
    datamesh_crypto::sharing::seal_to(recipient, CONTEXT, &capability.to_bytes(), random()?)
}

/// Opens a sealed capability.
///
/// # Errors
/// `AccessDenied` for anything that was not sealed to this key, whatever is wrong with it.
pub fn open(sealed: &[u8], recipient: &RecipientSecret) -> Result<Capability> {
    Capability::from_bytes(&datamesh_crypto::sharing::open(recipient, CONTEXT, sealed)?)
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    NativeRuntime::shared()?.fill_random(&mut bytes)?;
    Ok(bytes)
}
