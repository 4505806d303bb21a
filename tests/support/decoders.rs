// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every decoder of bytes that somebody else made, under one name each: for the fuzz targets, for the replay of their
//! corpus, and for tests that throw the same nonsense at all of them.
//!
//! Each takes any bytes, must not panic, and when it accepts them, must write the very same bytes again: what has two
//! encodings could be changed on the way without anyone noticing.

use std::fmt::Display;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use globset::GlobBuilder;
use potluck_keys::codec::{CodecError, Reader, Wire, Writer, decode, encode};
use potluck_keys::pair::{Outline, Pair, PublicKey, Signer};
use potluck_keys::policy::{Policy, Scoped, Want};
use potluck_keys::rules::{Layer, Pattern, Rules};
use potluck_keys::signed::{Claim, Signed, verify_batch};
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_node::ahead::list::List;
use potluck_node::bundle::read::{Body, Taker, read_archive};
use potluck_node::bundle::write;
use potluck_node::bundle::{BundleError, Name};
use potluck_node::catalog::evidence::{self, Evidence};
use potluck_node::content::{Content as _, DiskContent};
use potluck_node::front::http::map::{Operation, Part, bazel, ccache, gradle, nx, part, result, webdav};
use potluck_node::front::listen::asked::{Access, Asked, MAX_BODY_BYTES, sample};
use potluck_node::front::nix::map as nix;
use potluck_node::front::nix::narinfo::NarInfo;
use potluck_node::front::rustc::reads::Needs;
use potluck_node::front::turborepo::map as turbo;
use potluck_node::network::Network;
use potluck_node::relocate::depinfo::DepInfo;
use potluck_node::relocate::token::{Root, Roots, Spelling};
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, Filter, MAX_CATALOG_BYTES, Segment};
use potluck_protocol::control::{Reply, Request};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;
use potluck_protocol::frame::{Frame, HEADER_BYTES, Message, body_len, frame, read_body, read_shared_body};
use potluck_protocol::head::{Head, HeadSet, Instance};
use potluck_protocol::names::{DhtKey, NetworkId};
use potluck_protocol::peer::{Ask, Blobs, Heads, Hello};
use potluck_protocol::piece::{MAX_PIECE_LIST_BYTES, PIECE_BYTES, PieceHasher, PieceList, Pieces};
use potluck_protocol::tree::{Tree, TreePath};
use tempfile::TempDir;

/// A decoder under its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them, by name.
pub const DECODERS: &[Decoder] = &[
    ("action_result", action_result),
    ("ask", message::<Ask>),
    ("blobs", message::<Blobs>),
    ("bundle", bundle),
    ("catalog", catalog),
    ("ccache_entry", crate::archives::ccache_entry),
    ("ccache_request", crate::archives::ccache_request),
    ("dep_info", dep_info),
    ("entry", claim::<Entry>),
    ("evidence", evidence),
    ("filter", filter),
    ("gocache", crate::gocache::said),
    ("gocache_checked", crate::gocache::checked),
    ("gocache_list", crate::gocache::list),
    ("head", claim::<Head>),
    ("head_set", head_set),
    ("heads", message::<Heads>),
    ("hello", message::<Hello>),
    ("http_request", http_request),
    ("invite", invite),
    ("items", items),
    ("key_file", key_file),
    ("names", names),
    ("narinfo", narinfo),
    ("nix_request", nix_request),
    ("part", blob_part),
    ("pattern", pattern),
    ("piece_list", piece_list),
    ("public_key", public_key),
    ("reads", reads),
    ("reply", message::<Reply>),
    ("request", message::<Request>),
    ("revocation", claim::<Revocation>),
    ("rules", rules),
    ("sccache_archive", crate::archives::sccache_archive),
    ("segment", segment),
    ("signed_entry", judged::<Entry>),
    ("signed_head", judged::<Head>),
    ("signed_revocation", signed::<Revocation>),
    ("signed_succession", signed::<Succession>),
    ("small_rows", crate::small::rows),
    ("succession", claim::<Succession>),
    ("tokens", tokens),
    ("tree", tree),
    ("turbo_request", turbo_request),
    ("unit_list", unit_list),
];

