//! A peer to keep connected: its addresses, and which of them are worth dialling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use datamesh_core::Error;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

/// An address that failed so often in a row is forgotten as long as the peer has another one: with the waits between
/// dials that is a minute at least.
const FORGET_AFTER: u32 = 8;

/// For so long after a dial that failed nobody who asks has the peer dialled again: where somebody else answers at its
/// address, a dial fails within milliseconds, and whoever asks often would dial without end.
const PAUSE: Duration = Duration::from_millis(500);

/// A peer to keep connected.
pub(super) struct Route {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) failures: u32,
    pub(super) dial: Option<ConnectionId>,
    /// Whether a retry waits for its time.
    pub(super) retrying: bool,
    /// When the last dial failed, and why.
    failure: Option<(Instant, Error)>,
    /// How often each address failed since it last worked. At most one entry for each address.
    failed: BTreeMap<Vec<u8>, u32>,
}

impl Route {
    pub(super) fn new(peer: PeerId, addresses: Vec<Multiaddr>) -> Self {
        Self {
            peer,
            addresses,
            failures: 0,
            dial: None,
            retrying: false,
            failure: None,
            failed: BTreeMap::new(),
        }
    }

    /// Takes over what is known of the peer from the time before its addresses were told again.
    pub(super) fn inherit(&mut self, before: Self) {
        (self.failures, self.dial, self.retrying) = (before.failures, before.dial, before.retrying);
        self.failed = before.failed;
        // At another address it may be there at once.
        self.failure = before.failure.filter(|_| before.addresses == self.addresses);
        let addresses: Vec<_> = self.addresses.iter().map(Multiaddr::to_vec).collect();
        self.failed.retain(|address, _| addresses.contains(address));
    }

    /// The addresses to dial: without those that nobody answers at, unless there are no others.
    pub(super) fn worth_dialling(&self) -> Vec<Multiaddr> {
        let is_forgotten = |address: &&Multiaddr| {
            self.failed.get(&address.to_vec()).is_some_and(|count| *count >= FORGET_AFTER)
        };
        let known: Vec<_> = self.addresses.iter().filter(|address| !is_forgotten(address)).cloned().collect();
        if known.is_empty() { self.addresses.clone() } else { known }
    }

    /// Notes that a connection was made, and at which addresses nobody answered.
    pub(super) fn worked<'a>(
        &mut self,
        address: &Multiaddr,
        failed: impl IntoIterator<Item = &'a Multiaddr>,
    ) {
        self.failed.remove(&bare(address, self.peer).to_vec());
        failed.into_iter().for_each(|address| self.count(address));
    }

    /// Notes why a dial came to nothing.
    pub(super) fn missed(&mut self, error: Error) {
        self.failures = self.failures.saturating_add(1);
        self.failure = Some((Instant::now(), error));
    }

    /// Why it cannot be reached, where a dial has just failed and none is under way.
    pub(super) fn just_failed(&self) -> Option<&Error> {
        let (at, error) = self.failure.as_ref()?;
        (self.dial.is_none() && at.elapsed() < PAUSE).then_some(error)
    }

    /// Notes that no connection was made.
    pub(super) fn failed(&mut self, error: &DialError) {
        if let DialError::Transport(errors) = error {
            errors.iter().for_each(|(address, _)| self.count(address));
        }
    }

    fn count(&mut self, address: &Multiaddr) {
        let address = bare(address, self.peer).to_vec();
        if self.addresses.iter().any(|known| known.to_vec() == address) {
            let count = self.failed.entry(address).or_default();
            *count = count.saturating_add(1);
        }
    }
}

/// An address as it was told, without the peer's name that is added to dial it.
pub(super) fn bare(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    let mut address = address.clone();
    if address.iter().last() == Some(libp2p::multiaddr::Protocol::P2p(peer)) {
        address.pop();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nobody_reaches_are_forgotten_until_they_are_the_only_ones() {
        let peer = PeerId::random();
        let (good, bad): (Multiaddr, Multiaddr) =
            ("/ip4/192.0.2.1/tcp/1".parse().unwrap(), "/ip4/192.0.2.2/tcp/1".parse().unwrap());
        let mut route = Route::new(peer, vec![good.clone(), bad.clone()]);
        let dialled = |address: &Multiaddr| address.clone().with_p2p(peer).unwrap();
        for _ in 0..FORGET_AFTER {
            assert_eq!(route.worth_dialling().len(), 2);
            route.worked(&dialled(&good), [&dialled(&bad), &"/ip4/192.0.2.3/tcp/1".parse().unwrap()]);
        }
        assert_eq!(route.worth_dialling(), std::slice::from_ref(&good));
        assert_eq!(route.failed.len(), 1);
        // The good one fails too: all are tried again.
        for _ in 0..FORGET_AFTER {
            route.count(&dialled(&good));
        }
        assert_eq!(route.worth_dialling(), [good.clone(), bad.clone()]);
        route.worked(&dialled(&bad), []);
        assert_eq!(route.worth_dialling(), std::slice::from_ref(&bad));
        // What is told anew is tried anew, and the rest is remembered.
        let mut told = Route::new(peer, vec![bad.clone(), good.clone()]);
        told.inherit(route);
        assert_eq!(told.worth_dialling(), [bad]);
        let mut moved = Route::new(peer, vec!["/ip4/192.0.2.9/tcp/1".parse().unwrap()]);
        moved.inherit(told);
        assert!(moved.failed.is_empty());
    }
}
