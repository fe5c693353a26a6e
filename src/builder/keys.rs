//! The keys of a node: its own, and the mesh key, from where they are kept or from a member.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datamesh_core::format::Entry;
use datamesh_core::ports::{DynStorage, Runtime};
use datamesh_core::{Error, ErrorKind, KeyRing, MeshKey, MeshKeys, Result, Ticket};
use datamesh_crypto::{NodeIdentity, SecretKind, open_or_create_secret};

use super::Builder;

/// The file in the directory with the first key of the mesh, which names it; later ones are kept in the store.
const MESH_KEY: &str = "mesh.key";

impl Builder {
    pub(super) async fn open_identity(&self, runtime: &Arc<dyn Runtime>) -> Result<Arc<NodeIdentity>> {
        if let Some(identity) = &self.identity {
            return Ok(Arc::clone(identity));
        }
        let identity = match self.file("identity.key") {
            None => NodeIdentity::from_secret(runtime.random()?),
            Some(path) => {
                let random = Arc::clone(runtime);
                runtime.compute(move || NodeIdentity::open_or_create(path, || random.random())).await??
            }
        };
        Ok(Arc::new(identity))
    }

    /// The keys that are kept, and the ticket's where those are newer; else what was told, or a new key. Kept in the
    /// store and the directory.
    pub(super) async fn open_keys(
        &self,
        runtime: &Arc<dyn Runtime>,
        identity: &NodeIdentity,
        storage: &dyn DynStorage,
    ) -> Result<KeyRing> {
        let kept = match KeyRing::kept(storage).await? {
            None => self.read_key(runtime).await?.map(MeshKeys::first),
            kept => kept,
        };
        let told = self.told(runtime, identity, kept.as_ref()).await?;
        let ring = match (kept, told) {
            (Some(kept), Some(told)) => KeyRing::new(choose(kept, told, self.rejoins)),
            (Some(kept), None) => KeyRing::new(kept),
            (None, Some(told)) => KeyRing::new(told),
            (None, None) => KeyRing::of(MeshKey::from_bytes(runtime.random()?)),
        };
        ring.keep(storage).await?;
        // A later key in the file would name another mesh where the store is lost.
        if let Some(path) = self.file(MESH_KEY).filter(|_| ring.keys().are_first()) {
            let key = ring.current();
            let make = move || Ok(*key.as_bytes());
            runtime.compute(move || open_or_create_secret(SecretKind::MeshKey, path, make)).await??;
        }
        Ok(ring)
    }

    /// The first key of the mesh, if the directory was begun with it.
    async fn read_key(&self, runtime: &Arc<dyn Runtime>) -> Result<Option<MeshKey>> {
        let Some(path) = self.file(MESH_KEY).filter(|path| path.exists()) else { return Ok(None) };
        let make = || Err(Error::new(ErrorKind::Io, "the mesh key file has gone while it was opened"));
        let kept = runtime.compute(move || open_or_create_secret(SecretKind::MeshKey, path, make)).await??;
        Ok(Some(MeshKey::from_bytes(*kept)))
    }

    /// The keys of the ticket, or the key that was given, if it is of the mesh of those that are kept.
    async fn told(
        &self,
        runtime: &Arc<dyn Runtime>,
        identity: &NodeIdentity,
        kept: Option<&MeshKeys>,
    ) -> Result<Option<MeshKeys>> {
        let is_of_kept = |network| kept.is_none_or(|kept| kept.network == network);
        let is_kept = |key| kept.is_some_and(|kept| kept.contains(key));
        if !self.ticket.as_ref().is_none_or(|ticket| is_of_kept(*ticket.network()))
            || !self.mesh_key.as_ref().is_none_or(|key| is_kept(key) || is_of_kept(key.network_name()))
        {
            let text =
                "the directory belongs to another mesh; use another directory, or a ticket of that mesh";
            return Err(Error::new(ErrorKind::AccessDenied, text));
        }
        match self.ticket.as_ref().map(|ticket| (ticket, &ticket.entry)) {
            Some((_, Entry::Key(keys))) => Ok(Some(keys.clone())),
            Some((_, Entry::Invitation(invitation)))
                if kept.is_some() && !self.rejoins && invitation.expires < runtime.wall_time() =>
            {
                Ok(None)
            }
            Some((ticket, Entry::Invitation(_))) if self.mesh_key.is_none() => {
                match self.redeem(ticket, identity).await {
                    // Who has joined stays, whatever became of the invitation.
                    Err(error) if kept.is_some() && !self.rejoins => {
                        tracing::info!(%error, "the invitation opens nothing; the kept mesh key is used");
                        Ok(None)
                    }
                    redeemed => redeemed.map(Some),
                }
            }
            // Where something is kept, the key is one of it, or the first of the mesh.
            _ => Ok(self.mesh_key.clone().filter(|_| kept.is_none()).map(MeshKeys::first)),
        }
    }

