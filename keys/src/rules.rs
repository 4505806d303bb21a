// SPDX-License-Identifier: MIT OR Apache-2.0
//! The owner's rules as text: `trust.toml`, in layers.
//!
//! A layer is a file: the system's, then the user's. Signers of all layers are known to all rules; rules are tried in
//! the order of the layers and, within one, of the file. A repository's own files are never a layer: they can suggest,
//! and a person confirms.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use toml::Spanned;

use crate::pair::{PublicKey, Signer};

/// Largest trust.toml that is read, in bytes.
pub const MAX_RULES_BYTES: usize = 1 << 20;
/// Most signers, over all layers.
pub const MAX_SIGNERS: usize = 4096;
/// Most rules, over all layers.
pub const MAX_RULES: usize = 4096;
/// Longest name of a signer in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// One file of rules, as read.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Where it was read, for error messages and explanations.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
}

/// A key with the name that the owner gave it.
#[derive(Debug, Clone)]
pub struct NamedSigner {
    /// The owner's name for it.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// Where it is named.
    pub origin: Origin,
}

/// A place in a file of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What to do about taints: marks by which a publisher admits that an output depends on more than its key says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Taints {
    /// A tainted claim is refused.
    #[default]
    Refuse,
    /// Claims with no other taints than these are accepted.
    Accept(Vec<String>),
}

/// One rule: for which Projects it speaks and what it accepts there.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Where it stands.
    pub origin: Origin,
    /// Projects it speaks for.
    pub project: Pattern,
    /// Recipes it speaks for; a claim without Recipe, such as a Catalog's Head, is covered by any.
    pub recipe: Pattern,
    /// Whom it believes, best first.
    pub accept: Vec<Signer>,
    /// How many of them must name the same output.
    pub agree: usize,
    /// Oldest claim it accepts.
    pub max_age: Option<Duration>,
    /// What it does about taints.
    pub taints: Taints,
    /// Whether a signer that contradicts itself is not believed at all on that question.
    pub strict: bool,
    /// Whether a successor takes over a key's place.
    pub rotate: bool,
    /// Whose revocations of other keys it honours.
    pub authority: Vec<Signer>,
    /// Whether a revoked key's claims from before the instant of revocation are still accepted.
    pub keep_older: bool,
}

/// A glob over names with parts between slashes: `*` stands for any run within a part, `**` for any number of parts,
/// `?` for one character, `[ab]` for one of several, `{a,b}` for alternatives. A lone `*` stands for every name.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// Length in bytes of what stands before the first special character: most names fail on that already.
    literal: usize,
    /// None for the lone `*`.
    matcher: Option<GlobMatcher>,
}

impl Pattern {
    /// Reads a glob.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn new(text: &str) -> Result<Self, String> {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/@*?[]{},!".contains(c);
        if text.is_empty() || text.len() > 256 {
            return Err("it must have from 1 to 256 characters".to_owned());
        }
        if let Some(bad) = text.chars().find(|c| !known(*c)) {
            return Err(format!("{bad:?} never occurs in a name"));
        }
        if text == "*" {
            return Ok(Self::everything());
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(false)
            .build()
            .map_err(|error| error.kind().to_string())?;
        let literal = text.find(['*', '?', '[', '{']).unwrap_or(text.len());
        Ok(Self { text: text.to_owned(), literal, matcher: Some(glob.compile_matcher()) })
    }

    /// The glob that covers every name.
    fn everything() -> Self {
        Self { text: "*".to_owned(), literal: 0, matcher: None }
    }

    /// Whether `name` is covered.
    pub fn covers(&self, name: &str) -> bool {
        let matches = |matcher: &GlobMatcher| match name.strip_prefix(&self.text[..self.literal]) {
            Some(rest) if self.literal == self.text.len() => rest.is_empty(),
            Some(_) => matcher.is_match(name),
            None => false,
        };
        self.matcher.as_ref().is_none_or(matches)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is wrong with a file of rules, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {fault}")]
pub struct RulesError {
    /// The place.
    pub origin: Origin,
    /// What is wrong.
    pub fault: RulesFault,
}

impl RulesError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        self.fault.hint()
    }
}

