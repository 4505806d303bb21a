// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Project something is built in: the nearest `potluck.toml` says so.

use std::ffi::OsString;
use std::path::Path;

use potluck_keys::ring;
use potluck_protocol::action::Project;
use serde::Deserialize;

/// Largest potluck.toml that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// What a repository says about itself. It can name its Project; it can neither add trust nor share anything.
#[derive(Debug, Deserialize)]
struct Named {
    project: Option<String>,
}

/// The Project that the nearest `potluck.toml` at or above `folder` names. A file that makes no sense names none, and
/// ends the search: the folders above it are somebody else's.
pub fn nearest(folder: &Path) -> Option<Project> {
    let file = folder.ancestors().map(|folder| folder.join("potluck.toml")).find(|path| path.is_file())?;
    let text = String::from_utf8(ring::read(&file, MAX_BYTES).ok()?).ok()?;
    let named: Named = toml::from_str(&text).ok()?;
    Project::new(&named.project?).ok()
}

/// The Project of a call of rustc by cargo: that of the folder above the target folder, or of the working folder. The
/// sources of a package from a registry have no say: cargo compiles them from their own folder, which is a stranger's.
pub fn of_build(args: &[OsString], cwd: &Path) -> Project {
    let mut args = args.iter();
    let out_dir = args.find(|arg| *arg == "--out-dir").and_then(|_| args.next());
    let by_target = out_dir.and_then(|dir| nearest(&cwd.join(dir)));
    let foreign = |cwd: &Path| {
        let parts: Vec<_> = cwd.iter().collect();
        parts.windows(2).any(|two| two == ["registry", "src"] || two == ["git", "checkouts"])
    };
    let by_cwd = || (!foreign(cwd)).then(|| nearest(cwd)).flatten();
    by_target.or_else(by_cwd).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_file_names_the_project_and_strangers_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let stranger = folder.path().join("cargo/registry/src/index/serde-1.0.0");
        for path in [work.join("target/debug/deps"), work.join("sub"), stranger.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(work.join("potluck.toml"), "project = \"acme/web\"\n").unwrap();
        fs::write(stranger.join("potluck.toml"), "project = \"stolen\"\n").unwrap();
        let args = |dir: &str| [OsString::from("--out-dir"), work.join(dir).into_os_string()];
        let acme = Project::new("acme/web").unwrap();
        assert_eq!(of_build(&args("target/debug/deps"), &stranger), acme);
        assert_eq!(of_build(&[], &work.join("sub")), acme);
        assert_eq!(of_build(&[], &stranger), Project::default());
        fs::write(work.join("sub/potluck.toml"), "project = \"../x\"").unwrap();
        assert_eq!(of_build(&[], &work.join("sub")), Project::default());
    }
}
