// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workspace that is built when none is given. It is part of the program, so that the demonstration runs anywhere.

use std::fs;
use std::io;
use std::path::Path;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../sample/", $name)))),*]
    };
}

/// Every file: its path, and its text.
const FILES: &[(&str, &str)] = files![
    "Cargo.lock",
    "Cargo.toml",
    "app/Cargo.toml",
    "app/src/evening.rs",
    "app/src/main.rs",
    "menu/Cargo.toml",
    "menu/build.rs",
    "menu/courses.txt",
    "menu/src/lib.rs",
    "menu/supper.json",
    "tag/Cargo.toml",
    "tag/src/lib.rs",
];

/// Writes the workspace into a folder.
pub(super) fn write(folder: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_program_holds_the_whole_sample() {
        let top = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sample");
        let mut folders = vec![top.clone()];
        let mut found = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && path.file_name().unwrap() != "target" {
                    folders.push(path);
                } else if path.is_file() {
                    found.insert(path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let held: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(held, found);
    }
}
