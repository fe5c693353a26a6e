//! Rounds over what this node holds: a survey finds what is not as it should be, then it is dealt with, the most
//! endangered first, each looked at anew at the moment of action. The next round is the recount: it looks at what was
//! found, and at what was written since. Everything is looked at when members change, and at intervals.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, Either};
use futures::lock::Mutex;

use crate::care::Care;
use crate::care::findings::{Agenda, Findings, MAX_FINDINGS};
use crate::care::plan::{ExtentPlan, ManifestPlan, Seat, View};
use crate::care::repair::{Mending, Moved, place_manifest};
use crate::care::status::CareProgress;
use crate::care::survey::{
    Entry, extents_after, extents_of, manifests_after, manifests_of, survey_extents, survey_manifests,
};
use crate::error::{ErrorKind, Result};
use crate::format::{Layout, MAX_SURVEYED, StoredExtent};
use crate::id::{ExtentId, NodeId, ObjectId};
use crate::observe::{Event, count};
use crate::planted::{Bug, is_active};
use crate::ports::Instant;

/// How long things are let settle after there was reason to look: several reasons mostly come together.
const DEBOUNCE: Duration = Duration::from_secs(5);

/// How long after it was committed here an extent is left to the put that wrote it, or for the grace time where that is
/// shorter.
const YOUNG: Duration = Duration::from_secs(120);

/// How long a holder waits for each one before it in the ranking to do the work, before it helps.
const TAKE_OVER: Duration = Duration::from_secs(600);

/// How long others have to bring home what they say they have, before this node does; and as long again for each holder
/// before it. Who only says so does not bring it.
const OVERDUE: Duration = Duration::from_secs(3600);

/// When to look again after something was done.
const RECOUNT: Duration = Duration::from_secs(10);

/// When to look again where others are to act, or answer.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// When to look again at the latest where nothing can be done now.
const FRUITLESS: Duration = Duration::from_secs(120);

/// Extents that are looked at anew together before they are dealt with.
const AT_ONCE: usize = 16;

/// Extents that are dealt with at a time.
const WINDOW: usize = 4;

/// Extents and manifests of which it is remembered since when they wait for others.
const MAX_WAITING: usize = 2 * MAX_FINDINGS;

/// For so long a node that took nothing is passed over where another one will do: its disk may be full, or hang.
pub(super) const REFUSED: Duration = Duration::from_secs(240);

/// For so long an extent is left as it is after shards of it could not be given up: to try it costs its homes the reading
/// of all that they have of them.
const KEPT: Duration = Duration::from_secs(3600);

/// For so long an extent of which fewer than k indexes are there is left as it is after a repair in vain: it makes, stages
/// and takes back the segments that can be made. No longer, for whoever was silent may have the last shard of another.
const IN_VAIN: Duration = Duration::from_secs(600);

/// Whether a node that fails so will do so again if it is soon asked anew. One that does not answer in time costs a minute
/// each time, and a minute for each of thousands of extents is days.
fn is_lasting(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::Poisoned | ErrorKind::TimedOut)
}

/// Notes since when others are to bring home what they have of an extent, and says whether they had their time: an hour,
/// and as long again for each holder before this node.
///
/// Their time ends when everything is at home and not before: who is silent once in a while does not begin it anew.
fn note_claims(
    claimed: &mut BTreeMap<ExtentId, Instant>,
    id: ExtentId,
    plan: &ExtentPlan,
    now: Instant,
) -> bool {
    if plan.is_home {
        claimed.remove(&id);
    }
    let Some(turn) = plan.turn.filter(|_| !plan.claimed.is_empty()) else { return false };
    if claimed.len() >= MAX_FINDINGS && !claimed.contains_key(&id) {
        return false;
    }
    let since = *claimed.entry(id).or_insert(now);
    now - since >= OVERDUE.saturating_mul(u32::try_from(turn + 1).unwrap_or(u32::MAX))
}

/// Until when an extent is left as it is, where something was tried with it in vain.
fn left_until(left: &BTreeMap<ExtentId, Instant>, id: ExtentId, now: Instant) -> Option<Instant> {
    left.get(&id).copied().filter(|until| now < *until)
}

/// Notes until when an extent is left as it is where something was tried with it in vain; what is too much to note is
/// tried again with the rest.
fn note_tried(left: &mut BTreeMap<ExtentId, Instant>, id: ExtentId, is_in_vain: bool, until: Instant) {
    left.remove(&id);
    if is_in_vain && left.len() < MAX_FINDINGS {
        left.insert(id, until);
    }
}

