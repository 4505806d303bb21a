// SPDX-License-Identifier: MIT OR Apache-2.0
//! Collection on real stores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use potluck_keys::rules::Pattern;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{RowKind, Segment};
use potluck_protocol::codec::Text;
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use tempfile::TempDir;

use super::budget::{Amount, Floor};
use super::pins;
use super::plan::{Action, Collection, Event, Wish};
use super::report::{End, Report};
use super::steps::{Limits, Steps};
use crate::cache::{Answer, Cache as _, Publication, Question};
use crate::content::Durability;
use crate::engine::{Engine, Known};
use crate::fetch::event::Space;
use crate::home::Home;
use crate::index::EntryName;
use crate::observe::clock;
use crate::plan::Plan as _;

struct Node {
    folder: TempDir,
    engine: Arc<Engine>,
}

fn space() -> Space {
    Space { project: Project::new("p").unwrap(), recipe: Recipe::new("r@1").unwrap() }
}

fn action(key: u32) -> ActionId {
    ActionId::derive(&space().project, &space().recipe, &key.to_le_bytes(), None).unwrap()
}

/// Bytes that do not pack, small or large, that only depend on `number`.
fn bytes(number: u32) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(number.into());
    let len = if number.is_multiple_of(2) { 40_000 } else { 10_000 };
    std::iter::repeat_with(|| chance.u8(..)).take(len).collect()
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        Self { folder, engine: Arc::new(Engine::open(&home).unwrap()) }
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn publish(&self, key: u32, output: Output, toolchain: &str) -> Digest {
        let Space { project, recipe } = space();
        let labels = Labels { toolchain: Text::new(toolchain), ..Labels::default() };
        let key = key.to_le_bytes().to_vec();
        let publication = Publication { project, recipe, key, output, labels, taints: Vec::new() };
        Self::wait(self.engine.publish(publication)).unwrap()
    }

    /// A Blob under a key.
    fn put(&self, key: u32, number: u32) -> Digest {
        let bytes = bytes(number);
        let digest = self.engine.store().keep(&bytes, Durability::Fast).unwrap();
        self.publish(key, Output::Blob(BlobOutput { digest, size: bytes.len() as u64 }), "1.95.0");
        digest
    }

    /// A Tree of these files.
    fn tree(&self, numbers: &[u32]) -> (Digest, Output) {
        let member = |number: &u32| {
            let digest = self.engine.store().keep(&bytes(*number), Durability::Fast).unwrap();
            let kind = Kind::File { digest, size: bytes(*number).len() as u64, executable: false };
            Member { path: TreePath::new(&format!("f{number:03}")).unwrap(), kind }
        };
        let members: Vec<_> = numbers.iter().map(member).collect();
        let total = numbers.iter().map(|number| bytes(*number).len() as u64).sum();
        let encoded = Tree::new(members).unwrap().encode();
        let digest = self.engine.store().keep(&encoded, Durability::Fast).unwrap();
        let (size, members) = (encoded.len() as u64, numbers.len() as u64);
        (digest, Output::Tree(TreeOutput { digest, size, members, total }))
    }

    fn steps(&self, budget: u64) -> Steps {
        let limits = Limits { budget: Amount::Bytes(budget), floor: Floor(Some(Amount::Bytes(0))) };
        Steps::new(Arc::clone(&self.engine), limits)
    }

    fn collect(&self, wish: Wish) -> Report {
        let mut steps = self.steps(u64::MAX);
        let (mut plan, now) = (Collection::new(), clock::moment());
        plan.feed(now, Event::Ask(1, wish));
        while let Some(action) = plan.take(now) {
            match action {
                Action::Report(Some(1), report) => return *report,
                action => steps.perform(action).into_iter().for_each(|event| plan.feed(now, event)),
            }
        }
        panic!("no report came")
    }

    fn keep(&self, bytes: u64) -> Report {
        self.collect(Wish { keep: Some(bytes), ..Wish::default() })
    }

    /// Whether a Blob is here, without counting on it.
    fn has(&self, digest: &Digest) -> bool {
        self.engine.store().peek_bytes(digest, u64::MAX).unwrap().is_some()
    }

    /// As if an action had been used so long ago, in seconds.
    fn used(&self, key: u32, ago: u64) {
        let now = clock::now().as_millis();
        self.engine.uses().touch(&action(key), Time::from_millis(now - 1000 * ago));
    }
}

