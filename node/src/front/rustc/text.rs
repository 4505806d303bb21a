// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the text of a source tells without being understood: names of variables and of files. Pure.
//!
//! All of it may find too much, and too little where macros put names together; see [`super::sources`] for why that
//! is sound.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memchr::memmem;
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::watch::seen::plain;

const OPENING: &[u8] = b"([{";
/// How much of a program is looked through at once.
const AT_ONCE: u64 = 1 << 18;
/// The largest page of memory that processors of today have by default.
const PAGE: u64 = 1 << 16;

/// Fewest bytes of a beginning by which a name is known.
const LEAST_BEGINNING: usize = 3;

/// Which bytes make a stretch in which names of variables are looked for.
const CAPITAL: [bool; 256] = {
    let mut capital = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        capital[byte as usize] = byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        byte += 1;
    }
    capital
};

/// The names in `env!("NAME")` and `option_env!("NAME")`.
pub(super) fn env_names(text: &[u8], names: &mut BTreeSet<String>) {
    for at in memmem::find_iter(text, "env!") {
        names.extend(literal(&text[at + 4..], OPENING));
    }
}

/// How the name of a variable may begin where the rest is put to it when the program runs, or where all that begin so are
/// looked for: up to each of its underscores.
pub(super) fn beginnings(name: &str) -> impl Iterator<Item = &str> {
    let up_to = name.match_indices('_').map(|(at, _)| &name[..=at]);
    up_to.filter(|beginning| (LEAST_BEGINNING..name.len()).contains(&beginning.len()))
}

/// Whether a name goes on with this byte.
pub(super) fn goes_on(byte: Option<&u8>) -> bool {
    byte.is_some_and(|byte| CAPITAL[usize::from(*byte)])
}

/// Those of `wanted` that stand in a text or a program, and those that begin with what stands there and does not go on.
/// In a program, texts stand side by side, so a name is looked for within stretches of capital letters; one that has
/// others is looked for by itself.
pub(super) fn mentions(text: &[u8], wanted: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    let capital = |byte: &u8| CAPITAL[usize::from(*byte)];
    let (plain, other): (Vec<&String>, Vec<_>) = wanted
        .iter()
        .filter(|name| !found.contains(*name))
        .partition(|name| name.as_bytes().iter().all(capital));
    let begun: Vec<_> =
        plain.iter().flat_map(|name| beginnings(name).map(|begins| (begins, *name))).collect();
    let lengths = plain.iter().map(|name| name.len()).chain(begun.iter().map(|(begins, _)| begins.len()));
    let shortest = lengths.min().unwrap_or(usize::MAX);
    // A program has megabytes, and each place in it few names that may begin there.
    let mut by_first = vec![Vec::new(); 256];
    for name in plain {
        by_first[name.bytes().next().map_or(0, usize::from)].push(name);
    }
    // Every stretch that is long enough covers one of these places, so that most of a program is not looked at.
    let shortest = shortest.max(1);
    let mut at = shortest - 1;
    while let Some(byte) = text.get(at) {
        if !capital(byte) {
            at = at.saturating_add(shortest);
            continue;
        }
        let start = text[..at].iter().rposition(|byte| !capital(byte)).map_or(0, |before| before + 1);
        let end = text[at..].iter().position(|byte| !capital(byte)).map_or(text.len(), |after| at + after);
        let stretch = &text[start..end];
        for at in 0..=stretch.len().saturating_sub(shortest) {
            let rest = &stretch[at..];
            let begins = rest.first().map_or(0, |first| usize::from(*first));
            let here = by_first[begins].iter().filter(|name| rest.starts_with(name.as_bytes()));
            found.extend(here.map(|name| (*name).clone()));
        }
        if stretch.last() == Some(&b'_') {
            let here = begun.iter().filter(|(begins, _)| stretch.ends_with(begins.as_bytes()));
            found.extend(here.map(|(_, name)| (*name).clone()));
        }
        at = end.saturating_add(shortest);
    }
    found.extend(other.into_iter().filter(|name| memmem::find(text, name.as_bytes()).is_some()).cloned());
}

