//! The engine in the simulator.

mod campaigns;
mod first;
mod parts;
