// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to make room, and what goes.
//!
//! A collection is a row of rounds. Each looks at all Entries, page by page: those that go are removed for good, and
//! what the others name is marked, with what pins and Catalogs name. Then it looks at all Blobs, shelf by shelf, and
//! removes what is not marked. Nothing is removed of what came to be used in the meantime; the driver knows.
//!
//! The first round takes only what has expired, or what was asked for, and the Blobs that nobody names. It counts how
//! much lies at which staleness, from which follows how much has to go in the next round. Blobs are shared and packed,
//! so that this is a guess; where it was too low, another round follows that takes more. A round after the first is
//! made only when all of that could be read: if marking fails, Entries are not given up in vain time after time.
//!
//! Memory is bounded: a page, a batch of Trees, a shelf, a histogram, and [`Marks`].

use std::collections::VecDeque;
use std::time::Duration;

use potluck_keys::rules::Pattern;
use potluck_keys::time::Time;
use potluck_protocol::action::Project;
use potluck_protocol::digest::Digest;

pub use super::event::{Action, Event, Room, Shelf};
use super::marks::Marks;
use super::report::{Cause, Draft, End};
use super::score::{Cut, Histogram, Standing, Subject};
use crate::index::EntryName;
use crate::plan::{Backoff, Moment, Plan};

/// How often the room is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often expired Entries and Blobs without a name are looked for though there is room.
pub const TIDY_EVERY: Duration = Duration::from_secs(6 * 60 * 60);
/// How long the next collection waits after one that freed too little, at first and at last.
pub const REST: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
/// How long after a round the Blobs that were in use are looked at again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(150);
/// To how many percent of its budget the store is brought down, so that it is not full again at once.
pub const DOWN_TO: u64 = 90;
/// Most requests that wait.
pub const MAX_ASKS: usize = 16;
/// Most Trees that are read at a time.
pub const MAX_TREES: usize = 64;
/// Most Blobs that are removed at a time.
pub const MAX_REMOVED: usize = 64;
/// Most rounds; each takes twice as much as the one before, or half of what is left.
pub const MAX_ROUNDS: u32 = 64;

/// What somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// How many bytes may stay; the budget when absent.
    pub keep: Option<u64>,
    /// All that this toolchain made goes, and nothing else.
    pub toolchain: Option<String>,
    /// All in these Projects goes, and nothing else.
    pub project: Option<Pattern>,
    /// Whether nothing is to be removed.
    pub dry: bool,
}

impl Wish {
    fn is_picky(&self) -> bool {
        self.toolchain.is_some() || self.project.is_some()
    }

    /// Whether it names this Entry.
    fn picks(&self, row: &Row) -> bool {
        let toolchain = self.toolchain.as_ref().is_none_or(|wanted| {
            row.toolchain.as_ref().is_some_and(|label| {
                let full = row.tool.as_ref().map(|tool| format!("{tool} {label}"));
                is_version(label, wanted) || full.is_some_and(|full| is_version(&full, wanted))
            })
        });
        toolchain && self.project.as_ref().is_none_or(|pattern| pattern.covers(row.project.as_str()))
    }
}

/// Whether a label is of a version: `1.94` is 1.94.0 and 1.94.0-nightly, and not 1.940.0.
fn is_version(label: &str, wanted: &str) -> bool {
    let rest = label.strip_prefix(wanted);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}

/// An Entry, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it lies.
    pub name: EntryName,
    /// Its Project.
    pub project: Project,
    /// The tool that made it.
    pub tool: Option<String>,
    /// The toolchain that made it.
    pub toolchain: Option<String>,
    /// What its score depends on.
    pub subject: Subject,
    /// The Blob that it names.
    pub output: Digest,
    /// Whether that is a Tree, whose files are wanted as well.
    pub is_tree: bool,
    /// Whether it was made here.
    pub own: bool,
    /// Whether it was used since the round began.
    pub used: bool,
    /// Whether what it names is pinned: then the Entry stays as well, or nobody would find that any more.
    pub pinned: bool,
}

/// A collection under way.
#[derive(Debug)]
struct Job {
    ask: Option<u64>,
    wish: Wish,
    draft: Draft,
    goal: Option<u64>,
    /// Bytes that parts of Blobs take, and how many of them are to go first.
    parts: u64,
    parts_to_go: u64,
    parts_freed: u64,
    /// The present of the first round. It holds for all, or a store that is young would age while it is looked at.
    now: Option<Time>,
    /// Bytes of Entries that the last round was to take.
    wanted: u64,
    /// What of it the round before had not wanted yet.
    part: u64,
    cut: Cut,
}

