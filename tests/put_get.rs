//! Objects of all sizes go in and come back.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::{memory_mesh, noise};
use futures::executor::block_on;

const SEGMENT: usize = 1 << 20;

#[test]
fn objects_of_all_sizes_come_back() {
    block_on(async {
        let nodes = memory_mesh(6).await;
        for (seed, len) in
            [0, 1, 4096, 16384, 16385, SEGMENT - 1, SEGMENT, SEGMENT + 1, 5 * SEGMENT + 77, 70 * SEGMENT]
                .into_iter()
                .enumerate()
        {
            let bytes = noise(len, seed as u64);
            let receipt = nodes[0].put(bytes.clone()).await.unwrap();
            assert_eq!((receipt.len, receipt.margin), (len as u64, 2), "{len}");
            for reader in [&nodes[0], &nodes[5]] {
                assert_eq!(reader.get(&receipt.capability).await.unwrap(), bytes, "{len}");
            }
        }
    });
}
