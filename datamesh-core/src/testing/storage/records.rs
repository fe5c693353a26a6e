//! What is asked of records.

use bytes::Bytes;
use futures::executor::block_on;

use super::{blob, key, must, must_fail, put};
use crate::error::ErrorKind;
use crate::ports::{Batch, MAX_KEY_LEN, MAX_VALUE_LEN, Storage, Table};

pub(super) fn check<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    clause_2_steps_in_order(make, reopen);
    clause_2_all_or_none(make, reopen);
    clause_5_scans(make, reopen);
    clause_5_page_bytes(make);
    clause_8_limits(make);
}

fn clause_2_steps_in_order<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let batch = Batch::new()
        .put(Table::Work, key(b"a"), key(b"1"))
        .delete(Table::Work, key(b"a"))
        .put(Table::Work, key(b"b"), key(b"1"))
        .put(Table::Work, key(b"b"), key(b"2"))
        .delete(Table::Work, key(b"c"))
        .put(Table::Work, key(b"c"), key(b"3"))
        .put(Table::Node, key(b"c"), key(b"of another table"))
        .put(Table::Work, key(b""), key(b"the empty key"))
        .put(Table::Work, key(b"e"), key(b""));
    block_on(async {
        must(2, store.commit(batch).await);
        check_steps(&store).await;
        must(2, store.commit(Batch::new().delete(Table::Work, key(b"missing"))).await);
    });
    let store = reopen(store);
    block_on(async {
        check_steps(&store).await;
        must(10, store.close().await);
    });
}

async fn check_steps<S: Storage>(store: &S) {
    let expected: [(&[u8], Option<&[u8]>); 5] = [
        (b"a", None),
        (b"b", Some(b"2")),
        (b"c", Some(b"3")),
        (b"", Some(b"the empty key")),
        (b"e", Some(b"")),
    ];
    for (name, value) in expected {
        let found = must(2, store.read_record(Table::Work, key(name)).await);
        assert_eq!(found.as_deref(), value, "clause 2: record {name:?} after a batch");
    }
    for table in Table::ALL {
        let found = must(2, store.read_record(table, key(b"c")).await);
        assert_eq!(found.is_some(), [Table::Work, Table::Node].contains(&table), "clause 2: table {table:?}");
    }
}

fn clause_2_all_or_none<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let (id, bytes) = blob(1, 100);
    block_on(async {
        must(1, store.write_blob(id, bytes).await);
        must(2, store.commit(put(b"old", b"1".to_vec())).await);
        let refused = put(b"new", b"1".to_vec()).delete(Table::Node, key(b"old")).delete_blob(id).put(
            Table::Node,
            vec![b'k'; MAX_KEY_LEN + 1],
            key(b"1"),
        );
        must_fail(8, ErrorKind::LimitExceeded, store.commit(refused).await);
        must(2, store.commit(put(b"later", b"1".to_vec())).await);
    });
    let store = reopen(store);
    block_on(async {
        for (name, there) in [(&b"old"[..], true), (b"new", false), (b"later", true)] {
            let found = must(2, store.read_record(Table::Node, key(name)).await);
            assert_eq!(found.is_some(), there, "clause 2: half of a refused batch happened ({name:?})");
        }
        assert!(must(2, store.read_blob(id).await).is_some(), "clause 2: half of a refused batch happened");
        must(10, store.close().await);
    });
}

