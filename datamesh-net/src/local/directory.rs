//! Where the sockets of a user's nodes lie: a directory that nobody else may enter.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use datamesh_core::id::NodeId;
use datamesh_core::{Error, ErrorKind, Result};

/// What a socket's path may be long, so that it fits an address on every Unix, with a zero byte after it.
const MAX_PATH_LEN: usize = 103;

/// Half of a hash is enough to tell nodes apart, and keeps paths short.
const NAME_LEN: usize = 32;

const NAME_CONTEXT: &str = "datamesh v1 local name of a socket";

/// Guards against two processes that remove or make sockets at the same time.
const LOCK: &str = "lock";

/// How often the lock is tried, and the wait in between. It is held for a few system calls; a process that was stopped
/// while it held it makes others fail, and wait for no more than a second.
const TRIES: usize = 50;
const WAIT: Duration = Duration::from_millis(20);

/// Entries that are looked at; more than the nodes of one user ever are.
const MAX_ENTRIES: usize = 4096;

/// A directory of sockets.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

/// A socket that listens; its file is removed with the value.
#[derive(Debug)]
pub(super) struct Bound {
    directory: Directory,
    path: PathBuf,
    /// Device and inode, by which this node knows its own socket again.
    file: (u64, u64),
}

impl Directory {
    /// The directory that was asked for, or the user's, made where there is none.
    pub(super) fn open(wanted: Option<PathBuf>) -> Result<Self> {
        let path = wanted.unwrap_or_else(default_path);
        let refused = |kind, message: &str| Error::new(kind, message).with_subject(path.display());
        if path.as_os_str().as_bytes().len() + 1 + NAME_LEN > MAX_PATH_LEN {
            let message =
                format!("the path of a socket has at most {MAX_PATH_LEN} bytes; name a shorter directory");
            return Err(refused(ErrorKind::InvalidInput, &message));
        }
        let directory = Self(path);
        directory.make()?;
        Ok(directory)
    }

