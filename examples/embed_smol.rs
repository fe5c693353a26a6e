//! A node inside a program that runs on smol: no set-up, and `futures` traits all the way.
//!
//!     cargo run --example embed_smol
#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use datamesh::Source;
use smol::io::AsyncReadExt;
use smol::stream::StreamExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    smol::block_on(async {
        // A program of your own would give a directory that stays.
        let directory = tempfile::tempdir()?;
        let mesh = datamesh::open(directory.path().join("node")).await?;

        // Any reader can be stored: here this program's own file, as smol reads it.
        let path = std::env::current_exe()?;
        let file = smol::fs::File::open(&path).await?;
        let receipt = mesh.put(Source::reader(file)).metadata("name", "this program").await?;
        println!("stored {} bytes with margin {}", receipt.len, receipt.margin);

        // A stream hands out verified chunks as they come.
        let mut stream = mesh.get(&receipt.capability).stream().await?;
        let (mut chunks, mut bytes) = (0, 0);
        while let Some(chunk) = stream.next().await.transpose()? {
            (chunks, bytes) = (chunks + 1, bytes + chunk.len() as u64);
        }
        println!("read {bytes} bytes in {chunks} chunks");
        assert_eq!(bytes, receipt.len);

        // A reader gives any range of it.
        let mut start = [0; 4];
        mesh.get(&receipt.capability).reader().await?.read_exact(&mut start).await?;
        assert_eq!(start.as_slice(), smol::fs::read(&path).await?.get(..4).unwrap_or_default());
        println!("it begins with {start:02x?}");

        mesh.shutdown().await?;
        Ok(())
    })
}
