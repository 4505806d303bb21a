// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build scripts and macros that read what they tell nobody of. In an equal checkout what they made is restored; where
//! what they read is another, it is made anew; and what nobody could follow is not shared.

use std::fs;

use potluck_tests::program::Person;

use super::workspace::{Workspace, count, log};

/// A build script that makes what `text` comes to.
pub(super) fn script(text: &str) -> String {
    format!(
        "fn main() {{\n println!(\"cargo:rerun-if-changed=build.rs\");\n let text: String = {{ {text} }};\n\
         let out = std::path::Path::new(&std::env::var_os(\"OUT_DIR\").unwrap()).join(\"made.rs\");\n\
         std::fs::write(out, format!(\"const MADE: &str = {{:?}};\", text.trim())).unwrap();\n}}\n"
    )
}

/// A macro that gives what `text` comes to.
pub(super) fn spice(text: &str) -> String {
    format!(
        "use proc_macro::TokenStream;\n#[proc_macro]\npub fn spice(_: TokenStream) -> TokenStream {{\n\
         let text: String = {{ {text} }};\n format!(\"{{:?}}\", text.trim()).parse().unwrap() }}\n"
    )
}

/// What became of one unit, and what the app says.
pub(super) fn built(
    person: &Person,
    workspace: &Workspace,
    unit: &str,
    env: &[(&str, &str)],
) -> (String, String) {
    let mut command = workspace.command(person);
    command.envs(env.iter().copied());
    let printed = workspace.built(&mut command).printed;
    let rows = log(person);
    let row = rows.iter().find(|(name, _)| name == unit).unwrap_or_else(|| panic!("{unit}: {rows:?}"));
    (row.1.clone(), printed.trim().to_owned())
}

/// Ways to a variable whose name stands nowhere as a whole, to be begun with its first word and ended with its last ones:
/// by going through all of them, in the standard library's way and in the system's, and by putting its name together.
const NAMELESS: &[(&str, &str)] = &[
    (
        "all-variables",
        "std::env::vars().find(|(name, _)| name.ends_with(\"ST_DISH\")).map_or(\"stew\".to_owned(), |(_, value)| value)",
    ),
    (
        "all-variables-of-the-system",
        "String::from_utf8(std::fs::read(\"/proc/self/environ\").unwrap()).unwrap().split('\\0')\
         .find_map(|text| text.split_once(\"ST_DISH=\")).map_or(\"stew\", |(_, value)| value).to_owned()",
    ),
    (
        "a-variable-put-together",
        "std::env::var(format!(\"TEST_{}\", \"dish\".to_uppercase())).unwrap_or(\"stew\".to_owned())",
    ),
];

/// One checkout, an equal one, and one with another file or another variable.
struct Case<'a> {
    name: &'a str,
    file: (&'a str, &'a str),
    unit: &'a str,
    other: Other<'a>,
    says: [&'a str; 2],
}

enum Other<'a> {
    File(&'a str, &'a str),
    Variable(&'a str, &'a str),
}

fn holds(person: &Person, case: &Case<'_>) {
    let Case { name, file, unit, other, says } = case;
    let checkout = |place: &str| {
        let workspace = Workspace::new(person.path(&format!("{place}/{name}")));
        workspace.write(file.0, file.1);
        workspace.write("menu.txt", "stew");
        // Its name stands in no program.
        workspace.write("menu.sh", "echo ${TEST_MENU-stew}");
        workspace
    };
    let first = built(person, &checkout("a"), unit, &[]);
    assert_eq!(first, ("compiled: unclaimed".to_owned(), says[0].to_owned()), "{name}");
    let equal = built(person, &checkout("deeper/b"), unit, &[]);
    assert_eq!(equal, ("restored: ".to_owned(), says[0].to_owned()), "{name}: an equal one");
    let changed = checkout("c");
    let env = match other {
        Other::File(name, text) => {
            changed.write(name, text);
            Vec::new()
        }
        Other::Variable(name, value) => vec![(*name, *value)],
    };
    let (outcome, printed) = built(person, &changed, unit, &env);
    assert!(outcome.starts_with("compiled"), "{name}: {outcome}");
    assert_eq!(printed, says[1], "{name}");
}

