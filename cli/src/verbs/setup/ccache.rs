// SPDX-License-Identifier: MIT OR Apache-2.0
//! ccache: `remote_storage` in the person's own settings. Its own disk cache stays before it.

use std::path::PathBuf;

use super::edit::Edit;
use super::{Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const TOOL: Tool = Tool { name: "ccache", about: "what C and C++ compilers make, by HTTP", plan };

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "ccache")?;
    let path = file(around);
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), &url)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed"))?;
    let mut notes = vec![
        "checkouts in different folders share what they compile when base_dir names their common folder and hash_dir is \
         false"
            .to_owned(),
    ];
    if around.env.contains_key("CCACHE_REMOTE_STORAGE") {
        notes.push("CCACHE_REMOTE_STORAGE is set here, and wins over the settings: unset it".to_owned());
    }
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
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

/// The settings with our address as the remote storage.
fn wired(text: &str, url: &str) -> Result<String, String> {
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        ["remote_storage", "secondary_storage"].contains(&name.trim()).then(|| value.trim().to_owned())
    };
    match text.lines().find_map(value).filter(|value| !value.is_empty()) {
        Some(value) if value.split_whitespace().any(|one| one.split('|').next() == Some(url)) => {
            Ok(text.to_owned())
        }
        Some(other) => {
            Err(format!("remote_storage is {other:?} already; put {url} before or in place of it"))
        }
        None => {
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            Ok(format!("{text}{gap}remote_storage = {url}\n"))
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
            let settings = wired(text, URL).unwrap();
            assert_eq!(settings, expected);
            assert_eq!(wired(&settings, URL).unwrap(), settings, "twice is once");
        }
    }

    #[test]
    fn another_storage_is_left_alone() {
        assert!(wired("remote_storage = redis://host\n", URL).is_err());
        assert!(wired("secondary_storage=http://host\n", URL).is_err());
    }
}
