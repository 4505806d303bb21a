// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a build may wait for the daemon: each wrapper for a bounded time, and the build as a whole hardly more than once.
//!
//! A wrapper that has waited in vain leaves a mark in the home, with the name of its build. From a daemon that said
//! nothing all others stay away for a while. One that is alive and took too long is asked by the same build for what it
//! has at hand and no more, until the build ends: what was fetched ahead is still used, and nobody waits for the rest.
//! There is one mark: where several builds wait in vain at the same time, one of them may do so again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ahead::run::Run;
use crate::front::patience::Waited;
use crate::observe::clock;

/// A daemon that did not answer is left alone for so long by all wrappers, so that it stalls a build once and not at
/// every unit.
const LEAVE_ALONE: Duration = Duration::from_secs(10);
/// How long the daemon may take to say hello; and to a build that has waited in vain.
const HELLO: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(50)];
/// How long others may be asked by a build that has waited in vain.
const AT_HAND: Duration = Duration::from_millis(20);
/// Most bytes of a mark that count.
const MAX_MARK: usize = 256;
const SILENT: &str = "silent";
const LATE: &str = "late";

/// What each step of one unit may take while the daemon is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One answer, with the transfer of what was found.
    pub answer: Duration,
    /// All questions and answers, and writing what was found.
    pub whole: Duration,
    /// Publishing; without it nothing is published.
    pub publish: Option<Duration>,
}

impl Limits {
    /// Those of a build that has not waited yet. Its outputs may be gigabytes, on slow disks.
    pub const USUAL: Self = Self {
        answer: Duration::from_secs(10),
        whole: Duration::from_secs(30),
        publish: Some(Duration::from_secs(10)),
    };
    /// Those of a build that has waited in vain.
    pub(super) const TIRED: Self =
        Self { answer: Duration::from_millis(200), whole: Duration::from_secs(2), publish: None };
}

/// How a build stands to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stance {
    /// It asks as ever.
    Usual,
    /// It asks for what is at hand.
    Tired,
    /// It does not ask.
    Alone,
}

impl Stance {
    /// By a mark, its age, and the name of the build.
    fn of(mark: &str, age: Duration, own: Option<&str>) -> Self {
        let (kind, run) = mark.split_once(' ').unwrap_or((mark, ""));
        let young = age < LEAVE_ALONE;
        match kind {
            SILENT if young => Self::Alone,
            // What is nothing that this version has written, is what an earlier one wrote of a silent daemon.
            kind if kind != LATE && kind != SILENT => {
                if young {
                    Self::Alone
                } else {
                    Self::Usual
                }
            }
            _ if own.is_some_and(|own| own == run) || young => Self::Tired,
            _ => Self::Usual,
        }
    }
}

/// The mark of a home, as one wrapper finds it.
#[derive(Debug, Clone)]
pub struct Stall {
    path: PathBuf,
    run: Option<String>,
    stance: Stance,
    limits: [Limits; 2],
}

impl Stall {
    /// Looks at the mark of this home, for the build that called this process.
    pub fn find(home: &Path) -> Self {
        let run = Run::of_this_process().map(|run| run.name);
        Self::of(home.join("stalled"), run, [Limits::USUAL, Limits::TIRED])
    }

    /// The same by a path, for a build of that name, with its usual limits and those after it has waited in vain.
    pub(super) fn of(path: PathBuf, run: Option<String>, limits: [Limits; 2]) -> Self {
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
        let stance = modified.map_or(Stance::Usual, |at| {
            let mut text = std::fs::read(&path).unwrap_or_default();
            text.truncate(MAX_MARK);
            Stance::of(&String::from_utf8_lossy(&text), clock::now().since(at.into()), run.as_deref())
        });
        Self { path, run, stance, limits }
    }

    /// How long the daemon may take to say hello; nothing when it is not to be asked. Whoever grants look-ups more than
    /// is usual has time for that as well.
    pub fn hello(&self, deadline: Duration) -> Option<Duration> {
        match self.stance {
            Stance::Usual => Some(HELLO[0].max(deadline / 4)),
            Stance::Tired => Some(HELLO[1]),
            Stance::Alone => None,
        }
    }

