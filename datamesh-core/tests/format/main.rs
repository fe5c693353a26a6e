//! The formats: golden vectors, round trips, and everything that must be refused.

mod golden;
mod properties;
mod refused;
mod samples;
mod stream;
mod suite;
