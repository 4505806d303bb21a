// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is linked: executables, libraries for other languages, tests. In an equal checkout they are restored, byte by
//! byte; where anything that the linker reads is another, they are made anew.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use potluck_tests::program::{Person, potluck, potluck_rustc, toolchain};

use super::workspace::{Workspace, became, count, log};

/// A build script of the app that says `line` to cargo.
fn says(line: &str) -> String {
    format!(
        "fn main() {{ let top = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap(); \
         println!(\"cargo:rerun-if-changed=build.rs\\n{line}\"); }}"
    )
}

fn run(program: &str, args: &[&str], folder: &Path) {
    assert!(Command::new(program).args(args).current_dir(folder).status().unwrap().success(), "{program}");
}

fn write_program(workspace: &Workspace, name: &str, text: &str) {
    workspace.write(name, text);
    fs::set_permissions(workspace.folder().join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A library in C that says `number`.
fn number(workspace: &Workspace, number: u8) {
    workspace.write("native/number.c", &format!("int number(void) {{ return {number}; }}"));
    let folder = workspace.folder().join("native");
    run("cc", &["-c", "number.c", "-o", "number.o"], &folder);
    run("ar", &["rcsD", "libnumber.a", "number.o"], &folder);
}

/// One checkout, an equal one, and one in which something is another.
struct Case<'a> {
    name: &'a str,
    make: &'a dyn Fn(&Workspace),
    /// For all three: variables.
    env: &'a [(&'a str, &'a str)],
    change: &'a dyn Fn(&Workspace),
    /// For the third.
    changed_env: &'a [(&'a str, &'a str)],
    /// The first field of the key that differs, or its beginning.
    differs: &'a str,
    /// Whether another executable comes of it.
    shows: bool,
}

/// Of an executable that is built on no macro, only the linker is watched.
fn without_macros(workspace: &Workspace) {
    workspace
        .write("dish/Cargo.toml", "[package]\nname = \"dish\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    workspace.write(
        "dish/src/lib.rs",
        "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\npub fn serve() -> String { MADE.to_owned() }\n",
    );
}

fn holds(person: &Person, case: &Case<'_>) {
    for macros in [true, false] {
        holds_with(person, case, macros);
    }
}

fn holds_with(person: &Person, case: &Case<'_>, macros: bool) {
    let name = format!("{}{}", case.name, if macros { "" } else { "-alone" });
    let built = |place: &str, changed: bool| {
        let workspace = Workspace::new(person.path(&format!("{place}/{name}")));
        if !macros {
            without_macros(&workspace);
        }
        (case.make)(&workspace);
        let mut command = workspace.command(person);
        command.envs(case.env.iter().copied());
        if changed {
            (case.change)(&workspace);
            command.envs(case.changed_env.iter().copied());
        }
        let path = format!("{}:{}", workspace.folder().join("bin").display(), std::env::var("PATH").unwrap());
        let printed = workspace.built(command.env("PATH", path)).printed;
        let app = fs::read(workspace.folder().join("target/debug/app")).unwrap();
        (became(person, "app", "bin"), printed, app)
    };
    let (outcome, printed, app) = built("a", false);
    assert_eq!(outcome.0, "compiled: unclaimed", "{name}");
    let (outcome, equally, equal) = built("deeper/by/far/b", false);
    assert_eq!(outcome.0, "restored: ", "{name}: an equal one: {}", outcome.1);
    assert!(app == equal && printed == equally, "{name}: an equal one");
    let (outcome, otherwise, other) = built("c", true);
    assert!(outcome.0.starts_with("compiled: "), "{name}: {outcome:?}");
    // Of the second kind, one of the first may be the most similar one before it.
    assert!(!macros || outcome.1.starts_with(case.differs), "{name}: {outcome:?}");
    assert_eq!(other != app || otherwise != printed, case.shows, "{name}: another one");
}

const NOTHING: &dyn Fn(&Workspace) = &|_| {};

#[test]
fn the_files_that_a_linker_reads_are_in_the_key() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let marker = |byte: u8| {
        format!("SECTIONS {{ .marker : {{ BYTE({byte}) KEEP(*(.marker)) }} }} INSERT AFTER .rodata;\n")
    };
    let scripted = |place: &'static str| {
        move |workspace: &Workspace| {
            workspace.write(place, &marker(1));
            workspace.write(
                "app/build.rs",
                &says(&format!("cargo:rustc-link-arg-bins=-Wl,-T,{{top}}/../{place}")),
            );
        }
    };
    let (inside, outside) = (scripted("app/marker.ld"), scripted("marker.ld"));
    let native = |workspace: &Workspace| {
        number(workspace, 1);
        workspace.write(
            "app/build.rs",
            &says("cargo:rustc-link-search=native={top}/../native\\ncargo:rustc-link-lib=static=number"),
        );
        workspace.write(
            "app/src/main.rs",
            "unsafe extern \"C\" { safe fn number() -> i32; } fn main() { println!(\"{}\", number() + dish::serve().len() as i32); }",
        );
    };
    let by_file = |workspace: &Workspace| {
        workspace.write("app/link.args", "-Wl,--build-id=0x0102");
        workspace.write("app/build.rs", &says("cargo:rustc-link-arg-bins=@{top}/link.args"));
    };
    let cases = [
        Case {
            name: "a-linker-script-of-the-package",
            make: &inside,
            env: &[],
            change: &|workspace| workspace.write("app/marker.ld", &marker(2)),
            changed_env: &[],
            differs: "sources: @potluck:workspace@/app/marker.ld",
            shows: true,
        },
        Case {
            name: "a-linker-script-elsewhere",
            make: &outside,
            env: &[],
            change: &|workspace| workspace.write("marker.ld", &marker(2)),
            changed_env: &[],
            differs: "reads: Content @potluck:workspace@/marker.ld",
            shows: true,
        },
        Case {
            name: "arguments-in-a-file",
            make: &by_file,
            env: &[],
            change: &|workspace| workspace.write("app/link.args", "-Wl,--build-id=0x0304"),
            changed_env: &[],
            differs: "sources: @potluck:workspace@/app/link.args",
            shows: true,
        },
        Case {
            name: "a-native-library",
            make: &native,
            env: &[],
            change: &|workspace| number(workspace, 2),
            changed_env: &[],
            differs: "native files: libnumber.a",
            shows: true,
        },
    ];
    for case in &cases {
        holds(&person, case);
    }
}

