// SPDX-License-Identifier: MIT OR Apache-2.0
//! The task that owns a swarm: carries out commands, hands out what happens, and decides nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, QueryResult, Quorum, Record, RecordKey};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport as _, identify, mdns, quic};
use potluck_protocol::names::{DhtKey, NetworkId, Purpose};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::admission::{Admission, Admitted};
use super::behaviour::{Behaviour, BehaviourEvent, protocol};
use super::bulk::Bulk;
use super::handle::Handle;
use super::records::{self, Guest, Guests};
use super::secure::Secure;
use super::{SwarmError, limits};
use crate::network::Network;
use crate::observe::{clock, span};
use crate::plan::Backoff;

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
    Get(DhtKey, oneshot::Sender<Vec<Vec<u8>>>),
    /// Say that this node provides a key; the answer is whether there is anybody to say it to.
    Provide(DhtKey, oneshot::Sender<bool>),
    /// Say so no more.
    Withdraw(DhtKey),
    /// Who provides a key; those who can be reached are connected when the answer comes.
    Providers(DhtKey, oneshot::Sender<Vec<PeerId>>),
    /// Close all connections to a peer, and take none again.
    Drop(PeerId),
    /// Which members are connected.
    Connected(oneshot::Sender<Vec<PeerId>>),
}

/// A question to the DHT that has not been answered.
enum Query {
    Put(oneshot::Sender<bool>),
    Get { values: Vec<Vec<u8>>, reply: oneshot::Sender<Vec<Vec<u8>>> },
    Provide(oneshot::Sender<bool>),
    Providers { found: BTreeSet<PeerId>, reply: oneshot::Sender<Vec<PeerId>> },
}

/// A search whose finds are being dialled.
struct Dialling {
    found: BTreeSet<PeerId>,
    until: Instant,
    reply: oneshot::Sender<Vec<PeerId>>,
}

struct Driver {
    swarm: Swarm<Behaviour>,
    bulk: Bulk,
    network: NetworkId,
    events: mpsc::Sender<NetEvent>,
    queries: HashMap<QueryId, (Query, Instant)>,
    dialling: Vec<Dialling>,
    /// The members that are connected, and how many of their addresses were noted.
    members: HashMap<PeerId, usize>,
    dropped: HashSet<PeerId>,
    guests: Guests<PeerId>,
    sweep: Instant,
    /// Members to begin with, and when they are dialled again if nobody is connected.
    known: Vec<Multiaddr>,
    redial: (Instant, Backoff),
}

/// Starts a swarm; gives its handle once it listens.
pub(super) async fn start(
    network: &Network,
    identity: &Keypair,
) -> Result<(Handle, mpsc::Receiver<NetEvent>), SwarmError> {
    let id = network.id();
    let behaviour = Behaviour::new(&id, identity, network.mdns)?;
    let admission = Admission::new(network.admission(), identity.public().to_peer_id());
    let handshake = Secure::new(identity, limits::READ_STEP.1)?;
    let handshake = Admitted { handshake, admission: admission.clone() };
    let bulk = Bulk::new(&id, &handshake);
    let setup = |error: &dyn std::fmt::Display| SwarmError::Setup(error.to_string());
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(identity.clone())
        .with_tokio()
        .with_other_transport(|_| bulk.transport(handshake))
        .map_err(|error| setup(&error))?
        .with_other_transport(|pair| {
            let quic = quic::tokio::Transport::new(quic::Config::new(pair));
            quic.and_then(move |connection, point| admission.clone().prove_on(connection, point).boxed())
        })
        .map_err(|error| setup(&error))?
        .with_behaviour(|_| behaviour)
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
    let handle = Handle::new(network, (peer, listen), commands_to, (control, bulk.clone()));
    let now = Instant::now();
    let mut driver = Driver {
        swarm,
        bulk,
        network: id,
        events,
        queries: HashMap::new(),
        dialling: Vec::new(),
        members: HashMap::new(),
        dropped: HashSet::new(),
        guests: Guests::new(limits::MAX_DHT_KEYS, limits::MAX_DHT_KEYS_PER_PEER),
        sweep: now + limits::DHT_SWEEP,
        known,
        redial: (now, Backoff::new(limits::REDIAL.0, limits::REDIAL.1)),
    };
    let happened: Vec<_> = early.into_iter().flat_map(|event| driver.happened(event)).collect();
    handle.is_driven_by(span::spawn("swarm", driver.run(commands, happened)).abort_handle());
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
        let fail = |error: &dyn std::fmt::Display| SwarmError::Listen {
            address: text.clone(),
            why: error.to_string(),
        };
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
                let why = reason.err().map_or_else(|| "it was closed".to_owned(), |error| error.to_string());
                return Err(SwarmError::Listen { address, why });
            }
            event if early.len() < limits::MAX_EARLY => early.push(event),
            _ => {}
        }
    }
}

