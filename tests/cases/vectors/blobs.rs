// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors of Digests, pieces and Trees.

use potluck_protocol::codec::encode;
use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::piece::{PIECE_BYTES, PieceHasher, PieceList};
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use serde_json::json;

use super::Sheet;
use super::shape::{Item, bent, text, with};
use super::show::{Show as _, hex};

pub(crate) fn sheets() -> Vec<Sheet> {
    vec![digest(), piece(), tree()]
}

/// Byte i is i * 7 + i / 251, modulo 256.
pub(crate) fn pattern(len: u64) -> Vec<u8> {
    // It repeats after 251 * 256 bytes.
    let period: Vec<u8> = (0..251 * 256_u32).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect();
    period.into_iter().cycle().take(usize::try_from(len).expect("it fits into memory")).collect()
}

fn digest() -> Sheet {
    let mut sheet = Sheet::new(
        "digest",
        "Digests. Of a Digest, `hex` is what is hashed and `digest` its hash; of a DigestField, `hex` is the encoding \
         as a field; of a DigestText, it is the bytes of the text form.",
    );
    for (name, bytes) in [
        ("three letters", b"abc".to_vec()),
        ("a chunk", pattern(1024)),
        ("a chunk and a byte", pattern(1025)),
    ] {
        let digest = Digest::of(&bytes);
        sheet.push(json!({ "name": name, "type": "Digest", "hex": hex(&bytes), "digest": digest.show() }));
    }
    let nothing = Digest::of(b"");
    let field = sheet.good("DigestField", "of nothing", &nothing);
    let text = nothing.to_string();
    sheet.push(json!({
        "name": "of nothing, in text", "type": "DigestText", "hex": hex(text.as_bytes()), "value": text,
    }));
    sheet.spoil("DigestField", &field, &[]);
    sheet.bad("DigestField", "it has 31 bytes", &Item::Bytes(vec![1; 31]).bytes());
    sheet.bad("DigestField", "it has 33 bytes", &Item::Bytes(vec![1; 33]).bytes());
    sheet.bad("DigestField", "it is text", &Item::Text(vec![b'a'; 32]).bytes());
    for (why, bad) in [
        ("upper case", text.to_uppercase()),
        ("a digit less", text[1..].to_owned()),
        ("a digit more", format!("{text}0")),
        ("not a digit", format!("g{}", &text[1..])),
        ("a space", format!(" {}", &text[1..])),
        ("nothing", String::new()),
    ] {
        sheet.bad("DigestText", why, bad.as_bytes());
    }
    sheet.bad("DigestText", "not UTF-8", &[0xff; 64]);
    sheet
}

