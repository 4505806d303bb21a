// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes what this node believes, and has, into a bundle.
//!
//! A Blob that turns out to be damaged on the way is put aside by the store, as at any read. Its Entries are in the
//! bundle already by then; whoever reads it keeps none of which a Blob is missing, so they count as left out.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

use potluck_keys::policy::{Reason, Want};
use potluck_keys::rules::Pattern;
use potluck_keys::signed::Signed;
use potluck_protocol::entry::{Entry, Output};
use serde::Serialize;

use super::write::Writer;
use super::{MAX_ENTRIES, Name, PART_BLOBS, is_damage};
use crate::engine::{Engine, MAX_TREE_BYTES, files};
use crate::fetch::event::Need;
use crate::index::IndexError;
use crate::observe::clock;
use crate::store::{Blob, StoreError};

/// How hard zstd tries: two workers at this level are as fast as one at level 1, and pack better.
const LEVEL: i32 = 3;
/// Threads that pack.
const WORKERS: u32 = 2;
/// Actions that are looked up at a time.
const PAGE: usize = 256;
/// Most Projects that are named in the answer.
const MAX_PROJECTS: usize = 1000;

/// What goes into a bundle.
#[derive(Debug, Default)]
pub struct Selection {
    /// Only what belongs to Projects that this covers.
    pub project: Option<Pattern>,
    /// Only what a toolchain made whose name begins like this.
    pub toolchain: Option<String>,
}

impl Selection {
    fn takes(&self, entry: &Entry) -> bool {
        let project = self.project.as_ref().is_none_or(|pattern| pattern.covers(entry.project.as_str()));
        let toolchain = entry.labels.toolchain.as_ref();
        let made_by = |prefix: &String| toolchain.is_some_and(|toolchain| toolchain.starts_with(&**prefix));
        project && self.toolchain.as_ref().is_none_or(made_by)
    }
}

/// What went into a bundle.
#[derive(Debug, Default, Serialize)]
pub struct Exported {
    /// Entries that whoever reads it gets whole.
    pub entries: u64,
    /// Blobs, each counted as often as it is in there.
    pub blobs: u64,
    /// Their bytes, unpacked.
    pub bytes: u64,
    /// Entries by Project; the first thousand Projects.
    pub projects: BTreeMap<String, u64>,
    /// Entries that were left out, since the policy of now refuses them.
    pub refused: u64,
    /// Entries that were left out, since not all of their Blobs are here.
    pub incomplete: u64,
    /// Entries that were left out, since a Blob of theirs is damaged.
    pub damaged: u64,
}

/// Why a bundle was not written to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written.
    #[error("cannot write the bundle: {0}")]
    Io(#[from] io::Error),
}

impl From<IndexError> for ExportError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

/// Writes a bundle of what is wanted. Blocks.
///
/// # Errors
/// [`ExportError`]; what was written is no whole bundle then.
pub fn export(engine: &Engine, what: &Selection, to: impl Write) -> Result<Exported, ExportError> {
    let mut packer = zstd::Encoder::new(to, LEVEL)?;
    packer.include_checksum(true)?;
    packer.multithread(WORKERS)?;
    let mut exporting = Exporting {
        engine,
        what,
        to: Writer::new(packer)?,
        part: Vec::new(),
        blobs: 0,
        done: Exported::default(),
    };
    let mut after = None;
    loop {
        let actions = engine.store().index().actions(after.as_ref(), PAGE)?;
        let (mut entries, mut ends) = (Vec::new(), Vec::new());
        for action in &actions {
            entries.extend(engine.store().index().entries(action)?);
            ends.push(entries.len());
        }
        // Many signatures together are verified faster than one by one.
        engine.own().policy().verify(&entries);
        engine.trusting().now().verify(&entries);
        let mut start = 0;
        for end in ends {
            exporting.action(&entries[start..end])?;
            start = end;
        }
        match actions.last() {
            None => break,
            last => after = last.copied(),
        }
    }
    exporting.part()?;
    let Exporting { to, done, .. } = exporting;
    to.finish()?.finish()?.flush()?;
    Ok(done)
}

/// An Entry that goes into the bundle, and what it needs.
struct Chosen {
    entry: Signed<Entry>,
    project: String,
    needs: Vec<(Name, Need)>,
}

struct Exporting<'a, W: Write> {
    engine: &'a Engine,
    what: &'a Selection,
    to: Writer<zstd::Encoder<'static, W>>,
    part: Vec<Chosen>,
    /// Blobs that this part needs, some perhaps twice.
    blobs: usize,
    done: Exported,
}

