// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck key`: makes, lists, shows, takes over and revokes keys.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use potluck_keys::codec::Text;
use potluck_keys::nix;
use potluck_keys::pair::{MAX_KEY_FILE_BYTES, Pair, PublicKey, Signer};
use potluck_keys::ring::{self, KeyFile, Ring, RingError};
use potluck_keys::signed::{ClaimError, Signed};
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_node::home::Home;
use potluck_node::observe::clock;
use potluck_node::trust::Trust;
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{self, Say};

/// Make, list, show, import and revoke the keys that sign what you publish
#[derive(Debug, ClapArgs)]
pub(crate) struct Key {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    New(New),
    List(List),
    Show(Show),
    Import(Import),
    Revoke(Revoke),
}

/// Make a new key
#[derive(Debug, ClapArgs)]
struct New {
    /// What to call it here
    name: String,

    /// What to call it where others see it [default: the name]
    #[arg(long)]
    comment: Option<String>,

    /// Protect it with a passphrase, asked for or taken from POTLUCK_PASSPHRASE
    #[arg(long)]
    protect: bool,

    /// Say, signed by both, that it takes the place of this key of yours
    #[arg(long, value_name = "OLD")]
    succeeds: Option<String>,
}

/// List your keys
#[derive(Debug, ClapArgs)]
struct List {}

/// Print a key's public line, for others to believe you
#[derive(Debug, ClapArgs)]
struct Show {
    /// Which key
    name: String,

    /// As the line for `trusted-public-keys` in nix.conf
    #[arg(long)]
    nix: bool,
}

/// Take over a key file as ssh-keygen makes it, or keep a revocation or succession that somebody sent you
#[derive(Debug, ClapArgs)]
struct Import {
    /// The file
    file: PathBuf,

    /// What to call the key here [default: the file's name]
    name: Option<String>,
}

/// Say, signed, that a key is not to be believed
///
/// What it claimed from the instant on is refused by all who hear of it; what it claimed before as well, unless their
/// rule says `after-revocation = "keep-older"`. This cannot be taken back.
#[derive(Debug, ClapArgs)]
struct Revoke {
    /// A key of yours; with --by also a signer in trust.toml or a line "ssh-ed25519 …"
    key: String,

    /// Since when, e.g. 2026-11-21T06:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<Time>,

    /// Why, for people
    #[arg(long)]
    reason: Option<String>,

    /// Sign with this key of yours instead; counts for those whose rule names it as an authority
    #[arg(long, value_name = "NAME")]
    by: Option<String>,

    /// Also write the revocation to this file, to be sent around
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Key {
    pub(crate) fn run(self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let ring = home.ring()?;
        match self.verb {
            KeyVerb::New(verb) => verb.run(&ring, say),
            KeyVerb::List(_) => list(&ring, say),
            KeyVerb::Show(verb) => verb.run(&ring, say),
            KeyVerb::Import(verb) => verb.run(&ring, say),
            KeyVerb::Revoke(verb) => verb.run(home, &ring, say),
        }
    }
}

/// Opens a key, with its passphrase if it has one.
fn load(ring: &Ring, name: &str) -> Result<Pair, RingError> {
    ring.load(name, || say::passphrase(&format!("the key {name}")))
}

impl New {
    fn run(self, ring: &Ring, say: &mut Say) -> Result<Exit, Failure> {
        let name = &self.name;
        let path = ring.path_of(name)?;
        let old = self.succeeds.as_deref().map(|old| load(ring, old)).transpose()?;
        let comment = self.comment.as_deref().unwrap_or(name);
        check_comment(comment)?;
        let passphrase =
            self.protect.then(|| say::new_passphrase(&format!("the new key {name}"))).transpose()?;
        let pair = Pair::generate(comment).map_err(|error| Failure::failed(error.to_string()))?;
        ring.add(name, &pair, passphrase.as_deref().map(String::as_str))?;
        let line = pair.public().to_openssh(comment);
        let mut object = json!({ "key": name, "file": path.display().to_string(), "public": line, "fingerprint": pair.signer().to_string() });
        let mut succession = None;
        if let Some(old) = old {
            let claim = Succession { old: old.signer(), new: pair.signer(), issued: clock::now() };
            let file = ring.keep_succession(&Signed::sign(&claim, &[&old, &pair])?)?;
            object["succession"] = json!(file);
            succession = Some(file);
        }
        say.answer(&line, object)?;
        say.note(&format!("\nThe key is in {}", path.display()));
        if let Some(file) = succession {
            say.note(&format!(
                "Send {} to those who believe the old key: `potluck key import FILE`.\n\
                 It counts under rules with `rotate = true`.",
                file.display()
            ));
        }
        Ok(Exit::Done)
    }
}

/// A comment stands on one line of text.
fn check_comment(comment: &str) -> Result<(), Failure> {
    if comment.len() > 200 || comment.chars().any(char::is_control) {
        return Err(Failure::usage("a comment is one line of at most 200 bytes"));
    }
    Ok(())
}

fn list(ring: &Ring, say: &mut Say) -> Result<Exit, Failure> {
    let keys = ring.list()?;
    let width = keys.iter().flatten().map(|key| key.name.len()).max().unwrap_or(0);
    let mut exit = Exit::Done;
    for key in &keys {
        match key {
            Ok(key) => {
                let lock = if key.encrypted { "  (passphrase)" } else { "" };
                let text = format!("{:<width$}  {}  {}{lock}", key.name, key.public.signer(), key.comment);
                say.answer(&text, describe(key))?;
            }
            Err(error) => {
                say.warning(&error.to_string());
                exit = Exit::Failed;
            }
        }
    }
    if keys.is_empty() {
        say.note("There are no keys. `potluck init` makes the first one.");
    }
    Ok(exit)
}

fn describe(key: &KeyFile) -> serde_json::Value {
    json!({
        "key": key.name,
        "fingerprint": key.public.signer().to_string(),
        "public": key.public.to_openssh(&key.comment),
        "comment": key.comment,
        "protected": key.encrypted,
    })
}

impl Show {
    fn run(&self, ring: &Ring, say: &mut Say) -> Result<Exit, Failure> {
        let key = ring.show(&self.name)?;
        if self.nix {
            let line = nix::public_line(&key.public);
            say.answer(&line, json!({ "name": self.name, "nix": line }))?;
            return Ok(Exit::Done);
        }
        say.answer(&key.public.to_openssh(&key.comment), describe(&key))?;
        Ok(Exit::Done)
    }
}

impl Import {
    fn run(&self, ring: &Ring, say: &mut Say) -> Result<Exit, Failure> {
        let bytes = ring::read(&self.file, MAX_KEY_FILE_BYTES)?;
        if let Some(kept) = keep_claim(ring, &bytes)? {
            let text = format!("Kept the {} in {}", kept.kind, kept.file.display());
            say.answer(&text, json!({ "claim": kept.kind, "file": kept.file.display().to_string() }))?;
            return Ok(Exit::Done);
        }
        let name = self.name.clone().or_else(|| name_of(&self.file));
        let name = name.ok_or_else(|| {
            Failure::usage(format!("{} is no name for a key", self.file.display()))
                .hint("give one: potluck key import FILE NAME")
        })?;
        let pair = ring.import(&name, &self.file, || say::passphrase(&format!("{}", self.file.display())))?;
        let line = pair.public().to_openssh(pair.comment());
        say.answer(
            &line,
            json!({ "key": name, "file": ring.path_of(&name)?.display().to_string(), "public": line }),
        )?;
        say.note(&format!(
            "\nImported as {name}. The file it came from is still there: {}",
            self.file.display()
        ));
        Ok(Exit::Done)
    }
}

/// The name that a key file has, when it can be a key's name here.
fn name_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?.to_lowercase();
    potluck_keys::rules::is_name(&name).then_some(name)
}