#[test]
fn the_linker_itself_and_its_surroundings_are_in_the_key() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let forwarding =
        |workspace: &Workspace| write_program(workspace, "bin/mycc", "#!/bin/sh\nexec cc \"$@\"\n");
    let startup = |workspace: &Workspace| {
        workspace.write("crt/note.txt", "");
        workspace.write("app/build.rs", &says("cargo:rustc-link-arg-bins=-B{top}/../crt"));
    };
    let cases = [
        Case {
            name: "a-linker-that-is-a-script",
            make: &forwarding,
            env: &[
                ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "mycc"),
                ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "mycc"),
            ],
            change: &|workspace| {
                write_program(workspace, "bin/mycc", "#!/bin/sh\nexec cc \"$@\" # as ever\n");
            },
            changed_env: &[],
            differs: "reads: Program mycc",
            shows: false,
        },
        Case {
            name: "another-linker-in-the-path",
            make: NOTHING,
            env: &[],
            change: &|workspace| {
                write_program(
                    workspace,
                    "bin/cc",
                    "#!/bin/sh\nexec /usr/bin/cc \"$@\" -Wl,--build-id=0x0708\n",
                );
            },
            changed_env: &[],
            differs: "linker",
            shows: true,
        },
        Case {
            name: "what-a-program-starts-with",
            make: &startup,
            env: &[],
            change: &|workspace| {
                let found = Command::new("cc").arg("-print-file-name=crtbeginS.o").output().unwrap().stdout;
                let found = String::from_utf8(found).unwrap();
                fs::copy(found.trim(), workspace.folder().join("crt/crtbeginS.o")).unwrap();
            },
            changed_env: &[],
            differs: "reads: ",
            shows: false,
        },
        Case {
            name: "a-variable-of-the-linker",
            make: &|workspace| workspace.write("app/note.txt", "one of its own"),
            env: &[],
            change: NOTHING,
            changed_env: &[("LD_RUN_PATH", "/opt/somewhere/else")],
            differs: "linker",
            // The linker of this toolchain does not heed it; another would.
            shows: false,
        },
        Case {
            name: "another-feature",
            make: &|workspace| {
                workspace.write(
                    "app/src/main.rs",
                    "fn main() { println!(\"{} {}\", dish::serve(), cfg!(test_other)); }",
                );
            },
            env: &[],
            change: NOTHING,
            changed_env: &[("RUSTFLAGS", "--cfg test_other")],
            differs: "cfg",
            shows: true,
        },
    ];
    for case in &cases {
        holds(&person, case);
    }
}

