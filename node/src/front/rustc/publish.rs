// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a successful compilation made, checked and offered to the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use potluck_protocol::action::Recipe;
use potluck_protocol::codec::Text;
use potluck_protocol::entry::{Labels, Output, Taint, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree, TreeError, TreePath};

use super::compile::Ran;
use super::key::RECIPE;
use super::place::Place;
use super::reads::{Needs, Unfit};
use super::restore::{MAX_OUTPUT, UNFINISHED};
use super::script::KEPT;
use super::shim::{Gathered, State, is_builder};
use super::sources::Uncovered;
use super::unit::Unit;
use super::{Call, Placed, externs, macros, notice, worth};
use crate::cache::{Cache, CacheError, Publication};
use crate::front::patience::{Patience, Waited, patiently};
use crate::observe::clock;
use crate::relocate::depinfo::DepInfo;
use crate::relocate::scan;
use crate::relocate::token::Spelling;

/// How long publishing may take before the daemon is asked whether it is alive, and for the answer to that.
const GRACE: Duration = Duration::from_secs(1);
/// What the user's own folder is called where it is found.
const HOME: &str = "home";
/// The member of a Tree that is the list of what was read.
pub(super) const LIST: &str = "reads";
/// Files of a wrapper that was killed are removed after this time.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// Why a compiled unit was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Unpublished {
    /// The compiler said more than is kept.
    #[error("it said too much")]
    Said,
    /// An output is missing, or there is one more than expected.
    #[error("the output '{0}' is missing or unexpected")]
    Outputs(String),
    /// An output cannot be read.
    #[error("cannot read an output: {0}")]
    Read(#[from] std::io::Error),
    /// The outputs are too large.
    #[error("the outputs are too large")]
    TooLarge,
    /// The dep-info is not what rustc writes.
    #[error("the dep-info is not understood")]
    DepInfo,
    /// The key does not hold all that was read.
    #[error(transparent)]
    Uncovered(#[from] Uncovered),
    /// A path of this machine is in an output.
    #[error("the {root} folder is named in {file}")]
    Leak {
        /// Which folder.
        root: &'static str,
        /// Which output.
        file: String,
    },
    /// What was read names a folder that what was made names as well.
    #[error("a folder of this machine is named in {0}, which it read, and in what it made")]
    Copied(String),
    /// It has taken in a library that the key does not hold.
    #[error("it took in {0}, which no argument names")]
    Unnamed(String),
    /// It only runs where this library is.
    #[error("it needs the library {0} of this system")]
    Needs(String),
    /// It is made again as fast as it is brought.
    #[error("linking it took {ms} ms for {bytes} bytes, which is hardly worth fetching")]
    NotWorth {
        /// What it cost, in milliseconds of a processor.
        ms: u128,
        /// How large it is.
        bytes: u64,
    },
    /// What it read makes no key.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The outputs make no Tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The door did not take it.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// It was waited for in vain.
    #[error(transparent)]
    Waited(#[from] Waited),
    /// This build has waited in vain before.
    #[error("the daemon took too long for this build before")]
    Tired,
    /// This program has a fault.
    #[error("the wrapper failed")]
    Fault,
}

/// A unit that was compiled.
pub(super) struct Compiled<'a> {
    pub(super) call: &'a Call,
    pub(super) placed: &'a Placed,
    pub(super) gathered: &'a Gathered,
    /// What others have found that it reads beside what its key holds.
    pub(super) known: Option<Needs>,
    pub(super) ran: Ran,
}

/// Under which key a unit is published.
struct Under {
    key: [u8; 32],
    /// The list that leads there, if it is new.
    list: Option<Vec<u8>>,
    state: Option<State>,
    taints: Vec<Taint>,
}

impl Under {
    /// The unit's own key.
    fn own(key: [u8; 32], taints: Vec<Taint>) -> Self {
        Self { key, list: None, state: None, taints }
    }
}

/// What was published.
pub(super) struct Published {
    pub(super) key: [u8; 32],
    pub(super) bytes: u64,
    /// What was read beside what the unit's own key holds.
    pub(super) state: Option<State>,
}

/// One file that will be a member.
#[derive(Debug)]
pub(super) struct Part {
    /// Its path in the Tree.
    pub(super) path: String,
    /// What is in it.
    pub(super) content: Content,
    /// Whether it may be run.
    pub(super) executable: bool,
}

/// What will be in a member.
#[derive(Debug)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The bytes of this file, which are never held as a whole.
    File(PathBuf),
    /// Nothing: it is an empty folder.
    Folder,
}

