//! The operating system's files, for `put` from a path and `get` to one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use datamesh_core::ports::{Files, InputFile, OutputFile};
use datamesh_core::{Error, ErrorKind, Result};

/// [`Files`] over `std::fs`.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn open(&self, path: &Path) -> Result<Box<dyn InputFile>> {
        let cannot = |error| Error::io("cannot open the file to store", error).with_subject(path.display());
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            let text = "only regular files can be stored by their path; give anything else as a reader";
            return Err(Error::new(ErrorKind::InvalidInput, text).with_subject(path.display()));
        }
        Ok(Box::new(Input { len: metadata.len(), left: metadata.len(), file }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn OutputFile>> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let temporary = temporary_for(path);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(|error| {
            Error::io("cannot create the output file; check its directory", error)
                .with_subject(path.display())
        })?;
        Ok(Box::new(Output { file, temporary, path: path.to_path_buf() }))
    }
}

/// A file up to the length that it had when it was opened, so that one that grows is stored as it was.
#[derive(Debug)]
struct Input {
    file: File,
    len: u64,
    left: u64,
}

impl InputFile for Input {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read(buffer.split_at_mut(count).0)?;
        self.left -= got as u64;
        Ok(got)
    }
}

/// Written beside its path, and given its name when it is complete.
#[derive(Debug)]
struct Output {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl OutputFile for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let cannot =
            |error| Error::io("cannot finish the output file", error).with_subject(self.path.display());
        self.file.sync_all().map_err(cannot)?;
        // A hard link fails where the name is taken, which a rename would replace.
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists(&self.path)),
            // Some file systems know no links; a rename is the best there.
            Err(_) if fs::symlink_metadata(&self.path).is_ok() => return Err(exists(&self.path)),
            Err(_) => fs::rename(&self.temporary, &self.path).map_err(cannot)?,
        }
        sync_directory(&self.path).map_err(cannot)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After a rename it is not there any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn temporary_for(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{:08x}.part", std::process::id(), unique()));
    path.with_file_name(name)
}

/// A number that no other output of this process has.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, "the output path exists; choose another or move it away")
        .with_subject(path.display())
}

/// Makes a new name durable; systems that cannot open a directory do it with the rename.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
