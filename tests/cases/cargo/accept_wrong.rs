// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must never be a wrong hit: each of these changes has the unit made anew, and the program says what it should say.
//! An equal checkout shows that the unit is restored where nothing has changed. Files and variables that build scripts
//! and macros read without telling anybody are in `reads`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use potluck_tests::program::{Person, toolchain};

use super::workspace::{Workspace, log};

/// What is changed between two checkouts.
enum Change<'a> {
    /// A file.
    File(&'a str, &'a str),
    /// A file, which is then older than anything else.
    OldFile(&'a str, &'a str),
    /// A variable.
    Variable(&'a str, &'a str),
    /// More arguments.
    Arguments(&'a [&'a str]),
}

struct Case<'a> {
    name: &'a str,
    /// What stands in all checkouts.
    files: &'a [(&'a str, &'a str)],
    /// The unit that counts.
    unit: &'a str,
    change: Change<'a>,
    says: [&'a str; 2],
}

/// A build with a daemon that is heard, however busy the machine is.
fn patient(workspace: &Workspace, person: &Person) -> Command {
    let mut command = workspace.command(person);
    command.env("POTLUCK_DEADLINE_MS", "60000");
    command
}

/// Builds a checkout; gives what became of the unit, and what the app says.
fn built((person, case): (&Person, &Case<'_>), place: &str, change: Option<&Change<'_>>) -> (String, String) {
    let workspace = Workspace::new(person.path(&format!("{place}/{}", case.name)));
    for (name, text) in case.files {
        workspace.write(name, text);
    }
    let mut command = patient(&workspace, person);
    match change {
        None => {}
        Some(Change::File(name, text)) => workspace.write(name, text),
        Some(Change::OldFile(name, text)) => {
            workspace.write(name, text);
            let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let file = fs::File::options().write(true).open(workspace.folder().join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        Some(Change::Variable(name, value)) => drop(command.env(name, value)),
        Some(Change::Arguments(arguments)) => drop(command.args(*arguments)),
    }
    let printed = workspace.built(&mut command).printed;
    let rows = log(person);
    let row = rows.iter().find(|(name, _)| name == case.unit);
    (row.unwrap_or_else(|| panic!("{}: {rows:?}", case.name)).1.clone(), printed.trim().to_owned())
}

const INCLUDES: &str = "pub fn serve() -> &'static str { include_str!(\"../../menu.txt\") }\n";
const VARIABLE: &str = "pub fn serve() -> &'static str { env!(\"TEST_DISH\") }\n";
const OPTIONAL: &str = "pub fn serve() -> &'static str { option_env!(\"TEST_DISH\").unwrap_or(\"none\") }\n";
const FEATURE: &str =
    "pub fn serve() -> &'static str { if cfg!(feature = \"hot\") { \"hot\" } else { \"cold\" } }\n";
const FEATURES: &str = "[package]\nname = \"dish\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
                        [dependencies]\nspice = { path = \"../spice\" }\n[features]\nhot = []\n";
const DECLARED: &str = "fn main() {\nprintln!(\"cargo:rerun-if-changed=../menu.txt\");\n\
                        let text = std::fs::read_to_string(\"../menu.txt\").unwrap();\n\
                        println!(\"cargo:rustc-env=TEST_MADE={text}\");\n}\n";
const MADE: &str = "pub fn serve() -> &'static str { env!(\"TEST_MADE\") }\n";
const PLAIN: &str = "pub fn serve() -> &'static str { \"stew\" }\n";
const EDITED: &str = "pub fn serve() -> &'static str { \"soup\" }\n";

const CASES: &[Case<'_>] = &[
    Case {
        name: "include_str",
        files: &[("dish/src/lib.rs", INCLUDES), ("menu.txt", "stew")],
        unit: "dish",
        change: Change::File("menu.txt", "soup"),
        says: ["stew", "soup"],
    },
    Case {
        name: "env",
        files: &[
            ("dish/src/lib.rs", VARIABLE),
            (".cargo/config.toml", "[env]\nTEST_DISH = { value = \"stew\", force = false }\n"),
        ],
        unit: "dish",
        change: Change::Variable("TEST_DISH", "soup"),
        says: ["stew", "soup"],
    },
    Case {
        name: "option_env",
        files: &[("dish/src/lib.rs", OPTIONAL)],
        unit: "dish",
        change: Change::Variable("TEST_DISH", "soup"),
        says: ["none", "soup"],
    },
    Case {
        name: "script-input",
        files: &[("dish/build.rs", DECLARED), ("dish/src/lib.rs", MADE), ("menu.txt", "stew")],
        unit: "dish run",
        change: Change::File("menu.txt", "soup"),
        says: ["stew", "soup"],
    },
    Case {
        name: "features",
        files: &[("dish/src/lib.rs", FEATURE), ("dish/Cargo.toml", FEATURES)],
        unit: "dish",
        change: Change::Arguments(&["--features", "dish/hot", "-p", "app"]),
        says: ["cold", "hot"],
    },
    Case {
        name: "old-mtime",
        files: &[("dish/src/lib.rs", PLAIN)],
        unit: "dish",
        change: Change::OldFile("dish/src/lib.rs", EDITED),
        says: ["stew", "soup"],
    },
    Case {
        name: "old-mtime-of-a-macro",
        files: &[(
            "spice/src/lib.rs",
            "#[proc_macro]\npub fn spice(_: proc_macro::TokenStream) -> proc_macro::TokenStream { \"\\\"sugar\\\"\".parse().unwrap() }\n",
        )],
        unit: "spice",
        change: Change::OldFile(
            "spice/src/lib.rs",
            "#[proc_macro]\npub fn spice(_: proc_macro::TokenStream) -> proc_macro::TokenStream { \"\\\"pepper\\\"\".parse().unwrap() }\n",
        ),
        says: ["stew with sugar", "stew with pepper"],
    },
];

#[test]
fn whatever_changes_is_made_anew() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for case in CASES {
        let Case { name, says, .. } = case;
        let first = built((&person, case), "a", None);
        assert_eq!(first, ("compiled: unclaimed".to_owned(), says[0].to_owned()), "{name}");
        let equal = built((&person, case), "deeper/b", None);
        assert_eq!(equal, ("restored: ".to_owned(), says[0].to_owned()), "{name}: an equal one");
        let (outcome, printed) = built((&person, case), "c", Some(&case.change));
        assert!(outcome.starts_with("compiled"), "{name}: {outcome}");
        assert_eq!(printed, says[1], "{name}");
    }
}

/// Each checkout says where it lies itself.
#[test]
fn what_names_its_folder_is_made_in_each() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for place in ["a", "deeper/b"] {
        let workspace = Workspace::new(person.path(place));
        workspace
            .write("dish/src/lib.rs", "pub fn serve() -> &'static str { env!(\"CARGO_MANIFEST_DIR\") }\n");
        let printed = workspace.built(&mut patient(&workspace, &person)).printed;
        assert_eq!(printed.trim(), workspace.folder().join("dish").display().to_string());
        let rows = log(&person);
        let dish = rows.iter().find(|(name, _)| name == "dish").unwrap();
        assert!(dish.1.starts_with("compiled") && dish.1.contains("a folder of this machine"), "{dish:?}");
    }
}

/// In the folder where something was restored: an edit that looks older than all of it is not overlooked by the next
/// build that begins anew, nor is what was restored newer than an edit that follows.
#[test]
fn an_edit_of_a_restored_checkout_is_seen() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let first = Workspace::new(person.path("a"));
    first.built(&mut patient(&first, &person));
    let there = Workspace::new(person.path("b"));
    there.built(&mut patient(&there, &person));
    assert!(log(&person).iter().any(|(name, row)| name == "dish" && row == "restored: "));
    there.write("dish/src/lib.rs", EDITED);
    assert_eq!(there.built(&mut patient(&there, &person)).printed, "soup\n");
    let path = there.folder().join("dish/src/lib.rs");
    fs::write(&path, EDITED.replace("soup", "pie")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    fs::remove_dir_all(there.folder().join("target")).unwrap();
    assert_eq!(there.built(&mut patient(&there, &person)).printed, "pie\n");
}

/// A toolchain with the files of the one that is used, where that is possible by another name for the same file.
fn mirror(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("bin")).unwrap();
    fs::copy(from.join("bin/rustc"), to.join("bin/rustc")).unwrap();
    link(&from.join("lib"), &to.join("lib"));
}

fn link(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), &target)
                .or_else(|_| fs::copy(entry.path(), &target).map(drop))
                .unwrap();
        }
    }
}

