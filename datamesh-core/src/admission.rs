//! Who may hold data where a mesh has admission keys, and who issues that.

use std::sync::Arc;

use crate::error::Result;
use crate::format::{
    AdmissionKey, Certificate, Epoch, Epochs, NodeRecord, SignedCertificate, SignedEpoch, Zone,
};
use crate::id::NodeId;
use crate::ports::{Identity, Timestamp};

/// Issues the certificates of a mesh, and revokes them: the tool of who has an admission key.
///
/// The key belongs on no node. Keep one for each mesh, for a certificate does not name the mesh that it is for.
#[derive(Debug, Clone)]
pub struct Admission {
    authority: Arc<dyn Identity>,
    epoch: Epoch,
}

impl Admission {
    /// Issues with this key, going on from what counts in the mesh now ([`Mesh::epoch`](crate::Mesh::epoch)), or from
    /// the epoch that was signed last; `None` where there is none yet.
    ///
    /// A mesh that has gone on from there takes nothing that is signed so.
    pub fn new(authority: Arc<dyn Identity>, last: Option<&Epoch>) -> Self {
        Self { authority, epoch: last.cloned().unwrap_or_default() }
    }

    /// The public key, for [`MeshBuilder::admission`](crate::MeshBuilder::admission).
    pub fn key(&self) -> AdmissionKey {
        AdmissionKey::of(&*self.authority)
    }

    /// Admits a node until a moment, with at most this capacity in bytes, in this zone or in that which it says itself.
    pub fn issue(
        &self,
        node: NodeId,
        zone: Option<Zone>,
        capacity: u64,
        not_after: Timestamp,
    ) -> SignedCertificate {
        let epoch = self.epoch.number;
        Certificate { node, zone, capacity, not_after, epoch }.sign(&*self.authority)
    }

    /// Admits a node no more, from the epoch on that this returns; give it to a node of the mesh
    /// ([`Mesh::set_epoch`](crate::Mesh::set_epoch)), and keep it for the next time.
    ///
    /// # Errors
    /// `LimitExceeded` where 4096 nodes are revoked already: [`retire`](Self::retire) the certificates of earlier
    /// epochs.
    pub fn revoke(&mut self, node: NodeId) -> Result<SignedEpoch> {
        let mut next = self.epoch.clone();
        next.revoked.push(node);
        self.sign(next)
    }

    /// Begins an epoch in which no certificate counts that was issued before it, and nobody needs to be named.
    /// Issue new ones at once: until a node has its new one, it is no member.
    ///
    /// # Errors
    /// None today.
    pub fn retire(&mut self) -> Result<SignedEpoch> {
        let oldest = self.epoch.number.saturating_add(1);
        self.sign(Epoch { number: self.epoch.number, oldest, revoked: Vec::new() })
    }

    fn sign(&mut self, mut next: Epoch) -> Result<SignedEpoch> {
        next.number = self.epoch.number.saturating_add(1);
        let signed = next.sign(&*self.authority)?;
        self.epoch = signed.epoch().clone();
        Ok(signed)
    }
}

/// What a node goes by: the keys that it was told, and the newest epochs that it has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    keys: Vec<AdmissionKey>,
    epochs: Epochs,
}

impl Policy {
    pub(crate) fn new(keys: Vec<AdmissionKey>) -> Self {
        Self { keys, epochs: Epochs::default() }
    }

    /// Whether the mesh has admission keys; where it has none, whoever knows the mesh key may hold data.
    pub(crate) fn is_on(&self) -> bool {
        !self.keys.is_empty()
    }

