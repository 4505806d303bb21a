// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key of a unit: a pure function over everything that was gathered about it.
//!
//! Every field is named, and every part of it is preceded by its length, so that no two sets of inputs have one text.
//! What is left out is what may differ between checkouts without changing what is compiled: where things lie, how wide
//! and how colourful diagnostics are, and in which order `--cfg` and `--extern` were given (rustc keeps both sorted).

use std::collections::BTreeMap;

use potluck_protocol::digest::Digest;

use super::fields::Fields;
use super::place::REMAP;
use super::unit::{Emit, Kind, Unit};
use crate::relocate::token::Roots;

/// The Recipe of these keys. It rises whenever the same unit would get another key, or the stored form changes.
pub const RECIPE: &str = "rustc@4";

const CONTEXT: &str = "potluck 2026 rustc@4 key of a unit";

/// Everything that a unit is made from, beside its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The identity of compiler and standard library.
    pub toolchain: Vec<u8>,
    /// The content of what stands in the compiler's place.
    pub driver: Option<Digest>,
    /// The compiler's own triple.
    pub host: String,
    /// Which processor it is, where the compiler was to find out.
    pub processor: Option<String>,
    /// The identity of the linker, for units that link and where it is known beforehand.
    pub linker: Option<Digest>,
    /// The content of each extern, in the order of [`Unit::externs`]; none for what comes with the compiler.
    pub externs: Vec<Option<Digest>>,
    /// Libraries that the linker also reads: file name and content.
    pub transitive: BTreeMap<String, Digest>,
    /// Native libraries: file name and content, in the order in which they are searched.
    pub native: Vec<(String, Digest)>,
    /// Sources: path with tokens, and content.
    pub sources: BTreeMap<String, Digest>,
    /// The files of OUT_DIR: relative path and content.
    pub generated: BTreeMap<String, Digest>,
    /// Whether macros may run that a library hands on. These are watched as others are, which earlier versions under the
    /// same Recipe did not do: what they made has another key.
    pub handed: bool,
    /// Variables that may be read: value with tokens, or that it is not set.
    pub env: BTreeMap<String, Option<String>>,
}

/// Hashes named fields, and remembers each of them.
pub(super) struct Framed(blake3::Hasher, Fields);

impl Framed {
    pub(super) fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context), Fields::default())
    }

    pub(super) fn end(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(super) fn field<B: AsRef<[u8]>>(&mut self, name: &str, parts: impl IntoIterator<Item = B>) {
        let parts: Vec<_> = parts.into_iter().collect();
        self.1.note(name, &parts);
        self.part(name.as_bytes());
        self.0.update(&(parts.len() as u64).to_le_bytes());
        parts.iter().for_each(|part| self.part(part.as_ref()));
    }

    fn digests(&mut self, name: &str, of: &BTreeMap<String, Digest>) {
        let parts = of.iter().flat_map(|(path, digest)| [path.as_bytes(), digest.as_bytes().as_slice()]);
        self.field(name, parts);
    }
}

/// Whether a value is there, and which: "not set" and "empty" are two things.
pub(super) fn optional(value: Option<&str>) -> Vec<u8> {
    value.map_or_else(|| vec![0], |value| [b"\x01", value.as_bytes()].concat())
}

/// The key.
pub fn key(unit: &Unit, inputs: &Inputs, roots: &Roots) -> [u8; 32] {
    traced(unit, inputs, roots).0
}

/// The key, and what it is made of, so that two of them can be told apart.
pub fn traced(unit: &Unit, inputs: &Inputs, roots: &Roots) -> ([u8; 32], Fields) {
    let mut to = Framed::new(CONTEXT);
    to.field("recipe", [RECIPE]);
    to.field("remap", [REMAP]);
    to.field("toolchain", [&inputs.toolchain]);
    to.field("driver", [optional(unit.driver.as_deref())]);
    to.field("driver's content", inputs.driver.as_ref().map(Digest::as_bytes));
    to.field("host", [&inputs.host]);
    to.field("target", [optional(unit.target.as_deref())]);
    to.field("processor", [optional(inputs.processor.as_deref())]);
    to.field("linker", inputs.linker.as_ref().map(Digest::as_bytes));
    arguments(&mut to, unit, roots);
    externs(&mut to, unit, inputs);
    to.digests("transitive", &inputs.transitive);
    let native =
        inputs.native.iter().flat_map(|(name, digest)| [name.as_bytes(), digest.as_bytes().as_slice()]);
    to.field("native files", native);
    to.digests("sources", &inputs.sources);
    to.digests("generated", &inputs.generated);
    let env =
        inputs.env.iter().flat_map(|(name, value)| [name.clone().into_bytes(), optional(value.as_deref())]);
    to.field("env", env);
    if inputs.handed {
        to.field("macros that are handed on", ["watched"]);
    }
    to.1.name_pairs();
    (to.end(), to.1)
}

