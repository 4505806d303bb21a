// SPDX-License-Identifier: MIT OR Apache-2.0
//! A private Network is closed: without its key nobody gets as far as a name of it.

use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, identify, tcp, tls, yamux};

use super::*;

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// libp2p as anybody may use it, which asks whoever it meets what it speaks.
fn anybody() -> Swarm<identify::Behaviour> {
    libp2p::SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
        .unwrap()
        .with_quic()
        .with_behaviour(|pair| {
            identify::Behaviour::new(identify::Config::new("x/1".to_owned(), pair.public()))
        })
        .unwrap()
        .build()
}

/// What a stranger hears from somebody at an address until the connection is refused or ends.
async fn hears(address: &str) -> Vec<String> {
    let mut swarm = anybody();
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    let listening = async {
        let mut heard = Vec::new();
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(identify::Event::Received { info, .. }) => {
                    heard.extend(info.protocols.iter().map(ToString::to_string));
                    return heard;
                }
                SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } => {
                    return heard;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.expect("it is told, or turned away")
}

fn on(address: &str, public: bool) -> Network {
    let key = Network::new("office", public).unwrap();
    Network { listen: vec![address.to_owned()], ..key }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_of_a_private_network() {
    for address in [TCP, QUIC] {
        let place = Place::new(&on(address, false), true);
        let node = Node::start(&place, &[]).await;
        assert_eq!(hears(&node.address).await, Vec::<String>::new(), "{address}");
        assert_eq!(node.status().await["peers"].as_array().unwrap().len(), 0);
        node.stop().await;
        // The test itself must be able to hear something.
        let place = Place::new(&on(address, true), true);
        let node = Node::start(&place, &[]).await;
        let heard = hears(&node.address).await;
        assert!(heard.iter().any(|protocol| protocol.starts_with("/potluck/")), "{address}: {heard:?}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_know_each_other_on_every_transport() {
    for address in [TCP, QUIC] {
        let network = on(address, false);
        let (alice, bob) = (Place::new(&network, true), Place::new(&network, true));
        bob.trusts("alice", &alice, None);
        let a = Node::start(&alice, &[]).await;
        let content = bytes(1, 3 << 20);
        a.publish("key", &content).await;
        let b = Node::start(&bob, &[&a.address]).await;
        assert_eq!(b.read(*b.finds("key").await.digest()).await, content);
        // Somebody with another key is no member, whichever side dials.
        let other = Place::new(&on(address, false), true);
        let c = Node::start(&other, &[&a.address]).await;
        assert_eq!(hears(&c.address).await, Vec::<String>::new());
        assert_eq!(c.status().await["peers"].as_array().unwrap().len(), 0);
        assert_eq!(a.status().await["peers"].as_array().unwrap().len(), 1);
        for node in [c, b, a] {
            node.stop().await;
        }
    }
}
