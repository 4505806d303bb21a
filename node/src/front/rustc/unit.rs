// SPDX-License-Identifier: MIT OR Apache-2.0
//! One compilation, as far as its arguments tell. Pure; [`super::map`] reads it from them.

use std::collections::BTreeSet;

/// What a unit makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A library for other crates.
    Lib,
    /// A procedural macro: a shared library that the compiler loads.
    ProcMacro,
    /// A build script: an executable.
    BuildScript,
    /// An executable. It is not cached, but built with the same remapping, so that it is equal everywhere.
    Bin,
    /// Something else, such as a library for other languages beside one for Rust. It is not cached, but built with the
    /// same remapping: without it, the paths in it would end up in all that is built on it.
    Other,
}

impl Kind {
    /// The word for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lib => "lib",
            Self::ProcMacro => "proc-macro",
            Self::BuildScript => "build-script",
            Self::Bin => "bin",
            Self::Other => "other",
        }
    }

    /// Whether what it makes is kept in the cache.
    pub fn is_cached(self) -> bool {
        !matches!(self, Self::Bin | Self::Other)
    }

    /// Whether the linker takes part.
    pub fn links(self) -> bool {
        self != Self::Lib
    }
}

/// A kind of output that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Emit {
    /// The `.d` file.
    DepInfo,
    /// The `.rmeta` file.
    Metadata,
    /// What the crate type says.
    Link,
}

/// One `--extern`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extern {
    /// The name in source code.
    pub name: String,
    /// `priv`, `noprelude` and the like, as given.
    pub options: String,
    /// The file; none for what comes with the compiler.
    pub path: Option<String>,
}

/// One compilation, as far as its arguments tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// What it makes.
    pub kind: Kind,
    /// The crate's name, with `_`.
    pub crate_name: String,
    /// `--crate-type`.
    pub crate_type: String,
    /// `--edition`, when given.
    pub edition: Option<String>,
    /// `--target`, when given.
    pub target: Option<String>,
    /// The root source file.
    pub source: String,
    /// `--out-dir`.
    pub out_dir: String,
    /// `--emit`.
    pub emit: BTreeSet<Emit>,
    /// `-C extra-filename`.
    pub extra_filename: String,
    /// `--cfg`, in order.
    pub cfgs: Vec<String>,
    /// `--check-cfg`, in order.
    pub check_cfgs: Vec<String>,
    /// `-C`, `-O` and `-g`, in order.
    pub codegen: Vec<(String, Option<String>)>,
    /// Lint levels and caps, in order.
    pub lints: Vec<(String, String)>,
    /// `--extern`, in order.
    pub externs: Vec<Extern>,
    /// `-L`: kind and folder, in order.
    pub search: Vec<(String, String)>,
    /// `-l`, in order.
    pub native: Vec<String>,
    /// The user's own `--remap-path-prefix`, in order.
    pub remaps: Vec<String>,
    /// `--json`, in order.
    pub json: Vec<String>,
}

impl Unit {
    /// The names of the files that it makes, in the order in which others may come to see them.
    pub fn outputs(&self) -> Vec<String> {
        let stem = self.stem();
        let mut names = Vec::new();
        if self.emit.contains(&Emit::DepInfo) {
            names.push(format!("{stem}.d"));
        }
        if self.emit.contains(&Emit::Metadata) {
            names.push(format!("lib{stem}.rmeta"));
        }
        if self.emit.contains(&Emit::Link) {
            names.push(match self.kind {
                Kind::Lib => format!("lib{stem}.rlib"),
                Kind::ProcMacro => format!("lib{stem}.so"),
                Kind::BuildScript | Kind::Bin | Kind::Other => stem,
            });
        }
        names
    }

    /// Whether the compiler loads code of others while it compiles this, which may read what it likes.
    pub fn loads_macros(&self) -> bool {
        let shared = |path: &str| [".so", ".dylib", ".dll"].iter().any(|ext| path.ends_with(ext));
        self.externs.iter().filter_map(|one| one.path.as_deref()).any(shared)
    }

    /// What the names of all its files have in common: crate and extra name.
    pub fn stem(&self) -> String {
        format!("{}{}", self.crate_name, self.extra_filename)
    }

    /// The last value of a `-C` option.
    pub fn codegen_value(&self, wanted: &str) -> Option<&str> {
        let (_, value) = self.codegen.iter().rev().find(|(name, _)| name == wanted)?;
        value.as_deref()
    }
}
