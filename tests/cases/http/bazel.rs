// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bazel, whose results name Blobs.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::program::Person;
use potluck_tests::tools;

use super::{Built, Tool, files, outlive, program, said, share, stalled};

/// Rules of our own: those for C are downloaded.
const RULES: &str = r#"
def _object(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".o")
    ctx.actions.run_shell(use_default_shell_env = True, inputs = [ctx.file.src], outputs = [out],
        command = "gcc -c $1 -o $2", arguments = [ctx.file.src.path, out.path])
    return [DefaultInfo(files = depset([out]))]

object = rule(implementation = _object, attrs = {"src": attr.label(allow_single_file = True)})

def _folder(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(use_default_shell_env = True, inputs = [ctx.file.src], outputs = [out],
        command = "mkdir -p $2/sub && cp $1 $2/sub/copy && : > $2/empty && echo said >&2",
        arguments = [ctx.file.src.path, out.path])
    return [DefaultInfo(files = depset([out]))]

folder = rule(implementation = _folder, attrs = {"src": attr.label(allow_single_file = True)})

def _last(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.run_shell(use_default_shell_env = True, inputs = ctx.files.after, outputs = [out],
        command = "kill -9 $1; while kill -0 $1; do sleep 0.05; done; : > $2",
        arguments = [ctx.attr.pid, out.path])
    return [DefaultInfo(files = depset([out]))]

last = rule(implementation = _last, attrs = {"after": attr.label_list(), "pid": attr.string()})
"#;

struct Bazel(PathBuf);

impl Tool for Bazel {
    const KEYS: u64 = 3;
    const PARTS: usize = 3;

    fn lay(&self, folder: &Path, ends: Option<&str>) {
        let last = ends.map(|pid| {
            // After one of the others, and before the rest.
            format!("last(name = \"last\", pid = \"{pid}\", after = [\":a\"])\nobject(name = \"c\", src = \":last\")\n")
        });
        let last = last.map(|last| {
            last.replace("object(name = \"c\", src = \":last\")", "folder(name = \"c\", src = \":last\")")
        });
        let build = format!(
            "load(\":rules.bzl\", \"object\", \"folder\", \"last\")\nobject(name = \"a\", src = \"a.c\")\n\
             object(name = \"b\", src = \"b.c\")\nfolder(name = \"tree\", src = \"a.c\")\n{}",
            last.unwrap_or_default()
        );
        for (name, text) in [
            ("WORKSPACE", "workspace(name = \"small\")\n"),
            ("rules.bzl", RULES),
            ("BUILD", &build),
            ("a.c", "int a(void) { return 1; }\n"),
            ("b.c", "int b(void) { return 2; }\n"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        let root = tempfile::tempdir().unwrap();
        let mut bazel = program(person, &self.0, folder);
        bazel.arg("--batch").arg(format!("--output_user_root={}", root.path().display())).arg("build");
        bazel.arg(format!("--remote_cache=http://{http}/bazel")).arg("--spawn_strategy=local");
        let text = said(bazel.args(["--color=no", "--curses=no", "//..."]));
        let processes = text.lines().find(|line| line.contains(" process")).expect("it says what it did");
        let number = |what: &str| {
            let part = processes.split([':', ',']).find(|part| part.contains(what));
            part.and_then(|part| part.split_whitespace().next()?.trim_end_matches('.').parse().ok())
                .unwrap_or(0)
        };
        let outputs = ["a.o", "b.o", "tree/sub/copy", "tree/empty"];
        let outputs = files(&folder.join("bazel-bin"), outputs);
        // What it makes can only be removed by whoever may write there.
        said(program(person, "chmod", folder).args(["-R", "u+w"]).arg(root.path()));
        Built { hits: number("remote cache hit"), made: number(" local"), outputs }
    }
}

#[test]
fn results_bring_all_that_they_name() {
    if let Some(bazel) = tools::bazel() {
        share(&Bazel(bazel));
    }
}

#[test]
fn a_build_outlives_the_daemon() {
    if let Some(bazel) = tools::bazel() {
        outlive(&Bazel(bazel));
    }
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_builds() {
    if let Some(bazel) = tools::bazel() {
        stalled(&Bazel(bazel));
    }
}
