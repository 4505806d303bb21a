// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom this node believes: reads `trust.toml` and the claims about keys into a [`Policy`], and edits the file without
//! disturbing what a person wrote in it.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use potluck_keys::pair::PublicKey;
use potluck_keys::policy::Policy;
use potluck_keys::ring::{Ring, RingError};
use potluck_keys::rules::{Layer, MAX_RULES_BYTES, Rules, RulesError};
use toml_edit::{Array, DocumentMut, Item, Key, RawString, Table, Value};

use crate::home::{Home, HomeError, read_text};

/// The text of a new trust.toml.
pub const TEMPLATE: &str = "\
# Whom this node believes. Without rules it believes nobody.
#
#   potluck trust add ci \"ssh-ed25519 AAAA… ci@acme\" --project 'acme/*'
#
# adds a signer and a rule. Rules are tried in order; the first that can accept a claim does.
# All that a rule can say:
#
#   [[rule]]
#   project = \"acme/*\"                  # glob: * within a part, ** for any parts, a lone * for everything
#   recipe = \"rustc@*\"                  # glob; left out: any
#   accept = [\"ci\", \"alice\"]            # signers, best first
#   agree = 1                           # how many of them must name the same output
#   max-age = \"30d\"                     # older claims are refused; left out: any age
#   taints = \"refuse\"                   # or a list of taints that are acceptable
#   strict = false                      # true: a signer that contradicts itself is not believed at all
#   rotate = false                      # true: a key's successor takes its place
#   authority = []                      # signers whose revocations of other keys count
#   after-revocation = \"refuse-all\"     # or \"keep-older\": what a revoked key claimed before stays
";

/// Why the policy could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file could not be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The rules are wrong.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A claim about a key, or the ring, could not be read.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The change would leave rules that make no sense.
    #[error("the change was not made, since afterwards {0}")]
    After(RulesError),
    /// There is no such signer in the file.
    #[error("there is no signer {name:?} in {file}")]
    NoSuchSigner {
        /// The name.
        name: String,
        /// The file.
        file: String,
    },
    /// The name stands for another key.
    #[error("{name:?} already stands for another key, {fingerprint}")]
    OtherKey {
        /// The name.
        name: String,
        /// The other key.
        fingerprint: String,
    },
}

/// The policy of a home: the system's rules, the user's, and the claims about keys in the ring.
pub struct Trust {
    /// The policy.
    pub policy: Policy,
    /// Files in the ring that could not be read; the policy goes without them.
    pub damaged: Vec<RingError>,
}

impl Trust {
    /// Reads it all.
    ///
    /// # Errors
    /// [`TrustError`]; a policy that cannot be read in full is none.
    pub fn read(home: &Home) -> Result<Self, TrustError> {
        let mut trust = Self { policy: Policy::new(Rules::read(&layers(home)?)?), damaged: Vec::new() };
        trust.heed(&home.ring()?)?;
        Ok(trust)
    }

    /// Heeds the claims in a ring: successions until nothing new comes of them, since one may lead to the next, and
    /// revocations afterwards, when all keys that matter are known.
    fn heed(&mut self, ring: &Ring) -> Result<(), RingError> {
        let (successions, damaged): (Vec<_>, Vec<_>) =
            ring.successions()?.into_iter().partition(Result::is_ok);
        self.damaged.extend(damaged.into_iter().filter_map(Result::err));
        let successions: Vec<_> = successions.into_iter().flatten().collect();
        let mut news = true;
        while news {
            news = false;
            for claim in &successions {
                // What is not genuine was noticed when it was kept; here it simply counts for nothing.
                news |= self.policy.heed_succession(claim).unwrap_or(false);
            }
        }
        for claim in ring.revocations()? {
            match claim {
                Ok(claim) => {
                    let _ = self.policy.heed_revocation(&claim);
                }
                Err(error) => self.damaged.push(error),
            }
        }
        Ok(())
    }
}