impl Job {
    fn new(ask: Option<u64>, wish: Wish, draft: Draft) -> Self {
        let ([parts, parts_to_go, parts_freed, wanted, part], cut) = ([0; 5], Cut::NOTHING);
        let (goal, now) = (None, None);
        Self { ask, wish, draft, goal, parts, parts_to_go, parts_freed, now, wanted, part, cut }
    }
}

/// A round under way.
#[derive(Debug)]
struct Round {
    marks: Marks,
    histogram: Histogram,
    /// What is left of the cut.
    cut: Cut,
    step: Step,
    /// Trees that are yet to be read.
    trees: Vec<Digest>,
    /// Blobs that are yet to be removed.
    going: Vec<(Digest, u64)>,
    /// Bytes of all Blobs that were seen.
    seen: u64,
    freed: u64,
    held: u64,
}

#[derive(Debug)]
enum Step {
    /// Mark, with the Entries after this one to come, or none.
    Mark(Option<Option<EntryName>>),
    /// These go, the others of their page were marked.
    Doom(Vec<Row>, Option<Option<EntryName>>),
    /// Sweep, with this shelf to come, or none.
    Sweep(Option<Shelf>),
}

/// The Plan.
#[derive(Debug)]
pub struct Collection {
    asks: VecDeque<(u64, Wish)>,
    actions: VecDeque<Action>,
    /// Whether an action has to be answered first.
    waiting: bool,
    look_at: Moment,
    tidy_at: Moment,
    rests_until: Moment,
    rest: Backoff,
    job: Option<Job>,
    round: Option<Round>,
}

impl Default for Collection {
    fn default() -> Self {
        Self::new()
    }
}

impl Collection {
    /// Looks at the room at once, and tidies up later.
    pub fn new() -> Self {
        Self {
            asks: VecDeque::new(),
            actions: VecDeque::new(),
            waiting: false,
            look_at: Moment::default(),
            tidy_at: Moment::default().plus(TIDY_EVERY),
            rests_until: Moment::default(),
            rest: Backoff::new(REST.0, REST.1),
            job: None,
            round: None,
        }
    }

    fn ask(&mut self, number: u64, wish: Wish) {
        if self.asks.len() < MAX_ASKS {
            self.asks.push_back((number, wish));
            return;
        }
        let mut draft = Draft::new(Cause::Asked, wish.dry, 0);
        draft.report().failure = Some("too many others have asked already".to_owned());
        let report = draft.finish(End::Failed, None);
        self.actions.push_back(Action::Report(Some(number), Box::new(report)));
    }

    /// Decides what the room there is calls for.
    fn room(&mut self, now: Moment, room: Room) {
        self.look_at = now.plus(LOOK_EVERY);
        if self.job.is_some() {
            return;
        }
        let missing = room.floor.saturating_sub(room.free);
        // As with the budget, a little more than must be.
        let above = |missing: u64| room.used.saturating_sub(missing.saturating_add(room.floor / 10));
        let by_floor = (missing > 0).then(|| above(missing));
        let over = room.used > room.budget;
        let part = u64::try_from(u128::from(room.budget) * u128::from(DOWN_TO) / 100).unwrap_or(u64::MAX);
        let (ask, wish, cause, goal) = if let Some((number, wish)) = self.asks.pop_front() {
            let goal = wish.keep.or((!wish.is_picky()).then_some(room.budget));
            (Some(number), wish, Cause::Asked, goal)
        } else if (over || by_floor.is_some()) && now >= self.rests_until {
            let cause = if over { Cause::Budget } else { Cause::Floor };
            let goal = by_floor.unwrap_or(u64::MAX).min(if over { part } else { u64::MAX });
            (None, Wish::default(), cause, Some(goal))
        } else if now >= self.tidy_at {
            (None, Wish::default(), Cause::Tidying, None)
        } else {
            return;
        };
        let mut draft = Draft::new(cause, wish.dry, room.used);
        draft.report().goal = goal;
        let missing = goal.map_or(0, |goal| room.used.saturating_sub(goal));
        let (parts, parts_to_go) = (room.parts, missing.min(room.parts));
        self.job = Some(Job { parts, parts_to_go, goal, ..Job::new(ask, wish, draft) });
    }

    /// Some parts went, or would.
    fn parts(&mut self, freed: u64, left: u64) {
        let Some(job) = &mut self.job else { return };
        (job.parts, job.parts_to_go) = (left, 0);
        job.draft.report().freed += freed;
        job.parts_freed = freed;
    }