    /// Makes the directory where there is none.
    fn make(&self) -> Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let message = "cannot make the directory of the sockets";
                Err(Error::new(ErrorKind::Io, message).with_subject(self.0.display()).with_source(error))
            }
            _ => self.check(),
        }
    }

    /// Whether it is a directory that nobody else may enter.
    fn check(&self) -> Result<()> {
        let refused = |kind, message: &str| Error::new(kind, message).with_subject(self.0.display());
        let found = fs::symlink_metadata(&self.0)
            .map_err(|error| refused(ErrorKind::Io, "cannot look at the directory").with_source(error))?;
        let private = found.is_dir() && found.mode() & 0o077 == 0;
        if !private || found.uid() != rustix::process::geteuid().as_raw() {
            let message =
                "the directory of the sockets must be its user's and open to nobody else (mode 0700)";
            return Err(refused(ErrorKind::AccessDenied, message));
        }
        Ok(())
    }

    /// Listens for a node.
    pub(super) fn bind(&self, node: NodeId) -> Result<(UnixListener, Bound)> {
        // It may have been removed since it was opened, and made again by anybody.
        self.make()?;
        let path = self.path_of(node);
        let refused = |kind, message: &str| Error::new(kind, message).with_subject(path.display());
        let failed =
            |error: io::Error| Error::io("cannot listen on a socket", error).with_subject(path.display());
        let _lock = self.lock().map_err(failed)?;
        self.sweep();
        if path.symlink_metadata().is_ok() {
            let message = "a process listens for this node already; close it first";
            return Err(refused(ErrorKind::AlreadyExists, message));
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let file = identify(&path).map_err(failed)?;
        Ok((listener, Bound { directory: self.clone(), path, file }))
    }

    /// Where a node listens, if it does.
    pub(super) fn path_of(&self, node: NodeId) -> PathBuf {
        self.0.join(name_of(node))
    }

    /// The names in the directory, those of living sockets among them.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().take(MAX_ENTRIES).flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Waits, not for long, until no other process makes or removes sockets.
    fn lock(&self) -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(self.0.join(LOCK))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(WAIT),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Removes the sockets on which nobody listens: their processes ended without a farewell. The lock is held, so
    /// that none of them is about to be listened on.
    fn sweep(&self) {
        for name in self.names() {
            let path = self.0.join(name);
            let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
            if is_socket && is_dead(&path) {
                // Whoever could not be removed is found again.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

impl Bound {
    /// Whether the socket is still where others look for it.
    pub(super) fn is_there(&self) -> bool {
        identify(&self.path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Nothing is made or removed in what somebody else has put in the directory's place.
        if self.directory.check().is_err() {
            return;
        }
        // Without the lock the socket is left behind, and swept by whoever comes next.
        let Ok(_lock) = self.directory.lock() else { return };
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The name of a node's socket. It is no secret, and not the node's name, which is too long.
pub(super) fn name_of(node: NodeId) -> String {
    let hash = blake3::Hash::from_bytes(blake3::derive_key(NAME_CONTEXT, node.as_bytes()));
    hash.to_hex().chars().take(NAME_LEN).collect()
}

fn default_path() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let is_ours = |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
    match runtime.filter(is_ours) {
        Some(runtime) => runtime.join("datamesh"),
        None => std::env::temp_dir().join(format!("datamesh-{user}")),
    }
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

/// Whether nobody listens on a socket. It does not wait: a process that was stopped still listens, and answers nobody.
fn is_dead(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let refused = || {
        let address = SocketAddrUnix::new(path)?;
        let probe = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::ioctl_fionbio(&probe, true)?;
        connect(&probe, &address)
    };
    refused() == Err(rustix::io::Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn a_socket_is_taken_once_and_its_remains_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(Some(home.path().join("d"))).unwrap();
        let (first, bound) = directory.bind(node(1)).unwrap();
        assert_eq!(directory.bind(node(1)).unwrap_err().kind(), ErrorKind::AlreadyExists);
        // A process that was killed leaves its file: nobody runs the destructor.
        drop(first);
        std::mem::forget(bound);
        assert!(directory.names().contains(&name_of(node(1))));
        let (_listener, bound) = directory.bind(node(1)).unwrap();
        let (_other, other) = directory.bind(node(2)).unwrap();
        drop(bound);
        assert!(!directory.names().contains(&name_of(node(1))));
        assert!(directory.names().contains(&name_of(node(2))), "the other one lives");
        drop(other);
    }

    #[test]
    fn the_socket_of_a_successor_stays() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(Some(home.path().join("d"))).unwrap();
        let (_listener, bound) = directory.bind(node(1)).unwrap();
        fs::remove_file(directory.path_of(node(1))).unwrap();
        let (_next, _successor) = directory.bind(node(1)).unwrap();
        drop(bound);
        assert!(directory.names().contains(&name_of(node(1))));
    }

    #[test]
    fn a_directory_that_was_removed_is_made_and_looked_at_again() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("d");
        let directory = Directory::open(Some(path.clone())).unwrap();
        let (_removed, removed) = directory.bind(node(1)).unwrap();
        fs::remove_dir_all(&path).unwrap();
        let (listener, bound) = directory.bind(node(1)).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(bound.is_there() && !removed.is_there());
        drop((listener, bound));
        // What others may enter is not taken, and nothing is put there.
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(directory.bind(node(1)).unwrap_err().kind(), ErrorKind::AccessDenied);
        drop(removed);
        assert!(directory.names().is_empty());
        // Neither is a way to elsewhere.
        let elsewhere = home.path().join("e");
        fs::rename(&path, &elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(directory.bind(node(1)).unwrap_err().kind(), ErrorKind::AccessDenied);
        // A directory above it that has gone is not made.
        fs::remove_dir_all(home.path()).unwrap();
        assert_eq!(directory.bind(node(1)).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn only_a_private_directory_with_a_short_path_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        for (mode, good) in [(0o755, false), (0o710, false), (0o701, false), (0o700, true)] {
            fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
            let opened = Directory::open(Some(open.clone()));
            assert_eq!(
                opened.map_err(|error| error.kind()).err(),
                (!good).then_some(ErrorKind::AccessDenied)
            );
        }
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert_eq!(Directory::open(Some(link)).unwrap_err().kind(), ErrorKind::AccessDenied);
        let room = MAX_PATH_LEN - NAME_LEN - 1 - home.path().as_os_str().len() - 1;
        let longest = home.path().join("x".repeat(room));
        let directory = Directory::open(Some(longest)).unwrap();
        drop(directory.bind(node(1)).unwrap());
        let error = Directory::open(Some(home.path().join("x".repeat(room + 1)))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