/// The decoder of this name.
///
/// # Panics
/// When there is none.
pub fn decoder(name: &str) -> fn(&[u8]) {
    let found = DECODERS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no decoder {name:?}")).1
}

fn same<T: Wire>(bytes: &[u8], limit: usize) -> Option<T> {
    let value = decode::<T>(bytes, limit).ok()?;
    assert_eq!(encode(&value), bytes, "two encodings of one value");
    Some(value)
}

fn narinfo(bytes: &[u8]) {
    let Ok(info) = NarInfo::parse(bytes) else { return };
    let text = info.text();
    assert_eq!(
        text.strip_suffix('\n').map(str::as_bytes).unwrap_or_default(),
        bytes.strip_suffix(b"\n").unwrap_or(bytes)
    );
    assert!(NarInfo::parse(text.as_bytes()).as_ref() == Ok(&info), "two readings of one text");
    let (sigs, fingerprint): (Vec<_>, _) = (info.sigs().collect(), info.fingerprint());
    assert!(fingerprint.starts_with("1;/"));
    let again = info.clone().without(|_| true).with(sigs);
    assert!(again.agrees(&info));
}

/// A request, up to what the map of a Front makes of it.
fn asked(bytes: &[u8]) -> Option<Asked> {
    Asked::new(sample(bytes)?, &Access::private()).ok()
}

fn nix_request(bytes: &[u8]) {
    let Some(asked) = asked(bytes) else { return };
    if let Ok((_, nix::Thing::Nar { file, path })) = nix::map(&asked) {
        let path = path.as_deref().unwrap_or("3imvddpkp3np5kpfzyjqbk23lz2cs6l9");
        assert_eq!(nix::file_of(&nix::url(path, &file, asked.rest())), Some(file), "it is not found again");
    }
}

fn turbo_request(bytes: &[u8]) {
    if let Some(about) = turbo::About::decode(bytes) {
        assert!(turbo::About::decode(&about.encode()) == Some(about), "two readings of one text");
    }
    let Some(asked) = asked(bytes) else { return };
    if let Ok(turbo::Operation::Put { key, about }) = turbo::map(&asked) {
        assert!(key.shared() != key.own());
        assert!(turbo::About::decode(&about.encode()).as_ref() == Some(&about), "it would not come back");
        assert!(about.encode().len() as u64 <= turbo::MAX_ABOUT_BYTES);
    }
}

/// The roots of two checkouts.
fn roots(workspace: &str, target: &str) -> Roots {
    let root = |name, path: &str| Root { name, spellings: vec![path.to_owned()] };
    Roots::new(vec![root("workspace", workspace), root("target", target)])
}

/// What a compiler says it has read, taken to another checkout and back.
fn reads(bytes: &[u8]) {
    let Some(needs) = Needs::parse(bytes) else { return };
    assert_eq!(needs.text(), bytes);
}

fn dep_info(bytes: &[u8]) {
    let Some(info) = std::str::from_utf8(bytes).ok().and_then(DepInfo::parse) else { return };
    assert_eq!(info.emit().as_bytes(), bytes);
    let roots = roots("/w", "/w/target");
    let back = info.encode(&roots).decode(&roots).expect("what was put in comes out");
    assert_eq!(back, info);
}

/// Text with folders of one checkout, taken to another one.
fn tokens(bytes: &[u8]) {
    let (here, there) = (roots("/w", "/w/target"), roots("/some where", "/else"));
    for spelling in [Spelling::Plain, Spelling::Json] {
        let encoded = here.encode(bytes, spelling);
        assert_eq!(here.decode(&encoded, spelling).expect("what was put in comes out"), bytes);
        let _ = there.decode(bytes, spelling);
    }
}

/// What a build asks for.
fn unit_list(bytes: &[u8]) {
    if let Ok(list) = List::decode(bytes) {
        assert_eq!(list.encode(), bytes, "two encodings of one value");
        assert_eq!(list.after(&[]), list, "nothing was asked for, and nothing was learned");
    }
}

