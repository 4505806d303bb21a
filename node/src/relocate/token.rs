// SPDX-License-Identifier: MIT OR Apache-2.0
//! Roots, and text in which they are swapped for tokens: `@potluck:target@/debug` for `<target folder>/debug`.
//!
//! The form is injective: the opening of a token that stands in the text itself is escaped, so that
//! `decode(encode(text)) == text` for all bytes, whatever the roots are.

use memchr::memmem;

/// How a token begins.
pub(crate) const OPENING: &[u8] = b"@potluck:";
/// The name that stands for [`OPENING`] itself.
const LITERAL: &str = "literal";

/// How a path is spelled where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// As it is.
    Plain,
    /// Inside of a JSON string.
    Json,
}

impl Spelling {
    /// The path as it stands there.
    pub(crate) fn spell(self, path: &str) -> Vec<u8> {
        match self {
            Self::Plain => path.as_bytes().to_vec(),
            Self::Json => {
                let quoted = serde_json::to_string(path).expect("a string is always JSON");
                quoted.as_bytes()[1..quoted.len() - 1].to_vec()
            }
        }
    }
}

/// A folder that differs between checkouts or machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What it is, e.g. `target`: part of the token.
    pub name: &'static str,
    /// Its absolute paths without a slash at the end: first the one that tools were told, then others that lead there.
    pub spellings: Vec<String>,
}

/// The roots of one unit of work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roots {
    roots: Vec<Root>,
}

/// Text that cannot be brought back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// A token that is not closed, or names no root of this unit.
    #[error("a token at byte {0} names no root")]
    Unbound(usize),
}

impl Roots {
    /// Takes roots. Spellings that are no absolute path, or only `/`, are left out: they would match everywhere.
    pub fn new(mut roots: Vec<Root>) -> Self {
        for root in &mut roots {
            root.spellings.retain(|path| path.len() > 1 && path.starts_with('/') && !path.ends_with('/'));
        }
        roots.retain(|root| !root.spellings.is_empty());
        Self { roots }
    }

    /// The roots, as they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter()
    }

    /// Each spelling with the name of its root, the longest first: what lies inside another root is that one.
    fn needles(&self, spelling: Spelling) -> Vec<(Vec<u8>, &'static str)> {
        let of = |root: &Root| {
            let name = root.name;
            root.spellings.iter().map(move |path| (spelling.spell(path), name)).collect::<Vec<_>>()
        };
        let mut needles: Vec<_> = self.roots.iter().flat_map(of).collect();
        needles.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        needles
    }

    /// The text with tokens for roots. Only a spelling that is a root's first one comes back as it was.
    pub fn encode(&self, text: &[u8], spelling: Spelling) -> Vec<u8> {
        let needles = self.needles(spelling);
        let mut encoded = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = memchr::memchr2(b'/', b'@', rest) {
            encoded.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let root = || needles.iter().find(|(path, _)| stands_at_start(rest, path));
            let taken = if rest.starts_with(OPENING) {
                push_token(&mut encoded, LITERAL);
                OPENING.len()
            } else if let Some((path, name)) = root() {
                push_token(&mut encoded, name);
                path.len()
            } else {
                encoded.push(rest[0]);
                1
            };
            rest = &rest[taken..];
        }
        encoded.extend_from_slice(rest);
        encoded
    }

    /// The text with these roots for tokens.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decode(&self, text: &[u8], spelling: Spelling) -> Result<Vec<u8>, TokenError> {
        let mut decoded = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(found) = memmem::find(&text[at..], OPENING) {
            let token = at + found;
            decoded.extend_from_slice(&text[at..token]);
            let name = token + OPENING.len();
            let end = memchr::memchr(b'@', &text[name..]).ok_or(TokenError::Unbound(token))?;
            let name = &text[name..name + end];
            if name == LITERAL.as_bytes() {
                decoded.extend_from_slice(OPENING);
            } else {
                let root = self.roots.iter().find(|root| root.name.as_bytes() == name);
                let root = root.ok_or(TokenError::Unbound(token))?;
                decoded.extend_from_slice(&spelling.spell(&root.spellings[0]));
            }
            at = token + OPENING.len() + end + 1;
        }
        decoded.extend_from_slice(&text[at..]);
        Ok(decoded)
    }

    /// [`Self::encode`] for a path or the value of a variable.
    pub fn encode_str(&self, text: &str) -> String {
        let encoded = self.encode(text.as_bytes(), Spelling::Plain);
        String::from_utf8(encoded).expect("roots are whole strings, so cutting them out leaves text")
    }
}

