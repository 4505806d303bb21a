// SPDX-License-Identifier: MIT OR Apache-2.0
//! The libraries that a unit is built against, by content.
//!
//! A library is compiled against its direct dependencies only: their metadata holds the hash of everything below. A
//! linker reads the code of all of them, so for units that link they are looked up: the metadata of a crate names the
//! file-name suffix of each crate below it, in plain text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use object::ReadCache;
use object::read::archive::ArchiveFile;
use potluck_protocol::digest::Digest;

use super::key::Inputs;
use super::map::native_name;
use super::sources::Sources;
use super::toolchain::digest;
use super::unit::Unit;
use super::{Call, Placed};

/// Most native libraries in folders that a build script has made.
const MAX_NATIVE: usize = 1000;
/// How the names of what the compiler puts into a library end, beside its metadata.
const OWN_PARTS: &[&str] = &[".rcgu.o", ".dwo"];
/// A dash and sixteen hexadecimal digits.
const SUFFIX: usize = 17;

/// Fills in [`Inputs::externs`], [`Inputs::transitive`] and [`Inputs::native`]; gives the files whose content that is,
/// all links followed. `sources` says whether the source may bind libraries by itself, and what macros hold.
///
/// # Errors
/// When a file cannot be read, or a library outside of the build may take part that nobody names.
pub fn gather(
    call: &Call,
    placed: &Placed,
    sources: &Sources,
    inputs: &mut Inputs,
) -> io::Result<BTreeSet<PathBuf>> {
    let unit = &placed.unit;
    let mut files = BTreeSet::new();
    if unit.links() {
        linked(call, unit, inputs, &mut files)?;
    } else {
        let content =
            |path: PathBuf| sources.macros.get(&path).map_or_else(|| digest(&path), |known| Ok(*known));
        let of = |path: &String| content(call.cwd.join(path));
        inputs.externs =
            unit.externs.iter().map(|one| one.path.as_ref().map(of).transpose()).collect::<Result<_, _>>()?;
        let paths = unit.externs.iter().filter_map(|one| one.path.as_ref());
        files.extend(paths.filter_map(|path| fs::canonicalize(call.cwd.join(path)).ok()));
    }
    inputs.native = native(call, placed, sources.links, &mut files)?;
    Ok(files)
}

/// The procedural macros that may run while a unit is compiled: those that it is given; and for a package that people
/// edit those that a library may hand on, which its metadata names. What a package calls that nobody edits reads what
/// that package brings along.
///
/// # Errors
/// When a file cannot be read.
pub fn macros(call: &Call, Placed { unit, place }: &Placed) -> io::Result<Vec<PathBuf>> {
    let externs = unit.externs.iter().filter_map(|one| one.path.as_ref()).map(|path| call.cwd.join(path));
    let (libraries, mut macros): (Vec<_>, Vec<_>) = externs.partition(|path| is_followed(path));
    if place.immutable || libraries.is_empty() {
        return Ok(macros);
    }
    // A library that can be linked in both ways is none, though it has a file of that kind.
    let is_macro = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "so") && !path.with_extension("rlib").is_file()
    };
    let mut index = index(call, unit)?;
    index.values_mut().for_each(|paths| paths.retain(is_macro));
    index.retain(|_, paths| !paths.is_empty());
    let mut plain = index.remove(&[0; SUFFIX]).unwrap_or_default();
    if index.is_empty() && plain.is_empty() {
        return Ok(macros);
    }
    let (mut wanted, mut bytes) = (BTreeSet::new(), Vec::new());
    for library in libraries {
        read_into(&library, &mut bytes)?;
        suffixes(&bytes, &mut wanted);
        macros.extend(plain.extract_if(.., |path| is_named(path, &bytes)));
    }
    macros
        .extend(index.into_iter().filter(|(suffix, _)| wanted.contains(suffix)).flat_map(|(_, paths)| paths));
    Ok(macros)
}

