//! The deterministic simulator, with the real cipher and erasure code.
//!
//! A [`SimMesh`] is a mesh whose time, network, disks and randomness are simulated; everything else of its nodes is
//! what runs in production. One seed decides everything, so what failed once fails again. Put the code of your
//! application that uses a [`Mesh`](crate::Mesh) inside [`SimMesh::run`], and let misfortunes befall its nodes:
//!
//! ```
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = datamesh::sim::mesh(7).nodes(6).open()?;
//! sim.run(async {
//!     let object = sim.mesh(0)?.put("what must not be lost").await?.capability;
//!     sim.crash(1); // two of six holders are gone
//!     sim.partition(&[2], &[0, 3, 4, 5]);
//!     assert_eq!(sim.mesh(4)?.get(&object).await?, "what must not be lost");
//!     sim.heal();
//!     sim.restart(1).await?;
//!     sim.mesh(1)?.wait_for_nodes(6, Duration::from_secs(60)).await?; // of virtual time
//!     assert_eq!(sim.mesh(1)?.get(&object).await?, "what must not be lost");
//!     Ok::<(), datamesh::Error>(())
//! })??;
//! # Ok(()) }
//! ```
//!
//! A [`Campaign`] does random work under random misfortunes and checks every promise of the store by itself; the
//! example `simulate` runs as many as you like.

use std::sync::Arc;

pub use datamesh_core::sim::{
    Campaign, Disk, Failure, Link, MakeIdentity, Misfortune, Parts, SimBuilder, SimMesh, Summary,
};

use crate::{ChaChaSuite, NodeIdentity};

/// The real parts that simulated nodes compute with.
pub fn parts() -> Parts {
    Parts {
        code: Arc::new(datamesh_store::ReedSolomon::new()),
        suite: Arc::new(ChaChaSuite),
        identity: Arc::new(|secret| Arc::new(NodeIdentity::from_secret(secret))),
    }
}

/// Settings of a simulated mesh with this seed: six nodes, 4+2, a quick network.
pub fn mesh(seed: u64) -> SimBuilder {
    SimBuilder::new(seed, parts())
}

/// A campaign with this seed: an hour of random work over three to nine nodes, with every kind of misfortune.
pub fn campaign(seed: u64) -> Campaign {
    Campaign::new(seed, parts())
}
