// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real turbo runs through the daemon's `/turbo/`, shared between real daemons.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use potluck_tests::circle::{Circle, assert_nothing_taken, followed, up};
use potluck_tests::program::{Person, Up};
use potluck_tests::tools;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "another key of thirty-two bytes!";

/// A workspace of one package, in a folder of somebody's.
struct Work<'a> {
    person: &'a Person,
    folder: PathBuf,
    api: String,
    /// With which key it is signed, if it is.
    key: Option<&'static str>,
    token: &'static str,
    team: &'static str,
}

impl<'a> Work<'a> {
    fn new(person: &'a Person, up: &Up<'_>, name: &str, key: Option<&'static str>) -> Self {
        let folder = person.path(name);
        fs::create_dir_all(folder.join("app")).unwrap();
        let sign = key.is_some();
        let build = "mkdir -p dist && cp src.txt dist/out.txt && while [ -e wait ]; do sleep 0.1; done";
        for (file, text) in [
            ("package.json", "{\"name\":\"work\",\"private\":true,\"packageManager\":\"npm@9.2.0\",\"workspaces\":[\"app\"]}".to_owned()),
            ("package-lock.json", "{\"name\":\"work\",\"lockfileVersion\":3,\"packages\":{}}".to_owned()),
            ("app/package.json", format!("{{\"name\":\"app\",\"version\":\"1.0.0\",\"scripts\":{{\"build\":\"{build}\"}}}}")),
            ("turbo.json", format!("{{\"remoteCache\":{{\"signature\":{sign}}},\"tasks\":{{\"build\":{{\"inputs\":[\"src.txt\"],\"outputs\":[\"dist/**\"]}}}}}}")),
            ("app/src.txt", "soup\n".to_owned()),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        let api = format!("http://{}/turbo", up.ready["http"].as_str().unwrap());
        Self { person, folder, api, key, token: "a token", team: "acme" }
    }

    fn turbo(&self) -> Command {
        let mut turbo = Command::new(tools::turbo().unwrap());
        turbo.args(["run", "build", "--no-color"]).current_dir(&self.folder).env_clear();
        turbo.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.person.path(""));
        turbo.env("TURBO_API", &self.api).env("TURBO_TOKEN", self.token).env("TURBO_TEAM", self.team);
        turbo.env("TURBO_TELEMETRY_DISABLED", "1").env("TURBO_NO_UPDATE_NOTIFIER", "1").env("CI", "1");
        if let Some(key) = self.key {
            turbo.env("TURBO_REMOTE_CACHE_SIGNATURE_KEY", key);
        }
        turbo.stdin(Stdio::null());
        turbo
    }

    /// Builds, with nothing left from before, and tells whether it came from the cache, as turbo says.
    #[track_caller]
    fn is_cached(&self) -> bool {
        for left in ["node_modules/.cache", ".turbo", "app/.turbo", "app/dist"] {
            let _ = fs::remove_dir_all(self.folder.join(left));
        }
        let said = text(&self.turbo().output().unwrap());
        assert_eq!(fs::read_to_string(self.folder.join("app/dist/out.txt")).unwrap(), "soup\n", "{said}");
        let cached = ["0 cached, 1 total", "1 cached, 1 total"].map(|what| said.contains(what));
        assert!(cached[0] != cached[1], "{said}");
        cached[1]
    }
}

#[track_caller]
fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn what_one_has_run_another_need_not_with_and_without_signatures() {
    if tools::turbo().is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    let plain = Work::new(&ann, &ann_up, "plain", None);
    let signed = Work::new(&ann, &ann_up, "signed", Some(KEY));
    for hers in [&plain, &signed] {
        assert!(!hers.is_cached() && hers.is_cached());
    }

    let ben = circle.member(Some(&ann));
    let ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    assert!(Work::new(&ben, &ben_up, "deep/down/plain", None).is_cached());
    let mut his = Work::new(&ben, &ben_up, "deep/down/signed", Some(KEY));
    assert!(his.is_cached());
    // Whoever signs with another key takes hers for forged. What he puts does not take the place of it.
    (his.key, his.token) = (Some(OTHER_KEY), "another token");
    assert!(!his.is_cached());
    assert!(his.is_cached(), "his own is there as well");
    (his.key, his.token) = (Some(KEY), "a token");
    assert!(his.is_cached(), "and hers");
    (his.key, his.team) = (Some(KEY), "others");
    assert!(!his.is_cached() && his.is_cached(), "another team has artifacts of its own");

    let dave = circle.member(None);
    let dave_up = up(&dave, &boot);
    let before = dave.status();
    assert!(!Work::new(&dave, &dave_up, "plain", None).is_cached());
    assert_nothing_taken(&dave, &before);
}

#[test]
fn a_daemon_that_is_killed_while_turbo_runs_costs_nothing_but_the_cache() {
    if tools::turbo().is_none() {
        return;
    }
    let ann = Person::at_home();
    let up = ann.up(&["--http", "127.0.0.1:0"]);
    let work = Work::new(&ann, &up, "work", None);
    let wait = work.folder.join("app/wait");
    fs::write(&wait, "").unwrap();
    let run = work.turbo().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has asked the daemon, and is making it.
    let made = work.folder.join("app/dist/out.txt");
    while !made.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    up.kill();
    fs::remove_file(&wait).unwrap();
    let said = text(&run.wait_with_output().unwrap());
    assert!(said.contains("1 successful"), "{said}");
    assert!(!work.is_cached(), "and without one from the beginning");
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_runs() {
    if tools::turbo().is_none() {
        return;
    }
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    assert!(!Work::new(&ann, &ann_up, "src", None).is_cached());
    let ben = circle.member(Some(&ann));
    let ben_up = up(&ben, &boot);
    followed(&ben, &ann);
    let before = ben.status();
    let still = ann_up.still();
    let his = Work::new(&ben, &ben_up, "src", None);
    assert!(!his.is_cached());
    assert!(still.is_still(), "it was all the time");
    assert_nothing_taken(&ben, &before);
    drop(still);
}
