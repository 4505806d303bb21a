// SPDX-License-Identifier: MIT OR Apache-2.0
//! The task that owns a swarm: carries out commands, hands out what happens, and decides nothing.

mod keeping;
mod queries;
mod routing;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::kad::{QueryId, Quorum, Record};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Swarm, Transport as _, identify, quic, yamux};
use potluck_protocol::names::{DhtKey, NetworkId, Purpose};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::admission::{Admission, Admitted, proven_tls};
use super::behaviour::{Behaviour, BehaviourEvent, protocol};
use super::bulk::Bulk;
use super::handle::Handle;
use super::reach::{self, Reach, Route};
use super::secure::Secure;
use super::store::key;
use super::{SwarmError, limits};
use crate::dht::Kept;
use crate::dht::pace::Pace;
use crate::network::Network;
use crate::observe::span;
use crate::plan::Backoff;
use keeping::Keeping;
pub use queries::Value;
use queries::{Dialling, Query, Running};

/// What happens in a Network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// A peer is connected, and a member of this Network.
    Met(PeerId),
    /// It is no longer connected.
    Gone(PeerId),
    /// A member was met while nobody was connected: the DHT can be used now.
    Joined,
}

/// What the rest of the node wants of the swarm.
#[derive(Debug)]
pub(super) enum Command {
    /// Put a value under a key; the answer is whether anybody took it.
    Put(DhtKey, Vec<u8>, oneshot::Sender<bool>),
    /// Get the values under a key.
    Get(DhtKey, oneshot::Sender<Vec<Value>>),
    /// Say that this node provides a key; the answer is whether there is anybody to say it to.
    Provide(DhtKey, oneshot::Sender<bool>),
    /// Say so no more.
    Withdraw(DhtKey),
    /// Put a value no more. Others keep it until it expires.
    Unput(DhtKey),
    /// Who provides a key; those who can be reached are connected when the answer comes.
    Providers(DhtKey, oneshot::Sender<Vec<PeerId>>),
    /// Close all connections to a peer, and take none again.
    Drop(PeerId),
    /// Reach a peer by QUIC that is connected by TCP. What is opened from now on goes that way once it stands.
    ByQuic(PeerId),
    /// How much is kept for the DHT.
    Kept(oneshot::Sender<Kept>),
    /// Which members are connected.
    Connected(oneshot::Sender<Vec<PeerId>>),
    /// How they are reached.
    Routes(oneshot::Sender<Vec<Route>>),
}

struct Driver {
    swarm: Swarm<Behaviour>,
    bulk: Bulk,
    network: NetworkId,
    events: mpsc::Sender<NetEvent>,
    queries: HashMap<QueryId, Running>,
    pace: Pace,
    dialling: Vec<Dialling>,
    /// The members that are connected, and how many of their addresses were noted.
    members: HashMap<PeerId, usize>,
    dropped: HashSet<PeerId>,
    keeping: Keeping,
    sweep: Instant,
    /// Members to begin with, and when those of them that are missing are dialled again.
    known: Vec<Multiaddr>,
    redial: (Instant, Backoff),
    reach: Reach,
    /// How often they were dialled.
    redialled: usize,
    /// Whether the next time they are dialled from a port that nobody else has.
    from_new_port: bool,
}

