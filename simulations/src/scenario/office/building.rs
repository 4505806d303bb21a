// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds: what is looked up, what is made, and what somebody should have had.

use std::time::Duration;

use potluck_keys::time::Time;
use potluck_node::catalog::plan as catalogs;
use potluck_node::fetch::event::{self as fetch, Space};
use potluck_protocol::action::{ActionId, Recipe};
use potluck_protocol::digest::Digest;

use super::day::{BUILDER, Edit, outcome, project};
use super::machine::signer_of;
use super::{Message, Office};

/// How many actions a build has under way at a time.
const JOBS: usize = 8;
/// How long a tool waits for somebody who has the output.
const DEADLINE: Duration = Duration::from_millis(100);
/// How long after a publication all who are there are expected to know.
const KNOWN_AFTER: Duration = Duration::from_secs(5);
/// How long after it was switched on a machine is expected to know what there is.
const READY_AFTER: Duration = Duration::from_secs(30);

pub(super) fn space(number: usize) -> Space {
    Space { project: project(number), recipe: Recipe::new("rustc@1").expect("it is a recipe") }
}

impl Office {
    /// A build begins, or is put behind the one that runs.
    pub(super) fn builds(&mut self, at: usize, project: usize, edit: Option<Edit>) {
        self.count.builds += 1;
        let mut sources = self.sources[project].clone();
        edit.into_iter().for_each(|edit| sources.edit(edit));
        for action in sources.actions() {
            self.projects.insert(action, project);
            self.machines[at].todo.push_back((project, action));
        }
        self.work(at);
    }

    /// Begins as much as may be under way.
    pub(super) fn work(&mut self, at: usize) {
        while self.machines[at].busy < JOBS {
            let Some((project, action)) = self.machines[at].todo.pop_front() else { return };
            self.begin(at, project, action);
        }
    }

    fn begin(&mut self, at: usize, number: usize, action: ActionId) {
        let (blobs, _) = outcome(&action);
        if self.machines[at].missing(&action, &blobs).is_some_and(|missing| missing.is_empty()) {
            self.count.here += 1;
            return;
        }
        self.machines[at].busy += 1;
        // It believes nobody, and hence asks nobody.
        if at == BUILDER {
            return self.make(at, number, action);
        }
        let topics = self.machines[at].followed.probe(&project(number), &action);
        let expected = self.expected(at, &action);
        self.count.before += u64::from(expected);
        if topics.is_empty() {
            self.count.misses += 1;
            return self.make(at, number, action);
        }
        let listed = self.published.get(&action);
        let by = |signer| listed.is_some_and(|(_, by)| by.contains(&signer));
        self.count.false_alarms += u64::from(!topics.iter().map(signer_of).any(by));
        let look = self.number();
        self.machines[at].looks.insert(look, (number, action, expected));
        let until = self.moment().plus(DEADLINE);
        let actions = vec![(action, topics)];
        self.fetch(at, fetch::Event::Look { look, space: space(number), actions, until });
    }

    /// Whether somebody published it long enough ago, and somebody has it who is there.
    fn expected(&self, at: usize, action: &ActionId) -> bool {
        let now = self.world.now();
        let ago = |then: Time, span: Duration| now.since(then) >= span;
        let Some((first, _)) = self.published.get(action) else { return false };
        let (blobs, _) = outcome(action);
        let has = |other: &usize| {
            let machine = &self.machines[*other];
            ago(machine.since, READY_AFTER)
                && machine.missing(action, &blobs).is_some_and(|missing| missing.is_empty())
        };
        ago(*first, KNOWN_AFTER)
            && ago(self.machines[at].since, READY_AFTER)
            && self.others(at).iter().any(has)
    }

    fn make(&mut self, at: usize, project: usize, action: ActionId) {
        let (_, cost) = outcome(&action);
        self.after(cost, self.asker(at), Message::Built { project, action });
    }

    /// A look ended, well or not.
    pub(super) fn settled(&mut self, at: usize, look: u64, well: bool) {
        let Some((project, action, expected)) = self.machines[at].looks.remove(&look) else { return };
        if well {
            self.count.hits += 1;
            self.count.before_hits += u64::from(expected);
            self.machines[at].busy -= 1;
            self.work(at);
        } else {
            self.count.misses += 1;
            self.make(at, project, action);
        }
    }

    /// The tool has made what was a miss.
    pub(super) fn built(&mut self, at: usize, number: usize, action: ActionId) {
        let now = self.world.now();
        let machine = &mut self.machines[at];
        machine.busy -= 1;
        let (blobs, _) = outcome(&action);
        machine.store.extend(blobs.iter().map(|need| need.digest));
        machine.entries.entry(action).or_default().insert(at);
        let said = [at as u64, now.as_millis()].map(u64::to_le_bytes).concat();
        let claim = Digest::of(&[action.as_bytes().as_slice(), &said].concat());
        machine.own.entry(project(number)).or_default().outbox.insert(action, claim);
        self.count.published += 1;
        self.published.entry(action).or_insert((now, Default::default())).1.insert(at);
        self.catalogs(at, catalogs::Event::Published(project(number)));
        self.work(at);
    }
}