impl Part {
    /// A text.
    pub(super) fn text(path: impl Into<String>, text: Vec<u8>) -> Self {
        Self { path: path.into(), content: Content::Bytes(text), executable: false }
    }
}

/// Has something published, unless that holds up the build. Others are told when it does.
pub(super) async fn offered<C: Cache, T>(
    door: &C,
    call: &Call,
    work: impl Future<Output = Result<T, Unpublished>>,
) -> Result<T, Unpublished> {
    let longest = call.limits().publish.ok_or(Unpublished::Tired)?;
    let patience = Patience { first: GRACE, grace: GRACE, longest };
    let done = patiently(door, patience, work).await;
    done.inspect_err(|waited| call.note_stall(*waited))?
}

/// Has what was made claimed. cargo waits for this process and the disk for nobody: the daemon goes on by itself, except
/// where somebody vouches for what he makes and has to know.
pub(super) async fn hand_over<C: Cache>(
    door: &C,
    call: &Call,
    publication: Publication,
) -> Result<(), CacheError> {
    match is_builder(call) {
        true => door.publish(publication).await.map(drop),
        false => door.hand_over(publication).await,
    }
}

/// Writes the members and their Tree.
pub(super) async fn write_tree<C: Cache>(door: &C, parts: Vec<Part>) -> Result<TreeOutput, Unpublished> {
    let mut members = Vec::new();
    for Part { path, content, executable } in parts {
        let file = |(digest, size)| Kind::File { digest, size, executable };
        let kind = match content {
            Content::Bytes(bytes) => file(door.write(bytes.as_slice()).await?),
            Content::File(path) => file(door.write_file(fs::File::open(&path)?, &path).await?),
            Content::Folder => Kind::Directory,
        };
        members.push(Member { path: TreePath::new(&path)?, kind });
    }
    let tree = Tree::new(members)?;
    let (digest, size) = door.write(tree.encode().as_slice()).await?;
    Ok(TreeOutput { digest, size, members: tree.members().len() as u64, total: tree.total() })
}

