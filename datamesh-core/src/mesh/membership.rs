//! Members learn of each other: signed node records are exchanged, kept, and passed on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future;
use futures::stream::{FuturesUnordered, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{NodeRecord, Reply, Request, SignedCertificate, SignedRecord, Work, Zone};
use crate::id::NodeId;
use crate::mesh::Core;
use crate::object::ASK_LIMIT;
use crate::observe::Event;
use crate::placement::Merge;
use crate::ports::{Address, Batch, Table, TransportEvent, Way};

/// How often a node compares notes with one other, on average.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(10);

/// Records in one message: a page of them stays under the limits of a message's head.
pub(super) const RECORDS_OF_MESSAGE: usize = 128;

/// Records in the first exchange over a new connection, in a mesh of more than [`RECORDS_OF_MESSAGE`]: a node that
/// comes up has one with each member, and all of them together tell of every member many times.
const RECORDS_OF_GREETING: usize = 32;

/// Peers that hear of a change at once. Each of them tells as many others in turn, so that of a thousand all but one in
/// three thousand, e^-8, hear of it in a few rounds; the rest by gossip.
const TELL_AT_ONCE: usize = 8;

/// How long a node that joins waits for connections to the members that it has just learned of.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);

/// How long an address of a ticket may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How often the wait for connections looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What this node says of itself.
#[derive(Debug)]
pub(super) struct OwnRecord {
    zone: Zone,
    capacity: u64,
    /// Whether this node is leaving and offers nothing any more.
    leaving: AtomicBool,
    current: Mutex<Option<SignedRecord>>,
    /// The highest sequence that others have forgotten this node by.
    pub(super) forgotten: AtomicU64,
    /// What admits this node, where the mesh asks for it.
    pub(super) certificate: Mutex<Option<SignedCertificate>>,
}

impl OwnRecord {
    pub(super) fn new(zone: Zone, capacity: u64) -> Self {
        let (current, certificate) = (Mutex::new(None), Mutex::new(None));
        let (leaving, forgotten) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { zone, capacity, leaving, current, forgotten, certificate }
    }

    /// The sequence of the record that was signed last.
    #[cfg(feature = "sim")]
    pub(super) fn sequence(&self) -> Option<u64> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|signed| signed.record().sequence)
    }

    /// Whether this is what the node says now.
    fn is_current(&self, record: &SignedRecord) -> bool {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(record)
    }

    /// Whether others have forgotten this node by what it says now.
    fn is_forgotten(&self) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = self.forgotten.load(Ordering::Relaxed);
        current.as_ref().is_some_and(|signed| signed.record().sequence <= forgotten)
    }

    /// The capacity that this node offers now.
    fn offered(&self) -> u64 {
        if self.is_leaving() { 0 } else { self.capacity }
    }

    /// Whether this node never offered to hold data.
    pub(super) fn is_client(&self) -> bool {
        self.capacity == 0 && !self.is_leaving()
    }

    /// Whether this node is leaving.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }
}

impl Core {
    /// Reads the records that were kept, and makes this node's own.
    pub(super) async fn load_members(self: &Arc<Self>) -> Result<()> {
        // First who was forgotten, so that none of them is a member again.
        let peers = &self.engine.peers;
        self.recall(Table::Work, Work::EVERY_FORGOTTEN, |record| peers.recall_forgotten(record)).await?;
        let merge = |record| {
            peers.merge(record);
        };
        self.recall(Table::Members, Bytes::new(), merge).await?;
        if self.own.capacity == 0 && peers.record(&peers.local()).is_some() {
            // What it offered before others still have and rely on.
            self.own.leaving.store(true, Ordering::Relaxed);
            self.node.take_no_more().await;
        }
        self.renew_own_record(self.listen_addresses()).await
    }

    async fn recall(&self, table: Table, prefix: Bytes, take: impl Fn(SignedRecord)) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.node.storage().scan_records(table, prefix.clone(), after, 256).await?;
            for (_, value) in &page.records {
                take(SignedRecord::decode(value, &*self.engine.suite)?);
            }
            after = page.records.last().map(|(key, _)| key.clone());
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    pub(super) fn listen_addresses(&self) -> Vec<Address> {
        let of = |transport: &Arc<dyn crate::ports::DynTransport>| transport.listen_addresses();
        self.engine.peers.transports().iter().flat_map(of).take(crate::format::MAX_ADDRESSES).collect()
    }

