// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trees: what a build left behind, as a sorted list of paths with the Digests of their contents.
//!
//! A Tree is itself a Blob in canonical CBOR, so that equal outputs have equal names. Whoever makes or reads one gets
//! it checked: what a Tree names can be written below one folder and nowhere else.
//!
//! Paths are UTF-8 with `/` between components and are ordered component by component, bytewise (as if `/` were the
//! smallest byte). Everything below a folder hence follows it without a gap, and a path that is both a file and a
//! folder shows in two neighbouring members.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use unicase::UniCase;
use unicode_normalization::UnicodeNormalization as _;

use crate::codec::{CodecError, Fault, Reader, Wire, Writer, decode};
use crate::digest::{Digest, MAX_BLOB_BYTES};

/// Most members of a Tree.
pub const MAX_MEMBERS: usize = 1_000_000;
/// Largest encoding of a Tree in bytes.
pub const MAX_TREE_BYTES: usize = 128 << 20;
/// Longest path, and longest target of a symbolic link, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest component of a path in bytes.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Most components of a path.
pub const MAX_DEPTH: usize = 128;
/// Most clashes that [`Tree::case_clashes`] lists.
pub const MAX_CLASHES: usize = 1000;

/// A path below a folder: not empty, relative, without `.`, `..`, empty components or NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TreePath(String);

impl TreePath {
    /// Checks and takes a path.
    ///
    /// # Errors
    /// [`TreeError::Path`].
    pub fn new(path: &str) -> Result<Self, TreeError> {
        match Self::check(path) {
            Ok(()) => Ok(Self(path.to_owned())),
            Err(why) => Err(TreeError::path(path, why)),
        }
    }

    fn check(path: &str) -> Result<(), &'static str> {
        if path.len() > MAX_PATH_BYTES {
            return Err("it is longer than 4096 bytes");
        }
        if path.starts_with('/') {
            return Err("it is absolute");
        }
        if path.contains('\0') {
            return Err("it holds a NUL");
        }
        let mut depth = 0;
        for component in path.split('/') {
            match component {
                "" => return Err("it has an empty component"),
                "." | ".." => return Err("it has a component '.' or '..'"),
                _ if component.len() > MAX_COMPONENT_BYTES => {
                    return Err("a component is longer than 255 bytes");
                }
                _ => depth += 1,
            }
        }
        if depth > MAX_DEPTH { Err("it has more than 128 components") } else { Ok(()) }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many folders it lies below.
    fn parents(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'/').count()
    }

    /// Whether it lies below `folder`.
    fn is_below(&self, folder: &Self) -> bool {
        let rest = self.0.as_bytes().strip_prefix(folder.0.as_bytes());
        rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other) = (self.0.as_bytes(), other.0.as_bytes());
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        match one.iter().zip(other).position(|(a, b)| a != b) {
            // No component holds a NUL, so nothing else has the rank of the slash.
            Some(at) => rank(&one[at]).cmp(&rank(&other[at])),
            None => one.len().cmp(&other.len()),
        }
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File {
        /// The Blob with its content.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Whether it may be run.
        executable: bool,
    },
    /// A symbolic link: some `..`, as many as lead out of the member's folder at most to the root of the Tree, then
    /// names. No such link leads out of the Tree, whatever other links it passes through: the folder it starts from
    /// holds no link, since nothing lies below one; going up from there stays in the Tree; and every link that is
    /// met on the way down starts, in its turn, from a folder in the Tree and never goes up after having gone down.
    Symlink {
        /// Where it leads, relative to the folder that holds it.
        target: String,
    },
    /// A folder with nothing in it. Other folders are not listed.
    Directory,
}

/// One member of a Tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where.
    pub path: TreePath,
    /// What.
    pub kind: Kind,
}

const FILE: u64 = 0;
const EXECUTABLE: u64 = 1;
const SYMLINK: u64 = 2;
const DIRECTORY: u64 = 3;

