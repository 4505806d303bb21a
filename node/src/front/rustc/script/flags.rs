// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags for compilers of C and C++ that build scripts call, so that what they make names no folder of this machine:
//! otherwise an archive of objects would differ between any two checkouts, and so would all that is linked with it.
//!
//! They are given by the variables that the crate `cc` heeds, and only to scripts that hold that crate: to `configure`, a
//! variable that is set means to leave out flags of its own.

use std::collections::BTreeMap;

use crate::relocate::token::Roots;

/// A name that stands in every program with the crate `cc`, and in no other.
pub(super) const MARK: &[u8] = b"CRATE_CC_NO_DEFAULTS";

/// The flags: folders by other names, and none of these flags in what is made.
pub(super) fn flags(roots: &Roots) -> Vec<String> {
    let of = |root: &crate::relocate::token::Root| {
        let name = root.name;
        // Flags are told apart by spaces.
        let plain = |path: &&String| !path.contains([' ', '\t', '\n', '\'', '"', '\\']);
        let flag = move |path: &String| format!("-ffile-prefix-map={path}=/potluck/{name}");
        root.spellings.iter().filter(plain).map(flag).collect::<Vec<_>>()
    };
    let mut flags: Vec<_> = roots.iter().flat_map(of).collect();
    flags.push("-gno-record-gcc-switches".to_owned());
    flags
}

/// The variables to be set, with what they are to hold: each after what the user says, in the variable that `cc` prefers.
pub(super) fn variables<'a>(
    var: impl Fn(&str) -> Option<&'a str>,
    flags: &[String],
) -> BTreeMap<String, String> {
    let (target, host) = (var("TARGET").unwrap_or_default(), var("HOST").unwrap_or_default());
    let kind = if target == host { "HOST" } else { "TARGET" };
    let chosen = |base: &str| {
        let beneath = target.replace('-', "_");
        let all = [format!("{base}_{target}"), format!("{base}_{beneath}"), format!("{kind}_{base}")];
        let own = all.into_iter().find(|name| var(name).is_some()).unwrap_or_else(|| base.to_owned());
        let said = var(&own).unwrap_or_default();
        let value = format!("{said} {}", flags.join(" "));
        (own, value.trim_start().to_owned())
    };
    ["CFLAGS", "CXXFLAGS"].map(chosen).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relocate::token::Root;

    #[test]
    fn what_the_user_says_stays_and_comes_first() {
        let root = |name, path: &str| Root { name, spellings: vec![path.to_owned()] };
        let flags = flags(&Roots::new(vec![root("workspace", "/w"), root("target", "/with space")]));
        assert_eq!(flags, ["-ffile-prefix-map=/w=/potluck/workspace", "-gno-record-gcc-switches"]);
        let env = [
            ("TARGET", "a-b"),
            ("HOST", "a-b"),
            ("CFLAGS", "-O1"),
            ("CFLAGS_a_b", "-O2"),
            ("HOST_CXXFLAGS", "-O3"),
        ];
        let var = |name: &str| env.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
        let set = variables(var, &["-x".to_owned(), "-y".to_owned()]);
        let expected = [("CFLAGS_a_b", "-O2 -x -y"), ("HOST_CXXFLAGS", "-O3 -x -y")];
        assert_eq!(set, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(variables(|_| None, &["-x".to_owned()])["CFLAGS"], "-x");
    }
}