impl<W: Write> Exporting<'_, W> {
    /// Takes what is believed of an action.
    fn action(&mut self, entries: &[Signed<Entry>]) -> Result<(), ExportError> {
        for entry in entries {
            let Ok(claim) = entry.authentic() else {
                self.done.refused += 1;
                continue;
            };
            if !self.what.takes(claim) {
                continue;
            }
            if !self.is_acceptable(entry, claim, entries) {
                self.done.refused += 1;
                continue;
            }
            let needs = match needs(self.engine, &claim.output) {
                Ok(Some(needs)) => needs,
                Ok(None) => {
                    self.done.incomplete += 1;
                    continue;
                }
                Err(error) if is_damage(&error) => {
                    self.done.damaged += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.blobs += needs.len();
            self.part.push(Chosen { entry: entry.clone(), project: claim.project.to_string(), needs });
            if self.part.len() == MAX_ENTRIES || self.blobs >= PART_BLOBS {
                self.part()?;
            }
        }
        Ok(())
    }

    /// Whether this node would go by a claim, alone or together with the others about the action.
    fn is_acceptable(&self, entry: &Signed<Entry>, claim: &Entry, all: &[Signed<Entry>]) -> bool {
        let recipe = Some(claim.recipe.as_str());
        let want = Want { project: claim.project.as_str(), recipe, subject: claim.action.as_bytes() };
        let now = clock::now();
        if self.engine.own().policy().judge(entry, &want, now).is_ok() {
            return true;
        }
        let policy = self.engine.trusting().now();
        match policy.judge(entry, &want, now) {
            Ok(_) => true,
            Err(refusal) => {
                matches!(refusal.reason, Reason::TooFew { .. })
                    && policy.choose(all, &want, now).outcome.is_ok()
            }
        }
    }

    /// Writes the part, and begins another one.
    fn part(&mut self) -> Result<(), ExportError> {
        let part = std::mem::take(&mut self.part);
        self.blobs = 0;
        for chosen in &part {
            self.to.entry(&chosen.entry)?;
        }
        let (mut written, mut damaged) = (HashSet::new(), HashSet::new());
        // All Trees come first: whoever reads it then knows all that he wants.
        for is_tree in [true, false] {
            let needs = part.iter().flat_map(|chosen| &chosen.needs);
            for (name, need) in needs.filter(|(name, _)| matches!(name, Name::Tree(_)) == is_tree) {
                if written.insert(need.digest) && !self.blob(*name, need)? {
                    damaged.insert(need.digest);
                }
            }
        }
        for Chosen { project, needs, .. } in part {
            if needs.iter().any(|(_, need)| damaged.contains(&need.digest)) {
                self.done.damaged += 1;
                continue;
            }
            self.done.entries += 1;
            let projects = &mut self.done.projects;
            if projects.len() < MAX_PROJECTS || projects.contains_key(&project) {
                *projects.entry(project).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Writes a Blob; gives whether it was sound.
    fn blob(&mut self, name: Name, need: &Need) -> Result<bool, ExportError> {
        let blob = match self.sound(self.engine.store().blob(&need.digest))? {
            Some(Some(blob)) if blob.pieces().size() == need.size => blob,
            _ => return Ok(false),
        };
        // Of most Blobs the only piece is checked before anything is written.
        let Some(first) = self.piece(&blob, 0)? else { return Ok(false) };
        let mut growing = self.to.begin(name, need.size)?.write(&first)?;
        for index in 1..blob.pieces().count() {
            match self.engine.store().piece(&blob, index) {
                Ok(piece) => growing = growing.write(&piece)?,
                Err(error) if is_damage(&error) => {
                    growing.give_up(&need.digest)?;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        growing.finish()?;
        self.done.blobs += 1;
        self.done.bytes += need.size;
        Ok(true)
    }

    fn piece(&self, blob: &Blob, index: u64) -> Result<Option<Vec<u8>>, ExportError> {
        self.sound(self.engine.store().piece(blob, index))
    }

    /// What was read, unless it was damaged.
    fn sound<T>(&self, read: Result<T, StoreError>) -> Result<Option<T>, ExportError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// All Blobs of an output, its Tree's own first; nothing when one of them is not here.
fn needs(engine: &Engine, output: &Output) -> Result<Option<Vec<(Name, Need)>>, StoreError> {
    let needs = match output {
        Output::Blob(blob) => vec![blob_of(Need { digest: blob.digest, size: blob.size })],
        Output::Tree(tree) => {
            // One that is larger could not be taken by anybody.
            let own = Need { digest: tree.digest, size: tree.size };
            let Some(found) = engine.tree(&own.digest)?.filter(|_| own.size <= MAX_TREE_BYTES) else {
                return Ok(None);
            };
            let own = (Name::Tree(own.digest), own);
            std::iter::once(own).chain(files(&found).map(blob_of)).collect()
        }
    };
    for (_, need) in &needs {
        if !engine.store().has(&need.digest)? {
            return Ok(None);
        }
    }
    Ok(Some(needs))
}

fn blob_of(need: Need) -> (Name, Need) {
    (Name::Blob(need.digest), need)
}
