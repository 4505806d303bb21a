// SPDX-License-Identifier: MIT OR Apache-2.0
//! Archives made by hand, bombs, damage and bounds.

use super::*;

/// An archive made by hand.
struct Hand(Vec<u8>);

impl Hand {
    fn new() -> Self {
        Self(Vec::new()).member(Name::Bundle, b"potluck bundle 1\n")
    }

    fn member(self, name: Name, bytes: &[u8]) -> Self {
        let header = name.header(bytes.len() as u64);
        self.raw(&header, bytes)
    }

    fn raw(mut self, header: &tar::Header, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, entry: &Signed<Entry>) -> Self {
        self.member(Name::Entry(claim_digest(entry)), entry.bytes())
    }

    fn blob(self, bytes: &[u8]) -> Self {
        self.member(Name::Blob(Digest::of(bytes)), bytes)
    }

    fn end(self, (entries, blobs, bytes): (u64, u64, u64)) -> Vec<u8> {
        let text = format!("entries {entries}\nblobs {blobs}\nbytes {bytes}\nvoid 0\n");
        let mut all = self.member(Name::End, text.as_bytes()).0;
        all.extend([0; 1024]);
        all
    }
}

#[test]
fn blobs_that_no_accepted_entry_names_are_passed_over() {
    let eve = Pair::from_seed(&[3; 32], "eve");
    let to = Node::trusting(&ann());
    let (junk, shared) = (noise(9, 3 * PIECE_BYTES), noise(8, 100));
    let archive = Hand::new()
        .entry(&claim(&ann(), b"a", blob(&shared)))
        .entry(&claim(&eve, b"b", blob(&junk)))
        .entry(&claim(&eve, b"c", blob(&shared)))
        .blob(&junk)
        .blob(b"nobody's")
        .blob(&shared)
        .blob(&shared);
    let imported = to.import_archive(&archive.end((3, 4, 3 * PIECE_BYTES as u64 + 208)));
    assert_eq!((imported.ended.how, imported.blobs, imported.entries.taken), ("whole", 1, 1));
    assert_eq!(imported.entries.refused, 2);
    assert!(to.has(&shared) && !to.has(&junk) && !to.has(b"nobody's"));
    assert!(matches!(to.knows(b"a"), Known::Here(_)) && matches!(to.knows(b"b"), Known::Nothing));
}

#[test]
fn blobs_with_other_bytes_or_sizes_are_not_kept() {
    for (right, len) in
        [(noise(1, 100), 100), (noise(1, 2 * PIECE_BYTES), 2 * PIECE_BYTES), (noise(1, 100), 99)]
    {
        let (to, wrong) = (Node::trusting(&ann()), noise(2, len));
        let name = Name::Blob(Digest::of(&right));
        let hand = || Hand::new().entry(&claim(&ann(), b"a", blob(&right))).member(name, &wrong);
        let imported = to.import_archive(&hand().end((1, 1, len as u64)));
        assert_eq!((imported.ended.how, imported.entries.incomplete), ("whole", 1));
        assert_eq!(imported.damaged, u64::from(len == right.len()));
        assert!(to.is_empty());
        // The right bytes may still come.
        let sizes = (1, 2, (len + right.len()) as u64);
        let imported = to.import_archive(&hand().blob(&right).end(sizes));
        assert_eq!((imported.ended.how, imported.entries.taken), ("whole", 1));
    }
}

#[test]
fn what_is_no_tree_completes_nothing() {
    let to = Node::trusting(&ann());
    let bytes = b"not a tree";
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    let output = Output::Tree(TreeOutput { digest, size, members: 0, total: 0 });
    let archive = Hand::new()
        .entry(&claim(&ann(), b"tree", output))
        .entry(&claim(&ann(), b"file", blob(bytes)))
        .member(Name::Tree(digest), bytes);
    let imported = to.import_archive(&archive.end((2, 1, 10)));
    assert_eq!((imported.entries.taken, imported.entries.incomplete), (1, 1));
    assert!(matches!(to.knows(b"file"), Known::Here(_)));
    assert!(matches!(to.knows(b"tree"), Known::Nothing));
}