/// A toolchain that is the same but for one file of which nobody knows what it does.
#[test]
fn another_toolchain_links_anew() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let other = potluck().with_file_name("other-toolchain");
    let (from, rustlib) = (toolchain().join("lib"), other.join("lib/rustlib"));
    let link = |from: &Path, to: &Path| {
        let _ = fs::remove_file(to);
        std::os::unix::fs::symlink(from, to).unwrap();
    };
    for folder in [other.join("bin"), rustlib.join("etc")] {
        fs::create_dir_all(folder).unwrap();
    }
    for entry in
        fs::read_dir(&from).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "rustlib")
    {
        link(&entry.path(), &other.join("lib").join(entry.file_name()));
    }
    for entry in fs::read_dir(from.join("rustlib")).unwrap().map(Result::unwrap) {
        if entry.file_name() != "etc" {
            link(&entry.path(), &rustlib.join(entry.file_name()));
        }
    }
    fs::write(rustlib.join("etc/more"), "").unwrap();
    fs::copy(toolchain().join("bin/rustc"), other.join("bin/rustc")).unwrap();
    let workspace = Workspace::new(person.path("a"));
    workspace.build(&person);
    assert_eq!(became(&person, "app", "bin").0, "compiled: unclaimed");
    let workspace = Workspace::new(person.path("b"));
    workspace.built(workspace.command(&person).env("RUSTC", other.join("bin/rustc")));
    let (outcome, differs) = became(&person, "app", "bin");
    assert!(outcome.starts_with("compiled: ") && differs == "toolchain", "{outcome} {differs}");
}

/// What names a folder of this machine is not shared, and is right in each checkout.
#[test]
fn an_executable_that_knows_where_it_was_built_is_not_shared() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for (name, code, args, reason) in [
        (
            "value",
            "println!(\"{}\", env!(\"CARGO_MANIFEST_DIR\"))",
            "",
            "it may depend on the value of CARGO_MANIFEST_DIR",
        ),
        (
            "search",
            "println!(\"{}\", dish::serve())",
            "cargo:rustc-link-arg-bins=-Wl,-rpath,{top}",
            "the workspace folder is named in out/app-",
        ),
    ] {
        for place in ["a", "deeper/b"] {
            let workspace = Workspace::new(person.path(&format!("{place}/{name}")));
            workspace.write(
                "app/src/main.rs",
                &format!("#[allow(unused_imports)] use dish as _; fn main() {{ {code} }}"),
            );
            if !args.is_empty() {
                workspace.write("app/build.rs", &says(args));
            }
            let printed = workspace.build(&person).printed;
            let (outcome, _) = became(&person, "app", "bin");
            assert!(
                outcome.starts_with("compiled: ") && outcome.contains(reason),
                "{name} {place}: {outcome}"
            );
            let here = workspace.folder().join("app").display().to_string();
            assert!(name != "value" || printed.trim() == here, "{printed}");
        }
    }
}

