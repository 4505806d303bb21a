// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads everything that is kept and checks it: each piece of each Blob against its name, each Entry against its
//! signature. What is damaged is put aside; what a believed Entry names may then be fetched again.
//!
//! As many pieces as there are cores are checked at a time, each on a thread of its own turn, so that look-ups get
//! theirs in between. Everything stops when nobody waits for the report any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::join_all;
use potluck_protocol::action::ActionId;
use potluck_protocol::control::Verify;
use potluck_protocol::digest::Digest;
use serde_json::{Value, json};

use crate::cache::CacheError;
use crate::control::server::Progress;
use crate::engine::{Engine, files};
use crate::fetch::event::Space;
use crate::index::IndexError;
use crate::index::scan::{EntryPlace, PlacedEntry};
use crate::observe::{clock, span};
use crate::store::{Blob, Store, StoreError};

/// How many small Blobs, or Entries, are looked at in one turn.
const STRETCH: usize = 256;
/// Most actions that are looked for among peers at a time.
const MAX_SOUGHT: usize = 64;
/// How long to look for somebody who has what is damaged here.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most Blobs that the report names; it counts all.
pub const MAX_NAMED: usize = 1000;

/// What is left to be checked.
#[derive(Default)]
struct Todo {
    /// Large Blobs, or whatever was asked for, with the bytes that they take.
    blobs: Vec<(Digest, u64)>,
    /// Whether all small ones are asked for, and after which the next ones come.
    smalls: bool,
    after: Option<Digest>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    blobs: u64,
    bytes: u64,
    /// Bytes at rest, of all that there are: how far it is.
    done: u64,
    total: u64,
    damaged: BTreeSet<Digest>,
    /// Those that the system does not give, which says nothing about what they are.
    unreadable: BTreeSet<Digest>,
    entries: Entries,
}

#[derive(Default)]
struct Entries {
    checked: u64,
    damaged: u64,
    forgotten: u64,
    incomplete: u64,
    /// What to look for again.
    wanting: BTreeMap<(String, String), (Space, BTreeSet<ActionId>)>,
}

/// One run.
struct Run {
    engine: Arc<Engine>,
    todo: Mutex<Todo>,
    found: Mutex<Found>,
    progress: Progress,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding this lock")
}

/// Does what was asked, and gives the report.
///
/// # Errors
/// [`CacheError::NotHere`] for a Blob that is not here, or what the store says when it does not work at all.
pub async fn verify(engine: &Arc<Engine>, what: Verify, progress: Progress) -> Result<Value, CacheError> {
    let begun = clock::moment();
    let run = Arc::new(Run {
        engine: Arc::clone(engine),
        todo: Mutex::default(),
        found: Mutex::default(),
        progress,
    });
    let first = Arc::clone(&run);
    span::blocking(move || first.list(what.digest.as_ref())).await?;
    let cores = span::cores();
    join_all((0..cores).map(|_| run.work())).await.into_iter().collect::<Result<(), _>>()?;
    let took = clock::moment().since(begun);
    // One Blob says nothing about the Entries, unless it is to be found out who has it.
    let all = what.digest.is_none();
    if all || !lock(&run.found).damaged.is_empty() {
        run.entries(what.repair).await?;
    }
    if what.repair {
        run.fetch().await;
    }
    run.report(all, took).await
}

impl Run {
    fn store(&self) -> &Store {
        self.engine.store()
    }

    /// Finds out what there is to be checked. Blocks.
    fn list(&self, one: Option<&Digest>) -> Result<(), CacheError> {
        let mut todo = Todo::default();
        let total = match one {
            Some(digest) => {
                self.list_one(digest, &mut todo)?;
                todo.blobs.iter().map(|(_, bytes)| bytes).sum()
            }
            None => {
                todo.blobs = self.store().larges()?;
                todo.smalls = true;
                let smalls = self.store().index().small_bytes().map_err(StoreError::from)?;
                smalls + todo.blobs.iter().map(|(_, bytes)| bytes).sum::<u64>()
            }
        };
        *lock(&self.todo) = todo;
        lock(&self.found).total = total;
        Ok(())
    }

