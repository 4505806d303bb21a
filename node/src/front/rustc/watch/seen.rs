// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was seen of a program: names, and what was done to what they name. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The stamp of a folder.
pub const FOLDER: &str = "folder";
/// Most names that are kept.
const MAX_NAMES: usize = 100_000;

/// What was done to what a name names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// It, or that there is none, was looked at before the program had made it itself.
    pub read: bool,
    /// It was made, or written to.
    pub made: bool,
    /// It was taken away, though the program had not made it.
    pub removed: bool,
    /// It was to become the program.
    pub ran: bool,
    /// It is a folder that was opened, and what is in it may have been listed.
    pub listed: bool,
    /// What it was when it was first looked at: which file, its size and times. None when there was none.
    pub stamp: Option<String>,
}

/// How a name was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It was asked about.
    Read,
    /// It was opened for reading; a folder may have been listed.
    List,
    /// It was to become the program.
    Run,
    /// It was made, or emptied, without a look at what had been there.
    Make,
    /// It was opened for writing, and what is in it stays.
    Change,
    /// It was taken away.
    Remove,
}

/// All that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// By name.
    pub names: BTreeMap<String, Touched>,
    /// Why this is not all, if it is not.
    pub missed: Option<String>,
}

impl Seen {
    /// Takes note of a use. `stamp` is asked only for a name that is new.
    pub fn note(&mut self, name: &Path, how: Use, stamp: impl FnOnce() -> Option<String>) {
        let Some(text) = name.to_str() else { return self.miss("a name that is not UTF-8") };
        if !self.names.contains_key(text) {
            if self.names.len() >= MAX_NAMES {
                return self.miss("too many names");
            }
            self.names.insert(text.to_owned(), Touched { stamp: stamp(), ..Touched::default() });
        }
        let Some(touched) = self.names.get_mut(text) else { return };
        match how {
            Use::Read => touched.read |= !touched.made,
            Use::Run => (touched.read, touched.ran) = (touched.read || !touched.made, true),
            Use::List => {
                touched.read |= !touched.made;
                touched.listed |= touched.stamp.as_deref() == Some(FOLDER);
            }
            Use::Make => touched.made = true,
            Use::Change => (touched.read, touched.made) = (touched.read || !touched.made, true),
            Use::Remove => touched.removed |= !touched.made,
        }
    }

    /// Takes note that something was not seen; the first reason stays.
    pub fn miss(&mut self, why: &str) {
        self.missed.get_or_insert_with(|| why.to_owned());
    }
}

/// The path without `.` and `..`.
pub fn plain(path: &Path) -> PathBuf {
    let text = path.as_os_str().as_encoded_bytes();
    let has = |part: &str| memchr::memmem::find(text, part.as_bytes()).is_some();
    // Most are plain already, and there are thousands.
    if text.starts_with(b"/") && !text.ends_with(b"/") && !has("/.") && !has("//") {
        return path.to_path_buf();
    }
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_made_itself_is_not_what_it_read() {
        let mut seen = Seen::default();
        let stamp = || Some("1".to_owned());
        let uses: &[(&str, &[Use])] = &[
            ("/read", &[Use::Read, Use::Read]),
            ("/own", &[Use::Make, Use::Read, Use::Remove]),
            ("/changed", &[Use::Change]),
            ("/both", &[Use::Read, Use::Make]),
            ("/gone", &[Use::Remove]),
            ("/ran", &[Use::Run]),
        ];
        for (name, uses) in uses {
            uses.iter().for_each(|how| seen.note(Path::new(name), *how, stamp));
        }
        let of = |name: &str| {
            let Touched { read, made, removed, ran, .. } = seen.names[name];
            [read, made, removed, ran]
        };
        assert_eq!(of("/read"), [true, false, false, false]);
        assert_eq!(of("/own"), [false, true, false, false]);
        assert_eq!(of("/changed"), [true, true, false, false]);
        assert_eq!(of("/both"), [true, true, false, false]);
        assert_eq!(of("/gone"), [false, false, true, false]);
        assert_eq!(of("/ran"), [true, false, false, true]);
    }

    #[test]
    fn more_than_can_be_kept_is_said() {
        let mut seen = Seen::default();
        (0..MAX_NAMES).for_each(|at| seen.note(&PathBuf::from(format!("/{at}")), Use::Read, || None));
        assert_eq!(seen.missed, None);
        seen.note(Path::new("/one/more"), Use::Read, || None);
        assert_eq!((seen.names.len(), seen.missed.as_deref()), (MAX_NAMES, Some("too many names")));
    }
}