#[test]
fn the_budget_is_kept_and_those_that_were_used_last_stay() {
    let node = Node::new();
    let blobs: Vec<_> = (0..40).map(|key| node.put(key, 2 * key)).collect();
    (0..40).for_each(|key| node.used(key, u64::from(1000 * (key + 1))));
    let index = node.engine.store().index();
    node.engine.uses().write(index, true).unwrap();
    let before = node.engine.store().total().unwrap();
    let dry = node.collect(Wish { keep: Some(before / 2), dry: true, ..Wish::default() });
    assert!(node.engine.store().total().unwrap() == before && index.entry_count().unwrap() == 40);
    let report = node.keep(before / 2);
    assert_eq!((report.end, report.before, &report.failure), (End::Done, before, &None));
    assert_eq!((dry.freed, dry.entries, dry.after), (report.freed, report.entries, report.after));
    let left = node.engine.store().total().unwrap();
    assert!(left == report.after && left <= before / 2 && left > before / 3, "{left} of {before}");
    let stay: Vec<_> = blobs.iter().map(|blob| node.has(blob)).collect();
    assert!(stay.is_sorted_by(|one, other| one >= other), "{stay:?}");
    let lookup = |key: u32| {
        let Space { project, recipe } = space();
        let (keys, deadline) = (vec![key.to_le_bytes().to_vec()], Duration::ZERO);
        Node::wait(node.engine.lookup(Question { project, recipe, keys, deadline })).unwrap().remove(0)
    };
    assert!(matches!(lookup(0), Answer::Hit(_)));
    assert_eq!(lookup(39), Answer::Miss(Miss::Unclaimed));
    // Of what went nothing is left in the tables.
    assert_eq!(index.last_use(&action(39)).unwrap(), None);
    assert!(!index.belongs(&blobs[39], |_| true).unwrap() && index.belongs(&blobs[0], |_| true).unwrap());
}

#[test]
fn pins_and_what_they_list_stay() {
    let node = Node::new();
    let (pinned, output) = node.tree(&[1, 2]);
    node.publish(1, output, "1.95.0");
    let (loose, output) = node.tree(&[3, 4]);
    node.publish(2, output, "1.95.0");
    let reason = Text::new("a release").unwrap();
    let absent = Digest::of(b"absent");
    assert!(Node::wait(pins::add(&node.engine, absent, reason.clone())).is_err());
    let added = Node::wait(pins::add(&node.engine, pinned, reason)).unwrap();
    assert_eq!((&added["files"], &added["missing"]), (&2.into(), &0.into()));
    let listed = Node::wait(pins::list(&node.engine, None)).unwrap();
    assert_eq!(listed["pins"][0]["reason"], "a release");
    assert_eq!(listed["pins"].as_array().unwrap().len(), 1);
    node.keep(0);
    let there = |number: u32| node.has(&Digest::of(&bytes(number)));
    assert!(node.has(&pinned) && there(1) && there(2));
    assert!(!node.has(&loose) && !there(3) && !there(4));
    assert_eq!(
        node.engine.store().index().entry_count().unwrap(),
        1,
        "the Entry that leads to it stays as well"
    );
    // The pin outlives what was promised when it was made.
    let removed = Node::wait(pins::remove(&node.engine, pinned)).unwrap();
    assert_eq!(removed["removed"], true);
    assert_eq!(Node::wait(pins::remove(&node.engine, pinned)).unwrap()["removed"], false);
}

#[test]
fn pins_are_bounded() {
    let node = Node::new();
    let index = node.engine.store().index();
    let pin = |number: u8| {
        let row = crate::index::PinRow { reason: Text::new("why").unwrap(), since: Time::MAX, tree: false };
        index.pin(Digest::of(&[number]), &row, 2).unwrap()
    };
    assert!(pin(1) && pin(2) && !pin(3) && pin(2), "another reason is no other pin");
}