fn piece() -> Sheet {
    let mut sheet = Sheet::new(
        "piece",
        "Lists of pieces. `hex` is the encoding of the list. Where there is a `length`, the Blob has that many bytes, \
         of which byte i is (i * 7 + i / 251) mod 256 with a whole division, and the Digest `digest`.",
    );
    let list = |len| {
        let mut hasher = PieceHasher::new();
        hasher.update(&pattern(len));
        hasher.finish().unwrap()
    };
    let mib = PIECE_BYTES as u64;
    for (name, len) in [
        ("nothing", 0),
        ("a byte", 1),
        ("three chunks", 3072),
        ("a piece less a byte", mib - 1),
        ("a piece", mib),
        ("a piece and a byte", mib + 1),
        ("two pieces", 2 * mib),
        ("three pieces, the last one short", 2 * mib + 1234),
        ("three pieces", 3 * mib),
        ("six pieces, the last one of a chunk and a byte", 5 * mib + 1025),
    ] {
        let pieces = list(len);
        let bytes = hex(&encode(pieces.list()));
        sheet.push(json!({
            "name": name, "type": "PieceList", "hex": bytes, "value": pieces.list().show(),
            "length": len, "digest": pieces.digest().show(),
        }));
    }
    let three = list(3 * mib);
    let digest = json!({ "digest": three.digest().show() });
    let mut turned = three.list().clone();
    turned.values.swap(0, 1);
    sheet.bad("PieceList", "the values are in another order", &encode(&turned));
    sheet.given(&digest);
    let mut flipped = three.list().clone();
    flipped.values[2][31] ^= 1;
    sheet.bad("PieceList", "a bit of a value is flipped", &encode(&flipped));
    sheet.given(&digest);
    let other = PieceList { size: 2 * mib + 1, values: vec![[0; 32]; 3] };
    sheet.bad("PieceList", "the values of nothing", &encode(&other));
    sheet.given(&digest);
    let good = encode(&PieceList { size: mib + 1, values: vec![[7; 32]; 2] });
    sheet.spoil_record("PieceList", &good, &[]);
    let forged = |size, values: usize| encode(&PieceList { size, values: vec![[7; 32]; values] });
    sheet.bad("PieceList", "a value for a single piece", &forged(mib, 1));
    sheet.bad("PieceList", "a value less than there are pieces", &forged(2 * mib + 1, 2));
    sheet.bad("PieceList", "a value more than there are pieces", &forged(2 * mib, 3));
    sheet.bad("PieceList", "no values where there are pieces", &forged(mib + 1, 0));
    sheet.bad("PieceList", "a size beyond 1 TiB", &forged(MAX_BLOB_BYTES + 1, 2));
    sheet.bad("PieceList", "a value cut short", &with(&good, &[2], Item::Bytes(vec![7; 63])));
    sheet.bad(
        "PieceList",
        "values beyond their bound",
        &with(&good, &[2], Item::Raw(vec![0x5a, 2, 0, 0, 1])),
    );
    let single = encode(&PieceList { size: 5, values: Vec::new() });
    let empty = bent(&single, &[], |list| list.pairs().push((Item::Uint(2), Item::Bytes(Vec::new()))));
    sheet.bad("PieceList", "values that are there but empty", &empty);
    sheet
}

fn member(path: &str, kind: Kind) -> Member {
    Member { path: TreePath::new(path).unwrap(), kind }
}

fn file(path: &str, executable: bool) -> Member {
    let (digest, size) = (Digest::of(path.as_bytes()), path.len() as u64);
    member(path, Kind::File { digest, size, executable })
}

fn link(path: &str, target: &str) -> Member {
    member(path, Kind::Symlink { target: target.to_owned() })
}

fn tree() -> Sheet {
    let mut sheet = Sheet::new(
        "tree",
        "Trees. `hex` is the Blob of the Tree and `digest` its Digest. Files have no kind in `value`: what has a digest is a file, what has a target a link, and what has neither a folder.",
    );
    let deep = vec!["d"; 128].join("/");
    let longest = format!("{}/", "x".repeat(254)).repeat(16) + &"x".repeat(16);
    for (name, members) in [
        ("no members", vec![]),
        ("one file", vec![file("a", false)]),
        (
            "every kind",
            vec![
                member("a", Kind::Directory),
                file("a.txt", false),
                file("b/c", false),
                link("b/l", "../a.txt"),
                file("b/run", true),
            ],
        ),
        // The slash comes before every other byte: a/b before a-b, though `-` is smaller in ASCII.
        (
            "the order of paths",
            vec![file("a/b", false), file("a-b", false), file("a0", false), file("ä", false)],
        ),
        ("names that only look bad", vec![file("...", false), file("a..b", false), file("a\\b", false)]),
        ("names with control characters", vec![file("a\nb", false), file("\u{1b}[0m", false)]),
        (
            "links",
            vec![link("a/b/l", "../.."), link("a/l", ".."), link("dangling", "no/where"), link("l", "l")],
        ),
        ("128 components", vec![file(&deep, false)]),
        ("the longest path", vec![member(&longest, Kind::Directory)]),
        (
            "the largest file",
            vec![member(
                "a",
                Kind::File { digest: Digest::of(b""), size: MAX_BLOB_BYTES, executable: false },
            )],
        ),
    ] {
        let tree = Tree::new(members).unwrap();
        let (bytes, digest) = (hex(&tree.encode()), Digest::from(&tree));
        sheet.push(json!({
            "name": name, "type": "Tree", "hex": bytes, "value": tree.show(), "digest": digest.show(),
        }));
    }
    bad_trees(&mut sheet);
    sheet
}

/// A file as an item, whatever its path.
fn forged(path: &str, size: u64) -> Item {
    Item::List(vec![text(path), Item::Uint(0), Item::Bytes(vec![7; 32]), Item::Uint(size)])
}

