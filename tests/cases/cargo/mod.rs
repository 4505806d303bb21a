// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real builds by cargo through the wrapper, while one thing after the other is broken. Each must come to what a plain
//! build comes to, and be held up by a fault at most once.

mod accept;
mod accept_publish;
mod accept_same;
mod accept_wrong;
mod link;
mod reads;
mod units;
mod unseen;
mod workspace;

use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use potluck_tests::program::{Person, potluck, potluck_rustc};

use self::workspace::{UNITS, Workspace, count, log};

/// Two checkouts: what a plain build of one comes to is what a wrapped build of the other must come to.
fn checkouts(person: &Person) -> (Workspace, Workspace) {
    (Workspace::new(person.path("plain")), Workspace::new(person.path("wrapped")))
}

#[test]
fn what_was_built_in_one_checkout_is_restored_in_another() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let (here, there) = checkouts(&person);
    let plain = Workspace::new(person.path("third")).plainly(&person);
    assert_eq!(here.build(&person), plain);
    let first = log(&person);
    assert_eq!((first.len(), count(&first, "compiled: unclaimed")), (UNITS + 1, UNITS + 1), "{first:?}");
    assert_eq!(there.build(&person), plain, "what is restored says what it said");
    let second = log(&person);
    assert_eq!((second.len(), count(&second, "restored")), (UNITS + 1, UNITS + 1), "{second:?}");
    let app = |workspace: &Workspace| fs::read(workspace.folder().join("target/debug/app")).unwrap();
    assert_eq!(app(&here), app(&there));
    there.write("dish/src/lib.rs", "pub fn serve() -> u8 { 7 }\n");
    assert_eq!(there.build(&person).printed, "7\n");
}

/// A library whose sources cannot be told for certain is compiled each time; it comes to the same in every checkout, so
/// that what is built on it is restored.
#[test]
fn what_is_built_on_a_library_that_has_no_key_is_restored() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let (here, there) = checkouts(&person);
    for (workspace, outcome) in [(&here, "compiled: unclaimed"), (&there, "restored: ")] {
        // Of somewhere else, where anybody may change it.
        let link = workspace.folder().join("dish/elsewhere");
        std::os::unix::fs::symlink("/dev/null", link).unwrap();
        assert_eq!(workspace.build(&person).printed, "stew with salt\n");
        let rows = log(&person);
        let row = |name: &str| &rows.iter().find(|(unit, _)| unit == name).unwrap().1;
        assert!(row("dish").starts_with("passed: ") && row("dish").contains("leads out"), "{rows:?}");
        assert_eq!((row("spice").as_str(), row("app").as_str()), (outcome, outcome), "{rows:?}");
    }
    let app = |workspace: &Workspace| fs::read(workspace.folder().join("target/debug/app")).unwrap();
    assert_eq!(app(&here), app(&there));
}

#[test]
fn without_a_home_or_with_a_dead_socket_nothing_is_held_up() {
    let person = Person::new();
    let (plain, wrapped) = checkouts(&person);
    let plain = plain.plainly(&person);
    assert_eq!(wrapped.build(&person), plain);
    let rows = log(&person);
    assert_eq!(count(&rows, "passed: the daemon is not reachable"), UNITS, "{rows:?}");
    assert!(!person.home().exists(), "no home is made");
    fs::create_dir(person.home()).unwrap();
    drop(UnixListener::bind(person.home().join("potluck.sock")).unwrap());
    fs::remove_dir_all(wrapped.folder().join("target")).unwrap();
    assert_eq!(wrapped.build(&person), plain);
    assert_eq!(count(&log(&person), "passed: the daemon is not reachable"), UNITS);
    assert!(!person.home().join("stalled").exists(), "nobody waited");
}

/// The wrapper waits for a silent daemon, and then all others leave it alone for a while. Should this machine be so slow
/// that this while passes during the build, it is waited for again.
#[test]
fn a_socket_that_never_answers_is_waited_for_once() {
    let person = Person::at_home();
    let (plain, wrapped) = checkouts(&person);
    let plain = plain.plainly(&person);
    let listener = UnixListener::bind(person.home().join("potluck.sock")).unwrap();
    let waited = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&waited);
    // It ends with the process.
    std::thread::spawn(move || {
        let mut accepted = Vec::new();
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            accepted.push(stream);
        }
    });
    assert_eq!(wrapped.build(&person), plain);
    assert_eq!(count(&log(&person), "passed: the daemon is not reachable"), UNITS);
    let waited = waited.load(Ordering::SeqCst);
    assert!((1..UNITS).contains(&waited), "{waited} of {UNITS} units waited");
    assert!(person.home().join("stalled").is_file());
}

/// Sends the daemon a signal while the build script of `dish` runs: what comes before it had a daemon.
fn blow(signal: &str, waits: bool) {
    let person = Person::at_home();
    let daemon = person.daemon();
    let (plain, wrapped) = checkouts(&person);
    let plain = plain.plainly(&person);
    let mut command = wrapped.command(&person);
    command.env("TEST_BLOW", format!("kill -{signal} {}", daemon.pid()));
    assert_eq!(wrapped.built(&mut command), plain);
    let rows = log(&person);
    let row = |name: &str| rows.iter().find(|(unit, _)| unit == name).unwrap().1.clone();
    assert_eq!(row("build_script_build"), "compiled: unclaimed", "before it: {rows:?}");
    assert_eq!(row("dish"), "passed: the daemon is not reachable", "after it: {rows:?}");
    assert_eq!(person.home().join("stalled").exists(), waits, "{rows:?}");
}

