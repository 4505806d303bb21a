// SPDX-License-Identifier: MIT OR Apache-2.0
//! The menu of a potluck supper: what is brought, by whom, for which course.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use sample_tag::Tag;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

include!(concat!(env!("OUT_DIR"), "/courses.rs"));

/// The menu that this crate carries, as JSON.
pub const SUPPER: &str = include_str!("../supper.json");

/// The versions of the format that can be read.
const READABLE: &str = "^1.1";

/// Why a menu cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not JSON, or not of this shape.
    #[error("the menu is malformed")]
    Malformed(#[from] serde_json::Error),
    /// The range of readable versions is itself wrong.
    #[error("the readable versions are malformed")]
    Range(#[from] semver::Error),
    /// It was written for other readers.
    #[error("the menu has version {found}, readable is {READABLE}")]
    Version {
        /// The version it has.
        found: Version,
    },
}

/// All that is brought to one supper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Menu {
    /// The version of the format.
    pub version: Version,
    /// What the supper is called.
    pub title: String,
    /// The dishes by name, in the order in which they were promised.
    pub dishes: IndexMap<String, Dish>,
}

/// What one cook brings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dish {
    /// The course it belongs to.
    pub course: Course,
    /// Who cooks it.
    pub cook: String,
    /// How many portions there are.
    pub portions: u32,
    /// What some guests must avoid.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub contains: BTreeSet<String>,
}

impl Menu {
    /// Reads a menu of a readable version.
    ///
    /// # Errors
    ///
    /// If the text is not a menu, or one of another version.
    pub fn read(json: &str) -> Result<Self, Error> {
        let menu: Self = serde_json::from_str(json)?;
        if VersionReq::parse(READABLE)?.matches(&menu.version) {
            Ok(menu)
        } else {
            Err(Error::Version { found: menu.version })
        }
    }

    /// The dishes of one course, in the order of the menu.
    pub fn course(&self, course: Course) -> impl Iterator<Item = (&str, &Dish)> {
        self.dishes
            .iter()
            .filter(move |(_, dish)| dish.course == course)
            .map(|(name, dish)| (name.as_str(), dish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_menu_has_a_dish_for_every_course() -> Result<(), Error> {
        let menu = Menu::read(SUPPER)?;
        assert!(Course::ALL.iter().all(|&course| menu.course(course).next().is_some()));
        Ok(())
    }

    #[test]
    fn another_version_is_refused() {
        let newer = SUPPER.replace("1.2.0", "2.0.0");
        assert!(matches!(Menu::read(&newer), Err(Error::Version { .. })));
    }
}
