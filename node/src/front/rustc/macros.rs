// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the compiler read while it ran code of others: procedural macros may read what they like, and tell nobody; and a
//! linker reads what the system has, and what it is told to.
//!
//! A unit that loads macros is watched, and so is one that is linked. What it read and its key holds already is left out; where anything remains, the
//! unit gets a second key, over the first and over what the names that remain hold here, in the way of build scripts
//! ([`super::script`]). Where it could not be watched, the Entry says so by a taint, and the policy decides.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Placed;
use super::key::Framed;
use super::map::links_plainly;
use super::reads::{Needs, Scope, Unfit};
use super::shim::Gathered;
use super::unit::Unit;
use super::watch::seen::{FOLDER, Seen, Touched};
use super::{Call, sources};

/// What is admitted of a unit that was not watched.
pub(super) const UNWATCHED: &str = "unwatched";

/// Endings of libraries.
const LIBRARIES: &[&str] = &["a", "dll", "dylib", "lib", "rlib", "rmeta", "so"];

const LIST: &str = "potluck 2026 rustc@4 key of what a unit reads";
const SECOND: &str = "potluck 2026 rustc@4 second key of a unit";

/// Whether the key of a unit holds all that matters though nobody saw what it read: the linker that the system has, asked
/// for nothing in particular, is in it, and macros are admitted.
pub(super) fn is_known_unseen(unit: &Unit, knows_linker: bool) -> bool {
    let plain = knows_linker && !unit.kind.is_final() && links_plainly(&unit.codegen);
    unit.driver.is_none() && (!unit.links() || plain)
}

/// The key of the list of what a unit reads beside what its key holds.
pub(super) fn list_key(key: [u8; 32]) -> [u8; 32] {
    let mut to = Framed::new(LIST);
    to.field("key", [key]);
    to.end()
}

/// The key of a unit when what is on the list holds this.
pub(super) fn second_key(key: [u8; 32], state: &std::collections::BTreeMap<String, Vec<u8>>) -> [u8; 32] {
    let mut to = Framed::new(SECOND);
    to.field("key", [key]);
    to.field("state", state.iter().flat_map(|(name, held)| [name.as_bytes(), held.as_slice()]));
    to.end()
}

/// The surroundings of a unit.
pub(super) fn scope<'a>(call: &'a Call, placed: &Placed, sysroot: &Path) -> Scope<'a> {
    let mut scope = Scope::new(call, &placed.place);
    scope.apart.extend(built(call, placed));
    scope.apart.push(sysroot.to_path_buf());
    scope
}

/// The folders in which a build's own libraries lie, and what the unit makes: all that is read there is in the key.
fn built(call: &Call, placed: &Placed) -> Vec<PathBuf> {
    let unit = &placed.unit;
    let libraries = unit.search.iter().filter(|(kind, _)| kind == "dependency").map(|(_, folder)| folder);
    let folders = std::iter::once(&unit.out_dir).chain(libraries).map(|folder| call.cwd.join(folder));
    // The system tells real paths where a program goes by its working folder.
    folders.flat_map(|folder| [fs::canonicalize(&folder).ok(), Some(folder)]).flatten().collect()
}

/// What it read that its key does not hold.
pub(super) fn needs(
    scope: &Scope<'_>,
    seen: &Seen,
    (call, placed): (&Call, &Placed),
    gathered: &Gathered,
) -> Result<Needs, Unfit> {
    let links = placed.unit.links();
    if links {
        nothing_unknown(seen, placed, &built(call, placed), gathered)?;
    }
    let searched = searched(call, placed);
    let covered = |path: &Path, touched: &Touched| {
        let shared = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(".so"));
        // What macros and the compiler itself are loaded with; for a linker, libraries are what it is about.
        let loaded = shared && !links && (sources::is_system(path) || touched.stamp.is_none());
        // The compiler lists these, and asks in each for the libraries that it wants; the key has those that it finds.
        let library = path.extension().is_some_and(|ending| LIBRARIES.iter().any(|own| ending == *own));
        let missing = library && touched.stamp.is_none();
        let asked = |folder: &PathBuf| path == folder || (missing && path.parent() == Some(folder));
        loaded
            || (!links && searched.iter().any(asked))
            || holds(gathered, path)
            || gathered.sources.holds(path, touched)
    };
    scope.needs(seen, covered)
}

