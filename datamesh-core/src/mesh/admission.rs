//! Certificates and epochs on a node: kept, exchanged, and acted on.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::admission::Policy;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{AdmissionKey, AdmissionKeys, Refusal, Reply, Request, SignedCertificate, SignedEpoch};
use crate::id::NodeId;
use crate::mesh::{Core, Mesh};
use crate::object::ASK_LIMIT;
use crate::observe::Event;
use crate::peers::unexpected;
use crate::ports::{Batch, Table};

/// Under these names a node keeps what it knows of admission.
const KEYS: &[u8] = b"admission keys";
const EPOCH: &[u8] = b"admission epoch";
const CERTIFICATE: &[u8] = b"admission certificate";

impl Mesh {
    /// The admission keys of the mesh; where there are none, whoever has the ticket may hold data.
    pub fn admission_keys(&self) -> Vec<AdmissionKey> {
        self.core().engine.peers.policy(|policy| policy.keys().to_vec())
    }

    /// The newest epoch that this node has seen.
    pub fn epoch(&self) -> Option<SignedEpoch> {
        self.core().engine.peers.policy(|policy| policy.epoch().cloned())
    }

    /// Takes a new epoch in, keeps it, and tells the others. The newest one that was seen is kept and told again; an
    /// older one changes nothing.
    ///
    /// Who is not admitted any more is no member from now on: others get what it held, from others. So revoke at most
    /// as many nodes at a time as the redundancy bears, and wait for the margins. Who is revoked by name is cut off
    /// besides, until an epoch revokes it no more ([`Transport::refuse`](crate::ports::Transport::refuse)).
    ///
    /// # Errors
    /// `AccessDenied` for an epoch that none of the mesh's keys has signed; the store's own.
    ///
    /// # Cancel safety
    /// Safe to drop: the epoch then counts, or does not, and can be given again. Whoever was not told hears of it by
    /// gossip.
    pub async fn set_epoch(&self, epoch: SignedEpoch) -> Result<()> {
        let (core, named) = (self.core(), |error: Error| error.with_operation("set epoch"));
        let is_newer = core.take_epoch(&epoch).map_err(named)?;
        // Also again: it may not have been kept, or told.
        if !is_newer && self.epoch().as_ref() != Some(&epoch) {
            return Ok(());
        }
        // It counts already, also where a full disk does not keep it.
        let kept = core.keep_epoch().await;
        core.tell_epoch(&epoch).await;
        kept.map_err(named)
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
        let epoch = storage.read_record(Table::Node, Bytes::from_static(EPOCH)).await?;
        if let Some(bytes) = epoch {
            policy.take(SignedEpoch::decode(&bytes, suite)?);
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

    /// Takes an epoch in if it is newer, and acts on it before it is passed on; whether it was.
    fn take_epoch(&self, epoch: &SignedEpoch) -> Result<bool> {
        let is_ours = self.engine.peers.policy(|policy| policy.keys().contains(&epoch.authority()));
        if !is_ours {
            let text = "the epoch is signed by none of the mesh's admission keys";
            return Err(Error::new(ErrorKind::AccessDenied, text));
        }
        if !self.engine.peers.policy_mut(|policy| policy.take(epoch.clone())) {
            return Ok(false);
        }
        self.engine.peers.update_refused();
        self.expel();
        Ok(true)
    }

    /// Keeps the newest epoch that was seen, unless it is kept already.
    pub(super) async fn keep_epoch(&self) -> Result<()> {
        let Some(epoch) = self.engine.peers.policy(|policy| policy.epoch().cloned()) else { return Ok(()) };
        let (storage, bytes) = (self.node.storage(), epoch.encode());
        if storage.read_record(Table::Node, Bytes::from_static(EPOCH)).await?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        storage.commit(Batch::new().put(Table::Node, EPOCH, bytes)).await
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

    /// Tells some of those who are connected of an epoch, who tell others. Whoever is not reached hears of it by
    /// gossip.
    async fn tell_epoch(&self, epoch: &SignedEpoch) {
        let request = Request::Epoch { number: epoch.epoch().number };
        let tell = |node| self.engine.peers.call(node, request.clone(), epoch.encode(), ASK_LIMIT);
        let calls = self.some_connected().into_iter().map(tell);
        futures::future::join_all(calls).await;
    }

    /// Answers another node's: takes its epoch in where it sent one, and gives a newer one where there is one.
    pub(super) async fn answer_epoch(self: &Arc<Self>, number: u64, body: Bytes) -> (Reply, Bytes) {
        if !self.engine.peers.policy(Policy::is_on) {
            return (Reply::Done, Bytes::new());
        }
        if !body.is_empty()
            && let Err(error) = self.read_epoch(&body).await
        {
            return (Reply::Failed { refusal: Refusal::Invalid, text: error.to_string() }, Bytes::new());
        }
        let newer = self.epoch_after(number).map(|epoch| epoch.encode());
        (Reply::Done, newer.unwrap_or_default())
    }

    async fn read_epoch(self: &Arc<Self>, bytes: &[u8]) -> Result<()> {
        let epoch = SignedEpoch::decode(bytes, &*self.engine.suite)?;
        let is_newer = self.take_epoch(&epoch)?;
        // Also one that was told before: it may not have been kept.
        let kept = self.keep_epoch().await;
        if !is_newer {
            return kept;
        }
        let core = Arc::clone(self);
        self.tasks.start(async move { core.tell_epoch(&epoch).await })?;
        kept
    }

    fn epoch_after(&self, number: u64) -> Option<SignedEpoch> {
        let epoch = self.engine.peers.policy(|policy| policy.epoch().cloned());
        epoch.filter(|epoch| epoch.epoch().number > number)
    }

    /// Compares epochs with a node: asks for a newer one.
    pub(super) async fn exchange_epoch(self: &Arc<Self>, node: NodeId) -> Result<()> {
        if !self.engine.peers.policy(Policy::is_on) {
            return Ok(());
        }
        let request = Request::Epoch { number: self.engine.peers.policy(Policy::number) };
        match self.engine.peers.call(node, request, Bytes::new(), ASK_LIMIT).await? {
            (Reply::Done, body) if body.is_empty() => Ok(()),
            (Reply::Done, body) => self.read_epoch(&body).await,
            (other, _) => Err(unexpected(&other, node)),
        }
    }
}
