// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trees that mean well and Trees that do not, in folders that somebody else is at.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use potluck_protocol::piece::PIECE_BYTES;
use potluck_protocol::tree::{Kind, Member, TreePath};

use super::*;
use crate::content::Durability;
use crate::store::Store;

/// Blobs in memory, and what is wrong with some of them.
#[derive(Default)]
struct Shelf {
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// Given out up to the middle only.
    damaged: Option<Digest>,
    full: AtomicBool,
}

impl Source for Shelf {
    fn lanes(&self) -> usize {
        2
    }

    fn pour(&self, digest: &Digest, to: &mut dyn Sink, _: &mut Vec<u8>) -> Result<(), Fault> {
        let bytes = self.blobs.get(digest).ok_or(CacheError::NotHere(*digest))?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        to.take(first)?;
        if self.damaged == Some(*digest) {
            return Err(CacheError::Damaged(*digest).into());
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        Ok(to.take(second)?)
    }
}

/// A Tree and what it lists.
#[derive(Default)]
struct Made {
    members: Vec<Member>,
    shelf: Shelf,
}

impl Made {
    fn member(mut self, path: &str, kind: Kind) -> Self {
        self.members.push(Member { path: TreePath::new(path).unwrap(), kind });
        self
    }

    fn file(mut self, path: &str, bytes: &[u8], executable: bool) -> Self {
        let digest = Digest::of(bytes);
        self.shelf.blobs.insert(digest, bytes.to_vec());
        self.member(path, Kind::File { digest, size: bytes.len() as u64, executable })
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.member(path, Kind::Symlink { target: target.to_owned() })
    }

    fn folder(self, path: &str) -> Self {
        self.member(path, Kind::Directory)
    }

    fn done(self) -> (Tree, Shelf) {
        (Tree::new(self.members).unwrap(), self.shelf)
    }
}

/// One of each kind.
fn sample() -> (Tree, Shelf) {
    let made = Made::default().file("a/b/one", b"1", false).file("a/run", b"#!/bin/sh\n", true);
    let made = made.file("a-b", b"", false).folder("a/empty").folder("z").link("a/b/up", "../run");
    made.file("large", &vec![7; 3 * PIECE_BYTES + 5], false).done()
}

fn write(source: &impl Source, of: &Tree, path: &Path, manner: Manner) -> Result<Restored, RestoreError> {
    tree(source, of, (&Place::new(path)?, manner), &|_| true)
}

fn plainly(source: &impl Source, of: &Tree, path: &Path) -> Result<Restored, RestoreError> {
    write(source, of, path, Manner::default())
}

const REPLACE: Manner = Manner { replace: true, modified: None };

/// What lies in a folder.
fn listed(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let (tree, shelf) = sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let restored = plainly(&shelf, &tree, &path).unwrap();
    assert_eq!(restored.done, Done { files: 4, bytes: tree.total() });
    assert_eq!(listed(folder.path()), ["out"]);
    assert_eq!(fs::read(path.join("a/b/up")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(fs::read_link(path.join("a/b/up")).unwrap(), Path::new("../run"));
    assert!(listed(&path.join("z")).is_empty() && listed(&path.join("a/empty")).is_empty());
    let taken = umask().unwrap();
    let mode = |at: &str| fs::metadata(path.join(at)).unwrap().permissions().mode() & 0o777;
    for (at, all) in [("", 0o777), ("a", 0o777), ("a/run", 0o777), ("a/b/one", 0o666), ("large", 0o666)] {
        assert_eq!(mode(at), all & !taken, "{at}");
    }
    assert_eq!(gather::hash(&path, &|_| true).unwrap(), tree);
}

#[test]
fn every_time_is_the_one_that_was_asked_for() {
    let (tree, shelf) = sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let modified = Some(Time::from_millis(1_000_000_000_123));
    write(&shelf, &tree, &path, Manner { replace: false, modified }).unwrap();
    for at in ["", "a", "a/b", "a/b/one", "a/b/up", "a/empty", "a/run", "a-b", "large", "z"] {
        let stat = fs::symlink_metadata(path.join(at)).unwrap();
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 123_000_000), "{at}");
    }
}

#[test]
fn the_empty_tree_is_an_empty_folder() {
    let (tree, shelf) = Made::default().done();
    let folder = tempfile::tempdir().unwrap();
    plainly(&shelf, &tree, &folder.path().join("out")).unwrap();
    assert!(listed(&folder.path().join("out")).is_empty());
}

#[test]
fn only_an_empty_folder_makes_way_unless_it_is_to_be_replaced() {
    let (tree, shelf) = sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::create_dir(&path).unwrap();
    plainly(&shelf, &tree, &path).unwrap();
    fs::write(path.join("mine"), "x").unwrap();
    assert!(matches!(plainly(&shelf, &tree, &path), Err(RestoreError::NotEmpty(_))));
    assert!(path.join("mine").exists());
    let (other, shelf) = Made::default().file("new", b"new", false).done();
    assert!(write(&shelf, &other, &path, REPLACE).unwrap().leftover.is_none());
    assert_eq!((listed(&path), listed(folder.path())), (vec!["new".to_owned()], vec!["out".to_owned()]));
    // Nothing to replace is as good.
    write(&shelf, &other, &folder.path().join("fresh"), REPLACE).unwrap();
    // A link is neither followed nor replaced, nor is a file.
    symlink(&path, folder.path().join("link")).unwrap();
    for at in ["link", "out/new"] {
        let at = folder.path().join(at);
        assert!(matches!(write(&shelf, &other, &at, REPLACE), Err(RestoreError::Other { .. })), "{at:?}");
    }
    for unnamed in ["/", ".."] {
        assert!(matches!(Place::new(Path::new(unnamed)), Err(RestoreError::Unnamed(_))));
    }
}

#[test]
fn a_folder_that_is_filled_meanwhile_is_left_alone() {
    let (tree, shelf) = sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let place = Place::new(&path).unwrap();
    let restored = super::tree(&shelf, &tree, (&place, Manner::default()), &|_| {
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("mine"), "x").unwrap();
        true
    });
    assert!(matches!(restored, Err(RestoreError::NotEmpty(_))), "{restored:?}");
    assert_eq!((listed(&path), listed(folder.path())), (vec!["mine".to_owned()], vec!["out".to_owned()]));
}

