//! The conformance suite of the crypto port.