    /// How long others may be asked, of this much.
    pub fn deadline(&self, full: Duration) -> Duration {
        if self.stance == Stance::Tired { full.min(AT_HAND) } else { full }
    }

    /// What each step may take.
    pub(super) fn limits(&self) -> Limits {
        self.limits[usize::from(self.stance == Stance::Tired)]
    }

    /// It was waited for in vain. Where that cannot be noted, each finds out for itself.
    pub fn note(&self, silent: bool) {
        // What is at hand comes soon. Somebody who waits for that as well has nothing to wait for.
        let kind = if silent || self.stance == Stance::Tired { SILENT } else { LATE };
        let _ = std::fs::write(&self.path, format!("{kind} {}", self.run.as_deref().unwrap_or_default()));
    }
}

impl super::Call {
    /// What each step may take, beside what looking for something may take.
    pub(super) fn limits(&self) -> Limits {
        let limits = self.stalled.as_ref().map_or(Limits::USUAL, Stall::limits);
        let deadline = self.deadline;
        // The list of what is read may have to be looked for as well, and what was made where it held the same.
        Limits { answer: limits.answer + deadline, whole: limits.whole + 3 * deadline, ..limits }
    }

    /// Lets others know that the daemon is not to be waited for.
    pub(super) fn note_stall(&self, waited: Waited) {
        if let Some(stalled) = &self.stalled {
            stalled.note(waited == Waited::Silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_waits_once_and_others_hardly() {
        let (young, old) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (mark, age, own, expected) in [
            ("silent 7-a", young, Some("7-a"), Stance::Alone),
            ("silent 7-a", young, Some("8-b"), Stance::Alone),
            ("silent 7-a", old, Some("7-a"), Stance::Tired),
            ("silent 7-a", old, Some("8-b"), Stance::Usual),
            ("late 7-a", young, Some("7-a"), Stance::Tired),
            ("late 7-a", old, Some("7-a"), Stance::Tired),
            ("late 7-a", young, Some("8-b"), Stance::Tired),
            ("late 7-a", old, Some("8-b"), Stance::Usual),
            // Nobody knows whose it was.
            ("late ", young, None, Stance::Tired),
            ("late ", old, None, Stance::Usual),
            // Of an earlier version, and nonsense.
            ("", young, Some("7-a"), Stance::Alone),
            ("", old, Some(""), Stance::Usual),
            ("\0", old, Some("7-a"), Stance::Usual),
        ] {
            assert_eq!(Stance::of(mark, age, own), expected, "{mark:?} {age:?} {own:?}");
        }
    }

    #[test]
    fn what_one_notes_the_next_one_finds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stalled");
        let limits = [Limits::USUAL, Limits::TIRED];
        let find = |run: &str| Stall::of(path.clone(), Some(run.to_owned()), limits);
        let first = find("a");
        assert_eq!((first.limits(), first.hello(Duration::ZERO)), (Limits::USUAL, Some(HELLO[0])));
        assert_eq!(first.deadline(LEAVE_ALONE), LEAVE_ALONE);
        first.note(false);
        let second = find("a");
        assert_eq!((second.limits(), second.hello(LEAVE_ALONE)), (Limits::TIRED, Some(HELLO[1])));
        assert_eq!(
            (second.deadline(LEAVE_ALONE), second.deadline(Duration::ZERO)),
            (AT_HAND, Duration::ZERO)
        );
        second.note(false);
        assert_eq!(
            (find("a").hello(LEAVE_ALONE), find("b").hello(LEAVE_ALONE)),
            (None, None),
            "twice is enough for all"
        );
        std::fs::write(&path, "late a".to_owned() + &"b".repeat(1 << 20)).unwrap();
        assert_eq!(find("a").stance, Stance::Tired);
    }
}
