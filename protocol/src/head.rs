// SPDX-License-Identifier: MIT OR Apache-2.0
//! The claim "this name now points to this Digest", and the order that such claims must keep.
//!
//! A Head is everything mutable: a Catalog, a ccache manifest, a mutable cache directory, a list of keys. Its sequence
//! only moves forward, per signer, Project, name and **instance**; the instance is 16 random bytes made when a node is
//! set up, so that several machines (a CI fleet) may hold one key without treading on each other's numbers.

use std::collections::BTreeMap;

use potluck_keys::pair::{PublicKey, Signer};
use potluck_keys::policy::{Scope, Scoped, Trusted};
use potluck_keys::signed::{Claim, ClaimError, Signed, verify_batch};
use potluck_keys::time::Time;

use crate::action::{Project, Recipe};
use crate::codec::{Bytes, CodecError, Text, decode, encode};
use crate::digest::{Digest, MAX_BLOB_BYTES};
use crate::entry::check_life;
use crate::hex::hex_name;
use crate::names::DhtKey;
use crate::record;

/// The name under which a signer's Catalog stands.
pub const CATALOG: &str = "catalog";

/// Longest name of a Head in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Largest signed Catalog Head in bytes; the DHT carries no larger one.
pub const MAX_CATALOG_HEAD_BYTES: usize = 500;

/// Most instances of one signer in one Project that are listed together.
pub const MAX_INSTANCES: usize = 16;

/// Largest encoded [`HeadSet`] in bytes.
pub const MAX_HEAD_SET_BYTES: usize = 16 + MAX_INSTANCES * (MAX_CATALOG_HEAD_BYTES + 3);

hex_name! {
    /// Which of the machines that hold one key is speaking: 16 random bytes.
    Instance, 16
}

record! {
    /// "This name now points to this Digest."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Head, check Head::check {
        /// The Project it belongs to.
        1 => one project: Project,
        /// What points; [`CATALOG`] for a Catalog.
        2 => one name: Text<MAX_NAME_BYTES>,
        /// The Recipe by which the name was made; none for a Catalog.
        3 => opt recipe: Recipe,
        /// Which machine of the signer says so.
        4 => one instance: Instance,
        /// Counts up with every Head of this signer, Project, name and instance; the first is 1.
        5 => one sequence: u64,
        /// What it points to.
        6 => one root: Digest,
        /// The size of that Blob in bytes.
        7 => one size: u64,
        /// When it was made, by the signer's clock.
        8 => one issued: Time,
        /// Until when it holds: a follower that sees nothing newer by then is being kept in the dark.
        9 => one not_after: Time,
    }
}

impl Head {
    fn check(&self) -> Result<(), &'static str> {
        if self.sequence == 0 {
            return Err("sequences start at 1");
        }
        if self.size > MAX_BLOB_BYTES {
            return Err("the size is beyond 1 TiB");
        }
        if (&*self.name == CATALOG) != self.recipe.is_none() {
            return Err("a Catalog has no Recipe, and everything else has one");
        }
        check_life(self.issued, self.not_after)
    }
}

impl Claim for Head {
    const CONTEXT: &'static str = "potluck/head/1";
    const MAX_BYTES: usize = 512;
}

impl Scoped for Head {
    const LATER_WINS: bool = true;

    fn scope(&self) -> Scope<'_> {
        Scope {
            project: self.project.as_str(),
            recipe: self.recipe.as_ref().map(Recipe::as_str),
            subject: self.name.as_bytes(),
            output: self.root.as_bytes(),
            taints: &[],
            issued: self.issued,
            not_after: self.not_after,
            replaces: None,
        }
    }

    fn name(payload: &[u8]) -> [u8; 32] {
        *Digest::of(payload).as_bytes()
    }
}

/// What a Head is the next one of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Whose.
    pub signer: Signer,
    /// In which Project.
    pub project: Project,
    /// Of what name.
    pub name: Text<MAX_NAME_BYTES>,
    /// From which machine.
    pub instance: Instance,
}

/// The last Head seen on a [`Line`]. To be kept across restarts, else an old Head could be passed off as new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its sequence.
    pub sequence: u64,
    /// What it pointed to.
    pub root: Digest,
}

