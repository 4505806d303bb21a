// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a build asks for, in order, as it is stored and passed on. Pure.

use std::collections::BTreeMap;

use potluck_keys::codec::{self, CodecError};
use potluck_keys::record;
use potluck_protocol::action::Recipe;
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::control::{MAX_UNIT_BYTES, MAX_UNIT_KEY_BYTES};

/// Most units in one list.
pub const MAX_STEPS: usize = 4096;
/// Largest list in bytes, as it is stored.
pub const MAX_BYTES: usize = 2 << 20;

record! {
    /// One unit.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Step {
        /// Its name, which stays when its sources change.
        1 => one unit: Text<MAX_UNIT_BYTES>,
        /// The Recipe of its key.
        2 => one recipe: Recipe,
        /// Its key.
        3 => one key: Bytes<MAX_UNIT_KEY_BYTES>,
        /// How many bytes its output has.
        4 => one bytes: u64,
    }
}

record! {
    /// What a build asks for, in this order.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct List {
        /// The units.
        1 => many(MAX_STEPS) steps: Step,
    }
}

impl List {
    /// Reads one.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, MAX_BYTES)
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// This list after a build that asked for these: their keys are the newest, and what was not known comes at the end.
    /// A build of which much was done already asks for little, so nothing goes.
    #[must_use]
    pub fn after(&self, asked: &[Step]) -> Self {
        let newest: BTreeMap<_, _> = asked.iter().map(|step| (&*step.unit, step)).collect();
        let mut steps: Vec<_> =
            self.steps.iter().map(|old| (*newest.get(&*old.unit).unwrap_or(&old)).clone()).collect();
        let known: std::collections::BTreeSet<_> = self.steps.iter().map(|old| &*old.unit).collect();
        steps.extend(asked.iter().filter(|step| !known.contains(&*step.unit)).cloned());
        steps.truncate(MAX_STEPS);
        Self { steps }
    }

    /// Whether it is worth telling others that this is no longer `before`: a unit is new, or an eighth of them has other
    /// keys. What somebody is just working on changes all the time, and is of use to nobody else.
    pub fn is_news(&self, before: &Self) -> bool {
        let changed = self.steps.iter().zip(&before.steps).filter(|(new, old)| new.key != old.key).count();
        self.steps.len() > before.steps.len() || changed * 8 > before.steps.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(unit: &str, key: u8) -> Step {
        Step {
            unit: Text::new(unit).unwrap(),
            recipe: Recipe::new("rustc@1").unwrap(),
            key: Bytes::new(vec![key]).unwrap(),
            bytes: 7,
        }
    }

    #[test]
    fn a_list_is_what_was_written_and_is_bounded() {
        let list = List { steps: vec![step("a", 1), step("b", 2)] };
        assert_eq!(List::decode(&list.encode()).unwrap(), list);
        let most = List { steps: vec![step("a", 1); MAX_STEPS] };
        assert_eq!(List::decode(&most.encode()).unwrap(), most);
        let more = List { steps: vec![step("a", 1); MAX_STEPS + 1] };
        assert!(List::decode(&more.encode()).is_err());
        assert!(List::decode(&vec![0; MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn a_list_learns_and_forgets_nothing() {
        let old = List { steps: vec![step("a", 1), step("b", 2)] };
        let new = old.after(&[step("c", 3), step("a", 9)]);
        assert_eq!(new.steps, [step("a", 9), step("b", 2), step("c", 3)]);
        assert!(new.is_news(&old) && !old.is_news(&old));
        let many = List { steps: (0..100).map(|number| step(&format!("u{number}"), 0)).collect() };
        assert!(!many.after(&[step("u1", 1)]).is_news(&many), "somebody edits his own crate");
        let half: Vec<_> = (0..50).map(|number| step(&format!("u{number}"), 1)).collect();
        assert!(many.after(&half).is_news(&many));
        assert!(many.is_news(&List::default()));
    }
}
