// SPDX-License-Identifier: MIT OR Apache-2.0
//! What build scripts and macros learn without opening a file: where a link leads, what kind of thing lies in a folder,
//! that there is an empty one, who somebody is; and what lies where the compiler looks for libraries.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use potluck_tests::program::Person;

use super::reads::{built, script, spice};
use super::workspace::Workspace;

/// One checkout, an equal one, and one in which something is another.
struct Case<'a> {
    name: &'a str,
    /// The build script of `dish`, or the macro of `spice`.
    file: (&'a str, &'a str),
    unit: &'a str,
    /// What is in all checkouts.
    make: fn(&Workspace),
    /// What is another in the last one, and its variables.
    change: fn(&Workspace),
    env: &'a [(&'a str, &'a str)],
    says: [&'a str; 2],
}

fn holds(person: &Person, case: &Case<'_>) {
    let Case { name, file, unit, make, change, env, says } = case;
    let checkout = |place: &str| {
        let workspace = Workspace::new(person.path(&format!("{place}/{name}")));
        workspace.write(file.0, file.1);
        make(&workspace);
        workspace
    };
    let first = built(person, &checkout("a"), unit, &[("USER", "ann")]);
    assert_eq!(first, ("compiled: unclaimed".to_owned(), says[0].to_owned()), "{name}");
    let equal = built(person, &checkout("deeper/b"), unit, &[("USER", "ann")]);
    assert_eq!(equal, ("restored: ".to_owned(), says[0].to_owned()), "{name}: an equal one");
    let changed = checkout("c");
    change(&changed);
    let env: Vec<_> = [("USER", "ann")].iter().chain(*env).copied().collect();
    let (outcome, printed) = built(person, &changed, unit, &env);
    assert!(outcome.starts_with("compiled"), "{name}: {outcome}");
    assert_eq!(printed, says[1], "{name}");
}

fn folder(workspace: &Workspace, name: &str) {
    fs::create_dir_all(workspace.folder().join(name)).unwrap();
}

fn link(workspace: &Workspace, to: &str) {
    let name = workspace.folder().join("current");
    let _ = fs::remove_file(&name);
    symlink(to, name).unwrap();
}

#[test]
fn what_a_build_script_learns_without_opening_a_file_counts() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let linked = script("std::fs::read_link(\"../current\").unwrap().display().to_string()");
    let kinds = script(
        "std::fs::read_dir(\"../menus\").unwrap().filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir())\
         .count().to_string()",
    );
    let user = script("std::env::var(\"USER\").unwrap()");
    let unit = "dish run";
    let cases = [
        Case {
            name: "where-a-link-leads",
            file: ("dish/build.rs", &linked),
            unit,
            make: |workspace| {
                ["v1", "v2"].iter().for_each(|name| folder(workspace, name));
                link(workspace, "v1");
            },
            change: |workspace| link(workspace, "v2"),
            env: &[],
            says: ["v1 with salt", "v2 with salt"],
        },
        Case {
            name: "what-kind-of-thing",
            file: ("dish/build.rs", &kinds),
            unit,
            make: |workspace| workspace.write("menus/x", ""),
            change: |workspace| {
                fs::remove_file(workspace.folder().join("menus/x")).unwrap();
                folder(workspace, "menus/x");
            },
            env: &[],
            says: ["0 with salt", "1 with salt"],
        },
        Case {
            name: "who-somebody-is",
            file: ("dish/build.rs", &user),
            unit,
            make: |_| (),
            change: |_| (),
            env: &[("USER", "ben")],
            says: ["ann with salt", "ben with salt"],
        },
    ];
    cases.iter().for_each(|case| holds(&person, case));
}

#[test]
fn what_a_macro_learns_without_opening_a_file_counts() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let listed = spice(
        "let top = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n\
         std::fs::read_dir(format!(\"{top}/{}\", \"menus\")).unwrap().count().to_string()",
    );
    let short = spice("std::env::var(\"CI\").unwrap_or(\"salt\".to_owned())");
    let user = spice("std::env::var(\"USER\").unwrap()");
    let read = spice(
        "let top = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n\
         std::fs::read_to_string(format!(\"{top}/{}/menu.txt\", \"../assets\")).unwrap()",
    );
    let file = "spice/src/lib.rs";
    let cases = [
        Case {
            name: "an-empty-folder",
            file: (file, &listed),
            unit: "dish",
            make: |workspace| workspace.write("dish/menus/a/menu.txt", ""),
            change: |workspace| folder(workspace, "dish/menus/b"),
            env: &[],
            says: ["stew with 1", "stew with 2"],
        },
        Case {
            name: "another-package",
            file: (file, &listed),
            unit: "dish",
            make: |workspace| workspace.write("dish/menus/c/menu.txt", ""),
            change: |workspace| {
                workspace.write("dish/menus/b/Cargo.toml", "[package]\nname = \"b\"\n[workspace]\n");
            },
            env: &[],
            says: ["stew with 1", "stew with 2"],
        },
        Case {
            name: "a-short-name",
            file: (file, &short),
            unit: "dish",
            make: |_| (),
            change: |_| (),
            env: &[("CI", "pepper")],
            says: ["stew with salt", "stew with pepper"],
        },
        Case {
            name: "who-somebody-is",
            file: (file, &user),
            unit: "dish",
            make: |_| (),
            change: |_| (),
            env: &[("USER", "ben")],
            says: ["stew with ann", "stew with ben"],
        },
        Case {
            name: "where-libraries-are-looked-for",
            file: (file, &read),
            unit: "dish",
            make: |workspace| {
                workspace.write("assets/menu.txt", "salt");
                let says = "fn main() { let top = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n\
                            println!(\"cargo:rustc-link-search={top}/../assets\"); }\n";
                workspace.write("dish/build.rs", says);
                workspace.write(
                    "dish/src/lib.rs",
                    "pub fn serve() -> String { format!(\"stew with {}\", spice::spice!()) }\n",
                );
                workspace.write("app/src/main.rs", "fn main() { println!(\"{}\", dish::serve()); }\n");
            },
            change: |workspace| workspace.write("assets/menu.txt", "pepper"),
            env: &[],
            says: ["stew with salt", "stew with pepper"],
        },
    ];
    cases.iter().for_each(|case| holds(&person, case));
}

