//! How a node is found, and how it is reached where it cannot be dialled.

use datamesh_core::ports::Address;

/// How a node finds others and is found, beside tickets and gossip, and what it does for those that cannot be dialled.
/// Everything is off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "settings do nothing until a transport is opened with them"]
pub struct Discovery {
    #[cfg(feature = "kad")]
    pub(super) kademlia: bool,
    #[cfg(feature = "mdns")]
    pub(super) local_network: bool,
    #[cfg(feature = "nat")]
    pub(super) nat: bool,
    pub(super) bootstrap: bool,
    pub(super) greets: bool,
    pub(super) announced: Vec<Address>,
}

impl Discovery {
    /// Nothing but tickets and gossip.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes part in the mesh's table of addresses (Kademlia): members are found by their names where not everybody
    /// knows everybody's addresses. Only members take part, and only they learn that there is such a table.
    #[cfg(feature = "kad")]
    pub fn kademlia(mut self) -> Self {
        self.kademlia = true;
        self
    }

    /// Finds members on the local network by multicast, and is found by them. Others there learn no more than that
    /// somebody listens on these ports: no names, and nothing that two announcements have in common.
    #[cfg(feature = "mdns")]
    pub fn local_network(mut self) -> Self {
        self.local_network = true;
        self
    }

    /// Reaches and is reached through NATs: learns from members under which addresses it can be reached; where there
    /// are none, has members relay for it until a direct connection through the NAT stands. A node with a public
    /// address relays for other members.
    #[cfg(feature = "nat")]
    pub fn nat(mut self) -> Self {
        self.nat = true;
        self
    }

    /// Serves those that come: what this node listens on counts as reachable by everybody, so that it relays for
    /// members (with [`nat`](Self::nat)) whether or not its addresses look public.
    pub fn bootstrap(mut self) -> Self {
        self.bootstrap = true;
        self
    }

    /// Addresses under which others reach this node, told in place of those that it listens on: a DNS name, or a port
    /// that a router forwards.
    pub fn announce(mut self, addresses: Vec<Address>) -> Self {
        self.announced = addresses;
        self
    }

    /// Answers libp2p's plain Noise, identify and ping also to peers that are no members, so that tools for libp2p
    /// can see that a node is there. They learn its name and no more, and are sent away when they do not prove the
    /// mesh key.
    pub fn greet_strangers(mut self) -> Self {
        self.greets = true;
        self
    }

    /// Whether a protocol is on that needs to know what the other members speak.
    pub(super) fn needs_identify(&self) -> bool {
        #[cfg(feature = "kad")]
        if self.kademlia {
            return true;
        }
        #[cfg(feature = "nat")]
        if self.nat {
            return true;
        }
        false
    }

    /// Whether members are found that no ticket names.
    pub fn finds_without_ticket(&self) -> bool {
        #[cfg(feature = "mdns")]
        return self.local_network;
        #[cfg(not(feature = "mdns"))]
        false
    }
}