/// The same for a program that is read, which is never held as a whole, since programs have megabytes; and of it for what
/// it has in memory while it runs, which is mostly the lesser part: the rest is for whoever looks for its faults.
pub(super) fn mentions_in(
    from: impl Read,
    wanted: &BTreeSet<String>,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    mentions_until(from, in_memory, wanted, found)
}

/// The same for all of it.
pub(super) fn mentions_anywhere_in(
    from: impl Read,
    wanted: &BTreeSet<String>,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    mentions_until(from, |_| u64::MAX, wanted, found)
}

/// The same up to where `end_of` says, which is given the beginning.
fn mentions_until(
    mut from: impl Read,
    end_of: impl Fn(&[u8]) -> u64,
    wanted: &BTreeSet<String>,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    let longest = wanted.iter().map(String::len).max().unwrap_or_default();
    let (mut held, mut at, mut end) = (Vec::new(), 0, None);
    loop {
        let read = from.by_ref().take(AT_ONCE).read_to_end(&mut held)?;
        if at < *end.get_or_insert_with(|| end_of(&held)) {
            mentions(&held, wanted, found);
        }
        if (read as u64) < AT_ONCE {
            return Ok(());
        }
        // A name may go on in what comes next.
        let gone = held.len().saturating_sub(longest);
        held.drain(..gone);
        at += gone as u64;
    }
}

/// Where in a program's file ends what the system loads when it is run, as stands at its beginning (gABI, "Program
/// Header"). Nowhere in what is no such program.
fn in_memory(start: &[u8]) -> u64 {
    let segments = || -> object::Result<u64> {
        let header = FileHeader64::<Endianness>::parse(start)?;
        let endian = header.endian()?;
        let segments = header.program_headers(endian, start)?;
        let loaded = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD);
        let ends = loaded.map(|segment| segment.p_offset(endian).saturating_add(segment.p_filesz(endian)));
        Ok(ends.max().unwrap_or(u64::MAX))
    };
    // Whole pages are loaded.
    segments().map_or(u64::MAX, |end| end.saturating_add(PAGE))
}

/// The files that are included by a path relative to the file.
pub(super) fn included(text: &[u8], file: &Path, found: &mut BTreeSet<PathBuf>) {
    let folder = file.parent().unwrap_or(file);
    for (word, opening) in
        [("include_str!", OPENING), ("include_bytes!", OPENING), ("include!", OPENING), ("path", b"===")]
    {
        for at in memmem::find_iter(text, word) {
            let Some(path) = literal(&text[at + word.len()..], opening) else { continue };
            let path = plain(&folder.join(path));
            if path.is_absolute() {
                found.insert(path);
            }
        }
    }
}

/// Where a text that begins with `../` may lead: macros take such paths from the file or from the package's folder, and
/// tell the compiler nothing of what they read. Folders above the package are not meant.
pub(super) fn upward(text: &[u8], file: &Path, top: &Path, found: &mut BTreeSet<PathBuf>) {
    for at in memmem::find_iter(text, "\"../") {
        let Some(path) = quoted(&text[at..]) else { continue };
        for folder in [file.parent().unwrap_or(top), top] {
            let path = plain(&folder.join(&path));
            if path.is_absolute() && !top.starts_with(&path) {
                found.insert(path);
            }
        }
    }
}

/// Whether the text may bind a library that no argument names.
pub(super) fn links(text: &[u8]) -> bool {
    let follows = |at: usize| text[at + 4..].trim_ascii_start().starts_with(b"(");
    let starts = |at: usize| {
        !text[..at].last().is_some_and(|before| before.is_ascii_alphanumeric() || *before == b'_')
    };
    memmem::find_iter(text, "link").any(|at| starts(at) && follows(at))
}

/// How often a variable is named in a text, and whether each time only to find a file that is included.
pub(super) fn includes_by(text: &[u8], name: &str) -> (usize, bool) {
    let wanted = format!("\"{name}\"");
    let (mut times, mut all) = (0, true);
    for at in memmem::find_iter(text, &wanted) {
        // Asked for when it runs, it is no part of what is compiled.
        let before = before_opening(&text[..at]);
        if ["var", "var_os"].iter().any(|word| before.is_some_and(|before| ends_in(before, word))) {
            continue;
        }
        times += 1;
        all &= before.is_some_and(finds_a_file);
    }
    (times, all)
}