fn of(members: Vec<Item>) -> Vec<u8> {
    Item::Map(vec![(Item::Uint(1), Item::List(members))]).bytes()
}

fn bad_trees(sheet: &mut Sheet) {
    let good = Tree::new(vec![file("a", false), file("b", true)]).unwrap().encode();
    sheet.spoil("Tree", &good, &[]);
    let refuse = |sheet: &mut Sheet, why, bytes: Vec<u8>| sheet.bad("Tree", why, &bytes);
    for (why, path) in [
        ("an empty path", ""),
        ("an absolute path", "/a"),
        ("a path that ends in a slash", "a/"),
        ("an empty component", "a//b"),
        ("a component '.'", "a/./b"),
        ("a component '..'", "a/../b"),
        ("the path '..'", ".."),
        ("a NUL", "a\0b"),
    ] {
        refuse(sheet, why, of(vec![forged(path, 1)]));
    }
    refuse(sheet, "a component of 256 bytes", of(vec![forged(&"x".repeat(256), 1)]));
    refuse(sheet, "129 components", of(vec![forged(&vec!["d"; 129].join("/"), 1)]));
    let long = format!("{}/", "x".repeat(254)).repeat(16) + &"x".repeat(17);
    refuse(sheet, "a path of 4097 bytes", of(vec![forged(&long, 1)]));
    refuse(sheet, "a path that is not UTF-8", with(&good, &[1, 0, 0], Item::Text(vec![0xff])));
    refuse(sheet, "a path that is bytes", with(&good, &[1, 0, 0], Item::Bytes(vec![b'a'])));
    for (why, paths) in [
        ("members out of order", ["b", "a"]),
        ("members in the order of ASCII", ["a-b", "a/b"]),
        ("a path twice", ["a", "a"]),
        ("a file below a file", ["a", "a/b"]),
        ("a file far below a file", ["a", "a/b/c/d"]),
    ] {
        refuse(sheet, why, of(paths.iter().map(|path| forged(path, 1)).collect()));
    }
    let folder = Item::List(vec![text("a"), Item::Uint(3)]);
    refuse(sheet, "a file below an empty folder", of(vec![folder.clone(), forged("a/b", 1)]));
    refuse(sheet, "an empty list of members", of(Vec::new()));
    for (why, path, target) in [
        ("an absolute target", "l", "/etc/passwd"),
        ("a target outside", "l", ".."),
        ("a target outside, from a folder", "a/l", "../../x"),
        ("a target that goes up after down", "a/l", "b/../c"),
        ("an empty target", "l", ""),
        ("a target with '.'", "l", "./a"),
        ("a target with an empty component", "l", "a//b"),
        ("a target that ends in a slash", "l", "a/"),
        ("a target with a NUL", "l", "a\0"),
        ("a target of 4097 bytes", "l", &"x".repeat(4097)),
    ] {
        refuse(sheet, why, of(vec![Item::List(vec![text(path), Item::Uint(2), text(target)])]));
    }
    let below = Item::List(vec![text("l"), Item::Uint(2), text("a")]);
    refuse(sheet, "a file below a link", of(vec![below, forged("l/b", 1)]));
    refuse(sheet, "an unknown kind", with(&good, &[1, 0, 1], Item::Uint(4)));
    refuse(sheet, "a file as short as a folder", of(vec![Item::List(vec![text("a"), Item::Uint(0)])]));
    let mut wide = folder;
    wide.items().push(Item::Uint(0));
    refuse(sheet, "a folder with a size", of(vec![wide]));
    refuse(sheet, "a digest of 31 bytes", with(&good, &[1, 0, 2], Item::Bytes(vec![7; 31])));
    refuse(sheet, "a file beyond 1 TiB", of(vec![forged("a", MAX_BLOB_BYTES + 1)]));
    refuse(sheet, "files beyond 1 TiB together", of(vec![forged("a", MAX_BLOB_BYTES), forged("b", 1)]));
    refuse(sheet, "a size in too long a form", with(&good, &[1, 0, 3], Item::Raw(vec![0x18, 1])));
    refuse(sheet, "more members than a tree may have", vec![0xa1, 0x01, 0x9a, 0, 0x0f, 0x42, 0x41]);
}
