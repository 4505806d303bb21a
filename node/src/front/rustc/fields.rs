// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keys were made of, field by field, so that a miss can be explained by the first field that differs from those of
//! the most similar unit before. Kept as short hashes in small files of the node's home, one for each crate and kind;
//! nothing depends on them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Most parts of one field that are told apart; of one with more it is only known that it differs.
const MAX_PARTS: usize = 512;
/// Longest name of a part that is kept, in bytes.
const MAX_NAME: usize = 160;
/// How many units of one crate and kind are remembered: profiles, features, versions.
const MAX_EACH: usize = 6;
/// Most crates and kinds that are remembered.
const MAX_FILES: usize = 4096;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Fields that are lists of a name and a content, or a name and a value: what differs has a name.
const PAIRS: &[&str] =
    &["transitive", "native files", "sources", "generated", "env", "codegen", "lints", "reads"];
/// The same with the options between them.
const TRIPLES: &[&str] = &["externs"];

/// What a key was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields(Vec<Field>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Field {
    name: String,
    digest: String,
    /// Names and short hashes of what it consists of, where that has names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    parts: BTreeMap<String, String>,
    #[serde(skip)]
    raw: Vec<Vec<u8>>,
}

fn short(parts: &[impl AsRef<[u8]>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.as_ref().len() as u64).to_le_bytes());
        hasher.update(part.as_ref());
    }
    hasher.finalize().to_hex()[..12].to_owned()
}

impl Fields {
    /// A field, with its parts in the order of the key.
    pub(super) fn note<B: AsRef<[u8]>>(&mut self, name: &str, parts: &[B]) {
        let named = PAIRS.contains(&name) || TRIPLES.contains(&name);
        let raw = parts.iter().filter(|_| named).map(|part| part.as_ref().to_vec()).collect();
        self.0.push(Field { name: name.to_owned(), digest: short(parts), parts: BTreeMap::new(), raw });
    }

    /// What was read beside all that, each by its name and with what it held.
    pub(super) fn note_reads(&mut self, state: &BTreeMap<String, Vec<u8>>) {
        let parts: Vec<_> =
            state.iter().flat_map(|(name, held)| [name.as_bytes(), held.as_slice()]).collect();
        self.note("reads", &parts);
        self.name_pairs();
    }

    /// Names the parts of those fields that have names.
    pub(super) fn name_pairs(&mut self) {
        for field in &mut self.0 {
            let each = if TRIPLES.contains(&field.name.as_str()) { 3 } else { 2 };
            let raw = std::mem::take(&mut field.raw);
            for part in raw.chunks(each).take(MAX_PARTS) {
                let name = String::from_utf8_lossy(&part[0]);
                let name: String = name.chars().take(MAX_NAME).collect();
                field.parts.insert(name, short(&part[1..]));
            }
        }
    }

    /// How many fields differ.
    fn distance(&self, other: &Self) -> usize {
        self.0
            .iter()
            .filter(|field| other.get(&field.name).is_none_or(|one| one.digest != field.digest))
            .count()
    }

    fn get(&self, name: &str) -> Option<&Field> {
        self.0.iter().find(|field| field.name == name)
    }

    /// The first field that differs, as people read it: its name, and what of it differs where that has a name.
    pub fn first_difference(&self, earlier: &Self) -> Option<String> {
        let differs = |field: &&Field| earlier.get(&field.name).is_none_or(|one| one.digest != field.digest);
        let field = self.0.iter().find(differs)?;
        let Some(before) = earlier.get(&field.name) else { return Some(field.name.clone()) };
        let changed = field.parts.iter().find(|(name, digest)| before.parts.get(*name) != Some(digest));
        let gone = before.parts.keys().find(|name| !field.parts.contains_key(*name));
        Some(match (changed, gone) {
            (Some((name, _)), _) if before.parts.contains_key(name) => format!("{}: {name}", field.name),
            (Some((name, _)), _) => format!("{}: {name} is new", field.name),
            (None, Some(name)) => format!("{}: {name} is gone", field.name),
            (None, None) => field.name.clone(),
        })
    }
}

/// A key, and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    key: String,
    fields: Fields,
}

/// What is remembered of one crate and kind.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    known: Vec<Known>,
}

impl Memory {
    /// What is remembered in a folder of a crate and kind; nothing when that cannot be read.
    pub(super) fn of(folder: &Path, crate_name: &str, kind: &str) -> Self {
        let plain = |text: &str| -> String {
            let plain = |sign: &char| sign.is_ascii_alphanumeric() || "_-".contains(*sign);
            text.chars().filter(plain).take(96).collect()
        };
        let path = folder.join(format!("{}-{}", plain(crate_name), plain(kind)));
        let known = read(&path).unwrap_or_default();
        Self { path, known }
    }

