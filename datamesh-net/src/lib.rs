#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "libp2p")]
pub mod libp2p;
pub mod memory;
