// SPDX-License-Identifier: MIT OR Apache-2.0
//! moon by its HTTP form, whose results are JSON.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::program::Person;
use potluck_tests::tools;

use super::{Built, Tool, files, outlive, program, said, share, stalled};

struct Moon(PathBuf);

impl Tool for Moon {
    const KEYS: u64 = 2;
    const PARTS: usize = 2;

    fn lay(&self, folder: &Path, ends: Option<&str>) {
        let kill = ends.map(|pid| format!(" && kill -9 {pid}")).unwrap_or_default();
        for (name, more, after) in [("soup", kill.as_str(), ""), ("bread", "", "    deps: ['soup:build']\n")]
        {
            let command = format!("mkdir -p dist && cat in.txt > dist/out.txt && echo said{more}");
            let text = format!(
                "tasks:\n  build:\n    script: '{command}'\n    inputs: ['in.txt']\n    outputs: ['dist/out.txt']\n{after}"
            );
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("moon.yml"), text).unwrap();
            fs::write(folder.join(name).join("in.txt"), format!("{name}\n")).unwrap();
        }
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        // The settings are part of every key, so that where the node is has to be said elsewhere.
        let settings = "projects: ['soup', 'bread']\nremote:\n  api: 'http'\n  host: 'http://localhost'\n  cache:\n    instanceName: 'moon'\n";
        fs::create_dir_all(folder.join(".moon")).unwrap();
        fs::write(folder.join(".moon/workspace.yml"), settings).unwrap();
        fs::write(folder.join(".gitignore"), ".moon/cache\ndist\n").unwrap();
        let git = |args: &[&str]| {
            let mut git = program(person, "git", folder);
            git.args(["-c", "user.name=t", "-c", "user.email=t@localhost"]).args(args);
            said(&mut git)
        };
        git(&["init", "-q", "-b", "master", "."]);
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", "small"]);
        let mut moon = program(person, &self.0, folder);
        let text = said(
            moon.args(["run", "bread:build"])
                .env("NO_COLOR", "1")
                .env("MOON_REMOTE_HOST", format!("http://{http}/bazel")),
        );
        let hits = text.lines().filter(|line| line.contains("cached from remote")).count();
        let names = ["soup", "bread"].map(|name| format!("{name}/dist/out.txt"));
        Built { hits, made: 2 - hits, outputs: files(folder, names) }
    }
}

#[test]
fn outputs_of_tasks_are_shared() {
    if let Some(moon) = tools::moon() {
        share(&Moon(moon));
    }
}

#[test]
fn a_build_outlives_the_daemon() {
    if let Some(moon) = tools::moon() {
        outlive(&Moon(moon));
    }
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_builds() {
    if let Some(moon) = tools::moon() {
        stalled(&Moon(moon));
    }
}
