// SPDX-License-Identifier: MIT OR Apache-2.0
//! How members find and reach each other, where that is not simply dialling an address: mDNS on the local network,
//! places at relays and holes in routers for who is behind one, and what each connection is like.
//!
//! [`crate::reach::plan`] decides; the behaviours of libp2p and what is here carry it out. Every relayed connection is authenticated
//! and closed to strangers from end to end, as any other is: a relay carries what it cannot read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use libp2p::autonat::v2 as autonat;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, dcutr, identify, mdns, ping, relay, upnp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::behaviour::{self, Behaviour as Whole, BehaviourEvent as Happened};
use super::{SwarmError, bulk, limits};
use crate::network::Network;
use crate::observe::clock;
use crate::plan::Plan as _;
use crate::reach::plan::{self, Action, Event, ReachPlan};

/// What finding and reaching is made of.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    mdns: Toggle<mdns::tokio::Behaviour>,
    ping: ping::Behaviour,
    carry: Toggle<relay::Behaviour>,
    carried: relay::client::Behaviour,
    punch: dcutr::Behaviour,
    probe: autonat::client::Behaviour,
    probed: autonat::server::Behaviour,
    upnp: Toggle<upnp::tokio::Behaviour>,
}

impl Behaviour {
    pub(super) fn new(
        network: &Network,
        identity: &Keypair,
        carried: relay::client::Behaviour,
    ) -> Result<Self, SwarmError> {
        let peer = identity.public().to_peer_id();
        let around = mdns::Config { query_interval: limits::LOOK_AROUND, ..mdns::Config::default() };
        let mdns = network.looks_around().then(|| mdns::tokio::Behaviour::new(around, peer)).transpose();
        let mdns = mdns.map_err(|error| SwarmError::Setup(error.to_string()))?;
        let ping = ping::Config::new().with_interval(limits::PING).with_timeout(limits::PONG);
        let carry = network.reach.relay.then(|| relay::Behaviour::new(peer, carrying()));
        let upnp = network.reach.upnp.then(upnp::tokio::Behaviour::default);
        Ok(Self {
            mdns: Toggle::from(mdns),
            ping: ping::Behaviour::new(ping),
            carry: Toggle::from(carry),
            carried,
            punch: dcutr::Behaviour::new(peer),
            probe: autonat::client::Behaviour::default(),
            probed: autonat::server::Behaviour::default(),
            upnp: Toggle::from(upnp),
        })
    }
}

/// How much a relay carries. libp2p's own bounds are for a handshake: two minutes and 128 KiB.
fn carrying() -> relay::Config {
    let (burst, every) = limits::RELAY_REQUESTS;
    let burst = NonZeroU32::new(burst).expect("the bound is above zero");
    let config = relay::Config {
        max_reservations: limits::MAX_PLACES_GIVEN,
        max_reservations_per_peer: limits::MAX_PLACES_PER_PEER,
        reservation_duration: limits::PLACE_LIFE,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits::MAX_CIRCUITS,
        max_circuits_per_peer: limits::MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: limits::CIRCUIT_LIFE,
        max_circuit_bytes: limits::MAX_CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    config.reservation_rate_per_peer(burst, every).circuit_src_per_peer(burst, every)
}

/// How a connected member is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who.
    pub peer: PeerId,
    /// The address at its end of the best connection.
    pub address: String,
    /// Whether a relay carries it.
    pub relayed: bool,
    /// How long a message took there and back, once that is known.
    pub rtt: Option<Duration>,
}

struct Connection {
    peer: PeerId,
    address: Multiaddr,
    relayed: bool,
    quic: bool,
    rtt: Option<Duration>,
    /// Pings in a row that nobody answered.
    lost: u32,
}

/// Carries out what [`plan`] decides.
pub(super) struct Reach {
    plan: ReachPlan<PeerId>,
    connections: HashMap<ConnectionId, Connection>,
    /// What mDNS says about the local network.
    near: HashMap<PeerId, BTreeSet<Multiaddr>>,
    /// Places at relays that were asked for, by their listeners.
    places: HashMap<ListenerId, PeerId>,
    /// Peers that are connected by TCP and dialled by QUIC, to see whether that is faster.
    to_quic: HashSet<PeerId>,
    /// Where this node can be reached.
    addresses: watch::Sender<Vec<String>>,
}

