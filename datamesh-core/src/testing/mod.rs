//! Conformance suites for adapters: one for each port, each a function that panics with the number of the
//! clause of the port's contract that was broken. And a clock that goes wrong, for whatever keeps time.

pub mod clock;
pub mod crypto;
pub mod erasure;
pub mod fuzz;
pub mod runtime;
pub mod storage;
pub mod transport;
