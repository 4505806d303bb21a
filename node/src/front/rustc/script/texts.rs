// SPDX-License-Identifier: MIT OR Apache-2.0
//! The texts in a program, where the names of the variables that it asks for must stand: pure.
//!
//! A name such as `CI` stands by chance in the symbols of nearly every program, and would then count for scripts that
//! never ask for it: what one machine sets and another does not would split the cache. So only what is data while the
//! program runs is looked at.

use memchr::memmem;
use object::{Object as _, ObjectSection as _, ReadRef, SectionFlags, SectionKind, elf};

use super::super::reads::is_volatile;
use super::super::text::{beginnings, goes_on};

/// Sections that are loaded and hold tables for whoever unwinds the stack, in which short names stand by chance (gABI,
/// "Special Sections"; LSB 5.0 Core, "Additional Special Sections").
const TABLES: &[&[u8]] = &[b".eh_frame", b".eh_frame_hdr", b".gcc_except_table"];
/// What the standard library says of itself; names within these are not asked for.
const WORDS: &[&[u8]] = &[b"ASCII", b"CAPACITY"];

/// The data of a program.
pub(in super::super) struct Texts<'a>(Vec<&'a [u8]>);

impl<'a> Texts<'a> {
    /// Of an ELF file the sections that are loaded and hold data of the program's own, no code, and nothing for those who
    /// link it (gABI, "Section Attribute Flags"); all of any other.
    pub(in super::super) fn of(program: impl ReadRef<'a>) -> Self {
        let whole = || program.len().and_then(|len| program.read_bytes_at(0, len)).unwrap_or_default();
        let Ok(file) = object::File::parse(program) else { return Self(vec![whole()]) };
        let mut parts = Vec::new();
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { return Self(vec![whole()]) };
            let (loaded, code) = (u64::from(elf::SHF_ALLOC), u64::from(elf::SHF_EXECINSTR));
            let linking =
                matches!(section.kind(), SectionKind::Metadata | SectionKind::Note | SectionKind::Elf(_));
            let table = section.name_bytes().is_ok_and(|name| TABLES.contains(&name));
            if sh_flags & (loaded | code) == loaded && !linking && !table {
                let Ok(data) = section.data() else { return Self(vec![whole()]) };
                parts.push(data);
            }
        }
        // One without sections has its data elsewhere.
        Self(if parts.is_empty() { vec![whole()] } else { parts })
    }

    /// Whether `name` stands in it, or what it begins with and does not go on there. What says where somebody sits, such
    /// as `USER`, is a part of many words, and has to stand there by itself.
    pub(in super::super) fn hold(&self, name: &str) -> bool {
        if is_volatile(name) {
            let begins = |part: &[u8], at: usize| at.checked_sub(1).is_some_and(|at| goes_on(part.get(at)));
            let alone = |part: &[u8], at| !begins(part, at) && !goes_on(part.get(at + name.len()));
            return self.stand(name.as_bytes(), alone);
        }
        self.stand(name.as_bytes(), |part, at| !within_a_word(part, at, name.as_bytes()))
            || beginnings(name)
                .any(|begins| self.stand(begins.as_bytes(), |part, at| !goes_on(part.get(at + begins.len()))))
    }

    /// Whether there is a place with these bytes that counts.
    fn stand(&self, bytes: &[u8], counts: impl Fn(&[u8], usize) -> bool) -> bool {
        self.0.iter().any(|part| memmem::find_iter(part, bytes).any(|at| counts(part, at)))
    }
}

fn within_a_word(part: &[u8], at: usize, name: &[u8]) -> bool {
    WORDS.iter().any(|word| {
        memmem::find_iter(word, name)
            .any(|offset| at.checked_sub(offset).is_some_and(|from| part[from..].starts_with(word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_where_a_program_keeps_its_texts() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let texts = Texts::of(own.as_slice());
        assert!(texts.0.len() > 3, "sections, not the whole file");
        assert!(texts.hold("POTLUCK_A_NAME_OF_THIS_TEST"));
        // Backwards, or it would be a text of this program.
        let symbol: String = "drow_a_nihtiw31".chars().rev().collect();
        assert!(
            memmem::find(&own, symbol.as_bytes()).is_some() && !texts.hold(&symbol),
            "a symbol is no text"
        );
    }

    /// Or a short name would count for every larger program, by chance.
    #[test]
    fn what_is_there_to_unwind_or_to_link_is_no_text() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let file = object::File::parse(own.as_slice()).unwrap();
        let texts = Texts::of(own.as_slice());
        let is_taken = |name: &str| {
            let data = file.section_by_name(name).unwrap_or_else(|| panic!("{name}")).data().unwrap();
            texts.0.iter().any(|part| std::ptr::eq(part.as_ptr(), data.as_ptr()))
        };
        assert!([".rodata", ".data", ".data.rel.ro"].into_iter().all(is_taken));
        assert!(
            ![".eh_frame", ".gcc_except_table", ".dynstr", ".rela.dyn", ".text"].into_iter().any(is_taken)
        );
    }

    #[test]
    fn what_is_no_program_and_what_is_cut_short_is_searched_whole() {
        assert!(Texts::of(&b"#!/bin/sh\necho $CI\n"[..]).hold("CI"));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [0, 3, 64, 4096, own.len() / 2] {
            assert_eq!(Texts::of(&own[..length]).0, [&own[..length]]);
        }
    }

    #[test]
    fn words_of_the_standard_library_are_not_asked_for() {
        assert!(!Texts::of(&b"index < CAPACITYnot ASCII"[..]).hold("CI"));
        assert!(Texts::of(&b"index < CAPACITYCI"[..]).hold("CI"));
        assert!(Texts::of(&b"CAPACI"[..]).hold("CI"));
    }

    #[test]
    fn who_somebody_is_counts_where_it_is_asked_for() {
        assert!(Texts::of(&b"\0USER\0"[..]).hold("USER") && Texts::of(&b"USER"[..]).hold("USER"));
        assert!(!Texts::of(&b"USERPROFILE SUPERUSER XDG_"[..]).hold("USER"));
        assert!(!Texts::of(&b"XDG_"[..]).hold("XDG_DATA_HOME"));
    }

    #[test]
    fn names_count_that_are_put_together_when_a_script_runs() {
        assert!(Texts::of(&b"\x07MY_LIB_\xc0"[..]).hold("MY_LIB_DIR"));
        assert!(Texts::of(&b"MY_"[..]).hold("MY_LIB_DIR"));
        assert!(!Texts::of(&b"MY_LIB_DIRS MY_LIBRARY_ MY"[..]).hold("MY_LIB_PATH"));
    }
}
