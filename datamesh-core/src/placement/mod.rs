//! Who holds what: members, ranking, assignment, margin, durability, and how fast each peer answers.
//!
//! Everything here is a pure function of its arguments: no clock, no randomness, no input or output. What decides a
//! placement has no floating point either, so that two nodes with the same view of the members compute the same
//! holders, on any machine; only [`durability`], which decides nothing, has some.

mod assign;
mod durability;
mod margin;

mod members;
mod plan;
mod prompt;
mod rank;
mod spread;
mod timing;
mod zone_margins;

pub use assign::Assignment;
pub use durability::{DurabilityModel, DurabilityReport, MAX_NINES, durability};
pub use margin::{margin, zone_margin};
#[cfg(test)]
pub(crate) use members::tests::Signer;
pub use members::{MAX_MEMBERS, Member, MemberTable, Merge};
pub use plan::{Plan, plan};
pub(crate) use prompt::{slow_ones, without_slow};
pub use rank::{Ranking, rank};
pub use timing::{CallClass, DEFAULT_HEDGE, HEDGE_RANGE, PeerTiming};
pub use zone_margins::ZoneMargins;
