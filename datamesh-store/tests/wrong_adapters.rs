//! Adapters that each break one clause on purpose: the conformance suites must name it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{
    Batch, BatchStep, BlobPage, Capacity, CodeId, ErasureCode, RecordPage, Redundancy, Storage, Table,
};
use datamesh_core::{Error, ErrorKind, Result, testing};
use datamesh_store::{MemoryStore, ReedSolomon};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    ForgetsBlobs,
    ForgetsRecords,
    AlteredBytes,
    HalfBatch,
    NotSeenAfterCommit,
    Unordered,
    MissesKeys,
    PageTooLong,
    NoLimit,
    NeverFull,
    OpenAfterClose,
}

#[derive(Debug)]
struct WrongStore {
    inner: MemoryStore,
    fault: Fault,
}

impl WrongStore {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn reopened(self) -> Self {
        let reopened = match self.fault {
            Fault::ForgetsBlobs => futures::executor::block_on(without_blobs(self.inner.reopened())),
            Fault::ForgetsRecords => MemoryStore::new(),
            _ => self.inner.reopened(),
        };
        Self { inner: reopened, fault: self.fault }
    }
}

async fn without_blobs(store: MemoryStore) -> MemoryStore {
    let page = store.scan_blobs(None, usize::MAX).await.unwrap();
    let all = page.blobs.iter().fold(Batch::new(), |batch, (id, _)| batch.delete_blob(*id));
    store.commit(all).await.unwrap();
    store
}

fn rebuilt(steps: impl Iterator<Item = BatchStep>) -> Batch {
    steps.fold(Batch::new(), |batch, step| match step {
        BatchStep::Put { table, key, value } => batch.put(table, key, value),
        BatchStep::Delete { table, key } => batch.delete(table, key),
        BatchStep::DeleteBlob { id } => batch.delete_blob(id),
        _ => batch,
    })
}

impl Storage for WrongStore {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        if self.is(Fault::NoLimit) && bytes.len() > datamesh_core::ports::MAX_BLOB_LEN {
            return Ok(());
        }
        match self.inner.write_blob(id, bytes).await {
            Err(error) if error.kind() == ErrorKind::StorageFull && self.is(Fault::NeverFull) => Ok(()),
            result => result,
        }
    }

    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        match self.inner.read_blob(id).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && self.is(Fault::AlteredBytes) => {
                Ok(Some(Bytes::from_static(b"something else")))
            }
            Err(error) if error.kind() == ErrorKind::Closed && self.is(Fault::OpenAfterClose) => Ok(None),
            result => result,
        }
    }

    fn blob_lengths(&self, ids: Vec<ShardId>) -> impl Future<Output = Result<Vec<Option<u64>>>> + Send {
        self.inner.blob_lengths(ids)
    }

    fn scan_blobs(
        &self,
        after: Option<ShardId>,
        limit: usize,
    ) -> impl Future<Output = Result<BlobPage>> + Send {
        self.inner.scan_blobs(after, limit)
    }

    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        let found = self.inner.read_record(table, key).await?;
        let stale = self.is(Fault::NotSeenAfterCommit) && table == Table::Extents;
        Ok(found.filter(|_| !stale))
    }

    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        let asked = if self.is(Fault::PageTooLong) { limit + 1 } else { limit };
        let mut page = self.inner.scan_records(table, prefix, after, asked).await?;
        if self.is(Fault::Unordered) {
            page.records.reverse();
        }
        if self.is(Fault::MissesKeys) && page.records.len() > 50 {
            page.records.remove(20);
        }
        Ok(page)
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        if self.is(Fault::HalfBatch) {
            let first = rebuilt(batch.clone().into_steps().into_iter().take(1));
            self.inner.commit(first).await?;
        }
        self.inner.commit(batch).await
    }

    fn capacity(&self) -> impl Future<Output = Result<Capacity>> + Send {
        self.inner.capacity()
    }

    fn compact(&self) -> impl Future<Output = Result<()>> + Send {
        self.inner.compact()
    }

    fn close(&self) -> impl Future<Output = Result<()>> + Send {
        self.inner.close()
    }
}

