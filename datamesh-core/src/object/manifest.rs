//! Manifests: brought to their holders, and found again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, Either};
use futures::stream::{FuturesUnordered, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{RemovalSecret, Reply, Request};
use crate::id::{NodeId, ObjectId, OperationId};
use crate::object::gather::{gather, retry_limit};
use crate::object::{ASK_LIMIT, Engine, STORE_LIMIT};
use crate::observe::{Event, count};
use crate::peers::unexpected;
use crate::placement::{CallClass, DEFAULT_HEDGE, rank};
use crate::planted::{Bug, is_active};
use crate::ports::Redundancy;

/// How many more nodes are asked at a time when the first holders do not have a manifest.
const SEARCH_WIDTH: usize = 8;

/// What became of the attempt to store a manifest.
#[derive(Debug, Default)]
struct Outcome {
    stored: Vec<NodeId>,
    unknown: Vec<NodeId>,
    failed: Vec<NodeId>,
    last_error: Option<Error>,
    /// Whether everything that failed did so for want of space.
    all_full: bool,
    /// How long the first round took.
    took: Option<Duration>,
}

/// Stores a manifest with the first m + 1 live nodes of its order, or as many as there are, at least `least`.
///
/// # Errors
/// `NotStored` when fewer than `least` took it and none has it any more, `StorageFull` when that was for want of space;
/// `OutcomeUnknown` otherwise.
pub(super) async fn write_manifest(
    engine: &Arc<Engine>,
    operation: OperationId,
    object: ObjectId,
    manifest: &Bytes,
    redundancy: Redundancy,
    least: usize,
    secret: &RemovalSecret,
) -> Result<Vec<NodeId>> {
    let members = engine.peers.live_members();
    let prompt = engine.peers.prompt_members(object.as_bytes(), redundancy);
    let ranking = rank(object.as_bytes(), &members);
    let wanted = (redundancy.parity() + 1).min(ranking.len());
    let first = rank(object.as_bytes(), &prompt).manifest_order();
    let slow = ranking.manifest_order().into_iter().filter(|node| !first.contains(node));
    let slow: Vec<NodeId> = slow.collect();
    let mut candidates = first.into_iter().chain(slow);
    let mut outcome = Outcome { all_full: true, ..Outcome::default() };
    let wanted = if is_active(Bug::AcknowledgeOneManifest) { 1 } else { wanted };
    while outcome.stored.len() < wanted {
        let round: Vec<NodeId> = candidates.by_ref().take(wanted - outcome.stored.len()).collect();
        if round.is_empty() {
            break;
        }
        store_round(engine, operation, manifest, round, &mut outcome).await;
    }
    if is_active(Bug::AcknowledgeOneManifest) && !outcome.stored.is_empty() {
        return Ok(ranking.manifest_holders(redundancy));
    }
    if outcome.stored.len() >= least.max(1) {
        return Ok(outcome.stored);
    }
    Err(undo(engine, object, outcome, least.max(1), secret).await)
}

async fn store_round(
    engine: &Arc<Engine>,
    operation: OperationId,
    manifest: &Bytes,
    round: Vec<NodeId>,
    outcome: &mut Outcome,
) {
    let spare = round.len().saturating_sub(1);
    let limit = retry_limit(outcome.took, STORE_LIMIT);
    let call =
        |node| (node, engine.peers.call(node, Request::PutManifest { operation }, manifest.clone(), limit));
    let calls = round.into_iter().map(call).collect();
    let started = engine.runtime.now();
    let answers = gather(&*engine.runtime, calls, spare).await;
    outcome.took.get_or_insert(engine.runtime.now() - started);
    for (node, answer) in answers {
        let error = match answer {
            Ok((Reply::Done, _)) => {
                outcome.stored.push(node);
                continue;
            }
            Ok((other, _)) => unexpected(&other, node),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::OutcomeUnknown => outcome.unknown.push(node),
            _ => outcome.failed.push(node),
        }
        if error.kind() == ErrorKind::TimedOut {
            engine.peers.given_up(node);
        }
        outcome.all_full &= error.kind() == ErrorKind::StorageFull;
        engine.events.emit(Event::HolderReplaced { node, reason: error.to_string() });
        outcome.last_error = Some(error);
    }
}

/// Takes a manifest back that too few hold, and says how sure that is.
async fn undo(
    engine: &Arc<Engine>,
    object: ObjectId,
    outcome: Outcome,
    need: usize,
    secret: &RemovalSecret,
) -> Error {
    let Outcome { stored, unknown, failed, last_error, all_full, .. } = outcome;
    let have = stored.len();
    let touched: Vec<NodeId> = stored.into_iter().chain(unknown.iter().copied()).collect();
    let calls = touched.into_iter().map(|node| {
        let request = Request::RemoveObject { object, secret: secret.clone() };
        (node, engine.peers.call(node, request, Bytes::new(), ASK_LIMIT))
    });
    let answers = gather(&*engine.runtime, calls.collect(), 0).await;
    let gone = |answer: &Result<(Reply, Bytes)>| {
        matches!(answer, Ok((Reply::Done | Reply::Absent | Reply::Removed, _)))
    };
    let is_gone = answers.iter().all(|(_, answer)| gone(answer));
    let error = if is_gone && all_full && !failed.is_empty() {
        Error::new(ErrorKind::StorageFull, "no holder has space for the manifest; free some and put again")
    } else if is_gone {
        Error::new(
            ErrorKind::NotStored,
            "too few holders took the manifest; see which nodes are up and put again",
        )
    } else {
        Error::new(
            ErrorKind::OutcomeUnknown,
            "some holders may have taken the manifest; put again when they answer",
        )
    };
    let error =
        error.with_subject(object).with_counts(have, need, failed.into_iter().chain(unknown).collect());
    match last_error {
        Some(source) => error.with_source(source),
        None => error,
    }
}

/// Finds a manifest: with the holders that the ranking names, then with every member.
///
/// # Errors
/// `NotFound` when every member that can hold data answered and none has it; `Unavailable` when some did not answer.
pub(crate) async fn find_manifest(engine: &Arc<Engine>, object: ObjectId) -> Result<Bytes> {
    let members = engine.peers.storage_members();
    let mut search = Search {
        engine,
        object,
        absent: BTreeSet::new(),
        silent: BTreeSet::new(),
        removed: false,
        hedge: DEFAULT_HEDGE,
    };
    let mut order: Vec<NodeId> = rank(object.as_bytes(), &members).manifest_order();
    engine.peers.order_by_promise(&mut order, &members);
    order.extend(engine.peers.leaving_holders());
    let asked = order.len();
    let mut order = order.into_iter();
    let mut width = 1;
    loop {
        match search.ask(&mut order, width).await {
            Some(manifest) => return Ok(manifest),
            None if order.len() == 0 => return Err(search.failure(asked)),
            None => width = SEARCH_WIDTH,
        }
    }
}

struct Search<'a> {
    engine: &'a Arc<Engine>,
    object: ObjectId,
    absent: BTreeSet<NodeId>,
    silent: BTreeSet<NodeId>,
    removed: bool,
    /// How long whoever was asked last is waited for before the next is asked as well.
    hedge: Duration,
}

