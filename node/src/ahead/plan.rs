// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to learn, fetch, stop and keep while builds go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::codec::Bytes;
use potluck_protocol::control::Note;

use super::list::{List, MAX_STEPS, Step};
use crate::plan::{Moment, Plan};

/// Most builds at a time; what is said of further ones is not heard.
pub const MAX_BUILDS: usize = 16;
/// Most bytes that are fetched ahead for one build.
pub const MAX_AHEAD: u64 = 4 << 30;
/// Most keys that are looked up together.
pub const MAX_TOGETHER: usize = 1024;
/// How often it is looked whether a build still goes on.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of a build that says nothing for so long nothing is kept: its process may be another one by now.
pub const SILENCE: Duration = Duration::from_secs(3600);

/// A key of a tool.
pub type Key = Vec<u8>;

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A build asks for a unit.
    Asks {
        /// The build.
        build: String,
        /// Its process.
        pid: u64,
        /// The Project.
        project: Project,
        /// The unit; how large it is, is not known yet.
        step: Step,
        /// What builds of this kind have in common, with its first unit.
        plan: Option<Key>,
    },
    /// The answer to [`Action::Learn`].
    Learned {
        /// The build.
        build: String,
        /// What such builds ask for, if anybody knows.
        list: Option<List>,
    },
    /// The answer to [`Action::Look`], when it has ended.
    Ended {
        /// The build.
        build: String,
    },
}

impl From<Note> for Event {
    fn from(note: Note) -> Self {
        let Note { build, pid, project, unit, recipe, key, plan } = note;
        let step = Step { unit, recipe, key, bytes: 0 };
        Self::Asks { build: build.to_string(), pid, project, step, plan: plan.map(Bytes::into_inner) }
    }
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Find out what builds of this kind ask for.
    Learn {
        /// The build.
        build: String,
        /// The Project.
        project: Project,
        /// What they have in common.
        plan: Key,
    },
    /// Look all of these up in one question, and fetch them in this order.
    Bring {
        /// The build.
        build: String,
        /// The Project.
        project: Project,
        /// The Recipe of all of them.
        recipe: Recipe,
        /// They.
        keys: Vec<Key>,
    },
    /// What is still being fetched for a build is not wanted any more.
    Cancel {
        /// The build.
        build: String,
    },
    /// See whether a build still goes on.
    Look {
        /// The build.
        build: String,
        /// Its process.
        pid: u64,
    },
    /// See how large these are, and if it is news then, keep that such builds ask for them.
    Keep {
        /// The Project.
        project: Project,
        /// What such builds have in common.
        plan: Key,
        /// What was known before.
        before: List,
        /// What they ask for.
        list: List,
    },
}

/// A build that goes on.
#[derive(Debug)]
struct Build {
    pid: u64,
    project: Project,
    plan: Option<Key>,
    asked: Vec<Step>,
    seen: BTreeSet<Vec<u8>>,
    known: Option<List>,
    bringing: bool,
    look_at: Moment,
    silent_at: Moment,
}

/// The Plan.
#[derive(Debug, Default)]
pub struct Ahead {
    builds: BTreeMap<String, Build>,
    actions: VecDeque<Action>,
}

impl Ahead {
    fn asks(
        &mut self,
        now: Moment,
        (build, pid, project): (String, u64, Project),
        (step, plan): (Step, Option<Key>),
    ) {
        if !self.builds.contains_key(&build) && self.builds.len() >= MAX_BUILDS {
            return;
        }
        let name = build.clone();
        let entry = self.builds.entry(build).or_insert_with(|| Build {
            pid,
            project,
            plan: None,
            asked: Vec::new(),
            seen: BTreeSet::new(),
            known: None,
            bringing: false,
            look_at: now.plus(LOOK_EVERY),
            silent_at: now.plus(SILENCE),
        });
        entry.silent_at = now.plus(SILENCE);
        if entry.asked.len() < MAX_STEPS && entry.seen.insert(step.key.to_vec()) {
            entry.asked.push(step);
        }
        if let (None, Some(plan)) = (&entry.plan, plan) {
            entry.plan = Some(plan.clone());
            self.actions.push_back(Action::Learn { build: name, project: entry.project.clone(), plan });
        }
    }

