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
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath(String);

/// As its text: it appears in what is said to people.
impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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

/// The order of paths: component by component, bytewise.
fn order(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    match one.iter().zip(other).position(|(a, b)| a != b) {
        // No component holds a NUL, so nothing else has the rank of the slash.
        Some(at) => rank(&one[at]).cmp(&rank(&other[at])),
        None => one.len().cmp(&other.len()),
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.0, &other.0)
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
    /// This holds where different paths are different files: see [`Tree::case_clashes`] for where they are not.
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
    /// Whether a Tree can hold it.
    ///
    /// # Errors
    /// [`TreeError::Member`].
    pub fn check(&self) -> Result<(), TreeError> {
        let checked = match &self.kind {
            Kind::File { size, .. } if *size > MAX_BLOB_BYTES => Err("its size is beyond 1 TiB"),
            Kind::Symlink { target } => check_target(target, self.path.parents()),
            Kind::File { .. } | Kind::Directory => Ok(()),
        };
        checked.map_err(|why| TreeError::Member { path: self.path.clone(), why })
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

/// Bytes of the shortest CBOR head that can carry `value` (RFC 8949 section 3).
fn head_bytes(value: u64) -> usize {
    match value {
        0..=0x17 => 1,
        0x18..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

fn string_bytes(text: &str) -> usize {
    head_bytes(text.len() as u64) + text.len()
}

/// A checked list of members.
///
/// Its Blob is deterministic CBOR (RFC 8949 section 4.2.1): the map `{1: [member, ...]}`, bytes `a1 01` and the array
/// of all members in order; without members it is the empty map, the single byte `a0`. Each member is an array:
///
/// | kind | member | first bytes |
/// |---|---|---|
/// | file | `[path, 0, digest, size]` | `84`, path, `00 58 20`, the 32 bytes of the Digest, size |
/// | file that may be run | `[path, 1, digest, size]` | `84`, path, `01 58 20`, the 32 bytes of the Digest, size |
/// | symbolic link | `[path, 2, target]` | `83`, path, `02`, target |
/// | empty folder | `[path, 3]` | `82`, path, `03` |
///
/// Paths and targets are text strings, sizes unsigned integers; all heads are the shortest possible.
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
        if tree.encoded_bytes() > MAX_TREE_BYTES {
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
            member.check()?;
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

    /// The length of the encoding in bytes, known without encoding.
    fn encoded_bytes(&self) -> usize {
        if self.members.is_empty() {
            return 1;
        }
        let digest = head_bytes(Digest::LEN as u64) + Digest::LEN;
        // The heads of the array and of the kind take a byte each.
        let member = |member: &Member| match &member.kind {
            Kind::File { size, .. } => 2 + string_bytes(&member.path.0) + digest + head_bytes(*size),
            Kind::Symlink { target } => 2 + string_bytes(&member.path.0) + string_bytes(target),
            Kind::Directory => 2 + string_bytes(&member.path.0),
        };
        2 + head_bytes(self.members.len() as u64) + self.members.iter().map(member).sum::<usize>()
    }

    /// The Blob of this Tree.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::with_capacity(self.encoded_bytes());
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

    /// How many of the members are files.
    pub fn files(&self) -> u64 {
        self.members.iter().filter(|member| matches!(member.kind, Kind::File { .. })).count() as u64
    }

    /// The size of all files in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Pairs of paths that a file system which does not tell upper from lower case, or composed from decomposed
    /// letters, would take for one: by canonical caseless matching (The Unicode Standard, section 3.13, D145). They
    /// are shown, not refused, since most file systems tell them apart. At most [`MAX_CLASHES`] are listed; memory is
    /// a small multiple of the Tree's.
    ///
    /// Such a file system would also merge a link with a folder: with `d/A` a link to `..`, the member `d/a/l` would
    /// be written outside of `d`, and if it is a link to `../..`, it would lead out of the Tree. Whoever writes a
    /// Tree to one must hence refuse clashes, or never pass through a link.
    pub fn case_clashes(&self) -> Vec<(&str, &str)> {
        // Sorted by their folded forms, the paths below one merged folder are neighbours, so that only the folders
        // which the last path lies in need to be kept. A table of all would be larger than the Tree by its depth.
        let paths = self.members.iter().map(|member| member.path.as_str());
        let mut rows: Vec<(String, &str)> = paths.map(|path| (fold(path), path)).collect();
        rows.sort_unstable_by(|one, other| order(&one.0, &other.0).then_with(|| order(one.1, other.1)));
        let mut open: Vec<Vec<&str>> = Vec::new();
        let mut clashes = Vec::new();
        let mut before = "";
        for (folded, path) in &rows {
            open.truncate(shared_components(before, folded));
            for (depth, spelling) in prefixes(path).enumerate() {
                match open.get_mut(depth) {
                    None => open.push(vec![spelling]),
                    Some(spellings) if spellings.contains(&spelling) => {}
                    Some(_) if clashes.len() == MAX_CLASHES => return clashes,
                    Some(spellings) => {
                        let first = spellings[0];
                        let in_order = order(first, spelling).is_lt();
                        clashes.push(if in_order { (first, spelling) } else { (spelling, first) });
                        spellings.push(spelling);
                    }
                }
            }
            before = folded;
        }
        clashes
    }
}

/// The folders that `path` lies in, outermost first, and itself.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| at).chain([path.len()]).map(|end| &path[..end])
}

/// How many components two paths have in common at their start.
fn shared_components(one: &str, other: &str) -> usize {
    one.split('/').zip(other.split('/')).take_while(|(one, other)| one == other).count()
}

/// The form that is equal for two paths just when they match caselessly. Components fold each by itself: no other
/// letter becomes a slash, and no mark is reordered across one.
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
mod tests;
