//! The transport's own thread: the swarm, the dials and what becomes of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datamesh_core::id::NodeId;
use datamesh_core::ports::TransportEvent;
use datamesh_core::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};

use super::behaviour::{Behaviour, BehaviourEvent, Told};
use super::dials::{Dial, Queue, Wanted};
use super::discovery::Addresses;
use super::failure::{deepest, explain, unproved};
use super::handler::FromHandler;
use super::names;
use super::options::Discovery;
use super::proof::Unproved;
use super::renewal::Renewals;
use super::route::Route;
use super::scope::{is_relayed, lacks_zone};
use crate::wire::peers::Shared;
use crate::wire::session::{Link, LinkId, SETTLED, Session};
use crate::wire::sleep::{Sleep, asleep_in_all};
use crate::wire::{self, keys};

/// The time between two looks at what is idle, and at whether the machine has slept.
const LEAST_TICK: Duration = Duration::from_millis(10);
const LAST_TICK: Duration = Duration::from_secs(2);

/// How often the driver looks at what tells nothing by itself.
const LOOK: Duration = Duration::from_secs(5);

/// How long a connection that a better one has replaced is kept for what goes on over it.
const OUTDATED: Duration = Duration::from_secs(60);

/// How long the end waits for the peers to hear of it.
const FAREWELL: Duration = Duration::from_millis(300);

/// An address, and the peer that it names if any.
pub(super) type Target = (Multiaddr, Option<PeerId>);

