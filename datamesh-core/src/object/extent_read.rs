//! Reading one extent: shards from the likeliest holders, others where these are slow, silent or wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, BoxFuture, Either};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, pin_mut};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Layout, PlacementKey, Reply, Request, StoredExtent};
use crate::gate::Gate;
use crate::id::{ExtentId, NodeId, ShardId};
use crate::object::gather::gather;
use crate::object::segment::{Codec, Coder, Decoded, Place, wrong_shards};
use crate::object::{ASK_LIMIT, Engine, READ_LIMIT};
use crate::observe::{Event, count};
use crate::peers::unexpected;
use crate::placement::{CallClass, DEFAULT_HEDGE, rank};
use crate::ports::Redundancy;

/// What asking for a parity shard costs in the choice of holders, beside its latency: a decode takes CPU that a busy
/// machine has not, so parity is asked for only where a data shard's holder is several times slower.
const PARITY_COST: Duration = Duration::from_millis(5);

/// How many times a parity shard's latency counts.
const PARITY_FACTOR: u32 = 3;

/// What an earlier failure of a holder, in this read, costs in the choice.
const FAILED_COST: Duration = Duration::from_secs(600);

/// An extent that is being read.
#[derive(Debug)]
pub(crate) struct ExtentReader {
    engine: Arc<Engine>,
    id: ExtentId,
    layout: Layout,
    /// To whom the ranking assigns it. They keep what they have whatever the order, so that one may have the shard of
    /// another.
    homes: Vec<NodeId>,
    known: Mutex<Known>,
    describing: Gate,
}

/// What is known of the holders.
#[derive(Debug, Default)]
struct Known {
    /// Who is believed to hold each shard index, best guess first.
    holders: Vec<Vec<NodeId>>,
    /// Who has a record of it, by what was described: of an index that it does not describe it may have all but a few
    /// shards.
    recorded: BTreeSet<NodeId>,
    /// Whether those to whom it is assigned were asked what they have, and whether all members were.
    asked: bool,
    described: bool,
    /// Who failed in this read.
    failed: BTreeSet<NodeId>,
    /// Who lacked a shard with this index: another segment's may be there all the same.
    lacking: BTreeSet<(usize, NodeId)>,
    /// Who did not answer, for the error.
    silent: BTreeSet<NodeId>,
}

/// The shards of one segment as they come in.
struct Collecting {
    shards: Vec<Option<Bytes>>,
    from: Vec<Option<NodeId>>,
    tried: BTreeSet<(usize, NodeId)>,
    /// The indexes that are being fetched, and from whom.
    running: BTreeMap<usize, NodeId>,
    extra: usize,
    /// Whether all that the members describe was taken into account.
    described: bool,
    /// Whether everybody who has a record is asked for every shard.
    is_last_stage: bool,
}

/// What became of the attempt to make shards anew.
#[derive(Debug)]
pub(crate) enum Rebuilt {
    /// The shards, with their indexes, and how many bytes were read for them.
    Shards { shards: Vec<(usize, Bytes)>, read: usize },
    /// The right shards of the segment contradict each other: its writer made them so.
    Poisoned,
}

type Fetch = BoxFuture<'static, (usize, NodeId, Result<Option<Bytes>>)>;

impl ExtentReader {
    pub(super) fn new(engine: &Arc<Engine>, id: ExtentId, layout: Layout) -> Self {
        let members = engine.peers.storage_members();
        let ranking = rank(layout.placement.as_bytes(), &members);
        let guess = ranking.assign(layout.redundancy);
        let holder = |index| guess.as_ref().and_then(|guess| guess.holder(index)).into_iter().collect();
        let known =
            Known { holders: (0..layout.redundancy.total()).map(holder).collect(), ..Known::default() };
        let homes =
            guess.map_or_else(Vec::new, |guess| guess.by_node().into_iter().map(|(node, _)| node).collect());
        Self { homes, ..Self::with(engine, id, layout, known) }
    }

    fn with(engine: &Arc<Engine>, id: ExtentId, layout: Layout, known: Known) -> Self {
        let (engine, homes) = (Arc::clone(engine), Vec::new());
        Self { engine, id, layout, homes, known: Mutex::new(known), describing: Gate::default() }
    }