/// What is wrong with a file of rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesFault {
    /// Not TOML, or not of the shape of rules.
    #[error("{0}")]
    Toml(String),
    /// The file is too large.
    #[error("the file has more than {MAX_RULES_BYTES} bytes")]
    TooLarge,
    /// Too many signers or rules.
    #[error("there are more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many may be.
        limit: usize,
    },
    /// A signer's name is not acceptable.
    #[error("{0:?} cannot be a signer's name")]
    BadName(String),
    /// A key cannot be used.
    #[error("the key of {name:?} cannot be used: {why}")]
    BadKey {
        /// The signer.
        name: String,
        /// Why.
        why: String,
    },
    /// Two signers share a name.
    #[error("there are two signers of the name {name:?}, the other at {other}")]
    TwoSigners {
        /// The name.
        name: String,
        /// The other place.
        other: Origin,
    },
    /// Two signers share a key.
    #[error("{name:?} has the same key as {other:?}")]
    SameKey {
        /// This signer.
        name: String,
        /// The other one.
        other: String,
    },
    /// A rule names a signer that is not there.
    #[error("there is no signer {0:?}")]
    NoSuchSigner(String),
    /// A rule names a signer twice.
    #[error("the rule names {0:?} twice")]
    Twice(String),
    /// A glob cannot be read.
    #[error("the pattern {pattern:?} cannot be read: {why}")]
    BadPattern {
        /// The glob.
        pattern: String,
        /// Why.
        why: String,
    },
    /// A rule can never accept anything.
    #[error("`agree = {agree}`, but the rule accepts {accept} signers")]
    NeverAgrees {
        /// How many must agree.
        agree: u64,
        /// How many there are.
        accept: usize,
    },
    /// A span of time cannot be read.
    #[error("{0:?} is not a span of time")]
    BadSpan(String),
    /// A word stands where one of a few others is meant.
    #[error("`{key}` cannot be {found:?}")]
    BadWord {
        /// The setting.
        key: &'static str,
        /// The word found.
        found: String,
        /// The words meant.
        want: &'static str,
    },
}

impl RulesFault {
    fn hint(&self) -> String {
        match self {
            Self::Toml(message) if message.contains("unknown field") => {
                "check the spelling; the settings of a rule are listed in `potluck trust --help`".to_owned()
            }
            Self::Toml(_) => "mend the line, or start from what `potluck trust add` writes".to_owned(),
            Self::TooLarge | Self::TooMany { .. } => {
                "use fewer signers, or globs that cover several projects".into()
            }
            Self::BadName(_) => {
                format!("use a-z, 0-9, '.', '_' and '-', at most {MAX_NAME_BYTES} characters")
            }
            Self::BadKey { .. } => {
                "give the line that `potluck key show` or `ssh-keygen -y` prints: ssh-ed25519 AAAA… comment"
                    .into()
            }
            Self::TwoSigners { .. } => "rename one of them".to_owned(),
            Self::SameKey { other, .. } => {
                format!("name {other:?} in the rules instead, so that `agree` cannot count one key twice")
            }
            Self::NoSuchSigner(name) => format!("add `[signer.{name}]` with its key, or correct the name"),
            Self::Twice(_) => "name each signer once".to_owned(),
            Self::BadPattern { .. } => {
                "write a glob over names such as acme/web: acme/*, acme/**, rustc@*".to_owned()
            }
            Self::NeverAgrees { accept, .. } => format!("accept more signers, or ask for from 1 to {accept}"),
            Self::BadSpan(_) => "write it as \"30d\", \"12h\" or \"2weeks\"".to_owned(),
            Self::BadWord { want, .. } => format!("write {want}"),
        }
    }
}

