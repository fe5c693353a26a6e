//! Asking the other holders what they hold, in batches: a round over a thousand extents costs one message to each.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use crate::care::plan::{Answers, ExtentPlan, ManifestPlan, View, plan_extent, plan_manifest};
use crate::error::Result;
use crate::format::{Layout, MAX_SURVEYED, Manifest, PlacementKey, Possession, Reply, Request, StoredExtent};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::object::{ASK_LIMIT, Engine};
use crate::observe::count;
use crate::peers::unexpected;
use crate::placement::{Ranking, rank};
use crate::ports::{DynStorage, Redundancy, Table};

/// Records that are read from the store at a time: of the longest layouts they are 4 MiB.
const PAGE: usize = 64;

/// Messages of one survey that are under way at a time.
const ASKED_AT_ONCE: usize = 16;

/// An extent or manifest of this node, as far as a survey needs to know it.
#[derive(Debug, Clone)]
pub(super) struct Entry<I> {
    pub(super) id: I,
    pub(super) key: [u8; 32],
    pub(super) redundancy: Redundancy,
    /// The bytes of one holder's part.
    pub(super) bytes: u64,
    /// When it was first committed here, by the wall clock, in milliseconds.
    pub(super) committed_at: u64,
}

/// A page of this node's extents, at most 1024, and where to go on.
pub(super) async fn extents_after(
    storage: &dyn DynStorage,
    mut after: Option<Bytes>,
) -> Result<(Vec<Entry<ExtentId>>, Option<Bytes>)> {
    let mut entries = Vec::new();
    loop {
        let page = storage.scan_records(Table::Extents, Bytes::new(), after, PAGE).await?;
        entries.extend(page.records.iter().filter_map(|(key, value)| extent_entry(key, value)));
        after = page.records.last().map(|(key, _)| key.clone()).filter(|_| page.more);
        if after.is_none() || entries.len() + PAGE > MAX_SURVEYED {
            return Ok((entries, after));
        }
    }
}

/// A record that cannot be read is the store's to complain about, and no reason to leave the others alone.
fn extent_entry(key: &Bytes, value: &Bytes) -> Option<Entry<ExtentId>> {
    let record = StoredExtent::decode(value).ok()?;
    let layout = Layout::decode(&record.layout).ok()?;
    let segments = u64::from(layout.segments).saturating_sub(1);
    Some(Entry {
        id: ExtentId::from_bytes(<[u8; 32]>::try_from(key.as_ref()).ok()?),
        key: *layout.placement.as_bytes(),
        redundancy: layout.redundancy,
        bytes: segments.saturating_mul(u64::from(layout.shard_len)) + u64::from(layout.last_shard_len),
        committed_at: record.committed_at.0,
    })
}

/// A page of this node's manifests, at most 1024, and where to go on.
pub(super) async fn manifests_after(
    storage: &dyn DynStorage,
    mut after: Option<Bytes>,
) -> Result<(Vec<Entry<ObjectId>>, Option<Bytes>)> {
    let mut entries = Vec::new();
    loop {
        let page = storage.scan_records(Table::Manifests, Bytes::new(), after, PAGE / 4).await?;
        entries.extend(page.records.iter().filter_map(|(key, value)| manifest_entry(key, value)));
        after = page.records.last().map(|(key, _)| key.clone()).filter(|_| page.more);
        if after.is_none() || entries.len() + PAGE > MAX_SURVEYED {
            return Ok((entries, after));
        }
    }
}

fn manifest_entry(key: &Bytes, value: &Bytes) -> Option<Entry<ObjectId>> {
    let record = crate::format::StoredManifest::decode(value).ok()?;
    let manifest = Manifest::decode(&record.manifest).ok()?;
    let id = ObjectId::from_bytes(<[u8; 32]>::try_from(key.as_ref()).ok()?);
    Some(Entry {
        id,
        key: *PlacementKey::from(id).as_bytes(),
        redundancy: manifest.public().redundancy,
        bytes: record.manifest.len() as u64,
        committed_at: record.committed_at.0,
    })
}

/// What is asked about: an extent or a manifest.
pub(super) trait Subject: Copy + Ord + Send + Sync + 'static {
    /// The request about these.
    fn question(ids: Vec<Self>) -> Request;

    /// Who should hold it: whom the first round asks.
    fn homes(ranking: &Ranking<'_>, redundancy: Redundancy) -> Vec<NodeId>;
}

impl Subject for ExtentId {
    fn question(extents: Vec<Self>) -> Request {
        Request::Survey { extents, objects: Vec::new() }
    }

    fn homes(ranking: &Ranking<'_>, redundancy: Redundancy) -> Vec<NodeId> {
        ranking.assign(redundancy).map_or(Vec::new(), |homes| homes.holders().to_vec())
    }
}

impl Subject for ObjectId {
    fn question(objects: Vec<Self>) -> Request {
        Request::Survey { extents: Vec::new(), objects }
    }

