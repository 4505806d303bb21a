// SPDX-License-Identifier: MIT OR Apache-2.0
//! sccache: `cache.webdav` in the person's own settings.

use std::path::PathBuf;

use toml_edit::{DocumentMut, Item, Table, value};

use super::edit::{self, Edit};
use super::{Leads, Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "sccache", about: "what compilers make, by WebDAV", plan, leads: Some(leads) };

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "webdav")?;
    let path = file(around);
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), &url)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed"))?;
    let mut notes =
        vec!["`sccache --stop-server`, so that the next compilation reads the settings anew".to_owned()];
    let mut set: Vec<_> = around.env.keys().filter(|name| is_of_storage(name)).cloned().collect();
    set.sort_unstable();
    if let Some(name) = set.first() {
        notes.push(format!("{name} is set here, and wins over the settings: unset it"));
    }
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    if let Some(leads) = Leads::variable(around, "SCCACHE_WEBDAV_ENDPOINT") {
        return Ok(leads);
    }
    let path = file(around);
    let text = edit::read(&path)?.unwrap_or_default();
    let settings: Option<DocumentMut> = text.parse().ok();
    let to = settings.as_ref().and_then(|all| all.get("cache")?.get("webdav")?.get("endpoint")?.as_str());
    Ok(Leads::file(&path, to))
}

/// Whether a variable names where sccache keeps what it makes.
fn is_of_storage(name: &str) -> bool {
    ["BUCKET", "WEBDAV", "REDIS", "MEMCACHED", "GCS", "GHA", "AZURE", "OSS", "COS"]
        .iter()
        .any(|kind| name.strip_prefix("SCCACHE_").is_some_and(|rest| rest.starts_with(kind)))
}

fn file(around: &Surroundings) -> PathBuf {
    let named = |name: &str| around.env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = named("SCCACHE_CONF") {
        return file;
    }
    let settings = named("XDG_CONFIG_HOME").unwrap_or_else(|| around.user.join(".config"));
    settings.join("sccache/config")
}

/// The settings with our address as the WebDAV server.
fn wired(text: &str, url: &str) -> Result<String, String> {
    let mut settings: DocumentMut = text.parse().map_err(|error| format!("it is not understood: {error}"))?;
    let cache = settings.entry("cache").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let cache = cache.as_table_like_mut().ok_or("cache is no table")?;
    if let Some((other, _)) = cache.iter().find(|(name, _)| !["disk", "webdav"].contains(name)) {
        return Err(format!("cache.{other} is set, and sccache keeps to one of them: remove it first"));
    }
    let webdav = cache.entry("webdav").or_insert_with(|| Item::Table(Table::new()));
    let webdav = webdav.as_table_like_mut().ok_or("cache.webdav is no table")?;
    match webdav.get("endpoint").map(Item::as_str) {
        Some(Some(found)) if found == url => return Ok(text.to_owned()),
        Some(found) => {
            return Err(format!("cache.webdav.endpoint is {:?} already", found.unwrap_or_default()));
        }
        None => drop(webdav.insert("endpoint", value(url))),
    }
    Ok(settings.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:7117/webdav";

    #[test]
    fn settings_gain_a_server_once() {
        let fresh = wired("", URL).unwrap();
        assert_eq!(fresh, "[cache.webdav]\nendpoint = \"http://127.0.0.1:7117/webdav\"\n");
        assert_eq!(wired(&fresh, URL).unwrap(), fresh, "twice is once");
        let kept = wired("# mine\n[cache.disk]\nsize = 1\n", URL).unwrap();
        assert!(
            kept.starts_with("# mine\n[cache.disk]\nsize = 1\n") && kept.contains("[cache.webdav]\n"),
            "{kept}"
        );
    }

    #[test]
    fn what_is_set_otherwise_is_left_alone() {
        for text in [
            "[cache.redis]\nendpoint = \"x\"\n",
            "[cache.webdav]\nendpoint = \"http://other\"\n",
            "cache = 1\n",
            "[cache",
        ] {
            assert!(wired(text, URL).is_err(), "{text}");
        }
    }
}
