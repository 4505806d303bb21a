// SPDX-License-Identifier: MIT OR Apache-2.0
//! When Entries were last used: in memory first, and from there to the index in batches.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_protocol::action::ActionId;

use crate::index::{Index, IndexError};
use crate::observe::clock;
use crate::plan::Moment;

/// How often uses are written down.
pub const WRITE_EVERY: Duration = Duration::from_secs(30);
/// Beyond so many they are written at the next occasion.
pub const MANY: usize = 65_536;
/// Most uses that are remembered. One more than that is forgotten, which makes its Entry a little staler than it is.
pub const MAX_USES: usize = 2 * MANY;

#[derive(Debug, Default)]
struct State {
    fresh: HashMap<ActionId, Time>,
    /// What is being written just now.
    leaving: HashMap<ActionId, Time>,
    written: Moment,
}

/// Uses that are not in the index yet.
#[derive(Debug, Default)]
pub struct Uses(Mutex<State>);

impl Uses {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No step between two changes can panic, so what a poisoned lock guards is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An action's Entry was used.
    pub fn touch(&self, action: &ActionId, now: Time) {
        let mut state = self.lock();
        if state.fresh.len() < MAX_USES || state.fresh.contains_key(action) {
            state.fresh.insert(*action, now);
        }
    }

    /// When it was used, if that is not in the index yet.
    pub fn last(&self, action: &ActionId) -> Option<Time> {
        let state = self.lock();
        state.fresh.get(action).or_else(|| state.leaving.get(action)).copied()
    }

    /// Writes down what is due, or all when it is the last occasion. Blocks.
    ///
    /// # Errors
    /// [`IndexError`]; nothing is lost then.
    pub fn write(&self, index: &Index, last: bool) -> Result<(), IndexError> {
        let now = clock::moment();
        let uses: Vec<(ActionId, Time)> = {
            let mut state = self.lock();
            let due = last || state.fresh.len() >= MANY || now.since(state.written) >= WRITE_EVERY;
            if !due || state.fresh.is_empty() || !state.leaving.is_empty() {
                return Ok(());
            }
            state.written = now;
            state.leaving = std::mem::take(&mut state.fresh);
            state.leaving.iter().map(|(action, time)| (*action, *time)).collect()
        };
        let done = index.keep_uses(uses);
        let mut state = self.lock();
        let left = std::mem::take(&mut state.leaving);
        if done.is_err() {
            for (action, time) in left {
                state.fresh.entry(action).or_insert(time);
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::digest::Digest;

    use super::*;

    fn action(number: usize) -> ActionId {
        ActionId::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn uses_are_known_at_once_and_written_together() {
        let (uses, index) = (Uses::default(), Index::in_memory().unwrap());
        let time = Time::from_millis(5_000);
        uses.touch(&action(1), time);
        assert_eq!((uses.last(&action(1)), uses.last(&action(2))), (Some(time), None));
        uses.write(&index, true).unwrap();
        assert_eq!(uses.last(&action(1)), None);
        assert_eq!(index.last_use(&action(1)).unwrap(), Some(time));
        assert_eq!(index.last_use(&action(2)).unwrap(), None);
    }

    #[test]
    fn many_are_written_early_and_too_many_are_forgotten() {
        let (uses, index) = (Uses::default(), Index::in_memory().unwrap());
        (0..=MAX_USES).for_each(|number| uses.touch(&action(number), Time::MAX));
        assert_eq!(uses.lock().fresh.len(), MAX_USES);
        assert_eq!(uses.last(&action(MAX_USES)), None);
        uses.touch(&action(0), Time::from_millis(1));
        assert_eq!(uses.last(&action(0)), Some(Time::from_millis(1)));
        uses.lock().written = clock::moment();
        uses.write(&index, false).unwrap();
        assert!(uses.lock().fresh.is_empty() && index.last_use(&action(7)).unwrap().is_some());
        uses.touch(&action(1), Time::MAX);
        uses.write(&index, false).unwrap();
        assert_eq!(uses.lock().fresh.len(), 1, "there is time");
    }
}
