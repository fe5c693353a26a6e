//! Certificates and epochs on a node: kept, exchanged, and acted on.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::future;

use crate::admission::Policy;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    AdmissionKey, AdmissionKeys, Epoch, Epochs, MAX_EPOCHS, Refusal, Reply, Request, SignedCertificate,
    SignedEpoch,
};
use crate::id::NodeId;
use crate::mesh::{Core, Mesh};
use crate::object::ASK_LIMIT;
use crate::observe::Event;
use crate::peers::unexpected;
use crate::ports::{Batch, Table};

/// Under these names a node keeps what it knows of admission.
const KEYS: &[u8] = b"admission keys";
const EPOCHS: &[u8] = b"admission epochs";
const CERTIFICATE: &[u8] = b"admission certificate";

/// What tells epochs from others ([`Epochs::rank`]).
type Rank = (u64, [u8; 32]);

impl Mesh {
    /// The admission keys of the mesh; where there are none, whoever has the ticket may hold data.
    pub fn admission_keys(&self) -> Vec<AdmissionKey> {
        self.core().engine.peers.policy(|policy| policy.keys().to_vec())
    }

    /// What the newest epochs that this node has seen say together: mostly it is one epoch. Where operators who did not
    /// know of each other signed the same number, all of these count, up to eight: a node is revoked where one of them
    /// revokes it. [`Admission::new`](crate::Admission::new) goes on from it.
    pub fn epoch(&self) -> Option<Epoch> {
        self.core().engine.peers.policy(|policy| policy.epochs().together().cloned())
    }

    /// Takes a new epoch in, keeps it, and tells the members, who tell others. One that counts already is kept and told
    /// again. Returns how many other members have answered that they have it, of the eight at most that are told at
    /// once; a node that holds data goes on telling those that it meets.
    ///
    /// Who is not admitted any more is no member from now on: others get what it held, from others. So revoke at most
    /// as many nodes at a time as the redundancy bears, and wait for the margins. Who is revoked by name is cut off
    /// besides, until an epoch revokes it no more ([`Transport::refuse`](crate::ports::Transport::refuse)).
    ///
    /// Epochs of one number that were signed by operators who did not know of each other all count, until one of a
    /// higher number takes their place: it should be signed from what [`epoch`](Self::epoch) says. Where the mesh was
    /// cut in two, what one side has signed is lost to an epoch of a higher number that the other side has signed.
    ///
    /// # Errors
    /// `AccessDenied` for an epoch that none of the mesh's keys has signed. `InvalidInput` for one that does not count,
    /// because this node, or a member that it told, knows one with a higher number, or eight others of that number:
    /// sign anew from [`epoch`](Self::epoch). The store's own, where the epoch could not be kept; it counts until the
    /// node is opened anew.
    ///
    /// `OutcomeUnknown` on a client, which is not there for long, where no member has answered that it has the epoch.
    ///
    /// # Cancel safety
    /// Safe to drop: the epoch then counts, or does not, and can be given again. Whoever was not told hears of it by
    /// gossip.
    pub async fn set_epoch(&self, epoch: SignedEpoch) -> Result<usize> {
        let set = self.core().set_epoch(&epoch);
        set.await.map_err(|error| error.with_operation("set epoch"))
    }

    /// Gives this node a new certificate, which takes the place of the one that it has.
    ///
    /// # Errors
    /// `AccessDenied` for one that does not count: another node's, ended, revoked, or of a key that is not the
    /// mesh's; the store's own.
    ///
    /// # Cancel safety
    /// Safe to drop: the node then has the new one, or the old one.
    pub async fn set_certificate(&self, certificate: SignedCertificate) -> Result<()> {
        self.core()
            .take_certificate(certificate)
            .await
            .map_err(|error| error.with_operation("set certificate"))
    }
}

