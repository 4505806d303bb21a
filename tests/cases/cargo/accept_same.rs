// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever cargo is asked to do comes to the same with and without potluck, the first time and when all is restored:
//! how it ends, what tests print, what the compiler warns of, and which files there are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use potluck_tests::program::{Person, toolchain};

/// How the names of files end that potluck documents: a build script lies beside its launcher.
const OURS: [&str; 2] = [".real", ".place"];

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    code: Option<i32>,
    stdout: Vec<String>,
    stderr: Vec<String>,
    files: Vec<String>,
}

const FILES: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        "[workspace]\nmembers = [\"app\", \"dish\", \"spice\"]\nexclude = [\"sea\"]\nresolver = \"2\"\n",
    ),
    (
        "app/src/main.rs",
        "use std::collections::HashMap;\nfn main() { let unused = 1; println!(\"{} {}\", dish::serve(), dish::with()); }\n\
         #[test]\nfn it_serves() { assert_eq!(dish::serve(), \"stew with salt from afar\"); println!(\"served\"); }\n",
    ),
    (
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         [dependencies]\ndish = { path = \"../dish\" }\n",
    ),
    (
        "dish/src/lib.rs",
        "//! What is served.\ninclude!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n/// Serves, see [`nothing`].\n///\n\
         /// ```\n/// assert!(dish::serve().starts_with(\"stew\"));\n/// ```\n\
         pub fn serve() -> String { return format!(\"{MADE} with {}\", spice::spice!()); }\n\
         pub fn with() -> &'static str { fork::fork() }\nfn forgotten() {}\n\
         #[test]\nfn a_dish_is_served() { println!(\"inside\"); assert!(serve().contains(\"salt\")); }\n\
         #[test]\n#[should_panic]\nfn nothing_else() { panic!(\"as it should\"); }\n",
    ),
    ("dish/tests/whole.rs", "#[test]\nfn whole() { assert!(dish::serve().len() > 3); }\n"),
    (
        "dish/build.rs",
        "fn main() {\nprintln!(\"cargo:rerun-if-changed=build.rs\");\nprintln!(\"cargo:warning=it is stew again\");\n\
         let out = std::path::Path::new(&std::env::var_os(\"OUT_DIR\").unwrap()).join(\"made.rs\");\n\
         std::fs::write(out, \"const MADE: &str = \\\"stew\\\";\").unwrap();\n}\n",
    ),
    (
        "spice/Cargo.toml",
        "[package]\nname = \"spice\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n\
         [dependencies]\nsea = { path = \"../sea\" }\n",
    ),
    (
        "spice/src/lib.rs",
        "#[proc_macro]\npub fn spice(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n\
         format!(\"{:?}\", sea::salt()).parse().unwrap() }\n",
    ),
];

/// A path dependency that is no member of the workspace.
const SEA: &[(&str, &str)] = &[
    ("Cargo.toml", "[package]\nname = \"sea\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
    (
        "src/lib.rs",
        "pub fn salt() -> String { \"salt\".to_owned() + afar() }\nfn afar() -> &'static str { \" from afar\" }\nfn deep() {}\n",
    ),
];

/// A dependency in a git repository, which can be linked in two ways.
const FORK: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        "[package]\nname = \"fork\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         [lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n",
    ),
    ("src/lib.rs", "pub fn fork() -> &'static str { \"fork\" }\nfn knife() {}\n"),
];

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A repository with one commit; gives its address.
fn repository(person: &Person) -> String {
    let folder = person.path("fork");
    write(&folder, FORK);
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]);
        git.args(args).current_dir(&folder).env("HOME", person.path("")).env("GIT_CONFIG_NOSYSTEM", "1");
        assert!(git.output().unwrap().status.success(), "git {args:?}");
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "fork"]);
    format!("file://{}", folder.display())
}

/// A checkout of everything, in which cargo has fetched what it depends on.
struct Place {
    top: PathBuf,
    cargo_home: PathBuf,
}