fn linked(call: &Call, unit: &Unit, inputs: &mut Inputs, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let mut index = index(call, unit)?;
    // Those that have their plain names: they are told from what is only there by being named in what is used.
    let mut plain = index.remove(&[0; SUFFIX]).unwrap_or_default();
    let own = unit.outputs();
    plain.retain(|path| !own.iter().any(|own| path.ends_with(own)));
    let mut named = Vec::new();
    let mut wanted = BTreeSet::new();
    // Memory for megabytes costs as much as reading them, unless it is used again.
    let mut bytes = Vec::new();
    for one in &unit.externs {
        let Some(path) = &one.path else {
            inputs.externs.push(None);
            continue;
        };
        let path = call.cwd.join(path);
        read_into(&path, &mut bytes)?;
        inputs.externs.push(Some(Digest::of(&bytes)));
        files.insert(fs::canonicalize(&path)?);
        if is_followed(&path) {
            suffixes(&bytes, &mut wanted);
            named.extend(plain.extract_if(.., |path| is_named(path, &bytes)));
        }
    }
    let mut seen = BTreeSet::new();
    loop {
        let found = match (wanted.pop_first(), named.pop()) {
            (None, None) => return Ok(()),
            (suffix, one) => {
                let suffix = suffix.filter(|suffix| seen.insert(*suffix));
                let all = suffix.and_then(|suffix| index.get(&suffix)).into_iter().flatten().cloned();
                all.chain(one).collect::<Vec<_>>()
            }
        };
        for path in found {
            read_into(&path, &mut bytes)?;
            let name = path.file_name().unwrap_or_default().display().to_string();
            inputs.transitive.insert(name, Digest::of(&bytes));
            files.insert(fs::canonicalize(&path)?);
            if is_followed(&path) {
                suffixes(&bytes, &mut wanted);
                named.extend(plain.extract_if(.., |path| is_named(path, &bytes)));
            }
        }
    }
}

/// The content of a file, in place of what was there.
fn read_into(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    File::open(path)?.read_to_end(bytes).map(drop)
}

/// Whether the name of a library's crate stands in what is built on it.
fn is_named(path: &Path, bytes: &[u8]) -> bool {
    let stem = path.file_stem().unwrap_or_default().as_encoded_bytes();
    stem.strip_prefix(b"lib").is_some_and(|name| memchr::memmem::find(bytes, name).is_some())
}

/// What a procedural macro was linked from is inside of it already.
fn is_followed(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "rlib" || ext == "rmeta")
}

/// The files of the dependency folders by their suffix. Where there are an rlib and its metadata, the rlib counts.
fn index(call: &Call, unit: &Unit) -> io::Result<BTreeMap<[u8; SUFFIX], Vec<PathBuf>>> {
    let mut index: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    let folders =
        unit.search.iter().filter(|(kind, _)| kind != "native").map(|(_, path)| call.cwd.join(path));
    for folder in folders.collect::<BTreeSet<_>>() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let known =
                path.extension().is_some_and(|ext| ["rlib", "rmeta", "so"].iter().any(|own| ext == *own));
            let stem = path.file_stem().unwrap_or_default().as_encoded_bytes();
            if known && stem.starts_with(b"lib") {
                let suffix = stem.last_chunk().filter(|suffix| is_suffix(suffix.as_slice()));
                index.entry(*suffix.unwrap_or(&[0; SUFFIX])).or_default().push(path);
            }
        }
    }
    for paths in index.values_mut() {
        paths.sort();
        let whole: BTreeSet<_> =
            paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "rlib")).cloned().collect();
        let is_metadata = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "rmeta");
        paths.retain(|path| !is_metadata(path) || !whole.contains(&path.with_extension("rlib")));
    }
    Ok(index)
}

fn is_suffix(text: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    text.len() == SUFFIX && text[0] == b'-' && text[1..].iter().all(digit)
}

fn suffixes(bytes: &[u8], to: &mut BTreeSet<[u8; SUFFIX]>) {
    for at in memchr::memchr_iter(b'-', bytes) {
        if let Some(suffix) = bytes[at..].first_chunk().filter(|suffix| is_suffix(suffix.as_slice())) {
            to.insert(*suffix);
        }
    }
}

