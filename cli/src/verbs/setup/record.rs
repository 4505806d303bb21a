// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was changed for a tool, kept in the node's home so that it can be taken back.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use potluck_keys::ring;
use serde::{Deserialize, Serialize};

use super::edit::{self, Edit};
use crate::failure::Failure;

/// Most bytes of a record: a few files, each at most twice.
const MAX_RECORD: usize = 16 << 20;

/// The edits that were made for one tool.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    edits: Vec<Edit>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u64,
    edits: Vec<Edit>,
}

impl Record {
    /// What is remembered of a tool.
    pub(super) fn read(home: &Path, tool: &str) -> Result<Self, Failure> {
        let path = home.join("setup").join(format!("{tool}.json"));
        if !path.exists() {
            return Ok(Self { path, edits: Vec::new() });
        }
        let bytes = ring::read(&path, MAX_RECORD)?;
        let stored = serde_json::from_slice::<Stored>(&bytes).ok().filter(|stored| stored.v == 1);
        let stored = stored.ok_or_else(|| {
            Failure::failed(format!("{} is not understood", path.display()))
                .hint("it is of another version of potluck, or damaged: put the tool's settings right by hand and remove it")
        })?;
        Ok(Self { path, edits: stored.edits })
    }

    /// All of them.
    pub(super) fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// What was done to a file.
    pub(super) fn edit(&self, path: &Path) -> Option<&Edit> {
        self.edits.iter().find(|edit| edit.path == path)
    }

    /// Keeps these, in place of what is known of the same files.
    pub(super) fn remember(&mut self, edits: Vec<Edit>) -> Result<(), Failure> {
        self.edits.retain(|old| edits.iter().all(|new| new.path != old.path));
        self.edits.extend(edits);
        self.write()
    }

    /// Of these files nothing is to be taken back any more.
    pub(super) fn forget(&mut self, paths: &[PathBuf]) -> Result<(), Failure> {
        self.edits.retain(|edit| !paths.contains(&edit.path));
        if self.edits.is_empty() { edit::remove(&self.path) } else { self.write() }
    }

    fn write(&self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", self.path.display()));
        let json = serde_json::to_vec(&Stored { v: 1, edits: self.edits.clone() });
        let folder = self.path.parent().expect("it lies in the home");
        ring::make_folder(folder)?;
        // It is made for its owner alone: settings of tools may hold secrets.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&json.expect("plain data is JSON")).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}
