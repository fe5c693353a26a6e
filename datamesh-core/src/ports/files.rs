//! The user's files: what is put from a path, and where it is got to.

use std::fmt;
use std::io;
use std::path::Path;

use crate::error::Result;

/// Opens the files that a user names in `put` and `get`.
///
/// # Contract
/// 1. All methods may block: the data path calls them on the [`Runtime`](super::Runtime)'s pool.
/// 2. `create` MUST refuse a path that exists with
///    [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists), and nothing may stand at that path until
///    [`OutputFile::finish`] returned: what is written goes to a temporary file beside it.
/// 3. Dropping an [`OutputFile`] unfinished MUST remove what it wrote.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `Io`, `AccessDenied`; `InvalidInput` for a directory.
    fn open(&self, path: &Path) -> Result<Box<dyn InputFile>>;

    /// Begins a new file.
    ///
    /// # Errors
    /// `AlreadyExists`, `Io`, `AccessDenied`, `StorageFull`.
    fn create(&self, path: &Path) -> Result<Box<dyn OutputFile>>;
}

/// A file that is read once, from its beginning.
pub trait InputFile: fmt::Debug + Send {
    /// Its length when it was opened, in bytes.
    fn len(&self) -> u64;

    /// Whether it was empty when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// What the operating system says.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A file that comes to be when it is finished.
pub trait OutputFile: fmt::Debug + Send {
    /// Appends.
    ///
    /// # Errors
    /// What the operating system says.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Syncs the file and gives it its name, unless something has that name by now.
    ///
    /// # Errors
    /// `AlreadyExists`, `Io`, `StorageFull`.
    fn finish(self: Box<Self>) -> Result<()>;
}