    fn homes(ranking: &Ranking<'_>, redundancy: Redundancy) -> Vec<NodeId> {
        ranking.manifest_holders(redundancy)
    }
}

/// What was learned of a page of extents or manifests, in the order of the entries.
pub(super) type Found<P> = Vec<Option<P>>;

/// Asks about extents and decides what is to be done for each.
pub(super) async fn survey_extents(
    engine: &Engine,
    view: &View,
    entries: &[Entry<ExtentId>],
) -> Found<ExtentPlan> {
    let decide = |entry: &Entry<ExtentId>, answers: &Answers| {
        plan_extent(&entry.key, entry.redundancy, view, answers, engine.peers.local())
    };
    let is_settled = |plan: &Option<ExtentPlan>| {
        plan.as_ref().is_some_and(|plan| plan.is_whole() && plan.moves.is_empty() && plan.surplus.is_empty())
    };
    survey(engine, view, entries, decide, is_settled).await
}

/// Asks about manifests and decides what is to be done for each.
pub(super) async fn survey_manifests(
    engine: &Engine,
    view: &View,
    entries: &[Entry<ObjectId>],
) -> Found<ManifestPlan> {
    let decide = |entry: &Entry<ObjectId>, answers: &Answers| {
        plan_manifest(&entry.key, entry.redundancy, view, answers, engine.peers.local())
    };
    let is_settled = |plan: &Option<ManifestPlan>| {
        plan.as_ref().is_some_and(|plan| plan.lacking.is_empty() && !plan.is_surplus)
    };
    survey(engine, view, entries, decide, is_settled).await
}

/// Asks the holders that the ranking names, and about what is not as it should be all others as well: only what
/// nobody has is lost.
async fn survey<I: Subject, P>(
    engine: &Engine,
    view: &View,
    entries: &[Entry<I>],
    decide: impl Fn(&Entry<I>, &Answers) -> Option<P>,
    is_settled: impl Fn(&Option<P>) -> bool,
) -> Found<P> {
    let mut answers: Vec<Answers> = vec![Answers::new(); entries.len()];
    let mut questions: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (number, entry) in entries.iter().enumerate() {
        let homes = I::homes(&rank(&entry.key, &view.members), entry.redundancy);
        for node in homes
            .into_iter()
            .chain(view.leaving.iter().copied())
            .chain([engine.peers.local()])
            .collect::<BTreeSet<_>>()
        {
            questions.entry(node).or_default().push(number);
        }
    }
    ask(engine, entries, questions, &mut answers).await;
    let mut found: Found<P> =
        entries.iter().zip(&answers).map(|(entry, answers)| decide(entry, answers)).collect();
    let mut questions: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (number, (_, asked)) in
        found.iter().zip(&answers).enumerate().filter(|(_, (plan, _))| !is_settled(plan))
    {
        for node in view.nodes().filter(|node| !asked.contains_key(node)) {
            questions.entry(node).or_default().push(number);
        }
    }
    let again: BTreeSet<usize> = questions.values().flatten().copied().collect();
    ask(engine, entries, questions, &mut answers).await;
    for number in again {
        let (Some(entry), Some(answers), Some(plan)) =
            (entries.get(number), answers.get(number), found.get_mut(number))
        else {
            continue;
        };
        *plan = decide(entry, answers);
    }
    found
}

/// Puts each node's questions to it and notes what it says, or that it says nothing.
async fn ask<I: Subject>(
    engine: &Engine,
    entries: &[Entry<I>],
    questions: BTreeMap<NodeId, Vec<usize>>,
    answers: &mut [Answers],
) {
    let calls = questions.into_iter().map(|(node, numbers)| async move {
        let ids = numbers.iter().filter_map(|number| entries.get(*number)).map(|entry| entry.id).collect();
        (node, question(engine, node, ids).await, numbers)
    });
    let mut running = stream::iter(calls).buffer_unordered(ASKED_AT_ONCE);
    while let Some((node, answer, numbers)) = running.next().await {
        engine.peers.surveyed(node, answer.is_ok());
        let mut said = answer.unwrap_or_default().into_iter();
        for number in numbers {
            let said = said.next();
            if let (Some(answers), Some(entry)) = (answers.get_mut(number), entries.get(number)) {
                answers.insert(node, said.map(|said| said.of_total(entry.redundancy.total())));
            }
        }
    }
}

/// Asks one node what it has of these, at most 1024 of them.
async fn question<I: Subject>(engine: &Engine, node: NodeId, ids: Vec<I>) -> Result<Vec<Possession>> {
    let asked = ids.len();
    count(&engine.counters.survey_messages, 1);
    let answer = engine.peers.call(node, I::question(ids), Bytes::new(), ASK_LIMIT).await?;
    match answer {
        (Reply::Surveyed { possessions }, _) if possessions.len() == asked => Ok(possessions),
        (other, _) => Err(unexpected(&other, node)),
    }
}