#[test]
fn catalogs_stay_and_drop_what_has_gone() {
    let node = Node::new();
    for key in 0..30 {
        node.put(key, 2 * key);
    }
    let project = space().project;
    node.engine.flush(&project).unwrap();
    let index = Arc::clone(node.engine.store().index());
    let old = index.own_catalog(&project).unwrap().unwrap();
    (0..30).for_each(|key| node.used(key, u64::from(1000 * (key + 1))));
    let report = node.keep(500_000);
    assert!(report.entries > 0 && report.entries < 30);
    let parts = old.catalog.segments.iter().flat_map(|segment| [segment.digest, segment.filter]);
    assert!(parts.clone().all(|digest| node.has(&digest)));
    // The Catalog is written anew, and says what is no longer here.
    assert!(node.engine.flush(&project).unwrap().head.is_some());
    let new = index.own_catalog(&project).unwrap().unwrap();
    let first = node.engine.store().bytes(&new.catalog.segments[0].digest, u64::MAX).unwrap().unwrap();
    let first = Segment::decode(first).unwrap();
    assert_eq!(first.len() as u64, report.entries);
    assert!(first.get(&action(29)).is_some_and(|row| row.kind == RowKind::Withdrawn));
    assert!(first.get(&action(0)).is_none());
    // Who made it again says that it replaces what others may know.
    let gone = index.withdrawn(&action(29)).unwrap().unwrap();
    node.put(29, 7);
    let again = index.entries(&action(29)).unwrap();
    assert_eq!(again[0].authentic().unwrap().replaces, Some(gone));
    assert!(node.engine.flush(&project).unwrap().head.is_some());
    // That is forgotten when nobody can believe the old claim any more.
    (0..=255).for_each(|first| index.prune_withdrawn(first, clock::now()).unwrap());
    assert!(index.withdrawn(&action(29)).unwrap().is_some());
    (0..=255).for_each(|first| index.prune_withdrawn(first, Time::MAX).unwrap());
    assert!(index.withdrawn(&action(29)).unwrap().is_none());
}

#[test]
fn what_was_never_listed_is_not_listed_later() {
    let node = Node::new();
    node.put(1, 1);
    let (index, project) = (Arc::clone(node.engine.store().index()), space().project);
    assert_eq!(index.outbox(&project, 9).unwrap().len(), 1);
    node.keep(0);
    assert!(index.outbox(&project, 9).unwrap().is_empty());
    assert!(node.engine.flush(&project).unwrap().head.is_none());
}

/// A Tree of so many small files of its own.
fn many(node: &Node, kind: &str, count: u32) -> (Output, Vec<Digest>) {
    let small: BTreeMap<_, _> = (0..count)
        .map(|number| format!("{kind} {number}").into_bytes())
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    node.engine.store().index().keep_all(&small, &[]).unwrap();
    let members: Vec<_> = (small.iter().enumerate())
        .map(|(at, (digest, bytes))| Member {
            path: TreePath::new(&format!("f{at:06}")).unwrap(),
            kind: Kind::File { digest: *digest, size: bytes.len() as u64, executable: false },
        })
        .collect();
    let tree = Tree::new(members).unwrap();
    let encoded = tree.encode();
    let digest = node.engine.store().keep(&encoded, Durability::Fast).unwrap();
    let (size, members, total) = (encoded.len() as u64, u64::from(count), tree.total());
    (Output::Tree(TreeOutput { digest, size, members, total }), small.into_keys().collect())
}

#[test]
fn few_entries_may_name_many_blobs() {
    let node = Node::new();
    let ((stays, kept), (goes, lost)) = (many(&node, "kept", 30_000), many(&node, "lost", 1000));
    node.publish(1, stays, "1.95.0");
    node.publish(2, goes, "1.94.0");
    let report = node.collect(Wish { toolchain: Some("1.94".to_owned()), ..Wish::default() });
    assert_eq!(report.entries, 1);
    assert!(kept.iter().all(|digest| node.has(digest)));
    let left = lost.iter().filter(|digest| node.has(digest)).count();
    assert!(left < 10, "{left} are kept by chance");
}

