//! Repairing one object at once, for whoever asks.

use std::sync::Arc;

use bytes::Bytes;

use crate::care::pace::Pace;
use crate::care::plan::{Answers, ExtentPlan, View, plan_extent, reach};
use crate::care::repair::{Mending, place_manifest};
use crate::error::{ErrorKind, Result};
use crate::format::{Capability, Extents, Manifest, Possession, Reply, Request};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::object::gather::gather;
use crate::object::get::open_extent;
use crate::object::manifest::find_manifest;
use crate::object::{ASK_LIMIT, Engine, Progress, ProgressFn};
use crate::observe::count;
use crate::placement::{Member, rank};
use crate::planted::{Bug, is_active};

/// What the repair of one object achieved, as its holders said afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// The object.
    pub object: ObjectId,
    /// Its margin before; `None` where it could not be read.
    pub before: Option<usize>,
    /// Its margin now, counted anew; `None` where it cannot be read.
    pub margin: Option<usize>,
    /// The margin that the nodes that answer can give.
    pub expected_margin: usize,
    /// Shards that were made anew and reached their holders.
    pub shards: u64,
    /// Manifests that were given to nodes that lacked them.
    pub manifests: u64,
    /// Bytes of shards that were read for it.
    pub bytes_read: u64,
    /// Bytes of shards that were written.
    pub bytes_written: u64,
    /// Extents whose shards contradict each other: their writer made them so, and nobody can read them.
    pub poisoned: Vec<ExtentId>,
    /// Members that did not answer; what they hold was not counted.
    pub unreached: Vec<NodeId>,
}

impl RepairReport {
    /// Whether the object has the margin that the nodes that answer can give.
    pub fn is_full(&self) -> bool {
        self.margin.is_some_and(|margin| margin >= self.expected_margin)
    }
}

/// Rebuilds what nobody who answers holds of an object, with nodes that answer; needs no key.
///
/// Members that are silent are passed over, not taken for lost: nothing is deleted, and where they come back their
/// shards are held twice until care gives one of them up.
pub(crate) async fn repair_object(
    engine: Arc<Engine>,
    bytes_per_second: Option<u64>,
    capability: Capability,
    progress: Option<ProgressFn>,
) -> Result<RepairReport> {
    let pace = Pace::new(&engine.runtime, &engine.peers, Some(bytes_per_second.unwrap_or(u64::MAX)));
    let object = capability.object();
    let work = Work { engine, pace, object, progress };
    work.run().await.map_err(|error| error.with_operation("repair"))
}

struct Work {
    engine: Arc<Engine>,
    pace: Pace,
    object: ObjectId,
    progress: Option<ProgressFn>,
}

impl Work {
    async fn run(&self) -> Result<RepairReport> {
        let encoded = find_manifest(&self.engine, self.object).await?;
        let manifest = Manifest::decode(&encoded)?;
        let mut report = RepairReport {
            object: self.object,
            before: None,
            margin: None,
            expected_margin: 0,
            shards: 0,
            manifests: 0,
            bytes_read: 0,
            bytes_written: 0,
            poisoned: Vec::new(),
            unreached: Vec::new(),
        };
        let (before, after) = self.manifests(&encoded, &manifest, &mut report).await?;
        (report.before, report.margin) = (before, after);
        report.expected_margin = manifest.public().redundancy.parity();
        let count = match &manifest.public().extents {
            Extents::Inline => 0,
            Extents::Single(_) => 1,
            Extents::Many(extents) => extents.len() as u64,
        };
        for number in 0..count {
            self.extent(&manifest, number, &mut report).await?;
            if let Some(progress) = &self.progress {
                progress(Progress::new(number + 1, Some(count)));
            }
        }
        let answering = self.answering(&report);
        let best = rank(self.object.as_bytes(), &answering).best_margin(manifest.public().redundancy);
        report.expected_margin = report.expected_margin.min(best.unwrap_or(0));
        Ok(report)
    }

    /// The members that answer, as far as was seen.
    fn answering(&self, report: &RepairReport) -> Vec<Member> {
        let mut members = self.believed();
        members.retain(|member| !report.unreached.contains(&member.node));
        members
    }

