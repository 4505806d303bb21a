// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fleet of machines that hold one signing key publishes Catalog Heads; followers hear of them over links that lose,
//! repeat and reorder, from carriers of whom one sends old Heads for new and one forges.
//!
//! What must hold: no follower ever goes back, none takes a forgery, and once the links carry everything, all see the
//! newest Head of every machine. The decisions are those of `Policy`, `Ledger` and `HeadSet`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use potluck_keys::codec::Text;
use potluck_keys::pair::Pair;
use potluck_keys::policy::{Policy, Want};
use potluck_keys::rules::{Layer, Rules};
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_protocol::action::Project;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance, Ledger, Line, Step, StepError};
use serde_json::{Value, json};

use crate::world::{Link, World};

const MACHINES: u8 = 5;
const FOLLOWERS: usize = 8;
const MINUTES: u64 = 120;
const START: Time = Time::from_millis(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const LINK: Link = Link { delay_ms: (5, 90_000), lost_percent: 20, twice_percent: 10 };

struct Machine {
    head: Head,
}

impl Machine {
    fn new(number: u8) -> Self {
        let head = Head {
            project: Project::default(),
            name: Text::new(CATALOG).expect("a name is text"),
            recipe: None,
            instance: Instance::from_bytes([number; 16]),
            sequence: 0,
            root: Digest::of(&[]),
            size: 0,
            issued: START,
            not_after: START,
        };
        Self { head }
    }

    fn publish(&mut self, key: &Pair, now: Time) -> Signed<Head> {
        self.head.sequence += 1;
        self.head.root =
            Digest::of(&[self.head.instance.as_bytes(), &self.head.sequence.to_le_bytes()[..]].concat());
        self.head.issued = now;
        self.head.not_after = now.plus(60 * MINUTE);
        Signed::sign(&self.head, &[key]).expect("a head fits its bound")
    }
}

#[derive(Default)]
struct Follower {
    ledger: Ledger,
    forward: u64,
    again: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Follower {
    fn hear(&mut self, policy: &Policy, head: &Signed<Head>, now: Time) {
        let project = Project::default();
        let want = Want { project: project.as_str(), recipe: None, subject: CATALOG.as_bytes() };
        let outcome = match policy.judge(head, &want, now) {
            Err(refusal) => Err(refusal.reason.code()),
            Ok(trusted) => self.ledger.take(&trusted).map_err(|error| match error {
                StepError::Rollback { .. } => "rollback",
                StepError::Fork { .. } => "fork",
            }),
        };
        match outcome {
            Ok(Step::Forward) => self.forward += 1,
            Ok(Step::Again) => self.again += 1,
            Err(why) => *self.refused.entry(why).or_default() += 1,
        }
    }
}

/// Two hours of the fleet's life.
pub(crate) fn run(seed: u64) -> Value {
    let key = Pair::from_seed(&[1; 32], "fleet");
    let mallory = Pair::from_seed(&[9; 32], "mallory");
    let text = format!(
        "[signer.fleet]\nkey = \"{}\"\n[[rule]]\nproject = \"*\"\naccept = [\"fleet\"]\n",
        key.public().to_openssh("")
    );
    let rules = Rules::read(&[Layer::new(Path::new("trust.toml"), text)]).expect("the rules are sound");
    let policy = Policy::new(rules);
    let mut world: World<Signed<Head>> = World::new(seed, START, LINK);
    let mut machines: Vec<_> = (0..MACHINES).map(Machine::new).collect();
    let mut followers: Vec<_> = (0..FOLLOWERS).map(|_| Follower::default()).collect();
    let mut past: Vec<Signed<Head>> = Vec::new();
    let mut set = HeadSet::new(key.signer(), Project::default());
    for _ in 0..MINUTES {
        for machine in &mut machines {
            let news = machine.publish(&key, world.now());
            let forged = Signed::sign(&machine.head, &[&mallory]).expect("a head fits its bound");
            for follower in 0..FOLLOWERS {
                world.send(follower, &news);
                world.send(follower, &forged);
                if let Some(old) = world.chance().choice(&past).cloned() {
                    world.send(follower, &old);
                }
            }
            set.add(news.clone()).expect("the fleet's own heads belong to its set");
            past.push(news);
        }
        let until = world.now().plus(MINUTE);
        while let Some((to, head)) = world.next(until) {
            let now = world.now();
            followers[to].hear(&policy, &head, now);
        }
    }
    // At last everyone pulls the set from somebody, as a follower does on reconnecting.
    let now = world.now();
    let heads: Vec<_> = set.heads().cloned().collect();
    for follower in &mut followers {
        heads.iter().for_each(|head| follower.hear(&policy, head, now));
    }
    report(seed, &world, (&machines, &followers), &key)
}

fn report(seed: u64, world: &World<Signed<Head>>, people: (&[Machine], &[Follower]), key: &Pair) -> Value {
    let (machines, followers) = people;
    let newest = |machine: &Machine, follower: &Follower| {
        let line = Line {
            signer: key.signer(),
            project: Project::default(),
            name: machine.head.name.clone(),
            instance: machine.head.instance,
        };
        follower.ledger.last(&line).is_some_and(|seen| seen.root == machine.head.root)
    };
    let up_to_date =
        followers.iter().filter(|follower| machines.iter().all(|machine| newest(machine, follower)));
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    for (why, count) in followers.iter().flat_map(|follower| &follower.refused) {
        *refused.entry(why).or_default() += count;
    }
    let (sent, lost) = world.traffic();
    json!({
        "v": 1, "scenario": "fleet", "seed": seed, "minutes": MINUTES, "sent": sent, "lost": lost,
        "forward": followers.iter().map(|follower| follower.forward).sum::<u64>(),
        "again": followers.iter().map(|follower| follower.again).sum::<u64>(),
        "refused": refused, "followers": FOLLOWERS, "up_to_date": up_to_date.count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_back_takes_a_forgery_or_is_left_behind() {
        for seed in 0..5 {
            let report = run(seed);
            assert_eq!(report["up_to_date"], FOLLOWERS, "{report}");
            // Every forgery that arrived was refused, and so was every Head older than one seen.
            assert!(report["refused"]["unknown-signer"].as_u64() > Some(1000), "{report}");
            assert!(report["refused"]["rollback"].as_u64() > Some(1000), "{report}");
            assert!(report["refused"]["expired"].as_u64() > Some(0), "{report}");
            assert!(report["refused"].get("fork").is_none(), "{report}");
        }
    }

    #[test]
    fn a_world_can_be_told_again() {
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