struct Kept {
    kind: &'static str,
    file: PathBuf,
}

/// Keeps a claim about a key, if that is what `bytes` are.
fn keep_claim(ring: &Ring, bytes: &[u8]) -> Result<Option<Kept>, Failure> {
    match Signed::<Revocation>::decode(bytes) {
        Ok(claim) => {
            let file = ring.keep_revocation(&claim)?;
            return Ok(Some(Kept { kind: "revocation", file }));
        }
        Err(ClaimError::WrongContext { .. }) => {}
        Err(_) => return Ok(None),
    }
    let file = ring.keep_succession(&Signed::<Succession>::decode(bytes)?)?;
    Ok(Some(Kept { kind: "succession", file }))
}

impl Revoke {
    fn run(self, home: &Home, ring: &Ring, say: &mut Say) -> Result<Exit, Failure> {
        let now = clock::now();
        let reason = self.reason.as_ref().map(|reason| {
            Text::new(reason).ok_or_else(|| Failure::usage("a reason is one line of from 1 to 200 bytes"))
        });
        let key = self.key(home, ring)?;
        let by = load(ring, self.by.as_deref().unwrap_or(&self.key))?;
        let at = self.at.unwrap_or(now);
        let claim = Revocation { key, at, issued: now, reason: reason.transpose()? };
        let claim = Signed::sign(&claim, &[&by])?;
        if let Some(out) = &self.out {
            fs::write(out, claim.bytes())
                .map_err(|error| Failure::failed(format!("cannot write {}: {error}", out.display())))?;
        }
        let file = ring.keep_revocation(&claim)?;
        let text = format!("Revoked {} as of {at}", self.key);
        say.answer(
            &text,
            json!({ "revoked": key.to_string(), "at": at.to_string(), "file": file.display().to_string() }),
        )?;
        say.note(&format!(
            "\nOthers do not know yet. Send them {}: `potluck key import FILE`.",
            self.out.as_ref().unwrap_or(&file).display()
        ));
        Ok(Exit::Done)
    }

    /// The key to be revoked: one of ours, or with `--by` somebody else's.
    fn key(&self, home: &Home, ring: &Ring) -> Result<Signer, Failure> {
        match ring.show(&self.key) {
            Ok(key) => return Ok(key.public.signer()),
            Err(error) if self.by.is_none() => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(signer) = Trust::read(home)?.policy.rules().signers.get(&self.key) {
            return Ok(signer.key.signer());
        }
        let (key, _) = PublicKey::from_openssh(&self.key).map_err(|_| {
            Failure::new(
                Exit::NotFound,
                format!("{:?} is no key of yours, no signer and no key line", self.key),
            )
            .hint("`potluck key list` and `potluck trust list` show those there are")
        })?;
        Ok(key.signer())
    }
}
