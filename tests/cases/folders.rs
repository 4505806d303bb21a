// SPDX-License-Identifier: MIT OR Apache-2.0
//! `put` and `get` as people and scripts use them: folders, files, streams, and what is refused.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use potluck_tests::program::{Person, Ran};
use serde_json::Value;
use snapbox::{assert_data_eq, str};

const KEY: [&str; 4] = ["--recipe", "test@1", "--key", "00ff"];

fn put(person: &Person, path: &str) -> Ran {
    person.run(["put"].into_iter().chain(KEY).chain([path]))
}

fn get(person: &Person, args: &[&str]) -> Ran {
    person.run(["get"].into_iter().chain(KEY).chain(args.iter().copied()))
}

fn object(ran: Ran) -> Value {
    serde_json::from_str(&ran.ok()).expect("it prints one object")
}

/// A folder with one of each kind.
fn make(folder: &Path) {
    fs::create_dir_all(folder.join("bin/empty")).unwrap();
    fs::write(folder.join("bin/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("bin/notes"), "").unwrap();
    fs::write(folder.join("large"), b"potluck ".repeat(400_000)).unwrap();
    symlink("bin/tool", folder.join("link")).unwrap();
}

/// Everything in a folder that can be seen, as text.
fn seen(folder: &Path) -> String {
    let mut lines = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            let run = stat.permissions().mode() & 0o111 != 0;
            if stat.is_dir() {
                lines.push(format!("{name}/"));
                open.push(path);
            } else if stat.is_symlink() {
                lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else {
                lines.push(format!("{name} {run} {}", blake3::hash(&fs::read(&path).unwrap())));
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

#[test]
fn a_folder_goes_in_and_comes_back() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    make(&person.path("in"));
    let stored = object(person.run(["--json", "put"].into_iter().chain(KEY).chain(["in"])));
    assert_eq!(
        (&stored["v"], &stored["members"], &stored["stored_files"]),
        (&1.into(), &5.into(), &3.into())
    );
    let again = object(person.run(["--json", "put"].into_iter().chain(KEY).chain(["in"])));
    assert_eq!((&again["tree"], &again["stored_files"]), (&stored["tree"], &0.into()));
    assert_eq!(again["entry"], stored["entry"]);
    get(&person, &["out"]).ok();
    assert_eq!(seen(&person.path("out")), seen(&person.path("in")));
    let tree = stored["tree"].as_str().unwrap();
    let brought = object(person.run(["--json", "get", "--digest", tree, "--tree", "named"]));
    assert_eq!((&brought["tree"], &brought["files"]), (&stored["tree"], &3.into()));
    assert_eq!(seen(&person.path("named")), seen(&person.path("in")));
    // With another umask than the daemon's, the client writes it, and as that umask wants.
    let get = person.command(["get"].into_iter().chain(KEY).chain(["masked"]));
    let mut masked = std::process::Command::new("sh");
    masked.args(["-c", "umask 077 && exec \"$@\"", "sh"]).arg(get.get_program()).args(get.get_args());
    masked.env_clear().current_dir(person.path(""));
    masked.envs(get.get_envs().filter_map(|(name, value)| Some((name, value?))));
    person.ran(&mut masked).ok();
    assert_eq!(seen(&person.path("masked")), seen(&person.path("in")));
    let mode = |path: &str| fs::metadata(person.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("masked"), mode("masked/bin/tool"), mode("masked/large")), (0o700, 0o700, 0o600));
}

#[test]
fn a_folder_with_something_in_it_is_replaced_only_when_that_is_asked_for() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    make(&person.path("in"));
    put(&person, "in").ok();
    fs::create_dir(person.path("out")).unwrap();
    fs::write(person.path("out/mine"), "mine").unwrap();
    let refused = get(&person, &["out"]);
    assert_eq!(refused.code, 1);
    assert_data_eq!(
        refused.stderr,
        str![[r#"
error: [HERE]/out is not empty
hint: name another folder, or replace all that is in it with --replace

"#]]
    );
    assert_eq!(seen(&person.path("out")).lines().count(), 1);
    get(&person, &["--replace", "out"]).ok();
    assert_eq!(seen(&person.path("out")), seen(&person.path("in")));
    let names: Vec<_> =
        fs::read_dir(person.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_str().unwrap().starts_with(".potluck")), "{names:?}");
}

#[test]
fn what_was_put_so_is_found_by_its_sha_256() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    make(&person.path("in"));
    fs::write(person.path("abc"), "abc").unwrap();
    // FIPS 180-4, the example of one block.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let by_sha256 = |of: &str| person.run(["get", "--sha256", of, "-"]);
    let nothing = by_sha256(abc);
    assert_eq!(nothing.code, 3);
    assert!(nothing.stderr.contains("put --sha256"), "{}", nothing.stderr);
    let put = |key, path| person.run(["--json", "put", "--sha256", "--recipe", "test@1", "--key", key, path]);
    assert_eq!(object(put("01", "abc"))["sha256"], abc);
    assert_eq!(by_sha256(abc).ok(), "abc");
    let tree = object(put("02", "in"));
    assert_eq!(tree["members"], 5);
    // Of "potluck " 400,000 times, by another program.
    let large = "5a0791e5b807908c9c28d7b7e58187c074b732946770fac74e41a040e6f6d86f";
    assert_eq!(by_sha256(large).ok().len(), 3_200_000);
    assert_eq!(person.run(["get", "--sha256", "00", "-"]).code, 2);
}

#[test]
fn streams_go_in_and_out() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let bytes = b"potluck ".repeat(200_000);
    let mut command = person.command(["put"].into_iter().chain(KEY).chain(["-"]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let output = person.command(["get"].into_iter().chain(KEY).chain(["-"])).output().unwrap();
    assert!(output.status.success() && output.stdout == bytes);
    get(&person, &["file"]).ok();
    assert_eq!(fs::read(person.path("file")).unwrap(), bytes);
    let digest = blake3::hash(&bytes).to_string();
    person.run(["get", "--digest", &digest, "named"]).ok();
    assert_eq!(fs::read(person.path("named")).unwrap(), bytes);
    // The same file again is hashed and not sent.
    let stored = object(person.run(["--json", "put"].into_iter().chain(KEY).chain(["file"])));
    assert_eq!(stored["blob"], digest);
    assert_eq!(person.run(["--json", "get", "--digest", &digest, "-"]).code, 2);
    assert_eq!(person.run(["get", "--digest", &"0".repeat(64), "none"]).code, 3);
    assert_eq!(person.run(["get", "none"]).code, 2);
    assert_eq!(person.run(["get", "--digest", &digest, "--tree", "none"]).code, 2);
    assert!(!person.path("none").exists());
    assert_eq!(get(&person, &["no/such/folder"]).code, 1);
}

#[test]
fn what_a_tree_cannot_hold_is_refused_with_its_path() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    make(&person.path("in"));
    symlink("/etc/passwd", person.path("in/bin/out")).unwrap();
    let refused = put(&person, "in");
    assert_eq!(refused.code, 1);
    assert_data_eq!(
        refused.stderr,
        str![[r#"
error: "bin/out" is not acceptable: its target is absolute
hint: a link must be relative, stay in the folder, and go up only at its start: put what it leads to in its place, or leave it out

"#]]
    );
    fs::remove_file(person.path("in/bin/out")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(person.path("in/socket")).unwrap();
    let refused = put(&person, "in");
    assert_eq!(refused.code, 1);
    assert_data_eq!(
        refused.stderr,
        str![[r#"
error: in/socket is neither a file, nor a folder, nor a symbolic link
hint: leave it out, or give it another name

"#]]
    );
    assert_eq!(get(&person, &["out"]).code, 3, "nothing was claimed");
    assert_eq!(put(&person, "none").code, 1);
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_leaves_a_temporary_that_the_next_run_removes() {
    let person = Person::at_home();
    let daemon = person.daemon();
    fs::create_dir(person.path("in")).unwrap();
    for n in 0..5000 {
        fs::write(person.path(&format!("in/{n}")), n.to_string().repeat(9)).unwrap();
    }
    put(&person, "in").ok();
    fs::create_dir(person.path("to")).unwrap();
    let mut child = person.command(["get"].into_iter().chain(KEY).chain(["to/out"])).spawn().unwrap();
    let names = || -> Vec<String> {
        let names = fs::read_dir(person.path("to")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    };
    while names().is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    drop(daemon);
    child.wait().unwrap();
    let left = names();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(".potluck-unfinished-"), "{left:?}");
    let _daemon = person.daemon();
    get(&person, &["to/out"]).ok();
    assert_eq!(names(), ["out"]);
    assert_eq!(seen(&person.path("to/out")), seen(&person.path("in")));
}