#[test]
fn what_a_build_script_reads_counts_though_it_tells_nobody() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let cases = [
        (
            "by-itself",
            "std::fs::read_to_string(\"../menu.txt\").unwrap()",
            Other::File("menu.txt", "soup"),
            ["stew", "soup"],
        ),
        (
            "by-another-program",
            "String::from_utf8(std::process::Command::new(\"cat\").arg(\"../menu.txt\").output().unwrap().stdout).unwrap()",
            Other::File("menu.txt", "soup"),
            ["stew", "soup"],
        ),
        (
            "whether-it-is-there",
            "if std::path::Path::new(\"../extra\").exists() { \"soup\" } else { \"stew\" }.to_owned()",
            Other::File("extra", ""),
            ["stew", "soup"],
        ),
        (
            "what-is-there",
            "format!(\"{}\", std::fs::read_dir(\"../menus\").map_or(0, Iterator::count))",
            Other::File("menus/new", ""),
            ["0", "1"],
        ),
        (
            "a-variable",
            "std::env::var(\"TEST_MENU\").unwrap_or(\"stew\".to_owned())",
            Other::Variable("TEST_MENU", "soup"),
            ["stew", "soup"],
        ),
        (
            "a-variable-by-another-program",
            "String::from_utf8(std::process::Command::new(\"sh\").arg(\"../menu.sh\").output().unwrap().stdout).unwrap()",
            Other::Variable("TEST_MENU", "soup"),
            ["stew", "soup"],
        ),
    ];
    let nameless = NAMELESS
        .iter()
        .map(|(name, text)| (*name, *text, Other::Variable("TEST_DISH", "soup"), ["stew", "soup"]));
    for (name, text, other, says) in cases.into_iter().chain(nameless) {
        let file = script(text);
        let says = says.map(|made| format!("{made} with salt"));
        let says = [says[0].as_str(), says[1].as_str()];
        holds(&person, &Case { name, file: ("dish/build.rs", &file), unit: "dish run", other, says });
    }
}

#[test]
fn what_a_macro_reads_counts_though_it_tells_nobody() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let read = "let top = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n\
                std::fs::read_to_string(format!(\"{top}/{}/menu.txt\", \"..\")).unwrap()";
    let cases = [
        ("a-file", read, Other::File("menu.txt", "pepper"), ["stew with stew", "stew with pepper"]),
        (
            "a-variable",
            "std::env::var(\"TEST_SPICE\").unwrap_or(\"salt\".to_owned())",
            Other::Variable("TEST_SPICE", "pepper"),
            ["stew with salt", "stew with pepper"],
        ),
    ];
    let nameless = NAMELESS.iter().map(|(name, text)| {
        (*name, *text, Other::Variable("TEST_DISH", "pepper"), ["stew with stew", "stew with pepper"])
    });
    for (name, text, other, says) in cases.into_iter().chain(nameless) {
        let file = spice(text);
        holds(&person, &Case { name, file: ("spice/src/lib.rs", &file), unit: "dish", other, says });
    }
}

/// Who is built on a library may use the macros that it hands on. Of an executable all is watched then, and not only its
/// linker.
#[test]
fn what_a_macro_reads_counts_where_a_library_hands_it_on() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let read = "let top = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n\
                std::fs::read_to_string(format!(\"{top}/{}/menu.txt\", \"..\")).unwrap()";
    let checkout = |place: &str, menu: &str, files: &[(&str, &str)]| {
        let workspace = Workspace::new(person.path(place));
        workspace.write("menu.txt", menu);
        workspace.write("spice/src/lib.rs", &spice(read));
        workspace.write("dish/src/lib.rs", "pub use spice::spice;\n");
        files.iter().for_each(|(name, text)| workspace.write(name, text));
        workspace
    };
    let by_the_app = [("app/src/main.rs", "fn main() { println!(\"{}\", dish::spice!()); }\n")];
    let by_a_library = [
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"app\", \"dish\", \"spice\", \"plate\"]\nresolver = \"2\"\n",
        ),
        (
            "app/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             [dependencies]\nplate = { path = \"../plate\" }\n",
        ),
        ("app/src/main.rs", "fn main() { println!(\"{}\", plate::full()); }\n"),
        (
            "plate/Cargo.toml",
            "[package]\nname = \"plate\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             [dependencies]\ndish = { path = \"../dish\" }\n",
        ),
        ("plate/src/lib.rs", "pub fn full() -> &'static str { dish::spice!() }\n"),
    ];
    for (name, unit, files) in [("app", "app", by_the_app.as_slice()), ("library", "plate", &by_a_library)] {
        let mut said = Vec::new();
        for (place, menu) in [("a", "stew"), ("deeper/b", "stew"), ("c", "soup")] {
            let workspace = checkout(&format!("{place}/{name}"), menu, files);
            let (outcome, printed) = built(&person, &workspace, unit, &[]);
            assert_eq!(printed, menu, "{name} {place}");
            said.push(outcome.split(':').next().unwrap_or_default().to_owned());
        }
        assert_eq!(said, ["compiled", "restored", "compiled"], "{name}");
    }
}