impl Search<'_> {
    /// Asks the next `width` nodes at once, and one more whenever the answers are slow or bad.
    async fn ask(&mut self, order: &mut impl Iterator<Item = NodeId>, width: usize) -> Option<Bytes> {
        let mut running = FuturesUnordered::new();
        for node in order.by_ref().take(width) {
            running.push(self.question(node));
        }
        while !running.is_empty() {
            let hedge = self.engine.runtime.sleep(self.hedge);
            match future::select(running.next(), hedge).await {
                Either::Left((Some((node, answer)), _)) => {
                    if let Some(manifest) = self.judge(node, answer) {
                        return Some(manifest);
                    }
                    if let Some(node) = order.next() {
                        running.push(self.question(node));
                    }
                }
                Either::Left((None, _)) => break,
                Either::Right(_) => {
                    if let Some(node) = order.next() {
                        count(&self.engine.counters.hedges, 1);
                        running.push(self.question(node));
                    }
                }
            }
        }
        None
    }

    fn question(&mut self, node: NodeId) -> impl Future<Output = (NodeId, Result<(Reply, Bytes)>)> + use<> {
        let engine = Arc::clone(self.engine);
        self.hedge = engine.peers.hedge_after(&node, CallClass::Small);
        let request = Request::ReadManifest { object: self.object };
        async move { (node, engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await) }
    }

    fn judge(&mut self, node: NodeId, answer: Result<(Reply, Bytes)>) -> Option<Bytes> {
        match answer {
            Ok((Reply::Done, manifest)) if ObjectId::of(&manifest) == self.object => return Some(manifest),
            Ok((Reply::Absent, _)) => drop(self.absent.insert(node)),
            Ok((Reply::Removed, _)) => {
                self.removed = true;
                self.absent.insert(node);
            }
            Ok((Reply::Done, _)) => {
                count(&self.engine.counters.wrong_answers, 1);
                self.engine.peers.answered_wrongly(node);
                self.engine.events.emit(Event::WrongManifest { node, object: self.object });
                self.silent.insert(node);
            }
            Err(_) if is_active(Bug::TimeoutIsAbsence) => drop(self.absent.insert(node)),
            Ok(_) | Err(_) => drop(self.silent.insert(node)),
        }
        None
    }

    fn failure(self, members: usize) -> Error {
        if members == 0 {
            return Error::new(
                ErrorKind::Unavailable,
                "no member that holds data is known; join the mesh first",
            )
            .with_subject(self.object);
        }
        if self.silent.is_empty() {
            let text =
                if self.removed { "the object was removed" } else { "no node of the mesh has the object" };
            return Error::new(ErrorKind::NotFound, text).with_subject(self.object);
        }
        let text = format!(
            "no manifest among {} that answered; start the missing nodes and retry",
            self.absent.len()
        );
        Error::new(ErrorKind::Unavailable, text).with_subject(self.object).with_counts(
            0,
            1,
            self.silent.into_iter().collect(),
        )
    }
}
