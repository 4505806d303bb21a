// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a unit lies: the folders that differ between checkouts, and the flags that keep them out of what is built.
//!
//! cargo runs rustc for path packages in the workspace's folder, and for all others in the package's own, with
//! absolute paths. The workspace of a registry crate is hence not known, and not needed either.

use std::fs;
use std::path::{Path, PathBuf};

use super::Call;
use super::unit::Unit;
use crate::relocate::token::{Root, Roots, Spelling};

/// The version of the set of remapped folders: part of the key.
pub const REMAP: &str = "1";

/// Where a unit lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folders that become tokens.
    pub roots: Roots,
    /// The package's folder, as cargo names it.
    pub package: PathBuf,
    /// Whether the package came from a registry or from git, so that nobody edits it.
    pub immutable: bool,
    /// The user's own folder, which must not be found in any output.
    pub home: Option<String>,
}

/// Why it is not known where a unit lies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// No package: not a call of cargo's.
    #[error("CARGO_MANIFEST_DIR is not set to an absolute path")]
    NoPackage,
    /// No folder above the output folder is marked as cargo's.
    #[error("no target folder was found above the output folder")]
    NoTarget,
    /// A path is not UTF-8, or the root of the file system.
    #[error("a folder of the unit has no usable path")]
    Path,
    /// A variable changes what a target's name means.
    #[error("{0} is set")]
    Variable(&'static str),
}

impl Place {
    /// Finds the folders of a unit.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn find(unit: &Unit, call: &Call) -> Result<Self, PlaceError> {
        // With it, the name of a target may stand for a file.
        if call.var("RUST_TARGET_PATH").is_some() {
            return Err(PlaceError::Variable("RUST_TARGET_PATH"));
        }
        let package = PathBuf::from(call.var("CARGO_MANIFEST_DIR").ok_or(PlaceError::NoPackage)?);
        if !package.is_absolute() {
            return Err(PlaceError::NoPackage);
        }
        let target = target_folder(&call.cwd.join(&unit.out_dir)).ok_or(PlaceError::NoTarget)?;
        let source = downloaded(&package, call);
        let mut roots = Vec::new();
        match &source {
            Some(folder) => roots.push(root("registry", folder)?),
            None => roots.push(root("workspace", &workspace_folder(&call.cwd, &package))?),
        }
        // rustc goes by the last pair that matches, and the target folder mostly lies in the workspace.
        roots.push(root("target", &target)?);
        Ok(Self { roots: Roots::new(roots), package, immutable: source.is_some(), home: home(call) })
    }

    /// Finds the folders of a run of a build script, which is of a workspace or from elsewhere.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn of_run(call: &Call, out_dir: &Path, workspace: Option<PathBuf>) -> Result<Self, PlaceError> {
        let package = PathBuf::from(call.var("CARGO_MANIFEST_DIR").ok_or(PlaceError::NoPackage)?);
        let target = target_folder(out_dir).ok_or(PlaceError::NoTarget)?;
        let source = downloaded(&package, call);
        let top = match (&source, workspace) {
            (Some(folder), _) => root("registry", folder)?,
            (None, Some(workspace)) => root("workspace", &workspace_folder(&workspace, &package))?,
            (None, None) => return Err(PlaceError::NoPackage),
        };
        let roots = Roots::new(vec![top, root("target", &target)?]);
        Ok(Self { roots, package, immutable: source.is_some(), home: home(call) })
    }

    /// What the compiler says, with the unit's own folders where it was told to call them otherwise: it then does so in
    /// diagnostics too, when the source has an absolute path.
    pub fn localize(&self, said: &[u8]) -> Vec<u8> {
        let mut said = said.to_vec();
        for root in self.roots.iter() {
            let neutral = format!("{}/", neutral(root));
            let mut local = Vec::with_capacity(said.len());
            let mut rest = said.as_slice();
            while let Some(at) = memchr::memmem::find(rest, neutral.as_bytes()) {
                local.extend_from_slice(&rest[..at]);
                local.extend_from_slice(&Spelling::Json.spell(&root.spellings[0]));
                local.push(b'/');
                rest = &rest[at + neutral.len()..];
            }
            local.extend_from_slice(rest);
            said = local;
        }
        said
    }

    /// Flags for rustc; they go before all others, so that the user's own win.
    pub fn flags(&self) -> Vec<String> {
        let of = |root: &Root| {
            let neutral = neutral(root);
            let flag = move |path: &String| format!("--remap-path-prefix={path}={neutral}");
            root.spellings.iter().map(flag).collect::<Vec<_>>()
        };
        self.roots.iter().flat_map(of).collect()
    }
}