/// What a linker is said to read that nobody watches, since it is called as one was before, is what that one read.
#[test]
fn a_linker_that_is_called_as_before_is_known_and_not_watched() {
    let person = Person::at_home();
    let built = person.path("target/deps");
    fs::create_dir_all(&built).unwrap();
    fs::write(person.path("target/CACHEDIR.TAG"), "").unwrap();
    fs::write(built.join("main.c"), "int main(void) { return 0; }").unwrap();
    let link = |name: &str| {
        run("cc", &["-c", "main.c", "-o", &format!("{name}.o")], &built);
        let stand = person.path(&format!("potluck-link-{name}"));
        fs::create_dir(&stand).unwrap();
        std::os::unix::fs::symlink(potluck_rustc(), stand.join("cc")).unwrap();
        let mut cc = Command::new(stand.join("cc"));
        cc.arg(built.join(format!("{name}.o"))).arg("-o").arg(built.join(name));
        // It looks for some of the system's libraries where it is called as well.
        let cwd = person.path(&format!("package {name}"));
        fs::create_dir(&cwd).unwrap();
        cc.env("POTLUCK_HOME", person.home()).env_remove("LD_LIBRARY_PATH").current_dir(cwd);
        assert!(cc.status().unwrap().success() && built.join(name).is_file());
        let listed = fs::read_dir(&stand).unwrap().map(|entry| entry.unwrap().path());
        let report = listed.filter(|path| !path.ends_with("cc")).map(|path| fs::read(path).unwrap());
        let [report] = <[Vec<u8>; 1]>::try_from(report.collect::<Vec<_>>()).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["missed"], serde_json::Value::Null);
        report["names"].as_object().unwrap().clone()
    };
    let (first, second) = (link("one"), link("two"));
    let made =
        |names: &serde_json::Map<String, serde_json::Value>| names.values().any(|name| name["made"] == true);
    assert!(made(&first) && !made(&second), "the first one was watched, and the second was not");
    assert_eq!(second[&built.join("two.o").display().to_string()]["read"], true);
    // Neither what lies in the target folder nor what is of no account.
    let own = |name: &str| {
        let idle = ["/dev/", "/proc/", "/sys/", "/usr/lib/locale", "/usr/share/locale"];
        Path::new(name).starts_with(person.path("target")) || idle.iter().any(|idle| name.starts_with(idle))
    };
    let counts = |(name, touched): &(&String, &serde_json::Value)| !own(name) && touched["made"] == false;
    let read = |names: &serde_json::Map<_, _>, cwd: &str| {
        let cwd = person.path(cwd).display().to_string();
        let all = names.iter().filter(counts).filter(|(name, _)| **name != cwd);
        all.map(|(name, touched)| (name.replace(&cwd, "cwd"), touched.clone())).collect::<Vec<_>>()
    };
    let (first, second) = (read(&first, "package one"), read(&second, "package two"));
    assert!(first == second && first.len() > 20, "{first:?} {second:?}");
}

/// A linker that fails where it is watched links all the same, and what it made is nobody else's.
#[test]
fn a_linker_that_cannot_be_watched_is_left_alone() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for place in ["a", "b"] {
        let workspace = Workspace::new(person.path(place));
        write_program(
            &workspace,
            "bin/shycc",
            "#!/bin/sh\ngrep -q 'TracerPid:.*[1-9]' /proc/self/status && exit 1\nexec cc \"$@\"\n",
        );
        let path = format!("{}:{}", workspace.folder().join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = workspace.command(&person);
        for target in ["X86_64", "AARCH64"] {
            command.env(format!("CARGO_TARGET_{target}_UNKNOWN_LINUX_GNU_LINKER"), "shycc");
        }
        assert_eq!(workspace.built(command.env("PATH", path)).printed, "stew with salt\n");
        let (outcome, _) = became(&person, "app", "bin");
        assert!(outcome.starts_with("compiled: "), "{place}: {outcome}");
    }
}