/// Starts a swarm; gives its handle once it listens. What it remembers is kept in `file`, if there is one.
pub(super) async fn start(
    network: &Network,
    identity: &Keypair,
    file: Option<&Path>,
) -> Result<(Handle, mpsc::Receiver<NetEvent>), SwarmError> {
    let id = network.id();
    let admission = Admission::new(network.admission(), identity.public().to_peer_id());
    let relay_admission = admission.clone();
    let handshake = Secure::new(identity, limits::READ_STEP.1)?;
    let handshake = Admitted { handshake, admission: admission.clone() };
    let bulk = Bulk::new(&id, &handshake);
    let setup = |error: &dyn std::fmt::Display| SwarmError::Setup(error.to_string());
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(identity.clone())
        .with_tokio()
        .with_other_transport(|_| bulk.transport(handshake))
        .map_err(|error| setup(&error))?
        .with_other_transport(|pair| {
            let mut config = quic::Config::new(pair);
            // It is kept in memory also for those who have yet to show that they are members.
            (config.max_connection_data, config.max_stream_data) = (limits::QUIC_WINDOW, limits::QUIC_WINDOW);
            let quic = quic::tokio::Transport::new(config);
            quic.and_then(move |connection, point| admission.clone().prove_on(connection, point).boxed())
        })
        .map_err(|error| setup(&error))?
        .with_relay_client(|pair: &Keypair| proven_tls(pair, relay_admission), yamux::Config::default)
        .map_err(|error| setup(&error))?
        .with_behaviour(|pair, carried| Ok(Behaviour::new(network, pair, carried)?))
        .map_err(|error| setup(&error))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(300)))
        .build();
    let mut known = Vec::with_capacity(network.peers.len());
    for text in &network.peers {
        known.push(text.parse::<Multiaddr>().map_err(|_| SwarmError::Address(text.clone()))?);
    }
    let mut early = Vec::new();
    let listening = tokio::time::timeout(limits::LISTEN, listen(&mut swarm, network, &mut early)).await;
    let listen = listening.unwrap_or_else(|_| {
        let (address, why) = (network.listen.join(", "), "it does not begin to".to_owned());
        Err(SwarmError::Listen { address, why })
    })?;
    let (commands_to, commands) = mpsc::channel(limits::MAX_COMMANDS);
    let (events, events_from) = mpsc::channel(limits::MAX_EVENTS);
    let control = swarm.behaviour().stream.new_control();
    let peer = *swarm.local_peer_id();
    let listen = listen.into_iter().map(|address| format!("{address}/p2p/{peer}")).collect();
    let (listen_to, listen) = watch::channel(listen);
    let handle = Handle::new(network, (peer, listen), commands_to, (control, bulk.clone()));
    let now = Instant::now();
    let (keeping, remembered, rows) = Keeping::open(file, network.key.is_some()).await;
    let mut driver = Driver {
        swarm,
        bulk,
        network: id,
        events,
        queries: HashMap::new(),
        pace: Pace::default(),
        dialling: Vec::new(),
        members: HashMap::new(),
        dropped: HashSet::new(),
        keeping,
        sweep: now + limits::DHT_SWEEP,
        known,
        redial: (now, Backoff::new(limits::REDIAL.0, limits::REDIAL.1)),
        reach: Reach::new(listen_to),
        redialled: 0,
        from_new_port: false,
    };
    driver.restore(rows);
    let happened: Vec<_> = early.into_iter().flat_map(|event| driver.happened(event)).collect();
    let task = span::spawn("swarm", driver.run(commands, happened)).abort_handle();
    handle.is_driven_by(task, remembered);
    Ok((handle, events_from))
}

/// Listens wherever the Network says, and waits until the addresses are known. What else happens meanwhile is kept in
/// `early`: who is met then is not met again.
async fn listen(
    swarm: &mut Swarm<Behaviour>,
    network: &Network,
    early: &mut Vec<SwarmEvent<BehaviourEvent>>,
) -> Result<Vec<Multiaddr>, SwarmError> {
    let mut waiting: HashMap<ListenerId, Multiaddr> = HashMap::new();
    for text in &network.listen {
        let address: Multiaddr = text.parse().map_err(|_| SwarmError::Address(text.clone()))?;
        let fail =
            |error: &dyn std::error::Error| SwarmError::Listen { address: text.clone(), why: cause(error) };
        waiting.insert(swarm.listen_on(address.clone()).map_err(|error| fail(&error))?, address);
    }
    let mut found = Vec::new();
    let everywhere = waiting.clone();
    loop {
        let event = match waiting.is_empty() {
            false => swarm.select_next_some().await,
            // The other addresses of somebody who listens everywhere are known by now.
            true => match swarm.select_next_some().now_or_never() {
                Some(event) => event,
                None => return Ok(found),
            },
        };
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                waiting.remove(&listener_id);
                // Whoever listens everywhere is reached from elsewhere; who names loopback means it.
                let wide = everywhere.get(&listener_id).is_some_and(is_unspecified);
                if !(wide && is_loopback(&address)) {
                    // Nobody else will confirm it on a private network, and without it providers are found nowhere.
                    swarm.add_external_address(address.clone());
                }
                found.push(address);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let address =
                    waiting.remove(&listener_id).map(|address| address.to_string()).unwrap_or_default();
                let why = reason.err().map_or_else(|| "it was closed".to_owned(), |error| cause(&error));
                return Err(SwarmError::Listen { address, why });
            }
            event if early.len() < limits::MAX_EARLY => early.push(event),
            _ => {}
        }
    }
}