impl Core {
    /// Reads what was kept, and puts what was told now beside it.
    pub(super) async fn load_admission(
        &self,
        told: Vec<AdmissionKey>,
        certificate: Option<SignedCertificate>,
    ) -> Result<()> {
        let (storage, suite) = (self.node.storage(), &*self.engine.suite);
        let kept = storage.read_record(Table::Node, Bytes::from_static(KEYS)).await?;
        let kept = kept.map(|bytes| AdmissionKeys::decode(&bytes)).transpose()?.map(|keys| keys.0);
        let keys = match kept {
            Some(kept) if !told.is_empty() && kept != told => {
                let text = "the directory belongs to a mesh with other admission keys; use another directory or ticket";
                return Err(Error::new(ErrorKind::AccessDenied, text));
            }
            Some(kept) => kept,
            None => told,
        };
        if keys.is_empty() {
            return Ok(());
        }
        let mut policy = Policy::new(keys.clone());
        if let Some(bytes) = storage.read_record(Table::Node, Bytes::from_static(EPOCHS)).await? {
            for epoch in Epochs::decode(&bytes, suite)?.signed() {
                policy.take(epoch.clone());
            }
        }
        let mut batch = Batch::new().put(Table::Node, KEYS, AdmissionKeys(keys).encode());
        let certificate = match certificate {
            Some(new) => {
                batch = batch.put(Table::Node, CERTIFICATE, new.encode());
                Some(new)
            }
            None => {
                let kept = storage.read_record(Table::Node, Bytes::from_static(CERTIFICATE)).await?;
                kept.map(|bytes| SignedCertificate::decode(&bytes, suite)).transpose()?
            }
        };
        let (local, now) = (self.engine.peers.local(), self.engine.peers.wall_time());
        let is_admitted = certificate.as_ref().is_some_and(|one| policy.accepts(one, &local, now));
        if !self.own.is_client() && !is_admitted {
            let text = "this mesh admits those who hold data by certificate, and this node has none that counts; ask for one \
                        for its id, or offer a capacity of 0";
            return Err(Error::new(ErrorKind::AccessDenied, text).with_node(local));
        }
        storage.commit(batch).await?;
        *self.own.certificate.lock().unwrap_or_else(PoisonError::into_inner) = certificate;
        self.engine.peers.policy_mut(|current| *current = policy);
        self.engine.peers.update_refused();
        Ok(())
    }

    async fn take_certificate(self: &Arc<Self>, certificate: SignedCertificate) -> Result<()> {
        let (local, now) = (self.engine.peers.local(), self.engine.peers.wall_time());
        if !self.engine.peers.policy(|policy| policy.accepts(&certificate, &local, now)) {
            let text =
                "the certificate does not count: it is of another node or key, has ended, or was revoked";
            return Err(Error::new(ErrorKind::AccessDenied, text).with_node(local));
        }
        let batch = Batch::new().put(Table::Node, CERTIFICATE, certificate.encode());
        self.node.storage().commit(batch).await?;
        *self.own.certificate.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
        self.renew_own_record(self.listen_addresses()).await
    }

    async fn set_epoch(self: &Arc<Self>, epoch: &SignedEpoch) -> Result<usize> {
        // Who was a member before: an epoch may leave nobody who is one after it.
        let members: BTreeSet<NodeId> = self.others().into_iter().collect();
        self.take_epochs(std::slice::from_ref(epoch))?;
        self.is_current(epoch)?;
        // It counts already, also where a full disk does not keep it. And also again: it may not have been kept, or told.
        let kept = self.keep_epochs().await;
        // Where all have been retired a client knows no members, and is connected with those that were.
        let is_told = |node: &NodeId| members.contains(node) || (members.is_empty() && self.own.is_client());
        let (told, others): (Vec<_>, Vec<_>) = self.connected().into_iter().partition(is_told);
        let (told, _) = future::join(self.tell_epochs(told), self.tell_epochs(others)).await;
        // Somebody may have answered that it knows a newer one.
        self.is_current(epoch)?;
        kept?;
        if told == 0 && self.own.is_client() {
            let number = epoch.epoch().number;
            let text = format!(
                "no member has answered that it has epoch {number}, and this node is a client, which does not stay to tell \
                 it; give it again when a member is connected"
            );
            return Err(Error::new(ErrorKind::OutcomeUnknown, text));
        }
        Ok(told)
    }

    fn others(&self) -> Vec<NodeId> {
        let records = self.engine.peers.records();
        let nodes = records.iter().map(|record| record.record().node);
        nodes.filter(|node| *node != self.engine.peers.local()).collect()
    }

    /// Refuses an epoch that does not count, and says why.
    fn is_current(&self, epoch: &SignedEpoch) -> Result<()> {
        let number = epoch.epoch().number;
        let newest = self.engine.peers.policy(|policy| {
            let epochs = policy.epochs();
            if epochs.contains(epoch) { None } else { epochs.together().map(|newest| newest.number) }
        });
        let text = match newest {
            None => return Ok(()),
            Some(newest) if newest > number => {
                format!("epoch {number} is older than {newest}, which this mesh has, and changes nothing")
            }
            Some(_) => {
                format!(
                    "this mesh has {MAX_EPOCHS} other epochs of the number {number}, and takes no more of it"
                )
            }
        };
        let text = format!("{text}; sign anew, going on from what `Mesh::epoch` says");
        Err(Error::new(ErrorKind::InvalidInput, text))
    }

    /// Takes epochs in that are newer or beside those that are known, and acts on them before they are passed on;
    /// whether there were any.
    fn take_epochs(&self, epochs: &[SignedEpoch]) -> Result<bool> {
        let is_ours = |policy: &Policy| epochs.iter().all(|epoch| policy.keys().contains(&epoch.authority()));
        if !self.engine.peers.policy(is_ours) {
            let text = "the epoch is signed by none of the mesh's admission keys";
            return Err(Error::new(ErrorKind::AccessDenied, text));
        }
        let take = |policy: &mut Policy| epochs.iter().filter(|epoch| policy.take((*epoch).clone())).count();
        if self.engine.peers.policy_mut(take) == 0 {
            return Ok(false);
        }
        self.engine.peers.update_refused();
        self.expel();
        Ok(true)
    }