    fn begin_round(
        &mut self,
        now: Time,
        (about, seed): (u64, u64),
        (blobs, trees): (&[Digest], Vec<Digest>),
    ) {
        let Some(job) = &mut self.job else { return };
        job.now.get_or_insert(now);
        job.draft.round();
        let mut round = Round {
            marks: Marks::new(about, seed),
            histogram: Histogram::default(),
            cut: job.cut,
            step: Step::Mark(Some(None)),
            trees: Vec::new(),
            going: Vec::new(),
            seen: job.parts,
            freed: 0,
            held: 0,
        };
        for digest in blobs.iter().chain(&trees) {
            round.marks.mark(digest);
        }
        round.trees = trees;
        self.round = Some(round);
    }

    /// Decides about some Entries.
    fn page(&mut self, rows: Vec<Row>, last: bool) {
        let (Some(job), Some(round)) = (&mut self.job, &mut self.round) else { return };
        let Some(now) = job.now else { return };
        let after = rows.last().map(|row| row.name).filter(|_| !last);
        let mut doomed = Vec::new();
        for row in rows {
            let weight = row.subject.bytes.max(1);
            let level = row.subject.level(now);
            let stays = row.pinned && row.subject.standing == Standing::Good;
            let goes = if stays {
                false
            } else if job.wish.is_picky() {
                job.wish.picks(&row)
            } else {
                row.subject.standing == Standing::Expired || (!row.used && round.cut.takes(level, weight))
            };
            if goes && !job.wish.dry {
                doomed.push(row);
                continue;
            }
            if goes {
                job.draft.goes(&row, &why(&job.wish, &row, now));
            } else {
                round.keep(&row);
                job.draft.stays(&row);
            }
            // Where nothing is removed, what would go is looked at again in the next round.
            if row.subject.standing != Standing::Expired && !row.used && !stays {
                round.histogram.add(level, weight);
            }
        }
        let next = after.map(Some);
        round.step = if doomed.is_empty() { Step::Mark(next) } else { Step::Doom(doomed, next) };
    }

    /// Entries are gone, save those that had come to be used.
    fn doomed(&mut self, spared: &[EntryName]) {
        let (Some(job), Some(round)) = (&mut self.job, &mut self.round) else { return };
        let Some(now) = job.now else { return };
        let Step::Doom(rows, next) = std::mem::replace(&mut round.step, Step::Mark(None)) else { return };
        for row in rows {
            if spared.contains(&row.name) {
                round.keep(&row);
                job.draft.stays(&row);
            } else {
                job.draft.goes(&row, &why(&job.wish, &row, now));
            }
        }
        round.step = Step::Mark(next);
    }

    /// A round is over: is another one needed?
    fn end_round(&mut self, now: Moment, crowded: bool) {
        let (Some(job), Some(round)) = (&mut self.job, self.round.take()) else { return };
        self.actions.push_back(Action::End);
        let left = round.seen.saturating_sub(round.freed);
        let report = job.draft.report();
        let before = if job.wish.dry { job.parts_freed } else { report.freed };
        report.freed = before.saturating_add(round.freed);
        (report.after, report.in_use) = (left, round.held);
        if crowded {
            return self.finish(now, End::Crowded, None);
        }
        let missing = job.goal.map_or(0, |goal| left.saturating_sub(round.held).saturating_sub(goal));
        if missing == 0 {
            return self.finish(now, End::Done, None);
        }
        let total = round.histogram.total();
        // In a dry run all is still there, so that this round's part has to be wanted again.
        let before = if job.wish.dry { job.wanted } else { 0 };
        if total <= before || job.draft.report().rounds >= MAX_ROUNDS {
            return self.finish(now, End::NothingLeft, None);
        }
        let guess = u128::from(total - before) * u128::from(missing) / u128::from(left.max(1));
        let guess = u64::try_from(guess).unwrap_or(u64::MAX).saturating_add(1);
        // What was too little is doubled, but half of what is left is enough for one round.
        job.part = guess.max(job.part.saturating_mul(2).min((total - before).div_ceil(2)));
        job.wanted = before.saturating_add(job.part);
        job.cut = round.histogram.cut(job.wanted);
    }

    fn finish(&mut self, now: Moment, end: End, failure: Option<String>) {
        if self.round.take().is_some() {
            self.actions.push_back(Action::End);
        }
        let Some(mut job) = self.job.take() else { return };
        job.draft.report().failure = failure;
        let (short, held) = (end != End::Done, job.draft.report().in_use > 0);
        let automatic = job.ask.is_none();
        let report = job.draft.finish(end, job.now);
        self.actions.push_back(Action::Report(job.ask, Box::new(report)));
        self.look_at = if self.asks.is_empty() { now.plus(LOOK_EVERY) } else { now };
        if !job.wish.dry && end != End::Failed {
            self.tidy_at = now.plus(if held { AGAIN_AFTER } else { TIDY_EVERY });
        } else if automatic {
            self.tidy_at = self.tidy_at.max(now.plus(REST.0));
        }
        if automatic && short {
            self.rests_until = now.plus(self.rest.step());
        } else if automatic {
            self.rest.reset();
        }
    }