/// What a suite says about a broken adapter, `None` when it finds nothing.
fn verdict(check: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(check)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

fn store_verdict(fault: Fault) -> Option<String> {
    verdict(|| {
        let make = || WrongStore { inner: MemoryStore::new(), fault };
        testing::storage::storage(make, WrongStore::reopened);
        testing::storage::full_storage(|bytes| WrongStore {
            inner: MemoryStore::with_capacity_bytes(bytes),
            fault,
        });
    })
}

#[test]
fn the_storage_suite_names_the_broken_clause() {
    assert_eq!(store_verdict(Fault::None), None);
    for (fault, clause) in [
        (Fault::ForgetsBlobs, 2),
        (Fault::ForgetsRecords, 2),
        (Fault::AlteredBytes, 4),
        (Fault::HalfBatch, 2),
        (Fault::NotSeenAfterCommit, 3),
        (Fault::Unordered, 5),
        (Fault::MissesKeys, 5),
        (Fault::PageTooLong, 5),
        (Fault::NoLimit, 8),
        (Fault::NeverFull, 7),
        (Fault::OpenAfterClose, 10),
    ] {
        let text = store_verdict(fault).unwrap_or_else(|| panic!("{fault:?} was not noticed"));
        assert!(text.contains(&format!("clause {clause}:")), "{fault:?}: {text}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    ChangesWithCalls,
    FirstDataShardOnly,
    NotByColumn,
    RefusesNoParity,
    PanicsOnNoParity,
    AcceptsTooFew,
}

#[derive(Debug)]
struct WrongCode {
    inner: ReedSolomon,
    flaw: Flaw,
    calls: std::sync::atomic::AtomicU8,
}

impl ErasureCode for WrongCode {
    fn id(&self) -> CodeId {
        CodeId(0x8000)
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn supports(&self, redundancy: Redundancy) -> bool {
        self.inner.supports(redundancy)
    }

    fn encode(&self, redundancy: Redundancy, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<()> {
        if redundancy.parity() == 0 && self.flaw == Flaw::PanicsOnNoParity {
            panic!("index out of bounds");
        }
        if redundancy.parity() == 0 && self.flaw == Flaw::RefusesNoParity {
            return Err(Error::new(ErrorKind::InvalidInput, "no parity"));
        }
        self.inner.encode(redundancy, data, parity)?;
        let call = self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Some(first) = parity.first_mut().and_then(|shard| shard.first_mut()) {
            match self.flaw {
                Flaw::ChangesWithCalls => *first ^= call,
                Flaw::NotByColumn => *first ^= data[0].len() as u8 ^ (data[0].len() >> 8) as u8,
                _ => {}
            }
        }
        Ok(())
    }

    fn reconstruct(
        &self,
        redundancy: Redundancy,
        shards: &[Option<&[u8]>],
        restored: &mut [&mut [u8]],
    ) -> Result<()> {
        if self.flaw == Flaw::AcceptsTooFew && shards.iter().flatten().count() < redundancy.data() {
            return Ok(());
        }
        self.inner.reconstruct(redundancy, shards, restored)?;
        if self.flaw == Flaw::FirstDataShardOnly {
            restored.iter_mut().skip(1).for_each(|shard| shard.fill(0));
        }
        Ok(())
    }
}

fn code_verdict(flaw: Flaw) -> Option<String> {
    let code = WrongCode { inner: ReedSolomon::new(), flaw, calls: 0.into() };
    verdict(|| testing::erasure::erasure_code(&code))
}

#[test]
fn the_erasure_suite_names_the_broken_clause() {
    assert_eq!(code_verdict(Flaw::None), None);
    for (flaw, clause) in [
        (Flaw::ChangesWithCalls, "clause 1"),
        (Flaw::FirstDataShardOnly, "clause 2"),
        // The altered parity shows first where it is used to restore.
        (Flaw::NotByColumn, "clause 2"),
        (Flaw::RefusesNoParity, "no parity"),
        (Flaw::PanicsOnNoParity, "out of bounds"),
        (Flaw::AcceptsTooFew, "clause 5"),
    ] {
        let text = code_verdict(flaw).unwrap_or_else(|| panic!("{flaw:?} was not noticed"));
        assert!(text.contains(clause), "{flaw:?}: {text}");
    }
}
