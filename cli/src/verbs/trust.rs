// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck trust`: whom this node believes, and what it would make of a claim.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use potluck_keys::pair::PublicKey;
use potluck_keys::policy::{Choice, Policy, Scoped, Want};
use potluck_keys::ring;
use potluck_keys::rules::{Rule, Taints};
use potluck_keys::signed::{ClaimError, Signed};
use potluck_keys::time::Time;
use potluck_node::home::Home;
use potluck_node::observe::clock;
use potluck_node::trust::{self, Addition};
use potluck_protocol::entry::Entry;
use potluck_protocol::head::Head;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Say whom you believe, in which projects, and see what follows from it
#[derive(Debug, ClapArgs)]
#[command(after_long_help = RULES)]
pub(crate) struct Trust {
    #[command(subcommand)]
    verb: TrustVerb,
}

const RULES: &str = "\
What is added stands in trust.toml in the node's folder, which can be edited by hand. All that a rule can say:
  project = \"acme/*\"              globs: * within a part, ** for any parts, a lone * for everything
  recipe = \"rustc@*\"              left out: any
  accept = [\"ci\", \"alice\"]        signers, best first
  agree = 1                       how many of them must name the same output
  max-age = \"30d\"                 older claims are refused
  taints = \"refuse\"               or a list of taints that are acceptable
  strict = false                  true: a signer that contradicts itself is not believed at all
  rotate = false                  true: a key's successor takes its place
  authority = []                  signers whose revocations of other keys count
  after-revocation = \"refuse-all\" or \"keep-older\"";

#[derive(Debug, Subcommand)]
enum TrustVerb {
    Add(Add),
    Remove(Remove),
    List(List),
    Check(Check),
}

/// Believe somebody in some projects
#[derive(Debug, ClapArgs)]
struct Add {
    /// What you call them
    name: String,

    /// Their key: a line "ssh-ed25519 AAAA… comment", or a file that holds one
    key: String,

    /// In which projects, e.g. acme/web, 'acme/*', '*'
    #[arg(long, value_name = "GLOB")]
    project: String,

    /// Only what these recipes made, e.g. 'rustc@*'
    #[arg(long, value_name = "GLOB")]
    recipe: Option<String>,
}

/// Believe somebody no longer
#[derive(Debug, ClapArgs)]
struct Remove {
    /// What you call them
    name: String,
}

/// List signers and rules, in the order in which they are tried
#[derive(Debug, ClapArgs)]
struct List {}

/// Say which rule accepts or refuses a signed claim, and why
///
/// Several files are taken as claims in answer to one question, as when `agree` asks for more than one signer.
#[derive(Debug, ClapArgs)]
struct Check {
    /// Files with one signed entry or head each
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Judge as of this instant [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<Time>,
}

impl Trust {
    pub(crate) fn run(self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        match self.verb {
            TrustVerb::Add(verb) => verb.run(home, say),
            TrustVerb::Remove(verb) => verb.run(home, say),
            TrustVerb::List(_) => list(home, say),
            TrustVerb::Check(verb) => verb.run(home, say),
        }
    }
}

/// The policy, with a warning for each claim about keys that cannot be read.
fn policy(home: &Home, say: &mut Say) -> Result<Policy, Failure> {
    let trust = trust::Trust::read(home)?;
    for error in &trust.damaged {
        say.warning(&format!("a claim about a key does not count: {error}"));
    }
    Ok(trust.policy)
}

impl Add {
    fn run(self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let (key, comment) = self.key()?;
        let fingerprint = key.signer().to_string();
        let Self { name, project, recipe, .. } = self;
        let within = recipe.as_ref().map(|recipe| format!(", recipe {recipe}")).unwrap_or_default();
        let addition = Addition { name, key, comment, project, recipe };
        let changed = trust::add(home, &addition)?;
        let Addition { name, project, recipe, .. } = addition;
        let text = match changed {
            true => format!("{name} ({fingerprint}) is now believed in {project}{within}"),
            false => format!("{name} was believed in {project}{within} already"),
        };
        let object = json!({ "added": changed, "signer": name, "fingerprint": fingerprint,
            "project": project, "recipe": recipe });
        say.answer(&text, object)?;
        Ok(Exit::Done)
    }

    /// The key given, as a line or in a file.
    fn key(&self) -> Result<(PublicKey, String), Failure> {
        let line = if self.key.starts_with("ssh-") {
            self.key.clone()
        } else {
            let bytes = ring::read(Path::new(&self.key), potluck_keys::pair::MAX_KEY_FILE_BYTES).map_err(
                |error| {
                    Failure::usage(format!("{:?} is neither a key nor a file with one: {error}", self.key))
                        .hint("quote the whole line: \"ssh-ed25519 AAAA… comment\"")
                },
            )?;
            String::from_utf8_lossy(&bytes).into_owned()
        };
        PublicKey::from_openssh(&line).map_err(|error| {
            Failure::usage(format!("the key of {:?} cannot be used: {error}", self.name))
                .hint("`potluck key show me` on their machine prints the line")
        })
    }
}

impl Remove {
    fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        trust::remove(home, &self.name)?;
        say.answer(&format!("{} is no longer believed", self.name), json!({ "removed": self.name }))?;
        Ok(Exit::Done)
    }
}

fn list(home: &Home, say: &mut Say) -> Result<Exit, Failure> {
    let policy = policy(home, say)?;
    let rules = policy.rules();
    for signer in rules.signers.values() {
        let fingerprint = signer.key.signer().to_string();
        let text = format!("signer {}  {fingerprint}  ({})", signer.name, signer.origin);
        let object = json!({ "signer": signer.name, "fingerprint": fingerprint,
            "public": signer.key.to_openssh(&signer.name), "at": signer.origin.to_string() });
        say.answer(&text, object)?;
    }
    for rule in &rules.rules {
        say.answer(&rule_text(&policy, rule), rule_object(&policy, rule))?;
    }
    if rules.rules.is_empty() {
        say.note(
            "There are no rules, so nobody is believed. Add one: potluck trust add NAME KEY --project GLOB",
        );
    }
    Ok(Exit::Done)
}

fn names(policy: &Policy, signers: &[potluck_keys::pair::Signer]) -> Vec<String> {
    signers.iter().map(|signer| policy.name_of(signer)).collect()
}

fn rule_text(policy: &Policy, rule: &Rule) -> String {
    let mut text = format!("rule   {}  accepts {}", rule.project, names(policy, &rule.accept).join(", "));
    if rule.recipe.to_string() != "*" {
        text += &format!(", recipe {}", rule.recipe);
    }
    if rule.agree > 1 {
        text += &format!(", {} must agree", rule.agree);
    }
    if let Some(age) = rule.max_age {
        text += &format!(", up to {} hours old", age.as_secs() / 3600);
    }
    if let Taints::Accept(taints) = &rule.taints {
        text += &format!(", taints {}", taints.join(", "));
    }
    for (set, word) in [(rule.strict, "strict"), (rule.rotate, "rotate"), (rule.keep_older, "keep-older")] {
        if set {
            text += &format!(", {word}");
        }
    }
    if !rule.authority.is_empty() {
        text += &format!(", revocations by {}", names(policy, &rule.authority).join(", "));
    }
    format!("{text}  ({})", rule.origin)
}

fn rule_object(policy: &Policy, rule: &Rule) -> Value {
    let taints = match &rule.taints {
        Taints::Refuse => json!("refuse"),
        Taints::Accept(taints) => json!(taints),
    };
    json!({ "rule": rule.project.to_string(), "recipe": rule.recipe.to_string(),
        "accept": names(policy, &rule.accept), "agree": rule.agree,
        "max_age_s": rule.max_age.map(|age| age.as_secs()), "taints": taints, "strict": rule.strict,
        "rotate": rule.rotate, "authority": names(policy, &rule.authority),
        "keep_older": rule.keep_older, "at": rule.origin.to_string() })
}

impl Check {
    fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let policy = policy(home, say)?;
        let limit = Signed::<Entry>::MAX_BYTES.max(Signed::<Head>::MAX_BYTES);
        let files = self.files.iter().map(|file| Ok((file, ring::read(file, limit)?)));
        let files = files.collect::<Result<Vec<_>, Failure>>()?;
        // The first file says of which kind they are.
        match Signed::<Head>::decode(&files[0].1) {
            Err(ClaimError::WrongContext { .. }) => self.judge::<Entry>(&policy, &files, say),
            _ => self.judge::<Head>(&policy, &files, say),
        }
    }

    fn judge<T: Scoped>(
        &self,
        policy: &Policy,
        files: &[(&PathBuf, Vec<u8>)],
        say: &mut Say,
    ) -> Result<Exit, Failure> {
        let unreadable = |file: &Path, error: ClaimError| {
            Failure::failed(format!("{}: {error}", file.display()))
                .hint("give files with one signed entry or head each")
        };
        let claims = files
            .iter()
            .map(|(file, bytes)| Signed::<T>::decode(bytes).map_err(|error| unreadable(file, error)));
        let claims = claims.collect::<Result<Vec<_>, Failure>>()?;
        let scope = claims[0].authentic().map_err(|error| unreadable(files[0].0, error))?.scope();
        let choice = policy.choose(&claims, &Want::of(&scope), self.at.unwrap_or_else(clock::now));
        for found in &choice.equivocations {
            say.warning(&format!("{} has claimed two different outputs here", policy.name_of(&found.signer)));
        }
        report(policy, &choice, say)
    }
}

fn report<T>(policy: &Policy, choice: &Choice<'_, T>, say: &mut Say) -> Result<Exit, Failure> {
    match &choice.outcome {
        Ok(trusted) => {
            let rule = &policy.rules().rules[trusted.rule()];
            let signers = names(policy, trusted.signers());
            let text = format!("accepted by the rule at {}, signed by {}", rule.origin, signers.join(", "));
            let object = json!({ "accepted": true, "rule": rule.origin.to_string(), "signers": signers });
            say.answer(&text, object)?;
            Ok(Exit::Done)
        }
        Err(refusal) => {
            let (why, hint) = (refusal.reason.explain(policy), refusal.reason.hint(policy));
            let rule = refusal.rule.as_ref().map(ToString::to_string);
            let by = rule.as_ref().map(|rule| format!(" by the rule at {rule}")).unwrap_or_default();
            let object = json!({ "accepted": false, "reason": refusal.reason.code(), "message": why,
                "hint": hint, "rule": rule });
            say.answer(&format!("refused{by}: {why}"), object)?;
            say.note(&format!("hint: {hint}"));
            Ok(Exit::Refused)
        }
    }
}
