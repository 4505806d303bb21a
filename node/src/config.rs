// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings: `config.toml` in the home, over the defaults in `default.toml`, which is also their documentation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use potluck_protocol::action::{NameError, Project};
use serde::Deserialize;

use crate::content::Durability;
use crate::gc::budget::{Amount, Floor};
use crate::network::Reach;

/// Every setting with its default and what it is for.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Largest config.toml that is read, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whom to believe.
    pub trust: Trust,
    /// What is kept, and how much of it.
    pub store: Store,
    /// Where build tools are served by HTTP.
    pub http: Http,
    /// What is different for one Front, by its name.
    pub front: BTreeMap<String, Front>,
    /// How this node is found and reached in one Network, by its name.
    pub network: BTreeMap<String, Reach>,
}

/// The settings of `[store]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Store {
    /// What all Blobs together may take.
    pub budget: Amount,
    /// What a publication has survived when it is answered.
    pub durability: Durability,
    /// What is to stay free on the disk.
    pub free_floor: Floor,
}

impl Default for Store {
    fn default() -> Self {
        let budget = Amount::Bytes(20 << 30);
        Self { budget, durability: Durability::default(), free_floor: Floor::default() }
    }
}

/// The settings of `[http]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Http {
    /// The address, or [`Http::OFF`].
    pub listen: String,
    /// What who asks has to know; empty where everybody may ask, which is only possible on loopback.
    pub token: String,
    /// Further names by which tools may call this machine.
    pub hosts: Vec<String>,
}

impl Http {
    /// What stands for no address at all.
    pub const OFF: &'static str = "off";
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7117".to_owned(), token: String::new(), hosts: Vec::new() }
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { listen, token, hosts } = self;
        let token = if token.is_empty() { "none" } else { ".." };
        f.debug_struct("Http").field("listen", listen).field("token", &token).field("hosts", hosts).finish()
    }
}

/// How long somebody waits, as people write it: `100ms`, `2s`; at most [`Wait::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Wait(pub Duration);

impl Wait {
    /// The longest: no tool waits longer for a cache.
    pub const MAX: Duration = Duration::from_secs(60);
}

/// Text that is no time to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time to wait: write it such as \"100ms\" or \"2s\", at most a minute")]
pub struct NoWait(String);

impl FromStr for Wait {
    type Err = NoWait;

    fn from_str(text: &str) -> Result<Self, NoWait> {
        let wait = humantime::parse_duration(text).ok().filter(|wait| *wait <= Self::MAX);
        wait.map(Self).ok_or_else(|| NoWait(text.to_owned()))
    }
}

impl TryFrom<String> for Wait {
    type Error = NoWait;

    fn try_from(text: String) -> Result<Self, NoWait> {
        text.parse()
    }
}

/// The settings of `[front.<name>]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Front {
    /// What a publication of this Front has survived when it is answered, if that differs.
    pub durability: Option<Durability>,
    /// How long a tool waits until somebody is found who has what it asks for, if that differs.
    pub deadline: Option<Wait>,
    /// Whether this node signs what it gives as the tool itself would: Nix alone knows such signatures.
    pub sign: bool,
    /// Projects, beside the default one, for which there is a socket of their own: ccache alone comes by one, and says
    /// nothing of Projects.
    pub projects: Vec<Named>,
}

/// A Project, as it stands in settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Named(pub Project);

impl TryFrom<String> for Named {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Project::new(&text).map(Self)
    }
}

/// The settings of `[trust]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Rules that are tried before the user's own.
    pub system: PathBuf,
}

impl Default for Trust {
    fn default() -> Self {
        Self { system: PathBuf::from("/etc/potluck/trust.toml") }
    }
}

