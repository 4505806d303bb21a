// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions to the DHT: how far they are, and when they have found enough.

use std::collections::BTreeSet;

use libp2p::PeerId;
use libp2p::kad::{self, QueryId, QueryResult};
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use crate::swarm::limits;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// It.
    pub bytes: Vec<u8>,
    /// Whether another member says so. Else it lies here, where this node has put it or others have, at some time.
    pub told: bool,
}

/// A question to the DHT that has not been answered.
pub(super) enum Query {
    Put(oneshot::Sender<bool>),
    Get { values: Vec<Value>, reply: oneshot::Sender<Vec<Value>> },
    Provide(oneshot::Sender<bool>),
    Providers { found: BTreeSet<PeerId>, reply: oneshot::Sender<Vec<PeerId>> },
}

impl Query {
    /// Whether it looks for something, and may end before it has seen everybody.
    fn is_search(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Providers { .. })
    }
}

/// One that runs.
pub(super) struct Running {
    query: Query,
    began: Instant,
    until: Instant,
    /// Whether it was told to end.
    ended: bool,
}

/// A search whose finds are being dialled.
pub(super) struct Dialling {
    pub(super) found: BTreeSet<PeerId>,
    pub(super) until: Instant,
    reply: oneshot::Sender<Vec<PeerId>>,
}

impl Driver {
    pub(super) fn asked(&mut self, id: QueryId, query: Query) {
        let began = Instant::now();
        let patience = match query.is_search() {
            true => self.pace.patience(limits::QUERY_LEAST, limits::QUERY),
            // What is to be said is to reach all who should know.
            false => limits::QUERY,
        };
        self.queries.insert(id, Running { query, began, until: began + patience, ended: false });
    }

    /// When a query is to be ended at the latest.
    pub(super) fn query_wake(&self) -> Option<Instant> {
        let queries = self.queries.values().map(|running| running.until);
        queries.chain(self.dialling.iter().map(|dialling| dialling.until)).min()
    }

    /// Ends what has found enough or searched for long enough. A query that ends reports once more, and is answered
    /// then.
    pub(super) fn expire_queries(&mut self, now: Instant) {
        let swarm = &self.swarm;
        let is_over = |running: &Running| match &running.query {
            // Somebody who can be asked is all that is wanted.
            Query::Providers { found, .. } => {
                running.until <= now || !running.ended && found.iter().any(|peer| swarm.is_connected(peer))
            }
            _ => running.until <= now,
        };
        let over: Vec<_> =
            self.queries.iter().filter(|(_, running)| is_over(running)).map(|(id, _)| *id).collect();
        for id in over {
            match self.swarm.behaviour_mut().kad.query_mut(&id) {
                Some(mut query) => query.finish(),
                None => self.answer(id, false),
            }
            if let Some(running) = self.queries.get_mut(&id) {
                running.until = now + limits::QUERY;
                running.ended = true;
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

    /// A peer cannot be reached: nobody waits for it any more.
    pub(super) fn unreachable(&mut self, peer: PeerId) {
        for dialling in &mut self.dialling {
            dialling.found.remove(&peer);
        }
        for running in self.queries.values_mut() {
            if let Query::Providers { found, .. } = &mut running.query {
                found.remove(&peer);
            }
        }
    }

    pub(super) fn kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.put_here(request),
            kad::Event::RoutablePeer { peer, address } => self.route(peer, address),
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
        let Some(Running { query, until, began, .. }) = self.queries.get_mut(&id) else { return false };
        let pace = &mut self.pace;
        let mut enough = |first: bool| {
            if first {
                *until = Instant::now() + limits::MORE_HOLDERS;
                pace.took(began.elapsed());
            }
        };
        match (query, result) {
            (Query::Get { values, .. }, QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found)))) => {
                // What lies here comes at once, and is no reason to listen no longer to others.
                let told = found.peer.is_some();
                if told {
                    enough(!values.iter().any(|value| value.told));
                }
                if values.len() < limits::MAX_FOUND {
                    values.push(Value { bytes: found.record.value, told });
                }
            }
            (
                Query::Providers { found, .. },
                QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
            ) => {
                let own = *self.swarm.local_peer_id();
                let new = providers.into_iter().filter(|peer| *peer != own && !self.dropped.contains(peer));
                let before = found.len();
                for peer in new.take(limits::MAX_FOUND.saturating_sub(before)) {
                    // Now, while the query still knows the address.
                    let dial = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
                    // Whom there is no way to reach need not be waited for.
                    if let Ok(()) | Err(DialError::DialPeerConditionFalse(_)) = self.swarm.dial(dial.build())
                    {
                        found.insert(peer);
                    }
                }
                enough(before == 0 && !found.is_empty());
            }
            (_, QueryResult::PutRecord(result)) => return result.is_err(),
            (_, QueryResult::StartProviding(result)) => return result.is_err(),
            _ => {}
        }
        false
    }

    /// Answers whoever asked, once.
    fn answer(&mut self, id: QueryId, well: bool) {
        let Some(Running { query, .. }) = self.queries.remove(&id) else { return };
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
}
