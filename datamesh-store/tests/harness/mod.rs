//! The crash harness: a scripted run, what may be left of it, and every moment at which the power could go.

pub(crate) mod check;
pub(crate) mod crash;
pub(crate) mod damage;
pub(crate) mod errors;
pub(crate) mod script;
pub(crate) mod world;

use datamesh_core::Result;
use datamesh_store::crash::Medium;
use datamesh_store::{DiskOptions, DiskStore};

/// The size of the media; the scripts take a small part of it.
pub(crate) const MEDIUM_BYTES: u64 = 256 << 20;

/// The smallest volumes there are, so that scripts end many.
pub(crate) fn options() -> DiskOptions {
    let mut options = DiskOptions::default();
    options.volume_bytes = 64 << 10;
    options.cache_bytes = 1 << 20;
    options.reader_threads = 1;
    options.reserve_per_mille = 0;
    options
}

pub(crate) fn open(medium: &Medium) -> Result<DiskStore> {
    DiskStore::open_with(medium.files(), medium.records(), options())
}

/// A number from the environment, for runs that are larger than the usual one.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().expect("a number"))
}
