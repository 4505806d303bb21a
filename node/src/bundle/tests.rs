// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bundles between real stores, and whatever else may be called a bundle.

mod hostile;

use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use potluck_keys::pair::Pair;
use potluck_keys::rules::Pattern;
use potluck_keys::signed::Signed;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::codec::Text;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output, TreeOutput, claim_digest};
use potluck_protocol::piece::PIECE_BYTES;
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use tempfile::TempDir;

use super::export::{Exported, Selection, export};
use super::import::{Import, Imported, import};
use super::read::{Body, SPARE_BYTES, Taker, read_archive};
use super::write::Writer;
use super::{BundleError, MAX_ENTRIES, Name};
use crate::content::Durability;
use crate::engine::{Engine, Known};
use crate::fetch::event::Space;
use crate::home::Home;
use crate::index::MAX_INLINE_BYTES;
use crate::observe::clock;
use crate::trust::{self, Addition};

/// A home without a daemon.
struct Node {
    folder: TempDir,
    engine: Engine,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        Self { engine: Engine::open(&home).unwrap(), folder }
    }

    fn trusting(pair: &Pair) -> Self {
        let node = Self::new();
        let home = Home::locate(Some(node.folder.path().join("home"))).unwrap();
        let (key, project) = (pair.public(), "p".to_owned());
        let (name, comment) = ("ann".to_owned(), String::new());
        trust::add(&home, &Addition { name, key, comment, project, recipe: None }).unwrap();
        node
    }

    /// Keeps what somebody has claimed, with all its Blobs.
    fn holds(&self, entry: &Signed<Entry>, blobs: &[&[u8]]) {
        let keep = |bytes: &&[u8]| self.engine.store().keep(bytes, Durability::Fast).unwrap();
        let digests: Vec<_> = blobs.iter().map(keep).collect();
        self.engine.store().index().keep_entry(entry, &digests, Durability::Fast).unwrap();
    }

    fn export(&self) -> (Vec<u8>, Exported) {
        self.export_of(&Selection::default())
    }

    fn export_of(&self, what: &Selection) -> (Vec<u8>, Exported) {
        let mut bundle = Vec::new();
        let exported = export(&self.engine, what, &mut bundle).unwrap();
        (bundle, exported)
    }

    fn import(&self, bundle: impl Read) -> Imported {
        let (room, progress) = (&|| u64::MAX, &mut |_: &Imported| {});
        import(bundle, Import { engine: &self.engine, room, progress }).unwrap()
    }

    /// Takes an archive that nobody packed properly.
    fn import_archive(&self, archive: &[u8]) -> Imported {
        self.import(&*pack(archive))
    }

    fn knows(&self, key: &[u8]) -> Known {
        self.engine.known(&space(), &action(key)).unwrap()
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.engine.store().has(&Digest::of(bytes)).unwrap()
    }

    /// That nothing whatever came into the store.
    fn is_empty(&self) -> bool {
        let index = self.engine.store().index();
        self.engine.store().total().unwrap() == 0 && index.actions(None, 1).unwrap().is_empty()
    }
}

fn pack(archive: &[u8]) -> Vec<u8> {
    zstd::encode_all(archive, 1).unwrap()
}

fn unpack(bundle: &[u8]) -> Vec<u8> {
    zstd::decode_all(bundle).unwrap()
}

fn ann() -> Pair {
    Pair::from_seed(&[1; 32], "ann")
}

fn space() -> Space {
    Space { project: Project::new("p").unwrap(), recipe: Recipe::new("r@1").unwrap() }
}

fn action(key: &[u8]) -> ActionId {
    ActionId::derive(&space().project, &space().recipe, key, None).unwrap()
}

fn blob(bytes: &[u8]) -> Output {
    Output::Blob(BlobOutput { digest: Digest::of(bytes), size: bytes.len() as u64 })
}

fn claim_in(project: &str, key: &[u8], output: Output) -> Entry {
    let Space { recipe, .. } = space();
    let project = Project::new(project).unwrap();
    let action = ActionId::derive(&project, &recipe, key, None).unwrap();
    let issued = clock::now();
    let toolchain = Some(Text::new("1.95.0").unwrap());
    Entry {
        project,
        recipe,
        action,
        output,
        labels: Labels { toolchain, ..Labels::default() },
        taints: Vec::new(),
        issued,
        not_after: issued.plus(Duration::from_secs(3600)),
        replaces: None,
    }
}

