//! One fault in one stored structure: no wrong byte comes out of it, and what is lost is said.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use datamesh_core::ErrorKind;
use datamesh_core::ports::{Storage, Table};
use datamesh_store::DiskStore;
use datamesh_store::crash::{Image, Medium};
use futures::executor::block_on;

use super::check::Verdict;
use super::script::{Random, Step, Teller, script};
use super::world::{State, World, blob};
use super::{MEDIUM_BYTES, options};

/// A fault of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Zeroed,
    FlippedBit,
    Garbage,
    /// The file ends in the middle of it.
    Truncated,
    /// What belongs somewhere else in the file was written there.
    Misdirected,
    /// A write was lost: what stood there before.
    Older,
    /// What stands there in another store.
    Another,
}

pub(crate) const FAULTS: [Fault; 7] = [
    Fault::Zeroed,
    Fault::FlippedBit,
    Fault::Garbage,
    Fault::Truncated,
    Fault::Misdirected,
    Fault::Older,
    Fault::Another,
];

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Everything is there and right.
    Unaffected,
    /// Reading what is damaged is a typed error; the rest is right.
    Reported,
    /// The store is not opened, with a typed error.
    Refused,
}

/// Part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Structure {
    pub(crate) name: &'static str,
    /// A volume's file name; the records file has none.
    pub(crate) file: Option<String>,
    pub(crate) range: Range<usize>,
    /// Where something of its kind lies.
    other: Range<usize>,
}

/// A store that was closed, an earlier state of it, and another store.
pub(crate) struct Samples {
    now: Image,
    older: Image,
    another: Image,
    world: World,
}

/// How often each structure fared how under each fault.
pub(crate) type Matrix = BTreeMap<(&'static str, Fault), BTreeMap<Outcome, u64>>;

fn run(steps: &[Step], until: usize) -> (Image, Image, World) {
    let medium = Medium::new(MEDIUM_BYTES);
    let mut teller = Teller::new(&medium).expect("an empty medium");
    let mut older = medium.image();
    for (number, step) in steps.iter().enumerate() {
        if number == until {
            block_on(teller.step(&Step::Reopen)).expect("a step");
            older = medium.image();
        }
        block_on(teller.step(step)).expect("a step");
    }
    block_on(teller.store.close()).expect("a close");
    (medium.image(), older, teller.world)
}

pub(crate) fn samples(seed: u64) -> Samples {
    const STEPS: usize = 60;
    let (now, older, world) = run(&script(seed, STEPS), STEPS - 8);
    let (another, _, _) = run(&script(seed + 1000, STEPS), STEPS);
    Samples { now, older, another, world }
}

/// Everything that the store has written.
pub(crate) fn structures(samples: &Samples) -> Vec<Structure> {
    let named: BTreeSet<Vec<u8>> =
        samples.world.last().blobs.iter().map(|number| blob(*number).0.as_bytes().to_vec()).collect();
    let (mut all, mut bodies) = (Vec::new(), BTreeMap::new());
    for (file, bytes) in samples.now.volumes() {
        let mut part = |name, range, other| {
            all.push(Structure { name, file: Some(file.clone()), range, other });
        };
        part("volume header", 0..64, 64..128);
        let mut at = 64;
        while let Some(length) = bytes.get(at + 4..at + 8) {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            let end = at + 56 + length.next_multiple_of(8);
            part("shard header", at..at + 56, end..end + 56);
            let id = bytes[at + 8..at + 40].to_vec();
            if length > 0 && named.contains(&id) {
                let range = at + 56..at + 56 + length;
                let other = 64..64 + length;
                // Of a shard that was removed and written again the index names the last copy.
                bodies.insert(id, Structure { name: "shard body", file: Some(file.clone()), range, other });
            }
            at = end;
        }
    }
    all.extend(bodies.into_values());
    let records = samples.now.records().len();
    let mut part = |name, range, other| all.push(Structure { name, file: None, range, other });
    part("records magic", 0..9, 64..73);
    part("records header", 9..64, 64..119);
    part("records commit slot", 64..192, 192..320);
    part("records commit slot", 192..320, 64..192);
    for page in 1..records / 4096 {
        let other = page % (records / 4096 - 1) + 1;
        part("records page", page * 4096..page * 4096 + 4096, other * 4096..other * 4096 + 4096);
    }
    all
}

fn file_of(image: &Image, file: Option<&String>) -> Vec<u8> {
    let volume = |name| image.volumes().into_iter().find(|(found, _)| found == name);
    match file {
        None => image.records(),
        Some(name) => volume(name).map(|(_, bytes)| bytes).unwrap_or_default(),
    }
}

/// The image with one fault, `None` where that changes nothing.
pub(crate) fn damage(samples: &Samples, at: &Structure, fault: Fault, random: &mut Random) -> Option<Image> {
    let good = file_of(&samples.now, at.file.as_ref());
    let mut bytes = good.clone();
    let range = at.range.clone();
    let put = |target: &mut Vec<u8>, source: Option<&[u8]>| {
        if let (Some(target), Some(source)) = (target.get_mut(range.clone()), source) {
            target.copy_from_slice(source);
        }
    };
    match fault {
        Fault::Zeroed => bytes[range].fill(0),
        Fault::FlippedBit => {
            let bit = random.below(range.len() * 8);
            bytes[range.start + bit / 8] ^= 1 << (bit % 8);
        }
        Fault::Garbage => bytes[range].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
        Fault::Truncated => bytes.truncate(range.start + range.len() / 2),
        Fault::Misdirected => put(&mut bytes, good.get(at.other.clone())),
        Fault::Older => put(&mut bytes, file_of(&samples.older, at.file.as_ref()).get(at.range.clone())),
        Fault::Another => put(&mut bytes, file_of(&samples.another, at.file.as_ref()).get(at.range.clone())),
    }
    if bytes == good {
        return None;
    }
    let mut image = samples.now.clone();
    match &at.file {
        None => image.set_records(&bytes),
        Some(name) => image.set_volume(name, &bytes),
    }
    Some(image)
}

/// Opens a damaged image and asks for everything that was committed.
pub(crate) fn outcome(image: Image, samples: &Samples, check_bytes: u64) -> Verdict<Outcome> {
    let medium = Medium::with_image(image, MEDIUM_BYTES);
    let looked = catch_unwind(AssertUnwindSafe(|| look(&medium, samples.world.last(), check_bytes)));
    looked.unwrap_or_else(|_| Err("a panic".to_owned()))
}

fn look(medium: &Medium, state: &State, check_bytes: u64) -> Verdict<Outcome> {
    let mut options = options();
    options.check_bytes = check_bytes;
    let store = match DiskStore::open_with(medium.files(), medium.records(), options) {
        Ok(store) => store,
        Err(error) if is_typed(error.kind()) => return Ok(Outcome::Refused),
        Err(error) => return Err(format!("opening: {error:?}")),
    };
    let outcome = block_on(ask(&store, state));
    block_on(store.close()).map_err(|error| format!("closing: {error:?}"))?;
    outcome
}

fn is_typed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported)
}