/// `include!(concat!(env!` and the like.
fn finds_a_file(before: &[u8]) -> bool {
    let Some(before) = before_word(before, "env!") else { return false };
    let before = before_opening(before);
    let whole = before.and_then(|before| before_word(before, "concat!")).and_then(before_opening);
    let includes = |before: &[u8]| {
        ["include!", "include_str!", "include_bytes!"].iter().any(|word| ends_in(before, word))
    };
    before.is_some_and(includes) || whole.is_some_and(includes)
}

/// Whether a folder stands in a text only at the beginning of the path of a file that is included.
pub(super) fn only_includes(text: &[u8], folder: &str) -> bool {
    memmem::find_iter(text, folder).all(|at| {
        let before = text[..at].strip_suffix(b"\"").and_then(before_opening);
        before.is_some_and(|before| {
            ["include!", "include_str!", "include_bytes!"].iter().any(|word| ends_in(before, word))
        })
    })
}

fn before_opening(text: &[u8]) -> Option<&[u8]> {
    let (last, before) = text.trim_ascii_end().split_last()?;
    OPENING.contains(last).then(|| before.trim_ascii_end())
}

fn before_word<'a>(text: &'a [u8], word: &str) -> Option<&'a [u8]> {
    text.strip_suffix(word.as_bytes())
        .filter(|before| !before.last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'))
}

fn ends_in(text: &[u8], word: &str) -> bool {
    before_word(text, word).is_some()
}

/// The string literal that follows one of `opening`, white space around it left out.
fn literal(text: &[u8], opening: &[u8]) -> Option<String> {
    let text = text.trim_ascii_start();
    quoted(text.strip_prefix(&[*text.first().filter(|first| opening.contains(first))?])?.trim_ascii_start())
}

