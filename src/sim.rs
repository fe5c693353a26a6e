//! The simulator with the real cipher, identities and Reed-Solomon code: see [`datamesh_core::sim`] for what it does.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = datamesh::sim::mesh(42).nodes(6).open()?;
//! sim.run(async {
//!     let receipt = sim.mesh(0)?.put(vec![7; 100_000]).await?;
//!     sim.crash(1);
//!     sim.crash(2);
//!     assert_eq!(sim.mesh(3)?.get(&receipt.capability).await?, vec![7; 100_000]);
//!     Ok::<_, datamesh::Error>(())
//! })??;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

pub use datamesh_core::sim::*;

use crate::{ChaChaSuite, NodeIdentity};

/// The parts that simulated nodes are made of: those that ship.
pub fn parts() -> Parts {
    Parts {
        code: Arc::new(datamesh_store::ReedSolomon::new()),
        suite: Arc::new(ChaChaSuite),
        identity: Arc::new(|secret| Arc::new(NodeIdentity::from_secret(secret))),
    }
}

/// A simulated mesh of the parts that ship.
pub fn mesh(seed: u64) -> SimBuilder {
    SimMesh::builder(seed, parts())
}

/// A campaign on a simulated mesh of the parts that ship.
pub fn campaign(seed: u64) -> Campaign {
    Campaign::new(seed, parts())
}
