//! The port through which the disk store reaches its volume files.
//!
//! [`OsFiles`] is the operating system's. A test gives one that fails, tears writes or forgets what was not
//! synced.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Free and total bytes of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free: u64,
    /// The size of the medium.
    pub total: u64,
}

/// A directory of volume files.
///
/// All calls block. Names are plain file names without a separator.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// Creates a file that is not there yet.
    ///
    /// # Errors
    /// The cause, `AlreadyExists` among others.
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>>;

    /// Opens a file that is there, to read and write.
    ///
    /// # Errors
    /// The cause, `NotFound` among others.
    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>>;

    /// Removes a file; handles that are open keep working.
    ///
    /// # Errors
    /// The cause.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names and lengths of all files, in any order.
    ///
    /// # Errors
    /// The cause.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes creations and removals durable.
    ///
    /// # Errors
    /// The cause.
    fn sync_dir(&self) -> io::Result<()>;

    /// How much space there is.
    ///
    /// # Errors
    /// The cause.
    fn space(&self) -> io::Result<Space>;
}

/// One open volume file.
pub trait VolumeFile: fmt::Debug + Send + Sync + 'static {
    /// Writes these parts one after another, beginning at `offset`, which is the end of the file.
    ///
    /// # Errors
    /// The cause; the file may then hold any part of it.
    fn append(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The cause; what was written since the last sync may then be lost.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or fills it with zeros, to this length.
    ///
    /// # Errors
    /// The cause.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// Files of the operating system.
#[derive(Debug, Clone)]
pub struct OsFiles {
    directory: PathBuf,
}

impl OsFiles {
    /// The files of this directory, which is made, for its owner alone, where it is missing.
    ///
    /// # Errors
    /// The cause.
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        make_directory(&directory)?;
        Ok(Self { directory })
    }

    fn open_file(&self, name: &str, create: bool) -> io::Result<Arc<dyn VolumeFile>> {
        let path = self.directory.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(create).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }
}

impl Files for OsFiles {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        self.open_file(name, true)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        self.open_file(name, false)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push((name, entry.metadata()?.len()));
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }

    fn space(&self) -> io::Result<Space> {
        let stats = fs4::statvfs(&self.directory)?;
        Ok(Space { free: stats.available_space(), total: stats.total_space() })
    }
}

/// Makes a directory where there is none, for its owner alone; one that is there stays as it is.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Opens a file to read and write; one that is made here is its owner's alone.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Takes from others what they may do with a file, where the system knows of others.
#[cfg(unix)]
pub(crate) fn close_to_others(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let is_open = file.metadata()?.permissions().mode() & 0o077 != 0;
    if is_open { file.set_permissions(std::fs::Permissions::from_mode(0o600)) } else { Ok(()) }
}

#[cfg(not(unix))]
pub(crate) fn close_to_others(_: &File) -> io::Result<()> {
    Ok(())
}

/// Makes the entries of a directory durable, where the system has a call for it.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

#[derive(Debug)]
struct OsFile(File);

impl VolumeFile for OsFile {
    fn append(&self, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            write_all_at(&self.0, part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.0, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = bytes.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}
