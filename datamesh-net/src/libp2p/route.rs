//! A peer to keep connected: its addresses, and which of them are worth dialling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use datamesh_core::Error;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

use crate::wire::backoff;

/// An address that failed so often in a row is forgotten as long as the peer has another one: with the waits between
/// dials that is a minute at least.
const FORGET_AFTER: u32 = 8;

/// For so long after a dial that failed nobody who asks has the peer dialled again, and twice as long after each
/// further one: where nobody listens, a dial fails within milliseconds, and whoever asks often would dial without end.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The pause where another node has answered at every address: it has mostly taken this one's place.
const PAUSE_WHERE_REPLACED: Duration = Duration::from_secs(30);

/// Such a peer is dialled again no sooner. Where it has gone elsewhere it dials others itself, and its new address is
/// told.
const WAIT_WHERE_REPLACED: Duration = Duration::from_secs(300);

/// A peer to keep connected.
pub(super) struct Route {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) failures: u32,
    pub(super) dial: Option<ConnectionId>,
    /// When it is dialled again unasked, if that is settled.
    due: Option<Instant>,
    /// When the last dial failed, and why.
    failure: Option<(Instant, Error)>,
    /// Whether another node answered there, and no address is left at which none did.
    is_replaced: bool,
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
            due: None,
            failure: None,
            is_replaced: false,
            failed: BTreeMap::new(),
        }
    }

    /// Takes over what is known of the peer from the time before its addresses were told again.
    pub(super) fn inherit(&mut self, before: Self) {
        (self.failures, self.dial, self.due) = (before.failures, before.dial, before.due);
        self.failed = before.failed;
        // At another address it may be there at once.
        let is_same = before.addresses == self.addresses;
        self.failure = before.failure.filter(|_| is_same);
        self.is_replaced = before.is_replaced && is_same;
        let addresses: Vec<_> = self.addresses.iter().map(Multiaddr::to_vec).collect();
        self.failed.retain(|address, _| addresses.contains(address));
    }

    /// The addresses to dial: without those that nobody answers at, unless there are no others.
    pub(super) fn worth_dialling(&self) -> Vec<Multiaddr> {
        let known: Vec<_> =
            self.addresses.iter().filter(|address| !self.is_forgotten(address)).cloned().collect();
        if known.is_empty() { self.addresses.clone() } else { known }
    }

    fn is_forgotten(&self, address: &Multiaddr) -> bool {
        self.failed.get(&address.to_vec()).is_some_and(|count| *count >= FORGET_AFTER)
    }

    /// Notes that a connection was made, and at which addresses nobody answered.
    pub(super) fn worked<'a>(
        &mut self,
        address: &Multiaddr,
        failed: impl IntoIterator<Item = &'a Multiaddr>,
    ) {
        self.is_replaced = false;
        self.failed.remove(&bare(address, self.peer).to_vec());
        failed.into_iter().for_each(|address| self.count(address));
    }

    /// Forgets that dials came to nothing: the peer is connected.
    pub(super) fn restart(&mut self) {
        (self.failures, self.failure, self.is_replaced) = (0, None, false);
    }

    /// Forgets also at which addresses, and when it was to be dialled again: this machine is elsewhere now, or was
    /// without a network.
    pub(super) fn begin_anew(&mut self) {
        self.restart();
        self.failed.clear();
        self.due = None;
    }

    /// Notes why a dial came to nothing.
    pub(super) fn missed(&mut self, error: Error) {
        self.failures = self.failures.saturating_add(1);
        self.failure = Some((Instant::now(), error));
    }

    /// Why it cannot be reached, where a dial has just failed and none is under way.
    pub(super) fn just_failed(&self) -> Option<&Error> {
        let (at, error) = self.failure.as_ref()?;
        (self.dial.is_none() && at.elapsed() < self.pause()).then_some(error)
    }

    /// Settles when it is dialled again unasked: how long to wait until then, or `None` where it is no later already.
    pub(super) fn retry(&mut self) -> Option<Duration> {
        let least = if self.is_replaced { WAIT_WHERE_REPLACED } else { Duration::ZERO };
        let wait = backoff(self.failures).max(least);
        let due = Instant::now() + wait;
        let is_later = self.due.is_none_or(|settled| due < settled);
        is_later.then(|| self.due = Some(due)).map(|()| wait)
    }

    /// Whether it is to be dialled again now, where a wait has ended: it is not where a shorter one has been settled
    /// and ended before.
    pub(super) fn is_due(&mut self) -> bool {
        self.due.take_if(|due| *due <= Instant::now()).is_some()
    }

    /// Ends the wait that is settled, if one is: how long it was.
    #[cfg(test)]
    pub(super) fn skip_wait(&mut self) -> Option<Duration> {
        let due = self.due.as_mut()?;
        let now = Instant::now();
        Some(std::mem::replace(due, now).saturating_duration_since(now))
    }

    fn pause(&self) -> Duration {
        if self.is_replaced {
            return PAUSE_WHERE_REPLACED;
        }
        let doubled = self.failures.saturating_sub(1).min(u32::BITS - 1);
        PAUSE.saturating_mul(1 << doubled).min(LONGEST_PAUSE)
    }

    /// Notes that no connection was made. Whether the other addresses are to be dialled at once: where another node
    /// answers, the swarm gives up the dial, and this address is of no use.
    pub(super) fn failed(&mut self, error: &DialError) -> bool {
        self.is_replaced = false;
        match error {
            DialError::Transport(errors) => errors.iter().for_each(|(address, _)| self.count(address)),
            DialError::WrongPeerId { address, .. } => return self.found_another(&bare(address, self.peer)),
            _ => {}
        }
        false
    }

    fn found_another(&mut self, address: &Multiaddr) -> bool {
        let is_news = self.addresses.contains(address) && !self.is_forgotten(address);
        if is_news {
            self.failed.insert(address.to_vec(), FORGET_AFTER);
        }
        self.is_replaced = self.addresses.iter().all(|address| self.is_forgotten(address));
        is_news && !self.is_replaced
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

    #[test]
    fn where_another_node_answers_the_other_addresses_are_dialled_and_then_none_for_long() {
        let (peer, obtained) = (PeerId::random(), PeerId::random());
        let (here, there): (Multiaddr, Multiaddr) =
            ("/ip4/192.0.2.1/tcp/1".parse().unwrap(), "/ip4/192.0.2.2/tcp/1".parse().unwrap());
        let mut route = Route::new(peer, vec![here.clone(), there.clone()]);
        let wrong = |address: &Multiaddr| DialError::WrongPeerId {
            obtained,
            address: address.clone().with_p2p(peer).unwrap(),
        };
        assert!(route.failed(&wrong(&here)));
        assert_eq!(route.worth_dialling(), std::slice::from_ref(&there));
        assert!(!route.failed(&wrong(&there)), "no address is left");
        assert!(!route.failed(&wrong(&"/ip4/192.0.2.3/tcp/1".parse().unwrap())), "of an address not known");
        assert_eq!((route.pause(), route.worth_dialling().len()), (PAUSE_WHERE_REPLACED, 2));
        assert_eq!(route.retry(), Some(WAIT_WHERE_REPLACED));
        let mut moved = Route::new(peer, vec!["/ip4/192.0.2.9/tcp/1".parse().unwrap()]);
        moved.inherit(route);
        assert!(!moved.is_replaced && moved.just_failed().is_none());
        // What was settled for the old address does not hold back the new one.
        assert!(moved.retry().is_some_and(|wait| wait < WAIT_WHERE_REPLACED));
    }

    /// A minute without a network, after which one address works again; then another network, where the other does.
    #[test]
    fn elsewhere_every_address_is_worth_dialling() {
        let peer = PeerId::random();
        let [here, there] =
            ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"].map(|text| text.parse::<Multiaddr>().unwrap());
        let mut route = Route::new(peer, vec![here.clone(), there.clone()]);
        for _ in 0..FORGET_AFTER {
            route.count(&here);
            route.count(&there);
            route.missed(Error::new(datamesh_core::ErrorKind::Unavailable, "no network"));
        }
        assert!(route.retry().is_some());
        route.worked(&here, []);
        route.restart();
        assert_eq!(route.worth_dialling(), std::slice::from_ref(&here));
        route.begin_anew();
        assert_eq!(route.worth_dialling(), [here, there]);
        assert!(route.just_failed().is_none() && route.retry().is_some());
    }

    #[test]
    fn who_was_connected_is_dialled_again_soon_whatever_went_before() {
        let (peer, obtained) = (PeerId::random(), PeerId::random());
        let here: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let mut route = Route::new(peer, vec![here.clone()]);
        assert!(!route.failed(&DialError::WrongPeerId { obtained, address: here.clone() }));
        route.missed(Error::new(datamesh_core::ErrorKind::Unavailable, "another node is there"));
        assert_eq!(route.retry(), Some(WAIT_WHERE_REPLACED));
        assert_eq!(route.retry(), None, "it is settled");
        assert!(route.just_failed().is_some());
        // It connects by itself, and goes again.
        route.restart();
        assert!(route.just_failed().is_none());
        assert!(route.retry().is_some_and(|wait| wait < Duration::from_secs(5)));
        assert!(!route.is_due(), "the wait has not ended");
        route.due = Some(Instant::now());
        assert!(route.is_due() && !route.is_due());
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut route = Route::new(PeerId::random(), Vec::new());
        let mut pauses = Vec::new();
        for failures in [1, 2, 3, 4, 5, u32::MAX] {
            route.failures = failures;
            pauses.push(route.pause().as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 4000, 4000]);
    }
}
