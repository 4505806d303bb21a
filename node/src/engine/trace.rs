// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the last look-ups went through, for `potluck why`: bounded, in memory, and gone with the daemon. What it amounts
//! to in words is in [`super::why`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_protocol::action::ActionId;
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;

use crate::fetch::event::{Brought, Need, Space, Verdict};
use crate::observe::clock;
use crate::peer::Peer;
use crate::plan::Moment;

/// Most look-ups that are remembered, each action of a question counted as one.
pub const MAX_TRACES: usize = 2048;
/// Most steps that are remembered of one; further ones are only counted.
pub const MAX_STEPS: usize = 64;
/// Most Blobs of one by which it is known that a transfer is for it.
const MAX_WANTED: usize = 64;
/// Most look-ups, the newest, to which a transfer is noted.
const MAX_CONCERNED: usize = 32;

/// What the store had when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// An acceptable claim and all that it names.
    All,
    /// An acceptable claim; so many Blobs were missing, or at least so many.
    Part(usize),
    /// Claims, all refused.
    Refused,
    /// No claim.
    Nothing,
    /// The store did not work.
    Broken,
}

/// How a look-up was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By an output, that had to be fetched or not.
    Hit {
        /// Whether it had to be.
        fetched: bool,
    },
    /// By a miss.
    Miss(Miss),
}

/// What a peer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Nothing at all.
    Silence,
    /// That it knows nothing of the action.
    Unknown,
    /// Claims, which amount to this.
    Claims(Verdict),
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Holders of a topic were looked for on the DHT; nothing while that goes on, then how many were found.
    Sought(Topic, Option<usize>),
    /// A peer was asked, about so many actions at once; nothing until it has answered.
    Asked(Peer, usize, Option<Heard>),
    /// A claim was refused.
    Refused(Refused),
    /// A Blob was fetched from a peer; nothing while that goes on.
    Fetched(Peer, Need, Option<Brought>),
}

/// A claim that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The owner's name for its signer, or its fingerprint.
    pub signer: String,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub text: String,
    /// The rule that says so, as file and line.
    pub rule: Option<String>,
}

/// A step of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How long after the beginning of the look-up it began.
    pub after: Duration,
    /// How long it took; nothing while it goes on.
    pub took: Option<Duration>,
    /// What was done.
    pub what: What,
}

/// One look-up of one action.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The action.
    pub action: ActionId,
    /// Its Project and Recipe.
    pub space: Arc<Space>,
    /// When it was asked for.
    pub at: Time,
    began: Moment,
    /// What the store had.
    pub here: Here,
    /// How many Catalogs were followed.
    pub followed: usize,
    /// Whose Catalogs list it.
    pub listed: Vec<Topic>,
    /// What was done about that.
    pub steps: Vec<Step>,
    /// How many steps there is no room for.
    pub left_out: u64,
    /// How it was answered, and after how long; nothing while it goes on.
    pub ended: Option<(Duration, Ended)>,
    wanted: BTreeSet<Digest>,
}

impl Trace {
    fn begin(&mut self, now: Moment, what: What) {
        if self.steps.len() >= MAX_STEPS {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.steps.push(Step { after: now.since(self.began), took: None, what });
    }

    /// Ends the newest step that `is` picks, and which goes on.
    fn end(&mut self, now: Moment, what: What, is: impl Fn(&What) -> bool) {
        let (after, open) = (now.since(self.began), |step: &&mut Step| step.took.is_none() && is(&step.what));
        if let Some(step) = self.steps.iter_mut().rev().find(open) {
            (step.took, step.what) = (Some(after.saturating_sub(step.after)), what);
        }
    }

    /// What comes of one Blob from one peer, part by part, is one step.
    fn fetching(&mut self, now: Moment, peer: &Peer, need: Need) {
        let goes_on = |step: &&mut Step| match &step.what {
            What::Fetched(from, of, None | Some(Brought::Part)) => from == peer && *of == need,
            _ => false,
        };
        let what = What::Fetched(peer.clone(), need, None);
        match self.steps.iter_mut().rev().find(goes_on) {
            Some(step) => (step.took, step.what) = (None, what),
            None => self.begin(now, what),
        }
    }

    fn wants(&mut self, verdict: &Verdict) {
        if let Verdict::Needs { blobs, .. } = verdict {
            let room = MAX_WANTED.saturating_sub(self.wanted.len());
            self.wanted.extend(blobs.iter().take(room).map(|need| need.digest));
        }
    }
}

/// One look-up that begins.
pub(super) struct Begun {
    pub(super) action: ActionId,
    pub(super) here: Here,
    pub(super) listed: Vec<Topic>,
}

/// The last look-ups.
#[derive(Debug, Default)]
pub struct Traces(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The number of the oldest.
    first: u64,
    ring: VecDeque<Trace>,
    /// Those that somebody lists, by action, the newest of each: only they take further steps.
    sought: HashMap<ActionId, u64>,
    /// Those of them that are not answered.
    open: BTreeSet<u64>,
}

impl Kept {
    fn get(&mut self, number: u64) -> Option<&mut Trace> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.ring.get_mut(place)
    }

