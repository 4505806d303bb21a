// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one loop that runs a Plan: feeds it what happens, carries out what it says, wakes it when it asked to be. A Plan
//! on a [`Spot`] can be fed by others as well, for whom to wait for the turn of another task would take longer than all
//! that the Plan does.

use std::future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::observe::clock;
use crate::plan::{Moment, Plan};

/// Most events that a Plan hears before it is asked what is to be done.
const TOGETHER: usize = 64;

/// Runs `plan` until nobody can send events any more. `perform` must not wait: what takes time is started there and
/// sends its outcome as an event.
pub async fn drive<P: Plan>(
    mut plan: P,
    mut events: mpsc::Receiver<P::Event>,
    mut perform: impl FnMut(P::Action),
) {
    loop {
        while let Some(action) = plan.take(clock::moment()) {
            perform(action);
        }
        let now = clock::moment();
        let event = match plan.wake_at() {
            None => events.recv().await,
            Some(at) => match tokio::time::timeout(at.since(now), events.recv()).await {
                Ok(event) => event,
                Err(_) => continue,
            },
        };
        let Some(event) = event else { return };
        plan.feed(clock::moment(), event);
        // What happened meanwhile is taken together: what is to be done about all of it is found out once.
        for _ in 1..TOGETHER {
            let Ok(event) = events.try_recv() else { break };
            plan.feed(clock::moment(), event);
        }
    }
}

/// A Plan that runs on the spot.
pub struct Spot<P: Plan> {
    state: Mutex<State<P>>,
    perform: Box<dyn Fn(P::Action) + Send + Sync>,
    /// It asked to be woken sooner than who sleeps for it would wake.
    sooner: Notify,
}

struct State<P: Plan> {
    plan: P,
    events: mpsc::Receiver<P::Event>,
    /// Until when whoever runs it sleeps at most; nothing as long as he sleeps without end. An alarm that the Plan gave
    /// up again stands here all the same: to wake once in vain costs less than to be told of every change.
    asleep: Option<Moment>,
}

impl<P: Plan> Spot<P> {
    /// A Plan, what is sent to it, and who carries out what it says: he must neither wait nor feed it himself.
    pub fn new(
        plan: P,
        events: mpsc::Receiver<P::Event>,
        perform: impl Fn(P::Action) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (state, perform) = (Mutex::new(State { plan, events, asleep: None }), Box::new(perform));
        Arc::new(Self { state, perform, sooner: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, state: &mut State<P>) {
        while let Some(action) = state.plan.take(clock::moment()) {
            (self.perform)(action);
        }
    }

    /// Feeds what happened, behind everything that was sent before, and carries out what the Plan says to that.
    pub fn feed(&self, event: P::Event) {
        let mut state = self.lock();
        let now = clock::moment();
        for _ in 0..state.events.len() {
            let Ok(sent) = state.events.try_recv() else { break };
            state.plan.feed(now, sent);
        }
        state.plan.feed(now, event);
        self.act(&mut state);
        let sooner = |at: &Moment| state.asleep.is_none_or(|asleep| *at < asleep);
        if let Some(at) = state.plan.wake_at().filter(sooner) {
            state.asleep = Some(at);
            self.sooner.notify_one();
        }
    }

    /// Runs the Plan until nobody can send events any more.
    pub async fn run(&self) {
        loop {
            let at = {
                let mut state = self.lock();
                self.act(&mut state);
                state.asleep = state.plan.wake_at();
                state.asleep
            };
            let time = async {
                match at {
                    Some(at) => tokio::time::sleep(at.since(clock::moment())).await,
                    None => future::pending().await,
                }
            };
            let event = tokio::select! {
                event = future::poll_fn(|context| self.lock().events.poll_recv(context)) => event,
                () = self.sooner.notified() => continue,
                () = time => continue,
            };
            let Some(event) = event else { return };
            let mut state = self.lock();
            state.plan.feed(clock::moment(), event);
            for _ in 1..TOGETHER {
                let Ok(event) = state.events.try_recv() else { break };
                state.plan.feed(clock::moment(), event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::span;

    /// Repeats what it hears: even numbers at once, odd ones as many milliseconds later.
    #[derive(Default)]
    struct Echo {
        now: Vec<u64>,
        later: Vec<(Moment, u64)>,
    }

    impl Plan for Echo {
        type Event = u64;
        type Action = u64;

        fn feed(&mut self, now: Moment, event: u64) {
            if event.is_multiple_of(2) {
                self.now.push(event);
            } else {
                self.later.push((now.plus(Duration::from_millis(event)), event));
            }
        }

        fn take(&mut self, now: Moment) -> Option<u64> {
            let due = self.later.iter().position(|(at, _)| *at <= now);
            due.map(|at| self.later.remove(at).1)
                .or_else(|| (!self.now.is_empty()).then(|| self.now.remove(0)))
        }

        fn wake_at(&self) -> Option<Moment> {
            self.later.iter().map(|(at, _)| *at).min()
        }
    }

    #[tokio::test]
    async fn what_is_fed_on_the_spot_comes_behind_what_was_sent_and_wakes_who_sleeps() {
        let (to, events) = mpsc::channel(8);
        let (said_to, mut said) = mpsc::channel(8);
        let spot = Spot::new(Echo::default(), events, move |number| said_to.try_send(number).unwrap());
        to.send(2).await.unwrap();
        spot.feed(4);
        assert_eq!((said.try_recv(), said.try_recv()), (Ok(2), Ok(4)), "before anybody has run");
        let running = Arc::clone(&spot);
        let running = span::spawn("test", async move { running.run().await });
        to.send(6).await.unwrap();
        assert_eq!(said.recv().await, Some(6));
        // It sleeps without end, and has to be told of the alarm.
        spot.feed(7);
        assert_eq!(said.recv().await, Some(7));
        // It sleeps for an hour, and has to be told that this is too long, more than once.
        for number in [3_600_001, 7_200_001, 1_001, 9] {
            spot.feed(number);
        }
        assert_eq!((said.recv().await, said.recv().await), (Some(9), Some(1_001)));
        drop(to);
        running.await.unwrap();
    }
}
