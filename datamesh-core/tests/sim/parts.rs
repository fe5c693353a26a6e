//! The real cipher, identities and code, for simulated nodes.

use std::sync::Arc;

use datamesh_core::sim::{Parts, SimBuilder};
use datamesh_crypto::{ChaChaSuite, NodeIdentity};
use datamesh_store::ReedSolomon;

pub(crate) fn parts() -> Parts {
    Parts {
        code: Arc::new(ReedSolomon::new()),
        suite: Arc::new(ChaChaSuite),
        identity: Arc::new(|secret| Arc::new(NodeIdentity::from_secret(secret))),
    }
}

pub(crate) fn builder(seed: u64) -> SimBuilder {
    SimBuilder::new(seed, parts())
}