#[test]
fn files_that_two_trees_share_complete_both() {
    let to = Node::trusting(&ann());
    let ((one, one_bytes), (two, two_bytes)) = (tree(&[b"x", b"y", b"y"]), tree(&[b"y", b"z"]));
    let archive = Hand::new()
        .entry(&claim(&ann(), b"one", one.clone()))
        .entry(&claim(&ann(), b"two", two.clone()))
        .member(Name::Tree(*one.digest()), &one_bytes)
        .member(Name::Tree(*two.digest()), &two_bytes)
        .blob(b"x")
        .blob(b"y")
        .blob(b"z");
    let bytes = (one_bytes.len() + two_bytes.len() + 3) as u64;
    let imported = to.import_archive(&archive.end((2, 5, bytes)));
    assert_eq!((imported.entries.taken, imported.blobs), (2, 5));
    assert!(matches!(to.knows(b"one"), Known::Here(_)) && matches!(to.knows(b"two"), Known::Here(_)));
}

/// What an archive comes to: the word for it.
fn comes_to(archive: &[u8]) -> &'static str {
    let to = Node::trusting(&ann());
    let how = to.import_archive(archive).ended.how;
    assert!(how == "whole" || to.is_empty(), "{how}");
    how
}

#[test]
fn members_that_no_bundle_has_end_it() {
    let good = claim(&ann(), b"a", blob(b"a"));
    let with = |header: &tar::Header| comes_to(&Hand::new().entry(&good).raw(header, b"").end((1, 0, 0)));
    let name = Name::Blob(Digest::of(b""));
    assert_eq!(with(&name.header(0)), "malformed", "it is counted wrongly");
    let bend = |bend: &dyn Fn(&mut tar::Header)| {
        let mut header = name.header(0);
        bend(&mut header);
        header.set_cksum();
        with(&header)
    };
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::Link,
        tar::EntryType::Char,
        tar::EntryType::Block,
        tar::EntryType::Fifo,
        tar::EntryType::Directory,
        tar::EntryType::GNULongName,
        tar::EntryType::GNUSparse,
        tar::EntryType::XHeader,
        tar::EntryType::XGlobalHeader,
        tar::EntryType::new(0),
    ] {
        assert_eq!(bend(&|header| header.set_entry_type(kind)), "malformed", "{kind:?}");
    }
    for path in ["blob/../../x", "/etc/passwd", "blob/", "blob/00", "other/x", "x", "", "blob/a/b"] {
        let bent = |header: &mut tar::Header| {
            let name = &mut header.as_gnu_mut().unwrap().name;
            name.fill(0);
            name[..path.len()].copy_from_slice(path.as_bytes());
        };
        assert_eq!(bend(&bent), "malformed", "{path}");
    }
    assert_eq!(bend(&|header| header.set_mode(0o4755)), "malformed");
    assert_eq!(bend(&|header| header.set_mtime(1)), "malformed");
    assert_eq!(bend(&|header| header.set_size(u64::MAX)), "damaged");
    assert_eq!(bend(&|header| header.set_size(1 << 41)), "malformed");
}

