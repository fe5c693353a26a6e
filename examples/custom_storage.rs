//! A storage of your own: here a decorator that gives another store a quota.
//!
//! A store that keeps its data elsewhere implements the same trait, and runs the same suite.
//!
//!     cargo run --example custom_storage --features testing
#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use bytes::Bytes;
use datamesh::ports::{Batch, BlobPage, Capacity, RecordPage, Storage, Table};
use datamesh::store::MemoryStore;
use datamesh::{Error, ErrorKind, Result, ShardId};

/// A store that refuses shards when `quota` bytes are taken.
#[derive(Debug)]
struct Quota<S> {
    inner: S,
    quota: u64,
}

impl<S: Storage> Storage for Quota<S> {
    async fn write_blob(&self, id: ShardId, bytes: Bytes) -> Result<()> {
        if self.inner.capacity().await?.used.saturating_add(bytes.len() as u64) > self.quota {
            let text = format!("the quota of {} bytes is taken; remove something", self.quota);
            return Err(Error::new(ErrorKind::StorageFull, text));
        }
        self.inner.write_blob(id, bytes).await
    }
    async fn capacity(&self) -> Result<Capacity> {
        let inner = self.inner.capacity().await?;
        Ok(Capacity::new(inner.used, inner.available.min(self.quota.saturating_sub(inner.used))))
    }
    async fn read_blob(&self, id: ShardId) -> Result<Option<Bytes>> {
        self.inner.read_blob(id).await
    }
    async fn blob_lengths(&self, ids: Vec<ShardId>) -> Result<Vec<Option<u64>>> {
        self.inner.blob_lengths(ids).await
    }
    async fn scan_blobs(&self, after: Option<ShardId>, limit: usize) -> Result<BlobPage> {
        self.inner.scan_blobs(after, limit).await
    }
    async fn read_record(&self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        self.inner.read_record(table, key).await
    }
    async fn scan_records(
        &self,
        table: Table,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.inner.scan_records(table, prefix, after, limit).await
    }
    async fn commit(&self, batch: Batch) -> Result<()> {
        self.inner.commit(batch).await
    }
    async fn compact(&self) -> Result<()> {
        self.inner.compact().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

fn main() -> Result<()> {
    let make = |quota| Quota { inner: MemoryStore::new(), quota };
    #[cfg(feature = "testing")]
    datamesh::testing::storage::storage(|| make(1 << 30), |s| Quota { inner: s.inner.reopened(), ..s });
    futures::executor::block_on(async {
        let mesh = datamesh::builder().storage(make(8 << 20)).open().await?;
        let receipt = mesh.put(vec![1; 4 << 20]).await?;
        println!("stored {} bytes, and the store takes {:?}", receipt.len, mesh.usage().await?);
        let refused = mesh.put(vec![2; 4 << 20]).await.err();
        println!("the next put: {:?}", refused.ok_or_else(|| Error::new(ErrorKind::Io, "no quota"))?);
        assert_eq!(mesh.get(&receipt.capability).await?, vec![1; 4 << 20]);
        mesh.remove(&receipt.capability).await?;
        mesh.put(vec![2; 4 << 20]).await?;
        println!("after a removal there is room again");
        mesh.shutdown().await
    })
}