impl Place {
    fn new(person: &Person, name: &str, address: &str) -> Self {
        let place = Self { top: person.path(name), cargo_home: person.path(&format!("cargo of {name}")) };
        write(&place.top.join("work"), FILES);
        write(&place.top.join("work/sea"), SEA);
        let dish = format!(
            "[package]\nname = \"dish\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n\
             spice = {{ path = \"../spice\" }}\nfork = {{ git = \"{address}\" }}\n"
        );
        write(&place.top.join("work"), &[("dish/Cargo.toml", &dish)]);
        let mut fetch = place.cargo(person, &["fetch"]);
        let fetched = fetch.env("CARGO_NET_OFFLINE", "false").env_remove("RUSTC_WRAPPER").output().unwrap();
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        place
    }

    fn cargo(&self, person: &Person, args: &[&str]) -> Command {
        let mut cargo = person.cargo(&self.top.join("work"), args);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [toolchain().join("bin")].into_iter().chain(std::env::split_paths(&path));
        cargo.env("PATH", std::env::join_paths(path).unwrap());
        cargo.env("CARGO_HOME", &self.cargo_home).env("CARGO_TERM_COLOR", "never");
        // However busy the machine is, the daemon is heard.
        cargo.env("POTLUCK_DEADLINE_MS", "60000");
        cargo.env("RUSTDOC", toolchain().join("bin/rustdoc")).env("CARGO_BUILD_JOBS", "1");
        cargo
    }

    /// Runs it in an empty target folder.
    fn came(&self, command: &mut Command) -> Came {
        let target = self.top.join("work/target");
        let _ = fs::remove_dir_all(&target);
        let output = command.output().unwrap();
        let mut files = Vec::new();
        list(&target, &target, &mut files);
        files.retain(|name| !OURS.iter().any(|own| name.ends_with(own)));
        files.sort();
        let lines = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let text = text.replace(&self.cargo_home.display().to_string(), "[CARGO]");
            let text = text.replace(&self.top.display().to_string(), "[TOP]");
            text.lines()
                .map(|line| unnamed(&untimed(line)))
                .filter(|line| !line.contains("Finished"))
                .collect()
        };
        let (mut stdout, stderr) = (lines(&output.stdout), blocks(&lines(&output.stderr)));
        if stdout.iter().all(|line| line.starts_with('{')) {
            stdout.sort();
        }
        Came { code: output.status.code(), stdout, stderr, files }
    }
}

/// What was said about one thing after the other, in an order that does not depend on what cargo began with: where it
/// has a choice it leaves that to chance.
fn blocks(lines: &[String]) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in lines {
        let verb = line.starts_with(' ') && line.trim_start().starts_with(char::is_uppercase);
        let begins = verb || ["warning", "error"].iter().any(|word| line.starts_with(word));
        match blocks.last_mut().filter(|_| !begins) {
            Some(block) => *block += &format!("\n{line}"),
            None => blocks.push(line.clone()),
        }
    }
    blocks.sort();
    blocks
}

/// A line without how long something took, and without the number that the system has given a thread.
fn untimed(line: &str) -> String {
    let line = line.split_once("finished in ").map_or(line, |(before, _)| before);
    let number = line.split_once("' (").zip(line.split_once(") panicked at"));
    number.map_or(line.to_owned(), |((before, _), (_, after))| format!("{before}' panicked at{after}"))
}

/// A line without the names of folders that the compiler has made up for its linker.
fn unnamed(line: &str) -> String {
    const FOLDER: &str = "/deps/rustc";
    let mut parts = line.split(FOLDER);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| line + FOLDER + part.get(6..).unwrap_or_default())
}

fn list(top: &Path, folder: &Path, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            list(top, &path, files);
        }
        files.push(path.strip_prefix(top).unwrap().display().to_string());
    }
}

/// What was restored in the last build, of what a cache could hold.
fn restored(person: &Person) -> (usize, usize, String) {
    let text = fs::read_to_string(person.path("log")).unwrap_or_default();
    let _ = fs::remove_file(person.path("log"));
    let count = |outcome: &str| text.matches(&format!("\"outcome\":\"{outcome}\"")).count();
    (count("restored"), count("compiled"), text.clone())
}

