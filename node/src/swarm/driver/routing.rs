// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who gets into the routing table: libp2p would take everybody, and one subnet could fill it.

use libp2p::kad::KBucketKey;
use libp2p::{Multiaddr, PeerId};

use super::Driver;
use crate::swarm::limits;

impl Driver {
    /// Enters an address of a peer in the routing table, unless its neighbours are there in numbers.
    pub(super) fn route(&mut self, peer: PeerId, address: Multiaddr) {
        if address.len() > limits::MAX_ADDRESS_BYTES || self.dropped.contains(&peer) {
            return;
        }
        if self.is_routed(&peer) || self.admits(&peer, &address) {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
        }
    }

    fn is_routed(&mut self, peer: &PeerId) -> bool {
        let bucket = self.swarm.behaviour_mut().kad.kbucket(*peer);
        bucket.is_some_and(|bucket| bucket.iter().any(|entry| entry.node.key.preimage() == peer))
    }

    /// By where a peer is connected from, which it cannot make up; by its address while it is not.
    fn admits(&mut self, peer: &PeerId, address: &Multiaddr) -> bool {
        let connected = self.keeping.whence.get(peer).map(|whence| whence.group);
        let Some(group) = connected.unwrap_or_else(|| self.keeping.group(address)) else { return true };
        let keeping = &self.keeping;
        let own = KBucketKey::from(*self.swarm.local_peer_id());
        let far = own.distance(&KBucketKey::from(*peer)).ilog2();
        let (mut here, mut all) = (0, 0);
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            for entry in bucket.iter() {
                let connected = keeping.whence.get(entry.node.key.preimage()).map(|whence| whence.group);
                let of = connected.unwrap_or_else(|| keeping.group(entry.node.value.first()));
                if of == Some(group) {
                    all += 1;
                    here += usize::from(own.distance(entry.node.key).ilog2() == far);
                }
            }
        }
        here < limits::MAX_ROUTED_IN_BUCKET && all < limits::MAX_ROUTED_IN_GROUP
    }
}