    /// A Blob, and what it lists if it is a Tree.
    fn list_one(&self, digest: &Digest, todo: &mut Todo) -> Result<(), CacheError> {
        match self.store().blob(digest) {
            Ok(None) => return Err(CacheError::NotHere(*digest)),
            Ok(Some(blob)) => todo.blobs.push((*digest, blob.pieces().size())),
            Err(error) if error.is_damage() => {
                lock(&self.found).blobs = 1;
                lock(&self.found).damaged.insert(*digest);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        // One that cannot be read whole is found damaged in its turn.
        let Ok(Some(tree)) = self.engine.tree(digest) else { return Ok(()) };
        let listed: BTreeSet<_> = files(&tree).map(|need| (need.digest, need.size)).collect();
        for (digest, size) in listed {
            if self.store().has(&digest)? {
                todo.blobs.push((digest, size));
            }
        }
        Ok(())
    }

    /// Checks one Blob after the other until there are no more.
    async fn work(self: &Arc<Self>) -> Result<(), CacheError> {
        loop {
            let next = lock(&self.todo).blobs.pop();
            let run = Arc::clone(self);
            match next {
                Some((digest, stored)) => self.blob(digest, stored).await,
                None if span::blocking(move || run.smalls()).await? => {}
                None => return Ok(()),
            }
        }
    }

    async fn blob(self: &Arc<Self>, digest: Digest, stored: u64) {
        let run = Arc::clone(self);
        let opened = span::blocking(move || run.store().blob(&digest)).await;
        let blob = match opened {
            Ok(Some(blob)) => Arc::new(blob),
            // Removed since it was listed.
            Ok(None) => return self.tell(|found| found.done += stored),
            Err(error) => return self.bad(digest, stored, &error),
        };
        let count = blob.pieces().count();
        let mut told = 0;
        for index in 0..count {
            let (run, same) = (Arc::clone(self), Arc::clone(&blob));
            let piece =
                span::blocking(move || run.store().piece(&same, index).map(|piece| piece.len())).await;
            match piece {
                Ok(bytes) => {
                    let share = stored * (index + 1) / count;
                    self.tell(|found| {
                        found.bytes += bytes as u64;
                        found.done += share - told;
                    });
                    told = share;
                }
                Err(error) => return self.bad(digest, stored - told, &error),
            }
        }
        lock(&self.found).blobs += 1;
    }

    fn bad(&self, digest: Digest, stored: u64, error: &StoreError) {
        tracing::warn!(blob = %digest, %error, "found when everything was checked");
        self.tell(|found| {
            found.blobs += 1;
            found.done += stored;
            let list = if error.is_damage() { &mut found.damaged } else { &mut found.unreadable };
            list.insert(digest);
        });
    }

    /// Checks the next small Blobs; says whether there were any. Blocks.
    fn smalls(&self) -> Result<bool, StoreError> {
        let stretch = {
            let mut todo = lock(&self.todo);
            if !todo.smalls {
                return Ok(false);
            }
            let stretch = self.store().index().smalls(todo.after.as_ref(), STRETCH)?;
            todo.after = stretch.last().copied();
            todo.smalls = todo.after.is_some();
            stretch
        };
        for digest in &stretch {
            match self.store().blob(digest) {
                Ok(Some(Blob::Small(pieces, _))) => self.tell(|found| {
                    found.blobs += 1;
                    found.bytes += pieces.size();
                    // The row has one byte more.
                    found.done += pieces.size() + 1;
                }),
                // Removed since, or grown out of the index.
                Ok(_) => {}
                Err(error) => self.bad(*digest, 0, &error),
            }
        }
        Ok(!stretch.is_empty())
    }

    fn tell(&self, change: impl FnOnce(&mut Found)) {
        let report = {
            let mut found = lock(&self.found);
            change(&mut found);
            json!({ "done": found.done.min(found.total), "total": found.total, "unit": "bytes" })
        };
        // Whoever listens reads the next one.
        let _ = self.progress.try_send(report.to_string().into_bytes());
    }

    /// Checks all Entries; with `repair`, forgets what is none.
    async fn entries(self: &Arc<Self>, repair: bool) -> Result<(), CacheError> {
        let mut after: Option<EntryPlace> = None;
        loop {
            let run = Arc::clone(self);
            let last = span::blocking(move || {
                let stretch = run.store().index().all_entries(after.as_ref(), STRETCH)?;
                let last = stretch.last().map(|(place, _)| *place);
                for entry in stretch {
                    run.entry(entry, repair)?;
                }
                Ok::<_, StoreError>(last)
            })
            .await?;
            if last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }

    fn entry(&self, (place, entry): PlacedEntry, repair: bool) -> Result<(), StoreError> {
        let claim = entry.and_then(|entry| {
            let claim = entry.authentic().map_err(IndexError::from)?;
            Ok(claim.clone())
        });
        let claim = match claim {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!(%error, "an entry in the index is none");
                // Nobody can use it, unless a later version can: whoever claims it may do so again.
                let forgotten =
                    repair && !error.is_of_later() && self.store().index().forget_entry(&place)?;
                let entries = &mut lock(&self.found).entries;
                entries.checked += 1;
                entries.damaged += 1;
                entries.forgotten += u64::from(forgotten);
                return Ok(());
            }
        };
        let lacks = || self.engine.lacks(&self.store().index().view()?, &claim.output, None);
        let lacks = match lacks() {
            Ok(lacks) => lacks,
            // A Tree that was damaged since it was checked.
            Err(error) if error.is_damage() => lacks()?,
            Err(error) => return Err(error),
        };
        let mut found = lock(&self.found);
        let wanted = lacks.iter().any(|need| found.damaged.contains(&need.digest));
        let entries = &mut found.entries;
        entries.checked += 1;
        entries.incomplete += u64::from(!lacks.is_empty());
        if wanted {
            let space = Space { project: claim.project, recipe: claim.recipe };
            let key = (space.project.as_str().to_owned(), space.recipe.as_str().to_owned());
            entries.wanting.entry(key).or_insert_with(|| (space, BTreeSet::new())).1.insert(claim.action);
        }
        Ok(())
    }

    /// Has what is damaged brought again, as far as somebody claims it who is believed.
    async fn fetch(&self) {
        let wanting = std::mem::take(&mut lock(&self.found).entries.wanting);
        for (space, actions) in wanting.into_values() {
            let actions: Vec<_> = actions.into_iter().collect();
            for some in actions.chunks(MAX_SOUGHT) {
                self.engine.bring(&space, some, DEADLINE).await;
            }
        }
    }

    async fn report(self: &Arc<Self>, all: bool, took: Duration) -> Result<Value, CacheError> {
        let run = Arc::clone(self);
        span::blocking(move || {
            let found = lock(&run.found);
            let mut lost = found.unreadable.clone();
            for digest in &found.damaged {
                if !run.store().has(digest)? {
                    lost.insert(*digest);
                }
            }
            let bad = found.damaged.len() + found.unreadable.len();
            let entries = &found.entries;
            let left = entries.damaged - entries.forgotten;
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let rate = found.bytes.saturating_mul(1000) / ms.max(1);
            let name = |list: &BTreeSet<Digest>| -> Vec<_> {
                list.iter().take(MAX_NAMED).map(ToString::to_string).collect()
            };
            let mut report = json!({
                "sound": lost.is_empty() && left == 0,
                "blobs": found.blobs, "bytes": found.bytes, "ms": ms, "bytes_per_s": rate,
                "damaged": bad, "repaired": bad - lost.len(), "lost": lost.len(),
                "damaged_blobs": name(&found.damaged), "unreadable_blobs": name(&found.unreadable),
                "lost_blobs": name(&lost),
            });
            if all {
                report["entries"] = json!({
                    "checked": entries.checked, "damaged": entries.damaged,
                    "forgotten": entries.forgotten, "incomplete": entries.incomplete,
                });
            }
            Ok::<_, StoreError>(report)
        })
        .await
        .map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use potluck_keys::time::Time;
    use potluck_protocol::action::{Project, Recipe};
    use potluck_protocol::catalog::{Catalog, Row, RowKind, Segment};
    use potluck_protocol::entry::{BlobOutput, Labels, Output};
    use potluck_protocol::head::Instance;
    use potluck_protocol::peer::Topic;
    use potluck_protocol::piece::PIECE_BYTES;
    use tempfile::TempDir;
    use tokio::sync::mpsc;

    use super::*;
    use crate::cache::{Cache as _, Publication};
    use crate::catalog::followed::Listing;
    use crate::catalog::plan::Source;
    use crate::content::Durability;
    use crate::engine::{Seeker, Seeking};
    use crate::home::Home;

    struct Kitchen {
        _folder: TempDir,
        home: Home,
        engine: Arc<Engine>,
    }

    impl Kitchen {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let home = Home::locate(Some(folder.path().join("home"))).unwrap();
            home.init("").unwrap();
            let engine = Arc::new(Engine::open(&home).unwrap());
            Self { _folder: folder, home, engine }
        }

        fn keep(&self, len: usize) -> Digest {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            self.engine.store().keep(&bytes, Durability::Durable).unwrap()
        }

        fn file(&self, digest: &Digest) -> PathBuf {
            let name = digest.to_string();
            self.home.root().join("store/blobs").join(&name[..2]).join(name)
        }

        async fn verify(&self, digest: Option<Digest>, repair: bool) -> Result<Value, CacheError> {
            let (progress, mut told) = mpsc::channel(8);
            let report = verify(&self.engine, Verify { digest, repair }, progress).await;
            while let Ok(told) = told.try_recv() {
                let told: Value = serde_json::from_slice(&told).unwrap();
                assert!(told["done"].as_u64().unwrap() <= told["total"].as_u64().unwrap(), "{told}");
            }
            report
        }
    }

    #[tokio::test]
    async fn a_sound_store_is_said_to_be_sound() {
        let kitchen = Kitchen::new();
        let sizes = [1, 300, 20_000, 3 * PIECE_BYTES + 5];
        for len in sizes {
            kitchen.keep(len);
        }
        let report = kitchen.verify(None, true).await.unwrap();
        assert_eq!(report["sound"], true, "{report}");
        let bytes: usize = sizes.iter().sum();
        assert_eq!((report["blobs"].as_u64(), report["bytes"].as_u64()), (Some(4), Some(bytes as u64)));
    }

    #[tokio::test]
    async fn every_kind_of_damage_is_found_and_put_aside() {
        let kitchen = Kitchen::new();
        let [flipped, cut, one, other] = [100_000, 200_000, 300_000, 400_000].map(|len| kitchen.keep(len));
        let sound = kitchen.keep(500_000);
        let mut bytes = fs::read(kitchen.file(&flipped)).unwrap();
        bytes[77] ^= 1;
        fs::write(kitchen.file(&flipped), bytes).unwrap();
        fs::File::options().write(true).open(kitchen.file(&cut)).unwrap().set_len(99).unwrap();
        fs::copy(kitchen.file(&one), kitchen.file(&other)).unwrap();
        let small = Digest::of(b"right");
        kitchen.engine.store().index().keep_small(&small, b"wrong", Durability::Durable).unwrap();
        let report = kitchen.verify(None, true).await.unwrap();
        assert_eq!(report["sound"], false, "{report}");
        let mut bad = [flipped, cut, other, small].map(|digest| digest.to_string());
        bad.sort();
        assert_eq!(report["damaged_blobs"], json!(bad));
        assert_eq!((report["damaged"].as_u64(), report["lost"].as_u64()), (Some(4), Some(4)));
        for digest in [flipped, cut, other, small] {
            assert!(!kitchen.engine.store().has(&digest).unwrap());
        }
        assert!(kitchen.engine.store().has(&sound).unwrap() && kitchen.engine.store().has(&one).unwrap());
        let again = kitchen.verify(None, true).await.unwrap();
        assert_eq!(again["sound"], true, "it is no longer here: {again}");
    }

    #[tokio::test]
    async fn one_blob_is_checked_alone() {
        let kitchen = Kitchen::new();
        let (one, other) = (kitchen.keep(30_000), kitchen.keep(40_000));
        fs::write(kitchen.file(&other), "").unwrap();
        let report = kitchen.verify(Some(one), false).await.unwrap();
        assert_eq!((report["blobs"].as_u64(), &report["sound"]), (Some(1), &json!(true)));
        let report = kitchen.verify(Some(other), false).await.unwrap();
        assert_eq!((report["lost"].as_u64(), &report["sound"]), (Some(1), &json!(false)));
        assert!(matches!(kitchen.verify(Some(other), false).await, Err(CacheError::NotHere(_))));
    }

    #[tokio::test]
    async fn entries_whose_blobs_are_gone_are_counted() {
        let kitchen = Kitchen::new();
        let digest = kitchen.keep(30_000);
        let publication = Publication {
            project: Project::new("p").unwrap(),
            recipe: Recipe::new("r@1").unwrap(),
            key: b"key".to_vec(),
            output: Output::Blob(BlobOutput { digest, size: 30_000 }),
            labels: Labels::default(),
            taints: Vec::new(),
        };
        kitchen.engine.publish(publication).await.unwrap();
        let entries = kitchen.verify(None, true).await.unwrap()["entries"].clone();
        assert_eq!((entries["checked"].as_u64(), entries["incomplete"].as_u64()), (Some(1), Some(0)));
        fs::write(kitchen.file(&digest), "").unwrap();
        let report = kitchen.verify(None, true).await.unwrap();
        assert_eq!(report["entries"]["incomplete"], 1, "{report}");
        assert_eq!(report["lost"], 1, "nobody else has it");
    }

    /// A peer that has everything that is looked for.
    struct Generous(Arc<Engine>, Vec<u8>);

    impl Seeker for Generous {
        fn seek(&self, _: Space, actions: Vec<(ActionId, Vec<Topic>)>, _: Duration) -> Seeking {
            self.0.store().keep(&self.1, Durability::Fast).unwrap();
            Box::pin(async move { vec![None; actions.len()] })
        }
    }

    #[tokio::test]
    async fn what_a_believed_entry_names_is_fetched_again() {
        let kitchen = Kitchen::new();
        let digest = kitchen.keep(30_000);
        let (project, recipe) = (Project::new("p").unwrap(), Recipe::new("r@1").unwrap());
        let action = ActionId::derive(&project, &recipe, b"key", None).unwrap();
        let output = Output::Blob(BlobOutput { digest, size: 30_000 });
        let (key, labels, taints) = (b"key".to_vec(), Labels::default(), Vec::new());
        let publication = Publication { project: project.clone(), recipe, key, output, labels, taints };
        kitchen.engine.publish(publication).await.unwrap();
        let topic = Topic { signer: kitchen.engine.signer().unwrap(), project: project.clone() };
        let row = Row { action, claim: Digest::of(b"claim"), kind: RowKind::Entry };
        let filters = vec![Arc::new(Segment::new(vec![row]).unwrap().filter().unwrap())];
        let catalog = Catalog { project, segments: Vec::new() };
        let (sequence, issued, not_after) = (1, Time::from_millis(1), Time::MAX);
        let listing = Listing { catalog, filters, sequence, issued, not_after, source: Source::Disk };
        kitchen.engine.followed_mut().follow(&[topic.clone()].into());
        kitchen.engine.followed_mut().take(&topic, Instance::from_bytes([7; 16]), listing).unwrap();
        let bytes = (0..=250).cycle().take(30_000).collect();
        let generous = Generous(Arc::clone(&kitchen.engine), bytes);
        kitchen.engine.connect(Arc::new(generous), mpsc::channel(8).0);
        fs::write(kitchen.file(&digest), "").unwrap();
        let report = kitchen.verify(None, false).await.unwrap();
        assert_eq!(report["lost"], 1, "it was not asked for: {report}");
        kitchen.keep(30_000);
        fs::write(kitchen.file(&digest), "").unwrap();
        let report = kitchen.verify(None, true).await.unwrap();
        assert_eq!((report["repaired"].as_u64(), &report["sound"]), (Some(1), &json!(true)), "{report}");
        assert!(kitchen.engine.store().has(&digest).unwrap());
    }
}