/// What a Head that came in is to the last one seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The first, or a later one.
    Forward,
    /// The same one again.
    Again,
}

/// Why a Head is refused in spite of its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It is older than what was seen: somebody offers the past as the present.
    #[error("rollback: sequence {got} was offered after {have} had been seen")]
    Rollback {
        /// The last sequence seen.
        have: u64,
        /// The one offered.
        got: u64,
    },
    /// It has the number of the one seen but points elsewhere: its signer tells different people different things,
    /// or two machines use one instance.
    #[error("fork: sequence {sequence} points to {got} and to {have}")]
    Fork {
        /// The number that both have.
        sequence: u64,
        /// Where the one seen points.
        have: Digest,
        /// Where the one offered points.
        got: Digest,
    },
}

impl Seen {
    /// The memory of having seen `head`.
    pub fn of(head: &Head) -> Self {
        Self { sequence: head.sequence, root: head.root }
    }

    /// What `head` is to the last one seen on its line.
    ///
    /// # Errors
    /// [`StepError`] when it must be refused and reported.
    pub fn step(last: Option<&Self>, head: &Head) -> Result<Step, StepError> {
        let Some(last) = last else { return Ok(Step::Forward) };
        if head.sequence > last.sequence {
            return Ok(Step::Forward);
        }
        if head.sequence < last.sequence {
            return Err(StepError::Rollback { have: last.sequence, got: head.sequence });
        }
        if head.root == last.root {
            return Ok(Step::Again);
        }
        Err(StepError::Fork { sequence: head.sequence, have: last.root, got: head.root })
    }
}

/// The last Heads seen, line by line.
#[derive(Debug, Clone, Default)]
pub struct Ledger(BTreeMap<Line, Seen>);

impl Ledger {
    /// Puts back what was kept of an earlier run.
    pub fn restore(lines: impl IntoIterator<Item = (Line, Seen)>) -> Self {
        Self(lines.into_iter().collect())
    }

    /// Takes a Head that the policy let through, if it moves forward; refusals leave the ledger as it was.
    ///
    /// # Errors
    /// [`StepError`] when it must be refused and reported.
    pub fn take(&mut self, head: &Trusted<'_, Head>) -> Result<Step, StepError> {
        let lines = head.signed().signers().map(|signer| Line {
            signer,
            project: head.project.clone(),
            name: head.name.clone(),
            instance: head.instance,
        });
        let lines: Vec<_> = lines.collect();
        let mut outcome = Step::Again;
        for line in &lines {
            if Seen::step(self.0.get(line), head)? == Step::Forward {
                outcome = Step::Forward;
            }
        }
        for line in lines {
            self.0.insert(line, Seen::of(head));
        }
        Ok(outcome)
    }

    /// The last Catalog Heads seen of a signer in a Project, machine by machine.
    pub fn of(&self, signer: &Signer, project: &Project) -> Vec<(Instance, Seen)> {
        let of = |line: &&Line| line.signer == *signer && line.project == *project && &*line.name == CATALOG;
        let lines = self.0.iter().filter(|(line, _)| of(line));
        lines.map(|(line, seen)| (line.instance, *seen)).collect()
    }

    /// The last Head seen on a line.
    pub fn last(&self, line: &Line) -> Option<&Seen> {
        self.0.get(line)
    }
}

/// All Catalog Heads of one signer in one Project, at most one an instance: the value that stands on the DHT.
///
/// Holders need not trust the signer, only make sure that it is he who speaks; they merge what they are given with
/// what they have, so that no machine of a fleet can be overwritten by another.
#[derive(Debug, Clone)]
pub struct HeadSet {
    signer: Signer,
    project: Project,
    heads: BTreeMap<Instance, Signed<Head>>,
}

