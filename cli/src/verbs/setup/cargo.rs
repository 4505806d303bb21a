// SPDX-License-Identifier: MIT OR Apache-2.0
//! cargo: `build.rustc-wrapper` in the person's own settings. A cache that is the wrapper already is kept behind ours:
//! it gets what potluck does not have.

use std::path::{Path, PathBuf};

use potluck_node::home::Home;
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::edit::Edit;
use super::{Plan, Surroundings, Tool};
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "cargo", about: "what rustc makes, for every package", plan, leads: None };

/// Wrappers that do nothing but remember, so that it makes no difference to what is compiled whether they run.
const CACHES: &[&str] = &["sccache", "cachepot", "kache"];

/// The variable that names the wrapper behind ours.
const BEHIND: &str = "POTLUCK_RUSTC_BEHIND";

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let ours = around.programs.join("potluck-rustc");
    if !ours.is_file() {
        return Err(Failure::failed(format!("{} is not there", ours.display()))
            .hint("it is installed together with potluck: `cargo install --path cli`"));
    }
    let path = file(around);
    let usual = Home::locate(None)?;
    let home = (around.home != usual.root()).then_some(around.home.as_path());
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), (&ours, home), &path)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed"))?;
    let mut notes = Vec::new();
    for name in ["RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"] {
        if let Some(other) = around.env.get(name).filter(|other| !is_ours(other)) {
            notes.push(format!("{name} is set to {other:?} here, and wins over the settings: unset it"));
        }
    }
    if around.env.get("CARGO_INCREMENTAL").is_none_or(|on| on != "0") {
        notes.push(
            "your own packages are compiled incrementally in the dev profile, which no cache can hold: \
             CARGO_INCREMENTAL=0 shares them as well"
                .to_owned(),
        );
    }
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

/// The file that cargo reads: of both names, the older one wins.
fn file(around: &Surroundings) -> PathBuf {
    let home = around.env.get("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.unwrap_or_else(|| around.user.join(".cargo"));
    let old = home.join("config");
    if old.is_file() { old } else { home.join("config.toml") }
}

fn is_ours(wrapper: &str) -> bool {
    Path::new(wrapper).file_stem().is_some_and(|stem| stem == "potluck-rustc" || stem == "potluck")
}

/// The settings with our wrapper in them, and with the node's home when that is an unusual one.
fn wired(text: &str, (ours, home): (&Path, Option<&Path>), path: &Path) -> Result<String, String> {
    let ours = ours.to_str().ok_or("the path of potluck is not UTF-8")?;
    let mut settings: DocumentMut = text.parse().map_err(|error| format!("it is not understood: {error}"))?;
    let build = table(&mut settings, "build")?;
    let found = match build.get("rustc-wrapper") {
        None => None,
        Some(found) => Some(found.as_str().ok_or("build.rustc-wrapper is no text")?.to_owned()),
    };
    let behind = match found.filter(|found| !found.is_empty()) {
        Some(found) if is_ours(&found) => return Ok(text.to_owned()),
        Some(found) => Some(behind(&found, path)?),
        None => None,
    };
    set(build, "rustc-wrapper", ours);
    let home = home.map(|home| home.to_str().ok_or("the path of the home is not UTF-8")).transpose()?;
    for (name, text) in [(BEHIND, behind.as_deref()), ("POTLUCK_HOME", home)] {
        let Some(text) = text else { continue };
        let env = table(&mut settings, "env")?;
        if env.contains_key(name) {
            return Err(format!("env.{name} is set already"));
        }
        set(env, name, text);
    }
    let settings = settings.to_string();
    // The parser drops the other system's ends of lines.
    Ok(if text.contains("\r\n") { settings.replace('\n', "\r\n") } else { settings })
}

/// The wrapper that is there, as it can be run from anywhere.
fn behind(found: &str, path: &Path) -> Result<String, String> {
    let name = Path::new(found).file_stem().unwrap_or_default();
    if !CACHES.iter().any(|cache| name == *cache) {
        return Err(format!(
            "build.rustc-wrapper is {found:?}, of which it is not known whether it changes what is compiled; \
             what it makes could not be shared"
        ));
    }
    if !found.contains('/') || Path::new(found).is_absolute() {
        return Ok(found.to_owned());
    }
    // cargo takes it from the folder that holds the folder of the file.
    let top = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    top.join(found).to_str().map(str::to_owned).ok_or_else(|| "its path is not UTF-8".to_owned())
}

fn table<'a>(settings: &'a mut DocumentMut, name: &str) -> Result<&'a mut dyn TableLike, String> {
    let item = settings.entry(name).or_insert_with(|| Item::Table(Table::new()));
    item.as_table_like_mut().ok_or_else(|| format!("{name} is no table"))
}

