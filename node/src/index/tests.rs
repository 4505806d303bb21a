// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index on a file and in memory, by many at once, and damaged; in [`versions`], as an earlier version left it.

mod versions;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use potluck_keys::pair::Pair;
use potluck_keys::time::Time;
use potluck_protocol::action::Recipe;
use potluck_protocol::codec::Text;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use potluck_protocol::head::{CATALOG, Head, Instance};

use super::pending::MAX_ROWS;
use super::*;

fn project(name: &str) -> Project {
    Project::new(name).unwrap()
}

fn entry(pair: &Pair, action: u8, blob: &[u8]) -> Signed<Entry> {
    let issued = Time::from_millis(1_000_000);
    let entry = Entry {
        project: project("p"),
        recipe: Recipe::new("r@1").unwrap(),
        action: ActionId::from_bytes([action; 32]),
        output: Output::Blob(BlobOutput { digest: Digest::of(blob), size: blob.len() as u64 }),
        labels: Labels::default(),
        taints: Vec::new(),
        issued,
        not_after: issued.plus(Duration::from_secs(60)),
        replaces: None,
    };
    Signed::sign(&entry, &[pair]).unwrap()
}

#[test]
fn entries_are_found_by_their_action() {
    let index = Index::in_memory().unwrap();
    let (ann, ben) = (Pair::from_seed(&[1; 32], ""), Pair::from_seed(&[2; 32], ""));
    for entry in [entry(&ann, 1, b"a"), entry(&ben, 1, b"b"), entry(&ann, 2, b"c"), entry(&ann, 1, b"a")] {
        index.keep_entry(&entry, &[], Durability::Fast).unwrap();
    }
    let found = |action| index.entries(&ActionId::from_bytes([action; 32])).unwrap().len();
    assert_eq!((found(0), found(1), found(2), found(3)), (0, 2, 1, 0));
}

#[test]
fn a_catalog_lists_the_newest_of_what_waits_and_what_does_not() {
    let index = Index::in_memory().unwrap();
    let ann = Pair::from_seed(&[1; 32], "");
    let many: Vec<_> = (0..=SOON_BLOBS as u64).map(|n| Digest::of(&n.to_le_bytes())).collect();
    let name = |entry: &Signed<Entry>| vec![(ActionId::from_bytes([1; 32]), claim_digest(entry))];
    let [first, second, third] = [b"a", b"b", b"c"].map(|blob| entry(&ann, 1, blob));
    index.publish(&first, &many[..1], Durability::Fast).unwrap();
    assert_eq!(index.pending.rows(), 3, "the entry, its blob's project, and that it is to be listed");
    assert_eq!(index.entries(&ActionId::from_bytes([1; 32])).unwrap(), [first]);
    // Too many Blobs to wait for another change.
    index.publish(&second, &many, Durability::Fast).unwrap();
    assert_eq!(index.pending.rows(), 0);
    assert_eq!(index.outbox(&project("p"), 10).unwrap(), name(&second));
    index.publish(&third, &[], Durability::Fast).unwrap();
    assert_eq!(index.outbox(&project("p"), 10).unwrap(), name(&third));
    assert_eq!(index.entries(&ActionId::from_bytes([1; 32])).unwrap().len(), 3);
}

#[test]
fn the_outbox_keeps_what_came_while_a_catalog_was_made() {
    let index = Index::in_memory().unwrap();
    let ann = Pair::from_seed(&[1; 32], "");
    index.publish(&entry(&ann, 1, b"a"), &[], Durability::Durable).unwrap();
    index.publish(&entry(&ann, 2, b"b"), &[], Durability::Durable).unwrap();
    let listed = index.outbox(&project("p"), 10).unwrap();
    assert_eq!(listed.len(), 2);
    assert!(index.outbox(&project("q"), 10).unwrap().is_empty());
    index.publish(&entry(&ann, 2, b"newer"), &[], Durability::Durable).unwrap();
    let head = potluck_protocol::codec::Bytes::new(vec![1]).unwrap();
    let catalog = OwnCatalog { catalog: Catalog { project: project("p"), segments: Vec::new() }, head };
    index.flush(&catalog, &listed, &[]).unwrap();
    assert_eq!(index.own_catalog(&project("p")).unwrap(), Some(catalog));
    let left = index.outbox(&project("p"), 10).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, ActionId::from_bytes([2; 32]));
}