#[test]
fn whatever_goes_wrong_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let (tree, mut shelf) = sample();
    let large = Digest::of(&vec![7; 3 * PIECE_BYTES + 5]);
    shelf.damaged = Some(large);
    let fault = plainly(&shelf, &tree, &path).unwrap_err();
    assert!(matches!(fault, RestoreError::Source { source: CacheError::Damaged(_), .. }), "{fault}");
    assert!(listed(folder.path()).is_empty());
    shelf.damaged = None;
    *shelf.full.get_mut() = true;
    let fault = plainly(&shelf, &tree, &path).unwrap_err();
    assert!(matches!(fault, RestoreError::Write { .. }), "{fault}");
    assert!(listed(folder.path()).is_empty());
    *shelf.full.get_mut() = false;
    for wrong in [vec![7; 3 * PIECE_BYTES + 4], vec![7; 3 * PIECE_BYTES + 6]] {
        shelf.blobs.insert(large, wrong);
        assert!(matches!(plainly(&shelf, &tree, &path), Err(RestoreError::Size { .. })));
        assert!(listed(folder.path()).is_empty());
    }
    shelf.blobs.remove(&large);
    let fault = plainly(&shelf, &tree, &path).unwrap_err();
    assert!(matches!(fault, RestoreError::Source { source: CacheError::NotHere(_), .. }), "{fault}");
    let stopped = super::tree(&shelf, &tree, (&Place::new(&path).unwrap(), Manner::default()), &|_| false);
    assert!(stopped.is_err());
    assert!(listed(folder.path()).is_empty());
    // A folder that was to be replaced is still the old one.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("mine"), "x").unwrap();
    assert!(write(&shelf, &tree, &path, REPLACE).is_err());
    assert_eq!((listed(&path), listed(folder.path())), (vec!["mine".to_owned()], vec!["out".to_owned()]));
}