/// Sets a value; what stands around an old one, such as a comment, stays.
fn set(table: &mut dyn TableLike, name: &str, text: &str) {
    match table.get_mut(name).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = text.into();
            *old.decor_mut() = decor;
        }
        None => drop(table.insert(name, value(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> Result<String, String> {
        wired(text, (Path::new("/opt/potluck-rustc"), None), Path::new("/h/.cargo/config.toml"))
    }

    #[test]
    fn settings_keep_their_comments_and_their_order() {
        for (text, expected) in [
            ("", "[build]\nrustc-wrapper = \"/opt/potluck-rustc\"\n"),
            (
                "# mine\n[build]\njobs = 2 # two\n\n[net]\noffline = true\n",
                "# mine\n[build]\njobs = 2 # two\nrustc-wrapper = \"/opt/potluck-rustc\"\n\n[net]\noffline = true\n",
            ),
            (
                "build.jobs = 2\n[net]\noffline = true\n",
                "build.jobs = 2\nbuild.rustc-wrapper = \"/opt/potluck-rustc\"\n[net]\noffline = true\n",
            ),
            ("build = { jobs = 2 }\n", "build = { jobs = 2 , rustc-wrapper = \"/opt/potluck-rustc\" }\n"),
            (
                "[build]\nrustc-wrapper = \"\" # none\n",
                "[build]\nrustc-wrapper = \"/opt/potluck-rustc\" # none\n",
            ),
        ] {
            let settings = wire(text).unwrap();
            assert_eq!(settings, expected, "{text}");
            assert_eq!(wire(&settings).unwrap(), settings, "twice is once");
        }
        assert!(
            wire("[build]\r\njobs = 2\r\n").unwrap().ends_with("rustc-wrapper = \"/opt/potluck-rustc\"\r\n")
        );
    }

    #[test]
    fn another_cache_goes_behind_ours() {
        let behind = |found: &str| {
            let settings = wire(&format!("[build]\nrustc-wrapper = {found:?}\n")).unwrap();
            settings.split_once("[env]\n").unwrap().1.to_owned()
        };
        assert_eq!(behind("sccache"), "POTLUCK_RUSTC_BEHIND = \"sccache\"\n");
        assert_eq!(behind("/usr/bin/sccache"), "POTLUCK_RUSTC_BEHIND = \"/usr/bin/sccache\"\n");
        assert_eq!(behind("bin/sccache"), "POTLUCK_RUSTC_BEHIND = \"/h/bin/sccache\"\n");
    }

    #[test]
    fn a_home_at_an_unusual_place_is_named() {
        let ours = (Path::new("/p/potluck-rustc"), Some(Path::new("/h/other")));
        let settings = wired("", ours, Path::new("x")).unwrap();
        assert!(settings.ends_with("[env]\nPOTLUCK_HOME = \"/h/other\"\n"), "{settings}");
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for text in [
            "[build",
            "build = 3\n",
            "[build]\nrustc-wrapper = 3\n",
            "[build]\nrustc-wrapper = \"mine\"\n",
            "[build]\nrustc-wrapper = \"sccache\"\n[env]\nPOTLUCK_RUSTC_BEHIND = \"x\"\n",
        ] {
            assert!(wire(text).is_err(), "{text}");
        }
    }
}
