//! What a store may hold after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::Bytes;
use datamesh_core::ports::{Batch, Storage, Table};
use datamesh_core::{Error, Result as StoreResult};
use datamesh_store::DiskStore;
use futures::future::try_join_all;

use super::world::{PROBE, STEP_KEY, World, blob, key};

/// What is wrong, in words.
pub(crate) type Verdict<T> = Result<T, String>;

/// What may be found.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// The last commit: from the last acknowledged one to the last that was asked for.
    pub(crate) commits: RangeInclusive<usize>,
    /// Whether the probe is there; `None` where both are right.
    pub(crate) probe: Option<bool>,
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// The last commit; everything that it left was there.
    pub(crate) last: usize,
    pub(crate) has_probe: bool,
}

impl Expected {
    /// Whether this may be found.
    pub(crate) fn allows(&self, found: Found) -> Verdict<()> {
        if !self.commits.contains(&found.last) {
            return Err(format!("commit {} is the last, where {:?} may be", found.last, self.commits));
        }
        match self.probe {
            Some(probe) if probe != found.has_probe => {
                Err(format!("the probe is there: {}", found.has_probe))
            }
            _ => Ok(()),
        }
    }
}

fn told<T>(what: &str, outcome: StoreResult<T>) -> Verdict<T> {
    outcome.map_err(|error: Error| format!("{what}: {error:?}"))
}

/// Compares everything in the store with the world.
pub(crate) async fn check(store: &DiskStore, world: &World, expected: &Expected) -> Verdict<Found> {
    let last = last_commit(store).await?;
    if last >= world.states.len() {
        return Err(format!("commit {last} is the last, of {}", world.states.len()));
    }
    let has_probe = check_records(store, world, last).await?;
    let found = Found { last, has_probe };
    expected.allows(found)?;
    check_blobs(store, world, last, has_probe).await?;
    Ok(found)
}

async fn last_commit(store: &DiskStore) -> Verdict<usize> {
    let value = told("the step", store.read_record(Table::Node, Bytes::from_static(STEP_KEY)).await)?;
    value.map_or(Ok(0), |value| {
        let number: [u8; 8] = value[..].try_into().map_err(|_| format!("a step of {} bytes", value.len()))?;
        Ok(u64::from_le_bytes(number) as usize)
    })
}

async fn check_records(store: &DiskStore, world: &World, last: usize) -> Verdict<bool> {
    let mut has_probe = false;
    for table in [Table::Work, Table::Extents, Table::Members] {
        let page = told("a scan", store.scan_records(table, Bytes::new(), None, 10_000).await)?;
        let mut found: BTreeMap<Bytes, Bytes> = page.records.into_iter().collect();
        if table == Table::Work {
            has_probe = found.remove(&key(PROBE)).is_some();
        }
        if found != world.states[last].records(table) {
            let names = |rows: &BTreeMap<Bytes, Bytes>| rows.keys().cloned().collect::<Vec<_>>();
            let wanted = world.states[last].records(table);
            return Err(format!(
                "table {table:?} at commit {last}: {:?} in the place of {:?}",
                names(&found),
                names(&wanted)
            ));
        }
    }
    Ok(has_probe)
}

async fn check_blobs(store: &DiskStore, world: &World, last: usize, has_probe: bool) -> Verdict<()> {
    let state = &world.states[last];
    let named = |number: u32| (blob(number).0, number);
    let known: BTreeMap<_, _> =
        state.blobs.iter().chain(&state.loose).copied().chain([PROBE]).map(named).collect();
    let page = told("a scan of blobs", store.scan_blobs(None, 10_000).await)?;
    let found: BTreeSet<_> = page.blobs.iter().map(|(id, _)| *id).collect();
    for number in state.blobs.iter().copied().chain(has_probe.then_some(PROBE)) {
        if !found.contains(&blob(number).0) {
            return Err(format!("blob {number} of commit {last} is not listed"));
        }
    }
    let reads = page.blobs.iter().map(|(id, _)| store.read_blob(*id));
    let bytes = told("a blob that is listed", try_join_all(reads).await)?;
    for ((id, length), bytes) in page.blobs.iter().zip(bytes) {
        let Some(number) = known.get(id) else {
            return Err(format!("blob {id} of commit {last} is unknown"));
        };
        if bytes.as_ref() != Some(&blob(*number).1) || *length != blob(*number).1.len() as u64 {
            return Err(format!("blob {number} of commit {last} is another one"));
        }
    }
    Ok(())
}

/// Writes the probe, to see that the store still works.
pub(crate) async fn write_probe(store: &DiskStore) -> Verdict<()> {
    let (id, bytes) = blob(PROBE);
    told("the probe's blob", store.write_blob(id, bytes).await)?;
    let batch = Batch::new().put(Table::Work, key(PROBE), id.as_bytes().to_vec());
    told("the probe's commit", store.commit(batch).await)
}
