//! What is asked of blobs.

use bytes::Bytes;
use futures::executor::block_on;

use super::{blob, must, must_fail, put};
use crate::error::ErrorKind;
use crate::id::ShardId;
use crate::ports::{Batch, MAX_BLOB_LEN, Storage};

pub(super) fn check<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    clause_1_readable_at_once(make);
    clause_2_durable_after_commit(make, reopen);
    clause_2_removal(make, reopen);
    clause_4_never_other_bytes(make);
    clause_5_scans(make, reopen);
    clause_8_limit(make);
}

fn clause_1_readable_at_once<S: Storage>(make: &impl Fn() -> S) {
    let store = make();
    block_on(async {
        for length in [0, 1, 63, 64, 4096, 1 << 20] {
            let (id, bytes) = blob(1, length);
            assert_eq!(must(1, store.read_blob(id).await), None, "clause 4: a blob before it was written");
            must(1, store.write_blob(id, bytes.clone()).await);
            assert_eq!(must(1, store.read_blob(id).await), Some(bytes.clone()), "clause 1: {length} bytes");
            must(1, store.write_blob(id, bytes.clone()).await);
            must(2, store.commit(Batch::new()).await);
            must(1, store.write_blob(id, bytes.clone()).await);
            assert_eq!(must(1, store.read_blob(id).await), Some(bytes), "clause 1: written twice");
        }
        let asked = vec![blob(1, 64).0, blob(9, 9).0, blob(1, 63).0, blob(1, 0).0];
        let lengths = must(1, store.blob_lengths(asked).await);
        assert_eq!(lengths, [Some(64), None, Some(63), Some(0)], "clause 1: lengths, in the order asked");
        must(10, store.close().await);
    });
}

fn clause_2_durable_after_commit<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let all: Vec<(ShardId, Bytes)> = (0..20).map(|seed| blob(seed, 1000 * seed as usize)).collect();
    let late = blob(99, 5000);
    block_on(async {
        for (id, bytes) in &all {
            must(1, store.write_blob(*id, bytes.clone()).await);
        }
        must(2, store.commit(Batch::new()).await);
        must(1, store.write_blob(late.0, late.1.clone()).await);
    });
    let store = reopen(store);
    block_on(async {
        for (id, bytes) in &all {
            let found = must(2, store.read_blob(*id).await);
            assert!(
                found.as_ref() == Some(bytes),
                "clause 2: a committed blob of {} bytes is gone",
                bytes.len()
            );
        }
        let found = must(2, store.read_blob(late.0).await);
        assert!(found.is_none_or(|found| found == late.1), "clause 4: altered bytes of an uncommitted blob");
        must(1, store.write_blob(late.0, late.1.clone()).await);
        must(2, store.commit(Batch::new()).await);
    });
    let store = reopen(store);
    block_on(async {
        assert!(must(2, store.read_blob(late.0).await) == Some(late.1), "clause 2: written after reopening");
        must(10, store.close().await);
    });
}

fn clause_2_removal<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let [kept, gone, back, staged] = [1, 2, 3, 4].map(|seed| blob(seed, 3000));
    block_on(async {
        for (id, bytes) in [&kept, &gone, &back] {
            must(1, store.write_blob(*id, bytes.clone()).await);
        }
        must(2, store.commit(Batch::new()).await);
        must(1, store.write_blob(staged.0, staged.1.clone()).await);
        let removal = Batch::new().delete_blob(gone.0).delete_blob(back.0).delete_blob(staged.0);
        must(2, store.commit(removal.delete_blob(gone.0)).await);
        for (id, _) in [&gone, &back, &staged] {
            assert_eq!(must(3, store.read_blob(*id).await), None, "clause 3: a removed blob is still there");
        }
        must(1, store.write_blob(back.0, back.1.clone()).await);
        must(2, store.commit(Batch::new()).await);
        must(1, store.compact().await);
        assert!(must(1, store.read_blob(back.0).await) == Some(back.1.clone()), "clause 1: written again");
        assert!(must(1, store.read_blob(kept.0).await) == Some(kept.1.clone()), "clause 2: after compaction");
    });
    let store = reopen(store);
    block_on(async {
        for (id, _) in [&gone, &staged] {
            assert_eq!(must(2, store.read_blob(*id).await), None, "clause 2: a removed blob came back");
        }
        for (id, bytes) in [&kept, &back] {
            assert!(must(2, store.read_blob(*id).await).as_ref() == Some(bytes), "clause 2: a blob is gone");
        }
        must(10, store.close().await);
    });
}

fn clause_4_never_other_bytes<S: Storage>(make: &impl Fn() -> S) {
    let store = make();
    block_on(async {
        let (id, _) = blob(1, 100);
        // A careless caller: the store may refuse, but it may not hand these bytes out under that name.
        if store.write_blob(id, Bytes::from_static(b"something else")).await.is_ok() {
            must_fail(4, ErrorKind::Corrupt, store.read_blob(id).await);
            must(2, store.commit(Batch::new()).await);
            must_fail(4, ErrorKind::Corrupt, store.read_blob(id).await);
            must(2, store.commit(Batch::new().delete_blob(id)).await);
        }
        assert_eq!(must(4, store.read_blob(id).await), None, "clause 4: removed");
        must(10, store.close().await);
    });
}

fn clause_5_scans<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let mut expected = Vec::new();
    block_on(async {
        for seed in 0..40 {
            let (id, bytes) = blob(seed, seed as usize);
            expected.push((id, seed));
            must(1, store.write_blob(id, bytes).await);
            if seed == 20 {
                must(2, store.commit(Batch::new()).await);
            }
        }
        expected.sort_unstable();
        assert_eq!(scan(&store, 7).await, expected, "clause 5: with uncommitted blobs");
        must(2, store.commit(put(b"k", Vec::new())).await);
    });
    let store = reopen(store);
    block_on(async {
        for limit in [1, 7, 40, 1000] {
            assert_eq!(scan(&store, limit).await, expected, "clause 5: in pages of {limit}");
        }
        must(10, store.close().await);
    });
}

async fn scan<S: Storage>(store: &S, limit: usize) -> Vec<(ShardId, u64)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = must(5, store.scan_blobs(after, limit).await);
        assert!(page.blobs.len() <= limit, "clause 5: a page over its limit");
        all.extend(page.blobs.iter().copied());
        if !page.more {
            return all;
        }
        let last = page.blobs.last().map(|(id, _)| *id);
        assert!(last > after, "clause 5: a page that does not advance");
        after = last;
    }
}

fn clause_8_limit<S: Storage>(make: &impl Fn() -> S) {
    let store = make();
    block_on(async {
        let (id, bytes) = blob(1, MAX_BLOB_LEN);
        must(8, store.write_blob(id, bytes.clone()).await);
        must(2, store.commit(Batch::new()).await);
        assert!(must(8, store.read_blob(id).await) == Some(bytes), "clause 8: the largest blob");
        let (id, bytes) = blob(2, MAX_BLOB_LEN + 1);
        must_fail(8, ErrorKind::LimitExceeded, store.write_blob(id, bytes).await);
        assert_eq!(must(8, store.read_blob(id).await), None, "clause 8: written though refused");
        must(10, store.close().await);
    });
}