fn layers(home: &Home) -> Result<Vec<Layer>, TrustError> {
    let system = home.config()?.trust.system;
    let user = home.trust_path();
    let mut layers = Vec::new();
    for path in [system, user] {
        if let Some(text) = read_text(&path, MAX_RULES_BYTES)? {
            layers.push(Layer::new(&path, text));
        }
    }
    Ok(layers)
}

/// A signer and a rule to be added.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The signer's name.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// The comment that came with the key.
    pub comment: String,
    /// The rule's Projects.
    pub project: String,
    /// The rule's Recipes, if it is narrowed to some.
    pub recipe: Option<String>,
}

/// Adds a signer, and a rule that accepts it; gives whether anything changed. A signer of that name and key that is
/// there already gets the rule only.
///
/// # Errors
/// [`TrustError`]; the file is then as it was.
pub fn add(home: &Home, addition: &Addition) -> Result<bool, TrustError> {
    let known = Rules::read(&layers(home)?)?;
    let signer = known.signers.get(&addition.name);
    if let Some(signer) = signer
        && signer.key != addition.key
    {
        let fingerprint = signer.key.signer().to_string();
        return Err(TrustError::OtherKey { name: addition.name.clone(), fingerprint });
    }
    let signer = signer.is_none();
    // Appended as text: nothing that is there moves.
    edit(home, |text| format!("{}\n{}", text.trim_end(), tables_of(addition, signer)).trim_start().to_owned())
}

/// The tables of an addition, with those of the signer when they are wanted.
fn tables_of(addition: &Addition, signer: bool) -> String {
    let mut text = String::new();
    if signer {
        let line = addition.key.to_openssh(&addition.comment);
        text += &format!("\n[signer.{}]\nkey = {}\n", Key::new(&addition.name), Value::from(line));
    }
    text += &format!("\n[[rule]]\nproject = {}\n", Value::from(&addition.project));
    if let Some(recipe) = &addition.recipe {
        text += &format!("recipe = {}\n", Value::from(recipe));
    }
    text + &format!("accept = [{}]\n", Value::from(&addition.name))
}

/// Removes a signer, and its name from every rule; rules that would accept nobody go with it.
///
/// # Errors
/// [`TrustError`]; the file is then as it was.
pub fn remove(home: &Home, name: &str) -> Result<bool, TrustError> {
    let file = home.trust_path().display().to_string();
    let mut found = false;
    let changed = edit(home, |text| {
        let mut document: DocumentMut = text.parse().expect("rules that were read are a document");
        found = remove_from(&mut document, name);
        document.to_string()
    })?;
    if found { Ok(changed) } else { Err(TrustError::NoSuchSigner { name: name.to_owned(), file }) }
}

fn remove_from(document: &mut DocumentMut, name: &str) -> bool {
    let mut left = Vec::new();
    let signers = document.get_mut("signer").and_then(Item::as_table_like_mut);
    let signer = signers.and_then(|signers| signers.remove(name));
    left.extend(signer.as_ref().and_then(Item::as_table).map(comments_above));
    if let Some(rules) = document.get_mut("rule").and_then(Item::as_array_of_tables_mut) {
        for rule in rules.iter_mut() {
            for key in ["accept", "authority"] {
                if let Some(names) = rule.get_mut(key).and_then(Item::as_array_mut) {
                    names.retain(|other| other.as_str() != Some(name));
                }
            }
        }
        let useless = |rule: &Table| rule.get("accept").and_then(Item::as_array).is_some_and(Array::is_empty);
        left.extend(rules.iter().filter(|rule| useless(rule)).map(comments_above));
        rules.retain(|rule| !useless(rule));
    }
    left.sort();
    for (position, comments) in left.into_iter().rev() {
        keep_comments(document, position, &comments);
    }
    signer.is_some()
}

/// Where a table stands in its document, and what a person wrote above it.
fn comments_above(table: &Table) -> (isize, String) {
    let above = table.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
    (table.position().unwrap_or(isize::MAX), above.to_owned())
}

