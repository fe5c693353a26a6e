//! A node inside a program that has no async code.
//!
//!     cargo run --example embed_blocking
#![allow(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::io::{Read, Seek, SeekFrom};

use datamesh::blocking::{self, BlockingReader, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A program of your own would give a directory that stays.
    let directory = tempfile::tempdir()?;
    let mesh = blocking::open(directory.path().join("node"))?;

    // Anything that implements `Read` can be stored; it is read as it is sealed, coded and written.
    let lines = std::io::Cursor::new("one line\n".repeat(100_000));
    let receipt = mesh.put(blocking::source(lines)).media_type("text/plain").wait()?;
    println!("stored {} bytes with margin {}", receipt.len, receipt.margin);

    // And read back anywhere, without the whole object in memory.
    let mut reader = BlockingReader::from(mesh.get(&receipt.capability).reader().wait()?);
    reader.seek(SeekFrom::Start(9 * 99_999))?;
    let mut last = String::new();
    reader.read_to_string(&mut last)?;
    println!("the last line is {last:?}");
    assert_eq!(last, "one line\n");

    // A directory can be opened again once the mesh is shut down, and everything is there.
    drop(reader);
    blocking::shutdown(&mesh)?;
    let mesh = blocking::open(directory.path().join("node"))?;
    assert_eq!(mesh.get(&receipt.capability).range(..8).wait()?, "one line");
    mesh.remove(&receipt.capability).wait()?;
    blocking::shutdown(&mesh)?;
    println!("opened again, read again, removed");
    Ok(())
}