/// All layers, read and checked.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Every signer, by name.
    pub signers: BTreeMap<String, NamedSigner>,
    /// Every rule, in the order in which they are tried.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// Reads layers, the first one's rules first.
    ///
    /// # Errors
    /// The first [`RulesError`], with file, line and remedy.
    pub fn read(layers: &[Layer]) -> Result<Self, RulesError> {
        let mut rules = Self::default();
        let parsed =
            layers.iter().map(|layer| Ok((layer, File::parse(layer)?))).collect::<Result<Vec<_>, _>>()?;
        for (layer, file) in &parsed {
            rules.add_signers(layer, file)?;
        }
        for (layer, file) in &parsed {
            for rule in &file.rule {
                let rule = rules.rule(layer, rule)?;
                rules.rules.push(rule);
                if rules.rules.len() > MAX_RULES {
                    let fault = RulesFault::TooMany { what: "rules", limit: MAX_RULES };
                    return Err(layer.error(0..0, fault));
                }
            }
        }
        Ok(rules)
    }

    /// The name that the owner gave to `signer`.
    pub fn name_of(&self, signer: &Signer) -> Option<&str> {
        self.signers.values().find(|named| named.key.signer() == *signer).map(|named| named.name.as_str())
    }

    fn add_signers(&mut self, layer: &Layer, file: &File) -> Result<(), RulesError> {
        for (name, signer) in &file.signer {
            let at = name.span();
            let name = name.get_ref().clone();
            if !is_name(&name) {
                return Err(layer.error(at, RulesFault::BadName(name)));
            }
            let (key, _) = PublicKey::from_openssh(signer.key.get_ref()).map_err(|why| {
                layer
                    .error(signer.key.span(), RulesFault::BadKey { name: name.clone(), why: why.to_string() })
            })?;
            if let Some(other) = self.signers.get(&name) {
                let other = other.origin.clone();
                return Err(layer.error(at, RulesFault::TwoSigners { name, other }));
            }
            if let Some(other) = self.name_of(&key.signer()) {
                let other = other.to_owned();
                return Err(layer.error(at, RulesFault::SameKey { name, other }));
            }
            if self.signers.len() == MAX_SIGNERS {
                return Err(layer.error(at, RulesFault::TooMany { what: "signers", limit: MAX_SIGNERS }));
            }
            let origin = layer.origin(at);
            self.signers.insert(name.clone(), NamedSigner { name, key, origin });
        }
        Ok(())
    }

    fn rule(&self, layer: &Layer, rule: &Spanned<RuleText>) -> Result<Rule, RulesError> {
        let (span, rule) = (rule.span(), rule.get_ref());
        let accept = self.named(layer, rule.accept.get_ref())?;
        let (agree_span, agree) =
            rule.agree.as_ref().map_or((0..0, 1), |agree| (agree.span(), *agree.get_ref()));
        if agree == 0 || agree > accept.len() as u64 {
            let span = if rule.agree.is_some() { agree_span } else { rule.accept.span() };
            return Err(layer.error(span, RulesFault::NeverAgrees { agree, accept: accept.len() }));
        }
        Ok(Rule {
            origin: layer.origin(span),
            project: layer.pattern(&rule.project)?,
            recipe: rule
                .recipe
                .as_ref()
                .map_or_else(|| Ok(Pattern::everything()), |text| layer.pattern(text))?,
            agree: usize::try_from(agree).expect("at most the number of signers"),
            accept,
            max_age: rule.max_age.as_ref().map(|text| layer.span(text)).transpose()?,
            taints: rule.taints.as_ref().map_or(Ok(Taints::Refuse), |taints| layer.taints(taints))?,
            strict: rule.strict,
            rotate: rule.rotate,
            authority: self.named(layer, &rule.authority)?,
            keep_older: rule.after_revocation.as_ref().map_or(Ok(false), |word| layer.after(word))?,
        })
    }

    fn named(&self, layer: &Layer, names: &[Spanned<String>]) -> Result<Vec<Signer>, RulesError> {
        let mut signers = Vec::with_capacity(names.len());
        for name in names {
            let known = self.signers.get(name.get_ref());
            let Some(known) = known else {
                return Err(layer.error(name.span(), RulesFault::NoSuchSigner(name.get_ref().clone())));
            };
            let signer = known.key.signer();
            if signers.contains(&signer) {
                return Err(layer.error(name.span(), RulesFault::Twice(name.get_ref().clone())));
            }
            signers.push(signer);
        }
        Ok(signers)
    }
}

/// Whether `name` can name a signer or a key file: `[a-z0-9._-]+`, not starting with a dot.
pub fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(known)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    signer: BTreeMap<Spanned<String>, SignerText>,
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerText {
    key: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleText {
    project: Spanned<String>,
    recipe: Option<Spanned<String>>,
    accept: Spanned<Vec<Spanned<String>>>,
    agree: Option<Spanned<u64>>,
    max_age: Option<Spanned<String>>,
    taints: Option<Spanned<TaintsText>>,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    rotate: bool,
    #[serde(default)]
    authority: Vec<Spanned<String>>,
    after_revocation: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"refuse\" or a list of taints")]
enum TaintsText {
    Word(String),
    List(Vec<String>),
}