/// Puts what stood above a table that is gone above the next one, or at the end.
fn keep_comments(document: &mut DocumentMut, position: isize, comments: &str) {
    if comments.trim().is_empty() {
        return;
    }
    let (mut signers, mut rules) = (Vec::new(), Vec::new());
    for (key, item) in document.iter_mut() {
        match item {
            Item::Table(table) if key == "signer" => {
                signers = table.iter_mut().filter_map(|(_, item)| item.as_table_mut()).collect();
            }
            Item::ArrayOfTables(tables) => rules = tables.iter_mut().collect(),
            _ => {}
        }
    }
    let later = signers.into_iter().chain(rules).filter(|table| table.position() > Some(position));
    if let Some(next) = later.min_by_key(|table| table.position()) {
        let (_, above) = comments_above(next);
        next.decor_mut().set_prefix(format!("{comments}{above}"));
    } else {
        let trailing = format!("{comments}{}", document.trailing().as_str().unwrap_or_default());
        document.set_trailing(trailing);
    }
}

/// Changes the user's file, if all layers together still make sense afterwards.
fn edit(home: &Home, change: impl FnOnce(&str) -> String) -> Result<bool, TrustError> {
    let path = home.trust_path();
    let mut layers = layers(home)?;
    // Read first as rules: its errors name the line, and what passes is sure to be a document.
    let before = Rules::read(&layers)?;
    if layers.last().is_none_or(|layer| layer.file != path) {
        layers.push(Layer::new(&path, TEMPLATE));
    }
    let user = layers.last_mut().expect("the user's layer was added");
    let text = change(&user.text);
    if text == user.text {
        return Ok(false);
    }
    user.text.clone_from(&text);
    let after = Rules::read(&layers).map_err(TrustError::After)?;
    if after.signers.len() == before.signers.len() && repeats_a_rule(&after) {
        return Ok(false);
    }
    replace(&path, &text).map_err(HomeError::from)?;
    Ok(true)
}

/// Whether the last rule says what another one says already.
fn repeats_a_rule(rules: &Rules) -> bool {
    let Some((last, others)) = rules.rules.split_last() else { return false };
    let text = |rule: &potluck_keys::rules::Rule| {
        let defaults = (rule.agree, rule.max_age, rule.taints.clone(), rule.strict, rule.rotate);
        (rule.project.to_string(), rule.recipe.to_string(), rule.accept.clone(), defaults, rule.keep_older)
    };
    others.iter().any(|other| text(other) == text(last) && other.authority == last.authority)
}

