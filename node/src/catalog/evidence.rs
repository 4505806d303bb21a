// SPDX-License-Identifier: MIT OR Apache-2.0
//! Heads that were refused because they go back, contradict what was seen, or have ended: what somebody needs to see
//! who wonders whether a signer or a carrier is playing foul. Kept in memory, bounded, and shown by `status`.

use std::collections::BTreeMap;

use potluck_keys::time::Time;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::{Instance, Seen};
use potluck_protocol::peer::Topic;
use serde::Serialize;

use crate::peer::Peer;

/// Most offences that are told apart; further ones are only counted with the refusals.
pub const MAX_EVIDENCE: usize = 256;

/// What is wrong with a Head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offence {
    /// It is older than one that was seen, and whoever sent it knew that.
    Rollback,
    /// It has the number of one that was seen, and points elsewhere.
    Fork,
    /// It has ended, and nothing newer is offered.
    Freeze,
}

impl Offence {
    /// The word for it in scripts; stable.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Fork => "fork",
            Self::Freeze => "freeze",
        }
    }
}

/// One refused Head, as it was the first time, and how often there was one like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhibit {
    /// Of which topic.
    pub topic: Topic,
    /// Which of the signer's machines speaks in it.
    pub instance: Instance,
    /// What is wrong with it.
    pub offence: Offence,
    /// What had been seen before, if anything.
    pub have: Option<Seen>,
    /// What was offered.
    pub got: Seen,
    /// The Head itself: the Digest of the signed bytes.
    pub head: Digest,
    /// Who offered it; nothing when it came from the DHT.
    pub from: Option<Peer>,
    /// When.
    pub at: Time,
    /// How often, with whatever was like it.
    pub times: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Evidence(BTreeMap<(Topic, Instance, Offence), Exhibit>);

impl Evidence {
    /// Keeps what was refused, unless something like it is known, or there is too much.
    pub fn note(&mut self, exhibit: Exhibit) {
        let key = (exhibit.topic.clone(), exhibit.instance, exhibit.offence);
        let full = self.0.len() >= MAX_EVIDENCE;
        match self.0.get_mut(&key) {
            Some(known) => known.times = known.times.saturating_add(1),
            None if full => {}
            None => drop(self.0.insert(key, exhibit)),
        }
    }

    /// What is kept.
    pub fn all(&self) -> impl Iterator<Item = &Exhibit> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Signer;
    use potluck_protocol::action::Project;

    use super::*;

    fn exhibit(number: usize, offence: Offence) -> Exhibit {
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&number.to_be_bytes());
        Exhibit {
            topic: Topic { signer: Signer::from_bytes([1; 32]), project: Project::default() },
            instance: Instance::from_bytes(instance),
            offence,
            have: None,
            got: Seen { sequence: 1, root: Digest::of(b"") },
            head: Digest::of(b"head"),
            from: Some(Peer::new("office", "x")),
            at: Time::from_millis(1),
            times: 1,
        }
    }

    #[test]
    fn what_is_like_something_known_is_counted_and_no_more_is_kept_than_has_room() {
        let mut evidence = Evidence::default();
        for _ in 0..3 {
            evidence.note(exhibit(0, Offence::Fork));
            evidence.note(exhibit(0, Offence::Rollback));
        }
        let times: Vec<_> = evidence.all().map(|one| (one.offence.word(), one.times)).collect();
        assert_eq!(times, [("rollback", 3), ("fork", 3)]);
        for number in 0..2 * MAX_EVIDENCE {
            evidence.note(exhibit(number, Offence::Freeze));
        }
        assert_eq!(evidence.all().count(), MAX_EVIDENCE);
        evidence.note(exhibit(0, Offence::Fork));
        assert_eq!(evidence.all().find(|one| one.offence == Offence::Fork).unwrap().times, 4);
    }
}
