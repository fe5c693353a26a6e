//! Who holds what: members, ranking, assignment, margin, and how fast each peer answers.
//!
//! Everything here is a pure function of its arguments: no clock, no randomness, no input or output, no
//! floating point. Two nodes with the same view of the members compute the same holders, on any machine.

mod assign;
mod margin;
mod members;
mod rank;
mod timing;

pub use assign::Assignment;
pub use margin::{margin, zone_margin};
pub use members::{MAX_MEMBERS, Member, MemberTable, Merge};
pub use rank::{Ranking, rank};
pub use timing::{CallClass, DEFAULT_HEDGE, HEDGE_RANGE, PeerTiming};
