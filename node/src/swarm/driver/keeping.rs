// SPDX-License-Identifier: MIT OR Apache-2.0
//! What others put on the DHT here, and what is written to disk of that and of the members.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, Record};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Driver;
use crate::dht::file::{File, Lines};
use crate::dht::group::Group;
use crate::dht::known::{Known, Member};
use crate::dht::shelf::{Row, Source};
use crate::dht::{Remembered, bounded};
use crate::observe::{clock, span};
use crate::swarm::{limits, records, store};

/// Where a connected peer is.
pub(super) struct Whence {
    pub(super) group: Option<Group>,
    /// The address that worked, if this node dialled.
    dialled: Option<Multiaddr>,
    /// Where it says that it listens.
    says: Vec<Multiaddr>,
    /// How many values it has put that had to be judged, since when.
    judged: (Instant, u32),
}

/// What is remembered of a Network, and the file for that.
pub(super) struct Keeping {
    file: Arc<File>,
    pub(super) known: Known,
    pub(super) whence: HashMap<PeerId, Whence>,
    pub(super) private: bool,
    flush: Instant,
    writing: Option<JoinHandle<()>>,
}

/// The IP address at the beginning of another, unless that is of a relay.
fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

impl Keeping {
    /// Opens the file of a Network, if it has one; gives what is in it for the shelf as well.
    pub(super) async fn open(file: Option<&Path>, private: bool) -> (Self, Remembered, Vec<Row>) {
        let (file, contents) = match file {
            Some(path) => {
                let path = path.to_owned();
                span::blocking(move || File::open(&path)).await
            }
            None => (File::none(), Default::default()),
        };
        let (file, mut known) = (Arc::new(file), Known::default());
        known.restore(contents.members);
        let remembered = Remembered { file: Arc::clone(&file), said: contents.said };
        let flush = Instant::now() + limits::FLUSH;
        (
            Self { file, known, whence: HashMap::new(), private, flush, writing: None },
            remembered,
            contents.rows,
        )
    }

    pub(super) fn group(&self, address: &Multiaddr) -> Option<Group> {
        let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
        // Members that come by way of one relay are no neighbours, and strangers may be.
        if relayed && self.private { None } else { ip(address).and_then(|ip| Group::of(ip, self.private)) }
    }

    /// A peer is connected.
    pub(super) fn connected(&mut self, peer: PeerId, point: &ConnectedPoint) {
        let address = point.get_remote_address();
        let group = self.group(address);
        let dialled = point.is_dialer().then(|| address.clone());
        let new = || Whence { group, dialled: None, says: Vec::new(), judged: (Instant::now(), 0) };
        let whence = self.whence.entry(peer).or_insert_with(new);
        whence.dialled = dialled.or(whence.dialled.take());
    }

    /// A member says where it listens.
    pub(super) fn says(&mut self, peer: PeerId, listens: &[Multiaddr]) {
        if let Some(whence) = self.whence.get_mut(&peer) {
            whence.says = listens.iter().take(limits::MAX_ADDRESSES).cloned().collect();
        }
        self.remember(peer);
    }

    fn remember(&mut self, peer: PeerId) {
        let Some(Whence { group, dialled, says, .. }) = self.whence.get(&peer) else { return };
        let mut addresses: Vec<Multiaddr> = dialled.iter().chain(says).cloned().collect();
        for address in &mut addresses {
            if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
                address.pop();
            }
        }
        let mut bytes: Vec<Vec<u8>> = Vec::new();
        for address in addresses {
            if !bytes.contains(&address.to_vec()) {
                bytes.push(address.to_vec());
            }
        }
        let member = Member { seen: clock::now(), group: *group, addresses: bytes };
        self.known.note(&peer.to_bytes(), member);
    }

    /// A peer is not connected any more, a member or not.
    pub(super) fn gone(&mut self, peer: PeerId, member: bool) {
        if member {
            self.remember(peer);
        }
        self.whence.remove(&peer);
    }

    /// Those to dial when nobody is connected: a few at a time, the latest first.
    pub(super) fn latest(&self, turn: usize) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let latest = self.known.latest();
        let all = latest.iter().filter_map(|(peer, member)| {
            let addresses =
                member.addresses.iter().filter_map(|bytes| Multiaddr::try_from(bytes.clone()).ok());
            Some((PeerId::from_bytes(peer).ok()?, addresses.collect()))
        });
        let turns = latest.len().div_ceil(limits::REMEMBERED_AT_ONCE).max(1);
        all.skip(turn % turns * limits::REMEMBERED_AT_ONCE).take(limits::REMEMBERED_AT_ONCE).collect()
    }

    /// When something is to be written.
    pub(super) fn wake(&self) -> Instant {
        self.flush
    }

    /// Whether a peer may have one more value judged: that takes up to sixteen signatures.
    fn may_be_judged(&mut self, peer: &PeerId) -> bool {
        let now = Instant::now();
        let Some(Whence { judged: (since, count), .. }) = self.whence.get_mut(peer) else { return false };
        if now.saturating_duration_since(*since) >= limits::JUDGED.1 {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= limits::JUDGED.0
    }
}

