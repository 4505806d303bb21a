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
    /// An executable.
    Bin,
    /// An executable that runs tests.
    Test,
    /// Something else, such as a library for other languages beside one for Rust.
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
            Self::Test => "test",
            Self::Other => "other",
        }
    }

    /// Whether what it makes is there for people rather than for the rest of the build.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Bin | Self::Test | Self::Other)
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
    /// What stands in the compiler's place: `clippy-driver`, or nothing.
    pub driver: Option<String>,
    /// The crate's name, with `_`.
    pub crate_name: String,
    /// `--crate-type`; nothing for tests.
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
            let types = if self.kind == Kind::Test { "bin" } else { self.crate_type.as_str() };
            let made: BTreeSet<_> = types
                .split(',')
                .map(|one| match one {
                    "lib" | "rlib" => format!("lib{stem}.rlib"),
                    "proc-macro" | "dylib" | "cdylib" => format!("lib{stem}.so"),
                    "staticlib" => format!("lib{stem}.a"),
                    _ => stem.clone(),
                })
                .collect();
            names.extend(made);
        }
        names
    }

    /// Whether libraries are put together, mostly by a linker.
    pub fn links(&self) -> bool {
        self.kind != Kind::Lib && self.emit.contains(&Emit::Link)
    }

    /// Whether the compiler is to find out for which processor it compiles.
    pub fn is_native(&self) -> bool {
        self.codegen_value("target-cpu") == Some("native")
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

    /// Whether a file of that name is one of those that it makes, or made on the way to one.
    pub fn is_own(&self, name: &str) -> bool {
        let stem = self.stem();
        let rest = |name: &str| name.strip_prefix(&stem).map(|rest| rest.is_empty() || rest.starts_with('.'));
        rest(name).or_else(|| rest(name.strip_prefix("lib")?)).unwrap_or(false)
    }

    /// The last value of a `-C` option.
    pub fn codegen_value(&self, wanted: &str) -> Option<&str> {
        let (_, value) = self.codegen.iter().rev().find(|(name, _)| name == wanted)?;
        value.as_deref()
    }
}