    /// Asks the members that an invitation names for the mesh key, all at once.
    #[cfg(feature = "libp2p")]
    async fn redeem(&self, ticket: &Ticket, identity: &NodeIdentity) -> Result<MeshKeys> {
        use datamesh_core::ports::Transport;
        use datamesh_net::libp2p::{Libp2pConfig, Libp2pTransport};
        use futures::stream::{FuturesUnordered, StreamExt};
        let Entry::Invitation(invitation) = &ticket.entry else { return Err(no_invitations()) };
        if self.preference == super::TransportPreference::LocalOnly {
            let text = "an invitation is redeemed over the network, which this node does not use; ask for a ticket that \
                        holds the mesh key";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let config =
            Libp2pConfig::invited(*identity.secret_bytes(), invitation).limits(self.network_limits.clone());
        let transport = Libp2pTransport::open(config).await?;
        let of_network =
            ticket.addresses.iter().filter(|address| super::transports::is_of_network(address.as_str()));
        let mut dials: FuturesUnordered<_> = of_network
            .map(|address| Transport::connect(&transport, address.clone(), self.network_limits.handshake))
            .collect();
        let mut failed = no_invitations();
        // A silent address holds nobody up.
        while let Some(connected) = dials.next().await {
            match connected {
                Ok(_) => break,
                Err(error) => failed = error,
            }
        }
        drop(dials);
        let keys = transport.learned_keys();
        Transport::close(&transport).await;
        keys.ok_or_else(|| failed.with_operation("join"))
    }

    #[cfg(not(feature = "libp2p"))]
    async fn redeem(&self, _: &Ticket, _: &NodeIdentity) -> Result<MeshKeys> {
        Err(no_invitations())
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.path.as_deref().map(|path: &Path| path.join(name))
    }
}

/// Which keys count where some are kept and a ticket tells others: the newer ones, or the ticket's where it is said so.
fn choose(kept: MeshKeys, told: MeshKeys, rejoins: bool) -> MeshKeys {
    if told.rank() != kept.rank() && (rejoins || told.is_newer_than(&kept)) {
        return told;
    }
    if !kept.contains(&told.current) {
        // It was given long ago, or the others have not heard of what is kept.
        tracing::info!(
            "the ticket holds another mesh key than the kept ones, which are newer; they are used"
        );
    }
    kept
}

fn no_invitations() -> Error {
    let text = "the invitation names no address that libp2p reaches; ask for another ticket";
    Error::new(ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use datamesh_core::ports::Timestamp;

    use super::*;

    #[test]
    fn a_ticket_counts_where_it_is_newer_or_the_node_rejoins() {
        let key = |byte| MeshKey::from_bytes([byte; 32]);
        let first = MeshKeys::first(key(1));
        let [second, other] = [2, 3].map(|byte| first.next(key(byte), Timestamp(9), Timestamp(0)).unwrap());
        let told = second.clone().without_earlier();
        assert_eq!(choose(first.clone(), told.clone(), false), told);
        assert_eq!(choose(second.clone(), first.clone(), false), second, "it was given long ago");
        assert_eq!(choose(second.clone(), first.clone(), true), first);
        for (kept, told) in [(&second, &other), (&other, &second)] {
            assert_eq!(choose(kept.clone(), told.clone(), true), *told);
        }
        for rejoins in [false, true] {
            assert_eq!(choose(second.clone(), told.clone(), rejoins), second, "it says less of the same");
        }
    }
}
