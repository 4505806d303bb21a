// SPDX-License-Identifier: MIT OR Apache-2.0
//! A witness that writes down every step that was taken, and refuses one if asked to; and what a file system looks like
//! after the first so many of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::content::files::{Files, Step, Witness};

/// A step that was taken, by paths below the folder that is watched.
#[derive(Debug, Clone)]
pub(super) enum Taken {
    Make(PathBuf),
    Create(PathBuf),
    Write(PathBuf, u64, Arc<[u8]>),
    Length(PathBuf, u64),
    Sync(PathBuf),
    SyncFolder(PathBuf),
    /// What gets a name that nothing had is told apart by the steps before it.
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Taken {
    fn of(step: Step<'_>, root: &Path) -> Self {
        let below = |path: &Path| path.strip_prefix(root).expect("the store stays in its folder").to_owned();
        match step {
            Step::Make(path) => Self::Make(below(path)),
            Step::Create(path) => Self::Create(below(path)),
            Step::Write { path, offset, bytes } => Self::Write(below(path), offset, bytes.into()),
            Step::Length { path, len } => Self::Length(below(path), len),
            Step::Sync(path) => Self::Sync(below(path)),
            Step::SyncFolder(path) => Self::SyncFolder(below(path)),
            Step::Name { from, to } | Step::Rename { from, to } => Self::Rename(below(from), below(to)),
            Step::Remove(path) => Self::Remove(below(path)),
        }
    }

    /// Does it again, below another folder.
    fn repeat(&self, root: &Path) -> io::Result<()> {
        let open = |path: &Path| File::options().write(true).open(root.join(path));
        match self {
            Self::Make(path) => Files::default().make_folder(&root.join(path)),
            Self::Create(path) => File::create_new(root.join(path)).map(drop),
            Self::Write(path, offset, bytes) => open(path)?.write_all_at(bytes, *offset),
            Self::Length(path, len) => open(path)?.set_len(*len),
            Self::Sync(_) | Self::SyncFolder(_) => Ok(()),
            Self::Rename(from, to) => fs::rename(root.join(from), root.join(to)),
            Self::Remove(path) => fs::remove_file(root.join(path)),
        }
    }

    pub(super) fn is_sync(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::SyncFolder(_))
    }
}

/// What process death leaves of the first steps: all of them.
pub(super) fn replay(steps: &[Taken], root: &Path) {
    for step in steps {
        step.repeat(root).unwrap_or_else(|error| panic!("{step:?} cannot be repeated: {error}"));
    }
}

/// Which step to refuse, counted from here on, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refuse {
    pub(super) after: usize,
    pub(super) error: i32,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Taken>,
    refuse: Option<Refuse>,
    refused: Option<String>,
}

/// The witness.
#[derive(Debug)]
pub(super) struct Log {
    root: PathBuf,
    state: Mutex<State>,
}

impl Log {
    pub(super) fn of(root: &Path) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), state: Mutex::default() })
    }

    /// How many steps were taken.
    pub(super) fn len(&self) -> usize {
        self.state.lock().unwrap().log.len()
    }

    pub(super) fn steps(&self) -> Vec<Taken> {
        self.state.lock().unwrap().log.clone()
    }

    pub(super) fn refuse(&self, refuse: Refuse) {
        self.state.lock().unwrap().refuse = Some(refuse);
    }

    /// Refuses nothing any more.
    pub(super) fn forgive(&self) {
        self.state.lock().unwrap().refuse = None;
    }

    /// What was refused since this was asked last.
    pub(super) fn refused(&self) -> Option<String> {
        self.state.lock().unwrap().refused.take()
    }
}

impl Witness for Log {
    /// Under a lock, so that the log has the order in which the steps were taken.
    fn step(&self, step: Step<'_>, act: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if let Some(refuse) = &mut state.refuse {
            if refuse.after == 0 {
                let error = io::Error::from_raw_os_error(refuse.error);
                state.refuse = None;
                let mut step = format!("{:?}", Taken::of(step, &self.root));
                step.truncate(100);
                state.refused = Some(step);
                return Err(error);
            }
            refuse.after -= 1;
        }
        let taken = Taken::of(step, &self.root);
        act()?;
        state.log.push(taken);
        Ok(())
    }
}