impl File {
    fn parse(layer: &Layer) -> Result<Self, RulesError> {
        if layer.text.len() > MAX_RULES_BYTES {
            return Err(layer.error(0..0, RulesFault::TooLarge));
        }
        toml::from_str(&layer.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            layer.error(span, RulesFault::Toml(error.message().to_owned()))
        })
    }
}

impl Layer {
    /// A layer of this text.
    pub fn new(file: &Path, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), text: text.into() }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin { file: self.file.clone(), line }
    }

    fn error(&self, span: Range<usize>, fault: RulesFault) -> RulesError {
        RulesError { origin: self.origin(span), fault }
    }

    fn pattern(&self, text: &Spanned<String>) -> Result<Pattern, RulesError> {
        let pattern = text.get_ref();
        Pattern::new(pattern)
            .map_err(|why| self.error(text.span(), RulesFault::BadPattern { pattern: pattern.clone(), why }))
    }

    fn span(&self, text: &Spanned<String>) -> Result<Duration, RulesError> {
        humantime::parse_duration(text.get_ref())
            .map_err(|_| self.error(text.span(), RulesFault::BadSpan(text.get_ref().clone())))
    }

    fn taints(&self, taints: &Spanned<TaintsText>) -> Result<Taints, RulesError> {
        match taints.get_ref() {
            TaintsText::Word(word) if word == "refuse" => Ok(Taints::Refuse),
            TaintsText::List(list) => Ok(Taints::Accept(list.clone())),
            TaintsText::Word(word) => {
                let want = "taints = \"refuse\", or a list such as [\"network\"]";
                Err(self
                    .error(taints.span(), RulesFault::BadWord { key: "taints", found: word.clone(), want }))
            }
        }
    }

    fn after(&self, word: &Spanned<String>) -> Result<bool, RulesError> {
        match word.get_ref().as_str() {
            "refuse-all" => Ok(false),
            "keep-older" => Ok(true),
            other => {
                let (key, found) = ("after-revocation", other.to_owned());
                let want = "after-revocation = \"refuse-all\" or \"keep-older\"";
                Err(self.error(word.span(), RulesFault::BadWord { key, found, want }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::Pair;

    fn line(seed: u8) -> String {
        Pair::from_seed(&[seed; 32], "").public().to_openssh(&format!("key-{seed}"))
    }

    fn read(text: &str) -> Result<Rules, RulesError> {
        let text = text.replace("KEY1", &line(1)).replace("KEY2", &line(2));
        Rules::read(&[Layer::new(Path::new("trust.toml"), text)])
    }

    const TWO: &str = "[signer.ci]\nkey = \"KEY1\"\n[signer.alice]\nkey = \"KEY2\"\n";

    #[test]
    fn a_full_rule_is_read() {
        let rules = read(&format!(
            "{TWO}[[rule]]\nproject = \"acme/*\"\nrecipe = \"rustc@*\"\naccept = [\"ci\", \"alice\"]\nagree = 2\n\
             max-age = \"30d\"\ntaints = [\"network\"]\nstrict = true\nrotate = true\nauthority = [\"ci\"]\n\
             after-revocation = \"keep-older\"\n"
        ))
        .unwrap();
        let rule = &rules.rules[0];
        assert_eq!(rule.origin.line, 5);
        assert!(rule.project.covers("acme/web") && !rule.project.covers("acme/web/x"));
        assert!(rule.recipe.covers("rustc@7") && !rule.recipe.covers("gcc@7"));
        assert_eq!((rule.accept.len(), rule.agree), (2, 2));
        assert_eq!(rule.max_age, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(rule.taints, Taints::Accept(vec!["network".to_owned()]));
        assert!(rule.strict && rule.rotate && rule.keep_older && rule.authority.len() == 1);
    }

    #[test]
    fn an_empty_file_has_no_rules_and_defaults_are_the_strict_ones() {
        assert!(read("").unwrap().rules.is_empty());
        let rules = read(&format!("{TWO}[[rule]]\nproject = \"*\"\naccept = [\"ci\"]\n")).unwrap();
        let rule = &rules.rules[0];
        assert!(rule.project.covers("default") && rule.project.covers("acme/web/x"));
        assert!(rule.recipe.covers("rustc@1"));
        assert_eq!((rule.agree, &rule.taints), (1, &Taints::Refuse));
        assert!(!rule.strict && !rule.rotate && !rule.keep_older && rule.authority.is_empty());
    }

    #[test]
    fn layers_are_tried_in_order_and_share_signers() {
        let system = Layer::new(
            Path::new("/etc/potluck/trust.toml"),
            format!(
                "[signer.ci]\nkey = \"{}\"\n[[rule]]\nproject = \"acme/**\"\naccept = [\"ci\"]\n",
                line(1)
            ),
        );
        let user = Layer::new(Path::new("trust.toml"), "[[rule]]\nproject = \"mine\"\naccept = [\"ci\"]\n");
        let rules = Rules::read(&[system, user]).unwrap();
        let order: Vec<_> = rules.rules.iter().map(|rule| rule.project.to_string()).collect();
        assert_eq!(order, ["acme/**", "mine"]);
    }

    #[test]
    fn every_error_names_its_line_and_a_remedy() {
        let rule = |line: &str| format!("{TWO}[[rule]]\nproject = \"a\"\naccept = [\"ci\"]\n{line}\n");
        let cases: &[(&str, String, usize, &str)] = &[
            ("not toml", "rule = [".to_owned(), 1, ""),
            ("unknown setting", rule("acept = []"), 8, "unknown field"),
            ("unknown table", "[signers.ci]\n".to_owned(), 1, "unknown field"),
            ("missing project", format!("{TWO}[[rule]]\naccept = [\"ci\"]\n"), 5, "missing field"),
            ("no such signer", rule("authority = [\"bob\"]"), 8, "no signer \"bob\""),
            ("one signer twice", rule("authority = [\"ci\", \"ci\"]"), 8, "twice"),
            (
                "bad glob",
                format!("{TWO}[[rule]]\nproject = \"a[\"\naccept = [\"ci\"]\n"),
                6,
                "cannot be read",
            ),
            (
                "impossible glob",
                format!("{TWO}[[rule]]\nproject = \"Acme\"\naccept = [\"ci\"]\n"),
                6,
                "never occurs",
            ),
            ("bad recipe", rule("recipe = \"{\""), 8, "cannot be read"),
            ("agree beyond signers", rule("agree = 2"), 8, "accepts 1 signers"),
            ("agree of none", rule("agree = 0"), 8, "agree = 0"),
            ("no signers", format!("{TWO}[[rule]]\nproject = \"a\"\naccept = []\n"), 7, "accepts 0"),
            ("bad span", rule("max-age = \"soon\""), 8, "not a span"),
            ("bad taints", rule("taints = \"accept\""), 8, "`taints` cannot be"),
            ("bad word", rule("after-revocation = \"forget\""), 8, "cannot be \"forget\""),
            ("bad key", "[signer.ci]\nkey = \"ssh-ed25519 AAAA\"\n".to_owned(), 2, "cannot be used"),
            ("bad name", "[signer.\"C I\"]\nkey = \"KEY1\"\n".to_owned(), 1, "cannot be a signer's name"),
            ("one key twice", format!("{TWO}[signer.x]\nkey = \"KEY1\"\n"), 5, "same key as \"ci\""),
            ("one name twice", format!("{TWO}[signer.ci]\nkey = \"KEY2\"\n"), 5, ""),
        ];
        for (what, text, line, message) in cases {
            let error = read(text).unwrap_err();
            let shown = error.to_string();
            assert_eq!(error.origin.line, *line, "{what}: {shown}");
            assert!(shown.contains(message), "{what}: {shown}");
            assert!(shown.starts_with(&format!("trust.toml:{line}: ")), "{what}: {shown}");
            assert!(!error.hint().is_empty(), "{what}");
        }
    }

    #[test]
    fn one_name_in_two_layers_is_refused() {
        let layer = |file: &str, seed| {
            Layer::new(Path::new(file), format!("[signer.ci]\nkey = \"{}\"\n", line(seed)))
        };
        let error = Rules::read(&[layer("a.toml", 1), layer("b.toml", 2)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "b.toml:1: there are two signers of the name \"ci\", the other at a.toml:1"
        );
    }

    #[test]
    fn size_is_bounded() {
        let error = read(&"#".repeat(MAX_RULES_BYTES + 1)).unwrap_err();
        assert_eq!(error.fault, RulesFault::TooLarge);
        let rules = "[[rule]]\nproject = \"a\"\naccept = [\"ci\"]\n".repeat(MAX_RULES + 1);
        let error = read(&format!("{TWO}{rules}")).unwrap_err();
        assert!(matches!(error.fault, RulesFault::TooMany { what: "rules", .. }));
    }
}