/// Nothing when no folder of this machine is named in these parts.
pub(super) fn scan(parts: &[Part], marks: &[(&'static str, String)]) -> Result<(), Unpublished> {
    let paths: Vec<_> = marks.iter().map(|(_, path)| path.as_str()).collect();
    for Part { path, content, .. } in parts {
        let found = match content {
            Content::Bytes(bytes) => scan::find_in(bytes.as_slice(), &paths)?,
            Content::File(path) => scan::find_in(fs::File::open(path)?, &paths)?,
            Content::Folder => None,
        };
        if let Some(found) = found {
            let root = marks.iter().find(|(_, path)| path == found).map_or("", |(root, _)| root);
            return Err(Unpublished::Leak { root, file: path.clone() });
        }
    }
    Ok(())
}

/// What must not be found in anything that is published: folders of this machine.
pub(super) fn marks(call: &Call, place: &Place, sysroot: &Path) -> Vec<(&'static str, String)> {
    let roots =
        place.roots.iter().flat_map(|root| root.spellings.iter().map(|path| (root.name, path.clone())));
    let home = place.home.clone().map(|home| (HOME, home));
    let cargo = call.var("CARGO_HOME").filter(|home| home.len() > 1);
    let cargo = cargo.map(|home| ("cargo home", home.to_owned()));
    let sysroot = sysroot.to_str().filter(|path| path.matches('/').count() > 1);
    let sysroot = sysroot.map(|path| ("toolchain", path.to_owned()));
    roots.chain(home).chain(cargo).chain(sysroot).collect()
}

impl Compiled<'_> {
    /// Checks and publishes.
    pub(super) async fn publish<C: Cache>(&self, door: &C) -> Result<Published, Unpublished> {
        let parts = self.parts()?;
        self.is_worth()?;
        let under = self.under()?;
        offered(door, self.call, self.offer(door, under, parts)).await
    }

    /// The files that it is published as, each checked.
    pub(super) fn parts(&self) -> Result<Vec<Part>, Unpublished> {
        let (unit, roots) = (&self.placed.unit, &self.placed.place.roots);
        let (Some(stdout), Some(stderr)) = (&self.ran.stdout, &self.ran.stderr) else {
            return Err(Unpublished::Said);
        };
        let out_dir = self.call.cwd.join(&unit.out_dir);
        nothing_else(unit, &out_dir)?;
        let mut parts = Vec::new();
        for name in unit.outputs() {
            let path = out_dir.join(&name);
            let metadata = fs::symlink_metadata(&path).map_err(|_| Unpublished::Outputs(name.clone()))?;
            if !metadata.is_file() {
                return Err(Unpublished::Outputs(name));
            }
            if metadata.len() > MAX_OUTPUT {
                return Err(Unpublished::TooLarge);
            }
            let content = if name.ends_with(".d") {
                Content::Bytes(self.dep_info(fs::read(&path)?)?)
            } else {
                Content::File(path)
            };
            let executable = metadata.permissions().mode() & 0o100 != 0;
            parts.push(Part { path: format!("out/{name}"), content, executable });
        }
        let said = [("stdout", stdout, Spelling::Plain), ("stderr", stderr, Spelling::Json)];
        for (name, text, spelling) in said.into_iter().filter(|(_, text, _)| !text.is_empty()) {
            parts.push(Part::text(name, roots.encode(text, spelling)));
        }
        self.names_no_folder(&parts)?;
        let taken = externs::taken_in(self.call, self.placed)?;
        taken.map_or(Ok(parts), |library| Err(Unpublished::Unnamed(library)))
    }

    /// Nothing when no folder of this machine is named in what it made.
    fn names_no_folder(&self, parts: &[Part]) -> Result<(), Unpublished> {
        let mut marks = marks(self.call, &self.placed.place, &self.gathered.toolchain.sysroot);
        match scan(parts, &marks) {
            Err(Unpublished::Leak { root: HOME, .. }) if self.speaks_of_home() => {
                marks.retain(|(root, _)| *root != HOME);
                scan(parts, &marks)
            }
            other => other,
        }
    }

    /// Whether a home of one component, such as `/root`, stands in a text of a package that nobody edits: an example in
    /// camino's documentation has such a path, and is the same for everybody. Where nothing but the compiler can have run,
    /// the home itself has not come in beside it: each variable that the compiler reads is in the key, and all folders
    /// that it is given are marks of their own.
    fn speaks_of_home(&self) -> bool {
        let Placed { unit, place } = self.placed;
        let short = place.home.as_ref().filter(|home| home.matches('/').count() == 1);
        // As if it were edited: macros that a library hands on count here.
        let edited = Placed { unit: unit.clone(), place: Place { immutable: false, ..place.clone() } };
        let runs_alone = || externs::macros(self.call, &edited).is_ok_and(|macros| macros.is_empty());
        place.immutable
            && !self.gathered.is_watched(unit)
            && short.is_some_and(|home| self.gathered.sources.mention(home))
            && runs_alone()
    }

    /// The dep-info with tokens, after it has been found to list nothing that the key does not hold.
    fn dep_info(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Unpublished> {
        let roots = &self.placed.place.roots;
        let text = String::from_utf8(bytes).map_err(|_| Unpublished::DepInfo)?;
        let info = DepInfo::parse(&text).ok_or(Unpublished::DepInfo)?;
        self.gathered.sources.covers(&info, self.call, &self.placed.place)?;
        let encoded = info.encode(roots);
        if encoded.decode(roots).ok() != Some(info) {
            return Err(Unpublished::DepInfo);
        }
        Ok(encoded.emit().into_bytes())
    }

    /// Nothing when what was linked is to be kept.
    fn is_worth(&self) -> Result<(), Unpublished> {
        let (unit, cost) = (&self.placed.unit, self.ran.cost);
        if !unit.links() || !unit.kind.is_final() {
            return Ok(());
        }
        let out_dir = self.call.cwd.join(&unit.out_dir);
        let sizes = unit.outputs().into_iter().map(|name| fs::metadata(out_dir.join(name)));
        let bytes = sizes.map(|metadata| Ok(metadata?.len())).sum::<std::io::Result<u64>>()?;
        let threshold = worth::threshold(self.call.var(worth::VARIABLE));
        let not = || Unpublished::NotWorth { ms: cost.as_millis(), bytes };
        worth::is_worth(cost, bytes, threshold).then_some(()).ok_or_else(not)
    }

    /// The unit's own key, unless macros or a linker read more than that holds.
    fn under(&self) -> Result<Under, Unpublished> {
        let (key, unit) = (self.gathered.key, &self.placed.unit);
        if !self.gathered.is_watched(unit) {
            return Ok(Under::own(key, Vec::new()));
        }
        let Some(seen) = &self.ran.seen else {
            if !macros::is_known_unseen(unit, self.gathered.knows_linker) {
                return Err(Unfit::Unwatched.into());
            }
            self.runs_everywhere()?;
            let taint = || Taint::new(macros::UNWATCHED).expect("it is short");
            let taints = self.gathered.macros.then(taint).into_iter().collect();
            return Ok(Under::own(key, taints));
        };
        let scope = macros::scope(self.call, self.placed, &self.gathered.toolchain.sysroot);
        let mut needs = macros::needs(&scope, seen, (self.call, self.placed), self.gathered)?;
        if needs == Needs::default() && self.known.is_none() {
            return Ok(Under::own(key, Vec::new()));
        }
        if let Some(known) = &self.known {
            needs.names.extend(known.names.clone());
            needs.variables |= known.variables;
        }
        let list = needs.text();
        let known = self.known.as_ref() == Some(&needs);
        let state = scope.state(&needs)?;
        let key = macros::second_key(key, &state);
        Ok(Under { key, list: (!known).then_some(list), state: Some(state), taints: Vec::new() })
    }

    /// Nothing when what was linked needs no library that its key says nothing about.
    fn runs_everywhere(&self) -> Result<(), Unpublished> {
        let unit = &self.placed.unit;
        let linked =
            unit.outputs().into_iter().filter(|name| !name.ends_with(".d") && !name.ends_with(".rmeta"));
        for name in linked.filter(|_| unit.links()) {
            let bytes = fs::read(self.call.cwd.join(&unit.out_dir).join(name))?;
            if let Some(library) = needed(&bytes).find(|name| !is_everywhere(name)) {
                return Err(Unpublished::Needs(library.to_owned()));
            }
        }
        Ok(())
    }

    async fn offer<C: Cache>(
        &self,
        door: &C,
        under: Under,
        parts: Vec<Part>,
    ) -> Result<Published, Unpublished> {
        if under.key != self.gathered.key {
            let unit = &self.placed.unit;
            if !unit.links() {
                let list = macros::list_key(self.gathered.key);
                notice::tell_more(door, (self.call, unit), "reads", list).await;
            }
            notice::tell_more(door, (self.call, unit), "made", under.key).await;
        }
        if let Some(list) = under.list {
            let list = vec![Part::text(LIST, list)];
            scan(&list, &marks(self.call, &self.placed.place, &self.gathered.toolchain.sysroot))?;
            self.claim(door, (macros::list_key(self.gathered.key), Vec::new()), list).await?;
        }
        let Under { key, state, taints, .. } = under;
        let bytes = self.claim(door, (key, taints), parts).await?;
        Ok(Published { key, bytes, state })
    }

    async fn claim<C: Cache>(
        &self,
        door: &C,
        (key, taints): ([u8; 32], Vec<Taint>),
        parts: Vec<Part>,
    ) -> Result<u64, Unpublished> {
        let output = write_tree(door, parts).await?;
        let total = output.total;
        let (project, labels) = (self.call.project.clone(), self.labels());
        let (key, output) = (key.to_vec(), Output::Tree(output));
        let publication = Publication { project, recipe: recipe(), key, output, labels, taints };
        hand_over(door, self.call, publication).await?;
        Ok(total)
    }

    fn labels(&self) -> Labels {
        let target = self.placed.unit.target.as_deref().unwrap_or(self.gathered.toolchain.host());
        Labels {
            tool: Text::new("rustc"),
            toolchain: Text::new(self.gathered.toolchain.release()),
            platform: Text::new(target),
            cost_ms: u64::try_from(self.ran.cost.as_millis()).ok(),
        }
    }
}

/// The Recipe.
pub(super) fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a valid name")
}

/// What may be the name of a shared library that a linked file needs: the strings between zeros that look like one.
fn needed(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let names = memchr::memmem::find_iter(bytes, b"\0lib").filter_map(|at| {
        let name = &bytes[at + 1..];
        str::from_utf8(&name[..memchr::memchr(0, name)?]).ok()
    });
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    names.filter(move |name| {
        (name.ends_with(".so") || name.contains(".so.")) && name.len() < 256 && name.bytes().all(plain)
    })
}

/// Whether a library comes with the compiler, or is the C library, which is in the key.
fn is_everywhere(library: &str) -> bool {
    let name = library.split_once(".so").map_or(library, |(name, _)| name);
    let system = ["libc", "libm", "libdl", "librt", "libpthread", "libutil", "libgcc_s"];
    system.contains(&name) || ["libstd-", "librustc_driver-"].iter().any(|own| name.starts_with(own))
}

/// A file of the unit that is none of its outputs, such as debug information apart, would be missing after a hit.
fn nothing_else(unit: &Unit, out_dir: &Path) -> Result<(), Unpublished> {
    let (stem, outputs) = (unit.stem(), unit.outputs());
    let named = |name: &str| outputs.iter().any(|own| own == name);
    for entry in fs::read_dir(out_dir)? {
        let entry = entry?;
        let name = entry.file_name().display().to_string();
        if name.starts_with(UNFINISHED) {
            sweep(&entry);
        }
        // A build script that goes by way of this program has the real one beside it.
        let own = unit.is_own(&name) && !KEPT.iter().any(|kept| name.strip_suffix(kept) == Some(&stem));
        // What `cargo check` and `cargo build` make of one unit may lie side by side.
        let sibling = name.ends_with(".rmeta") || name.ends_with(".rlib");
        if own && !sibling && !named(&name) {
            return Err(Unpublished::Outputs(name));
        }
    }
    Ok(())
}

/// Removes a half-written file that nobody can be writing any more.
fn sweep(entry: &fs::DirEntry) {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    if modified.is_ok_and(|at| clock::now().since(at.into()) > LEFT_BEHIND) {
        let _ = fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_are_not_everywhere_are_noticed() {
        let bytes =
            b"\0libc.so.6\0libssl.so.3\0lib/x.so\0library\0mylibx.so\0libstd-12.so\0libgcc_s.so.1\0libz.so\0";
        assert_eq!(
            needed(bytes).filter(|name| !is_everywhere(name)).collect::<Vec<_>>(),
            ["libssl.so.3", "libz.so"]
        );
    }
}
