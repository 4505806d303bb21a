// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every decoder of bytes that somebody else made, under one name each: for the fuzz targets, for the replay of their
//! corpus, and for tests that throw the same nonsense at all of them.
//!
//! Each takes any bytes, must not panic, and when it accepts them, must write the very same bytes again: what has two
//! encodings could be changed on the way without anyone noticing.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use potluck_keys::codec::{Wire, decode, encode};
use potluck_keys::pair::{Outline, Pair, PublicKey, Signer};
use potluck_keys::policy::{Policy, Scoped, Want};
use potluck_keys::rules::{Layer, Pattern, Rules};
use potluck_keys::signed::{Claim, Signed};
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, Filter, MAX_CATALOG_BYTES, Segment};
use potluck_protocol::control::{Reply, Request};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;
use potluck_protocol::frame::{Message, body_len, frame, read_body};
use potluck_protocol::head::{Head, HeadSet};
use potluck_protocol::peer::{Ask, Blobs, Heads, Hello};
use potluck_protocol::piece::{MAX_PIECE_LIST_BYTES, PieceList};
use potluck_protocol::tree::{Tree, TreePath};

/// A decoder under its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them, by name.
pub const DECODERS: &[Decoder] = &[
    ("ask", message::<Ask>),
    ("blobs", message::<Blobs>),
    ("catalog", catalog),
    ("entry", claim::<Entry>),
    ("filter", filter),
    ("head", claim::<Head>),
    ("head_set", head_set),
    ("heads", message::<Heads>),
    ("hello", message::<Hello>),
    ("key_file", key_file),
    ("names", names),
    ("pattern", pattern),
    ("piece_list", piece_list),
    ("public_key", public_key),
    ("reply", message::<Reply>),
    ("request", message::<Request>),
    ("revocation", claim::<Revocation>),
    ("rules", rules),
    ("segment", segment),
    ("signed_entry", judged::<Entry>),
    ("signed_head", judged::<Head>),
    ("signed_revocation", signed::<Revocation>),
    ("signed_succession", signed::<Succession>),
    ("succession", claim::<Succession>),
    ("tree", tree),
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

fn message<M: Message>(bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk() {
        let _ = body_len::<M>(*header);
    }
    if let Ok(value) = read_body::<M>(bytes) {
        let framed = frame(&value).expect("what was small enough to be read is small enough to be sent");
        assert_eq!(&framed[4..], bytes, "two encodings of one value");
    }
}

fn claim<T: Claim>(bytes: &[u8]) {
    same::<T>(bytes, T::MAX_BYTES);
}

fn signed<T: Claim>(bytes: &[u8]) {
    let Ok(claim) = Signed::<T>::decode(bytes) else { return };
    assert_eq!(claim.bytes(), bytes);
    assert!(claim.signers().len() > 0, "a claim has a signer");
    if let Ok(genuine) = claim.authentic() {
        assert_eq!(encode(genuine), claim.payload(), "two encodings of one value");
    }
}

/// As [`signed`], and whatever it is, a policy without rules accepts nothing.
fn judged<T: Scoped>(bytes: &[u8]) {
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

fn reads_back<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert!(value.to_string() == text, "two texts of one value: {text:?}");
    }
}

fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    reads_back::<Project>(text);
    reads_back::<Recipe>(text);
    reads_back::<Digest>(text);
    if let Ok(time) = text.parse::<Time>() {
        assert!(time <= Time::MAX && !time.to_string().is_empty());
    }
    if let Ok(path) = TreePath::new(text) {
        assert_eq!(path.as_str(), text);
    }
}

fn pattern(bytes: &[u8]) {
    // The glob, a line end, and a name to be matched.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (glob, name) = text.split_once('\n').unwrap_or((text, "acme/web"));
    if let Ok(pattern) = Pattern::new(glob) {
        assert_eq!(pattern.to_string(), glob);
        pattern.covers(name);
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
        assert_eq!(PublicKey::from_openssh(&line).expect("what we write, we read").0, key);
    }
}

fn key_file(bytes: &[u8]) {
    let _ = Outline::from_openssh(bytes);
    if let Ok(pair) = Pair::from_openssh(bytes, || None) {
        let text = pair.to_openssh(None).expect("a pair has a text form");
        let again = Pair::from_openssh(text.as_bytes(), || None).expect("what we write, we read");
        assert_eq!(again.signer(), pair.signer());
    }
}