#[test]
fn filters_remove_what_they_name() {
    let node = Node::new();
    let old = Output::Blob(BlobOutput {
        digest: node.engine.store().keep(&bytes(2), Durability::Fast).unwrap(),
        size: bytes(2).len() as u64,
    });
    node.publish(1, old.clone(), "1.94.0");
    let new = node.put(2, 4);
    let report = node.collect(Wish { toolchain: Some("1.94".to_owned()), ..Wish::default() });
    assert!(report.entries == 1 && !node.has(old.digest()) && node.has(&new));
    assert_eq!(report.groups[0].toolchain.as_deref(), Some("1.94.0"));
    assert_eq!(report.toolchains[0].toolchain, "1.95.0");
    let report = node.collect(Wish { project: Some(Pattern::new("other/*").unwrap()), ..Wish::default() });
    assert!(report.entries == 0 && node.has(&new));
}

#[test]
fn an_entry_that_is_used_while_its_round_goes_on_stays() {
    let node = Node::new();
    let blob = node.put(1, 2);
    let mut steps = node.steps(0);
    let (mut plan, now, mut used) = (Collection::new(), clock::moment(), false);
    plan.feed(now, Event::Ask(1, Wish { keep: Some(0), ..Wish::default() }));
    while let Some(action) = plan.take(now) {
        if let Action::Doom { .. } = action {
            used = true;
            assert!(matches!(node.engine.known(&space(), &self::action(1)).unwrap(), Known::Here(_)));
            node.engine.uses().touch(&self::action(1), clock::now());
        }
        match action {
            Action::Report(..) => break,
            action => steps.perform(action).into_iter().for_each(|event| plan.feed(now, event)),
        }
    }
    assert!(used && node.has(&blob));
    assert_eq!(node.engine.store().index().entries(&action(1)).unwrap().len(), 1);
}

#[test]
fn what_was_written_and_is_not_published_yet_stays() {
    let node = Node::new();
    let blob = node.engine.store().keep(&bytes(2), Durability::Fast).unwrap();
    let report = node.keep(0);
    assert!(node.has(&blob) && report.in_use >= 40_000);
    // An Entry that comes while a round goes on is not seen by it.
    let mut steps = node.steps(0);
    assert!(matches!(steps.perform(Action::Begin), Some(Event::Roots { .. })));
    node.put(1, 4);
    let blobs = vec![(Digest::of(&bytes(4)), 1)];
    let removed = steps.perform(Action::Remove { blobs, dry: false });
    assert!(matches!(removed, Some(Event::Removed { held: 1, freed: 0, .. })));
}

#[test]
fn what_cannot_be_read_stops_the_round() {
    let node = Node::new();
    let blob = node.put(1, 2);
    let folder = node.folder.path().join("home/store/blobs");
    let shard = folder.join(&blob.to_string()[..2]);
    let aside = folder.join("aside");
    std::fs::rename(&shard, &aside).unwrap();
    std::fs::write(&shard, "").unwrap();
    let report = node.keep(0);
    assert_eq!(report.end, End::Failed);
    assert!(report.failure.is_some_and(|failure| failure.contains(shard.to_str().unwrap())));
    assert_eq!(node.engine.store().index().entry_count().unwrap(), 1);
    std::fs::remove_file(&shard).unwrap();
    std::fs::rename(&aside, &shard).unwrap();
    assert_eq!(node.keep(0).end, End::Done);
    assert!(!node.has(&blob));
}

