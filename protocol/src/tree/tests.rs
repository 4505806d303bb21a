// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trees that are taken, and those that are refused.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::codec::encode;

fn file(path: &str) -> Member {
    sized(path, 3)
}

fn sized(path: &str, size: u64) -> Member {
    let kind = Kind::File { digest: Digest::of(path.as_bytes()), size, executable: false };
    Member { path: TreePath::new(path).unwrap(), kind }
}

fn link(path: &str, target: &str) -> Member {
    Member { path: TreePath::new(path).unwrap(), kind: Kind::Symlink { target: target.to_owned() } }
}

/// What a hostile peer would send: nothing is sorted or checked.
fn forged(members: Vec<Member>) -> Result<Tree, TreeError> {
    Tree::decode(&encode(&Listed(members)))
}

#[test]
fn a_tree_reads_back_and_finds_its_members() {
    let members = vec![
        file("b/c"),
        file("a.txt"),
        Member { path: TreePath::new("a").unwrap(), kind: Kind::Directory },
        link("b/l", "../a.txt"),
        Member {
            path: TreePath::new("b/run").unwrap(),
            kind: Kind::File { digest: Digest::of(b"x"), size: 7, executable: true },
        },
    ];
    let tree = Tree::new(members).unwrap();
    let paths: Vec<_> = tree.members().iter().map(|member| member.path.as_str()).collect();
    assert_eq!(paths, ["a", "a.txt", "b/c", "b/l", "b/run"]);
    assert_eq!(Tree::decode(&tree.encode()).unwrap(), tree);
    assert_eq!(tree.total(), 13);
    assert_eq!(tree.get(&TreePath::new("b/l").unwrap()), Some(&link("b/l", "../a.txt")));
    assert_eq!(tree.get(&TreePath::new("b").unwrap()), None);
    assert_eq!(Tree::default().encode(), [0xa0]);
    assert_eq!(Tree::decode(&[0xa0]).unwrap(), Tree::default());
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let long = format!("{}a", "a/".repeat(MAX_DEPTH));
    let bad = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "a/./b",
        "a\0b",
        "\0",
        &"x".repeat(256),
        &long,
        &"abc/".repeat(1024),
        &"x".repeat(MAX_PATH_BYTES + 1),
    ];
    for path in bad {
        assert!(matches!(TreePath::new(path), Err(TreeError::Path { .. })), "{path:?}");
        let member = Member { path: TreePath(path.to_owned()), kind: Kind::Directory };
        assert!(matches!(forged(vec![member]), Err(TreeError::Codec(_))), "{path:?}");
    }
    let deep = format!("{}a", "a/".repeat(MAX_DEPTH - 1));
    let longest = format!("{}/", "x".repeat(254)).repeat(16) + &"x".repeat(16);
    assert_eq!(longest.len(), MAX_PATH_BYTES);
    assert!(TreePath::new(&format!("{longest}x")).is_err());
    for path in ["a", "...", "a..b", "a\\b", "ä/ö", &"x".repeat(255), &deep, &longest] {
        assert!(TreePath::new(path).is_ok(), "{path:?}");
    }
}

#[test]
fn links_that_could_lead_outside_are_refused() {
    let long = "x".repeat(MAX_PATH_BYTES + 1);
    for (path, target) in [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("a/l", "../.."),
        ("a/l", "../../x"),
        ("a/b/l", "../c/../../../x"),
        ("l", "a/../../x"),
        ("l", "a/.."),
        ("l", ""),
        ("l", "a\0"),
        ("l", "./a"),
        ("l", "a//b"),
        ("l", "a/"),
        ("l", &long),
    ] {
        assert!(Tree::new(vec![link(path, target)]).is_err(), "{path} -> {target}");
        assert!(forged(vec![link(path, target)]).is_err(), "{path} -> {target}");
    }
    let longest = "x".repeat(MAX_PATH_BYTES);
    let inside =
        [("l", "a"), ("a/l", ".."), ("a/l", "../b/c"), ("a/b/l", "../.."), ("l", "l"), ("l", &longest)];
    for (path, target) in inside {
        assert!(forged(vec![link(path, target)]).is_ok(), "{path} -> {target}");
    }
}

