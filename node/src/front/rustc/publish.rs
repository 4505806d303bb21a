// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a successful compilation made, checked and offered to the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use potluck_protocol::action::Recipe;
use potluck_protocol::codec::Text;
use potluck_protocol::entry::{Labels, Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree, TreeError, TreePath};

use super::compile::Ran;
use super::key::RECIPE;
use super::restore::{MAX_OUTPUT, UNFINISHED};
use super::sources::{Sources, Uncovered};
use super::toolchain::Toolchain;
use super::unit::Unit;
use super::{Call, Placed};
use crate::cache::{Cache, CacheError, Publication};
use crate::front::patience::{Patience, patiently};
use crate::observe::clock;
use crate::relocate::depinfo::DepInfo;
use crate::relocate::scan;
use crate::relocate::token::Spelling;

/// How long publishing may hold up the build.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(1),
    grace: Duration::from_secs(1),
    longest: Duration::from_secs(20),
};
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
    /// It only runs where this library is.
    #[error("it needs the library {0} of this system")]
    Needs(String),
    /// The outputs make no Tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The door did not take it.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// It took too long.
    #[error("publishing took too long")]
    Late,
    /// This program has a fault.
    #[error("the wrapper failed")]
    Fault,
}

/// A unit that was compiled.
pub(super) struct Compiled<'a> {
    pub(super) call: &'a Call,
    pub(super) placed: &'a Placed,
    pub(super) sources: &'a Sources,
    pub(super) toolchain: &'a Toolchain,
    pub(super) key: [u8; 32],
    pub(super) ran: Ran,
}

/// One file that will be a member: path, content, whether it may be run.
pub(super) type Part = (String, Vec<u8>, bool);

impl Compiled<'_> {
    /// Checks and publishes; gives the size of what was.
    pub(super) async fn publish<C: Cache>(&self, door: &C) -> Result<u64, Unpublished> {
        let parts = self.parts()?;
        patiently(door, PATIENCE, self.offer(door, parts)).await.ok_or(Unpublished::Late)?
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
            let mut bytes = fs::read(&path)?;
            if name.ends_with(".d") {
                bytes = self.dep_info(bytes)?;
            } else if unit.kind.links()
                && !name.ends_with(".rmeta")
                && let Some(library) = needed(&bytes).find(|name| !is_everywhere(name))
            {
                return Err(Unpublished::Needs(library.to_owned()));
            }
            parts.push((format!("out/{name}"), bytes, metadata.permissions().mode() & 0o100 != 0));
        }
        let said = [("stdout", stdout, Spelling::Plain), ("stderr", stderr, Spelling::Json)];
        for (name, text, spelling) in said.into_iter().filter(|(_, text, _)| !text.is_empty()) {
            parts.push((name.to_owned(), roots.encode(text, spelling), false));
        }
        for (name, bytes, _) in &parts {
            self.scan(name, bytes)?;
        }
        Ok(parts)
    }

    /// The dep-info with tokens, after it has been found to list nothing that the key does not hold.
    fn dep_info(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Unpublished> {
        let roots = &self.placed.place.roots;
        let text = String::from_utf8(bytes).map_err(|_| Unpublished::DepInfo)?;
        let info = DepInfo::parse(&text).ok_or(Unpublished::DepInfo)?;
        self.sources.covers(&info, self.call, &self.placed.place)?;
        let encoded = info.encode(roots);
        if encoded.decode(roots).ok() != Some(info) {
            return Err(Unpublished::DepInfo);
        }
        Ok(encoded.emit().into_bytes())
    }

    fn scan(&self, name: &str, bytes: &[u8]) -> Result<(), Unpublished> {
        let place = &self.placed.place;
        let roots =
            place.roots.iter().flat_map(|root| root.spellings.iter().map(|path| (root.name, path.as_str())));
        let home = place.home.as_deref().map(|home| ("home", home));
        let cargo =
            self.call.var("CARGO_HOME").filter(|home| home.len() > 1).map(|home| ("cargo home", home));
        let sysroot = self.toolchain.sysroot.to_str().filter(|path| path.matches('/').count() > 1);
        let sysroot = sysroot.map(|path| ("toolchain", path));
        for (root, path) in roots.chain(home).chain(cargo).chain(sysroot) {
            if scan::find(bytes, path).is_some() {
                return Err(Unpublished::Leak { root, file: name.to_owned() });
            }
        }
        Ok(())
    }

    async fn offer<C: Cache>(&self, door: &C, parts: Vec<Part>) -> Result<u64, Unpublished> {
        let mut members = Vec::new();
        for (path, bytes, executable) in parts {
            let (digest, size) = door.write(bytes.as_slice()).await?;
            members
                .push(Member { path: TreePath::new(&path)?, kind: Kind::File { digest, size, executable } });
        }
        let tree = Tree::new(members)?;
        let (digest, size) = door.write(tree.encode().as_slice()).await?;
        let (members, total) = (tree.members().len() as u64, tree.total());
        let publication = Publication {
            project: self.call.project.clone(),
            recipe: recipe(),
            key: self.key.to_vec(),
            output: Output::Tree(TreeOutput { digest, size, members, total }),
            labels: self.labels(),
            taints: Vec::new(),
        };
        door.publish(publication).await?;
        Ok(total)
    }

    fn labels(&self) -> Labels {
        let target = self.placed.unit.target.as_deref().unwrap_or(self.toolchain.host());
        Labels {
            tool: Text::new("rustc"),
            toolchain: Text::new(self.toolchain.release()),
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
    for entry in fs::read_dir(out_dir)? {
        let entry = entry?;
        let name = entry.file_name().display().to_string();
        if name.starts_with(UNFINISHED) {
            sweep(&entry);
        }
        let own = name
            .strip_prefix("lib")
            .unwrap_or(&name)
            .strip_prefix(&stem)
            .or_else(|| name.strip_prefix(&stem));
        let own = own.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        // What `cargo check` and `cargo build` make of one unit may lie side by side.
        let sibling = name.ends_with(".rmeta") || name.ends_with(".rlib");
        if own && !sibling && !outputs.contains(&name) {
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