#[test]
fn members_in_another_order_end_it() {
    let good = claim(&ann(), b"a", blob(b"a"));
    let whole = Hand::new().entry(&good).blob(b"a").end((1, 1, 1));
    assert_eq!(comes_to(&whole), "whole");
    assert_eq!(comes_to(&Hand::new().blob(b"a").entry(&good).end((1, 1, 1))), "malformed");
    assert_eq!(comes_to(&Hand::new().entry(&good).entry(&good).end((1, 0, 0))), "malformed", "counts");
    let void = |digest| Hand::new().entry(&good).blob(b"b").member(Name::Void(digest), b"").end((1, 1, 1));
    assert_eq!(comes_to(&void(Digest::of(b"a"))), "malformed");
    assert_eq!(comes_to(&Hand(Vec::new()).entry(&good).blob(b"a").end((1, 1, 1))), "foreign");
    assert_eq!(comes_to(&Hand::new().entry(&good).member(Name::Bundle, b"").end((1, 0, 0))), "malformed");
    let tail = Node::trusting(&ann()).import_archive(&[&whole[..], &[0; 70_000]].concat());
    assert_eq!((tail.ended.how, tail.entries.taken), ("malformed", 1));
    // A name that is not the Entry's, and something that is no Entry.
    let named = Name::Entry(Digest::of(b"else"));
    assert_eq!(comes_to(&Hand::new().member(named, good.bytes()).end((1, 0, 0))), "malformed");
    assert_eq!(comes_to(&Hand::new().member(named, b"none").end((1, 0, 0))), "malformed");
    let long = vec![0; Signed::<Entry>::MAX_BYTES + 1];
    assert_eq!(comes_to(&Hand::new().member(named, &long).end((1, 0, 0))), "malformed");
}

#[test]
fn later_versions_and_other_files_are_told_apart() {
    let titled = |title: &[u8]| comes_to(&Hand(Vec::new()).member(Name::Bundle, title).end((0, 0, 0)));
    assert_eq!(titled(b"potluck bundle 1\n"), "whole");
    assert_eq!(titled(b"potluck bundle 2\n"), "later-version");
    for title in ["potluck bundle 0\n", "potluck bundle 02\n", "potluck bundle +2\n", "potluck bundle", ""] {
        assert_eq!(titled(title.as_bytes()), "foreign", "{title}");
    }
    assert_eq!(titled(&[b'x'; 300]), "malformed");
    let to = Node::new();
    assert_eq!(to.import(&b"PK\x03\x04 a zip file of some kind, surely"[..]).ended.how, "foreign");
    assert_eq!(comes_to(&noise(1, 2000)), "foreign");
    assert_eq!(comes_to(&[0; 2048]), "foreign");
}

/// Zeros without end, or nearly.
struct Bomb {
    start: io::Cursor<Vec<u8>>,
    left: Arc<AtomicU64>,
}

impl Read for Bomb {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = self.start.read(to)?;
        if got > 0 {
            return Ok(got);
        }
        to.fill(0);
        self.left.fetch_sub(to.len() as u64, Ordering::Relaxed);
        Ok(to.len())
    }
}

#[test]
fn what_nobody_wants_may_not_be_much() {
    let size = 1 << 40;
    let eve = claim(&Pair::from_seed(&[3; 32], "eve"), b"b", blob(b""));
    let mut start = Hand::new().entry(&eve).0;
    start.extend_from_slice(Name::Blob(Digest::of(b"zeros")).header(size).as_bytes());
    let left = Arc::new(AtomicU64::new(size));
    let bomb = Bomb { start: io::Cursor::new(start), left: Arc::clone(&left) };
    let error = read_archive(bomb, &|| 1000, &mut Nobody).unwrap_err();
    assert!(matches!(error, BundleError::Bomb), "{error}");
    let read = size - left.load(Ordering::Relaxed);
    assert!(read <= SPARE_BYTES + (1 << 20), "{read}");
    // The same through zstd.
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packer.write_all(&Hand::new().entry(&eve).0).unwrap();
    packer.write_all(Name::Blob(Digest::of(b"zeros")).header(200 << 20).as_bytes()).unwrap();
    for _ in 0..200 {
        packer.write_all(&[0; 1 << 20]).unwrap();
    }
    let to = Node::trusting(&ann());
    assert_eq!(to.import(&*packer.finish().unwrap()).ended.how, "bomb");
    assert!(to.is_empty());
}

/// Wants nothing.
struct Nobody;

impl Taker for Nobody {
    fn entry(&mut self, _: Signed<Entry>) -> Result<(), BundleError> {
        Ok(())
    }

    fn blob(&mut self, _: Name, _: &mut Body<'_>) -> Result<bool, BundleError> {
        Ok(false)
    }

    fn void(&mut self) {}