    /// Gives the manifest to those who are to have it, or to others where they take nothing; its margins before and
    /// after.
    async fn manifests(
        &self,
        encoded: &Bytes,
        manifest: &Manifest,
        report: &mut RepairReport,
    ) -> Result<(Option<usize>, Option<usize>)> {
        let request = Request::Survey { extents: Vec::new(), objects: vec![self.object] };
        let answers = self.ask(request, report).await;
        let has = |node: &NodeId| matches!(answers.get(node), Some(Some(Possession::Held(_))));
        let before = answers.keys().filter(|node| has(node)).count();
        let members = self.answering(report);
        let redundancy = manifest.public().redundancy;
        let homes = redundancy.parity() + 1;
        let (mut after, mut is_refused) = (before, false);
        let order = rank(self.object.as_bytes(), &members).manifest_order();
        for (place, node) in order.into_iter().take(reach(redundancy)).enumerate() {
            if has(&node) {
                continue;
            }
            // The next ones have it in place of those that take nothing.
            if place >= homes && (after >= homes || !is_refused) {
                break;
            }
            match place_manifest(&self.engine, &self.pace, self.object, encoded, node).await {
                Ok(()) => {
                    report.manifests += 1;
                    after += 1;
                }
                // Who rightly was told to remove it is no reason to have it elsewhere.
                Err(error) => is_refused |= error.kind() != ErrorKind::NotStored,
            }
        }
        let margin = |holders: usize| holders.checked_sub(1).map(|margin| margin.min(redundancy.parity()));
        Ok((margin(before), margin(after)))
    }

    async fn extent(&self, manifest: &Manifest, number: u64, report: &mut RepairReport) -> Result<()> {
        let reader = open_extent(&self.engine, manifest, number).await?;
        let (id, layout) = (reader.id(), reader.layout().clone());
        let Some(plan) = self.plan(id, &layout, report).await else {
            // Removed, with too little left to read it.
            (report.before, report.margin) = (None, None);
            return Ok(());
        };
        let mut margin = plan.margin;
        report.before = least(report.before, plan.margin);
        if !plan.lost.is_empty() {
            let mending = Mending {
                engine: &self.engine,
                pace: &self.pace,
                share: self.engine.budget.share(),
                id,
                encoded: layout.encode(),
                layout: layout.clone(),
                holders: plan.holders.clone(),
                refusing: Default::default(),
                failed: Default::default(),
            };
            let moved = mending.fill_somewhere(&plan, plan.lost.clone()).await?;
            count(&self.engine.counters.repair_bytes_read, moved.read);
            count(&self.engine.counters.repair_bytes_written, moved.written);
            report.shards += moved.shards;
            report.bytes_read += moved.read;
            report.bytes_written += moved.written;
            if moved.is_poisoned {
                report.poisoned.push(id);
            }
            // The recount: everybody is asked anew.
            margin = if is_active(Bug::RepairedBeforeCommit) {
                Some(plan.expected)
            } else {
                self.plan(id, &layout, report).await.and_then(|plan| plan.margin)
            };
        }
        report.margin = least(report.margin, margin);
        Ok(())
    }

    /// What is to be done for an extent, with those who answer only.
    async fn plan(
        &self,
        id: ExtentId,
        layout: &crate::format::Layout,
        report: &mut RepairReport,
    ) -> Option<ExtentPlan> {
        let request = Request::Survey { extents: vec![id], objects: Vec::new() };
        let mut answers = self.ask(request, report).await;
        answers.retain(|_, answer| answer.is_some());
        let total = layout.redundancy.total();
        let clip = |answer: &mut Option<Possession>| *answer = answer.take().map(|said| said.of_total(total));
        answers.values_mut().for_each(clip);
        let view = View {
            members: self.answering(report),
            leaving: self.engine.peers.leaving_holders(),
            ..View::default()
        };
        let ranking = rank(layout.placement.as_bytes(), &view.members);
        let homes = ranking.assign(layout.redundancy)?;
        plan_extent(&ranking, &homes, layout.redundancy, &view, &answers, self.engine.peers.local())
    }

    /// The members that can hold data and whose claims count.
    fn believed(&self) -> Vec<Member> {
        let mut members = self.engine.peers.storage_members();
        members.retain(|member| self.engine.peers.is_believed(&member.node));
        members
    }

    /// Asks every member that may hold data about one thing.
    async fn ask(&self, request: Request, report: &mut RepairReport) -> Answers {
        let members = self.believed().into_iter().map(|member| member.node);
        let nodes: Vec<NodeId> = members.chain(self.engine.peers.leaving_holders()).collect();
        let spare = nodes.len() / 3;
        let call = |node| (node, self.engine.peers.call(node, request.clone(), Bytes::new(), ASK_LIMIT));
        let calls = nodes.into_iter().map(call).collect();
        let mut answers = Answers::new();
        for (node, answer) in gather(&*self.engine.runtime, calls, spare).await {
            let said = match answer {
                Ok((Reply::Surveyed { possessions }, _)) => possessions.into_iter().next(),
                _ => None,
            };
            if said.is_none() && !report.unreached.contains(&node) {
                report.unreached.push(node);
            }
            answers.insert(node, said);
        }
        answers
    }
}

fn least(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    Some(a?.min(b?))
}
