// SPDX-License-Identifier: MIT OR Apache-2.0
//! What cargo finds where it looks for a compiled build script: a few lines for the shell, by which the script runs by
//! way of potluck. The script itself lies beside them.
//!
//! The lines name no folder, so that they are equal everywhere, and run the script itself where potluck is not the
//! compiler's wrapper, is not installed any more, or is turned off.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::super::restore::beside;
use super::super::unit::{Kind, Unit};
use super::super::{Call, Placed};

/// How the names of the files end that lie beside a launcher: the script itself, and where it was compiled.
pub(in super::super) const KEPT: [&str; 2] = [REAL, PLACE];
const REAL: &str = ".real";
const PLACE: &str = ".place";
/// The first word of a launcher's call.
pub const SCRIPT: &str = "--potluck-script";

fn text(name: &str) -> String {
    format!(
        "#!/bin/sh\n\
         # A build script, by way of potluck where that is the compiler's wrapper. The script itself is {name}{REAL}.\n\
         real=\"${{0%/*}}/{name}{REAL}\"\n\
         case \"${{RUSTC_WRAPPER##*/}}\" in\n\
         potluck|potluck-rustc)\n\
         \tif [ \"${{POTLUCK_OFF-0}}\" = 0 ] && command -v \"$RUSTC_WRAPPER\" >/dev/null 2>&1; then\n\
         \t\texec \"$RUSTC_WRAPPER\" {SCRIPT} \"$real\" \"$@\"\n\
         \tfi\n\
         esac\n\
         exec \"$real\" \"$@\"\n"
    )
}

/// Puts a launcher in the place of a build script that has just been made. Whatever fails leaves the script there.
///
/// # Errors
/// When files cannot be written.
pub(in super::super) fn put(call: &Call, placed: &Placed) -> io::Result<()> {
    let unit = &placed.unit;
    let folder = call.cwd.join(&unit.out_dir);
    if !is_built_to_run(unit, &folder) {
        return Ok(());
    }
    let (name, made) = (unit.stem(), folder.join(unit.stem()));
    // For path packages cargo compiles in the workspace's folder, and runs in the package's.
    let workspace = if placed.place.immutable { None } else { call.cwd.to_str() };
    let mut place = beside(&folder, false)?;
    place.write_all(workspace.unwrap_or_default().as_bytes())?;
    place.persist(folder.join(format!("{name}{PLACE}")))?;
    let mut launcher = beside(&folder, true)?;
    launcher.write_all(text(&name).as_bytes())?;
    // Both names for a moment, so that there is never none.
    let real = folder.join(format!("{name}{REAL}"));
    let _ = fs::remove_file(&real);
    fs::hard_link(&made, &real).or_else(|_| fs::copy(&made, &real).map(drop))?;
    launcher.persist(&made)?;
    Ok(())
}

/// cargo makes build scripts in folders of their own below `build`; another program may have such a name as well, and the
/// folder for all that is built may be called `build`.
fn is_built_to_run(unit: &Unit, folder: &Path) -> bool {
    let is = |folder: &Path, name: &str| folder.file_name().is_some_and(|own| own == name);
    let below = folder.ancestors().skip(1).take(2).any(|above| is(above, "build"));
    unit.kind == Kind::BuildScript && below && !["deps", "examples"].iter().any(|name| is(folder, name))
}

/// The workspace for which a build script was compiled, if it is of one.
pub(super) fn workspace(real: &Path) -> Option<PathBuf> {
    let name = real.to_str()?.strip_suffix(REAL)?;
    let text = fs::read_to_string(format!("{name}{PLACE}")).ok()?;
    (!text.is_empty() && text.len() < 4096).then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_launcher_runs_the_script_itself_unless_potluck_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let launcher = write("build-script-build", &text("build_script_build-1"));
        write("build_script_build-1.real", "#!/bin/sh\necho \"itself $*\"; exit 3\n");
        let wrapper = write("potluck-rustc", "#!/bin/sh\necho \"${1} ${2##*/} $3\"\n");
        let run = |wrapper: Option<&Path>, off: &str| {
            let mut command = Command::new(&launcher);
            command.arg("a b").env_remove("RUSTC_WRAPPER").env("POTLUCK_OFF", off);
            wrapper.map(|wrapper| command.env("RUSTC_WRAPPER", wrapper));
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let itself = (Some(3), "itself a b\n".to_owned());
        assert_eq!(run(None, "0"), itself);
        assert_eq!(run(Some(&wrapper), "1"), itself);
        assert_eq!(run(Some(&wrapper), ""), itself);
        assert_eq!(run(Some(Path::new("/nowhere/potluck-rustc")), "0"), itself);
        assert_eq!(run(Some(Path::new("/bin/echo")), "0"), itself);
        let by_way = (Some(0), "--potluck-script build_script_build-1.real a b\n".to_owned());
        assert_eq!(run(Some(&wrapper), "0"), by_way);
    }
}
