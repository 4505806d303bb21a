// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may come in, and who has to go for others: room that strangers take is given to whoever shows that it is a
//! member. How many connections there are in all is bounded by libp2p's own limits, which come first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use tokio::time::{Instant, Sleep};

use super::limits;
use crate::dht::group::Group;

/// Too many come from there.
#[derive(Debug, thiserror::Error)]
#[error("too many connections from {0}")]
struct TooMany(IpAddr);

/// Somebody who has come in and has not shown yet that it is a member.
#[derive(Debug)]
struct Stranger {
    peer: PeerId,
    ip: Option<IpAddr>,
    since: Instant,
}

/// Keeps the doors.
pub(super) struct Doors {
    private: bool,
    /// Connections that others are setting up.
    pending: HashMap<ConnectionId, IpAddr>,
    strangers: HashMap<ConnectionId, Stranger>,
    /// Connections that others have set up, by where they come from.
    groups: HashMap<ConnectionId, Group>,
    proven: HashSet<PeerId>,
    leaving: VecDeque<(PeerId, ConnectionId)>,
    timer: Pin<Box<Sleep>>,
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    })
}

impl Doors {
    pub(super) fn new(private: bool) -> Self {
        Self {
            private,
            pending: HashMap::new(),
            strangers: HashMap::new(),
            groups: HashMap::new(),
            proven: HashSet::new(),
            leaving: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep(limits::UNPROVEN)),
        }
    }

    /// A peer has shown that it is a member.
    pub(super) fn proven(&mut self, peer: PeerId) {
        self.proven.insert(peer);
        self.strangers.retain(|_, stranger| stranger.peer != peer);
    }

    /// Has a stranger leave when there are too many: the one that was silent for longest, of those from where most are.
    fn make_room(&mut self, ip: Option<IpAddr>) {
        let mut counts = HashMap::<Option<IpAddr>, usize>::new();
        for stranger in self.strangers.values() {
            *counts.entry(stranger.ip).or_default() += 1;
        }
        let crowded = counts.get(&ip).is_some_and(|count| *count >= limits::MAX_UNPROVEN_PER_IP);
        let from = match crowded {
            true => Some(ip),
            false if self.strangers.len() < limits::MAX_UNPROVEN => None,
            false => counts.into_iter().max_by_key(|(_, count)| *count).map(|(ip, _)| ip),
        };
        let Some(from) = from else { return };
        let those = self.strangers.iter().filter(|(_, stranger)| stranger.ip == from);
        if let Some(id) = those.min_by_key(|(_, stranger)| stranger.since).map(|(id, _)| *id) {
            self.leave(id);
        }
    }

    fn leave(&mut self, id: ConnectionId) {
        if let Some(stranger) = self.strangers.remove(&id) {
            self.leaving.push_back((stranger.peer, id));
        }
    }

    /// Has those leave that have shown nothing for too long.
    fn expire(&mut self, now: Instant) {
        let late = self.strangers.iter().filter(|(_, of)| of.since + limits::UNPROVEN <= now);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(id);
        }
    }

    fn comes(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let Some(ip) = ip(remote) else { return Ok(()) };
        let same = self.pending.values().filter(|from| **from == ip).count();
        if same >= limits::MAX_PENDING_PER_IP {
            return Err(ConnectionDenied::new(TooMany(ip)));
        }
        self.pending.insert(id, ip);
        Ok(())
    }

    fn is_in(&mut self, id: ConnectionId, peer: PeerId, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        self.pending.remove(&id);
        let ip = ip(remote);
        if let Some((ip, group)) = ip.and_then(|ip| Some((ip, Group::of(ip, self.private)?))) {
            if self.groups.values().filter(|of| **of == group).count() >= limits::MAX_CONNECTIONS_PER_GROUP {
                return Err(ConnectionDenied::new(TooMany(ip)));
            }
            self.groups.insert(id, group);
        }
        if !self.proven.contains(&peer) {
            self.make_room(ip);
            self.strangers.insert(id, Stranger { peer, ip, since: Instant::now() });
        }
        Ok(())
    }
}

impl NetworkBehaviour for Doors {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.comes(id, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.is_in(id, peer, remote).map(|()| dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(failure) => {
                self.pending.remove(&failure.connection_id);
                self.strangers.remove(&failure.connection_id);
                self.groups.remove(&failure.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let ConnectedPoint::Listener { .. } = closed.endpoint {
                    self.strangers.remove(&closed.connection_id);
                    self.groups.remove(&closed.connection_id);
                }
                if closed.remaining_established == 0 {
                    self.proven.remove(&closed.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            self.expire(now);
            self.timer.as_mut().reset(now + limits::UNPROVEN / 4);
        }
        match self.leaving.pop_front() {
            Some((peer_id, id)) => {
                tracing::debug!(peer = %peer_id, "a stranger has to make room");
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) })
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Multiaddr {
        format!("/ip4/192.0.2.{last}/tcp/1").parse().unwrap()
    }

    fn enters(doors: &mut Doors, number: usize, last: usize) -> (PeerId, ConnectionId, bool) {
        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked(number));
        (peer, id, doors.is_in(id, peer, &from(u8::try_from(last).unwrap())).is_ok())
    }

    #[tokio::test]
    async fn a_crowd_from_one_address_loses_its_oldest_and_nobody_else() {
        let mut doors = Doors::new(true);
        let (modest, id, _) = enters(&mut doors, 0, 1);
        let (member, ..) = enters(&mut doors, 1, 2);
        doors.proven(member);
        for number in 10..30 {
            assert!(enters(&mut doors, number, 2).2);
        }
        doors.groups.clear();
        for number in 30..60 {
            enters(&mut doors, number, 2);
            doors.groups.clear();
        }
        let from_two = doors.strangers.values().filter(|of| of.ip == ip(&from(2))).count();
        assert_eq!(from_two, limits::MAX_UNPROVEN_PER_IP);
        assert!(doors.strangers.contains_key(&id), "{modest} is no crowd");
        assert!(doors.leaving.iter().all(|(peer, _)| *peer != member && *peer != modest));
        for number in 1000..2000_usize {
            enters(&mut doors, number, number % 200 + 20);
            doors.groups.clear();
            assert!(doors.strangers.len() <= limits::MAX_UNPROVEN);
        }
    }

    #[tokio::test]
    async fn one_subnet_has_so_many_places_and_no_more() {
        let mut doors = Doors::new(false);
        let let_in = (0..1000).filter(|number| enters(&mut doors, *number, *number % 200).2).count();
        assert_eq!(let_in, limits::MAX_CONNECTIONS_PER_GROUP);
        let pending = (0..1000)
            .filter(|number| doors.comes(ConnectionId::new_unchecked(5000 + number), &from(7)).is_ok());
        assert_eq!(pending.count(), limits::MAX_PENDING_PER_IP);
    }

    #[tokio::test]
    async fn whoever_shows_nothing_leaves_in_time() {
        let mut doors = Doors::new(true);
        let (member, ..) = enters(&mut doors, 0, 1);
        let (silent, id, _) = enters(&mut doors, 1, 1);
        doors.proven(member);
        doors.expire(Instant::now());
        assert!(doors.leaving.is_empty());
        doors.expire(Instant::now() + limits::UNPROVEN);
        assert_eq!(doors.leaving, [(silent, id)]);
    }
}
