//! A node inside a program that runs on Tokio: tasks, timers and jobs on the runtime that is there already, and
//! Tokio's traits on readers. Without the feature `tokio` a mesh works under Tokio as well, on threads of its own.
//!
//!     cargo run --example embed_tokio --features tokio
#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::io::SeekFrom;
use std::sync::Arc;

use datamesh::runtime::TokioRuntime;
use datamesh::tokio_io::{self, TokioReader};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Arc::new(TokioRuntime::current()?);
    // In memory, to leave nothing behind; `.path("./data")` keeps it on disk.
    let mesh = datamesh::builder().runtime(runtime).capacity(1 << 30).open().await?;

    // Many puts at a time: handles are cheap, and each request is a future.
    let puts = (0..8).map(|number| {
        let mesh = mesh.clone();
        tokio::spawn(async move {
            let text = format!("object {number} ").repeat(50_000);
            mesh.put(tokio_io::source(std::io::Cursor::new(text))).await
        })
    });
    let mut receipts = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        receipts.push(put.await??);
    }
    println!("stored {} objects of {} bytes", receipts.len(), receipts.iter().map(|r| r.len).sum::<u64>());

    for (number, receipt) in receipts.iter().enumerate() {
        let mut reader = TokioReader::from(mesh.get(&receipt.capability).reader().await?);
        reader.seek(SeekFrom::Start(9 * 49_999)).await?;
        let mut last = String::new();
        reader.read_to_string(&mut last).await?;
        assert_eq!(last, format!("object {number} "));
    }
    println!("read the end of each");

    mesh.shutdown().await?;
    Ok(())
}