    /// Signs a new record of this node, keeps it and tells the others.
    ///
    /// A client has no record: nobody needs to find it, and short-lived ones would fill the table.
    pub(super) async fn renew_own_record(self: &Arc<Self>, addresses: Vec<Address>) -> Result<()> {
        if self.own.is_client() {
            return Ok(());
        }
        let local = self.engine.peers.local();
        let kept = self.engine.peers.record(&local);
        let kept_record = kept.as_ref().map(SignedRecord::record);
        let certificate = self.own.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let forgotten = self.own.forgotten.load(Ordering::Relaxed);
        let same = |record: &NodeRecord| {
            record.sequence > forgotten
                && record.addresses == addresses
                && record.certificate == certificate
                && record.zone == self.own.zone
                && record.capacity == self.own.offered()
        };
        let signed = match (&kept, kept_record) {
            (Some(kept), Some(record)) if same(record) => kept.clone(),
            _ => {
                let last = kept_record.map_or(0, |record| record.sequence).max(forgotten);
                let sequence = self.engine.runtime.wall_time().0.max(last.saturating_add(1));
                let record = NodeRecord {
                    node: local,
                    addresses,
                    zone: self.own.zone.clone(),
                    capacity: self.own.offered(),
                    sequence,
                    certificate,
                };
                record.sign(&*self.identity)?
            }
        };
        *self.own.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(signed.clone());
        self.take_records(None, vec![signed]).await
    }

    /// Tells the others that this node offers no capacity any more.
    pub(super) async fn announce_leaving(self: &Arc<Self>) -> Result<()> {
        self.own.leaving.store(true, Ordering::Relaxed);
        self.renew_own_record(self.listen_addresses()).await
    }

    /// Merges records, keeps what is new and passes it on. Whoever told of a node that was forgotten hears of that.
    async fn take_records(self: &Arc<Self>, from: Option<NodeId>, records: Vec<SignedRecord>) -> Result<()> {
        let (mut changed, mut forgotten) = (Vec::new(), BTreeMap::new());
        for record in records {
            match self.engine.peers.merge(record.clone()) {
                Merge::Added | Merge::Updated => changed.push(record),
                Merge::Forgotten => {
                    let node = record.record().node;
                    forgotten.extend(self.engine.peers.forgotten(&node).map(|record| (node, record)));
                }
                Merge::Unchanged | Merge::Full | Merge::Refused => {}
            }
        }
        if let Some(from) = from {
            self.start_telling(from, forgotten.into_values().collect())?;
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.engine.peers.update_routes();
        let mut batch = Batch::new();
        for record in &changed {
            let node = record.record().node;
            batch = batch.put(Table::Members, node.as_bytes().to_vec(), record.encode());
            batch = batch.delete(Table::Work, Work::Forgotten(node).key());
            self.engine.events.emit(Event::Member(node));
        }
        self.node.storage().commit(batch).await?;
        let core = Arc::clone(self);
        self.tasks.start(async move { core.tell(&changed).await })
    }

    /// Whether the members know this node by what it says of itself, and have not forgotten that.
    fn is_own_record_current(&self) -> bool {
        if self.own.is_forgotten() {
            return false;
        }
        let known = self.engine.peers.record(&self.engine.peers.local());
        known.is_none_or(|known| self.own.is_current(&known))
    }

    /// Some connected peers, random ones: as many as hear of a change at once.
    pub(super) fn some_connected(&self) -> Vec<NodeId> {
        self.some_of(self.connected())
    }

    /// As many of these, random ones, as hear of a change at once.
    pub(super) fn some_of(&self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        if nodes.len() > TELL_AT_ONCE {
            let draw: u64 = self.engine.runtime.random().map_or(0, u64::from_le_bytes);
            let start = draw.checked_rem(nodes.len() as u64).unwrap_or(0);
            nodes.rotate_left(usize::try_from(start).unwrap_or(0));
            nodes.truncate(TELL_AT_ONCE);
        }
        nodes
    }

    /// Tells some connected peers, random ones, of records that are new here.
    async fn tell(&self, records: &[SignedRecord]) {
        let encoded: Vec<Bytes> = records.iter().map(SignedRecord::encode).take(RECORDS_OF_MESSAGE).collect();
        let calls = self.some_connected().into_iter().map(|node| {
            let request = Request::Members { records: encoded.clone() };
            self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT)
        });
        // Whoever is not reached hears of it by gossip.
        future::join_all(calls).await;
    }

