// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors of Catalogs, Segments and filters.

use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::{
    Catalog, Filter, MAX_FILTER_BYTES, MAX_ROWS, MAX_SEGMENT_BYTES, MAX_SEGMENTS, MAX_TIER, Row, RowKind,
    Segment, SegmentRef,
};
use potluck_protocol::digest::Digest;
use serde_json::{Value, json};

use super::Sheet;
use super::shape::{Item, bent, text, with};
use super::show::{Show as _, hex};

pub(crate) fn sheets() -> Vec<Sheet> {
    vec![catalog(), segment(), filter()]
}

/// The ActionIds that vectors use: the BLAKE3 hash of n as eight bytes, least significant first.
pub(crate) fn ids(from: u64, to: u64) -> impl Iterator<Item = ActionId> {
    (from..to).map(|n| ActionId::from_bytes(*Digest::of(&n.to_le_bytes()).as_bytes()))
}

fn rows(count: u64) -> Vec<Row> {
    let row = |action: ActionId| match action.as_bytes()[0] % 3 {
        0 => Row::withdrawn(action),
        1 => Row { action, claim: Digest::of(action.as_bytes()), kind: RowKind::Head },
        _ => Row { action, claim: Digest::of(action.as_bytes()), kind: RowKind::Entry },
    };
    ids(0, count).map(row).collect()
}

fn catalog() -> Sheet {
    let mut sheet = Sheet::new("catalog", "Catalogs. `hex` is the Blob of the Catalog.");
    let segment = |count: u64, tier| {
        let segment = Segment::new(rows(count)).unwrap();
        SegmentRef::of(&segment, &segment.filter().unwrap(), tier)
    };
    let catalog = |segments| Catalog { project: Project::new("acme/web").unwrap(), segments };
    sheet.good("Catalog", "no segments", &catalog(vec![]));
    sheet.good("Catalog", "one segment", &catalog(vec![segment(3, 0)]));
    let good = sheet.good(
        "Catalog",
        "three segments",
        &catalog(vec![segment(3, 0), segment(1, 0), segment(20, MAX_TIER)]),
    );
    sheet.spoil_record("Catalog", &good, &[]);
    let numbered = |n: u64| SegmentRef { digest: Digest::of(&n.to_le_bytes()), ..segment(1, 0) };
    let many = catalog((0..=MAX_SEGMENTS as u64).map(numbered).collect());
    for (why, bytes) in [
        ("a bad project", with(&good, &[1], text("/"))),
        ("a project that is not UTF-8", with(&good, &[1], Item::Text(vec![0xff]))),
        ("an empty list of segments", with(&good, &[2], Item::List(vec![]))),
        ("65 segments", potluck_protocol::codec::encode(&many)),
        ("a tier below the one before", with(&good, &[2, 0, 6], Item::Uint(1))),
        ("a tier beyond 31", with(&good, &[2, 2, 6], Item::Uint(u64::from(MAX_TIER) + 1))),
        ("a tier of more than 32 bits", with(&good, &[2, 2, 6], Item::Uint(1 << 32))),
        ("a segment without rows", with(&good, &[2, 0, 3], Item::Uint(0))),
        ("a segment with too many rows", with(&good, &[2, 0, 3], Item::Uint(MAX_ROWS as u64 + 1))),
        ("a segment that is too large", with(&good, &[2, 0, 2], Item::Uint(MAX_SEGMENT_BYTES as u64 + 1))),
        ("a segment too large for its rows", with(&good, &[2, 0, 2], Item::Uint(64 + 65 * 1000))),
        ("a filter too large for its rows", with(&good, &[2, 0, 5], Item::Uint(192 + 4 * 1000))),
        ("a filter that is too large", with(&good, &[2, 0, 5], Item::Uint(MAX_FILTER_BYTES as u64 + 1))),
        ("a digest of 33 bytes", with(&good, &[2, 0, 1], Item::Bytes(vec![1; 33]))),
        ("a segment without a tier", bent(&good, &[2, 0], |segment| drop(segment.pairs().pop()))),
        (
            "a segment twice",
            bent(&good, &[2], |list| {
                let first = list.items()[0].clone();
                list.items()[1] = first;
            }),
        ),
    ] {
        sheet.bad("Catalog", why, &bytes);
    }
    sheet
}