#[test]
fn another_toolchain_shares_nothing_with_this_one() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let (equal, other) = (person.path("equal"), person.path("other"));
    for folder in [&equal, &other] {
        mirror(toolchain(), folder);
    }
    // What it links programs with is not the same.
    let host = fs::read_dir(other.join("lib/rustlib")).unwrap().map(|entry| entry.unwrap().path());
    let host = host.into_iter().find(|path| path.join("lib").is_dir()).expect("it has a standard library");
    fs::write(host.join("lib/libanother.rlib"), "another").unwrap();
    let count =
        |rows: &[(String, String)], outcome: &str| rows.iter().filter(|(_, row)| row == outcome).count();
    for (place, folder, restored) in [("a", &equal, 0), ("b", &equal, 4), ("c", &other, 0), ("d", &other, 4)]
    {
        let workspace = Workspace::new(person.path(place));
        let mut command = patient(&workspace, &person);
        command.env("RUSTC", folder.join("bin/rustc"));
        assert_eq!(workspace.built(&mut command).printed, "stew with salt\n");
        let mut rows = log(&person);
        rows.retain(|(name, _)| name != "app");
        assert_eq!(count(&rows, "restored: "), restored, "{place}: {rows:?}");
        assert_eq!(count(&rows, "compiled: unclaimed"), 4 - restored, "{place}: {rows:?}");
    }
}
