// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real go builds and tests through `potluck gocacheprog`, shared between real daemons.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use potluck_tests::circle::{Circle, assert_nothing_taken, followed, up};
use potluck_tests::program::{Person, potluck};
use potluck_tests::tools;

const MAIN: &str =
    "package main\n\nimport \"example.com/menu/dish\"\n\nfunc main() { println(dish.Name()) }\n";
const DISH: &str = "package dish\n\n// Name is what it is called.\nfunc Name() string { return \"soup\" }\n";
const TEST: &str = "package dish\n\nimport \"testing\"\n\nfunc TestName(t *testing.T) {\n\tif Name() != \"soup\" {\n\t\tt.Fatal(Name())\n\t}\n}\n";

/// A module in a folder of somebody's, with a cache folder of its own that go keeps little in.
struct Module<'a> {
    person: &'a Person,
    folder: PathBuf,
    cache: PathBuf,
}

impl<'a> Module<'a> {
    fn new(person: &'a Person, name: &str) -> Self {
        let folder = person.path(name);
        fs::create_dir_all(folder.join("dish")).unwrap();
        for (file, text) in [
            ("go.mod", "module example.com/menu\n\ngo 1.24\n"),
            ("main.go", MAIN),
            ("dish/dish.go", DISH),
            ("dish/dish_test.go", TEST),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        let cache = person.path(&format!("{} cache", name.replace('/', " ")));
        Self { person, folder, cache }
    }

    fn go(&self, args: &[&str]) -> Command {
        let mut go = go(self.person);
        go.args(args).current_dir(&self.folder).env("GOCACHE", &self.cache).env("GOFLAGS", "-trimpath");
        go.env("GOCACHEPROG", format!("{} gocacheprog", potluck().display()));
        go
    }

    /// What go says of a run that went well.
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        text(&self.go(args).output().unwrap())
    }

    /// How many packages were compiled to build the program, as go says.
    #[track_caller]
    fn build(&self) -> usize {
        compiled(&self.run(&["build", "-x", "-o", "menu", "."]))
    }

    fn program(&self) -> Vec<u8> {
        fs::read(self.folder.join("menu")).unwrap()
    }

    fn says(&self) -> String {
        text(&Command::new(self.folder.join("menu")).output().unwrap())
    }
}

/// go, which knows nothing of the machine's user.
fn go(person: &Person) -> Command {
    let mut go = Command::new(tools::go().unwrap());
    go.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", person.path(""));
    go.env("POTLUCK_HOME", person.home()).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    go.env("CGO_ENABLED", "0").stdin(Stdio::null());
    go
}

#[track_caller]
fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

fn compiled(said: &str) -> usize {
    said.lines().filter(|line| line.contains("/compile -o ")).count()
}

#[test]
fn what_one_has_built_and_tested_another_need_not() {
    if tools::go().is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let _ann_up = up(&ann, &boot);
    let hers = Module::new(&ann, "src");
    assert!(hers.build() > 10, "the runtime, at least");
    let said = hers.run(&["test", "./..."]);
    assert!(said.contains("ok") && !said.contains("(cached)"), "{said}");

    let ben = circle.member(Some(&ann));
    let _ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    let his = Module::new(&ben, "deep/down/in/it");
    assert_eq!(his.build(), 0, "everything came from ann");
    assert!(his.program() == hers.program(), "the programs differ");
    assert_eq!(his.says(), "soup\n");
    let said = his.run(&["test", "-x", "./..."]);
    assert!(said.contains("(cached)") && compiled(&said) == 0, "{said}");
    assert!(ben.status()["bytes_fetched"].as_u64().unwrap() > 100_000);
    // Whatever go takes away or a disk damages comes again.
    let files = files(&ben.home().join("gocache"));
    assert!(files.len() > 10);
    for (nth, file) in (0..).zip(&files) {
        match nth % 2 {
            0 => fs::remove_file(file).unwrap(),
            _ => damage(file),
        }
    }
    fs::remove_file(his.folder.join("menu")).unwrap();
    assert_eq!(his.build(), 0, "everything came from the store");
    assert!(his.program() == hers.program(), "the programs differ");

    let dave = circle.member(None);
    let _dave_up = up(&dave, &boot);
    let before = dave.status();
    let module = Module::new(&dave, "src");
    assert!(module.build() > 10, "nothing came from somebody whom he does not know");
    assert_eq!(module.says(), "soup\n");
    assert_nothing_taken(&dave, &before);
}

/// All files that go may have been shown.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else if entry.file_name().unwrap().len() == 64 {
            found.push(entry);
        }
    }
    found
}