#[test]
fn a_file_that_is_damaged_in_the_store_is_never_seen() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("store");
    let (store, _) = Store::open(&home).unwrap();
    // One that shrinks, and one that does not and may hence share its blocks.
    let mut random = vec![0; 2 * PIECE_BYTES];
    fastrand::Rng::with_seed(1).fill(&mut random);
    for bytes in [b"potluck ".repeat(PIECE_BYTES / 4), random] {
        let digest = store.keep(&bytes, Durability::Fast).unwrap();
        let (tree, _) = Made::default().file("large", &bytes, false).done();
        plainly(&store, &tree, &folder.path().join(digest.to_string())).unwrap();
        let name = digest.to_string();
        let found = [home.join("blobs").join(&name[..2]).join(&name)];
        let mut stored = fs::read(&found[0]).unwrap();
        let middle = stored.len() / 2;
        stored[middle] ^= 1;
        fs::write(&found[0], stored).unwrap();
        let fault = plainly(&store, &tree, &folder.path().join("out")).unwrap_err();
        assert!(matches!(fault, RestoreError::Source { .. }), "{fault}");
        assert!(!folder.path().join("out").exists());
        let fault = plainly(&store, &tree, &folder.path().join("out")).unwrap_err();
        let gone = matches!(fault, RestoreError::Source { source: CacheError::NotHere(_), .. });
        assert!(gone, "it is put aside: {fault}");
    }
    assert_eq!(listed(folder.path()).len(), 3);
}

#[test]
fn what_is_restored_can_be_written_to_without_harm_to_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&folder.path().join("store")).unwrap();
    let mut bytes = vec![0; 2 * PIECE_BYTES];
    fastrand::Rng::with_seed(2).fill(&mut bytes);
    let digest = store.keep(&bytes, Durability::Fast).unwrap();
    let (tree, _) = Made::default().file("large", &bytes, false).done();
    let path = folder.path().join("out");
    plainly(&store, &tree, &path).unwrap();
    assert_eq!(fs::metadata(path.join("large")).unwrap().nlink(), 1);
    fs::write(path.join("large"), "scribble").unwrap();
    assert_eq!(store.bytes(&digest, u64::MAX).unwrap().unwrap(), bytes);
}

#[test]
fn paths_that_clash_are_refused_where_they_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let (clashing, shelf) = Made::default().file("A/x", b"1", false).file("a/y", b"2", false).done();
    let place = Place::new(&path).unwrap();
    let with = |tree: &Tree, folds: bool| {
        let folds: Folds = if folds { |_| Ok(true) } else { |_| Ok(false) };
        restore(&shelf, tree, (&place, Manner::default(), folds), &|_| true)
    };
    let refused = with(&clashing, true).unwrap_err();
    assert!(matches!(refused, RestoreError::Clash { .. }), "{refused}");
    assert!(listed(folder.path()).is_empty());
    let (fine, _) = Made::default().file("A/x", b"1", false).file("b/y", b"2", false).done();
    with(&fine, true).unwrap();
    fs::remove_dir_all(&path).unwrap();
    with(&clashing, false).unwrap();
    assert_eq!(listed(&path), ["A", "a"]);
}

#[test]
fn the_probe_says_what_the_file_system_does_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let beneath = beneath::Beneath::new(File::open(folder.path()).unwrap().into());
    let folds = write::folds_case(&beneath).unwrap();
    assert!(listed(folder.path()).is_empty());
    fs::write(folder.path().join("x"), "").unwrap();
    assert_eq!(folds, folder.path().join("X").exists());
}

#[test]
fn a_hundred_thousand_members() {
    let mut made = Made::default();
    for n in 0..100_000 {
        let path = format!("{:02}/{:02}/{n}", n % 40, n % 7);
        made = if n % 10 == 0 { made.folder(&path) } else { made.file(&path, &[b'x'; 3][..n % 3], false) };
    }
    let (tree, shelf) = made.done();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    assert_eq!(plainly(&shelf, &tree, &path).unwrap().done.files, 90_000);
    assert_eq!(gather::hash(&path, &|_| true).unwrap(), tree);
    // All of them go again.
    let (tree, shelf) = sample();
    assert!(write(&shelf, &tree, &path, REPLACE).unwrap().leftover.is_none());
    assert_eq!(listed(folder.path()), ["out"]);
}