/// All kinds of libraries and tests; a build after they were restored has nothing to do.
#[test]
fn all_that_is_linked_is_restored_as_it_was() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let mut first = Vec::new();
    for (place, outcome) in [("a", "compiled: unclaimed"), ("deeper/by/far/b", "restored: ")] {
        let workspace = Workspace::new(person.path(place));
        let manifest = |types: &str| {
            format!(
                "[package]\nname = \"plate\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\ncrate-type = [{types}]\n\
                 [dependencies]\ndish = {{ path = \"../dish\" }}\n"
            )
        };
        let members = "[workspace]\nmembers = [\"app\", \"dish\", \"spice\", \"plate\"]\nresolver = \"2\"\n";
        workspace.write("Cargo.toml", members);
        workspace.write("plate/Cargo.toml", &manifest("\"rlib\", \"cdylib\", \"staticlib\""));
        workspace.write(
            "plate/src/lib.rs",
            "#[unsafe(no_mangle)] pub extern \"C\" fn plate() -> usize { dish::serve().len() }\n\
             #[test] fn it_holds() { assert_eq!(plate(), 14); }\n",
        );
        workspace.write(
            "app/Cargo.toml",
            &fs::read_to_string(workspace.folder().join("app/Cargo.toml"))
                .unwrap()
                .replace("[dependencies]\n", "[dependencies]\nplate = { path = \"../plate\" }\n"),
        );
        workspace
            .write("app/src/main.rs", "fn main() { println!(\"{} {}\", dish::serve(), plate::plate()); }\n");
        workspace.write(
            "app/tests/whole.rs",
            "#[test] fn it_is_served() { assert_eq!(dish::serve(), \"stew with salt\"); }\n",
        );
        assert_eq!(workspace.build(&person).printed, "stew with salt 14\n");
        let test = || workspace.cargo(&person, "test --offline -j1 --workspace").output().unwrap();
        let tested = test();
        let said = String::from_utf8(tested.stdout).unwrap();
        assert!(
            tested.status.success()
                && said.contains("it_holds ... ok")
                && said.contains("it_is_served ... ok"),
            "{said}"
        );
        let rows = log(&person);
        // Five and a run to build; tests of all four members and a file of tests, for which cargo makes the macro, and all
        // that is built on it, with another name.
        assert_eq!((rows.len(), count(&rows, outcome)), (15, 15), "{place}: {rows:?}");
        let mut made = Vec::new();
        for entry in fs::read_dir(workspace.folder().join("target/debug/deps")).unwrap().map(Result::unwrap) {
            if entry.path().extension().is_none_or(|ending| ending != "d") {
                let mode = entry.metadata().unwrap().permissions().mode();
                made.push((entry.file_name(), mode, fs::read(entry.path()).unwrap()));
            }
        }
        made.sort();
        if first.is_empty() {
            first = made;
        } else {
            let names = |all: &[(std::ffi::OsString, u32, Vec<u8>)]| {
                all.iter().map(|one| (one.0.clone(), one.1)).collect::<Vec<_>>()
            };
            assert_eq!(names(&first), names(&made));
            assert!(first == made, "their content differs");
        }
        // `build` would: cargo makes `plate` for it and for tests in turn under one name.
        test();
        assert!(!person.path("log").exists() || log(&person).is_empty(), "nothing is to be done");
    }
}

#[test]
fn what_is_linked_faster_than_fetched_is_not_kept() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for place in ["a", "b"] {
        let workspace = Workspace::new(person.path(place));
        workspace.built(workspace.command(&person).env("POTLUCK_LINK_MS_PER_MIB", "1000000000"));
        let (outcome, _) = became(&person, "app", "bin");
        assert!(
            outcome.starts_with("compiled: linking it took") && outcome.ends_with("hardly worth fetching"),
            "{outcome}"
        );
    }
    // Libraries and what serves the rest of the build are kept all the same.
    let workspace = Workspace::new(person.path("c"));
    workspace.build(&person);
    let rows = log(&person);
    assert_eq!((count(&rows, "restored"), count(&rows, "compiled: unclaimed")), (4, 1), "{rows:?}");
}
