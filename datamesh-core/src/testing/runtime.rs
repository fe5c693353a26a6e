//! The conformance suite of the runtime port.