async fn ask(store: &DiskStore, state: &State) -> Verdict<Outcome> {
    let mut reported = false;
    for table in [Table::Work, Table::Extents] {
        let records = state.records(table);
        for (key, value) in &records {
            let found = store.read_record(table, key.clone()).await;
            reported |= compare(&format!("{table:?} {key:?}"), found, Some(value))?;
        }
        match store.scan_records(table, Bytes::new(), None, 10_000).await {
            Ok(page) if page.records == records.into_iter().collect::<Vec<_>>() => {}
            Ok(page) => return Err(format!("a scan of {table:?} gave {} other records", page.records.len())),
            Err(error) if is_typed(error.kind()) => reported = true,
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    for number in &state.blobs {
        let (id, bytes) = blob(*number);
        reported |= compare(&format!("blob {number}"), store.read_blob(id).await, Some(&bytes))?;
    }
    match store.scan_blobs(None, 10_000).await {
        Ok(page) if page.blobs.len() == state.blobs.len() => {}
        Ok(page) => return Err(format!("a scan gave {} blobs of {}", page.blobs.len(), state.blobs.len())),
        Err(error) if is_typed(error.kind()) => reported = true,
        Err(error) => return Err(format!("{error:?}")),
    }
    Ok(if reported { Outcome::Reported } else { Outcome::Unaffected })
}

/// Whether damage was reported; anything that is neither right nor reported is an error.
fn compare(what: &str, found: datamesh_core::Result<Option<Bytes>>, wanted: Option<&Bytes>) -> Verdict<bool> {
    match found {
        Ok(found) if found.as_ref() == wanted => Ok(false),
        Ok(None) => Err(format!("{what} is silently gone")),
        Ok(Some(_)) => Err(format!("{what} has wrong bytes")),
        // A volume that ends too soon is told as one that cannot be read.
        Err(error) if is_typed(error.kind()) || error.kind() == ErrorKind::Io => Ok(true),
        Err(error) => Err(format!("{what}: {error:?}")),
    }
}

/// Every structure under every fault. A records file up to `check_bytes` is looked through when it is opened.
pub(crate) fn matrix(seed: u64, check_bytes: u64) -> Result<Matrix, (u64, Vec<String>)> {
    let samples = samples(seed);
    let mut random = Random::new(seed);
    let (mut matrix, mut wrong, mut cells) = (Matrix::new(), Vec::new(), 0);
    for structure in structures(&samples) {
        for fault in FAULTS {
            let Some(image) = damage(&samples, &structure, fault, &mut random) else { continue };
            cells += 1;
            match outcome(image, &samples, check_bytes) {
                Ok(outcome) => {
                    *matrix.entry((structure.name, fault)).or_default().entry(outcome).or_default() += 1;
                }
                Err(what) => {
                    let Structure { name, file, range, .. } = &structure;
                    wrong.push(format!("{name} {range:?} of {file:?} {fault:?}: {what}"));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(matrix) } else { Err((cells, wrong)) }
}