/// What came of giving a manifest to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Taken,
    /// It may take it the next time.
    Failed,
    /// It has no room, or its store takes no writes, or not in time.
    Refused,
}

/// What is remembered from one round to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Since when extents and manifests wait for others to repair them. Bounded by [`MAX_WAITING`].
    waiting: BTreeMap<[u8; 32], Instant>,
    /// Since when others are to bring home what they say they have of an extent. Bounded by [`MAX_FINDINGS`].
    claimed: BTreeMap<ExtentId, Instant>,
    /// When extents of which shards could not be given up are tried again. Bounded by [`MAX_FINDINGS`].
    kept: BTreeMap<ExtentId, Instant>,
    /// When extents of which fewer than k indexes are there are tried again. Bounded by [`MAX_FINDINGS`].
    hopeless: BTreeMap<ExtentId, Instant>,
    /// Who lately took nothing that it should, and when. At most as many as there are members.
    refused: BTreeMap<NodeId, Instant>,
    /// How many rounds in a row had work and brought nothing about.
    fruitless: u32,
    agenda: Agenda,
}

/// What a round looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All that this node holds.
    All,
    /// What the last round left open, and what was written since.
    Agenda,
}

/// What a round has still to deal with.
struct Rest {
    entries: VecDeque<Entry<ExtentId>>,
    looked_at: VecDeque<(Entry<ExtentId>, Option<ExtentPlan>)>,
}

/// What a round brought about.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Deeds {
    /// Whether something was moved or given up.
    pub(super) acted: bool,
    /// Whether something was tried in vain.
    pub(super) failed: bool,
    /// When what has to settle first will have.
    pub(super) settled_at: Option<Instant>,
}

