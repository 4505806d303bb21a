// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store, with every step that it takes on the disk enumerated: the process dies there, or the power is cut, or the
//! disk refuses. What was promised must be there afterwards, and nothing that is wrong is ever served.

mod check;
mod log;
mod script;
mod wreck;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use self::check::{After, End, staged};
use self::log::{Refuse, Taken, replay};
use self::script::{Fault, SCRIPT, Stage, scratch};
use self::wreck::{Fate, Wreck};
use crate::store::StoreError;

/// The script's steps, and what was promised on the way.
fn ran() -> (Stage, Vec<Taken>) {
    let mut stage = Stage::new();
    for (salt, (name, operation)) in SCRIPT.iter().enumerate() {
        operation(&mut stage, salt as u64).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let steps = stage.log.steps();
    (stage, steps)
}

/// All files below a folder.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The steps told all that happened, and the model of a disk agrees with a real one where nothing is lost.
#[test]
fn the_steps_are_all_there_are() {
    let (stage, steps) = ran();
    let again = scratch();
    replay(&steps, again.path());
    let real = files(&stage.watched());
    assert!(real.len() > 10);
    assert!(files(again.path()) == real, "the steps do not make up what is there");
    let mut wreck = Wreck::new();
    steps.iter().for_each(|step| wreck.take(step));
    let model = scratch();
    wreck.left(|_| Fate::Kept).write(model.path());
    assert!(files(model.path()) == real, "the model is not like a disk");
}

#[test]
fn a_process_that_dies_at_any_step_leaves_a_sound_store() {
    let (stage, steps) = ran();
    assert!(steps.len() > 100, "{} steps are too few to be all", steps.len());
    let moments: HashSet<usize> = stage.facts.moments().collect();
    for n in 0..=steps.len() {
        // After a sync there is what was there before it.
        if n > 0 && steps[n - 1].is_sync() && !moments.contains(&n) {
            continue;
        }
        let folder = scratch();
        replay(&steps[..n], folder.path());
        let after = After { facts: &stage.facts, steps: n, end: End::Killed };
        if let Err(what) = after.opens(folder.path(), &stage.home) {
            panic!("after {n} of {} steps, {:?}: {what}", steps.len(), steps[..n].last().map(brief));
        }
    }
}

fn brief(step: &Taken) -> String {
    let mut text = format!("{step:?}");
    text.truncate(120);
    text
}

/// Up to so many changes that were not synced are lost and kept in all ways.
const FEW: usize = 3;

/// The worlds after a power cut at one moment.
struct Worlds<'a> {
    stage: &'a Stage,
    seed: u64,
    samples: u64,
    /// What was looked at, and how much was promised then.
    seen: HashSet<(blake3::Hash, usize)>,
}

impl Worlds<'_> {
    /// Looks at what may be left: all ways where they are few, else the two ends and some at random.
    fn look(&mut self, wreck: &Wreck, steps: usize) -> Result<(), String> {
        let pending = wreck.pending();
        if pending <= FEW {
            for bits in 0_u32..1 << pending {
                let kept = |at: usize| if bits & (1 << at) == 0 { Fate::Lost } else { Fate::Kept };
                self.one(wreck, steps, &mut { kept })?;
            }
        } else {
            self.one(wreck, steps, &mut |_| Fate::Lost)?;
            self.one(wreck, steps, &mut |_| Fate::Kept)?;
        }
        for sample in 0..self.samples.min(pending as u64) {
            let mut rng = Rng::with_seed(self.seed ^ ((steps as u64) << 20) ^ sample);
            let (odd, way, odds) = (rng.usize(..pending), rng.u8(..3), rng.f32());
            let mut fate = |at: usize| match way {
                // One alone.
                0 if at == odd => Fate::Kept,
                0 => Fate::Lost,
                1 if at == odd => Fate::Lost,
                1 => Fate::Kept,
                _ if rng.f32() > odds => Fate::Lost,
                _ if rng.bool() => Fate::Torn(rng.u64(..)),
                _ => Fate::Kept,
            };
            self.one(wreck, steps, &mut fate)?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        wreck: &Wreck,
        steps: usize,
        fate: &mut dyn FnMut(usize) -> Fate,
    ) -> Result<(), String> {
        let mut fates = String::new();
        let left = wreck.left(|at| {
            let fate = fate(at);
            fates += match fate {
                Fate::Lost => "-",
                Fate::Kept => "+",
                Fate::Torn(_) => "~",
            };
            fate
        });
        let promised = self.stage.facts.moments().filter(|at| *at <= steps).count();
        if !self.seen.insert((left.name(), promised)) {
            return Ok(());
        }
        let folder = scratch();
        left.write(folder.path());
        let after = After { facts: &self.stage.facts, steps, end: End::Cut };
        after.opens(folder.path(), &self.stage.home).map_err(|what| format!("{what}; changes {fates}"))
    }
}