    fn of(&mut self, action: &ActionId) -> Option<&mut Trace> {
        let number = *self.sought.get(action)?;
        self.get(number)
    }

    fn push(&mut self, trace: Trace) {
        if self.ring.len() >= MAX_TRACES
            && let Some(oldest) = self.ring.pop_front()
        {
            if self.sought.get(&oldest.action) == Some(&self.first) {
                self.sought.remove(&oldest.action);
            }
            self.open.remove(&self.first);
            self.first += 1;
        }
        let number = self.first + self.ring.len() as u64;
        if !trace.listed.is_empty() {
            self.sought.insert(trace.action, number);
            self.open.insert(number);
        }
        self.ring.push_back(trace);
    }

    /// The newest that are not answered and that `is` picks.
    fn concerned(&mut self, is: impl Fn(&Trace) -> bool, mut each: impl FnMut(&mut Trace)) {
        let newest: Vec<_> = self.open.iter().rev().take(MAX_CONCERNED).copied().collect();
        for number in newest {
            if let Some(trace) = self.get(number).filter(|trace| is(trace)) {
                each(trace);
            }
        }
    }
}

impl Traces {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("nobody panics while holding the traces")
    }

    /// Look-ups begin; gives the number of the first, the others follow.
    pub(super) fn begin(
        &self,
        space: &Arc<Space>,
        followed: usize,
        begun: impl Iterator<Item = Begun>,
    ) -> u64 {
        let (at, began) = (clock::now(), clock::moment());
        let mut kept = self.kept();
        let mut count = 0;
        for Begun { action, here, listed } in begun {
            count += 1;
            let (space, steps, wanted) = (Arc::clone(space), Vec::new(), BTreeSet::new());
            let (left_out, ended) = (0, None);
            kept.push(Trace {
                action,
                space,
                at,
                began,
                here,
                followed,
                listed,
                steps,
                left_out,
                ended,
                wanted,
            });
        }
        kept.first + kept.ring.len() as u64 - count
    }

    /// Look-ups, the first of which has this number, were answered.
    pub(super) fn end(&self, first: u64, ended: impl Iterator<Item = Ended>) {
        let now = clock::moment();
        let mut kept = self.kept();
        for (number, ended) in (first..).zip(ended) {
            kept.open.remove(&number);
            if let Some(trace) = kept.get(number) {
                trace.ended = Some((now.since(trace.began), ended));
            }
        }
    }

    /// Holders of a topic are looked for on the DHT.
    pub fn seeking(&self, topic: &Topic) {
        let now = clock::moment();
        let begin = |trace: &mut Trace| trace.begin(now, What::Sought(topic.clone(), None));
        self.kept().concerned(|trace| trace.listed.contains(topic), begin);
    }

    /// So many were found.
    pub fn sought(&self, topic: &Topic, found: usize) {
        let now = clock::moment();
        let done = || What::Sought(topic.clone(), Some(found));
        let is = |what: &What| matches!(what, What::Sought(of, None) if of == topic);
        self.kept().concerned(|trace| trace.listed.contains(topic), |trace| trace.end(now, done(), is));
    }

    /// A peer is asked.
    pub fn asking(&self, peer: &Peer, actions: &[ActionId]) {
        let now = clock::moment();
        let mut kept = self.kept();
        for action in actions {
            if let Some(trace) = kept.of(action) {
                trace.begin(now, What::Asked(peer.clone(), actions.len(), None));
            }
        }
    }

    /// It answered, or did not.
    pub fn asked(&self, peer: &Peer, actions: &[ActionId], verdicts: Option<&[(ActionId, Verdict)]>) {
        let now = clock::moment();
        let mut kept = self.kept();
        for action in actions {
            let Some(trace) = kept.of(action) else { continue };
            let said = verdicts.map(|all| all.iter().find(|(about, _)| about == action));
            let heard = match said {
                None => Heard::Silence,
                Some(None) => Heard::Unknown,
                Some(Some((_, verdict))) => {
                    trace.wants(verdict);
                    Heard::Claims(verdict.clone())
                }
            };
            let is = |what: &What| matches!(what, What::Asked(whom, _, None) if whom == peer);
            trace.end(now, What::Asked(peer.clone(), actions.len(), Some(heard)), is);
        }
    }

    /// It is known now what else an action needs.
    pub fn needs(&self, action: &ActionId, verdict: &Verdict) {
        if let Some(trace) = self.kept().of(action) {
            trace.wants(verdict);
        }
    }

    /// A claim about an action was refused.
    pub(super) fn refused(&self, action: &ActionId, refused: Refused) {
        let now = clock::moment();
        let mut kept = self.kept();
        let Some(trace) = kept.of(action) else { return };
        let what = What::Refused(refused);
        // Each peer that holds it sends it, and each look-up meets it anew.
        if !trace.steps.iter().any(|step| step.what == what) {
            trace.begin(now, what.clone());
            trace.end(now, what, |what| matches!(what, What::Refused(_)));
        }
    }

    /// A Blob is fetched.
    pub fn fetching(&self, peer: &Peer, need: Need) {
        let now = clock::moment();
        let begin = |trace: &mut Trace| trace.fetching(now, peer, need);
        self.kept().concerned(|trace| trace.wanted.contains(&need.digest), begin);
    }

    /// That ended.
    pub fn fetched(&self, peer: &Peer, need: Need, outcome: Brought) {
        let now = clock::moment();
        let done = || What::Fetched(peer.clone(), need, Some(outcome));
        let is = |what: &What| matches!(what, What::Fetched(from, of, None) if from == peer && *of == need);
        self.kept()
            .concerned(|trace| trace.wanted.contains(&need.digest), |trace| trace.end(now, done(), is));
    }

    /// The last look-up of an action, or of any.
    pub fn last(&self, action: Option<&ActionId>) -> Option<Trace> {
        let kept = self.kept();
        let mut newest = kept.ring.iter().rev();
        newest.find(|trace| action.is_none_or(|action| trace.action == *action)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Signer;
    use potluck_protocol::action::{Project, Recipe};

    use super::*;

    fn action(number: u32) -> ActionId {
        ActionId::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())
    }

    fn topic() -> Topic {
        Topic { signer: Signer::from_bytes([1; 32]), project: Project::default() }
    }

    fn begin(traces: &Traces, numbers: std::ops::Range<u32>, listed: bool) -> u64 {
        let space = Space { project: Project::default(), recipe: Recipe::new("ccache@1").unwrap() };
        let listed = if listed { vec![topic()] } else { Vec::new() };
        let one = |number| Begun { action: action(number), here: Here::Nothing, listed: listed.clone() };
        traces.begin(&Arc::new(space), 2, numbers.map(one))
    }

    #[test]
    fn a_look_up_is_told_from_its_beginning_to_its_end() {
        let (traces, peer) = (Traces::default(), Peer::new("office", "ann"));
        let need = Need { digest: Digest::of(b"blob"), size: 4 };
        let first = begin(&traces, 0..2, true);
        traces.seeking(&topic());
        traces.sought(&topic(), 1);
        let asked = [action(0), action(1)];
        traces.asking(&peer, &asked);
        let needs = Verdict::Needs { blobs: vec![need], cost: Duration::ZERO };
        traces.asked(&peer, &asked, Some(&[(action(0), needs.clone())]));
        traces.fetching(&peer, need);
        traces.fetched(&peer, need, Brought::Done);
        let reason = Refused { signer: "ben".into(), reason: "expired", text: String::new(), rule: None };
        traces.refused(&action(1), reason.clone());
        traces.refused(&action(1), reason.clone());
        traces.end(first, [Ended::Hit { fetched: true }, Ended::Miss(Miss::Refused)].into_iter());
        let whats = |number| {
            let trace = traces.last(Some(&action(number))).unwrap();
            assert!(trace.steps.iter().all(|step| step.took.is_some()));
            (trace.steps.into_iter().map(|step| step.what).collect::<Vec<_>>(), trace.ended.unwrap().1)
        };
        let both = |heard| [What::Sought(topic(), Some(1)), What::Asked(peer.clone(), 2, Some(heard))];
        let [sought, asked] = both(Heard::Claims(needs));
        let fetched = What::Fetched(peer.clone(), need, Some(Brought::Done));
        assert_eq!(whats(0), (vec![sought, asked, fetched], Ended::Hit { fetched: true }));
        let [sought, asked] = both(Heard::Unknown);
        assert_eq!(whats(1), (vec![sought, asked, What::Refused(reason)], Ended::Miss(Miss::Refused)));
        assert_eq!(traces.last(None).unwrap().action, action(1));
        assert!(traces.last(Some(&action(9))).is_none());
    }

    #[test]
    fn no_more_is_remembered_than_has_room() {
        let (traces, peer) = (Traces::default(), Peer::new("office", "ann"));
        let old = begin(&traces, 0..1, true);
        let last = 49 + u32::try_from(MAX_TRACES).unwrap();
        begin(&traces, 1..last + 1, true);
        assert!(traces.last(Some(&action(0))).is_none());
        traces.end(old, std::iter::once(Ended::Miss(Miss::Late)));
        let newest = action(last);
        for _ in 0..2 * MAX_STEPS {
            traces.asking(&peer, &[newest]);
        }
        let trace = traces.last(None).unwrap();
        assert_eq!((trace.action, trace.steps.len(), trace.left_out), (newest, MAX_STEPS, MAX_STEPS as u64));
        let kept = traces.kept();
        assert_eq!(
            (kept.ring.len(), kept.sought.len(), kept.open.len()),
            (MAX_TRACES, MAX_TRACES, MAX_TRACES)
        );
    }

    #[test]
    fn what_nobody_lists_takes_no_steps() {
        let traces = Traces::default();
        let first = begin(&traces, 0..1, false);
        traces.end(first, std::iter::once(Ended::Miss(Miss::Unclaimed)));
        traces.asking(&Peer::new("office", "ann"), &[action(0)]);
        assert!(traces.last(None).unwrap().steps.is_empty());
        let kept = traces.kept();
        assert!(kept.sought.is_empty() && kept.open.is_empty());
    }
}
