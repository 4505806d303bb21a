// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nix: `extra-substituters` in the person's own settings, and this node's key among `extra-trusted-public-keys` where
//! the node signs.

use std::path::PathBuf;

use potluck_keys::nix::public_line;
use potluck_node::home::Home;

use super::edit::{self, Edit};
use super::{Leads, Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "nix", about: "paths of Nix stores, as a binary cache", plan, leads: Some(leads) };

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "nix")?;
    let home = Home::locate(Some(around.home.clone()))?;
    let signs = home.config()?.front.get("nix").is_some_and(|front| front.sign);
    let key = if signs { Some(public_line(&home.ring()?.show("me")?.public)) } else { None };
    let path = file(around);
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), &url, key.as_deref());
    let mut notes = vec![
        "where Nix has a daemon, it heeds this only of users whom trusted-users in its own settings names; \
         `nix copy --to "
            .to_owned()
            + &url
            + " PATH` gives",
    ];
    if !signs {
        notes.push(
            "Nix takes what is signed by keys that it trusts: name those of your builders in extra-trusted-public-keys, \
             or have this node sign what it believes (sign = true below [front.nix] in config.toml) and set up again"
                .to_owned(),
        );
    }
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

/// The file that Nix reads for this person.
fn file(around: &Surroundings) -> PathBuf {
    let named = |name: &str| around.env.get(name).filter(|value| !value.is_empty());
    if let Some(first) = named("NIX_USER_CONF_FILES").and_then(|files| files.split(':').next()) {
        return PathBuf::from(first);
    }
    let settings = named("XDG_CONFIG_HOME").map_or_else(|| around.user.join(".config"), PathBuf::from);
    settings.join("nix/nix.conf")
}

/// All that these settings name as this, in the order of their lines.
fn values<'a>(text: &'a str, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().filter_map(|line| line.split('#').next()?.split_once('='));
    lines.filter(|(name, _)| names.contains(&name.trim())).flat_map(|(_, value)| value.split_whitespace())
}

const CACHES: &[&str] = &["substituters", "extra-substituters"];
const KEYS: &[&str] = &["trusted-public-keys", "extra-trusted-public-keys"];

/// The settings with our cache, and our key if there is one. Each line adds to those before it.
fn wired(text: &str, url: &str, key: Option<&str>) -> String {
    let mut all = text.to_owned();
    for (names, wanted) in [(CACHES, Some(url)), (KEYS, key)] {
        let Some(wanted) = wanted.filter(|wanted| values(text, names).all(|one| one != *wanted)) else {
            continue;
        };
        if !all.is_empty() && !all.ends_with('\n') {
            all.push('\n');
        }
        all += &format!("{} = {wanted}\n", names[1]);
    }
    all
}

fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    let own = file(around);
    let system = around.env.get("NIX_CONF_DIR").map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
    for path in [&own, &system.join("nix.conf")] {
        let text = edit::read(path)?.unwrap_or_default();
        // Others are asked as well; which of them is this node is told by its address.
        if let Some(ours) =
            values(&text, CACHES).find(|url| url.contains("/nix") && url.starts_with("http://"))
        {
            return Ok(Leads::file(path, Some(ours)));
        }
    }
    Ok(Leads::file(&own, None::<String>))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://127.0.0.1:7117/nix";

    #[test]
    fn settings_gain_a_cache_and_a_key_once() {
        let fresh = wired("", OURS, Some("me-1:AAAA"));
        assert_eq!(fresh, format!("extra-substituters = {OURS}\nextra-trusted-public-keys = me-1:AAAA\n"));
        assert_eq!(wired(&fresh, OURS, Some("me-1:AAAA")), fresh, "twice is once");
        let kept = wired("substituters = https://cache.nixos.org # usual\nsandbox = true", OURS, None);
        assert_eq!(
            kept,
            format!(
                "substituters = https://cache.nixos.org # usual\nsandbox = true\nextra-substituters = {OURS}\n"
            )
        );
        let there = format!("substituters = a {OURS} b\n");
        assert_eq!(wired(&there, OURS, None), there);
    }
}