    /// A reader of an extent of which this node has a record.
    pub(crate) fn stored(engine: &Arc<Engine>, id: ExtentId, record: &StoredExtent) -> Result<Self> {
        Ok(Self::new(engine, id, Layout::decode(&record.layout)?))
    }

    /// A reader that knows who holds what.
    pub(crate) fn knowing(
        engine: &Arc<Engine>,
        id: ExtentId,
        layout: Layout,
        holdings: &[(NodeId, Vec<u8>)],
    ) -> Self {
        let has = |index: usize| {
            move |(_, held): &&(NodeId, Vec<u8>)| held.iter().any(|i| usize::from(*i) == index)
        };
        let holders = |index| holdings.iter().filter(has(index)).map(|(node, _)| *node).collect();
        let holders = (0..layout.redundancy.total()).map(holders).collect();
        Self::with(engine, id, layout, Known { holders, ..Known::default() })
    }

    /// Asks the extent's holders for its layout, then the others by rank, and checks it against its name.
    ///
    /// # Errors
    /// `Unavailable` when some did not answer, `NotFound` when all did and none has it.
    pub(super) async fn find_layout(
        engine: &Arc<Engine>,
        id: ExtentId,
        placement: &PlacementKey,
        redundancy: Redundancy,
    ) -> Result<Layout> {
        let members = engine.peers.storage_members();
        let mut order: Vec<NodeId> = rank(placement.as_bytes(), &members).extent_order(redundancy);
        engine.peers.order_by_promise(&mut order, &members);
        order.extend(engine.peers.leaving_holders());
        let mut order = order.into_iter();
        let mut silent = Vec::new();
        let mut running = FuturesUnordered::new();
        let ask = |node| {
            let call = engine.peers.call(node, Request::ReadLayout { extent: id }, Bytes::new(), ASK_LIMIT);
            call.map(move |answer| (node, answer))
        };
        let mut last = order.next();
        running.extend(last.map(ask));
        while !running.is_empty() {
            let patience =
                last.map_or(DEFAULT_HEDGE, |node| engine.peers.hedge_after(&node, CallClass::Small));
            let hedge = engine.runtime.sleep(patience);
            match future::select(running.next(), hedge).await {
                Either::Left((Some((_, Ok((Reply::Done, body)))), _)) if ExtentId::of(&body) == id => {
                    return Layout::decode(&body);
                }
                Either::Left((Some((_, Ok((Reply::Absent | Reply::Removed, _)))), _)) | Either::Right(_) => {}
                Either::Left((Some((node, _)), _)) => silent.push(node),
                Either::Left((None, _)) => break,
            }
            let next = order.next();
            running.extend(next.map(ask));
            last = next.or(last);
        }
        if silent.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "no node of the mesh has this extent; it is lost or was removed",
            )
            .with_subject(id));
        }
        let text = "no layout among the nodes that answered; start the missing nodes and retry";
        Err(Error::new(ErrorKind::Unavailable, text).with_subject(id).with_counts(0, 1, silent))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The extent's name.
    pub(crate) fn id(&self) -> ExtentId {
        self.id
    }

    /// The layout.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The plaintext of one segment.
    ///
    /// # Errors
    /// `Unavailable` with have, need and who was missing, when fewer than k right shards can be had.
    pub(super) async fn read_segment(
        &self,
        codec: &Arc<Codec>,
        segment: usize,
        place: Place,
        plain_len: usize,
    ) -> Result<Bytes> {
        let expected = crate::format::shard_len(plain_len + crate::format::TAG_LEN, self.layout.redundancy);
        if self.layout.shard_len_of(segment) != expected || segment >= usize::from(self.layout.segments) {
            return Err(Error::new(ErrorKind::Corrupt, "the layout does not fit the object's length"));
        }
        let mut collecting = self.collecting();
        loop {
            self.collect(segment, &mut collecting).await?;
            let (codec, layout, shards) = (Arc::clone(codec), self.layout.clone(), collecting.shards.clone());
            let work = move || codec.decode(&layout, segment, place, plain_len, &shards);
            match self.engine.runtime.compute(work).await?? {
                Decoded::Plain(plain) => {
                    self.count_decoded(&collecting);
                    return Ok(plain);
                }
                Decoded::Wrong(wrong) => self.discard(segment, wrong, &mut collecting),
            }
        }
    }

    /// Makes shards of a segment anew from any k others, which are read once however many are wanted.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` as [`read_segment`](Self::read_segment) when fewer than k right shards can be had.
    pub(crate) async fn rebuild_segment(
        &self,
        coder: &Coder,
        segment: usize,
        wanted: &[usize],
    ) -> Result<Rebuilt> {
        let mut collecting = self.collecting();
        loop {
            self.collect(segment, &mut collecting).await?;
            let (coder, layout, shards) = (coder.clone(), self.layout.clone(), collecting.shards.clone());
            let wanted = wanted.to_vec();
            let work = move || {
                let wrong = wrong_shards(&layout, segment, &shards);
                let made = wrong.is_empty().then(|| coder.rebuild(&layout, segment, &shards, &wanted));
                (wrong, made)
            };
            let (wrong, made) = self.engine.runtime.compute(work).await?;
            let read = collecting.shards.iter().flatten().map(Bytes::len).sum();
            match made {
                None => self.discard(segment, wrong, &mut collecting),
                Some(Ok(shards)) => return Ok(Rebuilt::Shards { shards, read }),
                Some(Err(error)) if error.kind() == ErrorKind::Corrupt => return Ok(Rebuilt::Poisoned),
                Some(Err(error)) => return Err(error),
            }
        }
    }

    fn collecting(&self) -> Collecting {
        let total = self.layout.redundancy.total();
        Collecting {
            shards: vec![None; total],
            from: vec![None; total],
            tried: BTreeSet::new(),
            running: BTreeMap::new(),
            extra: 0,
            described: false,
            is_last_stage: false,
        }
    }

    fn count_decoded(&self, collecting: &Collecting) {
        count(&self.engine.counters.segments_decoded, 1);
        if collecting.shards.iter().take(self.layout.redundancy.data()).any(Option::is_none) {
            count(&self.engine.counters.segments_reconstructed, 1);
        }
    }

    /// Fetches shards of a segment until k are there.
    async fn collect(&self, segment: usize, collecting: &mut Collecting) -> Result<()> {
        let need = self.layout.redundancy.data();
        let mut fetches: FuturesUnordered<Fetch> = FuturesUnordered::new();
        while collecting.have() < need {
            while collecting.have() + fetches.len() < need + collecting.extra {
                let Some((index, node)) = self.next_candidate(collecting) else { break };
                fetches.push(self.fetch(segment, index, node, collecting));
            }
            if fetches.is_empty() {
                if !std::mem::replace(&mut collecting.described, true) {
                    self.describe(true).await;
                    continue;
                }
                // Only whole indexes are described: who lacks a shard of another segment may have the one of this.
                if !std::mem::replace(&mut collecting.is_last_stage, true) {
                    continue;
                }
                return Err(self.too_few(collecting.have(), need));
            }
            let hedge = self.engine.runtime.sleep(self.hedge_after(collecting));
            let next = fetches.next();
            pin_mut!(next);
            match future::select(next, hedge).await {
                Either::Left((Some((index, node, answer)), _)) => {
                    let is_absent = matches!(answer, Ok(None));
                    self.take(index, node, answer, collecting);
                    if is_absent && collecting.have() < need {
                        self.describe(false).await;
                    }
                }
                Either::Left((None, _)) => {}
                Either::Right(_) => {
                    // Whoever owes an answer may owe it for long: others may have what it has.
                    if self.next_candidate(collecting).is_none()
                        && !std::mem::replace(&mut collecting.described, true)
                    {
                        self.describe(true).await;
                    }
                    if collecting.extra < self.layout.redundancy.total() {
                        collecting.extra += 1;
                        count(&self.engine.counters.hedges, 1);
                    }
                }
            }
        }
        // What was under way is dropped unanswered, and can be asked for again if a shard turns out to be wrong.
        for (index, node) in std::mem::take(&mut collecting.running) {
            collecting.tried.remove(&(index, node));
        }
        Ok(())
    }

    /// The likeliest holder that was not asked yet of a shard that is not there yet.
    fn next_candidate(&self, collecting: &Collecting) -> Option<(usize, NodeId)> {
        let known = self.known();
        let data = self.layout.redundancy.data();
        let wanted = |index: &usize| !collecting.running.contains_key(index) && collecting.is_missing(*index);
        let pairs = known.holders.iter().enumerate().filter(|(index, _)| wanted(index));
        let pairs = pairs.flat_map(|(index, nodes)| nodes.iter().map(move |node| (index, *node)));
        let recorded = known.recorded.iter().filter(|_| collecting.is_last_stage);
        let any = (0..known.holders.len()).filter(wanted);
        let any = any.flat_map(|index| recorded.clone().map(move |node| (index, *node)));
        let cost = |(index, node): &(usize, NodeId)| {
            let mut cost = self.engine.peers.score(node);
            if *index >= data {
                cost = cost.saturating_mul(PARITY_FACTOR).saturating_add(PARITY_COST);
            }
            if known.failed.contains(node) || known.lacking.contains(&(*index, *node)) {
                cost += FAILED_COST;
            }
            (cost, *index)
        };
        pairs.chain(any).filter(|pair| !collecting.tried.contains(pair)).min_by_key(cost)
    }

    fn fetch(&self, segment: usize, index: usize, node: NodeId, collecting: &mut Collecting) -> Fetch {
        collecting.tried.insert((index, node));
        collecting.running.insert(index, node);
        let engine = Arc::clone(&self.engine);
        let shard = self.layout.shard(segment, index);
        async move {
            let Some(shard) = shard else { return (index, node, Ok(None)) };
            let answer =
                engine.peers.call(node, Request::ReadShard { shard }, Bytes::new(), READ_LIMIT).await;
            let answer = match answer {
                Ok((Reply::Done, body)) => Ok(Some(body)),
                Ok((Reply::Absent | Reply::Removed, _)) => Ok(None),
                Ok((other, _)) => Err(unexpected(&other, node)),
                Err(error) => Err(error),
            };
            (index, node, answer)
        }
        .boxed()
    }

    fn take(&self, index: usize, node: NodeId, answer: Result<Option<Bytes>>, collecting: &mut Collecting) {
        collecting.running.remove(&index);
        match answer {
            Ok(Some(body)) => {
                collecting.put(index, Some((body, node)));
                // Whoever was found in the last stage is asked for the next segment's at once.
                self.known().may_hold(index, node);
            }
            Ok(None) => drop(self.known().lacking.insert((index, node))),
            Err(error) => {
                let mut known = self.known();
                known.failed.insert(node);
                if error.kind() != ErrorKind::Corrupt {
                    known.silent.insert(node);
                }
            }
        }
    }

    fn hedge_after(&self, collecting: &Collecting) -> Duration {
        let asked = collecting.running.values();
        let slowest = asked.map(|node| self.engine.peers.hedge_after(node, CallClass::Bulk)).max();
        slowest.unwrap_or(DEFAULT_HEDGE)
    }

    /// Drops shards that are not what the layout names, and tells of those who sent them.
    fn discard(&self, segment: usize, wrong: Vec<usize>, collecting: &mut Collecting) {
        for index in wrong {
            let sender = collecting.from.get(index).copied().flatten();
            collecting.put(index, None);
            let (Some(node), Some(shard)) = (sender, self.layout.shard(segment, index)) else { continue };
            self.known().failed.insert(node);
            self.accuse(node, shard);
        }
    }

    fn accuse(&self, node: NodeId, shard: ShardId) {
        count(&self.engine.counters.wrong_answers, 1);
        self.engine.peers.answered_wrongly(node);
        self.engine.events.emit(Event::WrongShard { node, extent: self.id, shard });
        let engine = Arc::clone(&self.engine);
        let hint = async move {
            // A hint: the holder looks for itself, and nothing depends on its answer.
            let _ = engine.peers.call(node, Request::Recheck { shard }, Bytes::new(), ASK_LIMIT).await;
        };
        let _ = self.engine.runtime.spawn(hint.boxed());
    }

    /// Asks what they hold of the extent those to whom it is assigned, or every member, once for all segments.
    async fn describe(&self, is_all: bool) {
        let _one_at_a_time = self.describing.alone().await;
        let is_done = |known: &Known| known.described || known.asked && !is_all;
        if is_done(&self.known()) {
            return;
        }
        let holdings = if is_all {
            self.holdings_of(self.engine.peers.possible_holders()).await
        } else {
            self.first_holdings().await
        };
        let mut known = self.known();
        known.asked = true;
        known.described |= is_all;
        for (node, answer) in holdings {
            match answer {
                Ok(Some(indexes)) => {
                    known.recorded.insert(node);
                    indexes.into_iter().for_each(|index| known.may_hold(usize::from(index), node));
                }
                Ok(None) => {}
                Err(_) => drop(known.silent.insert(node)),
            }
        }
    }

    /// What every member that may hold data says that it holds of the extent.
    pub(crate) async fn holdings(&self) -> Vec<(NodeId, Result<Vec<u8>>)> {
        let holdings = self.holdings_of(self.engine.peers.possible_holders()).await;
        holdings.into_iter().map(|(node, answer)| (node, answer.map(Option::unwrap_or_default))).collect()
    }

    /// What those say to whom it is assigned: all but m, and who answers as soon as they did. A slow one is not waited
    /// for: the shards of the others will do.
    async fn first_holdings(&self) -> Vec<(NodeId, Result<Option<Vec<u8>>>)> {
        let runtime = &self.engine.runtime;
        let started = runtime.now();
        let asked = self.homes.iter().map(|node| self.ask_holding(*node).map(|answer| (*node, answer)));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut answers = Vec::with_capacity(asked.len());
        while asked.len() > self.layout.redundancy.parity() {
            answers.extend(asked.next().await);
        }
        let mut grace = runtime.sleep(runtime.now() - started);
        while let Either::Left((Some(answer), _)) = future::select(asked.next(), &mut grace).await {
            answers.push(answer);
        }
        answers
    }

    /// What these nodes say; `None` of one that has no record of the extent.
    async fn holdings_of(&self, nodes: Vec<NodeId>) -> Vec<(NodeId, Result<Option<Vec<u8>>>)> {
        let calls = nodes.into_iter().map(|node| (node, self.ask_holding(node))).collect();
        gather(&*self.engine.runtime, calls, self.layout.redundancy.parity()).await
    }

    async fn ask_holding(&self, node: NodeId) -> Result<Option<Vec<u8>>> {
        let total = self.layout.redundancy.total();
        let request = Request::Describe { extents: vec![self.id] };
        match self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await? {
            (Reply::Described { held }, _) => {
                let mut held = held.into_iter().next().flatten();
                held.iter_mut().for_each(|held| held.retain(|index| usize::from(*index) < total));
                Ok(held)
            }
            (other, _) => Err(unexpected(&other, node)),
        }
    }

    fn too_few(&self, have: usize, need: usize) -> Error {
        let known = self.known();
        let missing: Vec<NodeId> =
            known.silent.iter().chain(&known.failed).copied().collect::<BTreeSet<_>>().into_iter().collect();
        if known.silent.is_empty() {
            let text = "every member answered, and too few right shards are left; the segment is lost unless a holder comes back";
            return Error::new(ErrorKind::Corrupt, text).with_counts(have, need, missing);
        }
        Error::new(ErrorKind::Unavailable, "too few shards could be had; start the missing nodes and retry")
            .with_counts(have, need, missing)
    }
}

impl Known {
    /// Takes in that a node may have shards with this index.
    fn may_hold(&mut self, index: usize, node: NodeId) {
        let holders = self.holders.get_mut(index).filter(|holders| !holders.contains(&node));
        holders.into_iter().for_each(|holders| holders.push(node));
    }
}

impl Collecting {
    fn have(&self) -> usize {
        self.shards.iter().flatten().count()
    }

    fn is_missing(&self, index: usize) -> bool {
        self.shards.get(index).is_some_and(Option::is_none)
    }

    fn put(&mut self, index: usize, shard: Option<(Bytes, NodeId)>) {
        let (shard, node) = shard.unzip();
        if let (Some(slot), Some(from)) = (self.shards.get_mut(index), self.from.get_mut(index)) {
            (*slot, *from) = (shard, node);
        }
    }
}