#[test]
fn of_a_catalog_only_so_many_heads_are_remembered_and_those_that_end_last() {
    let index = Index::in_memory().unwrap();
    let ann = Pair::from_seed(&[1; 32], "");
    let head = |name: &str, number: u8| {
        let issued = Time::from_millis(1_000_000);
        let head = Head {
            project: project(name),
            name: Text::new(CATALOG).unwrap(),
            recipe: None,
            instance: Instance::from_bytes([number; 16]),
            sequence: 1,
            root: Digest::of(&[number]),
            size: 10,
            issued,
            // The later ones end first.
            not_after: issued.plus(Duration::from_secs(1000 - u64::from(number))),
        };
        Signed::sign(&head, &[&ann]).unwrap()
    };
    index.keep_head(&ann.signer(), &head("q", 255)).unwrap();
    for number in 0..100 {
        index.keep_head(&ann.signer(), &head("p", number)).unwrap();
    }
    let kept = index.heads_of(&ann.signer(), &project("p")).unwrap();
    let kept: Vec<_> = kept.iter().map(|head| head.authentic().unwrap().instance).collect();
    assert_eq!(kept, (0..64).map(|number| Instance::from_bytes([number; 16])).collect::<Vec<_>>());
    assert_eq!(index.heads_of(&ann.signer(), &project("q")).unwrap().len(), 1);
    assert_eq!(index.heads().unwrap().len(), 65);
}

#[test]
fn blobs_go_only_where_their_project_is_shared() {
    let index = Index::in_memory().unwrap();
    let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
    index.belong(&[one], &project("a"), Durability::Fast).unwrap();
    index.belong(&[one, other], &project("b"), Durability::Fast).unwrap();
    let in_a = |digest| index.belongs(digest, |name| name == "a").unwrap();
    assert!(in_a(&one) && !in_a(&other) && !in_a(&Digest::of(b"3")));
}

#[test]
fn what_was_kept_is_there_after_reopening_and_later_versions_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let digest = Digest::of(b"small");
    let index = Index::open(&path).unwrap();
    index.keep_small(&digest, b"small", Durability::Durable).unwrap();
    drop(index);
    let index = Index::open(&path).unwrap();
    assert_eq!(index.small(&digest).unwrap().as_deref(), Some(&b"small"[..]));
    assert!(index.forget_small(&digest).unwrap() && !index.forget_small(&digest).unwrap());
    let raise = |change: &WriteTransaction| {
        change.open_table(rows::META).unwrap().insert("schema", rows::SCHEMA + 1).unwrap();
        Ok(())
    };
    index.change(Durability::Durable, raise).unwrap();
    drop(index);
    assert!(matches!(Index::open(&path), Err(IndexError::Later { found: 5, .. })));
}

use potluck_protocol::catalog::Catalog;

/// An index on a file and one in memory: everything holds for both.
pub(super) fn both() -> (tempfile::TempDir, [Index; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let on_file = Index::open(&folder.path().join("index.redb")).unwrap();
    (folder, [on_file, Index::in_memory().unwrap()])
}

#[test]
fn changes_of_many_writers_are_all_there_and_one_that_fails_takes_nobody_along() {
    let (_folder, indices) = both();
    for index in indices {
        let barrier = std::sync::Barrier::new(16);
        std::thread::scope(|scope| {
            for writer in 0..16_u64 {
                let (index, barrier) = (&index, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for number in 0..20_u64 {
                        let bytes = [writer.to_be_bytes(), number.to_be_bytes()].concat();
                        let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Fast };
                        index.keep_small(&Digest::of(&bytes), &bytes, durability).unwrap();
                        assert_eq!(index.small(&Digest::of(&bytes)).unwrap(), Some(bytes));
                        if writer == 7 && number % 4 == 0 {
                            fail(index, number);
                        }
                    }
                });
            }
        });
        for writer in 0..16_u64 {
            for number in 0..20_u64 {
                let bytes = [writer.to_be_bytes(), number.to_be_bytes()].concat();
                assert_eq!(index.small(&Digest::of(&bytes)).unwrap(), Some(bytes));
            }
        }
        assert!(index.small(&Digest::of(b"half")).unwrap().is_none(), "a failed change left something");
        index.settle().unwrap();
    }
}

/// A change that does half of its work, and then fails or panics.
fn fail(index: &Index, number: u64) {
    let half = |change: &WriteTransaction| {
        let mut table = change.open_table(rows::SMALL).unwrap();
        table.insert(Digest::of(b"half").as_bytes(), rows::plain(b"half").as_slice()).unwrap();
    };
    if number.is_multiple_of(8) {
        let work = |change: &WriteTransaction| -> Result<(), IndexError> {
            half(change);
            Err(RowError::Empty.into())
        };
        assert!(matches!(index.change(Durability::Fast, work), Err(IndexError::Row(RowError::Empty))));
    } else {
        let work = |change: &WriteTransaction| -> Result<(), IndexError> {
            half(change);
            panic!("as the test wants it");
        };
        let change = std::panic::AssertUnwindSafe(|| index.change(Durability::Durable, work));
        assert!(std::panic::catch_unwind(change).is_err());
    }
}

