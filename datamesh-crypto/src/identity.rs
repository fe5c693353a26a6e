//! The key pair that a node is named by, and the file that keeps it.
//!
//! # The identity file, version 1
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 8 | magic: the ASCII bytes `DMESHKEY` |
//! | 8 | 1 | version: 1 |
//! | 9 | 32 | the Ed25519 secret key (the seed of RFC 8032, section 5.1.5) |
//! | 41 | 4 | the first four bytes of the BLAKE3 hash of bytes 0 to 40 |
//!
//! The file is exactly 45 bytes long. It is written under another name in the same directory with
//! owner-only permission, synced, renamed into place, and the directory is synced: after a crash there
//! is the whole file or none. A process that creates it holds the lock of the data directory; two that
//! create one file at once without a lock may leave one of them with a key that the file does not hold.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use datamesh_core::id::NodeId;
use datamesh_core::ports::{Identity, Signature};
use datamesh_core::{Error, ErrorKind, Result};
use ed25519_dalek::{Signer, SigningKey};
use zeroize::{Zeroize, Zeroizing};

/// Length of an identity file in bytes.
pub const IDENTITY_FILE_LEN: usize = MAGIC.len() + 1 + SECRET_LEN + CHECKSUM_LEN;

const MAGIC: &[u8; 8] = b"DMESHKEY";
const VERSION: u8 = 1;
const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 4;

/// A node's Ed25519 key pair (RFC 8032).
///
/// The secret key is wiped on drop, and `Debug` prints the short node id only.
#[derive(Clone)]
pub struct NodeIdentity {
    key: SigningKey,
}

impl NodeIdentity {
    /// The key pair that this secret key belongs to.
    ///
    /// The bytes must come from a generator fit for keys; every 32 bytes are a valid secret key.
    pub fn from_secret(mut secret: [u8; SECRET_LEN]) -> Self {
        let key = SigningKey::from_bytes(&secret);
        secret.zeroize();
        Self { key }
    }

    /// Opens the identity file, or makes one of the secret key that `seed` returns.
    ///
    /// `seed` is asked only where there is no file. The module documentation describes the file.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`] when others than its owner may read the file, or this process may not;
    /// [`ErrorKind::Corrupt`] for a wrong magic, length or checksum; [`ErrorKind::Unsupported`] for a
    /// version of a later release; [`ErrorKind::Io`] and the like when the system refuses; what `seed`
    /// returns.
    pub fn open_or_create(
        path: impl AsRef<Path>,
        seed: impl FnOnce() -> Result<[u8; SECRET_LEN]>,
    ) -> Result<Self> {
        let path = path.as_ref();
        match File::open(path) {
            Ok(file) => read_identity(file).map_err(|error| error.with_subject(path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Self::from_secret(seed()?);
                write_identity(path, &identity)
                    .map_err(|error| cannot("write", error).with_subject(path.display()))?;
                Ok(identity)
            }
            Err(error) => Err(cannot("open", error).with_subject(path.display())),
        }
    }

    /// The secret key, for a library that needs it by bytes; wiped when dropped.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; SECRET_LEN]> {
        Zeroizing::new(self.key.to_bytes())
    }
}

impl Identity for NodeIdentity {
    fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({})", self.node_id().fmt_short())
    }
}

fn read_identity(mut file: File) -> Result<NodeIdentity> {
    refuse_readable_by_others(&file)?;
    // One byte more than a file has, so that a longer one is noticed.
    let mut buffer = Zeroizing::new([0; IDENTITY_FILE_LEN + 1]);
    let length = read_up_to(&mut file, &mut buffer[..]).map_err(|error| cannot("read", error))?;
    decode(buffer.get(..length).unwrap_or_default())
}

#[cfg(unix)]
fn refuse_readable_by_others(file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().map_err(|error| cannot("inspect", error))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::AccessDenied,
        format!("others than its owner may use the identity file (mode {mode:03o}); run chmod 600 on it"),
    ))
}

#[cfg(not(unix))]
fn refuse_readable_by_others(_: &File) -> Result<()> {
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

fn decode(bytes: &[u8]) -> Result<NodeIdentity> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("does not begin with its magic"))?;
    let (&version, rest) = rest.split_first().ok_or_else(|| damaged("is cut short"))?;
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("identity file of version {version}; this build reads version {VERSION}, update it"),
        ));
    }
    let (secret, sum) = rest.split_first_chunk().ok_or_else(|| damaged("is cut short"))?;
    if sum != checksum(secret) {
        return Err(damaged("fails its checksum"));
    }
    Ok(NodeIdentity::from_secret(*secret))
}

fn encode(identity: &NodeIdentity) -> Zeroizing<Vec<u8>> {
    let secret = identity.secret_bytes();
    let mut bytes = Zeroizing::new(Vec::with_capacity(IDENTITY_FILE_LEN));
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&secret[..]);
    bytes.extend_from_slice(&checksum(&secret));
    bytes
}

fn checksum(secret: &[u8; SECRET_LEN]) -> [u8; CHECKSUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MAGIC).update(&[VERSION]).update(secret);
    let mut sum = [0; CHECKSUM_LEN];
    hasher.finalize_xof().fill(&mut sum);
    hasher.zeroize();
    sum
}

fn write_identity(path: &Path, identity: &NodeIdentity) -> io::Result<()> {
    let temporary = beside(path);
    // What a crash left there may have another mode, so it is not reused.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = owner_only().open(&temporary)?;
    file.write_all(&encode(identity))?;
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

fn cannot(verb: &str, error: io::Error) -> Error {
    Error::io(format!("cannot {verb} the identity file; check its directory and permissions"), error)
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the identity file {what}; restore it from a copy"))
}