fn is_unspecified(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_unspecified(),
        Protocol::Ip6(ip) => ip.is_unspecified(),
        _ => false,
    })
}

fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

fn key(key: &DhtKey) -> RecordKey {
    RecordKey::new(key.as_bytes())
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.bulk.end();
    }
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
        let queries = self.queries.values().map(|(_, until)| *until);
        let dialling = self.dialling.iter().map(|dialling| dialling.until);
        let redial = self.is_lost().then_some(self.redial.0);
        queries.chain(dialling).chain(redial).fold(self.sweep, Instant::min)
    }

    /// Whether nobody is connected although somebody is known.
    fn is_lost(&self) -> bool {
        self.members.is_empty() && !self.known.is_empty()
    }

    /// Dials the members that are known by address. kad forgets those whom it could not reach once.
    fn dial_known(&mut self) {
        for address in self.known.clone() {
            if let Some(Protocol::P2p(peer)) = address.iter().last() {
                if peer == *self.swarm.local_peer_id() || self.dropped.contains(&peer) {
                    continue;
                }
                self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
            }
            let _ = self.swarm.dial(address);
        }
    }

    /// Throws away what others put here and has expired: with kad's own jobs off nobody else does.
    fn sweep(&mut self, now: Instant) {
        let store = self.swarm.behaviour_mut().kad.store_mut();
        for guest in self.guests.expire(now.into_std()) {
            match guest {
                Guest::Value(name, peer) => match store.get(&key(&name)).and_then(|record| record.expires) {
                    // It was put again, perhaps by somebody else.
                    Some(until) if until > now.into_std() => {
                        self.guests.take(Guest::Value(name, peer), until);
                    }
                    _ => store.remove(&key(&name)),
                },
                Guest::Provider(name, peer) => store.remove_provider(&key(&name), &peer),
            }
        }
    }

    /// Ends what has found enough or searched for long enough. A query that ends reports once more, and is answered
    /// then.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.sweep <= now {
            self.sweep = now + limits::DHT_SWEEP;
            self.sweep(now);
        }
        if self.is_lost() && self.redial.0 <= now {
            self.redial.0 = now + self.redial.1.step();
            self.dial_known();
        }
        let over: Vec<_> =
            self.queries.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in over {
            match self.swarm.behaviour_mut().kad.query_mut(&id) {
                Some(mut query) => query.finish(),
                None => self.answer(id, false),
            }
            if let Some((_, until)) = self.queries.get_mut(&id) {
                *until = now + limits::QUERY;
            }
        }
        let swarm = &self.swarm;
        let done = self.dialling.extract_if(.., |dialling| {
            let connected = dialling.found.iter().filter(|peer| swarm.is_connected(peer)).count();
            if connected > 0 {
                // Those who can be reached at once need not wait for those who cannot be reached at all.
                dialling.until = dialling.until.min(now + limits::MORE_HOLDERS);
            }
            connected == dialling.found.len() || dialling.until <= now
        });
        for Dialling { found, reply, .. } in done {
            let _ = reply.send(found.into_iter().filter(|peer| swarm.is_connected(peer)).collect());
        }
    }

    fn carry_out(&mut self, command: Command) {
        tracing::debug!(?command, "asked");
        let until = Instant::now() + limits::QUERY;
        let alone = self.members.is_empty();
        let kad = &mut self.swarm.behaviour_mut().kad;
        match command {
            Command::Put(name, value, reply) => {
                match kad.put_record(Record::new(key(&name), value), Quorum::One) {
                    Ok(id) => drop(self.queries.insert(id, (Query::Put(reply), until))),
                    Err(_) => drop(reply.send(false)),
                }
            }
            Command::Get(name, reply) => {
                let id = kad.get_record(key(&name));
                self.queries.insert(id, (Query::Get { values: Vec::new(), reply }, until));
            }
            Command::Provide(name, reply) => match kad.start_providing(key(&name)) {
                Ok(id) if !alone => drop(self.queries.insert(id, (Query::Provide(reply), until))),
                _ => drop(reply.send(false)),
            },
            Command::Withdraw(name) => kad.stop_providing(&key(&name)),
            Command::Providers(name, reply) => {
                let id = kad.get_providers(key(&name));
                self.queries.insert(id, (Query::Providers { found: BTreeSet::new(), reply }, until));
            }
            Command::Drop(peer) => {
                self.dropped.insert(peer);
                self.bulk.gone(&peer);
                kad.remove_peer(&peer);
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Connected(reply) => {
                let _ = reply.send(self.members.keys().copied().collect());
            }
        }
    }

    fn happened(&mut self, event: SwarmEvent<BehaviourEvent>) -> Vec<NetEvent> {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if self.dropped.contains(&peer_id) => {
                let _ = self.swarm.disconnect_peer_id(peer_id);
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                self.bulk.connected(peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.bulk.gone(&peer_id);
                if self.members.remove(&peer_id).is_none() {
                    return Vec::new();
                }
                if self.members.is_empty() {
                    self.redial = (Instant::now(), Backoff::new(limits::REDIAL.0, limits::REDIAL.1));
                }
                return vec![NetEvent::Gone(peer_id)];
            }
            SwarmEvent::NewListenAddr { address, .. } if !is_loopback(&address) => {
                self.swarm.add_external_address(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), .. } => {
                for dialling in &mut self.dialling {
                    dialling.found.remove(&peer);
                }
                for (query, _) in self.queries.values_mut() {
                    if let Query::Providers { found, .. } = query {
                        found.remove(&peer);
                    }
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => return self.identified(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
                    let _ = self.swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build());
                }
            }
            _ => {}
        }
        Vec::new()
    }

    /// A peer said who it is. Only those who speak this Network's protocols are members.
    fn identified(&mut self, event: identify::Event) -> Vec<NetEvent> {
        let identify::Event::Received { peer_id, info, .. } = event else { return Vec::new() };
        if !info.protocols.contains(&protocol(&self.network, Purpose::Kademlia)) {
            return Vec::new();
        }
        if self.dropped.contains(&peer_id) {
            return Vec::new();
        }
        self.bulk.admitted(peer_id, &info.listen_addrs);
        let (first, alone) = (!self.members.contains_key(&peer_id), self.members.is_empty());
        // kad learns of nobody by itself, and has no bound on what one peer says about itself again and again.
        let noted = self.members.entry(peer_id).or_default();
        for address in info.listen_addrs {
            if *noted < limits::MAX_ADDRESSES && address.len() <= limits::MAX_ADDRESS_BYTES {
                *noted += 1;
                self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
            }
        }
        let mut events = Vec::new();
        if first {
            events.push(NetEvent::Met(peer_id));
        }
        if alone {
            let _ = self.swarm.behaviour_mut().kad.bootstrap();
            events.push(NetEvent::Joined);
        }
        events
    }

    fn kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.put_here(request),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                let failed = self.progressed(id, result);
                if step.last {
                    self.answer(id, !failed);
                }
            }
            _ => {}
        }
    }

    /// Something came of a query; gives whether it failed.
    fn progressed(&mut self, id: QueryId, result: QueryResult) -> bool {
        let Some((query, until)) = self.queries.get_mut(&id) else { return false };
        let mut enough = |first: bool| {
            if first {
                *until = Instant::now() + limits::MORE_HOLDERS;
            }
        };
        match (query, result) {
            (Query::Get { values, .. }, QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found)))) => {
                enough(values.is_empty());
                if values.len() < limits::MAX_FOUND {
                    values.push(found.record.value);
                }
            }
            (
                Query::Providers { found, .. },
                QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
            ) => {
                enough(found.is_empty());
                let own = *self.swarm.local_peer_id();
                let new = providers.into_iter().filter(|peer| *peer != own && !self.dropped.contains(peer));
                for peer in new.take(limits::MAX_FOUND.saturating_sub(found.len())) {
                    // Now, while the query still knows the address.
                    let dial = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
                    // Whom there is no way to reach need not be waited for.
                    if let Ok(()) | Err(DialError::DialPeerConditionFalse(_)) = self.swarm.dial(dial.build())
                    {
                        found.insert(peer);
                    }
                }
            }
            (_, QueryResult::PutRecord(result)) => return result.is_err(),
            (_, QueryResult::StartProviding(result)) => return result.is_err(),
            _ => {}
        }
        false
    }

    /// Answers whoever asked, once.
    fn answer(&mut self, id: QueryId, well: bool) {
        let Some((query, _)) = self.queries.remove(&id) else { return };
        tracing::debug!(%id, well, "a query ended");
        match query {
            Query::Put(reply) | Query::Provide(reply) => drop(reply.send(well)),
            Query::Get { values, reply } => drop(reply.send(values)),
            Query::Providers { found, reply } => {
                let until = Instant::now() + limits::OPEN_STALL;
                self.dialling.push(Dialling { found, until, reply });
            }
        }
    }

    /// A peer puts something here.
    fn put_here(&mut self, request: kad::InboundRequest) {
        let store = self.swarm.behaviour_mut().kad.store_mut();
        let name = |key: &RecordKey| <[u8; 32]>::try_from(key.as_ref()).ok().map(DhtKey::from_bytes);
        let for_ever = Instant::now().into_std() + limits::MAX_DHT_LIFE;
        match request {
            kad::InboundRequest::PutRecord { source, record: Some(record), .. } => {
                let Some(name) = name(&record.key) else { return };
                let standing = store.get(&record.key).map(|record| record.value.clone());
                let until = record.expires.map_or(for_ever, |until| until.min(for_ever));
                let guest = Guest::Value(name, source);
                // What stands here already takes no more room, whoever put it there.
                if standing.is_none() && !self.guests.fits(&guest) {
                    return;
                }
                let value = match &standing {
                    // The same again only keeps it for longer, and need not be checked again.
                    Some(standing) if *standing == record.value => Some(record.value.clone()),
                    _ => records::merge(&name, standing.as_deref(), &record.value, clock::now()),
                };
                let Some(value) = value else { return };
                let kept = store.put(Record { value, expires: Some(until), ..record });
                if standing.is_none() && kept.is_ok() {
                    self.guests.take(guest, until);
                }
            }
            kad::InboundRequest::AddProvider { record: Some(mut record) } => {
                let Some(name) = name(&record.key) else { return };
                // kad has made sure that the provider is the sender.
                let guest = Guest::Provider(name, record.provider);
                if !self.guests.fits(&guest) {
                    return;
                }
                record.addresses.retain(|address| address.len() <= limits::MAX_ADDRESS_BYTES);
                record.addresses.truncate(limits::MAX_ADDRESSES);
                let until = record.expires.map_or(for_ever, |until| until.min(for_ever));
                record.expires = Some(until);
                let (key, provider) = (record.key.clone(), record.provider);
                let _ = store.add_provider(record);
                // A key with enough providers takes no more, and says nothing about it.
                if store.providers(&key).iter().any(|known| known.provider == provider) {
                    self.guests.take(guest, until);
                }
            }
            _ => {}
        }
    }
}