impl Wire for Member {
    fn write(&self, to: &mut Writer) {
        let (len, kind) = match &self.kind {
            Kind::File { executable: false, .. } => (4, FILE),
            Kind::File { executable: true, .. } => (4, EXECUTABLE),
            Kind::Symlink { .. } => (3, SYMLINK),
            Kind::Directory => (2, DIRECTORY),
        };
        to.array(len);
        to.text(self.path.as_str());
        to.uint(kind);
        match &self.kind {
            Kind::File { digest, size, .. } => {
                digest.write(to);
                to.uint(*size);
            }
            Kind::Symlink { target } => to.text(target),
            Kind::Directory => {}
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let len = from.array(4)?;
        from.nested(|from| {
            let path = from.text(MAX_PATH_BYTES)?;
            TreePath::check(path).map_err(|why| from.invalid("the path of a member", why))?;
            let path = TreePath(path.to_owned());
            let kind = match (from.uint()?, len) {
                (kind @ (FILE | EXECUTABLE), 4) => {
                    let (digest, size) = (Digest::read(from)?, from.uint()?);
                    Kind::File { digest, size, executable: kind == EXECUTABLE }
                }
                (SYMLINK, 3) => Kind::Symlink { target: from.text(MAX_PATH_BYTES)?.to_owned() },
                (DIRECTORY, 2) => Kind::Directory,
                (FILE | EXECUTABLE | SYMLINK | DIRECTORY, _) => {
                    return Err(from.invalid("a member", "it has not the length of its kind"));
                }
                (variant, _) => return Err(from.fault(Fault::UnknownVariant { choice: "Member", variant })),
            };
            Ok(Self { path, kind })
        })
    }
}

impl Member {
    fn check(&self) -> Result<(), &'static str> {
        match &self.kind {
            Kind::File { size, .. } if *size > MAX_BLOB_BYTES => Err("its size is beyond 1 TiB"),
            Kind::Symlink { target } => check_target(target, self.path.parents()),
            Kind::File { .. } | Kind::Directory => Ok(()),
        }
    }
}

/// Whether a link `parents` folders deep may lead to `target`; see [`Kind::Symlink`].
fn check_target(target: &str, parents: usize) -> Result<(), &'static str> {
    if target.is_empty() || target.contains('\0') || target.len() > MAX_PATH_BYTES {
        return Err("its target is empty, holds a NUL or is longer than 4096 bytes");
    }
    if target.starts_with('/') {
        return Err("its target is absolute");
    }
    let (mut up, mut down) = (0, false);
    for component in target.split('/') {
        match component {
            ".." if down => return Err("its target goes up after having gone down"),
            ".." => up += 1,
            "" | "." => return Err("its target has an empty component or '.'"),
            _ => down = true,
        }
    }
    if up > parents { Err("its target lies outside the tree") } else { Ok(()) }
}

/// Why a Tree was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Not the encoding of a Tree.
    #[error("the tree is malformed: {0}")]
    Codec(#[from] CodecError),
    /// A path is not acceptable.
    #[error("the path {path:?} is not acceptable: {why}")]
    Path {
        /// The path, cut when it is very long.
        path: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A member is not acceptable.
    #[error("{path:?} is not acceptable: {why}")]
    Member {
        /// Its path.
        path: TreePath,
        /// The rule it breaks.
        why: &'static str,
    },
    /// Two members have one path.
    #[error("{0:?} is listed twice")]
    Twice(TreePath),
    /// The members are not sorted.
    #[error("{0:?} is out of order")]
    Order(TreePath),
    /// A member lies below another one that is no folder with members.
    #[error("{path:?} lies below {parent:?}, which is a file, a link, or listed as an empty folder")]
    BelowLeaf {
        /// The member.
        path: TreePath,
        /// The one above.
        parent: TreePath,
    },
    /// There are too many members.
    #[error("the tree has {0} members, at most {MAX_MEMBERS} are accepted")]
    TooMany(usize),
    /// The files or the list are too large.
    #[error("the tree is larger than {limit} bytes")]
    TooLarge {
        /// The cap.
        limit: u64,
    },
}

impl TreeError {
    fn path(path: &str, why: &'static str) -> Self {
        Self::Path { path: path.chars().take(200).collect(), why }
    }
}

/// A checked list of members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    members: Vec<Member>,
    total: u64,
}

