// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a program goes through all of its variables, as `std::env::vars` does: pure.
//!
//! Who asks for a variable by its name has that name somewhere, and it is looked for there. Who goes through all of them
//! needs no name, and no system call shows it. But all of them are found by way of one pointer, `environ` (POSIX.1-2024,
//! "Environment Variables"), which a program takes from the C library by a relocation, and only if anything in it uses
//! that. The standard library does so to start other programs, for which it hands them all on; so what counts is whether
//! it is used, or [`std::env::vars_os`] called, from anywhere else.

use std::collections::BTreeSet;

use object::read::elf::ElfFile64;
use object::{Architecture, Object as _, ObjectSection as _, ObjectSymbol, ObjectSymbolTable as _};
use object::{ReadRef, RelocationTarget, SectionFlags, SymbolKind, elf};

/// What the C library calls the pointer.
const POINTERS: &[&str] = &["environ", "__environ", "_environ"];
/// How both ways of the standard library, and what is beneath them, are called in symbols, old (`_ZN3std3env4vars17h…E`)
/// and new (Rust RFC 2603).
const LISTING: &[&str] = &["3std3env4vars", "3std3env7vars_os", "3std3sys3env4unix3env"];
/// What begins and what contains this is the standard library's own.
const OWN: (&str, &str) = ("_ZN3std", "3std3sys");
/// How many bytes of a number may follow a distance in an instruction.
const NUMBERS: [u64; 4] = [0, 1, 2, 4];
/// Most bytes of code that are looked through; in more than that, it is taken to be so.
const MAX_CODE: u64 = 1 << 28;

/// A function: where it begins and ends in memory, and whether what it does is the standard library's doing.
struct Function {
    begin: u64,
    end: u64,
    own: bool,
}

/// Whether a program, or a library that is loaded into one, may go through all variables. What is no such file does not;
/// where it cannot be told, since names were stripped from it or its processor is not known here, it may.
pub(super) fn is_gone_through<'a>(program: impl ReadRef<'a>) -> bool {
    let Ok(file) = ElfFile64::<object::Endianness, _>::parse(program) else { return false };
    is_read(&file).unwrap_or(true)
}

/// The same, if it can be told.
fn is_read<'a, R: ReadRef<'a>>(file: &ElfFile64<'a, object::Endianness, R>) -> object::Result<bool> {
    let mut pointers = BTreeSet::new();
    let (mut functions, mut listing) = (Vec::new(), BTreeSet::new());
    if imports(file, &mut pointers)? {
        return Ok(true);
    }
    let is_dynamic = file.dynamic_symbol_table().is_some_and(|table| table.symbols().next().is_some());
    if is_dynamic && pointers.is_empty() {
        return Ok(false);
    }
    for symbol in file.symbols().filter(ObjectSymbol::is_definition) {
        let (name, at) = (symbol.name()?, symbol.address());
        let is_listing = LISTING.iter().any(|part| name.contains(part));
        if POINTERS.contains(&name) {
            pointers.insert(at);
        } else if symbol.kind() == SymbolKind::Text {
            let own = is_listing || name.starts_with(OWN.0) || name.contains(OWN.1);
            functions.push(Function { begin: at, end: at.saturating_add(symbol.size()), own });
            if is_listing {
                listing.insert(at);
            }
        }
    }
    if functions.is_empty() || file.architecture() != Architecture::X86_64 {
        return Ok(true);
    }
    if pointers.is_empty() && listing.is_empty() {
        return Ok(false);
    }
    functions.sort_by_key(|function| function.begin);
    let Some(slots) = slots(file, &listing)? else { return Ok(true) };
    let read = pointers.into_iter().chain(slots);
    // The distance is not the last of an instruction that holds a number as well.
    let read = read.flat_map(|at| NUMBERS.map(|bytes| at.wrapping_sub(bytes)));
    let targets: BTreeSet<_> = read.chain(listing).collect();
    references(file, &targets, &functions)
}

