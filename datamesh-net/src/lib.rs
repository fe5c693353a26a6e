#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(all(feature = "testing", any(feature = "libp2p", all(feature = "local", unix))))]
pub mod fuzz;
#[cfg(feature = "libp2p")]
pub mod libp2p;
#[cfg(all(feature = "local", unix))]
pub mod local;
pub mod memory;
pub mod ways;
#[cfg(any(feature = "libp2p", all(feature = "local", unix)))]
mod wire;