fn segment() -> Sheet {
    let mut sheet = Sheet::new("segment", "Segments. `hex` is the Blob of the Segment.");
    for (name, count) in [("one row", 1), ("seven rows of all kinds", 7)] {
        let segment = Segment::new(rows(count)).unwrap();
        sheet.push(json!({
            "name": name, "type": "Segment", "hex": hex(segment.bytes()), "value": segment.show(),
        }));
    }
    let columns = |actions: &[[u8; 32]], claims: &[[u8; 32]], kinds: &[u8]| {
        Item::Map(vec![
            (Item::Uint(1), Item::Bytes(actions.concat())),
            (Item::Uint(2), Item::Bytes(claims.concat())),
            (Item::Uint(3), Item::Bytes(kinds.to_vec())),
        ])
        .bytes()
    };
    let (low, high) = ([1; 32], [2; 32]);
    let good = columns(&[low, high], &[[9; 32], [0; 32]], &[0, 2]);
    sheet.spoil_record("Segment", &good, &[]);
    for (why, bytes) in [
        ("rows out of order", columns(&[high, low], &[[9; 32]; 2], &[0, 1])),
        ("an action twice", columns(&[low, low], &[[9; 32]; 2], &[0, 1])),
        ("no rows", columns(&[], &[], &[])),
        ("an unknown kind", columns(&[low], &[[9; 32]], &[3])),
        ("withdrawn, yet a claim", columns(&[low], &[[9; 32]], &[2])),
        ("an entry, yet no claim", columns(&[low], &[[0; 32]], &[0])),
        ("a head, yet no claim", columns(&[low], &[[0; 32]], &[1])),
        ("an action too few", columns(&[low], &[[9; 32]; 2], &[0, 0])),
        ("a claim too few", columns(&[low, high], &[[9; 32]], &[0, 0])),
        ("a kind too few", columns(&[low, high], &[[9; 32]; 2], &[0])),
        ("an action cut short", with(&good, &[1], Item::Bytes(vec![1; 63]))),
        ("the last column is missing", bent(&good, &[], |columns| drop(columns.pairs().pop()))),
        ("a column that is text", with(&good, &[3], Item::Text(vec![0, 2]))),
        ("more rows than a segment may have", with(&good, &[1], Item::Raw(vec![0x5a, 2, 0, 0, 32]))),
    ] {
        sheet.bad("Segment", why, &bytes);
    }
    sheet
}

/// What the header of a filter says.
pub(crate) fn parameters(bytes: &[u8]) -> Value {
    let number =
        |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    json!({
        "keys": number(8, 8),
        "seed": number(16, 8),
        "segment_length": number(24, 4),
        "segment_count_length": number(28, 4),
        "fingerprints": (bytes.len() - 64) / 2,
    })
}

/// A filter with some of its bytes replaced, and the checksum made right again.
fn forge(good: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut content = good[..good.len() - 32].to_vec();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    sealed(content)
}

fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = Digest::of(&content);
    content.extend_from_slice(checksum.as_bytes());
    content
}

fn filter() -> Sheet {
    let mut sheet = Sheet::new(
        "filter",
        "Filters. ActionId n is the BLAKE3 hash of n as eight bytes, least significant first. The filter was made of \
         the ids from 0 to `members` less one, all of which it takes for members; of those from 10000 to 19999 it \
         takes `hits` for members.",
    );
    let build = |members| Filter::build(ids(0, members)).unwrap().encode();
    for members in [0_u64, 1, 2, 20, 300] {
        let bytes = build(members);
        let filter = Filter::decode(&bytes).unwrap();
        let hits = (10_000_u64..20_000).filter(|n| ids(*n, n + 1).all(|id| filter.contains(&id)));
        sheet.push(json!({
            "name": format!("{members} members"), "type": "Filter", "hex": hex(&bytes),
            "value": parameters(&bytes), "members": members, "hits": hits.collect::<Vec<_>>(),
        }));
    }
    let good = build(20);
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    let content = &good[..good.len() - 32];
    let length = u32::from_le_bytes(*good[24..].first_chunk().unwrap());
    let count = u32::from_le_bytes(*good[28..].first_chunk().unwrap());
    for (why, bytes) in [
        ("it is empty", Vec::new()),
        ("it is shorter than header and checksum", sealed(good[..31].to_vec())),
        ("it is truncated", good[..good.len() - 1].to_vec()),
        ("a byte follows it", [&good[..], &[0]].concat()),
        ("a bit of a fingerprint is flipped", flipped(40)),
        ("a bit of the checksum is flipped", flipped(good.len() - 1)),
        ("a bit of the seed is flipped", flipped(16)),
        ("another magic", forge(&good, 0, b"potfuze\x01")),
        ("another version", forge(&good, 0, b"potfuse\x02")),
        ("half a fingerprint more", sealed([content, &[0]].concat())),
        ("a fingerprint more", sealed([content, &[0, 0]].concat())),
        ("a fingerprint less", sealed(content[..content.len() - 2].to_vec())),
        ("more keys than slots", forge(&good, 8, &1000_u64.to_le_bytes())),
        ("far more slots than keys", forge(&build(300), 8, &0_u64.to_le_bytes())),
        ("more keys than any filter", forge(&good, 8, &u64::MAX.to_le_bytes())),
        ("segments of length 0", forge(&good, 24, &0_u32.to_le_bytes())),
        ("segments whose length is no power of two", forge(&good, 24, &(length - 1).to_le_bytes())),
        ("segments longer than the bound", forge(&good, 24, &(1_u32 << 19).to_le_bytes())),
        ("no segments", forge(&good, 28, &0_u32.to_le_bytes())),
        ("a count that is no multiple of the length", forge(&good, 28, &(count + 1).to_le_bytes())),
        ("a count beyond the fingerprints", forge(&good, 28, &(count + length).to_le_bytes())),
        ("numbers the wrong way round", forge(&good, 8, &20_u64.to_be_bytes())),
    ] {
        sheet.bad("Filter", why, &bytes);
    }
    sheet
}