fn arguments(to: &mut Framed, unit: &Unit, roots: &Roots) {
    to.field("crate name", [&unit.crate_name]);
    to.field("crate type", [&unit.crate_type]);
    to.field("test", [[u8::from(unit.kind == Kind::Test)]]);
    to.field("edition", [optional(unit.edition.as_deref())]);
    to.field("source", [roots.encode_str(&unit.source)]);
    to.field("cfg", sorted(&unit.cfgs));
    to.field("check-cfg", sorted(&unit.check_cfgs));
    to.field(
        "emit",
        unit.emit.iter().map(|emit| match emit {
            Emit::DepInfo => "dep-info",
            Emit::Metadata => "metadata",
            Emit::Link => "link",
        }),
    );
    let codegen = unit.codegen.iter().flat_map(|(name, value)| {
        let value = value.as_deref().map(|value| roots.encode_str(value));
        [name.clone().into_bytes(), optional(value.as_deref())]
    });
    to.field("codegen", codegen);
    to.field("lints", unit.lints.iter().flat_map(|(flag, value)| [flag, value]));
    to.field("json", &unit.json);
    to.field("remaps", unit.remaps.iter().map(|pair| roots.encode_str(pair)));
    to.field("native", &unit.native);
    to.field("search kinds", unit.search.iter().map(|(kind, _)| kind));
}

fn sorted(texts: &[String]) -> Vec<&String> {
    let mut sorted: Vec<_> = texts.iter().collect();
    sorted.sort_unstable();
    sorted
}

fn externs(to: &mut Framed, unit: &Unit, inputs: &Inputs) {
    let mut externs: Vec<_> = unit.externs.iter().zip(&inputs.externs).collect();
    // Several externs of one name are alternatives, whose order is kept.
    externs.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let parts = externs.into_iter().flat_map(|(one, digest)| {
        let digest = digest.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        [one.name.clone().into_bytes(), one.options.clone().into_bytes(), digest]
    });
    to.field("externs", parts);
}

#[cfg(test)]
mod tests {
    use super::super::map::parse;
    use super::*;
    use crate::relocate::token::Root;

    const ARGS: &[&str] = &[
        "--crate-name",
        "app",
        "--edition=2021",
        "src/lib.rs",
        "--error-format=json",
        "--json=artifacts",
        "--crate-type",
        "lib",
        "--emit=dep-info,metadata,link",
        "-C",
        "opt-level=3",
        "-C",
        "metadata=12",
        "-C",
        "extra-filename=-ab",
        "--cfg",
        "a",
        "--cfg",
        "b",
        "--check-cfg",
        "cfg(a)",
        "--check-cfg",
        "cfg(b)",
        "--out-dir",
        "/w/target/deps",
        "-L",
        "dependency=/w/target/deps",
        "-L",
        "native=/n",
        "-l",
        "static=z",
        "--cap-lints",
        "warn",
        "--extern",
        "x=/w/target/deps/libx.rmeta",
        "--extern",
        "priv:y=/w/target/deps/liby.rmeta",
        "--remap-path-prefix",
        "/w/a=/b",
        "--diagnostic-width=80",
        "--target",
        "x86_64-unknown-linux-gnu",
    ];

    fn roots(workspace: &str, target: &str) -> Roots {
        let root = |name, path: &str| Root { name, spellings: vec![path.to_owned()] };
        Roots::new(vec![root("workspace", workspace), root("target", target)])
    }

    fn inputs() -> Inputs {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let map = |name: &str| BTreeMap::from([(name.to_owned(), digest(name))]);
        Inputs {
            toolchain: b"toolchain".to_vec(),
            driver: None,
            host: "x86_64-unknown-linux-gnu".into(),
            processor: None,
            linker: Some(digest("cc")),
            externs: vec![Some(digest("x")), Some(digest("y"))],
            transitive: map("libt-0123456789abcdef.rlib"),
            native: vec![("libz.a".into(), digest("z"))],
            sources: map("@potluck:workspace@/src/lib.rs"),
            generated: map("out.rs"),
            handed: false,
            env: BTreeMap::from([("A".into(), Some("1".into())), ("B".into(), None)]),
        }
    }

    fn hex(key: [u8; 32]) -> String {
        Digest::from_bytes(key).to_string()
    }

    fn of(args: &[&str]) -> [u8; 32] {
        key(&parse(args).unwrap(), &inputs(), &roots("/w", "/w/target"))
    }

    /// A change of this value is a change of the Recipe: raise its version.
    #[test]
    fn the_key_of_a_known_unit_stays_what_it_is() {
        let bare = key(&parse(ARGS).unwrap(), &Inputs::default(), &Roots::default());
        let expected = [
            "2ad375742cb01ef5a7147cd6468870e4f024262127acf685ea000f7066080bb4",
            "b04561695f48db911e51c74976074e5876bbc38a2464b83b2687345af56a83db",
        ];
        assert_eq!([of(ARGS), bare].map(hex), expected);
    }

