//! The ports' conformance suites over what this crate offers.

use datamesh_core::testing;
use datamesh_store::{MemoryStore, ReedSolomon};

#[test]
fn reed_solomon() {
    testing::erasure::erasure_code(&ReedSolomon::new());
}

#[test]
fn memory_store() {
    testing::storage::storage(MemoryStore::new, |store| store.reopened());
    testing::storage::full_storage(MemoryStore::with_capacity_bytes);
}
