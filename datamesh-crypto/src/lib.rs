//! The default crypto suite of `datamesh`: an authenticated cipher, node identities, and sealing to a
//! recipient's public key.
//!
//! - [`ChaChaSuite`]: ChaCha20-Poly1305 (RFC 8439) and strict Ed25519 checks (RFC 8032); suite id 1.
//! - [`NodeIdentity`]: the Ed25519 key pair that a node is named by, and the file that keeps it.
//! - [`sharing`]: HPKE (RFC 9180) to an X25519 public key, for handing a capability to somebody.
//!
//! Programs use the `datamesh` package, which wires these as defaults.
#![forbid(unsafe_code)]

mod identity;
mod secret_file;
pub mod sharing;
mod suite;

pub use identity::NodeIdentity;
pub use secret_file::{SECRET_FILE_LEN, SecretKind, open_or_create_secret};
pub use suite::ChaChaSuite;
