//! Small files that keep one secret: a node's identity, a mesh's key.
//!
//! # The secret file, version 1
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 8 | magic: the ASCII bytes `DMESHKEY` for an identity, `DMESHNET` for a mesh key |
//! | 8 | 1 | version: 1 |
//! | 9 | 32 | the secret: an Ed25519 secret key (the seed of RFC 8032, section 5.1.5), or the mesh key |
//! | 41 | 4 | the first four bytes of the BLAKE3 hash of bytes 0 to 40 |
//!
//! The file is exactly 45 bytes long. It is written under another name in the same directory with
//! owner-only permission, synced, renamed into place, and the directory is synced: after a crash there
//! is the whole file or none. A process that creates it holds the lock of the data directory; two that
//! create one file at once without a lock may leave one of them with a secret that the file does not hold.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use datamesh_core::{Error, ErrorKind, Result};
use zeroize::{Zeroize, Zeroizing};

/// Length of a secret file in bytes.
pub const SECRET_FILE_LEN: usize = 8 + 1 + SECRET_LEN + CHECKSUM_LEN;

const VERSION: u8 = 1;
const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 4;

/// What a secret file keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A node's Ed25519 secret key.
    Identity,
    /// A mesh's key.
    MeshKey,
}

impl SecretKind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Identity => b"DMESHKEY",
            Self::MeshKey => b"DMESHNET",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::MeshKey => "mesh key",
        }
    }

    fn cannot(self, verb: &str, error: io::Error) -> Error {
        Error::io(
            format!("cannot {verb} the {} file; check its directory and permissions", self.name()),
            error,
        )
    }

    fn damaged(self, what: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("the {} file {what}; restore it from a copy", self.name()))
    }
}

/// Opens the secret file, or makes one of the secret that `make` returns.
///
/// `make` is asked only where there is no file. The file is described in `docs/format.md`.
///
/// # Errors
/// [`ErrorKind::AccessDenied`] when others than its owner may read the file, or this process may not;
/// [`ErrorKind::Corrupt`] for a wrong magic, length or checksum; [`ErrorKind::Unsupported`] for a
/// version of a later release; [`ErrorKind::Io`] and the like when the system refuses; what `make`
/// returns.
pub fn open_or_create_secret(
    kind: SecretKind,
    path: impl AsRef<Path>,
    make: impl FnOnce() -> Result<[u8; SECRET_LEN]>,
) -> Result<Zeroizing<[u8; SECRET_LEN]>> {
    let path = path.as_ref();
    match File::open(path) {
        Ok(file) => read(kind, file).map_err(|error| error.with_subject(path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = Zeroizing::new(make()?);
            write(kind, path, &secret)
                .map_err(|error| kind.cannot("write", error).with_subject(path.display()))?;
            Ok(secret)
        }
        Err(error) => Err(kind.cannot("open", error).with_subject(path.display())),
    }
}

fn read(kind: SecretKind, mut file: File) -> Result<Zeroizing<[u8; SECRET_LEN]>> {
    refuse_readable_by_others(kind, &file)?;
    // One byte more than a file has, so that a longer one is noticed.
    let mut buffer = Zeroizing::new([0; SECRET_FILE_LEN + 1]);
    let length = read_up_to(&mut file, &mut buffer[..]).map_err(|error| kind.cannot("read", error))?;
    decode(kind, buffer.get(..length).unwrap_or_default())
}

#[cfg(unix)]
fn refuse_readable_by_others(kind: SecretKind, file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().map_err(|error| kind.cannot("inspect", error))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::AccessDenied,
        format!(
            "others than its owner may use the {} file (mode {mode:03o}); run chmod 600 on it",
            kind.name()
        ),
    ))
}

#[cfg(not(unix))]
fn refuse_readable_by_others(_: SecretKind, _: &File) -> Result<()> {
    Ok(())
}

fn read_up_to(reader: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(count) => {
                total += count;
                buffer = buffer.get_mut(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

fn decode(kind: SecretKind, bytes: &[u8]) -> Result<Zeroizing<[u8; SECRET_LEN]>> {
    let rest =
        bytes.strip_prefix(kind.magic()).ok_or_else(|| kind.damaged("does not begin with its magic"))?;
    let (&version, rest) = rest.split_first().ok_or_else(|| kind.damaged("is cut short"))?;
    if version != VERSION {
        let text = format!(
            "{} file of version {version}; this build reads version {VERSION}, update it",
            kind.name()
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let (secret, sum) = rest.split_first_chunk().ok_or_else(|| kind.damaged("is cut short"))?;
    if sum != checksum(kind, secret) {
        return Err(kind.damaged("fails its checksum"));
    }
    Ok(Zeroizing::new(*secret))
}

fn encode(kind: SecretKind, secret: &[u8; SECRET_LEN]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_FILE_LEN));
    bytes.extend_from_slice(kind.magic());
    bytes.push(VERSION);
    bytes.extend_from_slice(secret);
    bytes.extend_from_slice(&checksum(kind, secret));
    bytes
}

fn checksum(kind: SecretKind, secret: &[u8; SECRET_LEN]) -> [u8; CHECKSUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.magic()).update(&[VERSION]).update(secret);
    let mut sum = [0; CHECKSUM_LEN];
    hasher.finalize_xof().fill(&mut sum);
    hasher.zeroize();
    sum
}

fn write(kind: SecretKind, path: &Path, secret: &[u8; SECRET_LEN]) -> io::Result<()> {
    let temporary = beside(path);
    // What a crash left there may have another mode, so it is not reused.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = owner_only().open(&temporary)?;
    file.write_all(&encode(kind, secret))?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(path)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    PathBuf::from(name)
}

fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the new name durable; systems that cannot open a directory do it with the rename.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
