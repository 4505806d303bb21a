// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was asked for: a [`Project`], a [`Recipe`] and the tool's own key, bound together in an [`ActionId`].
//!
//! The derivation is BLAKE3 in derive-key mode over a canonical, length-framed encoding of the three, so that no two
//! different questions share an id: neither across Projects, nor across Recipes, nor across versions of one Recipe.

use std::fmt;
use std::str::FromStr;

use crate::codec::{CodecError, Reader, Wire, Writer};
use crate::hex::hex_name;

/// BLAKE3 derive-key context of an [`ActionId`].
pub const ACTION_CONTEXT: &str = "potluck 2026-11 action id v1";

/// BLAKE3 derive-key context of the key made from a [`Secret`].
pub const SECRET_CONTEXT: &str = "potluck 2026-11 project secret v1";

/// Longest Project in bytes.
pub const MAX_PROJECT_BYTES: usize = 96;

/// Longest Recipe in bytes.
pub const MAX_RECIPE_BYTES: usize = 48;

/// Longest key of a tool that is taken, in bytes. Real ones are hashes or short names.
pub const MAX_KEY_BYTES: usize = 64 * 1024;

/// A name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} is not acceptable: {why}")]
pub struct NameError {
    /// What was to be named.
    pub what: &'static str,
    /// The text given, cut when it is very long.
    pub name: String,
    /// The rule it breaks.
    pub why: &'static str,
}

impl NameError {
    fn new(what: &'static str, name: &str, why: &'static str) -> Self {
        Self { what, name: name.chars().take(128).collect(), why }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
}

/// The owner's name for what is built: `[a-z0-9._-]+(/[a-z0-9._-]+)*`, e.g. `acme/web`, at most
/// [`MAX_PROJECT_BYTES`] long. The segments `.` and `..` are refused, since Projects appear in paths and URLs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Project(String);

impl Project {
    /// The Project of builds that name none.
    pub const DEFAULT: &'static str = "default";

    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`NameError`] with the rule that the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        Self::check(name).map_err(|why| NameError::new("the project", name, why))?;
        Ok(Self(name.to_owned()))
    }

    fn check(name: &str) -> Result<(), &'static str> {
        if name.len() > MAX_PROJECT_BYTES {
            return Err("it is longer than 96 bytes");
        }
        for segment in name.split('/') {
            match segment {
                "" => return Err("it has an empty part"),
                "." | ".." => return Err("'.' and '..' are not names"),
                _ if !segment.bytes().all(is_name_byte) => {
                    return Err("only a-z, 0-9, '.', '_', '-' and '/' between parts are allowed");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Project {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

/// Whose key derivation made a key, with its version: `rustc@1`. At most [`MAX_RECIPE_BYTES`] long; the name is
/// `[a-z0-9._-]+`, the version a number from 1 without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipe(String);

impl Recipe {
    /// Checks and takes a name with a version.
    ///
    /// # Errors
    /// [`NameError`] with the rule that it breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        Self::check(name).map_err(|why| NameError::new("the recipe", name, why))?;
        Ok(Self(name.to_owned()))
    }

    fn check(name: &str) -> Result<(), &'static str> {
        if name.len() > MAX_RECIPE_BYTES {
            return Err("it is longer than 48 bytes");
        }
        let (tool, version) = name.split_once('@').ok_or("it lacks a version, as in rustc@1")?;
        if tool.is_empty() || !tool.bytes().all(is_name_byte) {
            return Err("only a-z, 0-9, '.', '_' and '-' are allowed before the '@'");
        }
        let digits = version.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || version.starts_with('0') || version.parse::<u32>().is_err() {
            return Err("the version is a number from 1 to 4294967295 without leading zeros");
        }
        Ok(())
    }

    /// The name with its version.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Sixteen or more random bytes that everyone who may share a Project's keys knows. With it, strangers can neither
/// guess the ActionIds of a Project nor test a guess against a filter.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Derives the mixing key from `secret`, or gives nothing when it is shorter than 16 bytes.
    pub fn new(secret: &[u8]) -> Option<Self> {
        (secret.len() >= 16).then(|| Self(blake3::derive_key(SECRET_CONTEXT, secret)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

hex_name! {
    /// The name of a question: what would the tool with this Recipe and key give in this Project?
    ActionId, 32
}

impl ActionId {
    /// Derives the id; `secret` is the Project's, when it has one.
    ///
    /// # Errors
    /// [`NameError`] when `key` is longer than [`MAX_KEY_BYTES`].
    pub fn derive(
        project: &Project,
        recipe: &Recipe,
        key: &[u8],
        secret: Option<&Secret>,
    ) -> Result<Self, NameError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(NameError::new("the key", "", "it is longer than 64 KiB"));
        }
        let mut material = Writer::with_capacity(key.len() + 256);
        material.array(3);
        material.text(project.as_str());
        material.text(recipe.as_str());
        material.bytes(key);
        let id = blake3::derive_key(ACTION_CONTEXT, &material.into_bytes());
        Ok(Self(secret.map_or(id, |secret| *blake3::keyed_hash(&secret.0, &id).as_bytes())))
    }
}

/// Text form and encoding of a checked name.
macro_rules! name {
    ($type:ident, $what:literal, $max:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl Wire for $type {
            fn write(&self, to: &mut Writer) {
                to.text(&self.0);
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
                let name = from.text($max)?;
                Self::check(name).map_err(|why| from.invalid($what, why))?;
                Ok(Self(name.to_owned()))
            }
        }
    };
}

name!(Project, "the project", MAX_PROJECT_BYTES);
name!(Recipe, "the recipe", MAX_RECIPE_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_and_recipes_are_checked() {
        for good in ["default", "acme/web", "a/b/c", "0.-_", &"x".repeat(MAX_PROJECT_BYTES)] {
            assert_eq!(Project::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "a/", "/a", "a//b", "Acme", "a b", "a/../b", ".", "ä", "a\0", &"x".repeat(97)] {
            assert!(Project::new(bad).is_err(), "{bad}");
        }
        for good in ["rustc@1", "bazel-ac@12", "c@4294967295"] {
            assert_eq!(Recipe::new(good).unwrap().as_str(), good);
        }
        for bad in
            ["rustc", "rustc@", "rustc@0", "rustc@01", "@1", "rustc@1@2", "rustc@-1", "c@4294967296", "R@1"]
        {
            assert!(Recipe::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_part_of_the_question_changes_the_id() {
        let project = |name| Project::new(name).unwrap();
        let recipe = |name| Recipe::new(name).unwrap();
        let secret = Secret::new(b"sixteen bytes, or more").unwrap();
        let id = |p, r, k: &[u8], s| ActionId::derive(&project(p), &recipe(r), k, s).unwrap();
        let ids = [
            id("a", "rustc@1", b"key", None),
            id("b", "rustc@1", b"key", None),
            id("a", "rustc@2", b"key", None),
            id("a", "rustc@1", b"key2", None),
            id("a", "rustc@1", b"", None),
            id("a", "rustc@1", b"key", Some(&secret)),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(Secret::new(b"too short").is_none());
        let long = vec![0; MAX_KEY_BYTES + 1];
        assert!(ActionId::derive(&project("a"), &recipe("r@1"), &long, None).is_err());
    }
}
