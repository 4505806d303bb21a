// SPDX-License-Identifier: MIT OR Apache-2.0
//! A project in C that was built before is built again through ccache: from its own cache on the disk, and from us.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use potluck_tests::program::Person;
use potluck_tests::tools;

use crate::measure::{Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, has_program, on_disk, scaled, threads, walk};

const ROUNDS: usize = 5;
/// Compilers at a time: one for each core.
const JOBS: usize = 2;
/// Headers that every file includes.
const HEADERS: usize = 24;
const KB: f64 = 1e3;

/// One way to cache.
struct Way<'a> {
    program: &'a Path,
    sources: &'a Path,
    cache: PathBuf,
    /// Where it asks instead of its own folder.
    remote: Option<String>,
}

impl Way<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        // Settings of whoever measures must not count.
        let settings = std::env::vars_os().map(|(name, _)| name);
        settings.filter(|name| name.to_string_lossy().starts_with("CCACHE_")).for_each(|name| {
            command.env_remove(name);
        });
        command.env("CCACHE_DIR", &self.cache).env("CCACHE_CONFIGPATH", self.cache.join("none"));
        if let Some(remote) = &self.remote {
            command.env("CCACHE_REMOTE_STORAGE", remote).env("CCACHE_REMOTE_ONLY", "1");
        }
        command.current_dir(self.sources).stdin(Stdio::null());
        command
    }

    /// Builds all of it, as make would; gives how long that took.
    fn build(&self, count: usize) -> f64 {
        for file in walk(self.sources).iter().filter(|file| is_object(file)) {
            fs::remove_file(file).expect("an object can be removed");
        }
        seconds(|| {
            threads(JOBS, |job| {
                for unit in (job..count).step_by(JOBS) {
                    let (source, object) = (format!("unit{unit}.c"), format!("unit{unit}.o"));
                    let compile = ["cc", "-O1", "-g", "-c", &source, "-o", &object];
                    let status = self.command().args(compile).status().expect("the compiler runs");
                    assert!(status.success(), "{source}");
                }
            });
        })
    }

    /// One of the numbers that it keeps.
    fn count(&self, name: &str) -> usize {
        let output = self.command().arg("--print-stats").output().expect("ccache runs");
        let all = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("{name}: {all}"))
    }
}

pub(crate) fn part(report: &Report) {
    let Some(program) = tools::ccache().filter(|_| has_program("cc")) else {
        report.note("ccache or cc is not to be had");
        return;
    };
    let count = scaled(500, 6);
    let sources = report.path("c");
    lay(&sources, count);
    let person = Person::at_home_in(report.folder());
    let up = person.up(&[]);
    let remote = Some(format!("http://{}/ccache|layout=subdirs", up.http()));
    let own = Way { program: &program, sources: &sources, cache: report.path("own"), remote: None };
    let ours = Way { cache: report.path("ours"), remote, ..own };
    let cold = own.build(count);
    let objects: u64 = walk(&sources)
        .iter()
        .filter(|file| is_object(file))
        .filter_map(|file| file.metadata().ok())
        .map(|file| file.len())
        .sum();
    let sent = ours.build(count);
    let [disk, through] = &rounds(ROUNDS, [&mut || own.build(count), &mut || ours.build(count)]);
    for way in [&own, &ours] {
        let hits = way.count("direct_cache_hit");
        assert_eq!(
            (hits, way.count("cache_miss")),
            ((ROUNDS + 1) * count, count),
            "all but the first were hits"
        );
    }
    report.note(&format!("{count} generated files with {HEADERS} headers, {JOBS} at a time; ours by HTTP alone, without ccache's own cache"));
    let figure = |name: &str, value, rounds| Figure::new(format!("ccache: {name}"), value, rounds);
    report.figure(&figure("building without a hit, its own cache", (cold, "s"), 1));
    report.figure(&figure("building without a hit, ours", (sent, "s"), 1));
    report.figure(&figure("building again, its own cache", (median(disk.clone()), "s"), ROUNDS));
    report.figure(&figure("building again, ours", (median(through.clone()), "s"), ROUNDS));
    report.figure(
        &figure("building again, ours / its own cache", (ratio(through, disk), "x"), ROUNDS).at_most(1.15),
    );
    report.figure(&figure("its own cache, on disk", (on_disk(&own.cache) as f64 / KB, "kB"), 1));
    let store = person.home().join("store");
    report.figure(&figure("our store, on disk", (on_disk(&store) as f64 / KB, "kB"), 1));
    report.figure(&figure("the objects, length", (objects as f64 / KB, "kB"), 1));
}

fn is_object(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "o")
}

/// A project of so many files that share their headers, and have functions that none of the others has.
fn lay(folder: &Path, count: usize) {
    fs::create_dir_all(folder).expect("a folder can be made");
    let includes: String = (0..HEADERS).map(|n| format!("#include \"part{n}.h\"\n")).collect();
    let write =
        |name: String, text: String| fs::write(folder.join(name), text).expect("a file can be written");
    for header in 0..HEADERS {
        let declared: String =
            (0..40).map(|n| format!("int shared{header}_{n}(const char *text, int size);\n")).collect();
        write(format!("part{header}.h"), format!("#pragma once\n#include <stddef.h>\n{declared}"));
    }
    for unit in 0..count {
        let mut text = format!("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{includes}");
        for function in 0..20 {
            text += &format!(
                "int unit{unit}_{function}(const char *s, int k) {{\n  int sum = {function};\n  for (size_t i = 0; i < strlen(s); i++)\n    \
                 sum = sum * {} + s[i] % (k + {});\n  if (sum < 0) printf(\"%d in {unit}\\n\", sum);\n  return abs(sum);\n}}\n",
                unit + 31,
                function + 1
            );
        }
        write(format!("unit{unit}.c"), text);
    }
}
