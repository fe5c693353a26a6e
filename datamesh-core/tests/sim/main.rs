//! The engine in the simulator.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests fail by panicking, print what they did, and run seeds on threads"
)]

mod audit;
mod byzantine;
mod campaigns;
mod care;
mod first;
mod flow;
mod forget;
mod gossip;
mod parts;
mod removal;
mod roles;
mod scrub;
mod slow;
mod stories;
mod story;
mod upkeep;