    pub(crate) fn keys(&self) -> &[AdmissionKey] {
        &self.keys
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Takes an epoch that is signed by one of the keys, and newer than what is known or beside it; whether that
    /// changed anything.
    pub(crate) fn take(&mut self, epoch: SignedEpoch) -> bool {
        self.keys.contains(&epoch.authority()) && self.epochs.take(epoch)
    }

    /// The nodes that were revoked by name.
    pub(crate) fn revoked(&self) -> &[NodeId] {
        self.epochs.together().map_or(&[], |epoch| &epoch.revoked)
    }

    /// Whether a node was revoked by name.
    pub(crate) fn is_revoked(&self, node: &NodeId) -> bool {
        self.revoked().binary_search(node).is_ok()
    }

    /// Whether what a node says of itself makes it a member now.
    pub(crate) fn admits(&self, record: &NodeRecord, now: Timestamp) -> bool {
        !self.is_on()
            || record.certificate.as_ref().is_some_and(|signed| self.accepts(signed, &record.node, now))
    }

    /// Whether a certificate counts for this node now.
    pub(crate) fn accepts(&self, signed: &SignedCertificate, node: &NodeId, now: Timestamp) -> bool {
        let certificate = signed.certificate();
        let oldest = self.epochs.together().map_or(0, |epoch| epoch.oldest);
        self.keys.contains(&signed.authority())
            && certificate.node == *node
            && now <= certificate.not_after
            && certificate.epoch >= oldest
            && !self.is_revoked(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Signature;

    #[derive(Debug)]
    struct Key(u8);

    impl Identity for Key {
        fn node_id(&self) -> NodeId {
            NodeId::from_bytes([self.0; 32])
        }
        fn sign(&self, _: &[u8]) -> Signature {
            [self.0; 64]
        }
    }

    fn record(node: NodeId, certificate: Option<SignedCertificate>) -> NodeRecord {
        let zone = "east".parse().unwrap();
        NodeRecord { node, addresses: Vec::new(), zone, capacity: 100, sequence: 1, certificate }
    }

    #[test]
    fn a_certificate_counts_for_its_node_until_it_ends_or_is_revoked() {
        let (node, other) = (NodeId::from_bytes([7; 32]), NodeId::from_bytes([8; 32]));
        let mut admission = Admission::new(Arc::new(Key(1)), None);
        let stranger = Admission::new(Arc::new(Key(2)), None);
        let mut policy = Policy::new(vec![admission.key()]);
        let end = Timestamp(1000);
        let good = admission.issue(node, Some("west".parse().unwrap()), 60, end);
        let admits = |policy: &Policy, node, certificate: &SignedCertificate, now| {
            policy.admits(&record(node, Some(certificate.clone())), Timestamp(now))
        };
        assert!(admits(&policy, node, &good, 1000));
        assert!(!admits(&policy, node, &good, 1001), "it has ended");
        assert!(!admits(&policy, other, &good, 1), "it is another's");
        assert!(!admits(&policy, node, &stranger.issue(node, None, 60, end), 1), "nobody knows its key");
        assert!(!policy.admits(&record(node, None), Timestamp(1)), "it has none");
        assert!(Policy::default().admits(&record(node, None), Timestamp(1)), "none is needed");

        let said = record(node, Some(good.clone()));
        assert_eq!((said.zone_granted().as_str(), said.capacity_granted()), ("west", 60));
        let plain = record(node, Some(admission.issue(node, None, 600, end)));
        assert_eq!((plain.zone_granted().as_str(), plain.capacity_granted()), ("east", 100));

        let first = admission.revoke(node).unwrap();
        assert!(policy.take(first.clone()) && !policy.take(first.clone()));
        assert!(!admits(&policy, node, &good, 1) && policy.is_revoked(&node));
        let theirs = admission.issue(other, None, 60, end);
        assert!(admits(&policy, other, &theirs, 1));
        let second = admission.retire().unwrap();
        assert!(policy.take(second) && !policy.take(first), "an epoch never goes back");
        assert!(!admits(&policy, other, &theirs, 1) && !admits(&policy, node, &good, 1));
        assert!(admits(&policy, other, &admission.issue(other, None, 60, end), 1));

        let mut forger = Admission::new(Arc::new(Key(2)), None);
        (0..9).for_each(|_| drop(forger.retire()));
        assert!(!policy.take(forger.retire().unwrap()), "an epoch of a stranger");
    }
}