/// What is wrong with config.toml.
#[derive(Debug, thiserror::Error)]
#[error("{path}:{line}: {message}", path = path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl Config {
    /// Reads settings; what they leave out has its default.
    ///
    /// # Errors
    /// [`ConfigError`] with the line.
    pub fn read(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = &text[..error.span().map_or(0, |span| span.start)];
            let line = 1 + before.matches('\n').count();
            ConfigError { path: path.to_owned(), line, message: error.message().to_owned() }
        })
    }

    /// What a publication of this Front has to have survived when it is answered.
    pub fn durability(&self, front: &str) -> Durability {
        let own = self.front.get(front).and_then(|front| front.durability);
        own.unwrap_or(self.store.durability)
    }

    /// How long a tool of this Front waits until somebody is found who has what it asks for.
    pub fn deadline(&self, front: &str, usual: Duration) -> Duration {
        self.front.get(front).and_then(|front| front.deadline).map_or(usual, |wait| wait.0)
    }

    /// The text of a new config.toml: the defaults, each setting commented out.
    pub fn template() -> String {
        let comment = |line: &str| match line.starts_with(|first: char| first.is_ascii_lowercase()) {
            true => format!("# {line}\n"),
            false => format!("{line}\n"),
        };
        DEFAULTS.lines().map(comment).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::network::Rate;

    #[test]
    fn the_documented_defaults_are_the_real_ones() {
        assert_eq!(Config::read(Path::new("default.toml"), DEFAULTS).unwrap(), Config::default());
    }

    #[test]
    fn the_template_changes_nothing_and_mentions_everything() {
        let template = Config::template();
        assert_eq!(Config::read(Path::new("config.toml"), &template).unwrap(), Config::default());
        assert!(template.contains("# system = "));
    }

    #[test]
    fn a_front_may_have_its_own_durability() {
        let read = |text: &str| Config::read(Path::new("config.toml"), text);
        let config = read("[store]\nfree-floor = \"5%\"\n[front.rustc]\ndurability = \"fast\"\n").unwrap();
        assert_eq!(config.store.free_floor, Floor(Some(Amount::Share(5_000))));
        assert_eq!(config.durability("rustc"), Durability::Fast);
        assert_eq!(config.durability("http"), Durability::Durable);
        let config =
            read("[store]\ndurability = \"fast\"\n[front.rustc]\ndurability = \"crash-safe\"\n").unwrap();
        assert_eq!(config.durability("rustc"), Durability::Durable);
        assert_eq!(config.durability("http"), Durability::Fast);
        assert_eq!(read("[store]\ndurability = \"slow\"\n").unwrap_err().line, 2);
        assert_eq!(read("[store]\n\nfree-floor = \"5 cows\"\n").unwrap_err().line, 3);
    }

    #[test]
    fn a_front_may_have_its_own_deadline() {
        let read = |text: &str| Config::read(Path::new("config.toml"), text);
        let config = read("[front.ccache]\ndeadline = \"250ms\"\n").unwrap();
        let usual = Duration::from_millis(100);
        assert_eq!(config.deadline("ccache", usual), Duration::from_millis(250));
        assert_eq!(config.deadline("nx", usual), usual);
        let signs = |text: &str| read(text).unwrap().front.get("nix").is_some_and(|front| front.sign);
        assert!(signs("[front.nix]\nsign = true\n") && !signs("[front.nix]\n") && !signs(""));
        assert!(read("[front.ccache]\ndeadline = \"61s\"\n").is_err());
        assert_eq!(read("[front.ccache]\n\ndeadline = \"soon\"\n").unwrap_err().line, 3);
    }

    #[test]
    fn what_is_to_be_known_is_not_shown() {
        let text = "[http]\nlisten = \"off\"\ntoken = \"sesame\"\nhosts = [\"build\"]\n";
        let config = Config::read(Path::new("config.toml"), text).unwrap();
        assert_eq!((config.http.listen.as_str(), config.http.token.as_str()), (Http::OFF, "sesame"));
        assert!(!format!("{config:?}").contains("sesame"));
    }

    #[test]
    fn a_network_may_be_reached_in_its_own_way() {
        let text = "[network.office]\nrelay = true\nmdns = false\nupload = \"2MiB\"\n";
        let config = Config::read(Path::new("config.toml"), text).unwrap();
        let upload = Some(Rate(NonZeroU64::new(2 << 20).unwrap()));
        let office = Reach { relay: true, mdns: Some(false), upnp: false, upload };
        assert_eq!(config.network, BTreeMap::from([("office".to_owned(), office)]));
        let wrong = Config::read(Path::new("config.toml"), "[network.office]\nrelais = true\n");
        assert_eq!(wrong.unwrap_err().line, 2);
        for none in ["0", "fast", ""] {
            let text = format!("[network.office]\nupload = \"{none}\"\n");
            assert_eq!(Config::read(Path::new("config.toml"), &text).unwrap_err().line, 2, "{none}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let error = Config::read(Path::new("config.toml"), "[trust]\n\nsistem = 1\n").unwrap_err();
        assert!(error.to_string().starts_with("config.toml:3: unknown field"), "{error}");
        let error = Config::read(Path::new("config.toml"), "[store]\nbudget = \"a lot\"\n").unwrap_err();
        assert!(error.to_string().starts_with("config.toml:2: \"a lot\" is no amount of room"), "{error}");
        let error = Config::read(Path::new("config.toml"), "[trust\n").unwrap_err();
        assert_eq!(error.line, 1);
    }
}
