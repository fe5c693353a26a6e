//! What is asked while several calls run, and of calls that are given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use bytes::Bytes;
use futures::executor::block_on;
use futures::future::FutureExt;

use super::{blob, key, must};
use crate::ports::{Batch, Storage, Table};

/// Commits that one writer makes while others read.
const ROUNDS: u8 = 30;

pub(super) fn check<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    clause_3_never_half(make);
    clause_9_many_writers(make, reopen);
    clause_9_dropped_calls(make, reopen);
}

fn clause_3_never_half<S: Storage>(make: &impl Fn() -> S) {
    let store = make();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let _ends = SetOnDrop(&done);
            for round in 0..ROUNDS {
                let batch = (0..4)
                    .fold(Batch::new(), |batch, name| batch.put(Table::Extents, key(&[name]), key(&[round])));
                must(2, block_on(store.commit(batch)));
                let found = must(3, block_on(store.read_record(Table::Extents, key(&[0]))));
                assert_eq!(
                    found.as_deref(),
                    Some(&[round][..]),
                    "clause 3: a commit that returned is not seen"
                );
            }
        });
        let reader = || {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let page = must(3, block_on(store.scan_records(Table::Extents, Bytes::new(), None, 10)));
                    let mut values = page.records.iter().map(|(_, value)| value);
                    let first = values.next();
                    assert!(values.all(|value| Some(value) == first), "clause 3: half of a commit was seen");
                    assert!([0, 4].contains(&page.records.len()), "clause 3: half of a commit was seen");
                }
            })
        };
        join([reader(), reader(), writer]);
    });
    must(10, block_on(store.close()));
}

fn clause_9_many_writers<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        // Every writer writes the same blobs, and records of its own.
                        let (id, bytes) = blob(u64::from(round), 2000);
                        must(9, block_on(store.write_blob(id, bytes.clone())));
                        let record = Batch::new().put(Table::Work, key(&[writer, round]), key(id.as_bytes()));
                        must(9, block_on(store.commit(record)));
                        assert!(
                            must(9, block_on(store.read_blob(id))) == Some(bytes),
                            "clause 9: a blob is gone"
                        );
                    }
                })
            })
            .collect();
        join(writers);
    });
    let store = reopen(store);
    block_on(async {
        let page = must(9, store.scan_records(Table::Work, Bytes::new(), None, 1000).await);
        assert_eq!(page.records.len(), 4 * usize::from(ROUNDS), "clause 9: a commit is lost");
        for round in 0..ROUNDS {
            let (id, bytes) = blob(u64::from(round), 2000);
            assert!(must(9, store.read_blob(id).await) == Some(bytes), "clause 9: a blob is lost");
        }
        must(10, store.close().await);
    });
}

fn clause_9_dropped_calls<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    for round in 0..ROUNDS {
        let (id, bytes) = blob(u64::from(round), 5000);
        let batch = Batch::new().put(Table::Work, key(&[1, round]), key(b"x")).put(
            Table::Node,
            key(&[round]),
            key(b"x"),
        );
        // Polled once and dropped, at different points of their way.
        drop(store.write_blob(id, bytes).now_or_never());
        drop(store.commit(batch).now_or_never());
        drop(store.read_blob(id).now_or_never());
        drop(store.scan_blobs(None, 5).now_or_never());
        drop(store.compact().now_or_never());
    }
    must(9, block_on(store.commit(Batch::new())));
    let store = reopen(store);
    block_on(async {
        for round in 0..ROUNDS {
            let (id, bytes) = blob(u64::from(round), 5000);
            let found = must(9, store.read_blob(id).await);
            assert!(found.is_none_or(|found| found == bytes), "clause 9: half a blob of a dropped call");
            let one = must(9, store.read_record(Table::Work, key(&[1, round])).await);
            let other = must(9, store.read_record(Table::Node, key(&[round])).await);
            assert_eq!(one.is_some(), other.is_some(), "clause 9: half a commit of a dropped call");
        }
        must(10, store.close().await);
    });
}

/// Passes on what a thread said when it panicked; the scope itself would say only that one did.
fn join<'scope>(threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, ()>>) {
    for thread in threads {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Ends the readers even where the writer panics, so that a broken store fails instead of hanging.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