#[test]
fn all_that_cargo_does_comes_to_the_same() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let address = repository(&person);
    let places = ["plain", "first", "deeper/second"].map(|name| Place::new(&person, name, &address));
    let [plain, first, second] = &places;
    let host = fs::read_dir(toolchain().join("lib/rustlib")).unwrap().map(|entry| entry.unwrap());
    let host = host.into_iter().find(|entry| entry.path().join("lib").is_dir()).expect("a standard library");
    let host = host.file_name().into_string().unwrap();
    let cases: [&[&str]; 7] = [
        &["build"],
        &["check"],
        &["test", "--", "--test-threads=1"],
        &["clippy"],
        &["doc"],
        &["build", "--release"],
        &["build", "--target", &host],
    ];
    for args in cases {
        let came = plain.came(plain.cargo(&person, args).env_remove("RUSTC_WRAPPER"));
        assert_eq!(came.code, Some(0), "{args:?}: {came:#?}");
        assert!(came.stderr.iter().any(|line| line.contains("it is stew again")), "{args:?}: {came:#?}");
        for (place, is_second) in [(first, false), (second, true)] {
            let wrapped = place.came(&mut place.cargo(&person, args));
            assert_eq!(wrapped, came, "{args:?}, {}", if is_second { "restored" } else { "made" });
            let (hits, misses, log) = restored(&person);
            assert!(
                hits > 0 && misses == 0 || !is_second,
                "{args:?}: {hits} restored, {misses} compiled: {log}"
            );
        }
    }
}

/// What does not compile, or does not pass, says so in the same words and with the same code.
#[test]
fn what_fails_fails_in_the_same_way() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let address = repository(&person);
    let places = ["plain", "first", "deeper/second"].map(|name| Place::new(&person, name, &address));
    let failing = "\n#[test]\nfn it_fails() { assert_eq!(1 + 1, 3, \"it cannot be\"); }\n";
    let wrong = "pub fn serve() -> u8 { \"stew\" }\npub fn other() { missing(); }\n";
    let unlinked = "extern \"C\" { fn nowhere(); }\nfn main() { let unused = 1; unsafe { nowhere() } }\n";
    for (name, text, args) in [
        ("app/src/main.rs", unlinked, ["build"].as_slice()),
        ("dish/tests/whole.rs", failing, &["test", "--quiet"]),
        ("dish/src/lib.rs", wrong, &["check"]),
        ("dish/src/lib.rs", wrong, &["build", "--message-format=json"]),
    ] {
        let came = places.each_ref().map(|place| {
            write(&place.top.join("work"), &[(name, text)]);
            let mut command = place.cargo(&person, args);
            if place.top == places[0].top {
                command.env_remove("RUSTC_WRAPPER");
            }
            place.came(&mut command)
        });
        assert_eq!(came[0].code, Some(101), "{args:?}: {:#?}", came[0]);
        assert_eq!(came[1], came[0], "{args:?}");
        assert_eq!(came[2], came[0], "{args:?}, the second time");
        let (_, sound) = FILES.iter().find(|(file, _)| *file == name).unwrap_or(&("", "\n"));
        for place in &places {
            write(&place.top.join("work"), &[(name, sound)]);
        }
    }
}

/// A script takes for granted that OUT_DIR is as it was left by its last run: when it has to run again, it is.
#[test]
fn a_script_that_runs_twice_does_what_it_does_once() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let address = repository(&person);
    let places = ["plain", "first"].map(|name| Place::new(&person, name, &address));
    for (does, code) in [
        ("panic!(\"no stew today\")", 101),
        ("(0..40_000).for_each(|_| println!(\"it is stew, and it is stew, and it is stew\"))", 0),
    ] {
        let script = format!(
            "fn main() {{ let out = std::env::var(\"OUT_DIR\").unwrap();\n\
             std::fs::create_dir(out.clone() + \"/made\").unwrap();\n\
             std::fs::write(out + \"/made.rs\", \"const MADE: &str = \\\"stew\\\";\").unwrap();\n{does}; }}\n"
        );
        let came = places.each_ref().map(|place| {
            write(&place.top.join("work"), &[("dish/build.rs", &script)]);
            let mut command = place.cargo(&person, &["build"]);
            if place.top == places[0].top {
                command.env_remove("RUSTC_WRAPPER");
            }
            let mut came = place.came(&mut command);
            // What else was compiled when it failed is left to chance.
            came.stderr.retain(|said| said.starts_with("error"));
            (came.code, came.stderr)
        });
        assert_eq!(came[0].0, Some(code), "{does}: {:#?}", came[0]);
        assert_eq!(came[1], came[0], "{does}");
    }
}