/// Native libraries in the folders that are searched. In those that the build has made every archive counts, since the
/// source may name them in `#[link]`; in others, such as the system's, only what `-l` names. Where the source may take
/// more than that from those, it is not known what. What a linker takes from them is seen.
fn native(
    call: &Call,
    placed: &Placed,
    unnamed: bool,
    files: &mut BTreeSet<PathBuf>,
) -> io::Result<Vec<(String, Digest)>> {
    let unit = &placed.unit;
    let named: BTreeSet<_> = unit.native.iter().map(|value| native_name(value)).collect();
    let mut found = Vec::new();
    for (kind, path) in &unit.search {
        let path = call.cwd.join(path);
        if kind == "dependency" || !path.is_dir() {
            continue;
        }
        let all = is_built(&path, placed);
        if !all && unit.links() {
            continue;
        }
        if !all && unnamed {
            return Err(io::Error::other(format!("something in {} may be linked", path.display())));
        }
        let mut names: Vec<_> =
            fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        names.retain(|path| {
            path.file_name().is_some_and(|name| counts(&name.display().to_string(), &named, all))
        });
        names.sort();
        for path in names {
            found.push((path.file_name().unwrap_or_default().display().to_string(), digest(&path)?));
            files.insert(fs::canonicalize(&path)?);
        }
        if found.len() > MAX_NATIVE {
            return Err(io::Error::other("there are too many native libraries"));
        }
    }
    Ok(found)
}

/// Whether a folder lies where the build makes things. Spelled otherwise, it might only seem to.
fn is_built(folder: &Path, Placed { place, .. }: &Placed) -> bool {
    let real = fs::canonicalize(folder).unwrap_or_default();
    place.roots.iter().flat_map(|root| &root.spellings).any(|own| real.starts_with(own))
}

/// A part of a library that was made, which is neither the compiler's own nor of what an argument names: a macro of
/// another crate has bound a native library of a folder that the build has not made, and no text of this one tells.
pub(super) fn taken_in(call: &Call, placed: &Placed) -> io::Result<Option<String>> {
    let unit = &placed.unit;
    let is_elsewhere = |(kind, path): &(String, String)| {
        let path = call.cwd.join(path);
        kind != "dependency" && path.is_dir() && !is_built(&path, placed)
    };
    if unit.links() || !unit.native.is_empty() || !unit.search.iter().any(is_elsewhere) {
        return Ok(None);
    }
    for name in unit.outputs().into_iter().filter(|name| name.ends_with(".rlib")) {
        let library = ReadCache::new(File::open(call.cwd.join(&unit.out_dir).join(name))?);
        let members = ArchiveFile::parse(&library).map_err(io::Error::other)?;
        for member in members.members() {
            let name = String::from_utf8_lossy(member.map_err(io::Error::other)?.name()).into_owned();
            if name != "lib.rmeta" && !OWN_PARTS.iter().any(|own| name.ends_with(own)) {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

fn counts(name: &str, named: &BTreeSet<&str>, all: bool) -> bool {
    let stem = name.strip_prefix("lib").unwrap_or(name);
    let stem = ["a", "so", "dylib", "lib"].iter().find_map(|ext| {
        let (stem, rest) = stem.split_once(&format!(".{ext}"))?;
        (rest.is_empty() || rest.starts_with('.')).then_some(stem)
    });
    stem.is_some_and(|stem| all || named.contains(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_libraries_are_told_from_other_names() {
        let mut found = BTreeSet::new();
        suffixes(b"x-0123456789abcdefy --fedcba9876543210-0123456789abcdeg-012", &mut found);
        assert_eq!(found, BTreeSet::from([*b"-0123456789abcdef", *b"-fedcba9876543210"]));
        let named = BTreeSet::from(["z"]);
        for (name, all, expected) in [
            ("libz.a", false, true),
            ("libz.so.1", false, true),
            ("z.lib", false, true),
            ("liby.a", false, false),
            ("liby.a", true, true),
            ("libz.la", true, false),
            ("notes.txt", true, false),
        ] {
            assert_eq!(counts(name, &named, all), expected, "{name}");
        }
    }
}
