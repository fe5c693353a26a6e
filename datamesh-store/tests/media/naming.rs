//! Making a store in a directory: whatever a power cut leaves of a records file that is being made, the next opening
//! makes it.

use std::path::Path;

use datamesh_core::ErrorKind;
use datamesh_core::ports::Storage;
use datamesh_store::DiskStore;
use datamesh_store::crash::{Image, Keep, Medium};
use futures::executor::block_on;
use tempfile::TempDir;

use super::harness::{MEDIUM_BYTES, open, options};
use super::{holds, kind, put};

/// What a power cut could leave of the records file while it is made, and the whole file.
fn left() -> (Vec<Image>, Image) {
    let medium = Medium::new(MEDIUM_BYTES);
    block_on(open(&medium).unwrap().close()).unwrap();
    let recording = medium.recording();
    let mut replay = recording.replay();
    let (mut images, mut seed) = (vec![Image::empty()], 0);
    while replay.advance().is_some() {
        seed += 1;
        let keeps = [Keep::None, Keep::All, Keep::Prefix(seed), Keep::Subset(seed), Keep::Unextended];
        images.extend(keeps.map(|keep| replay.image(keep)));
    }
    (images, medium.image())
}

fn works(directory: &Path) {
    let store = DiskStore::open(directory, options()).unwrap();
    block_on(async {
        put(&store, 1).await.unwrap();
        assert!(holds(&store, 1).await);
        store.close().await.unwrap();
    });
}

#[test]
fn a_crash_while_a_store_is_made_leaves_one_that_opens() {
    let (images, whole) = left();
    let mut tried = std::collections::BTreeSet::new();
    for image in images.into_iter().filter(|image| tried.insert(image.records())) {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("records.redb.new"), image.records()).unwrap();
        works(directory.path());
    }
    // Renamed, and the old name still there or not.
    for old_name in [false, true] {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("records.redb"), whole.records()).unwrap();
        if old_name {
            std::fs::write(directory.path().join("records.redb.new"), whole.records()).unwrap();
        }
        works(directory.path());
    }
    println!("{} files half made", tried.len());
}

#[test]
fn half_a_records_file_under_its_own_name_is_damage() {
    let (_, whole) = left();
    let directory = TempDir::new().unwrap();
    let bytes = whole.records();
    std::fs::write(directory.path().join("records.redb"), &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(kind(DiskStore::open(directory.path(), options())), ErrorKind::Corrupt);
}
