// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nx, which fails a run for any answer that it does not expect.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::program::Person;
use potluck_tests::tools;

use super::{Built, Tool, files, program, said, share, stalled};

const PROJECTS: [&str; 2] = ["soup", "bread"];

struct Nx(PathBuf);

impl Tool for Nx {
    const KEYS: u64 = 2;
    const PARTS: usize = 2;

    fn lay(&self, folder: &Path, _: Option<&str>) {
        let settings = r#"{ "neverConnectToCloud": true, "targetDefaults": { "build": { "cache": true,
            "inputs": ["{projectRoot}/in.txt"], "outputs": ["{projectRoot}/dist"] } } }"#;
        fs::write(folder.join("nx.json"), settings).unwrap();
        fs::write(folder.join("package.json"), r#"{ "name": "small", "version": "1.0.0" }"#).unwrap();
        for name in PROJECTS {
            let project = format!(
                r#"{{ "name": "{name}", "root": "{name}", "targets": {{ "build": {{ "executor": "nx:run-commands",
                "options": {{ "command": "mkdir -p {name}/dist && cat {name}/in.txt > {name}/dist/out.txt" }} }} }} }}"#
            );
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("project.json"), project).unwrap();
            fs::write(folder.join(name).join("in.txt"), format!("{name}\n")).unwrap();
        }
        let _ = std::os::unix::fs::symlink(&self.0, folder.join("node_modules"));
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        let mut nx = program(person, "node", folder);
        nx.arg(folder.join("node_modules/nx/dist/bin/nx.js")).args([
            "run-many",
            "-t",
            "build",
            "--outputStyle=static",
        ]);
        nx.env("CI", "1").env("NX_DAEMON", "false").env("NX_NO_CLOUD", "true").env("NO_COLOR", "1");
        nx.env("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", format!("http://{http}/nx"));
        nx.env("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", "any");
        let text = said(&mut nx);
        let hits = text.lines().filter(|line| line.contains("[remote cache]")).count();
        let names = PROJECTS.map(|name| format!("{name}/dist/out.txt"));
        Built { hits, made: PROJECTS.len() - hits, outputs: files(folder, names) }
    }
}

#[test]
fn outputs_of_targets_are_shared() {
    if let Some(folder) = tools::nx() {
        share(&Nx(folder));
    }
}

#[test]
fn a_run_that_waits_for_a_peer_that_stands_still_does_not_fail() {
    if let Some(folder) = tools::nx() {
        stalled(&Nx(folder));
    }
}
