//! The formats: golden vectors, round trips, and everything that must be refused.

#[cfg(test)]
mod golden;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod suite;
