// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bazel, whose results name Blobs.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::circle::{Circle, list, up};
use potluck_tests::program::Person;
use potluck_tests::tools;
use sha2::Digest as _;

use super::wire::{ask, blobs, connect};
use super::{Built, Tool, files, listed, outlive, program, said, share, stalled};

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

/// A result that names a Blob which only a peer has is none while that peer is gone: Bazel would fail over it.
#[test]
fn a_result_is_no_hit_while_a_blob_of_it_cannot_be_had() {
    let sha256 = |bytes: &[u8]| {
        let hash: [u8; 32] = sha2::Sha256::digest(bytes).into();
        potluck_protocol::digest::Sha256::from_bytes(hash).to_string()
    };
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    let value = vec![5; 3 << 20];
    let (name, action) = (sha256(&value), "5a".repeat(32));
    let result = format!(
        r#"{{"outputFiles":[{{"path":"out","digest":{{"hash":"{name}","sizeBytes":"{}"}}}}]}}"#,
        value.len()
    );
    let say = |http: &str, line: &str, body: &[u8]| ask(&mut connect(http), line, &[], body);
    let http = ann_up.http();
    assert_eq!(say(&http, &format!("PUT /bazel/cas/{name}"), &value).status, 200);
    assert_eq!(say(&http, &format!("PUT /bazel/ac/{action}"), result.as_bytes()).status, 200);
    let ben = circle.member(Some(&ann));
    let ben_up = up(&ben, &boot);
    listed(&ben, &ann, 1);
    let http = ben_up.http();
    let known = || say(&http, &format!("GET /bazel/ac/{action}"), b"");
    assert_eq!((known().status, known().body), (200, result.clone().into_bytes()));
    // What he had of it is lost, and so is she.
    drop(ann_up);
    let is_asked = |status: &serde_json::Value| {
        let of_hers =
            |peer: &serde_json::Value| list(&peer["holds"]).iter().any(|row| row["signer"] == "ann");
        list(&status["peers"]).iter().any(of_hers)
    };
    ben.until("her end", |status| !is_asked(status));
    for file in blobs(&ben.home().join("store/blobs")) {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(known().status, 404);
    assert_eq!(say(&http, &format!("GET /bazel/cas/{name}"), b"").status, 404);
    let _ann_up = up(&ann, &boot);
    ben.until("her return", is_asked);
    assert_eq!(known().status, 200);
    assert!(say(&http, &format!("GET /bazel/cas/{name}"), b"").body == value);
}