pub(super) type Command = wire::Command<Target>;

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) addresses: Addresses,
    #[cfg(feature = "kad")]
    pub(super) lookups: super::kademlia::Lookups,
    #[cfg(feature = "nat")]
    pub(super) relays: super::nat::Relays,
    #[cfg(feature = "mdns")]
    pub(super) neighbours: Option<super::multicast::Neighbours>,
    pub(super) renewals: Renewals,
    commands: async_channel::Receiver<Command>,
    pub(super) routes: HashMap<NodeId, Route>,
    pub(super) dials: HashMap<ConnectionId, Dial>,
    /// Dials that somebody asked for and that have no place yet.
    pub(super) queue: Queue,
    pub(super) retries: FuturesUnordered<BoxFuture<'static, NodeId>>,
    /// When an address of this node last came or went, until its peers are dialled anew.
    moved: Option<Instant>,
    /// Connections that a better one has taken the place of, until what goes on over them has ended.
    outdated: FuturesUnordered<BoxFuture<'static, ConnectionId>>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        swarm: Swarm<Behaviour>,
        commands: async_channel::Receiver<Command>,
        discovery: Discovery,
        renewals: Renewals,
    ) -> Self {
        let (routes, dials, queue, retries, moved, outdated) = Default::default();
        Self {
            shared,
            swarm,
            addresses: Addresses::new(discovery),
            #[cfg(feature = "kad")]
            lookups: Default::default(),
            #[cfg(feature = "nat")]
            relays: Default::default(),
            #[cfg(feature = "mdns")]
            neighbours: None,
            renewals,
            commands,
            routes,
            dials,
            queue,
            retries,
            moved,
            outdated,
        }
    }

    /// Listens on all addresses, and returns when each listener has its port and says where it is.
    ///
    /// One for all interfaces says nothing as long as there is none of its family: that is waited for no longer than
    /// `limit`, and told later. What is asked of a relay has limits of its own.
    pub(super) async fn listen(&mut self, addresses: Vec<Multiaddr>, limit: Duration) -> Result<()> {
        let mut waiting = Vec::new();
        for address in addresses {
            names::probe(&address).map_err(|error| cannot_listen(&address, error))?;
            let listener = self.swarm.listen_on(address.clone());
            let listener = listener.map_err(|error| cannot_listen(&address, std::io::Error::other(error)))?;
            waiting.push((listener, address));
        }
        let mut patience = std::pin::pin!(tokio::time::sleep(limit));
        let mut is_patient = true;
        while !waiting.is_empty() {
            let event = tokio::select! {
                biased;
                event = self.swarm.select_next_some() => event,
                () = &mut patience, if is_patient => {
                    is_patient = false;
                    waiting.retain(|(_, address)| is_relayed(address) || {
                        tracing::warn!(%address, "there is no interface to listen on; listening when there is one");
                        false
                    });
                    continue;
                }
            };
            match event {
                // A place at a relay that refuses it closes without an error.
                SwarmEvent::ListenerClosed { listener_id, reason, .. }
                    if waiting.iter().any(|(listener, _)| *listener == listener_id) =>
                {
                    let error = reason.err().unwrap_or_else(|| std::io::ErrorKind::ConnectionAborted.into());
                    return Err(Error::io("cannot listen; choose another port or address", error));
                }
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.retain(|(listener, _)| *listener != listener_id);
                    tracing::debug!(%address, "listening");
                    self.tell_addresses();
                }
                event => self.on_event(event),
            }
        }
        Ok(())
    }

    /// Runs until the transport is closed.
    pub(super) async fn run(mut self) {
        let (shared, commands) = (self.shared.clone(), self.commands.clone());
        let mut sleep = Sleep::begin();
        let mut clock = tokio::time::interval((shared.limits.idle / 4).clamp(LEAST_TICK, LAST_TICK));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK);
        let (neighbours, changes) = (self.neighbours(), self.renewals.changes.clone());
        while !shared.is_closed() {
            self.dial_queued();
            let takes_commands = !self.queue.is_full();
            let renewal = self.renewals.next;
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Ok(command) = commands.recv(), if takes_commands => self.on_command(command),
                Some(node) = self.retries.next() => self.on_retry(node),
                Some(connection) = self.outdated.next() => drop(self.swarm.close_connection(connection)),
                Ok(address) = neighbours.recv() => self.on_neighbour(address),
                Ok(()) = changes.recv() => self.look_at_keys(),
                () = keys::until(renewal) => self.look_at_keys(),
                _ = looks.tick() => self.look(),
                _ = clock.tick() => {
                    shared.close_idle(Instant::now());
                    self.look_at_keys();
                    self.look_at_moves();
                    if sleep.was_long(asleep_in_all()) {
                        self.on_awake();
                    }
                }
                _ = shared.wake.1.recv() => {
                    self.take_routes();
                    self.close_refused();
                    if shared.take_awake() {
                        self.on_awake();
                    }
                }
            }
        }
        commands.close();
        shared.close();
        self.say_goodbye().await;
    }

    /// What is looked at from time to time.
    fn look(&mut self) {
        #[cfg(feature = "nat")]
        if self.addresses.options.nat {
            self.look_for_relays();
        }
    }

    /// Closes the connections, so that the peers hear of it at once.
    async fn say_goodbye(mut self) {
        self.dials.clear();
        self.queue.clear();
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let gone = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, gone).await;
    }

    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Mesh(told)) => self.on_told(told),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) => self.on_ping(&ping),
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(&peer_id, connection_id);
                self.forget_end(connection_id, &peer_id, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                match self.route_of(connection_id).is_some_and(|route| route.failed(&error)) {
                    true => self.dial_others(connection_id),
                    false => self.dial_failed(connection_id, &explain(error)),
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                let why = deepest(&error);
                self.shared.tell(TransportEvent::Refused(format!("{send_back_addr}: {why}")));
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.note_move(&address);
                self.tell_addresses();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.note_move(&address);
                if !lacks_zone(&address) {
                    self.forget_external(Some(&address));
                }
                self.tell_addresses();
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                concurrent_dial_errors,
                ..
            } => {
                if let Some(route) = self.route_of(connection_id) {
                    let failed = concurrent_dial_errors.iter().flatten().map(|(address, _)| address);
                    route.worked(endpoint.get_remote_address(), failed);
                }
                self.on_established(connection_id, peer_id, &endpoint);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed once"),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                tracing::warn!(?addresses, ?reason, "a listener is closed");
                #[cfg(feature = "nat")]
                self.on_relay_lost(listener_id);
                let _ = listener_id;
                self.tell_addresses();
            }
            event => self.on_discovery(event),
        }
    }

    fn on_ping(&mut self, ping: &libp2p::ping::Event) {
        if ping.result.is_err() {
            self.swarm.close_connection(ping.connection);
        } else if let Some(node) = names::node_of(&ping.peer)
            && let Some(session) = self.shared.peer(&node).and_then(|peer| peer.session())
        {
            session.heard(LinkId::Libp2p(ping.connection));
            self.leave(session.leave_relays());
        }
    }

    fn on_told(&mut self, told: Told) {
        match told.what {
            FromHandler::Renewed(proof) => self.on_proof(told.node, told.connection, proof),
            FromHandler::Proved(mailbox, proof) => {
                self.on_proof(told.node, told.connection, proof);
                let link = Link::new(LinkId::Libp2p(told.connection), mailbox);
                let link = link.reached(self.addresses.reach(told.connection));
                self.on_proved(told.node, told.connection, link);
            }
            FromHandler::Refused(why) => {
                tracing::debug!(node = %told.node, %why, "a peer was refused");
                // A peer that was dialled and is lost was not turned away.
                if matches!(why, Unproved::Wrong(_)) || !self.dials.contains_key(&told.connection) {
                    self.shared.tell(TransportEvent::Refused(format!("node {}: {why}", told.node)));
                }
                self.dial_failed(told.connection, &unproved(&why).with_node(told.node));
                self.swarm.close_connection(told.connection);
            }
        }
    }

    fn on_proved(&mut self, node: NodeId, connection: ConnectionId, link: Link) {
        let peer = self.shared.peer_or_new(node);
        let (session, is_new) =
            peer.session_or_new(|| Session::new(&self.shared.limits, self.shared.runtime.clone()));
        let dial = self.dials.remove(&connection);
        if dial.as_ref().is_some_and(|dial| dial.node.is_none()) && self.is_spare(node, &session) {
            self.swarm.close_connection(connection);
        } else {
            session.add_link(link);
            self.leave(session.leave_relays());
        }
        if is_new {
            self.shared.tell(TransportEvent::Connected(node));
        }
        let queued = self.queue.take(&node);
        let joined = self.routes.get_mut(&node).and_then(|route| {
            route.restart();
            route.dial.take_if(|dial| *dial == connection);
            self.dials.get_mut(route.dial.as_ref()?)
        });
        let joined = joined.map(|dial| std::mem::take(&mut dial.waiting)).unwrap_or_default();
        for waiting in dial.into_iter().flat_map(|dial| dial.waiting).chain(joined).chain(queued) {
            // A caller that is gone needs no answer.
            let _ = waiting.send(Ok(node));
        }
    }

    /// Whether an address led to a node that is connected already, and was heard of lately.
    ///
    /// Two nodes that dial each other at the same moment must not both take their own dial for the
    /// spare one: then the one of the smaller name does.
    fn is_spare(&self, node: NodeId, session: &Session) -> bool {
        let patience = if self.shared.local < node { Duration::ZERO } else { SETTLED };
        session.has_link_for(patience)
    }

    /// Closes connections when what goes on over them has had time to end.
    fn leave(&self, links: Vec<LinkId>) {
        for link in links {
            let Some(connection) = link.libp2p() else { continue };
            self.outdated.push(Box::pin(async move {
                tokio::time::sleep(OUTDATED).await;
                connection
            }));
        }
    }

    fn on_closed(&mut self, peer: &PeerId, connection: ConnectionId) {
        let message = "the peer closed the connection before it proved the mesh key";
        self.dial_failed(connection, &Error::new(ErrorKind::Unavailable, message));
        self.renewals.forget(connection);
        let Some(node) = names::node_of(peer) else { return };
        if let Some(record) = self.shared.peer(&node)
            && let Some(session) = record.session()
            && session.remove_link(LinkId::Libp2p(connection)) == 0
        {
            record.end_session();
            session.close();
            self.shared.tell(TransportEvent::Disconnected(node));
            self.retry(node);
        }
        self.shared.forget_if_idle(&node);
    }

    /// Closes the connections of those who were revoked, and forgets where they are.
    fn close_refused(&mut self) {
        let is_refused =
            |peer: &&PeerId| names::node_of(peer).is_some_and(|node| self.shared.is_refused(&node));
        let peers: Vec<_> = self.swarm.connected_peers().filter(is_refused).copied().collect();
        for peer in peers {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        #[cfg(feature = "kad")]
        self.forget_refused();
    }

    fn on_command(&mut self, command: Command) {
        self.take_routes();
        match command {
            Command::Dial(node, waiting) => self.ask(Wanted::Peer(node), vec![waiting]),
            Command::Connect((address, peer), waiting) => self.connect(address, peer, waiting),
        }
    }

    /// The machine has slept: the peers have given up its connections, and it may be elsewhere now. All are dialled
    /// anew.
    fn on_awake(&mut self) {
        tracing::info!("the machine has slept; its peers are dialled anew");
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        self.forget_external(None);
        self.tell_addresses();
        self.dial_anew(Instant::now());
    }

    /// Notes that this node has an address more, or one less; those at relays say nothing of where it is, and those that
    /// every interface has come and go with each container.
    fn note_move(&mut self, address: &Multiaddr) {
        if !is_relayed(address) && !lacks_zone(address) {
            self.moved = Some(Instant::now());
        }
    }

    /// Dials the peers that are not connected where the addresses of this node have changed; those of an interface come
    /// and go together.
    pub(super) fn look_at_moves(&mut self) {
        if let Some(moved) = self.moved.take() {
            self.dial_anew(moved);
        }
    }
}

