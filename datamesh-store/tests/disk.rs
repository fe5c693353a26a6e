//! The disk store under faults: damage, locks, kills, failing media.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]
#![cfg(feature = "disk")]

mod hooked;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use datamesh_core::ErrorKind;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::disk::files::OsFiles;
use datamesh_store::{DiskOptions, DiskStore};
use futures::executor::block_on;
use hooked::{Call, Hooked};
use redb::backends::InMemoryBackend;
use tempfile::TempDir;

fn options() -> DiskOptions {
    let mut options = DiskOptions::default();
    options.volume_bytes = 256 << 10;
    options.reserve_per_mille = 0;
    options
}

fn blob(seed: u32) -> (ShardId, Bytes) {
    let bytes: Vec<u8> = (0..5000_u32).flat_map(|n| (n ^ seed).to_le_bytes()).collect();
    (ShardId::of(&bytes), bytes.into())
}

fn open(path: &Path) -> DiskStore {
    DiskStore::open(path, options()).unwrap()
}

async fn fill(store: &DiskStore, count: u32) {
    for seed in 0..count {
        let (id, bytes) = blob(seed);
        store.write_blob(id, bytes).await.unwrap();
        let record = Batch::new().put(Table::Work, seed.to_be_bytes().to_vec(), id.as_bytes().to_vec());
        store.commit(record).await.unwrap();
    }
}

fn kind<T: std::fmt::Debug>(result: datamesh_core::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn volumes(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        std::fs::read_dir(path.join("volumes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_directory_has_one_store() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    assert_eq!(kind(DiskStore::open(directory.path(), options())), ErrorKind::Locked);
    block_on(store.close()).unwrap();
    block_on(open(directory.path()).close()).unwrap();
}

#[test]
fn a_path_under_a_file_is_refused() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(DiskStore::open(file.join("store"), options()).is_err());
}

#[test]
fn damaged_volumes_never_give_other_bytes() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(ErrorKind, Damage); 3] = [
        (ErrorKind::Corrupt, |bytes| bytes.iter_mut().skip(64).for_each(|byte| *byte = 0)),
        (ErrorKind::Corrupt, |bytes| bytes.iter_mut().skip(1000).step_by(5000).for_each(|byte| *byte ^= 1)),
        (ErrorKind::Io, |bytes| bytes.truncate(30_000)),
    ];
    for (expected, damage) in damages {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        block_on(async { (fill(&store, 10).await, store.close().await.unwrap()) });
        let path = volumes(directory.path()).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let store = open(directory.path());
        let mut wrong = 0;
        for seed in 0..10 {
            let (id, bytes) = blob(seed);
            match block_on(store.read_blob(id)) {
                Ok(found) => assert!(found == Some(bytes)),
                Err(error) => {
                    assert_eq!(error.kind(), expected);
                    wrong += 1;
                }
            }
        }
        assert!(wrong > 0);
        block_on(async {
            // Removed and written again it is whole, also after compaction over the damage.
            let (id, bytes) = blob(9);
            store.commit(Batch::new().delete_blob(id)).await.unwrap();
            store.write_blob(id, bytes.clone()).await.unwrap();
            store.compact().await.unwrap();
            assert!(store.read_blob(id).await.unwrap() == Some(bytes));
            store.close().await.unwrap();
        });
    }
}

#[test]
fn a_damaged_records_file_is_a_typed_error_or_right_answers() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    block_on(async { (fill(&store, 10).await, store.close().await.unwrap()) });
    let path = directory.path().join("records.redb");
    let good = std::fs::read(&path).unwrap();
    let (mut refused, mut whole) = (0, 0);
    for round in 0..120_usize {
        let mut bytes = good.clone();
        let at = (round * 7919 * 13) % bytes.len();
        match round % 4 {
            0 => bytes.truncate(at),
            1 => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10),
            _ => bytes.iter_mut().take(64 + round).skip(round).for_each(|byte| *byte ^= 0x55),
        }
        std::fs::write(&path, bytes).unwrap();
        let store = match DiskStore::open(directory.path(), options()) {
            Ok(store) => store,
            Err(error) => {
                assert!(
                    [ErrorKind::Corrupt, ErrorKind::Unsupported].contains(&error.kind()),
                    "{round}: {error:?}"
                );
                refused += 1;
                continue;
            }
        };
        // What was opened was looked through, so everything is there.
        whole += 1;
        for seed in 0..10_u32 {
            let (id, bytes) = blob(seed);
            assert!(block_on(store.read_blob(id)).unwrap() == Some(bytes), "round {round}: blob {seed}");
            let key = Bytes::copy_from_slice(&seed.to_be_bytes());
            let record = block_on(store.read_record(Table::Work, key)).unwrap();
            assert_eq!(record.as_deref(), Some(&id.as_bytes()[..]), "round {round}: record {seed}");
        }
        block_on(store.close()).unwrap();
    }
    assert!(refused > 30 && whole > 0, "{refused} refused, {whole} whole");
}