    #[test]
    fn what_may_differ_between_checkouts_does_not_change_the_key() {
        let expected = of(ARGS);
        let mut other = ARGS.to_vec();
        other.swap(16, 18);
        other.swap(20, 22);
        other.swap(34, 36);
        let at = |args: &[&str], text: &str| args.iter().position(|arg| *arg == text).unwrap();
        other.retain(|arg| *arg != "--diagnostic-width=80");
        other.extend(["--color", "always", "--diagnostic-width", "200"]);
        let mut swapped = inputs();
        swapped.externs.swap(0, 1);
        let moved: Vec<String> = other.iter().map(|arg| arg.replace("/w/", "/else/where/")).collect();
        let unit = parse(&moved).unwrap();
        assert_eq!(key(&unit, &swapped, &roots("/else/where", "/else/where/target")), expected);
        assert!(at(&other, "a") > at(&other, "b"));
    }

    #[test]
    fn every_argument_changes_the_key() {
        let mut seen = std::collections::BTreeSet::from([of(ARGS)]);
        let mut changed = |from: &str, to: &str| {
            let args: Vec<_> = ARGS.iter().map(|arg| if *arg == from { to } else { *arg }).collect();
            assert_ne!(args, ARGS, "{from}");
            assert!(seen.insert(of(&args)), "{from} -> {to}");
        };
        for (from, to) in [
            ("app", "app2"),
            ("--edition=2021", "--edition=2024"),
            ("src/lib.rs", "src/main.rs"),
            ("--json=artifacts", "--json=artifacts,future-incompat"),
            ("lib", "rlib"),
            ("lib", "proc-macro"),
            ("lib", "bin"),
            ("lib", "cdylib"),
            ("--emit=dep-info,metadata,link", "--emit=dep-info,metadata"),
            ("opt-level=3", "opt-level=2"),
            ("opt-level=3", "debuginfo=2"),
            ("metadata=12", "metadata=13"),
            ("extra-filename=-ab", "extra-filename=-ac"),
            ("a", "c"),
            ("cfg(a)", "cfg(c)"),
            ("static=z", "dylib=z"),
            ("native=/n", "all=/n"),
            ("warn", "allow"),
            ("x=/w/target/deps/libx.rmeta", "z=/w/target/deps/libx.rmeta"),
            ("priv:y=/w/target/deps/liby.rmeta", "y=/w/target/deps/liby.rmeta"),
            ("/w/a=/b", "/w/a=/c"),
            ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"),
        ] {
            changed(from, to);
        }
    }

    #[test]
    fn everything_gathered_changes_the_key() {
        let unit = parse(ARGS).unwrap();
        let roots = roots("/w", "/w/target");
        let mut seen = std::collections::BTreeSet::from([key(&unit, &inputs(), &roots)]);
        let other = Digest::of(b"other");
        type Change<'a> = (&'a str, &'a dyn Fn(&mut Inputs));
        let changes: &[Change<'_>] = &[
            ("toolchain", &|inputs| inputs.toolchain.push(0)),
            ("driver", &|inputs| inputs.driver = Some(other)),
            ("processor", &|inputs| inputs.processor = Some(String::new())),
            ("another processor", &|inputs| inputs.processor = Some("x".into())),
            ("handed", &|inputs| inputs.handed = true),
            ("host", &|inputs| inputs.host.push('x')),
            ("linker", &|inputs| inputs.linker = Some(other)),
            ("no linker", &|inputs| inputs.linker = None),
            ("extern", &|inputs| inputs.externs[0] = Some(other)),
            ("swapped externs", &|inputs| inputs.externs.swap(0, 1)),
            ("transitive", &|inputs| *inputs.transitive.values_mut().next().unwrap() = other),
            ("no transitive", &|inputs| inputs.transitive.clear()),
            ("native", &|inputs| inputs.native[0].1 = other),
            ("native name", &|inputs| inputs.native[0].0.push('x')),
            ("source", &|inputs| *inputs.sources.values_mut().next().unwrap() = other),
            ("more sources", &|inputs| assert_eq!(inputs.sources.insert("x".into(), other), None)),
            ("generated", &|inputs| *inputs.generated.values_mut().next().unwrap() = other),
            ("moved", &|inputs| inputs.sources.append(&mut inputs.generated)),
            ("env", &|inputs| drop(inputs.env.insert("A".into(), Some("2".into())))),
            ("unset", &|inputs| drop(inputs.env.insert("A".into(), None))),
            ("empty", &|inputs| drop(inputs.env.insert("B".into(), Some(String::new())))),
            ("more env", &|inputs| drop(inputs.env.insert("C".into(), None))),
        ];
        for (what, change) in changes {
            let mut inputs = inputs();
            change(&mut inputs);
            assert!(seen.insert(key(&unit, &inputs, &roots)), "{what}");
        }
    }
}
