// SPDX-License-Identifier: MIT OR Apache-2.0
//! cargo: what stands in its way to the cache, and a round trip that proves it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use potluck_node::front::rustc::diary::{self, Row};
use potluck_node::home::Home;

use super::Check;
use crate::connect::{daemon, wait};

pub(super) fn look(home: &Home) -> Vec<Check> {
    let mut checks = surroundings(home);
    match wait(async { Ok(daemon(home).await?.status().await?) }) {
        Ok(_) => checks.push(Check::good("daemon", "it answers")),
        Err(failure) => {
            checks.push(Check::failed("daemon", &failure));
            return checks;
        }
    }
    checks.push(round_trip(home).unwrap_or_else(|error| {
        Check::bad(
            "round trip",
            format!("it cannot be made: {error}"),
            "see whether `cargo build` works at all",
        )
    }));
    checks
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn surroundings(home: &Home) -> Vec<Check> {
    let mut checks = Vec::new();
    if var("POTLUCK_OFF").is_some_and(|off| off != "0") {
        checks.push(Check::bad(
            "POTLUCK_OFF",
            "it is set: everything is passed through",
            "unset POTLUCK_OFF",
        ));
    }
    for name in ["RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"] {
        let Some(wrapper) = var(name) else { continue };
        let path = Path::new(&wrapper);
        let ours = path.file_stem().is_some_and(|stem| stem == "potluck-rustc" || stem == "potluck");
        if !ours {
            let text = format!("{name} names {wrapper}, which wins over cargo's settings");
            checks.push(Check::bad(
                "wrapper",
                text,
                format!("unset {name}, or let `potluck setup cargo` put it behind"),
            ));
        } else if wrapper.contains('/') && !path.is_file() {
            checks.push(Check::bad(
                "wrapper",
                format!("{wrapper} is not there"),
                "install potluck, or mend the path",
            ));
        }
    }
    if var("CARGO_INCREMENTAL").is_none_or(|on| on != "0") {
        let text = "your own packages are compiled incrementally, which no cache can hold";
        checks.push(Check::fair("incremental", text, "CARGO_INCREMENTAL=0 shares them as well"));
    }
    if home.root().join("stalled").exists() {
        let text = "the daemon did not answer a build in time once";
        let hint =
            format!("rm {}, and see daemon.log if it comes back", home.root().join("stalled").display());
        checks.push(Check::fair("daemon", text, hint));
    }
    checks
}

/// Compiles a crate that nobody has compiled before, in two folders; the second time it has to come from the cache.
fn round_trip(home: &Home) -> std::io::Result<Check> {
    let folder = tempfile::tempdir()?;
    let unique = folder.path().display().to_string().len().to_string()
        + &folder.path().file_name().unwrap_or_default().display().to_string();
    let mut rows = Vec::new();
    for place in ["one", "another/place"] {
        let place = folder.path().join(place);
        fs::create_dir_all(place.join("src"))?;
        let manifest =
            "[package]\nname = \"potluck-doctor\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
        fs::write(place.join("Cargo.toml"), manifest)?;
        fs::write(place.join("src/lib.rs"), format!("pub const NAME: &str = {unique:?};\n"))?;
        let log = folder.path().join("log");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--offline", "--quiet"]).current_dir(&place).stdin(Stdio::null());
        cargo.env("CARGO_TARGET_DIR", place.join("target")).env("CARGO_INCREMENTAL", "0");
        cargo.env("POTLUCK_HOME", home.root()).env("POTLUCK_RUSTC_LOG", &log);
        // It is no build of the user's.
        cargo.env("POTLUCK_VERIFY", "");
        let ran = cargo.output()?;
        if !ran.status.success() {
            return Err(std::io::Error::other(String::from_utf8_lossy(&ran.stderr).trim().to_owned()));
        }
        let mut text = b"{}\n".to_vec();
        text.extend(fs::read(&log).unwrap_or_default());
        rows = diary::parse("", &text)
            .rows
            .into_iter()
            .filter(|row| row.crate_name == "potluck_doctor")
            .collect();
    }
    Ok(judge(&rows))
}

fn judge(rows: &[Row]) -> Check {
    let what = "round trip";
    match rows {
        [] => Check::bad(what, "cargo does not call potluck", "`potluck setup cargo` wires it up"),
        [first, second] if second.outcome == "restored" => Check::good(
            what,
            format!("compiled in {:.0} ms, and restored elsewhere in {:.0} ms", first.ms, second.ms),
        ),
        [first, ..] => {
            let last = rows.last().unwrap_or(first);
            let reason = last.reason.clone().or_else(|| first.reason.clone()).unwrap_or_default();
            let text = format!("the second time it was {}: {reason}", last.outcome);
            Check::bad(what, text, "`potluck why --last` tells more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;

    #[test]
    fn only_what_came_from_the_cache_is_a_proof() {
        let row = |outcome: &str| Row { outcome: outcome.to_owned(), ..Row::default() };
        assert_eq!(judge(&[row("compiled"), row("restored")]).health, Health::Good);
        assert_eq!(judge(&[]).health, Health::Bad);
        assert_eq!(judge(&[row("compiled"), row("compiled")]).health, Health::Bad);
        assert_eq!(judge(&[row("passed"), row("passed")]).health, Health::Bad);
    }
}