#[test]
fn what_lies_in_the_lock_file_or_was_left_half_made_is_of_no_matter() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    block_on(async { (fill(&store, 3).await, store.close().await.unwrap()) });
    for bytes in [&b""[..], b"garbage", &[0; 9000]] {
        std::fs::write(directory.path().join("datamesh.lock"), bytes).unwrap();
        std::fs::write(directory.path().join("records.redb.new"), bytes).unwrap();
        std::fs::write(directory.path().join("volumes/notes.txt"), bytes).unwrap();
        let store = open(directory.path());
        assert_eq!(kind(DiskStore::open(directory.path(), options())), ErrorKind::Locked);
        assert!(block_on(store.read_blob(blob(2).0)).unwrap().is_some());
        block_on(store.close()).unwrap();
    }
    std::fs::remove_file(directory.path().join("datamesh.lock")).unwrap();
    block_on(open(directory.path()).close()).unwrap();
}

#[test]
fn volumes_without_their_records_file_are_kept_and_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (id, bytes) = blob(1);
    block_on(async {
        store.write_blob(id, bytes.clone()).await.unwrap();
        store.commit(Batch::new()).await.unwrap();
        store.close().await.unwrap();
    });
    let records = directory.path().join("records.redb");
    let kept = directory.path().join("kept");
    std::fs::rename(&records, &kept).unwrap();
    assert_eq!(kind(DiskStore::open(directory.path(), options())), ErrorKind::Corrupt);
    std::fs::write(&records, b"").unwrap();
    assert_eq!(kind(DiskStore::open(directory.path(), options())), ErrorKind::Corrupt);
    std::fs::rename(&kept, &records).unwrap();
    let store = open(directory.path());
    assert_eq!(block_on(store.read_blob(id)).unwrap(), Some(bytes));
}

#[test]
fn a_store_whose_volumes_are_not_there_is_refused_and_nothing_of_it_is_lost() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    block_on(async { (fill(&store, 30).await, store.close().await.unwrap()) });
    let (there, away) = (directory.path().join("volumes"), directory.path().join("away"));
    assert!(volumes(directory.path()).len() > 1);
    // As where the disk that it is on was not mounted: the directory is there, and empty.
    std::fs::rename(&there, &away).unwrap();
    for _ in 0..2 {
        let error = DiskStore::open(directory.path(), options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("mount") && error.to_string().contains("records.redb"), "{error}");
    }
    std::fs::remove_dir(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    let store = open(directory.path());
    block_on(async {
        for seed in 0..30 {
            assert_eq!(store.read_blob(blob(seed).0).await.unwrap(), Some(blob(seed).1));
        }
        store.close().await.unwrap();
    });
    // They are lost for good: the way that the error names.
    std::fs::remove_dir_all(&there).unwrap();
    std::fs::rename(directory.path().join("records.redb"), &away).unwrap();
    let store = open(directory.path());
    assert_eq!(block_on(store.read_blob(blob(0).0)).unwrap(), None);
    block_on(store.close()).unwrap();
}

#[test]
fn a_volume_that_is_missing_or_short_is_unread_and_not_rotten() {
    let damages: [fn(&Path); 2] =
        [|path| std::fs::remove_file(path).unwrap(), |path| std::fs::write(path, b"").unwrap()];
    for damage in damages {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        block_on(async { (fill(&store, 30).await, store.close().await.unwrap()) });
        // Also the last one, which would be written on.
        damage(volumes(directory.path()).last().unwrap());
        damage(&volumes(directory.path())[0]);
        let store = open(directory.path());
        block_on(async {
            let (id, bytes) = blob(99);
            store.write_blob(id, bytes.clone()).await.unwrap();
            store.commit(Batch::new()).await.unwrap();
            assert_eq!(store.read_blob(id).await.unwrap(), Some(bytes));
            let (mut read, mut unread) = (0, 0);
            for seed in 0..30 {
                match store.read_blob(blob(seed).0).await {
                    Ok(found) => read += usize::from(found == Some(blob(seed).1)),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                        unread += 1;
                    }
                }
            }
            assert!(read > 0 && unread > 0 && read + unread == 30, "{read} read, {unread} not");
            store.close().await.unwrap();
        });
    }
}

#[test]
fn space_comes_back() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    block_on(async {
        fill(&store, 200).await;
        let peak = store.capacity().await.unwrap().used;
        let most = (0..200).filter(|seed| seed % 5 > 0).fold(Batch::new(), |b, s| b.delete_blob(blob(s).0));
        store.commit(most).await.unwrap();
        store.compact().await.unwrap();
        for seed in 0..200 {
            let found = store.read_blob(blob(seed).0).await.unwrap();
            assert_eq!(found.is_some(), seed % 5 == 0, "blob {seed}");
        }
        let used = store.capacity().await.unwrap().used;
        assert!(used < peak / 2, "{used} of {peak}");
        let rest = (0..200).fold(Batch::new(), |b, s| b.delete_blob(blob(s).0));
        store.commit(rest).await.unwrap();
        store.compact().await.unwrap();
        store.close().await.unwrap();
    });
    assert_eq!(volumes(directory.path()), Vec::<PathBuf>::new());
}

