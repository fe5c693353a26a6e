//! What lies on a medium: files as pages that copies share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

const PAGE: usize = 4096;

/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// The inode of the records file; it has no name.
pub(super) const RECORDS: usize = 0;

/// A page with its hash, which is made when it is first asked for: images differ in few pages.
#[derive(Debug)]
struct Page {
    bytes: [u8; PAGE],
    hash: OnceLock<blake3::Hash>,
}

impl Page {
    fn zeros() -> Self {
        Self { bytes: [0; PAGE], hash: OnceLock::new() }
    }

    fn hash(&self) -> &blake3::Hash {
        self.hash.get_or_init(|| blake3::hash(&self.bytes))
    }
}

impl Clone for Page {
    /// A copy is made to be changed, so it has no hash.
    fn clone(&self) -> Self {
        Self { bytes: self.bytes, hash: OnceLock::new() }
    }
}

/// The bytes of a page that is about to be changed.
fn bytes_of(page: &mut Arc<Page>) -> &mut [u8; PAGE] {
    let page = Arc::make_mut(page);
    page.hash = OnceLock::new();
    &mut page.bytes
}

/// The hash of a page of zeros, whether it was written or not.
static ZEROS_HASH: OnceLock<blake3::Hash> = OnceLock::new();

/// The bytes of one file. Copies share the pages that neither has changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    /// `None` is a page of zeros.
    pages: Vec<Option<Arc<Page>>>,
    length: usize,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Cuts the file, or fills it with zeros.
    pub(super) fn resize(&mut self, length: usize) {
        self.pages.resize(length.div_ceil(PAGE), None);
        let cut = length % PAGE;
        if length < self.length
            && cut > 0
            && let Some(Some(last)) = self.pages.last_mut()
        {
            bytes_of(last).iter_mut().skip(cut).for_each(|byte| *byte = 0);
        }
        self.length = length;
    }

    /// Writes, and lets the file grow where it must.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if at + bytes.len() > self.length {
            self.resize(at + bytes.len());
        }
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE - at % PAGE));
            if let Some(slot) = self.pages.get_mut(at / PAGE) {
                let page = bytes_of(slot.get_or_insert_with(|| Arc::new(Page::zeros())));
                page.iter_mut().skip(at % PAGE).zip(now).for_each(|(byte, new)| *byte = *new);
            }
            at += now.len();
            rest = later;
        }
    }

    /// Fills `target`, or says `false` where the file ends before.
    pub(super) fn read(&self, at: usize, target: &mut [u8]) -> bool {
        if at.checked_add(target.len()).is_none_or(|end| end > self.length) {
            return false;
        }
        let (mut at, mut rest) = (at, target);
        while !rest.is_empty() {
            let count = rest.len().min(PAGE - at % PAGE);
            let (now, later) = rest.split_at_mut(count);
            let page = self.pages.get(at / PAGE).and_then(Option::as_ref);
            match page.and_then(|page| page.bytes.get(at % PAGE..at % PAGE + count)) {
                Some(source) => now.copy_from_slice(source),
                None => now.fill(0),
            }
            at += count;
            rest = later;
        }
        true
    }

    /// Adds length and content to a hash.
    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.length as u64).to_le_bytes());
        for page in &self.pages {
            match page {
                Some(page) => hasher.update(page.hash().as_bytes()),
                None => hasher.update(ZEROS_HASH.get_or_init(|| blake3::hash(&[0; PAGE])).as_bytes()),
            };
        }
    }
}

/// Files and their names, as they are or as a power cut left them.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) inodes: Vec<Pages>,
    pub(super) names: BTreeMap<String, usize>,
}

impl Disk {
    pub(super) fn empty() -> Self {
        Self { inodes: vec![Pages::default()], names: BTreeMap::new() }
    }

    /// The file of an inode, made where it is not there yet.
    pub(super) fn inode(&mut self, inode: usize) -> &mut Pages {
        if inode >= self.inodes.len() {
            self.inodes.resize_with(inode + 1, Pages::default);
        }
        #[expect(clippy::indexing_slicing, reason = "the inode exists since the line above")]
        &mut self.inodes[inode]
    }

    pub(super) fn length(&self, inode: usize) -> usize {
        self.inodes.get(inode).map_or(0, Pages::len)
    }

    /// The bytes of all files that have a name, and of the records file.
    pub(super) fn used(&self) -> u64 {
        let held = self.names.values().chain([&RECORDS]);
        held.map(|inode| self.length(*inode) as u64).sum()
    }
}

