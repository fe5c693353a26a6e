//! The engine in the simulator.

mod first;
mod parts;
