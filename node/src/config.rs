// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings: `config.toml` in the home, over the defaults in `default.toml`, which is also their documentation.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::gc::budget::Amount;

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
    /// How much may be kept.
    pub store: Store,
}

/// The settings of `[store]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Store {
    /// What all Blobs together may take.
    pub budget: Amount,
    /// What should stay free on the disk.
    pub free_floor: Amount,
}

impl Default for Store {
    fn default() -> Self {
        Self { budget: Amount::Bytes(20 << 30), free_floor: Amount::Share(2_000) }
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
    use super::*;

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
    fn errors_name_the_line() {
        let error = Config::read(Path::new("config.toml"), "[trust]\n\nsistem = 1\n").unwrap_err();
        assert!(error.to_string().starts_with("config.toml:3: unknown field"), "{error}");
        let error = Config::read(Path::new("config.toml"), "[store]\nbudget = \"a lot\"\n").unwrap_err();
        assert!(error.to_string().starts_with("config.toml:2: \"a lot\" is no amount of room"), "{error}");
        let error = Config::read(Path::new("config.toml"), "[trust\n").unwrap_err();
        assert_eq!(error.line, 1);
    }
}