/// Why a set of Heads was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadSetError {
    /// Not the encoding of a set.
    #[error("the set of heads is malformed: {0}")]
    Codec(#[from] CodecError),
    /// One of the Heads is not genuine.
    #[error("a head in the set was refused: {0}")]
    Claim(#[from] ClaimError),
    /// One of the Heads does not belong here.
    #[error("a head in the set does not belong there: {0}")]
    Foreign(&'static str),
}

impl HeadSet {
    /// An empty set.
    pub fn new(signer: Signer, project: Project) -> Self {
        Self { signer, project, heads: BTreeMap::new() }
    }

    /// Adds a Head, unless one of the same instance that is as new stands already; gives whether it was added. When
    /// the set is full, the Head that ends first makes room, or the new one is left out.
    ///
    /// Of two Heads of one instance with one sequence (a fork) the one that stands is kept.
    ///
    /// # Errors
    /// [`HeadSetError`] when it is not genuine, not this signer's alone, or no Catalog Head of this Project.
    pub fn add(&mut self, head: Signed<Head>) -> Result<bool, HeadSetError> {
        let foreign = |why| Err(HeadSetError::Foreign(why));
        if head.bytes().len() > MAX_CATALOG_HEAD_BYTES {
            return foreign("it is larger than 500 bytes");
        }
        if !head.signers().eq([self.signer]) {
            return foreign("it is not of this signer alone");
        }
        let claim = head.authentic()?;
        if claim.project != self.project || &*claim.name != CATALOG {
            return foreign("it is not of a catalog of this project");
        }
        let (instance, sequence, not_after) = (claim.instance, claim.sequence, claim.not_after);
        if let Some(standing) = self.heads.get(&instance) {
            if known(standing).sequence >= sequence {
                return Ok(false);
            }
        } else if self.heads.len() == MAX_INSTANCES {
            let end = |(instance, head): (&Instance, &Signed<Head>)| (known(head).not_after, *instance);
            let first = self.heads.iter().map(end).min();
            match first {
                Some((end, leaving)) if end < not_after => self.heads.remove(&leaving),
                _ => return Ok(false),
            };
        }
        self.heads.insert(instance, head);
        Ok(true)
    }

    /// Drops Heads that no longer hold, and those that hold from too far in the future to be meant.
    pub fn expire(&mut self, now: Time) {
        let latest = now.plus(potluck_keys::policy::CLOCK_SKEW);
        self.heads.retain(|_, head| known(head).not_after >= now && known(head).issued <= latest);
    }

    /// Whose they are.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Of which Project.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The Heads, in ascending order of their instances.
    pub fn heads(&self) -> impl ExactSizeIterator<Item = &Signed<Head>> {
        self.heads.values()
    }

    /// The encoding: a record whose field 1 lists the Heads as byte strings, in ascending order of their instances.
    pub fn encode(&self) -> Vec<u8> {
        let heads =
            self.heads.values().map(|head| Bytes::new(head.bytes().to_vec()).expect("checked when added"));
        encode(&Heads { heads: heads.collect() })
    }

    /// Reads and verifies the set of `signer` in `project`.
    ///
    /// # Errors
    /// [`HeadSetError`].
    pub fn decode(bytes: &[u8], signer: Signer, project: Project) -> Result<Self, HeadSetError> {
        Self::verify(heads(bytes)?, signer, project)
    }

    /// Reads and verifies what somebody puts under a key of the DHT: a set of whoever the key belongs to.
    ///
    /// # Errors
    /// [`HeadSetError`], also when the set belongs under another key.
    pub fn receive(bytes: &[u8], key: &DhtKey) -> Result<Self, HeadSetError> {
        let heads = heads(bytes)?;
        let first = heads.first().ok_or(HeadSetError::Foreign("there is none"))?;
        let signer = first.signers().next().ok_or(HeadSetError::Foreign("nobody signed it"))?;
        let project = first.authentic()?.project.clone();
        if DhtKey::catalog(&signer, &project) != *key {
            return Err(HeadSetError::Foreign("it belongs under another key"));
        }
        Self::verify(heads, signer, project)
    }

    fn verify(heads: Vec<Signed<Head>>, signer: Signer, project: Project) -> Result<Self, HeadSetError> {
        if let Ok(key) = PublicKey::from_signer(&signer) {
            verify_batch(&heads.iter().collect::<Vec<_>>(), |by| (*by == signer).then_some(&key));
        }
        let mut set = Self::new(signer, project);
        let mut last = None;
        for head in heads {
            let instance = head.authentic().map(|head: &Head| head.instance)?;
            if last.replace(instance).is_some_and(|last| last >= instance) {
                return Err(HeadSetError::Foreign("the heads are not in ascending order of their instances"));
            }
            set.add(head)?;
        }
        Ok(set)
    }
}

/// The Heads of an encoded set, unverified.
fn heads(bytes: &[u8]) -> Result<Vec<Signed<Head>>, HeadSetError> {
    let listed: Heads = decode(bytes, MAX_HEAD_SET_BYTES)?;
    Ok(listed.heads.iter().map(|head| Signed::decode(head)).collect::<Result<_, _>>()?)
}

fn known(head: &Signed<Head>) -> &Head {
    head.authentic().expect("only genuine heads are added")
}

record! {
    /// The form in which a [`HeadSet`] travels.
    struct Heads {
        1 => many(MAX_INSTANCES) heads: Bytes<MAX_CATALOG_HEAD_BYTES>,
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Pair;

    use super::*;

    fn head(instance: u8, sequence: u64) -> Head {
        Head {
            project: Project::new(&"p".repeat(96)).unwrap(),
            name: Text::new(CATALOG).unwrap(),
            recipe: None,
            instance: Instance::from_bytes([instance; 16]),
            sequence,
            root: Digest::of(&sequence.to_le_bytes()),
            size: MAX_BLOB_BYTES,
            issued: Time::from_millis(1_800_000_000_000),
            not_after: Time::from_millis(1_800_000_000_000 + 1_000 * sequence.min(1_000)),
        }
    }

    fn sign(head: &Head) -> Signed<Head> {
        Signed::sign(head, &[&Pair::from_seed(&[1; 32], "")]).unwrap()
    }

    fn empty() -> HeadSet {
        HeadSet::new(Pair::from_seed(&[1; 32], "").signer(), head(0, 1).project)
    }

    #[test]
    fn the_largest_catalog_head_fits_the_dht() {
        let mut head = head(255, u64::MAX);
        head.not_after = head.issued.plus(crate::entry::MAX_LIFE);
        assert!(sign(&head).bytes().len() <= MAX_CATALOG_HEAD_BYTES, "{}", sign(&head).bytes().len());
    }

    #[test]
    fn the_largest_head_fits_its_bound() {
        let mut head = head(255, u64::MAX);
        head.name = Text::new("n".repeat(MAX_NAME_BYTES)).unwrap();
        head.recipe = Some(Recipe::new(&format!("{}@4294967295", "r".repeat(37))).unwrap());
        head.not_after = head.issued.plus(crate::entry::MAX_LIFE);
        let bytes = encode(&head);
        assert!(bytes.len() <= Head::MAX_BYTES, "{}", bytes.len());
        assert_eq!(decode::<Head>(&bytes, Head::MAX_BYTES).unwrap(), head);
    }

    #[test]
    fn each_rule_of_a_head_is_kept() {
        let refused = |change: &dyn Fn(&mut Head)| {
            let mut head = head(1, 1);
            change(&mut head);
            assert!(decode::<Head>(&encode(&head), usize::MAX).is_err(), "{head:?}");
        };
        refused(&|head| head.sequence = 0);
        refused(&|head| head.size = MAX_BLOB_BYTES + 1);
        refused(&|head| head.recipe = Some(Recipe::new("rustc@1").unwrap()));
        refused(&|head| head.name = Text::new("manifest").unwrap());
        refused(&|head| head.not_after = head.issued);
    }

    #[test]
    fn a_line_only_moves_forward() {
        let last = Seen::of(&head(1, 5));
        assert_eq!(Seen::step(None, &head(1, 5)), Ok(Step::Forward));
        assert_eq!(Seen::step(Some(&last), &head(1, 6)), Ok(Step::Forward));
        assert_eq!(Seen::step(Some(&last), &head(1, 5)), Ok(Step::Again));
        assert_eq!(Seen::step(Some(&last), &head(1, 4)), Err(StepError::Rollback { have: 5, got: 4 }));
        let fork = Head { root: Digest::of(b"elsewhere"), ..head(1, 5) };
        assert!(matches!(Seen::step(Some(&last), &fork), Err(StepError::Fork { sequence: 5, .. })));
    }

    #[test]
    fn sets_merge_to_the_newest_of_each_instance_in_any_order() {
        let all: Vec<_> = [(1, 3), (2, 1), (1, 2), (3, 9), (2, 8)].map(|(i, s)| sign(&head(i, s))).into();
        let mut forward = empty();
        let mut backward = empty();
        for head in &all {
            forward.add(head.clone()).unwrap();
        }
        for head in all.iter().rev() {
            backward.add(head.clone()).unwrap();
        }
        assert_eq!(forward.encode(), backward.encode());
        let sequences: Vec<_> = forward.heads().map(|head| known(head).sequence).collect();
        assert_eq!(sequences, [3, 8, 9]);
        let read = HeadSet::decode(&forward.encode(), forward.signer, forward.project.clone()).unwrap();
        assert_eq!(read.encode(), forward.encode());
    }

    #[test]
    fn what_is_put_belongs_under_its_own_key_only() {
        let mut set = empty();
        let key = DhtKey::catalog(set.signer(), set.project());
        assert!(HeadSet::receive(&set.encode(), &key).is_err(), "an empty set is nobody's");
        set.add(sign(&head(1, 1))).unwrap();
        set.add(sign(&head(2, 1))).unwrap();
        let received = HeadSet::receive(&set.encode(), &key).unwrap();
        assert_eq!((received.heads().len(), received.signer()), (2, set.signer()));
        let other = DhtKey::catalog(set.signer(), &Project::new("another").unwrap());
        assert!(HeadSet::receive(&set.encode(), &other).is_err());
        let mut bytes = set.encode();
        *bytes.last_mut().unwrap() ^= 1;
        assert!(HeadSet::receive(&bytes, &key).is_err());
    }

    #[test]
    fn a_full_set_keeps_what_holds_longest_and_expiry_makes_room() {
        let mut set = empty();
        for instance in 0..16 {
            assert!(set.add(sign(&head(instance, 10 + u64::from(instance)))).unwrap());
        }
        assert!(set.encode().len() <= MAX_HEAD_SET_BYTES);
        assert!(!set.add(sign(&head(99, 1))).unwrap(), "it ends before all others");
        assert!(set.add(sign(&head(99, 100))).unwrap());
        assert_eq!(set.heads().len(), MAX_INSTANCES);
        assert!(set.heads().all(|head| known(head).sequence != 10), "the one that ended first made room");
        set.expire(Time::from_millis(1_800_000_000_000 + 20_000));
        assert_eq!(set.heads().len(), 7);
        set.expire(Time::from_millis(1));
        assert_eq!(set.heads().len(), 0, "all of them lie in the future");
    }

    #[test]
    fn a_set_admits_nothing_foreign() {
        let mut set = empty();
        let (me, other) = (Pair::from_seed(&[1; 32], ""), Pair::from_seed(&[2; 32], ""));
        assert!(set.add(Signed::sign(&head(1, 1), &[&other]).unwrap()).is_err());
        assert!(set.add(Signed::sign(&head(1, 1), &[&me, &other]).unwrap()).is_err());
        let elsewhere = Head { project: Project::default(), ..head(1, 1) };
        assert!(set.add(sign(&elsewhere)).is_err());
        let recipe = Some(Recipe::new("ccache@1").unwrap());
        let name = Text::new("manifest").unwrap();
        assert!(set.add(sign(&Head { recipe, name, ..head(1, 1) })).is_err());
        let mut forged = sign(&head(1, 1)).bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(set.add(Signed::decode(&forged).unwrap()).is_err());
        assert_eq!(set.heads().len(), 0);
        let twice = Heads { heads: vec![Bytes::new(sign(&head(1, 1)).bytes().to_vec()).unwrap(); 2] };
        assert!(HeadSet::decode(&encode(&twice), set.signer, set.project.clone()).is_err());
        let many = Heads { heads: vec![Bytes::new(vec![0]).unwrap(); 17] };
        assert!(matches!(
            HeadSet::decode(&encode(&many), set.signer, set.project.clone()),
            Err(HeadSetError::Codec(_))
        ));
    }
}