fn quoted(text: &[u8]) -> Option<String> {
    let text = text.strip_prefix(b"\"")?;
    let text = &text[..memchr::memchr(b'"', text)?];
    String::from_utf8(text.to_vec())
        .ok()
        .filter(|text| !text.is_empty() && text.len() < 4096 && !text.contains('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variables_are_found_in_text() {
        let mut names = BTreeSet::new();
        let text = br#"env!("A"); option_env! ( "B" , "x"); env!{"C"} env!(concat!("D")) env!(stringify) "env!" env!("#;
        env_names(text, &mut names);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["A", "B", "C"]);
    }

    #[test]
    fn names_of_variables_are_found_in_programs() {
        let wanted = ["FOO_BAR", "OTHER", "lower_case", "A1"].map(str::to_owned).into();
        let mut found = BTreeSet::new();
        mentions(b"\0called FOO_BARRUST_BACKTRACE\0lower_casexA1x", &wanted, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["A1", "FOO_BAR", "lower_case"]);
    }

    #[test]
    fn names_count_that_are_put_together_when_a_program_runs() {
        let wanted = ["ZZ_ONE", "FOO_BAR_ONE", "FOO_OTHER", "A_B", "LANG"].map(str::to_owned).into();
        let found = |text: &[u8]| {
            let mut found = BTreeSet::new();
            mentions(text, &wanted, &mut found);
            found.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(found(b"k.starts_with(\"ZZ_\")"), ["ZZ_ONE"]);
        assert_eq!(found(b"\x08FOO_BAR_\xc0\0"), ["FOO_BAR_ONE"]);
        assert_eq!(found(b"someFOO_{}"), ["FOO_BAR_ONE", "FOO_OTHER"]);
        assert_eq!(found(b"FOO_BAZ FOO A_ LAN ZZ"), [""; 0]);
    }

    #[test]
    fn names_are_found_where_a_program_is_cut_in_two() {
        let wanted: BTreeSet<_> = ["FOO_BAR", "lower_case"].map(str::to_owned).into();
        let cut = usize::try_from(AT_ONCE).unwrap();
        for at in [0, cut - 10, cut - 9, cut - 1, cut, cut + 1, 2 * cut - 3] {
            let mut program = vec![b'A'; 2 * cut + 20];
            program[at..at + 17].copy_from_slice(b"FOO_BARlower_case");
            let mut found = BTreeSet::new();
            mentions_in(program.as_slice(), &wanted, &mut found).unwrap();
            assert_eq!(found, wanted, "{at}");
        }
    }

    #[test]
    fn what_only_describes_a_program_is_not_looked_through() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let end = usize::try_from(in_memory(&own)).unwrap();
        assert!(end < own.len() / 2, "most of a program with debug information is that");
        // Its data is loaded, and what stands behind what is loaded is not.
        let wanted: BTreeSet<_> = ["A_NAME_IN_MY_DATA", "A_NAME_BEHIND"].map(str::to_owned).into();
        let data = memmem::rfind(&own[..end], b"A_NAME_IN_MY_DATA").unwrap();
        let mut program = own.clone();
        let behind = program.len() - 100;
        program[behind..behind + 13].copy_from_slice(b"A_NAME_BEHIND");
        assert!(data < end && behind > end + usize::try_from(AT_ONCE).unwrap());
        // This test's own words are loaded as well.
        while let Some(at) = memmem::find(&program[..behind], b"A_NAME_BEHIND") {
            program[at] = b'_';
        }
        let found = |program: &[u8]| {
            let mut found = BTreeSet::new();
            mentions_in(program, &wanted, &mut found).unwrap();
            found.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(found(&program), ["A_NAME_IN_MY_DATA"]);
        // One whose headers say nothing is looked through as a whole.
        program[0] = 0;
        assert_eq!(found(&program), ["A_NAME_BEHIND", "A_NAME_IN_MY_DATA"]);
        assert_eq!(in_memory(b"#!/bin/sh"), u64::MAX);
    }

    #[test]
    fn files_that_a_text_names_are_found() {
        let text = br#"include_str!("../README.md"); include_str!("../../README.md") #[path = "../../x.rs"] include!("/abs/y")"#;
        let paths = |find: &dyn Fn(&Path, &mut BTreeSet<PathBuf>)| {
            let mut found = BTreeSet::new();
            find(Path::new("/w/p/src/lib.rs"), &mut found);
            found.iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let named = paths(&|file, found| included(text, file, found));
        assert_eq!(named, ["/abs/y", "/w/README.md", "/w/p/README.md", "/w/x.rs"]);
        let text = br#"migrate!("../migrations") x = "../../a/b.pest"; "../..", "../" "no/../x""#;
        let named = paths(&|file, found| upward(text, file, Path::new("/w/p"), found));
        assert_eq!(named, ["/a/b.pest", "/w/a/b.pest", "/w/migrations", "/w/p/migrations"]);
    }

    #[test]
    fn libraries_that_the_source_binds_are_noticed() {
        for (text, expected) in [
            ("#[link(name = \"z\")]", true),
            ("#[cfg_attr(x, link (name = \"z\"))]", true),
            ("fs::hard_link(a, b); read_link(c); link", false),
        ] {
            assert_eq!(links(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_generated_text_may_name_a_folder_to_include_from_it() {
        for (text, expected) in [
            (r#"include!("/w/x.rs"); include_str! ( "/w/y" )"#, true),
            (r#"const X: &str = "/w/x.rs";"#, false),
            (r#"include!("/w/x.rs"); "/w""#, false),
            ("nothing", true),
        ] {
            assert_eq!(only_includes(text.as_bytes(), "/w"), expected, "{text}");
        }
    }

    #[test]
    fn a_folder_that_is_only_used_to_include_is_told_from_one_that_is_a_value() {
        for (text, expected) in [
            (r#"include!(concat!(env!("D"), "/x.rs"))"#, (1, true)),
            (r#"include_str! { env!( "D" ) }"#, (1, true)),
            (r#"const X: usize = env!("D").len();"#, (1, false)),
            (r#"include!(concat!(env!("D"), "/x.rs")); concat!(env!("D"))"#, (2, false)),
            (r#"std::env::var("D"); env::var_os ( "D" )"#, (0, true)),
            (r#"my_include!(env!("D"))"#, (1, false)),
            (r#"my_env!("D")"#, (1, false)),
            ("D", (0, true)),
        ] {
            assert_eq!(includes_by(text.as_bytes(), "D"), expected, "{text}");
        }
    }
}