fn home(call: &Call) -> Option<String> {
    let home = call.var("HOME").filter(|home| home.len() > 1 && home.starts_with('/'));
    home.map(|home| home.trim_end_matches('/').to_owned())
}

/// What a folder is called in all that is built.
fn neutral(root: &Root) -> String {
    format!("/potluck/{}", root.name)
}

fn root(name: &'static str, folder: &Path) -> Result<Root, PlaceError> {
    let spelled = folder.to_str().ok_or(PlaceError::Path)?.trim_end_matches('/');
    if spelled.is_empty() {
        return Err(PlaceError::Path);
    }
    let mut spellings = vec![spelled.to_owned()];
    let real = fs::canonicalize(folder).map_err(|_| PlaceError::Path)?;
    let real = real.to_str().ok_or(PlaceError::Path)?;
    if real != spelled {
        spellings.push(real.to_owned());
    }
    Ok(Root { name, spellings })
}

/// The working folder, as cargo names it: the system only tells its real path, while cargo names all others by the
/// links that it was called with.
fn workspace_folder(cwd: &Path, package: &Path) -> PathBuf {
    let named = || {
        let inner = fs::canonicalize(package).ok()?;
        let inner = inner.strip_prefix(fs::canonicalize(cwd).ok()?).ok()?;
        let top = package.ancestors().nth(inner.iter().count())?;
        package.ends_with(inner).then(|| top.to_path_buf())
    };
    let plain = package.starts_with(cwd);
    if plain { cwd.to_path_buf() } else { named().unwrap_or_else(|| cwd.to_path_buf()) }
}

/// The nearest folder that cargo has marked as its own.
pub(super) fn target_folder(out_dir: &Path) -> Option<PathBuf> {
    let marked =
        |folder: &&Path| ["CACHEDIR.TAG", ".rustc_info.json"].iter().any(|mark| folder.join(mark).is_file());
    out_dir.ancestors().find(marked).map(Path::to_path_buf)
}

/// Where cargo keeps what it has downloaded (The Cargo Book, "Cargo Home").
fn cargo_home(call: &Call) -> Option<PathBuf> {
    let set = call.var("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(Path::new(call.var("HOME")?).join(".cargo")))
}

/// The folder of one registry's sources, or of all checkouts of git, that a package lies in. What lies in folders of these
/// names elsewhere is somebody's work.
fn source_folder(package: &Path, home: &Path) -> Option<PathBuf> {
    let (registries, git) = (home.join("registry/src"), home.join("git/checkouts"));
    let below = |folder: &Path| package.strip_prefix(folder).map(|inner| inner.iter().collect::<Vec<_>>());
    match (below(&registries), below(&git)) {
        (Ok(inner), _) if inner.len() > 1 => Some(registries.join(inner[0])),
        (_, Ok(inner)) if !inner.is_empty() => Some(git),
        _ => None,
    }
}

/// The same for the home of a call, by whichever of its names.
fn downloaded(package: &Path, call: &Call) -> Option<PathBuf> {
    let home = cargo_home(call)?;
    source_folder(package, &home).or_else(|| source_folder(package, &fs::canonicalize(&home).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_show_the_folders_that_people_know() {
        let root = |name, path: &str| Root { name, spellings: vec![path.to_owned()] };
        let roots = Roots::new(vec![root("workspace", "/w \"x\""), root("target", "/t")]);
        let place = Place { roots, package: "/w".into(), immutable: false, home: None };
        let said = br#"{"file_name":"/potluck/workspace/src/lib.rs"} /potluck/target/x /potluck/targets /potluck/else/x"#;
        let local = br#"{"file_name":"/w \"x\"/src/lib.rs"} /t/x /potluck/targets /potluck/else/x"#;
        assert_eq!(place.localize(said), local);
    }

    #[test]
    fn sources_of_registries_and_git_are_known_by_their_folders() {
        for (package, folder) in [
            ("/c/registry/src/index-1/serde-1.0", Some("/c/registry/src/index-1")),
            ("/c/git/checkouts/x-1/abc/sub", Some("/c/git/checkouts")),
            ("/c/registry/src/index-1", None),
            ("/c/src/app", None),
            ("/w/registry/src/shop/app", None),
            ("/w/git/checkouts/shop/app", None),
        ] {
            assert_eq!(
                source_folder(Path::new(package), Path::new("/c")),
                folder.map(PathBuf::from),
                "{package}"
            );
        }
    }
}