impl Driver {
    /// Puts back what was kept of an earlier run.
    pub(super) fn restore(&mut self, rows: Vec<Row>) {
        self.store().shelf.restore(rows, clock::now());
        for turn in 0..limits::REMEMBERED_ROUTED / limits::REMEMBERED_AT_ONCE {
            for (peer, addresses) in self.keeping.latest(turn) {
                for address in addresses {
                    self.route(peer, address);
                }
            }
        }
    }

    pub(super) fn store(&mut self) -> &mut store::Store {
        self.swarm.behaviour_mut().kad.store_mut()
    }

    /// Throws away what has expired, and has written what changed, if it is time for either.
    pub(super) fn keep(&mut self, now: Instant) {
        if self.sweep <= now {
            self.sweep = now + limits::DHT_SWEEP;
            self.store().shelf.sweep(clock::now());
        }
        let waiting = self.store().shelf.waiting();
        let writing = self.keeping.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if self.keeping.flush <= now || (waiting >= limits::FLUSH_AT && !writing) {
            self.keeping.flush = now + limits::FLUSH;
            if writing {
                return;
            }
            self.queue();
            let file = Arc::clone(&self.keeping.file);
            self.keeping.writing = Some(span::blocking_task(move || file.write_queued()));
        }
    }

    fn queue(&mut self) {
        let rows = self.store().shelf.changes(limits::FLUSH_MOST);
        let members = self.keeping.known.changes();
        self.keeping.file.queue(Lines { rows, members, said: Vec::new() });
    }

    /// A peer puts something here.
    pub(super) fn put_here(&mut self, request: kad::InboundRequest) {
        match request {
            kad::InboundRequest::PutRecord { source, record: Some(record), .. } => {
                self.value_here(source, record);
            }
            kad::InboundRequest::AddProvider { record: Some(record) } => {
                let Some(name) = store::name(&record.key) else { return };
                // kad has made sure that the provider is the sender.
                let peer = record.provider;
                let Some(whence) = self.keeping.whence.get(&peer) else { return };
                let addresses = bounded(record.addresses.iter().map(Multiaddr::to_vec));
                let from = Source { group: whence.group, addresses };
                let until = store::until(record.expires);
                if !self.store().shelf.lodge((&peer.to_bytes(), from), name, until) {
                    tracing::debug!(%peer, "no room for it as a provider");
                }
            }
            _ => {}
        }
    }

    fn value_here(&mut self, peer: PeerId, record: Record) {
        let Some(name) = store::name(&record.key) else { return };
        let Some(group) = self.keeping.whence.get(&peer).map(|whence| whence.group) else { return };
        let standing = self.store().shelf.value(&name).map(|(value, _)| value.to_vec());
        let until = store::until(record.expires);
        let value = match &standing {
            // The same again only keeps it for longer, and need not be checked again.
            Some(standing) if *standing == record.value => Some(record.value),
            _ if !self.keeping.may_be_judged(&peer) => None,
            _ => records::merge(&name, standing.as_deref(), &record.value, clock::now()),
        };
        let Some(value) = value else { return };
        let from = Source { group, addresses: Vec::new() };
        if !self.store().shelf.put((&peer.to_bytes(), from), name, (value, until)) {
            tracing::debug!(%peer, "no room for what it puts");
        }
    }

    /// This node's own value as it is to be put: together with what stands here, which others may have renewed.
    pub(super) fn merged(&mut self, name: &potluck_protocol::names::DhtKey, value: Vec<u8>) -> Vec<u8> {
        let standing = self.store().shelf.value(name).map(|(value, _)| value.to_vec());
        match standing {
            Some(standing) => records::merge(name, Some(&standing), &value, clock::now()).unwrap_or(standing),
            None => value,
        }
    }

    /// Has nothing more to do with a peer, nor with what it put here.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.store().shelf.forget_source(&peer.to_bytes());
        self.keeping.known.forget(&peer.to_bytes());
        self.swarm.behaviour_mut().kad.remove_peer(&peer);
    }
}

impl Drop for Driver {
    /// What was not written yet is written now: the next run wants to know it.
    fn drop(&mut self) {
        self.bulk.end();
        let members: Vec<_> = self.members.keys().copied().collect();
        for peer in members {
            self.keeping.remember(peer);
        }
        self.queue();
        self.keeping.file.write_queued();
        self.keeping.file.close();
    }
}
