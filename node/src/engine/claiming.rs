// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is being claimed at this moment. Who made it may have gone on already, and so may have whoever needs it next: who
//! asks about it meanwhile waits for the claim.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use tokio::sync::watch;

use super::Engine;

/// Actions, each with how many claims about it are under way.
#[derive(Debug, Clone)]
pub(super) struct Claiming(Arc<watch::Sender<BTreeMap<ActionId, usize>>>);

/// A claim that is under way.
pub(super) struct Begun(Claiming, ActionId);

impl Default for Claiming {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Claiming {
    /// A claim is under way until what this gives is dropped.
    pub(super) fn begin(&self, action: ActionId) -> Begun {
        self.0.send_modify(|all| *all.entry(action).or_default() += 1);
        Begun(self.clone(), action)
    }

    async fn settled(&self, within: Duration) {
        let now: Vec<_> = self.0.borrow().keys().copied().collect();
        self.ended(&now, within).await;
    }

    /// Returns when none of these is being claimed, or after that time.
    pub(super) async fn ended(&self, actions: &[ActionId], within: Duration) {
        let none = |all: &BTreeMap<_, _>| actions.iter().all(|action| !all.contains_key(action));
        if !none(&self.0.borrow()) {
            let _ = tokio::time::timeout(within, self.0.subscribe().wait_for(none)).await;
        }
    }
}

impl Engine {
    /// Returns when all that is being claimed now is known, or after that time.
    pub async fn settled(&self, within: Duration) {
        self.claiming.settled(within).await;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.send_modify(|all| {
            let left = all.remove(&self.1).unwrap_or_default();
            if left > 1 {
                all.insert(self.1, left - 1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn who_asks_about_what_is_being_claimed_waits_for_all_claims() {
        let claiming = Claiming::default();
        let (one, other) = (ActionId::from_bytes([1; 32]), ActionId::from_bytes([2; 32]));
        let long = Duration::from_secs(3600);
        let (first, second) = (claiming.begin(one), claiming.begin(one));
        claiming.ended(&[other], long).await;
        let asked = [one, other];
        let mut waits = pin!(claiming.ended(&asked, long));
        let mut is_waiting = || waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        assert!(is_waiting());
        drop(first);
        assert!(is_waiting());
        drop(second);
        assert!(!is_waiting());
        let third = claiming.begin(one);
        let mut settles = pin!(claiming.settled(long));
        assert!(settles.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let _never = claiming.begin(other);
        drop(third);
        settles.await;
        let _never_either = claiming.begin(one);
        claiming.ended(&[one], Duration::ZERO).await;
    }
}