    fn learned(&mut self, build: &str, list: Option<List>) {
        let Some(entry) = self.builds.get_mut(build) else { return };
        let list = list.unwrap_or_default();
        let mut bytes = 0_u64;
        // What it asks for itself needs nobody's help.
        let wanted = list.steps.iter().filter(|step| !entry.seen.contains(&step.key[..]));
        let wanted = wanted.take_while(|step| {
            bytes = bytes.saturating_add(step.bytes);
            bytes <= MAX_AHEAD
        });
        // One question for each Recipe; within it, in the order of the build.
        let mut batches: Vec<(&Recipe, Vec<Key>)> = Vec::new();
        for step in wanted {
            let open = |(recipe, keys): &&mut (&Recipe, Vec<Key>)| {
                **recipe == step.recipe && keys.len() < MAX_TOGETHER
            };
            match batches.iter_mut().find(open) {
                Some((_, keys)) => keys.push(step.key.to_vec()),
                None => batches.push((&step.recipe, vec![step.key.to_vec()])),
            }
        }
        entry.bringing |= !batches.is_empty();
        for (recipe, keys) in batches {
            let (build, project, recipe) = (build.to_owned(), entry.project.clone(), recipe.clone());
            self.actions.push_back(Action::Bring { build, project, recipe, keys });
        }
        entry.known = Some(list);
    }

    fn ended(&mut self, build: String) {
        let Some(entry) = self.builds.remove(&build) else { return };
        if entry.bringing {
            self.actions.push_back(Action::Cancel { build });
        }
        // Before it is known what was known, nothing is kept: that might be more.
        if let (Some(plan), Some(before)) = (entry.plan, entry.known) {
            let list = before.after(&entry.asked);
            self.actions.push_back(Action::Keep { project: entry.project, plan, before, list });
        }
    }
}