/// Cuts the power wherever more may be lost than before, on a disk that forgets the syncs that `skipped` picks.
fn cut(ran: &(Stage, Vec<Taken>), samples: u64, skipped: impl Fn(&Taken) -> bool) -> Result<usize, String> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("POTLUCK_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let samples = number("POTLUCK_TEST_SAMPLES").unwrap_or(samples);
    let (stage, steps) = ran;
    let moments: HashSet<usize> = stage.facts.moments().collect();
    let mut worlds = Worlds { stage, seed, samples, seen: HashSet::new() };
    let mut wreck = Wreck::new();
    for n in 0..=steps.len() {
        // What may be left earlier may be left just before the next sync as well.
        if moments.contains(&n) || steps.get(n).is_none_or(Taken::is_sync) {
            worlds.look(&wreck, n).map_err(|what| {
                let last = steps[..n].last().map(brief);
                format!("POTLUCK_TEST_SEED={seed}: after {n} of {} steps, {last:?}: {what}", steps.len())
            })?;
        }
        if let Some(step) = steps.get(n).filter(|step| !skipped(step)) {
            wreck.take(step);
        }
    }
    Ok(worlds.seen.len())
}

#[test]
fn a_power_cut_at_any_step_leaves_what_was_durable() {
    let looked = cut(&ran(), 2, |_| false).unwrap_or_else(|what| panic!("{what}"));
    assert!(looked > 150, "only {looked} states were looked at");
}

/// Picks some steps.
type Picks = fn(&Taken) -> bool;

/// Each sync is there for something: without it, something that was promised is lost.
#[test]
fn every_kind_of_sync_that_is_left_out_is_found() {
    let ran = ran();
    let kinds: [(&str, Picks); 6] = [
        ("a blob's file", |step| matches!(step, Taken::Sync(path) if path.starts_with("store/staging"))),
        ("the index", |step| matches!(step, Taken::Sync(path) if path.ends_with("index.redb"))),
        (
            "a blob's folder",
            |step| matches!(step, Taken::SyncFolder(path) if path.starts_with("store/blobs") && !path.ends_with("blobs")),
        ),
        ("the folder of blobs", |step| matches!(step, Taken::SyncFolder(path) if path.ends_with("blobs"))),
        ("the store's folder", |step| matches!(step, Taken::SyncFolder(path) if path.ends_with("store"))),
        ("what is around it", |step| matches!(step, Taken::SyncFolder(path) if path.as_os_str().is_empty())),
    ];
    for (kind, skipped) in kinds {
        assert!(ran.1.iter().any(skipped), "{kind} is never synced");
        assert!(cut(&ran, 0, skipped).is_err(), "nothing needs the sync of {kind}");
    }
}

/// Whatever the disk refuses is said, spoils nothing, and can be done when it no longer refuses.
fn refused(error: i32, says: &str) {
    let mut stage = Stage::new();
    let mut salt = 0;
    for (name, operation) in &SCRIPT[..DIFFERENT] {
        for after in 0.. {
            salt += 1;
            stage.begin_anew(name, salt);
            stage.log.refuse(Refuse { after, error });
            let done = operation(&mut stage, salt);
            stage.log.forgive();
            let Some(step) = stage.log.refused() else {
                done.unwrap_or_else(|error| panic!("{name}: {error}"));
                break;
            };
            let at = format!("{name}, step {after} refused, {step}");
            match done {
                Err(fault) => {
                    let said = fault.to_string();
                    assert!(said.contains(says), "{at}: {said}");
                    if let Fault::Store(StoreError::Content(error)) = &fault {
                        let full = matches!(error, crate::content::ContentError::Full { .. });
                        assert_eq!(full, says == FULL, "{at}: {error:?}");
                    }
                    operation(&mut stage, salt).unwrap_or_else(|error| panic!("{at}, then allowed: {error}"));
                }
                // Tidying up may fail without harm, and so may closing a database that is complete.
                Ok(()) => {
                    let tidying = *name == "open"
                        || step.contains("Remove(\"store/staging")
                        || step.contains("\"store/qua");
                    assert!(tidying, "{at}: nobody said so");
                }
            }
            let left = usize::from(step.starts_with("Remove") && step.contains("staging"));
            assert!(staged(&stage.watched()) <= left, "{at}: staging is not empty");
            let store = stage.store().unwrap();
            let after = After { facts: &stage.facts, steps: stage.log.len(), end: End::Killed };
            after.holds(&store, &stage.home).unwrap_or_else(|what| panic!("{at}: {what}"));
        }
    }
    assert!(salt > 100, "{salt} operations are too few to be all");
}

/// So many operations of the script differ; the others are the same again.
const DIFFERENT: usize = 19;

const FULL: &str = "No space left on device";

#[test]
fn a_disk_that_is_full_at_any_step_spoils_nothing() {
    refused(rustix::io::Errno::NOSPC.raw_os_error(), FULL);
}

#[test]
fn a_disk_that_fails_at_any_step_spoils_nothing() {
    refused(rustix::io::Errno::IO.raw_os_error(), "Input/output error");
}
