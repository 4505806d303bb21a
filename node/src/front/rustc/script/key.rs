// SPDX-License-Identifier: MIT OR Apache-2.0
//! The keys of a run of a build script: pure.
//!
//! The first is over what is known before it runs: the program, the toolchain, and the variables. Under it stands what
//! the script has read elsewhere. The second is over the first and what those names hold here; under it stands what the
//! script made.

use std::collections::BTreeMap;

use potluck_protocol::digest::Digest;

use super::super::key::{Framed, optional};
use super::super::reads::is_everywhere;

/// The Recipe of these keys. It rises whenever the same run would get another key, or the stored form changes.
pub const RECIPE: &str = "build-script@2";

const FIRST: &str = "potluck 2026 build-script@2 first key of a run";
const SECOND: &str = "potluck 2026 build-script@2 second key of a run";

/// What cargo says to every build script; all of it counts.
const SAID: &[&str] = &["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_PKG_", "DEP_"];
/// The same, by whole names.
const WHOLE: &[&str] =
    &["CARGO_ENCODED_RUSTFLAGS", "DEBUG", "HOST", "OPT_LEVEL", "PROFILE", "RUSTC_LINKER", "TARGET"];
/// How the names of variables begin that compilers, linkers and those who look for libraries heed, whoever calls them.
const TOOLS: &[&str] = &[
    "AR",
    "AS",
    "BINDGEN_",
    "CC",
    "CFLAGS",
    "CL_",
    "CMAKE_",
    "COMPILER_PATH",
    "CPATH",
    "CPLUS_INCLUDE_PATH",
    "CPPFLAGS",
    "CRATE_CC_",
    "CXX",
    "CXXFLAGS",
    "C_INCLUDE_PATH",
    "GCC_",
    "HOST_",
    "LDFLAGS",
    "LD_RUN_PATH",
    "LIBCLANG_",
    "LIBRARY_PATH",
    "LLVM_CONFIG_PATH",
    "MACOSX_DEPLOYMENT_TARGET",
    "NM",
    "OBJC_INCLUDE_PATH",
    "PKG_CONFIG",
    "RANLIB",
    "SDKROOT",
    "SOURCE_DATE_EPOCH",
    "SYSROOT",
    "TARGET_",
];

