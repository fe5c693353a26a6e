//! Entry points for fuzz targets: arbitrary bytes in, no panic out.

use datamesh_core::ports::{ErasureCode, Redundancy};

use crate::ReedSolomon;

/// Decodes a stripe whose shape, losses and bytes are taken from `data`.
///
/// Its first four bytes are k, m, a length and which shards are missing.
///
/// # Panics
/// Where the code accepts a stripe without losses but one of them cannot be restored.
pub fn fuzz_erasure_decode(data: &[u8]) {
    let Some((&[k, m, units, lost], bytes)) = data.split_first_chunk::<4>() else { return };
    let Ok(redundancy) = Redundancy::new(k, m) else { return };
    let length = usize::from(units % 4) * 64 + usize::from(units == 255);
    let mut pool = bytes.iter().copied().cycle().chain(std::iter::repeat(0));
    let shards: Vec<Vec<u8>> =
        (0..redundancy.total()).map(|_| pool.by_ref().take(length).collect()).collect();
    let present = |index: usize| !usize::from(lost).is_multiple_of(index % 7 + 2) || index.is_multiple_of(5);
    let given: Vec<Option<&[u8]>> =
        shards.iter().enumerate().map(|(index, shard)| present(index).then_some(shard.as_slice())).collect();
    let missing = given.iter().take(redundancy.data()).filter(|shard| shard.is_none()).count();
    let mut restored = vec![vec![0; length]; missing];
    let mut targets: Vec<&mut [u8]> = restored.iter_mut().map(Vec::as_mut_slice).collect();
    let outcome = ReedSolomon::new().reconstruct(redundancy, &given, &mut targets);
    assert!(
        missing > 0
            || outcome.is_err() == (length % 64 != 0)
            || given.iter().flatten().count() < usize::from(k)
    );
}

/// Opens a store whose records file is `data`, and reads and writes through it.
///
/// Damage that redb meets with a panic is caught by the store; a fuzz target lets such panics pass.
///
/// # Panics
/// Where the store returns bytes that do not match their name.
#[cfg(feature = "disk")]
pub fn fuzz_store_file(data: &[u8]) {
    use std::sync::Arc;

    use datamesh_core::id::ShardId;
    use datamesh_core::ports::{Batch, Storage, Table};
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    let records = InMemoryBackend::new();
    if records.set_len(data.len() as u64).and_then(|()| records.write(0, data)).is_err() {
        return;
    }
    let options = crate::DiskOptions { cache_bytes: 1 << 20, ..crate::DiskOptions::default() };
    let Ok(store) =
        crate::DiskStore::open_with(Arc::new(memory_files::MemoryFiles::default()), records, options)
    else {
        return;
    };
    futures::executor::block_on(async {
        let page = store.scan_blobs(None, 16).await.unwrap_or_default();
        for (id, _) in page.blobs {
            if let Ok(Some(bytes)) = store.read_blob(id).await {
                assert_eq!(ShardId::of(&bytes), id);
            }
        }
        for table in Table::ALL {
            let _ = store.scan_records(table, bytes::Bytes::new(), None, 16).await;
        }
        let id = ShardId::of(b"fuzz");
        let _ = store.write_blob(id, "fuzz".into()).await;
        let _ = store.commit(Batch::new().put(Table::Node, "key", "value").delete_blob(id)).await;
        let _ = store.close().await;
    });
}

#[cfg(feature = "disk")]
mod memory_files {
    use std::collections::BTreeMap;
    use std::io;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use crate::disk::files::{Files, Space, VolumeFile};

    /// Volume files in memory.
    #[derive(Debug, Default)]
    pub(super) struct MemoryFiles(Mutex<BTreeMap<String, Arc<MemoryFile>>>);

    #[derive(Debug, Default)]
    struct MemoryFile(Mutex<Vec<u8>>);

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Files for MemoryFiles {
        fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
            let file = Arc::new(MemoryFile::default());
            lock(&self.0).insert(name.to_owned(), Arc::clone(&file));
            Ok(file)
        }

        fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
            match lock(&self.0).get(name) {
                Some(file) => Ok(Arc::clone(file) as Arc<dyn VolumeFile>),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            lock(&self.0).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            let files = lock(&self.0);
            Ok(files.iter().map(|(name, file)| (name.clone(), lock(&file.0).len() as u64)).collect())
        }

        fn sync_dir(&self) -> io::Result<()> {
            Ok(())
        }

        fn space(&self) -> io::Result<Space> {
            Ok(Space { free: 1 << 40, total: 1 << 40 })
        }
    }

    impl VolumeFile for MemoryFile {
        fn append(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
            let mut bytes = lock(&self.0);
            if offset > 1 << 30 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            bytes.resize(offset as usize, 0);
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            Ok(())
        }

        fn read_at(&self, offset: u64, target: &mut [u8]) -> io::Result<()> {
            let bytes = lock(&self.0);
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let source = bytes.get(start..start.saturating_add(target.len()));
            target.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            lock(&self.0).resize(usize::try_from(length.min(1 << 30)).unwrap_or_default(), 0);
            Ok(())
        }
    }
}
