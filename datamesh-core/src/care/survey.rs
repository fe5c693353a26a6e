//! Asking the other holders what they hold, in batches: a round over a thousand extents costs one message to each.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use crate::care::plan::{Answers, ExtentPlan, ManifestPlan, View, near, plan_extent, plan_manifest, reach};
use crate::error::Result;
use crate::format::{Layout, MAX_SURVEYED, Manifest, PlacementKey, Possession, Reply, Request, StoredExtent};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::object::{ASK_LIMIT, Engine};
use crate::observe::count;
use crate::peers::unexpected;
use crate::placement::{Assignment, Ranking, rank};
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

/// Those of these extents that this node has something of.
pub(super) async fn extents_of(storage: &dyn DynStorage, ids: &[ExtentId]) -> Result<Vec<Entry<ExtentId>>> {
    let mut entries = Vec::new();
    for id in ids {
        let key = Bytes::copy_from_slice(id.as_bytes());
        let value = storage.read_record(Table::Extents, key.clone()).await?;
        entries.extend(value.and_then(|value| extent_entry(&key, &value)));
    }
    Ok(entries)
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

/// Those of these manifests that this node has.
pub(super) async fn manifests_of(storage: &dyn DynStorage, ids: &[ObjectId]) -> Result<Vec<Entry<ObjectId>>> {
    let mut entries = Vec::new();
    for id in ids {
        let key = Bytes::copy_from_slice(id.as_bytes());
        let value = storage.read_record(Table::Manifests, key.clone()).await?;
        entries.extend(value.and_then(|value| manifest_entry(&key, &value)));
    }
    Ok(entries)
}

/// What is asked about: an extent or a manifest.
pub(super) trait Subject: Copy + Ord + Send + Sync + 'static {
    /// Who should hold it.
    type Homes: Send + Sync;

    /// The request about these.
    fn question(ids: Vec<Self>) -> Request;

    fn homes(ranking: &Ranking<'_>, redundancy: Redundancy) -> Self::Homes;

    /// Whom the first round asks.
    fn nodes(homes: &Self::Homes) -> &[NodeId];

    /// Who may have what those have not.
    fn near(ranking: &Ranking<'_>, homes: &Self::Homes, redundancy: Redundancy) -> BTreeSet<NodeId>;
}

impl Subject for ExtentId {
    type Homes = Option<Assignment>;

    fn question(extents: Vec<Self>) -> Request {
        Request::Survey { extents, objects: Vec::new() }
    }

    fn homes(ranking: &Ranking<'_>, redundancy: Redundancy) -> Option<Assignment> {
        ranking.assign(redundancy)
    }

    fn nodes(homes: &Option<Assignment>) -> &[NodeId] {
        homes.as_ref().map_or(&[], Assignment::holders)
    }

    fn near(ranking: &Ranking<'_>, homes: &Option<Assignment>, redundancy: Redundancy) -> BTreeSet<NodeId> {
        homes.as_ref().map(|homes| near(ranking, homes, redundancy)).unwrap_or_default()
    }
}

impl Subject for ObjectId {
    type Homes = Vec<NodeId>;

    fn question(objects: Vec<Self>) -> Request {
        Request::Survey { extents: Vec::new(), objects }
    }

    fn homes(ranking: &Ranking<'_>, redundancy: Redundancy) -> Vec<NodeId> {
        ranking.manifest_holders(redundancy)
    }

    fn nodes(homes: &Vec<NodeId>) -> &[NodeId] {
        homes
    }

    fn near(ranking: &Ranking<'_>, _homes: &Vec<NodeId>, redundancy: Redundancy) -> BTreeSet<NodeId> {
        ranking.nodes().take(reach(redundancy)).collect()
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
    let decide =
        |entry: &Entry<ExtentId>, ranking: &Ranking<'_>, homes: &Option<Assignment>, answers: &Answers| {
            plan_extent(ranking, homes.as_ref()?, entry.redundancy, view, answers, engine.peers.local())
        };
    let whom = |plan: &Option<ExtentPlan>| match plan {
        Some(plan) if plan.is_whole() && plan.moves.is_empty() && plan.surplus.is_empty() => Whom::Homes,
        Some(plan) if plan.is_found() => Whom::Near,
        _ => Whom::All,
    };
    survey(engine, view, entries, decide, whom).await
}

/// Asks about manifests and decides what is to be done for each.
pub(super) async fn survey_manifests(
    engine: &Engine,
    view: &View,
    entries: &[Entry<ObjectId>],
) -> Found<ManifestPlan> {
    let decide = |entry: &Entry<ObjectId>, ranking: &Ranking<'_>, homes: &Vec<NodeId>, answers: &Answers| {
        Some(plan_manifest(ranking, homes, entry.redundancy, view, answers, engine.peers.local()))
    };
    let whom = |plan: &Option<ManifestPlan>| {
        let is_settled = plan.as_ref().is_some_and(|plan| plan.lacking.is_empty() && !plan.is_surplus);
        if is_settled { Whom::Homes } else { Whom::Near }
    };
    survey(engine, view, entries, decide, whom).await
}

/// Asks the holders that the ranking names; about what is not as it should be those that come next,
/// where shards are that could not be where they should; and about what is lost all others, for only what nobody has
/// is lost.
async fn survey<I: Subject, P>(
    engine: &Engine,
    view: &View,
    entries: &[Entry<I>],
    decide: impl Fn(&Entry<I>, &Ranking<'_>, &I::Homes, &Answers) -> Option<P>,
    whom: impl Fn(&Option<P>) -> Whom,
) -> Found<P> {
    let local = engine.peers.local();
    let mut cases: Vec<Case<'_, I, P>> = entries.iter().map(|entry| Case::new(entry, view)).collect();
    let mut open: BTreeMap<usize, Whom> = (0..cases.len()).map(|number| (number, Whom::Homes)).collect();
    while !open.is_empty() {
        let mut questions: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (number, whom) in &open {
            let Some(case) = cases.get(*number) else { continue };
            for node in case.nodes_of(*whom, view, local) {
                if !case.answers.contains_key(&node) {
                    questions.entry(node).or_default().push(*number);
                }
            }
        }
        ask(engine, entries, questions, &mut cases).await;
        let mut left = BTreeMap::new();
        for (number, asked) in open {
            let Some(case) = cases.get_mut(number) else { continue };
            case.plan = decide(case.entry, &case.ranking, &case.homes, &case.answers);
            let next = whom(&case.plan);
            if next > asked {
                left.insert(number, next);
            }
        }
        open = left;
    }
    cases.into_iter().map(|case| case.plan).collect()
}

/// What a survey knows of one extent or manifest.
struct Case<'a, I: Subject, P> {
    entry: &'a Entry<I>,
    ranking: Ranking<'a>,
    homes: I::Homes,
    answers: Answers,
    plan: Option<P>,
}

impl<'a, I: Subject, P> Case<'a, I, P> {
    fn new(entry: &'a Entry<I>, view: &'a View) -> Self {
        let ranking = rank(&entry.key, &view.members);
        let homes = I::homes(&ranking, entry.redundancy);
        Self { entry, ranking, homes, answers: Answers::new(), plan: None }
    }

    fn nodes_of(&self, whom: Whom, view: &View, local: NodeId) -> BTreeSet<NodeId> {
        let leaving = view.leaving.iter().copied();
        match whom {
            Whom::Homes => I::nodes(&self.homes).iter().copied().chain(leaving).chain([local]).collect(),
            Whom::Near => {
                let near = I::near(&self.ranking, &self.homes, self.entry.redundancy);
                near.into_iter().chain(leaving).collect()
            }
            Whom::All => view.nodes().collect(),
        }
    }
}

/// Whom a survey asks about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Homes,
    Near,
    All,
}

/// Puts each node's questions to it and notes what it says, or that it says nothing.
async fn ask<I: Subject, P>(
    engine: &Engine,
    entries: &[Entry<I>],
    questions: BTreeMap<NodeId, Vec<usize>>,
    cases: &mut [Case<'_, I, P>],
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
            if let Some(case) = cases.get_mut(number) {
                case.answers.insert(node, said.map(|said| said.of_total(case.entry.redundancy.total())));
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