/// The variables that count, by whether the program may ask for them (`holds`), are cargo's own, or those of tools.
/// What is not UTF-8 counts as it is shown.
pub fn variables<'a>(
    env: impl Iterator<Item = (&'a str, &'a str)>,
    target: &str,
    holds: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let beneath = target.replace('-', "_");
    let counts = |name: &str| {
        SAID.iter().any(|own| name.starts_with(own))
            || WHOLE.contains(&name)
            || TOOLS.iter().any(|own| name.starts_with(own))
            || (!is_everywhere(name) && holds(name))
            // `CFLAGS_x86_64_unknown_linux_gnu` and the like are put together when the script runs.
            || (!target.is_empty() && (name.contains(target) || name.to_lowercase().contains(&beneath)))
    };
    env.filter(|(name, _)| counts(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What is known before a script runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The content of the program.
    pub program: Option<Digest>,
    /// Its arguments; cargo gives none.
    pub args: Vec<String>,
    /// The identity of compiler and standard library.
    pub toolchain: Vec<u8>,
    /// The working folder, with tokens.
    pub folder: String,
    /// Variables: value with tokens.
    pub env: BTreeMap<String, String>,
    /// The kind of this machine's processor, where a compiler may be told to ask for it.
    pub processor: Option<String>,
    /// Flags that are added for compilers of C, with tokens.
    pub flags: Vec<String>,
}

/// The key of what it reads.
pub fn first(inputs: &Inputs) -> [u8; 32] {
    let mut to = Framed::new(FIRST);
    to.field("recipe", [RECIPE]);
    to.field("program", inputs.program.as_ref().map(Digest::as_bytes));
    to.field("args", &inputs.args);
    to.field("toolchain", [&inputs.toolchain]);
    to.field("folder", [&inputs.folder]);
    let env = inputs.env.iter().flat_map(|(name, value)| [name.clone().into_bytes(), optional(Some(value))]);
    to.field("env", env);
    to.field("processor", [optional(inputs.processor.as_deref())]);
    to.field("flags", &inputs.flags);
    to.end()
}

/// The key of what it makes, when what it reads holds this.
pub fn second(first: [u8; 32], state: &BTreeMap<String, Vec<u8>>) -> [u8; 32] {
    let mut to = Framed::new(SECOND);
    to.field("first", [first]);
    to.field("state", state.iter().flat_map(|(name, held)| [name.as_bytes(), held.as_slice()]));
    to.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        let env = [("TARGET", "x"), ("CARGO_FEATURE_A", "1")];
        Inputs {
            program: Some(Digest::of(b"program")),
            args: vec!["a".into()],
            toolchain: b"toolchain".to_vec(),
            folder: "@potluck:registry@/a-1.0.0".into(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            processor: None,
            flags: vec!["-ffile-prefix-map=@potluck:registry@=/potluck/registry".into()],
        }
    }

    /// A change of these values is a change of the Recipe: raise its version.
    #[test]
    fn the_keys_of_a_known_run_stay_what_they_are() {
        let hex = |key: [u8; 32]| Digest::from_bytes(key).to_string();
        let state = BTreeMap::from([("Content @potluck:registry@/x".to_owned(), b"none".to_vec())]);
        let keys = [first(&inputs()), second(first(&inputs()), &state)].map(hex);
        let expected = [
            "a39cc8f5ad967d1c879dd1aedb7d926470d05639349ab5fd280efd998d375791",
            "5a2fbe04eff65c787ed1e9b2a556b3382096c0b3efbfb99ed67325ec46faa65b",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn everything_changes_the_keys() {
        let mut seen = std::collections::BTreeSet::from([first(&inputs())]);
        type Change<'a> = (&'a str, &'a dyn Fn(&mut Inputs));
        let changes: &[Change<'_>] = &[
            ("program", &|inputs| inputs.program = Some(Digest::of(b"other"))),
            ("args", &|inputs| inputs.args.push(String::new())),
            ("toolchain", &|inputs| inputs.toolchain.push(0)),
            ("folder", &|inputs| inputs.folder.push('x')),
            ("env", &|inputs| drop(inputs.env.insert("TARGET".into(), "y".into()))),
            ("less env", &|inputs| drop(inputs.env.remove("TARGET"))),
            ("processor", &|inputs| inputs.processor = Some("x".into())),
            ("flags", &|inputs| inputs.flags.clear()),
        ];
        for (what, change) in changes {
            let mut inputs = inputs();
            change(&mut inputs);
            assert!(seen.insert(first(&inputs)), "{what}");
        }
        let state = |name: &str, held: &str| BTreeMap::from([(name.to_owned(), held.as_bytes().to_vec())]);
        for state in [BTreeMap::new(), state("a", "b"), state("a", "c"), state("ab", ""), state("b", "b")] {
            assert!(seen.insert(second([0; 32], &state)), "{state:?}");
        }
        assert!(seen.insert(second([1; 32], &BTreeMap::new())));
    }

    #[test]
    fn variables_count_that_a_script_may_heed() {
        let env = [
            ("CARGO_PKG_NAME", true),
            ("CARGO_FEATURE_X", true),
            ("DEP_Z_ROOT", true),
            ("TARGET", true),
            ("CFLAGS", true),
            ("FOO_x86_64_unknown_linux_gnu", true),
            ("FOO_X86_64_UNKNOWN_LINUX_GNU", true),
            ("IN_THE_PROGRAM", true),
            ("ELSE", false),
            ("HOME", false),
            ("NUM_JOBS", false),
            ("RUSTC", false),
        ];
        let all = env.iter().map(|(name, _)| (*name, "1"));
        let holds = |name: &str| ["IN_THE_PROGRAM", "HOME", "NUM_JOBS"].contains(&name);
        let chosen = variables(all, "x86_64-unknown-linux-gnu", holds);
        for (name, counts) in env {
            assert_eq!(chosen.contains_key(name), counts, "{name}");
        }
    }
}
