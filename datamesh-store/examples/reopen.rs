//! Fills a store in a process of its own, kills that process, and measures how long opening takes then.
//!
//! `cargo run --release -p datamesh-store --example reopen -- DIRECTORY [MEBIBYTES]`
//!
//! The directory must not exist; it is removed at the end.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement prints, and ends at the first failure"
)]

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use datamesh_core::id::ShardId;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_store::{DiskOptions, DiskStore};
use futures::executor::block_on;

const BLOB: usize = 256 << 10;

/// Says to this program that it is the one to be killed.
const CHILD: &str = "DATAMESH_REOPEN_CHILD";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = Path::new(arguments.first().unwrap());
    let blobs: u64 = arguments.get(1).map_or(5 << 10, |text| text.parse::<u64>().unwrap()) * 4;
    if std::env::var_os(CHILD).is_some() {
        block_on(write_until_killed(directory, blobs));
        return;
    }
    assert!(!directory.exists(), "the directory is there already");
    let filled = Instant::now();
    kill_a_writer(&arguments);
    println!("filled {} MB in {:.1} s", blobs * BLOB as u64 / 1_000_000, filled.elapsed().as_secs_f64());
    let start = Instant::now();
    let store = DiskStore::open(directory, DiskOptions::default()).unwrap();
    println!("opened in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    for number in [0, blobs / 2, blobs - 1] {
        let (id, bytes) = blob(number);
        assert!(block_on(store.read_blob(id)).unwrap() == Some(bytes), "blob {number} was acknowledged");
    }
    block_on(store.close()).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

/// Starts this program as a writer, and kills it while it writes more than was asked for.
fn kill_a_writer(arguments: &[String]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "filled\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn write_until_killed(directory: &Path, blobs: u64) {
    let store = DiskStore::open(directory, DiskOptions::default()).unwrap();
    for number in 0.. {
        let (id, bytes) = blob(number);
        store.write_blob(id, bytes).await.unwrap();
        if number % 64 == 63 {
            let record = Batch::new().put(Table::Extents, number.to_be_bytes().to_vec(), vec![0; 1000]);
            store.commit(record).await.unwrap();
        }
        if number + 1 == blobs {
            store.commit(Batch::new()).await.unwrap();
            println!("filled");
        }
    }
}

/// Blobs share their bytes but for a number.
fn blob(number: u64) -> (ShardId, Bytes) {
    let mut bytes = vec![0x5a; BLOB];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (ShardId::of(&bytes), bytes.into())
}
