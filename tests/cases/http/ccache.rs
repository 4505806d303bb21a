// SPDX-License-Identifier: MIT OR Apache-2.0
//! ccache, which asks for a manifest and then for a result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use potluck_tests::circle::{Circle, up};
use potluck_tests::program::Person;
use potluck_tests::tools;

use super::{Built, Tool, agree, build, files, listed, outlive, patient, program, said, share, stalled};

const UNITS: usize = 6;

/// What stands for no layout, and no HTTP.
const SOCKET: &str = "socket";

pub(super) struct Ccache {
    program: PathBuf,
    layout: &'static str,
}

/// Who compiles, by way of which daemon, and where.
type At<'a> = (&'a Person, &'a str, &'a Path);

impl Ccache {
    fn command(&self, (person, http, folder): At<'_>) -> Command {
        let mut command = program(person, &self.program, folder);
        command
            .env("CCACHE_DIR", folder.join("cache"))
            .env("CCACHE_BASEDIR", folder)
            .env("CCACHE_NOHASHDIR", "1");
        let storage = match self.layout {
            SOCKET => format!("crsh:{}", person.home().join("ccache.sock").display()),
            layout => format!("http://{http}/ccache|layout={layout}"),
        };
        command.env("CCACHE_REMOTE_STORAGE", storage);
        command.env("CCACHE_REMOTE_ONLY", "1");
        command
    }

    fn compile(&self, at: At<'_>, unit: usize) {
        let (source, object) = (format!("unit{unit}.c"), format!("unit{unit}.o"));
        said(self.command(at).args(["gcc", "-O1", "-c", &source, "-o", &object]));
    }

    /// One of the numbers that it keeps.
    fn count(&self, at: At<'_>, name: &str) -> usize {
        let all = said(self.command(at).arg("--print-stats"));
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("{name}: {all}"))
    }
}

impl Tool for Ccache {
    const KEYS: u64 = 2 * UNITS as u64;
    const PARTS: usize = UNITS;

    fn lay(&self, folder: &Path, ends: Option<&str>) {
        fs::write(folder.join("common.h"), "#define SOUP 1\n").unwrap();
        for unit in 0..UNITS {
            let text = format!("#include \"common.h\"\nint unit{unit}(void) {{ return SOUP + {unit}; }}\n");
            fs::write(folder.join(format!("unit{unit}.c")), text).unwrap();
        }
        if let Some(pid) = ends {
            fs::write(folder.join("ends"), pid).unwrap();
        }
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        for unit in 0..UNITS {
            if unit == UNITS / 2
                && let Ok(pid) = fs::read_to_string(folder.join("ends"))
            {
                said(Command::new("kill").args(["-9", &pid]));
            }
            self.compile((person, http, folder), unit);
        }
        let count = |name: &str| self.count((person, http, folder), name);
        let hits = count("direct_cache_hit") + count("preprocessed_cache_hit");
        let outputs = files(folder, (0..UNITS).map(|unit| format!("unit{unit}.o")));
        Built { hits, made: count("cache_miss"), outputs }
    }
}

pub(super) fn tool(layout: &'static str) -> Option<Ccache> {
    tools::ccache().map(|program| Ccache { program, layout })
}

#[test]
fn what_one_has_compiled_others_need_not() {
    if let Some(tool) = tool("subdirs") {
        share(&tool);
    }
}

#[test]
fn what_one_has_compiled_others_need_not_without_http() {
    if let Some(tool) = tool(SOCKET) {
        share(&tool);
    }
}

#[test]
fn a_build_without_http_outlives_the_daemon() {
    if let Some(tool) = tool(SOCKET) {
        outlive(&tool);
    }
}

#[test]
fn two_builders_agree() {
    if let Some(tool) = tool(SOCKET) {
        agree(&tool);
    }
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_compiles() {
    for layout in ["subdirs", SOCKET] {
        if let Some(tool) = tool(layout) {
            stalled(&tool);
        }
    }
}

#[test]
fn a_build_outlives_the_daemon() {
    if let Some(tool) = tool("subdirs") {
        outlive(&tool);
    }
}

#[test]
fn one_key_is_the_same_in_all_layouts() {
    let Some(first) = tool("subdirs") else { return };
    let person = Person::at_home();
    let up = person.up(&[]);
    assert_eq!(build(&first, &person, &up, "subdirs").made, UNITS);
    for layout in ["flat", "bazel", SOCKET] {
        let tool = tool(layout).unwrap();
        assert_eq!(build(&tool, &person, &up, layout).hits, UNITS, "{layout}");
    }
}

#[test]
fn the_newest_manifest_counts_whoever_made_it() {
    let Some(tool) = tool("subdirs") else { return };
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    build(&tool, &ann, &ann_up, "src");
    let ben = circle.member(Some(&ann));
    patient(&ben);
    let ben_up = up(&ben, &boot);
    listed(&ben, &ann, Ccache::KEYS);
    // He has her manifests now.
    assert_eq!(build(&tool, &ben, &ben_up, "src").hits, UNITS);
    // She changes what all units include: each manifest has two results from now on.
    let folder = ann.path("src");
    fs::write(folder.join("common.h"), "#define SOUP 2\n").unwrap();
    tool.build(&ann, &ann_up.http(), &folder);
    assert_eq!(tool.count((&ann, &ann_up.http(), &folder), "cache_miss"), 2 * UNITS);
    listed(&ben, &ann, Ccache::KEYS + UNITS as u64);
    let folder = ben.path("src");
    fs::write(folder.join("common.h"), "#define SOUP 2\n").unwrap();
    tool.build(&ben, &ben_up.http(), &folder);
    let count = |name: &str| tool.count((&ben, &ben_up.http(), &folder), name);
    // By her new manifests: without them it would have had to run the preprocessor.
    assert_eq!(
        (count("direct_cache_hit"), count("preprocessed_cache_hit"), count("cache_miss")),
        (2 * UNITS, 0, 0)
    );
}