fn claim(pair: &Pair, key: &[u8], output: Output) -> Signed<Entry> {
    Signed::sign(&claim_in("p", key, output), &[pair]).unwrap()
}

fn tree(files: &[&[u8]]) -> (Output, Vec<u8>) {
    let member = |(at, bytes): (usize, &&[u8])| Member {
        path: TreePath::new(&format!("file{at:04}")).unwrap(),
        kind: Kind::File { digest: Digest::of(bytes), size: bytes.len() as u64, executable: false },
    };
    let bytes = Tree::new(files.iter().enumerate().map(member).collect()).unwrap().encode();
    let total = files.iter().map(|file| file.len() as u64).sum();
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    (Output::Tree(TreeOutput { digest, size, members: files.len() as u64, total }), bytes)
}

/// Bytes that do not compress.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Somebody who holds a small file, a large one and a folder, all of ann's.
fn full() -> (Node, Vec<Vec<u8>>) {
    let node = Node::trusting(&ann());
    let files = vec![noise(1, 10), noise(2, MAX_INLINE_BYTES + 1), noise(3, 2 * PIECE_BYTES + 5), Vec::new()];
    for (at, file) in files.iter().enumerate() {
        let key = [u8::try_from(at).unwrap()];
        node.holds(&claim(&ann(), &key, blob(file)), &[file]);
    }
    let (output, bytes) = tree(&[&files[0], &files[2], b"in the folder alone"]);
    node.holds(&claim(&ann(), b"tree", output), &[&bytes, b"in the folder alone"]);
    (node, files)
}

#[test]
fn what_was_exported_is_imported_where_its_signer_is_trusted() {
    let (from, files) = full();
    let (bundle, exported) = from.export();
    assert_eq!((exported.entries, exported.blobs, exported.projects["p"]), (5, 6, 5));
    let to = Node::trusting(&ann());
    let imported = to.import(&*bundle);
    assert_eq!(imported.ended.how, "whole");
    assert_eq!((imported.entries.taken, imported.blobs, imported.bytes), (5, 6, exported.bytes));
    assert_eq!(imported.read, bundle.len() as u64);
    for (at, file) in files.iter().enumerate() {
        assert!(
            matches!(to.knows(&[u8::try_from(at).unwrap()]), Known::Here(output) if output == blob(file))
        );
        let found = to.engine.store().bytes(&Digest::of(file), u64::MAX).unwrap();
        assert_eq!(found.as_ref(), Some(file));
        // It may go to peers where its Project is shared, and nowhere else.
        assert!(to.engine.blob_for_peer(&Digest::of(file), |project| project == "p").unwrap().is_some());
        assert!(to.engine.blob_for_peer(&Digest::of(file), |project| project == "q").unwrap().is_none());
    }
    assert!(matches!(to.knows(b"tree"), Known::Here(_)) && to.has(b"in the folder alone"));
    // A second time nothing is to be done.
    let again = to.import(&*bundle);
    assert_eq!((again.entries.taken, again.entries.known, again.blobs), (0, 5, 0));
    // And it can be handed on.
    assert_eq!(to.export().1.entries, 5);
}

#[test]
fn of_strangers_nothing_is_kept() {
    let (bundle, _) = full().0.export();
    let to = Node::trusting(&Pair::from_seed(&[2; 32], "bob"));
    let imported = to.import(&*bundle);
    assert_eq!((imported.entries.taken, imported.entries.refused, imported.blobs), (0, 5, 0));
    assert_eq!((imported.refused.len(), imported.refused[0].reason), (1, "unknown-signer"));
    let key = ann().public().to_openssh("");
    assert!(imported.refused[0].hint.contains(key.trim()), "{}", imported.refused[0].hint);
    assert!(to.is_empty());
    assert_eq!(to.engine.counts().now().refused[0].count, 5);
}