/// What a medium holds at one moment, without what is on its way.
#[derive(Debug, Clone)]
pub struct Image(pub(super) Disk);

impl Image {
    /// An empty medium.
    pub fn empty() -> Self {
        Self(Disk::empty())
    }

    /// The bytes of the records file.
    pub fn records(&self) -> Vec<u8> {
        self.bytes(RECORDS)
    }

    /// The volume files: names and bytes, in the order of the names.
    pub fn volumes(&self) -> Vec<(String, Vec<u8>)> {
        self.0.names.iter().map(|(name, inode)| (name.clone(), self.bytes(*inode))).collect()
    }

    /// Puts other bytes in the place of the records file's.
    pub fn set_records(&mut self, bytes: &[u8]) {
        self.set(RECORDS, bytes);
    }

    /// Puts other bytes in the place of a volume file's; the file is made where there is none.
    pub fn set_volume(&mut self, name: &str, bytes: &[u8]) {
        let next = self.0.inodes.len();
        let inode = *self.0.names.entry(name.to_owned()).or_insert(next);
        self.set(inode, bytes);
    }

    /// Removes a volume file.
    pub fn remove_volume(&mut self, name: &str) {
        self.0.names.remove(name);
    }

    /// A hash of all that it holds: equal images have the same, and it takes little time where an image differs from
    /// another in few pages. A sweep need look at equal ones only once.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.0.names.len() as u64).to_le_bytes());
        for name in self.0.names.keys() {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        for inode in [&RECORDS].into_iter().chain(self.0.names.values()) {
            match self.0.inodes.get(*inode) {
                Some(pages) => pages.hash_into(&mut hasher),
                None => Pages::default().hash_into(&mut hasher),
            }
        }
        *hasher.finalize().as_bytes()
    }

    fn bytes(&self, inode: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.0.length(inode)];
        if let Some(pages) = self.0.inodes.get(inode) {
            pages.read(0, &mut bytes);
        }
        bytes
    }

    fn set(&mut self, inode: usize, bytes: &[u8]) {
        let pages = self.0.inode(inode);
        pages.resize(0);
        pages.write(0, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_a_file() {
        let mut pages = Pages::default();
        let mut bytes: Vec<u8> = Vec::new();
        for (at, length) in [(0, 10), (5000, 9000), (4090, 20), (20_000, 1), (3, 0)] {
            let written: Vec<u8> = (0..length).map(|n| (n % 251) as u8 + 1).collect();
            bytes.resize(bytes.len().max(at + length), 0);
            bytes[at..at + length].copy_from_slice(&written);
            pages.write(at, &written);
        }
        for cut in [bytes.len(), 13_001, 30_000, 4096, 5000, 1] {
            pages.resize(cut);
            bytes.resize(cut, 0);
            let mut found = vec![0xff; cut];
            assert!(pages.read(0, &mut found));
            assert!(found == bytes, "cut at {cut}");
        }
        assert!(!pages.read(1, &mut [0]));
        assert!(!pages.read(usize::MAX, &mut [0]));
    }

    #[test]
    fn images_have_the_same_hash_when_they_hold_the_same() {
        let mut image = Image::empty();
        image.set_records(&[7; 5000]);
        image.set_volume("a", &[0; 9000]);
        image.set_volume("b", b"x");
        let hash = image.hash();
        let mut other = Image::empty();
        other.set_volume("b", b"x");
        other.set_volume("gone", b"y");
        other.0.inode(9).resize(9000);
        other.0.names.insert("a".into(), 9);
        other.set_records(&[7; 5000]);
        assert_ne!(other.hash(), hash);
        other.remove_volume("gone");
        assert_eq!(other.hash(), hash, "inodes, and whether zeros were written, are not what it holds");

        let changes: [fn(&mut Image); 6] = [
            |image| image.0.inode(RECORDS).write(4999, &[6]),
            |image| image.0.inode(RECORDS).resize(4999),
            |image| image.0.inode(RECORDS).resize(5001),
            |image| image.set_volume("a", &[0; 9001]),
            |image| image.set_volume("c", b""),
            |image| image.remove_volume("b"),
        ];
        for change in changes {
            let mut changed = image.clone();
            change(&mut changed);
            assert_ne!(changed.hash(), hash);
            assert_eq!(image.hash(), hash);
        }
    }
}
