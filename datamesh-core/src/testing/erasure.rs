//! The conformance suite of the erasure port.