#[test]
fn pages_show_each_entry_once() {
    let node = Node::new();
    for key in 0..10 {
        node.put(key, key);
    }
    let index = node.engine.store().index();
    let (mut names, mut after) = (Vec::<EntryName>::new(), None);
    loop {
        let page = index.entry_page(after.as_ref(), 3).unwrap();
        names.extend(page.entries.iter().map(|kept| kept.name));
        after = names.last().copied();
        if page.last {
            break;
        }
    }
    assert!(names.len() == 10 && names.is_sorted());
    let (mut small, mut after) = (Vec::new(), None);
    loop {
        let (page, last) = index.small_page(after.as_ref(), 2).unwrap();
        small.extend(page.iter().map(|(digest, _)| *digest));
        after = small.last().copied();
        if last {
            break;
        }
    }
    assert_eq!(small.len(), 5, "half of them are small");
}

/// Writers and readers go on while room is made again and again: nothing that was promised is lost, and no wrong byte
/// is read.
#[test]
fn nobody_notices_that_room_is_made() {
    let node = Node::new();
    let (done, freed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (writers, hits) = (AtomicU64::new(4), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (node, done, writers) = (&node, &done, &writers);
            let met = || hits.load(Ordering::SeqCst) > 0 && freed.load(Ordering::SeqCst) > 0;
            scope.spawn(move || {
                let mut chance = fastrand::Rng::with_seed(seed);
                // However the threads are scheduled, it goes on until the three have met.
                for round in 0.. {
                    if round >= 60 && met() {
                        break;
                    }
                    // Different keys name the same Blobs, and different writers the same keys.
                    let key = chance.u32(..40);
                    if chance.bool() {
                        node.put(key, key % 30);
                    } else {
                        let (_, output) = node.tree(&[key % 30, (key + 7) % 30]);
                        node.publish(100 + key, output, "1.95.0");
                    }
                }
                if writers.fetch_sub(1, Ordering::SeqCst) == 1 {
                    done.store(true, Ordering::SeqCst);
                }
            });
        }
        for seed in 10..12 {
            let (node, done, hits) = (&node, &done, &hits);
            scope.spawn(move || {
                let mut chance = fastrand::Rng::with_seed(seed);
                while !done.load(Ordering::SeqCst) {
                    let key = chance.u32(..10) + if chance.bool() { 100 } else { 0 };
                    let Known::Here(output) = node.engine.known(&space(), &action(key)).unwrap() else {
                        continue;
                    };
                    hits.fetch_add(1, Ordering::SeqCst);
                    let read =
                        |digest: &Digest| node.engine.store().bytes(digest, u64::MAX).unwrap().unwrap();
                    let own = read(output.digest());
                    assert_eq!(Digest::of(&own), *output.digest());
                    let files = Tree::decode(&own).ok().filter(|_| matches!(output, Output::Tree(_)));
                    for member in files.iter().flat_map(Tree::members) {
                        let Kind::File { digest, .. } = &member.kind else { panic!("only files") };
                        assert_eq!(Digest::of(&read(digest)), *digest);
                    }
                }
            });
        }
        let (node, done, freed) = (&node, &done, &freed);
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let report = node.keep(200_000);
                assert_eq!(report.failure, None);
                freed.fetch_add(report.freed, Ordering::SeqCst);
            }
        });
    });
}

#[test]
fn what_is_written_while_it_is_removed_stays() {
    let node = Node::new();
    for number in [1, 2] {
        let (bytes, done) = (bytes(number), AtomicBool::new(false));
        let (digest, removed) = (Digest::of(&bytes), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut steps = node.steps(0);
                while !done.load(Ordering::SeqCst) {
                    let blobs = vec![(digest, 1)];
                    let event = steps.perform(Action::Remove { blobs, dry: false });
                    let Some(Event::Removed { freed, .. }) = event else { panic!("{event:?}") };
                    removed.fetch_add(freed, Ordering::SeqCst);
                }
            });
            for _ in 0..100 {
                node.engine.store().keep(&bytes, Durability::Fast).unwrap();
                assert!(node.has(&digest), "nobody may take it before it is published");
                node.engine.store().protected().published(&[digest]);
                // Sooner or later it is taken, which shows that the two meet.
                while removed.swap(0, Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::SeqCst);
        });
    }
}
