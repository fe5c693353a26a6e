//! The identity file: who may read it, what damages it, and that it stays the same.
#![expect(clippy::unwrap_used, reason = "helpers outside test functions fail the test as well")]

use std::fs;
use std::path::{Path, PathBuf};

use datamesh_core::ErrorKind;
use datamesh_core::ports::{CryptoSuite, Identity};
use datamesh_crypto::{ChaChaSuite, NodeIdentity, SECRET_FILE_LEN};
use tempfile::TempDir;

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    (directory, path)
}

fn never() -> datamesh_core::Result<[u8; 32]> {
    panic!("the seed of a file that exists is not asked for")
}

/// A file that only its owner may read, to be filled with other bytes.
fn file() -> (TempDir, PathBuf) {
    let (directory, path) = directory();
    NodeIdentity::open_or_create(&path, || Ok([1; 32])).unwrap();
    (directory, path)
}

/// What `open_or_create` says of the file when it has these bytes.
fn open_bytes(path: &Path, bytes: &[u8]) -> ErrorKind {
    fs::write(path, bytes).unwrap();
    NodeIdentity::open_or_create(path, never).unwrap_err().kind()
}

fn good_bytes() -> Vec<u8> {
    let (_directory, path) = directory();
    NodeIdentity::open_or_create(&path, || Ok([5; 32])).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn the_second_open_gives_the_same_node() {
    let (directory, path) = directory();
    let made = NodeIdentity::open_or_create(&path, || Ok([5; 32])).unwrap();
    let opened = NodeIdentity::open_or_create(&path, never).unwrap();
    assert_eq!(made.node_id(), opened.node_id());
    assert_eq!(*opened.secret_bytes(), [5; 32]);
    assert!(ChaChaSuite.verify(&made.node_id(), b"message", &opened.sign(b"message")));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn golden_bytes() {
    let bytes = good_bytes();
    assert_eq!(bytes.len(), SECRET_FILE_LEN);
    assert_eq!(bytes[..9], *b"DMESHKEY\x01");
    assert_eq!(bytes[9..41], [5; 32]);
    assert_eq!(bytes[41..], blake3::hash(&bytes[..41]).as_bytes()[..4]);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (good, (_directory, path)) = (good_bytes(), file());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let expected = if at == 8 { ErrorKind::Unsupported } else { ErrorKind::Corrupt };
            assert_eq!(open_bytes(&path, &bytes), expected, "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_wrong_length_is_noticed() {
    let (good, (_directory, path)) = (good_bytes(), file());
    for length in 0..good.len() {
        assert_eq!(open_bytes(&path, &good[..length]), ErrorKind::Corrupt, "{length} bytes");
    }
    assert_eq!(open_bytes(&path, &[&good[..], &[0]].concat()), ErrorKind::Corrupt);
    assert_eq!(open_bytes(&path, &[&good[..], &[0; 4096]].concat()), ErrorKind::Corrupt);
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = directory();
    NodeIdentity::open_or_create(&path, || Ok([5; 32])).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o660, 0o644, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = NodeIdentity::open_or_create(&path, never).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "mode {mode:o}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    NodeIdentity::open_or_create(&path, never).unwrap();
}

#[test]
fn a_temporary_file_of_a_crash_is_replaced() {
    let (directory, path) = directory();
    fs::write(directory.path().join("identity.new"), b"half of a fi").unwrap();
    NodeIdentity::open_or_create(&path, || Ok([5; 32])).unwrap();
    NodeIdentity::open_or_create(&path, never).unwrap();
}

#[test]
fn no_directory_and_no_randomness_are_errors_that_leave_nothing() {
    let (directory, path) = directory();
    let no_seed = || Err(datamesh_core::Error::new(ErrorKind::Io, "no randomness"));
    assert_eq!(NodeIdentity::open_or_create(&path, no_seed).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let nowhere = directory.path().join("missing/identity");
    assert_eq!(NodeIdentity::open_or_create(nowhere, || Ok([5; 32])).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn debug_prints_the_short_node_id_only() {
    let identity = NodeIdentity::from_secret([0xab; 32]);
    assert_eq!(format!("{identity:?}"), format!("NodeIdentity({})", identity.node_id().fmt_short()));
    assert!(!format!("{identity:#?}").to_lowercase().contains("abab"));
}