#[test]
fn nothing_lands_outside_while_somebody_swaps_a_folder_for_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut made = Made::default();
    for n in 0..400 {
        made = made.file(&format!("swapped/deep/{n}"), b"x", false).folder(&format!("swapped/made/{n}"));
        made = made.link(&format!("swapped/linked/{n}"), "../deep");
    }
    let (tree, shelf) = made.done();
    let (over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let parent = folder.path().join("parent");
            fs::create_dir(&parent).unwrap();
            while !over.load(Ordering::Relaxed) {
                for name in fs::read_dir(&parent).unwrap().flatten() {
                    for inner in ["swapped", "swapped/deep", "swapped/made", "swapped/linked"] {
                        let (at, aside) = (name.path().join(inner), folder.path().join("aside"));
                        if fs::rename(&at, &aside).is_err() {
                            continue;
                        }
                        if symlink(&outside, &at).is_ok() {
                            swaps.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                            let _ = fs::remove_file(&at);
                        }
                        let _ = fs::rename(&aside, &at);
                        let _ = fs::remove_dir_all(&aside);
                    }
                }
            }
        });
        let (mut round, parent) = (0, folder.path().join("parent"));
        while !parent.exists() {
            std::thread::yield_now();
        }
        // Both outcomes are fine, as long as it was tried often.
        while swaps.load(Ordering::Relaxed) < 300 && round < 20_000 {
            round += 1;
            let path = parent.join("out");
            let _ = plainly(&shelf, &tree, &path);
            let _ = fs::remove_dir_all(&path);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(swaps.load(Ordering::Relaxed) >= 300, "it was swapped {swaps:?} times only");
    assert!(listed(&outside).is_empty(), "{:?}", listed(&outside));
}

#[test]
fn what_a_dead_process_left_is_removed_by_the_next_run_and_what_a_living_one_works_on_is_not() {
    let (tree, shelf) = sample();
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join(format!("{UNFINISHED}0123456789abcdef"));
    fs::create_dir_all(dead.join("deep/deeper")).unwrap();
    fs::write(dead.join("deep/file"), "x").unwrap();
    let kept = folder.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "x").unwrap();
    symlink(&kept, dead.join("link")).unwrap();
    let file = folder.path().join(format!("{UNFINISHED}fedcba9876543210"));
    fs::write(file, "x").unwrap();
    // Names that are not quite ours.
    for other in [format!("{UNFINISHED}notes"), ".potluck-unfinished".to_owned()] {
        fs::create_dir(folder.path().join(other)).unwrap();
    }
    let place = Place::new(&folder.path().join("other")).unwrap();
    let living = place.temporary_folder().unwrap();
    plainly(&shelf, &tree, &folder.path().join("out")).unwrap();
    let left = listed(folder.path());
    assert_eq!(left.len(), 5, "{left:?}");
    assert_eq!(fs::read(kept.join("file")).unwrap(), b"x");
    living.show(false).unwrap();
    assert!(folder.path().join("other").exists());
}

#[test]
fn a_file_takes_the_place_of_a_file_or_a_link_and_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Made::default().file("x", b"bytes", false).shelf;
    let digest = Digest::of(b"bytes");
    let write = |path: &Path, size| file(&shelf, (&digest, size), &Place::new(path)?, &|_| true);
    let path = folder.path().join("file");
    assert_eq!(write(&path, None).unwrap(), 5);
    fs::write(&path, "before").unwrap();
    for wrong in [Some(4), Some(6)] {
        assert!(matches!(write(&path, wrong), Err(RestoreError::Size { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"before");
    }
    assert_eq!(write(&path, Some(5)).unwrap(), 5);
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666 & !umask().unwrap());
    symlink("/dev/null", folder.path().join("link")).unwrap();
    write(&folder.path().join("link"), None).unwrap();
    assert!(fs::symlink_metadata(folder.path().join("link")).unwrap().is_file());
    fs::create_dir(folder.path().join("folder")).unwrap();
    let refused = write(&folder.path().join("folder"), None);
    assert!(matches!(refused, Err(RestoreError::Other { .. })), "{refused:?}");
    assert_eq!(listed(folder.path()), ["file", "folder", "link"]);
}