/// Puts `text` in the place of a file, whole or not at all.
fn replace(path: &Path, text: &str) -> Result<(), RingError> {
    let io = |source| RingError::Io { what: "write", path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(io)?;
    if let Ok(metadata) = fs::metadata(path) {
        file.as_file().set_permissions(metadata.permissions()).map_err(io)?;
    }
    file.write_all(text.as_bytes()).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Pair;
    use potluck_keys::signed::Signed;
    use potluck_keys::standing::{Revocation, Succession};
    use potluck_keys::time::Time;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        fs::write(home.config_path(), format!("[trust]\nsystem = {:?}\n", folder.path().join("system.toml")))
            .unwrap();
        (folder, home)
    }

    fn addition(name: &str, seed: u8, project: &str) -> Addition {
        let key = Pair::from_seed(&[seed; 32], "").public();
        Addition {
            name: name.to_owned(),
            key,
            comment: "c".to_owned(),
            project: project.to_owned(),
            recipe: None,
        }
    }

    fn text(home: &Home) -> String {
        fs::read_to_string(home.trust_path()).unwrap()
    }

    #[test]
    fn what_is_added_is_believed_and_comments_stay() {
        let (_folder, home) = home();
        assert!(Trust::read(&home).unwrap().policy.rules().rules.is_empty());
        fs::write(home.trust_path(), "# mine\n").unwrap();
        assert!(add(&home, &addition("ann", 1, "acme/*")).unwrap());
        assert!(add(&home, &Addition { recipe: Some("rustc@*".into()), ..addition("ann", 1, "x") }).unwrap());
        let rules = Trust::read(&home).unwrap();
        assert_eq!(rules.policy.rules().rules.len(), 2);
        assert!(text(&home).starts_with("# mine\n"), "{}", text(&home));
        let before = text(&home);
        assert!(!add(&home, &addition("ann", 1, "acme/*")).unwrap(), "it is there already");
        assert_eq!(text(&home), before);
        assert!(matches!(add(&home, &addition("ann", 2, "y")), Err(TrustError::OtherKey { .. })));
        assert!(matches!(add(&home, &addition("bob", 3, "A[")), Err(TrustError::After(_))));
        assert!(
            matches!(add(&home, &addition("bob", 1, "y")), Err(TrustError::After(_))),
            "one key, two names"
        );
        assert_eq!(text(&home), before);
    }

    #[test]
    fn what_is_removed_leaves_no_trace() {
        let (_folder, home) = home();
        let fresh = text(&home);
        add(&home, &addition("ann", 1, "acme/*")).unwrap();
        add(&home, &addition("bob", 2, "acme/*")).unwrap();
        let two =
            format!("{}\n[[rule]]\nproject = \"b\"\naccept = [\"ann\", \"bob\"]\nagree = 2\n", text(&home));
        fs::write(home.trust_path(), &two).unwrap();
        let error = remove(&home, "ann").unwrap_err();
        assert!(matches!(error, TrustError::After(_)), "two of one cannot agree: {error}");
        assert_eq!(text(&home), two);
        fs::write(home.trust_path(), two.replace("agree = 2", "agree = 1")).unwrap();
        assert!(remove(&home, "ann").unwrap());
        assert!(!text(&home).contains("ann"));
        assert_eq!(Trust::read(&home).unwrap().policy.rules().rules.len(), 2);
        assert!(remove(&home, "bob").unwrap());
        assert!(matches!(remove(&home, "bob"), Err(TrustError::NoSuchSigner { .. })));
        assert_eq!(text(&home).trim_end(), fresh.trim_end());
    }

    #[test]
    fn the_system_comes_first_and_is_not_edited() {
        let (folder, home) = home();
        let line = Pair::from_seed(&[1; 32], "").public().to_openssh("ci");
        let system = format!("[signer.ci]\nkey = \"{line}\"\n[[rule]]\nproject = \"*\"\naccept = [\"ci\"]\n");
        fs::write(folder.path().join("system.toml"), &system).unwrap();
        add(&home, &addition("ann", 2, "acme/*")).unwrap();
        let projects: Vec<_> = Trust::read(&home)
            .unwrap()
            .policy
            .rules()
            .rules
            .iter()
            .map(|rule| rule.project.to_string())
            .collect();
        assert_eq!(projects, ["*", "acme/*"]);
        assert!(matches!(remove(&home, "ci"), Err(TrustError::NoSuchSigner { .. })));
        assert_eq!(fs::read_to_string(folder.path().join("system.toml")).unwrap(), system);
    }

    #[test]
    fn claims_in_the_ring_are_heeded_and_damage_is_shown() {
        let (_folder, home) = home();
        add(&home, &addition("ann", 1, "acme/*")).unwrap();
        let ring = home.ring().unwrap();
        let [one, two, three] = [1, 2, 3].map(|seed| Pair::from_seed(&[seed; 32], ""));
        for (old, new) in [(&two, &three), (&one, &two)] {
            let claim = Succession { old: old.signer(), new: new.signer(), issued: Time::from_millis(5) };
            ring.keep_succession(&Signed::sign(&claim, &[old, new]).unwrap()).unwrap();
        }
        let at = Time::from_millis(9);
        let claim = Revocation { key: three.signer(), at, issued: at, reason: None };
        let kept = ring.keep_revocation(&Signed::sign(&claim, &[&three]).unwrap()).unwrap();
        let mut trust = Trust::read(&home).unwrap();
        assert!(trust.damaged.is_empty());
        let again = Signed::sign(&claim, &[&three]).unwrap();
        assert!(!trust.policy.heed_revocation(&again).unwrap(), "it was heeded through two successions");
        fs::write(&kept, "damaged").unwrap();
        assert_eq!(Trust::read(&home).unwrap().damaged.len(), 1);
    }
}
