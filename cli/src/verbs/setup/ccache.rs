// SPDX-License-Identifier: MIT OR Apache-2.0
//! ccache: `remote_storage` in the person's own settings, by the daemon's own socket where this ccache can. Its own disk cache stays before it.

use std::path::PathBuf;

use super::edit::{self, Edit};
use super::{Leads, Plan, Surroundings, Tool, served};
use crate::connect::says;
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "ccache", about: "what C and C++ compilers make", plan, leads: Some(leads) };

/// The first version that speaks with a daemon by a socket and no HTTP. Versions after 4.14 speak no HTTP by themselves any
/// more; and where the daemon does not run, a socket that is not there costs nothing.
const BY_SOCKET: (u32, u32) = (4, 13);
/// The variable that wins over the settings.
const STORAGE: &str = "CCACHE_REMOTE_STORAGE";

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "ccache")?;
    let socket = served::ccache(around)?;
    let says = says("ccache", &["--version"]);
    let modern = says.as_deref().and_then(version).is_some_and(|version| version >= BY_SOCKET);
    let ours = if modern { socket.as_ref().unwrap_or(&url) } else { &url };
    let path = file(around);
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), ours, &url)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed"))?;
    let mut notes = vec![
        "checkouts in different folders share what they compile when base_dir names their common folder and hash_dir is \
         false"
            .to_owned(),
    ];
    if around.env.contains_key(STORAGE) {
        notes.push(format!("{STORAGE} is set here, and wins over the settings: unset it"));
    }
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

/// The version that `ccache --version` tells: `ccache version 4.14.2`.
fn version(text: &str) -> Option<(u32, u32)> {
    let version = text.lines().next()?.strip_prefix("ccache version ")?;
    let mut parts = version.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    let first = |value: &str| {
        value.split(|letter: char| letter.is_whitespace() || letter == '|').next().map(str::to_owned)
    };
    if let Some(leads) = Leads::variable(around, STORAGE) {
        return Ok(Leads { to: leads.to.as_deref().and_then(first), ..leads });
    }
    let path = file(around);
    let text = edit::read(&path)?.unwrap_or_default();
    Ok(Leads::file(&path, storage(&text).and_then(|value| first(&value))))
}

/// The file that ccache reads, see "Configuration file locations" in its manual.
fn file(around: &Surroundings) -> PathBuf {
    let named = |name: &str| around.env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = named("CCACHE_CONFIGPATH") {
        return file;
    }
    if let Some(folder) = named("CCACHE_DIR") {
        return folder.join("ccache.conf");
    }
    let old = around.user.join(".ccache");
    if old.is_dir() {
        return old.join("ccache.conf");
    }
    let settings = named("XDG_CONFIG_HOME").unwrap_or_else(|| around.user.join(".config"));
    settings.join("ccache/ccache.conf")
}

/// What the settings name as the remote storage.
fn storage(text: &str) -> Option<String> {
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        ["remote_storage", "secondary_storage"].contains(&name.trim()).then(|| value.trim().to_owned())
    };
    text.lines().find_map(value).filter(|value| !value.is_empty())
}

/// The settings with our address as the remote storage, or as they are if they have that or the one by HTTP.
fn wired(text: &str, ours: &str, url: &str) -> Result<String, String> {
    let is_ours = |one: &str| one.split('|').next().is_some_and(|one| one == ours || one == url);
    match storage(text) {
        Some(value) if value.split_whitespace().any(is_ours) => Ok(text.to_owned()),
        Some(other) => {
            Err(format!("remote_storage is {other:?} already; put {ours} before or in place of it"))
        }
        None => {
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            Ok(format!("{text}{gap}remote_storage = {ours}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:7117/ccache";

    #[test]
    fn settings_gain_one_line_once() {
        for (text, expected) in [
            ("", "remote_storage = http://127.0.0.1:7117/ccache\n"),
            ("max_size = 5G", "max_size = 5G\nremote_storage = http://127.0.0.1:7117/ccache\n"),
            (
                "# remote_storage = x\n",
                "# remote_storage = x\nremote_storage = http://127.0.0.1:7117/ccache\n",
            ),
        ] {
            let settings = wired(text, URL, URL).unwrap();
            assert_eq!(settings, expected);
            assert_eq!(wired(&settings, URL, URL).unwrap(), settings, "twice is once");
        }
    }

    #[test]
    fn another_storage_is_left_alone() {
        assert!(wired("remote_storage = redis://host\n", URL, URL).is_err());
        assert!(wired("secondary_storage=http://host\n", URL, URL).is_err());
        let by_http = format!("remote_storage = {URL}|layout=flat\n");
        assert_eq!(wired(&by_http, "crsh:/potluck/ccache.sock", URL).unwrap(), by_http);
    }

    #[test]
    fn versions_that_speak_by_a_socket_are_known() {
        let of = |text: &str| version(text).map(|version| version >= BY_SOCKET);
        assert_eq!(of("ccache version 4.14.2\nFeatures: x\n"), Some(true));
        assert_eq!(of("ccache version 4.13\n"), Some(true));
        assert_eq!(of("ccache version 5.0-rc1\n"), Some(true));
        assert_eq!(of("ccache version 4.7.5\n"), Some(false));
        assert_eq!(of("something else 9.9\n"), None);
    }
}
