// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the compiler read while it ran code of others: procedural macros may read what they like, and tell nobody.
//!
//! A unit that loads macros is watched. What it read and its key holds already is left out; where anything remains, the
//! unit gets a second key, over the first and over what the names that remain hold here, in the way of build scripts
//! ([`super::script`]). Where it could not be watched, the Entry says so by a taint, and the policy decides.

use std::collections::BTreeSet;
use std::path::Path;

use super::Placed;
use super::key::Framed;
use super::reads::{Needs, Scope, Unfit};
use super::shim::Gathered;
use super::watch::seen::{Seen, Touched};
use super::{Call, sources};

/// What is admitted of a unit that was not watched.
pub(super) const UNWATCHED: &str = "unwatched";

const LIST: &str = "potluck 2026 rustc@2 key of what a unit reads";
const SECOND: &str = "potluck 2026 rustc@2 second key of a unit";

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
    // What it makes goes there, and the libraries that it reads there are in the key.
    scope.apart.push(call.cwd.join(&placed.unit.out_dir));
    // The system tells real paths where a program goes by its working folder.
    scope.apart.extend(std::fs::canonicalize(call.cwd.join(&placed.unit.out_dir)));
    scope.apart.push(sysroot.to_path_buf());
    scope.apart.extend(placed.unit.search.iter().map(|(_, folder)| call.cwd.join(folder)));
    scope
}

/// What it read that its key does not hold.
pub(super) fn needs(
    scope: &Scope<'_>,
    seen: &Seen,
    placed: &Placed,
    gathered: &Gathered,
) -> Result<Needs, Unfit> {
    let externs: BTreeSet<_> = placed.unit.externs.iter().filter_map(|one| one.path.as_deref()).collect();
    let links = placed.unit.kind.links();
    let covered = |path: &Path, touched: &Touched| {
        let is_extern = path.to_str().is_some_and(|path| externs.contains(path));
        let library =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(".so"));
        let systems = sources::is_system(path);
        // The linker and all that it takes from the system have an identity of their own, which is in the key.
        let linker = links && (systems || scope.is_program(path)) && !scope.is_strange(path, touched);
        is_extern
            || linker
            || (library && (systems || touched.stamp.is_none()))
            || gathered.sources.holds(path, touched)
    };
    scope.needs(seen, covered)
}