    /// The first field in which these differ from the most similar ones, of another key.
    pub(super) fn difference(&self, key: &str, fields: &Fields) -> Option<String> {
        let others = self.known.iter().rev().filter(|known| known.key != key);
        let nearest = others.min_by_key(|known| fields.distance(&known.fields))?;
        fields.first_difference(&nearest.fields)
    }

    /// Remembers these as the newest. Whatever fails is of no account.
    pub(super) fn remember(mut self, key: &str, fields: &Fields) {
        if self.known.last().is_some_and(|last| last.key == key) {
            return;
        }
        self.known.retain(|known| known.key != key);
        self.known.push(Known { key: key.to_owned(), fields: fields.clone() });
        let surplus = self.known.len().saturating_sub(MAX_EACH);
        self.known.drain(..surplus);
        if let Err(error) = self.write() {
            tracing::debug!(%error, "cannot remember what a key was made of");
        }
    }

    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().expect("it lies in a folder");
        if !self.path.exists() {
            make_room(folder)?;
        }
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec(&self.known)?)?;
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }
}

fn read(path: &Path) -> Option<Vec<Known>> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > MAX_FILE {
        return None;
    }
    serde_json::from_slice(&text).ok()
}

/// Makes the folder, and room for one more in it: the half that was not written for longest goes.
fn make_room(folder: &Path) -> io::Result<()> {
    // Not the folders above: without a home there is nothing to remember it in.
    if let Err(error) = fs::create_dir(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let mut files: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    if files.len() < MAX_FILES {
        return Ok(());
    }
    files.sort_by_cached_key(|file| file.metadata().and_then(|metadata| metadata.modified()).ok());
    files.iter().take(MAX_FILES / 2).try_for_each(|file| fs::remove_file(file.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(toolchain: &str, env: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        fields.note("toolchain", &[toolchain]);
        let env: Vec<_> = env.iter().flat_map(|(name, value)| [*name, *value]).collect();
        fields.note("env", &env);
        fields.name_pairs();
        fields
    }

    #[test]
    fn the_first_difference_has_a_name() {
        let one = fields("a", &[("A", "1"), ("B", "2")]);
        let difference = |other: &Fields| other.first_difference(&one);
        assert_eq!(difference(&one), None);
        assert_eq!(difference(&fields("b", &[("A", "2")])).unwrap(), "toolchain");
        assert_eq!(difference(&fields("a", &[("A", "1"), ("B", "3")])).unwrap(), "env: B");
        assert_eq!(difference(&fields("a", &[("A", "1"), ("B", "2"), ("C", "")])).unwrap(), "env: C is new");
        assert_eq!(difference(&fields("a", &[("B", "2")])).unwrap(), "env: A is gone");
        let mut more = one.clone();
        more.note("linker", &["x"]);
        assert_eq!(more.first_difference(&one).unwrap(), "linker");
    }

    #[test]
    fn the_nearest_unit_before_explains_and_memory_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("units");
        let memory = || Memory::of(&folder, "app", "lib");
        assert_eq!(memory().difference("k", &fields("a", &[])), None, "nothing is known yet");
        memory().remember("1", &fields("a", &[("A", "1")]));
        memory().remember("2", &fields("b", &[("A", "2")]));
        assert_eq!(memory().difference("3", &fields("a", &[("A", "9")])).unwrap(), "env: A");
        assert_eq!(memory().difference("3", &fields("b", &[("A", "9")])).unwrap(), "env: A");
        assert_eq!(memory().difference("1", &fields("a", &[("A", "1")])).unwrap(), "toolchain", "not itself");
        for number in 0..2 * MAX_EACH {
            memory().remember(&number.to_string(), &fields("a", &[]));
        }
        assert_eq!(memory().known.len(), MAX_EACH);
        fs::write(folder.join("app-lib"), vec![b' '; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
        assert!(memory().known.is_empty(), "what is too large is not read");
        fs::write(folder.join("app-lib"), "nonsense").unwrap();
        assert!(memory().known.is_empty());
        // Without a home nothing is made.
        let nowhere = folder.join("no/where");
        Memory::of(&nowhere, "app", "lib").remember("1", &fields("a", &[]));
        assert!(!nowhere.parent().unwrap().exists());
    }

    #[test]
    fn the_number_of_crates_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MAX_FILES {
            fs::write(folder.path().join(format!("crate{number}-lib")), "[]").unwrap();
        }
        Memory::of(folder.path(), "app", "lib").remember("1", &fields("a", &[]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), MAX_FILES / 2 + 1);
    }
}