/// What cannot be followed, or is not restored with OUT_DIR, is done anew each time.
#[test]
fn a_run_that_does_more_than_can_be_kept_is_not_shared() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for (name, text, reason) in [
        ("writes", "std::fs::write(\"../left\", \"x\").unwrap(); String::from(\"stew\")", "it wrote "),
        (
            "asks",
            "let _ = std::net::TcpStream::connect(\"127.0.0.1:9\"); String::from(\"stew\")",
            "not all that it read is known: a question to the network",
        ),
        (
            "elsewhere",
            "std::fs::read_to_string(std::env::var(\"TEST_ELSEWHERE\").unwrap()).unwrap()",
            "which only this machine has",
        ),
        (
            "names",
            "std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/x\", format!(\"\\0{}\", std::env::var(\"OUT_DIR\").unwrap())).unwrap(); \
             String::from(\"stew\")",
            "folder is named in out/x",
        ),
    ] {
        let elsewhere = tempfile::Builder::new().prefix("elsewhere").tempdir_in("/var/tmp").unwrap();
        fs::write(elsewhere.path().join("file"), "stew").unwrap();
        let elsewhere = elsewhere.path().join("file").display().to_string();
        for place in ["a", "b"] {
            let workspace = Workspace::new(person.path(&format!("{place}/{name}")));
            workspace.write("dish/build.rs", &script(text));
            let (outcome, printed) =
                built(&person, &workspace, "dish run", &[("TEST_ELSEWHERE", &elsewhere)]);
            assert!(outcome.starts_with("compiled") && outcome.contains(reason), "{name} {place}: {outcome}");
            assert_eq!(printed, "stew with salt");
        }
    }
}

/// A script that cannot bear to be watched is run again as ever; and what it leaves behind lives on.
#[test]
fn watching_breaks_nothing() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let workspace = Workspace::new(person.path("shy"));
    let text = "let status = std::fs::read_to_string(\"/proc/self/status\").unwrap();\n\
                assert!(status.contains(\"TracerPid:\\t0\\n\")); println!(\"cargo:warning=again\"); \"stew\".to_owned()";
    workspace.write("dish/build.rs", &script(text));
    let (outcome, printed) = built(&person, &workspace, "dish run", &[]);
    assert_eq!(
        (outcome.as_str(), printed.as_str()),
        ("passed: it failed while it was watched, or said too much", "stew with salt")
    );

    let workspace = Workspace::new(person.path("leaves"));
    let text = "use std::process::{Command, Stdio};\n\
                let lines = \"while [ ! -e ../end ]; do sleep 0.1; done; cat ../menu.txt > ../served\";\n\
                let mut server = Command::new(\"sh\"); server.args([\"-c\", lines]);\n\
                server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(); \"stew\".to_owned()";
    workspace.write("dish/build.rs", &script(text));
    workspace.write("menu.txt", "soup");
    assert_eq!(built(&person, &workspace, "dish run", &[]).1, "stew with salt");
    assert!(!workspace.folder().join("served").exists());
    // It opens files after its watcher has reported: without a watcher the system would refuse.
    workspace.write("end", "");
    let served = || fs::read_to_string(workspace.folder().join("served")).unwrap_or_default();
    person.until("what the server does", |_| served() == "soup");
}