impl Deeds {
    pub(super) fn add(&mut self, other: Self) {
        self.acted |= other.acted;
        self.failed |= other.failed;
        self.settled_at = match (self.settled_at, other.settled_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    pub(super) fn later(at: Instant) -> Self {
        Self { settled_at: Some(at), ..Self::default() }
    }
}

impl Care {
    /// Rounds without end: over everything at intervals and soon when there is reason to, over what is open or new in
    /// between.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut all_due = self.engine.runtime.now() + DEBOUNCE;
        let mut due = all_due;
        loop {
            let scope = self.wait(due, all_due).await;
            let pause =
                if self.is_paused() { Some(self.options.survey_interval) } else { self.round(scope).await };
            let now = self.engine.runtime.now();
            if scope == Scope::All {
                // One that was cut short has not looked at everything.
                all_due = now + if pause.is_some() { self.options.survey_interval } else { FRUITLESS };
            }
            due = now + pause.unwrap_or(FRUITLESS);
        }
    }

    /// Waits until a round is due, and says of what.
    async fn wait(&self, mut due: Instant, all_due: Instant) -> Scope {
        let runtime = &self.engine.runtime;
        loop {
            due = due.min(all_due);
            // What is new is looked at when it is not young any more; a round that is due sooner notes it.
            let is_soon = due <= runtime.now() + self.youth();
            let woken = pin!(self.wake.1.recv());
            let is_time = pin!(runtime.sleep_until(due));
            let written = async {
                if is_soon {
                    future::pending::<()>().await;
                }
                self.node.is_written().await;
            };
            match future::select(woken, future::select(is_time, pin!(written))).await {
                Either::Left(_) => {
                    runtime.sleep(DEBOUNCE).await;
                    self.memory().fruitless = 0;
                    return Scope::All;
                }
                Either::Right((Either::Left(_), _)) if due == all_due || self.memory().agenda.is_more => {
                    return Scope::All;
                }
                Either::Right((Either::Left(_), _)) => return Scope::Agenda,
                Either::Right((Either::Right(_), _)) => due = runtime.now() + self.youth(),
            }
        }
    }

    /// Who may hold data now, and who may have some.
    fn view(&self) -> View {
        let (members, leaving) = (self.engine.peers.reliable_members(), self.engine.peers.reliable_leavers());
        View { members, leaving, refusing: self.refusing() }
    }

    /// One round; says when the next is due, or `None` where it was cut short.
    async fn round(&self, scope: Scope) -> Option<Duration> {
        self.observe_members();
        let view = self.view();
        match self.work(scope, &view).await {
            Ok(pause) => Some(pause),
            Err(error) => {
                tracing::warn!(%error, "a round of care was cut short");
                None
            }
        }
    }

    async fn work(&self, scope: Scope, view: &View) -> Result<Duration> {
        let (scope, findings) = self.find(scope, view).await?;
        let total = findings.extents.len().saturating_add(findings.manifests.len()) as u64;
        {
            let tally = findings.tally();
            let mut status = self.lock_status();
            status.margins = tally.margins;
            status.held = tally.held;
            status.away = tally.away;
            status.progress = CareProgress { total, bytes_total: findings.bytes, ..CareProgress::default() };
        }
        let mut deeds = Deeds::default();
        let manifests: Vec<_> = findings.manifests.into_values().collect();
        for entries in manifests.chunks(AT_ONCE) {
            if self.is_paused() {
                break;
            }
            deeds.add(self.deal_with_manifests(&self.view(), entries).await);
        }
        deeds.add(self.deal_with_extents(findings.extents.into_values().collect()).await);
        self.lock_status().rounds += u64::from(scope == Scope::All);
        let progress = self.status().progress;
        if deeds.acted {
            self.engine.events.emit(Event::CareRound(progress));
        }
        Ok(self.next(deeds, findings.is_waiting))
    }

    /// When the next round is due.
    fn next(&self, deeds: Deeds, is_waiting: bool) -> Duration {
        let mut memory = self.memory();
        memory.fruitless = if deeds.failed && !deeds.acted { memory.fruitless.saturating_add(1) } else { 0 };
        let now = self.engine.runtime.now();
        let mut pause = self.options.survey_interval;
        if let Some(at) = deeds.settled_at {
            pause = pause.min((at - now).max(RECOUNT));
        }
        if is_waiting {
            pause = pause.min(LOOK_AGAIN);
        }
        if deeds.acted {
            pause = pause.min(RECOUNT);
        } else if deeds.failed {
            let backoff = RECOUNT.saturating_mul(1 << memory.fruitless.min(6));
            pause = pause.min(backoff.min(FRUITLESS));
        }
        pause
    }

    /// Walks over what a round looks at and asks the others.
    async fn find(&self, scope: Scope, view: &View) -> Result<(Scope, Findings)> {
        let written = self.node.take_written();
        let mut agenda = std::mem::take(&mut self.memory().agenda);
        agenda.add(written);
        let scope = if agenda.is_more { Scope::All } else { scope };
        let found = match scope {
            Scope::All => self.find_all(view).await,
            Scope::Agenda => self.find_some(view, &agenda).await,
        };
        let findings = match found {
            Ok(findings) => findings,
            Err(error) => {
                self.memory().agenda = agenda;
                return Err(error);
            }
        };
        let mut memory = self.memory();
        let extents = findings.extents.values().map(|entry| *entry.id.as_bytes());
        let objects = findings.manifests.keys().map(|id| *id.as_bytes());
        let found: BTreeSet<[u8; 32]> = extents.chain(objects).collect();
        memory.waiting.retain(|id, _| found.contains(id));
        memory.claimed.retain(|id, _| findings.agenda.extents.contains(id));
        memory.kept.retain(|id, _| findings.agenda.extents.contains(id));
        memory.hopeless.retain(|id, _| findings.agenda.extents.contains(id));
        memory.agenda = findings.agenda.clone();
        drop(memory);
        Ok((scope, findings))
    }

    async fn find_all(&self, view: &View) -> Result<Findings> {
        let mut findings = Findings::default();
        let storage = self.node.storage();
        let mut after = None;
        loop {
            let (entries, next) = extents_after(&**storage, after).await?;
            self.take_extents(&mut findings, view, entries).await;
            after = next;
            if after.is_none() {
                break;
            }
        }
        loop {
            let (entries, next) = manifests_after(&**storage, after).await?;
            self.take_manifests(&mut findings, view, entries).await;
            after = next;
            if after.is_none() {
                return Ok(findings);
            }
        }
    }

    async fn find_some(&self, view: &View, agenda: &Agenda) -> Result<Findings> {
        let mut findings = Findings::of_some(agenda);
        let storage = self.node.storage();
        let extents: Vec<ExtentId> = agenda.extents.iter().copied().collect();
        for ids in extents.chunks(MAX_SURVEYED) {
            self.take_extents(&mut findings, view, extents_of(&**storage, ids).await?).await;
        }
        let objects: Vec<ObjectId> = agenda.objects.iter().copied().collect();
        for ids in objects.chunks(MAX_SURVEYED) {
            self.take_manifests(&mut findings, view, manifests_of(&**storage, ids).await?).await;
        }
        Ok(findings)
    }

    async fn take_extents(&self, findings: &mut Findings, view: &View, entries: Vec<Entry<ExtentId>>) {
        let plans = survey_extents(&self.engine, view, &entries).await;
        for (entry, plan) in entries.into_iter().zip(plans) {
            let is_young = self.is_young(&entry);
            match plan {
                Some(mut plan) => {
                    if !self.is_overdue(entry.id, &plan) {
                        plan.claimed.clear();
                    }
                    if self.is_left(entry.id, &plan) {
                        plan.lost.clear();
                    }
                    findings.take_extent(entry, &plan, is_young);
                }
                None => findings.take_undecided(entry.id),
            }
        }
    }

    async fn take_manifests(&self, findings: &mut Findings, view: &View, entries: Vec<Entry<ObjectId>>) {
        let plans = survey_manifests(&self.engine, view, &entries).await;
        for (entry, plan) in entries.into_iter().zip(plans) {
            let is_young = self.is_young(&entry);
            if let Some(plan) = plan {
                findings.take_manifest(entry, &plan, is_young);
            }
        }
    }

    fn youth(&self) -> Duration {
        YOUNG.min(self.options.grace)
    }

    /// Whether the put that wrote it may still be at work.
    fn is_young<I>(&self, entry: &Entry<I>) -> bool {
        let age = self.engine.runtime.wall_time().0.checked_sub(entry.committed_at);
        // The wall clock may have jumped: then some work is done too soon or too late, and none wrongly.
        age.is_some_and(|age| Duration::from_millis(age) < self.youth())
    }

    async fn deal_with_extents(&self, entries: Vec<Entry<ExtentId>>) -> Deeds {
        let rest = Mutex::new(Rest { entries: entries.into(), looked_at: VecDeque::new() });
        let all = future::join_all((0..WINDOW).map(|_| self.deal_with_rest(&rest))).await;
        let mut deeds = Deeds::default();
        all.into_iter().for_each(|one| deeds.add(one));
        deeds
    }

    /// Takes one after the other from what is left, until nothing is or care is paused.
    async fn deal_with_rest(&self, rest: &Mutex<Rest>) -> Deeds {
        let mut deeds = Deeds::default();
        while !self.is_paused() {
            let Some((entry, plan)) = self.next_of(&mut *rest.lock().await).await else { break };
            if let Some(plan) = plan {
                deeds.add(self.deal_with_extent(&entry, plan).await);
            }
            self.lock_status().progress.done += 1;
        }
        deeds
    }

    /// Looks at some of the entries when all that were looked at are dealt with.
    async fn next_of(&self, rest: &mut Rest) -> Option<(Entry<ExtentId>, Option<ExtentPlan>)> {
        if rest.looked_at.is_empty() {
            let some = AT_ONCE.min(rest.entries.len());
            let page: Vec<Entry<ExtentId>> = rest.entries.drain(..some).collect();
            let plans = survey_extents(&self.engine, &self.view(), &page).await;
            rest.looked_at.extend(page.into_iter().zip(plans));
        }
        rest.looked_at.pop_front()
    }

    async fn deal_with_extent(&self, entry: &Entry<ExtentId>, plan: ExtentPlan) -> Deeds {
        let now = self.engine.runtime.now();
        if self.is_young(entry) {
            return Deeds::later(now + self.youth());
        }
        let mut deeds = Deeds::default();
        let (seats, is_turn) = self.seats_to_fill(entry.id, &plan);
        if !seats.is_empty() {
            let repaired = self.repair(entry.id, &plan, seats, is_turn).await;
            let is_in_vain = !plan.is_repairable && !repaired.acted;
            let until = self.engine.runtime.now() + IN_VAIN;
            note_tried(&mut self.memory().hopeless, entry.id, is_in_vain, until);
            deeds.add(repaired);
        }
        deeds.add(self.settle_extent(entry, &plan).await);
        if self.is_overdue(entry.id, &plan) {
            let brought = self.bring_overdue(entry, &plan).await;
            if brought.settled_at.is_none() {
                // It is tried once in each such time.
                self.memory().claimed.insert(entry.id, now);
            }
            deeds.add(brought);
        }
        deeds
    }

    /// Whether others had their time to bring home what they say they have of this.
    fn is_overdue(&self, id: ExtentId, plan: &ExtentPlan) -> bool {
        let now = self.engine.runtime.now();
        note_claims(&mut self.memory().claimed, id, plan, now)
    }

    /// Whether nothing of what is lost can be made anew but with luck, and that was tried in vain lately.
    fn is_left(&self, id: ExtentId, plan: &ExtentPlan) -> bool {
        let now = self.engine.runtime.now();
        !plan.is_repairable && left_until(&self.memory().hopeless, id, now).is_some()
    }

    /// The seats of what is lost that this node fills now, and whether it is its turn: then all of them, and else its
    /// own. That it lacks something only this node may know: the others have last seen that all was well.
    fn seats_to_fill(&self, id: ExtentId, plan: &ExtentPlan) -> (Vec<Seat>, bool) {
        if !plan.is_due || self.is_left(id, plan) {
            return (Vec::new(), false);
        }
        if self.is_my_turn(*id.as_bytes(), plan.turn) {
            return (plan.lost.clone(), true);
        }
        let local = self.engine.peers.local();
        (plan.lost.iter().copied().filter(|(_, node)| *node == local).collect(), false)
    }

    /// Whether this node is the one to repair: the first holder that answers, or a later one when those before it have
    /// had their time.
    fn is_my_turn(&self, id: [u8; 32], turn: Option<usize>) -> bool {
        let Some(before) = turn else { return false };
        if before == 0 || is_active(Bug::EveryHolderRepairs) {
            return true;
        }
        let now = self.engine.runtime.now();
        let mut memory = self.memory();
        if memory.waiting.len() >= MAX_WAITING && !memory.waiting.contains_key(&id) {
            return false;
        }
        let since = *memory.waiting.entry(id).or_insert(now);
        let patience = TAKE_OVER.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX));
        now - since >= patience
    }

    /// Fills seats of what is lost: where it is this node's turn, wherever there is room.
    async fn repair(&self, id: ExtentId, plan: &ExtentPlan, seats: Vec<Seat>, is_turn: bool) -> Deeds {
        let wanted = seats.len();
        let moved = match self.fill_lost(id, plan, seats, is_turn).await {
            Ok(Some(moved)) => moved,
            Ok(None) => return Deeds::default(),
            Err(error) => {
                tracing::debug!(%error, extent = %id.fmt_short(), "an extent could not be repaired");
                return Deeds { failed: true, ..Deeds::default() };
            }
        };
        count(&self.engine.counters.repair_bytes_read, moved.read);
        count(&self.engine.counters.repair_bytes_written, moved.written);
        let done = moved.seats.len() == wanted;
        if done {
            count(&self.engine.counters.extents_repaired, 1);
        }
        Deeds { acted: !moved.seats.is_empty(), failed: !done, settled_at: None }
    }

    async fn fill_lost(
        &self,
        id: ExtentId,
        plan: &ExtentPlan,
        seats: Vec<Seat>,
        is_turn: bool,
    ) -> Result<Option<Moved>> {
        if !is_turn {
            return self.fill(id, &plan.holders, &seats).await;
        }
        let Some(mending) = self.mending(id, &plan.holders, self.refusing()).await? else { return Ok(None) };
        let moved = mending.fill_somewhere(plan, seats).await?;
        self.note_moved(&moved);
        Ok(Some(moved))
    }

    /// When shards of an extent may be given up again, where that failed lately.
    pub(super) fn kept_until(&self, id: ExtentId) -> Option<Instant> {
        left_until(&self.memory().kept, id, self.engine.runtime.now())
    }

    /// Notes whether shards of an extent could be given up.
    pub(super) fn note_kept(&self, id: ExtentId, is_kept: bool) {
        let until = self.engine.runtime.now() + KEPT;
        note_tried(&mut self.memory().kept, id, is_kept, until);
    }

    /// The nodes that lately took nothing of what they should.
    pub(super) fn refusing(&self) -> BTreeSet<NodeId> {
        let now = self.engine.runtime.now();
        let mut memory = self.memory();
        memory.refused.retain(|_, at| now - *at < REFUSED);
        memory.refused.keys().copied().collect()
    }

    pub(super) fn note_moved(&self, moved: &Moved) {
        self.lock_status().progress.bytes_done += moved.written;
        self.note_refusals(&moved.failed);
    }

    /// Notes who took nothing because it has no room, or because its store takes no writes.
    fn note_refusals(&self, failed: &[(NodeId, ErrorKind)]) {
        let now = self.engine.runtime.now();
        let refused = failed.iter().filter(|(_, kind)| is_lasting(*kind)).map(|(node, _)| (*node, now));
        self.memory().refused.extend(refused);
    }

    /// Fills seats of an extent that this node has a record of; `None` where it has none any more.
    pub(super) async fn fill(
        &self,
        id: ExtentId,
        holders: &[(NodeId, Vec<u8>)],
        seats: &[Seat],
    ) -> Result<Option<Moved>> {
        let Some(mending) = self.mending(id, holders, BTreeSet::new()).await? else { return Ok(None) };
        let moved = mending.fill(seats).await?;
        self.note_moved(&moved);
        Ok(Some(moved))
    }

    /// What it takes to fill seats of an extent; `None` where this node has no record of it any more.
    pub(super) async fn mending(
        &self,
        id: ExtentId,
        holders: &[(NodeId, Vec<u8>)],
        refusing: BTreeSet<NodeId>,
    ) -> Result<Option<Mending<'_>>> {
        let Some(StoredExtent { layout: encoded, .. }) = self.node.stored_extent(id).await? else {
            return Ok(None);
        };
        let layout = Layout::decode(&encoded)?;
        // What is here costs nothing to read.
        let local = self.engine.peers.local();
        let mut holders = holders.to_vec();
        holders.sort_by_key(|(node, _)| *node != local);
        Ok(Some(Mending {
            engine: &self.engine,
            pace: &self.pace,
            share: self.share.clone(),
            id,
            encoded,
            layout,
            holders,
            refusing: refusing.into(),
            failed: Default::default(),
        }))
    }

    async fn deal_with_manifests(&self, view: &View, entries: &[Entry<ObjectId>]) -> Deeds {
        let mut deeds = Deeds::default();
        for (entry, plan) in entries.iter().zip(survey_manifests(&self.engine, view, entries).await) {
            if self.is_paused() {
                break;
            }
            self.lock_status().progress.done += 1;
            let Some(plan) = plan else { continue };
            if self.is_young(entry) {
                deeds.add(Deeds::later(self.engine.runtime.now() + self.youth()));
                continue;
            }
            if !plan.lacking.is_empty() && self.is_my_turn(*entry.id.as_bytes(), plan.turn) {
                deeds.add(self.spread_manifest(entry.id, &plan).await);
            }
            deeds.add(self.settle_manifest(entry, &plan).await);
        }
        deeds
    }

    /// Gives a manifest to those who are to have it; where some of them have no room, to others until there are as
    /// many copies as there should be.
    async fn spread_manifest(&self, object: ObjectId, plan: &ManifestPlan) -> Deeds {
        let Ok(Some(record)) = self.node.stored_manifest(object).await else { return Deeds::default() };
        let mut deeds = Deeds::default();
        let mut refused = 0;
        for node in &plan.lacking {
            let outcome = self.give_manifest(object, &record.manifest, *node, &mut deeds).await;
            refused += usize::from(outcome == Given::Refused);
        }
        let mut short = refused.saturating_sub(plan.strays);
        for node in &plan.next {
            if short == 0 {
                break;
            }
            let outcome = self.give_manifest(object, &record.manifest, *node, &mut deeds).await;
            short -= usize::from(outcome == Given::Taken);
        }
        if refused > 0 {
            deeds.add(Deeds::later(self.engine.runtime.now() + REFUSED));
        }
        deeds
    }

    /// Gives a manifest to a node, unless that lately took nothing.
    async fn give_manifest(
        &self,
        object: ObjectId,
        manifest: &Bytes,
        node: NodeId,
        deeds: &mut Deeds,
    ) -> Given {
        if self.refusing().contains(&node) {
            return Given::Refused;
        }
        match place_manifest(&self.engine, &self.pace, object, manifest, node).await {
            Ok(()) => {
                count(&self.engine.counters.manifests_repaired, 1);
                deeds.acted = true;
                Given::Taken
            }
            Err(error) => {
                tracing::debug!(%error, "a manifest could not be placed");
                deeds.failed = true;
                self.note_refusals(&[(node, error.kind())]);
                if is_lasting(error.kind()) { Given::Refused } else { Given::Failed }
            }
        }
    }
}

#[cfg(test)]
mod tests;