impl Reach {
    pub(super) fn new(addresses: watch::Sender<Vec<String>>) -> Self {
        let (connections, near, places) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (plan, to_quic) = (ReachPlan::default(), HashSet::new());
        Self { plan, connections, near, places, to_quic, addresses }
    }

    /// When there is something to do though nothing happened.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.plan.wake_at().map(|at| Instant::now() + at.since(clock::moment()))
    }

    fn feed(&mut self, event: Event<PeerId>) {
        tracing::debug!(?event, "reach");
        self.plan.feed(clock::moment(), event);
    }

    /// The first member was met.
    pub(super) fn joined(&mut self) {
        self.feed(Event::Changed);
    }

    /// How these are reached.
    pub(super) fn routes(&self, members: impl Iterator<Item = PeerId>) -> Vec<Route> {
        let best = |peer: PeerId| {
            let all = self.connections.values().filter(|connection| connection.peer == peer);
            let rank = |one: &&Connection| (one.relayed, one.rtt.unwrap_or(Duration::MAX));
            let Connection { address, relayed, rtt, .. } = all.min_by_key(rank)?;
            Some(Route { peer, address: address.to_string(), relayed: *relayed, rtt: *rtt })
        };
        members.filter_map(best).collect()
    }

    /// Takes note of what happens, whoever else does something about it.
    pub(super) fn saw(&mut self, swarm: &mut Swarm<Whole>, event: &SwarmEvent<Happened>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let (address, relayed) = (endpoint.get_remote_address().clone(), endpoint.is_relayed());
                let quic = bulk::is_quic(endpoint);
                let connection = Connection { peer: *peer_id, address, relayed, quic, rtt: None, lost: 0 };
                self.connections.insert(*connection_id, connection);
                self.feed(Event::Connected(*peer_id));
                self.straighten(swarm, *peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.connections.remove(connection_id);
                if *num_established == 0 {
                    self.to_quic.remove(peer_id);
                    self.feed(Event::Closed(*peer_id));
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), .. } => {
                // What comes about later by itself is no answer to that.
                self.to_quic.remove(peer);
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                if let Some(relay) = self.places.remove(listener_id) {
                    self.feed(Event::Displaced(relay));
                }
                self.moved(swarm);
            }
            SwarmEvent::NewListenAddr { .. } => {
                self.moved(swarm);
                self.feed(Event::Changed);
            }
            SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. }
            | SwarmEvent::ExternalAddrExpired { .. } => self.moved(swarm),
            SwarmEvent::Behaviour(Happened::Identify(event)) => self.identified(swarm, event),
            SwarmEvent::Behaviour(Happened::Reach(event)) => self.happened(swarm, event),
            _ => {}
        }
    }

    fn happened(&mut self, swarm: &mut Swarm<Whole>, event: &BehaviourEvent) {
        match event {
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    if self.near.len() >= plan::MAX_KNOWN && !self.near.contains_key(peer) {
                        continue;
                    }
                    let known = self.near.entry(*peer).or_default();
                    if known.len() < limits::MAX_ADDRESSES {
                        known.insert(address.clone());
                    }
                    self.feed(Event::Near(*peer));
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => {
                for (peer, address) in gone {
                    let Some(known) = self.near.get_mut(peer) else { continue };
                    known.remove(address);
                    if known.is_empty() {
                        self.near.remove(peer);
                        self.feed(Event::Far(*peer));
                    }
                }
            }
            BehaviourEvent::Ping(ping::Event { connection, result, .. }) => {
                self.pinged(swarm, *connection, result);
            }
            BehaviourEvent::Carried(relay::client::Event::ReservationReqAccepted {
                relay_peer_id, ..
            }) => {
                self.feed(Event::Placed(*relay_peer_id));
            }
            BehaviourEvent::Punch(event) => tracing::debug!(?event, "a hole was tried"),
            BehaviourEvent::Probe(event) => tracing::debug!(?event, "an address was tried"),
            _ => {}
        }
    }

    fn pinged(
        &mut self,
        swarm: &mut Swarm<Whole>,
        id: ConnectionId,
        result: &Result<Duration, ping::Failure>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match result {
            Ok(rtt) => (connection.rtt, connection.lost) = (Some(*rtt), 0),
            Err(ping::Failure::Unsupported) => {}
            Err(_) => {
                connection.lost += 1;
                if connection.lost >= limits::MAX_LOST_PINGS {
                    // The other end is gone and nothing says so; what waits there is better asked for elsewhere.
                    swarm.close_connection(id);
                }
            }
        }
    }

    /// A peer is dialled by QUIC, and is to be reached by that alone once it can be.
    pub(super) fn wants_quic(&mut self, peer: PeerId) {
        self.to_quic.insert(peer);
    }

    /// Closes the detours to a peer that is reached directly, so that what is opened from now on goes straight, and what is
    /// TCP to one that was to be reached by QUIC, and is.
    fn straighten(&mut self, swarm: &mut Swarm<Whole>, peer: PeerId) {
        let of = || self.connections.iter().filter(|(_, connection)| connection.peer == peer);
        if of().any(|(_, connection)| !connection.relayed) {
            for (id, _) in of().filter(|(_, connection)| connection.relayed) {
                swarm.close_connection(*id);
            }
        }
        if of().any(|(_, connection)| connection.quic) && self.to_quic.contains(&peer) {
            for (id, _) in of().filter(|(_, connection)| !connection.quic) {
                swarm.close_connection(*id);
            }
            self.to_quic.remove(&peer);
        }
    }

    /// A peer said who it is, and how it sees this node.
    fn identified(&mut self, swarm: &Swarm<Whole>, event: &identify::Event) {
        let identify::Event::Received { peer_id, connection_id, info } = event else { return };
        let carries = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        let direct = self.connections.get(connection_id).is_some_and(|connection| !connection.relayed);
        if carries && direct && behaviour::is_member(swarm, &info.protocols) {
            let seen = ip(&info.observed_addr);
            let open = swarm.listeners().any(|own| seen.is_some() && ip(own) == seen);
            self.feed(Event::Relay { relay: *peer_id, open });
        }
    }

    /// The addresses of this node are others now.
    fn moved(&mut self, swarm: &Swarm<Whole>) {
        let peer = *swarm.local_peer_id();
        let own: BTreeSet<_> = swarm.listeners().filter_map(ip).collect();
        let leads_in =
            |address: &&Multiaddr| !is_relayed(address) && ip(address).is_some_and(|ip| !own.contains(&ip));
        let ways_in: Vec<_> = swarm.external_addresses().filter(leads_in).collect();
        let all = swarm.listeners().chain(ways_in.iter().copied());
        let all: Vec<_> = all.filter_map(|address| address.clone().with_p2p(peer).ok()).collect();
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        let count = ways_in.len();
        self.addresses.send_modify(|known| {
            known.retain(|address| all.contains(address));
            for address in all {
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        });
        self.feed(Event::WaysIn(count));
    }

    /// Does what is due.
    pub(super) fn act(&mut self, swarm: &mut Swarm<Whole>) {
        while let Some(action) = self.plan.take(clock::moment()) {
            tracing::debug!(?action, "reach");
            match action {
                Action::Dial(peer) => self.dial(swarm, peer),
                Action::Reserve(relay) => self.reserve(swarm, relay),
                Action::Release(relay) => {
                    for (listener, _) in self.places.extract_if(|_, at| *at == relay) {
                        swarm.remove_listener(listener);
                    }
                }
                Action::Look => {
                    let _ = swarm.behaviour_mut().kad.bootstrap();
                }
            }
        }
    }

    fn dial(&self, swarm: &mut Swarm<Whole>, peer: PeerId) {
        let mut addresses: Vec<_> = self.near.get(&peer).into_iter().flatten().cloned().collect();
        // One after the other, and TCP first: on a local network it carries more than QUIC, which would win the race.
        addresses.sort_by_key(|address| address.iter().any(|part| matches!(part, Protocol::Udp(_))));
        let dial = DialOpts::peer_id(peer).addresses(addresses);
        let _ = swarm.dial(dial.override_dial_concurrency_factor(NonZeroU8::MIN).build());
    }

    fn reserve(&mut self, swarm: &mut Swarm<Whole>, relay: PeerId) {
        let at = self.connections.values().find(|connection| connection.peer == relay && !connection.relayed);
        let circuit = at.and_then(|at| at.address.clone().with_p2p(relay).ok());
        let listener = circuit.map(|at| swarm.listen_on(at.with(Protocol::P2pCircuit)));
        match listener {
            Some(Ok(listener)) => drop(self.places.insert(listener, relay)),
            _ => self.feed(Event::Displaced(relay)),
        }
    }
}

/// The IP address that an address begins with.
fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}
