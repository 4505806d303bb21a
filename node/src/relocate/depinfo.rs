// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `.d` files of rustc: Makefile rules in which only spaces are escaped, and comments with the variables that were
//! read (`# env-dep:NAME=VALUE`, or without `=` when it was not set).
//!
//! What is read is written again byte for byte; [`DepInfo::parse`] gives nothing where that would not be so.

use super::token::{Roots, Spelling, TokenError};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `target: source source`.
    Rule {
        /// What is made, or a source by itself.
        target: String,
        /// What it is made of.
        sources: Vec<String>,
    },
    /// A variable that was read, and its value when it was set.
    Env {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
    },
    /// Nothing.
    Blank,
}

/// A dep-info file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DepInfo {
    /// Its lines.
    pub lines: Vec<Line>,
}

const ENV: &str = "# env-dep:";

impl DepInfo {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(parse_line).collect::<Option<_>>()?;
        let parsed = Self { lines };
        (parsed.emit() == text).then_some(parsed)
    }

    /// Its text.
    pub fn emit(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Blank => {}
                Line::Rule { target, sources } => {
                    // rustc escapes the names of sources, and of outputs it does not.
                    match sources.is_empty() {
                        true => text.push_str(&escape_path(target)),
                        false => text.push_str(target),
                    }
                    text.push(':');
                    for source in sources {
                        text.push(' ');
                        text.push_str(&escape_path(source));
                    }
                }
                Line::Env { name, value } => {
                    text.push_str(ENV);
                    text.push_str(&escape_env(name));
                    if let Some(value) = value {
                        text.push('=');
                        text.push_str(&escape_env(value));
                    }
                }
            }
            text.push('\n');
        }
        text
    }

    /// Every source of every rule, each once.
    pub fn sources(&self) -> std::collections::BTreeSet<&str> {
        let sources = self.lines.iter().filter_map(|line| match line {
            Line::Rule { sources, .. } => Some(sources),
            Line::Env { .. } | Line::Blank => None,
        });
        sources.flatten().map(String::as_str).collect()
    }

    /// The variables that were read.
    pub fn env(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Env { name, value } => Some((name.as_str(), value.as_deref())),
            Line::Rule { .. } | Line::Blank => None,
        })
    }

    /// With tokens for roots.
    pub fn encode(&self, roots: &Roots) -> Self {
        let encode = |text: &str| Ok::<_, TokenError>(roots.encode_str(text));
        self.map(encode).expect("tokens can be put in anywhere")
    }

    /// With roots for tokens.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decode(&self, roots: &Roots) -> Result<Self, TokenError> {
        self.map(|text| {
            let decoded = roots.decode(text.as_bytes(), Spelling::Plain)?;
            Ok(String::from_utf8(decoded).expect("roots are text"))
        })
    }

    fn map(&self, swap: impl Fn(&str) -> Result<String, TokenError>) -> Result<Self, TokenError> {
        let line = |line: &Line| {
            Ok(match line {
                Line::Rule { target, sources } => Line::Rule {
                    target: swap(target)?,
                    sources: sources.iter().map(|source| swap(source)).collect::<Result<_, _>>()?,
                },
                Line::Env { name, value } => {
                    Line::Env { name: name.clone(), value: value.as_deref().map(&swap).transpose()? }
                }
                Line::Blank => Line::Blank,
            })
        };
        Ok(Self { lines: self.lines.iter().map(line).collect::<Result<_, _>>()? })
    }
}

fn parse_line(line: &str) -> Option<Line> {
    if line.is_empty() {
        return Some(Line::Blank);
    }
    if let Some(pair) = line.strip_prefix(ENV) {
        return Some(match pair.split_once('=') {
            Some((name, value)) => Line::Env { name: unescape_env(name)?, value: Some(unescape_env(value)?) },
            None => Line::Env { name: unescape_env(pair)?, value: None },
        });
    }
    if line.starts_with('#') {
        return None;
    }
    if let Some((target, sources)) = line.split_once(": ") {
        return Some(Line::Rule { target: target.to_owned(), sources: split_paths(sources) });
    }
    let [target] = <[String; 1]>::try_from(split_paths(line.strip_suffix(':')?)).ok()?;
    Some(Line::Rule { target, sources: Vec::new() })
}

/// Words at spaces that are not escaped.
fn split_paths(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = line.chars().peekable();
    while let Some(letter) = rest.next() {
        let word = words.last_mut().expect("there is always one");
        match letter {
            '\\' if rest.next_if_eq(&' ').is_some() => word.push(' '),
            ' ' => words.push(String::new()),
            letter => word.push(letter),
        }
    }
    words
}

fn escape_path(path: &str) -> String {
    path.replace(' ', "\\ ")
}

fn escape_env(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape_env(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next()? {
                'n' => '\n',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            letter => letter,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::super::token::Root;
    use super::*;

    const SAMPLE: &str = "/t x/a-1.d: src/lib.rs /w/my\\ app/b.rs /t\\ x/out/c.rs\n\nsrc/lib.rs:\n/w/my\\ app/b.rs:\n\n\
                          # env-dep:OUT_DIR=/t x/out\n# env-dep:UNSET\n# env-dep:TEXT=a\\nb\\\\c=d\n";

    fn roots(workspace: &str, target: &str) -> Roots {
        let root = |name, path: &str| Root { name, spellings: vec![path.to_owned()] };
        Roots::new(vec![root("workspace", workspace), root("target", target)])
    }

    #[test]
    fn a_file_is_read_and_moved() {
        let parsed = DepInfo::parse(SAMPLE).unwrap();
        assert_eq!(parsed.emit(), SAMPLE);
        assert_eq!(
            parsed.sources().into_iter().collect::<Vec<_>>(),
            ["/t x/out/c.rs", "/w/my app/b.rs", "src/lib.rs"]
        );
        let env: Vec<_> = parsed.env().collect();
        assert_eq!(env, [("OUT_DIR", Some("/t x/out")), ("UNSET", None), ("TEXT", Some("a\nb\\c=d"))]);
        let (here, there) = (roots("/w/my app", "/t x"), roots("/v", "/a b c"));
        let encoded = parsed.encode(&here);
        assert!(encoded.emit().contains("@potluck:target@/a-1.d: src/lib.rs @potluck:workspace@/b.rs"));
        assert_eq!(DepInfo::parse(&encoded.emit()).unwrap().decode(&here).unwrap(), parsed);
        let moved = encoded.decode(&there).unwrap().emit();
        assert!(moved.starts_with("/a b c/a-1.d: src/lib.rs /v/b.rs /a\\ b\\ c/out/c.rs\n"));
        assert!(moved.contains("# env-dep:OUT_DIR=/a b c/out\n"));
    }

    #[test]
    fn what_would_not_come_back_is_not_taken() {
        for bad in ["a b\n", "# checksum:x\n", "a: b", "a:  b\r\n", "# env-dep:A=\\x\n"] {
            assert_eq!(DepInfo::parse(bad), None, "{bad:?}");
        }
        assert_eq!(DepInfo::parse(""), Some(DepInfo::default()));
    }
}