/// What a bundle brought, in order.
#[derive(Default, PartialEq, Debug)]
struct Brought(Vec<(Option<Name>, Vec<u8>)>);

impl Taker for Brought {
    fn entry(&mut self, entry: Signed<Entry>) -> Result<(), BundleError> {
        self.0.push((None, entry.bytes().to_vec()));
        Ok(())
    }

    fn blob(&mut self, name: Name, body: &mut Body<'_>) -> Result<bool, BundleError> {
        let mut bytes = Vec::new();
        // More than any input has: whoever reads no further passes over the rest.
        let whole = body.left() < 1 << 20;
        if whole && body.read_to_end(&mut bytes).is_err() {
            return Err(BundleError::CutOff);
        }
        self.0.push((Some(name), bytes));
        Ok(whole)
    }

    fn void(&mut self) {
        let last = self.0.last_mut().expect("a blob comes before it");
        assert!(last.0.take().is_some(), "only a blob is void");
    }

    fn part(&mut self) -> Result<(), BundleError> {
        Ok(())
    }
}

/// The archive within a bundle. What follows its members has no meaning and may differ, so what is written again is
/// compared by what it brings.
fn bundle(bytes: &[u8]) {
    let mut brought = Brought::default();
    let Ok(sums) = read_archive(bytes, &|| bytes.len() as u64, &mut brought) else { return };
    if sums.void > 0 {
        return;
    }
    let mut writer = write::Writer::new(Vec::new()).expect("memory takes it");
    for (name, bytes) in &brought.0 {
        let written = match name {
            None => writer.entry(&Signed::decode(bytes).expect("it was decoded before")),
            Some(name) => writer.blob(*name, bytes),
        };
        written.expect("memory takes it");
    }
    let written = writer.finish().expect("memory takes it");
    let mut again = Brought::default();
    let same = read_archive(&*written, &|| written.len() as u64, &mut again).expect("our own are accepted");
    assert_eq!((same, again), (sums, brought));
}

fn invite(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(network) = Network::from_invite(text) {
        let again = Network::from_invite(&network.invite(&[])).expect("its own line is one");
        assert_eq!((again.id(), again.peers), (network.id(), network.peers));
    }
}

/// Any items, one after the other, whatever they may mean.
fn items(bytes: &[u8]) {
    let mut from = Reader::new(bytes);
    while from.end().is_err() {
        let (start, mut to) = (from.at(), Writer::new());
        if item(bytes, &mut from, &mut to).is_err() {
            break;
        }
        // What was read is already what a writer makes.
        assert_eq!(to.into_bytes(), bytes[start..from.at()], "two encodings of one item");
    }
    assert!(from.at() <= bytes.len(), "read beyond the end");
    every_question(bytes);
}

/// Copies one item, with all that is in it.
fn item(bytes: &[u8], from: &mut Reader<'_>, to: &mut Writer) -> Result<(), CodecError> {
    const MOST: usize = 1 << 32;
    let first = bytes.get(from.at()).copied().unwrap_or(0xff);
    match first >> 5 {
        0 => to.uint(from.uint()?),
        2 => to.bytes(from.bytes(MOST)?),
        3 => to.text(from.text(MOST)?),
        major @ (4 | 5) => {
            let count = if major == 4 { from.array(MOST)? } else { from.map(MOST)? };
            if major == 4 {
                to.array(count);
            } else {
                to.map(count);
            }
            let inside = if major == 4 { count } else { 2 * count };
            from.nested(|from| (0..inside).try_for_each(|_| item(bytes, from, to)))?;
        }
        _ if first == 0xf6 => {
            from.null()?;
            to.null();
        }
        _ => to.boolean(from.boolean()?),
    }
    Ok(())
}