/// Gathers where a relocation puts the pointer; gives whether one is for a function that lists variables, which is then
/// in the standard library's own file, and its user is not.
fn imports<'a, R: ReadRef<'a>>(
    file: &ElfFile64<'a, object::Endianness, R>,
    pointers: &mut BTreeSet<u64>,
) -> object::Result<bool> {
    let (Some(table), Some(relocations)) = (file.dynamic_symbol_table(), file.dynamic_relocations()) else {
        return Ok(false);
    };
    for (at, relocation) in relocations {
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let symbol = table.symbol_by_index(index)?;
        let name = symbol.name()?;
        if POINTERS.contains(&name) {
            pointers.insert(at);
        } else if symbol.is_undefined() && LISTING.iter().any(|part| name.contains(part)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where the addresses of `listing` stand in memory to be called by, in the global offset table (gABI, "Global Offset
/// Table"); nothing when one stands elsewhere, since whoever uses it there cannot be told.
fn slots<'a, R: ReadRef<'a>>(
    file: &ElfFile64<'a, object::Endianness, R>,
    listing: &BTreeSet<u64>,
) -> object::Result<Option<BTreeSet<u64>>> {
    let mut slots = BTreeSet::new();
    for (at, relocation) in file.dynamic_relocations().into_iter().flatten() {
        if relocation.target() == RelocationTarget::Absolute
            && u64::try_from(relocation.addend()).is_ok_and(|addend| listing.contains(&addend))
        {
            slots.insert(at);
        }
    }
    let tables: Vec<_> =
        file.sections().filter(|section| section.name().is_ok_and(|name| name.starts_with(".got"))).collect();
    // Where addresses are relative to nothing, or packed, they stand in the table itself.
    for table in &tables {
        for (index, word) in (0u64..).zip(table.data()?.chunks_exact(8)) {
            let value = u64::from_le_bytes(word.try_into().unwrap_or_default());
            if listing.contains(&value) {
                slots.insert(table.address().saturating_add(8 * index));
            }
        }
    }
    let within = |at: &u64| {
        tables.iter().any(|table| at.checked_sub(table.address()).is_some_and(|from| from < table.size()))
    };
    Ok(slots.iter().all(within).then_some(slots))
}

/// Whether code that is not the standard library's refers to one of `targets`. Each way in which this processor does that,
/// calls, jumps and loads, ends in the distance from behind it (Intel SDM volume 2, "RIP-Relative Addressing"); that four
/// other bytes look like it happens once in thousands of programs.
fn references<'a, R: ReadRef<'a>>(
    file: &ElfFile64<'a, object::Endianness, R>,
    targets: &BTreeSet<u64>,
    functions: &[Function],
) -> object::Result<bool> {
    let mut any = false;
    let (Some(first), Some(last)) = (targets.first(), targets.last()) else { return Ok(true) };
    let nearby = *first..=*last;
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        if section.size() > MAX_CODE {
            return Ok(true);
        }
        for (at, word) in (section.address()..).zip(section.data()?.windows(4)) {
            let distance = i32::from_le_bytes(word.try_into().unwrap_or_default());
            let target = at.wrapping_add(4).wrapping_add_signed(i64::from(distance));
            if !nearby.contains(&target) || !targets.contains(&target) {
                continue;
            }
            any = true;
            let before = functions.partition_point(|function| function.begin <= at);
            let own = |function: &Function| at < function.end && function.own;
            if !before.checked_sub(1).is_some_and(|index| own(&functions[index])) {
                return Ok(true);
            }
        }
    }
    // Something was linked in, and nobody was found who uses it: then it was not looked for in the right way.
    Ok(!any)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const BY_PREFIX: &str =
        "fn main() { println!(\"{}\", std::env::vars_os().filter(|(name, _)| name == \"A\").count()) }";

    /// Compiles a program and looks at it.
    fn program(folder: &Path, text: &str, flags: &[&str]) -> bool {
        let (source, made) = (folder.join("a.rs"), folder.join("made"));
        std::fs::write(&source, text).unwrap();
        let rustc = Command::new("rustc").args(flags).arg("-o").arg(&made).arg(&source).status().unwrap();
        assert!(rustc.success(), "{text} {flags:?}");
        is_gone_through(std::fs::read(&made).unwrap().as_slice())
    }

    #[test]
    fn who_goes_through_all_variables_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let of = |text: &str, flags: &[&str]| program(folder.path(), text, flags);
        let strings = "fn main() { println!(\"{}\", std::env::vars().count()) }";
        let pointer = "fn main() { let f: fn() -> std::env::VarsOs = std::env::vars_os; println!(\"{}\", f().count()) }";
        let table = "static F: [fn() -> std::env::VarsOs; 1] = [std::env::vars_os];
            fn main() { println!(\"{}\", F[std::env::args().count() - 1]().count()) }";
        let by_hand = "unsafe extern \"C\" { static environ: *const *const u8; }
            fn main() { println!(\"{:?}\", unsafe { environ.read() }) }";
        for text in [BY_PREFIX, strings, pointer, table, by_hand] {
            for flags in [&["-Copt-level=0"][..], &["-Copt-level=3"], &["-Cstrip=symbols"]] {
                assert!(of(text, flags), "{text} {flags:?}");
            }
        }
        let library = |what: &str| {
            let text =
                format!("#[unsafe(no_mangle)] pub extern \"C\" fn f() {{ println!(\"{{:?}}\", {what}) }}");
            of(&text, &["--crate-type=cdylib", "--edition=2024"])
        };
        assert!(library("std::env::vars()") && !library("std::env::var(\"A\")"));
    }

    #[test]
    fn who_asks_by_name_or_starts_programs_is_not_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let of = |text: &str, flags: &[&str]| program(folder.path(), text, flags);
        let named = "fn main() { println!(\"{:?}\", std::env::var(\"A\")) }";
        let starts = "fn main() { println!(\"{:?}\", std::process::Command::new(\"true\").env(\"A\", \"b\").status()) }";
        for flags in [&["-Copt-level=0"][..], &["-Copt-level=3"]] {
            assert!(!of(named, flags) && !of(starts, flags), "{flags:?}");
        }
        assert!(!of(named, &["-Cstrip=symbols"]));
        // Which of both it is then, cannot be told.
        assert!(of(starts, &["-Cstrip=symbols"]));
    }

    #[test]
    fn what_is_no_program_is_not_and_what_is_cut_short_does_no_harm() {
        assert!(!is_gone_through(&b"#!/bin/sh\nenv\n"[..]));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [0, 3, 64, 4096, own.len() / 3, own.len() / 2] {
            let _ = is_gone_through(&own[..length]);
        }
    }
}