impl Tree {
    /// Sorts and checks members.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn new(mut members: Vec<Member>) -> Result<Self, TreeError> {
        members.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        let tree = Self::checked(members)?;
        if tree.size_hint() > MAX_TREE_BYTES {
            return Err(TreeError::TooLarge { limit: MAX_TREE_BYTES as u64 });
        }
        Ok(tree)
    }

    /// Reads the Blob of a Tree.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let listed: Listed = decode(bytes, MAX_TREE_BYTES)?;
        Self::checked(listed.0)
    }

    fn checked(members: Vec<Member>) -> Result<Self, TreeError> {
        if members.len() > MAX_MEMBERS {
            return Err(TreeError::TooMany(members.len()));
        }
        let mut total: u64 = 0;
        for (index, member) in members.iter().enumerate() {
            member.check().map_err(|why| TreeError::Member { path: member.path.clone(), why })?;
            if let Some(before) = index.checked_sub(1).map(|before| &members[before]) {
                follows(&before.path, &member.path)?;
            }
            if let Kind::File { size, .. } = member.kind {
                total += size;
            }
            if total > MAX_BLOB_BYTES {
                return Err(TreeError::TooLarge { limit: MAX_BLOB_BYTES });
            }
        }
        Ok(Self { members, total })
    }

    /// An upper bound of the encoding's size in bytes.
    fn size_hint(&self) -> usize {
        let member = |member: &Member| match &member.kind {
            Kind::File { .. } => member.path.0.len() + 50,
            Kind::Symlink { target } => member.path.0.len() + target.len() + 10,
            Kind::Directory => member.path.0.len() + 6,
        };
        16 + self.members.iter().map(member).sum::<usize>()
    }

    /// The Blob of this Tree.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::with_capacity(self.size_hint());
        write_members(&self.members, &mut to);
        to.into_bytes()
    }

    /// The members, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member at a path.
    pub fn get(&self, path: &TreePath) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| member.path.cmp(path)).ok()?;
        Some(&self.members[at])
    }

    /// The size of all files in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Pairs of paths that a file system which does not tell upper from lower case, or composed from decomposed
    /// letters, would take for one: by canonical caseless matching (The Unicode Standard, section 3.13, D145). They
    /// are shown, not refused, since most file systems tell them apart. At most [`MAX_CLASHES`] are listed.
    pub fn case_clashes(&self) -> Vec<(&str, &str)> {
        let mut seen: HashMap<String, &str> = HashMap::new();
        let mut clashes = Vec::new();
        let mut before = "";
        for member in &self.members {
            let path = member.path.as_str();
            for prefix in new_prefixes(before, path) {
                match seen.entry(fold(prefix)) {
                    std::collections::hash_map::Entry::Occupied(other) if clashes.len() < MAX_CLASHES => {
                        clashes.push((*other.get(), prefix));
                    }
                    std::collections::hash_map::Entry::Occupied(_) => return clashes,
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(prefix);
                    }
                }
            }
            before = path;
        }
        clashes
    }
}

/// The folders of `path`, and itself, that `before` does not lie in.
fn new_prefixes<'a>(before: &str, path: &'a str) -> impl Iterator<Item = &'a str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).filter(move |prefix| {
        let shared = before.strip_prefix(*prefix).is_some_and(|rest| rest.starts_with('/'));
        !shared
    })
}

fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed: String = text.nfd().collect();
    UniCase::new(decomposed).to_folded_case().nfd().collect()
}

/// Whether `path` may come right after `before`.
fn follows(before: &TreePath, path: &TreePath) -> Result<(), TreeError> {
    match before.cmp(path) {
        Ordering::Equal => Err(TreeError::Twice(path.clone())),
        Ordering::Greater => Err(TreeError::Order(path.clone())),
        Ordering::Less if path.is_below(before) => {
            Err(TreeError::BelowLeaf { path: path.clone(), parent: before.clone() })
        }
        Ordering::Less => Ok(()),
    }
}

/// The encoding of a Tree: a record whose only field is the list of members; absent when there are none.
struct Listed(Vec<Member>);

fn write_members(members: &[Member], to: &mut Writer) {
    to.map(usize::from(!members.is_empty()));
    if !members.is_empty() {
        to.uint(1);
        to.array(members.len());
        members.iter().for_each(|member| member.write(to));
    }
}

impl Wire for Listed {
    fn write(&self, to: &mut Writer) {
        write_members(&self.0, to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        if from.map(1)? == 0 {
            return Ok(Self(Vec::new()));
        }
        from.nested(|from| {
            match from.uint()? {
                1 => {}
                field => return Err(from.fault(Fault::UnknownField { record: "Tree", field })),
            }
            let members = from.list(MAX_MEMBERS)?;
            if members.is_empty() {
                return Err(from.fault(Fault::NotCanonical { why: "an empty list is left out" }));
            }
            Ok(Self(members))
        })
    }
}

impl From<&Tree> for Digest {
    /// The name of the Tree's own Blob.
    fn from(tree: &Tree) -> Self {
        Self::of(&tree.encode())
    }
}

#[cfg(test)]
mod tests {
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
        for path in ["a", "...", "a..b", "a\\b", "ä/ö", &"x".repeat(255), &deep] {
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
        for (path, target) in [("l", "a"), ("a/l", ".."), ("a/l", "../b/c"), ("a/b/l", "../.."), ("l", "l")] {
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
            prop_assert!(bytes.len() <= tree.size_hint());
            prop_assert_eq!(&Tree::new(shuffled).unwrap().encode(), &bytes);
            prop_assert_eq!(&Tree::decode(&bytes).unwrap(), &tree);
            for len in 0..bytes.len() {
                prop_assert!(Tree::decode(&bytes[..len]).is_err());
            }
        }
    }
}
