// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real Nix through the daemon's `/nix/`: `nix copy --to` on one machine, substitution on another. Each has a store of
//! its own in a folder, so that nothing of the machine's is touched.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use potluck_tests::circle::{Circle, assert_nothing_taken, followed, up};
use potluck_tests::program::{Person, Up};
use potluck_tests::tools;

const DISH: &str = "derivation { name = \"dish\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
                    args = [\"-c\" \"echo dish > $out\"]; }\n";

/// Somebody's Nix, with a store of its own.
struct Nix<'a> {
    person: &'a Person,
    store: PathBuf,
    cache: String,
    trusted: Vec<String>,
}

impl<'a> Nix<'a> {
    fn new(person: &'a Person, up: &Up<'_>) -> Self {
        Self::at(person, up.ready["http"].as_str().unwrap())
    }

    fn at(person: &'a Person, address: &str) -> Self {
        let nix = Self {
            store: person.path("nix"),
            cache: format!("http://{address}/nix"),
            trusted: Vec::new(),
            person,
        };
        fs::create_dir_all(person.path("nix.conf")).unwrap();
        fs::write(person.path("dish.nix"), DISH).unwrap();
        nix.configure();
        nix
    }

    fn configure(&self) {
        let conf = format!(
            "experimental-features = nix-command\nbuild-users-group =\nsandbox = true\nfallback = true\n\
             sandbox-paths = /bin /lib /lib64=/lib64 /usr\nsubstituters = {}\ntrusted-public-keys = {}\n\
             connect-timeout = 5\n",
            self.cache,
            self.trusted.join(" ")
        );
        fs::write(self.person.path("nix.conf/nix.conf"), conf).unwrap();
    }

    fn trusts(mut self, key: &str) -> Self {
        self.trusted.push(key.trim().to_owned());
        self.configure();
        self
    }

    fn command(&self, program: &str) -> Command {
        let mut nix = Command::new(tools::nix(program).unwrap());
        nix.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.person.path(""));
        nix.env("NIX_CONF_DIR", self.person.path("nix.conf")).env("NO_COLOR", "1");
        // It would keep state of its own beside the machine's store.
        for (name, folder) in [("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log"), ("NIX_DATA_DIR", "data")] {
            nix.env(name, self.person.path(folder));
        }
        nix.current_dir(self.person.path("")).stdin(Stdio::null());
        nix
    }

    fn building(&self) -> Command {
        let mut build = self.command("nix-build");
        build.arg("--store").arg(&self.store).args(["dish.nix", "--no-out-link"]);
        build
    }

    /// Builds the derivation with nothing left from before; gives the path, and whether it came from the cache, as Nix
    /// says.
    #[track_caller]
    fn build(&self) -> (String, bool) {
        built(&self.building().output().unwrap())
    }

    #[track_caller]
    fn copy(&self, path: &str, key: Option<&str>) {
        let to = key.map_or(self.cache.clone(), |key| {
            format!("{}?secret-key={}", self.cache, self.person.path(key).display())
        });
        let mut copy = self.command("nix");
        let copied = copy.arg("--store").arg(&self.store).args(["copy", "--to", &to, path]).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }

    /// A new key; gives the public half.
    fn key(&self, name: &str) -> String {
        let mut keys = self.command("nix-store");
        keys.args(["--generate-binary-cache-key", &format!("{name}-1"), name, &format!("{name}.pub")]);
        assert!(keys.status().unwrap().success());
        fs::read_to_string(self.person.path(&format!("{name}.pub"))).unwrap()
    }

    fn content(&self, path: &str) -> String {
        fs::read_to_string(self.store.join(path.strip_prefix('/').unwrap())).unwrap()
    }
}

#[track_caller]
fn built(output: &Output) -> (String, bool) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let path = String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned();
    let made = [said.contains("building '"), said.contains("copying path '")];
    assert!(made[0] != made[1], "{said}");
    (path, made[1])
}

#[test]
fn what_one_has_copied_another_takes_if_he_trusts_the_key() {
    if tools::nix("nix").is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    let hers = Nix::new(&ann, &ann_up);
    let key = hers.key("ann");
    let (path, copied) = hers.build();
    assert!(!copied);
    hers.copy(&path, Some("ann"));

    let ben = circle.member(Some(&ann));
    let ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    let his = Nix::new(&ben, &ben_up).trusts(&key);
    assert_eq!(his.build(), (path.clone(), true));
    assert_eq!(his.content(&path), "dish\n");

    // His node believes ann; his Nix does not.
    let carl = circle.member(Some(&ann));
    let carl_up = up(&carl, &boot);
    followed(&carl, &ann);
    assert_eq!(Nix::new(&carl, &carl_up).build(), (path.clone(), false));

    // Her node signs for it: whoever's Nix trusts the node takes what the node believes.
    let erin = circle.member(Some(&ann));
    let config = erin.home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[front.nix]\nsign = true\n")).unwrap();
    let erin_up = up(&erin, &boot);
    followed(&erin, &ann);
    let theirs = Nix::new(&erin, &erin_up).trusts(&erin.run(["key", "show", "me", "--nix"]).ok());
    assert_eq!(theirs.build(), (path.clone(), true));

    let dave = circle.member(None);
    let dave_up = up(&dave, &boot);
    let before = dave.status();
    assert_eq!(Nix::new(&dave, &dave_up).trusts(&key).build(), (path, false), "his node does not know ann");
    assert_nothing_taken(&dave, &before);
}

#[test]
fn a_daemon_that_is_killed_costs_nothing_but_the_cache() {
    if tools::nix("nix").is_none() {
        return;
    }
    let ann = Person::at_home();
    let up = ann.up(&["--http", "127.0.0.1:0"]);
    let address = up.ready["http"].as_str().unwrap().to_owned();
    let nix = Nix::new(&ann, &up);
    fs::write(ann.path("dish.nix"), DISH.replace("echo dish", "/bin/sleep 1; echo dish")).unwrap();
    let mut build = nix.building().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(build.stderr.take().unwrap()).lines();
    assert!(said.by_ref().any(|line| line.unwrap().contains("building '")));
    up.kill();
    let said: Vec<_> = said.map(Result::unwrap).collect();
    let built = build.wait_with_output().unwrap();
    assert!(built.status.success(), "{said:?}");
    assert_eq!(nix.content(String::from_utf8(built.stdout).unwrap().trim()), "dish\n");
    // And without one from the beginning. This version of Nix ends by itself when a cache has gone that it knew.
    let ben = Person::new();
    let nix = Nix::at(&ben, &address);
    let (path, _) = nix.build();
    assert_eq!(nix.content(&path), "dish\n");
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_builds() {
    if tools::nix("nix").is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    let hers = Nix::new(&ann, &ann_up);
    let key = hers.key("ann");
    let (path, _) = hers.build();
    hers.copy(&path, Some("ann"));
    let ben = circle.member(Some(&ann));
    let ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    let before = ben.status();
    let still = ann_up.still();
    let his = Nix::new(&ben, &ben_up).trusts(&key);
    assert_eq!(his.build(), (path.clone(), false));
    assert!(still.is_still(), "it was all the time");
    assert_nothing_taken(&ben, &before);
    assert_eq!(his.content(&path), "dish\n");
    drop(still);
}
