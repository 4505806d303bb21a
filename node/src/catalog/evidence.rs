// SPDX-License-Identifier: MIT OR Apache-2.0
//! Heads that were refused because they go back, contradict what was seen, or have ended: what somebody needs to see
//! who wonders whether a signer or a carrier is playing foul. Bounded, shown by `status`, and kept for the next run.

use std::collections::BTreeMap;
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_protocol::codec::{Text, decode, encode};
use potluck_protocol::digest::Digest;
use potluck_protocol::head::{Instance, Seen};
use potluck_protocol::peer::Topic;
use potluck_protocol::record;
use serde::Serialize;

use crate::peer::Peer;

/// Most offences that are told apart; further ones are only counted with the refusals.
pub const MAX_EVIDENCE: usize = 256;
/// How long an offence is kept after it was seen first.
pub const EVIDENCE_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Largest file of them, in bytes.
pub const MAX_FILE_BYTES: usize = MAX_EVIDENCE * 768 + 64;

/// The version of that file.
const VERSION: u64 = 1;
/// Longest name of a Network or a peer in it, in bytes.
const MAX_NAME: usize = 128;

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

record! {
    /// A peer as it is kept.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Carrier {
        1 => one network: Text<MAX_NAME>,
        2 => one id: Text<MAX_NAME>,
    }
}

record! {
    /// An exhibit as it is kept.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Row {
        1 => one topic: Topic,
        2 => one instance: Instance,
        3 => one offence: u64,
        4 => opt have_sequence: u64,
        5 => opt have_root: Digest,
        6 => one got_sequence: u64,
        7 => one got_root: Digest,
        8 => one head: Digest,
        9 => opt from: Carrier,
        10 => one at: Time,
        11 => one times: u64,
    }
}

record! {
    /// All of them.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Kept {
        1 => one version: u64,
        2 => many(MAX_EVIDENCE) rows: Row,
    }
}

const OFFENCES: [Offence; 3] = [Offence::Rollback, Offence::Fork, Offence::Freeze];

fn row(exhibit: &Exhibit) -> Option<Row> {
    let Exhibit { topic, instance, offence, have, got, head, from, at, times } = exhibit.clone();
    let from = match from {
        Some(peer) => Some(Carrier { network: Text::new(&*peer.network)?, id: Text::new(&*peer.id)? }),
        None => None,
    };
    Some(Row {
        topic,
        instance,
        offence: OFFENCES.iter().position(|known| *known == offence)? as u64,
        have_sequence: have.map(|have| have.sequence),
        have_root: have.map(|have| have.root),
        got_sequence: got.sequence,
        got_root: got.root,
        head,
        from,
        at,
        times,
    })
}

fn exhibit(row: Row) -> Option<Exhibit> {
    let Row { topic, instance, offence, have_sequence, have_root, head, from, at, times, .. } = row;
    let have = have_sequence.zip(have_root).map(|(sequence, root)| Seen { sequence, root });
    let got = Seen { sequence: row.got_sequence, root: row.got_root };
    let from = from.map(|from| Peer::new(&from.network, &from.id));
    let offence = *OFFENCES.get(usize::try_from(offence).ok()?)?;
    Some(Exhibit { topic, instance, offence, have, got, head, from, at, times })
}

/// All of them.
#[derive(Debug, Default)]
pub struct Evidence {
    all: BTreeMap<(Topic, Instance, Offence), Exhibit>,
    /// Whether anything changed since it was last taken for the next run.
    changed: bool,
}

impl Evidence {
    /// What an earlier run kept, as far as it is not too old; nothing of what is no such file.
    pub fn read(bytes: &[u8], now: Time) -> Self {
        let kept = decode::<Kept>(bytes, MAX_FILE_BYTES).ok().filter(|kept| kept.version == VERSION);
        let exhibits = kept.into_iter().flat_map(|kept| kept.rows).filter_map(exhibit);
        let mut read = Self::default();
        exhibits.filter(|one| now.since(one.at) < EVIDENCE_LIFE).for_each(|one| read.note(one));
        read.changed = false;
        read
    }

    /// The bytes of a file with all of it, if anything changed since the last time.
    pub fn changed(&mut self) -> Option<Vec<u8>> {
        let rows = || self.all.values().filter_map(row).collect();
        std::mem::take(&mut self.changed).then(|| encode(&Kept { version: VERSION, rows: rows() }))
    }

    /// Keeps what was refused, unless something like it is known, or there is too much.
    pub fn note(&mut self, exhibit: Exhibit) {
        let key = (exhibit.topic.clone(), exhibit.instance, exhibit.offence);
        let full = self.all.len() >= MAX_EVIDENCE;
        match self.all.get_mut(&key) {
            Some(known) => known.times = known.times.saturating_add(1),
            None if full => return,
            None => drop(self.all.insert(key, exhibit)),
        }
        self.changed = true;
    }

    /// What is kept.
    pub fn all(&self) -> impl Iterator<Item = &Exhibit> {
        self.all.values()
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

    #[test]
    fn the_next_run_knows_it_and_nonsense_is_nothing() {
        let now = Time::from_millis(1_800_000_000_000);
        let mut evidence = Evidence::default();
        assert_eq!(evidence.changed(), None);
        let have = Some(Seen { sequence: 9, root: Digest::of(b"nine") });
        let fork = Exhibit { at: now, have, ..exhibit(1, Offence::Fork) };
        let freeze = Exhibit { at: now, from: None, ..exhibit(2, Offence::Freeze) };
        let old = Exhibit { at: Time::from_millis(5), ..exhibit(3, Offence::Rollback) };
        for one in [&fork, &freeze, &old, &fork] {
            evidence.note(one.clone());
        }
        let bytes = evidence.changed().unwrap();
        assert_eq!(evidence.changed(), None);
        let mut read = Evidence::read(&bytes, now);
        let all: Vec<_> = read.all().cloned().collect();
        assert_eq!(all, [Exhibit { times: 2, ..fork }, freeze], "what is old is forgotten");
        assert_eq!(read.changed(), None);
        for bad in [&bytes[1..], &bytes[..bytes.len() - 1], &[]] {
            assert_eq!(Evidence::read(bad, now).all().count(), 0);
        }
        let other = encode(&Kept { version: VERSION + 1, rows: Vec::new() });
        assert_eq!(Evidence::read(&other, now).all().count(), 0);
    }

    #[test]
    fn a_file_of_all_that_may_be_kept_has_its_bound_and_a_larger_one_is_refused() {
        let now = Time::from_millis(1_800_000_000_000);
        let (mut evidence, name) = (Evidence::default(), "n".repeat(128));
        let project = Project::new(&"p".repeat(96)).unwrap();
        let topic = Topic { signer: Signer::from_bytes([1; 32]), project };
        for number in 0..MAX_EVIDENCE {
            let have = Some(Seen { sequence: u64::MAX, root: Digest::of(b"") });
            let from = Some(Peer::new(&name, &name));
            let topic = topic.clone();
            evidence.note(Exhibit { topic, have, from, at: now, ..exhibit(number, Offence::Freeze) });
        }
        let mut bytes = evidence.changed().unwrap();
        assert!(bytes.len() <= MAX_FILE_BYTES, "{}", bytes.len());
        assert_eq!(Evidence::read(&bytes, now).all().count(), MAX_EVIDENCE);
        bytes.resize(MAX_FILE_BYTES + 1, 0);
        assert_eq!(Evidence::read(&bytes, now).all().count(), 0);
    }
}
