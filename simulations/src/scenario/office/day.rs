// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who builds what and when: the projects of the office, how their sources change, and the day of each machine.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use potluck_node::fetch::event::Need;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;

/// Machines: the first builds what was committed, the last is that of somebody who was away.
pub(super) const NODES: usize = 20;
/// The one that builds what was committed, and believes nobody but itself.
pub(super) const BUILDER: usize = 0;
/// The one whose owner was away in the morning.
pub(super) const AWAY: usize = NODES - 1;
/// Those that are carried about.
const LAPTOPS: Range<usize> = 3..7;
/// Those that stay on over night.
const NIGHT: Range<usize> = 7..10;

pub(super) const PROJECTS: usize = 8;
/// Projects that one person works on.
const PROJECTS_OF_ONE: usize = 2;
/// Units of compilation of a project.
const UNITS: usize = 50;
/// How many others a unit needs at most.
const NEEDS: usize = 2;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// What happens to a machine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// It is switched on, or comes back to the office.
    Comes,
    /// It is switched off, or carried away.
    Goes,
    /// The newest sources of a project are built, with an edit of one unit or without.
    Builds { project: usize, edit: Option<Edit> },
    /// What was edited is committed.
    Commits { project: usize, edit: Edit },
}

/// An edit of one unit. Equal ones have equal results, wherever they are built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edit {
    unit: usize,
    salt: u64,
}

pub(super) fn project(number: usize) -> Project {
    Project::new(&format!("acme/p{number}")).expect("it is a name")
}

/// The projects that a machine builds.
pub(super) fn projects_of(node: usize) -> Vec<usize> {
    match node {
        BUILDER => (0..PROJECTS).collect(),
        // Neighbours share one, so that everybody is connected with everybody by somebody.
        _ => (0..PROJECTS_OF_ONE).map(|next| (node + next) % PROJECTS).collect(),
    }
}

/// The sources of a project.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    project: usize,
    needs: Vec<Vec<usize>>,
    edits: Vec<u64>,
}

impl Sources {
    pub(super) fn new(project: usize, chance: &mut Rng) -> Self {
        let needs = (0..UNITS).map(|unit| {
            let count = chance.usize(0..=NEEDS.min(unit));
            (0..count).map(|_| chance.usize(0..unit)).collect()
        });
        Self { project, needs: needs.collect(), edits: vec![0; UNITS] }
    }

    pub(super) fn edit(&mut self, Edit { unit, salt }: Edit) {
        self.edits[unit] = salt;
    }

    /// The actions of a build, each after those whose results it needs.
    pub(super) fn actions(&self) -> Vec<ActionId> {
        let mut prints: Vec<Digest> = Vec::with_capacity(UNITS);
        for (unit, needs) in self.needs.iter().enumerate() {
            let own = [self.project as u64, unit as u64, self.edits[unit]].map(u64::to_le_bytes);
            let mut all = own.concat();
            needs.iter().for_each(|need| all.extend(prints[*need].as_bytes()));
            prints.push(Digest::of(&all));
        }
        prints.into_iter().map(|print| ActionId::from_bytes(*print.as_bytes())).collect()
    }
}

/// What an action makes, and how long that takes; the same wherever it is done.
pub(super) fn outcome(action: &ActionId) -> (Vec<Need>, Duration) {
    let seed = u64::from_le_bytes(*action.as_bytes().first_chunk().expect("an ActionId is longer"));
    let mut chance = Rng::with_seed(seed);
    let blobs = (0..chance.u64(1..4)).map(|part| {
        let digest = Digest::of(&[action.as_bytes(), part.to_le_bytes().as_slice()].concat());
        let large = part == 0 && chance.u32(..60) == 0;
        let size =
            if large { chance.u64(9 << 20..14 << 20) } else { (1 << chance.u32(8..21)) + chance.u64(..256) };
        Need { digest, size }
    });
    (blobs.collect(), Duration::from_millis(chance.u64(500..15_000)))
}

/// All that happens on a day of `hours`, in no order: after how long, to which machine, and what.
pub(super) fn plan(chance: &mut Rng, hours: u64) -> Vec<(Duration, usize, Step)> {
    let mut steps = Vec::new();
    for node in 0..NODES {
        for (from, to) in hours_of(node, chance) {
            steps.push((Duration::from_secs(from), node, Step::Comes));
            steps.push((Duration::from_secs(to), node, Step::Goes));
            if node != BUILDER {
                work(chance, (node, from..to), &mut steps);
            }
        }
    }
    // What would be committed before the end may be so after it.
    steps.retain(|(after, ..)| after.as_secs() < hours * HOUR);
    steps
}

/// When a machine is there, in seconds after the day began at seven o'clock.
fn hours_of(node: usize, chance: &mut Rng) -> Vec<(u64, u64)> {
    let mut at = |hour: u64| hour * HOUR + chance.u64(..90 * MINUTE);
    match node {
        BUILDER => vec![(0, 25 * HOUR)],
        AWAY => vec![(at(5), at(10))],
        // To the office, to a meeting, to another one, and home.
        _ if LAPTOPS.contains(&node) => vec![(at(1), at(3)), (at(5), at(6)), (at(8), at(10))],
        _ if NIGHT.contains(&node) => vec![(at(0), 25 * HOUR)],
        _ => vec![(at(0), at(9))],
    }
}

/// The builds of somebody who is there from one time to another.
fn work(chance: &mut Rng, (node, there): (usize, Range<u64>), steps: &mut Vec<(Duration, usize, Step)>) {
    let mut now = there.start + chance.u64(MINUTE..10 * MINUTE);
    // Nobody works at night.
    while now < there.end.min(12 * HOUR) {
        let projects = projects_of(node);
        let project = projects[chance.usize(..projects.len())];
        let edit = Edit { unit: chance.usize(UNITS / 3..UNITS), salt: chance.u64(1..) };
        let edit = (chance.u32(..10) < 6).then_some(edit);
        steps.push((Duration::from_secs(now), node, Step::Builds { project, edit }));
        if let Some(edit) = edit.filter(|_| chance.bool()) {
            let commits = now + chance.u64(5 * MINUTE..15 * MINUTE);
            steps.push((Duration::from_secs(commits), node, Step::Commits { project, edit }));
        }
        now += chance.u64(15 * MINUTE..50 * MINUTE);
    }
}