#[test]
fn only_what_was_asked_for_and_is_believed_and_here_goes_in() {
    let (node, _) = full();
    let pattern = |text| Some(Pattern::new(text).unwrap());
    let count = |project, toolchain: Option<&str>| {
        let what = Selection { project, toolchain: toolchain.map(str::to_owned) };
        node.export_of(&what).1.entries
    };
    assert_eq!((count(pattern("p"), None), count(pattern("q/*"), None)), (5, 0));
    assert_eq!((count(None, Some("1.95")), count(None, Some("1.94"))), (5, 0));
    node.holds(&claim(&Pair::from_seed(&[3; 32], "eve"), b"eve", blob(b"eve's")), &[b"eve's"]);
    node.holds(&claim(&ann(), b"gone", blob(b"gone")), &[]);
    let (bundle, exported) = node.export();
    assert_eq!((exported.entries, exported.refused, exported.incomplete), (5, 1, 1));
    assert!(!unpack(&bundle).windows(5).any(|window| window == b"eve's"));
}

#[test]
fn a_bundle_is_an_archive_that_tar_can_list() {
    let (bundle, _) = full().0.export();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    std::fs::write(&path, unpack(&bundle)).unwrap();
    let listed = std::process::Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.status.success() && listed.stderr.is_empty());
    let kinds: Vec<_> = names.lines().map(|name| name.split('/').next().unwrap()).collect();
    let (entries, blobs) = ([&["entry"][..]; 5].concat(), [&["blob"][..]; 5].concat());
    assert_eq!(kinds, [&["potluck-bundle"], &*entries, &["tree"], &*blobs, &["potluck-end"]].concat());
}

/// Where the members of an archive begin, and their names.
fn members(archive: &[u8]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for member in tar::Archive::new(archive).entries().unwrap() {
        let member = member.unwrap();
        let name = String::from_utf8(member.path_bytes().to_vec()).unwrap();
        found.push((usize::try_from(member.raw_header_position()).unwrap(), name));
    }
    found
}

#[test]
fn of_a_bundle_that_is_cut_off_all_is_kept_that_was_complete() {
    let (from, files) = full();
    let archive = unpack(&from.export().0);
    for (at, name) in members(&archive).into_iter().skip(1) {
        let to = Node::trusting(&ann());
        let imported = to.import_archive(&archive[..at]);
        assert_eq!(imported.ended.how, "cut-off", "before {name}");
        let kept = files
            .iter()
            .enumerate()
            .filter(|(key, _)| matches!(to.knows(&[u8::try_from(*key).unwrap()]), Known::Here(_)));
        let kept = kept.count() as u64 + u64::from(matches!(to.knows(b"tree"), Known::Here(_)));
        assert_eq!(kept, imported.entries.taken);
        let complete = imported.entries.taken + imported.entries.incomplete;
        assert!(complete <= 5 && (name != "potluck-end" || imported.entries.taken == 5), "{name}");
    }
    let bundle = from.export().0;
    let to = Node::trusting(&ann());
    let lengths = (1..bundle.len()).step_by(bundle.len() / 50).chain([bundle.len() - 1]);
    let taken: Vec<_> = lengths
        .map(|len| {
            let imported = to.import(&bundle[..len]);
            assert_eq!(imported.ended.how, "cut-off", "{len} bytes");
            imported.entries.taken
        })
        .collect();
    assert_eq!(taken.iter().sum::<u64>(), 5, "each once");
    assert_eq!(to.import(io::empty()).ended.how, "cut-off");
}

#[test]
fn flipped_bits_never_bring_anything_that_was_not_claimed() {
    let (from, _) = full();
    let bundle = from.export().0;
    let archive = unpack(&bundle);
    let spread = (0..bundle.len()).step_by(bundle.len() / 40);
    for at in spread.chain(bundle.len() - 40..bundle.len()) {
        let mut bad = bundle.clone();
        bad[at] ^= 0x10;
        let to = Node::trusting(&ann());
        let imported = to.import(&*bad);
        // It may be packed otherwise and be the same: among zeros, all that lies before is as good.
        let same = zstd::decode_all(&*bad).is_ok_and(|unpacked| unpacked == archive);
        assert_eq!(imported.ended.how == "whole", same, "byte {at}");
        // What is there is there under its own name, and for a claim.
        assert_eq!(to.export().1.entries, imported.entries.taken, "byte {at}");
    }
    for (at, name) in members(&archive) {
        // Within the header, where every byte has a meaning or is zero.
        for within in [0, 110, 130, 156, 200, 300, 500] {
            let mut bad = archive.clone();
            bad[at + within] ^= 0x01;
            let to = Node::trusting(&ann());
            assert_ne!(to.import_archive(&bad).ended.how, "whole", "{name}, byte {within}");
        }
    }
}
