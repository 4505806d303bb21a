// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a swarm is made of.

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::{self, BucketInserts, Mode, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, Swarm, identify, relay};
use potluck_protocol::names::{NetworkId, Purpose};

use super::doors::Doors;
use super::reach;
use super::store::Store;
use super::{SwarmError, limits};
use crate::network::Network;

/// All of it. The limits come first: they must see a connection before anything else does.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) doors: Doors,
    pub(super) identify: identify::Behaviour,
    pub(super) kad: kad::Behaviour<Store>,
    pub(super) reach: reach::Behaviour,
    pub(super) stream: libp2p_stream::Behaviour,
}

/// The protocol string of a purpose, as libp2p wants it.
pub(super) fn protocol(network: &NetworkId, purpose: Purpose) -> StreamProtocol {
    StreamProtocol::try_from_owned(purpose.protocol(network))
        .expect("our protocol strings start with a slash")
}

/// Whether somebody with these protocols is a member of the Network of this swarm.
pub(super) fn is_member(swarm: &Swarm<Behaviour>, protocols: &[StreamProtocol]) -> bool {
    swarm.behaviour().kad.protocol_names().iter().all(|own| protocols.contains(own))
}

impl Behaviour {
    /// Of a private Network, all peers have proven that they are members before anything here sees them.
    pub(super) fn new(
        network: &Network,
        identity: &Keypair,
        carried: relay::client::Behaviour,
    ) -> Result<Self, SwarmError> {
        let peer = identity.public().to_peer_id();
        let limits = ConnectionLimits::default()
            .with_max_established(Some(limits::MAX_CONNECTIONS))
            .with_max_established_incoming(Some(limits::MAX_CONNECTIONS_INCOMING))
            .with_max_established_per_peer(Some(limits::MAX_CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(limits::MAX_PENDING_INCOMING))
            .with_max_pending_outgoing(Some(limits::MAX_PENDING));
        // Strangers learn the program here, and nothing about the Network.
        let identify = identify::Config::new("potluck/1".to_owned(), identity.public())
            .with_agent_version(format!("potluck/{}", env!("CARGO_PKG_VERSION")))
            // Who gets another address, or a place at a relay, is to be found there.
            .with_push_listen_addr_updates(true);
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            doors: Doors::new(network.key.is_some()),
            identify: identify::Behaviour::new(identify),
            kad: kademlia(&network.id(), peer),
            reach: reach::Behaviour::new(network, identity, carried)?,
            stream: libp2p_stream::Behaviour::new(),
        })
    }
}

fn kademlia(network: &NetworkId, peer: libp2p::PeerId) -> kad::Behaviour<Store> {
    let mut config = kad::Config::new(protocol(network, Purpose::Kademlia));
    config
        .set_query_timeout(limits::QUERY)
        .set_substreams_timeout(limits::REQUEST)
        .set_parallelism(limits::PARALLEL)
        // Who gets into the routing table is `driver::routing`'s business.
        .set_kbucket_inserts(BucketInserts::Manual)
        // What others put is judged before it is kept.
        .set_record_filtering(StoreInserts::FilterBoth)
        // Saying things again is the announce Plan's business.
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    let mut kad = kad::Behaviour::with_config(peer, Store::new(peer), config);
    // Left to itself kad stays a client until the outside world confirms an address, and on a local network nobody
    // would keep anything.
    kad.set_mode(Some(Mode::Server));
    kad
}