fn push_token(to: &mut Vec<u8>, name: &str) {
    to.extend_from_slice(OPENING);
    to.extend_from_slice(name.as_bytes());
    to.push(b'@');
}

/// Whether `text` begins with `path` and the path's last component ends there.
fn stands_at_start(text: &[u8], path: &[u8]) -> bool {
    text.strip_prefix(path).is_some_and(|after| after.first().is_none_or(|byte| !goes_on(*byte)))
}

/// Whether a component of a path that has this byte next is longer than it seemed.
pub(super) fn goes_on(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.+~%@".contains(&byte) || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(workspace: &str, target: &str) -> Roots {
        let root = |name, path: &str| Root { name, spellings: vec![path.to_owned()] };
        Roots::new(vec![root("workspace", workspace), root("target", target)])
    }

    #[test]
    fn the_innermost_root_is_named_and_only_whole_components_count() {
        let roots = roots("/w/app", "/w/app/target");
        for (text, expected) in [
            ("/w/app/target/x.d", "@potluck:target@/x.d"),
            ("/w/app/src", "@potluck:workspace@/src"),
            ("/w/app", "@potluck:workspace@"),
            ("(/w/app)", "(@potluck:workspace@)"),
            ("/w/app2/x", "/w/app2/x"),
            ("/w/app.old", "/w/app.old"),
            ("/w/app/target2", "@potluck:workspace@/target2"),
            ("/w/ap", "/w/ap"),
            ("a@potluck:target@b", "a@potluck:literal@target@b"),
        ] {
            assert_eq!(roots.encode_str(text), expected);
            assert_eq!(roots.decode(expected.as_bytes(), Spelling::Plain).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn whatever_is_encoded_comes_back() {
        // Snippets put together in all ways are worse than random bytes.
        let pieces: [&[u8]; 11] = [
            b"/w/app",
            b"/w/app/target",
            b"@potluck:",
            b"@",
            b"potluck:",
            b"target@",
            b"literal@",
            b"/",
            b"x",
            b"\xff",
            b"/w",
        ];
        let roots = roots("/w/app", "/w/app/target");
        let mut seed: u32 = 7;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..seed % 7 + 1 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.extend_from_slice(pieces[(seed >> 16) as usize % pieces.len()]);
            }
            let encoded = roots.encode(&text, Spelling::Plain);
            assert_eq!(roots.decode(&encoded, Spelling::Plain).unwrap(), text);
        }
    }

    #[test]
    fn text_moves_to_other_roots_in_the_spelling_of_its_surroundings() {
        let here = roots("/w/a \"b\"", "/t");
        let there = roots("/else/c\\d", "/u");
        let line = br#"{"file":"/w/a \"b\"/x.rs","out":"/t/x"}"#;
        let encoded = here.encode(line, Spelling::Json);
        assert_eq!(encoded, br#"{"file":"@potluck:workspace@/x.rs","out":"@potluck:target@/x"}"#);
        let moved = there.decode(&encoded, Spelling::Json).unwrap();
        assert_eq!(moved, br#"{"file":"/else/c\\d/x.rs","out":"/u/x"}"#);
    }

    #[test]
    fn tokens_without_a_root_are_refused() {
        let roots = roots("/w", "/t");
        for bad in ["@potluck:home@", "x@potluck:", "@potluck:target", "@potluck:@"] {
            assert!(roots.decode(bad.as_bytes(), Spelling::Plain).is_err(), "{bad}");
        }
        let silly =
            Root { name: "workspace", spellings: vec!["/".into(), String::new(), "w".into(), "/w/".into()] };
        assert_eq!(Roots::new(vec![silly]), Roots::default());
    }
}