    fn part(&mut self) -> Result<(), BundleError> {
        Ok(())
    }
}

#[test]
fn windows_of_zstd_are_bounded() {
    let (bundle, _) = full().0.export();
    let pack = |log| {
        let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
        packer.window_log(log).unwrap();
        packer.write_all(&unpack(&bundle)).unwrap();
        packer.finish().unwrap()
    };
    assert_eq!(Node::trusting(&ann()).import(&*pack(23)).ended.how, "whole");
    let to = Node::trusting(&ann());
    assert_ne!(to.import(&*pack(26)).ended.how, "whole");
    assert!(to.is_empty());
}

#[test]
fn a_store_without_room_takes_what_fits() {
    let (bundle, _) = full().0.export();
    let to = Node::trusting(&ann());
    let (room, progress) = (&|| PIECE_BYTES as u64, &mut |_: &Imported| {});
    let imported = import(&*bundle, Import { engine: &to.engine, room, progress }).unwrap();
    assert_eq!(imported.ended.how, "full");
    assert!(to.engine.store().total().unwrap() < PIECE_BYTES as u64 + 1000);
    assert_eq!(to.import(&*bundle).ended.how, "whole");
    assert_eq!(to.export().1.entries, 5);
}

#[test]
fn a_damaged_blob_costs_its_own_entries_only() {
    let (from, files) = full();
    // A bit of the last piece: what comes before it is in the bundle by the time it is found.
    let name = Digest::of(&files[2]).to_string();
    let store = from.folder.path().join("home/store/blobs");
    let mut paths = walk(&store);
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().contains(&name[2..]));
    let mut bytes = std::fs::read(&paths[0]).unwrap();
    bytes[2 * PIECE_BYTES + 1] ^= 1;
    std::fs::write(&paths[0], bytes).unwrap();
    let (bundle, exported) = from.export();
    assert_eq!((exported.entries, exported.damaged, exported.blobs), (3, 2, 5));
    assert!(!from.has(&files[2]), "it was put aside");
    let to = Node::trusting(&ann());
    let imported = to.import(&*bundle);
    assert_eq!((imported.ended.how, imported.void, imported.damaged), ("whole", 1, 1));
    assert_eq!((imported.entries.taken, imported.entries.incomplete), (3, 2));
    assert!(!to.has(&files[2]));
    // The next bundle is without them from the start.
    assert_eq!(from.export().1.incomplete, 2);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn many_entries_go_in_parts() {
    let (from, to) = (Node::trusting(&ann()), Node::trusting(&ann()));
    let many = MAX_ENTRIES + 10;
    for at in 0..many {
        let bytes = at.to_le_bytes();
        from.holds(&claim(&ann(), &bytes, blob(&bytes)), &[&bytes]);
    }
    let (bundle, exported) = from.export();
    assert_eq!(exported.entries, many as u64);
    let archive = unpack(&bundle);
    let kinds = members(&archive).into_iter().map(|(_, name)| name.starts_with("entry"));
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds.windows(2).filter(|two| !two[0] && two[1]).count(), 2, "two parts");
    let imported = to.import(&*bundle);
    assert_eq!((imported.ended.how, imported.entries.taken), ("whole", many as u64));
    // One part may not have as many.
    let mut hand = Hand::new();
    for at in 0..=MAX_ENTRIES {
        hand = hand.entry(&claim(&ann(), &at.to_le_bytes(), blob(b"")));
    }
    assert_eq!(comes_to(&hand.end((MAX_ENTRIES as u64 + 1, 0, 0))), "malformed");
}

#[test]
fn a_growing_blob_keeps_its_word() {
    let name = Name::Blob(Digest::of(b""));
    let mut writer = Writer::new(Vec::new()).unwrap();
    assert!(writer.begin(name, 3).unwrap().write(b"four").is_err());
    let mut writer = Writer::new(Vec::new()).unwrap();
    assert!(writer.begin(name, 3).unwrap().write(b"2").unwrap().finish().is_err());
}