    /// Keeps the newest epochs that were seen, unless they are kept already.
    pub(super) async fn keep_epochs(&self) -> Result<()> {
        let (storage, (_, bytes)) = (self.node.storage(), self.known_epochs());
        let kept = storage.read_record(Table::Node, Bytes::from_static(EPOCHS)).await?;
        if bytes.is_empty() || kept.as_ref() == Some(&bytes) {
            return Ok(());
        }
        storage.commit(Batch::new().put(Table::Node, EPOCHS, bytes)).await
    }

    /// What tells the epochs of this node from others, and their encoded form.
    fn known_epochs(&self) -> (Rank, Bytes) {
        self.engine.peers.policy(|policy| (policy.epochs().rank(), policy.epochs().encode()))
    }

    /// Forgets members that are not admitted any more.
    pub(super) fn expel(&self) {
        let expelled = self.engine.peers.expel();
        if expelled.is_empty() {
            return;
        }
        self.engine.peers.update_routes();
        for node in expelled {
            tracing::warn!(node = %node.fmt_short(), "admitted no more: its certificate has ended or was revoked");
            self.engine.events.emit(Event::Expelled(node));
        }
        self.care.wake();
    }

    /// Tells some of these of the epochs, who tell others: how many have answered that they have them. Whoever is not
    /// reached hears of them by gossip.
    async fn tell_epochs(self: &Arc<Self>, nodes: Vec<NodeId>) -> usize {
        let (rank, encoded) = self.known_epochs();
        let calls = self.some_of(nodes).into_iter().map(|node| self.ask_epochs(node, rank, encoded.clone()));
        future::join_all(calls).await.iter().filter(|answer| answer.is_ok()).count()
    }

    /// Compares epochs with a node: asks for others than these of their number, and for newer ones.
    pub(super) async fn exchange_epochs(self: &Arc<Self>, node: NodeId) -> Result<()> {
        if !self.engine.peers.policy(Policy::is_on) {
            return Ok(());
        }
        self.ask_epochs(node, self.known_epochs().0, Bytes::new()).await
    }

    async fn ask_epochs(self: &Arc<Self>, node: NodeId, (number, hash): Rank, body: Bytes) -> Result<()> {
        match self.engine.peers.call(node, Request::Epoch { number, hash }, body, ASK_LIMIT).await? {
            (Reply::Done, body) if body.is_empty() => Ok(()),
            (Reply::Done, body) => {
                let is_new = self.read_epochs(&body)?;
                self.keep_and_spread(is_new).await
            }
            (other, _) => Err(unexpected(&other, node)),
        }
    }

    /// Answers another node's: takes its epochs in where it sent some, and gives those of this node where it does not
    /// have them all.
    pub(super) async fn answer_epochs(self: &Arc<Self>, known: Rank, body: Bytes) -> (Reply, Bytes) {
        if !self.engine.peers.policy(Policy::is_on) {
            return (Reply::Done, Bytes::new());
        }
        if !body.is_empty() {
            let refuse = |refusal, text| (Reply::Failed { refusal, text }, Bytes::new());
            let is_new = match self.read_epochs(&body) {
                Ok(is_new) => is_new,
                Err(error) => return refuse(Refusal::Invalid, error.to_string()),
            };
            if let Err(error) = self.keep_and_spread(is_new).await {
                return refuse(Refusal::Internal, format!("the epoch could not be kept: {:?}", error.kind()));
            }
        }
        let (own, encoded) = self.known_epochs();
        let is_news = own.0 > known.0 || (own.0 == known.0 && own.1 != known.1);
        (Reply::Done, if is_news { encoded } else { Bytes::new() })
    }

    /// Takes in what another node has sent; whether anything of it was new.
    fn read_epochs(&self, bytes: &[u8]) -> Result<bool> {
        // The usual case costs no signatures.
        if bytes == self.known_epochs().1 {
            return Ok(false);
        }
        self.take_epochs(Epochs::decode(bytes, &*self.engine.suite)?.signed())
    }

    /// Keeps what was taken in, also what was known before, for it may not have been kept; and tells others what is new.
    async fn keep_and_spread(self: &Arc<Self>, is_new: bool) -> Result<()> {
        let kept = self.keep_epochs().await;
        if is_new {
            self.spread_epochs()?;
        }
        kept
    }

    /// Tells others in the background.
    fn spread_epochs(self: &Arc<Self>) -> Result<()> {
        let core = Arc::clone(self);
        self.tasks.start(async move {
            core.tell_epochs(core.connected()).await;
        })
    }
}
