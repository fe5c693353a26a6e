//! What a node does unasked: scrub, audit, collect.

mod options;
pub(crate) mod scrub;

pub use options::CareOptions;