#[test]
fn a_daemon_that_dies_in_the_middle_is_done_without() {
    blow("KILL", false);
}

#[test]
fn a_daemon_that_stops_in_the_middle_is_waited_for_once() {
    blow("STOP", true);
}

#[test]
fn a_store_that_does_not_work_is_done_without() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let (plain, wrapped) = checkouts(&person);
    let plain = plain.plainly(&person);
    // Even root cannot write below a file.
    fs::rename(person.home().join("store"), person.path("elsewhere")).unwrap();
    fs::write(person.home().join("store"), "").unwrap();
    assert_eq!(wrapped.build(&person), plain);
    let rows = log(&person);
    assert_eq!(count(&rows, "compiled: "), UNITS + 1, "{rows:?}");
    // What a small script leaves needs no file of the store.
    let mut units = rows.clone();
    units.retain(|(name, _)| name != "dish run");
    assert_eq!(count(&units, "restored") + count(&units, "unclaimed"), 0, "nothing is published: {rows:?}");
    assert!(!person.home().join("stalled").exists(), "nobody waited: {rows:?}");
    // A home that cannot be used at all is as good as none.
    let other = Person::new();
    fs::write(other.home(), "").unwrap();
    let wrapped = Workspace::new(other.path("wrapped"));
    assert_eq!(wrapped.build(&other), plain);
}

/// In a mount namespace of its own, where the home is a small file system that is full.
#[test]
fn a_full_disk_is_done_without() {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine allows no mount namespaces");
        return;
    }
    let person = Person::at_home();
    let (plain, wrapped) = checkouts(&person);
    let plain = plain.plainly(&person);
    let mut build = wrapped.command(&person);
    // The toolchain's identity is remembered elsewhere, so that the store is what fails.
    let script = "set -e
        cp -a \"$POTLUCK_HOME\" \"$HOME/kept\"
        mount -t tmpfs -o size=16m,mode=0700 tmpfs \"$POTLUCK_HOME\"
        cp -a \"$HOME/kept/.\" \"$POTLUCK_HOME\"
        \"$POTLUCK\" up >&2
        dd if=/dev/zero of=\"$POTLUCK_HOME/fill\" bs=4096 2>/dev/null || true
        \"$@\" || { \"$POTLUCK\" down >&2; exit 1; }
        \"$POTLUCK\" down >&2 || true";
    let mut inside = Command::new("unshare");
    inside.args(["-rm", "sh", "-c", script, "sh"]).arg(build.get_program()).args(build.get_args());
    inside.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside.env("POTLUCK", potluck()).current_dir(wrapped.folder()).stdin(Stdio::null());
    build = inside;
    let mut built = wrapped.built(&mut build);
    built.said.retain(|line| plain.said.contains(line));
    assert_eq!(built, plain);
    let rows = log(&person);
    assert_eq!(count(&rows, "compiled: "), UNITS + 1, "{rows:?}");
    assert_eq!(count(&rows, "unclaimed"), 0, "nothing is published: {rows:?}");
    assert_eq!(count(&rows, "in time") + count(&rows, "too long"), 0, "nobody waited: {rows:?}");
}

/// Whatever the wrapper is given, it does what the real one does.
#[test]
fn the_wrapper_ends_as_the_real_one_ends() {
    let person = Person::new();
    let script = |name: &str, text: &str| {
        let path = person.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(&path).status().unwrap().success());
        path
    };
    let rustc = script("rustc", "echo out; echo err >&2; cat; exit 7");
    let wrapped = |args: &[&str]| {
        let mut command = Command::new(potluck_rustc());
        command.arg(&rustc).args(args).env("POTLUCK_HOME", person.home()).stdin(Stdio::null());
        command
    };
    let output = wrapped(&["-vV"]).output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout, output.stderr),
        (Some(7), b"out\n".to_vec(), b"err\n".to_vec())
    );
    fs::write(person.path("in"), "said").unwrap();
    let stdin = fs::File::open(person.path("in")).unwrap();
    assert_eq!(wrapped(&["-"]).stdin(stdin).output().unwrap().stdout, b"out\nsaid");
    // What cargo's jobserver is, and which arguments are no text, is for the real one to know.
    script("rustc", "echo \"$MAKEFLAGS\"; echo token >&9; printf %s \"$1\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 9>\"$0\"; exec \"$@\""])
        .arg(person.path("pipe"))
        .arg(potluck_rustc())
        .arg(&rustc);
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff.rs");
    let output = command.arg(odd).env("MAKEFLAGS", "--jobserver-auth=8,9").output().unwrap();
    assert_eq!(output.stdout, b"--jobserver-auth=8,9\n\xff.rs");
    assert_eq!(fs::read_to_string(person.path("pipe")).unwrap(), "token\n");
    script("rustc", "kill -SEGV $$");
    let status = wrapped(&["-vV"]).status().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(11));
    // A working folder that was removed has no name any more.
    script("rustc", "exit 5");
    let gone = person.path("gone");
    fs::create_dir(&gone).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "rmdir \"$PWD\"; exec \"$@\"", "sh"])
        .current_dir(&gone)
        .arg(potluck_rustc())
        .arg(&rustc);
    assert_eq!(command.arg("-vV").arg0("sh").status().unwrap().code(), Some(5));
}