    /// The peers that are connected now.
    pub(super) fn connected(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> =
            self.engine.peers.transports().iter().flat_map(|transport| transport.connected()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        // Who was revoked learns nothing any more.
        nodes.retain(|node| !self.engine.peers.is_revoked(node));
        nodes
    }

    /// Answers another node's exchange: takes its records in, and gives what it may not have.
    pub(super) async fn answer_members(self: &Arc<Self>, from: NodeId, records: Vec<Bytes>) -> Reply {
        let asked = records.len();
        let records = match self.read_records(&records) {
            Ok(records) => records,
            Err(error) => {
                return Reply::Failed { refusal: crate::format::Refusal::Invalid, text: error.to_string() };
            }
        };
        if let Err(error) = self.take_records(Some(from), records).await {
            tracing::warn!(%error, "member records could not be kept");
        }
        // A greeting is answered in kind.
        let most = if asked == RECORDS_OF_GREETING { asked } else { RECORDS_OF_MESSAGE };
        Reply::Members { records: self.page_of_records(most) }
    }

    /// Reads and checks the records that are not known yet.
    pub(super) fn read_records(&self, records: &[Bytes]) -> Result<Vec<SignedRecord>> {
        let new = records.iter().filter(|bytes| !self.engine.peers.knows(bytes));
        new.map(|bytes| SignedRecord::decode(bytes, &*self.engine.suite)).collect()
    }

    /// What a message tells of the members; `most` records, where they are too many for one.
    fn page_of_records(&self, most: usize) -> Vec<Bytes> {
        let own = self.own.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let peers = &self.engine.peers;
        let random = || self.engine.runtime.random().unwrap_or_default();
        let page =
            page(own, peers.other_count(), most, random, |start, count| peers.others_from(start, count));
        page.iter().map(SignedRecord::encode).collect()
    }

    /// Exchanges records with a node.
    pub(super) async fn exchange(self: &Arc<Self>, node: NodeId) -> Result<()> {
        self.exchange_up_to(RECORDS_OF_MESSAGE, node).await
    }

    async fn exchange_up_to(self: &Arc<Self>, most: usize, node: NodeId) -> Result<()> {
        if self.engine.peers.is_revoked(&node) {
            return Err(
                Error::new(ErrorKind::AccessDenied, "the node was revoked; ask another").with_node(node)
            );
        }
        // First who is not admitted any more, so that none of them is taken in.
        self.exchange_epochs(node).await?;
        let request = Request::Members { records: self.page_of_records(most) };
        match self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await? {
            (Reply::Members { records }, _) => {
                self.take_records(Some(node), self.read_records(&records)?).await?;
            }
            (other, _) => return Err(crate::peers::unexpected(&other, node)),
        }
        // Now each knows whether the other is admitted, and may know the keys.
        self.exchange_keys(node).await
    }

    /// Reaches one of these addresses at least, and learns the members from it.
    ///
    /// # Errors
    /// The own error of an address when none can be reached: of one that leads over the network, where the ticket names
    /// any; what those say that lead no further than this machine would hide it.
    pub(super) async fn bootstrap(self: &Arc<Self>, addresses: &[Address]) -> Result<()> {
        let mut dials: FuturesUnordered<_> = addresses
            .iter()
            .map(|address| async move {
                let joined = async { self.exchange(self.dial(address).await?).await };
                (self.way_of(address), joined.await)
            })
            .collect();
        let nothing = Error::new(ErrorKind::InvalidInput, "the ticket names no address; ask for a new one");
        let mut failed = (None, nothing);
        let mut reached = false;
        // The first that answers names the others; a silent address holds nobody up.
        while let Some((way, joined)) = dials.next().await {
            match joined {
                Ok(()) => {
                    reached = true;
                    break;
                }
                Err(error) if way >= failed.0 => failed = (way, error),
                Err(_) => {}
            }
        }
        if !reached {
            return Err(failed.1.with_operation("join"));
        }
        self.settle().await;
        Ok(())
    }

    /// By what kind of way an address leads to its node, where any transport can read it.
    fn way_of(&self, address: &Address) -> Option<Way> {
        self.engine.peers.transports().iter().find_map(|transport| transport.way_of(address))
    }

    async fn dial(&self, address: &Address) -> Result<NodeId> {
        let mut failed =
            Error::new(ErrorKind::Unavailable, "this mesh has no transport; it is a mesh of one");
        for (number, transport) in self.engine.peers.transports().iter().enumerate() {
            match transport.connect(address.clone(), CONNECT_LIMIT).await {
                Ok(node) => {
                    self.engine.peers.connected(number, node);
                    return Ok(node);
                }
                Err(error) => failed = error.with_subject(address),
            }
        }
        Err(failed)
    }

    /// Waits, not for long, until the members that are known are connected.
    async fn settle(&self) {
        let runtime = &*self.engine.runtime;
        let _ = runtime.timeout(SETTLE_LIMIT, self.until(|core| core.storage_nodes_connected().1)).await;
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.engine.runtime.sleep(LOOK_AGAIN).await;
        }
    }