#[test]
fn no_chain_of_accepted_links_leads_outside() {
    // Resolves as an operating system does, following links on the way; None when it left the root.
    fn resolve(
        links: &HashMap<Vec<String>, String>,
        at: &[String],
        path: &str,
        fuel: &mut u32,
    ) -> Option<Vec<String>> {
        let mut at = at.to_vec();
        for component in path.split('/') {
            if component == ".." {
                at.pop()?;
            } else {
                at.push(component.to_owned());
                if let Some(target) = links.get(&at) {
                    *fuel = fuel.checked_sub(1).unwrap_or(0);
                    if *fuel == 0 {
                        return Some(Vec::new());
                    }
                    at.pop();
                    at = resolve(links, &at, target, fuel)?;
                }
            }
        }
        Some(at)
    }
    let names = ["a", "b", "a/b", "a/c", "b/d/e", "c"];
    let targets = ["a", "b", "..", "../a", "../b", "../..", "../../a", "a/b", "../c", "d", "../d/e"];
    let choices = names.len() * targets.len();
    let mut accepted = 0;
    for one in 0..choices {
        for two in 0..choices {
            for three in [0, 7, 20, 33, 41, 58] {
                let members =
                    [one, two, three].map(|at| link(names[at % names.len()], targets[at / names.len()]));
                let Ok(tree) = Tree::new(members.to_vec()) else { continue };
                accepted += 1;
                let links: HashMap<_, _> = tree
                    .members()
                    .iter()
                    .map(|member| {
                        let Kind::Symlink { target } = &member.kind else { unreachable!() };
                        (
                            member.path.as_str().split('/').map(str::to_owned).collect::<Vec<_>>(),
                            target.clone(),
                        )
                    })
                    .collect();
                for member in tree.members() {
                    let inside = resolve(&links, &[], member.path.as_str(), &mut 40);
                    assert!(inside.is_some(), "{members:?}");
                }
            }
        }
    }
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn order_repetition_and_files_as_folders_are_refused() {
    assert!(matches!(forged(vec![file("b"), file("a")]), Err(TreeError::Order(_))));
    // Sorted bytewise, but not component by component.
    assert!(matches!(forged(vec![file("a.txt"), file("a/b")]), Err(TreeError::Order(_))));
    assert!(matches!(Tree::new(vec![file("a"), file("a")]), Err(TreeError::Twice(_))));
    for leaf in
        [file("a"), link("a", "b"), Member { path: TreePath::new("a").unwrap(), kind: Kind::Directory }]
    {
        let members = vec![file("a.txt"), file("a/b/c"), leaf];
        assert!(matches!(Tree::new(members.clone()), Err(TreeError::BelowLeaf { .. })));
        let mut sorted = members;
        sorted.sort_by(|one, other| one.path.cmp(&other.path));
        assert!(matches!(forged(sorted), Err(TreeError::BelowLeaf { .. })));
    }
}

#[test]
fn counts_and_sizes_are_bounded() {
    assert!(Tree::new(vec![sized("a", MAX_BLOB_BYTES)]).is_ok());
    assert!(matches!(Tree::new(vec![sized("a", MAX_BLOB_BYTES + 1)]), Err(TreeError::Member { .. })));
    assert!(Tree::new(vec![sized("a", MAX_BLOB_BYTES - 1), sized("b", 1)]).is_ok());
    let two = vec![sized("a", MAX_BLOB_BYTES), sized("b", 1)];
    assert!(matches!(Tree::new(two), Err(TreeError::TooLarge { .. })));
    let mut head = Writer::new();
    head.map(1);
    head.uint(1);
    head.array(MAX_MEMBERS + 1);
    let error = Tree::decode(&head.into_bytes()).unwrap_err();
    assert!(matches!(error, TreeError::Codec(CodecError { fault: Fault::TooMany { .. }, .. })));
    let directory = |n: usize| Member { path: TreePath(format!("{n:07}")), kind: Kind::Directory };
    assert!(Tree::new((0..MAX_MEMBERS).map(directory).collect()).is_ok());
    assert!(matches!(Tree::new((0..=MAX_MEMBERS).map(directory).collect()), Err(TreeError::TooMany(_))));
}

#[test]
fn members_of_other_shapes_are_refused() {
    let read = |items: &dyn Fn(&mut Writer)| {
        let mut to = Writer::new();
        to.map(1);
        to.uint(1);
        to.array(1);
        items(&mut to);
        Tree::decode(&to.into_bytes())
    };
    let digest = Digest::of(b"");
    assert!(
        read(&|to| {
            to.array(4);
            to.text("a");
            to.uint(0);
            digest.write(to);
            to.uint(1);
        })
        .is_ok()
    );
    assert!(
        read(&|to| {
            to.array(4);
            to.text("a");
            to.uint(4);
            digest.write(to);
            to.uint(1);
        })
        .is_err()
    );
    assert!(
        read(&|to| {
            to.array(3);
            to.text("a");
            to.uint(0);
            digest.write(to);
        })
        .is_err()
    );
    assert!(
        read(&|to| {
            to.array(3);
            to.text("a");
            to.uint(3);
            to.uint(0);
        })
        .is_err()
    );
    assert!(
        read(&|to| {
            to.array(4);
            to.bytes(b"a");
            to.uint(0);
            digest.write(to);
            to.uint(1);
        })
        .is_err()
    );
    assert!(
        read(&|to| {
            to.array(4);
            to.text("a");
            to.uint(0);
            to.bytes(&[0; 31]);
            to.uint(1);
        })
        .is_err()
    );
    // An empty list and an empty record are one thing, with one encoding.
    assert!(Tree::decode(&[0xa1, 0x01, 0x80]).is_err());
    assert!(Tree::decode(&[0xa1, 0x02, 0x80]).is_err());
}

#[test]
fn clashes_of_case_and_composition_are_shown() {
    let clashes = |paths: &[&str]| {
        let tree = Tree::new(paths.iter().map(|path| file(path)).collect()).unwrap();
        tree.case_clashes().iter().map(|(one, other)| format!("{one}={other}")).collect::<Vec<_>>()
    };
    assert!(clashes(&["a", "b/a", "c/A"]).is_empty());
    assert_eq!(clashes(&["README", "readme"]), ["README=readme"]);
    assert_eq!(clashes(&["A/x", "a/y"]), ["A=a"]);
    assert_eq!(clashes(&["straße", "STRASSE"]), ["STRASSE=straße"]);
    assert_eq!(clashes(&["\u{e9}", "e\u{301}"]), ["e\u{301}=\u{e9}"]);
    let many: Vec<_> = (0..MAX_CLASHES + 5).flat_map(|n| [format!("{n}a"), format!("{n}A")]).collect();
    assert_eq!(clashes(&many.iter().map(String::as_str).collect::<Vec<_>>()).len(), MAX_CLASHES);
}

#[test]
fn clashes_among_many_spellings_are_shown_once() {
    let clashes = |paths: &[&str]| {
        let tree = Tree::new(paths.iter().map(|path| file(path)).collect()).unwrap();
        tree.case_clashes().iter().map(|(one, other)| format!("{one}={other}")).collect::<Vec<_>>()
    };
    // The members of both folders alternate in the folded order.
    assert_eq!(clashes(&["A/1", "a/2", "A/3", "a/4", "A.b/1"]), ["A=a"]);
    assert_eq!(clashes(&["A/x", "a/x", "b"]), ["A=a", "A/x=a/x"]);
    assert_eq!(clashes(&["AA", "Aa", "aA", "aa"]), ["AA=Aa", "AA=aA", "AA=aa"]);
    assert_eq!(clashes(&["A", "a/x"]), ["A=a"], "a file and a folder");
    assert_eq!(clashes(&["A/y/1", "a.b", "a/Y/2"]), ["A=a", "A/y=a/Y"]);
    assert!(clashes(&["a/x", "a.x", "ab/x", "b/a/x"]).is_empty());
}

#[test]
fn a_link_that_would_merge_with_a_folder_shows_as_a_clash() {
    // Where `d/A` and `d/a` are one, `d/a/l` would be made beside `d` and lead out of the tree.
    let tree = Tree::new(vec![link("d/A", ".."), link("d/a/l", "../..")]).unwrap();
    assert_eq!(tree.case_clashes(), [("d/A", "d/a")]);
}

#[test]
fn the_encoding_is_as_documented() {
    let executable = Kind::File { digest: Digest::from_bytes([7; 32]), size: 500, executable: true };
    let members = vec![
        link("l", "e"),
        Member { path: TreePath::new("x").unwrap(), kind: executable },
        Member { path: TreePath::new("e").unwrap(), kind: Kind::Directory },
    ];
    let tree = Tree::new(members).unwrap();
    let mut want = b"\xa1\x01\x83\x82\x61e\x03\x83\x61l\x02\x61e\x84\x61x\x01\x58\x20".to_vec();
    want.extend([7; 32]);
    want.extend(b"\x19\x01\xf4");
    assert_eq!(tree.encode(), want);
    assert_eq!(Digest::from(&tree), Digest::of(&want));
}

#[test]
fn other_forms_of_an_encoding_are_refused() {
    assert!(Tree::decode(b"\xa1\x01\x81\x82\x61a\x03").is_ok());
    for (bytes, what) in [
        (&b"\xb8\x01\x01\x81\x82\x61a\x03"[..], "map"),
        (b"\xbf\x01\x81\x82\x61a\x03\xff", "map of indefinite length"),
        (b"\xa1\x18\x01\x81\x82\x61a\x03", "field"),
        (b"\xa1\x01\x98\x01\x82\x61a\x03", "list"),
        (b"\xa1\x01\x9f\x82\x61a\x03\xff", "list of indefinite length"),
        (b"\xa1\x01\x81\x98\x02\x61a\x03", "member"),
        (b"\xa1\x01\x81\x82\x78\x01a\x03", "path"),
        (b"\xa1\x01\x81\x82\x61a\x18\x03", "kind"),
        (b"\xa1\x01\x81\x82\x61\xff\x03", "path that is not UTF-8"),
        (b"\xa1\x01\x81\x82\x61a\x03\x00", "bytes after the end"),
        (b"\xa0\x00", "bytes after the empty tree"),
    ] {
        assert!(matches!(Tree::decode(bytes), Err(TreeError::Codec(_))), "{what}");
    }
}

#[test]
fn the_largest_encoding_is_accepted_and_no_larger_one() {
    const LEN: usize = 4000;
    let path = |n: usize, len: usize| {
        let components = format!("{n:07}/{}", format!("{}/", "x".repeat(254)).repeat(16));
        TreePath(components[..len - 1].to_owned() + "y")
    };
    // Five bytes of heads and kind a member, five for the list. The last two members take what space is left.
    let count = MAX_TREE_BYTES / (LEN + 5) - 1;
    let rest = MAX_TREE_BYTES - 5 - count * (LEN + 5);
    let tree = |rest: usize| {
        let last = [path(count, rest / 2 - 5), path(count + 1, rest - rest / 2 - 5)];
        let paths = (0..count).map(|n| path(n, LEN)).chain(last);
        Tree::new(paths.map(|path| Member { path, kind: Kind::Directory }).collect())
    };
    let largest = tree(rest).unwrap();
    let bytes = largest.encode();
    assert_eq!(bytes.len(), MAX_TREE_BYTES);
    assert!(Tree::decode(&bytes).unwrap() == largest);
    let limit = MAX_TREE_BYTES as u64;
    assert_eq!(tree(rest + 1).unwrap_err(), TreeError::TooLarge { limit });
    let error = Tree::decode(&vec![0; MAX_TREE_BYTES + 1]).unwrap_err();
    assert!(matches!(error, TreeError::Codec(CodecError { fault: Fault::TooLong { .. }, .. })));
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let path = "[a-c]{1,2}(/[a-c.]{1,2}x){0,3}";
    let kind = prop_oneof![
        (any::<[u8; 32]>(), 0..1_u64 << 30, any::<bool>()).prop_map(|(digest, size, executable)| {
            Kind::File { digest: Digest::from_bytes(digest), size, executable }
        }),
        "[a-z]{1,9}".prop_map(|target| Kind::Symlink { target }),
        Just(Kind::Directory),
    ];
    proptest::collection::vec((path, kind), 0..40).prop_map(|members| {
        let mut kept: Vec<Member> = Vec::new();
        for (path, kind) in members {
            let path = TreePath::new(&path).unwrap();
            let free = kept.iter().all(|other| {
                other.path != path && !other.path.is_below(&path) && !path.is_below(&other.path)
            });
            if free {
                kept.push(Member { path, kind });
            }
        }
        kept
    })
}

proptest! {
    #[test]
    fn any_order_gives_the_same_bytes_which_read_back(members in members(), seed: u64) {
        let mut shuffled = members.clone();
        shuffled.sort_by_key(|member| Digest::of(format!("{seed}{}", member.path).as_bytes()));
        let tree = Tree::new(members).unwrap();
        let bytes = tree.encode();
        prop_assert_eq!(bytes.len(), tree.encoded_bytes());
        prop_assert_eq!(&Tree::new(shuffled).unwrap().encode(), &bytes);
        prop_assert_eq!(&Tree::decode(&bytes).unwrap(), &tree);
        for len in 0..bytes.len() {
            prop_assert!(Tree::decode(&bytes[..len]).is_err());
        }
    }
}
