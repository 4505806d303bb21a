// SPDX-License-Identifier: MIT OR Apache-2.0
//! The linker by way of this program, so that it is watched and the compiler that calls it is not.
//!
//! The compiler tells what it reads, and asks the file system more than all else: watching that as well costs most of
//! what watching costs. Where no macro can run, only the linker reads of its own accord. A `Stand` is a folder with a
//! link of the name by which the compiler calls it; what is called there ([`link`]) has the linker watched, and leaves
//! a report beside the link.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use tempfile::TempDir;

use super::habit::Shape;
use super::shim::Gathered;
use super::unit::{Kind, Unit};
use super::watch::seen::Seen;
use super::{Call, compile, watch};

/// What the compiler calls the linker unless it is told otherwise: what such a name says of it stays as it is.
const NAME: &str = "cc";
/// How the name of the folder begins.
const FOLDER: &str = "potluck-link-";
/// How the name of a report begins.
const REPORT: &str = "seen-";
/// Options that change which linker it is or how it is called, and those with which the compiler itself reads what it
/// links.
const OTHERWISE: &[&str] = &["linker", "linker-flavor", "link-self-contained", "linker-plugin-lto"];

/// Whether nobody but the linker reads of its own accord while this is compiled.
pub(super) fn reads_alone(unit: &Unit, gathered: &Gathered) -> bool {
    let kind = matches!(unit.kind, Kind::Test | Kind::BuildScript)
        || ["bin", "proc-macro"].contains(&&*unit.crate_type);
    let host = gathered.toolchain.host();
    let own = host.ends_with("-linux-gnu") && unit.target.as_deref().is_none_or(|target| target == host);
    let usual = unit.codegen.iter().all(|(name, value)| match name.as_str() {
        "lto" => value.as_deref().is_some_and(|value| ["off", "no", "n", "false"].contains(&value)),
        name => !OTHERWISE.contains(&name),
    });
    // Others may hand on the macros of what they are built on.
    let macros =
        || gathered.libraries.iter().any(|path| path.extension().is_some_and(|ending| ending == "so"));
    // One that is not there, or is a script, is left to the compiler, and to whoever reads what it says about that.
    let known = gathered.knows_linker && own && usual;
    unit.links() && kind && known && unit.driver.is_none() && !gathered.macros && !macros()
}

/// What stands in the linker's place.
pub(super) struct Stand(TempDir);

impl Stand {
    /// A folder that only this user can reach.
    pub(super) fn new(call: &Call) -> io::Result<Self> {
        let this = call.this.as_ref().filter(|_| watch::is_possible()).ok_or(io::ErrorKind::Unsupported)?;
        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir()?;
        symlink(this, folder.path().join(NAME))?;
        Ok(Self(folder))
    }

    /// The flag by which the compiler calls it. No output says by what name the linker was called.
    pub(super) fn flag(&self) -> io::Result<String> {
        let path = self.0.path().to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        Ok(format!("-Clinker={path}/{NAME}"))
    }

    /// What the linker read, once the compiler has ended. Nothing where it was not watched.
    pub(super) fn seen(&self) -> Option<Seen> {
        let entries = fs::read_dir(self.0.path()).ok()?;
        let reports = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_report = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(REPORT.as_bytes()))
        };
        let reports: Vec<_> = reports.filter(is_report).collect();
        let mut seen = Seen::default();
        match reports.as_slice() {
            [] => return None,
            [report] => match fs::read(report).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
                Some(told) => seen = told,
                None => seen.miss("a report that is not whole"),
            },
            _ => seen.miss("a linker that was called more than once"),
        }
        Some(seen)
    }
}

/// The folder of a `Stand`, if this is the name of what is called there.
pub fn is_called(name: Option<&OsStr>) -> Option<PathBuf> {
    let path = Path::new(name?);
    let folder = path.parent().filter(|_| path.file_name().is_some_and(|own| own == NAME))?;
    let ours = folder.file_name()?.as_encoded_bytes().starts_with(FOLDER.as_bytes());
    (ours && folder.is_absolute()).then(|| folder.to_path_buf())
}

/// Runs the linker that stands where the compiler would have found one, watched; where it is known what it will read, or
/// watching is not possible, becomes it.
/// The first word of `call` is not used.
pub async fn link(mut call: Call, folder: &Path) -> ExitCode {
    match call.args.first_mut() {
        Some(name) => *name = NAME.into(),
        None => return ExitCode::from(2),
    }
    // A fault of this program must not become one of the linker.
    let known = || {
        let shape = Shape::of(&call)?;
        let seen = shape.recall(&call);
        Some((shape, seen))
    };
    let shape = match catch_unwind(AssertUnwindSafe(known)).ok().flatten() {
        Some((_, Some(seen))) if report(folder, Some(&seen)).is_ok() => return become_linker(&call),
        other => other.map(|(shape, _)| shape),
    };
    let outputs = [Stdio::inherit(), Stdio::inherit()];
    let Ok(started) = compile::watched(&call, &[], (watch::OF_LINKER[0], outputs)).await else {
        return become_linker(&call);
    };
    let Ok((status, seen)) = started.ended().await else { return ExitCode::FAILURE };
    if let Err(error) = report(folder, seen.as_ref()) {
        tracing::debug!(%error, "no report of the linker");
    }
    if let Some((shape, seen)) = shape.zip(seen).filter(|_| status.success()) {
        let _ = catch_unwind(AssertUnwindSafe(|| shape.keep(&call, &seen)));
    }
    compile::end_as(status)
}

/// Comes back only when it cannot be run.
fn become_linker(call: &Call) -> ExitCode {
    let error = compile::exec_itself(call);
    let _ = writeln!(io::stderr(), "potluck-rustc: cannot run {NAME}: {error}");
    ExitCode::from(126)
}

/// Says what was seen. Without a report that makes sense, nothing is kept of what was linked.
fn report(folder: &Path, seen: Option<&Seen>) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(REPORT).tempfile_in(folder)?;
    file.write_all(&seen.map(serde_json::to_vec).transpose()?.unwrap_or_default())?;
    file.keep().map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_called_in_such_a_folder_stands_for_the_linker() {
        for (name, folder) in [
            ("/tmp/potluck-link-a1/cc", Some("/tmp/potluck-link-a1")),
            ("/tmp/potluck-link-a1/ld", None),
            ("/tmp/potluck-watch-a1/cc", None),
            ("potluck-link-a1/cc", None),
            ("/usr/bin/cc", None),
            ("cc", None),
            ("", None),
        ] {
            assert_eq!(is_called(Some(OsStr::new(name))), folder.map(PathBuf::from), "{name}");
        }
        assert_eq!(is_called(None), None);
    }

    #[test]
    fn one_whole_report_says_what_was_read() {
        let stand = Stand(tempfile::tempdir().unwrap());
        assert_eq!(stand.seen(), None);
        let write = |name: &str, text: &[u8]| fs::write(stand.0.path().join(name), text).unwrap();
        let told = Seen { missed: Some("it".to_owned()), ..Seen::default() };
        write("seen-1", &serde_json::to_vec(&told).unwrap());
        assert_eq!(stand.seen(), Some(told));
        write("seen-1", b"{");
        assert!(stand.seen().is_some_and(|seen| seen.missed.is_some()));
        write("seen-2", b"");
        assert!(stand.seen().is_some_and(|seen| seen.missed.is_some()));
    }
}