    /// The next thing to do about the round, unless it is over.
    fn step(round: &mut Round, wish: &Wish) -> Option<Action> {
        if let Step::Doom(rows, _) = &round.step {
            let names = rows.iter().map(|row| row.name).collect();
            return Some(Action::Doom { names, spare: !wish.is_picky() });
        }
        if !round.trees.is_empty() {
            let from = round.trees.len().saturating_sub(MAX_TREES);
            return Some(Action::Read(round.trees.split_off(from)));
        }
        if let Step::Mark(next) = &mut round.step {
            match next.take() {
                Some(after) => return Some(Action::Page(after)),
                None => round.step = Step::Sweep(Some(Shelf::Files(0))),
            }
        }
        if !round.going.is_empty() {
            let from = round.going.len().saturating_sub(MAX_REMOVED);
            return Some(Action::Remove { blobs: round.going.split_off(from), dry: wish.dry });
        }
        match &mut round.step {
            Step::Sweep(shelf) => shelf.take().map(Action::List),
            _ => None,
        }
    }
}

impl Round {
    /// An Entry stays, and what it names with it.
    fn keep(&mut self, row: &Row) {
        self.marks.mark(&row.output);
        if row.is_tree {
            self.trees.push(row.output);
        }
    }
}

fn why(wish: &Wish, row: &Row, now: Time) -> String {
    if wish.is_picky() { "asked for".to_owned() } else { row.subject.why(now) }
}

impl Plan for Collection {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        if let Event::Ask(number, wish) = event {
            return self.ask(number, wish);
        }
        self.waiting = false;
        match event {
            Event::Ask(..) => {}
            Event::Room(room) => self.room(now, room),
            Event::Parts { freed, left } => self.parts(freed, left),
            Event::Roots { now, blobs, trees, about, seed } => {
                self.begin_round(now, (about, seed), (&blobs, trees));
            }
            Event::Page { rows, last } => self.page(rows, last),
            Event::Doomed(spared) => self.doomed(&spared),
            Event::Read { files, unread } => {
                if let Some(round) = &mut self.round {
                    files.iter().for_each(|digest| round.marks.mark(digest));
                    round.trees.extend(unread);
                }
            }
            Event::Listed { blobs, next } => {
                if let Some(round) = &mut self.round {
                    round.seen = blobs.iter().fold(round.seen, |sum, (_, bytes)| sum.saturating_add(*bytes));
                    round.going.extend(blobs.into_iter().filter(|(digest, _)| !round.marks.has(digest)));
                    round.step = Step::Sweep(next);
                }
            }
            Event::Removed { freed, held, crowded } => {
                if let Some(round) = &mut self.round {
                    round.freed = round.freed.saturating_add(freed);
                    round.held = round.held.saturating_add(held);
                    if crowded {
                        // What is on the shelves that were not seen stays.
                        round.seen = self.job.as_mut().map_or(0, |job| job.draft.report().before);
                        self.end_round(now, true);
                    }
                }
            }
            Event::Failed(failure) => {
                self.look_at = now.plus(LOOK_EVERY);
                if self.job.is_none()
                    && let Some((number, wish)) = self.asks.pop_front()
                {
                    let draft = Draft::new(Cause::Asked, wish.dry, 0);
                    self.job = Some(Job::new(Some(number), wish, draft));
                }
                self.finish(now, End::Failed, Some(failure));
            }
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.waiting {
                return None;
            }
            let action = match (&mut self.job, &mut self.round) {
                (None, _) if self.asks.is_empty() && self.look_at > now => return None,
                (None, _) => Some(Action::Look),
                (Some(job), None) if job.parts_to_go > 0 => {
                    Some(Action::Parts { bytes: job.parts_to_go, dry: job.wish.dry })
                }
                (Some(_), None) => Some(Action::Begin),
                (Some(job), Some(round)) => Self::step(round, &job.wish),
            };
            if let Some(action) = action {
                self.waiting = true;
                return Some(action);
            }
            self.end_round(now, false);
        }
    }

    fn wake_at(&self) -> Option<Moment> {
        (!self.waiting && self.job.is_none()).then_some(self.look_at)
    }
}

#[cfg(test)]
mod tests;