#[test]
fn what_is_learnt_in_steps_is_everything() {
    let (_folder, indices) = both();
    for index in indices {
        let ann = Pair::from_seed(&[1; 32], "");
        for number in 0..50 {
            index.keep_entry(&entry(&ann, number, &[number]), &[], Durability::Fast).unwrap();
        }
        index.settle().unwrap();
        let fresh = presence::Presence::new(presence::MAX_KEYS);
        let mut index = index;
        (index.presence, index.learnt) = (fresh, Mutex::default());
        assert!(index.maybe(&ActionId::from_bytes([99; 32])), "nothing is certain yet");
        assert_eq!(index.entries(&ActionId::from_bytes([49; 32])).unwrap().len(), 1);
        while !index.learn(7).unwrap() {}
        assert!((0..50).all(|number| index.maybe(&ActionId::from_bytes([number; 32]))));
        assert!(!index.maybe(&ActionId::from_bytes([99; 32])));
        index.keep_entry(&entry(&ann, 99, b"later"), &[], Durability::Fast).unwrap();
        assert_eq!(index.entries(&ActionId::from_bytes([99; 32])).unwrap().len(), 1);
    }
}

#[test]
fn what_waits_for_the_next_change_is_there_for_all_who_look() {
    let (_folder, indices) = both();
    let ann = Pair::from_seed(&[1; 32], "");
    let blob = Digest::of(b"blob");
    for index in indices {
        let view = index.view().unwrap();
        let action = ActionId::from_bytes([1; 32]);
        let claim = entry(&ann, 1, b"a");
        let project = claim.authentic().unwrap().project.clone();
        let here = |name: &str| name == project.as_str();
        index.keep_entry(&claim, &[blob], Durability::Fast).unwrap();
        index.keep_entry(&claim, &[blob], Durability::Fast).unwrap();
        assert!(!index.pending.is_empty(), "nothing was committed yet");
        // Also to somebody who has been looking for a while, before it is committed and after.
        let found = |view: &View<'_>| {
            let entries = view.entries(&action).unwrap();
            assert!(entries.len() == 1 && entries[0].bytes() == claim.bytes());
            assert!(view.belongs(&blob, here).unwrap() && !view.belongs(&blob, |_| false).unwrap());
        };
        found(&view);
        found(&index.view().unwrap());
        assert!(index.belongs(&blob, here).unwrap());
        index.land().unwrap();
        assert!(index.pending.is_empty());
        found(&view);
        found(&index.view().unwrap());
        // Whoever goes through all of them sees those that wait, and what he then removes does not come back.
        let other = entry(&ann, 2, b"b");
        index.keep_entry(&other, &[], Durability::Fast).unwrap();
        index.belong(&[Digest::of(b"another")], &project, Durability::Fast).unwrap();
        assert_eq!(index.actions(None, 10).unwrap().len(), 2);
        index.keep_entry(&entry(&ann, 3, b"c"), &[], Durability::Fast).unwrap();
        assert_eq!(index.entry_count().unwrap(), 3);
        let page = index.entry_page(None, 10).unwrap();
        let names: Vec<_> = page.entries.iter().map(|kept| kept.name).collect();
        index.keep_entry(&claim, &[blob], Durability::Fast).unwrap();
        assert_eq!(index.forget_entries(names, None).unwrap().entries, 3);
        assert_eq!(index.entry_count().unwrap(), 0);
        index.belong(&[blob], &project, Durability::Fast).unwrap();
        index.forget_blobs(&[blob, Digest::of(b"another")]).unwrap();
        index.land().unwrap();
        assert!(
            !index.belongs(&blob, here).unwrap() && !index.belongs(&Digest::of(b"another"), here).unwrap()
        );
    }
}

