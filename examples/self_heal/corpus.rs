//! The files that the mesh keeps.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use datamesh::{Capability, Mesh};
use futures::StreamExt;

use crate::Result;

/// A file, and its capability once it was put.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) capability: Option<Capability>,
}

/// Makes files of noise whose lengths lie around a mean, some of them tiny.
pub(crate) fn generate(directory: &Path, count: usize, mean: u64) -> Result<Vec<Item>> {
    fs::create_dir_all(directory)?;
    let make = |number: usize| {
        let path = directory.join(format!("file-{number}"));
        let share = if number % 10 == 9 { 1 } else { 50 + (number as u64 * 37) % 101 };
        let len = (mean * share / 100).max(1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(number as u64).to_le_bytes());
        std::io::copy(&mut hasher.finalize_xof().take(len), &mut File::create(&path)?)?;
        Ok(Item { path, len, capability: None })
    };
    (0..count).map(make).collect()
}

/// The regular files under a directory, at most so many.
pub(crate) fn collect(directory: &Path, most: usize) -> Result<Vec<Item>> {
    let (mut items, mut directories) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() && items.len() < most {
                items.push(Item { path: entry.path(), len: entry.metadata()?.len(), capability: None });
            }
        }
    }
    if items.is_empty() {
        return Err(format!("{} has no files", directory.display()).into());
    }
    Ok(items)
}

/// Reads a file from the mesh and compares every byte of it.
pub(crate) async fn compare(mesh: &Mesh, item: &Item) -> Result<()> {
    let capability = item.capability.as_ref().ok_or("a file was not put")?;
    let mut file = BufReader::new(File::open(&item.path)?);
    let (mut expected, mut len) = (Vec::new(), 0);
    let differs = |at: u64| format!("{} differs from byte {at} on, or before", item.path.display());
    let mut stream = mesh.get(capability).stream().await?;
    while let Some(chunk) = stream.next().await.transpose()? {
        expected.resize(chunk.len(), 0);
        file.read_exact(&mut expected).map_err(|_| differs(len))?;
        len += chunk.len() as u64;
        if expected != chunk {
            return Err(differs(len).into());
        }
    }
    if file.read(&mut [0])? > 0 { Err(differs(len).into()) } else { Ok(()) }
}
