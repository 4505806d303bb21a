// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gradle, which gives up a cache after one failure.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::program::Person;
use potluck_tests::tools;

use super::{Built, Tool, files, outlive, program, said, share, stalled};

const TASKS: [&str; 3] = ["first", "second", "third"];

const BUILD: &str = r#"
['first', 'second', 'third'].each { name ->
  task(name) {
    inputs.property('name', name)
    inputs.file('in.txt').withPathSensitivity(PathSensitivity.RELATIVE).withPropertyName('in')
    outputs.file("$buildDir/${name}.txt").withPropertyName('out')
    outputs.cacheIf { true }
    doLast {
      mkdir buildDir
      file("$buildDir/${name}.txt").text = name + file('in.txt').text
      if (name == 'second' && file('ends').exists()) { 'kill -9 '.concat(file('ends').text).execute().waitFor() }
    }
  }
}
second.mustRunAfter first
third.mustRunAfter second
"#;

struct Gradle(PathBuf);

impl Tool for Gradle {
    const KEYS: u64 = 3;
    const PARTS: usize = 3;

    fn lay(&self, folder: &Path, ends: Option<&str>) {
        fs::write(folder.join("build.gradle"), BUILD).unwrap();
        fs::write(folder.join("in.txt"), "soup").unwrap();
        if let Some(pid) = ends {
            fs::write(folder.join("ends"), pid).unwrap();
        }
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        let settings = format!(
            "rootProject.name = 'small'\nbuildCache {{ local {{ enabled = false }}\n\
             remote(HttpBuildCache) {{ url = 'http://{http}/gradle/'; push = true }} }}\n"
        );
        fs::write(folder.join("settings.gradle"), settings).unwrap();
        let mut gradle = program(person, &self.0, folder);
        gradle.env("GRADLE_USER_HOME", person.path("gradle"));
        gradle.args(["--no-daemon", "--build-cache", "--console=plain", "-i"]);
        let text = said(gradle.args(TASKS));
        let hits = text.lines().filter(|line| line.ends_with(" FROM-CACHE")).count();
        let names = TASKS.map(|name| format!("{name}.txt"));
        Built { hits, made: TASKS.len() - hits, outputs: files(&folder.join("build"), names) }
    }
}

#[test]
fn outputs_of_tasks_are_shared() {
    if let Some(gradle) = tools::gradle() {
        share(&Gradle(gradle));
    }
}

#[test]
fn a_build_outlives_the_daemon() {
    if let Some(gradle) = tools::gradle() {
        outlive(&Gradle(gradle));
    }
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_builds() {
    if let Some(gradle) = tools::gradle() {
        stalled(&Gradle(gradle));
    }
}