#[test]
fn what_waits_is_bounded() {
    let (ann, index) = (Pair::from_seed(&[1; 32], ""), Index::in_memory().unwrap());
    let mut most = 0;
    for number in 0..10_000_u32 {
        let bytes = number.to_be_bytes();
        index.keep_small(&Digest::of(&bytes), &bytes, Durability::Fast).unwrap();
        index.belong(&[Digest::of(&bytes)], &project("a"), Durability::Fast).unwrap();
        if number % 100 == 0 {
            let number = u8::try_from(number / 100).unwrap();
            index.keep_entry(&entry(&ann, number, &bytes), &[], Durability::Fast).unwrap();
        }
        most = most.max(index.pending.rows());
    }
    assert!(most <= MAX_ROWS + 2, "{most}");
    assert_eq!((index.entry_count().unwrap(), index.small_count().unwrap()), (100, 10_000));
    assert_eq!(index.pending.rows(), 0, "the sums agree");
}

#[test]
fn sealed_rows_are_read_without_their_key_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let ann = Pair::from_seed(&[1; 32], "");
    let action = ActionId::from_bytes([1; 32]);
    let index = Index::open(&path).unwrap();
    index.keep_entry(&entry(&ann, 1, b"a"), &[], Durability::Durable).unwrap();
    let key = SealKey::generate().unwrap();
    let sealed = |index: &Index| index.entries(&action).unwrap()[0].seal(&key).is_some();
    assert!(sealed(&index), "its signatures count as verified");
    drop(index);
    let index = Index::open(&path).unwrap();
    assert!(sealed(&index), "the key was kept");
    drop(index);
    std::fs::remove_file(folder.path().join("seal")).unwrap();
    let index = Index::open(&path).unwrap();
    assert!(!sealed(&index), "another key's seal counts for nothing");
    index.entries(&action).unwrap()[0].authentic().unwrap();
    drop(index);
    std::fs::write(folder.path().join("seal"), b"short").unwrap();
    let index = Index::open(&path).unwrap();
    index.keep_entry(&entry(&ann, 2, b"b"), &[], Durability::Durable).unwrap();
    assert_eq!(index.entries(&ActionId::from_bytes([2; 32])).unwrap().len(), 1);
    assert_eq!(std::fs::read(folder.path().join("seal")).unwrap(), b"short", "a damaged one is left alone");
}

#[test]
fn small_blobs_that_wait_are_here_for_everybody() {
    let (_folder, indices) = both();
    for index in indices {
        let name = |number: u32| Digest::of(&number.to_be_bytes());
        let (one, view) = (name(1), index.view().unwrap());
        assert!(index.keep_small(&one, b"one", Durability::Fast).unwrap());
        assert!(!index.keep_small(&one, b"one", Durability::Fast).unwrap(), "it is no new one");
        assert_eq!(view.small(&one).unwrap().unwrap(), b"one");
        assert_eq!((index.small_count().unwrap(), index.small_bytes().unwrap()), (1, 3));
        assert!(index.pending.is_empty(), "to be counted it was put into the index");
        assert!(view.has_small(&one).unwrap(), "in which it was not when the view was made");
        assert_eq!(index.small_page(None, 9).unwrap().0, [(one, 3)]);

        index.keep_small(&name(2), b"two", Durability::Fast).unwrap();
        assert_eq!(index.forget_blobs(&[one, name(2)]).unwrap(), 6);
        assert!(index.small(&one).unwrap().is_none() && index.small(&name(2)).unwrap().is_none());
        index.keep_small(&name(3), b"three", Durability::Fast).unwrap();
        assert!(index.forget_small(&name(3)).unwrap() && index.pending.is_empty());
        assert!(index.smalls(None, 9).unwrap().is_empty());

        // As many as there is room for, and one change for all of them.
        let before = index.pending.landings();
        for number in 0..u32::try_from(MAX_ROWS).unwrap() {
            index.keep_small(&name(number), &[0; 100], Durability::Fast).unwrap();
        }
        assert_eq!(index.pending.landings(), before);
        assert!(index.is_full());
        for number in 0..1024 {
            index.keep_small(&name(50_000 + number), &[0; MAX_INLINE_BYTES], Durability::Fast).unwrap();
        }
        assert_eq!(index.pending.landings(), before + 1);
        assert!(index.is_full(), "sixteen million bytes are enough as well");
    }
}

#[test]
fn a_blob_that_waited_is_never_missing_while_it_is_committed() {
    let (_folder, indices) = both();
    for index in indices {
        let name = |number: u64| Digest::of(&number.to_be_bytes());
        let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        let view = index.view().unwrap();
                        let last = written.load(Ordering::Acquire);
                        for number in last.saturating_sub(3)..last {
                            assert!(view.has_small(&name(number)).unwrap(), "{number} of {last}");
                        }
                    }
                });
            }
            for number in 0..2000 {
                index.keep_small(&name(number), &number.to_be_bytes(), Durability::Fast).unwrap();
                written.store(number + 1, Ordering::Release);
                if number % 3 == 0 {
                    index.settle().unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
    }
}

