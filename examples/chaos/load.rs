//! Clients that put, read and remove objects all the time, and write down what came of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datamesh::ports::Runtime;
use datamesh::{Capability, Error, ErrorKind, Mesh, NodeId};
use futures::stream::{self, StreamExt};

use crate::checker::{Operation, Outcome, Verb};
use crate::draws::Draws;

/// Objects that are kept at a time; then one is removed for each that is put.
const KEPT: usize = 60;

/// How long one attempt may take, and how long it is tried again.
const ATTEMPT: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(75);

/// The pause of a client between two requests or attempts.
const PAUSE: Duration = Duration::from_millis(60);

/// Objects that are asked about at a time.
const AT_ONCE: usize = 4;

/// An object that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    capability: Capability,
    len: u64,
    removed: bool,
}

/// What the clients share.
pub(crate) struct Book {
    seed: u64,
    runtime: Arc<dyn Runtime>,
    started: Instant,
    objects: Mutex<BTreeMap<u64, Kept>>,
    history: Mutex<Vec<Operation>>,
    next: AtomicU64,
    /// Told to end.
    pub(crate) stop: AtomicBool,
    /// The nodes that live; a removal need not reach others.
    nodes: Mutex<Vec<NodeId>>,
    /// Puts that were acknowledged with less than the full margin.
    pub(crate) thin: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Book {
    pub(crate) fn new(seed: u64, runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self {
            seed,
            runtime,
            started: Instant::now(),
            objects: Mutex::default(),
            history: Mutex::default(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            nodes: Mutex::default(),
            thin: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    pub(crate) fn set_nodes(&self, nodes: Vec<NodeId>) {
        *lock(&self.nodes) = nodes;
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn history(&self) -> Vec<Operation> {
        lock(&self.history).clone()
    }

    /// The numbers of those that are kept, and of those that were removed.
    pub(crate) fn numbers(&self, removed: bool) -> Vec<u64> {
        let objects = lock(&self.objects);
        objects.iter().filter(|(_, kept)| kept.removed == removed).map(|(number, _)| *number).collect()
    }

    fn kept(&self, number: u64) -> Option<Kept> {
        lock(&self.objects).get(&number).cloned()
    }

    fn note(&self, object: u64, verb: Verb, began: Duration, outcome: Outcome) {
        let ended = self.elapsed();
        lock(&self.history).push(Operation { object, verb, began, ended, outcome });
    }

    /// The bytes of an object: noise from its number.
    fn content(&self, number: u64, len: u64) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&number.to_le_bytes());
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    async fn put(&self, mesh: &Mesh, draws: &mut Draws) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let len = match draws.below(10) {
            0..4 => draws.below(16 << 10),
            4..8 => draws.between(16 << 10, 200 << 10),
            _ => draws.between(200 << 10, 3 << 20),
        };
        let bytes = self.content(number, len);
        let began = self.elapsed();
        let outcome = match mesh.put(bytes).deadline(PATIENCE).await {
            Ok(receipt) => {
                if receipt.margin < receipt.redundancy.parity() {
                    self.thin.fetch_add(1, Ordering::Relaxed);
                }
                self.bytes.fetch_add(len, Ordering::Relaxed);
                let kept = Kept { capability: receipt.capability, len, removed: false };
                lock(&self.objects).insert(number, kept);
                Outcome::Done
            }
            Err(error) => failed(&error),
        };
        self.note(number, Verb::Put, began, outcome);
    }

    /// Reads an object and compares it.
    pub(crate) async fn get(&self, mesh: &Mesh, number: u64) -> Outcome {
        let Some(kept) = self.kept(number) else { return Outcome::NotFound };
        let attempt = if kept.removed { ATTEMPT / 6 } else { ATTEMPT };
        let began = self.elapsed();
        let outcome = loop {
            match mesh.get(&kept.capability).deadline(attempt).await {
                Ok(bytes) => break compare(&bytes, &self.content(number, kept.len)),
                // What is silent now may answer in a moment. Where a node was wiped, nobody can prove that what was
                // removed, before or meanwhile, is not there: then one silent answer is enough.
                Err(error) if error.is_retryable() && self.may_wait(number, began) => {
                    self.runtime.sleep(PAUSE).await;
                }
                Err(error) => break failed(&error),
            }
        };
        self.note(number, Verb::Get, began, outcome.clone());
        outcome
    }

    /// Whether an object that is not read yet may still be.
    fn may_wait(&self, number: u64, began: Duration) -> bool {
        self.kept(number).is_some_and(|kept| !kept.removed) && self.elapsed() < began + PATIENCE
    }

    async fn remove(&self, mesh: &Mesh, number: u64) {
        let capability = {
            let mut objects = lock(&self.objects);
            let Some(kept) = objects.get_mut(&number).filter(|kept| !kept.removed) else { return };
            kept.removed = true;
            kept.capability.clone()
        };
        let began = self.elapsed();
        // Whatever comes of it, nobody may rely on the object from here on.
        let outcome = match mesh.remove(&capability).deadline(PATIENCE).await {
            Ok(removal) => {
                let live = lock(&self.nodes).clone();
                let all = live.iter().all(|node| !removal.unreached.contains(node));
                // A node that is down and comes back is told later, too.
                if all && live.len() >= crate::run::NODES { Outcome::Done } else { Outcome::DoneInPart }
            }
            Err(error) => failed(&error),
        };
        self.note(number, Verb::Remove, began, outcome);
    }

    /// Asks for one thing after the other until told to end.
    pub(crate) async fn work(&self, mesh: &Mesh, name: &str) {
        let mut draws = Draws::new(self.seed, name);
        while !self.stop.load(Ordering::Relaxed) {
            let kept = self.numbers(false);
            match (draws.below(10), draws.one(&kept)) {
                (0..2, Some(number)) if kept.len() >= KEPT => self.remove(mesh, number).await,
                (0..4, _) if kept.len() < KEPT => self.put(mesh, &mut draws).await,
                (4, Some(number)) if kept.len() > KEPT / 2 => self.remove(mesh, number).await,
                (5, _) => {
                    // What was removed stays away.
                    let removed = self.numbers(true);
                    let last = removed.len().saturating_sub(KEPT);
                    if let Some(number) = draws.one(removed.get(last..).unwrap_or_default()) {
                        self.get(mesh, number).await;
                    }
                }
                (_, Some(number)) => drop(self.get(mesh, number).await),
                (_, None) => self.put(mesh, &mut draws).await,
            }
            self.runtime.sleep(PAUSE).await;
        }
    }

    /// How many of the objects that are kept lack some of their margin, and how many there are.
    pub(crate) async fn recount(&self, mesh: &Mesh, margin: usize) -> (usize, usize) {
        let numbers = self.numbers(false);
        let ask = |number: &u64| {
            let (number, kept) = (*number, self.kept(*number));
            async move {
                let health = mesh.health(&kept?.capability).deadline(ATTEMPT).await;
                let full = health.is_ok_and(|health| health.margin.is_some_and(|has| has >= margin));
                // One that was removed meanwhile need have nothing.
                let is_kept = self.kept(number).is_some_and(|kept| !kept.removed);
                Some(full || !is_kept)
            }
        };
        let answers: Vec<_> = stream::iter(numbers.iter().map(ask)).buffer_unordered(AT_ONCE).collect().await;
        (answers.iter().filter(|full| **full == Some(false)).count(), answers.len())
    }
}

fn failed(error: &Error) -> Outcome {
    match error.kind() {
        ErrorKind::NotFound => Outcome::NotFound,
        _ if error.is_retryable() => Outcome::Unreachable(error.to_string()),
        kind => Outcome::Failed(format!("{kind:?}: {error}")),
    }
}

fn compare(bytes: &[u8], expected: &[u8]) -> Outcome {
    if bytes == expected {
        return Outcome::Right;
    }
    let at = bytes.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(bytes.len().min(expected.len()));
    Outcome::Wrong(format!("{} bytes for {}, other from byte {at} on", bytes.len(), expected.len()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