/// The innermost cause that says something: the outer ones do not always.
fn cause(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        let text = error.to_string();
        said = if text.is_empty() { said } else { text };
        inner = error.source();
    }
    said
}

fn is_unspecified(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_unspecified(),
        Protocol::Ip6(ip) => ip.is_unspecified(),
        _ => false,
    })
}

/// Who an address says is there.
fn named(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, early: Vec<NetEvent>) {
        for event in early {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
        loop {
            self.expire();
            let wake = self.wake();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => {
                    for event in self.happened(event) {
                        if self.events.send(event).await.is_err() {
                            return;
                        }
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// When something is to be ended at the latest.
    fn wake(&self) -> Instant {
        let redial = self.is_lost().then_some(self.redial.0);
        let keeping = self.sweep.min(self.keeping.wake());
        let rest = self.query_wake().into_iter().chain(redial).chain(self.reach.wake());
        rest.fold(keeping, Instant::min)
    }

    /// Whether nobody is connected although somebody is known, or somebody is missing whom the settings name.
    fn is_lost(&self) -> bool {
        let alone = self.members.is_empty() && !(self.known.is_empty() && self.keeping.known.is_empty());
        alone || self.known.iter().any(|address| self.is_missing(address))
    }

    /// Whether a member that the settings name is not connected, as far as its address says who it is.
    fn is_missing(&self, address: &Multiaddr) -> bool {
        named(address).is_some_and(|peer| {
            peer != *self.swarm.local_peer_id()
                && !self.dropped.contains(&peer)
                && !self.members.contains_key(&peer)
        })
    }

    /// Dials the members that are known by address, and when nobody is connected some of those that were good once. kad
    /// forgets those whom it could not reach once, and nobody else dials again who was lost while others were there.
    ///
    /// Every other time it is done from a new port. From the one where this node listens holes can be made, but libp2p
    /// takes it on all addresses of the machine, which fails as long as any other program has it on one of them.
    fn dial_known(&mut self) {
        let alone = self.members.is_empty();
        let new_port = self.from_new_port;
        self.from_new_port = !new_port;
        for address in self.known.clone() {
            match named(&address) {
                Some(_) if !self.is_missing(&address) => {}
                Some(peer) => {
                    self.route(peer, address.clone());
                    let condition = PeerCondition::DisconnectedAndNotDialing;
                    let dial = DialOpts::peer_id(peer).condition(condition).addresses(vec![address]);
                    let dial = if new_port { dial.allocate_new_port() } else { dial };
                    let _ = self.swarm.dial(dial.build());
                }
                None if alone => {
                    let dial = DialOpts::unknown_peer_id().address(address);
                    let dial = if new_port { dial.allocate_new_port() } else { dial };
                    let _ = self.swarm.dial(dial.build());
                }
                None => {}
            }
        }
        if !alone {
            return;
        }
        for (peer, addresses) in self.keeping.latest(self.redialled) {
            let dial = DialOpts::peer_id(peer).addresses(addresses);
            let dial = if new_port { dial.allocate_new_port() } else { dial };
            let _ = self.swarm.dial(dial.build());
        }
        self.redialled += 1;
    }

    /// Does what is to be done by now.
    fn expire(&mut self) {
        self.reach.act(&mut self.swarm);
        let now = Instant::now();
        self.keep(now);
        if self.is_lost() && self.redial.0 <= now {
            self.redial.0 = now + self.redial.1.step();
            self.dial_known();
        }
        self.expire_queries(now);
    }

    fn carry_out(&mut self, command: Command) {
        tracing::debug!(?command, "asked");
        let alone = self.members.is_empty();
        match command {
            Command::Put(name, value, reply) => {
                let value = self.merged(&name, value);
                let record = Record::new(key(&name), value);
                match self.swarm.behaviour_mut().kad.put_record(record, Quorum::One) {
                    Ok(id) => self.asked(id, Query::Put(reply)),
                    Err(_) => drop(reply.send(false)),
                }
            }
            Command::Get(name, reply) => {
                let id = self.swarm.behaviour_mut().kad.get_record(key(&name));
                self.asked(id, Query::Get { values: Vec::new(), reply });
            }
            Command::Provide(name, reply) => {
                match self.swarm.behaviour_mut().kad.start_providing(key(&name)) {
                    Ok(id) if !alone => self.asked(id, Query::Provide(reply)),
                    _ => drop(reply.send(false)),
                }
            }
            Command::Withdraw(name) => self.swarm.behaviour_mut().kad.stop_providing(&key(&name)),
            Command::Unput(name) => self.swarm.behaviour_mut().kad.remove_record(&key(&name)),
            Command::Providers(name, reply) => {
                let id = self.swarm.behaviour_mut().kad.get_providers(key(&name));
                self.asked(id, Query::Providers { found: Default::default(), reply });
            }
            Command::Drop(peer) => {
                self.dropped.insert(peer);
                self.bulk.gone(&peer);
                self.forget(peer);
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::ByQuic(peer) => {
                let addresses = self.bulk.quic_addresses(&peer);
                let dial = DialOpts::peer_id(peer).condition(PeerCondition::Always);
                if !addresses.is_empty() && self.swarm.dial(dial.addresses(addresses).build()).is_ok() {
                    self.reach.wants_quic(peer);
                }
            }
            Command::Kept(reply) => {
                let shelf = &self.store().shelf;
                let _ = reply.send(Kept { records: shelf.len(), bytes: shelf.weight() });
            }
            Command::Connected(reply) => {
                let _ = reply.send(self.members.keys().copied().collect());
            }
            Command::Routes(reply) => {
                let _ = reply.send(self.reach.routes(self.members.keys().copied()));
            }
        }
    }

    fn happened(&mut self, event: SwarmEvent<BehaviourEvent>) -> Vec<NetEvent> {
        self.reach.saw(&mut self.swarm, &event);
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if self.dropped.contains(&peer_id) => {
                let _ = self.swarm.disconnect_peer_id(peer_id);
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                self.keeping.connected(peer_id, &endpoint);
                self.bulk.connected(peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                let member = self.members.remove(&peer_id).is_some();
                self.keeping.gone(peer_id, member);
                self.bulk.gone(&peer_id);
                if !member {
                    return Vec::new();
                }
                if self.members.is_empty() || self.known.iter().any(|known| named(known) == Some(peer_id)) {
                    self.redial = (Instant::now(), Backoff::new(limits::REDIAL.0, limits::REDIAL.1));
                }
                return vec![NetEvent::Gone(peer_id)];
            }
            SwarmEvent::ConnectionClosed { peer_id, endpoint, .. } => self.bulk.closed(&peer_id, &endpoint),
            SwarmEvent::NewListenAddr { address, .. }
                if !is_loopback(&address) && !reach::is_relayed(&address) =>
            {
                self.swarm.add_external_address(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), .. }
                if !self.members.contains_key(&peer) =>
            {
                self.unreachable(peer);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => return self.identified(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.kad(event),
            _ => {}
        }
        Vec::new()
    }

    /// A peer said who it is. Only those who speak this Network's protocols are members.
    fn identified(&mut self, event: identify::Event) -> Vec<NetEvent> {
        let (peer_id, info) = match event {
            identify::Event::Received { peer_id, info, .. } => (peer_id, info),
            // It would not be asked again for minutes, and not be dialled either while it is connected.
            identify::Event::Error { peer_id, connection_id, .. } if !self.members.contains_key(&peer_id) => {
                self.swarm.close_connection(connection_id);
                return Vec::new();
            }
            _ => return Vec::new(),
        };
        if !info.protocols.contains(&protocol(&self.network, Purpose::Kademlia)) {
            return Vec::new();
        }
        if self.dropped.contains(&peer_id) {
            return Vec::new();
        }
        self.bulk.admitted(peer_id, &info.listen_addrs);
        let (first, alone) = (!self.members.contains_key(&peer_id), self.members.is_empty());
        // kad learns of nobody by itself, and has no bound on what one peer says about itself again and again.
        let noted = self.members.get(&peer_id).copied().unwrap_or(0);
        let new = info.listen_addrs.len().min(limits::MAX_ADDRESSES - noted);
        self.members.insert(peer_id, noted + new);
        self.keeping.says(peer_id, &info.listen_addrs);
        self.swarm.behaviour_mut().doors.proven(peer_id);
        for address in info.listen_addrs.into_iter().take(new) {
            self.route(peer_id, address);
        }
        let mut events = Vec::new();
        if first {
            events.push(NetEvent::Met(peer_id));
        }
        if alone {
            self.reach.joined();
            let _ = self.swarm.behaviour_mut().kad.bootstrap();
            events.push(NetEvent::Joined);
        }
        events
    }
}