#[test]
fn what_waits_survives_a_change_that_fails_and_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let index = Index::open(&path).unwrap();
    let one = Digest::of(b"one");
    index.keep_small(&one, b"one", Durability::Fast).unwrap();
    let failed =
        index.change(Durability::Durable, |_| -> Result<(), _> { Err(IndexError::Row(RowError::Empty)) });
    assert!(failed.is_err() && !index.pending.is_empty() && index.small(&one).unwrap().is_some());
    drop(index);
    assert_eq!(Index::open(&path).unwrap().small(&one).unwrap().unwrap(), b"one");
}

#[test]
fn notes_add_up_and_are_bounded() {
    let (_folder, indices) = both();
    let tally = |hits| Tally { hits, ..Tally::default() };
    let key = |number: usize| (format!("p{number}"), "r@1".to_owned());
    let of = |number: u32| {
        let action = ActionId::from_bytes(*Digest::of(&number.to_be_bytes()).as_bytes());
        (Pair::from_seed(&[1; 32], "").signer(), action)
    };
    let seen = Time::from_millis(5);
    let how = Contradiction { earlier: Digest::of(b"1"), later: Digest::of(b"2"), seen };
    for index in indices {
        index.note(&[(key(0), tally(1))], &[(of(0), how.clone())]).unwrap();
        index.note(&[(key(0), tally(2))], &[(of(0), how.clone())]).unwrap();
        assert_eq!(index.tallies().unwrap(), [(key(0), tally(3))]);
        assert_eq!(index.contradictions().unwrap(), 1);
        let many: Vec<_> = (0..MAX_TALLIES + 5).map(|number| (key(number), tally(1))).collect();
        let all = u32::try_from(MAX_CONTRADICTIONS + 5).unwrap();
        let evidence: Vec<_> = (0..all).map(|number| (of(number), how.clone())).collect();
        index.note(&many, &evidence).unwrap();
        let tallies = index.tallies().unwrap();
        assert_eq!(tallies.len(), MAX_TALLIES + 1);
        assert_eq!(tallies[0], (Default::default(), tally(5)));
        assert_eq!(index.contradictions().unwrap(), MAX_CONTRADICTIONS as u64);
    }
}

#[test]
fn damaged_files_are_told_from_others_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let index = Index::open(&path).unwrap();
    for number in 0..200_u32 {
        let bytes = number.to_be_bytes().repeat(1000);
        index.keep_small(&Digest::of(&bytes), &bytes, Durability::Fast).unwrap();
    }
    index.settle().unwrap();
    // What is left of some slabs goes into others.
    let gone: Vec<_> = (0..200_u32).filter(|number| number % 3 != 0).collect();
    let gone: Vec<_> = gone.iter().map(|number| Digest::of(&number.to_be_bytes().repeat(1000))).collect();
    index.forget_blobs(&gone).unwrap();
    index.settle().unwrap();
    drop(index);
    let good = std::fs::read(&path).unwrap();
    let damaged = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        match Index::open(&path) {
            Err(IndexError::Damaged { path: named, .. }) => {
                assert_eq!(named, path);
                assert!(path.exists());
                true
            }
            Err(other) => panic!("{other}"),
            Ok(index) => {
                // What is wrong may lie where nobody looked yet. Looking gives what was written, or an error.
                for number in 0..200_u32 {
                    let bytes = number.to_be_bytes().repeat(1000);
                    if let Ok(Some(read)) = index.small(&Digest::of(&bytes)) {
                        let _ = Digest::of(&read) == Digest::of(&bytes);
                    }
                }
                false
            }
        }
    };
    for length in [0, 1, 100, 511, 4096, 10_000] {
        assert!(damaged(&good[..length]), "cut to {length}");
    }
    for part in 1..8 {
        damaged(&good[..good.len() * part / 8]);
    }
    assert!(damaged(&vec![0; good.len()]) && damaged(&vec![0xff; good.len()]));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let mut bad = good.clone();
        for _ in 0..random.usize(1..50) {
            let reach = if random.bool() { 4096 } else { bad.len() };
            bad[random.usize(..reach)] = random.u8(..);
        }
        damaged(&bad);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Index::open(&path), Err(IndexError::Damaged { .. })));
    let aside = set_aside(&path).unwrap().unwrap();
    assert!(aside.is_dir() && !path.exists());
    assert_eq!(set_aside(&path).unwrap(), None);
    assert!(Index::open(&path).unwrap().small(&Digest::of(b"")).unwrap().is_none());
}
