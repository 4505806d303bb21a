// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decides whom to dial on the local network, when to look for members again, and which relays to hold a place at.
//!
//! A place at a relay is only taken by a node that cannot be reached otherwise: it costs the relay, and others would
//! come by a detour.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::plan::{Backoff, Moment, Plan};

/// Most places at relays: one, and one more for when that relay goes away.
pub const MAX_PLACES: usize = 2;
/// Most relays that are remembered, and most nodes of the local network.
pub const MAX_KNOWN: usize = 1024;
/// How soon a place at a relay, or a node of the local network, is tried again, at first and at last.
pub const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How soon the members are looked for again after the first of them was met, at first and at last: whoever came at the
/// same time, or found a relay meanwhile, could not be found before.
pub const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<P> {
    /// mDNS knows a node of the local network; it may be one of another Network.
    Near(P),
    /// mDNS knows it no more.
    Far(P),
    /// There is a connection to a peer, whoever that is.
    Connected(P),
    /// There is none any more.
    Closed(P),
    /// A connected member is a relay. It sees this node at one of its own addresses, or at another's: a router's.
    Relay {
        /// Which.
        relay: P,
        /// Whether nothing translates addresses between here and there.
        open: bool,
    },
    /// How many addresses of a router lead here: mapped by it, or tried from outside.
    WaysIn(usize),
    /// A place at a relay was given.
    Placed(P),
    /// It was refused, or is lost.
    Displaced(P),
    /// The first member was met, or the addresses of this node have changed.
    Changed,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<P> {
    /// Dial a node of the local network.
    Dial(P),
    /// Ask a relay for a place.
    Reserve(P),
    /// Give it up.
    Release(P),
    /// Look for members.
    Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// None, and when it may be asked for.
    Not(Moment),
    Asked,
    Given,
}

#[derive(Debug, Clone)]
struct Relay {
    open: bool,
    connected: bool,
    place: Place,
    again: Backoff,
}

impl Relay {
    fn has(&self) -> bool {
        !matches!(self.place, Place::Not(_))
    }
}

#[derive(Debug, Clone)]
struct Near {
    connected: bool,
    at: Moment,
    again: Backoff,
}

/// How a node is found and reached.
#[derive(Debug, Clone)]
pub struct ReachPlan<P> {
    near: BTreeMap<P, Near>,
    relays: BTreeMap<P, Relay>,
    ways_in: usize,
    /// When to look for members next, and how long after that.
    look: Option<(Moment, Backoff)>,
}

impl<P> Default for ReachPlan<P> {
    fn default() -> Self {
        Self { near: BTreeMap::new(), relays: BTreeMap::new(), ways_in: 0, look: None }
    }
}

fn again() -> Backoff {
    Backoff::new(AGAIN.0, AGAIN.1)
}

impl<P: Clone + Ord> ReachPlan<P> {
    fn near(&mut self, now: Moment, peer: P) {
        if self.near.len() < MAX_KNOWN || self.near.contains_key(&peer) {
            self.near.entry(peer).or_insert(Near { connected: false, at: now, again: again() });
        }
    }

    fn connected(&mut self, now: Moment, peer: &P, connected: bool) {
        if let Some(near) = self.near.get_mut(peer) {
            near.connected = connected;
            if !connected {
                near.at = now.plus(near.again.step());
            }
        }
        if let Some(relay) = self.relays.get_mut(peer) {
            relay.connected = connected;
            if !connected {
                // The place is lost with the connection. It is asked for again when the relay is met again.
                relay.place = Place::Not(now);
            }
        }
    }

    fn relay(&mut self, now: Moment, peer: P, open: bool) {
        if !self.relays.contains_key(&peer) && self.relays.len() >= MAX_KNOWN {
            self.relays.retain(|_, relay| relay.connected);
            if self.relays.len() >= MAX_KNOWN {
                return;
            }
        }
        let new = Relay { open, connected: true, place: Place::Not(now), again: again() };
        let relay = self.relays.entry(peer).or_insert(new);
        (relay.open, relay.connected) = (open, true);
    }

    /// Whether others can come here without a relay: some relay sees this node where it is, or a router lets them in.
    fn is_open(&self) -> bool {
        self.ways_in > 0 || self.relays.values().any(|relay| relay.connected && relay.open)
    }

    fn release(&mut self, now: Moment) -> Option<P> {
        let open = self.is_open();
        let (peer, relay) = self.relays.iter_mut().find(|(_, relay)| relay.has() && open)?;
        relay.place = Place::Not(now);
        Some(peer.clone())
    }

    fn reserve(&mut self, now: Moment) -> Option<P> {
        let held = self.relays.values().filter(|relay| relay.has()).count();
        if self.is_open() || held >= MAX_PLACES {
            return None;
        }
        let due = |relay: &Relay| relay.connected && matches!(relay.place, Place::Not(at) if at <= now);
        let (peer, relay) = self.relays.iter_mut().find(|(_, relay)| due(relay))?;
        relay.place = Place::Asked;
        Some(peer.clone())
    }

    fn dial(&mut self, now: Moment) -> Option<P> {
        let (peer, near) = self.near.iter_mut().find(|(_, near)| !near.connected && near.at <= now)?;
        near.at = now.plus(near.again.step());
        Some(peer.clone())
    }
}

impl<P: Clone + Ord> Plan for ReachPlan<P> {
    type Event = Event<P>;
    type Action = Action<P>;

    fn feed(&mut self, now: Moment, event: Event<P>) {
        match event {
            Event::Near(peer) => self.near(now, peer),
            Event::Far(peer) => drop(self.near.remove(&peer)),
            Event::Connected(peer) => self.connected(now, &peer, true),
            Event::Closed(peer) => self.connected(now, &peer, false),
            Event::Relay { relay, open } => self.relay(now, relay, open),
            Event::WaysIn(count) => self.ways_in = count,
            Event::Placed(peer) => {
                if let Some(relay) = self.relays.get_mut(&peer) {
                    relay.place = Place::Given;
                    relay.again.reset();
                }
            }
            Event::Displaced(peer) => {
                if let Some(relay) = self.relays.get_mut(&peer) {
                    relay.place = Place::Not(now.plus(relay.again.step()));
                }
            }
            Event::Changed => {
                let mut after = Backoff::new(LOOK.0, LOOK.1);
                self.look = Some((now.plus(after.step()), after));
            }
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action<P>> {
        if let Some((at, after)) = &mut self.look
            && *at <= now
        {
            *at = now.plus(after.step());
            return Some(Action::Look);
        }
        let release = self.release(now).map(Action::Release);
        release
            .or_else(|| self.reserve(now).map(Action::Reserve))
            .or_else(|| self.dial(now).map(Action::Dial))
    }

    fn wake_at(&self) -> Option<Moment> {
        let near = self.near.values().filter(|near| !near.connected).map(|near| near.at);
        let full = self.relays.values().filter(|relay| relay.has()).count() >= MAX_PLACES;
        let wanted = !full && !self.is_open();
        let place = self.relays.values().filter_map(|relay| match relay.place {
            Place::Not(at) if wanted && relay.connected => Some(at),
            _ => None,
        });
        near.chain(place).chain(self.look.iter().map(|(at, _)| *at)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    fn drain(plan: &mut ReachPlan<u8>, now: Moment) -> Vec<Action<u8>> {
        std::iter::from_fn(|| plan.take(now)).collect()
    }

    fn plan(events: impl IntoIterator<Item = Event<u8>>) -> ReachPlan<u8> {
        let mut plan = ReachPlan::default();
        for event in events {
            plan.feed(at(0), event);
        }
        plan
    }

    #[test]
    fn only_who_is_shut_in_takes_places_and_no_more_than_a_few() {
        let relay = |relay, open| Event::Relay { relay, open };
        let mut shut = plan([relay(1, false), relay(2, false), relay(3, false)]);
        assert_eq!(drain(&mut shut, at(0)), [Action::Reserve(1), Action::Reserve(2)]);
        shut.feed(at(1), Event::Displaced(2));
        assert_eq!(drain(&mut shut, at(1)), [Action::Reserve(3)]);
        shut.feed(at(2), Event::Closed(3));
        assert_eq!(drain(&mut shut, at(500)), [], "the other one is not due yet");
        assert_eq!(drain(&mut shut, at(1001)), [Action::Reserve(2)]);
        // Somebody saw this node where it is: whoever wants to can come.
        shut.feed(at(1002), relay(3, true));
        assert_eq!(drain(&mut shut, at(1002)), [Action::Release(1), Action::Release(2)]);
        assert_eq!(drain(&mut plan([relay(1, true)]), at(0)), []);
        assert_eq!(drain(&mut plan([Event::WaysIn(1), relay(1, false)]), at(0)), []);
    }

    #[test]
    fn neighbours_are_dialled_less_and_less_often_until_they_are_there() {
        let mut plan = plan([Event::Near(1)]);
        assert_eq!(drain(&mut plan, at(0)), [Action::Dial(1)]);
        assert_eq!(plan.wake_at(), Some(at(1000)));
        assert_eq!(drain(&mut plan, at(1000)), [Action::Dial(1)]);
        assert_eq!(plan.wake_at(), Some(at(3000)));
        plan.feed(at(1500), Event::Connected(1));
        assert_eq!((plan.wake_at(), drain(&mut plan, at(9000))), (None, Vec::new()));
        plan.feed(at(10_000), Event::Closed(1));
        assert_eq!(drain(&mut plan, at(10_000)), []);
        assert_eq!(drain(&mut plan, at(14_000)), [Action::Dial(1)]);
        plan.feed(at(14_000), Event::Far(1));
        assert_eq!(plan.wake_at(), None);
    }

    #[test]
    fn members_are_looked_for_at_once_when_something_changed_and_then_less_often() {
        let mut plan = plan([Event::Changed]);
        let mut looks = Vec::new();
        while looks.len() < 10 {
            let now = plan.wake_at().unwrap();
            assert_eq!(drain(&mut plan, now), [Action::Look]);
            looks.push(now.since(at(0)).as_secs());
        }
        assert_eq!(looks, [2, 6, 14, 30, 62, 126, 254, 510, 810, 1110]);
        plan.feed(at(2_000_000), Event::Changed);
        assert_eq!(plan.wake_at(), Some(at(2_002_000)));
    }

    /// Whatever happens: what is held is bounded, nothing is left to do at the present, and the same world gives the
    /// same actions.
    #[test]
    fn random_worlds_keep_the_promises() {
        for seed in 0..200 {
            let world = || {
                let mut random = fastrand::Rng::with_seed(seed);
                let (mut plan, mut now, mut log) = (ReachPlan::<u8>::default(), 0, Vec::new());
                for _ in 0..500 {
                    now += random.u64(0..3000);
                    let peer = random.u8(0..8);
                    let event = match random.u8(0..9) {
                        0 => Event::Near(peer),
                        1 => Event::Far(peer),
                        2 => Event::Connected(peer),
                        3 => Event::Closed(peer),
                        4 => Event::Relay { relay: peer, open: random.u8(0..20) == 0 },
                        5 => Event::WaysIn(usize::from(random.u8(0..10) == 0)),
                        6 => Event::Placed(peer),
                        7 => Event::Displaced(peer),
                        _ => Event::Changed,
                    };
                    plan.feed(at(now), event);
                    let actions = drain(&mut plan, at(now));
                    assert!(plan.wake_at().is_none_or(|wake| wake > at(now)), "seed {seed}");
                    let asked = plan.relays.values().filter(|relay| relay.place == Place::Asked).count();
                    assert!(asked <= MAX_PLACES, "seed {seed}");
                    assert!(actions.len() <= 32, "seed {seed}: {actions:?}");
                    log.extend(actions);
                }
                log
            };
            assert_eq!(world(), world(), "seed {seed}");
        }
    }

    #[test]
    fn no_crowd_makes_it_grow() {
        let mut plan = ReachPlan::default();
        for number in 0..2 * MAX_KNOWN {
            plan.feed(at(0), Event::Near(number));
            plan.feed(at(0), Event::Relay { relay: number, open: false });
        }
        assert_eq!((plan.near.len(), plan.relays.len()), (MAX_KNOWN, MAX_KNOWN));
    }
}