/// Asks for each kind of item at each of the first places: at most one kind can stand there.
fn every_question(bytes: &[u8]) {
    for start in 0..bytes.len().min(64) {
        let answers: [fn(&mut Reader<'_>) -> bool; 7] = [
            |from| from.uint().is_ok(),
            |from| from.bytes(100).is_ok(),
            |from| from.text(100).is_ok(),
            |from| from.array(100).is_ok(),
            |from| from.map(100).is_ok(),
            |from| from.boolean().is_ok(),
            |from| from.null().is_ok(),
        ];
        let there = answers.iter().filter(|ask| ask(&mut Reader::new(&bytes[start..]))).count();
        assert!(there <= 1, "one item of two kinds");
    }
}

/// The bytes as a message, and as a message with its length before it.
fn message<M: Message>(bytes: &[u8]) {
    if let Ok(value) = read_body::<M>(bytes) {
        let framed = whole(&value);
        assert_eq!(&framed[HEADER_BYTES..], bytes, "two encodings of one value");
        let shared = read_shared_body::<M>(&Bytes::copy_from_slice(bytes)).expect("it is read in both ways");
        assert!(whole(&shared) == framed, "what shares its memory is another value");
    }
    let Some((header, rest)) = bytes.split_first_chunk() else { return };
    let Ok(len) = body_len::<M>(*header) else { return };
    assert!(len <= M::MAX_BYTES);
    if let Some(body) = rest.get(..len)
        && let Ok(value) = read_body::<M>(body)
    {
        assert_eq!(whole(&value), bytes[..HEADER_BYTES + len], "two frames of one value");
    }
}

/// A message as it is sent.
fn whole<M: Message>(message: &M) -> Vec<u8> {
    let Frame { begin, end } =
        frame(message).expect("what was small enough to be read is small enough to be sent");
    [&begin[..], &end].concat()
}

fn claim<T: Claim>(bytes: &[u8]) {
    same::<T>(bytes, T::MAX_BYTES);
}

fn signed<T: Claim + Clone>(bytes: &[u8]) {
    let Ok(claim) = Signed::<T>::decode(bytes) else { return };
    assert_eq!(claim.bytes(), bytes);
    assert!(claim.signers().len() > 0, "a claim has a signer");
    assert!(claim.join(&claim) == Ok(claim.clone()), "two envelopes of one claim");
    let together = claim.clone();
    let keys: Vec<_> = claim.signers().filter_map(|signer| PublicKey::from_signer(&signer).ok()).collect();
    verify_batch(&[&together, &together], |signer| keys.iter().find(|key| key.signer() == *signer));
    assert_eq!(
        together.authentic().is_ok(),
        claim.authentic().is_ok(),
        "a batch must judge as one alone does"
    );
    if let Ok(genuine) = claim.authentic() {
        assert_eq!(encode(genuine), claim.payload(), "two encodings of one value");
    }
}

/// As [`signed`], and whatever it is, a policy without rules accepts nothing.
fn judged<T: Scoped + Clone>(bytes: &[u8]) {
    signed::<T>(bytes);
    let Ok(claim) = Signed::<T>::decode(bytes) else { return };
    if let Ok(genuine) = claim.authentic() {
        let policy = Policy::new(Rules::default());
        let scope = genuine.scope();
        assert!(policy.judge(&claim, &Want::of(&scope), scope.issued).is_err());
    }
}

fn head_set(bytes: &[u8]) {
    let signer = Pair::from_seed(&[1; 32], "").signer();
    if let Ok(set) = HeadSet::decode(bytes, signer, Project::default()) {
        assert_eq!(set.encode(), bytes, "two encodings of one value");
    }
}

fn catalog(bytes: &[u8]) {
    if let Some(catalog) = same::<Catalog>(bytes, MAX_CATALOG_BYTES) {
        assert_eq!(catalog.news(&catalog).count(), 0);
    }
}

fn filter(bytes: &[u8]) {
    // The checksum would stop nearly all of what a fuzzer invents: put the right one in its place.
    let forged = bytes.len().checked_sub(32).map(|end| {
        let content = &bytes[..end];
        [content, blake3_of(content).as_slice()].concat()
    });
    for bytes in [Some(bytes.to_vec()), forged].into_iter().flatten() {
        let Ok(filter) = Filter::decode(&bytes) else { continue };
        assert_eq!(filter.encode(), bytes, "two encodings of one value");
        for first in [0, 1, u64::MAX / 3, u64::MAX] {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&first.to_le_bytes());
            filter.contains(&ActionId::from_bytes(id));
        }
    }
}

fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *Digest::of(bytes).as_bytes()
}

fn segment(bytes: &[u8]) {
    let Ok(segment) = Segment::decode(bytes.to_vec()) else { return };
    assert_eq!(segment.bytes(), bytes);
    let again = Segment::new(segment.rows().collect()).expect("rows of a segment make a segment");
    assert_eq!(again, segment, "two encodings of one value");
    assert!(segment.rows().all(|row| segment.get(&row.action) == Some(row)), "a row is not found");
}

fn piece_list(bytes: &[u8]) {
    if let Some(list) = same::<PieceList>(bytes, MAX_PIECE_LIST_BYTES) {
        let _ = list.verify(&Digest::of(b""));
    }
}

fn tree(bytes: &[u8]) {
    let Ok(tree) = Tree::decode(bytes) else { return };
    assert_eq!(tree.encode(), bytes, "two encodings of one value");
    let again = Tree::new(tree.members().to_vec()).expect("members of a tree make a tree");
    assert_eq!(again, tree);
    assert!(
        tree.members().iter().all(|member| tree.get(&member.path) == Some(member)),
        "a member is not found"
    );
    tree.case_clashes();
}

fn reads_back<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert!(value.to_string() == text, "two texts of one value: {text:?}");
    }
}

/// Instants may be written with a fraction, and are shown without.
fn time(text: &str) {
    if let Ok(time) = text.parse::<Time>() {
        let shown: Time = time.to_string().parse().expect("what we write, we read");
        assert!(time <= Time::MAX && shown.as_millis() == time.as_millis() / 1000 * 1000);
    }
}

fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    reads_back::<Project>(text);
    reads_back::<Recipe>(text);
    reads_back::<Digest>(text);
    reads_back::<ActionId>(text);
    reads_back::<DhtKey>(text);
    reads_back::<NetworkId>(text);
    reads_back::<Instance>(text);
    time(text);
    if let Ok(path) = TreePath::new(text) {
        assert_eq!(path.to_string(), text);
    }
}

fn action_result(bytes: &[u8]) {
    if let Ok(Some(named)) = result::named(bytes) {
        assert!(named.blobs.len() <= result::MAX_NAMED);
        assert!(named.folders.iter().all(|folder| named.blobs.contains_key(folder)));
    }
    let mut folder = result::Named::default();
    let _ = folder.add_folder(bytes);
    assert!(folder.blobs.len() <= result::MAX_NAMED && folder.folders.is_empty());
}

fn http_request(bytes: &[u8]) {
    let Some(parts) = sample(bytes) else { return };
    for access in [Access::new("", &["build.lan".to_owned()]), Access::new("sesame", &[]), Access::private()]
    {
        let Ok(asked) = Asked::new(parts.clone(), &access) else { continue };
        assert!(asked.length() <= MAX_BODY_BYTES);
        let rest = asked.rest();
        assert!(
            rest.split('/').all(|part| part != "." && part != "..") && !rest.starts_with('/'),
            "{rest:?}"
        );
        assert!(
            rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"%\\<>&\"'".contains(&byte)),
            "{rest:?}"
        );
        for map in [ccache::map, gradle::map, nx::map, webdav::map] {
            if let Ok(Operation::Get { key, .. } | Operation::Put { key } | Operation::Delete { key }) =
                map(&asked)
            {
                assert!(!key.is_empty() && key.len() <= rest.len(), "{key:?} of {rest:?}");
            }
        }
        let _ = bazel::ask(&asked);
        if let Part::Range(range) = part(asked.headers(), &Digest::of(bytes), 1000) {
            assert!(range.start < range.end && range.end <= 1000, "{range:?}");
        }
    }
}

