//! A mesh in virtual time: the code that ships, on one thread, with a network and disks that misbehave.
//!
//! A [`SimMesh`] is a mesh of nodes whose time, tasks, randomness, network and disks are simulated; everything else of
//! them is what runs in production. One seed decides everything that happens, so a failure that was seen once can be
//! seen again. An application tests itself on it under partitions, crashes and decay that would take months to come
//! by otherwise; the engine's own tests do the same.

mod atlas;
mod campaign;
mod draws;
mod failure;
mod finale;
mod invariants;
mod link;
mod medium;
mod mesh;
mod model;
mod network;
mod play;
mod progress;
mod roles;
mod runtime;
mod storage;
mod trace;
mod transport;
mod watch;
mod world;

pub use atlas::Misfortune;
pub use campaign::{Campaign, Summary};
pub use failure::Failure;
pub use link::Link;
pub use mesh::{MakeIdentity, Parts, SimBuilder, SimMesh};
pub use network::Gossip;
pub use progress::Progress;
pub use roles::Role;
pub use storage::Disk;