fn cannot_listen(address: &Multiaddr, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot listen; choose another port or address")
        .with_subject(address)
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use datamesh_core::ports::{Address, PeerRoute};
    use libp2p::identity::Keypair;
    use tokio::net::TcpSocket;

    use super::*;
    use crate::libp2p::{Libp2pConfig, Libp2pTransport, start};

    const LIMIT: Duration = Duration::from_secs(20);

    fn config(secret: u8) -> Libp2pConfig {
        Libp2pConfig::new([secret; 32], [7; 32])
    }

    /// Goes on until something holds; no wait ends meanwhile.
    async fn until(driver: &mut Driver, holds: impl Fn(&Driver) -> bool) {
        let work = async {
            while !holds(driver) {
                let event = driver.swarm.select_next_some().await;
                driver.on_event(event);
            }
        };
        tokio::time::timeout(LIMIT, work).await.expect("it does not come to that");
    }

    /// Waits for the end of a dial to a member that has refused all of them; when it is dialled again is settled.
    async fn refused(driver: &mut Driver, member: &NodeId, count: u32) {
        until(driver, |driver| driver.routes[member].failures == count).await;
        let wait = driver.routes.get_mut(member).unwrap().skip_wait();
        let wait = wait.unwrap_or_else(|| panic!("given up after {count} dials"));
        assert!(wait <= Duration::from_secs(30), "{wait:?} after {count} dials");
        assert_eq!(driver.retries.len(), count as usize, "one wait after each dial");
    }

    #[test]
    fn an_interface_of_a_container_is_no_move() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let opened = start::driver(config(1), runtime.handle().clone(), Vec::new()).await;
            let (mut driver, _commands) = opened.unwrap();
            for (address, is_move) in [("/ip6/fe80::1/tcp/1", false), ("/ip4/192.0.2.1/tcp/1", true)] {
                let address: Multiaddr = address.parse().unwrap();
                let listener_id = libp2p::core::transport::ListenerId::next();
                #[cfg(feature = "nat")]
                driver.swarm.add_external_address("/ip6/2001:db8::1/tcp/1".parse().unwrap());
                driver.on_event(SwarmEvent::NewListenAddr { listener_id, address: address.clone() });
                assert_eq!(driver.moved.take().is_some(), is_move, "{address}");
                driver.on_event(SwarmEvent::ExpiredListenAddr { listener_id, address: address.clone() });
                assert_eq!(driver.moved.take().is_some(), is_move, "{address}");
                #[cfg(feature = "nat")]
                assert_eq!(driver.swarm.external_addresses().count(), 1, "{address}");
            }
        });
    }

    #[test]
    fn a_member_that_refuses_twenty_dials_in_a_row_is_reached_when_it_listens() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let opened = start::driver(config(1), runtime.handle().clone(), Vec::new()).await;
            let (mut driver, _commands) = opened.unwrap();
            let keys = Keypair::ed25519_from_bytes([2; 32]).unwrap();
            let member = names::node_of(&keys.public().to_peer_id()).unwrap();
            // Nobody listens on this port, and nobody else gets it.
            let port = TcpSocket::new_v4().unwrap();
            port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = format!("/ip4/127.0.0.1/tcp/{}", port.local_addr().unwrap().port());
            let addresses: Vec<Address> = vec![address.parse().unwrap()];
            driver.shared.set_routes(vec![PeerRoute { node: member, addresses: addresses.clone() }]);
            driver.take_routes();
            refused(&mut driver, &member, 1).await;
            for count in 2..=20 {
                driver.on_retry(member);
                refused(&mut driver, &member, count).await;
            }
            drop(port);
            let _listens = Libp2pTransport::open(config(2).listen(addresses)).await.unwrap();
            driver.on_retry(member);
            until(&mut driver, |driver| driver.shared.is_connected(&member)).await;
        });
    }
}