fn pattern(bytes: &[u8]) {
    // The glob, a line end, and a name to be matched.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (glob, name) = text.split_once('\n').unwrap_or((text, "acme/web"));
    if let Ok(pattern) = Pattern::new(glob) {
        assert_eq!(pattern.to_string(), glob);
        // Without the short cuts; a lone `*` covers every name, which no glob does.
        let mut plain = GlobBuilder::new(glob);
        let plain = plain.literal_separator(true).backslash_escape(false).build().expect("it was read");
        let covered = glob == "*" || plain.compile_matcher().is_match(name);
        assert_eq!(pattern.covers(name), covered, "{glob:?} and {name:?}");
    }
}

fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Rules::read(&[Layer::new(Path::new("trust.toml"), text)]) {
        Ok(rules) => {
            assert!(rules.rules.iter().all(|rule| (1..=rule.accept.len()).contains(&rule.agree)));
            Policy::new(rules);
        }
        Err(error) => assert!(!error.hint().is_empty() && error.origin.line <= text.lines().count() + 1),
    }
}

/// What an earlier run kept of Heads that were refused.
fn evidence(bytes: &[u8]) {
    let read = Evidence::read(bytes, Time::from_millis(0));
    let mut again = Evidence::default();
    // Two of one kind are one, so that there may be fewer than rows.
    read.all().for_each(|exhibit| again.note(exhibit.clone()));
    let Some(written) = again.changed() else { return };
    assert!(written.len() <= evidence::MAX_FILE_BYTES);
    assert!(Evidence::read(&written, Time::from_millis(0)).all().eq(read.all()), "what is written is read");
}

/// The Blob of which parts are tried: two pieces, which pack well.
pub fn parted() -> Vec<u8> {
    vec![b'x'; PIECE_BYTES + 100]
}

/// The two files of what came of a Blob: the length of the first in two bytes, that, and the second.
fn blob_part(bytes: &[u8]) {
    static CONTENT: LazyLock<(TempDir, DiskContent, Pieces)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("there is room for a test");
        let content = DiskContent::open(folder.path()).expect("there is room for a test");
        let mut hasher = PieceHasher::new();
        hasher.update(&parted());
        (folder, content, hasher.finish().expect("it is small"))
    });
    // One at a time: the files have the name of the Blob.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, content, pieces) = &*CONTENT;
    let Some((len, rest)) = bytes.split_first_chunk() else { return };
    let (list, part) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*len))));
    let staging = folder.path().join("staging").join(pieces.digest().to_string());
    for (ending, bytes) in [("list", list), ("part", part)] {
        std::fs::write(staging.with_extension(ending), bytes).expect("there is room for a test");
    }
    let taken = content.take_up(pieces.digest(), pieces.size()).expect("whatever is there is no error");
    for index in 0..taken.as_ref().map_or(0, |taken| taken.pieces().count()) {
        let Some(taken) = taken.as_ref().filter(|taken| taken.has(index)) else { continue };
        let (packing, packed) = taken.packed(index).expect("it was read before").expect("it is there");
        let mut fresh = content.begin_known(pieces.clone()).expect("there is room for a test");
        assert!(fresh.put(index, packing, &packed).expect("what was taken up is right"));
    }
}

fn public_key(bytes: &[u8]) {
    if let Some(raw) = bytes.first_chunk() {
        let signer = Signer::from_bytes(*raw);
        if let Ok(key) = PublicKey::from_signer(&signer) {
            assert_eq!(key.signer(), signer);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok((key, comment)) = PublicKey::from_openssh(text) {
        let line = key.to_openssh(&comment);
        assert_eq!(PublicKey::from_openssh(&line).expect("what we write, we read"), (key, comment));
    }
}

fn key_file(bytes: &[u8]) {
    let outline = Outline::from_openssh(bytes);
    if let Ok(pair) = Pair::from_openssh(bytes, || None) {
        let text = pair.to_openssh(None).expect("a pair has a text form");
        let again = Pair::from_openssh(text.as_bytes(), || None).expect("what we write, we read");
        assert_eq!((again.signer(), again.comment()), (pair.signer(), pair.comment()));
        let outline = outline.expect("the outside of what is open");
        assert!(outline.public == pair.public() && !outline.encrypted);
    }
}
