//! The transports of a node: those that its settings ask for.

use std::sync::Arc;

use datamesh_core::ports::{DynTransport, Identity, Runtime};
use datamesh_core::{Address, KeyRing, Result};
use datamesh_crypto::NodeIdentity;

use super::check::Places;
use super::{Builder, TransportPreference};

impl Builder {
    /// Opens the transports that this node has, each of which speaks for it; those that were opened before one fails
    /// are the caller's to close.
    pub(super) async fn open_transports(
        &mut self,
        runtime: &Arc<dyn Runtime>,
        identity: &Arc<NodeIdentity>,
        keys: &KeyRing,
        places: Places,
        transports: &mut Vec<Arc<dyn DynTransport>>,
    ) -> Result<()> {
        if let Some(network) = &self.network {
            transports.push(Arc::new(network.join(identity.node_id(), Arc::clone(runtime))?));
        }
        transports.append(&mut self.transports);
        let preference = self.preference;
        let named = |is: fn(&str) -> bool| {
            let addresses = self.ticket.iter().flat_map(|ticket| &ticket.addresses);
            addresses.map(Address::as_str).any(is)
        };
        let wants_network = !places.listen.is_empty() || named(is_of_network) || self.looks_around();
        let wants_local =
            wants_network || named(is_of_machine) || preference == TransportPreference::LocalOnly;
        if wants_local && preference != TransportPreference::NetworkOnly {
            transports.extend(self.open_local(identity, keys).await?);
        }
        if wants_network && preference != TransportPreference::LocalOnly {
            transports.extend(self.open_libp2p(identity, keys, places).await?);
        }
        Ok(())
    }

    #[cfg(all(feature = "local", unix))]
    async fn open_local(
        &self,
        identity: &Arc<NodeIdentity>,
        keys: &KeyRing,
    ) -> Result<Option<Arc<dyn DynTransport>>> {
        use datamesh_crypto::ChaChaSuite;
        use datamesh_net::local::{LocalConfig, LocalTransport};
        let identity: Arc<dyn Identity> = Arc::clone(identity) as Arc<dyn Identity>;
        let mut config = LocalConfig::with_keys(identity, Arc::new(ChaChaSuite), keys.clone())
            .limits(self.network_limits.clone());
        if let Some(directory) = &self.local_directory {
            config = config.directory(directory);
        }
        match LocalTransport::open(config).await {
            Ok(transport) => Ok(Some(Arc::new(transport))),
            // Nobody asked for it, and the network reaches the same peers.
            Err(error)
                if self.local_directory.is_none() && self.preference == TransportPreference::Automatic =>
            {
                tracing::warn!(%error, "processes of this machine are reached over the network");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    #[cfg(not(all(feature = "local", unix)))]
    async fn open_local(&self, _: &Arc<NodeIdentity>, _: &KeyRing) -> Result<Option<Arc<dyn DynTransport>>> {
        Ok(None)
    }

    #[cfg(feature = "libp2p")]
    async fn open_libp2p(
        &self,
        identity: &NodeIdentity,
        keys: &KeyRing,
        places: Places,
    ) -> Result<Option<Arc<dyn DynTransport>>> {
        use datamesh_net::libp2p::{Libp2pConfig, Libp2pTransport};
        let discovery = match places.announce {
            none if none.is_empty() => self.discovery.clone(),
            announce => self.discovery.clone().announce(announce),
        };
        let config = Libp2pConfig::with_keys(*identity.secret_bytes(), keys.clone())
            .listen(places.listen)
            .limits(self.network_limits.clone())
            .discovery(discovery);
        Ok(Some(Arc::new(Libp2pTransport::open(config).await?)))
    }

    #[cfg(not(feature = "libp2p"))]
    async fn open_libp2p(
        &self,
        _: &NodeIdentity,
        _: &KeyRing,
        _: Places,
    ) -> Result<Option<Arc<dyn DynTransport>>> {
        // A ticket may still be of use to a network inside the process or a transport of the user's own.
        Ok(None)
    }

    /// Whether members are looked for that no ticket names.
    #[cfg(feature = "libp2p")]
    pub(super) fn looks_around(&self) -> bool {
        self.discovery.finds_without_ticket()
    }

    #[cfg(not(feature = "libp2p"))]
    pub(super) fn looks_around(&self) -> bool {
        false
    }
}

pub(super) fn has_local() -> bool {
    cfg!(all(feature = "local", unix))
}

/// Whether libp2p reaches an address.
pub(super) fn is_of_network(text: &str) -> bool {
    ["/ip4/", "/ip6/", "/dns", "/p2p/"].iter().any(|prefix| text.starts_with(prefix))
}

/// Whether an address leads to a process of this machine.
fn is_of_machine(text: &str) -> bool {
    text.starts_with("/local/")
}
