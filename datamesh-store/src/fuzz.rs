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

/// Opens a store whose index, volumes and rows of volumes are taken from `data`, and reads and writes through it.
///
/// The first byte says how many rows of 16 bytes follow, for blobs and volumes in turn; the rest is the first
/// volume. The pages around the rows are sound: redb panics over some that are not, which the store
/// catches and a fuzzer does not. `tests/disk.rs` damages pages.
///
/// # Panics
/// Where the store returns bytes that do not match their name.
#[cfg(feature = "disk")]
pub fn fuzz_store_file(data: &[u8]) {
    use std::sync::Arc;

    let Some((&count, rest)) = data.split_first() else { return };
    let (rows, volume) = rest.split_at(rest.len().min(usize::from(count % 32) * 16));
    let Some(records) = hostile::records(rows) else { return };
    let files = memory_files::MemoryFiles::with_volume("00000001.vol", volume);
    let options =
        crate::DiskOptions { cache_bytes: 1 << 20, reader_threads: 1, ..crate::DiskOptions::default() };
    if let Ok(store) = crate::DiskStore::open_with(Arc::new(files), records, options) {
        futures::executor::block_on(hostile::use_all(&store));
    }
}

#[cfg(feature = "disk")]
mod hostile {
    use datamesh_core::id::ShardId;
    use datamesh_core::ports::{Batch, Storage, Table};
    use redb::backends::InMemoryBackend;
    use redb::{Builder, StorageBackend};

    use crate::DiskStore;
    use crate::disk::{BLOBS, VOLUMES, sealed};

    /// A records file with these rows, as a process left it that ended.
    pub(super) fn records(rows: &[u8]) -> Option<InMemoryBackend> {
        let copy = Copied::default();
        let database = Builder::new().set_cache_size(1 << 20).create_with_backend(copy.clone()).ok()?;
        let transaction = database.begin_write().ok()?;
        for (number, row) in rows.as_chunks::<16>().0.iter().enumerate() {
            let number = u32::try_from(number).ok()?;
            if number.is_multiple_of(2) {
                let id = ShardId::of(&number.to_le_bytes());
                transaction
                    .open_table(BLOBS)
                    .ok()?
                    .insert(id.as_bytes(), &sealed("blobs", id.as_bytes(), *row))
                    .ok()?;
            } else {
                let volume = number / 2 + 1;
                let row = sealed("volumes", &volume.to_le_bytes(), *row);
                transaction.open_table(VOLUMES).ok()?.insert(volume, &row).ok()?;
            }
        }
        transaction.commit().ok()?;
        drop(database);
        copy.into_inner()
    }

    /// A backend that can be had back when the database is closed.
    #[derive(Debug, Clone, Default)]
    struct Copied(std::sync::Arc<InMemoryBackend>);

    impl Copied {
        fn into_inner(self) -> Option<InMemoryBackend> {
            std::sync::Arc::into_inner(self.0)
        }
    }

    impl StorageBackend for Copied {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, length: u64) -> std::io::Result<()> {
            self.0.set_len(length)
        }

        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }

    /// Everything that a node does with a store.
    pub(super) async fn use_all(store: &DiskStore) {
        for number in 0..16_u32 {
            let id = ShardId::of(&number.to_le_bytes());
            if let Ok(Some(bytes)) = store.read_blob(id).await {
                assert_eq!(ShardId::of(&bytes), id);
            }
            let _ = store.blob_lengths(vec![id]).await;
        }
        let _ = store.scan_blobs(None, 16).await;
        for table in Table::ALL {
            let _ = store.scan_records(table, bytes::Bytes::new(), None, 16).await;
        }
        let id = ShardId::of(b"fuzz");
        let _ = store.write_blob(id, "fuzz".into()).await;
        let removed = ShardId::of(&0_u32.to_le_bytes());
        let _ = store.commit(Batch::new().put(Table::Node, "key", "value").delete_blob(removed)).await;
        let _ = store.compact().await;
        if let Ok(Some(bytes)) = store.read_blob(id).await {
            assert_eq!(bytes, "fuzz");
        }
        let _ = store.capacity().await;
        let _ = store.close().await;
    }
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

    impl MemoryFiles {
        /// One file with these bytes.
        pub(super) fn with_volume(name: &str, bytes: &[u8]) -> Self {
            let file = Arc::new(MemoryFile(Mutex::new(bytes.to_vec())));
            Self(Mutex::new([(name.to_owned(), file)].into()))
        }
    }

    /// Longer files are refused, so that a hostile length takes no memory.
    const MAX_BYTES: u64 = 16 << 20;

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
            if offset > MAX_BYTES {
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
            lock(&self.0).resize(usize::try_from(length.min(MAX_BYTES)).unwrap_or_default(), 0);
            Ok(())
        }
    }
}