fn clause_5_scans<S: Storage>(make: &impl Fn() -> S, reopen: &impl Fn(S) -> S) {
    let store = make();
    let mut keys: Vec<Bytes> = (0..=255_u8).map(|byte| key(&[byte])).collect();
    keys.extend((0..300_u16).map(|number| key(&[b"pre".as_slice(), &number.to_be_bytes()].concat())));
    keys.extend([&[0xff, 0xff][..], &[0xff, 0xff, 1], &[0xff, 0], b"", b"pre"].map(key));
    let batch = keys
        .iter()
        .rev()
        .fold(Batch::new(), |batch, key| batch.put(Table::Members, key.clone(), key.clone()));
    let around =
        Batch::new().put(Table::Node, key(b"pre"), key(b"x")).put(Table::Manifests, key(b"pre"), key(b"x"));
    block_on(async {
        must(2, store.commit(batch).await);
        must(2, store.commit(around).await);
    });
    keys.sort_unstable();
    let store = reopen(store);
    block_on(async {
        for prefix in [&b""[..], b"pre", b"p", b"pre\0", &[0xff], &[0xff, 0xff], &[0], b"absent"] {
            let expected: Vec<Bytes> = keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
            for limit in [1, 3, 100, 10_000] {
                let found = scan(&store, prefix, limit).await;
                assert_eq!(found, expected, "clause 5: prefix {prefix:?} in pages of {limit}");
            }
        }
        check_odd_starts(&store).await;
        must(10, store.close().await);
    });
}

/// Starting points that are not keys, or that lie outside the prefix.
async fn check_odd_starts<S: Storage>(store: &S) {
    let cases = [
        (&b"pre"[..], &b"a"[..], Some(&b"pre"[..])),
        (b"pre", b"z", None),
        (b"", b"pq", Some(b"pre")),
        (b"", &[0xff; 3], None),
    ];
    for (prefix, after, expected) in cases {
        let page = must(5, store.scan_records(Table::Members, key(prefix), Some(key(after)), 1).await);
        let first = page.records.first().map(|(key, _)| key.as_ref());
        assert_eq!(first, expected, "clause 5: prefix {prefix:?} after {after:?}");
    }
}

async fn scan<S: Storage>(store: &S, prefix: &[u8], limit: usize) -> Vec<Bytes> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = must(5, store.scan_records(Table::Members, key(prefix), after.clone(), limit).await);
        assert!(page.records.len() <= limit, "clause 5: a page over its limit");
        for (name, value) in page.records {
            assert_eq!(name, value, "clause 5: a value under another key");
            all.push(name);
        }
        if !page.more {
            return all;
        }
        assert!(all.last() > after.as_ref(), "clause 5: a page that does not advance");
        after = all.last().cloned();
    }
}

fn clause_5_page_bytes<S: Storage>(make: &impl Fn() -> S) {
    let store = make();
    block_on(async {
        for number in 0..6_u8 {
            must(2, store.commit(Batch::new().put(Table::Work, vec![number], vec![0; 1 << 20])).await);
        }
        let page = must(5, store.scan_records(Table::Work, Bytes::new(), None, 100).await);
        let bytes: usize = page.records.iter().map(|(_, value)| value.len()).sum();
        assert!(bytes <= 4 << 20 && bytes > 0 && page.more, "clause 5: a page with {bytes} bytes of values");
        must(10, store.close().await);
    });
}

fn clause_8_limits<S: Storage>(make: &impl Fn() -> S) {
    let store = make();
    block_on(async {
        must(8, store.commit(put(&[1; MAX_KEY_LEN], vec![2; MAX_VALUE_LEN])).await);
        let found = must(8, store.read_record(Table::Node, key(&[1; MAX_KEY_LEN])).await);
        assert!(found.is_some_and(|value| value.len() == MAX_VALUE_LEN), "clause 8: the largest record");
        let long_key = put(&[1; MAX_KEY_LEN + 1], Vec::new());
        must_fail(8, ErrorKind::LimitExceeded, store.commit(long_key).await);
        let long_value = put(b"long", vec![2; MAX_VALUE_LEN + 1]);
        must_fail(8, ErrorKind::LimitExceeded, store.commit(long_value).await);
        let found = must(8, store.read_record(Table::Node, key(b"long")).await);
        assert_eq!(found, None, "clause 8: written though refused");
        must(10, store.close().await);
    });
}