fn damage(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bytes = fs::read(file).unwrap();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_daemon_that_is_killed_while_go_builds_costs_nothing_but_the_cache() {
    if tools::go().is_none() {
        return;
    }
    let ann = Person::at_home();
    let up = ann.up(&["--http", "off"]);
    let module = Module::new(&ann, "src");
    let mut build = module.go(&["build", "-x", "-o", "menu", "."]);
    let build = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ann.until("the first package", |status| status["published"].as_u64() > Some(3));
    up.kill();
    let said = text(&build.wait_with_output().unwrap());
    assert!(compiled(&said) > 10, "{said}");
    assert_eq!(module.says(), "soup\n");
    // And without one from the beginning.
    fs::write(module.folder.join("dish/dish.go"), DISH.replace("soup", "stew")).unwrap();
    module.run(&["build", "-o", "menu", "."]);
    assert_eq!(module.says(), "stew\n");
}

/// Bytes that no compressor makes smaller.
const LARGE: usize = 24 << 20;
const WITH_LARGE: &str = "package dish\n\nimport _ \"embed\"\n\n//go:embed large\nvar Large string\n\n// Name is what it is called.\n\
                          func Name() string { return Large[:0] + \"soup\" }\n";

/// A package with a large object.
fn enlarge(module: &Module<'_>) {
    let mut bytes = vec![0; LARGE];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    fs::write(module.folder.join("dish/large"), bytes).unwrap();
    fs::write(module.folder.join("dish/dish.go"), WITH_LARGE).unwrap();
}

#[test]
fn a_daemon_that_is_killed_while_a_large_object_comes_costs_nothing_but_the_cache() {
    if tools::go().is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ben = circle.member(Some(&ann));
    let hers = Module::new(&ann, "src");
    let ann_up = up(&ann, &boot);
    hers.build();
    let ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    let his = Module::new(&ben, "src");
    assert_eq!(his.build(), 0, "what go itself brings is his now");
    // From now on it takes her half a minute to give what is large.
    drop(ann_up);
    let config = ann.home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[network.lab]\nupload = \"1MiB\"\n")).unwrap();
    let _ann_up = up(&ann, &boot);
    enlarge(&hers);
    hers.build();
    followed(&ben, &ann);
    enlarge(&his);
    let fetched = |status: &serde_json::Value| status["bytes_fetched"].as_u64().unwrap();
    let before = fetched(&ben.status());
    let mut build = his.go(&["build", "-x", "-o", "menu", "."]);
    let mut build = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = ben.until("a part of it", |status| fetched(status) > before + (1 << 20));
    assert!(fetched(&status) < before + LARGE as u64, "{status:#}");
    assert!(build.try_wait().unwrap().is_none(), "go does not wait for it any more");
    ben_up.kill();
    let said = self::text(&build.wait_with_output().unwrap());
    assert!(compiled(&said) > 0, "{said}");
    assert_eq!(his.says(), "soup\n");
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_compiles() {
    if tools::go().is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    let hers = Module::new(&ann, "src");
    let made = hers.build();
    let ben = circle.member(Some(&ann));
    let _ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    // Her Catalog is what he has of hers.
    let before = ben.status();
    let still = ann_up.still();
    let his = Module::new(&ben, "some/where/else");
    assert_eq!(his.build(), made, "he makes all of it himself");
    assert!(still.is_still(), "it was all the time");
    assert_nothing_taken(&ben, &before);
    assert_eq!(his.says(), "soup\n");
    drop(still);
    assert!(his.program() == hers.program(), "the programs differ");
}

#[test]
fn go_is_set_up_and_as_it_was_before() {
    if tools::go().is_none() {
        return;
    }
    let ann = Person::at_home();
    let settings = ann.path(".config/go/env");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let before = "# mine\nGOFLAGS=-trimpath\nGOCACHEPROG=/bin/other one";
    fs::write(&settings, before).unwrap();
    ann.run(["setup", "go", "--print"]).ok();
    assert_eq!(fs::read_to_string(&settings).unwrap(), before);
    ann.run(["setup", "go"]).ok();
    ann.run(["setup", "go"]).ok();
    let helper = text(&go(&ann).args(["env", "GOCACHEPROG"]).output().unwrap());
    assert_eq!(helper.trim(), format!("{} --home {} gocacheprog", potluck().display(), ann.home().display()));
    let _up = ann.up(&["--http", "off"]);
    let module = Module::new(&ann, "src");
    let mut build = module.go(&["build", "-x", "./dish"]);
    assert!(
        compiled(&text(&build.env_remove("GOCACHEPROG").env_remove("POTLUCK_HOME").output().unwrap())) > 0
    );
    assert!(ann.status()["published"].as_u64() > Some(0));
    ann.run(["setup", "go", "--undo"]).ok();
    assert_eq!(fs::read_to_string(&settings).unwrap(), before);
}
