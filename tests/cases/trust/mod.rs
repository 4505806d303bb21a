// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of what must and must not be believed: every attack on trust that we know of, by name, with real
//! signatures and rules read from text. After the conformance suite of The Update Framework, whose attack classes
//! (rollback, freeze, fast-forward, mix-and-match, thresholds met by one key) all have their cases here.

mod choosing;
mod claims;
mod heads;
mod standing;
mod votes;

use std::path::Path;
use std::time::Duration;

use potluck_keys::codec::Text;
use potluck_keys::pair::Pair;
use potluck_keys::policy::{Choice, Policy, Reason, Refusal, Scoped, Trusted, Want};
use potluck_keys::rules::{Layer, Rules};
use potluck_keys::signed::Signed;
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output};

/// The present of all cases.
const NOW: Time = Time::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const NAMES: [&str; 4] = ["ann", "ben", "ci", "sec"];

/// The key of somebody: those in [`NAMES`] are known to every policy here, anybody else to none.
fn key(name: &str) -> Pair {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Pair::from_seed(&seed, name)
}

/// Rules over the four signers: each string is what stands in one `[[rule]]`.
fn rules(rules: &[&str]) -> Policy {
    let signer = |name| format!("[signer.{name}]\nkey = \"{}\"\n", key(name).public().to_openssh(name));
    let mut text: String = NAMES.map(signer).concat();
    for rule in rules {
        text += &format!("[[rule]]\n{}\n", rule.replace("; ", "\n"));
    }
    Policy::new(Rules::read(&[Layer::new(Path::new("trust.toml"), text)]).unwrap())
}

/// One rule for everything that accepts `ann`, with more settings.
fn ann_only(more: &str) -> Policy {
    rules(&[&format!("project = \"*\"; accept = [\"ann\"]; {more}")])
}

fn before(span: Duration) -> Time {
    Time::from_millis(NOW.as_millis() - u64::try_from(span.as_millis()).unwrap())
}

/// An Entry for the one question of all cases, made an hour ago, that says `output`.
fn entry(output: &str) -> Entry {
    Entry {
        project: Project::new("acme/web").unwrap(),
        recipe: Recipe::new("rustc@1").unwrap(),
        action: ActionId::from_bytes([7; 32]),
        output: Output::Blob(BlobOutput { digest: Digest::of(output.as_bytes()), size: output.len() as u64 }),
        labels: Labels::default(),
        taints: Vec::new(),
        issued: before(HOUR),
        not_after: NOW.plus(24 * HOUR),
        replaces: None,
    }
}

fn tainted(taints: &[&str]) -> Entry {
    Entry { taints: taints.iter().map(|taint| Text::new(*taint).unwrap()).collect(), ..entry("x") }
}

fn sign(entry: &Entry, names: &[&str]) -> Signed<Entry> {
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    Signed::sign(entry, &keys.iter().collect::<Vec<_>>()).unwrap()
}

/// What the policy makes of one claim, as an answer to the question that it says it answers.
fn judge<'a, T: Scoped>(policy: &Policy, claim: &'a Signed<T>) -> Result<Trusted<'a, T>, Refusal> {
    judge_at(policy, claim, NOW)
}

fn judge_at<'a, T: Scoped>(
    policy: &Policy,
    claim: &'a Signed<T>,
    now: Time,
) -> Result<Trusted<'a, T>, Refusal> {
    let asked = Signed::<T>::decode(claim.bytes()).unwrap();
    let scope = asked.authentic().unwrap().scope();
    policy.judge(claim, &Want::of(&scope), now)
}

/// The reason of a refusal. Whatever it is, it comes with words and a remedy.
#[track_caller]
fn refused<T: Scoped>(policy: &Policy, claim: &Signed<T>) -> Reason {
    reason(policy, judge(policy, claim))
}

#[track_caller]
fn reason<T>(policy: &Policy, outcome: Result<Trusted<'_, T>, Refusal>) -> Reason {
    let Err(refusal) = outcome else { panic!("it was accepted") };
    let Refusal { reason, .. } = refusal;
    assert!(
        !reason.to_string().is_empty()
            && !reason.explain(policy).is_empty()
            && !reason.hint(policy).is_empty()
    );
    assert!(reason.code().chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    reason
}

fn choose<'a>(policy: &Policy, claims: &'a [Signed<Entry>]) -> Choice<'a, Entry> {
    let question = entry("");
    policy.choose(claims, &Want::of(&question.scope()), NOW)
}

/// The output that was chosen.
#[track_caller]
fn chosen(policy: &Policy, claims: &[Signed<Entry>]) -> Output {
    match choose(policy, claims).outcome {
        Ok(trusted) => trusted.output.clone(),
        Err(refusal) => panic!("{refusal}"),
    }
}

fn revoke(who: &str, at: Time, by: &str) -> Signed<Revocation> {
    let claim = Revocation { key: key(who).signer(), at, issued: at, reason: None };
    Signed::sign(&claim, &[&key(by)]).unwrap()
}

fn succeed(old: &str, new: &str, issued: Time) -> Signed<Succession> {
    let claim = Succession { old: key(old).signer(), new: key(new).signer(), issued };
    Signed::sign(&claim, &[&key(old), &key(new)]).unwrap()
}