/// Says that the writer is done, also where it panics, so that a broken store fails instead of hanging.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn records_can_be_read_while_their_file_shrinks() {
    const KEPT: u32 = 100;
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let key = |number: u32| number.to_be_bytes().to_vec();
    let put = |numbers: std::ops::Range<u32>| {
        numbers.fold(Batch::new(), |batch, number| batch.put(Table::Work, key(number), vec![7; 500]))
    };
    block_on(store.commit(put(0..KEPT))).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let page = block_on(store.scan_records(Table::Work, Bytes::new(), None, 1000)).unwrap();
                    assert!(page.records.len() >= KEPT as usize);
                    let record = block_on(store.read_record(Table::Work, key(KEPT - 1).into())).unwrap();
                    assert!(record.is_some());
                }
            });
        }
        let _done = SetOnDrop(&done);
        for _ in 0..50 {
            // More rows than are left, so that every compaction shrinks the file.
            block_on(store.commit(put(KEPT..3 * KEPT))).unwrap();
            let rest = (KEPT..3 * KEPT).fold(Batch::new(), |b, number| b.delete(Table::Work, key(number)));
            block_on(store.commit(rest)).unwrap();
            block_on(store.compact()).unwrap();
        }
    });
    block_on(store.close()).unwrap();
}

#[cfg(unix)]
#[test]
fn what_may_hold_the_mesh_key_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let above = TempDir::new().unwrap();
    let directory = above.path().join("store");
    let (records, volumes) = (directory.join("records.redb"), directory.join("volumes"));
    block_on(open(&directory).close()).unwrap();
    assert_eq!((mode(&directory), mode(&volumes), mode(&records)), (0o700, 0o700, 0o600));
    // A store of an earlier day: its directories are its owner's to set.
    for (path, mode) in [(&directory, 0o755), (&volumes, 0o755), (&records, 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    block_on(open(&directory).close()).unwrap();
    assert_eq!((mode(&directory), mode(&volumes), mode(&records)), (0o755, 0o755, 0o600));
}

#[test]
fn a_failed_sync_ends_all_writing() {
    let directory = TempDir::new().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let hook = move |call: &Call<'_>| match call {
        Call::Sync if fails.load(Ordering::Relaxed) => Err(io::Error::other("injected")),
        _ => Ok(()),
    };
    let files = Hooked { inner: OsFiles::open(directory.path()).unwrap(), hook: Arc::new(hook) };
    let store = DiskStore::open_with(Arc::new(files), InMemoryBackend::new(), options()).unwrap();
    block_on(async {
        fill(&store, 3).await;
        failing.store(true, Ordering::Relaxed);
        let (id, bytes) = blob(7);
        store.write_blob(id, bytes.clone()).await.unwrap();
        assert_eq!(kind(store.commit(Batch::new()).await), ErrorKind::Io);
        failing.store(false, Ordering::Relaxed);
        assert_eq!(kind(store.commit(Batch::new()).await), ErrorKind::Poisoned);
        assert_eq!(kind(store.write_blob(id, bytes).await), ErrorKind::Poisoned);
        assert_eq!(kind(store.compact().await), ErrorKind::Poisoned);
        assert!(store.read_blob(blob(1).0).await.unwrap().is_some());
        store.close().await.unwrap();
    });
}

const CHILD: &str = "DATAMESH_STORE_TEST_CHILD";

/// Not a test of its own: what the killed process does.
#[test]
fn child_writes_until_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&directory));
    block_on(async {
        for seed in 0..u32::MAX {
            let (id, bytes) = blob(seed);
            store.write_blob(id, bytes).await.unwrap();
            let record = Batch::new().put(Table::Work, seed.to_be_bytes().to_vec(), id.as_bytes().to_vec());
            store.commit(record).await.unwrap();
            println!("acknowledged {seed}");
        }
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    use std::io::BufRead;
    let directory = TempDir::new().unwrap();
    for round in 0..3_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
        let seen =
            lines.map_while(Result::ok).filter_map(|line| line.rsplit("acknowledged ").next()?.parse().ok());
        let last: u32 = seen.take(10 + 7 * round as usize).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(directory.path());
        for seed in 0..=last {
            let (id, bytes) = blob(seed);
            assert!(block_on(store.read_blob(id)).unwrap() == Some(bytes), "blob {seed} of {last}");
            let record =
                block_on(store.read_record(Table::Work, Bytes::copy_from_slice(&seed.to_be_bytes())));
            assert_eq!(record.unwrap().as_deref(), Some(&id.as_bytes()[..]));
        }
        block_on(store.close()).unwrap();
    }
}