/// What lies in another package below counts as well, however its name is put together, if it begins with a way up.
#[test]
fn what_a_crate_includes_from_a_package_within_its_own_counts() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let text = "macro_rules! text { ($name:literal) => { include_str!(concat!(\"../sample/\", $name)) } }\n\
                pub fn serve() -> String { text!(\"menu/a.txt\").to_owned() + include_str!(\"../sample/b.txt\") }\n";
    holds(
        &person,
        &Case {
            name: "nested",
            file: ("dish/src/lib.rs", text),
            unit: "dish",
            make: |workspace| {
                workspace.write("dish/sample/Cargo.toml", "[package]\nname = \"sample\"\n[workspace]\n");
                workspace.write("dish/sample/menu/a.txt", "stew");
                workspace.write("dish/sample/b.txt", " and tea");
            },
            change: |workspace| workspace.write("dish/sample/menu/a.txt", "soup"),
            env: &[],
            says: ["stew and tea", "soup and tea"],
        },
    );
}

/// A macro of another crate may bind a library that neither an argument nor the text of a crate names.
#[test]
fn a_library_that_a_macro_of_another_crate_binds_is_never_an_old_one() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let libraries = person.path("libraries");
    fs::create_dir_all(&libraries).unwrap();
    let flags = format!("-L native={}", libraries.display());
    let build = |place: &str, flavour: u8| {
        let (source, object) = (libraries.join("a.c"), libraries.join("a.o"));
        fs::write(&source, format!("int flavour(void) {{ return {flavour}; }}")).unwrap();
        let cc = Command::new("cc").arg("-c").arg(&source).arg("-o").arg(&object).status().unwrap();
        let _ = fs::remove_file(libraries.join("libflavour.a"));
        let ar =
            Command::new("ar").arg("rcs").arg(libraries.join("libflavour.a")).arg(&object).status().unwrap();
        assert!(cc.success() && ar.success());
        let workspace = Workspace::new(person.path(place));
        let bind = "#[macro_export]\nmacro_rules! bind { ($name:literal) => {\n\
                    #[link(name = $name, kind = \"static\")]\nextern \"C\" { fn flavour() -> i32; } } }\n";
        workspace.write("dish/src/lib.rs", bind);
        workspace.write(
            "Cargo.toml",
            "[workspace]\nmembers = [\"app\", \"dish\", \"plate\", \"spice\"]\nresolver = \"2\"\n",
        );
        let package = |name: &str, on: &str| {
            format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n{on} = {{ path = \"../{on}\" }}\n"
            )
        };
        workspace.write("plate/Cargo.toml", &package("plate", "dish"));
        workspace.write(
            "plate/src/lib.rs",
            "dish::bind!(\"flavour\");\npub fn serve() -> i32 { unsafe { flavour() } }\n",
        );
        workspace.write("app/Cargo.toml", &package("app", "plate"));
        workspace.write("app/src/main.rs", "fn main() { println!(\"{}\", plate::serve()); }\n");
        built(&person, &workspace, "plate", &[("RUSTFLAGS", &flags)])
    };
    let taken = ("compiled: it took in a.o, which no argument names".to_owned(), "1".to_owned());
    assert_eq!(build("a", 1), taken);
    assert_eq!(build("b", 2), (taken.0, "2".to_owned()));
}

/// What a file says stays what it says, though it is called like a checkout's folder.
#[test]
fn a_text_that_is_called_like_the_checkout_is_not_swapped_for_another() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let login = person.path("a").join("login").display().to_string();
    let copies = script("std::fs::read_to_string(\"../routes.txt\").unwrap()");
    let build = |place: &str| {
        let workspace = Workspace::new(person.path(place));
        workspace.write("dish/build.rs", &copies);
        workspace.write("routes.txt", &login);
        let (outcome, printed) = built(&person, &workspace, "dish run", &[]);
        assert!(outcome.starts_with("compiled"), "{outcome}");
        assert_eq!(printed, format!("{login} with salt"));
        outcome
    };
    let outcome = build("a");
    assert!(outcome.contains("routes.txt, which it read, and in what it made"), "{outcome}");
    build("b");
}