/// What a script makes is used where it is restored: there it names the folders of that checkout, and cargo finds nothing
/// to be done the next time.
#[test]
fn a_restored_run_is_as_fresh_as_one_that_was_made() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let text = "let out = std::env::var(\"OUT_DIR\").unwrap(); std::fs::create_dir_all(format!(\"{out}/sub/empty\")).unwrap();\n\
                std::fs::write(format!(\"{out}/inner.rs\"), \"pub const INNER: u8 = 7;\").unwrap();\n\
                std::fs::write(format!(\"{out}/sub/list.rs\"), format!(\"include!({:?});\", format!(\"{out}/inner.rs\"))).unwrap();\n\
                println!(\"cargo:rustc-env=LIST={out}/sub/list.rs\"); \"stew\".to_owned()";
    let lib = "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\nmod list { include!(concat!(env!(\"OUT_DIR\"), \"/sub/list.rs\")); }\n\
               pub fn serve() -> String { format!(\"{MADE} {} {}\", list::INNER, spice::spice!()) }\n";
    for (place, outcome) in [("a", "compiled: unclaimed"), ("deeper/b", "restored: ")] {
        let workspace = Workspace::new(person.path(place));
        workspace.write("dish/build.rs", &script(text));
        workspace.write("dish/src/lib.rs", lib);
        assert_eq!(
            built(&person, &workspace, "dish run", &[]),
            (outcome.to_owned(), "stew 7 salt".to_owned())
        );
        let build = workspace.folder().join("target/debug/build");
        let out = fs::read_dir(build).unwrap().map(|entry| entry.unwrap().path().join("out"));
        let out = out.into_iter().find(|out| out.is_dir()).unwrap();
        let listed = fs::read_to_string(out.join("sub/list.rs")).unwrap();
        assert_eq!(listed, format!("include!(\"{}/inner.rs\");", out.display()));
        assert!(out.join("sub/empty").is_dir());
        workspace.build(&person);
        assert!(!person.path("log").exists() || log(&person).is_empty(), "nothing is to be done");
        // And without potluck: nothing is stale, and the script itself is there to be run.
        workspace.plainly(&person);
        fs::write(workspace.folder().join("dish/build.rs"), script("\"soup\".to_owned()") + "//").unwrap();
        workspace.write(
            "dish/src/lib.rs",
            "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\npub fn serve() -> &'static str { MADE }\n",
        );
        assert_eq!(workspace.plainly(&person).printed, "soup\n");
    }
}

/// Servers name their routes as modules name their files; `/` is one, and a folder of every system.
#[test]
fn a_route_that_is_a_folder_of_the_system_is_nothing_that_is_read() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let checkout = |place: &str| {
        let workspace = Workspace::new(person.path(place));
        workspace.write(
            "dish/src/lib.rs",
            "macro_rules! route { (path = $path:literal) => { $path } }\n\
             pub fn serve() -> String { [route!(path = \"/\"), route!(path = \"/usr\")].concat() }\n",
        );
        workspace
    };
    for (place, outcome) in [("a", "compiled: unclaimed"), ("deeper/b", "restored: ")] {
        assert_eq!(checkout(place).build(&person).printed, "//usr\n", "{place}");
        let rows = log(&person);
        assert_eq!(count(&rows, outcome), rows.len(), "{place}: {rows:?}");
    }
}

/// Scripts ask the compiler whether it understands something, and leave what it made, with the folder in it.
#[test]
fn what_is_left_of_asking_the_compiler_keeps_nothing_from_being_shared() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let text = "let out = std::env::var(\"OUT_DIR\").unwrap(); let probe = format!(\"{out}/probe.rs\");\n\
                std::fs::write(&probe, \"pub fn probe() {}\").unwrap();\n\
                let mut rustc = std::process::Command::new(std::env::var_os(\"RUSTC\").unwrap());\n\
                rustc.args([\"--crate-type=lib\", \"--emit=metadata\", \"--out-dir\", &out, &probe]);\n\
                assert!(rustc.status().unwrap().success());\n\
                assert!(std::path::Path::new(&out).join(\"libprobe.rmeta\").is_file()); \"stew\".to_owned()";
    for (place, outcome) in [("a", "compiled: unclaimed"), ("deeper/b", "restored: ")] {
        let workspace = Workspace::new(person.path(place));
        workspace.write("dish/build.rs", &script(text));
        assert_eq!(workspace.build(&person).printed, "stew with salt\n", "{place}");
        let rows = log(&person);
        assert_eq!(count(&rows, outcome), rows.len(), "{place}: {rows:?}");
    }
}