    /// How many members that hold data are connected (this node among them), and whether all are.
    pub(super) fn storage_nodes_connected(&self) -> (usize, bool) {
        self.engine.peers.storage_connected()
    }

    /// Compares notes with a random connected peer, again and again.
    pub(super) async fn gossip(self: Arc<Self>) {
        loop {
            self.engine.runtime.sleep_about(GOSSIP_INTERVAL).await;
            self.expel();
            self.compare_routes();
            // Whatever counts was to be kept when it came; a full disk may not have.
            if let Err(error) = self.keep_epochs().await.and(self.keep_keys().await) {
                tracing::debug!(%error, "the newest epoch or mesh key could not be kept");
            }
            // As often as this, memory that a burst has left is given back.
            self.engine.buffers.trim();
            self.engine.code.trim();
            // A node that lost its disk hears of a record that it has forgotten, and whose clock was ahead of its own.
            if !self.is_own_record_current()
                && let Err(error) = self.renew_own_record(self.listen_addresses()).await
            {
                tracing::warn!(%error, "this node's record could not be renewed");
            }
            let connected = self.connected();
            let draw: u64 = self.engine.runtime.random().map_or(0, u64::from_le_bytes);
            let pick = usize::try_from(draw >> 32).unwrap_or(0) % connected.len().max(1);
            if let Some(node) = connected.get(pick)
                && let Err(error) = self.exchange(*node).await
            {
                tracing::debug!(%error, "gossip failed");
            }
        }
    }

    /// Follows what one transport tells.
    pub(super) async fn follow(self: Arc<Self>, number: usize) {
        let Some(transport) = self.engine.peers.transports().get(number).cloned() else { return };
        while let Some(event) = transport.next_event().await {
            match event {
                TransportEvent::Connected(node) => self.on_connected(number, node),
                TransportEvent::Disconnected(node) => self.on_disconnected(number, node),
                TransportEvent::Listening(addresses) => {
                    self.engine.events.emit(Event::Listening(addresses));
                    if let Err(error) = self.renew_own_record(self.listen_addresses()).await {
                        tracing::warn!(%error, "this node's new addresses could not be kept");
                    }
                }
                TransportEvent::Refused(text) => self.engine.events.emit(Event::Refused(text)),
            }
        }
    }

    /// Makes good what no event told: one may have been pushed out of a full queue, or overtaken by the end of a dial.
    fn compare_routes(self: &Arc<Self>) {
        for (number, transport) in self.engine.peers.transports().iter().enumerate() {
            let connected = transport.connected().into_iter().collect();
            let (new, gone) = self.engine.peers.misjudged(number, &connected);
            gone.into_iter().for_each(|node| self.on_disconnected(number, node));
            new.into_iter().for_each(|node| self.on_connected(number, node));
        }
    }

    fn on_disconnected(&self, number: usize, node: NodeId) {
        if self.engine.peers.disconnected(number, node) {
            self.engine.events.emit(Event::NodeDown(node));
        }
    }

    fn on_connected(self: &Arc<Self>, number: usize, node: NodeId) {
        self.engine.peers.connected(number, node);
        self.engine.events.emit(Event::NodeUp(node));
        // A member may have lost what it held. Clients hold nothing, and may come and go often; who becomes a member
        // now is noticed when its record is taken in.
        if self.engine.peers.is_member(&node) {
            self.care.wake();
        }
        // One exchange tells both, so one of them begins it; should it fail, gossip makes up for it.
        if self.engine.peers.local() > node {
            return;
        }
        let core = Arc::clone(self);
        let exchange = async move {
            if let Err(error) = core.exchange_up_to(RECORDS_OF_GREETING, node).await {
                tracing::debug!(%error, "the first exchange with a peer failed");
            }
        };
        // A runtime that is gone has no use for new members.
        let _ = self.tasks.start(exchange);
    }
}

/// A node's own record, where it has one, and a run of the others: all, or where they do not all fit into a message so
/// many that there are `most`, from a random place on.
fn page(
    own: Option<SignedRecord>,
    others: usize,
    most: usize,
    random: impl FnOnce() -> [u8; 32],
    run: impl FnOnce(NodeId, usize) -> Vec<SignedRecord>,
) -> Vec<SignedRecord> {
    let most_others = |most: usize| most.saturating_sub(usize::from(own.is_some()));
    let all = most_others(RECORDS_OF_MESSAGE);
    // Names are hashes, so a random one stands at a random place among them.
    let (start, count) = if others > all { (random(), most_others(most)) } else { ([0; 32], all) };
    own.into_iter().chain(run(NodeId::from_bytes(start), count)).collect()
}

#[cfg(test)]
mod tests;