/// The folders in which a compiler looks for native libraries, by all their names.
fn searched(call: &Call, placed: &Placed) -> Vec<PathBuf> {
    let folders = placed.unit.search.iter().map(|(_, folder)| call.cwd.join(folder));
    folders.flat_map(|folder| [fs::canonicalize(&folder).ok(), Some(folder)]).flatten().collect()
}

/// Whether a file is a library whose content is in the key. The metadata beside a library is that of the library: the
/// compiler takes the two together only where their hashes of the crate are the same.
fn holds(gathered: &Gathered, path: &Path) -> bool {
    let known = |path: &Path| {
        let metadata = path.extension().is_some_and(|ending| ending == "rmeta");
        gathered.libraries.contains(path)
            || (metadata && gathered.libraries.contains(&path.with_extension("rlib")))
    };
    known(path) || fs::canonicalize(path).is_ok_and(|real| known(&real))
}

/// Where this build's own libraries lie, a linker has read only those that are in the key, and what the unit itself is
/// made of.
fn nothing_unknown(
    seen: &Seen,
    placed: &Placed,
    folders: &[PathBuf],
    gathered: &Gathered,
) -> Result<(), Unfit> {
    for (name, touched) in &seen.names {
        let path = Path::new(name);
        let file = touched.stamp.as_deref().is_some_and(|stamp| stamp != FOLDER);
        let built = folders.iter().any(|own| path.starts_with(own));
        if !file || !touched.read || touched.made || !built {
            continue;
        }
        let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !placed.unit.is_own(own)
            && !is_between(path)
            && !holds(gathered, path)
            && !is_variant(own, &gathered.libraries)
        {
            return Err(Unfit::Unknown(name.clone()));
        }
    }
    Ok(())
}

/// Whether it lies in a folder that the compiler makes for what it hands to the linker, and removes: its name is new each
/// time.
fn is_between(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let new = folder.and_then(|folder| folder.strip_prefix("rustc"));
    new.is_some_and(|new| new.len() == 6 && new.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Whether it is a procedural macro of which another variant is in the key, such as that of another profile. The compiler
/// takes one by its hash, and looks into all of that name before; none of them becomes a part of what is linked.
fn is_variant(name: &str, libraries: &BTreeSet<PathBuf>) -> bool {
    let plain = |name: &str| {
        let (plain, suffix) = name.strip_suffix(".so")?.rsplit_once('-')?;
        let hashed = suffix.len() == 16 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit());
        hashed.then(|| plain.to_owned())
    };
    let Some(wanted) = plain(name) else { return false };
    let known = libraries.iter().filter_map(|path| plain(path.file_name()?.to_str()?));
    known.into_iter().any(|known| known == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_compiler_hands_to_the_linker_lies_in_a_folder_of_its_own() {
        for (path, expected) in [
            ("/t/deps/rustcAb12Cd/symbols.o", true),
            ("/t/deps/rustcAb12Cd/more/symbols.o", false),
            ("/t/deps/rustc/symbols.o", false),
            ("/t/deps/rustc-a1b2c/symbols.o", false),
            ("/t/deps/libx.rlib", false),
        ] {
            assert_eq!(is_between(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn another_variant_of_a_macro_is_no_unknown_library() {
        let known = ["/t/deps/libspice-0123456789abcdef.so", "/t/deps/libdish-0123456789abcdef.rlib"];
        let known = known.map(PathBuf::from).into();
        for (name, expected) in [
            ("libspice-fedcba9876543210.so", true),
            ("libspice-fedcba9876543210.rlib", false),
            ("libspice-other.so", false),
            ("libspice.so", false),
            ("libdish-fedcba9876543210.so", false),
            ("libsalt-fedcba9876543210.so", false),
        ] {
            assert_eq!(is_variant(name, &known), expected, "{name}");
        }
    }
}
