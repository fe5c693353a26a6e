//! The conformance suite of the transport port.