impl Plan for Ahead {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Asks { build, pid, project, step, plan } => {
                self.asks(now, (build, pid, project), (step, plan));
            }
            Event::Learned { build, list } => self.learned(&build, list),
            Event::Ended { build } => self.ended(build),
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        let silent = |(name, build): (&String, &Build)| (build.silent_at <= now).then(|| name.clone());
        for name in self.builds.iter().filter_map(silent).collect::<Vec<_>>() {
            let gone = self.builds.remove(&name);
            if gone.is_some_and(|build| build.bringing) {
                self.actions.push_back(Action::Cancel { build: name });
            }
        }
        for (name, build) in self.builds.iter_mut().filter(|(_, build)| build.look_at <= now) {
            build.look_at = now.plus(LOOK_EVERY);
            self.actions.push_back(Action::Look { build: name.clone(), pid: build.pid });
        }
        self.actions.pop_front()
    }

    fn wake_at(&self) -> Option<Moment> {
        self.builds.values().map(|build| build.look_at.min(build.silent_at)).min()
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::codec::Text;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn step(number: u16, recipe: &str, bytes: u64) -> Step {
        Step {
            unit: Text::new(format!("unit{number}")).unwrap(),
            recipe: Recipe::new(recipe).unwrap(),
            key: Bytes::new(number.to_be_bytes().to_vec()).unwrap(),
            bytes,
        }
    }

    fn asks(build: &str, number: u16, plan: Option<&[u8]>) -> Event {
        let (project, plan) = (Project::default(), plan.map(<[u8]>::to_vec));
        Event::Asks { build: build.to_owned(), pid: 7, project, step: step(number, "rustc@1", 0), plan }
    }

    fn feed(plan: &mut Ahead, now: Moment, event: Event) -> Vec<Action> {
        plan.feed(now, event);
        let actions = std::iter::from_fn(|| plan.take(now)).collect();
        assert!(plan.wake_at().is_none_or(|at| at > now));
        actions
    }

    fn learned(build: &str, steps: Vec<Step>) -> Event {
        Event::Learned { build: build.to_owned(), list: Some(List { steps }) }
    }

    #[test]
    fn all_that_a_build_will_ask_for_goes_into_one_question_in_its_order() {
        let mut plan = Ahead::default();
        let learn = feed(&mut plan, at(0), asks("b", 5, Some(b"kind")));
        assert!(matches!(&learn[..], [Action::Learn { plan, .. }] if plan == b"kind"));
        assert_eq!(feed(&mut plan, at(1), asks("b", 3, None)), []);
        let steps = [9, 5, 1, 3, 7].map(|number| step(number, "rustc@1", 1)).to_vec();
        let bring = feed(&mut plan, at(2), learned("b", steps));
        let [Action::Bring { keys, .. }] = &bring[..] else { panic!("{bring:?}") };
        assert_eq!(
            *keys,
            [9_u16, 1, 7].map(|number| number.to_be_bytes().to_vec()),
            "without what it has asked for"
        );
    }

    #[test]
    fn each_recipe_has_a_question_and_no_question_is_too_long() {
        let mut plan = Ahead::default();
        feed(&mut plan, at(0), asks("b", 0, Some(b"kind")));
        let mut steps: Vec<_> = (1..=1500).map(|number| step(number, "rustc@1", 1)).collect();
        steps.push(step(2000, "other@1", 1));
        let sizes = |action: &Action| match action {
            Action::Bring { recipe, keys, .. } => (recipe.to_string(), keys.len()),
            other => panic!("{other:?}"),
        };
        let bring = feed(&mut plan, at(1), learned("b", steps));
        let sizes: Vec<_> = bring.iter().map(sizes).collect();
        let rustc = "rustc@1".to_owned();
        assert_eq!(sizes, [(rustc.clone(), MAX_TOGETHER), (rustc, 476), ("other@1".to_owned(), 1)]);
    }

    #[test]
    fn what_is_fetched_ahead_is_bounded_in_bytes() {
        let mut plan = Ahead::default();
        feed(&mut plan, at(0), asks("b", 0, Some(b"kind")));
        let steps = vec![step(1, "rustc@1", MAX_AHEAD), step(2, "rustc@1", 1), step(3, "rustc@1", u64::MAX)];
        let bring = feed(&mut plan, at(1), learned("b", steps));
        assert!(matches!(&bring[..], [Action::Bring { keys, .. }] if keys.len() == 1), "{bring:?}");
    }

    #[test]
    fn a_build_that_has_ended_stops_what_is_fetched_and_is_learned_from() {
        let mut plan = Ahead::default();
        feed(&mut plan, at(0), asks("b", 1, Some(b"kind")));
        feed(&mut plan, at(1), learned("b", vec![step(1, "rustc@1", 1), step(2, "rustc@1", 1)]));
        feed(&mut plan, at(2), asks("b", 3, None));
        let look = feed(&mut plan, at(1000), asks("b", 3, None));
        assert!(matches!(&look[..], [Action::Look { pid: 7, .. }]), "{look:?}");
        let ended = feed(&mut plan, at(1001), Event::Ended { build: "b".to_owned() });
        let [Action::Cancel { .. }, Action::Keep { list, before, .. }] = &ended[..] else {
            panic!("{ended:?}")
        };
        let units: Vec<_> = list.steps.iter().map(|step| &*step.unit).collect();
        assert_eq!((units, before.steps.len()), (vec!["unit1", "unit2", "unit3"], 2));
        assert_eq!(plan.wake_at(), None);
        assert_eq!(feed(&mut plan, at(1002), Event::Ended { build: "b".to_owned() }), []);
        assert_eq!(feed(&mut plan, at(1003), learned("b", Vec::new())), [], "too late");
    }

    #[test]
    fn nothing_is_kept_of_what_never_ends_or_began_before_this_node_and_builds_are_bounded() {
        let mut plan = Ahead::default();
        for number in 0..2 * MAX_BUILDS {
            feed(&mut plan, at(0), asks(&number.to_string(), 1, None));
        }
        assert_eq!(plan.builds.len(), MAX_BUILDS);
        assert_eq!(
            feed(&mut plan, at(1), Event::Ended { build: "0".to_owned() }),
            [],
            "its kind is not known"
        );
        let later = Moment::default().plus(SILENCE);
        assert!(std::iter::from_fn(|| plan.take(later)).all(|action| matches!(action, Action::Look { .. })));
        assert!(plan.builds.is_empty());
        feed(&mut plan, later, asks("long", 0, Some(b"kind")));
        for number in 1..=u16::try_from(MAX_STEPS).unwrap() + 1 {
            feed(&mut plan, later, asks("long", number, None));
        }
        assert_eq!(plan.builds["long"].asked.len(), MAX_STEPS);
    }
}
